"""Searching in bytes across many windows: one window at a time, then the bytes across its border.

Knows nothing of files: a buffer provides copies, and the mapped regions. Offsets are relative to the buffer.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

from ._system import SEARCHES_MAPS

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator
    from typing import Protocol

    class Searchable(Protocol):
        """The bytes to search."""

        def copy(self, start: int, stop: int) -> bytes:
            """A copy of [start, stop)."""

        def window(self) -> int:
            """Bytes in a window."""

        def border(self, start: int) -> int:
            """Where the window at `start` stops."""

        def mapped(self, start: int) -> tuple[Any, int, int] | None:
            """The region of the window at `start`, if it is mapped, and where that starts and stops."""

        def searched(self, start: int, stop: int) -> None:
            """[start, stop) was searched in a region that `mapped` returned."""

        def check(self) -> None:
            """An error if the search must not go on."""


__all__ = ["STEP", "Match", "bounds", "count", "find", "finditer", "rfind"]

STEP = 1 << 20  # bytes copied at once when going through a whole range
_FIRST = 1 << 12  # bytes copied first where a match may be near; each further copy is larger, up to STEP
_GROWTH = 4


def bounds(size: int, sub: Any, start: int | None, end: int | None) -> tuple[bytes, int, int]:
    """The needle, and the bounds as `bytes.find` takes them: a start past the end stays there."""
    if type(sub) is bytes:
        needle = sub
    else:
        try:
            b"".find(sub)  # raises the same error as bytes
        except TypeError:
            if not hasattr(sub, "__index__"):  # of objects with `__index__`, PyPy's bytes take only int
                raise
        try:
            # As a number only if this fails: numpy's numbers are bytes-like, too
            needle = bytes((sub,)) if type(sub) is int else b"".join((sub,))
        except TypeError:
            needle = bytes((index(sub),))
    low = 0 if start is None else int(index(start))
    high = size if end is None else int(index(end))
    return needle, max(low + size, 0) if low < 0 else low, max(high + size, 0) if high < 0 else min(high, size)


def find(data: Searchable, needle: bytes, start: int, end: int) -> int:
    """The lowest index of the needle in [start, end), or -1."""
    size, step = len(needle), _FIRST
    if not size:
        return start if start <= end else -1
    long = _is_long(data, needle)
    while end - start >= size:
        mapped = data.mapped(start) if SEARCHES_MAPS and not long else None
        if mapped is not None:
            region, base, stop = mapped
            stop = min(stop, end)
            place = region.find(needle, start - base, stop - base)
            data.searched(start, stop if place < 0 else place + base + size)
        else:
            base = start
            stop = min(end, end if long else data.border(start), start + max(step, 2 * size if long else 0))
            step = min(step * _GROWTH, STEP)
            place = data.copy(start, stop).find(needle)
        if place >= 0:
            return int(place + base)
        if stop == end:
            break
        low = max(start, stop - size + 1)
        place = data.copy(low, min(end, stop + size - 1)).find(needle)
        if place >= 0:
            return place + low
        start = stop
    return -1


def rfind(data: Searchable, needle: bytes, start: int, end: int) -> int:
    """The highest index of the needle in [start, end), or -1."""
    size, step, stop = len(needle), _FIRST, end
    if not size:
        return end if start <= end else -1
    long = _is_long(data, needle)
    while start < stop:
        mapped = data.mapped(stop - 1) if SEARCHES_MAPS and not long else None
        if mapped is not None:
            low = max(start, mapped[1])
        else:
            low = start if long else max(start, data.border(stop - 1) - data.window())
            low = max(low, stop - max(step, 2 * size if long else 0))
            step = min(step * _GROWTH, STEP)
        if stop < end:
            first = max(start, stop - size + 1)
            place = data.copy(first, min(end, stop + size - 1)).rfind(needle)
            if place >= 0:
                return place + first
        if mapped is not None:
            region, base, _ = mapped
            place = region.rfind(needle, low - base, stop - base)
            data.searched(low if place < 0 else place + base, stop)
        else:
            base = low
            place = data.copy(low, stop).rfind(needle)
        if place >= 0:
            return int(place + base)
        stop = low
    return -1


def _is_long(data: Searchable, needle: bytes) -> bool:
    """Whether windows are useless: the bytes to search across each border would be longer than a window."""
    return 2 * len(needle) > data.window()


def count(data: Searchable, needle: bytes, start: int, end: int) -> int:
    """How often the needle is found in [start, end) without overlapping."""
    found = 0
    if not needle:
        return max(end - start + 1, 0)
    while end - start >= len(needle):
        stop = min(end, start + max(STEP, 2 * len(needle)))
        piece = data.copy(start, stop)
        if len(needle) == 1:
            found += piece.count(needle)
            start = stop
        else:
            between = piece.split(needle)
            found += len(between) - 1
            if stop == end:
                break
            start = stop - min(len(between[-1]), len(needle) - 1)  # the bytes after the last match may start another
    return found


class Match:
    """A match of a regular expression, with offsets in the buffer; otherwise like `re.Match`."""

    __slots__ = ("_match", "_offset")

    def __init__(self, match: re.Match[bytes], offset: int) -> None:
        self._match = match
        self._offset = offset

    def __repr__(self) -> str:
        return f"<smmap.Match span={self.span()}, match={self.group()!r}>"

    def __getitem__(self, group: int | str) -> Any:
        return self._match[group]

    @property
    def re(self) -> re.Pattern[bytes]:
        """The compiled pattern."""
        return self._match.re

    @property
    def lastindex(self) -> int | None:
        """The number of the last group that took part."""
        return self._match.lastindex

    @property
    def lastgroup(self) -> str | None:
        """The name of the last group that took part."""
        return self._match.lastgroup

    def expand(self, template: bytes) -> bytes:
        r"""The template with `\1` and `\g<name>` replaced by groups."""
        return self._match.expand(template)

    def group(self, *groups: int | str) -> Any:
        """The bytes of one or more groups; of the whole match by default."""
        return self._match.group(*groups)

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        """The bytes of all groups."""
        return self._match.groups(default)

    def groupdict(self, default: Any = None) -> dict[str, Any]:
        """The bytes of all named groups."""
        return self._match.groupdict(default)

    def span(self, group: int | str = 0) -> tuple[int, int]:
        """Where a group starts and ends in the buffer; (-1, -1) if it did not take part."""
        start, end = self._match.span(group)
        return (start, end) if start < 0 else (start + self._offset, end + self._offset)

    def start(self, group: int | str = 0) -> int:
        """Where a group starts in the buffer; -1 if it did not take part."""
        return self.span(group)[0]

    def end(self, group: int | str = 0) -> int:
        """Where a group ends in the buffer; -1 if it did not take part."""
        return self.span(group)[1]


def finditer(data: Searchable, pattern: bytes | re.Pattern[bytes], end: int, longest: int) -> Iterator[Match]:
    """The matches of `pattern` in [0, end), as `re.finditer` finds them in one piece."""
    import re

    compiled: re.Pattern[Any] = re.compile(pattern)
    if isinstance(compiled.pattern, str):
        raise TypeError("cannot use a string pattern on a bytes-like object")
    return _finditer(data, compiled, end, longest)


def _finditer(data: Searchable, compiled: re.Pattern[bytes], end: int, longest: int) -> Iterator[Match]:
    """The same, piece by piece.

    A match is final once the piece has `longest` bytes from its start on. `longest` bytes before the place where the
    search continues stay in the piece, for look-behind. When a piece is done, no match that starts before `final` is
    left, and the search never continues where an empty match was. So it continues as it would have in one piece.
    """
    place = 0  # where the search continues
    while True:
        data.check()
        low = max(0, place - longest)
        high = min(end, place + STEP + 2 * longest)
        final = high if high == end else high - longest
        last = place
        for match in compiled.finditer(data.copy(low, high), place - low):
            start, stop = match.start() + low, match.end() + low
            if start >= final and high != end:
                break
            if stop == high != end:
                raise ValueError(f"the match at {start} may be truncated: it is longer than max_match={longest}")
            last = stop
            yield Match(match, low)
        if high == end:
            return
        place = max(last, final)
