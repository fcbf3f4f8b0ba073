"""Which region is evicted. Limits are tiny; what is mapped is read from the system, not from the ledger."""

from __future__ import annotations

import errno
import os
import random
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from smmap import LimitError

from ._tools import LATE, PYPY, File, G, World, linux, maps, pages, reclaim, run_python

pytestmark = linux

W = 2 * G
Buffer: Any = smmap.SlidingWindowMapBuffer


@pytest.fixture
def mapped(tmp_path: Path) -> Callable[[], str]:
    """The names of the files that are mapped now, sorted and joined: names are single letters here."""

    def look() -> str:
        reclaim()
        return "".join(maps(tmp_path))

    return look


@pytest.fixture
def files(world: World) -> dict[str, File]:
    """Files of exactly one window each."""
    return {name: world.file(W, name) for name in "abcdefgh"}


def touch(manager: Any, file: File, offset: int = 0, size: int = 16) -> None:
    """A use of a window by a cursor that lets it go again."""
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(offset, size).buffer() == file.data[offset : offset + size]


def read(buffer: Any, file: File, offset: int = 0) -> None:
    """A use of a window by a buffer."""
    assert buffer[offset : offset + 16] == file.data[offset : offset + 16]


LIMITS = [(W, 3 * W, sys.maxsize), (W, 0, 3), (0, 3 * W, sys.maxsize), (0, 0, 3)]
limits = pytest.mark.parametrize("limit", LIMITS, ids=["memory", "handles", "static-memory", "static-handles"])


@pytest.mark.parametrize("kind", ["view", "view of a cursor", "array"])
def test_reads_through_a_view_do_not_keep_its_region_from_going_next(
    kind: str, files: Any, mapped: Any, world: World
) -> None:
    """They are invisible to the manager; the view stays valid all the same, and its region is counted."""
    manager = world.manager(W, 3 * W)
    kept: Any
    with manager.make_cursor(files["a"].path) as cursor:
        kept = cursor.use_region(0, W).buffer()
    if kind != "view of a cursor":
        kept = manager.buffer(files["a"].path).view()
    if kind == "array":
        kept = pytest.importorskip("numpy").frombuffer(kept, "u1")
    touch(manager, files["b"])
    touch(manager, files["c"])
    for place in range(0, W, 100):
        assert kept[place] == files["a"].data[place]
    touch(manager, files["d"])
    stats = manager.stats()
    assert (stats.idle, stats.detached) == (2, 1)
    assert mapped() == "acd"  # a was used longest ago, and is kept by the view only; b made the room
    assert bytes(kept) == files["a"].data
    del kept
    assert mapped() == "cd"


