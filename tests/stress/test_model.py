"""The stateful model, a few thousand steps of it; `run_model.py` goes on for as long as you like."""

from __future__ import annotations

import os
import sys
import time

import pytest
from hypothesis import HealthCheck, settings

from core._tools import World, payload

from ._model import Model, W

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are replaced and truncated under their maps")

CPYTHON = sys.implementation.name == "cpython"

TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=60 if CPYTHON else 20,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# What the model found, each by itself.


@pytest.mark.parametrize("noticed_by", ["a new client", "an old client"])
def test_new_clients_see_what_was_written(noticed_by: str, world: World) -> None:
    """Copies that were read before are for those who hold them; a new cursor sees the file as it is now."""
    file = world.file(4 * W)
    manager = world.manager(W, backing="read")
    held, idle = (manager.make_cursor(file.path).use_region(at, 9) for at in (0, W))
    buffer = manager.buffer(file.path)
    assert buffer[2 * W] == file.data[2 * W]
    idle.unuse_region()
    time.sleep(0.02)  # until the file system's clock has moved on
    other = payload(4 * W, "other")
    with open(file.path, "r+b") as writer:
        writer.write(other)
    if noticed_by == "an old client":
        idle.use_region(3 * W, 9)
    with manager.make_cursor(file.path) as new:
        for at in (0, W, 3 * W):
            assert new.use_region(at, 9).buffer() == other[at : at + 9]
        manager._check()
    with manager.buffer(file.path) as new_buffer:
        assert new_buffer[:] == other
    assert held.buffer() == file.data[:9]
    manager._check()
    held.close()
    idle.close()
    manager._check()
    buffer.close()


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_region_released_by_hand_is_found_again_while_a_view_keeps_it(backing: str, world: World) -> None:
    """Its view lives on; who asks for the window again gets the same region, which may be released again."""
    file = world.file(4 * W)
    manager = world.manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    views = []
    for turn in range(1, 4):
        views.append(cursor.buffer())
        cursor.region().release()
        assert not cursor.is_valid()
        assert (manager.stats().mapped, manager.stats().detached) == (1, 1)
        manager._check()
        assert cursor.use_region(0, 9).buffer() == file.data[:9]
        manager._check()
        stats = manager.stats()
        assert (stats.mapped, stats.pinned, stats.detached, stats.misses, stats.evictions) == (1, 1, 0, 1, turn)
    assert all(view == file.data[:9] for view in views)
    assert len({id(view.obj) for view in views}) == 1
    cursor.close()
    views.clear()
