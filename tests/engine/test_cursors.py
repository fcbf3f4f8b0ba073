"""`CursorBase`: moves to what is mapped, and what it leaves to the policy."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import smmap
from core._tools import LATE, PYPY, G, World, expected_size, payload

from ._tools import Bench, Lost, Steps, dead, every_step, interrupt, meanwhile

W = 2 * G
Make = Callable[..., Bench]


class Index:
    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Int(int):
    pass


def use(made: Bench, cursor: Any, region: Any, start: int | None = None, stop: int | None = None) -> None:
    """Let a cursor use a region, as the policy does."""
    cursor._pin(region, region.start if start is None else start, region.stop if stop is None else stop)


def test_without_a_region(bench: Make) -> None:
    cursor = bench(W).cursor()
    with pytest.raises(Lost):
        cursor.buffer()
    with pytest.raises(Lost):
        cursor.map()
    assert cursor.use_region(5, 9) is cursor
    assert cursor.moves == [(5, 9, 0)]


def test_pinned_region_is_not_idle(bench: Make) -> None:
    made = bench(4 * W)
    for number in (0, 1, 2):
        made.keep_idle(number)
    cursor = made.cursor()
    use(made, cursor, made.file.table.find(1))
    assert made.idle_keys() == [0, 2]
    assert made.file.table.find(1).holders() == [cursor]
    use(made, cursor, made.file.table.find(2))
    assert made.idle_keys() == [0, 1]
    assert made.file.table.find(1).pins == 0
    use(made, cursor, made.file.table.find(2), W, W + 5)
    assert made.idle_keys() == [0, 1]
    assert made.file.table.find(2).pins == 1


@pytest.mark.parametrize("kind", ["map", "read"])
def test_moves_within_its_region_without_the_policy(bench: Make, kind: str) -> None:
    made = bench(3 * W, kind=kind)
    cursor = made.cursor()
    use(made, cursor, made.grid(1))
    ends = [W, W + 1, W + G, 2 * W - 1, 2 * W]
    for start in ends:
        for stop in ends:
            if start < stop:
                assert cursor.use_region(start, stop - start) is cursor
                view = cursor.buffer()
                assert view == made.data[start:stop]
                assert view.readonly
    assert cursor.use_region(size=5, offset=W + 5).buffer() == made.data[W + 5 : W + 10]
    assert cursor.moves == []
    assert made.asked == []


def test_moves_to_every_mapped_window_or_asks(bench: Make) -> None:
    """Every request near a border: what is served has the right bytes, what is not mapped is asked for."""
    made = bench(2 * W + G + 7)
    length = len(made.data)
    made.keep_idle(0)
    made.keep_idle(2)
    near = sorted({base + shift for base in (0, G, W, 2 * W, length) for shift in (-1, 0, 1) if base + shift >= 0})
    for start in near:
        for size in (0, 1, 2, G, W - 1, W, W + 1, length, 10 * length):
            cursor = made.cursor()
            cursor.use_region(start, size)
            region, low, high = cursor._use
            if region is None:
                assert cursor.moves == [(start, size, 0)]
            else:
                assert cursor.moves == []
                assert (low, high) == (start, start + expected_size(start, size, W, length))
                assert size <= W  # else a wide window is wanted
                assert region.start <= low < high <= region.stop
                assert cursor.buffer() == made.data[low:high]
                assert region.holders() == [cursor]
                assert region.key not in made.idle_keys()
                cursor._let_go(region, region)
            assert sorted(made.idle_keys()) == [0, 2]
    cursor = made.cursor()
    for start in (W, W + 1, 2 * W - 1):  # the one that is not mapped
        cursor.use_region(start, 1)
    for start in (length, length + 1, 10 * length):  # past the end
        cursor.use_region(start, 1)
    cursor.use_region(W - 1, 2)  # across a border
    cursor.use_region(0, W + 1)  # more than a window
    assert len(cursor.moves) == 8


@pytest.mark.parametrize(
    "request_",
    [
        (W + 5, 9, 1),
        (True, 9),
        (W + 5, True),
        (Index(W + 5), 9),
        (W + 5, Index(9)),
        (Int(W + 5), 9),
        (-1, 5),
        (W + 5, -1),
        ("a", 1),
        (W + 5.0, 1),
        (None, None),
    ],
    ids=lambda request_: "-".join(str(one) if type(one) is int else type(one).__name__ for one in request_),
)
def test_leaves_all_that_is_unusual_to_the_policy(bench: Make, request_: Any) -> None:
    made = bench(3 * W)
    cursor = made.cursor()
    use(made, cursor, made.grid(1), W + 1, W + 3)
    assert cursor.use_region(*request_) is cursor
    assert cursor.moves == [(*request_, 0, 0)[:3]]
    assert cursor._use[1:] == (W + 1, W + 3)  # it stays as it was


def test_size_of_zero_means_up_to_the_end_of_the_window(bench: Make) -> None:
    """Wherever that is served without the policy, it is what the policy would have given."""
    made = bench(3 * W + 7)
    for number in (1, 3):
        made.keep_idle(number)
    cursor = made.cursor()
    for start in [W, W + 1, W + G, W + G + 1, 2 * W - 1, 2 * W, 3 * W, 3 * W + 6, W, 3 * W + 7]:
        cursor.use_region(start)
        if cursor.moves:
            cursor.moves.clear()
        else:
            assert cursor._use[1:] == (start, start + expected_size(start, 0, W, 3 * W + 7))
            assert cursor.buffer() == made.data[start : cursor._use[2]]


def test_asks_for_a_range_outside_of_its_region(bench: Make) -> None:
    made = bench(3 * W)
    cursor = made.cursor()
    use(made, cursor, made.grid(1))
    for request in [(W - 1, 1), (W - 1, 2), (2 * W, 1), (2 * W - 1, 2), (0, 1), (3 * W, 1)]:
        cursor.use_region(*request)
        assert cursor.moves.pop() == (*request, 0)
        assert cursor._use[1:] == (W, 2 * W)
        assert cursor.buffer() == made.data[W : 2 * W]


@pytest.mark.skipif(LATE, reason="objects may die late here")
def test_move_may_evict_the_cursors_own_region(bench: Make) -> None:
    made = bench(3 * W)
    cursor = made.cursor()
    use(made, cursor, made.grid(1))
    alive = weakref.ref(cursor._use[0])

    def during() -> None:
        cursor._use = None, 0, 0
        assert alive() is None  # the engine has no reference left

    cursor.during = during
    cursor.use_region(0, 5)
    assert len(cursor.moves) == 1
    assert made.counts() == (0, 0)


def test_hits_are_counted_where_another_region_is_found(bench: Make) -> None:
    made = bench(3 * W)
    made.keep_idle(0)
    made.keep_idle(2)
    cursor = made.cursor()
    for count, start in enumerate([0, 2 * W, 5, 2 * W + 7], 1):
        cursor.use_region(start, 5)
        assert made.idle.hits == count
    cursor.use_region(W, 5)
    assert made.idle.hits == 4


def test_region_left_is_the_last_in_the_order(bench: Make) -> None:
    made = bench(5 * W)
    for number in range(4):
        made.keep_idle(number)
    cursor = made.cursor()
    for number in (1, 0, 3):
        cursor.use_region(number * W, 5)
    assert made.idle_keys() == [2, 1, 0]


def test_leaves_all_moves_to_the_policy_where_too_much_is_mapped(bench: Make) -> None:
    made = bench(3 * W)
    made.keep_idle(0)
    made.keep_idle(1)
    cursor = made.cursor()
    cursor.use_region(0, 5)
    made.idle.crowded = True
    cursor.use_region(W, 5)
    assert cursor.moves == [(W, 5, 0)]
    assert cursor.use_region(9, 5).buffer() == made.data[9:14]  # within its region, nothing changes
    assert len(cursor.moves) == 1
    made.idle.crowded = False
    assert cursor.use_region(W, 5).buffer() == made.data[W : W + 5]
    assert len(cursor.moves) == 1


@pytest.mark.parametrize("reason", ["", "crowded", "gone"])
def test_lets_the_policy_tidy_what_it_left(bench: Make, reason: str) -> None:
    made = bench(3 * W)
    made.keep_idle(0)
    made.keep_idle(1)
    cursor = made.cursor()
    cursor.use_region(0, 5)
    made.idle.crowded = reason == "crowded"
    made.file.gone = reason == "gone"
    assert made.asked == []
    use(made, cursor, made.file.table.find(1))
    assert made.asked == ([("tidy", 0, 1)] if reason else [])
    assert made.idle_keys() == [0]


def test_two_cursors_of_one_region(bench: Make) -> None:
    made = bench(3 * W)
    made.keep_idle(0)
    made.keep_idle(1)
    one, two = made.cursor(), made.cursor()
    one.use_region(0, 5)
    two.use_region(9, 5)
    assert (one.buffer(), two.buffer()) == (made.data[:5], made.data[9:14])
    one.use_region(W, 5)
    assert made.idle_keys() == []
    assert made.file.table.find(0).holders() == [two]
    two.use_region(W, 5)
    assert made.idle_keys() == [0]
    assert set(map(id, made.file.table.find(1).holders())) == {id(one), id(two)}


@pytest.mark.parametrize("kind", ["map", "read"])
def test_buffer_stays_readable_and_counted(bench: Make, kind: str) -> None:
    made = bench(3 * W, kind=kind)
    cursor = made.cursor()
    use(made, cursor, made.grid(1), W + 3, W + 9)
    view = cursor.buffer()
    assert cursor._use[0].exported
    cursor._use = None, 0, 0
    del cursor
    dead()
    assert view == made.data[W + 3 : W + 9]
    assert made.counts() == (1, W)
    del view
    dead()
    assert made.counts() == (0, 0)


@pytest.mark.parametrize("kind", ["map", "read"])
def test_map_is_the_region_and_starts_where_that_does(bench: Make, kind: str) -> None:
    made = bench(3 * W, kind=kind)
    cursor = made.cursor()
    use(made, cursor, made.grid(1), W + 3, W + 9)
    shared = cursor.map()
    assert shared[:] == made.data[W : 2 * W]
    with pytest.raises(BufferError):
        shared.close()


def test_cursor_does_not_die_with_its_region_pinned_by_it_only(bench: Make) -> None:
    made = bench(3 * W)
    cursor = made.cursor()
    use(made, cursor, made.grid(0))
    reference = weakref.ref(cursor)
    del cursor
    dead()
    assert reference() is None  # no cycle
    assert made.idle_keys() == ([] if PYPY else [0])  # it let go; on PyPy, both die together


# Interrupted, and several threads


def consistent(made: Bench, cursors: list[Any]) -> None:
    """No region is idle and pinned, none is lost, and each cursor reads what it says."""
    made.ledger.settle()
    regions = made.file.table.regions()
    for region in regions:
        users = [cursor for cursor in cursors if cursor._use[0] is region]
        idle = region.entry in made.idle
        assert not (idle and users), (region.key, "idle and used by a cursor")
        assert idle or users, (region.key, "neither idle nor used")
        assert region.pins >= len(users)
    for cursor in cursors:
        region, start, stop = cursor._use
        if region is not None:
            assert cursor.buffer() == made.data[start:stop]


def test_move_interrupted_at_any_step(bench: Make, steps: Steps) -> None:
    made = bench(3 * W)

    def run(at: int) -> bool:
        made.restart(0, 1, 2)
        cursor = made.cursor()
        cursor.use_region(0, 5)
        more = interrupt(steps, at, lambda: cursor.use_region(2 * W, 7))
        region, start, stop = cursor._use
        assert (start, stop) in ((0, 5), (2 * W, 2 * W + 7))
        assert cursor.buffer() == made.data[start:stop]
        assert region in region.file.table.regions()
        assert cursor in region.holders()  # else it might be evicted
        del region
        for start in (W, 2 * W, 0):  # all goes on as before
            if made.file.table.find(start // W) is None:
                made.keep_idle(start // W)
            cursor.use_region(start, 7)
            assert cursor.buffer() == made.data[start : start + 7]
        consistent(made, [cursor])
        return more

    every_step(run)


MOVES: dict[str, Callable[[Any, Any, Bench], Any]] = {
    "move to the same region": lambda one, two, made: two.use_region(2 * W, 7),
    "leave the region": lambda one, two, made: two.use_region(W, 7),
    "evict the oldest": lambda one, two, made: len(made.idle) and made.idle.pop_oldest(),
}


@pytest.mark.parametrize("other", MOVES)
def test_moves_of_two_threads_at_any_step(bench: Make, other: str, steps: Steps) -> None:
    """Another thread moves its cursor, or evicts, at any step of a move: nothing is idle and pinned afterwards."""
    made = bench(3 * W)
    for there, (origin, target) in itertools.product((0, 2), ((0, 2), (2, 0))):

        def run(at: int) -> bool:
            made.restart(2, 0, 1)
            one, two = made.cursor(), made.cursor()
            one.use_region(origin * W, 5)
            two.use_region(there * W, 5)
            more = meanwhile(steps, at, lambda: one.use_region(target * W, 7), lambda: MOVES[other](one, two, made))
            consistent(made, [one, two])
            return more

        every_step(run)


def test_moves_to_the_end_of_the_longest_file(world: World) -> None:
    """Where a start and a size together have more than 63 bits."""
    size, path = (1 << 63) - 4096, world.folder / "long"
    try:
        with open(path, "wb") as out:
            out.truncate(size)
            out.seek(size - 550)
            out.write(payload(550))
    except (OSError, OverflowError):
        pytest.skip("no such files on this file system")
    manager = smmap.SlidingWindowMapManager(32 * G)
    with manager.make_cursor(path) as cursor:
        for wanted in (32 * G, 250, 32 * G, 0, 550):
            cursor.use_region(size - 550, wanted)
            assert cursor.buffer() == payload(550)[: wanted or 550], wanted
        other = manager.make_cursor(path)
        assert other.use_region(size - 100, 32 * G).buffer() == payload(550)[450:]
        other.close()
