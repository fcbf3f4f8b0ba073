"""The ledger says what is mapped at every moment, and reads zero when everything is gone."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import smmap
from smmap._engine import chosen as engine

from ._tools import LATE, TRACKS, File, G, World, descriptors, expected_size, linux, maps, pages, reclaim

W = 2 * G
Buffer: Any = smmap.SlidingWindowMapBuffer
backings = pytest.mark.parametrize("backing", ["mmap", "read"])


def counts(manager: Any) -> tuple[int, ...]:
    stats = manager.stats()
    return stats.mapped, stats.pinned, stats.idle, stats.detached, stats.mapped_memory, stats.files, stats.descriptors


ZERO = (0,) * 7


@backings
def test_zero_after_clients_are_gone(backing: str, world: World) -> None:
    file = world.file(5 * W)
    manager = world.manager(W, backing=backing)
    assert counts(manager) == ZERO
    cursor = manager.make_cursor(file.path)
    assert counts(manager) == ZERO  # making one maps nothing
    view = cursor.use_region(W + 1, 9).buffer()
    buffer = Buffer(cursor)
    slices = [buffer[W:], buffer.view(0, 9)]
    del cursor, buffer
    reclaim()
    assert manager.stats().pinned == 0
    manager.collect()
    assert manager.stats().detached == 2
    assert view == file.data[W + 1 : W + 10]
    del view
    reclaim()
    assert manager.stats().detached == 1
    slices.clear()
    reclaim()
    assert counts(manager) == ZERO


@backings
def test_zero_after_close(backing: str, world: World) -> None:
    file = world.file(5 * W)
    manager = world.manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    buffer = Buffer(manager.make_cursor(file.path))
    view = buffer.view(0, 9)
    manager.close()
    reclaim()
    assert (manager.stats().pinned, manager.stats().idle, manager.stats().detached) == (0, 0, 1)
    del view
    reclaim()
    assert counts(manager)[:5] == (0,) * 5
    cursor.close()
    buffer.close()
    manager.close()
    assert manager.collect() == 0
    assert counts(manager)[:5] == (0,) * 5


def test_zero_after_failures(world: World, tmp_path: Path) -> None:
    file = world.file(6 * W)
    manager = world.manager(W, 0, 2)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    with open(file.path, "r+b") as out:
        out.truncate(3 * W)
    for attempt in range(5):
        with pytest.raises(smmap.FileChangedError):
            cursor.use_region(4 * W + attempt, 9)
        with pytest.raises(FileNotFoundError):
            manager.make_cursor(tmp_path / "missing")
        with pytest.raises(ValueError, match=r".+"):
            cursor.use_region(-1)
        manager._check()
        assert counts(manager)[:3] == (1, 1, 0)
    cursor.close()
    manager.collect()
    reclaim()
    assert counts(manager) == ZERO


def test_cold_read_that_has_to_open_its_file_again_is_counted(world: World) -> None:
    file, manager = world.file(3 * W), world.manager(W)
    buffer = manager.buffer(file.path)
    assert buffer[5:9] == file.data[5:9]
    manager.collect()
    assert manager.stats().descriptors == 0
    assert buffer[W : W + 9] == file.data[W : W + 9]
    stats = manager.stats()
    assert (stats.cold_reads, stats.descriptors, stats.hits, stats.misses) == (2, 1, 0, 0)


def test_stats_say_what_is_mapped(world: World) -> None:
    a, b = world.file(3 * W + 5, "a"), world.file(W, "b")
    manager = world.manager(W, 10 * W, 20)
    stats = manager.stats()
    assert (stats.window_size, stats.max_memory_size, stats.max_open_handles) == (W, 10 * W, 20)
    assert (stats.hits, stats.misses, stats.evictions, stats.cold_reads) == (0, 0, 0, 0)
    cursor = manager.make_cursor(a.path)
    cursor.use_region(3 * W, 3)
    cursor.use_region(3 * W, 3)
    assert counts(manager)[:6] == (1, 1, 0, 0, 5, 1)
    assert manager.stats().misses == 1
    cursor.use_region(W, 3)
    assert counts(manager)[:6] == (2, 1, 1, 0, W + 5, 1)
    other = manager.make_cursor(b.path).use_region(5, 5)
    assert counts(manager)[:6] == (3, 2, 1, 0, 2 * W + 5, 2)
    second = manager.make_cursor(b.path).use_region(9, 5)
    assert counts(manager)[:6] == (3, 2, 1, 0, 2 * W + 5, 2)  # one region, pinned twice
    assert (manager.stats().misses, manager.stats().hits) == (3, 1)
    other.close()
    assert manager.stats().pinned == 2
    second.close()
    assert manager.stats().pinned == 1
    cursor.use_region(3 * W, 3)
    assert (manager.stats().misses, manager.stats().hits) == (3, 2)
    cursor.close()
    assert manager.collect() == 3
    reclaim()
    stats = manager.stats()
    assert counts(manager) == ZERO
    assert (stats.evictions, stats.peak_mapped, stats.peak_memory) == (3, 3, 2 * W + 5)
    assert manager.num_file_handles() == stats.mapped
    assert manager.num_open_files() == stats.files
    assert manager.mapped_memory_size() == stats.mapped_memory
    assert manager.max_file_handles() == stats.max_open_handles == 20


def test_peaks_stay_within_the_limits(world: World) -> None:
    file = world.file(20 * W)
    manager = world.manager(W, 3 * W, 4)
    with manager.make_cursor(file.path) as cursor:
        for number in range(20):
            cursor.use_region(number * W, 5)
    with Buffer(manager.make_cursor(file.path)) as buffer:
        assert buffer == file.data
    stats = manager.stats()
    assert (stats.peak_mapped, stats.peak_memory) == (3, 3 * W)


@linux
def test_peaks_are_remembered(world: World) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(3)]
    for cursor in cursors:
        cursor.close()
    manager.collect()
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(5 * W, 9)
    stats = manager.stats()
    assert (stats.mapped, stats.peak_mapped, stats.peak_memory) == (1, 3, 3 * W)


def test_open_files_and_cached_descriptors_are_what_the_system_says(world: World, tmp_path: Path) -> None:
    """What the system says is open is what the ledger says, and the user's path is open no longer than needed."""
    files = [world.file(4 * W, name) for name in "abc"]
    manager = world.manager(W, 0, 8)
    cursors = []
    for number, file in enumerate(files):
        cursors.append(manager.make_cursor(file.path).use_region(number * W, 5))
        assert manager.num_open_files() == number + 1
    stats = manager.stats()
    assert stats.mapped + stats.descriptors <= 8
    assert len(descriptors(tmp_path)) == stats.descriptors + (stats.mapped if TRACKS else 0)
    assert len(maps(tmp_path)) == stats.mapped == 3
    for cursor in cursors:
        cursor.close()
    manager.collect()
    reclaim()
    assert manager.num_open_files() == 0
    assert descriptors(tmp_path) == []
    assert maps(tmp_path) == []


