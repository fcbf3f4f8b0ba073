"""Exceptions from outside: what signal handlers raise (Ctrl-C, alarms), and what one thread sends to another.

Whatever call they end, and wherever: the exception comes out as it is, the next call works, bytes are right, counters
are exact, no lock stays taken, and nothing stays mapped or open once everything is gone.
"""

from __future__ import annotations

import copy
import ctypes
import os
import random
import signal
import sys
import threading
import time
import traceback
from typing import Any, Callable

import pytest

import smmap
from smmap import _lock, _system
from smmap._engine import chosen as engine
from smmap._engine import plain
from smmap._log import Log

from ._tools import LATE, LINUX, PYPY, G, World, before_system_call, descriptors, is_free, maps, reclaim

W = 2 * G
SIZE = 6 * W + 100
SECONDS = 0.7
Buffer: Any = smmap.SlidingWindowMapBuffer
backings = pytest.mark.parametrize("backing", ["mmap", "read"])
timers = pytest.mark.skipif(
    not hasattr(signal, "setitimer") or sys.gettrace() is not None, reason="no timers, or they would hit the tracer"
)
KINDS = [KeyboardInterrupt, TimeoutError, ValueError, OSError, KeyError, IndexError, MemoryError, AttributeError]
kinds = pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])


class Scene:
    """A manager with little room, and clients of two files in every state."""

    cursor: Any = None
    view: Any = None
    region: Any = None

    def __init__(self, world: World, backing: str) -> None:
        self.folder = world.folder
        self.name = str(world.folder)
        made = [world.file(SIZE, "one"), world.file(SIZE - 23, "two")]
        self.files: list[Any] = [file._replace(path=str(file.path)) for file in made]  # pathlib swallows exceptions
        self.manager = world.manager(W, 4 * W, 8, backing=backing)
        self.manager.max_file_handles()  # imports a module: that swallows exceptions
        self.chance = random.Random(7)
        one, two = self.files
        self.buffer = self.manager.buffer(one.path)
        self.other = Buffer(self.manager.make_cursor(two.path))
        self.cursor = self.manager.make_cursor(one.path).use_region(3 * W + 5, 100)
        self.still = self.manager.make_cursor(one.path).use_region(5 * W + 5, 100)
        self.view = self.buffer.view(W + 1, W + 50)

    def offset(self) -> int:
        return self.chance.randrange(SIZE - 200)

    # What may be cut short

    def move(self) -> None:
        at, size = self.offset(), self.chance.choice([0, 1, 50, W])
        assert self.cursor.use_region(at, size).buffer() == self.files[0].data[at : self.cursor.ofs_end()]

    def read(self) -> None:
        at = self.offset()
        assert self.buffer[at : at + 99] == self.files[0].data[at : at + 99]
        assert self.other[at] == self.files[1].data[at]

    def read_until_mapped(self) -> None:
        at = self.offset()
        for number in range(12):
            assert self.other[at + number] == self.files[1].data[at + number]

    def read_across(self) -> None:
        assert self.buffer[W - 9 : 3 * W + 9] == self.files[0].data[W - 9 : 3 * W + 9]

    def see(self) -> None:
        at = self.offset()
        assert self.other.view(at, at + 99) == self.files[1].data[at : at + 99]

    def search(self) -> None:
        at = self.offset()
        assert self.other.find(self.files[1].data[at : at + 20]) == self.files[1].data.find(
            self.files[1].data[at : at + 20]
        )

    def start(self) -> None:
        self.other.begin_access(self.manager.make_cursor(self.files[1].path))

    def open(self) -> None:
        with self.manager.buffer(self.files[1].path) as buffer:
            assert buffer[W : W + 9] == self.files[1].data[W : W + 9]

    def collect(self) -> None:
        self.manager.collect()

    def release(self) -> None:
        self.manager.release(self.name)

    def drop_cursor(self) -> None:
        self.cursor = None
        self.cursor = self.manager.make_cursor(self.files[0].path).use_region(self.offset(), 9)

    def close_cursor(self) -> None:
        with self.manager.make_cursor(self.files[1].path) as cursor:
            cursor.use_region(self.offset(), 9)

    def assign(self) -> None:
        cursor = self.manager.make_cursor(self.files[1].path)
        cursor.assign(self.still)
        assert cursor.buffer() == self.files[0].data[5 * W + 5 : 5 * W + 105]
        cursor.assign(self.cursor)

    def drop_view(self) -> None:
        self.view = None
        self.view = self.buffer.view(W + 1, W + 50)

    def by_hand(self) -> None:
        with self.manager.make_cursor(self.files[1].path) as cursor:
            self.region = cursor.use_region(0, 9).region()
            self.region.increment_client_count(2)
            self.region.increment_client_count(-2)
            self.region.release()

    # What must hold afterwards

    def look(self) -> None:
        """Everything answers rightly, and the ledger is exact."""
        if self.region is not None:
            self.region.release()  # what was counted by hand is the user's to give back
            self.region = None
        self.manager._check()
        for buffer, file in ((self.buffer, self.files[0]), (self.other, self.files[1])):
            if not buffer.closed:
                for at in (0, 2 * W - 3, 5 * W):
                    assert buffer[at : at + 9] == file.data[at : at + 9]
        if self.cursor is not None:
            if self.cursor.is_valid():
                assert self.cursor.size() > 0
                assert self.cursor.buffer() == self.files[0].data[self.cursor.ofs_begin() : self.cursor.ofs_end()]
            assert self.cursor.use_region(W - 3, 10).buffer() == self.files[0].data[W - 3 : W + 7]
        assert self.view is None or self.view == self.files[0].data[W + 1 : W + 50]
        assert self.still.buffer() == self.files[0].data[5 * W + 5 : 5 * W + 105]
        self.manager._check()
        stats = self.manager.stats()
        pinned = len({id(c.region()) for c in (self.cursor, self.still) if c is not None})
        if LATE and stats.pinned > pinned:
            reclaim()  # cursors of calls that were cut short
            stats = self.manager.stats()
        assert stats.pinned == pinned, stats

    def repair(self) -> None:
        """Have again what a call had dropped when it was cut short."""
        if self.other.closed:
            self.start()
        if self.cursor is None:
            self.drop_cursor()
        if self.view is None:
            self.drop_view()

    def leave(self) -> None:
        """Nothing stays pinned, mapped or open, and another thread can use the manager."""
        found: list[object] = []
        file = self.files[0]

        def use() -> None:
            with self.manager.make_cursor(file.path) as cursor:
                found.append(bytes(cursor.use_region(W, 9).buffer()))

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(30)
        assert found == [file.data[W : W + 9]], "a lock stays taken"
        self.view = None
        forget(sys.exc_info()[1])  # on PyPy, what was being handled when the alarm came
        for client in (self.buffer, self.other, self.cursor, self.still):
            if client is not None:
                client.close()
        for _ in range(2):
            self.manager.collect()
            reclaim()
        self.manager._check()
        assert self.manager.stats()[:7] == (0,) * 7, self.manager.stats()
        if LINUX:
            assert maps(self.folder) == []
            assert descriptors(self.folder) == []


