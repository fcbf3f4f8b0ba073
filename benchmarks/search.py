"""Looking for something in a large file."""

from __future__ import annotations

import smmap

from . import peers
from .data import GIB, MIB, file_of
from .harness import Contender, Settings, once, row

NEEDLE = b"a needle at the end"
WINDOW = 8 * MIB


@row("find at the end", limit="mmap.find")
def find(settings: Settings) -> list[Contender]:
    """A needle at the end; all windows are mapped afresh each time, as is the whole file for `mmap`."""
    path = file_of(GIB // 4 if settings.quick else GIB, NEEDLE)

    def bare() -> int:
        with peers.mapped(path) as whole:
            return whole.find(NEEDLE)

    def ours() -> int:
        with smmap.SlidingWindowMapManager(WINDOW) as manager, manager.buffer(path) as buffer:
            place: int = buffer.find(NEEDLE)
            return place

    def read() -> int:
        place, before = 0, b""
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(MIB):
                found = (before + piece).find(NEEDLE)
                if found >= 0:
                    return place + found - len(before)
                place += len(piece)
                before = piece[1 - len(NEEDLE) :]
        return -1

    return [
        once("mmap", bare, role="limit"),
        once("smmap", ours, role="ours"),
        once("file.read and bytes.find", read),
    ]