@linux
@pytest.mark.skipif(sys.platform == "win32", reason="none is kept there")
@pytest.mark.parametrize("backing", ["mmap", "read"])
@pytest.mark.parametrize("size", [W, 3 * W])
def test_descriptor_is_cached_where_it_may_be_needed_again(world: World, backing: str, size: int) -> None:
    """Not for what is mapped as a whole."""
    file = world.file(size)
    manager = world.manager(W, backing=backing)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 9)
        assert manager.stats().descriptors == (0 if backing == "mmap" and size == W else 1)


def test_cached_descriptors_are_bounded(world: World, tmp_path: Path) -> None:
    files = [world.file(4 * W, f"file{number:02}") for number in range(30)]
    manager = world.manager(W, 0, 6)
    buffers = [Buffer(manager.make_cursor(file.path)) for file in files]
    for turn in range(4):
        for buffer, file in zip(buffers, files):
            at = turn * W + 7
            assert buffer[at : at + 50] == file.data[at : at + 50]
            stats = manager.stats()
            assert stats.mapped + stats.descriptors <= 6
            if not TRACKS:
                assert len(descriptors(tmp_path)) == stats.descriptors
    for buffer in buffers:
        buffer.close()
    del buffers, buffer
    manager.collect()
    reclaim()
    assert manager.stats().descriptors == 0
    assert descriptors(tmp_path) == []