CALLS = [
    "move",
    "read",
    "read_until_mapped",
    "read_across",
    "see",
    "search",
    "start",
    "open",
    "collect",
    "release",
    "drop_cursor",
    "close_cursor",
    "assign",
    "drop_view",
    "by_hand",
]
CALLS_FOR_ERRORS_OF_THE_SYSTEM = [call for call in CALLS if call != "release"]
ERRORS_OF_THE_SYSTEM = (OSError, ValueError, AttributeError)
"""`os.path.realpath` takes a handler's for the system's, in one version of Python or another."""
calls = pytest.mark.parametrize("call", CALLS)


# At random moments


HANDLER = """
def ring(*args):
    error = kind("from a handler")
    raised.append(error)
    where.append(args[-1])
    raise error
"""


def handler(kind: type[BaseException]) -> tuple[Any, list[BaseException], list[Any]]:
    """One that raises such an exception; what it raised, and the frames in which. Its globals have no `__name__`."""
    scope: dict[str, Any] = {"kind": kind, "raised": [], "where": []}
    exec(HANDLER, scope)
    return scope["ring"], scope["raised"], scope["where"]


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What ended a finalizer: such an exception reaches nobody else."""
    met: list[BaseException | None] = []

    def hook(it: Any) -> None:
        met.append(it.exc_value)
        forget(it.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return met


def forget(error: BaseException | None) -> None:
    """What keeps frames alive, and whatever they refer to."""
    if error is not None:
        error.__traceback__ = error.__context__ = error.__cause__ = None


def repeat(call: Callable[[], object], done: Callable[[], bool]) -> None:
    """A function of its own: in CPython 3.12 and 3.13 a `try` misses exceptions at the end of a loop's turn."""
    while not done():
        call()


