"""Batches as engines serve them: what is mapped, what is announced, what is read, and what that counts."""

from __future__ import annotations

import array
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from core._tools import G, before_system_call
from smmap import FileChangedError

from ._tools import Bench, dead

W = 2 * G
posix = pytest.mark.skipif(not hasattr(os, "pread"), reason="no reads at an offset there")


def batch_of(bench: Bench, starts: Any, size: int, which: Any = None, files: int = 1) -> tuple[Any, bytearray]:
    """A batch of ranges of equal size, and what it fills."""
    batch = bench.engine.Batch([len(bench.data)] * files, which, starts, None, size)
    target = bytearray(batch.total)
    batch.into(target)
    return batch, target


@posix
def test_mapped_ranges_are_served_without_a_descriptor(bench: Callable[..., Bench]) -> None:
    it = bench(4 * W)
    it.restart(0, 2)
    batch, target = batch_of(it, [2 * W, 5, 2 * W + 7], 9)
    assert (len(batch), batch.total, batch.wrong, batch.chosen()) == (3, 27, -1, [0])
    left = batch.serve(0, it.access())
    if left:
        assert (left, batch.read(0)) == (1, -1)
    assert batch.settle(0) == []
    assert target == it.data[2 * W : 2 * W + 9] + it.data[5:14] + it.data[2 * W + 7 : 2 * W + 16]
    assert it.idle.hits == 3
    assert set(it.idle_keys()) == {0, 2}
    batch.close()
    it.restart()
    assert it.counts() == (0, 0), "it keeps no region"


@posix
def test_rest_is_read_and_paid_for(bench: Callable[..., Bench]) -> None:
    it = bench(6 * W, price=3)
    it.restart(1)
    starts = [3 * W + 1, W - 4, 3 * W + 100, 5 * W, 3 * W]
    batch, target = batch_of(it, starts, 9)
    assert batch.serve(0, it.access()) == 2
    batch.announce(0, it.descriptor.number)
    assert batch.read(0, it.descriptor.number) == -1
    assert target == b"".join(it.data[start : start + 9] for start in starts)
    assert it.idle.hits == 1, "of the range across a border, the part that is mapped"
    assert it.cold_reads() == 0
    assert batch.settle(0) == [3 * W]
    assert it.cold_reads() == 5
    assert batch.settle(0) == [], "once is enough"


@posix
def test_announcing_alone_reads_and_counts_nothing(bench: Callable[..., Bench]) -> None:
    it = bench(6 * W, price=1)
    batch = it.engine.Batch([len(it.data)], None, [0, 5 * W], [9, 6 * W], 0)
    it.restart(0)
    if batch.serve(0, it.access()) == 2:
        batch.announce(0, it.descriptor.number)
        assert batch.read(0, it.descriptor.number) == -1
    assert batch.settle(0) == []
    assert it.cold_reads() == 0


def test_first_wrong_range_is_reported(engine: Any) -> None:
    def wrong(which: Any, starts: Any, size: int) -> int:
        return int(engine.Batch([10, 20], which, starts, None, size).wrong)

    assert wrong(None, [0, 9, 10], 1) == 2
    assert wrong(None, [0, -1], 1) == 1
    assert wrong([1, 0], [19, 10], 1) == 1
    assert wrong([1, 2], [0, 0], 1) == 1
    assert wrong([1, -1], [0, 0], 1) == 1
    assert wrong([1, 1], [0, 20], 0) == -1
    assert wrong(None, [1 << 80], 0) == 0
    assert wrong(None, [0], 11) == 0
    assert wrong(None, array.array("Q", [(1 << 64) - 1]), 1) == 0
    with pytest.raises(ValueError, match="differ in number"):
        engine.Batch([10], None, [1, 2], [3], 0)
    with pytest.raises(ValueError, match="differ in number"):
        engine.Batch([10], [0], [1, 2], None, 0)


def test_ranges_become_bytes(bench: Callable[..., Bench]) -> None:
    it = bench(2 * W)
    it.restart(0, 1)
    batch = it.engine.Batch([len(it.data)], None, [5, W - 1, -3, 7, 9], [9, W + 1, 1 << 70, 7, 2], 0)
    batch.each()
    if batch.serve(0, it.access()):
        batch.read(0)
    assert batch.results() == [it.data[5:9], it.data[W - 1 : W + 1], it.data[-3:], b"", b""]
    assert all(type(found) is bytes for found in batch.results() or [])


@posix
def test_buffers_of_a_part_of_a_file(bench: Callable[..., Bench]) -> None:
    it = bench(4 * W)
    batch = it.engine.Batch([W, 2 * W], [1, 0, 1], [2 * W - 9, 0, W - 3], None, 9)
    target = bytearray(27)
    batch.into(target)
    for number, access in enumerate((it.access(77, W), it.access(99, 2 * W))):
        assert batch.serve(number, access) == 2
        batch.announce(number, it.descriptor.number)
    for number in (1, 0):
        assert batch.read(number, it.descriptor.number) == -1
        batch.settle(number)
    data = it.data
    assert target == data[99 + 2 * W - 9 : 99 + 2 * W] + data[77:86] + data[99 + W - 3 : 99 + W + 6]
    assert batch.where(0, 1) == (99 + 2 * W - 9, 99 + 2 * W)