@linux
@pytest.mark.parametrize("clean", [True, False])
def test_descriptors_close_with_the_manager(clean: bool, world: World, tmp_path: Path) -> None:
    file = world.file(6 * W)
    manager = smmap.SlidingWindowMapManager(W, 0, 8)
    buffer = Buffer(manager.make_cursor(file.path))
    assert buffer[3 * W] == file.data[3 * W]
    assert manager.stats().descriptors == 1
    if clean:
        manager.close()
    else:
        del manager, buffer
    reclaim()
    assert descriptors(tmp_path) == []
    assert maps(tmp_path) == []


# Random operations, with everything checked after each


class Machine:
    """A manager, its clients, and what each must say; every step checks the ledger and, on Linux, the system."""

    def __init__(self, make_manager: Any, files: list[File], folder: Path, seed: int, backing: str) -> None:
        chance = self.chance = random.Random(seed)
        self.files = files
        self.folder = folder
        self.window = chance.choice([W, W, 2 * W, 0])
        memory = chance.choice([0, 3 * max(self.window, W), 10 * W])
        self.handles = chance.choice([2, 4, 9, sys.maxsize])
        self.manager = make_manager(self.window, memory, self.handles, backing=backing)
        self.cursors: list[tuple[File, Any]] = []
        self.buffers: list[tuple[File, Any]] = []
        self.views: list[tuple[bytes, memoryview]] = []
        self.refused = 0

    def step(self) -> None:
        action = self.chance.choice(
            [
                self.make,
                self.move,
                self.move,
                self.move,
                self.export,
                self.unuse,
                self.drop,
                self.copy,
                self.open,
                self.read,
                self.read,
                self.search,
                self.view,
                self.shut,
                self.forget,
                self.forget,
                self.collect,
            ]
        )
        try:
            action()
        except smmap.LimitError:
            self.refused += 1
        if len(self.views) > 6:
            self.forget()

    def offset(self, file: File) -> int:
        border = self.chance.randrange(0, len(file.data) + 1, G) + self.chance.randint(-9, 9)
        return min(max(border, 0), len(file.data) - 1)

    def size(self) -> int:
        return self.chance.choice([0, 1, 8, G, W - 1, W, W + 1, self.chance.randrange(3 * W)])

    def make(self) -> None:
        if len(self.cursors) < 6:
            file = self.chance.choice(self.files)
            self.cursors.append((file, self.manager.make_cursor(self.chance.choice([file.path, str(file.path)]))))

    def move(self) -> None:
        if self.cursors:
            file, cursor = self.chance.choice(self.cursors)
            offset, size = self.offset(file), self.size()
            before = cursor.ofs_begin(), cursor.ofs_end(), cursor.is_valid()
            want = file.data[before[0] : before[1]]
            try:
                cursor.use_region(offset, size)
            except smmap.LimitError:
                assert (cursor.ofs_begin(), cursor.ofs_end(), cursor.is_valid()) == before
                assert not cursor.is_valid() or cursor.buffer() == want
                raise
            assert cursor.size() == expected_size(offset, size, self.window, len(file.data))
            assert cursor.buffer() == file.data[offset : offset + cursor.size()]

    def export(self) -> None:
        if self.cursors:
            file, cursor = self.chance.choice(self.cursors)
            if cursor.is_valid():
                start, stop = cursor.ofs_begin(), cursor.ofs_end()
                self.views.append((file.data[start:stop], cursor.buffer()))

    def unuse(self) -> None:
        if self.cursors:
            self.chance.choice(self.cursors)[1].unuse_region()

    def drop(self) -> None:
        if self.cursors:
            _, cursor = self.cursors.pop(self.chance.randrange(len(self.cursors)))
            if self.chance.random() < 0.5 or LATE:
                cursor.close()

    def copy(self) -> None:
        if len(self.cursors) > 1:
            import copy

            file, cursor = self.chance.choice(self.cursors)
            at = self.chance.randrange(len(self.cursors))
            if self.chance.random() < 0.5 and not LATE:
                self.cursors[at] = file, copy.copy(cursor)
            else:
                self.cursors[at][1].assign(cursor)
                self.cursors[at] = file, self.cursors[at][1]

    def open(self) -> None:
        if len(self.buffers) < 5:
            file = self.chance.choice(self.files)
            self.buffers.append((file, Buffer(self.manager.make_cursor(file.path))))

    def read(self) -> None:
        if self.buffers:
            file, buffer = self.chance.choice(self.buffers)
            for _ in range(self.chance.choice([1, 1, 12])):
                at, size = self.offset(file), self.size()
                assert buffer[at : at + size] == file.data[at : at + size]
                assert buffer[at] == file.data[at]

    def search(self) -> None:
        if self.buffers:
            file, buffer = self.chance.choice(self.buffers)
            at = self.offset(file)
            assert buffer.find(file.data[at : at + 9]) == file.data.find(file.data[at : at + 9])

    def view(self) -> None:
        if self.buffers:
            file, buffer = self.chance.choice(self.buffers)
            at, size = self.offset(file), self.size()
            self.views.append((file.data[at : at + size], buffer.view(at, at + size)))

    def shut(self) -> None:
        if self.buffers:
            _, buffer = self.buffers.pop(self.chance.randrange(len(self.buffers)))
            if self.chance.random() < 0.5 or LATE:
                buffer.close()

    def forget(self) -> None:
        if self.views:
            del self.views[self.chance.randrange(len(self.views))]

    def collect(self) -> None:
        if self.chance.random() < 0.3:
            before = self.manager.stats().idle
            assert self.manager.collect() >= before
            assert self.manager.stats().idle == 0

    def check(self) -> None:
        manager = self.manager
        manager._check()
        stats = manager.stats()
        assert stats.mapped == stats.pinned + stats.idle + stats.detached
        assert stats.mapped <= stats.max_open_handles
        assert stats.peak_mapped >= stats.mapped
        assert stats.peak_memory >= stats.mapped_memory
        assert stats.pinned == len({id(cursor.region()) for _, cursor in self.cursors if cursor.is_valid()})
        assert all(view == want for want, view in self.views)

    def check_system(self) -> None:
        """The ledger against what the system says of files below the folder."""
        reclaim()
        stats = self.manager.stats()
        mapped = pages(self.folder)
        assert len({name for name, _ in mapped}) == stats.files
        assert stats.mapped_memory <= sum(mapped.values()) * G <= stats.mapped_memory + stats.mapped * (G - 1)
        assert len(descriptors(self.folder)) == stats.descriptors + (stats.mapped if TRACKS else 0)


