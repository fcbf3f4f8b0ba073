"""The system's figures of what this process uses, from /proc/self; if that is missing, everything is None."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from typing import NamedTuple

__all__ = ["NOTHING", "Usage", "usage"]


class Usage(NamedTuple):
    """Maps of the given files and their bytes, open descriptors, resident bytes."""

    maps: int | None = None
    descriptors: int | None = None
    mapped: int | None = None
    resident: int | None = None

    def since(self, before: Usage) -> Usage:
        """How much more than before."""
        return Usage(*(None if now is None or then is None else now - then for now, then in zip(self, before)))

    def highest(self, other: Usage) -> Usage:
        """The higher of each figure."""
        return Usage(*(b if a is None else a if b is None else max(a, b) for a, b in zip(self, other)))


PROC = "/proc/self"
NOTHING = Usage()


def usage(paths: AbstractSet[str]) -> Usage:
    """The present usage. `paths` are real paths, since the system names maps by them."""
    try:
        descriptors = len(os.listdir(f"{PROC}/fd")) - 1  # minus the one that lists them
        with open(f"{PROC}/statm", "rb", buffering=0) as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        maps = mapped = 0
        with open(f"{PROC}/maps", "rb") as lines:
            for line in lines:
                # address permissions offset device inode path; private maps are those of loaded extension modules
                fields = line.rstrip(b"\n").split(None, 5)
                if len(fields) == 6 and fields[1].endswith(b"s") and _name(fields[5]) in paths:
                    start, stop = fields[0].split(b"-")
                    maps += 1
                    mapped += int(stop, 16) - int(start, 16)
    except FileNotFoundError:
        return NOTHING
    return Usage(maps, descriptors, mapped, resident)


def _name(field: bytes) -> str:
    """A path as it is in /proc, where a newline is written as an octal number."""
    return os.fsdecode(field.replace(b"\\012", b"\n"))
