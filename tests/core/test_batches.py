"""`gather`, `ranges`, `prefetch`: equal to slices of the bytes, whatever is mapped or limited, or goes wrong."""

from __future__ import annotations

import array
import errno
import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest

import smmap
from smmap import ClosedError, FileChangedError, _batches, _system

from ._tools import LATE, LINUX, PYPY, TRACKS, File, G, World, before_system_call, linux, payload

W = 2 * G
SIZE = 5 * W + 77
np: Any
try:
    import numpy as np
except ImportError:
    np = None

LIMITS: dict[str, dict[str, Any]] = {
    "roomy": {"window_size": W},
    "two windows": {"window_size": W, "max_memory_size": 2 * W},
    "one handle": {"window_size": W, "max_memory_size": W, "max_open_handles": 1},
    "whole files": {"static": True},
    "read": {"window_size": W, "backing": "read"},
}


@pytest.fixture(params=LIMITS, ids=str)
def manager(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(**LIMITS[request.param])


def chance(length: int, size: int, count: int, seed: int = 1) -> list[int]:
    """Places for ranges of that size: at random, at windows' borders, at both ends, and some of them twice."""
    rest = length - size
    drawn = random.Random(seed * 1000 + size)
    near = [place + shift for place in range(0, length, W) for shift in (-size, -1, 0)]
    places = [0, rest, *(place for place in near if 0 <= place <= rest)]
    places += [drawn.randint(0, rest) for _ in range(count)]
    return drawn.sample(places + places[:3], len(places) + len(places[:3]))


def joined(data: bytes, places: list[int], size: int) -> bytes:
    return b"".join(data[place : place + size] for place in places)


@pytest.mark.parametrize("size", [0, 1, 3, 100, 4096, 5000, G, W + 5, 5 * W])
def test_gather_equals_slices(size: int, manager: Any, world: World) -> None:
    file = world.file(9 * W + 77)
    buffer = manager.buffer(file.path, 5, 8 * W)
    data = file.data[5 : 5 + 8 * W]
    for seed in range(3):
        places = chance(len(data), size, 20, seed)
        got = buffer.gather(places, size)
        assert type(got) is bytearray
        assert got == joined(data, places, size)
        manager._check()
        buffer[seed * W], buffer[-1]  # so that some windows are mapped for the next batch
        buffer.view(3 * W, 3 * W + 9)
    assert buffer.gather([], size) == b""


@pytest.mark.parametrize("size", [1, 700, 3000])
@pytest.mark.parametrize("count", [96, 97, 1000])
def test_long_batches_in_any_order_equal_slices(count: int, size: int, world: World) -> None:
    file = world.file(60 * W + 5)
    buffer = world.manager(W, 4 * W).buffer(file.path)
    for seed in range(2):
        places = chance(len(file.data), size, count, seed)
        places[count // 2] = places[0]
        assert buffer.gather(places, size) == joined(file.data, places, size)
    assert buffer.gather([places[0]] * count, size) == file.data[places[0] : places[0] + size] * count
    assert buffer.gather([*range(count)][::-1], 1) == file.data[:count][::-1]


def test_ranges_are_clipped_as_slices(manager: Any, world: World) -> None:
    file = world.file(4 * W + 77)
    buffer, data = manager.buffer(file.path), file.data
    near = [-(1 << 70), -len(data) - 1, -len(data), -W, -1, 0, 1, W - 1, W, W + 1, len(data) - 1, len(data), 1 << 70]
    spans = [(start, stop) for start in near for stop in near]
    random.Random(3).shuffle(spans)
    starts, stops = [start for start, _ in spans], [stop for _, stop in spans]
    for _ in range(2):
        found = buffer.ranges(starts, stops)
        assert found == [data[start:stop] for start, stop in spans]
        assert set(map(type, found)) == {bytes}
        buffer.prefetch(starts, stops)
    assert buffer.ranges([], []) == []
    with pytest.raises(ValueError, match="have the same length, not 1 and 2"):
        buffer.ranges([1], [2, 3])


KINDS = ["bBhHiIlLqQ"[place] for place in range(10)]


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_may_be_an_array_of_any_integers(kind: str, world: World) -> None:
    file = world.file(W)
    buffer = world.manager(W).buffer(file.path)
    places = [120, 0, 7, 7, 99]
    given = array.array(kind, places)
    assert buffer.gather(given, 3) == joined(file.data, places, 3)
    assert buffer.gather(memoryview(given)[::2], 3) == joined(file.data, places[::2], 3)
    assert buffer.ranges(given, given) == [b""] * 5
    if kind.islower():
        with pytest.raises(IndexError, match=r"offsets\[1\] is -1: 3 bytes from there are not in a buffer of "):
            buffer.gather(array.array(kind, [0, -1]), 3)
    if kind == "Q":
        with pytest.raises(IndexError, match=r"offsets\[0\] is 18446744073709551615"):
            buffer.gather(array.array(kind, [(1 << 64) - 1]), 1)


def test_offsets_may_be_any_sequence_of_integers(world: World) -> None:
    class Index:
        def __index__(self) -> int:
            return 5

    file = world.file(W)
    buffer = world.manager(W).buffer(file.path)
    sequences: tuple[Any, ...] = ((1, 2, 3), range(1, 9, 2), [True, 2], [Index(), 3], bytes([7, 9]))
    for given in sequences:
        places = [5 if isinstance(place, Index) else int(place) for place in given]
        assert buffer.gather(given, 3) == joined(file.data, places, 3)
    assert buffer.gather(iter([4, 5]), 3) == joined(file.data, [4, 5], 3)


@pytest.mark.skipif(np is None, reason="needs numpy")
def test_numpy_arrays_are_taken_and_filled(world: World) -> None:
    file = world.file(4 * W)
    buffer = world.manager(W).buffer(file.path)
    places = [5, 3 * W, 77, W - 1]
    want = joined(file.data, places, 8)
    for dtype in ("i8", "u4", ">i8", ">u2", "<i4", "int16"):
        if np.dtype(dtype).itemsize > 2 or dtype == ">u2":
            assert buffer.gather(np.array(places, "i8").astype(dtype), 8) == joined(
                file.data, [int(place) for place in np.array(places).astype(dtype)], 8
            )
    for out in (
        np.zeros(4, "<u8"),
        np.zeros((4, 2), "<f4"),
        np.zeros((2, 2), [("a", "<i2"), ("b", "S6")]),
        np.zeros(32, "S1"),
    ):
        assert buffer.gather(np.array(places), 8, out) is out
        assert out.tobytes() == want


class Tensor:
    """Has its memory for numpy alone, as a tensor of torch has it."""

    def __init__(self, array: Any, shares: bool = True) -> None:
        self._array, self._shares = array, shares

    def __array__(self, *_: Any) -> Any:
        return self._array if self._shares else self._array.copy()


@pytest.mark.skipif(np is None, reason="needs numpy")
def test_tensors_are_taken_and_filled_if_they_share_their_memory(world: World) -> None:
    file = world.file(4 * W)
    buffer = world.manager(W).buffer(file.path)
    target = np.zeros((2, 8), "u1")
    out = Tensor(target)
    assert buffer.gather(Tensor(np.array([5, 99])), 8, out) is out
    assert target.tobytes() == joined(file.data, [5, 99], 8)
    with pytest.raises(TypeError, match="out must be a writable bytes-like object or array in the memory of the CPU"):
        buffer.gather([5, 99], 8, Tensor(target, False))


@pytest.mark.parametrize("kind", ["bytearray", "memoryview", "array"])
def test_out_is_filled_and_returned(kind: str, world: World) -> None:
    file = world.file(4 * W)
    buffer = world.manager(W).buffer(file.path)
    places = chance(4 * W, 8, 10)
    size = 8 * len(places)
    out: Any = {
        "bytearray": bytearray(size),
        "memoryview": memoryview(bytearray(size + 4))[4:],
        "array": array.array("d", bytes(size)),
    }[kind]
    assert buffer.gather(places, 8, out) is out
    assert bytes(out) == joined(file.data, places, 8)
    assert buffer.gather(places, 8, out=out) is out


WRONG_OUT: list[tuple[Any, Any, str]] = [
    (bytes(20), TypeError, "out must be writable, but this bytes is read-only"),
    (memoryview(bytes(20)), TypeError, "read-only"),
    (bytearray(19), ValueError, "out must have 20 bytes, for 2 ranges of 10, not 19"),
    (bytearray(0), ValueError, "20 bytes"),
    (memoryview(bytearray(40))[::2], ValueError, "C-contiguous"),
    (7, TypeError, "not int"),
    ([0] * 20, TypeError, "not list"),
    ("x" * 20, TypeError, "not str"),
]


@pytest.mark.parametrize("number", range(len(WRONG_OUT)))
def test_wrong_out_is_refused_before_anything_is_read(number: int, world: World) -> None:
    out, kind, message = WRONG_OUT[number]
    file = world.file(4 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    before = manager.stats()
    with pytest.raises(kind, match=message):
        buffer.gather([0, 3 * W], 10, out)
    assert manager.stats() == before


WRONG_OFFSETS: list[tuple[Any, Any, str]] = [
    (
        [0, 5, 4 * W - 9],
        IndexError,
        rf"offsets\[2\] is {4 * W - 9}: 10 bytes from there are not in a buffer of {4 * W} b",
    ),
    ([0, -1], IndexError, r"offsets\[1\] is -1"),
    ([1 << 90], IndexError, rf"offsets\[0\] is {1 << 90}"),
    ([-(1 << 90)], IndexError, r"offsets\[0\] is -"),
    ([0, 1.5], TypeError, r"offsets must be a sequence of integers or an array of them, not float \(at index 1\)"),
    (["a"], TypeError, "not str"),
    (None, TypeError, "not NoneType"),
    (5, TypeError, "not int"),
    (array.array("d", [1]), TypeError, "of format 'd'"),
    (memoryview(bytes(16)).cast("B", (4, 4)), ValueError, "one dimension, not 2"),
]


@pytest.mark.parametrize("number", range(len(WRONG_OFFSETS)))
def test_wrong_offsets_are_refused_before_anything_is_read(number: int, world: World) -> None:
    given, kind, message = WRONG_OFFSETS[number]
    file = world.file(4 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    before, out = manager.stats(), bytearray(b"x" * 30)
    with pytest.raises(kind, match=message):
        buffer.gather(given, 10, out)
    assert manager.stats() == before
    assert out == b"x" * 30


def test_wrong_sizes_are_refused(world: World) -> None:
    buffer = world.manager(W).buffer(world.file(W).path)
    with pytest.raises(ValueError, match="size must not be negative: -1"):
        buffer.gather([0], -1)
    with pytest.raises(TypeError):
        buffer.gather([0], 1.5)
    with pytest.raises(IndexError):
        buffer.gather([0], W + 1)
    with pytest.raises(IndexError):
        buffer.gather([0], 1 << 80)


def test_closed_buffer_reads_no_batch(world: World) -> None:
    buffer = world.manager(W).buffer(world.file(W).path)
    buffer.close()
    for call in (lambda: buffer.gather([0], 1), lambda: buffer.ranges([0], [1]), lambda: buffer.prefetch([0], [1])):
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("mapped", [False, True])
def test_closed_manager_reads_no_batch(mapped: bool, world: World) -> None:
    manager = world.manager(W)
    buffer = manager.buffer(world.file(W).path)
    view = buffer.view(0, 9) if mapped else None
    manager.close()
    for call in (lambda: buffer.gather([0], 1), lambda: buffer.ranges([0], [1]), lambda: buffer.prefetch([0], [1])):
        with pytest.raises(ClosedError):
            call()
    del view


# Many files


def files_of(world: World, count: int) -> list[File]:
    return [world.file(W + 99 * number, f"file{number}") for number in range(count)]


def some_of(files: list[File], count: int, size: int, seed: int = 1) -> tuple[list[int], list[int], bytes]:
    drawn = random.Random(seed)
    which = [drawn.randrange(len(files)) for _ in range(count)]
    places = [drawn.randint(0, len(files[one].data) - size) for one in which]
    return which, places, b"".join(files[one].data[at : at + size] for one, at in zip(which, places))


@pytest.mark.skipif(np is None, reason="needs numpy")
@pytest.mark.parametrize("dtype", ["M8[s]", "m8[ms]", [("a", "M8[s]"), ("b", "<i8")]], ids=str)
def test_gather_into_dates(dtype: Any, world: World) -> None:
    """Which numpy does not export as a buffer; whether the ranges are mapped or not."""
    file = world.file(4 * W)
    buffer = world.manager(W).buffer(file.path)
    for _ in range(2):
        out = np.zeros(6, dtype)
        size = out.nbytes // 3
        assert buffer.gather([W, 5, W + 900], size, out=out) is out
        assert out.tobytes() == joined(file.data, [W, 5, W + 900], size)
        one = np.zeros(1, dtype)
        assert buffer.gather([W + 9], one.nbytes, out=one) is one
        assert one.tobytes() == file.data[W + 9 : W + 9 + one.nbytes]
        buffer.view(W, 2 * W).release()
    with pytest.raises((TypeError, ValueError)):
        buffer.gather([1, 2, 3], size, out=np.zeros(12, dtype)[::2])


@pytest.mark.parametrize("size", [1, 700, W])
def test_manager_gathers_from_many_files(size: int, manager: Any, world: World) -> None:
    files = files_of(world, 30)
    buffers = [manager.buffer(file.path) for file in files]
    for seed in range(3):
        which, places, want = some_of(files, 100, size, seed)
        assert manager.gather(buffers, which, places, size) == want
        out = bytearray(len(want))
        assert manager.gather(buffers, array.array("b", which), array.array("q", places), size, out) is out
        assert out == want
    manager._check()


def test_manager_gather_says_what_is_wrong(world: World) -> None:
    files = files_of(world, 3)
    manager, other = world.manager(W), world.manager(W)
    buffers = [manager.buffer(file.path) for file in files]
    with pytest.raises(IndexError, match=r"which\[1\] is 3: there are 3 buffers"):
        manager.gather(buffers, [0, 3], [0, 0], 1)
    with pytest.raises(IndexError, match=r"which\[0\] is -1: there are 3 buffers"):
        manager.gather(buffers, [-1], [0], 1)
    with pytest.raises(IndexError, match=rf"offsets\[1\] is {W}: 1 bytes from there are not in a buffer of {W} bytes"):
        manager.gather(buffers, [1, 0], [W, W], 1)
    with pytest.raises(ValueError, match="have the same length, not 1 and 2"):
        manager.gather(buffers, [1], [0, 0], 1)
    with pytest.raises(ValueError, match="belongs to another manager"):
        manager.gather([*buffers, other.buffer(files[0].path)], [1], [0], 1)


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS, reason="no descriptor is kept there")
@pytest.mark.parametrize("handles", [1, 5, 40])
def test_each_file_is_opened_once_and_within_the_limit(
    handles: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(world, 40)
    manager = world.manager(W, max_open_handles=handles)
    buffers = [manager.buffer(file.path) for file in files]
    which, places, want = some_of(files, 400, 50)
    manager.collect()
    opened: Counter[str] = Counter()
    most = [0]

    def note(path: Any, *_: Any) -> None:
        opened[os.fspath(path)] += 1
        if LINUX:
            most[0] = max(most[0], len(world.descriptors()) + len(world.maps()))

    before_system_call(monkeypatch, "open", note)
    assert manager.gather(buffers, which, places, 50) == want
    monkeypatch.undo()
    reads = {file.path.name: opened[str(file.path)] for file in files}
    bought = manager.stats().misses
    assert sum(reads.values()) <= len(files) + bought, "each once, and once more to map it"
    assert most[0] <= handles * (2 if TRACKS else 1) + 1  # there, a map has a descriptor of its own


@linux
def test_batch_continues_if_the_system_has_no_descriptor_left(world: World) -> None:
    import resource

    files = files_of(world, 30)
    manager = world.manager(W)
    buffers = [manager.buffer(file.path) for file in files]
    which, places, want = some_of(files, 200, 50)
    manager.collect()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    highest = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(in_use, highest) + 4, before[1]))
    try:
        got = manager.gather(buffers, which, places, 50)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert got == want


# What is mapped, and what is not


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS or PYPY, reason="each read maps there")
def test_batch_counts_and_maps_as_so_many_reads_would(world: World) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    buffer[0:8]  # opened, and in memory
    places = [W + 5 * number for number in range(7)]
    manager.reset_stats()
    buffer.gather(places, 5)
    assert (manager.stats().cold_reads, manager.stats().mapped) == (7, 0)
    buffer.gather([W, 3 * W], 5)
    assert (manager.stats().cold_reads, manager.stats().misses) == (9, 1), "the eighth read of the window buys it"
    buffer.gather(places, 5)
    assert (manager.stats().cold_reads, manager.stats().hits) == (9, 7)


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS or PYPY, reason="each read maps there")
def test_window_that_another_thread_maps_before_the_batch_does_is_no_hit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    buffer[0:8]  # opened, and in memory
    real = _batches._buy

    def buy(batch: Any, due: Any) -> None:
        manager.make_cursor(file.path).use_region(W, 5).close()
        real(batch, due)

    monkeypatch.setattr(_batches, "_buy", buy)
    manager.reset_stats()
    buffer.gather([W + 5 * number for number in range(8)], 5)
    stats = manager.stats()
    assert (stats.cold_reads, stats.misses, stats.hits, stats.mapped) == (8, 1, 0, 1)


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS or PYPY, reason="each read maps there")
def test_batch_that_had_to_be_waited_for_pays_nothing(world: World) -> None:
    file = world.file(1 << 22)
    manager = world.manager(1 << 22)
    buffer = manager.buffer(file.path)
    places = [number * 400_000 for number in range(10)]
    _skip_unless_cold(file, places[-1])
    assert buffer.gather(places, 9) == joined(file.data, places, 9)
    assert manager.stats().mapped == 0
    assert buffer.gather(places, 9) == joined(file.data, places, 9)
    assert manager.stats().mapped == 1


