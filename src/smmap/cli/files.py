"""The files that a run reads: finding them, and checking whether one has changed since."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["File", "Found", "default_paths", "find_files"]


class File(NamedTuple):
    """A file as it was when it was found."""

    path: str
    size: int
    identity: tuple[int, ...]

    def changed(self) -> bool:
        """Whether the path now leads to another file, another size or another time, or nowhere."""
        try:
            return _identity(os.stat(self.path)) != self.identity
        except OSError:
            return True


class Found(NamedTuple):
    """The files to read, in the order of their paths, and how many were left out."""

    files: list[File]
    empty: int
    unreadable: int


def default_paths() -> list[str]:
    """The standard library and the site-packages of the running Python."""
    paths = sysconfig.get_paths()
    found = dict.fromkeys(paths[name] for name in ("stdlib", "purelib", "platlib"))
    return [path for path in found if os.path.isdir(path)]


def find_files(paths: Iterable[str]) -> Found:
    """Every regular file at or below the paths, once each, whatever names lead to it. A missing path is an error."""
    files: dict[tuple[int, int], File] = {}
    empty: set[str] = set()
    unreadable: set[str] = set()
    for path in _walk(paths, unreadable):
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                continue  # opening a FIFO would wait for a writer
            key = status.st_dev, status.st_ino
            if key in files:
                continue
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            unreadable.add(path)
            continue
        if status.st_size:
            files[key] = File(path, status.st_size, _identity(status))
        else:
            empty.add(path)
    return Found(sorted(files.values()), len(empty), len(unreadable))


def _walk(paths: Iterable[str], unreadable: set[str]) -> Iterator[str]:
    """The real paths, as /proc/self/maps shows them, of everything except folders; enters each folder once."""
    met: set[str] = set()
    for path in paths:
        os.stat(path)
        waiting = [os.path.realpath(path)]
        if not os.path.isdir(path):
            yield waiting.pop()
        while waiting:
            folder = waiting.pop()
            if folder in met:
                continue
            met.add(folder)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        elif not entry.is_symlink():
                            yield entry.path
                        elif not entry.is_dir():
                            yield os.path.realpath(entry.path)
            except OSError:
                unreadable.add(folder)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
