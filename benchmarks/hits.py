"""Reads of what is mapped already: the price of hiding windows."""

from __future__ import annotations

import os
import struct
from typing import Any

import smmap

from . import peers
from .data import MIB, file_of, spread
from .harness import AT_MOST_DEARER, NO_SLOWER, SMMAP_5, TWICE_AS_FAST, Contender, Settings, loop, row

LENGTH = 64 * MIB
SIZE = 4096


def place(settings: Settings, where: str, windows: int, size: int) -> tuple[int, list[int]]:
    """The window's size, and positions: `near` one another in the third of 64 windows, or all over so many.

    Enough of the latter that the processor's caches do not hold what is read, as random reads find it.
    """
    if where == "near":
        return MIB, spread(2000, 2 * MIB, 3 * MIB, size)
    count = settings.few(100_000 if size == 1 else 20_000)
    return LENGTH // windows, spread(count, 0, LENGTH, size)


def mapping_all(library: Any, window: int) -> Any:
    """A manager that has all windows of the file mapped."""
    manager = library.SlidingWindowMapManager(window, 4 * LENGTH)
    for start in range(0, LENGTH, window):
        manager.make_cursor(file_of(LENGTH)).use_region(start, window)
    return manager


def ours(window: int) -> Any:
    """A buffer over windows that are all mapped."""
    return mapping_all(smmap, window).buffer(file_of(LENGTH))


def theirs(window: int) -> Any:
    """The same with smmap 5."""
    manager = mapping_all(peers.smmap5(), window)
    return peers.smmap5().SlidingWindowMapBuffer(manager.make_cursor(file_of(LENGTH)))


def array() -> Any:
    """numpy's map."""
    import numpy as np

    return np.memmap(file_of(LENGTH), mode="r")


