"""Processes that fork, also in the middle of another thread's call, and workers of all kinds.

Each test is a program of its own: one that hangs writes the stacks of its threads and dies, and so do its children.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from core._tools import G, World, run_python
from smmap._system import FREE_THREADED

W = 2 * G
SIZE = 6 * W + 77
QUIET = ("-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning")  # that threads and forks do not go together

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
backings = pytest.mark.parametrize("backing", ["mmap", "read"])

COMMON = """
import gc, os, random, signal, sys, threading, time, traceback
import smmap
from smmap._engine import chosen as engine
path, window, backing = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(path, "rb") as file:
    data = file.read()

def manager(memory=3 * window, handles=8):
    return smmap.SlidingWindowMapManager(window, memory, handles, backing=backing)

def check(*managers, seed=0):
    "Read, move and evict, as if nothing had happened."
    chance = random.Random(seed)
    for one in managers:
        one._check()
        with one.make_cursor(path) as cursor, one.buffer(path) as buffer:
            for _ in range(20):
                at = chance.randrange(len(data))
                assert cursor.use_region(at, 9).buffer() == data[at:at + 9]
                at = chance.randrange(len(data))
                assert buffer[at:at + 999] == data[at:at + 999]
        one._check()

def fork(work):
    "The child does `work`; its number."
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(40)    # a watchdog of this process is not there any more
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child

def join(*children):
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
"""

HELD_LOCK = (
    COMMON
    + """
def slow(name):
    "Another thread is in this system call, with the lock; the function gives the event that says so."
    real, inside = getattr(engine, name), threading.Event()
    def call(*args):
        if threading.current_thread() is not threading.main_thread() and not inside.is_set():
            inside.set()
            time.sleep(0.1)
        return real(*args)
    setattr(engine, name, call)
    return inside, lambda: setattr(engine, name, real)

for name in sys.argv[4:]:
    first, other = manager(), manager()
    held = first.make_cursor(path).use_region(0, 5)
    view = held.buffer()
    first.collect()             # so that the file is opened anew
    inside, restore = slow(name)
    def work():
        with first.make_cursor(path) as cursor:
            assert cursor.use_region(3 * window, 5).buffer() == data[3 * window:3 * window + 5]
        with first.buffer(path) as buffer:
            for at in range(0, len(data), 1000):
                assert buffer[at:at + 9] == data[at:at + 9]
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30), name
    def in_child():
        assert view == held.buffer() == data[:5]
        check(first, other, seed=1)
        held.use_region(window, 5)
        first.collect()
        first.close()
        assert view == data[:5]
        check(manager())
    children = [fork(in_child) for _ in range(2)]
    check(first, other, seed=2)
    thread.join()
    restore()
    join(*children)
    assert view == held.buffer() == data[:5]
    held.close()
    first.collect()
    first._check()
"""
)

BOTH_SIDES = (
    COMMON
    + """
