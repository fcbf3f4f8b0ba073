"""Several threads on one manager with tiny limits: right bytes only, and an exact ledger in the end. Quick."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

import smmap

from ._tools import File, G, collecting_always, expected_size, reclaim

W = 2 * G
SIZE = 9 * W + 77
THREADS = 4
STEPS = 400 if sys.implementation.name == "cpython" else 200
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
def test_shared_buffer_and_own_cursors(backing: str, limits: Any, make_file: Any, make_manager: Any) -> None:
    files = [make_file(SIZE, "a"), make_file(3 * W, "b"), make_file(W, "c")]
    manager = make_manager(*limits, backing=backing)
    buffer = Buffer(manager.make_cursor(files[0].path))
    run(
        *(lambda seed=seed: cursors(manager, files, seed, limits[0]) for seed in range(THREADS // 2)),
        *(lambda seed=seed: reads(buffer, files[0].data, seed) for seed in range(THREADS // 2)),
    )
    manager._check()
    assert manager.stats().held == 0
    buffer.close()


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_one_window_shared_by_all(backing: str, make_file: Any, make_manager: Any) -> None:
    file = make_file(W)
    manager = make_manager(W, backing=backing)
    buffer = Buffer(manager.make_cursor(file.path))
    run(*(lambda seed=seed: reads(buffer, file.data, seed) for seed in range(THREADS)))
    manager._check()
    assert manager.stats().mapped <= 1 or backing == "read"  # views of what is read have regions of their own
    buffer.close()


def test_collecting_beside_readers(make_file: Any, make_manager: Any) -> None:
    file = make_file(SIZE)
    manager = make_manager(W, 4 * W)
    buffer = Buffer(manager.make_cursor(file.path))
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            manager.collect()
            manager.release(file.path)
            stats = manager.stats()
            assert stats.mapped == stats.held + stats.idle + stats.lent
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


def test_closing_beside_readers(make_file: Any) -> None:
    """Readers get right bytes or `ClosedError`."""
    file = make_file(SIZE)
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


def test_garbage_from_all_threads(make_file: Any, make_manager: Any) -> None:
    """Cursors in cycles, dropped in every thread, found by whichever the collector runs in."""
    file = make_file(SIZE)
    manager = make_manager(W, 4 * W)

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
    assert manager.stats().held == 0
