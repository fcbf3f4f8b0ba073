"""What worker processes do; a module, so that those which are not forked can import it."""

from __future__ import annotations

import os
import random
from typing import Any

import smmap


def read(task: tuple[Any, int, bytes]) -> tuple[int, int]:
    """Read a buffer that came pickled, at random; who read, and how often. The bytes are `data`."""
    buffer, seed, data = task
    chance = random.Random(seed)
    assert len(buffer) == len(data)
    for _ in range(100):
        at = chance.randrange(len(data))
        assert buffer[at] == data[at]
        assert buffer[at : at + 999] == data[at : at + 999]
        assert buffer.view(at, at + 9) == data[at : at + 9]
    needle = data[len(data) // 2 :][:9]
    assert buffer.find(needle) == data.find(needle)
    manager = smmap.default_manager()
    manager._check()
    manager.collect()
    manager._check()
    assert buffer[0] == data[0]
    return os.getpid(), 300


def hand_on(buffer: Any, connection: Any) -> None:
    """Send a buffer on, and what was read from it here."""
    connection.send((buffer, buffer[3:99]))
    connection.close()
