"""Window arithmetic against an oracle written from the rules: every small number, and large ones at random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smmap import _window
from smmap._window import Window, align_to_mmap, round_window, serving, within
from smmap.util import MapWindow

from ._tools import G


class Rule(NamedTuple):
    """What the rules say about one request."""

    kind: str  # whole, grid, seam or wide
    start: int
    stop: int
    given: int  # bytes that the client gets


def rule(offset: int, size: int, window: int, length: int, granule: int) -> Rule:
    """The first window that contains the clipped request, looked for among all that there are."""
    rest = length - offset
    effective = window or length
    asked = min(size, effective, rest) if size else min(effective // 2, rest) if window else rest
    candidates = (
        [("whole", 0)]
        if not window
        else [("grid", offset // window * window)] + [("seam", start) for start in range(window // 2, length, window)]
    )
    for kind, start in candidates:
        stop = min(start + effective, length)
        if start <= offset and offset + asked <= stop:
            return Rule(kind, start, stop, asked if size else stop - offset)
    start = max(multiple for multiple in range(0, offset + 1, granule))
    return Rule("wide", start, offset + asked, asked)


def given_bytes(offset: int, size: int, window: int, length: int, granule: int = G) -> int:
    """How many bytes a client gets (promise 2): those it asked for, or all up to the end of the window."""
    return min(size, window or length, length - offset) or serving(offset, 0, window, length, granule).stop - offset


def small_cases(granule: int) -> Iterator[tuple[int, int]]:
    """Every window of up to 16, and lengths that reach across the borders of four of them."""
    for window in (0, *range(2 * granule, 17, 2 * granule)):
        for length in range(1, (3 * window or 20) + granule + 2):
            yield window, length


@pytest.mark.parametrize("granule", [1, 2, 4])
def test_every_window_length_offset_and_size(granule: int) -> None:
    kinds = set()
    for window, length in small_cases(granule):
        named: dict[object, tuple[int, int]] = {}
        for offset in range(length):
            for size in range(max(length, window) + 2):
                key, start, stop = found = serving(offset, size, window, length, granule)
                assert type(found) is Window
                case = (offset, size, window, length, *found)
                want = rule(offset, size, window, length, granule)
                given = given_bytes(offset, size, window, length, granule)
                kinds.add(want.kind)
                # the very window of the rules, and promise 2
                assert (start, stop) == (want.start, want.stop), case
                assert given == want.given, case
                assert size or given >= min((window or length) // 2, length - offset), case
                # containment, alignment, clipping, the bound of a wide window
                assert 0 <= start <= offset < offset + given <= stop <= length, case
                assert start % granule == 0, case
                assert stop - start <= (window + granule - 1 if want.kind == "wide" else window or length), case
                assert want.kind != "wide" or size > window // 2, case
                # a key names one window, and its form tells the kind
                assert named.setdefault(key, (start, stop)) == (start, stop), case
                form = key if isinstance(key, tuple) else "seam" if key < 0 else "grid"
                assert form == {"wide": (start, stop), "seam": "seam"}.get(want.kind, "grid"), case
                if form == "grid":
                    assert key == (offset // window if window else 0), case
                elif form == "seam":
                    assert isinstance(key, int)
                    assert start == ~key * window + window // 2, case
        grid = [bounds for key, bounds in named.items() if isinstance(key, int) and key >= 0]
        assert sorted(grid) == [
            (first, min(first + (window or length), length)) for first in range(0, length, window or length)
        ]
    assert kinds == {"whole", "grid", "seam", "wide"}


@pytest.mark.parametrize("granule", [1, 2, 4])
def test_smallest_aligned_window_holds_every_request_and_no_more(granule: int) -> None:
    """What is read instead of mapped: looked for among all ranges that start and stop where they may."""
    for length in range(1, 5 * granule + 3):
        starts = range(0, length, granule)
        stops = [*range(granule, length, granule), length]
        for offset in range(length):
            for size in range(1, length - offset + 1):
                key, start, stop = found = within(offset, size, length, granule)
                assert type(found) is Window
                assert (start, stop) == min(
                    ((low, high) for low in starts for high in stops if low <= offset and offset + size <= high),
                    key=lambda bounds: bounds[1] - bounds[0],
                ), (offset, size, length)
                assert key == (start, stop)


def test_large_windows_that_are_read_are_aligned_to_the_granularity() -> None:
    assert within(5 * G + 1, 9, 1 << 50) == ((5 * G, 6 * G), 5 * G, 6 * G)
    assert within((1 << 49) - 1, 2, 1 << 50) == (((1 << 49) - G, (1 << 49) + G), (1 << 49) - G, (1 << 49) + G)
    assert within(5 * G + 1, 9, 5 * G + 10) == ((5 * G, 5 * G + 10), 5 * G, 5 * G + 10)


def test_a_file_of_one_window_has_one_window() -> None:
    for window in range(2, 17, 2):
        for length in range(1, window + 1):
            found = {serving(offset, size, window, length, 1) for offset in range(length) for size in range(length + 2)}
            assert found == {(0, 0, length)}


def test_neighbours_share_a_seam() -> None:
    """All requests of up to half a window across one border are served by one window."""
    window = 16
    for border in range(window, 6 * window, window):
        found = {
            serving(offset, size, window, 7 * window, 1)
            for size in range(2, window // 2 + 1)
            for offset in range(border - size + 1, border)
        }
        assert found == {(~(border // window - 1), border - window // 2, border + window // 2)}


big = st.integers(0, 1 << 62) | st.integers(0, 1 << 20).map(lambda n: n * G) | st.integers(0, 1 << 34)


@settings(deadline=None, max_examples=400, derandomize=True)
@given(offset=big, size=big, half=st.integers(0, 1 << 20), rest=st.integers(1, 1 << 62), nudge=st.integers(-2, 2))
def test_large_numbers(offset: int, size: int, half: int, rest: int, nudge: int) -> None:
    window, offset, length = 2 * half * G, max(offset + nudge, 0), offset + 2 + rest
    key, start, stop = serving(offset, size, window, length)
    given = given_bytes(offset, size, window, length)
    assert 0 <= start <= offset < offset + given <= stop <= length
    assert start % G == 0
    if not size:
        assert given >= min((window or length) // 2, length - offset)
    if not window:
        assert (key, start, stop) == (0, 0, length)
    elif isinstance(key, int):
        assert start == (key * window if key >= 0 else ~key * window + half * G)
        assert stop == min(start + window, length)
    else:
        assert (start, stop) == (offset // G * G, offset + given) == key
    assert serving(offset, size, window, length) == (key, start, stop)


@pytest.mark.parametrize("granule", [1, 2, 3, 4, G])
def test_round_window(granule: int) -> None:
    pair = 2 * granule
    for size in [*range(5 * min(pair, 64)), pair - 1, pair, pair + 1, 7 * pair - 1, 7 * pair, 7 * pair + 1, 1 << 40]:
        rounded = round_window(size, granule)
        assert rounded % pair == 0
        assert size <= rounded < size + pair
    assert round_window(1) == 2 * G


def test_align_to_mmap() -> None:
    for number in range(4):
        for shift in (-2, -1, 0, 1, 2):
            value = number * G + shift
            if value < 0:
                continue
            down, up = align_to_mmap(value, False), align_to_mmap(value, True)
            assert down % G == up % G == 0
            assert down <= value <= up
            assert value - down < G
            assert up - value < G
    assert _window.ALLOCATIONGRANULARITY == G


def windows(limit: int = 40) -> st.SearchStrategy[MapWindow]:
    return st.builds(MapWindow, st.integers(0, limit), st.integers(0, limit))


def bounds(window: MapWindow) -> tuple[int, int]:
    return window.ofs, window.ofs_end()


def test_map_window_names_its_range() -> None:
    window = MapWindow(3, 7)
    assert (window.ofs, window.size, window.ofs_end()) == (3, 7, 10)
    assert "3" in repr(window)
    assert "7" in repr(window)


@pytest.mark.parametrize("ofs", [0, 1, G - 1, G, G + 1, 3 * G - 1])
@pytest.mark.parametrize("size", [0, 1, G - 1, G, G + 1, 2 * G])
def test_map_window_align(ofs: int, size: int) -> None:
    window = MapWindow(ofs, size)
    window.align()
    assert window.ofs % G == window.size % G == 0
    assert window.ofs <= ofs
    assert ofs + size <= window.ofs_end()
    assert ofs - window.ofs < G
    assert window.ofs_end() - (ofs + size) < G
    again = MapWindow(window.ofs, window.size)
    again.align()
    assert bounds(again) == bounds(window)


@settings(deadline=None, max_examples=400, derandomize=True)
@given(windows(), windows(), st.integers(0, 100))
def test_map_window_stretches_to_the_left_as_far_as_allowed(left: MapWindow, right: MapWindow, most: int) -> None:
    _stretch(left, right, most, to_left=True)


@settings(deadline=None, max_examples=400, derandomize=True)
@given(windows(), windows(), st.integers(0, 100))
def test_map_window_stretches_to_the_right_as_far_as_allowed(left: MapWindow, right: MapWindow, most: int) -> None:
    _stretch(left, right, most, to_left=False)


def _stretch(left: MapWindow, right: MapWindow, most: int, to_left: bool) -> None:
    if left.ofs_end() > right.ofs:
        left, right = MapWindow(left.ofs, left.size), MapWindow(left.ofs_end() + right.ofs, right.size)
    grown, fixed = (right, left) if to_left else (left, right)
    start, stop = bounds(grown)
    before = bounds(fixed)
    if to_left:
        grown.extend_left_to(fixed, most)
    else:
        grown.extend_right_to(fixed, most)
    assert bounds(fixed) == before
    gap = start - before[1] if to_left else before[0] - stop
    if stop - start <= most:
        assert grown.size == min(most, stop - start + gap)  # up to the neighbour, or as far as allowed
    else:
        assert grown.size == stop - start  # a window that is too large already is not cut
    assert (grown.ofs_end() if to_left else grown.ofs) == (stop if to_left else start)


def test_map_window_from_region() -> None:
    class Region:
        def ofs_begin(self) -> int:
            return 8

        def size(self) -> int:
            return 5

    window: MapWindow | None = MapWindow.from_region(Region())
    assert window is not None
    assert bounds(window) == (8, 13)
