"""Several threads on one manager with tiny limits: right bytes only, and an exact ledger in the end. Quick."""

from __future__ import annotations

import copy
import functools
import pickle
import random
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap

from ._tools import LATE, File, G, World, collecting_always, expected_size, payload, reclaim, run_python

W = 2 * G
SIZE = 9 * W + 77
THREADS = 4
STEPS = 400 if sys.implementation.name == "cpython" else 60  # a miss under a tiny limit collects garbage there
Buffer: Any = smmap.SlidingWindowMapBuffer


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def run(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own, at once; the first error is raised here."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def guarded(work: Callable[[], None]) -> None:
        try:
            start.wait(60)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "hangs"
    if errors:
        raise errors[0]


def cursors(manager: Any, files: list[File], seed: int, window: int) -> None:
    """What a thread does with a cursor of its own."""
    chance = random.Random(seed)
    views: list[tuple[memoryview, bytes]] = []
    for step in range(STEPS // 10):
        file = chance.choice(files)
        with manager.make_cursor(file.path) as cursor:
            for _ in range(10):
                offset, size = chance.randrange(len(file.data)), chance.choice([0, 1, 50, W, 3 * W])
                cursor.use_region(offset, size)
                assert cursor.size() == expected_size(offset, size, window, len(file.data))
                want = file.data[offset : offset + cursor.size()]
                assert cursor.buffer() == want
                if step % 5 == 0:
                    views = [*views[-2:], (cursor.buffer(), want)]
        assert all(view == want for view, want in views)


def reads(buffer: Any, data: bytes, seed: int) -> None:
    """What a thread does with a buffer that it shares."""
    chance = random.Random(seed)
    for step in range(STEPS):
        at, size = chance.randrange(len(data)), chance.choice([1, 9, 100, W, W + 9])
        assert buffer[at] == data[at]
        assert buffer[at : at + size] == data[at : at + size]
        if step % 10 == 0:
            assert buffer.view(at, at + size) == data[at : at + size]
            assert buffer.find(data[at : at + 9]) == data.find(data[at : at + 9])
            assert buffer[at::1000] == data[at::1000]


LIMITS = [(W, 4 * W, 14), (W, 0, sys.maxsize), (0, 0, 14)]


@pytest.mark.parametrize("backing", ["mmap", "read"])
@pytest.mark.parametrize("limits", LIMITS, ids=["tight", "roomy", "whole"])
def test_threads_share_a_buffer_and_have_cursors_of_their_own(backing: str, limits: Any, world: World) -> None:
    files = [world.file(SIZE, "a"), world.file(3 * W, "b"), world.file(W, "c")]
    manager = world.manager(*limits, backing=backing)
    buffer = Buffer(manager.make_cursor(files[0].path))
    run(
        *(lambda seed=seed: cursors(manager, files, seed, limits[0]) for seed in range(THREADS // 2)),
        *(lambda seed=seed: reads(buffer, files[0].data, seed) for seed in range(THREADS // 2)),
    )
    manager._check()
    assert manager.stats().pinned == 0
    buffer.close()


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_window_that_all_threads_miss_is_mapped_once(backing: str, world: World) -> None:
    file = world.file(W)
    manager = world.manager(W, backing=backing)
    buffer = Buffer(manager.make_cursor(file.path))
    run(*(lambda seed=seed: reads(buffer, file.data, seed) for seed in range(THREADS)))
    manager._check()
    assert manager.stats().mapped <= 1
    buffer.close()


def test_collect_and_release_beside_readers(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, 4 * W)
    buffer = Buffer(manager.make_cursor(file.path))
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            manager.collect()
            manager.release(file.path)
            stats = manager.stats()
            assert stats.mapped == stats.pinned + stats.idle + stats.detached
            manager._check()

    def read(seed: int) -> None:
        try:
            reads(buffer, file.data, seed)
        finally:
            done.set()

    def use() -> None:
        try:
            cursors(manager, [file], 7, W)
        finally:
            done.set()

    run(collect, lambda: read(1), lambda: read(2), use)
    buffer.close()


def test_close_beside_readers(world: World) -> None:
    """Readers get right bytes or `ClosedError`."""
    file = world.file(SIZE)
    for turn in range(8):
        manager = smmap.SlidingWindowMapManager(W, 4 * W)
        buffer = Buffer(manager.make_cursor(file.path))
        started = threading.Event()

        def read(seed: int, buffer: Any = buffer, started: Any = started) -> None:
            chance = random.Random(seed)
            try:
                for _ in range(100_000):
                    at = chance.randrange(SIZE - 9)
                    assert buffer[at : at + 9] == file.data[at : at + 9]
                    started.set()
            except smmap.ClosedError:
                return
            raise AssertionError("never told")

        def use(manager: Any = manager) -> None:
            try:
                cursor = manager.make_cursor(file.path)
                for number in range(100_000):
                    offset = number * 999 % (SIZE - 9)
                    assert cursor.use_region(offset, 9).buffer() == file.data[offset : offset + 9]
            except smmap.ClosedError:
                return
            raise AssertionError("never told")

        def close(manager: Any = manager, started: Any = started) -> None:
            started.wait(60)
            manager.close()

        run(close, lambda: read(1), lambda: read(2), use)
        manager._check()
        reclaim()
        stats = manager.stats()
        assert (stats.mapped, stats.descriptors) == (0, 0), turn


def test_cursors_in_cycles_from_all_threads_are_released(world: World) -> None:
    """Cursors in cycles, dropped in every thread, found by whichever the collector runs in."""
    file = world.file(SIZE)
    manager = world.manager(W, 4 * W)

    def litter(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(STEPS // 4):
            offset = chance.randrange(SIZE - 9)
            cursor = manager.make_cursor(file.path).use_region(offset, 9)
            assert cursor.buffer() == file.data[offset : offset + 9]
            ring: list[Any] = [cursor, Buffer(manager.make_cursor(file.path))]
            ring.append(ring)
            del cursor, ring

    with collecting_always(20):
        run(*(lambda seed=seed: litter(seed) for seed in range(THREADS)))
    reclaim()
    manager._check()
    assert manager.stats().pinned == 0


def test_cursors_are_copied_moved_and_dropped_beside_those_who_count(world: World) -> None:
    """Each step settles what the others left; none of them may stumble over that."""
    files = [world.file(4 * W, name) for name in "ab"]
    manager = world.manager(W, 4 * W)
    done = threading.Event()

    def use(seed: int) -> None:
        chance = random.Random(seed)
        end = time.monotonic() + 0.7
        try:
            while time.monotonic() < end:
                file = files[chance.randrange(2)]
                cursor = manager.make_cursor(file.path).use_region(chance.randrange(4 * W - 9), 9)
                twin = copy.copy(cursor)
                assert twin.buffer() == cursor.buffer()
                twin.use_region(chance.randrange(4 * W - 9), 9)
                cursor.assign(twin)
                assert cursor.buffer() == file.data[twin.ofs_begin() : twin.ofs_end()]
                cursor.unuse_region()
                cursor.use_region(5, 9)
                twin.close()
                del cursor, twin
        finally:
            done.set()

    def count() -> None:
        while not done.is_set():
            manager.stats()
            manager.collect()
            manager.num_file_handles()

    run(lambda: use(1), lambda: use(2), lambda: use(3), count)
    reclaim()
    manager._check()
    assert manager.stats().pinned == 0


# A buffer that is given another file


SOURCES = str(Path(smmap.__file__).parent)
NEEDLE = payload(6 * W, "two")[G + 107 : G + 127]


def filled(data: Any, start: int, size: int) -> bytes:
    """What `readinto` puts into a target of so many bytes."""
    if isinstance(data, bytes):
        return data[start : start + size]
    target = bytearray(size)
    return bytes(target[: data.readinto(start, target)])


READS: dict[str, Callable[[Any], Any]] = {
    "byte": lambda data: data[9],
    "far byte": lambda data: data[W + 9],
    "last byte": lambda data: data[-1],
    "slice": lambda data: data[9:50],
    "long slice": lambda data: data[9 : 3 * W + 9],
    "steps": lambda data: data[9 : 3 * W : 37],
    "view": lambda data: bytes(memoryview(data)[9:50] if isinstance(data, bytes) else data.view(9, 50)),
    "long view": lambda data: bytes(memoryview(data)[9 : W + 9] if isinstance(data, bytes) else data.view(9, W + 9)),
    "search": lambda data: data.find(NEEDLE),
    "into": lambda data: filled(data, 9, 3 * W),
    "all": lambda data: bytes(data),
}
reads_of = pytest.mark.parametrize("kind", READS)


def answer(read: Callable[[Any], Any], data: Any) -> Any:
    """What is read, or the kind of error that a change may lead to."""
    try:
        return read(data)
    except (smmap.ClosedError, smmap.FileChangedError):
        return smmap.ClosedError
    except IndexError:
        return IndexError


@reads_of
def test_buffer_switched_by_two_threads_reads_one_file_or_the_other(kind: str, world: World) -> None:
    """Never a mixture, neither meanwhile nor afterwards."""
    one, two = world.file(6 * W, "one"), world.file(5 * W, "two")
    manager = world.manager(W, 8 * W)
    buffer = Buffer(manager.make_cursor(one.path))
    wanted = [READS[kind](one.data), READS[kind](two.data), smmap.ClosedError]
    end = time.monotonic() + 0.25

    def switch(file: File) -> None:
        cursor = manager.make_cursor(file.path)
        while time.monotonic() < end:
            buffer.begin_access(cursor)
        cursor.close()

    def read() -> None:
        while time.monotonic() < end:
            assert answer(READS[kind], buffer) in (*wanted, IndexError)

    run(lambda: switch(one), lambda: switch(two), read)
    left = bytes(buffer)
    assert left in (one.data, two.data)
    for every in READS.values():
        assert every(buffer) == every(left)
    buffer.close()


def trace_before(
    number: int, lock: Any, act: Callable[[], Any], call: Callable[[], Any], later: Callable[[], Any] = lambda: None
) -> tuple[bool, Any]:
    """`call()`, with `act()` before its line of this number, of those without the lock; whether it has so many.

    `later()` comes before each line that follows.
    """
    left = number

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        if not name.startswith(SOURCES) or name.endswith("_lock.py"):
            return None
        if event == "line" and not lock._is_owned():
            left -= 1
            if left == -1:
                act()
            elif left < -1:
                later()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        got = call()
    finally:
        sys.settrace(before)
    return left < 0, got


@pytest.mark.parametrize("change", ["close", "another file", "there and back"])
@reads_of
def test_buffer_changed_between_two_lines_of_a_read_is_of_before_or_after(kind: str, change: str, world: World) -> None:
    """Whichever lines they are, as far as the engine has any: its bytes of before or after, or an error; and nothing of
    before stays."""
    one, two = world.file(6 * W, "one"), world.file(6 * W, "two")
    read = READS[kind]
    after = {
        "another file": two.data[G + 7 :],
        "there and back": one.data[: 4 * W],
    }.get(change)
    wanted = [answer(read, one.data[: 4 * W]), None if after is None else answer(read, after), smmap.ClosedError]

    def turn(manager: Any, number: int, mapped: bool) -> bool:
        buffer = manager.buffer(one.path, 0, 4 * W)
        views = [buffer.view(start + 8, start + 9) for start in (0, W, 2 * W) if mapped]

        def act() -> None:
            if change == "close":
                buffer.close()
            elif change == "another file":
                buffer.begin_access(manager.make_cursor(two.path), G + 7)
            else:
                buffer.begin_access(manager.make_cursor(two.path), G + 7)
                buffer[9]
                buffer.begin_access(manager.make_cursor(one.path), 0, 4 * W)

        acted, got = trace_before(number, manager._lock._rlock, act, lambda: answer(read, buffer))
        assert got in wanted
        if acted:
            for check in READS.values():
                assert answer(check, buffer) == (smmap.ClosedError if after is None else answer(check, after))
        buffer.close()
        del views
        return acted

    for mapped in (False, True):
        with smmap.SlidingWindowMapManager(W) as manager:
            for number in range(1000):
                if not turn(manager, number, mapped):
                    break
            else:
                pytest.fail("there is no end of lines")


@reads_of
def test_read_that_ends_after_a_change_of_file_leads_no_other_thread_to_the_old_one(kind: str, world: World) -> None:
    """Not even for a moment: the other reads the buffer before each line that is left of the older read.

    Another buffer reads the old file meanwhile, before each of these lines, too. So the old windows are in use, and
    whatever remembers one of them for this buffer finds it ready to be read.
    """
    one, two = world.file(6 * W, "one"), world.file(6 * W, "two")
    places, wrong = (5, W + 5, 5 * W + 5), []

    def turn(manager: Any, number: int) -> bool:
        buffer, beside = manager.buffer(one.path), manager.buffer(one.path)
        views = [beside.view(start + 8, start + 9) for start in range(0, 6 * W, W)]

        def look() -> None:
            for place in places:
                assert beside[place] == one.data[place]
                if (buffer[place], buffer[place : place + 9]) != (two.data[place], two.data[place : place + 9]):
                    wrong.append((number, place))

        beside[9]  # the read below is not the first one of this window, but the first one by this buffer
        acted, _ = trace_before(
            *(number, manager._lock._rlock),
            lambda: buffer.begin_access(manager.make_cursor(two.path)),
            lambda: answer(READS[kind], buffer),
            look,
        )
        buffer.close()
        beside.close()
        del views
        return acted

    with smmap.SlidingWindowMapManager(W) as manager:
        number = 0
        while turn(manager, number):
            number += 1
    assert wrong == []


@pytest.mark.parametrize("change", ["close", "another file"])
def test_bound_that_changes_its_buffer_leads_to_one_file(world: World, change: str) -> None:
    """The bytes of before, or an error."""
    file, other = world.file(3 * W), world.file(2 * W, "other")
    manager = world.manager(W)

    class Bound:
        def __index__(self) -> int:
            if change == "close":
                buffer.close()
            else:
                buffer.begin_access(manager.make_cursor(other.path))
            return 5

    reads: list[tuple[Callable[[], Any], Callable[[bytes], Any]]] = [
        (lambda: bytes(buffer.view(Bound(), 9)), lambda data: data[5:9]),
        (lambda: buffer[Bound() : W + 9], lambda data: data[5 : W + 9]),
        (lambda: buffer[Bound() : W + 9 : 2], lambda data: data[5 : W + 9 : 2]),
        (lambda: buffer[Bound()], lambda data: data[5]),
    ]
    for read, of in reads:
        buffer = manager.buffer(file.path)
        try:
            assert read() in (of(file.data), of(other.data))
        except smmap.ClosedError:
            pass
        assert buffer.closed == (change == "close")
        buffer.close()


def test_views_one_after_the_other_are_of_one_file(world: World) -> None:
    file, other = world.file(3 * W), world.file(3 * W, "other")
    manager = world.manager(W)
    with manager.buffer(file.path) as buffer:
        views = buffer.iter_views(0, None, G)
        assert next(views) == file.data[:G]
        buffer.begin_access(manager.make_cursor(other.path))
        with pytest.raises(smmap.ClosedError):
            next(views)


@reads_of
def test_unpickled_buffer_that_is_closed_while_it_opens_stays_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = world.file(6 * W)
    buffer = pickle.loads(pickle.dumps(world.manager(W).buffer(file.path)))
    manager = smmap.default_manager()
    client = manager._client

    def racing(*args: Any) -> Any:
        found = client(*args)
        buffer.close()
        return found

    monkeypatch.setattr(type(manager), "_client", lambda self, *args: racing(*args))
    with pytest.raises(smmap.ClosedError):
        READS[kind](buffer)
    monkeypatch.undo()
    assert buffer.closed
    assert len(buffer) == 0


def test_unpickled_buffer_that_two_threads_open_at_once_is_read_by_both(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(3 * W)
    buffer = pickle.loads(pickle.dumps(world.manager(W).buffer(file.path)))
    manager = smmap.default_manager()
    client = manager._client

    def racing(*args: Any) -> Any:
        monkeypatch.undo()
        found = client(*args)
        assert buffer[W - 9 : W] == file.data[W - 9 : W]  # the other thread
        return found

    monkeypatch.setattr(type(manager), "_client", lambda self, *args: racing(*args))
    assert buffer[W - 5 : W + 5] == file.data[W - 5 : W + 5]
    buffer.close()


# Between any two steps of the interpreter


def at_step(number: int, act: Callable[[], Any], call: Callable[[], Any], first: Callable[[], Any]) -> bool:
    """`first()`, and then `call()`, with `act()` by another thread before the library's step of this number.

    Whether the call has so many.
    """
    left = number
    thread = threading.Thread(target=act)

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if not left:
                sys.settrace(None)
                thread.start()
                thread.join(0.05)  # where it waits for a lock, it goes on afterwards
        return trace

    before = sys.gettrace()
    first()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        if left <= 0:
            thread.join()
    return left <= 0


@pytest.mark.parametrize("kind", ["cursor", "buffer"])
def test_nothing_is_mapped_by_threads_that_met_the_end_of_the_manager(kind: str, world: World) -> None:
    file = world.file(64 * W)
    for turn in range(60):
        manager = world.manager(W, 8 * W)
        clients = [manager.make_cursor(file.path) if kind == "cursor" else manager.buffer(file.path) for _ in range(3)]

        def read(client: Any, seed: int) -> None:
            drawn = random.Random(seed)
            try:
                while True:
                    place = drawn.randrange(64) * W
                    if kind == "cursor":
                        client.use_region(place, 100)
                    else:
                        client.view(place, place + 9).release()
            except smmap.ClosedError:
                pass

        readers = [functools.partial(read, client, turn * 3 + seed) for seed, client in enumerate(clients)]
        run(*readers, lambda: (time.sleep(turn % 4 / 1000), manager.close())[1])
        reclaim()
        stats = manager.stats()
        assert (stats.mapped, stats.pinned, stats.idle, stats.descriptors) == (0, 0, 0, 0)


def test_formats_are_prepared_by_several_threads(world: World) -> None:
    """More of them than are remembered."""
    file = world.file(SIZE)
    buffer = world.manager(W).buffer(file.path)
    buffer.view(0, 9).release()

    def unpack(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(3000):
            fmt = f"<{drawn.randrange(1, 200)}B"
            assert buffer.unpack_from(fmt, 5) == struct.unpack_from(fmt, file.data, 5)

    run(*(functools.partial(unpack, seed) for seed in range(4)))


def test_copy_of_a_cursor_does_not_outlive_its_manager(world: World) -> None:
    file = world.file(4 * W)
    for turn in range(60):
        manager = world.manager(W)
        cursor = manager.make_cursor(file.path).use_region(0, 9)
        copies: list[Any] = []

        def assign() -> None:
            try:
                for _ in range(200):
                    copies.append(copy.copy(cursor))  # noqa: PERF401  # those before an error count
            except (smmap.ClosedError, ValueError):
                pass

        run(assign, assign, lambda: (time.sleep(turn % 4 / 2000), manager.close())[1])
        assert not any(one.is_valid() for one in copies)
        reclaim()
        assert manager.stats().mapped == 0


SMALL_STACK = """
import sys, threading
import smmap
with open(sys.argv[1], "rb") as file:
    data = file.read()
found = []
threading.stack_size(64 << 10)
with smmap.SlidingWindowMapManager(int(sys.argv[2])) as manager:
    buffer = manager.buffer(sys.argv[1])
    thread = threading.Thread(target=lambda: found.append(buffer[::3]))
    thread.start()
    thread.join()
assert found == [data[::3]]
"""


@pytest.mark.skipif(smmap.engine != "fast" or LATE, reason="interpreters whose own threads need more")
def test_slice_with_a_step_needs_little_of_the_stack(world: World) -> None:
    run_python(SMALL_STACK, world.file(SIZE).path, W, options=())


@pytest.mark.parametrize("what", ["unuse_region", "use_region", "close", "copy", "drop"])
def test_cursor_at_the_address_of_one_that_was_dropped_beside_collect(what: str, world: World) -> None:
    """Whatever is known of that one, the call is answered, at whichever step the other thread collects."""
    path = str(world.file(SIZE).path)
    manager = world.manager(W)
    unraisable: list[Any] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda found: unraisable.append(found.exc_value)
    calls: dict[str, Callable[[Any], Any]] = {
        "unuse_region": lambda cursor: cursor.unuse_region(),
        "use_region": lambda cursor: cursor.use_region(9, 9) and None,
        "close": lambda cursor: cursor.close(),
        "copy": lambda cursor: copy.copy(cursor).unuse_region(),
        "drop": lambda cursor: None,
    }

    def drop() -> None:
        manager.make_cursor(path).use_region(0, 9).buffer()

    try:
        number = 1
        while at_step(number, manager.collect, lambda: calls[what](manager.make_cursor(path)), drop):
            number += 1
    finally:
        sys.unraisablehook = before
    assert unraisable == []
    manager._check()


@pytest.mark.skipif(smmap.engine == "plain", reason="a slice of bytes with a step keeps the interpreter's lock")
@pytest.mark.parametrize("of", ["buffer", "map"])
@pytest.mark.parametrize("step", [2, -3, 700])
def test_other_threads_run_during_a_long_slice_with_a_step(of: str, step: int, world: World) -> None:
    path = world.folder / "long"
    path.write_bytes(payload(128 << 20))
    manager = world.manager()
    cursor = manager.make_cursor(path).use_region()
    data = manager.buffer(path) if of == "buffer" else cursor.map()
    ticks: list[int] = []
    stop = False

    def tick() -> None:
        while not stop:
            ticks.append(0)
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        before = len(ticks)
        found = data[::step]
        during = len(ticks) - before
    finally:
        stop = True
        thread.join()
        cursor.close()
    assert during > 3
    assert found == path.read_bytes()[::step]
