"""Reads of mapped windows: the price of hiding windows."""

from __future__ import annotations

import os
import struct
from typing import Any, Callable

from . import peers
from .data import MIB, file_of, spread
from .engines import sides
from .harness import AT_MOST_DEARER, NO_SLOWER, SMMAP_5, TWICE_AS_FAST, Aim, Build, Contender, Settings, loop, row

LENGTH = 64 * MIB
SIZE = 4096
SLICE = "struct.unpack of a slice"


def place(settings: Settings, where: str, windows: int, size: int) -> tuple[int, list[int]]:
    """The window's size, and positions: `near` one another in the third of 64 windows, or all over so many.

    Enough of the latter that the processor's caches do not hold what is read, as random reads find it.
    """
    if where == "near":
        return MIB, spread(2000, 2 * MIB, 3 * MIB, size)
    count = settings.few(100_000 if size == 1 else 20_000)
    return LENGTH // windows, spread(count, 0, LENGTH, size)


def mapping_all(library: Any, window: int, **options: Any) -> Any:
    """A manager that has all windows of the file mapped."""
    manager = library.SlidingWindowMapManager(window, 4 * LENGTH, **options)
    for start in range(0, LENGTH, window):
        manager.make_cursor(file_of(LENGTH)).use_region(start, window)
    return manager


def over(library: Any, window: int, **options: Any) -> Any:
    """A buffer over windows that are all mapped."""
    manager = mapping_all(library, window, **options)
    return library.SlidingWindowMapBuffer(manager.make_cursor(file_of(LENGTH)))


def arrays(expression: str, positions: list[int], anew: bool = False) -> list[Contender]:
    """numpy's map, kept and (if `anew`) made for each read; nothing where numpy is not installed."""
    try:
        import numpy as np
    except ImportError:  # as on free-threaded Pythons, for which it may have to be compiled
        return []
    path = file_of(LENGTH)
    made = [loop("np.memmap kept", expression, positions, buf=np.memmap(path, mode="r"))]
    if anew:
        again = "memmap(path, mode='r')[i:i + 4096].tobytes()"
        made.append(loop("np.memmap anew", again, positions, memmap=np.memmap, path=path))
    return made


def rows(name: str, limit: str, fast: tuple[float, ...], plain: float, panel: str = "") -> Callable[[Build], Build]:
    """Rows near one another, in one window, and in many; the fast engine's aims for the first two, and for 64."""

    def enter(build: Build) -> Build:
        near, one, many = fast
        for count in (1024, 64, 16, 4, 1):
            goals: dict[str, float] = {"fast": one if count == 1 else many, "plain": plain} if count in (1, 64) else {}
            build = row(
                f"{name} {'one window' if count == 1 else f'{count} windows'}",
                limit=limit,
                figure="hits",
                panel=panel or name,
                x=count,
                quick=count == 64,
                windows=count,
                **goals,
            )(build)
        return row(f"{name} near", limit=limit, fast=near, plain=plain, where="near")(build)

    return enter


