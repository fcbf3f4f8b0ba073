"""Compare every object that gitdb reads with what git says: the tool that finds short, wrong and failing objects.

It works with any smmap. Run with `python -m` it reads a repository with the smmap that the path leads to, under one
window size and memory limit, and prints what it found as JSON.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ._gitrepo import GitObject, GitRepo

__all__ = ["Difference", "check_object", "compare", "compare_late", "managed_by", "open_db", "window_for"]


class Difference(NamedTuple):
    name: str
    kind: str  # "short", "bytes", "type", "size", "error"
    detail: str


@contextmanager
def managed_by(manager: object) -> Iterator[None]:
    """Let gitdb use this manager: it has two names for it, in two modules (`gitdb.pack` also names a third one)."""
    importlib.import_module("gitdb")
    modules = [sys.modules["gitdb.util"], sys.modules["gitdb.pack"]]
    before = [module.__dict__["mman"] for module in modules]
    for module in modules:
        module.__dict__["mman"] = manager
    try:
        yield
    finally:
        for module, old in zip(modules, before):
            module.__dict__["mman"] = old


def open_db(repo: GitRepo) -> Any:
    """A database of its own over the repository's objects, packed and loose."""
    return importlib.import_module("gitdb.db").GitDB(str(repo.objects))


def window_for(repo: GitRepo) -> int:
    """The smallest window that gitdb can do with: half of it takes any packed object, the whole any index."""
    indexes = max(pack.with_suffix(".idx").stat().st_size for pack in repo.packs)
    return max(2 * max(entry.size for entry in repo.packed().values()), indexes)


def check_object(name: str, expected: GitObject, stream: Any, chunk: int = 0) -> Difference | None:
    """Read a stream to its end, at once or in chunks, and compare."""
    if stream.type != expected.type:
        return Difference(name, "type", f"{stream.type!r} for {expected.type!r}")
    data = stream.read() if not chunk else b"".join(iter(lambda: stream.read(chunk), b""))
    if data == expected.data:
        # the size of a delta is known to gitdb once it was applied
        return None if stream.size == len(data) else Difference(name, "size", f"{stream.size} for {len(data)}")
    if expected.data.startswith(data):
        return Difference(name, "short", f"{len(data)} bytes of {len(expected.data)}")
    first = next((i for i, (a, b) in enumerate(zip(data, expected.data)) if a != b), min(len(data), len(expected.data)))
    return Difference(name, "bytes", f"differs at {first}, {len(data)} bytes of {len(expected.data)}")


def compare(db: Any, catalogue: dict[str, GitObject], names: Iterable[str], chunk: int = 0) -> list[Difference]:
    """Type, size and bytes of each named object, one after the other."""
    found = []
    for name in names:
        try:
            info = db.info(bytes.fromhex(name))
            if (info.type, info.size) != (catalogue[name].type, len(catalogue[name].data)):
                found.append(Difference(name, "size", f"info says {info.type!r} {info.size}"))
            difference = check_object(name, catalogue[name], db.stream(bytes.fromhex(name)), chunk)
        except Exception as error:  # whatever it is, it is what is looked for
            difference = Difference(name, "error", f"{type(error).__name__}: {error}")
        if difference is not None:
            found.append(difference)
    return found


def compare_late(
    db: Any, catalogue: dict[str, GitObject], names: Iterable[str], manager: Any, seed: int
) -> list[Difference]:
    """Open a stream for every name, free what can be freed, and only then read them, in another order."""
    found, streams = [], {}
    for name in names:
        try:
            streams[name] = db.stream(bytes.fromhex(name))
        except Exception as error:
            found.append(Difference(name, "error", f"{type(error).__name__}: {error}"))
    order = list(streams)
    random.Random(seed).shuffle(order)
    for index, name in enumerate(order):
        try:
            if index % 97 == 0:
                manager.collect()
            difference = check_object(name, catalogue[name], streams.pop(name))
        except Exception as error:
            difference = Difference(name, "error", f"{type(error).__name__}: {error}")
        if difference is not None:
            found.append(difference)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repository", type=Path)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--late", action="store_true")
    options = parser.parse_args()
    smmap = importlib.import_module("smmap")
    repo = GitRepo(options.repository)
    catalogue = repo.catalogue()
    names = sorted(catalogue)
    random.Random(1).shuffle(names)
    manager = smmap.SlidingWindowMapManager(window_size=options.window, max_memory_size=options.memory)
    with managed_by(manager):
        db = open_db(repo)
        found = compare_late(db, catalogue, names, manager, 2) if options.late else compare(db, catalogue, names)
        del db
    gc.collect()
    version = ".".join(map(str, smmap.version_info))
    json.dump({"smmap": smmap.__file__, "version": version, "objects": len(names), "found": found}, sys.stdout)


if __name__ == "__main__":
    main()
