"""Renting before buying, as numbers: when a window's price has been paid, and what is forgotten."""

from __future__ import annotations

import os

import pytest

from smmap import _system
from smmap._rents import Rents, patience, price

from ._tools import PYPY, G, World, before_system_call

W = 2 * G


def reads_until_due(rents: Rents, window: int, size: int, cost: int, most: int = 100) -> int:
    """How many reads of so many bytes it takes."""
    for number in range(1, most):
        if rents.due(window, size, cost, 100):
            return number
    return most


def test_price_of_a_window_that_is_read_grows_with_its_size() -> None:
    assert price(1 << 20, False) == price(4 << 30, False) == 8
    assert price(1 << 20, True) == 8 + 128
    assert price(8192, True) == 9
    assert [patience(windows) for windows in (0, 1, 2, 9, 1 << 40)] == [1, 1, 1, 4, 2048]


@pytest.mark.parametrize(
    ("size", "cost", "reads"),
    [(1, 8, 8), (32767, 8, 8), (32768, 8, 4), (65536, 8, 3), (1 << 20, 8, 1), (1, 1, 1), (1, 9, 9), (32768, 9, 5)],
)
def test_long_read_pays_more(size: int, cost: int, reads: int) -> None:
    assert reads_until_due(Rents(), 7, size, cost) == reads


def test_window_that_was_mapped_is_paid_for_again() -> None:
    """A window that was evicted is worth as much as before."""
    rents = Rents()
    assert [reads_until_due(rents, 7, 1, 8) for _ in range(3)] == [8, 8, 8]


def test_each_window_pays_for_itself() -> None:
    rents = Rents()
    assert not any(rents.due(window, 1, 3, 100) for window in range(50))
    assert not any(rents.due(window, 1, 3, 100) for window in range(50))
    assert all(rents.due(window, 1, 3, 100) for window in range(50))


@pytest.mark.parametrize(("between", "remembered"), [(0, True), (3, True), (7, True), (10, False), (1000, False)])
def test_rents_are_forgotten_after_two_generations(between: int, remembered: bool) -> None:
    """What was read before so many other windows were is forgotten; patience is how many make a generation."""
    rents = Rents()
    assert not rents.due(0, 1, 2, 4)
    for window in range(1, 1 + between):
        assert not rents.due(window, 1, 2, 4)
    assert rents.due(0, 1, 2, 4) is remembered


def test_rents_take_no_more_room_than_two_generations() -> None:
    rents = Rents()
    for window in range(10_000):
        rents.due(window, 1, 8, 16)
    assert len(rents._young) + len(rents._old) <= 2 * 17


def test_rents_go_by_the_size_that_a_file_has_now(world: World) -> None:
    file = world.file(G)
    manager = world.manager(64 * W, max_memory_size=4 * 64 * W, max_open_handles=1000)
    assert manager._client(file.path).file.patience == 4 * 64  # half as many as windows of that size are kept mapped
    os.truncate(file.path, 64 * W)
    assert manager._client(file.path).file.patience == 2


@pytest.mark.skipif(PYPY or not _system.KEEPS_DESCRIPTORS, reason="no read without the lock there")
def test_no_descriptor_is_closed_under_a_reader(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number would be another file's at once."""
    file, other = world.file(8 * W, "file"), world.file(8 * W, "other")
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    assert buffer[W : W + 9] == file.data[W : W + 9]
    taken: list[int] = []

    def late(*_: object) -> None:
        if not taken:
            taken.append(-1)
            manager.collect()
            taken[0] = os.open(other.path, os.O_RDONLY)

    before_system_call(monkeypatch, "pread", late)
    try:
        assert buffer[3 * W : 3 * W + 9] == file.data[3 * W : 3 * W + 9]
    finally:
        os.close(taken[0])
    assert buffer[5 * W : 5 * W + 9] == file.data[5 * W : 5 * W + 9]
    buffer.close()
