"""Whether to read a cold window or to map it: rent before you buy. Knows numbers only.

Reading a few bytes costs less than mapping their window; mapping pays once enough reads fall into one window. A window
is bought when the reads of it have cost about as much as mapping it would: never more than twice the cost of the best
choice in hindsight (ski rental; Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", 1988).

A window whose reads lie so far apart that it would be evicted in between is never worth its price, so rents are
remembered for no more windows than the limits keep mapped. Two generations do that in O(1) and without a lock: when the
young one is full it becomes the old one, and what is read again from the old one is young again.
"""

from __future__ import annotations

__all__ = ["Rents", "patience", "price"]

_PRICE_OF_MAP = 8  # in small reads: mapping a window, faulting it in and unmapping it
_BYTES_PER_READ = 8192  # where a window is read instead: bytes of it that cost about as much as one small read
_SHIFT = 15  # eight pages, as a power of two of bytes: to read them costs about as much as another small read
_MOST = 4096


def price(size: int, reads: bool) -> int:
    """What making a window of `size` bytes costs, in small reads; `reads`: it is read instead of mapped."""
    return _PRICE_OF_MAP + size // _BYTES_PER_READ if reads else _PRICE_OF_MAP


def patience(windows: int) -> int:
    """How many windows a generation of rents remembers, where limits keep so many mapped."""
    return max(min(windows, _MOST) // 2, 1)


_NEAR = 1 << 17  # bytes: a read that starts no farther behind the last one follows it, as the system's readahead has it
_SURE = 4  # reads that follow each other outweigh as many that do not, however many there were before


class Rents:
    """The rents paid lately for cold windows; several threads may lose a payment to each other, never more."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[int, tuple[int, int, int]] = {}
        """For each window the rent, where its last read ended, and by how many reads lay apart more than did not."""
        self._old: dict[int, tuple[int, int, int]] = {}

    def due(self, window: int, size: int, price: int, patience: int, start: int = 0) -> bool:
        """Pay for reading `size` bytes of a window; True if its price is reached, so that it is to be bought now.

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
        """Whether the reads of a window that were paid for lately lie apart."""
        return (self._young.get(window) or self._old.get(window) or (0, 0, 0))[2] > 0
