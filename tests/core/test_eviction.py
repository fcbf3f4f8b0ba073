"""Which window goes. Limits are made tiny; what is mapped is read from the system, not from the ledger."""

from __future__ import annotations

import os
import random
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from smmap import LimitError

from ._tools import LATE, PYPY, File, G, linux, maps, pages, reclaim, run_python

pytestmark = linux

W = 2 * G
Buffer: Any = smmap.SlidingWindowMapBuffer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def mapped(tmp_path: Path) -> Callable[[], str]:
    """The names of the files that are mapped now, sorted and joined: names are single letters here."""

    def look() -> str:
        reclaim()
        return "".join(maps(tmp_path))

    return look


@pytest.fixture
def files(make_file: Any) -> dict[str, File]:
    """Files of exactly one window each."""
    return {name: make_file(W, name) for name in "abcdefgh"}


def touch(manager: Any, file: File, offset: int = 0, size: int = 16) -> None:
    """A use of a window by a cursor that lets it go again."""
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(offset, size).buffer() == file.data[offset : offset + size]


def read(buffer: Any, file: File, offset: int = 0) -> None:
    """A use of a window by a buffer."""
    assert buffer[offset : offset + 16] == file.data[offset : offset + 16]


LIMITS = [(W, 3 * W, sys.maxsize), (W, 0, 3), (0, 3 * W, sys.maxsize), (0, 0, 3)]
limits = pytest.mark.parametrize("limit", LIMITS, ids=["memory", "handles", "static-memory", "static-handles"])


