"""The libraries to compare with. Installed from the package index into `.bench/peers`, outside of the environment."""

from __future__ import annotations

import functools
import importlib
import mmap
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from .data import directory

__all__ = [
    "cachetools_of",
    "import_apart",
    "installed",
    "lru_of_descriptors",
    "lru_of_files",
    "lru_of_windows",
    "map_at",
    "mapped",
    "ragged",
    "smmap5",
]

NEEDED = {"mmap_ninja": ["joblib", "tqdm"]}  # and numpy, which is here
VERSIONS = {"smmap": "5.0.3", "gitdb": "4.0.12", "cachetools": "8.0.1", "mmap_ninja": "0.9.0"}


def installed(name: str) -> str:
    """The folder in which a peer is installed, now if it was not."""
    folder = directory("peers") / f"{name}-{VERSIONS[name]}"
    if not (folder / "complete").exists():
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--no-deps"]
        subprocess.run(
            [*command, "--target", str(folder), f"{name}=={VERSIONS[name]}", *NEEDED.get(name, [])], check=True
        )
        (folder / "complete").touch()
    return str(folder)


def import_apart(folder: str, name: str, needs: dict[str, Any] | None = None) -> ModuleType:
    """Import a package from a folder, beside another one of the same name, which keeps the name.

    Modules of that name that are already imported are put aside during the import, as are those that `needs` replaces.
    """
    needs = needs or {}
    names = {name, *needs}

    def taken() -> dict[str, ModuleType]:
        return {key: value for key, value in sys.modules.items() if key.partition(".")[0] in names}

    aside = taken()
    for key in aside:
        del sys.modules[key]
    sys.modules.update(needs)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
        assert str(module.__file__).startswith(folder), f"{name} was imported from {module.__file__}"
        return module
    finally:
        sys.path.remove(folder)
        for key in taken():
            del sys.modules[key]
        sys.modules.update(aside)


@functools.cache
def smmap5() -> Any:
    """smmap 5, in this process beside ours."""
    return import_apart(installed("smmap"), "smmap")


@functools.cache
def cachetools() -> Any:
    """cachetools."""
    sys.path.append(installed("cachetools"))
    return importlib.import_module("cachetools")


@functools.cache
def mmap_ninja() -> Any:
    """mmap_ninja."""
    sys.path.append(installed("mmap_ninja"))
    return importlib.import_module("mmap_ninja")


# What a program without smmap would write. From Python 3.13 a map need not keep a descriptor: the fastest way counts.

_OPTIONS: dict[str, Any] = {"access": mmap.ACCESS_READ}
if sys.version_info >= (3, 13):
    _OPTIONS["trackfd"] = False


def map_at(descriptor: int, length: int = 0, offset: int = 0) -> mmap.mmap:
    """A read-only map."""
    return mmap.mmap(descriptor, length, offset=offset, **_OPTIONS)


def mapped(path: str) -> mmap.mmap:
    """A read-only map of a whole file, opened for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return map_at(descriptor)
    finally:
        os.close(descriptor)


def lru_of_windows(descriptor: int, window: int, count: int) -> Any:
    """The map of the window of a number, through `functools.lru_cache`: what goes is unmapped when nobody uses it."""

    @functools.lru_cache(maxsize=count)
    def window_of(number: int) -> mmap.mmap:
        return map_at(descriptor, window, number * window)

    return window_of


def lru_of_files(paths: Sequence[str], count: int) -> Any:
    """The map of the file of a number, through `functools.lru_cache`."""

    @functools.lru_cache(maxsize=count)
    def map_of(number: int) -> mmap.mmap:
        return mapped(paths[number])

    return map_of


class Opened:
    """A descriptor, closed with its last reference."""

    __slots__ = ("number", "size")

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.number).st_size

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


def lru_of_descriptors(paths: Sequence[str], count: int) -> Any:
    """The open file of a number, through `functools.lru_cache`."""

    @functools.lru_cache(maxsize=count)
    def opened(number: int) -> Opened:
        return Opened(paths[number])

    return opened


def cachetools_of(function: Callable[[int], Any], count: int) -> Any:
    """A function behind `cachetools.LRUCache`."""
    return cachetools().cached(cachetools().LRUCache(maxsize=count))(function)


def ragged(folder: Path, paths: Sequence[str]) -> Any:
    """The files' content in mmap_ninja's format, which is one file and an index."""
    import numpy as np

    if not (folder / "complete").exists():
        arrays = (np.fromfile(path, dtype=np.uint8) for path in paths)
        mmap_ninja().RaggedMmap.from_generator(folder / "data", arrays, batch_size=256)
        (folder / "complete").touch()
    return mmap_ninja().RaggedMmap(folder / "data")
