"""What a manager counts and says: `hit_rate`, `reset_stats`, and the logger `smmap`."""

from __future__ import annotations

import collections
import logging
import os
import sys
import threading
import types
from typing import Any

import pytest

import smmap
from core._tools import World
from smmap import _log

from ._tools import G, reclaim, run_python

W = 2 * G
SIZE = 20 * W
HEAD = "import sys, smmap\n"


def test_hit_rate_is_the_part_of_reads_that_found_their_window_mapped(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    assert manager.hit_rate == manager.stats().hit_rate == 0
    buffer = manager.buffer(file.path)
    buffer[5:9]
    assert manager.hit_rate == 0
    view = buffer.view(0, W)
    stats = manager.stats()
    assert (stats.cold_reads, stats.misses, stats.hits) == (1, 1, 0)
    for _ in range(6):
        buffer[7]
    assert manager.hit_rate == manager.stats().hit_rate == 6 / 8
    assert view == file.data[:W]


def test_reset_stats_resets_reads_and_keeps_mapped_regions(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, 3 * W)
    buffer = manager.buffer(file.path)
    for start in range(0, SIZE, W):
        buffer.view(start, start + W)
    buffer[:9]
    buffer[SIZE - 1]
    before = manager.stats()
    assert min(before.hits, before.misses, before.evictions, before.cold_reads, before.peak_mapped) > 0
    manager.collect()
    view = buffer.view(0, 9)
    manager.reset_stats()
    after = manager.stats()
    assert (after.hits, after.misses, after.evictions, after.cold_reads) == (0, 0, 0, 0)
    assert (after.mapped, after.mapped_memory, after.idle) == (1, W, 1)
    assert (after.peak_mapped, after.peak_memory) == (1, W)
    assert after[-3:] == before[-3:]
    assert manager.hit_rate == 0
    assert buffer[3] == view[3]
    assert (manager.stats().hits, manager.hit_rate) == (1, 1)
    manager._check()


def test_reset_stats_works_in_the_middle_of_a_call_and_when_closed(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    manager.buffer(file.path)[0]
    manager._lock.run(manager.reset_stats)  # as a signal handler that interrupts it
    assert manager.stats().cold_reads == 0
    manager.close()
    manager.reset_stats()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Any:
    """The messages of the logger, from DEBUG on."""
    caplog.set_level(logging.DEBUG, "smmap")

    def found(level: int = logging.DEBUG) -> list[str]:
        messages = [each.getMessage() for each in caplog.records if each.name == "smmap" and each.levelno == level]
        caplog.clear()
        return messages

    return found


def test_debug_says_what_is_mapped_evicted_and_refused(world: World, records: Any) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, 2 * W, 2)
    buffer = manager.buffer(file.path)
    for number in range(3):
        buffer.view(number * W, number * W + 9)
    name = str(file.path)
    assert records() == [
        f"map [0, {W}) of {name}",
        f"map [{W}, {2 * W}) of {name}",
        f"evict [0, {W}) of {name}",
        f"map [{2 * W}, {3 * W}) of {name}",
    ]
    manager.collect()
    assert len(records()) == 2
    views = [buffer.view(0, 9), buffer.view(W, W + 9)]
    records()
    with pytest.raises(smmap.LimitError) as caught:
        buffer.view(2 * W, 2 * W + 9)
    told = records()
    assert told[-1] == f"refuse {name}: {caught.value.strerror}"
    assert [line.split()[0] for line in told][:3] == ["evict", "evict", "refuse"]
    assert len(told) <= 4  # where objects die late, it is tried again after a garbage collection
    del views


def test_debug_is_silent_while_nobody_listens(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smmap")
    file = world.file(SIZE)
    manager = world.manager(W, 2 * W)
    for start in range(0, SIZE, W):
        manager.buffer(file.path).view(start, start + 9)
    assert [each for each in caplog.records if each.name == "smmap"] == []
    assert not manager._cache.log.notes


def test_no_logging_is_imported_before_there_is_a_warning(world: World) -> None:
    """And where nobody configured anything, the warning is on standard error, once."""
    file = world.file(SIZE)
    script = """
import io
W = int(sys.argv[2])
manager = smmap.SlidingWindowMapManager(W, 2 * W)
buffer = manager.buffer(sys.argv[1])
for start in range(0, 20 * W, W):
    buffer.view(start, start + 9)
print("logging" in sys.modules)
sys.stderr = io.StringIO()
views = [buffer.view(start, start + 9) for start in range(0, 20 * W, W)]
print("logging" in sys.modules, sys.stderr.getvalue())
"""
    off, on = run_python(HEAD + script, file.path, W).stdout.strip().split("\n")
    assert off == "False"
    assert on.startswith(f"True views keep {3 * W} bytes mapped, more than max_memory_size={2 * W}: ")
    assert on.count("views keep") == 1


def test_notes_wait_while_the_import_of_logging_is_interrupted(
    world: World, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that uses smmap may interrupt it."""
    manager = world.manager(W, 2 * W)
    manager._cache.log.warn("a warning of %s", "mine")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "logging", types.ModuleType("logging"))
        manager.collect()
        assert records(logging.WARNING) == []
    manager.collect()
    assert records(logging.WARNING) == ["a warning of mine"]


def test_warning_comes_once_a_manager_when_views_keep_more_than_the_limit(world: World, records: Any) -> None:
    file = world.file(SIZE)
    for _ in range(2):
        manager = world.manager(W, 2 * W)
        buffer = manager.buffer(file.path)
        views = [buffer.view(start, start + 9) for start in (0, W)]
        assert records(logging.WARNING) == []
        views += [buffer.view(start, start + 9) for start in range(2 * W, SIZE, W)]
        assert len(records(logging.WARNING)) == 1
        del views
        reclaim()
        again = [buffer.view(start, start + 9) for start in range(0, SIZE, W)]
        assert records(logging.WARNING) == []
        del again


def test_warning_comes_at_once_after_the_counters_were_reset(world: World, records: Any) -> None:
    file, manager = world.file(SIZE), world.manager(W, 2 * W)
    cursors = [manager.make_cursor(file.path).use_region(start, 9) for start in range(0, SIZE, W)]
    for cursor in cursors:
        cursor.close()
    manager.reset_stats()
    buffer = manager.buffer(file.path)
    views = [buffer.view(start, start + 9) for start in (0, W, 2 * W)]
    assert len(records(logging.WARNING)) == 1
    assert views[2] == file.data[2 * W : 2 * W + 9]


def test_warning_comes_for_one_view_that_is_larger_than_the_limit(world: World, records: Any) -> None:
    file = world.file(SIZE)
    buffer = world.manager(W, 2 * W).buffer(file.path)
    view = buffer.view()
    (told,) = records(logging.WARNING)
    assert told == (
        f"views keep {SIZE} bytes mapped, more than max_memory_size={2 * W}: they count until "
        "they are dropped, and no idle window is kept meanwhile (logged once per manager)"
    )
    assert view == file.data


def test_warning_comes_for_views_of_cursors(world: World, records: Any) -> None:
    file = world.file(SIZE)
    with world.manager(W, 2 * W).make_cursor(file.path) as cursor:
        views = [cursor.use_region(start, 9).buffer() for start in range(0, SIZE, W)]
    assert len(records(logging.WARNING)) == 1
    assert views[3] == file.data[3 * W : 3 * W + 9]


def test_no_warning_for_what_cursors_pin_and_copies_need(world: World, records: Any) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, 2 * W)
    cursors = [manager.make_cursor(file.path).use_region(start, 9) for start in range(0, SIZE, W)]
    assert manager.stats().mapped_memory > 2 * W
    buffer = manager.buffer(file.path)
    assert buffer[:] == file.data
    for start in range(0, SIZE, W):
        buffer.view(start, start + 9)
    assert records(logging.WARNING) == []
    assert len(cursors) == 20


def test_handler_may_use_the_manager(world: World) -> None:
    """It runs without the lock, so it waits for nobody, and nobody for it."""
    file = world.file(SIZE)
    manager = world.manager(W, 2 * W)
    found: list[Any] = []
    blocked = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "map" in record.getMessage() and len(found) < 50:
                thread = threading.Thread(target=lambda: found.append(manager.make_cursor(file.path).use_region(0, 9)))
                thread.start()
                thread.join(30)
                if thread.is_alive():
                    blocked.set()
                found.append(manager.stats().mapped)

    logger = logging.getLogger("smmap")
    handler, level = Handler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        buffer = manager.buffer(file.path)
        assert [bytes(buffer.view(start, start + 9)) for start in (0, W)] == [file.data[:9], file.data[W : W + 9]]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(found) >= 4
    found.clear()
    assert not blocked.is_set()
    manager._check()


def test_looking_for_views_costs_o_of_1_a_miss(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many regions cursors pin over the limit."""
    file = world.file(200 * W)
    manager = world.manager(W, W)
    looked = []
    real = type(manager._cache).regions
    monkeypatch.setattr(type(manager._cache), "regions", lambda self: looked.append(1) or real(self))
    cursors = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(200)]
    assert 0 < len(looked) < 60
    assert len(cursors) == 200


def test_nobody_listens_before_logging_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "_logger", None)
    for module in (None, object()):  # not imported, or halfway
        monkeypatch.setitem(sys.modules, "logging", module)  # type: ignore[arg-type, unused-ignore]
        assert not _log.debugging()


def test_note_that_another_thread_logged_is_not_logged_again(records: Any) -> None:
    class Taken(collections.deque):  # type: ignore[type-arg]
        """The last note goes in the moment between the look and the taking."""

        def popleft(self) -> Any:
            self.clear()
            return super().popleft()

    log = _log.Log()
    log.notes = Taken([(logging.DEBUG, "text", ())])
    log.tell()
    assert records() == []


@pytest.mark.skipif(os.name != "posix", reason="paths are text there")
def test_names_that_were_given_as_bytes_are_logged_as_text(world: World, caplog: pytest.LogCaptureFixture) -> None:
    file = world.file(W)
    with caplog.at_level(logging.DEBUG, "smmap"):
        world.manager(W).buffer(os.fsencode(file.path)).view(0, 9)
    assert [record.getMessage() for record in caplog.records] == [f"map [0, {W}) of {file.path}"]
