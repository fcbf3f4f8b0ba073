"""gitdb reads a repository that git made: the effect of the library on an application."""

from __future__ import annotations

import functools
import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, Callable

from . import peers
from .data import directory
from .engines import sides
from .harness import NO_SLOWER, SMMAP_5, Contender, Settings, loop, row

COMMITS = 1200
FILES = 300
PACKS = 3


class BareCursor:
    """The minimum that gitdb needs of a cursor: a map of the whole file."""

    def __init__(self, path: str) -> None:
        self._map = peers.mapped(path)
        self._view = memoryview(self._map)
        self._part = self._view

    def use_region(self, offset: int = 0, _size: int = 0, _flags: int = 0) -> BareCursor:
        self._part = self._view[offset:]
        return self

    def buffer(self) -> memoryview:
        return self._part

    def map(self) -> Any:
        return self._map

    def file_size(self) -> int:
        return len(self._map)


class BareManager:
    """A bare map in place of a manager."""

    def make_cursor(self, path: str) -> BareCursor:
        return BareCursor(path)

    def window_size(self) -> int:
        return 0

    def force_map_handle_removal_win(self, _path: str) -> None:
        pass


def gitdb_on(library: Any) -> Any:
    """A separate gitdb, on that smmap."""
    return peers.import_apart(peers.installed("gitdb"), "gitdb", {"smmap": library})


def bare() -> ModuleType:
    """A module that gitdb takes for smmap."""
    module = ModuleType("smmap")
    managers = dict.fromkeys(("StaticWindowMapManager", "SlidingWindowMapManager"), BareManager)
    module.__dict__.update(managers, SlidingWindowMapBuffer=None)
    return module


def git(folder: str, *arguments: str, data: bytes = b"") -> bytes:
    """The output of git."""
    command = ["git", "-c", "gc.auto=0", "-c", "pack.threads=1", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, cwd=folder, env=clean, input=data, check=True, stdout=subprocess.PIPE).stdout


def history(first: int, source: random.Random, files: dict[str, list[bytes]]) -> Iterable[bytes]:
    """A third of the commits, each of which changes some lines of some files, for `git fast-import`."""
    for number in range(first, first + COMMITS // PACKS):
        yield b"commit refs/heads/main\ncommitter A U Thor <author@example.com> %d +0000\n" % (1_500_000_000 + number)
        message = b"Change number %d\n" % number
        yield b"data %d\n%s" % (len(message), message)
        if number and number == first:
            yield b"from refs/heads/main^0\n"
        for name in source.sample(sorted(files), 3):
            lines = files[name]
            for _ in range(source.randrange(1, 6)):
                lines[source.randrange(len(lines))] = b"line %x of %d\n" % (source.getrandbits(160), number)
            content = b"".join(lines)
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (name.encode(), len(content), content)
        yield b"\n"


@functools.cache
def repository() -> tuple[str, tuple[bytes, ...]]:
    """The folder of a repository's objects, which are in three packs, and all their names; made once."""
    folder = directory("data/repository.git")
    if not (folder / "complete").exists():
        git(str(folder), "init", "--quiet", "--bare", "--template=", "--initial-branch=main", ".")
        source = random.Random(7)
        files = {
            f"folder{number % 12}/part{number % 5}/file{number}.txt": [
                b"line %x\n" % source.getrandbits(160) for _ in range(source.randrange(20, 200))
            ]
            for number in range(FILES)
        }
        for first in range(0, COMMITS, COMMITS // PACKS):
            git(
                str(folder),
                "-c",
                "fastimport.unpackLimit=0",
                "fast-import",
                "--quiet",
                data=b"".join(history(first, source, files)),
            )
            git(str(folder), "repack", "-d", "-f", "--quiet", "--depth=50", "--window=10")
        (folder / "complete").touch()
    names = git(str(folder), "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()
    return str(folder / "objects"), tuple(bytes.fromhex(name.decode()) for name in names)


def contenders(expression: str, names: Sequence[Any], given: Callable[[Any, Any], dict[str, Any]]) -> list[Contender]:
    """One for each library below gitdb; `given(gitdb, database)` says what the expression knows besides `i`."""
    objects, _ = repository()
    made = []
    for name, role, library in (
        ("mmap", "limit", bare()),
        *((engine, engine, library) for engine, library in sides()),
        (SMMAP_5, "peer", peers.smmap5()),
    ):
        gitdb = gitdb_on(library)
        made.append(loop(name, expression, names, role=role, **given(gitdb, gitdb.GitDB(objects))))
    return made


def packed_of(database: Any) -> Any:
    """The part of a database that reads packs, and remembers no answers."""
    return next(one for one in database.databases() if hasattr(one, "entities"))


def chosen(count: int) -> list[bytes]:
    """`count` of the objects' names, in random order."""
    _, names = repository()
    return random.Random(1).sample(names, min(count, len(names)))


@row("gitdb, open", limit="gitdb on a bare mmap", fast=1.03, plain=NO_SLOWER)
def opening(_settings: Settings) -> list[Contender]:
    """A new database and its first object."""
    objects, _ = repository()
    return contenders(
        "open(objects).info(i).size", chosen(1), lambda gitdb, _: {"open": gitdb.GitDB, "objects": objects}
    )


@row("gitdb, index lookup", limit="gitdb on a bare mmap", fast=1.03, plain=NO_SLOWER)
def lookup(_settings: Settings) -> list[Contender]:
    """Whether an object exists, and where it is in its pack."""
    return contenders("has(i)", chosen(1000), lambda _, database: {"has": packed_of(database).has_object})


@row("gitdb, info", limit="gitdb on a bare mmap", fast=1.03, plain=NO_SLOWER)
def info(_settings: Settings) -> list[Contender]:
    """Types and sizes."""
    return contenders("info(i).size", chosen(300), lambda _, database: {"info": database.info})


@row("gitdb, stream", limit="gitdb on a bare mmap", fast=1.03, plain=NO_SLOWER)
def stream(_settings: Settings) -> list[Contender]:
    """The content of objects, most of them deltas."""
    return contenders("stream(i).read()", chosen(100), lambda _, database: {"stream": database.stream})


@row("gitdb, whole packs", limit="gitdb on a bare mmap", fast=1.03, plain=NO_SLOWER, quick=False)
def packs(_settings: Settings) -> list[Contender]:
    """Going through the packs from start to end."""

    def given(_gitdb: Any, database: Any) -> dict[str, Any]:
        return {"packs": [entity.pack() for entity in packed_of(database).entities()]}

    return contenders("sum(one.pack_offset for one in packs[i].stream_iter())", range(PACKS), given)