def test_batch_larger_than_the_limit_maps_nothing(world: World) -> None:
    file = world.file(16 * W)
    manager = world.manager(W, max_memory_size=4 * W)
    buffer = manager.buffer(file.path)
    places = [number * 512 for number in range(16 * W // 512)]
    assert buffer.gather(places, 512) == file.data
    if _system.KEEPS_DESCRIPTORS:
        assert manager.stats().misses == 0
    assert buffer.gather(places[:40], 512) == file.data[: 40 * 512]


def test_batch_takes_detached_regions_back(world: World) -> None:
    file = world.file(4 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    view = buffer.view(0, 9)
    manager.collect()
    assert manager.stats().detached == 1
    assert buffer.gather([5, 9], 7) == joined(file.data, [5, 9], 7)
    assert (manager.stats().detached, manager.stats().idle) == (0, 1)
    del view


def test_prefetch_maps_nothing_and_counts_nothing(manager: Any, world: World) -> None:
    file = world.file(8 * W)
    buffer = manager.buffer(file.path)
    before = manager.stats()
    buffer.prefetch([0, 5 * W, -10], [9, 6 * W, 1 << 40])
    after = manager.stats()
    assert (after.mapped, after.cold_reads, after.misses) == (before.mapped, before.cold_reads, before.misses)
    assert buffer[:] == file.data


@linux
@pytest.mark.skipif(np is None, reason="needs numpy")
def test_announced_pages_are_read_while_nobody_waits(world: World) -> None:
    file = world.file(64 * W)
    _skip_unless_cold(file, 50 * W)
    _drop(file)
    buffer = world.manager(W).buffer(file.path)
    buffer.prefetch([50 * W], [50 * W + 100])
    _wait_for(file, 50 * W)
    assert not _is_resident(file, 3 * W)


@linux
@pytest.mark.skipif(np is None, reason="needs numpy")
def test_long_range_is_announced_whole(world: World) -> None:
    """Whatever the system reads for one call: 128 KiB for many devices."""
    file = world.file(24 << 20)
    last = (24 << 20) - 9
    _skip_unless_cold(file, last)
    buffer = world.manager(1 << 20).buffer(file.path)
    for prepare in (lambda: None, lambda: buffer.view(0, len(file.data)).release()):
        prepare()
        _drop(file)
        buffer.prefetch([0], [len(file.data)])
        _wait_for(file, last)


def test_small_ranges_of_a_cold_file_are_read_together(world: World) -> None:
    """The memory that a batch before has left behind must not be taken for a range."""
    size = 8 << 20
    warm, cold = world.file(size), world.file(64 * W, "cold")
    first, second = world.manager(size).buffer(warm.path), world.manager(W).buffer(cold.path)
    first.view(0, 9).release()
    for turn in range(30):
        count = 2 + turn % 5
        places = [size - 100 * number for number in range(1, count + 2)]
        assert first.gather(places, 64) == joined(warm.data, places, 64)
        _drop(cold)
        places = [2 * turn * W + 200 * number for number in range(count)]
        assert second.gather(places, 64) == joined(cold.data, places, 64)


# Failures


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS, reason="no pread there")
@pytest.mark.parametrize(("size", "apart"), [(64, 200), (5000, 3 * W)], ids=["read together", "one by one"])
def test_read_that_the_system_refuses_is_tried_again(
    size: int, apart: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(64 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    assert buffer[:9] == file.data[:9]
    places = [W + number * apart for number in range(8)]
    _skip_unless_cold(file, places[0])
    refused = [errno.ENOMEM]
    before_system_call(monkeypatch, "pread", lambda *_: refused.pop() if refused else 0)
    assert buffer.gather(places, size) == joined(file.data, places, size)
    assert not refused
    manager._check()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_exception_of_a_signal_handler_ends_a_batch_that_is_at_hand(world: World) -> None:
    """Even if it is of a kind that a wrong argument raises, too."""
    file = world.file(4 << 20)
    buffer = world.manager().buffer(file.path)
    buffer.view(0, 9).release()
    offsets = array.array("q", [place % 1000 * 4096 for place in range(8000)])
    out = bytearray(len(offsets) * 4096)
    rung = 0

    class Late(ValueError):
        """As a deadline may raise it."""

    def ring(*_: Any) -> None:
        nonlocal rung
        rung += 1
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    caught = 0
    gc.disable()  # what is raised in its callbacks is lost
    try:
        for _ in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.003)
                buffer.gather(offsets, 4096, out)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Late:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert caught == rung


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS, reason="no pread there")
def test_error_names_the_range_that_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(64 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    bad = 40 * W
    places = [0, 60 * W, bad, 3 * W]
    _skip_unless_cold(file, bad)
    before_system_call(monkeypatch, "pread", lambda number, size, offset: errno.EIO * (offset <= bad < offset + size))
    with pytest.raises(OSError, match=rf"range 2, \[{bad}, {bad + 9}\): ") as caught:
        buffer.gather(places, 9)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(file.path))
    monkeypatch.undo()
    assert buffer.gather(places, 9) == joined(file.data, places, 9)
    assert buffer.ranges(places, [place + 9 for place in places]) == [file.data[at : at + 9] for at in places]
    manager._check()


def _drop(file: File) -> None:
    """Let the file be on storage alone."""
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _is_resident(file: File, offset: int) -> bool:
    """Whether a page is in memory. Unlike a read that must not wait, `mincore` does not start to read it."""
    import ctypes
    import mmap

    with open(file.path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        start = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        found = ctypes.create_string_buffer(1)
        call = ctypes.CDLL(None, use_errno=True).mincore
        at = offset - offset % mmap.PAGESIZE
        assert call(ctypes.c_void_p(start + at), ctypes.c_size_t(1), found) == 0
        return bool(found.raw[0] & 1)


def _wait_for(file: File, offset: int) -> None:
    end = time.monotonic() + 10
    while not _is_resident(file, offset) and time.monotonic() < end:
        time.sleep(0.01)
    assert _is_resident(file, offset)


def _skip_unless_cold(file: File, offset: int) -> None:
    """Skip where the file system keeps all in memory: there, nothing has to be waited for."""
    _drop(file)
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        nowait = getattr(os, "RWF_NOWAIT", 0)
        if nowait and os.preadv(descriptor, [bytearray(9)], offset, nowait) == 9:
            pytest.skip("all of the file is in memory")
    except OSError:
        pass
    finally:
        os.close(descriptor)
    _drop(file)


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS or os.name != "posix", reason="no pread there")
def test_error_of_a_truncated_file_names_the_range(manager: Any, world: World) -> None:
    file = world.file(20 * W)
    buffer = manager.buffer(file.path)
    buffer.gather([0], 5)
    manager.collect() if manager.window_size() == 0 else None
    descriptor_kept = manager.stats().descriptors
    os.truncate(file.path, 10 * W)
    places = [5, 15 * W, 3 * W]
    with pytest.raises(FileChangedError, match=r"range 1, \[|changed since") as caught:
        buffer.gather(places, 9)
    assert caught.value.filename == str(file.path)
    if descriptor_kept:
        assert "range 1" in str(caught.value)
    del buffer, caught
    manager._check()


@pytest.mark.parametrize("call", ["gather", "ranges", "prefetch"])
def test_failed_open_leaves_the_ledger_exact(call: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(world, 6)
    manager = world.manager(W)
    buffers = [manager.buffer(file.path) for file in files]
    which, places, want = some_of(files, 60, 20)
    manager.collect()
    before_system_call(monkeypatch, "open", lambda path, *_: errno.EACCES * (os.fspath(path) == str(files[4].path)))
    with pytest.raises(PermissionError):
        if call == "gather":
            manager.gather(buffers, which, places, 20)
        else:
            getattr(buffers[4], call)([0], [9])
    monkeypatch.undo()
    manager._check()
    assert manager.gather(buffers, which, places, 20) == want


@pytest.mark.skipif(smmap.engine != "plain", reason="only there may a window go while it is used, on PyPy")
@pytest.mark.parametrize("slow", [False, True], ids=["at once", "after they were announced"])
def test_ranges_of_windows_that_were_evicted_meanwhile_are_read(
    slow: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smmap._engine import plain_batches

    drawn = random.Random(1)
    copied = plain_batches._copied
    monkeypatch.setattr(plain_batches, "_copied", lambda *args: drawn.random() < 0.5 and copied(*args))
    monkeypatch.setattr(plain_batches, "_SLOW", -1 if slow else 1)
    file = world.file(20 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    for turn in range(20):
        for window in range(20):
            if drawn.random() < 0.7:
                buffer.view(window * W, window * W + 9).release()
        places = chance(len(file.data), 90, 60, turn)
        assert buffer.gather(places, 90) == joined(file.data, places, 90)
        assert buffer.ranges(places, [place + 90 for place in places]) == [file.data[at : at + 90] for at in places]
        manager.collect()
    manager._check()


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS, reason="no pread there")
def test_range_is_of_one_file_although_its_buffer_got_another_one_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread may do while a file is opened."""
    first, second, third = (world.file(9 * W, name) for name in ("first", "second", "third"))
    manager = world.manager(W)
    buffers = [manager.buffer(first.path), manager.buffer(second.path)]
    other = manager.make_cursor(third.path)
    buffers[1].view(0, 9).release()  # half of the range is mapped
    for buffer in buffers:
        manager._lock.run(manager._cache.uncache, buffer._access.client.file)
    before_system_call(
        monkeypatch, "open", lambda path, *_: buffers[1].begin_access(other) and 0 if path == str(first.path) else 0
    )
    got = manager.gather(buffers, [0, 1], [0, W - 10], 20)
    assert got[:20] == first.data[:20]
    assert got[20:] in (second.data[W - 10 : W + 10], third.data[W - 10 : W + 10])


def test_threads_gather_side_by_side(manager: Any, world: World) -> None:
    files = files_of(world, 8)
    buffers = [manager.buffer(file.path) for file in files]
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(10 if PYPY else 25):
                which, places, want = some_of(files, 60, 90, seed * 100 + number)
                assert manager.gather(buffers, which, places, 90) == want
                one = files[seed]
                spots = chance(len(one.data), 30, 10, number)
                assert buffers[seed].ranges(spots, [spot + 30 for spot in spots]) == [
                    one.data[spot : spot + 30] for spot in spots
                ]
                if number % 5 == 0:
                    manager.collect()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    manager._check()


@pytest.mark.skipif(LATE, reason="counts regions that die late")
def test_batch_keeps_nothing_mapped(world: World) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    for window in range(8):
        buffer.view(window * W, window * W + 1)
    buffer.gather(chance(8 * W, 77, 100), 77)
    manager.collect()
    assert manager.stats()[:7] == (0,) * 7


def test_traced_batches_are_recorded(world: World, tmp_path: Any) -> None:
    file = world.file(4 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    with manager.trace(tmp_path / "trace") as trace:
        buffer.gather([0, 5, W], 9)
        buffer.ranges([1, 2], [3, W])
        manager.gather([buffer], [0, 0], [7, 8], 3)
    assert trace.recorded == 7
    assert smmap.SlidingWindowMapBuffer.gather is _batches.Batched.gather


def test_large_batches_are_read_in_parts(world: World) -> None:
    """More than is announced at once, and more than is read by one call."""
    data = payload(1 << 20) * 40
    file = world.file(len(data), data=data)
    manager = world.manager(1 << 20, max_memory_size=4 << 20)
    buffer = manager.buffer(file.path)
    _drop(file)
    starts = [0, 1 << 20, 5, 20 << 20]
    stops = [len(data), 39 << 20, 18 << 20, 21 << 20]
    assert [hash(part) for part in buffer.ranges(starts, stops)] == [
        hash(data[start:stop]) for start, stop in zip(starts, stops)
    ]
    places = list(range(0, len(data) - 4096, 40961))
    _drop(file)
    assert buffer.gather(places, 4096) == joined(data, places, 4096)


def test_gather_of_a_closed_buffer_says_so(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    buffers = [manager.buffer(file.path) for _ in range(2)]
    buffers[1].close()
    with pytest.raises(ClosedError):
        manager.gather(buffers, [0], [0], 9)

    class Closing:
        def __index__(self) -> int:
            buffers[0].close()
            return 9

    for call in (lambda: buffers[0].gather([0], Closing()), lambda: buffers[0].ranges([Closing()], [9])):
        buffers[0] = manager.buffer(file.path)
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("code", ["n", "N"])
def test_gather_at_every_other_one_of_offsets_of_any_size(world: World, code: str) -> None:
    file = world.file(SIZE)
    offsets = memoryview(array.array("q", [5, 6, 7, 8])).cast("B").cast(code)
    assert world.manager(W).buffer(file.path).gather(offsets[::2], 2) == file.data[5:7] + file.data[7:9]


def test_dates_are_no_offsets(world: World) -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match="offsets must be a sequence of integers"):
        world.manager(W).buffer(world.file(SIZE).path).gather(numpy.array(["1970-01-02"], "M8[D]"), 1)


@pytest.mark.skipif(LATE, reason="objects die late there")
def test_ranges_leave_no_garbage(world: World) -> None:
    buffer = world.manager(W).buffer(world.file(SIZE).path)
    for call in (buffer.ranges, buffer.prefetch):
        gc.collect()
        gc.disable()
        try:
            call([0, 2 * W], [W, SIZE])
            assert gc.collect() == 0
        finally:
            gc.enable()


@pytest.mark.skipif(LATE, reason="exports last until a garbage collection there")
@pytest.mark.parametrize("call", ["gather", "ranges", "readinto"])
def test_target_can_be_changed_where_the_error_of_a_read_is_handled(world: World, call: str) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, backing="read")
    buffer = manager.buffer(file.path)
    target = bytearray(SIZE)
    with open(file.path, "r+b") as out:
        out.truncate(W)
    try:
        if call == "readinto":
            buffer.readinto(0, target)
        elif call == "gather":
            buffer.gather([0], SIZE, target)
        else:
            buffer.ranges([0], [SIZE])
    except FileChangedError:
        target.clear()
    assert not target or call == "ranges"


def test_batch_of_a_buffer_that_another_thread_gives_another_file_is_of_one_of_them(world: World) -> None:
    files = [world.file(SIZE, "long"), world.file(W + 9, "short")]
    manager = world.manager(W)
    cursors = [manager.make_cursor(file.path) for file in files]
    buffer = smmap.SlidingWindowMapBuffer(cursors[0])
    needle = files[0].data[2 * W : 2 * W + 20]
    stop = time.monotonic() + 0.7

    def change() -> None:
        while time.monotonic() < stop:
            for cursor in cursors:
                buffer.begin_access(cursor)

    calls: list[tuple[Any, list[Any]]] = [
        (lambda: buffer.ranges([5, W], [9, SIZE]), [[file.data[5:9], file.data[W:SIZE]] for file in files]),
        (lambda: buffer.gather([5, W], 9), [file.data[5:14] + file.data[W : W + 9] for file in files]),
        (lambda: buffer.find(needle), [file.data.find(needle) for file in files]),
        (lambda: buffer.prefetch([5, W], [9, SIZE]), [None]),
    ]
    thread = threading.Thread(target=change)
    thread.start()
    try:
        while time.monotonic() < stop:
            for call, expected in calls:
                try:
                    assert call() in expected
                except (ClosedError, ValueError):
                    pass
    finally:
        thread.join()


@linux
@pytest.mark.skipif(TRACKS, reason="a map has a descriptor of its own there")
def test_batches_of_several_threads_share_the_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most as many descriptors again, and those that each thread is just opening."""
    limit, count = 8, 4
    files = files_of(world, 40)
    manager = world.manager(W, max_open_handles=limit)
    buffers = [manager.buffer(file.path) for file in files]
    manager.collect()
    most = [0]
    wrong: list[object] = []

    def note(*_: Any) -> None:
        most[0] = max(most[0], len(world.descriptors()) + len(world.maps()))

    def work(seed: int) -> None:
        for _ in range(6):
            which, places, want = some_of(files, 200, 50)
            if manager.gather(buffers, which, places, 50) != want:
                wrong.append(seed)

    before_system_call(monkeypatch, "open", note)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert most[0] <= 2 * limit + count + 1