@limits
def test_least_recently_used_goes_first(limit: Any, files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(*limit)
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
def test_letting_go_is_the_last_use(limit: Any, files: Any, mapped: Any, make_manager: Any) -> None:
    """A region becomes idle when its last cursor lets go; the order is the order of that."""
    manager = make_manager(*limit)
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
def test_every_read_of_a_buffer_is_a_use(limit: Any, files: Any, mapped: Any, make_manager: Any) -> None:
    """Also of one that never moves, because its file has one window only."""
    manager = make_manager(*limit)
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


def test_a_read_after_another_window_was_mapped_is_a_use(files: Any, mapped: Any, make_manager: Any) -> None:
    """Also where the reader used the same region just before, and the other window by no cursor."""
    for kind in ("construct", "view"):
        manager = make_manager(W, 0, 3)
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
def test_each_kind_of_read_is_a_use(use: Any, files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(W, 0, 3)
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


def test_windows_of_one_file_go_by_their_own_use(make_file: Any, tmp_path: Path, make_manager: Any) -> None:
    file = make_file(8 * W, "a")
    manager = make_manager(W, 3 * W)

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
def test_nothing_more_than_needed_goes(limit: Any, make_file: Any, mapped: Any, make_manager: Any) -> None:
    files = {name: make_file(W, name) for name in "abcde"}
    files["x"] = make_file(G, "x")
    files["y"] = make_file(1, "y")
    manager = make_manager(*limit)
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


@limits
def test_held_regions_never_go(limit: Any, files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(*limit)
    held = manager.make_cursor(files["a"].path).use_region(0, 1)
    for name in "bcdefg":
        touch(manager, files[name])
        assert "a" in mapped()
    assert mapped() == "afg"
    second = manager.make_cursor(files["b"].path).use_region(0, 1)
    for name in "cdefg":
        touch(manager, files[name])
        assert mapped() == "ab" + name
    assert held.buffer() == files["a"].data[:1]
    held.close()
    second.close()


def test_handle_limit_of_one(files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(W, 0, 1)
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


def test_a_buffer_reads_while_every_handle_is_held(files: Any, make_file: Any, make_manager: Any) -> None:
    """Copies need no map."""
    manager = make_manager(W, 0, 1)
    big = make_file(6 * W, "big")
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


def test_a_cursors_own_region_is_idle_for_its_own_move(make_file: Any, make_manager: Any, tmp_path: Path) -> None:
    file = make_file(6 * W, "a")
    for limits in [(W, 0, 1), (W, W, sys.maxsize), (W, W, 1)]:
        manager = make_manager(*limits)
        cursor = manager.make_cursor(file.path)
        for offset in (0, 3 * W, W - 8, 5 * W, 2 * W - 3, 0):
            assert cursor.use_region(offset, 16).buffer() == file.data[offset : offset + 16]
            assert manager.stats().mapped == manager.stats().held == 1
        view = cursor.buffer()
        del view
        cursor.close()
        manager.close()


@pytest.mark.parametrize("limits", [(W, 0, 1), (W, 0, 2)])
def test_a_failed_move_leaves_the_cursor_as_it_was(limits: Any, make_file: Any, make_manager: Any, mapped: Any) -> None:
    a, b = make_file(6 * W, "a"), make_file(W, "b")
    manager = make_manager(*limits)
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
        assert (now.mapped, now.held, now.idle, now.lent) == (stats.mapped, stats.held, stats.idle, stats.lent)
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
def test_a_move_that_views_leave_no_room_for_fails_at_once(backing: str, make_file: Any) -> None:
    """Each attempt leaves garbage of its own where that is collected late: it must not count as room that was made."""
    run_python(MOVE_WITHOUT_ROOM, make_file(6 * W, "a").path, make_file(W, "b").path, W, backing, timeout=30)


def test_memory_limit_of_one_window(files: Any, mapped: Any, make_manager: Any) -> None:
    """The limit is soft: what is held stays, and is counted."""
    manager = make_manager(W, W)
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


def test_over_the_limit_the_one_used_last_stays(make_file: Any, mapped: Any, make_manager: Any) -> None:
    big, other, small = make_file(10 * W, "x"), make_file(10 * W, "y"), make_file(W, "a")
    manager = make_manager(0, 3 * W)
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


def test_over_the_limit_the_oldest_goes_when_another_becomes_idle(
    make_file: Any, mapped: Any, make_manager: Any
) -> None:
    x, y, z = (make_file(2 * W, name) for name in "xyz")
    manager = make_manager(0, 3 * W)
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
def test_over_the_limit_a_move_to_a_mapped_window_gives_memory_back_at_once(
    make_file: Any, make_manager: Any, tmp_path: Path
) -> None:
    file = make_file(8 * W, "x")
    manager = make_manager(W, 2 * W)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 1) for number in (0, 3, 6)]
    assert len(maps(tmp_path)) == 3
    cursors[2].use_region(5, 1)
    reclaim()
    assert len(maps(tmp_path)) == 2  # before anybody asks the manager for anything
    for cursor in cursors:
        cursor.close()


def test_the_one_used_last_after_a_cursor_was_dropped(make_file: Any, mapped: Any, make_manager: Any) -> None:
    """A finalizer only leaves word that a region became idle: what was read since is still the one used last."""
    x, y = make_file(2 * W, "x"), make_file(2 * W, "y")
    manager = make_manager(0, 3 * W)
    cursor = manager.make_cursor(x.path).use_region(0, 1)
    buffer = Buffer(manager.make_cursor(y.path))
    read(buffer, y)
    assert mapped() == "xy"
    del cursor
    reclaim()
    read(buffer, y)
    assert manager.stats().mapped == 1
    assert mapped() == "y"
    buffer.close()


def test_what_is_larger_than_the_limit_evicts_nothing(make_file: Any, mapped: Any, make_manager: Any) -> None:
    """It cannot fit anyway. What is idle goes when it is let go, and is over the limit still."""
    files = {name: make_file(W, name) for name in "ab"}
    big = make_file(10 * W, "x")
    manager = make_manager(0, 3 * W)
    for name in "ab":
        touch(manager, files[name])
    with manager.make_cursor(big.path) as cursor:
        cursor.use_region(0, 1)
        assert mapped() == "abx"
        assert manager.stats().evictions == 0
    assert "x" in mapped()


def test_collect_frees_all_that_is_idle(files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(W)
    held = manager.make_cursor(files["c"].path).use_region(0, 1)
    for name in "abd":
        touch(manager, files[name])
    buffer = Buffer(manager.make_cursor(files["e"].path))
    assert mapped() == "abcde"
    assert manager.collect() == 4
    assert mapped() == "c"
    assert manager.collect() == 0
    read(buffer, files["e"])  # a borrowed region that is gone is asked for again
    held.close()
    assert manager.collect() >= 1
    assert mapped() == ""
    buffer.close()


def test_make_room_by_hand(files: Any, mapped: Any, make_manager: Any) -> None:
    """What smmap 5's users call: 0 frees all, n makes room for n bytes."""
    manager = make_manager(W, 4 * W)
    for name in "abcd":
        touch(manager, files[name])
    assert manager._collect_lru_region(1) == 1
    assert mapped() == "bcd"
    assert manager._collect_lru_region(W) == 0
    assert manager._collect_lru_region(2 * W + 1) == 2
    assert mapped() == "d"
    assert manager._collect_lru_region(0) == 1
    assert mapped() == ""


# Lent regions


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_lent_regions_are_counted_and_revived(backing: str, files: Any, make_manager: Any) -> None:
    manager = make_manager(W, backing=backing)
    with manager.make_cursor(files["a"].path) as cursor:
        view, store = cursor.use_region(5, 0).buffer(), cursor.map()
    before = manager.mapped_memory_size()
    assert before
    manager.collect()
    stats = manager.stats()
    assert (stats.mapped, stats.held, stats.idle, stats.lent, stats.mapped_memory) == (1, 0, 0, 1, before)
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
    assert manager.stats().lent == 1
    del view
    reclaim()
    stats = manager.stats()
    assert (stats.mapped, stats.lent, stats.mapped_memory) == (0, 0, 0)


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_a_view_survives_any_number_of_evictions(backing: str, make_file: Any, make_manager: Any) -> None:
    """Also where the region was revived meanwhile for one who only copies."""
    file = make_file(3 * W, "a")
    manager = make_manager(W, backing=backing)
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
    assert manager.stats().lent == (1 if backing == "mmap" or PYPY else 2)  # CPython cannot take bytes back
    del views
    buffer.close()


def test_revived_regions_take_part_in_the_order_again(files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(W, 0, 3)
    with manager.make_cursor(files["a"].path) as cursor:
        view = cursor.use_region(0, 9).buffer()
    manager.collect()
    touch(manager, files["a"])
    touch(manager, files["b"])
    touch(manager, files["c"])
    assert (manager.stats().mapped, manager.stats().lent) == (3, 0)
    del view
    touch(manager, files["d"])
    assert mapped() == "bcd"


def test_lent_regions_take_room(files: Any, mapped: Any, make_manager: Any) -> None:
    manager = make_manager(W, 3 * W)
    with manager.make_cursor(files["a"].path) as cursor:
        view = cursor.use_region(0, 9).buffer()
    for name in "bcd":
        touch(manager, files[name])
    assert mapped() == "acd"  # a is lent and counted, so b had to go as well
    assert (manager.stats().lent, manager.mapped_memory_size()) == (1, 3 * W)
    assert view == files["a"].data[:9]
    del view
    assert mapped() == "cd"
    assert manager.mapped_memory_size() == 2 * W
    touch(manager, files["e"])
    assert mapped() == "cde"


def test_many_lent_views_do_not_stop_others(make_file: Any, make_manager: Any) -> None:
    """Nobody's call fails under a memory limit because somebody else keeps views."""
    manager = make_manager(W, 2 * W)
    file = make_file(20 * W, "a")
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
    """Which one-window files are mapped, oldest first, and which are held."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.idle: OrderedDict[str, None] = OrderedDict()
        self.held: dict[str, int] = {}

    def room(self) -> bool:
        return bool(self.idle) or len(self.held) < self.limit

    def use(self, name: str) -> None:
        if name in self.held:
            return
        if name in self.idle:
            self.idle.move_to_end(name)
            return
        if len(self.idle) + len(self.held) >= self.limit:
            self.idle.popitem(last=False)
        self.idle[name] = None

    def hold(self, name: str) -> None:
        self.use(name)
        self.idle.pop(name, None)
        self.held[name] = self.held.get(name, 0) + 1

    def let_go(self, name: str) -> None:
        self.held[name] -= 1
        if not self.held[name]:
            del self.held[name]
            self.idle[name] = None

    def mapped(self) -> str:
        return "".join(sorted([*self.idle, *self.held]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("by_memory", [False, True])
def test_order_of_cursors_and_buffers(
    seed: int, by_memory: bool, files: Any, tmp_path: Path, make_manager: Any
) -> None:
    """Releases of cursors and reads of buffers, mixed: after each miss, exactly the model's files are mapped."""
    chance = random.Random(seed)
    limit = chance.choice([2, 3, 5])
    manager = make_manager(W, limit * W) if by_memory else make_manager(W, 0, limit)
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
        elif action < 0.7 and (name in model.mapped() or model.room()) and len(model.held) < limit - 1:
            cursors.append((name, manager.make_cursor(files[name].path).use_region(chance.randrange(W), 1)))
            model.hold(name)
        elif action < 0.85 and cursors:
            name, cursor = cursors.pop(chance.randrange(len(cursors)))
            cursor.close()
            model.let_go(name)
        elif name in model.mapped() or model.room():
            touch(manager, files[name])
            model.hold(name)
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
@pytest.mark.parametrize("lend", [False, True])
def test_cost_of_an_eviction_does_not_grow(by_memory: bool, lend: bool, make_file: Any, make_manager: Any) -> None:
    """Neither with the number of idle regions, nor with that of the windows of a file."""
    file = make_file(1100 * W, "a")
    costs = {}
    for idle in (16, 128, 1024):
        manager = make_manager(W, idle * W) if by_memory else make_manager(W, 0, idle)
        cursor = manager.make_cursor(file.path)
        number = 0

        def move() -> None:
            nonlocal number
            number += 1
            cursor.use_region(number * W, 8)
            if lend:
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


def test_cost_of_collecting_grows_with_what_is_collected_only(make_file: Any, make_manager: Any) -> None:
    file = make_file(1100 * W, "a")
    costs = {}
    for idle in (64, 1024):
        manager = make_manager(W)
        with manager.make_cursor(file.path) as cursor:
            for number in range(idle):
                cursor.use_region(number * W, 8)
        costs[idle] = steps_of(manager.collect) / idle
        assert manager.stats().mapped == 0
    assert costs[1024] <= costs[64] * 1.2, costs


def test_the_descriptor_used_last_is_kept(files: Any, make_manager: Any, make_file: Any) -> None:
    """Reading by one without the lock is a use, also after another one was used with the lock."""
    one, two, three = (make_file(8 * W, name) for name in ("one", "two", "three"))
    manager = make_manager(W, 0, 2)
    first, second = manager.buffer(one.path), manager.buffer(two.path)
    for buffer, file, number in ((first, one, 0), (first, one, 1), (second, two, 0), (first, one, 2), (first, one, 3)):
        read(buffer, file, number * W)
    third = manager.buffer(three.path)
    names = [Path(os.readlink(f"/proc/self/fd/{each.number}")).name for each in manager._ledger.kept]
    assert names == ["one", "three"]
    for buffer in (first, second, third):
        buffer.close()


def test_a_window_that_a_view_keeps_mapped_is_not_read_by_the_descriptor(make_file: Any, make_manager: Any) -> None:
    file = make_file(8 * W)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(0, 9).buffer()
    manager.collect()
    buffer = manager.buffer(file.path)
    assert buffer[5 * W] == file.data[5 * W]  # cold, as the next one is
    assert buffer[6 * W] == file.data[6 * W]
    before = manager.stats()
    assert buffer[9:50] == file.data[9:50]
    after = manager.stats()
    assert (before.lent, after.lent, after.idle) == (1, 0, 1)
    assert (after.cold_reads, after.misses) == (before.cold_reads, before.misses)
    assert view == file.data[:9]
    buffer.close()


@linux
def test_mapping_by_a_kept_descriptor_is_a_use_of_it(make_manager: Any, make_file: Any) -> None:
    one, two, three = (make_file(8 * W, name) for name in ("one", "two", "three"))
    manager = make_manager(W, 0, 3)
    first, second = manager.buffer(one.path), manager.buffer(two.path)
    with manager.make_cursor(one.path) as cursor:
        cursor.use_region(W, 1)
        third = manager.buffer(three.path)
        names = [Path(os.readlink(f"/proc/self/fd/{each.number}")).name for each in manager._ledger.kept]
        assert names == ["one", "three"]
    for buffer in (first, second, third):
        buffer.close()


@pytest.mark.parametrize("backing", ["mmap", "read"])
@pytest.mark.parametrize("why", ["a shorter window is mapped", "a window is lent"])
def test_a_window_in_the_way_does_not_keep_another_from_being_bought(
    make_file: Any, make_manager: Any, backing: str, why: str
) -> None:
    """Many reads of one window: a few are cold, then it is mapped, whatever there is of it that does not serve."""
    file = make_file(8 * W)
    data = file.data
    manager = make_manager(4 * W, backing=backing)
    view = None
    if why == "a window is lent":
        with manager.make_cursor(file.path) as cursor:
            view = cursor.use_region(0).buffer()
        manager.collect()
    else:
        os.truncate(file.path, W)
        old = Buffer(manager.make_cursor(file.path))
        assert old[5] == data[5]
        with file.path.open("ab") as grown:
            grown.write(data[W:])
    buffer = manager.buffer(file.path)
    before = manager.stats()
    for turn in range(200):
        start = 2 * W + turn
        assert buffer[start : start + 9] == data[start : start + 9]
    after = manager.stats()
    revived = view is not None and (backing == "mmap" or PYPY)
    assert (0 if revived else 3) <= after.cold_reads - before.cold_reads < 40
    assert after.misses - before.misses == (0 if revived else 1)
    del view


def test_a_kept_descriptor_stays_as_long_as_there_are_handles(make_file: Any, make_manager: Any) -> None:
    """Also while more memory is held than the limit allows: that is no reason for it to go."""
    file = make_file(8 * W)
    manager = make_manager(W, W, 3)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(2)]
    assert (manager.stats().held, manager.stats().descriptors) == (2, 1)
    cursors.append(manager.make_cursor(file.path).use_region(2 * W, 9))
    assert (manager.stats().held, manager.stats().descriptors) == (3, 0)
    for cursor in cursors:
        cursor.close()


def test_a_view_of_a_whole_window_is_of_that_window(make_file: Any, make_manager: Any) -> None:
    """Not of one made for it: the same bytes would be mapped twice."""
    file = make_file(8 * W)
    manager = make_manager(W)
    views = [manager.buffer(file.path).view(start, start + W) for start in (2 * W, 2 * W, 3 * W)]
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(2 * W, W).buffer() == views[0] == file.data[2 * W : 3 * W]
    assert manager.stats().misses == 2
    del views


def test_a_region_released_by_hand_does_not_come_back(make_file: Any, make_manager: Any) -> None:
    """Its cursors are told, whoever still has a view of it; the next request maps its window anew."""
    file = make_file(8 * W)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(W, 9).buffer()
        cursor.region().release()
        assert not cursor.is_valid()
        with pytest.raises(smmap.ClosedError):
            cursor.buffer()
        assert manager.stats()[:4] == (1, 0, 0, 1)
        assert cursor.use_region(W + 2, 9).buffer() == file.data[W + 2 : W + 11]
        assert manager.stats().misses == 2
        assert view == file.data[W : W + 9]
        del view


def test_one_handle_for_a_window_that_grew(make_file: Any, make_manager: Any) -> None:
    """The shorter map of it, which the reader has just tried, is not in the way of the longer one."""
    file = make_file(8 * W)
    os.truncate(file.path, 2 * W + 100)
    manager = make_manager(4 * W, 0, 1)
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


def test_a_window_is_bought_when_its_price_was_paid(make_file: Any, make_manager: Any) -> None:
    """The first read asks for the price; seven more pay a part of it, and the next one maps the window."""
    file = make_file(8 * W)
    with make_manager(W).buffer(file.path) as buffer:
        found = []
        for number in range(12):
            assert buffer[W + number] == file.data[W + number]
            stats = buffer._manager.stats()
            found.append((stats.cold_reads, stats.misses))
    assert found == [(number, 0) for number in range(1, 9)] + [(8, 1)] * 4


def test_what_becomes_idle_by_hand_over_the_limit_goes(files: Any, mapped: Any, make_manager: Any) -> None:
    """As if its cursor had let go: the oldest first, and the last one stays."""
    manager = make_manager(W, W)
    cursors = [manager.make_cursor(files[name].path).use_region(0, 9) for name in "abc"]
    regions = [cursor.region() for cursor in cursors]
    assert mapped() == "abc"
    regions[1].increment_client_count(-1)
    assert mapped() == "abc"  # the last that is idle
    regions[0].increment_client_count(-1)
    assert mapped() == "ac"
    regions[2].increment_client_count(-1)
    assert mapped() == "c"
    for cursor in cursors:
        cursor.close()
    del regions