@backings
@pytest.mark.parametrize("seed", range(8))
def test_random_operations_keep_the_ledger_exact(seed: int, backing: str, world: World, tmp_path: Path) -> None:
    files = [world.file(size, f"file{size}") for size in (7 * W + 99, 3 * W, W, 5, 11 * G + 1)]
    machine = Machine(world.manager, files, tmp_path, seed, backing)
    steps = 400 if sys.implementation.name == "cpython" else 150
    for step in range(steps):
        machine.step()
        machine.check()
        if backing == "mmap" and sys.platform.startswith("linux") and step % 20 == 0:
            machine.check_system()
    assert machine.refused < steps // 2
    machine.cursors.clear()
    machine.buffers.clear()
    machine.views.clear()
    machine.manager.collect()
    reclaim()
    assert counts(machine.manager) == ZERO


def test_check_sees_a_wrong_count(world: World) -> None:
    """`_check` is the judge of all these tests: it must be able to fail."""
    file = world.file(3 * W)
    manager = world.manager(W)
    manager.make_cursor(file.path).use_region(0, 5).close()
    file_ = next(iter(manager._cache.idle)).file
    manager._check()
    table, file_.table = file_.table, engine.Table()
    with pytest.raises(AssertionError):
        manager._check()
    file_.table = table
    manager._check()