@rows("buf[i]", "mmap[i]", (1.2, 1.1, 1.25), TWICE_AS_FAST)
@row("buf[i] near, free-threaded", limit="mmap[i]", fast=1.4, quick=False, python="free-threaded", where="near")
def index(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """One byte."""
    window, positions = place(settings, where, windows, 1)
    return [
        loop("mmap", "buf[i]", positions, role="limit", buf=peers.mapped(file_of(LENGTH))),
        *(loop(name, "buf[i]", positions, role=name, buf=over(library, window)) for name, library in sides()),
        loop(SMMAP_5, "buf[i]", positions, buf=over(peers.smmap5(), window)),
        *arrays("int(buf[i])", positions),
    ]


@rows("buf[i:i+4096]", "mmap[i:j]", (1.1, 1.1, 1.15), TWICE_AS_FAST, panel="buf[i:j]")
@row(
    "buf[i:i+4096] near, free-threaded", limit="mmap[i:j]", fast=1.4, quick=False, python="free-threaded", where="near"
)
def copies(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """4 KiB as bytes."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    expression = "buf[i:i + 4096]"
    return [
        loop("mmap", expression, positions, role="limit", buf=peers.mapped(path)),
        *(loop(name, expression, positions, role=name, buf=over(library, window)) for name, library in sides()),
        loop(SMMAP_5, f"bytes({expression})", positions, buf=over(peers.smmap5(), window)),
        *arrays(f"{expression}.tobytes()", positions, anew=where == "near"),
        loop("os.pread", "pread(fd, 4096, i)", positions, pread=os.pread, fd=os.open(path, os.O_RDONLY)),
    ]


@row("unpack_from near", limit="struct.unpack_from(mmap)", fast=Aim(1.0, f"fast, {SLICE}"), where="near")
@row("unpack_from 64 windows", limit="struct.unpack_from(mmap)", fast=Aim(1.0, f"fast, {SLICE}"), windows=64)
def unpacked(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """Six bytes as two numbers."""
    window, positions = place(settings, where, windows, 6)
    bare = peers.mapped(file_of(LENGTH))
    contenders = [
        loop("mmap", "unpack_from('<HI', buf, i)[1]", positions, role="limit", unpack_from=struct.unpack_from, buf=bare)
    ]
    for name, library in sides():
        buf = over(library, window)
        slices = loop(f"{name}, {SLICE}", "unpack('<HI', buf[i:i + 6])[1]", positions, unpack=struct.unpack, buf=buf)
        contenders += [loop(name, "buf.unpack_from('<HI', i)[1]", positions, role=name, buf=buf), slices]
    return contenders


@rows("buf.view", "memoryview slice", (1.4, 1.4, 1.5), TWICE_AS_FAST)
def views(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """4 KiB without a copy."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    expression = "buf.view(i, i + 4096)"
    return [
        loop("mmap", "view[i:i + 4096]", positions, role="limit", view=memoryview(peers.mapped(path))),
        *(loop(name, expression, positions, role=name, buf=over(library, window)) for name, library in sides()),
        loop(SMMAP_5, "memoryview(buf[i:i + 4096])", positions, buf=over(peers.smmap5(), window)),
        *arrays("buf[i:i + 4096]", positions),
    ]


@rows("cursor", "memoryview slice", (1.5, 1.5, 1.6), NO_SLOWER)
def cursor(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """`use_region` and the view that it gives."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)

    def contender(name: str, library: Any, role: str) -> Contender:
        mover = mapping_all(library, window).make_cursor(path)
        return loop(name, "cursor.use_region(i, 4096).buffer()", positions, role=role, cursor=mover)

    return [
        loop("mmap", "view[i:i + 4096]", positions, role="limit", view=memoryview(peers.mapped(path))),
        *(contender(name, library, name) for name, library in sides()),
        contender(SMMAP_5, peers.smmap5(), "peer"),
    ]


@row("new cursor near", limit="os.stat + memoryview slice", fast=1.1, plain=AT_MOST_DEARER, where="near")
@row("new cursor 64 windows", limit="os.stat + memoryview slice", fast=1.1, plain=AT_MOST_DEARER, windows=64)
def new_cursor(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """A new cursor for each read, of a known file."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    view = memoryview(peers.mapped(path))

    def contender(name: str, library: Any, role: str) -> Contender:
        make = mapping_all(library, window).make_cursor
        return loop(name, "make(path).use_region(i, 4096).buffer()", positions, role=role, make=make, path=path)

    return [
        loop("mmap", "stat(path) and view[i:i + 4096]", positions, role="limit", stat=os.stat, path=path, view=view),
        *(contender(name, library, name) for name, library in sides()),
        contender(SMMAP_5, peers.smmap5(), "peer"),
    ]
