"""What happens seldom, or on other interpreters and systems only, made to happen here."""

from __future__ import annotations

import copy
import errno
import gc
import mmap
import os
import pickle
import threading
from typing import Any

import pytest

import smmap
from smmap import SlidingWindowMapBuffer as Buffer
from smmap import _default, _fork, _search, _source, _system
from smmap._file import examine
from smmap._region import StoredBytes
from smmap.util import MapRegion

from ._tools import Closed, File, G, agree, reclaim

W = 2 * G


class Once:
    """Gives what it was made with once, and then what it finds."""

    def __init__(self, function: Any, *first: Any) -> None:
        self.function = function
        self.first = list(first)

    def __call__(self, *args: Any) -> Any:
        return self.first.pop(0) if self.first else self.function(*args)


# Maps that were closed under a reader


def test_the_whole_is_closed(make_file: Any, make_manager: Any) -> None:
    file = make_file(99)
    with make_manager(W).buffer(file.path) as buffer:
        for _ in range(12):
            assert buffer[5] == file.data[5]
        region = buffer._whole
        assert region.size() == 99
        region.hot = Closed()
        assert buffer[7] == file.data[7]
        region.hot = Closed()
        assert buffer[7:9] == file.data[7:9]
        region.hot = None


def test_the_window_used_twice_is_closed(make_file: Any, make_manager: Any) -> None:
    file = make_file(3 * W)
    with make_manager(W).buffer(file.path) as buffer:
        for _ in range(12):
            assert buffer[W + 5] == file.data[W + 5]
        region = buffer._near[0]
        assert region.ofs_begin() == W
        region.hot = Closed()
        assert buffer[W + 7] == file.data[W + 7]
        region.hot = Closed()
        assert buffer[W + 7 : W + 9] == file.data[W + 7 : W + 9]
        region.hot = None


