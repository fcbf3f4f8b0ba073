"""Renting before buying, as numbers: when a window's price has been paid, and what is forgotten."""

from __future__ import annotations

import errno
import os

import pytest

from smmap import _system
from smmap._engine import chosen as engine
from smmap._rents import Rents, patience, price

from ._tools import PYPY, G, World, before_system_call, by_policy, linux

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


@pytest.mark.parametrize(
    ("starts", "scattered"),
    [
        ([5], False),
        ([5, 90_000, 7], False),
        ([5, 500_000], True),
        ([500_000, 5], True),
        (range(0, 80_000, 10_000), False),
        ([9_000_000, *range(0, 30_000, 10_000)], False),
        ([*range(0, 900_000, 10_000), 5_000_000, 9, 7_000_000, 11, 8_000_000], True),
        ([5_000_000, 9, 7_000_000, 11, *range(0, 100_000, 10_000)], False),
    ],
)
def test_pattern_of_the_last_reads_is_remembered(starts: list[int], scattered: bool) -> None:
    for rents in (Rents(), engine.Ledger().rents):
        for start in starts:
            rents.due(3, 10_000, 1 << 60, 100, start)
        assert rents.scattered(3) is scattered
        assert rents.scattered(4) is False


def test_pattern_is_remembered_after_the_purchase_and_as_long_as_the_rent() -> None:
    for rents in (Rents(), engine.Ledger().rents):
        assert [rents.due(1, 1, 3, 2, start) for start in (9, 900_000, 5)] == [False, False, True]
        assert rents.scattered(1)
        for window in range(5, 8):
            rents.due(window, 1, 9, 2, 0)
        assert rents.scattered(1), "of the old generation"
        for window in range(8, 11):
            rents.due(window, 1, 9, 2, 0)
        assert not rents.scattered(1)


def test_both_engines_pay_alike() -> None:
    import random

    drawn = random.Random(7)
    own, other = Rents(), engine.Ledger().rents
    for _ in range(20_000):
        payment = (
            drawn.randrange(40),
            drawn.choice([1, 4096, 1 << 16]),
            drawn.choice([3, 8]),
            12,
            drawn.randrange(1 << 20),
        )
        assert own.due(*payment) is other.due(*payment)
        assert own.scattered(payment[0]) is other.scattered(payment[0])


# What is mapped, and how


def advice_of(path: object) -> list[str]:
    """How the system was told that each map of a file is read, by its flags in /proc."""
    found, name = [], ""
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            if "-" in fields[0]:
                name = fields[-1]
            elif fields[0] == "VmFlags:" and name == str(path):
                found.append("random" if "rr" in fields else "sequential" if "sr" in fields else "normal")
    return found


def in_memory(path: object, offset: int) -> bool | None:
    """Whether a page of a file is; None where the system does not say."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    descriptor = os.open(path, os.O_RDONLY)  # type: ignore[call-overload]
    try:
        return bool(os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(descriptor)


def drop(path: object) -> None:
    descriptor = os.open(path, os.O_RDONLY)  # type: ignore[call-overload]
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@linux
@pytest.mark.parametrize(
    ("order", "access", "wanted"),
    [
        ("apart", "normal", "random"),
        ("in a row", "normal", "normal"),
        ("in a row", "random", "random"),
        ("apart", "sequential", "sequential"),
    ],
)
def test_window_is_mapped_as_it_was_read(order: str, access: str, wanted: str, world: World) -> None:
    size = 1 << 22
    file, manager = world.file(2 * size), world.manager(size)
    buffer = manager.buffer(file.path, access=access)
    places = [size + number * 4096 for number in range(8)]
    if order == "apart":
        places = [size + number * 400_000 for number in (3, 7, 1, 9, 2, 8, 0, 5)]
    for place in places:
        assert buffer[place : place + 4096] == file.data[place : place + 4096]
    assert manager.stats().mapped == 1
    assert advice_of(file.path) == [wanted]


@linux
def test_long_copies_in_a_row_take_the_advice_back(world: World) -> None:
    file = world.file(1 << 22)
    manager = world.manager(1 << 22)
    buffer = manager.buffer(file.path)
    for number in (3, 7, 1, 9, 2, 8, 0, 5):
        buffer[number * 400_000 : number * 400_000 + 10]
    assert advice_of(file.path) == ["random"]
    for place in (1 << 20, 0, 1 << 19):
        assert buffer[place + 7 : place + 100_007] == file.data[place + 7 : place + 100_007]
    assert advice_of(file.path) == ["random"]
    for place in range(0, 300_000, 100_000):
        assert buffer[place : place + 100_000] == file.data[place : place + 100_000]
    assert advice_of(file.path) == ["normal"]


@linux
def test_what_is_not_in_memory_is_not_mapped(world: World) -> None:
    file = world.file(1 << 22)
    manager = world.manager(1 << 22)
    buffer = manager.buffer(file.path)
    drop(file.path)
    if in_memory(file.path, 3 << 20) is not False:
        pytest.skip("this file system keeps all in memory, or does not tell")
    drop(file.path)
    places = [number * 100_000 for number in range(0, 40, 3)]
    for place in places:
        assert buffer[place : place + 10] == file.data[place : place + 10]
    assert manager.stats().mapped == 0, "each of them had to be waited for"
    for place in places:
        assert buffer[place : place + 10] == file.data[place : place + 10]
    assert manager.stats().mapped == 1


def test_copies_map_no_window_that_is_larger_than_the_memory_limit(world: World) -> None:
    """It could only stay alone."""
    file, other = world.file(9 * W), world.file(W, "other")
    manager = world.manager(8 * W, 4 * W)
    small, large = manager.buffer(other.path), manager.buffer(file.path)
    assert small.view(0, 9) == other.data[:9]
    for place in range(100):
        assert large[place : place + 9] == file.data[place : place + 9]
    stats = manager.stats()
    assert (stats.mapped, stats.evictions, stats.mapped_memory) == (1, 0, W)
    assert [info.file for info in manager.regions()] == [str(other.path)]


def test_price_that_rose_while_there_was_no_room_falls_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(3 * W)
    manager = by_policy(world.manager(W))
    buffer = manager.buffer(file.path)
    usual = buffer._access.client.file.price
    with monkeypatch.context() as patch:
        patch.setattr(engine, "map_window", refuse_to_map)
        for place in range(2 * usual):
            assert buffer[place] == file.data[place]
    dear = buffer._access.client.file.price
    assert dear > usual
    for place in range(dear + 1):
        assert buffer[W + place] == file.data[W + place]
    assert manager.stats().mapped == 1
    assert buffer._access.client.file.price == usual


def refuse_to_map(*_: object) -> None:
    raise OSError(errno.ENOMEM, "no room")
