"""Exceptions from outside, as signal handlers raise them (Ctrl-C, alarms): at each line of each call in turn."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from smmap import _system
from smmap._ledger import Ledger
from smmap._region import MapRegion
from smmap._source import Source

from ._tools import LATE, LINUX, PYPY, G, descriptors, maps, reclaim

W = 2 * G
SOURCES = os.path.dirname(smmap.__file__)


NEVER = _system.Descriptor.close.__code__  # no handler of a signal could run between its lines


class Interrupt(BaseException):
    """What the handler raises."""


class Interruption:
    """Raises at the n-th line that is run of the library's, within a `with` block."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __enter__(self) -> Interruption:
        sys.settrace(self.call)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def call(self, frame: Any, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES) or frame.f_code is NEVER:
            return None
        while frame is not None and frame.f_code.co_name != "__del__":  # what a finalizer raises reaches nobody
            frame = frame.f_back
        return self.line if frame is None else None

    def line(self, frame: Any, event: str, _argument: object) -> Any:
        if event == "line" and frame.f_lineno not in try_lines(frame.f_code.co_filename):
            self.left -= 1
            if not self.left:
                sys.settrace(None)
                raise Interrupt
        return self.line


@functools.cache
def try_lines(name: str) -> frozenset[int]:
    """No handler of a signal could run between these and what they guard."""
    with open(name, encoding="utf-8") as file:
        return frozenset(number for number, line in enumerate(file, 1) if line.strip() == "try:")


class Scene:
    """A manager with little room, and clients of two files in every state."""

    def __init__(self, make_manager: Any, files: list[Any], backing: str) -> None:
        self.files = files
        self.manager = make_manager(W, 4 * W, 4, backing=backing)
        self.buffer = self.manager.buffer(files[0].path)
        self.other = self.manager.buffer(files[1].path)
        self.cursor = self.manager.make_cursor(files[0].path).use_region(3 * W + 5, 100)
        self.still = self.manager.make_cursor(files[0].path).use_region(5 * W + 5, 100)
        self.idle = self.manager.make_cursor(files[1].path)
        self.idle.use_region(W, 10).unuse_region()
        self.view = self.buffer.view(W + 1, W + 50)

    def look(self) -> None:
        """Everything answers rightly, or says that there is no room; the ledger is exact."""
        self.manager._check()
        for buffer, file in ((self.buffer, self.files[0]), (self.other, self.files[1])):
            if not buffer.closed:
                for at in (0, 2 * W - 3, 5 * W):
                    assert buffer[at : at + 9] == file.data[at : at + 9]
        for cursor in (self.cursor, self.idle):
            file = self.files[cursor.path() == self.files[1].path]
            if cursor.is_valid():
                assert cursor.buffer() == file.data[cursor.ofs_begin() : cursor.ofs_end()]
                assert cursor.size() > 0 or sys.version_info < (3, 11)  # they let handlers run between two stores
            for offset, size in ((W - 3, 10), (4 * W, 10), (W + 7, 10)):
                if cursor.is_associated():
                    try:
                        cursor.use_region(offset, size)
                    except (smmap.LimitError, smmap.ClosedError):
                        continue
                    assert cursor.size() == size
                    assert cursor.buffer() == file.data[offset : offset + size]
        assert self.view is None or self.view == self.files[0].data[W + 1 : W + 50]
        if self.still.is_valid():
            assert self.still.region() in self.manager._ledger.held
            assert self.still.buffer() == self.files[0].data[5 * W + 5 : 5 * W + 105]
        self.manager._check()

    def leave(self, folder: Path, error_in_finalizers: bool = False) -> None:
        """Nothing stays; but where a finalizer itself was cut short, nobody closes its descriptor."""
        manager = self.manager
        self.view = None
        for client in (self.buffer, self.other, self.cursor, self.still, self.idle):
            client.close()
        gc.collect()
        manager.collect()
        manager._check()
        assert manager.stats()[:7] == (0,) * 7
        if LINUX:
            assert maps(folder) == []
            assert error_in_finalizers or descriptors(folder) == []


def drop_view(scene: Scene) -> None:
    scene.view = None
    scene.manager.num_file_handles()