@limits
def test_evicts_least_recently_used_region_first(limit: Any, files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(*limit)
    for name in "abc":
        touch(manager, files[name])
    assert mapped() == "abc"
    touch(manager, files["d"])
    assert mapped() == "bcd"  # a went
    touch(manager, files["b"])
    touch(manager, files["e"])
    assert mapped() == "bde"  # c went, b was used again
    touch(manager, files["d"])
    touch(manager, files["b"])
    touch(manager, files["f"])
    assert mapped() == "bdf"
    touch(manager, files["g"])
    assert mapped() == "bfg"
    assert manager.stats().evictions == 4 or LATE  # there, one may be tried twice


@limits
def test_letting_go_of_a_region_is_its_last_use(limit: Any, files: Any, mapped: Any, world: World) -> None:
    """A region becomes idle when its last cursor lets go; the order is the order of that."""
    manager = world.manager(*limit)
    a, b, c = (manager.make_cursor(files[name].path).use_region(0, 1) for name in "abc")
    b.close()
    c.unuse_region()
    a.use_region(0, 5)
    a.close()
    touch(manager, files["d"])
    assert mapped() == "acd"
    touch(manager, files["e"])
    assert mapped() == "ade"
    touch(manager, files["f"])
    assert mapped() == "def"
    c.close()


@limits
def test_every_read_of_a_buffer_is_a_use(limit: Any, files: Any, mapped: Any, world: World) -> None:
    """Also of one that never moves, because its file has one window only."""
    manager = world.manager(*limit)
    buffers = {name: Buffer(manager.make_cursor(files[name].path)) for name in "abc"}
    assert mapped() == "abc"
    for name in "cab":
        read(buffers[name], files[name])
    touch(manager, files["d"])
    assert mapped() == "abd"  # c was read least recently
    read(buffers["a"], files["a"])
    touch(manager, files["e"])
    assert mapped() == "ade"
    for _ in range(3):
        read(buffers["a"], files["a"])
        touch(manager, files["d"])
        read(buffers["a"], files["a"])
    touch(manager, files["f"])
    assert mapped() == "adf"
    assert buffers["a"].find(files["a"].data[-4:]) == W - 4
    touch(manager, files["g"])
    assert mapped() == "afg"
    for name in "abc":
        buffers[name].close()


def test_read_after_another_window_was_mapped_is_a_use(files: Any, mapped: Any, world: World) -> None:
    """Also where the reader used the same region just before, and the other window by no cursor."""
    for kind in ("construct", "view"):
        manager = world.manager(W, 0, 3)
        buffer, spare = (Buffer(manager.make_cursor(files[name].path)) for name in "ab")
        touch(manager, files["c"])
        read(buffer, files["a"])
        if kind == "view":
            assert spare.view(0, 5) == files["b"].data[:5]
        else:
            Buffer(manager.make_cursor(files["b"].path)).close()
        read(buffer, files["a"])
        touch(manager, files["d"])
        assert mapped() == "abd"
        touch(manager, files["e"])
        assert mapped() == "ade"
        manager.close()
        buffer.close()
        spare.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda buffer: buffer[5],
        lambda buffer: buffer[-1],
        lambda buffer: buffer[3:9],
        lambda buffer: buffer[::1000],
        lambda buffer: buffer.find(b"nowhere to be found"),
        lambda buffer: buffer.view(2, 4).nbytes,
        lambda buffer: b"nowhere to be found" in buffer,
        lambda buffer: buffer == b"x" * W,
        lambda buffer: next(iter(buffer)),
        lambda buffer: buffer.count(b"nowhere to be found"),
    ],
    ids=["index", "negative", "slice", "step", "find", "view", "in", "equal", "iter", "count"],
)
def test_each_kind_of_read_is_a_use(use: Any, files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(W, 0, 3)
    buffer = Buffer(manager.make_cursor(files["a"].path))
    read(buffer, files["a"])
    touch(manager, files["b"])
    touch(manager, files["c"])
    use(buffer)
    touch(manager, files["d"])
    assert mapped() == "acd"
    use(buffer)
    touch(manager, files["e"])
    assert mapped() == "ade"
    buffer.close()


def test_windows_of_one_file_are_evicted_by_their_own_use(world: World, tmp_path: Path) -> None:
    file = world.file(8 * W, "a")
    manager = world.manager(W, 3 * W)

    def windows() -> list[int]:
        reclaim()
        return sorted({page // 2 for _, page in pages(tmp_path)})

    for number in (0, 1, 2):
        touch(manager, file, number * W)
    assert windows() == [0, 1, 2]
    touch(manager, file, 5)
    touch(manager, file, 3 * W)
    assert windows() == [0, 2, 3]
    touch(manager, file, 7 * W)
    assert windows() == [0, 3, 7]
    touch(manager, file, 4 * W - 8)  # needs the seam of windows 3 and 4
    assert pages(tmp_path).keys() == {("a", page) for page in (6, 7, 14, 15, 8)}
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(4 * W - 8, 16).buffer() == file.data[4 * W - 8 : 4 * W + 8]
    assert manager.stats().mapped == 3


@limits
def test_evicts_no_more_than_needed(limit: Any, world: World, mapped: Any) -> None:
    files = {name: world.file(W, name) for name in "abcde"}
    files["x"] = world.file(G, "x")
    files["y"] = world.file(1, "y")
    manager = world.manager(*limit)
    for name in "abc":
        touch(manager, files[name])
    touch(manager, files["x"])
    assert mapped() == "bcx"
    if limit[1]:
        touch(manager, files["y"])  # G + 1 byte are free of the three windows, y needs one byte
        assert mapped() == "bcxy"
        touch(manager, files["d"])
        assert mapped() == "cdxy"
        assert manager.mapped_memory_size() == 2 * W + G + 1
    else:
        touch(manager, files["y"])
        assert mapped() == "cxy"


def test_room_is_made_before_a_region_is_mapped(files: Any, world: World) -> None:
    """So that the limit of memory is not exceeded for a moment, either."""
    manager = world.manager(W, 3 * W)
    for name in "abcdef":
        touch(manager, files[name])
    assert manager.stats().peak_memory == 3 * W


@limits
def test_pinned_regions_are_never_evicted(limit: Any, files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(*limit)
    pinned = manager.make_cursor(files["a"].path).use_region(0, 1)
    for name in "bcdefg":
        touch(manager, files[name])
        assert "a" in mapped()
    assert mapped() == "afg"
    second = manager.make_cursor(files["b"].path).use_region(0, 1)
    for name in "cdefg":
        touch(manager, files[name])
        assert mapped() == "ab" + name
    assert pinned.buffer() == files["a"].data[:1]
    pinned.close()
    second.close()


def test_handle_limit_of_one_refuses_a_second_cursor(files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(W, 0, 1)
    for name in "abc":
        touch(manager, files[name])
        assert mapped() == name
    cursor = manager.make_cursor(files["a"].path).use_region(0, 7)
    other = manager.make_cursor(files["b"].path)
    for _ in range(3):
        with pytest.raises(LimitError) as failure:
            other.use_region(0, 7)
        assert str(files["b"].path) in str(failure.value)
    assert mapped() == "a"
    assert cursor.buffer() == files["a"].data[:7]
    assert not other.is_valid()
    buffer = None
    with pytest.raises(LimitError):
        buffer = Buffer(manager.make_cursor(files["c"].path))
        buffer.view(0, 5)
    del failure
    cursor.unuse_region()
    assert other.use_region(0, 7).buffer() == files["b"].data[:7]
    assert mapped() == "b"
    if buffer:
        buffer.close()
    other.close()
    cursor.close()


def test_buffer_reads_while_every_handle_is_pinned(files: Any, world: World) -> None:
    """Copies need no map."""
    manager = world.manager(W, 0, 1)
    big = world.file(6 * W, "big")
    buffer = Buffer(manager.make_cursor(big.path))
    read(buffer, big)
    with manager.make_cursor(files["a"].path) as cursor:
        cursor.use_region(0, 7)
        for offset in range(0, 6 * W - 16, 333):
            read(buffer, big, offset)
        for _ in range(40):
            read(buffer, big, W + 5)
        assert cursor.buffer() == files["a"].data[:7]
        assert manager.stats().mapped == 1
    buffer.close()


def test_cursors_own_region_makes_room_for_its_own_move(world: World, tmp_path: Path) -> None:
    file = world.file(6 * W, "a")
    for limits in [(W, 0, 1), (W, W, sys.maxsize), (W, W, 1)]:
        manager = world.manager(*limits)
        cursor = manager.make_cursor(file.path)
        for offset in (0, 3 * W, W - 8, 5 * W, 2 * W - 3, 0):
            assert cursor.use_region(offset, 16).buffer() == file.data[offset : offset + 16]
            assert manager.stats().mapped == manager.stats().pinned == 1
        view = cursor.buffer()
        del view
        cursor.close()
        manager.close()


@pytest.mark.parametrize("limits", [(W, 0, 1), (W, 0, 2)])
def test_failed_move_leaves_the_cursor_as_it_was(limits: Any, world: World, mapped: Any) -> None:
    a, b = world.file(6 * W, "a"), world.file(W, "b")
    manager = world.manager(*limits)
    cursor = manager.make_cursor(a.path).use_region(W + 3, 9)
    blocker = manager.make_cursor(b.path)
    if limits[2] == 2:
        blocker.use_region(0, 1)
    region, before = cursor.region(), (cursor.ofs_begin(), cursor.ofs_end(), cursor.size())
    with open(a.path, "r+b") as file:
        file.truncate(3 * W)
    stats = manager.stats()
    for offset in (3 * W, 5 * W + 1, 4 * W - 3):
        with pytest.raises(smmap.FileChangedError):
            cursor.use_region(offset, 9)
        assert (cursor.ofs_begin(), cursor.ofs_end(), cursor.size()) == before
        assert cursor.is_valid()
        assert cursor.region() is region
        assert cursor.buffer() == a.data[W + 3 : W + 12]
        now = manager.stats()
        assert (now.mapped, now.pinned, now.idle, now.detached) == (
            stats.mapped,
            stats.pinned,
            stats.idle,
            stats.detached,
        )
        manager._check()
    with pytest.raises(ValueError, match=r".+"):
        cursor.use_region(-1, 3)
    assert cursor.buffer() == a.data[W + 3 : W + 12]
    cursor.close()
    blocker.close()


MOVE_WITHOUT_ROOM = """
import sys
import smmap
window, backing = int(sys.argv[3]), sys.argv[4]
manager = smmap.SlidingWindowMapManager(window, 0, 2, backing=backing)
with manager.make_cursor(sys.argv[2]) as cursor:
    other = cursor.use_region(0, 8).buffer()
cursor = manager.make_cursor(sys.argv[1]).use_region(0, 8)
own = cursor.buffer()
want = bytes(own)
for _ in range(3):
    try:
        cursor.use_region(3 * window, 8)
    except smmap.LimitError:
        pass
    else:
        raise AssertionError("no error")
    manager._check()
    assert cursor.is_valid() and cursor.buffer() == own == want
"""


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_move_that_views_leave_no_room_for_fails_at_once(backing: str, world: World) -> None:
    """Each attempt leaves garbage of its own where that is collected late: it must not count as room that was made."""
    run_python(MOVE_WITHOUT_ROOM, world.file(6 * W, "a").path, world.file(W, "b").path, W, backing, timeout=30)


def test_memory_limit_of_one_window_is_exceeded_by_pinned_regions_only(files: Any, mapped: Any, world: World) -> None:
    """The limit of memory is soft: pinned regions stay, and are counted."""
    manager = world.manager(W, W)
    for name in "abc":
        touch(manager, files[name])
        assert mapped() == name
        assert manager.mapped_memory_size() == W
    a, b = (manager.make_cursor(files[name].path).use_region(0, 1) for name in "ab")
    assert mapped() == "ab"
    assert manager.mapped_memory_size() == 2 * W
    a.close()
    assert mapped() == "ab"  # over the limit, but a is idle and the one used last
    b.close()
    assert mapped() == "b"  # the one used last
    assert manager.mapped_memory_size() == W


def test_region_larger_than_the_limit_stays_while_it_was_used_last(world: World, mapped: Any) -> None:
    big, other, small = world.file(10 * W, "x"), world.file(10 * W, "y"), world.file(W, "a")
    manager = world.manager(0, 3 * W)
    touch(manager, big)
    assert mapped() == "x"  # idle, alone over the limit
    assert manager.stats().idle == 1
    touch(manager, big, 5 * W)
    assert mapped() == "x"
    touch(manager, other)
    assert mapped() == "y"
    touch(manager, small)
    assert mapped() == "a"
    touch(manager, big)
    assert mapped() == "x"
    assert manager.collect() == 1
    assert mapped() == ""


def test_region_that_becomes_idle_over_the_limit_evicts_oldest(world: World, mapped: Any) -> None:
    x, y, z = (world.file(2 * W, name) for name in "xyz")
    manager = world.manager(0, 3 * W)
    first, second, third = (manager.make_cursor(file.path).use_region(0, 1) for file in (x, y, z))
    assert mapped() == "xyz"
    assert manager.mapped_memory_size() == 6 * W
    second.close()
    first.close()
    assert "y" not in mapped()
    assert "x" in mapped()  # it is the one used last
    third.close()
    assert mapped() == "z"


@linux
def test_move_to_a_mapped_window_over_the_limit_unmaps_at_once(world: World, tmp_path: Path) -> None:
    file = world.file(8 * W, "x")
    manager = world.manager(W, 2 * W)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 1) for number in (0, 3, 6)]
    assert len(maps(tmp_path)) == 3
    cursors[2].use_region(5, 1)
    reclaim()
    assert len(maps(tmp_path)) == 2  # before anybody asks the manager for anything
    for cursor in cursors:
        cursor.close()


def test_dropping_a_cursor_is_the_last_use_of_its_region(world: World, mapped: Any) -> None:
    """As if it had been closed, also where the collector finds it."""
    x, y = world.file(2 * W, "x"), world.file(2 * W, "y")
    manager = world.manager(0, 3 * W)
    cursor = manager.make_cursor(x.path).use_region(0, 1)
    buffer = Buffer(manager.make_cursor(y.path))
    read(buffer, y)
    assert mapped() == "xy"
    del cursor
    reclaim()
    if PYPY:  # where the collector takes cursor and region together
        assert mapped() == "y"
    else:
        assert mapped() == "x"  # y was used before, and both are more than the limit allows
        read(buffer, y)  # cold
        assert mapped() == "x"
    buffer.close()


def test_region_larger_than_the_limit_evicts_nothing_while_pinned(world: World, mapped: Any) -> None:
    """It cannot fit anyway. What is idle goes when it is let go, and is over the limit still."""
    files = {name: world.file(W, name) for name in "ab"}
    big = world.file(10 * W, "x")
    manager = world.manager(0, 3 * W)
    for name in "ab":
        touch(manager, files[name])
    with manager.make_cursor(big.path) as cursor:
        cursor.use_region(0, 1)
        assert mapped() == "abx"
        assert manager.stats().evictions == 0
    assert "x" in mapped()


def test_collect_evicts_all_idle_regions(files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(W)
    pinned = manager.make_cursor(files["c"].path).use_region(0, 1)
    for name in "abd":
        touch(manager, files[name])
    buffer = Buffer(manager.make_cursor(files["e"].path))
    assert mapped() == "abcde"
    assert manager.collect() == 4
    assert mapped() == "c"
    assert manager.collect() == 0
    read(buffer, files["e"])  # its region is gone: a cold read
    pinned.close()
    assert manager.collect() >= 1
    assert mapped() == ""
    buffer.close()


def test_collect_lru_region_makes_room_for_so_many_bytes(files: Any, mapped: Any, world: World) -> None:
    """What smmap 5's users call: 0 frees all, n makes room for n bytes."""
    manager = world.manager(W, 4 * W)
    for name in "abcd":
        touch(manager, files[name])
    assert manager._collect_lru_region(1) == 1
    assert mapped() == "bcd"
    assert manager._collect_lru_region(W) == 0
    assert manager._collect_lru_region(2 * W + 1) == 2
    assert mapped() == "d"
    assert manager._collect_lru_region(0) == 1
    assert mapped() == ""


# Detached regions


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_detached_region_is_counted_and_found_again(backing: str, files: Any, world: World) -> None:
    manager = world.manager(W, backing=backing)
    with manager.make_cursor(files["a"].path) as cursor:
        view, store = cursor.use_region(5, 0).buffer(), cursor.map()
    before = manager.mapped_memory_size()
    assert before
    manager.collect()
    stats = manager.stats()
    assert (stats.mapped, stats.pinned, stats.idle, stats.detached, stats.mapped_memory) == (1, 0, 0, 1, before)
    assert view == files["a"].data[5:]
    with manager.make_cursor(files["a"].path) as cursor:
        cursor.use_region(5, 0)
        if backing == "mmap":
            assert cursor.map() is store  # the very map, not another of the same window
            assert manager.stats().mapped == 1
        assert cursor.buffer() == view
    del store
    manager.collect()
    reclaim()
    assert manager.stats().detached == 1
    del view
    reclaim()
    stats = manager.stats()
    assert (stats.mapped, stats.detached, stats.mapped_memory) == (0, 0, 0)


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_view_survives_any_number_of_evictions(backing: str, world: World) -> None:
    """Also where the region was found again meanwhile by a reader that only copies."""
    file = world.file(3 * W, "a")
    manager = world.manager(W, backing=backing)
    buffer = Buffer(manager.make_cursor(file.path))
    views = [buffer.view(5, W)]
    for turn in range(5):
        manager.collect()
        reclaim()
        for _ in range(20):
            read(buffer, file, turn)
        manager.collect()
        reclaim()
        assert all(view == file.data[5:W] for view in views)
        if turn == 2:
            views.append(buffer.view(5, W))
    assert manager.stats()[:4] == (1, 0, 0, 1)  # both views are of one region, counted once
    del views
    buffer.close()


def test_region_found_again_takes_part_in_the_order(files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(W, 0, 3)
    with manager.make_cursor(files["a"].path) as cursor:
        view = cursor.use_region(0, 9).buffer()
    manager.collect()
    touch(manager, files["a"])
    touch(manager, files["b"])
    touch(manager, files["c"])
    assert (manager.stats().mapped, manager.stats().detached) == (3, 0)
    del view
    touch(manager, files["d"])
    assert mapped() == "bcd"


def test_detached_region_takes_room(files: Any, mapped: Any, world: World) -> None:
    manager = world.manager(W, 3 * W)
    with manager.make_cursor(files["a"].path) as cursor:
        view = cursor.use_region(0, 9).buffer()
    for name in "bcd":
        touch(manager, files[name])
    assert mapped() == "acd"  # a is detached and counted, so b had to go as well
    assert (manager.stats().detached, manager.mapped_memory_size()) == (1, 3 * W)
    assert view == files["a"].data[:9]
    del view
    assert mapped() == "cd"
    assert manager.mapped_memory_size() == 2 * W
    touch(manager, files["e"])
    assert mapped() == "cde"


def test_many_views_over_the_memory_limit_stop_nobody(world: World) -> None:
    """Nobody's call fails under a memory limit because somebody else keeps views."""
    manager = world.manager(W, 2 * W)
    file = world.file(20 * W, "a")
    views = []
    for number in range(20):
        with manager.make_cursor(file.path) as cursor:
            views.append(cursor.use_region(number * W, 9).buffer())
        manager._check()
    stats = manager.stats()
    assert stats.mapped == 20
    assert stats.mapped_memory == 20 * W
    for number, view in enumerate(views):
        assert view == file.data[number * W : number * W + 9]
    del view, views
    reclaim()
    manager.collect()
    assert manager.stats().mapped == 0


# The order, at random, against a model


class Model:
    """Which one-window files are mapped, oldest first, and which are pinned."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.idle: OrderedDict[str, None] = OrderedDict()
        self.pinned: dict[str, int] = {}

    def room(self) -> bool:
        return bool(self.idle) or len(self.pinned) < self.limit

    def use(self, name: str) -> None:
        if name in self.pinned:
            return
        if name in self.idle:
            self.idle.move_to_end(name)
            return
        if len(self.idle) + len(self.pinned) >= self.limit:
            self.idle.popitem(last=False)
        self.idle[name] = None

    def pin(self, name: str) -> None:
        self.use(name)
        self.idle.pop(name, None)
        self.pinned[name] = self.pinned.get(name, 0) + 1

    def let_go(self, name: str) -> None:
        self.pinned[name] -= 1
        if not self.pinned[name]:
            del self.pinned[name]
            self.idle[name] = None

    def mapped(self) -> str:
        return "".join(sorted([*self.idle, *self.pinned]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("by_memory", [False, True])
def test_order_of_evictions_is_that_of_a_model(
    seed: int, by_memory: bool, files: Any, tmp_path: Path, world: World
) -> None:
    """Releases of cursors and reads of buffers, mixed: after each miss, exactly the model's files are mapped."""
    chance = random.Random(seed)
    limit = chance.choice([2, 3, 5])
    manager = world.manager(W, limit * W) if by_memory else world.manager(W, 0, limit)
    model = Model(limit)
    # all buffers exist before the first window goes; the construction of one maps its window
    buffers = {}
    for name in files:
        buffers[name] = Buffer(manager.make_cursor(files[name].path))
        model.use(name)
    cursors: list[tuple[str, Any]] = []
    for step in range(250):
        action = chance.random()
        name = chance.choice(list(files))
        if action < 0.5 and name in model.mapped():
            read(buffers[name], files[name], chance.randrange(W - 16))
            model.use(name)
        elif action < 0.7 and (name in model.mapped() or model.room()) and len(model.pinned) < limit - 1:
            cursors.append((name, manager.make_cursor(files[name].path).use_region(chance.randrange(W), 1)))
            model.pin(name)
        elif action < 0.85 and cursors:
            name, cursor = cursors.pop(chance.randrange(len(cursors)))
            cursor.close()
            model.let_go(name)
        elif name in model.mapped() or model.room():
            touch(manager, files[name])
            model.pin(name)
            model.let_go(name)
        if sys.implementation.name != "cpython" and step % 25 == 0:
            reclaim()
        if sys.implementation.name == "cpython" or step % 25 == 0:
            assert "".join(maps(tmp_path)) == model.mapped(), step
        manager._check()
    for _, cursor in cursors:
        cursor.close()
    for buffer in buffers.values():
        buffer.close()


# The cost


def steps_of(call: Callable[[], object]) -> int:
    """How many opcodes (lines, where those are not told) and calls the interpreter takes for `call`."""
    taken = 0

    def count(frame: Any, event: str, argument: object) -> Any:
        nonlocal taken
        taken += 1
        try:
            frame.f_trace_opcodes = True
        except AttributeError:
            pass
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        call()
    finally:
        sys.settrace(before)
    return taken


@pytest.mark.parametrize("by_memory", [False, True])
@pytest.mark.parametrize("export", [False, True])
def test_cost_of_an_eviction_does_not_grow_with_idle_regions(by_memory: bool, export: bool, world: World) -> None:
    """Neither with the number of idle regions, nor with that of the windows of a file."""
    file = world.file(1100 * W, "a")
    costs = {}
    for idle in (16, 128, 1024):
        manager = world.manager(W, idle * W) if by_memory else world.manager(W, 0, idle)
        cursor = manager.make_cursor(file.path)
        number = 0

        def move() -> None:
            nonlocal number
            number += 1
            cursor.use_region(number * W, 8)
            if export:
                cursor.buffer()

        for _ in range(idle):
            move()
        assert manager.stats().mapped == idle
        steps_of(move)  # Python 3.12.1 tells of opcodes only from the second time on
        before = manager.stats().evictions
        costs[idle] = min(steps_of(move) for _ in range(8))
        assert manager.stats().evictions == before + 8 or LATE
        cursor.close()
        manager.close()
    assert costs[1024] <= costs[16] + 8, costs
    assert costs[128] <= costs[16] + 8, costs


def test_cost_of_collect_grows_with_evicted_regions_only(world: World) -> None:
    file = world.file(1100 * W, "a")
    costs = {}
    for idle in (64, 1024):
        manager = world.manager(W)
        with manager.make_cursor(file.path) as cursor:
            for number in range(idle):
                cursor.use_region(number * W, 8)
        costs[idle] = steps_of(manager.collect) / idle
        assert manager.stats().mapped == 0
    assert costs[1024] <= costs[64] * 1.2, costs


def cached(manager: Any) -> list[str]:
    """The files whose descriptors are cached, the one used last at the end."""
    return [Path(os.readlink(f"/proc/self/fd/{file.descriptor.number}")).name for file in manager._cache.open]


def test_descriptor_used_last_stays_cached(files: Any, world: World) -> None:
    """Reading by one without the lock is a use, also after another one was used with the lock."""
    one, two, three = (world.file(8 * W, name) for name in ("one", "two", "three"))
    manager = world.manager(W, 0, 2)
    first, second = manager.buffer(one.path), manager.buffer(two.path)
    for buffer, file, number in ((first, one, 0), (first, one, 1), (second, two, 0), (first, one, 2), (first, one, 3)):
        read(buffer, file, number * W)
    third = manager.buffer(three.path)
    names = cached(manager)
    assert names == ["one", "three"]
    for buffer in (first, second, third):
        buffer.close()


def test_read_of_a_detached_region_uses_it_and_makes_it_idle(world: World) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(0, 9).buffer()
    manager.collect()
    buffer = manager.buffer(file.path)
    assert buffer[5 * W] == file.data[5 * W]  # cold, as the next one is
    assert buffer[6 * W] == file.data[6 * W]
    before = manager.stats()
    assert buffer[9:50] == file.data[9:50]
    after = manager.stats()
    assert (before.detached, after.detached, after.idle) == (1, 0, 1)
    assert (after.cold_reads, after.misses) == (before.cold_reads, before.misses)
    assert view == file.data[:9]
    buffer.close()


@linux
def test_mapping_by_a_cached_descriptor_is_a_use_of_it(world: World) -> None:
    one, two, three = (world.file(8 * W, name) for name in ("one", "two", "three"))
    manager = world.manager(W, 0, 3)
    first, second = manager.buffer(one.path), manager.buffer(two.path)
    with manager.make_cursor(one.path) as cursor:
        cursor.use_region(W, 1)
        third = manager.buffer(three.path)
        names = cached(manager)
        assert names == ["one", "three"]
    for buffer in (first, second, third):
        buffer.close()


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_window_of_an_older_version_does_not_keep_another_from_being_mapped(world: World, backing: str) -> None:
    """Many reads of one window: a few are cold, then it is mapped, though a shorter one of that number is mapped."""
    file = world.file(8 * W)
    data = file.data
    manager = world.manager(4 * W, backing=backing)
    os.truncate(file.path, W)
    old = Buffer(manager.make_cursor(file.path))
    assert old[5] == data[5]
    view = old.view(0, 9)
    with file.path.open("ab") as grown:
        grown.write(data[W:])
    buffer = manager.buffer(file.path)
    before = manager.stats()
    for turn in range(200):
        start = 2 * W + turn
        assert buffer[start : start + 9] == data[start : start + 9]
    after = manager.stats()
    assert 3 <= after.cold_reads - before.cold_reads < 40
    assert after.misses - before.misses == 1
    assert view == data[:9]
    del view


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_detached_region_is_never_mapped_twice(world: World, backing: str) -> None:
    """However many read its window: whoever comes first finds it."""
    file = world.file(8 * W)
    manager = world.manager(4 * W, backing=backing)
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(0).buffer()
    for turn in range(3):
        manager.collect()
        before = manager.stats()
        assert before.detached == 1
        with manager.buffer(file.path) as buffer, manager.make_cursor(file.path) as cursor:
            if turn == 0:
                assert buffer[2 * W : 2 * W + 9] == file.data[2 * W : 2 * W + 9]
            elif turn == 1:
                assert buffer.view(2 * W, 2 * W + 9) == file.data[2 * W : 2 * W + 9]
            else:
                assert cursor.use_region(2 * W, 9).buffer() == file.data[2 * W : 2 * W + 9]
        after = manager.stats()
        assert after[:5] == (1, 0, 1, 0, 4 * W)
        assert (after.misses, after.cold_reads, after.hits) == (before.misses, before.cold_reads, before.hits + 1)
    assert view == file.data[: 4 * W]
    del view


def test_cached_descriptor_stays_as_long_as_there_are_handles(world: World) -> None:
    """Also while more memory is pinned than the limit allows: closing it would not help."""
    file = world.file(8 * W)
    manager = world.manager(W, W, 3)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(2)]
    assert (manager.stats().pinned, manager.stats().descriptors) == (2, 1)
    cursors.append(manager.make_cursor(file.path).use_region(2 * W, 9))
    assert (manager.stats().pinned, manager.stats().descriptors) == (3, 0)
    for cursor in cursors:
        cursor.close()


def test_view_of_a_whole_window_is_of_that_window(world: World) -> None:
    """Not of one made for it: the same bytes would be mapped twice."""
    file = world.file(8 * W)
    manager = world.manager(W)
    views = [manager.buffer(file.path).view(start, start + W) for start in (2 * W, 2 * W, 3 * W)]
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(2 * W, W).buffer() == views[0] == file.data[2 * W : 3 * W]
    assert manager.stats().misses == 2
    del views


@pytest.mark.parametrize("exported", [False, True], ids=["not exported", "exported"])
def test_region_released_by_hand_is_taken_from_its_cursors(exported: bool, world: World) -> None:
    """Each says so until it asks again. A view keeps the region alive: then it is found again, else mapped anew."""
    file = world.file(8 * W)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(W, 9)
        view = cursor.buffer() if exported else None
        cursor.region().release()
        assert not cursor.is_valid()
        with pytest.raises(smmap.ClosedError):
            cursor.buffer()
        assert manager.stats()[:4] == ((1, 0, 0, 1) if exported else (0, 0, 0, 0))
        assert cursor.use_region(W + 2, 9).buffer() == file.data[W + 2 : W + 11]
        assert manager.stats().misses == (1 if exported else 2)
        assert view is None or view == file.data[W : W + 9]
        del view


def test_one_handle_serves_a_file_that_grew(world: World) -> None:
    """The shorter map of its first window, which the old reader used just now, makes room for the longer one."""
    file = world.file(8 * W)
    os.truncate(file.path, 2 * W + 100)
    manager = world.manager(4 * W, 0, 1)
    old = Buffer(manager.make_cursor(file.path))
    assert old[5] == file.data[5]
    with open(file.path, "ab") as grown:
        grown.write(file.data[2 * W + 100 :])
    buffer = manager.buffer(file.path)
    for number in range(60):
        assert buffer[3 * W + number] == file.data[3 * W + number]
        assert buffer[number - 8 * W] == file.data[number]
    assert manager.stats().misses == 2
    old.close()
    buffer.close()


def test_window_is_mapped_once_its_price_was_paid(world: World) -> None:
    """Seven small reads pay rent, the eighth maps the window."""
    file = world.file(8 * W)
    manager = world.manager(W)
    with manager.buffer(file.path) as buffer:
        found = []
        for number in range(12):
            assert buffer[W + number] == file.data[W + number]
            stats = manager.stats()
            found.append((stats.cold_reads, stats.misses))
    assert found == [(number, 0) for number in range(1, 8)] + [(7, 1)] * 5


def test_region_that_becomes_idle_by_hand_over_the_limit_evicts_oldest(files: Any, mapped: Any, world: World) -> None:
    """As if its cursor had let go: the oldest first, and the last one stays."""
    manager = world.manager(W, W)
    regions = []
    for name in "abc":
        with manager.make_cursor(files[name].path) as cursor:
            regions.append(cursor.use_region(0, 9).region())
            regions[-1].increment_client_count()
    assert mapped() == "abc"
    regions[1].increment_client_count(-1)
    assert mapped() == "abc"  # the only one that is idle
    regions[0].increment_client_count(-1)
    assert mapped() == "ac"
    regions[2].increment_client_count(-1)
    assert mapped() == "c"
    assert manager.stats()[:4] == (1, 0, 1, 0)


def test_release_works_where_a_link_cannot_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.10 that was an error; the name as it is written will do."""
    file = world.file(3 * W)
    manager = world.manager(W)
    manager.make_cursor(file.path).use_region(0, 9).close()

    def fail(name: str) -> str:
        raise OSError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr(os.path, "realpath", fail)
    assert manager.release(file.path) == 1


def test_region_that_died_since_is_no_reason_to_evict_another(world: World) -> None:
    file = world.file(3 * W)
    manager = world.manager(W, 2 * W)
    with manager.buffer(file.path) as buffer:
        views = [buffer.view(number * W, number * W + 9) for number in range(3)]  # evicts the first two
        assert manager.stats()[:4] == (3, 0, 1, 2)
        del views[0]
        reclaim()
        assert buffer[W : W + 9] == views[0]  # takes the second back: there is room for it
        assert manager.stats()[:4] == (2, 0, 2, 0)
        del views