one = manager(handles=4)
cursors = [one.make_cursor(path).use_region(number * window, 9) for number in range(2)]
buffer = one.buffer(path)
view = one.buffer(path).view(5 * window, 5 * window + 9)
for at in range(0, len(data), window // 3):
    buffer[at]

def go_on(seed):
    chance = random.Random(seed)
    for cursor in cursors:
        assert cursor.buffer() == data[cursor.ofs_begin():cursor.ofs_end()]
    for step in range(60):
        cursor = chance.choice(cursors)
        at = chance.randrange(len(data))
        size = chance.choice([0, 9, window])
        assert cursor.use_region(at, size).buffer() == data[at:at + cursor.size()]
        assert buffer[at:at + 99] == data[at:at + 99]
        assert view == data[5 * window:5 * window + 9]
        one._check()
        if step % 20 == seed % 20:
            one.collect()
    if sys.implementation.name == "pypy":  # where views die at a collection only
        gc.collect()
    stats = one.stats()
    assert stats.pinned == len({cursor.region() for cursor in cursors}), stats
    assert stats.detached <= 1, stats

def generation(depth, seed):
    children = [fork(lambda: generation(depth - 1, seed * 3 + n)) for n in range(2)] if depth else []
    go_on(seed)
    join(*children)
    go_on(seed + 1)

generation(3, 1)
for cursor in cursors:
    cursor.close()
del view, cursor
buffer.close()
for _ in range(3):
    gc.collect()
one.collect()
assert one.stats()[:7] == (0,) * 7, one.stats()
"""
)

MANY_THREADS = (
    COMMON
    + """
managers = [manager() for _ in range(3)]
stop = threading.Event()

def work(seed):
    chance = random.Random(seed)
    while not stop.is_set():
        one = chance.choice(managers)
        try:
            with one.make_cursor(path) as cursor:
                at = chance.randrange(len(data))
                assert cursor.use_region(at, 9).buffer() == data[at:at + 9]
            managers[chance.randrange(3)].collect()
            manager().buffer(path)[at]
        except smmap.LimitError:
            pass

def in_child():
    for one in managers:
        one._check()            # copied as a whole, whatever the threads were doing
        with one.buffer(path) as buffer:
            for at in range(0, len(data), 1000):
                assert buffer[at:at + 99] == data[at:at + 99]
        one.collect()
        one._check()
    smmap.default_manager()
    check(manager())

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
for thread in threads:
    thread.start()
try:
    for _ in range(int(sys.argv[4])):
        join(fork(in_child))
finally:
    stop.set()
    for thread in threads:
        thread.join()
for one in managers:
    one._check()
"""
)

# What a finalizer may do that interrupts a call which holds a manager's lock, while another thread forks.
INSIDE_THE_LOCK = (
    COMMON
    + """
def use_another(first, other):
    check(other)

def make_one(first, other):
    check(manager())

def use_default(first, other):
    assert smmap.buffer(path)[5] == data[5]

for action in (use_another, make_one, use_default):
    for turn in range(2):
        pair = sorted([manager(), manager()], key=id)
        first, other = pair[::-1] if turn else pair
        inside = threading.Event()
        real = engine.open_file
        def call(*args):
            if threading.current_thread() is not threading.main_thread() and not inside.is_set():
                inside.set()
                time.sleep(0.2)             # the other thread forks now, and waits for our lock
                action(first, other)
            return real(*args)
        engine.open_file = call
        thread = threading.Thread(target=check, args=(first,))
        thread.start()
        assert inside.wait(30)
        child = fork(lambda: check(first, other))
        thread.join()
        engine.open_file = real
        join(child)
        check(first, other)
"""
)

ENDS_WELL = (
    COMMON
    + """
import faulthandler
faulthandler.cancel_dump_traceback_later()      # at its end, a child would wait for the parent's watchdog
signal.alarm(60)
one = manager()
cursor = one.make_cursor(path).use_region(0, 5)
buffer = one.buffer(path)
view = buffer.view(window, window + 9)
ring = [cursor, buffer, view, one]
ring.append(ring)
child = os.fork()
if child:
    join(child)
check(one)
# and both end as interpreters do, with all of this alive
"""
)


@pytest.fixture
def path(world: World) -> str:
    return str(world.file(SIZE).path)


@forks
@backings
def test_fork_while_another_thread_holds_the_lock(backing: str, path: str) -> None:
    """In each of the engine's system calls that are made under it."""
    calls = ["open_file", "map_window" if backing == "mmap" else "read_window"]
    run_python(HELD_LOCK, path, W, backing, *calls, options=QUIET)


@forks
@backings
def test_both_sides_read_and_evict(backing: str, path: str) -> None:
    """Three generations, each with cursors, buffers and views that it was born with."""
    run_python(BOTH_SIDES, path, W, backing, options=QUIET)


@pytest.mark.skipif(
    FREE_THREADED, reason="a child may wait for a lock of the interpreter's own (docs/guide/workers.md)"
)
@forks
@backings
def test_forks_beside_busy_threads(backing: str, path: str) -> None:
    """Of several managers, while others come and go."""
    run_python(MANY_THREADS, path, W, backing, 20 if sys.implementation.name == "cpython" else 8, options=QUIET)


@forks
@backings
def test_fork_while_a_finalizer_works_inside_the_lock(backing: str, path: str) -> None:
    """No order of locks makes fork and finalizer wait for each other."""
    run_python(INSIDE_THE_LOCK, path, W, backing, options=QUIET)


@forks
@backings
def test_parent_and_child_end_without_noise(backing: str, path: str) -> None:
    run_python(ENDS_WELL, path, W, backing)


WORKERS = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import smmap
from stress import _work

if __name__ == "__main__":
    path, window, method = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with open(path, "rb") as file:
        data = file.read()
    smmap.configure(window_size=window, max_memory_size=3 * window, max_open_handles=6)
    buffer = smmap.buffer(path)
    assert buffer[5] == data[5]
    part = smmap.buffer(path, window + 3, 2 * window)
    view = buffer.view(window, window + 9)
    other = smmap.SlidingWindowMapManager(window, 2 * window)
    cursor = other.make_cursor(path).use_region(0, 9)
    context = multiprocessing.get_context(method)
    tasks = [(buffer, seed, data) for seed in range(6)]
    tasks += [(part, seed, data[window + 3:3 * window + 3]) for seed in range(6)]
    with context.Pool(2) as pool:
        done = pool.map(_work.read, tasks)
        assert buffer[9:99] == data[9:99]
        pool.close()
        pool.join()
    assert sum(count for _, count in done) == 3600
    assert os.getpid() not in {pid for pid, _ in done}
    if method == "fork" or sys.implementation.name == "cpython" or sys.version_info >= (3, 10):  # else PyPy's own fails
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            assert sum(count for _, count in executor.map(_work.read, tasks)) == 3600
    here, there = context.Pipe()
    process = context.Process(target=_work.hand_on, args=(part, there))
    process.start()
    there.close()
    back, read = here.recv()            # a buffer that went there and came back
    process.join()
    here.close()
    assert process.exitcode == 0
    assert read == part[3:99] == back[3:99] == data[window + 6:window + 102]
    assert view == data[window:window + 9]
    assert cursor.buffer() == data[:9]
    smmap.default_manager()._check()
    other._check()
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers(method: str, path: str) -> None:
    """Buffers go to the workers of a pool, of an executor, of a process, and come back."""
    run_python(WORKERS, path, W, method, options=QUIET)