CALLS: dict[str, Callable[[Scene], Any]] = {
    "move": lambda it: it.cursor.use_region(0, 10),
    "move to a seam": lambda it: it.cursor.use_region(2 * W - 3, 10),
    "move back": lambda it: it.idle.use_region(W + 3, 10),
    "first hold": lambda it: it.idle.use_region(4 * W, 0),
    "let go": lambda it: it.cursor.unuse_region(),
    "close a cursor": lambda it: it.cursor.close(),
    "copy": lambda it: it.idle.assign(it.cursor),
    "make a cursor": lambda it: it.manager.make_cursor(it.files[1].path).use_region(0, 10).close(),
    "read": lambda it: it.buffer[4 * W : 4 * W + 10],
    "read until it is mapped": lambda it: [it.buffer[4 * W + at] for at in range(12)],
    "across": lambda it: it.other[2 * W - 5 : 2 * W + 5],
    "view": lambda it: it.other.view(3 * W + 1, 3 * W + 10),
    "wide view": lambda it: it.other.view(W - 1, 3 * W + 10),
    "find": lambda it: it.other.find(it.files[1].data[5 * W : 5 * W + 20]),
    "drop a view": drop_view,
    "collect": lambda it: it.manager.collect(),
    "release": lambda it: it.manager.release(os.path.dirname(it.files[0].path)),
    "by hand": lambda it: it.cursor.region().release(),
    "flags": lambda it: it.idle.use_region(0, 10, os.O_NOFOLLOW),
    "make a buffer": lambda it: it.manager.buffer(it.files[1].path)[7],
    "close the manager": lambda it: it.manager.close(),
}


@pytest.fixture
def files(make_file: Any) -> list[Any]:
    return [make_file(6 * W + 100, "one.bin"), make_file(6 * W + 77, "two.bin")]


