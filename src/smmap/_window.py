"""Window arithmetic: which byte range of a file is mapped to serve a request. Pure integers, no I/O.

With window size W (a multiple of twice the allocation granularity), the first of these that contains a request serves
it:

    grid window k    [kW, kW + W)            key  k
    seam window k    [kW + W/2, kW + 3W/2)   key ~k    across the border of grid windows k and k + 1
    wide window      [start, stop)           key (start, stop)    made for this request, start aligned down

All are clipped to the end of the file. W = 0 means one window as large as the file. So every size is a pure function
of offset, size, W and the file's size: it does not depend on what happens to be mapped.
"""

from __future__ import annotations

import sys
from mmap import ALLOCATIONGRANULARITY
from typing import NamedTuple, Union

__all__ = ["ALLOCATIONGRANULARITY", "Key", "Window", "align_to_mmap", "is_64_bit", "round_window", "serving", "within"]

Key = Union[int, tuple[int, int]]


class Window(NamedTuple):
    """A byte range of a file that may be mapped at once, and the key under which it is found."""

    key: Key
    start: int
    stop: int


def is_64_bit() -> bool:
    """True where addresses have 64 bits."""
    return sys.maxsize > (1 << 32) - 1


def align_to_mmap(num: int, round_up: bool) -> int:
    """`num` rounded down, or up, to a multiple of `ALLOCATIONGRANULARITY`."""
    down = num - num % ALLOCATIONGRANULARITY
    return down + ALLOCATIONGRANULARITY if round_up and down != num else down


def round_window(size: int, granule: int = ALLOCATIONGRANULARITY) -> int:
    """`size` rounded up to a multiple of twice the granularity, so that a map can start at half a window."""
    return -(-size // (2 * granule)) * (2 * granule)


def serving(offset: int, size: int, window: int, file_size: int, granule: int = ALLOCATIONGRANULARITY) -> Window:
    """The window that serves `size` bytes at `offset` of a file of `file_size` bytes.

    Takes 0 <= offset < file_size, and window 0 or a multiple of 2 * granule. size 0 means "everything from here": the
    window then holds at least `min(window / 2, file_size - offset)` bytes from the offset on.
    """
    if not window:
        return Window(0, 0, file_size)
    stop = min(offset + min(size or window // 2, window), file_size)
    number = offset // window
    start = number * window
    if stop <= start + window:
        return Window(number, start, min(start + window, file_size))
    start += window // 2
    if offset >= start and stop <= start + window:
        return Window(~number, start, min(start + window, file_size))
    start = offset - offset % granule
    return Window((start, stop), start, stop)


def within(offset: int, size: int, file_size: int, granule: int = ALLOCATIONGRANULARITY) -> Window:
    """The smallest aligned window that contains the request: for files that are read into memory instead of mapped."""
    start = offset - offset % granule
    stop = min(-(-(offset + size) // granule) * granule, file_size)
    return Window((start, stop), start, stop)