def test_counting_by_hand_never_goes_below_the_managers_own(world: World) -> None:
    """As smmap 5's users may."""
    file = world.file(3 * W)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 5)
    region = cursor.region()
    assert region.client_count() == 2
    twin = manager.make_cursor(file.path).use_region(1, 5)
    assert twin.region() is region
    assert region.client_count() == 3
    region.increment_client_count()
    assert region.client_count() == 4
    region.increment_client_count(-1)
    manager._check()
    twin.close()
    cursor.close()
    assert manager.stats().idle == 1
    assert region.client_count() == 1
    region.increment_client_count(-5)
    assert region.client_count() == 1
    manager._check()
    assert manager.stats().idle == 1
    region.release()
    reclaim()
    manager._check()
    assert manager.stats().mapped == 0
    region.release()


def test_pin_by_hand_is_taken_back_before_a_cursors(world: World) -> None:
    """One more and one fewer changes nothing, whoever came between."""
    file = world.file(3 * W)
    manager = world.manager(W)
    first = manager.make_cursor(file.path).use_region(0, 5)
    region = first.region()
    region.increment_client_count(2)
    second = manager.make_cursor(file.path).use_region(1, 5)
    region.increment_client_count(-2)
    assert region.client_count() == 3
    first.close()
    assert region.client_count() == 2
    manager.collect()
    assert second.buffer() == file.data[1:6]
    assert manager.stats()[:4] == (1, 1, 0, 0)
    second.close()
    assert manager.stats()[:4] == (1, 0, 1, 0)


def test_pins_by_hand_of_two_regions_are_counted_apart(world: World) -> None:
    file = world.file(3 * W)
    manager = world.manager(W)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 5) for number in range(2)]
    one, two = (cursor.region() for cursor in cursors)
    for region, change in [(one, 1), (one, 1), (two, 1), (one, 1), (two, -1), (one, 1), (two, 2)]:
        region.increment_client_count(change)
    assert (one.client_count(), two.client_count()) == (6, 4)
    for cursor in cursors:
        cursor.close()
    for region, change in [(one, -3), (two, -1)]:
        region.increment_client_count(change)
    assert (one.client_count(), two.client_count()) == (2, 2)
    one.increment_client_count(-1)
    two.increment_client_count(-1)
    assert manager.stats()[:4] == (2, 0, 2, 0)
    manager._check()


@pytest.mark.parametrize("how", ["release", "close"])
def test_release_and_close_end_pins_by_hand(how: str, world: World) -> None:
    file = world.file(3 * W)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        region = cursor.use_region(0, 9).region()
        region.increment_client_count(2)
    assert region.client_count() == 3
    if how == "release":
        region.release()
    else:
        manager.close()
    reclaim()
    assert manager.stats()[:4] == (0, 0, 0, 0)
    assert region.client_count() == 0
    region.increment_client_count(-2)
    manager._check()


def test_file_is_counted_once(world: World, tmp_path: Path) -> None:
    files = [world.file(W, f"file{number}") for number in range(5)]
    manager = world.manager(W)
    cursors = [manager.make_cursor(file.path).use_region(0, 1) for file in files for _ in range(3)]
    assert manager.num_open_files() == 5
    if sys.platform.startswith("linux"):
        assert Counter(maps(tmp_path)) == {file.name: 1 for file in files}
    for cursor in cursors:
        cursor.close()
    os.unlink(files[0].path)


def test_move_to_a_detached_region_is_one_hit(world: World) -> None:
    file = world.file(8 * G)
    manager = world.manager(2 * G)
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(2 * G, 10).buffer()
        cursor.use_region(0, 10)
        manager.collect()
        before = manager.stats()
        assert before.detached == 1
        assert cursor.use_region(2 * G, 10).buffer() == view
        after = manager.stats()
        assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)


def test_view_of_a_read_window_counts_until_it_is_dropped(world: World) -> None:
    """A cursor moves under the limit of memory, and a view keeps its old window's bytes alive."""
    file = world.file(8 * G)
    manager = world.manager(2 * G, 2 * G, 8, backing="read")
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(0, 2 * G).buffer()
        cursor.use_region(2 * G, 2 * G)
        assert manager.stats()[:5] == (2, 1, 0, 1, 4 * G)
        assert view == file.data[: 2 * G]
        del view
        reclaim()
        assert manager.stats()[:5] == (1, 1, 0, 0, 2 * G)