@pytest.mark.skipif(PYPY, reason="tracing there reaches finalizers, too")
@pytest.mark.skipif(sys.gettrace() is not None, reason="lines are traced already")
@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
@pytest.mark.parametrize("backing", ["mmap", "read"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_cut_short_at_any_line(
    name: str, backing: str, make_manager: Any, files: list[Any], tmp_path: Path
) -> None:
    """Then the next call works, the ledger is exact, no byte is wrong, and nothing stays in the end."""
    for number in [*range(1, 500), *range(500, 10_000, 7)]:
        scene = Scene(make_manager, files, backing)
        try:
            with Interruption(number):
                CALLS[name](scene)
            ended = True
        except Interrupt:
            ended = False
        except smmap.LimitError:
            ended = True
        if name != "close the manager":
            scene.look()
        else:
            mends = scene.manager._busy
            stats = scene.manager.stats()
            assert not mends or (stats.held, stats.idle, stats.descriptors) == (0, 0, 0)
            scene.manager.close()
        scene.leave(tmp_path)
        if ended:
            assert number > 3
            return
    raise AssertionError("it never ended")


CUTS = [
    *[(Ledger, name) for name in ("admit", "take", "let_go", "evict", "_unmapped", "keep")],
    *[(MapRegion, name) for name in ("drop", "_name", "_outlives")],
    *[(Source, name) for name in ("open", "store")],
]


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
@pytest.mark.parametrize(("owner", "name"), CUTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_call_is_cut_short_before_and_after_a_step(
    owner: Any, name: str, make_manager: Any, files: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without a debugger's means, for every interpreter."""
    step = getattr(owner, name)
    met = 0
    for call, after, backing in itertools.product(CALLS, (False, True), ("mmap", "read")):
        scene = Scene(make_manager, files, backing)
        left = [1]

        def cut(*args: Any, left: list[int] = left, after: bool = after) -> Any:
            if not left:
                return step(*args)
            left.pop()
            if after:
                step(*args)
            raise Interrupt

        monkeypatch.setattr(owner, name, cut)
        try:
            CALLS[call](scene)
        except Interrupt:
            met += 1
        except smmap.LimitError:
            assert LATE
        left.clear()
        if call != "close the manager":
            scene.look()
        monkeypatch.setattr(owner, name, step)
        scene.leave(tmp_path)
    assert met > 3


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS, reason="none is kept")
@pytest.mark.parametrize("half", ["not kept", "not the file's", "of a file that is gone"])
def test_descriptors_that_one_side_does_not_know(half: str, make_manager: Any, make_file: Any, tmp_path: Path) -> None:
    """They are closed, and the file is opened anew."""
    file = make_file(6 * W)
    manager = make_manager(W)
    buffer: Any = manager.buffer(file.path)
    assert manager.stats().descriptors == 1

    def cut() -> None:
        kept = manager._ledger.kept
        if half == "not kept":
            kept.clear()
        elif half == "not the file's":
            next(iter(kept.values())).descriptor = None
        raise Interrupt

    if half == "of a file that is gone":
        buffer = None
        reclaim()
        manager._inbox.clear()  # as if it had been cut short after that was taken out
    with pytest.raises(Interrupt):
        manager._run(cut)
    assert manager.stats().descriptors == 0
    reclaim()
    assert not LINUX or descriptors(tmp_path) == []
    manager._check()
    buffer = manager.buffer(file.path)
    assert buffer[W : W + 9] == file.data[W : W + 9]
    assert manager.stats().descriptors == 1
    buffer.close()


def test_what_views_keep_is_still_counted(make_manager: Any, make_file: Any) -> None:
    """Also where another region has taken the place that it had in its file's table."""
    file = make_file(W + 100)
    manager = make_manager(W)
    with manager.buffer(file.path) as buffer:
        view = buffer.view(W, W + 50)
    with open(file.path, "ab") as out:
        out.write(bytes(2 * W))
    cursor = manager.make_cursor(file.path).use_region(W, W)

    def cut() -> None:
        raise Interrupt

    for _ in range(2):
        stats = manager.stats()
        assert (stats.held, stats.idle, stats.lent) == (1, 0, 1)
        with pytest.raises(Interrupt):
            manager._run(cut)
    assert view == file.data[W : W + 50]
    del view
    reclaim()
    assert (manager.stats().held, manager.stats().lent) == (1, 0)
    cursor.close()
    manager.collect()
    assert manager.stats().mapped == 0


@pytest.mark.skipif(sys.gettrace() is not None, reason="the tracer's own code would be cut short")
@pytest.mark.skipif(not hasattr(signal, "setitimer") or LATE, reason="no timers, or what is left is reclaimed late")
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, RuntimeError, ConnectionError])
def test_alarms(
    error: type[BaseException], make_manager: Any, files: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real signals: one manager goes through some hundred of them."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's would keep what finalizers had in hand

    def ring(*_: object) -> None:
        raise error

    scene = Scene(make_manager, files, "mmap")
    scene.view = None
    scene.idle.close()
    before = signal.signal(signal.SIGALRM, ring)
    met = 0
    try:
        for number in range(300):
            view = None
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 5e-5 + number % 50 * 1e-5)
                    for at in range(0, 6 * W, 1500):
                        view = scene.buffer.view(at, at + 10)
                        assert view == files[0].data[at : at + 10]
                        view = None
                        scene.cursor.use_region(at, 10)
                        assert scene.cursor.buffer() == files[0].data[at : at + 10]
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except error:
                met += 1
            del view
            scene.look()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert met > 30
    scene.leave(tmp_path, error_in_finalizers=True)


class Slow:
    """Stands for a manager's lock, as interpreters run it whose handlers find time beside the block of `with`."""

    def __init__(self, where: str) -> None:
        self.real, self.where = threading.RLock(), where

    def __enter__(self) -> None:
        self.real.acquire()
        if self.where == "before":
            raise Interrupt

    def __exit__(self, *exc: object) -> None:
        if self.where == "after":
            raise Interrupt
        self.real.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_lock_is_free_after_a_handler_raised_beside_it(where: str, make_manager: Any, files: list[Any]) -> None:
    """As on CPython 3.14, where it runs between the taking of a lock and the block, and 3.9, after the block."""
    manager = make_manager(W)
    cursor = manager.make_cursor(files[0].path)
    real, manager._lock = manager._lock, Slow(where)
    with pytest.raises(Interrupt):
        cursor.use_region(W, 10)
    assert not manager._lock._is_owned()
    manager._lock = real
    assert cursor.use_region(W, 10).buffer() == files[0].data[W : W + 10]
    manager._check()
    os.truncate(files[0].path, W)
    with real:  # as in a hook that runs before a fork
        with pytest.raises(smmap.FileChangedError):
            cursor.use_region(4 * W, 10)
        assert real._is_owned()


def test_errors_of_ours_do_not_count_as_cut_short(make_manager: Any, files: list[Any]) -> None:
    """Mending is linear in what is mapped; an error costs no more than the call."""
    manager = make_manager(W, max_open_handles=2)
    mended: list[int] = []
    manager._mend_locked = lambda: mended.append(1)
    held = [manager.make_cursor(files[0].path).use_region(at * W, 10) for at in range(2)]
    with pytest.raises(smmap.LimitError):
        manager.make_cursor(files[0].path).use_region(4 * W, 10)
    with pytest.raises(FileNotFoundError):
        manager.make_cursor(f"{files[0].path}-missing")
    os.replace(files[1].path, files[0].path)
    held[0].close()
    with pytest.raises(smmap.FileChangedError):
        held[1].use_region(5 * W, 10)
    manager.close()
    with pytest.raises(smmap.ClosedError):
        manager.make_cursor(files[0].path)
    assert mended == []


# What is only met when a handler raises just there


@pytest.mark.parametrize("call", ["status", "open_file", "status_of", "map_at", "read_at"])
def test_an_alarm_in_a_call_of_the_systems_is_told_as_it_is(
    call: str, make_manager: Any, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TimeoutError` is an `OSError`, but none of the system's: nothing else is tried, and no name is added."""
    manager = make_manager(W)
    buffer = manager.buffer(files[0].path)
    other = manager.make_cursor(str(files[1].path))
    assert buffer[W : W + 9] == files[0].data[W : W + 9]
    late = TimeoutError("late")
    rings = [1]
    original = getattr(_system, call)

    def ring(*args: Any) -> Any:
        if rings:
            rings.pop()
            raise late
        return original(*args)

    uses: dict[str, Callable[[], Any]] = {
        "status": lambda: manager.make_cursor(str(files[1].path)),
        "read_at": lambda: buffer[3 * W : 3 * W + 9],
    }
    use = uses.get(call, lambda: other.use_region(0, 9))
    monkeypatch.setattr(_system, call, ring)
    with pytest.raises(TimeoutError) as caught:
        use()
    assert caught.value is late
    assert buffer[3 * W : 3 * W + 9] == files[0].data[3 * W : 3 * W + 9]
    assert other.use_region(0, 9).buffer() == files[1].data[:9]
    manager._check()


def test_a_cursor_moves_on_while_its_last_move_is_settled(
    make_manager: Any, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread's cursor may at any time: the later move counts."""
    manager = make_manager(W)
    cursor = manager.make_cursor(files[0].path)
    for number in range(4):
        cursor.use_region(number * W, 9)
    assert manager.stats().held == 1
    take = manager._ledger.take
    later = [2 * W, 3 * W]

    def slow(region: Any) -> None:
        if later:
            cursor.use_region(later.pop(0), 9)
        take(region)

    monkeypatch.setattr(manager._ledger, "take", slow)
    cursor.use_region(0, 9)
    for expected in (0, 2 * W, 3 * W, 3 * W):
        manager.num_file_handles()
        assert [region.begin for region in manager._ledger.held] == [expected]
    assert cursor.buffer() == files[0].data[3 * W : 3 * W + 9]
    cursor.close()
    assert manager.stats().held == 0


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_a_move_that_fails_where_memory_is_reclaimed_late(
    backing: str, make_manager: Any, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor stays as it was, after garbage was collected for it in vain."""
    monkeypatch.setattr(_system, "RECLAIMS_LATE", True)
    manager = make_manager(W, 0, 1, backing=backing)
    cursor = manager.make_cursor(files[0].path).use_region(W, 9)
    view = cursor.buffer()
    for _ in range(3):
        with pytest.raises(smmap.LimitError):
            cursor.use_region(3 * W, 9)
        assert cursor.buffer() == view == files[0].data[W : W + 9]
        manager._check()
        assert manager.stats().held == 1
    del view


def test_a_buffer_needs_a_handle_where_no_descriptor_is_kept(
    make_manager: Any, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "_HAS_PREAD", False)
    monkeypatch.setattr(_system, "KEEPS_DESCRIPTORS", False)
    manager = make_manager(W, 0, 1)
    cursor = manager.make_cursor(files[0].path)
    view = cursor.use_region(0, 9).buffer()
    with pytest.raises(smmap.LimitError):
        smmap.SlidingWindowMapBuffer(manager.make_cursor(files[0].path), 3 * W)
    assert view == files[0].data[:9]


def test_a_descriptor_that_was_cut_short(files: list[Any], tmp_path: Path) -> None:
    """It owns what the system has given, and says nothing if that is nothing yet."""
    descriptor = _system.Descriptor()
    descriptor.opened = [os.open(files[0].path, os.O_RDONLY)]
    assert not LINUX or len(descriptors(tmp_path)) == 1
    del descriptor
    reclaim()
    assert not LINUX or descriptors(tmp_path) == []
    empty = _system.Descriptor.__new__(_system.Descriptor)
    del empty
    reclaim()
