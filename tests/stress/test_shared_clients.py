"""Clients that several threads change and use at the same moment: right bytes, a promised error, and no crash.

A cursor belongs to one thread at a time; who breaks that rule gets wrong windows, but must not get freed memory.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import G, reclaim

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.name != "posix", reason="files are replaced under their maps"),
]

W = 2 * G
SECONDS = float(os.environ.get("SMMAP_STRESS_SECONDS", "1"))
PROMISED = (smmap.SmmapError, ValueError, IndexError, OSError)


def file_of(folder: Path, number: int) -> tuple[str, bytes]:
    """A file in which no two numbers have the same byte at the same place, and no two windows are alike."""
    data = bytes((at * 7 + (at >> 8) * 13 + (at >> 13) * 29 + number * 101) & 0xFF for at in range(16 * W))
    path = folder / f"file-{number}"
    path.write_bytes(data)
    return str(path), data


def together(*works: Callable[[random.Random], None]) -> None:
    """All of these at once, over and over; the first error that one of them did not expect."""
    errors: list[BaseException] = []
    end = time.monotonic() + SECONDS
    start = threading.Barrier(len(works))

    def run(work: Callable[[random.Random], None], number: int) -> None:
        chance = random.Random(number)
        start.wait()
        try:
            while time.monotonic() < end and not errors:
                work(chance)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work, number)) for number, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def gone(*managers: Any) -> None:
    """No manager has anything mapped."""
    for manager in managers:
        for _ in range(3):
            reclaim()
            manager.collect()
        manager._check()
        assert manager.stats()[:5] == (0,) * 5, manager.stats()


def manager_of(limit: int) -> Any:
    return smmap.SlidingWindowMapManager(W, limit, 64)


def test_hits_of_several_threads_keep_all_windows_in_the_order(tmp_path: Path) -> None:
    """Each hit moves a window to the end of the order: what moves two at once loses some."""
    manager = smmap.SlidingWindowMapManager(W)
    path, data = file_of(tmp_path, 0)
    buffer = manager.buffer(path)
    for at in range(0, 16 * W, W):
        buffer.view(at, at + 1)

    def read(chance: random.Random) -> None:
        places = [chance.randrange(16) * W + 5 for _ in range(1000)]
        wanted = bytes(map(data.__getitem__, places))
        for _ in range(100):
            assert bytes(map(buffer.__getitem__, places)) == wanted

    together(read, read, read, read)
    assert manager.stats()[:4] == (16, 0, 16, 0)
    manager._check()
    buffer.close()
    gone(manager)


def test_buffer_gets_files_of_two_managers_while_others_read_it(tmp_path: Path) -> None:
    managers = [manager_of(4 * W), manager_of(8 * W)]
    files = [file_of(tmp_path, number) for number in range(2)]
    buffer = smmap.SlidingWindowMapBuffer(managers[0].make_cursor(files[0][0]))

    def change(chance: random.Random) -> None:
        number = chance.randrange(2)
        if chance.random() < 0.1:
            buffer.end_access()
        else:
            buffer.begin_access(managers[number].make_cursor(files[number][0]))

    def read(chance: random.Random) -> None:
        at = chance.randrange(16 * W - 3 * W)
        size = chance.choice([1, 2, 33, 4096, W + 5])
        allowed = [data[at : at + size] for _, data in files]
        try:
            for _ in range(20):
                assert buffer[at] in {piece[0] for piece in allowed}
                assert buffer[at : at + size] in allowed
                assert buffer.view(at, at + size) in allowed
                assert buffer.gather([at, at + 7], 16)[:16] in [data[at : at + 16] for _, data in files]
                assert len(buffer) in (16 * W, 0)
        except PROMISED:
            pass  # it was closed, or started anew, in this moment

    together(change, change, read, read)
    buffer.end_access()
    gone(*managers)


def test_buffers_of_tiny_managers_are_made_read_and_dropped(tmp_path: Path) -> None:
    """Each region dies while others look for it, and each descriptor is closed while others read by it."""
    managers = [manager_of(2 * W), manager_of(3 * W)]
    files = [file_of(tmp_path, number) for number in range(3)]
    shared = [managers[number % 2].buffer(files[number % 3][0]) for number in range(6)]

    def read(chance: random.Random) -> None:
        number = chance.randrange(6)
        buffer, data = shared[number], files[number % 3][1]
        for _ in range(10):
            at = chance.randrange(16 * W)
            size = chance.choice([1, 2, 33, 4096, W + 5])
            assert buffer[at] == data[at]
            assert buffer[at : at + size] == data[at : at + size]
            assert buffer.view(at, at + size) == data[at : at + size]
        if chance.random() < 0.05:
            shared[number] = managers[number % 2].buffer(files[number % 3][0])
        if chance.random() < 0.02:
            managers[number % 2].collect()
        if chance.random() < 0.02:
            managers[number % 2].release(files[number % 3][0])
        if chance.random() < 0.02:
            managers[number % 2].stats()

    together(read, read, read, read)
    shared.clear()
    gone(*managers)


@pytest.mark.skipif(smmap.engine != "fast", reason="a cursor belongs to one thread at a time: only C code could crash")
def test_one_cursor_used_by_several_threads_does_not_crash(tmp_path: Path) -> None:
    managers = [manager_of(4 * W), manager_of(4 * W)]
    files = [file_of(tmp_path, number) for number in range(2)]
    cursors = [managers[number].make_cursor(files[number][0]) for number in range(2)]
    one = managers[0].make_cursor(files[0][0])

    def move(chance: random.Random) -> None:
        try:
            one.use_region(chance.randrange(16 * W), chance.choice([0, 1, 100, W]))
        except PROMISED:
            pass

    def look(chance: random.Random) -> None:
        try:
            view = one.buffer()
            assert len(view) <= W
            bytes(view[:10])
            one.map()[0]
        except PROMISED:
            pass

    def leave(chance: random.Random) -> None:
        try:
            what = chance.randrange(5)
            if what == 0:
                one.close()
            elif what == 1:
                one.unuse_region()
            elif what == 2:
                region = one.region()
                if region is not None:
                    region.release()
            else:
                cursor = cursors[chance.randrange(2)]
                cursor.use_region(chance.randrange(16 * W), 100)
                one.assign(cursor)
                one.region()
        except PROMISED:
            pass

    together(move, look, leave, look)
    one.close()
    for cursor in cursors:
        cursor.close()
    for manager in managers:  # a cursor belongs to one thread: what several made of it may be mapped a while longer
        manager._check()


def test_cursors_of_many_threads_pin_the_same_regions_while_they_are_revoked(tmp_path: Path) -> None:
    manager = manager_of(3 * W)
    path, data = file_of(tmp_path, 0)

    def use(chance: random.Random) -> None:
        cursor = manager.make_cursor(path)
        try:
            for _ in range(chance.choice([1, 3, 20])):
                at, size = chance.randrange(16 * W - W), chance.choice([1, 100, W])
                assert cursor.use_region(at, size).buffer() == data[at : at + size]
            region = cursor.region()
            if region is not None:
                region.client_count()
            if chance.random() < 0.5:
                cursor.close()
        except PROMISED:
            pass

    def revoke(chance: random.Random) -> None:
        with manager.make_cursor(path) as cursor:
            cursor.use_region(chance.randrange(16 * W), 1)
            cursor.region().release()
        manager.stats()
        time.sleep(0.001)

    together(use, use, use, revoke)
    gone(manager)
