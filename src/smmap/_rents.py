"""Whether to read a cold window or to map it: rent before you buy. Knows only numbers.

Reading a few bytes costs less than mapping their window; mapping pays once enough reads fall into one window. A window
is bought when its reads have cost about as much as mapping it would. That never costs more than twice the best
choice in hindsight (ski rental; Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", 1988).

If the reads of a window are so far apart that it would be evicted in between, it is never worth its price. So rents are
remembered for no more windows than the limits keep mapped. Two generations do that in O(1) and without a lock: when the
young one is full it becomes the old one, and a window of the old one that is read again is young again.
"""

from __future__ import annotations

__all__ = ["Rents", "patience", "price"]

_PRICE_OF_MAP = 8  # in small reads: mapping a window, faulting it in and unmapping it
_BYTES_PER_READ = 8192  # if a window is read instead: bytes of it that cost about as much as one small read
_SHIFT = 15  # eight pages, as a power of two of bytes: reading them costs about as much as another small read
_MOST = 4096


def price(size: int, reads: bool) -> int:
    """The cost of making a window of `size` bytes, in small reads; `reads`: it is read instead of mapped."""
    return _PRICE_OF_MAP + size // _BYTES_PER_READ if reads else _PRICE_OF_MAP


def patience(windows: int) -> int:
    """How many windows a generation of rents remembers, if the limits keep `windows` mapped."""
    return max(min(windows, _MOST) // 2, 1)


_NEAR = 1 << 17  # bytes: a read that starts this close behind the last one follows it, as for the system's readahead
_SURE = 4  # so many consecutive reads outweigh any number of scattered ones before them


class Rents:
    """The rents that were recently paid for cold windows. Concurrent threads may lose a payment, but never more."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[int, tuple[int, int, int]] = {}
        """For each window: rent, end of the last read, and how many more reads were scattered than sequential."""
        self._old: dict[int, tuple[int, int, int]] = {}

    def due(self, window: int, size: int, price: int, patience: int, start: int = 0) -> bool:
        """Pay for reading `size` bytes of a window; True if its price is reached, so that it should be bought now.

        `start` is where the read starts in the file.
        """
        young = self._young
        rent, end, apart = young.get(window) or self._old.get(window) or (0, -1, 0)
        rent += 1 + (size >> _SHIFT)
        bought = rent >= price
        if end >= 0:
            apart = max(apart - 1, -_SURE) if 0 <= start - end <= _NEAR else min(apart + 1, _SURE)
        young[window] = 0 if bought else rent, start + size, apart
        if len(young) > patience:
            self._old = young
            self._young = {}
        return bought

    def scattered(self, window: int) -> bool:
        """Whether the recent reads of a window were scattered."""
        return (self._young.get(window) or self._old.get(window) or (0, 0, 0))[2] > 0
