"""The lock of a manager: who waits, who is refused, what finalizers, signal handlers and forks may do meanwhile.

Whatever could hang runs in an interpreter of its own, with a watchdog that shows where it hangs.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from smmap import ReentryError, _lock, _system
from smmap._engine import chosen as engine

from ._tools import PYPY, File, G, World, by_policy, in_thread, is_free, linux, reclaim, run_python

W = 2 * G
SIZE = 6 * W + 77
Buffer: Any = smmap.SlidingWindowMapBuffer
backings = pytest.mark.parametrize("backing", ["mmap", "read"])
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")


@pytest.fixture
def file(world: World) -> File:
    return world.file(SIZE)


class Hooked:
    """Stands for a manager's lock, and calls something when it is used."""

    def __init__(self, *, tried: Callable[[], Any] = int, entered: Callable[[], Any] = int) -> None:
        self.real, self.tried, self.entered = threading.RLock(), tried, entered

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not blocking or timeout >= 0:
            self.tried()
        return self.real.acquire(blocking, timeout)

    def __enter__(self) -> None:
        self.real.acquire()
        self.entered()

    def __exit__(self, *exc: object) -> None:
        self.real.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


# Threads


def test_others_wait_while_a_window_is_mapped(file: File, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who counts or moves meanwhile waits, and finds what was mapped."""
    manager = world.manager(W, backing="mmap")
    inside, go_on = threading.Event(), threading.Event()
    real = engine.map_window

    def slow(*args: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return real(*args)

    seen: list[Any] = []
    cursor, other = manager.make_cursor(file.path), manager.make_cursor(file.path)
    monkeypatch.setattr(engine, "map_window", slow)
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
    assert manager.stats().misses == 1
    cursor.close()
    other.close()


def test_regions_that_others_unpin_in_between_are_tidied_by_the_holder_of_the_lock(
    file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of that operation, not at the start of the next, which may never come."""
    manager = world.manager(W, W, backing="mmap")
    cursors = [manager.make_cursor(file.path).use_region(number * W, W) for number in range(2)]
    real = engine.open_file

    def slow(*args: Any) -> Any:
        in_thread(lambda: [cursor.close() for cursor in cursors])
        return real(*args)

    monkeypatch.setattr(engine, "open_file", slow)
    manager._check_readable(manager._client(file.path), os.O_RDONLY | getattr(os, "O_NOATIME", 0))
    assert manager._lock._notes == type(manager._lock._notes)()
    assert manager._cache.ledger.mapped == 1


def test_hits_and_cold_reads_do_not_wait_for_a_slow_miss(
    file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mapped, or whose descriptor is cached, is read while another thread opens a file that is slow."""
    slow = world.file(3 * W, "slow")
    manager = world.manager(W)
    buffer, other = manager.buffer(file.path), Buffer(manager.make_cursor(file.path), W)
    assert buffer[5 * W] == file.data[5 * W]
    cursor = manager.make_cursor(slow.path)
    inside, go_on = threading.Event(), threading.Event()
    real = engine.open_file

    def open_slowly(where: Any, flags: int) -> Any:
        inside.set()
        assert go_on.wait(60)
        return real(where, flags)

    monkeypatch.setattr(engine, "open_file", open_slowly)
    thread = threading.Thread(target=lambda: cursor.use_region(0, 9))
    thread.start()
    assert inside.wait(60)
    assert in_thread(lambda: other[:9]) == file.data[W : W + 9]
    assert in_thread(lambda: bytes(other.view(3, 9))) == file.data[W + 3 : W + 9]
    assert in_thread(lambda: buffer[4 * W : 4 * W + 9]) == file.data[4 * W : 4 * W + 9]
    assert thread.is_alive()
    go_on.set()
    thread.join(60)
    assert cursor.buffer() == slow.data[:9]
    for client in (buffer, other, cursor):
        client.close()


# Who interrupts a call in its own thread


@pytest.mark.skipif(not hasattr(engine, "seams"), reason="only the fast engine maps without the policy")
@pytest.mark.parametrize("call", ["cursor", "view", "slice"])
def test_exception_in_what_was_noted_during_a_miss_leaves_no_region_and_no_lock(
    call: str, file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others could not do meanwhile is done after the miss, and may be cut short there."""

    class Ring(BaseException):
        pass

    def ring() -> None:
        manager._lock._notes.clear()
        raise Ring

    def others(*_: Any) -> int:
        manager._lock._notes.append((ring, ()))
        return 0

    manager = world.manager(W)
    cursor, buffer = manager.make_cursor(file.path).use_region(0, 5), manager.buffer(file.path)
    miss: dict[str, Callable[[], object]] = {
        "cursor": lambda: cursor.use_region(3 * W, 5),
        "view": lambda: buffer.view(3 * W, 3 * W + 5),
        "slice": lambda: [buffer[3 * W : 3 * W + 5] for _ in range(40)],
    }
    with monkeypatch.context() as patch:
        patch.setitem(engine.seams, "mmap", others)
        with pytest.raises(Ring):
            miss[call]()
    assert not manager._lock._rlock._is_owned()
    assert (manager.stats().pinned, manager.stats().detached) == (1, 0)
    assert cursor.use_region(5 * W, 5).buffer() == file.data[5 * W : 5 * W + 5]
    manager._check()
    cursor.close()


@pytest.mark.skipif(not hasattr(engine, "seams"), reason="only the fast engine maps without the policy")
@pytest.mark.parametrize("call", ["cursor", "view"])
def test_thread_that_misses_while_another_one_maps_waits_without_asking_the_policy(
    call: str, file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy would wait as well, and then take several times as long."""
    manager = world.manager(W)
    cursor, buffer = manager.make_cursor(file.path).use_region(0, 5), manager.buffer(file.path)
    other = manager.make_cursor(file.path).use_region(0, 5)
    miss: dict[str, Callable[[], Any]] = {
        "cursor": lambda: other.use_region(3 * W, 5).buffer(),
        "view": lambda: buffer.view(3 * W, 3 * W + 5),
    }
    threads: list[threading.Thread] = []
    found: list[bytes] = []
    asked: list[object] = []

    def meanwhile(*_: Any) -> int:
        if not threads:
            threads.append(threading.Thread(target=lambda: found.append(bytes(miss[call]()))))
            threads[0].start()
            threads[0].join(0.2)
            assert threads[0].is_alive() or not found
        return 0

    def serve(*args: Any) -> Any:
        asked.append(args)
        return real(*args)

    real = manager._serve
    with monkeypatch.context() as patch:
        patch.setattr(type(manager), "_serve", lambda self, *args: serve(*args))
        patch.setitem(engine.seams, "mmap", meanwhile)
        assert cursor.use_region(5 * W, 5).buffer() == file.data[5 * W : 5 * W + 5]
        threads[0].join(30)
    assert found == [file.data[3 * W : 3 * W + 5]]
    assert not asked
    cursor.close()
    other.close()


def test_miss_in_an_operation_of_another_manager_does_not_wait(file: File, world: World) -> None:
    """As in a finalizer that runs in the middle of it: the holder of the lock may be waiting for this thread's."""
    one, other = world.manager(W), world.manager(W)
    cursor, buffer = other.make_cursor(file.path).use_region(0, 5), other.buffer(file.path)
    held, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: other._lock.run(lambda: held.set() or done.wait(60)))
    thread.start()
    try:
        assert held.wait(60)
        for miss in (lambda: cursor.use_region(3 * W, 5), lambda: buffer.view(3 * W, 3 * W + 5)):
            with pytest.raises(ReentryError):
                one._lock.run(miss)
        assert thread.is_alive()
    finally:
        done.set()
        thread.join(60)
    assert cursor.use_region(3 * W, 5).buffer() == file.data[3 * W : 3 * W + 5]
    cursor.close()


def test_use_is_refused_and_release_put_off_in_the_middle_of_a_miss(
    file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a finalizer or signal handler there would ask for it."""
    manager = by_policy(world.manager(W, backing="mmap"))
    pinned, idle = (manager.make_cursor(file.path).use_region(number * W, 9) for number in (3, 4))
    buffer = manager.buffer(file.path)
    idle.unuse_region()
    real = engine.map_window
    met: list[object] = []

    def interrupted(*args: Any) -> Any:
        monkeypatch.undo()
        for call in (
            lambda: pinned.use_region(5 * W, 9),
            lambda: idle.use_region(5 * W, 9),
            lambda: manager.make_cursor(__file__),
            lambda: buffer.view(5 * W, 5 * W + 9),
        ):
            with pytest.raises(ReentryError, match="only to close or to release"):
                call()
        with pytest.raises(FileNotFoundError):
            manager.make_cursor(f"{file.path}.missing")
        assert pinned.buffer() == file.data[3 * W : 3 * W + 9]
        assert buffer[3 * W : 3 * W + 9] == file.data[3 * W : 3 * W + 9]
        met.append(manager.stats()[:3])
        pinned.close()
        met.append((manager.collect(), manager.release(file.path)))
        return real(*args)

    monkeypatch.setattr(engine, "map_window", interrupted)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 9)
        assert met == [(2, 1, 1), (0, 0)]
        if PYPY:  # what had a view waits for the garbage collection there
            reclaim()
        assert manager.stats()[:3] == (1, 1, 0)  # collected since
        assert cursor.buffer() == file.data[:9]
    buffer.close()


def test_finalizer_between_taking_the_lock_and_the_operation_leaves_it_taken(file: File, world: World) -> None:
    """It may run there, too; then another thread must not come in."""
    manager = world.manager(W)
    cursor, other = manager.make_cursor(file.path), manager.make_cursor(file.path)
    met: list[object] = []

    def entered() -> None:
        if not met:
            met.append(None)
            try:
                other.use_region(W, 9)
            except ReentryError:
                pass
            manager.collect()
            met.append(is_free(manager))

    manager._lock._rlock = Hooked(entered=entered)
    assert cursor.use_region(0, 9).buffer() == file.data[:9]
    assert met == [None, False]
    assert is_free(manager)
    cursor.close()
    other.close()


def test_what_was_noted_and_cut_short_is_done_by_the_next_call(
    file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, what is dropped of a file that is no longer there."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    manager, gone = world.manager(W), world.file(2 * W, "gone")
    with manager.make_cursor(gone.path) as cursor:
        cursor.use_region(W, 9)
    os.unlink(gone.path)
    with monkeypatch.context() as patch:
        patch.setattr(manager._cache, "evict_file", interrupt)
        with pytest.raises(Interrupt):
            manager.make_cursor(gone.path)
    assert is_free(manager)
    assert manager._cache.ledger.mapped == 1
    manager.make_cursor(file.path).close()
    assert manager._cache.ledger.mapped == 0
    manager._check()


@pytest.mark.parametrize("where", ["before", "after"])
def test_lock_is_free_after_a_handler_raised_beside_its_block(
    where: str, file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPython 3.14 it may between the taking of a lock and the block, on 3.9 after the block."""

    class Interrupt(BaseException):
        pass

    class Slow(Hooked):
        def __enter__(self) -> None:
            super().__enter__()
            if where == "before":
                raise Interrupt

        def __exit__(self, *exc: object) -> None:
            if where == "after":
                raise Interrupt
            super().__exit__(*exc)

    manager = world.manager(W)
    cursor = manager.make_cursor(file.path)
    real, manager._lock._rlock = manager._lock._rlock, Slow()
    with pytest.raises(Interrupt):
        cursor.use_region(W, 10)
    assert is_free(manager)
    manager._lock._rlock = real
    assert cursor.use_region(W, 10).buffer() == file.data[W : W + 10]
    manager._check()
    cursor.close()


def test_manager_closed_while_it_opens_a_file_keeps_nothing_open(
    file: File, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read that was under way may end; the next one is refused without a look at the file."""
    manager = by_policy(world.manager(W))
    buffer = manager.buffer(file.path)
    manager.collect()
    real = engine.open_file

    def close_first(*args: Any) -> Any:
        manager.close()
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "open_file", close_first)
        try:
            assert buffer[7:99] == file.data[7:99]
        except smmap.ClosedError:
            pass
    assert manager.stats()[:7] == (0,) * 7
    opened: list[Any] = []
    monkeypatch.setattr(engine, "open_file", lambda *args: opened.append(args))
    with pytest.raises(smmap.ClosedError, match="Manager"):
        buffer[7:99]
    assert not opened
    buffer.close()


# Two managers, two threads

TWO_MANAGERS = """
import sys, threading
import smmap
from smmap._engine import chosen as engine
path, window, kind, backing = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
with open(path, "rb") as file:
    data = file.read()
managers = [smmap.SlidingWindowMapManager(window, 0, 8, backing=backing) for _ in range(2)]
buffers = [manager.buffer(path) for manager in managers]
spare = [manager.make_cursor(path).use_region(3 * window, 9) for manager in managers]
inside = threading.Barrier(2)
busy = threading.local()
refused = []

def finalizer():
    other = busy.turn = 1 - busy.turn
    try:
        if kind == "read":
            assert buffers[other][window:window + 9] == data[window:window + 9]
        elif kind == "view":
            assert buffers[other].view(window, window + 9) == data[window:window + 9]
        elif kind == "cursor":
            with managers[other].make_cursor(path) as cursor:
                assert cursor.use_region(2 * window, 9).buffer() == data[2 * window:2 * window + 9]
        elif kind == "make":
            managers[other].make_cursor(__import__("os").__file__).close()
        elif kind == "close cursor":
            spare[other].close()
        elif kind == "collect":
            assert managers[other].collect() >= 0
        elif kind == "release":
            assert managers[other].release(path) >= 0
        elif kind == "close manager":
            managers[other].close()
        elif kind == "stats":
            managers[other].stats()
    except smmap.ReentryError:
        refused.append(kind)
    inside.wait(20)     # nobody leaves before both have tried

def hook(real):
    def make(*args):
        if getattr(busy, "turn", None) is not None:
            inside.wait(20)
            finalizer()
            busy.turn = None
        return real(*args)
    return make

engine.map_window, engine.read_window = hook(engine.map_window), hook(engine.read_window)
for manager in managers:
    manager._cache.ledger.shortcut = None       # the fast engine would map without these calls

def work(number):
    busy.turn = number
    try:
        with managers[number].make_cursor(path) as cursor:
            assert cursor.use_region(0, 9).buffer() == data[:9]
    except smmap.ClosedError:
        assert kind == "close manager"

threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
    assert not thread.is_alive(), "hangs"
assert not refused or kind in ("read", "view", "cursor", "make"), refused
if kind != "close manager":
    for number in range(2):         # nobody's lock stays taken
        assert buffers[number][window:window + 9] == data[window:window + 9]
        assert spare[number].is_valid() == (kind != "close cursor")
        spare[number].close()
        buffers[number].close()
for manager in managers:
    manager._check()
    manager.collect()
    manager._check()
    assert manager.stats()[:4] == (0, 0, 0, 0), manager.stats()
"""


@backings
@pytest.mark.parametrize(
    "kind",
    ["read", "view", "cursor", "make", "close cursor", "collect", "release", "close manager", "stats"],
)
def test_two_managers_used_by_each_others_finalizers_do_not_deadlock(kind: str, backing: str, file: File) -> None:
    """Each of two threads is in the middle of a miss of its own manager and turns to the other's, at the same time.

    Reading works or raises at once; letting go never raises.
    """
    run_python(TWO_MANAGERS, file.path, W, kind, backing)


FINALIZERS_IN_A_MISS = """
import gc, os, sys, threading
import pytest
import smmap
from core._tools import before_system_call, by_policy
missed, path, window, kind, threshold = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
with open(missed, "rb") as file, open(path, "rb") as other_file:
    missing, data = file.read(), other_file.read()
managers = [smmap.SlidingWindowMapManager(window) for _ in range(2)]
for manager in managers:
    by_policy(manager)                  # where the fast engine serves a miss itself, no code of Python runs
buffers = [manager.buffer(path) for manager in managers]
spare = [manager.make_cursor(path).use_region(3 * window, 9) for manager in managers]
meeting = threading.Barrier(2)
here = threading.local()
told = [None, None]

def turn_to(other):
    if kind == "read":
        assert buffers[other][window:window + 9] == data[window:window + 9]
    elif kind == "view":
        assert buffers[other].view(window, window + 9) == data[window:window + 9]
    elif kind == "cursor":
        with managers[other].make_cursor(path) as cursor:
            assert cursor.use_region(2 * window, 9).buffer() == data[2 * window:2 * window + 9]
    elif kind == "unuse":
        spare[other].unuse_region()
    elif kind == "collect":
        managers[other].collect()
    elif kind == "release":
        managers[other].release(path)
    elif kind == "close":
        managers[other].close()

class Final:
    def __del__(self):
        number = here.number
        try:
            meeting.wait(20)            # both are in the middle of a miss, each with its manager's lock
            turn_to(1 - number)
            told[number] = "works"
        except BaseException as error:
            told[number] = type(error).__name__
        meeting.wait(20)                # and stay there until both have tried

def before(*args):
    if getattr(here, "number", None) is None or here.done:
        return
    here.done = True
    final = Final()
    if here.number == 0:                # one by the collector, which runs in one thread at a time
        final.me = final
        del final
        for _ in range(100 if threshold else 0):
            if told[0] is None:
                [[] for _ in range(100)]
        gc.collect()
    else:                               # the other by its last reference
        del final

before_system_call(pytest.MonkeyPatch(), "fstat", before)

def work(number):
    with managers[number].make_cursor(missed) as cursor:
        here.number, here.done = number, False
        try:
            assert cursor.use_region(0, 9).buffer() == missing[:9]
        except smmap.ClosedError:
            assert kind == "close"

gc.collect()
if threshold:
    gc.set_threshold(threshold)
threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.set_threshold(700)
assert told == ["ReentryError" if kind in ("view", "cursor") else "works"] * 2, told
if kind != "close":
    for number in range(2):             # nobody's lock stays taken
        assert buffers[number][window:window + 9] == data[window:window + 9]
        assert spare[number].is_valid() == (kind != "unuse")
        spare[number].close()
        buffers[number].close()
for manager in managers:
    manager.collect()
    manager._check()
    assert manager.mapped_memory_size() == manager.num_open_files() == 0, manager.stats()
print(*told)
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="finalizers run in any thread there, and late")
@pytest.mark.parametrize("threshold", [0, 1], ids=["collector at its time", "collector always"])
@pytest.mark.parametrize("kind", ["read", "view", "cursor", "unuse", "collect", "release", "close"])
def test_finalizers_that_turn_to_another_busy_manager_in_the_middle_of_a_miss_end(
    kind: str, threshold: int, file: File, world: World
) -> None:
    """Two threads, each in a miss of its own manager, where `__del__` of an object that died there uses the other's.

    A cold read by a cached descriptor works, and what needs the lock raises `ReentryError` at once. Letting go never
    raises, and is done when the manager is free.
    """
    other = world.file(4 * W, "other")
    run_python(FINALIZERS_IN_A_MISS, file.path, other.path, W, kind, threshold)


DYING_REGIONS = """
import sys, threading, weakref
import smmap
from smmap.util import MapRegion
path, window, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(path, "rb") as file:
    data = file.read()

class Region(MapRegion):
    gone = None
    def __del__(self):
        if self.gone is not None:
            self.gone(self)

class Manager(smmap.SlidingWindowMapManager):
    MapRegionCls = Region

managers = [Manager(window, window, 9) for _ in range(2)]
meeting = threading.Barrier(2)
told = [None, None]

def work(number):
    def gone(_):
        meeting.wait(20)                # both evict a region of their own manager
        try:
            with managers[1 - number].make_cursor(path) as cursor:
                assert cursor.use_region(5 * window, 9).buffer() == data[5 * window:5 * window + 9]
            told[number] = "works"
        except BaseException as error:
            told[number] = type(error).__name__
        managers[1 - number].collect()  # is never refused
        meeting.wait(20)

    with managers[number].make_cursor(path) as cursor:
        cursor.use_region(0, 9)
        if kind == "weak reference":
            reference = weakref.ref(cursor.map(), gone)
        else:
            cursor.region().gone = gone
        cursor.unuse_region()
        assert cursor.use_region(3 * window, 9).buffer() == data[3 * window:3 * window + 9]

threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert set(told) <= {"works", "ReentryError"}, told
for manager in managers:
    manager.collect()
    manager._check()
    assert manager.stats()[:2] == (0, 0), manager.stats()
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="callbacks come late there, outside of any call")
@pytest.mark.parametrize("kind", ["weak reference", "class of regions"])
def test_code_of_users_that_uses_another_busy_manager_where_an_evicted_region_dies_ends(kind: str, file: File) -> None:
    """The region dies in the middle of another one's miss, which the fast engine may serve by itself."""
    run_python(DYING_REGIONS, file.path, W, kind)


TWO_MANAGERS_WITH_GARBAGE = """
import gc, random, sys, threading
import smmap
path, window, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "rb") as file:
    data = file.read()
managers = [smmap.SlidingWindowMapManager(window, 3 * window, 6) for _ in range(2)]
buffers = [manager.buffer(path) for manager in managers]
done = []

class Finalizer:
    def __init__(self, other, kind):
        self.me, self.other, self.kind = self, other, kind
        self.cursor = smmap.WindowCursor(managers[other])      # the next line may fail
        self.cursor = managers[other].make_cursor(path).use_region(kind % 6 * window, 5)

    def __del__(self):
        try:
            if self.kind % 3 == 0:
                assert buffers[self.other][self.kind % 6 * window] == data[self.kind % 6 * window]
            elif self.kind % 3 == 1 and self.cursor.is_associated():
                self.cursor.use_region(2 * window, 9)
        except (smmap.ReentryError, smmap.LimitError):
            pass
        self.cursor.close()
        if self.kind % 5 == 0:
            managers[self.other].collect()
        done.append(1)

def work(number):
    chance = random.Random(number)
    for step in range(steps):
        try:
            Finalizer(1 - number, step)
            Finalizer(number, step)
            with managers[number].make_cursor(path) as cursor:
                offset = chance.randrange(len(data) - 9)
                assert cursor.use_region(offset, 9).buffer() == data[offset:offset + 9]
            assert buffers[number][offset:offset + 99] == data[offset:offset + 99]
        except smmap.LimitError:        # cursors in cycles wait for the collector
            gc.collect()

sys.setswitchinterval(1e-5)
if hasattr(gc, "set_threshold"):
    gc.set_threshold(3)
threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if hasattr(gc, "set_threshold"):
    gc.set_threshold(700)
for _ in range(3):
    gc.collect()
assert len(done) > steps, done
for number in range(2):
    managers[number]._check()
    assert managers[number].stats().pinned == 0
    buffers[number].close()
    managers[number].collect()
    managers[number]._check()
    assert managers[number].stats()[:7] == (0,) * 7, managers[number].stats()
"""


def test_two_managers_whose_finalizers_run_in_any_thread_do_not_deadlock(file: File) -> None:
    """The collector runs them at any allocation, in the middle of whatever that thread does."""
    steps = 300 if sys.implementation.name == "cpython" else 60
    run_python(TWO_MANAGERS_WITH_GARBAGE, file.path, W, steps, timeout=60)


# Finalizers and signal handlers

FINALIZERS = """
import gc, random, sys
import smmap
path, window = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window, 3 * window, 4)
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
done = refused = 0

class Finalizer:
    def __init__(self, kind):
        self.kind, self.me = "none", self   # as long as it is not made
        if kind in ("close", "unuse"):
            self.cursor = manager.make_cursor(path).use_region(0, 5)
            self.view = self.cursor.buffer()
        self.kind = kind

    def __del__(self):
        global done, refused
        done += 1
        try:
            if self.kind == "collect":
                assert manager.collect() >= 0
            elif self.kind == "stats":
                manager.stats(), manager.num_file_handles(), repr(manager)
            elif self.kind == "close":
                self.cursor.close()
            elif self.kind == "unuse":
                self.cursor.unuse_region()
            elif self.kind == "release":
                assert manager.release(path) >= 0
            elif self.kind == "read":
                assert buffer[7 * window // 2] == data[7 * window // 2]
            elif self.kind == "map":
                with manager.make_cursor(path) as cursor:
                    assert cursor.use_region(2 * window, 5).buffer() == data[2 * window:2 * window + 5]
        except smmap.ReentryError:
            refused += 1
            assert self.kind in ("read", "map"), self.kind
        except smmap.LimitError:
            assert self.kind == "map"

def threshold(number):
    if hasattr(gc, "set_threshold"):
        gc.set_threshold(number)
    else:
        gc.collect()

KINDS = ["collect", "stats", "close", "unuse", "release", "read", "map"]
chance = random.Random(3)
threshold(1)
for step in range(int(sys.argv[3])):
    try:
        Finalizer(KINDS[step % len(KINDS)])
        cursor = manager.make_cursor(path)
        offset = chance.randrange(len(data))
        assert cursor.use_region(offset, 9).buffer() == data[offset:offset + 9]
        at = chance.randrange(len(data))
        assert buffer[at:at + 99] == data[at:at + 99]
        manager.stats()
        copy = [cursor]
        copy.append(copy)
        del cursor, copy
    except smmap.LimitError:        # the collector may be late with cursors in cycles
        gc.collect()
    manager._check()
threshold(700)
for _ in range(3):
    gc.collect()
manager._check()
assert manager.stats().pinned == 0, manager.stats()
buffer.close()
manager.collect()
for _ in range(3):
    gc.collect()
assert manager.stats().mapped == 0, manager.stats()
assert done >= int(sys.argv[3]) - 9, done
"""


def test_finalizers_that_use_a_manager_while_it_works(file: File) -> None:
    """They can run inside its lock, in the same thread: never a deadlock. Letting go is never refused."""
    steps = 700 if sys.implementation.name == "cpython" else 70
    run_python(FINALIZERS, file.path, W, steps)


SIGNALS = """
import random, signal, sys, time
import smmap
path, window = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window, 3 * window, 4)
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
calls = refused = 0

def handler(number, frame):
    global calls, refused
    calls += 1
    try:
        manager.collect()
        manager.stats()
        assert buffer[3 * window] == data[3 * window]
        with manager.make_cursor(path) as cursor:
            assert cursor.use_region(window, 9).buffer() == data[window:window + 9]
    except smmap.ReentryError:
        refused += 1

signal.signal(signal.SIGALRM, handler)
chance = random.Random(3)
cursor = manager.make_cursor(path)
armed = -1
while calls < 300:
    if armed < calls:                   # one after the other, so that handlers do not interrupt themselves
        armed = calls
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.0007 * chance.random())
    offset = chance.randrange(len(data))
    assert cursor.use_region(offset, 9).buffer() == data[offset:offset + 9]
    assert buffer[offset:offset + 99] == data[offset:offset + 99]
signal.setitimer(signal.ITIMER_REAL, 0)
cursor.close()
manager._check()
"""


@pytest.mark.skipif(os.name != "posix", reason="no such signals there")
def test_signal_handlers_that_use_a_manager_while_it_works(file: File) -> None:
    run_python(SIGNALS, file.path, W)


# Forks


def test_fork_takes_every_lock_and_gives_it_back(world: World) -> None:
    """What runs around a fork, run by hand: the parent's locks are free again, the child's are new."""
    managers = [world.manager(W) for _ in range(3)]
    _lock._before_fork()
    assert [is_free(manager) for manager in managers] == [False] * 3
    _lock._after_fork_in_parent()
    assert [is_free(manager) for manager in managers] == [True] * 3
    _lock._before_fork()
    taken = [manager._lock._rlock for manager in managers]
    others = list(_lock._thread.taken)
    _lock._after_fork_in_child()
    assert [is_free(manager) for manager in managers] == [True] * 3
    assert all(manager._lock._rlock is not lock for manager, lock in zip(managers, taken))
    assert _lock._thread.taken == []
    for lock in others:
        lock.release()
    for manager in managers:
        manager._check()


def test_forks_of_two_threads_give_back_their_own_locks(world: World) -> None:
    manager = world.manager(W)
    _lock._before_fork()
    in_thread(_lock._after_fork_in_parent)  # of a fork that began in another thread, before this one
    assert not is_free(manager)
    _lock._after_fork_in_parent()
    assert is_free(manager)


FORKS_OF_THREADS = """
import os, random, sys, threading, time
import smmap
path, window = sys.argv[1], int(sys.argv[2])
managers = [smmap.SlidingWindowMapManager(window, 2 * window) for _ in range(10)]
stop = time.monotonic() + 1.5

def work(number):
    chance = random.Random(number)
    while time.monotonic() < stop:
        chance.choice(managers).make_cursor(path).use_region(chance.randrange(4 * window), 9)

def fork():
    while time.monotonic() < stop:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
threads += [threading.Thread(target=fork) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for manager in managers:
    manager._check()
"""


@pytest.mark.skipif(
    not hasattr(os, "fork") or _system.FREE_THREADED, reason="no forks, or such that hang by themselves"
)
def test_threads_that_fork_at_once(file: File) -> None:
    run_python(FORKS_OF_THREADS, file.path, W, options=("-W", "error", "-W", "ignore::DeprecationWarning"))


def test_fork_waits_long_for_one_lock_without_holding_another(world: World) -> None:
    """Whoever holds that one may need the other one first."""
    one, two = world.manager(W), world.manager(W)
    tried, held = threading.Event(), threading.Event()
    got: list[bool] = []
    two._lock._rlock = Hooked(tried=tried.set)

    def needs_both() -> None:
        with two._lock._rlock:
            held.set()
            assert tried.wait(60)
            got.append(one._lock._rlock.acquire(timeout=20))
            if got[0]:
                one._lock._rlock.release()

    thread = threading.Thread(target=needs_both)
    thread.start()
    assert held.wait(60)
    _lock._before_fork()
    assert not is_free(one)
    assert not is_free(two)
    _lock._after_fork_in_parent()
    thread.join(60)
    assert got == [True]
    assert is_free(one)
    assert is_free(two)


def test_fork_takes_locks_that_are_never_free_at_the_same_moment(world: World) -> None:
    class Busy(Hooked):
        """Free only for those who wait a little."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            return (blocking and timeout != 0) and super().acquire(blocking, timeout)

    one, two = world.manager(W), world.manager(W)
    one._lock._rlock, two._lock._rlock = Busy(), Busy()
    taken = threading.Event()

    def take() -> None:
        _lock._before_fork()
        taken.set()
        _lock._after_fork_in_parent()

    threading.Thread(target=take, daemon=True).start()
    assert taken.wait(20)


@pytest.mark.parametrize("moment", ["waits", "counts"])
def test_manager_made_while_a_fork_takes_the_locks_is_locked_too(world: World, moment: str) -> None:
    """While it waits for one, or after it had looked which there are."""
    manager = world.manager(W)
    made: list[Any] = []

    def make() -> None:
        if not made:
            made.append(world.manager(W))

    def work() -> None:
        with manager._lock._rlock:
            held.set()
            assert go_on.wait(60)
            make()

    if moment == "counts":
        manager._lock._rlock = Hooked(tried=make)
        _lock._before_fork()
    else:
        held, go_on = threading.Event(), threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        assert held.wait(60)
        timer = threading.Timer(0.05, go_on.set)
        timer.start()
        _lock._before_fork()
        thread.join(60)
        timer.join(60)
    assert not is_free(manager)
    assert not is_free(made[0])
    _lock._after_fork_in_parent()
    assert is_free(manager)
    assert is_free(made[0])


FORK = """
import os, random, signal, sys, threading, time
import smmap
path, window = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window, 3 * window, 4, backing=sys.argv[3])
cursor = manager.make_cursor(path).use_region(window, 9)
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
view = buffer.view(2 * window, 2 * window + 9)

def check(seed, rounds=20):
    chance = random.Random(seed)
    assert view == data[2 * window:2 * window + 9]
    assert cursor.buffer() == data[cursor.ofs_begin():cursor.ofs_end()]
    with manager.make_cursor(path) as mine:
        for _ in range(rounds):
            offset = chance.randrange(len(data))
            assert mine.use_region(offset, 9).buffer() == data[offset:offset + 9]
            assert buffer[offset:offset + 99] == data[offset:offset + 99]
            manager._check()
    cursor.use_region(chance.randrange(len(data)), 9)
    manager.collect()
    stats = manager.stats()
    assert stats.pinned == 1, stats
    manager._check()

def fork(seed):
    child = os.fork()
    if not child:
        try:
            signal.alarm(5 if "free-threading" in sys.version else 30)  # the watchdog's thread is not here any more
            check(seed)
            if seed % 5 == 0:           # a child of the child
                grandchild = os.fork()
                if not grandchild:
                    signal.alarm(30)
                    check(seed + 1)
                    os._exit(0)
                assert os.waitpid(grandchild, 0)[1] == 0
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return child

"""

FORK_ALONE = (
    FORK
    + """
for seed in range(12):
    child = fork(seed)
    check(-seed)                # both sides read and evict
    assert os.waitpid(child, 0)[1] == 0
"""
)

FORK_WITH_THREADS = (
    FORK
    + """
stop = threading.Event()

def work(seed):
    chance = random.Random(seed)
    with manager.make_cursor(path) as mine:
        while not stop.is_set():
            offset = chance.randrange(len(data))
            try:
                assert mine.use_region(offset, 9).buffer() == data[offset:offset + 9]
                mine.unuse_region()
            except smmap.LimitError:
                pass

manager = smmap.SlidingWindowMapManager(window, 0, 64, backing=sys.argv[3])
cursor = manager.make_cursor(path).use_region(window, 9)
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(2)]
for thread in threads:
    thread.start()

def check(seed, rounds=5):
    manager._check()            # the other threads' cursors may hold a window each: they are copied as they were
    with manager.make_cursor(path) as mine:
        for offset in range(0, len(data), window + 7):
            assert mine.use_region(offset, 9).buffer() == data[offset:offset + 9]
            assert buffer[offset:offset + 99] == data[offset:offset + 99]
    manager.collect()
    assert manager.stats().pinned <= 3
    manager._check()

# Free-threaded CPython 3.13 may copy a lock of its own (of a dict, say) that it has just handed to a thread which is
# not in the child: there a child may hang in any Python code, without smmap as well.
free = "free-threading" in sys.version
ends = {0, signal.SIGALRM} if free else {0}
good = 0
for seed in range(8 if free else 25):
    child = fork(seed)
    status = os.waitpid(child, 0)[1]
    assert status in ends, status
    good += status == 0
assert good > 3
stop.set()
for thread in threads:
    thread.join()
manager.collect()
manager._check()
"""
)

FORK_FROM_A_FINALIZER = (
    FORK
    + """
import gc
children = []

class Forks:
    def __init__(self):
        self.me = self
    def __del__(self):
        child = os.fork()
        if not child:
            os._exit(0)
        children.append(child)

for step in range(12):
    Forks()
    if hasattr(gc, "set_threshold"):
        gc.set_threshold(1)
    cursor.use_region(step % 6 * window, 9)
    assert cursor.buffer() == data[step % 6 * window:][:9]
    if hasattr(gc, "set_threshold"):
        gc.set_threshold(700)
    manager._check()
gc.collect()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
check(5)
"""
)


@forks
@backings
@pytest.mark.parametrize(
    "script", [FORK_ALONE, FORK_WITH_THREADS, FORK_FROM_A_FINALIZER], ids=["alone", "threads", "finalizer"]
)
def test_children_read_and_evict_on_their_own(script: str, backing: str, file: File) -> None:
    """Children read and evict on their own; a lock that was held at the fork is free in the child."""
    run_python(script, file.path, W, backing, options=("-X", "dev", "-W", "ignore"))


COUNTERS = """
import os, sys
import smmap
path, window = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window, 3 * window)
cursor = manager.make_cursor(path).use_region(window, 9)
buffer = manager.buffer(path)
for place in range(0, len(data), 100):
    buffer[place]
