"""The stateful model, a few thousand steps of it; `run_model.py` goes on for as long as you like."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from core._tools import payload

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
def test_new_clients_see_what_was_written(noticed_by: str, make_file: Any, make_manager: Any) -> None:
    """Copies that were read before are for those who hold them; a new cursor sees the file as it is now."""
    file = make_file(4 * W)
    manager = make_manager(W, backing="read")
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
def test_what_was_given_up_by_hand_is_not_revived(backing: str, make_file: Any, make_manager: Any) -> None:
    """Its view lives on; who asks for the window again gets a map of the manager's, which may be given up again."""
    file = make_file(4 * W)
    manager = make_manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    views = []
    for _ in range(3):
        views.append(cursor.buffer())
        cursor.region().release()
        assert not cursor.is_valid()
        manager._check()
        assert cursor.use_region(0, 9).buffer() == file.data[:9]
        manager._check()
        assert manager.stats().held == 1
    assert manager.stats().lent == 3
    assert all(view == file.data[:9] for view in views)
    cursor.close()
    views.clear()