def test_pin_taken_away_by_hand_is_not_released_twice(world: World) -> None:
    file = world.file(8 * G)
    manager = world.manager(2 * G)
    first, second = manager.make_cursor(file.path), manager.make_cursor(file.path)
    region = first.use_region(0, 9).region()
    region.increment_client_count(-1)
    assert manager.stats()[:4] == (1, 0, 1, 0)
    first.close()
    assert second.use_region(3, 9).region() is region
    assert region.client_count() == 2
    manager._check()
    assert manager.stats()[:4] == (1, 1, 0, 0)
    second.close()


def test_map_given_away_stays_open_when_a_buffer_finds_its_window_again(world: World) -> None:
    """It was detached, and is read by copies only since: its owner cannot close it under the buffer."""
    file = world.file(8 * G)
    manager = world.manager(2 * G)
    with manager.make_cursor(file.path) as cursor:
        given = cursor.use_region(0, 9).map()
    manager.collect()
    assert manager.stats().detached == 1
    buffer = manager.buffer(file.path)
    assert buffer[5:50] == file.data[5:50]
    assert manager.stats()[:4] == (1, 0, 1, 0)
    if sys.implementation.name == "cpython":
        with pytest.raises(BufferError):
            given.close()
    assert buffer[7:50] == file.data[7:50]
    buffer.close()
    del given


@backings
def test_map_given_away_counts_until_it_is_dropped(backing: str, world: World) -> None:
    """Copies of its bytes do not."""
    file = world.file(2 * W)
    manager = world.manager(W, backing=backing)
    with manager.make_cursor(file.path) as cursor:
        given = cursor.use_region(0, 0).map()
    copied = given[:]
    manager.collect()
    assert manager.stats()[:5] == (1, 0, 0, 1, W)
    assert given[5:9] == file.data[5:9]
    del given
    reclaim()
    manager.collect()
    assert manager.stats()[:5] == (0,) * 5
    assert type(copied) is bytes
    assert copied == file.data[:W]


def test_read_window_that_a_view_holds_is_found_again_and_counted_once(world: World) -> None:
    """By cursors, by buffers, by views; as one that is mapped is."""
    file = world.file(6 * W)
    manager = world.manager(W, backing="read")
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(W, 0).buffer()
    asks: list[Any] = [
        lambda: manager.make_cursor(file.path).use_region(W, 0).buffer(),
        lambda: manager.buffer(file.path).view(W + 3, 2 * W),
        lambda: manager.buffer(file.path)[W : W + 99],
        lambda: Buffer(manager.make_cursor(file.path), W)[5:99],
    ]
    for ask in asks * 3:
        manager.collect()
        reclaim()
        assert manager.stats()[:5] == (1, 0, 0, 1, W)
        before = manager.stats()
        found = ask()
        assert bytes(found) in file.data[W : 2 * W]
        reclaim()
        after = manager.stats()
        assert (after.mapped, after.mapped_memory, after.detached) == (1, W, 0)
        assert (after.misses, after.cold_reads) == (before.misses, before.cold_reads)
        del found
    assert view == file.data[W : 2 * W]
    del view
    manager.collect()
    reclaim()
    assert manager.stats()[:5] == (0,) * 5


def test_repr_of_a_manager_says_what_is_mapped(world: World) -> None:
    file = world.file(3 * W)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 9)
        assert repr(manager).startswith(
            "<SlidingWindowMapManager 1 regions of 1 files (1 pinned, 0 idle, 0 detached), "
        )
    manager.close()
    assert repr(manager).startswith("<SlidingWindowMapManager closed, 0 regions of 0 files ")


def test_region_that_is_gone_may_be_released_and_counted_any_number_of_times(world: World) -> None:
    file = world.file(3 * W)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        region = cursor.use_region(0, 9).region()
        for _ in range(3):
            region.release()
            manager._check()
        assert (manager.stats().mapped, manager.stats().evictions) == (0, 1)
        region = cursor.use_region(0, 9).region()
    assert manager.collect() == 1
    region.release()
    assert manager.stats().evictions == 2
    lonely = smmap.SlidingWindowMapManager(W)
    region = lonely.make_cursor(file.path).use_region(0, 9).region()
    lonely.collect()
    del lonely
    reclaim()
    assert not region.increment_client_count()
    region.release()