def ring_while(
    call: Callable[[], object],
    kind: type[BaseException],
    delay: float,
    unraisable: list[BaseException | None],
) -> None:
    """Call again and again until an alarm's handler has raised; what comes out must be what it raised."""
    ring, raised, where = handler(kind)
    caught: BaseException | None = None
    before = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            repeat(call, lambda: bool(raised))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except kind as error:
        caught = error
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised
    if caught is not raised[0]:
        assert caught is None
        swallowed = not any(each is raised[0] for each in unraisable)
        assert not swallowed, f"the exception was swallowed\n{''.join(traceback.format_stack(where[0])[-5:])}"
    unraisable.clear()
    where.clear()
    forget(raised[0])


@timers
@backings
@kinds
def test_alarm_at_any_moment_comes_out_and_leaves_everything_right(
    kind: type[BaseException], backing: str, world: World, unraisable: list[BaseException | None]
) -> None:
    scene = Scene(world, backing)
    end = time.monotonic() + SECONDS
    met = 0
    while time.monotonic() < end or (LATE and met <= 5):
        call = scene.chance.choice(CALLS_FOR_ERRORS_OF_THE_SYSTEM if issubclass(kind, ERRORS_OF_THE_SYSTEM) else CALLS)
        ring_while(getattr(scene, call), kind, scene.chance.uniform(2e-5, 6e-4), unraisable)
        met += 1
        scene.look()
        scene.repair()
    assert met > (5 if LATE else 20)
    scene.leave()


@timers
@backings
def test_alarms_leave_no_handle_taken(backing: str, world: World, unraisable: list[BaseException | None]) -> None:
    """A manager with three handles goes through hundreds of alarms, some of which end a finalizer."""
    file: Any = world.file(SIZE)
    file = file._replace(path=str(file.path))
    manager = world.manager(W, 0, 3, backing=backing)
    manager.max_file_handles()  # imports a module: that swallows exceptions
    chance = random.Random(3)

    def use() -> None:
        at = chance.randrange(SIZE - 9)
        cursor = manager.make_cursor(file.path).use_region(at, 9)
        view = cursor.buffer()
        assert view == file.data[at : at + 9]
        del view
        manager.make_cursor(file.path).use_region(at, 1)
        del cursor

    end = time.monotonic() + 2 * SECONDS
    while time.monotonic() < end:
        ring_while(use, TimeoutError, chance.uniform(1e-5, 2e-4), unraisable)
        if LATE:
            reclaim()
    reclaim()
    cursors = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(3)]
    assert manager.stats()[:4] == (3, 3, 0, 0)
    for number, cursor in enumerate(cursors):
        assert cursor.buffer() == file.data[number * W : number * W + 9]
        cursor.close()


class Sent(TimeoutError):
    """What one thread sends to another."""