stats = manager.stats()
assert stats.hits and stats.misses and stats.cold_reads
child = os.fork()
if not child:
    same = manager.stats() == stats
    buffer[0], buffer[5]
    os._exit(0 if same and manager.stats() != stats else 1)
assert os.waitpid(child, 0)[1] == 0
assert manager.stats() == stats
cursor.close()
"""


@forks
def test_child_goes_on_with_a_copy_of_the_counters(file: File) -> None:
    run_python(COUNTERS, file.path, W, options=("-W", "ignore"))


@linux
@forks
def test_child_keeps_what_the_parent_gives_up(file: File, tmp_path: Path) -> None:
    script = FORK + (
        """
read, write = os.pipe()
child = os.fork()
if not child:
    os.read(read, 1)
    ok = view == data[2 * window:2 * window + 9] and cursor.buffer() == data[window:window + 9]
    os._exit(0 if ok else 1)
del view
cursor.close(); buffer.close(); manager.close()
os.unlink(path)
os.write(write, b"x")
assert os.waitpid(child, 0)[1] == 0
"""
    )
    run_python(script, file.path, W, "mmap", options=("-X", "dev", "-W", "ignore"))


def test_cold_read_of_a_file_that_is_slow_to_open_keeps_nobody_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold reads open files without the lock; of two that open the same file, one descriptor is cached."""
    slow, other = world.file(3 * W, "slow"), world.file(3 * W)
    manager = by_policy(world.manager(W))
    beside = manager.buffer(other.path)
    buffers = [manager.buffer(slow.path) for _ in range(2)]
    manager.collect()
    opening, done = threading.Semaphore(0), threading.Event()
    real = engine.open_file

    def open_slowly(where: Any, flags: int) -> Any:
        opened = real(where, flags)
        if where == slow.path or where == str(slow.path):
            opening.release()
            assert done.wait(60)
        return opened

    monkeypatch.setattr(engine, "open_file", open_slowly)
    got: list[bytes] = []
    readers = [threading.Thread(target=lambda one=one: got.append(one[7:99])) for one in buffers]
    for reader in readers:
        reader.start()
        assert opening.acquire(timeout=60)
    assert beside[7:99] == other.data[7:99]
    assert manager.stats().cold_reads == 1
    done.set()
    for reader in readers:
        reader.join()
    assert got == [slow.data[7:99]] * 2
    assert manager.stats().cold_reads == 3
    assert manager.stats().descriptors == 2
    manager._check()