@pytest.mark.parametrize("fast", [True, False])
def test_a_served_window_is_closed(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """The manager gave it to a search, to a slice with a step, or to a read that maps."""
    monkeypatch.setattr(_search, "_FAST_FIND", fast)
    file = make_file(3 * W)
    manager = make_manager(W)
    buffer = manager.buffer(file.path)
    needle = file.data[W + 9 : W + 30]
    window_at = Buffer._window_at

    def closed(self: Any, start: int) -> Any:
        monkeypatch.setattr(Buffer, "_window_at", window_at)
        return Closed(), *window_at(self, start)[1:]

    for read in (lambda: buffer.find(needle), lambda: buffer.rfind(needle), lambda: buffer[W + 5 : W + 50 : 7]):
        monkeypatch.setattr(Buffer, "_window_at", closed)
        assert read() in (W + 9, file.data[W + 5 : W + 50 : 7])
    serve = type(manager)._serve
    monkeypatch.setattr(type(manager), "_serve", Once(serve.__get__(manager), (Closed(), W)))
    assert manager._fetch_with_lock(buffer, W + 5, W + 9, True) == file.data[W + 5 : W + 9]
    buffer.close()


# Slower ways of other Pythons


@pytest.mark.parametrize("needle", [b"needle", b"n", b"no such"])
def test_searching_where_maps_are_slow_at_it(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch, needle: bytes
) -> None:
    monkeypatch.setattr(_search, "_FAST_FIND", False)
    monkeypatch.setattr(_search, "STEP", 1000)
    data = bytearray(make_file(3 * W, "random").data)
    for place in (0, 997, W - 3, 2 * W, 3 * W - 6):
        data[place : place + 6] = b"needle"
    file = make_file(0, data=bytes(data))
    with make_manager(W).buffer(file.path) as buffer:
        for start, end in ((0, None), (1, 3 * W - 1), (998, W + 2), (W, W)):
            agree(buffer, file.data, lambda one: one.find(needle, start, end))
            agree(buffer, file.data, lambda one: one.rfind(needle, start, end))
            agree(buffer, file.data, lambda one: one.count(needle, start, end))


@pytest.mark.parametrize("tracks", [True, False])
def test_looking_whether_maps_cost_descriptors(monkeypatch: pytest.MonkeyPatch, tracks: bool) -> None:
    class Map:
        def __init__(self, number: int, size: int, **options: bool) -> None:
            if tracks:
                raise TypeError("mmap() got an unexpected keyword argument 'trackfd'")

        def close(self) -> None: ...

    monkeypatch.setattr(_system.mmap, "mmap", Map)
    assert _system._probe_trackfd() is tracks


def test_collecting_garbage_while_another_thread_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a second, no more; and what it did not take it does not give back."""

    class Busy:
        def acquire(self, timeout: float) -> bool:
            return False

        def release(self) -> None:
            raise AssertionError("not ours")

    collected: list[int] = []
    monkeypatch.setattr(_system, "_collecting", Busy())
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    _system.collect_garbage()
    assert collected == [1]
    _system._after_fork_in_child()
    _system.collect_garbage()
    assert collected == [1, 1]


def test_a_file_that_cannot_be_mapped_where_memory_is_reclaimed_late(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "RECLAIMS_LATE", True)

    def refuse(*args: Any) -> None:
        raise OSError(19, "No such device")

    file = make_file(3 * W)
    with make_manager(W).make_cursor(file.path) as cursor:
        monkeypatch.setattr(_system, "map_at", refuse)
        assert cursor.use_region(W + 5, 9).buffer() == file.data[W + 5 : W + 14]
        assert isinstance(cursor.map(), StoredBytes)


# Moments


def test_a_window_is_evicted_while_its_use_is_written_down(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a reader, who then asks the manager; by a cursor, which does the same."""
    file = make_file(3 * W)
    manager = make_manager(W)
    buffer = Buffer(manager.make_cursor(file.path))

    class Evicts:
        """In place of the region used last: to cool it is when the other thread comes."""

        @property
        def hot(self) -> None:
            return None

        @hot.setter
        def hot(self, value: None) -> None:
            real = manager._last = MapRegion.nowhere()
            assert real.hot is None
            next(iter(manager._ledger.idle)).release()

    if not _system.FREE_THREADED:
        manager._last = Evicts()
        assert buffer[5:9] == file.data[5:9]
        assert manager.stats().evictions == 1
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(W, 9).unuse_region()
        region = manager._ledger.idle
        before = list(region)
        manager._last = Evicts()
        assert cursor.use_region(before[0].ofs_begin() + 3, 9).is_valid()
        begin = before[0].ofs_begin() + 3
        assert cursor.buffer() == file.data[begin : begin + 9]
        assert manager.stats().held == 1
    buffer.close()


def test_a_buffer_is_given_another_file_between_two_windows_of_a_step(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_file(3 * W, "one"), make_file(3 * W, "two")
    manager = make_manager(W)
    buffer = Buffer(manager.make_cursor(one.path))
    window_at = Buffer._window_at

    def racing(self: Any, start: int) -> Any:
        monkeypatch.undo()
        found = window_at(self, start)
        buffer.begin_access(manager.make_cursor(two.path))
        return found

    monkeypatch.setattr(Buffer, "_window_at", racing)
    with pytest.raises(smmap.ClosedError, match="meanwhile"):
        buffer[W - 5 : W + 5 : 2]
    assert buffer[W - 5 : W + 5 : 2] == two.data[W - 5 : W + 5 : 2]


def test_a_path_leads_elsewhere_between_two_looks(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file seemed to have changed; looked at again, it is another one."""
    file, other = make_file(3 * W), make_file(2 * W, "other")
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 9)
        with open(file.path, "ab") as grown:
            grown.write(b"more")
        attempt = _source.Source.attempt

        def racing(self: Any, where: Any, begin: int, end: int, call: Any, *args: Any) -> Any:
            if call is examine:
                monkeypatch.undo()
                os.replace(other.path, file.path)
            return attempt(self, where, begin, end, call, *args)

        monkeypatch.setattr(_source.Source, "attempt", racing)
        with manager.make_cursor(file.path) as new:
            assert new.file_size() == 2 * W
            assert new.use_region(W, 9).buffer() == other.data[W : W + 9]
        assert cursor.buffer() == file.data[:9]


def test_a_fork_waits_for_a_lock_that_another_thread_holds(make_manager: Any) -> None:
    """Holding none meanwhile, and takes care of a manager that is made in that time."""
    manager = make_manager(W)
    held, go = threading.Event(), threading.Event()
    made: list[Any] = []

    def work() -> None:
        with manager._lock:
            held.set()
            go.wait(10)
            made.append(make_manager(W))

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(10)
    threading.Timer(0.05, go.set).start()
    _fork._before_fork()
    thread.join()
    assert made[0]._lock in _fork._taken
    _fork._after_fork_in_parent()
    assert made[0].stats().mapped == 0


def test_a_manager_is_made_while_a_fork_takes_the_locks(make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the managers were counted, before the last lock was taken: it counts again."""
    manager = make_manager(W)
    made: list[Any] = []

    class Lock:
        def acquire(self, blocking: bool) -> bool:
            if not made:
                made.append(make_manager(W))
            return True

        def release(self) -> None: ...

    real, manager._lock = manager._lock, Lock()
    _fork._before_fork()
    assert made[0]._lock in _fork._taken
    _fork._after_fork_in_parent()
    manager._lock = real


# Odd uses


def test_a_buffer_takes_a_cursor_only(make_file: Any) -> None:
    with pytest.raises(TypeError, match="must be a WindowCursor, not "):
        Buffer(make_file(9).path)


def test_a_cursor_that_was_not_made_to_the_end() -> None:
    class Broken(smmap.WindowCursor):
        def __init__(self) -> None:
            raise RuntimeError("too early")

    with pytest.raises(RuntimeError, match="too early"):
        Broken()
    reclaim()  # says nothing


def test_an_error_is_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(smmap.FileChangedError("truncated", "/a/file")))
    assert type(error) is smmap.FileChangedError
    assert (error.errno, error.strerror, error.filename) == (errno.ESTALE, "truncated", "/a/file")
    assert str(copy.copy(error)) == str(error)


def test_what_a_manager_says_of_itself(make_file: Any, make_manager: Any) -> None:
    file: File = make_file(3 * W)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 9)
        assert repr(manager) == f"<SlidingWindowMapManager 1 regions, {W} bytes mapped>"
    manager.close()
    assert repr(manager) == "<SlidingWindowMapManager closed>"


def test_a_region_released_twice_or_without_its_manager(make_file: Any, make_manager: Any) -> None:
    file = make_file(3 * W)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        region = cursor.use_region(0, 9).region()
        region.release()
        region.release()
        manager._check()
        assert manager.stats().mapped == 0
    lonely = smmap.SlidingWindowMapManager(W)
    region = lonely.make_cursor(file.path).use_region(0, 9).region()
    lonely.collect()
    del lonely
    reclaim()
    assert not region.increment_client_count()


def test_bytes_that_were_read_for_nobody() -> None:
    """They need not report their death."""
    store = StoredBytes(b"abc")
    assert store.token is None
    del store
    reclaim()


def test_a_link_that_cannot_be_read(make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.10 that was an error; the name as it is called will do."""
    file = make_file(3 * W)
    manager = make_manager(W)
    manager.make_cursor(file.path).use_region(0, 9).close()

    def fail(name: str) -> str:
        raise OSError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr(os.path, "realpath", fail)
    assert manager.release(file.path) == 1


def test_releasing_what_is_gone_already(make_file: Any, make_manager: Any) -> None:
    file = make_file(3 * W)
    manager = make_manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    region = cursor.region()
    cursor.close()
    assert manager.collect() == 1
    region.release()
    assert manager.stats().evictions == 1


def test_another_file_of_the_same_size_and_age(make_file: Any, make_manager: Any) -> None:
    """A known path is looked at without the lock: the inode tells."""
    file, other = make_file(3 * W), make_file(3 * W, "other")
    manager = make_manager(W)
    with manager.make_cursor(str(file.path)) as cursor:
        cursor.use_region(0, 9)
        age = os.stat(file.path).st_mtime_ns
        os.replace(other.path, file.path)
        os.utime(file.path, ns=(age, age))
        with manager.make_cursor(str(file.path)) as new:
            assert new.use_region(0, 9).buffer() == other.data[:9]
        assert cursor.buffer() == file.data[:9]


def test_a_buffer_closed_before_it_was_opened_is_not_opened(make_file: Any, make_manager: Any) -> None:
    buffer = pickle.loads(pickle.dumps(make_manager(W).buffer(make_file(3 * W).path)))
    buffer.close()
    buffer._open()
    assert buffer.closed
    assert buffer._file is None


@pytest.mark.parametrize("change", ["closed", "begun elsewhere"])
def test_a_buffer_changes_while_it_is_read_into_a_target(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file = make_file(3 * W)
    buffer = make_manager(W).buffer(file.path)
    name = "_ready" if change == "closed" else "_copy"
    real = getattr(Buffer, name)

    def racing(self: Any, *args: Any) -> Any:
        monkeypatch.undo()
        result = real(self, *args)
        if change == "closed":
            self.close()
        else:
            self.begin_access(None, W)
        return result

    monkeypatch.setattr(Buffer, name, racing)
    with pytest.raises(smmap.ClosedError, match="meanwhile"):
        buffer.readinto(5, bytearray(W))
    buffer.close()


def test_a_buffer_is_a_needle(make_file: Any, make_manager: Any) -> None:
    file = make_file(3 * W)
    manager = make_manager(W)
    with manager.buffer(file.path) as buffer, manager.buffer(file.path, 2 * W - 5, 10) as needle:
        assert buffer.find(needle) == 2 * W - 5
        assert needle in buffer


def test_configuring_the_default_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_default, "_manager", None)
    monkeypatch.setattr(_default, "_settings", {})
    smmap.configure(window_size=W, max_open_handles=7)
    smmap.configure(max_memory_size=9 * W)
    manager = smmap.default_manager()
    assert (manager.window_size(), manager.max_file_handles(), manager.max_mapped_memory_size()) == (W, 7, 9 * W)
    with pytest.raises(smmap.SmmapError, match="in use already"):
        smmap.configure(window_size=2 * W)
    manager.close()


def test_two_threads_ask_for_the_default_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one finds it made when it has the lock."""
    made = smmap.SlidingWindowMapManager(W)
    monkeypatch.setattr(_default, "_in_use", Once(lambda: made, None))
    assert smmap.default_manager() is made


def test_advice_that_the_system_refuses(make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was advice: the window is mapped all the same."""
    asked: list[int] = []

    class Map(mmap.mmap):
        def madvise(self, advice: int, *args: int) -> None:
            asked.append(advice)
            raise OSError(errno.EINVAL, "Invalid argument")

    file = make_file(3 * W)
    manager = make_manager(W, backing="mmap")
    monkeypatch.setattr(_system.mmap, "mmap", Map)
    buffer = manager.buffer(file.path, access="random")
    assert buffer.view(W, W + 9) == file.data[W : W + 9]
    assert asked == ([mmap.MADV_RANDOM] if hasattr(mmap, "MADV_RANDOM") else [])
    buffer.close()


def test_a_buffer_that_two_threads_open_at_once(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one to open it finds the same: who reads already is not refused."""
    file = make_file(3 * W)
    buffer = pickle.loads(pickle.dumps(make_manager(W).buffer(file.path)))
    real = Buffer._piece

    def racing(self: Any, *args: Any) -> Any:
        before = self._grid
        self._start(self._offset, self._size)
        assert self._grid is not before
        return real(self, *args)

    monkeypatch.setattr(Buffer, "_piece", racing)
    assert buffer[W - 5 : W + 5] == file.data[W - 5 : W + 5]
    buffer.close()


@pytest.mark.parametrize("change", ["closed", "begun elsewhere"])
def test_a_bound_changes_the_buffer_that_it_is_a_bound_of(make_file: Any, make_manager: Any, change: str) -> None:
    file, other = make_file(3 * W), make_file(2 * W, "other")
    manager = make_manager(W)

    class Bound:
        def __index__(self) -> int:
            if change == "closed":
                buffer.close()
            else:
                buffer.begin_access(manager.make_cursor(other.path))
            return 5

    for read in (lambda: buffer.view(Bound(), 9), lambda: buffer[Bound() : 9], lambda: buffer[Bound() : 9 : 2]):
        buffer = manager.buffer(file.path)
        with pytest.raises(smmap.ClosedError, match="is closed$" if change == "closed" else "begun anew meanwhile$"):
            read()
        buffer.close()


def test_an_index_from_the_end_of_another_file(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was changed when its size had been looked at."""
    file, other = make_file(3 * W), make_file(2 * W, "other")
    manager = make_manager(W)
    buffer = manager.buffer(file.path)
    real = Buffer._ready

    def racing(self: Any) -> Any:
        monkeypatch.undo()
        grid = real(self)
        buffer.begin_access(manager.make_cursor(other.path))
        return grid

    monkeypatch.setattr(Buffer, "_ready", racing)
    with pytest.raises(smmap.ClosedError, match=r"begun anew meanwhile$"):
        buffer[-2 * W]
    buffer.close()


def test_a_view_past_the_end_of_the_file_that_took_the_place(make_file: Any, make_manager: Any) -> None:
    """Its bounds were looked at before."""
    with make_manager(W).buffer(make_file(3 * W).path, 0, W) as buffer:
        for read in (buffer._view_far, buffer._copy):
            with pytest.raises(smmap.ClosedError, match="meanwhile"):
                read(5, W + 1)
        with pytest.raises(smmap.ClosedError, match="meanwhile"):
            buffer._window_at(W)


def test_a_window_of_the_file_that_took_the_place(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was mapped when the buffer was begun anew: a search must not go on in it."""
    file, other = make_file(3 * W), make_file(3 * W, "other")
    manager = make_manager(W)
    buffer = manager.buffer(file.path)
    real = manager.window_at

    def racing(*args: Any) -> Any:
        monkeypatch.undo()
        found = real(*args)
        buffer.begin_access(manager.make_cursor(other.path))
        return found

    monkeypatch.setattr(manager, "window_at", racing)
    with pytest.raises(smmap.ClosedError, match="meanwhile"):
        buffer._window_at(5)
    buffer.close()


def test_what_rents_go_by_follows_the_size(make_file: Any, make_manager: Any) -> None:
    file = make_file(G)
    manager = make_manager(64 * W, max_memory_size=4 * 64 * W, max_open_handles=1000)
    with manager.buffer(file.path) as buffer:
        assert buffer[5] == file.data[5]
        assert buffer._file.patience == 4 * 64  # so many windows of that size, by half
    os.truncate(file.path, 64 * W)
    with manager.buffer(file.path) as buffer:
        assert buffer[5] == file.data[5]
        assert buffer._file.patience == 2


def known(manager: Any, file: File) -> Any:
    """A buffer of a file whose reads were priced, and which is not open: the next cold read opens it."""
    buffer = manager.buffer(file.path)
    assert buffer[5] == file.data[5]
    manager.collect()
    assert manager.stats().descriptors == 0
    return buffer


def test_a_file_that_is_slow_to_open_keeps_nobody_waiting(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold reads open without the lock; two that open the same file keep one descriptor."""
    slow, other = make_file(3 * W, "slow"), make_file(3 * W)
    manager = make_manager(W)
    beside, *buffers = [known(manager, file) for file in (other, slow, slow)]
    opening, done = threading.Semaphore(0), threading.Event()
    real = _system.open_file

    def open_slowly(where: Any, flags: int) -> Any:
        descriptor = real(where, flags)
        if where == str(slow.path):
            opening.release()
            assert done.wait(60)
        return descriptor

    monkeypatch.setattr(_system, "open_file", open_slowly)
    got: list[bytes] = []
    readers = [threading.Thread(target=lambda one=one: got.append(one[7:99])) for one in buffers]
    for reader in readers:
        reader.start()
        assert opening.acquire(timeout=60)
    assert beside[7:99] == other.data[7:99]
    assert manager.stats().cold_reads == 4
    done.set()
    for reader in readers:
        reader.join()
    assert got == [slow.data[7:99]] * 2
    assert manager.stats().cold_reads == 6
    assert manager.stats().descriptors == 2
    manager._check()


@pytest.mark.parametrize("call", ["open_file", "status_of", "read_at"])
def test_what_a_cold_read_is_refused_it_gets_for_what_is_idle(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The first try is made without the lock, and lets nothing go."""
    file, idle = make_file(3 * W), make_file(3 * W, "idle")
    manager = make_manager(W)
    buffer, other = known(manager, file), known(manager, idle)
    assert other[W + 5] == idle.data[W + 5]
    real, refused = getattr(_system, call), []

    def refuse(*args: Any) -> Any:
        if len(refused) < 2:
            refused.append(args)
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*args)

    monkeypatch.setattr(_system, call, refuse)
    assert buffer[7:99] == file.data[7:99]
    assert len(refused) == 2
    kept = [ref() for ref in manager._ledger.kept.values()]
    assert kept == ([other._file, buffer._file] if call == "read_at" else [buffer._file])
    manager._check()


@pytest.mark.parametrize("flagged", [False, True])
def test_what_is_opened_with_flags_is_for_its_buffer_alone(make_file: Any, make_manager: Any, flagged: bool) -> None:
    file = make_file(3 * W)
    manager = make_manager(W)
    with manager.buffer(file.path) as plain:
        assert plain[5] == file.data[5]
        flags = os.O_SYNC if flagged else 0
        with Buffer(manager.make_cursor(file.path), 0, 3 * W, flags) as buffer:
            manager.collect()
            assert buffer[W + 7 : W + 99] == file.data[W + 7 : W + 99]
            assert manager.stats().descriptors == (not flagged)
    manager._check()


def test_a_manager_is_closed_while_it_opens_a_file(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make_file(3 * W)
    manager = make_manager(W)
    with known(manager, file) as buffer:
        real = _system.read_at

        def close_first(*args: Any) -> bytes:
            manager.close()
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(_system, "read_at", close_first)
            assert buffer[7:99] == file.data[7:99]
        assert manager.stats().descriptors == 0
        manager._check()
        opened: list[Any] = []
        monkeypatch.setattr(_system, "open_file", lambda *args: opened.append(args))
        with pytest.raises(smmap.ClosedError, match="Manager"):
            buffer[7:99]
        assert not opened


@pytest.mark.parametrize("call", ["open_file", "status_of", "read_at"])
def test_the_exception_of_an_alarm_ends_a_cold_read(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It is an `OSError` without a number: not the system's, so that no other way is tried."""
    file = make_file(3 * W)
    manager = make_manager(W)
    with known(manager, file) as buffer:
        real = getattr(_system, call)

        def ring(*_: Any) -> Any:
            monkeypatch.setattr(_system, call, real)
            raise TimeoutError("the alarm")

        monkeypatch.setattr(_system, call, ring)
        with pytest.raises(TimeoutError, match="the alarm"):
            buffer[7:99]
        assert buffer[7:99] == file.data[7:99]
    manager._check()


def test_views_one_after_the_other_are_of_one_file(make_file: Any, make_manager: Any) -> None:
    file, other = make_file(3 * W), make_file(3 * W, "other")
    manager = make_manager(W)
    with manager.buffer(file.path) as buffer:
        views = buffer.iter_views(0, None, G)
        assert next(views) == file.data[:G]
        buffer.begin_access(manager.make_cursor(other.path))
        with pytest.raises(smmap.ClosedError, match=r"begun anew meanwhile$"):
            next(views)


def test_a_map_past_the_end_tells_the_size(make_file: Any, make_manager: Any) -> None:
    """Also by a descriptor that was kept, which nobody looks at before."""
    file = make_file(4 * W)
    manager = make_manager(W)
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(5, 9).buffer() == file.data[5:14]
        assert manager.stats().descriptors == 1
        os.truncate(file.path, 2 * W)
        with pytest.raises(smmap.FileChangedError, match=rf"truncated to {2 * W} bytes: \[{3 * W}, {4 * W}\)"):
            cursor.use_region(3 * W, 9)
        assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]


def test_nothing_lies_before_the_begin_for_who_holds_a_seam(make_file: Any, make_manager: Any) -> None:
    """A seam window's key is negative, as is the number of a grid window before the begin."""
    file = make_file(3 * W)
    with make_manager(W).make_cursor(file.path) as cursor:
        cursor.use_region(W - 5, 10)
        assert cursor.region().ofs_begin() == W // 2
        with pytest.raises(ValueError, match="negative"):
            cursor.use_region(-1)
        assert cursor.buffer() == file.data[W - 5 : W + 5]


def test_everything_from_here_after_the_file_grew(make_file: Any, make_manager: Any) -> None:
    """Not only as far as the region held, which was clipped before."""
    data = make_file(16 * G, "all").data
    file = make_file(6 * G, data=data[: 6 * G])
    manager = make_manager(8 * G)
    with manager.make_cursor(file.path) as old:
        assert old.use_region(0).size() == 6 * G
        with open(file.path, "ab") as grown:
            grown.write(data[6 * G :])
        with manager.make_cursor(file.path) as cursor:
            assert cursor.use_region(5, 9).region() is old.region()
            assert cursor.use_region(0).buffer() == data[: 8 * G]
            assert old.buffer() == data[: 6 * G]


def test_a_buffer_that_is_between_two_files(make_file: Any, make_manager: Any) -> None:
    """Another thread gives it the second one just now."""
    file = make_file(3 * W)
    buffer = known(make_manager(W), file)
    mapped, buffer._file = buffer._file, None
    with pytest.raises(smmap.ClosedError, match=r"is closed$"):
        buffer[7:99]
    buffer._file = mapped
    assert buffer[7:99] == file.data[7:99]
    buffer.close()


def test_a_descriptor_is_let_go_as_it_is_used(make_file: Any, make_manager: Any) -> None:
    file = make_file(3 * W)
    manager = make_manager(W)
    with manager.buffer(file.path) as buffer:
        assert buffer[5] == file.data[5]
        descriptor = buffer._file.ref.descriptor
        manager.collect()
        manager._note_kept(descriptor)
        assert manager.stats().descriptors == 0
        manager._check()


def test_a_file_that_was_short_only_as_it_was_mapped(
    make_file: Any, make_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make_file(3 * W)

    def refuse(*_: Any) -> Any:
        monkeypatch.undo()
        raise ValueError("mmap length is greater than file size")

    with make_manager(W).make_cursor(file.path) as cursor:
        monkeypatch.setattr(_system, "map_at", refuse)
        with pytest.raises(smmap.FileChangedError, match=rf"truncated while \[{W}, {2 * W}\) was mapped"):
            cursor.use_region(W, 9)
        assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]