@pytest.mark.skipif(PYPY, reason="no such call")
@backings
def test_exception_sent_to_a_thread_comes_out_and_leaves_everything_right(
    backing: str, world: World, unraisable: list[BaseException | None]
) -> None:
    scene = Scene(world, backing)
    chance = random.Random(5)
    caught: list[BaseException] = []
    other: list[BaseException] = []
    stop = threading.Event()
    ready = False  # no event, which would stay locked if the exception came in its middle

    def call() -> None:
        nonlocal ready
        ready = True
        getattr(scene, scene.chance.choice(CALLS_FOR_ERRORS_OF_THE_SYSTEM))()

    def work() -> None:
        nonlocal ready
        while not stop.is_set():
            came = None
            try:
                repeat(call, stop.is_set)
            except Sent as error:
                ready = False
                came = error
            except BaseException as error:
                other.append(error)
                return
            if came is not None:  # not in the block above, where Python 3.9 and 3.10 keep all frames alive
                for each in (came, *unraisable):  # the hook may not have got so far
                    forget(each)
                try:
                    scene.look()
                    scene.repair()
                except BaseException as wrong:
                    other.append(wrong)
                    return
                caught.append(came)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    end = time.monotonic() + 2 * SECONDS
    sent = lost = 0
    while time.monotonic() < end and not other:
        late = time.monotonic() + 30
        while not (ready or other):
            assert time.monotonic() < late
            time.sleep(1e-4)
        time.sleep(chance.uniform(1e-5, 1e-3))
        assert (
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Sent)) == 1
        )
        sent += 1
        late = time.monotonic() + 1
        while len(caught) + len(unraisable) + lost < sent and not other:
            lost += time.monotonic() > late
            time.sleep(1e-4)
    stop.set()
    thread.join(30)
    assert not thread.is_alive(), "hangs"
    if other:
        raise other[0]
    assert sent > (3 if LATE else 20)
    assert lost <= 1, "exceptions were swallowed"  # one may have ended the hook of what is unraisable
    unraisable.clear()
    scene.leave()


