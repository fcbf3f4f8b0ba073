"""What is held stays valid whatever goes before it; what is dropped is given back; what is closed says so.

Whatever could hang or die runs in an interpreter of its own, with a watchdog that shows where it hangs.
"""

from __future__ import annotations

import copy
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smmap
from smmap import ClosedError

from ._tools import LATE, PYPY, File, G, collecting_always, descriptors, linux, maps, reclaim, run_python

W = 2 * G
SIZE = 6 * W + 77
Buffer: Any = smmap.SlidingWindowMapBuffer
backings = pytest.mark.parametrize("backing", ["mmap", "read"])
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")


@pytest.fixture
def file(make_file: Any) -> File:
    made: File = make_file(SIZE)
    return made


# Views


@backings
def test_views_outlive_everything(backing: str, file: File) -> None:
    manager = smmap.SlidingWindowMapManager(W, 2 * W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(W + 1, 99)
    buffer = Buffer(manager.make_cursor(file.path))
    views = [
        (cursor.buffer(), file.data[W + 1 : W + 100]),
        (cursor.region().buffer(), None),
        (buffer.view(3 * W - 5, 3 * W + 5), file.data[3 * W - 5 : 3 * W + 5]),
        (buffer.view(), file.data),
        (buffer.view(5 * W + 5)[3:9].cast("H"), file.data[5 * W + 8 : 5 * W + 14]),
    ]
    views[1] = views[1][0], bytes(views[1][0])
    store = cursor.map()

    def good() -> None:
        reclaim()
        assert all(bytes(view) == want for view, want in views)
        assert store[:] == views[1][1]

    good()
    for number in range(6):
        cursor.use_region(number * W, 5)
        good()
    cursor.close()
    good()
    del cursor
    buffer.close()
    good()
    del buffer
    manager.collect()
    good()
    manager._check()
    manager.close()
    good()
    del manager
    good()
    os.unlink(file.path)
    good()


@backings
def test_releasing_a_view_is_ones_own_business(backing: str, file: File, make_manager: Any) -> None:
    manager = make_manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    buffer = Buffer(manager.make_cursor(file.path))
    with cursor.buffer() as view, cursor.region().buffer() as whole, buffer.view(0, 5) as other:
        assert view == file.data[W : W + 9]
        assert whole[:9] == view
        assert other == file.data[:5]
    cursor.buffer().release()
    cursor.region().buffer().release()
    buffer.view(0, 5).release()
    assert cursor.buffer() == file.data[W : W + 9]
    assert cursor.region().buffer()[:9] == file.data[W : W + 9]
    assert buffer.view(0, 5) == buffer[:5] == file.data[:5]
    cursor.close()
    buffer.close()


@pytest.mark.skipif(PYPY, reason="its mmap closes under views")
def test_nobody_unmaps_under_others(file: File, make_manager: Any) -> None:
    """A user may try to close the map itself: it is refused, or does no harm."""
    manager = make_manager(W)
    cursor, other = (manager.make_cursor(file.path).use_region(W, 9) for _ in range(2))
    for _ in range(3):
        with pytest.raises(BufferError):
            cursor.map().close()
    assert cursor.buffer() == other.buffer() == file.data[W : W + 9]
    with pytest.raises((BufferError, TypeError, ValueError, OSError, SystemError)):
        cursor.map().resize(5)
    assert other.map()[:9] == file.data[W : W + 9]
    cursor.close()
    other.close()


# Read-only


@backings
def test_nothing_can_be_written(backing: str, file: File, make_manager: Any) -> None:
    manager = make_manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(W, 96)
    buffer = Buffer(manager.make_cursor(file.path))
    for view in (cursor.buffer(), cursor.region().buffer(), buffer.view(0, 96), buffer.view(W - 48, W + 48)):
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1
        with pytest.raises(TypeError):
            view[:2] = b"xx"
        for form in ("b", "H", "I", "d", "c"):
            cast = view[:64].cast(form)
            assert cast.readonly
            other: Any = view[:64].cast(form)
            with pytest.raises(TypeError):
                cast[0] = other[1]
        if not PYPY:  # where even a view of bytes passes for writable
            with pytest.raises((TypeError, ValueError)):
                (ctypes.c_char * 9).from_buffer(view)
        with pytest.raises((TypeError, ValueError)):
            memoryview(view).toreadonly()[0] = 1
    targets: tuple[Any, ...] = (cursor.map(), buffer)
    for target in targets:
        with pytest.raises(TypeError):
            target[0] = 1
        with pytest.raises(TypeError):
            target[:2] = b"xx"
        with pytest.raises(TypeError):
            del target[0]
    if backing == "mmap" and not PYPY:
        with pytest.raises((TypeError, ValueError)):
            (ctypes.c_char * 9).from_buffer(cursor.map())
    if backing == "mmap":
        with pytest.raises(TypeError):
            cursor.map().write(b"xx")
    assert file.path.read_bytes() == file.data
    del view, cast, other, target, targets
    cursor.close()
    buffer.close()


def test_arrays_are_read_only(file: File, make_manager: Any) -> None:
    numpy = pytest.importorskip("numpy")
    manager = make_manager(W)
    cursor = manager.make_cursor(file.path).use_region(W, 96)
    array = numpy.frombuffer(cursor.buffer(), "<u2")
    assert array.tobytes() == file.data[W : W + 96]
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    cursor.close()
    manager.collect()
    assert manager.stats().lent == 1
    assert array.tobytes() == file.data[W : W + 96]
    del array
    reclaim()
    assert manager.stats().lent == 0


# Closing


@backings
def test_everything_closes_twice(backing: str, file: File, make_manager: Any) -> None:
    manager = make_manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    buffer = Buffer(cursor)
    inner = buffer.cursor()
    region = cursor.region()
    for _ in range(3):
        buffer.close()
        buffer.end_access()
        assert buffer.closed
        cursor.close()
        cursor._destroy()
        cursor.unuse_region()
        inner.close()
        region.release()
        manager.close()
        assert manager.collect() == 0
        assert manager.release(file.path) == 0
        manager._check()
    for thing in (manager, cursor, buffer):
        with pytest.raises((ClosedError, ValueError)):
            with thing:
                thing.make_cursor(file.path) if thing is manager else thing.use_region() if thing is cursor else thing[
                    0
                ]


def test_context_managers(file: File) -> None:
    with smmap.SlidingWindowMapManager(W) as manager:
        with manager.make_cursor(file.path) as cursor:
            assert cursor.use_region(0, 5).buffer() == file.data[:5]
            assert manager.stats().held == 1
        assert manager.stats().held == 0
        assert not cursor.is_valid()
        with Buffer(manager.make_cursor(file.path)) as buffer:
            assert buffer[0] == file.data[0]
        assert buffer.closed
        assert len(buffer) == 0
    reclaim()
    assert manager.stats().mapped == 0
    with pytest.raises(ClosedError):
        manager.make_cursor(file.path)
    with pytest.raises(ZeroDivisionError):
        with smmap.SlidingWindowMapManager(W) as manager, manager.make_cursor(file.path) as cursor:
            cursor.use_region(0, 5)
            1 / 0
    reclaim()
    assert manager.stats().mapped == 0


def test_using_what_a_closed_manager_gave(file: File) -> None:
    """Everything says so, and names the file; what is in hand stays."""
    manager = smmap.SlidingWindowMapManager(W)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    twin = copy.copy(cursor)
    view = cursor.buffer()
    manager.close()
    assert view == file.data[W : W + 9]
    for call in (cursor.use_region, lambda: cursor.use_region(0, 5), lambda: twin.use_region(W, 9)):
        with pytest.raises(ClosedError, match="data"):
            call()
    for attempt in (cursor.buffer, twin.map):  # right bytes or the error
        try:
            assert bytes(attempt()[:9]) in (file.data[W : W + 9], file.data[W : W + 9])
        except ClosedError as error:
            assert "data" in str(error)
    copy.copy(twin).close()
    twin.assign(cursor)
    cursor.close()
    twin.close()
    manager._check()


@backings
def test_a_closed_manager_revives_nothing(backing: str, file: File) -> None:
    manager = smmap.SlidingWindowMapManager(W, backing=backing)
    cursor = manager.make_cursor(file.path)
    buffer = Buffer(cursor)
    views = [buffer.view(0, 9), cursor.use_region(W, 9).buffer()]
    manager.close()
    calls: list[Callable[[], object]] = [lambda: buffer[3], lambda: buffer[:], lambda: buffer.view(0, 5)]
    calls.append(lambda: cursor.use_region(W, 9))
    for call in calls:
        with pytest.raises(ClosedError):
            call()
        manager._check()
        assert manager.stats()[1:3] == (0, 0)
    reclaim()
    assert manager.stats().lent == 2
    assert views == [file.data[:9], file.data[W : W + 9]]


# Collection


class Node:
    """Something that can be in a cycle."""

    def __init__(self, *things: object) -> None:
        self.things, self.me = things, self


@backings
def test_cursors_and_buffers_in_cycles(backing: str, file: File, make_manager: Any) -> None:
    """Everything given back although only the collector finds it, which may run at any allocation."""
    manager = make_manager(W, 2 * W, 4, backing=backing)
    with collecting_always():
        for number in range(60):
            cursor = manager.make_cursor(file.path).use_region(number % 6 * W, 9)
            buffer = Buffer(manager.make_cursor(file.path), number)
            assert cursor.buffer() == file.data[number % 6 * W :][:9]
            assert buffer[W : W + 5] == file.data[W + number :][:5]
            Node(cursor, buffer, manager)
            manager._check()
            if LATE:
                reclaim()
    del cursor, buffer
    reclaim()
    assert manager.stats().held == 0


def test_a_manager_in_a_cycle(file: File, tmp_path: Path) -> None:
    manager: Any = smmap.SlidingWindowMapManager(W)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    buffer = Buffer(manager.make_cursor(file.path))
    view = cursor.buffer()
    Node(manager, cursor, buffer)
    del manager, cursor, buffer
    reclaim()
    assert view == file.data[W : W + 9]
    if sys.platform.startswith("linux"):
        assert len(maps(tmp_path)) == 1
        del view
        reclaim()
        assert maps(tmp_path) == []
        assert descriptors(tmp_path) == []


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
assert manager.stats().held == 0, manager.stats()
buffer.close()
manager.collect()
for _ in range(3):
    gc.collect()
assert manager.stats().mapped == 0, manager.stats()
assert done >= int(sys.argv[3]) - 9, done
"""


def test_finalizers_that_use_the_manager_while_it_works(file: File) -> None:
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
def test_signal_handlers_that_use_the_manager_while_it_works(file: File) -> None:
    run_python(SIGNALS, file.path, W)


# The end of the interpreter

ENDINGS = {
    "globals": "",
    "cycle": "ring = [manager, cursor, buffer, view]; ring.append(ring); del manager, cursor, buffer, view",
    "closed": "buffer.close(); cursor.close(); manager.close()",
    "views only": "del manager, cursor, buffer",
    "unfinished": "iterator = iter(buffer); next(iterator)",
    "finalizer": """
class Late:
    def __init__(self, *things):
        self.things = things
    def __del__(self):
        manager, cursor, buffer = self.things
        manager.collect()
        cursor.unuse_region()
        buffer.close()
        manager.close()
late = Late(manager, cursor, buffer)
late.me = late
""",
    "atexit": "import atexit; atexit.register(lambda: (cursor.use_region(0, 5), buffer[:], manager.collect()))",
    "thread": """
import threading, time
def work():
    while True:
        buffer[4 * window:5 * window], cursor_of_thread.use_region(0, 9), time.sleep(0.001)
cursor_of_thread = manager.make_cursor(path)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
""",
}
ENDING = """
import sys
import smmap
path, window = sys.argv[1], int(sys.argv[2])
manager = smmap.SlidingWindowMapManager(window, 3 * window, backing=sys.argv[3])
cursor = manager.make_cursor(path).use_region(window, 9)
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
assert buffer[5 * window] is not None
view = buffer.view(0, 5)
"""


@backings
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_without_noise(ending: str, backing: str, file: File) -> None:
    run_python(ENDING + ENDINGS[ending], file.path, W, backing)


# Fork

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
    assert stats.held == 1, stats
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
    assert manager.stats().held <= 3
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
def test_fork(script: str, backing: str, file: File) -> None:
    """Children read and evict on their own; a lock that was held at the fork is free in the child."""
    run_python(script, file.path, W, backing, options=("-X", "dev", "-W", "ignore"))


@linux
@forks
def test_a_child_keeps_what_the_parent_gives_up(file: File, tmp_path: Path) -> None:
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
