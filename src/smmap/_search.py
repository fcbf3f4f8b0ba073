"""Searching in bytes that lie in many windows: one window at a time, then what straddles its border.

Knows nothing of files: a buffer gives copies, and its windows themselves. Offsets are in the buffer.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import _system

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator
    from typing import Protocol

    from ._region import Store

    class Searchable(Protocol):
        """What is searched."""

        def copy(self, start: int, stop: int) -> bytes:
            """A copy of [start, stop)."""

        def window_at(self, start: int) -> tuple[Store | bytes, int, int]:
            """The store of the grid window at `start`, and where it begins and ends."""


__all__ = ["STEP", "Match", "count", "find", "finditer", "rfind"]

STEP = 1 << 20  # bytes copied at once where a whole range is gone through
_FAST_FIND = sys.version_info >= (3, 11) and not _system.PYPY  # before, mmap.find is slower than copying and bytes.find


def find(data: Searchable, needle: bytes, start: int, end: int) -> int:
    """The lowest index of the needle (not empty) in [start, end), or -1."""
    while end - start >= len(needle):
        stop, found = _in_window(data, needle, start, end, False)
        if found < 0:
            found = _across(data, needle, start, stop, end, False)
        if found >= 0:
            return found
        start = stop
    return -1


def rfind(data: Searchable, needle: bytes, start: int, end: int) -> int:
    """The highest index of the needle (not empty) in [start, end), or -1."""
    stop = end
    while start < stop:
        low = max(start, data.window_at(stop - 1)[1], stop - _longest())
        found = _across(data, needle, start, stop, end, True)
        if found < 0:
            found = _in_window(data, needle, low, stop, True)[1]
        if found >= 0:
            return found
        stop = low
    return -1


def count(data: Searchable, needle: bytes, start: int, end: int) -> int:
    """How often the needle (not empty) is found in [start, end) without overlapping."""
    found = 0
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
            start = stop - min(len(between[-1]), len(needle) - 1)  # what follows the last match may begin another
    return found


def _longest() -> int:
    """How much is searched at once: a whole window, where that needs no copy."""
    return sys.maxsize if _FAST_FIND else STEP


def _in_window(data: Searchable, needle: bytes, start: int, end: int, backwards: bool) -> tuple[int, int]:
    """Search in what one window has of [start, end): where that ends, and where the needle is, or -1."""
    while True:
        store, begin, stop = data.window_at(start)
        stop = min(stop, end, start + _longest())
        try:
            if _FAST_FIND:
                found = (store.rfind if backwards else store.find)(needle, start - begin, stop - begin)
                return stop, found + begin if found >= 0 else -1
            piece = store[start - begin : stop - begin]
        except ValueError:  # PyPy: evicted and closed meanwhile
            continue
        found = piece.rfind(needle) if backwards else piece.find(needle)
        return stop, found + start if found >= 0 else -1


def _across(data: Searchable, needle: bytes, start: int, border: int, end: int, backwards: bool) -> int:
    """Where the needle is if it begins before the border and ends after it, or -1."""
    low = max(start, border - len(needle) + 1)
    piece = data.copy(low, min(end, border + len(needle) - 1))
    found = piece.rfind(needle) if backwards else piece.find(needle)
    return found + low if found >= 0 else -1


class Match:
    """A match of a regular expression, with offsets in the buffer; otherwise as `re.Match`."""

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
        """Where a group begins and ends in the buffer; (-1, -1) if it took no part."""
        start, end = self._match.span(group)
        return (start, end) if start < 0 else (start + self._offset, end + self._offset)

    def start(self, group: int | str = 0) -> int:
        """Where a group begins in the buffer; -1 if it took no part."""
        return self.span(group)[0]

    def end(self, group: int | str = 0) -> int:
        """Where a group ends in the buffer; -1 if it took no part."""
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

    A match is final once `longest` bytes from its begin were in sight; `longest` bytes before the place where the
    search goes on stay in sight for what looks behind. No match that begins before `final` is left when a piece is
    done, and the search never goes on where an empty match was, so it goes on as it would have in one piece.
    """
    place = 0  # where the search goes on
    while True:
        low = max(0, place - longest)
        high = min(end, place + STEP + 2 * longest)
        final = high if high == end else high - longest
        last = place
        for match in compiled.finditer(data.copy(low, high), place - low):
            start, stop = match.start() + low, match.end() + low
            if start >= final and high != end:
                break
            if stop == high != end:
                raise ValueError(f"the match at {start} may be cut: it is longer than max_match={longest}")
            last = stop
            yield Match(match, low)
        if high == end:
            return
        place = max(last, final)