@row("buf[i] near", limit="mmap[i]", goal=TWICE_AS_FAST, against=SMMAP_5, where="near")
@row("buf[i] one window", limit="mmap[i]", goal=TWICE_AS_FAST, against=SMMAP_5, figure="hits", panel="buf[i]", x=1)
@row("buf[i] 4 windows", limit="mmap[i]", figure="hits", panel="buf[i]", x=4, windows=4, quick=False)
@row("buf[i] 16 windows", limit="mmap[i]", figure="hits", panel="buf[i]", x=16, windows=16, quick=False)
@row(
    "buf[i] 64 windows",
    limit="mmap[i]",
    goal=TWICE_AS_FAST,
    against=SMMAP_5,
    figure="hits",
    panel="buf[i]",
    x=64,
    windows=64,
)
@row("buf[i] 1024 windows", limit="mmap[i]", figure="hits", panel="buf[i]", x=1024, windows=1024, quick=False)
def index(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """One byte."""
    window, positions = place(settings, where, windows, 1)
    return [
        loop("mmap", "buf[i]", positions, role="limit", buf=peers.mapped(file_of(LENGTH))),
        loop("smmap", "buf[i]", positions, role="ours", buf=ours(window)),
        loop(SMMAP_5, "buf[i]", positions, buf=theirs(window)),
        loop("np.memmap kept", "int(buf[i])", positions, buf=array()),
    ]


@row("buf[i:i+4096] near", limit="mmap[i:j]", goal=TWICE_AS_FAST, against=SMMAP_5, where="near")
@row(
    "buf[i:i+4096] one window",
    limit="mmap[i:j]",
    goal=TWICE_AS_FAST,
    against=SMMAP_5,
    figure="hits",
    panel="buf[i:j]",
    x=1,
)
@row("buf[i:i+4096] 4 windows", limit="mmap[i:j]", figure="hits", panel="buf[i:j]", x=4, windows=4, quick=False)
@row("buf[i:i+4096] 16 windows", limit="mmap[i:j]", figure="hits", panel="buf[i:j]", x=16, windows=16, quick=False)
@row(
    "buf[i:i+4096] 64 windows",
    limit="mmap[i:j]",
    goal=TWICE_AS_FAST,
    against=SMMAP_5,
    figure="hits",
    panel="buf[i:j]",
    x=64,
    windows=64,
)
@row(
    "buf[i:i+4096] 1024 windows", limit="mmap[i:j]", figure="hits", panel="buf[i:j]", x=1024, windows=1024, quick=False
)
def copies(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """4 KiB as bytes."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    expression = "buf[i:i + 4096]"
    contenders = [
        loop("mmap", expression, positions, role="limit", buf=peers.mapped(path)),
        loop("smmap", expression, positions, role="ours", buf=ours(window)),
        loop(SMMAP_5, f"bytes({expression})", positions, buf=theirs(window)),
        loop("np.memmap kept", f"{expression}.tobytes()", positions, buf=array()),
        loop("os.pread", "pread(fd, 4096, i)", positions, pread=os.pread, fd=os.open(path, os.O_RDONLY)),
    ]
    if where == "near":
        import numpy as np

        anew = "memmap(path, mode='r')[i:i + 4096].tobytes()"
        contenders.append(loop("np.memmap anew", anew, positions, memmap=np.memmap, path=path))
    return contenders


@row("buf.unpack_from near", limit="struct.unpack of a slice of the buffer", goal=1.0, where="near")
@row("buf.unpack_from 64 windows", limit="struct.unpack of a slice of the buffer", goal=1.0, windows=64)
def unpacked(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """Six bytes as a number."""
    window, positions = place(settings, where, windows, 6)
    buf, bare = ours(window), peers.mapped(file_of(LENGTH))
    return [
        loop("slice", "unpack('<2xI', buf[i:i + 6])[0]", positions, role="limit", unpack=struct.unpack, buf=buf),
        loop("smmap", "buf.unpack_from('<2xI', i)[0]", positions, role="ours", buf=buf),
        loop("mmap", "unpack_from('<2xI', buf, i)[0]", positions, unpack_from=struct.unpack_from, buf=bare),
    ]


@row("buf.view near", limit="memoryview slice", goal=TWICE_AS_FAST, against=SMMAP_5, where="near")
@row(
    "buf.view one window",
    limit="memoryview slice",
    goal=TWICE_AS_FAST,
    against=SMMAP_5,
    figure="hits",
    panel="buf.view",
    x=1,
)
@row("buf.view 4 windows", limit="memoryview slice", figure="hits", panel="buf.view", x=4, windows=4, quick=False)
@row("buf.view 16 windows", limit="memoryview slice", figure="hits", panel="buf.view", x=16, windows=16, quick=False)
@row(
    "buf.view 64 windows",
    limit="memoryview slice",
    goal=TWICE_AS_FAST,
    against=SMMAP_5,
    figure="hits",
    panel="buf.view",
    x=64,
    windows=64,
)
@row(
    "buf.view 1024 windows",
    limit="memoryview slice",
    figure="hits",
    panel="buf.view",
    x=1024,
    windows=1024,
    quick=False,
)
def views(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """4 KiB without a copy."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    return [
        loop("mmap", "view[i:i + 4096]", positions, role="limit", view=memoryview(peers.mapped(path))),
        loop("smmap", "buf.view(i, i + 4096)", positions, role="ours", buf=ours(window)),
        loop(SMMAP_5, "memoryview(buf[i:i + 4096])", positions, buf=theirs(window)),
        loop("np.memmap kept", "buf[i:i + 4096]", positions, buf=array()),
    ]


@row("cursor near", limit="memoryview slice", goal=NO_SLOWER, against=SMMAP_5, where="near")
@row("cursor one window", limit="memoryview slice", figure="hits", panel="cursor", x=1, quick=False)
@row("cursor 4 windows", limit="memoryview slice", figure="hits", panel="cursor", x=4, windows=4, quick=False)
@row("cursor 16 windows", limit="memoryview slice", figure="hits", panel="cursor", x=16, windows=16, quick=False)
@row(
    "cursor 64 windows",
    limit="memoryview slice",
    goal=NO_SLOWER,
    against=SMMAP_5,
    figure="hits",
    panel="cursor",
    x=64,
    windows=64,
)
@row("cursor 1024 windows", limit="memoryview slice", figure="hits", panel="cursor", x=1024, windows=1024, quick=False)
def cursor(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """`use_region` and the view that it gives."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    expression = "cursor.use_region(i, 4096).buffer()"
    own = mapping_all(smmap, window).make_cursor(path)
    old = mapping_all(peers.smmap5(), window).make_cursor(path)
    return [
        loop("mmap", "view[i:i + 4096]", positions, role="limit", view=memoryview(peers.mapped(path))),
        loop("smmap", expression, positions, role="ours", cursor=own),
        loop(SMMAP_5, expression, positions, cursor=old),
    ]


@row(
    "new cursor each time, near", limit="os.stat + memoryview slice", goal=AT_MOST_DEARER, against=SMMAP_5, where="near"
)
@row(
    "new cursor each time, 64 windows",
    limit="os.stat + memoryview slice",
    goal=AT_MOST_DEARER,
    against=SMMAP_5,
    windows=64,
)
def new_cursor(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """A cursor of its own for each read, of a file that is known."""
    window, positions = place(settings, where, windows, SIZE)
    path = file_of(LENGTH)
    expression = "make(path).use_region(i, 4096).buffer()"
    view = memoryview(peers.mapped(path))
    own, old = mapping_all(smmap, window).make_cursor, mapping_all(peers.smmap5(), window).make_cursor
    return [
        loop("mmap", "stat(path) and view[i:i + 4096]", positions, role="limit", stat=os.stat, path=path, view=view),
        loop("smmap", expression, positions, role="ours", make=own, path=path),
        loop(SMMAP_5, expression, positions, make=old, path=path),
    ]