@posix
def test_end_of_file_is_reported_and_read_can_be_retried(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = bench(4 * W)
    os.truncate(it.path, 2 * W)
    batch, _ = batch_of(it, [0, 3 * W, W], 9)
    assert batch.serve(0, it.access()) == 2
    batch.announce(0, it.descriptor.number)
    assert batch.read(0, it.descriptor.number) == 1 == batch.failed
    it.restart()
    batch, target = batch_of(it, [0, W], 9)
    batch.serve(0, it.access())  # not announced: nothing was read without waiting
    failing = [errno.ENOMEM]
    before_system_call(monkeypatch, "pread", lambda *_: failing.pop() if failing else 0)
    try:
        assert batch.read(0, it.descriptor.number) == -1
    except OSError as error:
        assert error.errno == errno.ENOMEM
        assert batch.failed in (0, 1)
        assert batch.read(0, it.descriptor.number) == -1
    assert target == it.data[:9] + it.data[W : W + 9]


@posix
def test_ranges_at_hand_are_copied_at_once_or_not_at_all(bench: Callable[..., Bench]) -> None:
    it = bench(6 * W, price=1 << 30)
    it.restart(0, 1, 2)
    at_hand, buffer = it.engine.Batch.at_hand, it.buffer(W // 2, 4 * W)
    data = it.data[W // 2 : W // 2 + 4 * W]
    starts = [W // 2 + 9, W + W // 2 - 7, W // 2, W // 2 + 9]  # all in window 1
    wanted = b"".join(data[start : start + 7] for start in starts)
    out = bytearray(28)
    if it.engine.__name__.endswith("plain"):
        assert at_hand(buffer, starts, 7, out) is None
        return
    before = it.idle.hits
    found = at_hand(buffer, starts, 7, None)
    assert (type(found), found) == (bytearray, wanted)
    assert it.idle_keys() == [0, 2, 1]
    for given in (array.array("q", starts), array.array("H", starts), memoryview(array.array("Q", starts))):
        assert at_hand(buffer, given, 7, out) is out
        assert out == wanted
    assert it.idle.hits == before + 4 * len(starts)
    out[:] = b"x" * 28
    size = len(data)
    for given, length, to in (
        ([W // 2, W // 2 - 1], 7, None),  # two windows
        ([W + W // 2 - 6], 7, None),
        ([2 * W + W // 2], 7, None),  # not mapped
        ([W // 2, -1], 7, None),  # outside
        ([W // 2, 1 << 70], 7, None),
        ([-(1 << 70)], 7, None),
        ([size - 6], 7, None),
        ([0], size + 1, None),
        ([0], 1 << 70, None),
        ([W // 2], -1, None),
        ([W // 2], True, None),
        ([W // 2], 7.0, None),
        ([], 7, None),
        ([W // 2], 0, None),
        ([W // 2, 1.5], 7, None),
        ([W // 2, "a"], 7, None),
        ((W // 2,), 7, None),
        (None, 7, None),
        (iter([W // 2]), 7, None),
        (array.array("d", [W // 2]), 7, None),
        (memoryview(array.array("q", [*starts, *starts]))[::2], 7, None),
        (starts, 7, bytearray(27)),
        (starts, 7, bytearray(29)),
        (starts, 7, bytes(28)),
        (starts, 7, memoryview(out).toreadonly()),
        (starts, 7, memoryview(bytearray(56))[::2]),
        (starts, 7, "x" * 28),
    ):
        assert at_hand(buffer, given, length, to) is None
    assert it.idle.hits == before + 4 * len(starts), "what is not done is not counted"
    assert at_hand(it.buffer_of(it.engine.Access.closed(it.client)), starts, 7, out) is None
    assert out == b"x" * 28
    del buffer
    out.append(1)  # nobody has a view of it
    it.restart()
    assert it.counts() == (0, 0), "it keeps no region"


@posix
def test_ranges_at_hand_of_a_truncated_file_are_an_error(bench: Callable[..., Bench]) -> None:
    it = bench(4 * W)
    if it.engine.__name__.endswith("plain"):
        pytest.skip("the plain engine has no guard")
    it.engine.guard(it.ledger, "copies", lambda: None)
    it.restart(1)
    os.truncate(it.path, W + G)
    out, buffer = bytearray(18), it.buffer()
    with pytest.raises(FileChangedError, match="truncated"):
        it.engine.Batch.at_hand(buffer, [W + 5, W + G + 5], 9, out)
    assert it.engine.Batch.at_hand(buffer, [W + 5, W + 50], 9, out) is out
    assert out == it.data[W + 5 : W + 14] + it.data[W + 50 : W + 59]
    out.append(1)


def test_batch_that_is_dropped_halfway_keeps_nothing(bench: Callable[..., Bench]) -> None:
    it = bench(4 * W)
    it.restart(0, 1)
    batch, target = batch_of(it, [0, W, 3 * W], 9)
    batch.serve(0, it.access())
    batch.close()
    del batch
    it.restart()
    dead()
    assert it.counts() == (0, 0)
    target.append(1)  # nobody has a view of it
