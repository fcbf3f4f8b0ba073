"""Window arithmetic: which byte range of a file is mapped to serve a request. Pure integers, no I/O.

With window size W (a multiple of twice the allocation granularity) a request is served by the first that contains it of

    grid window k    [kW, kW + W)            key  k
    seam window k    [kW + W/2, kW + 3W/2)   key ~k    straddles the border of grid windows k and k + 1
    wide window      [begin, end)            key (begin, end)    made for this request, begin aligned down

all clipped to the end of the file. W = 0 stands for one window as large as the file. So every size is a pure function
of offset, size, W and the file's length: it does not depend on what happens to be mapped.
"""

from __future__ import annotations

import sys
from mmap import ALLOCATIONGRANULARITY
from typing import Any, Union

__all__ = [
    "ALLOCATIONGRANULARITY",
    "Key",
    "MapWindow",
    "align_to_mmap",
    "is_64_bit",
    "reach",
    "round_window",
    "serving",
]

Key = Union[int, tuple[int, int]]


def is_64_bit() -> bool:
    """True where addresses have 64 bits."""
    return sys.maxsize > (1 << 32) - 1


def align_to_mmap(num: int, round_up: bool) -> int:
    """`num` rounded down, or up, to a multiple of `ALLOCATIONGRANULARITY`."""
    down = num - num % ALLOCATIONGRANULARITY
    return down + ALLOCATIONGRANULARITY if round_up and down != num else down


def round_window(size: int, granule: int = ALLOCATIONGRANULARITY) -> int:
    """`size` rounded up to a multiple of twice the granularity, so that half a window is still a place to map at."""
    return -(-size // (2 * granule)) * (2 * granule)


def reach(offset: int, size: int, window: int, length: int) -> int:
    """The most bytes that the request may get: `min(size, window, length - offset)`; size 0 asks for half a window."""
    most = length - offset
    if 0 < window < most:
        most = window
    wanted = size or window // 2
    return wanted if 0 < wanted < most else most


def serving(
    offset: int, size: int, window: int, length: int, granule: int = ALLOCATIONGRANULARITY
) -> tuple[Key, int, int]:
    """The window that serves `size` bytes at `offset` of a file of `length` bytes, as (key, begin, end).

    Takes 0 <= offset < length, and window 0 or a multiple of 2 * granule. size 0 means "everything from here": the
    window then holds at least `min(window / 2, length - offset)` bytes from the offset on.
    """
    if not window:
        return 0, 0, length
    end = offset + reach(offset, size, window, length)
    number = offset // window
    begin = number * window
    if end <= begin + window:
        return number, begin, min(begin + window, length)
    begin += window // 2
    if offset >= begin and end <= begin + window:
        return ~number, begin, min(begin + window, length)
    begin = offset - offset % granule
    return (begin, end), begin, end


class MapWindow:
    """A byte range that can be moved and stretched: smmap 5's helper, kept for those who import it."""

    __slots__ = ("ofs", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.ofs = offset
        self.size = size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ofs}, {self.size})"

    @classmethod
    def from_region(cls, region: Any) -> MapWindow:
        """The range that a region covers."""
        return cls(region.ofs_begin(), region.size())

    def ofs_end(self) -> int:
        """The offset just past the range."""
        return self.ofs + self.size

    def align(self) -> None:
        """Move the begin down to the granularity, and round the size up to it."""
        begin = align_to_mmap(self.ofs, False)
        self.size = align_to_mmap(self.size + self.ofs - begin, True)
        self.ofs = begin

    def extend_left_to(self, window: MapWindow, max_size: int) -> None:
        """Stretch to the left until `window` ends, as far as `max_size` allows; the end stays."""
        end = self.ofs_end()
        self.ofs = min(self.ofs, max(window.ofs_end(), end - max_size))
        self.size = end - self.ofs

    def extend_right_to(self, window: MapWindow, max_size: int) -> None:
        """Stretch to the right until `window` begins, as far as `max_size` allows; the begin stays."""
        self.size = max(self.size, min(window.ofs - self.ofs, max_size))