@pytest.mark.parametrize("call", ["open_file", "map_window", "read_window", "pread"])
@kinds
def test_alarm_in_a_system_call_is_raised_as_it_is(
    kind: type[BaseException], call: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is tried, no name is added: `TimeoutError` is an `OSError`, but none of the system's."""
    file, other = world.file(SIZE, "one"), world.file(SIZE, "two")
    manager = world.manager(W, backing="read" if call == "read_window" else "mmap")
    buffer, cursor = manager.buffer(file.path), manager.make_cursor(other.path)
    assert buffer[W : W + 9] == file.data[W : W + 9]
    ring, raised, _ = handler(kind)
    before = manager.stats()
    with monkeypatch.context() as patch:
        if call == "pread":
            before_system_call(patch, call, ring)
        else:
            patch.setattr(engine, call, ring)
        with pytest.raises(kind) as caught:
            if call == "pread":
                buffer[3 * W : 3 * W + 9]
            else:
                cursor.use_region(0, 9)
        assert caught.value is raised[0]
        assert len(raised) == 1
        del caught
    raised.clear()
    after = manager.stats()
    assert (after.mapped, after.evictions) == (before.mapped, before.evictions)
    assert buffer[3 * W : 3 * W + 9] == file.data[3 * W : 3 * W + 9]
    assert cursor.use_region(0, 9).buffer() == other.data[:9]
    manager._check()
    buffer.close()
    cursor.close()


# At each line in turn


SOURCES = os.path.dirname(smmap.__file__)


def interrupted_at(number: int, error: BaseException, call: Callable[[], object]) -> bool:
    """Raise at the line of the library's that is run as the `number`-th; whether there were so many."""
    left = number

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal left
        if event == "call":
            name = frame.f_code.co_filename
            if not name.startswith(SOURCES):
                return None
            outer = frame
            while outer is not None and outer.f_code.co_name != "__del__":  # what a finalizer raises reaches nobody
                outer = outer.f_back
            return trace if outer is None else None
        if event == "line" and frame.f_lineno not in NEVER[frame.f_code.co_filename]:
            left -= 1
            if not left:
                sys.settrace(None)
                raise error
        return trace

    sys.settrace(trace)
    try:
        call()
    except type(error) as caught:
        assert caught is error
        forget(error)
        return True
    finally:
        sys.settrace(None)
    assert left > 0, "the exception was swallowed"
    return False


class Never(dict):  # type: ignore[type-arg]
    """The lines of a file at which no handler raises: CPython lets them run at calls, and where functions start."""

    def __missing__(self, name: str) -> frozenset[int]:
        with open(name, encoding="utf-8") as file:
            self[name] = frozenset(number for number, line in enumerate(file, 1) if "(" not in line)
        return self[name]


NEVER = Never()


class Interrupt(BaseException):
    """What nobody catches."""


@pytest.mark.skipif(PYPY, reason="tracing reaches finalizers there")
@pytest.mark.skipif(sys.gettrace() is not None, reason="lines are traced already")
@backings
@calls
def test_exception_at_any_line_leaves_everything_right(call: str, backing: str, world: World) -> None:
    """Without luck, as far as the engine has lines."""
    scene = Scene(world, backing)
    number = ended = 0
    while ended < 2:
        number += 1
        kind = [Interrupt, *KINDS][number % (len(KINDS) + 1)]
        scene.chance.seed(number)
        try:
            ended = 0 if interrupted_at(number, kind("from a handler"), getattr(scene, call)) else ended + 1
            scene.look()
        except Exception as error:
            raise AssertionError(f"after line {number}, {kind.__name__}") from error
        scene.repair()
        scene.manager.collect()
    scene.leave()


@pytest.mark.parametrize("call", ["make_cursor", "buffer", "release", "open"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_what_a_handler_raised_comes_out_where_the_interpreter_wrapped_it(
    known: bool, call: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython 3.9 and 3.10, if two signals come in one `os.stat`: see _stat_under_alarms.py."""
    if known and call != "release" and smmap.engine == "fast":
        pytest.skip("the engine itself asks for the status of a file that is known")
    file = world.file(SIZE)
    manager = world.manager(W, 4 * W, 8)
    path = str(file.path)
    keep = manager.make_cursor(path).use_region(0, 9) if known else None
    raised = TimeoutError("alarm")

    def wrapped(*args: Any, **options: Any) -> Any:
        raise SystemError("_PyEval_EvalFrameDefault returned a result with an error set") from raised

    with monkeypatch.context() as patch:
        for name in ("stat", "fstat", "lstat"):
            patch.setattr(os, name, wrapped)
        with pytest.raises(TimeoutError) as caught:
            smmap.open(path, manager=manager) if call == "open" else getattr(manager, call)(path)
    assert caught.value is raised
    forget(raised)
    del caught, keep
    assert manager.buffer(path)[:] == file.data


profiled = pytest.mark.skipif(sys.getprofile() is not None, reason="calls are profiled already")


def interrupted_after(
    number: int,
    call: Callable[[], object],
    unraisable: list[BaseException | None],
    kind: type[BaseException] = Interrupt,
) -> bool:
    """Raise after the library's `number`-th call of C code; whether there were so many. It must come out."""
    left = number
    error, caught = kind("from a handler"), None

    def look(frame: Any, event: str, _argument: object) -> None:
        nonlocal left
        if event == "c_return" and frame.f_code.co_filename.startswith(SOURCES):
            left -= 1
            if not left:
                sys.setprofile(None)
                raise error

    sys.setprofile(look)
    try:
        call()
    except kind as came:
        caught = came
    finally:
        sys.setprofile(None)
    if left > 0:
        return False
    assert caught is error or error in unraisable, "the exception was swallowed"
    unraisable.clear()
    forget(error)
    return True


@profiled
@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_exception_after_any_call_of_c_code_as_an_empty_file_is_examined_leaves_nothing_open(
    world: World, unraisable: list[BaseException | None]
) -> None:
    """It takes no room on its disk, so it is opened to see whether its size is true."""
    path = str(world.file(0).path)
    manager = world.manager(W)
    number = 1
    while interrupted_after(number, lambda: manager.make_cursor(path), unraisable):
        number += 1
        reclaim()
        assert world.descriptors() == [], f"after call {number - 1}"
    assert number > 5


@profiled
def test_exception_after_any_call_of_c_code_as_garbage_is_collected_leaves_no_lock_taken(
    unraisable: list[BaseException | None],
) -> None:
    """Otherwise, each refusal in another thread would wait for it."""
    reclaim()  # PyPy may have finalizers left to run, which would be interrupted, too
    number = 1
    while interrupted_after(number, _system.collect_garbage, unraisable):
        number += 1
        assert not _system._collecting._is_owned(), f"after call {number - 1}"
    assert number > 2


@profiled
@pytest.mark.parametrize("kind", [Interrupt, IndexError, OSError])
def test_exception_after_any_call_of_c_code_as_orphaned_descriptors_are_closed_comes_out_and_leaves_none_open(
    kind: type[BaseException], world: World, unraisable: list[BaseException | None]
) -> None:
    """Orphaned are those whose finalizer was interrupted."""
    path = str(world.file(SIZE).path)
    reclaim()
    plain._close_orphans()
    before = len(plain._numbers)

    class Interrupted(plain.Descriptor):
        __slots__ = ()

        def __del__(self) -> None:
            pass

    def orphan() -> None:
        for _ in range(2):
            Interrupted(map(os.open, (path,), (os.O_RDONLY,)))
        reclaim()

    number = 1
    orphan()
    while interrupted_after(number, plain._close_orphans, unraisable, kind):
        number += 1
        plain._close_orphans()
        assert world.descriptors() == [], f"after call {number - 1}"
        assert len(plain._numbers) <= before
        orphan()
    assert number > 4
    assert world.descriptors() == []


@profiled
def test_exception_after_any_call_of_c_code_as_notes_are_logged_comes_out() -> None:
    log = Log()
    number, more = 1, True
    while more:
        log.warn("one")
        log.warn("two")
        more = interrupted_after(number, log.tell, [], IndexError)
        number += 1
    assert number > 3
    assert not log.notes


@profiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_exception_after_any_call_of_c_code_around_a_fork_leaves_no_lock_taken(
    world: World, unraisable: list[BaseException | None]
) -> None:
    """Each function around a fork is called twice; the first one is cut short here."""
    managers = [world.manager(W) for _ in range(2)]

    number, more = 0, True
    while more:
        number += 1
        more = interrupted_after(number, _lock._before_fork, unraisable)
        _lock._before_fork()
        assert not any(map(is_free, managers)), f"after call {number}"
        more |= interrupted_after(number, _lock._after_fork_in_parent, unraisable)
        _lock._after_fork_in_parent()
        assert all(map(is_free, managers)), f"after call {number}"
    assert number > 4


@profiled
def test_clients_that_are_counted_by_hand_are_counted_once_if_that_is_cut_short(
    world: World, unraisable: list[BaseException | None]
) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    cursor = manager.make_cursor(str(file.path)).use_region(0, 9)
    region = cursor.region()
    number, more = 0, True
    while more:
        number += 1
        region.increment_client_count(6 - region.client_count())
        assert region.client_count() == 6
        more = interrupted_after(number, lambda: region.increment_client_count(-1), unraisable)
        manager.stats()
        assert region.client_count() in (5, 6), f"after call {number}"
        assert cursor.buffer() == file.data[:9]
        assert manager.stats().pinned == 1
    region.release()


@profiled
def test_cursor_that_was_cut_short_as_it_was_copied_does_not_keep_the_region_of_the_other(
    world: World, unraisable: list[BaseException | None]
) -> None:
    """Which may go for a move of the other, where there is no room for two."""
    file = world.file(SIZE)
    manager = world.manager(W, 4 * W, 1)
    cursor = manager.make_cursor(str(file.path))
    more, number = True, 0
    while more:
        number += 1
        cursor.use_region(0, 9)
        more = interrupted_after(number, lambda: copy.copy(cursor) and None, unraisable)
        reclaim()
        assert cursor.region().client_count() == 2, f"after call {number}"
        assert cursor.use_region(3 * W, 9).buffer() == file.data[3 * W : 3 * W + 9]
        manager._check()
    cursor.close()
