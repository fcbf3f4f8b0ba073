"""Corners that the other tests do not reach: other systems and interpreters, by patching what tells them apart.

And the one lock, shown to keep others out without relying on luck.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from smmap import ReentryError, _default, _fork, _system
from smmap.util import MapRegion

from ._tools import Closed, G, descriptors, linux, reclaim

W = 2 * G
Buffer = smmap.SlidingWindowMapBuffer
posix = pytest.mark.skipif(os.name != "posix", reason="patches what POSIX has")


# The lock


def test_others_wait_while_a_window_is_mapped(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who counts while another thread maps waits for it: the count is never one of a half-done change."""
    file = make_file(8 * W)
    manager = make_manager(W)
    inside, go_on = threading.Event(), threading.Event()
    real = _system.map_at

    def slow(*args: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return real(*args)

    seen: list[Any] = []
    cursor = manager.make_cursor(file.path)
    other = manager.make_cursor(file.path)
    monkeypatch.setattr(_system, "map_at", slow)
    maps = threading.Thread(target=lambda: cursor.use_region(0, 9))
    counts = threading.Thread(target=lambda: seen.append(manager.stats().mapped))
    moves = threading.Thread(target=lambda: seen.append(bytes(other.use_region(5, 9).buffer())))
    maps.start()
    assert inside.wait(60)
    counts.start()
    moves.start()
    counts.join(0.1)
    assert counts.is_alive()
    assert seen == []
    go_on.set()
    for thread in (maps, counts, moves):
        thread.join(60)
        assert not thread.is_alive()
    assert sorted(seen, key=str) == sorted([1, file.data[5:14]], key=str)
    assert cursor.region() is other.region()
    cursor.close()
    other.close()


def test_who_interrupts_its_own_thread_is_told(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer or signal handler in the middle of mapping: using is refused, letting go is put off."""
    file = make_file(8 * W)
    manager = make_manager(W)
    held = manager.make_cursor(file.path).use_region(3 * W, 9)
    told: list[Any] = []
    real = _system.map_at

    def interrupted(*args: Any) -> Any:
        if not told:
            for call in (lambda: held.use_region(5 * W, 9), lambda: manager.make_cursor(file.path + b"x")):
                with pytest.raises((ReentryError, FileNotFoundError, TypeError)) as failure:
                    call()
                told.append(failure.type)
            told.append(manager.stats().mapped)
            told.append(manager.collect())
            told.append(manager.release(file.path))
            held.close()
        return real(*args)

    monkeypatch.setattr(_system, "map_at", interrupted)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 9)
        assert told[0] is ReentryError
        assert told[2:] == [1, 0, 0]
        assert manager.stats()[:3] == (1, 1, 0)  # collected by and by
        assert cursor.buffer() == file.data[:9]


# Forking


def test_a_fork_takes_every_lock(make_manager: Any) -> None:
    """What runs around a fork, run by hand: the parent's locks are free again, the child's are new."""
    manager = make_manager(W)
    _fork._before_fork()
    taken: list[bool] = []
    tries = threading.Thread(target=lambda: taken.append(manager._lock.acquire(blocking=False)))
    tries.start()
    tries.join()
    assert taken == [False]
    _fork._after_fork_in_parent()
    tries = threading.Thread(target=lambda: taken.append(manager._lock.acquire(blocking=False)))
    tries.start()
    tries.join()
    assert taken == [False, True]
    manager._lock = threading.RLock()
    _fork._before_fork()
    old = manager._lock
    registry_lock = _fork._registry_lock
    _fork._after_fork_in_child()
    assert manager._lock is not old
    assert _fork._registry_lock is not registry_lock
    assert _fork._taken == []
    old.release()
    registry_lock.release()
    manager._check()


class Watched:
    """Stands for a lock: says when somebody tries to take it without waiting."""

    def __init__(self, tried: Callable[[], Any]) -> None:
        self.real, self.tried = threading.RLock(), tried

    def acquire(self, blocking: bool = True) -> bool:
        if not blocking:
            self.tried()
        return self.real.acquire(blocking=blocking)

    def release(self) -> None:
        self.real.release()

    def __enter__(self) -> None:
        self.real.acquire()

    def __exit__(self, *exc: object) -> None:
        self.real.release()

    def _is_owned(self) -> bool:
        return self.real._is_owned()  # type: ignore[attr-defined, no-any-return]


def is_free(lock: Any) -> bool:
    """Whether another thread could take it."""
    answers: list[bool] = []

    def tries() -> None:
        answers.append(lock.acquire(blocking=False))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=tries)
    thread.start()
    thread.join(60)
    return answers[0]


def test_a_fork_waits_for_one_lock_without_holding_another(make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds that one may need the other one first."""
    one, two = make_manager(W), make_manager(W)
    held, tried = threading.Event(), threading.Event()
    got: list[bool] = []
    two._lock = Watched(tried.set)
    monkeypatch.setattr(_fork, "_registry", [one, two])

    def needs_both() -> None:
        with two._lock:
            held.set()
            assert tried.wait(60)
            got.append(one._lock.acquire(timeout=5))
            if got[0]:
                one._lock.release()

    thread = threading.Thread(target=needs_both)
    thread.start()
    assert held.wait(60)
    _fork._before_fork()
    assert not is_free(one._lock)
    assert not is_free(two._lock)
    assert not is_free(_fork._registry_lock)
    _fork._after_fork_in_parent()
    assert is_free(_fork._registry_lock)
    thread.join(60)
    assert got == [True]
    assert is_free(one._lock)
    assert is_free(two._lock)


def test_a_child_has_a_default_manager_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_default, "_manager", None)
    monkeypatch.setattr(_default, "_lock", _default._lock)
    mine = smmap.default_manager()
    assert smmap.default_manager() is mine
    _default._after_fork_in_child()
    assert smmap.default_manager() is not mine
    mine.close()
    smmap.default_manager().close()


# Other systems


@pytest.mark.parametrize(("pieces", "longest"), [(1 << 30, 1 << 30), (7, 1 << 30), (1 << 30, 10), (3, 4)])
def test_reads_in_pieces(pieces: int, longest: int, make_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may give less than it was asked for; each call asks for no more than it can give."""
    file = make_file(1000)
    number = os.open(file.path, os.O_RDONLY)
    real = os.pread
    asked: list[int] = []

    def some(number: int, size: int, offset: int) -> bytes:
        asked.append(size)
        return real(number, min(size, pieces), offset)

    monkeypatch.setattr(_system, "_LONGEST_READ", longest)
    monkeypatch.setattr(os, "pread", some)
    for offset, size in [(0, 50), (5, 1), (990, 10), (990, 50), (1000, 5), (0, 1000)]:
        assert _system.read_at(number, size, offset) == file.data[offset : offset + size]
    assert max(asked) <= longest
    os.close(number)


def test_without_pread(make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: nothing is rented and no descriptor is kept; windows are mapped, or read by seeking."""
    file = make_file(8 * W)
    monkeypatch.setattr(_system, "_HAS_PREAD", False)
    monkeypatch.setattr(_system, "KEEPS_DESCRIPTORS", False)
    for backing in ("auto", "read"):
        manager = make_manager(W, backing=backing)
        with manager.buffer(file.path) as buffer:
            assert buffer[3 * W : 3 * W + 9] == file.data[3 * W : 3 * W + 9]
            assert buffer == file.data
            stats = manager.stats()
            assert (stats.cold_reads, stats.descriptors) == (0, 0)
            assert stats.misses == 8
        with manager.make_cursor(file.path) as cursor:
            assert cursor.use_region(W + 5, 9).buffer() == file.data[W + 5 : W + 14]


def test_paths_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path there may be relative to a drive: the system alone knows."""
    monkeypatch.setattr(_system, "WINDOWS", True)
    monkeypatch.setattr(os.path, "abspath", lambda name: "abspath of " + name)
    assert _system.name_of("data") == "abspath of data"


@pytest.mark.parametrize("held", [False, True])
def test_removal_on_windows(held: bool, make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place where a held region goes, so that its file can be deleted."""
    monkeypatch.setattr(_system, "WINDOWS", True)
    file, other = make_file(4 * W, "a/file"), make_file(4 * W, "ab/file")
    manager = make_manager(W)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    spared = manager.make_cursor(other.path).use_region(W, 9)
    if not held:
        cursor.unuse_region()
    assert manager.force_map_handle_removal_win(os.path.dirname(file.path)) is None
    assert manager.stats()[:3] == (1, 1, 0)
    assert not cursor.is_valid()
    if held:
        with pytest.raises(smmap.ClosedError):
            cursor.buffer()
    assert spared.buffer() == other.data[W : W + 9]
    assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]
    cursor.close()
    spared.close()


@posix
def test_what_the_system_allows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half of the maps, or of the descriptors where each map costs one; a quarter of the descriptors may be kept."""
    import resource

    def with_limits(maps: Any, soft: Any, tracks: bool) -> tuple[int, int]:
        limit = tmp_path / "max_map_count"
        if maps is None:
            limit.unlink(missing_ok=True)
        else:
            limit.write_text(str(maps))
        monkeypatch.setattr(_system, "open", lambda _name, mode: limit.open(mode), raising=False)
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, soft))
        monkeypatch.setattr(_system, "TRACKS_DESCRIPTOR", tracks)
        return _system.handle_limits()

    assert with_limits(1000, 400, False) == (500, 100)
    assert with_limits(1000, 400, True) == (200, 100)
    assert with_limits(1000, 4000, True) == (500, 1000)
    assert with_limits(1, 4, True) == (1, 1)
    assert with_limits(None, 4, False) == (65530 // 2, 1)
    assert with_limits("what", resource.RLIM_INFINITY, True) == (65530 // 2, (1 << 20) // 4)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert _system.handle_limits()[1] == (1 << 20) // 4
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert _system.is_readable(0)


@pytest.mark.parametrize("tracks", [False, True])
def test_maps_that_cost_descriptors_go_for_one(
    tracks: bool, make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where descriptors are short, an idle map goes only where it has one."""
    file, other = make_file(8 * W), make_file(W, "other")
    monkeypatch.setattr(_system, "map_at", lambda number, size, offset, _access: any_map(number, size, offset))
    monkeypatch.setattr(_system, "TRACKS_DESCRIPTOR", tracks)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        for number in range(3):
            cursor.use_region(number * W, 9)
    manager._run(manager._ledger.drop_descriptor)
    failures = [OSError(errno.EMFILE, "no more")] * (1 if tracks else 9)
    real = _system.open_file

    def open_file(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr(_system, "open_file", open_file)
    with manager.make_cursor(other.path) as cursor:
        if tracks:
            assert cursor.use_region(0, 9).buffer() == other.data[:9]
            assert manager.stats().evictions == 1
        else:
            with pytest.raises(smmap.LimitError):
                cursor.use_region(0, 9)
            assert manager.stats().evictions == 0


def any_map(number: int, size: int, offset: int) -> Any:
    """A map, whatever the interpreter thinks about descriptors."""
    import mmap

    return mmap.mmap(number, size, access=mmap.ACCESS_READ, offset=offset)


# Interpreters that reclaim late


def test_late_reclaiming(make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views in a cycle keep their maps until garbage is collected: before `LimitError` is raised, it is."""
    monkeypatch.setattr(_system, "RECLAIMS_LATE", True)
    file = make_file(12 * W)
    manager = make_manager(W, 0, 3)

    def lose_a_view(number: int) -> None:
        cycle: list[Any] = []
        with manager.make_cursor(file.path) as cursor:
            cycle += [cursor.use_region(number * W, 9).buffer(), cycle]

    gc.collect()
    gc.disable()
    try:
        for number in range(9):
            lose_a_view(number)
        with manager.make_cursor(file.path) as cursor:
            assert cursor.use_region(10 * W, 9).buffer() == file.data[10 * W : 10 * W + 9]
        lose_a_view(11)
        manager.collect()  # does the same
        assert manager.stats().lent == 0
    finally:
        gc.enable()
    held = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(3)]
    with manager.make_cursor(file.path) as cursor:
        with pytest.raises(smmap.LimitError):
            cursor.use_region(5 * W, 9)
    for each in held:
        each.close()


def test_late_reclaiming_over_the_limit_of_memory(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "RECLAIMS_LATE", True)
    file = make_file(12 * W)
    manager = make_manager(W, 2 * W)
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    with manager.make_cursor(file.path) as cursor:
        views = [cursor.use_region(number * W, 9).buffer() for number in range(6)]
    assert 0 < len(collected) < 6  # not each time: what garbage did not bring down is remembered
    assert [view == file.data[number * W : number * W + 9] for number, view in enumerate(views)] == [True] * 6
    assert manager.stats().mapped_memory >= 5 * W
    views.clear()
    del cursor
    monkeypatch.undo()
    reclaim()


def test_explicit_closing_as_on_pypy(make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that served copies only is closed when it goes; one that was lent never."""
    monkeypatch.setattr(_system, "PYPY", True)
    monkeypatch.setattr(_system, "RECLAIMS_LATE", True)
    file = make_file(8 * W)
    manager = make_manager(W)
    buffer = Buffer(manager.make_cursor(file.path))
    assert buffer[5] == file.data[5]
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(W, 9).buffer()
    with manager.make_cursor(file.path) as cursor:
        held = cursor.use_region(3 * W, 9).region().store
    borrowed = next(iter(manager._ledger.idle)).store
    lent = list(manager._ledger.idle)[1].store
    manager.collect()
    for gone in (borrowed, held):
        with pytest.raises(ValueError, match="closed"):
            gone[0]
    assert lent[0] == file.data[W]
    assert view == file.data[W : W + 9]
    assert buffer[5] == file.data[5]  # by asking again
    assert buffer[W + 5 : W + 50] == file.data[W + 5 : W + 50]
    del view, borrowed, lent
    buffer.close()


@pytest.mark.skipif(os.name != "posix", reason="none is kept there")
def test_explicit_closing_of_descriptors_as_on_pypy(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was kept, and that windows were mapped and read by, is closed as soon as it is kept no more."""
    monkeypatch.setattr(_system, "PYPY", True)
    file = make_file(8 * W)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor, manager.buffer(file.path) as buffer:
        (kept,) = manager._ledger.kept
        for number in range(3):
            assert cursor.use_region(number * W, 9).buffer() == file.data[number * W : number * W + 9]
            assert buffer[(number + 4) * W] == file.data[(number + 4) * W]
        assert kept.number >= 0
        manager.collect()
        assert kept.number == -1


@pytest.mark.parametrize("hot", [False, True])
def test_maps_closed_under_a_reader(hot: bool, make_file: Any, make_manager: Any) -> None:
    """The reader asks again."""
    file = make_file(3 * W + 77)
    manager = make_manager(W)
    reads: list[Any] = [
        lambda data: data[W + 5],
        lambda data: data[W + 5 : W + 50],
        lambda data: data[W + 5 : W + 50 : 7],
        lambda data: data[W - 5 : W + 5],
        lambda data: data[-1],
        lambda data: data.find(file.data[W + 9 : W + 30]),
        lambda data: data.rfind(file.data[W + 9 : W + 30]),
    ]
    for part in (False, True):
        for read in reads:
            with manager.buffer(file.path, 0, None if not part else len(file.data)) as buffer:
                for number in range(4):
                    manager.window_at(buffer, number * W)
                    buffer[number * W + 1]
                wanted = file.data
                for region in list(buffer._grid[0].values()):
                    if hot:
                        region.hot = Closed()
                assert read(buffer) == read(wanted)
                for region in list(buffer._grid[0].values()):
                    region.hot = None
    small = make_file(99, "small")
    with manager.buffer(small.path) as buffer:
        manager.window_at(buffer, 0)
        assert buffer[5] == small.data[5]
        for region in list(buffer._grid[0].values()):
            region.hot = Closed()
        assert buffer[5] == small.data[5]
        assert buffer[5:50] == small.data[5:50]
        for region in list(buffer._grid[0].values()):
            region.hot = None
        with pytest.raises(ValueError, match="step"):
            buffer[::0]


# Regions that stand alone


@linux
def test_regions_that_stand_alone(make_file: Any, tmp_path: Path) -> None:
    file = make_file(3 * W + 77)
    region = MapRegion(str(file.path), W, 5 * W)
    assert (region.ofs_begin(), region.ofs_end(), region.size()) == (W, len(file.data), 2 * W + 77)
    assert region.client_count() == 1
    assert not region.increment_client_count()
    assert region.client_count() == 2
    assert not region.increment_client_count(-1)
    assert region.buffer() == file.data[W:]
    assert region.map()[:9] == file.data[W : W + 9]
    assert region.increment_client_count(-1)
    assert region.client_count() == 0
    for call in (region.buffer, region.map):
        with pytest.raises(smmap.ClosedError):
            call()
    assert "evicted" in repr(region)
    region.release()
    for number in range(5):
        with pytest.raises(OSError, match="missing"):
            MapRegion(str(tmp_path / "missing" / str(number)), 0, 5)
        with pytest.raises(ValueError, match="past the end"):
            MapRegion(str(file.path), 4 * W, 5)
        MapRegion(str(file.path), 0, W)
    gc.collect()
    assert not [name for name in descriptors(tmp_path) if _system.TRACKS_DESCRIPTOR is False]


@pytest.mark.parametrize("by", ["memory", "handles"])
@pytest.mark.parametrize("then", ["confirmed", "taken back", "died"])
def test_what_may_be_garbage_counts_as_gone(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch, by: str, then: str
) -> None:
    """Once, until garbage was collected, it was taken back, or it really went."""
    monkeypatch.setattr(_system, "PYPY", True)
    file = make_file(8 * W)
    manager = make_manager(W)
    ledger = manager._ledger
    with manager.make_cursor(file.path) as cursor:
        view = cursor.use_region(0, 9).buffer()
        for number in (1, 2, 3):
            cursor.use_region(number * W, 9)
    if by == "memory":
        ledger.max_memory = 3 * W
    else:
        ledger._limits = (3, 0)
    assert manager._run(ledger.trim, None) == 1  # window 0, which looks as if it were lent
    assert manager._run(ledger.trim, None) == 0
    assert (ledger.mapped, len(ledger.lent)) == (4, 1)
    if then == "confirmed":
        manager._run(ledger.confirm)
        assert manager._run(ledger.trim, None) == 1
        assert (ledger.mapped, len(ledger.lent)) == (3, 1)
        del view
        reclaim()
        manager.settle()
        assert ledger.mapped == 2
        return
    if then == "taken back":
        assert manager._run(lambda: ledger.revive(next(iter(ledger.lent.values()))[0]))
        assert (ledger.mapped, len(ledger.lent)) == (4, 0)
        assert manager._run(ledger.trim, None) == 1  # window 1, used longest ago
        assert (ledger.mapped, len(ledger.lent)) == (3, 0)
        del view
        return
    del view
    reclaim()
    manager.settle()
    assert ledger.mapped == 3
    ledger.max_memory -= W * (by == "memory")
    ledger._limits = (ledger.limits()[0] - (by == "handles"), 0)
    assert manager._run(ledger.trim, None) == 1
    assert ledger.mapped == 2
