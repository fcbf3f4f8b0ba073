"""File objects under the standard library: what `open(path, "rb")` gives is the limit."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any, Callable

import smmap

from .data import MIB, directory, file_of
from .harness import Contender, Settings, once, row

LIMIT = 'open(path, "rb")'
GOAL = 1.15


def text_of(size: int) -> str:
    """The path of a file of lines of 60 bytes."""
    path = directory("data") / f"lines-{size}"
    if not path.exists():
        path.write_bytes(b"".join(b"%011d %s\n" % (number, b"some text" * 5 + b"..") for number in range(size // 60)))
    return str(path)


def archive_of(count: int) -> str:
    """The path of an archive of so many small files."""
    path = directory("data") / f"{count}.zip"
    if not path.exists():
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"folder/{number}.txt", b"x" * 50)
    return str(path)


def both(work: Callable[[Any], Any]) -> Sequence[Contender]:
    """The same work on the path, opened in each way."""
    return [
        once("open", lambda: work(lambda path: open(path, "rb")), role="limit"),
        once("smmap", lambda: work(smmap.open), role="ours"),
    ]


@row("lines of text", limit=LIMIT, goal=GOAL)
def lines(settings: Settings) -> Sequence[Contender]:
    """All lines of a text file, through `io.TextIOWrapper`."""
    path = text_of(settings.few(16 * MIB))

    def work(opened: Callable[[str], Any]) -> int:
        with io.TextIOWrapper(opened(path), "utf-8") as text:
            return sum(1 for _ in text)

    return both(work)


@row("directory of a zip archive", limit=LIMIT, goal=GOAL)
def directory_of_zip(settings: Settings) -> Sequence[Contender]:
    """The names in an archive of 5,000 files."""
    path = archive_of(5000)

    def work(opened: Callable[[str], Any]) -> int:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return len(archive.namelist())

    return both(work)


@row("pieces of 8 KiB into a buffer", limit=LIMIT, goal=GOAL)
def pieces(settings: Settings) -> Sequence[Contender]:
    """`readinto` of the raw file objects, as `io.BufferedReader` calls it."""
    path = file_of(settings.few(16 * MIB))
    target = memoryview(bytearray(8192))

    def work(opened: Callable[..., Any]) -> int:
        with opened(path, buffering=0) as file:
            return sum(iter(lambda: file.readinto(target), 0))

    return [
        once("open", lambda: work(lambda path, buffering: open(path, "rb", buffering)), role="limit"),
        once("smmap", lambda: work(smmap.open), role="ours"),
    ]
