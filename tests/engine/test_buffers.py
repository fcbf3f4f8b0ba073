"""`BufferBase` over an `Access`: the right bytes whatever is mapped, and what is asked of the policy for them."""

from __future__ import annotations

import ctypes
import inspect
import os
import random
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from core._tools import LATE, PYPY, G, linux, reclaim

from ._tools import Bench, Closed, Steps, alarmed, dead, every_step, meanwhile, needs_python

W = 2 * G
TINY = 4  # bytes in a window that is read, not mapped: those need no alignment
Make = Callable[..., Bench]


class Index:
    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Int(int):
    pass


def tiny(bench: Make, size: int = 19, **options: Any) -> Bench:
    return bench(size, window=TINY, kind="read", **options)


def hold(made: Bench, which: int) -> list[Any]:
    """Map the grid windows that the bits of a number say: in turn idle, used by a cursor, and detached."""
    kept = []
    for number in range(-(-len(made.data) // made.window)):
        if which >> number & 1:
            region = made.grid(number)
            state = (number + which) % 3
            if state == 0:
                made.idle.add(region.entry, region)
            elif state == 1:
                cursor = made.cursor()
                region.pin(cursor)
                kept += [region, cursor]
            else:
                kept.append(region.view(region.start, region.stop))
    return kept


# Every range


@pytest.mark.parametrize(("offset", "cut"), [(0, 0), (3, 0), (4, 3), (9, 8), (18, 0), (19, 0)])
def test_every_range_whatever_is_mapped(bench: Make, offset: int, cut: int) -> None:
    """Each (start, stop) of slice, view and `_read_into`, for each set of mapped windows."""
    for which in range(0, 32, 1 if offset < 4 else 3):
        made = tiny(bench, 19)
        kept = hold(made, which)
        data = made.data[offset : len(made.data) - cut]
        size = len(data)
        buffer = made.buffer(offset, size)
        access = buffer._access
        assert len(buffer) == size
        for start in range(size + 1):
            for stop in range(start, size + 1):
                want = data[start:stop]
                found = buffer[start:stop]
                assert found == want, (which, start, stop)
                assert type(found) is bytes
                view = buffer.view(start, stop)
                assert view == want, (which, start, stop)
                assert view.readonly
                assert buffer._copy(access, start, stop) == want
                target = bytearray(b"?" * (stop - start + 2))
                with memoryview(target) as whole:
                    buffer._read_into(access, start, whole[1:-1])
                assert target == b"?" + want + b"?", (which, start, stop)
        del view, kept
        made.idle = None
        made.close()


def test_every_index_and_slice_with_negative_ends_and_steps(bench: Make) -> None:
    made = tiny(bench, 19)
    kept = hold(made, 0b01011)
    data = made.data[2:17]
    size = len(data)
    buffer = made.buffer(2, size)
    for at in range(-size - 3, size + 3):
        if -size <= at < size:
            for key in (at, Index(at), Int(at)):
                found = buffer[key]
                assert found == data[at]
                assert type(found) is int
        else:
            for key in (at, Index(at), Int(at)):
                with pytest.raises(IndexError, match=f"index {at} is out of range: the buffer has {size} bytes"):
                    buffer[key]
    ends = [None, *range(-size - 2, size + 3), 1 << 70, -(1 << 70)]
    for start in ends:
        for stop in ends:
            assert buffer[start:stop] == data[start:stop]
            assert buffer.view(0 if start is None else start, stop) == data[0 if start is None else start : stop]
            for step in (1, 2, 3, 7, 100, -1, -2, -3, -100):
                assert buffer[start:stop:step] == data[start:stop:step], (start, stop, step)
    assert buffer.view() == data
    assert kept


def test_bools_and_indices_in_slices(bench: Make) -> None:
    made = tiny(bench)
    made.keep_idle(0)
    buffer, data = made.buffer(), made.data
    assert buffer[True] == data[1]
    assert buffer[False] == data[0]
    for start, stop in [(True, 3), (False, True), (Index(1), Index(6)), (Int(1), Int(6)), (Int(1), 3), (1, Int(3))]:
        want = data[int(getattr(start, "number", start)) : int(getattr(stop, "number", stop))]
        assert buffer[start:stop] == want
        assert buffer.view(start, stop) == want
        assert buffer[start : stop : Int(1)] == want
        assert buffer[start:stop:True] == want


@pytest.mark.parametrize("key", ["1", 1.0, None, (1, 2), slice("a", 1), slice(0, 1.0), slice(0, 1, "a"), ...])
def test_keys_that_bytes_refuse(bench: Make, key: Any) -> None:
    made = tiny(bench)
    with pytest.raises(TypeError):
        made.data[key]
    with pytest.raises(TypeError):
        made.buffer()[key]


def test_step_of_zero_is_refused(bench: Make) -> None:
    with pytest.raises(ValueError):
        tiny(bench).buffer()[::0]


@pytest.mark.parametrize("step", [1, 2, 5, 511, 512, 513, 4097, 70000, -1, -3, -513, -70000])
def test_steps_over_many_windows(bench: Make, step: int) -> None:
    made = bench(20 * W + 77, cached=True)
    for number in (0, 3, 4, 20):
        made.keep_idle(number)
    buffer = made.buffer(5)
    assert buffer[::step] == made.data[5:][::step]
    assert buffer[11:-9:step] == made.data[5:][11:-9:step]


@pytest.mark.parametrize("step", [W // 2, -W // 2, 7, -7])
def test_steps_use_the_windows_from_the_lowest_to_the_highest(bench: Make, step: int) -> None:
    made = bench(4 * W)
    made.restart(2, 0, 3, 1)
    assert made.buffer()[::step] == made.data[::step]
    assert made.idle_keys() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["map", "read"])
def test_mapped_windows_at_their_borders(bench: Make, kind: str) -> None:
    made = bench(5 * G + 7, kind=kind)
    made.keep_idle(0)
    made.keep_idle(2)
    data, length = made.data, len(made.data)
    buffer = made.buffer()
    near = sorted({base + shift for base in range(0, length + G, G) for shift in (-1, 0, 1, 6, 7, 8)})
    ends = [at for at in near if 0 <= at <= length]
    for start in ends:
        if start < length:
            assert buffer[start] == data[start]
        for stop in ends:
            assert buffer[start:stop] == data[start:stop]
            assert buffer.view(start, stop) == data[start:stop]


def test_whole_file_as_one_window(engine: Any, bench: Make) -> None:
    made = bench(5 * G + 7)
    made.window = 0
    access = made.access()
    assert access.window == 5 * G + 7
    region = made.make(0, 5 * G + 7, 0)
    made.idle.add(region.entry, region)
    buffer = made.buffer_of(access)
    assert buffer[:] == made.data
    assert buffer[5 * G + 6] == made.data[-1]
    assert buffer.view(3, 5 * G) == made.data[3 : 5 * G]
    assert made.asked == []


@pytest.mark.parametrize("size", [0, 5])
def test_empty_buffer(bench: Make, size: int) -> None:
    made = tiny(bench, size)
    buffer = made.buffer(size)
    assert len(buffer) == 0
    assert buffer[:] == buffer[0:5] == buffer[::-2] == buffer.view() == b""
    assert type(buffer[:]) is bytes
    for at in (0, -1):
        with pytest.raises(IndexError):
            buffer[at]
    assert made.asked == []


# What is mapped


def test_hit_is_counted_and_noted_as_the_last_use(bench: Make) -> None:
    made = tiny(bench)
    for number in range(5):
        made.keep_idle(number)
    buffer = made.buffer()
    reads: list[tuple[Callable[[], Any], Any, int]] = [
        (lambda: buffer[9], made.data[9], 2),
        (lambda: buffer[10], made.data[10], 2),
        (lambda: buffer[0:4], made.data[:4], 0),
        (lambda: buffer[17:19], made.data[17:], 4),
        (lambda: buffer.view(5, 8), made.data[5:8], 1),
        (lambda: buffer[-8], made.data[-8], 2),
        (lambda: buffer[-4:-3], made.data[-4:-3], 3),
        (lambda: buffer[Index(1)], made.data[1], 0),
        (lambda: buffer.view(-3), made.data[-3:], 4),
        (lambda: buffer[4:8:3], made.data[4:8:3], 1),
    ]
    for hits, (read, want, number) in enumerate(reads, 1):
        assert read() == want
        assert made.idle.hits == hits
        assert made.idle_keys()[-1] == number
        assert len(made.idle) == 5
    assert made.asked == []


def test_uses_keep_the_exact_order(bench: Make) -> None:
    made = tiny(bench, 40)
    oracle = list(range(10))
    for number in oracle:
        made.keep_idle(number)
    buffer, chance = made.buffer(), random.Random(8)
    for _ in range(500):
        number = chance.choice(oracle)
        at = number * TINY + chance.randrange(TINY)
        read = chance.choice([lambda: buffer[at], lambda: buffer[at : at + 1][0], lambda: buffer.view(at, at + 1)[0]])
        assert read() == made.data[at]
        oracle.remove(number)
        oracle.append(number)
        assert made.idle_keys() == oracle


def test_slice_over_windows_uses_them_in_turn(bench: Make) -> None:
    made = tiny(bench)
    for number in (4, 3, 2, 1, 0):
        made.keep_idle(number)
    buffer = made.buffer()
    assert buffer[5:15] == made.data[5:15]
    assert made.idle_keys() == [4, 0, 1, 2, 3]
    assert made.idle.hits >= 1
    target = bytearray(10)
    buffer._read_into(buffer._access, 0, memoryview(target))
    assert target == made.data[:10]
    assert made.idle_keys() == [4, 3, 0, 1, 2]
    assert made.asked == []


def test_pinned_region_is_read_and_stays_out_of_the_order(bench: Make) -> None:
    made = tiny(bench)
    region, cursor = made.grid(1), made.cursor()
    region.pin(cursor)
    buffer = made.buffer()
    assert buffer[5] == made.data[5]
    assert buffer[4:8] == made.data[4:8]
    assert buffer.view(4, 8) == made.data[4:8]
    assert made.idle.hits == 3
    assert len(made.idle) == 0
    assert made.asked == []


@pytest.mark.parametrize("how", ["index", "slice", "view", "long slice", "into"])
def test_detached_region_is_taken_back(bench: Make, how: str) -> None:
    """However it came to be detached: never idle, evicted as the oldest, or by name just after it was used."""
    for way in ("never", "oldest", "removed"):
        made = tiny(bench)
        kept = made.grid(1).view(4, 8)
        made.keep_idle(0)
        buffer = made.buffer()
        if way != "never":
            region = made.file.table.find(1)
            made.idle.add(region.entry, region)
            assert buffer[5] == made.data[5]
            if way == "removed":
                made.idle.remove(region.entry)
            else:
                assert buffer[0] == made.data[0]
                assert made.idle.pop_oldest() is region
            region.drop(made.ledger)
            del region
        assert made.idle_keys() == [0]
        target = bytearray(4)
        reads: dict[str, Callable[[], Any]] = {
            "index": lambda: bytes((buffer[4],)),
            "slice": lambda: buffer[4:8],
            "view": lambda: buffer.view(4, 8),
            "long slice": lambda: buffer[0:8][4:],
            "into": lambda: buffer._read_into(buffer._access, 4, memoryview(target)) or target,
        }
        want = made.data[4:5] if how == "index" else made.data[4:8]
        if how == "into" and sys.implementation.name == "pypy":
            continue
        assert reads[how]() == want
        assert made.asked == [("keep", 1)], way
        assert made.idle_keys() == [0, 1]
        assert kept == made.data[4:8]


def test_view_of_a_buffer_outlives_everything(bench: Make) -> None:
    made = tiny(bench)
    made.keep_idle(1)
    buffer = made.buffer()
    view = buffer.view(5, 7)
    assert made.file.table.find(1).exported
    made.idle.pop_oldest().drop(made.ledger)
    del buffer
    reclaim()
    assert made.counts() == (1, TINY)
    assert view == made.data[5:7]
    del view
    dead()
    assert made.counts() == (0, 0)


def test_unpack_from_is_served_by_what_is_mapped(bench: Make) -> None:
    made = tiny(bench)
    made.restart(1, 0)
    buffer = made.buffer()
    assert buffer.unpack_from("<H", 5) == struct.unpack_from("<H", made.data, 5)
    assert made.idle_keys() == [0, 1]  # a use
    assert (made.idle.hits, made.asked) == (1, [])
    assert not made.file.table.find(1).exported
    assert buffer.unpack_from("<I", 6) == struct.unpack_from("<I", made.data, 6)  # across a border
    assert buffer.unpack_from("<4s", 12) == (made.data[12:16],)  # cold
    assert [name for name, *_ in made.asked] == ["fetch", "fetch"]


def test_copies_export_nothing(bench: Make) -> None:
    made = tiny(bench)
    made.keep_idle(1)
    buffer = made.buffer()
    assert (buffer[5], buffer[4:8], buffer[2:9]) == (made.data[5], made.data[4:8], made.data[2:9])
    assert not made.file.table.find(1).exported


def test_empty_ranges_use_no_window(bench: Make) -> None:
    made = tiny(bench)
    for number in (1, 0):
        made.keep_idle(number)
    buffer = made.buffer(0)
    for place in (0, 5, 8):
        assert (buffer[place:place], buffer.view(place, place).tobytes()) == (b"", b"")
    assert made.idle.hits == 0
    assert made.idle.oldest().start == TINY, "they are in the order in which they became idle"
    assert made.asked == []


# What is cold


def test_cold_ranges_are_fetched(bench: Make) -> None:
    made = tiny(bench)
    buffer = made.buffer(2)
    assert buffer[3] == made.data[5]
    assert made.asked == [("fetch", 5, 6, False)]
    made.asked.clear()
    assert buffer[1:8] == made.data[3:10]  # each window's part on its own
    assert [(start, stop) for _, start, stop, _ in made.asked] == [(3, 4), (4, 8), (8, 10)]
    assert made.idle.hits == 0
    assert len(made.idle) == 0


def test_cold_views_are_mapped_by_the_policy(bench: Make) -> None:
    made = tiny(bench, cached=True)
    made.keep_idle(0)
    buffer = made.buffer(2)
    assert buffer.view(3, 4) == made.data[5:6]
    assert buffer.view(0, 9) == made.data[2:11]
    assert buffer.view(-4) == made.data[15:]
    assert made.asked == [("map_range", 5, 6), ("map_range", 2, 11), ("map_range", 15, 19)]
    assert made.idle.hits == 0


def test_cold_reads_by_the_cached_descriptor(bench: Make) -> None:
    made = tiny(bench, cached=True)
    made.keep_idle(1)
    buffer = made.buffer(2)
    assert buffer[0] == made.data[2]
    assert buffer[0:2] == made.data[2:4]
    assert made.cold_reads() == 2
    assert buffer[0:9] == made.data[2:11]  # cold, mapped, cold
    assert made.cold_reads() == 4
    assert made.asked == []
    assert made.idle.hits == 1


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("price", [1, 2, 3])
def test_rent_is_paid_until_the_price_is_reached(bench: Make, price: int, cached: bool) -> None:
    made = tiny(bench, cached=cached, price=price)
    buffer = made.buffer()
    for _ in range(3):  # what was bought begins to pay anew
        for number in (0, 3):
            made.asked.clear()
            before = made.cold_reads()
            at = number * TINY
            for count in range(price):
                assert buffer[at] == made.data[at]
                assert made.cold_reads() + len(made.asked) == before + count + 1
            assert made.asked[-1] == ("fetch", at, at + 1, True)
            assert made.asked[:-1] == [("fetch", at, at + 1, False)] * (0 if cached else price - 1)


def test_large_reads_pay_more_rent(bench: Make) -> None:
    made = bench(256 * G, window=256 * G, cached=True, price=30)
    buffer = made.buffer()
    for _ in range(9):
        assert buffer[0:5] == made.data[:5]
    assert (made.cold_reads(), made.asked) == (9, [])
    assert buffer[: 200 * G] == made.data[: 200 * G]
    assert made.asked[-1] == ("fetch", 0, 200 * G, True)


def test_windows_and_files_pay_on_their_own(bench: Make) -> None:
    one = tiny(bench, name="one", price=2)
    two = tiny(bench, name="two", price=2, ledger=one.ledger)
    buffers = [one.buffer(), two.buffer()]
    for _ in range(2):
        for at in (0, 5, 10):
            for made, buffer in zip((one, two), buffers):
                assert buffer[at] == made.data[at]
    for made in (one, two):
        assert [due for _, _, _, due in made.asked] == [False] * 3 + [True] * 3


def test_mapped_windows_pay_nothing(bench: Make) -> None:
    made = tiny(bench, price=2)
    made.keep_idle(0)
    buffer = made.buffer()
    for _ in range(9):
        assert buffer[0:2] == made.data[:2]
    made.idle.pop_oldest()
    dead()
    assert buffer[0] == made.data[0]
    assert made.asked == [("fetch", 0, 1, False)]


def test_closed_descriptor_is_not_an_error(bench: Make) -> None:
    made = tiny(bench, cached=True)
    buffer = made.buffer()
    made.descriptor.close()
    assert buffer[5] == made.data[5]
    assert made.asked == [("fetch", 5, 6, False)]


def test_short_read_is_left_to_the_policy(bench: Make) -> None:
    made = tiny(bench, cached=True)
    buffer = made.buffer()
    os.truncate(made.path, 6)
    assert buffer[5] == made.data[5]
    assert buffer[4:8] == made.data[4:6]  # what the policy gave: it would have raised
    assert (made.cold_reads(), made.asked) == (1, [("fetch", 4, 8, False)])


@linux
def test_error_of_a_cold_read_names_the_file(engine: Any, bench: Make, world: Any) -> None:
    made = tiny(bench)
    made.file.descriptor, _ = engine.open_file(str(world.folder), 0)
    try:
        with pytest.raises(IsADirectoryError) as caught:
            made.buffer()[5:8]
        assert caught.value.filename == made.path
        assert "[5, 8)" in str(caught.value)
        assert made.asked == []
    finally:
        made.file.descriptor.close()


def test_refusal_in_a_cold_read_is_left_to_the_policy(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    made = tiny(bench, cached=True)
    needs_python(made.engine)
    buffer = made.buffer()

    def refuse(*_: Any) -> bytes:
        raise OSError(errno.ENOMEM, "refused")

    monkeypatch.setattr(os, "pread", refuse)
    found = buffer[5:8]
    monkeypatch.undo()
    assert found == made.data[5:8]
    assert made.asked == [("fetch", 5, 8, False)]


@pytest.mark.parametrize("name", ["_fetch", "_map_range"])
def test_errors_of_the_policy_come_through(bench: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny(bench)
    buffer = made.buffer()

    def refuse(*_: Any) -> Any:
        raise OSError(5, "the policy's")

    monkeypatch.setattr(made, name, refuse)
    for read in [lambda: buffer.view(5, 9)] if name == "_map_range" else [lambda: buffer[5], lambda: buffer[2:9]]:
        with pytest.raises(OSError, match="the policy's"):
            read()
    monkeypatch.undo()
    assert buffer[:] == buffer.view() == made.data


# Records


def test_record_says_what_it_was_made_of(engine: Any, bench: Make) -> None:
    made = tiny(bench)
    access = engine.Access(made.client, 3, 9, TINY, made.ledger)
    assert (access.client, access.offset, access.size, access.window) == (made.client, 3, 9, TINY)
    assert access.client is made.client
    assert access.opened is True
    assert access.pending is False
    closed = engine.Access.closed(made.client)
    assert (closed.client, closed.offset, closed.size, closed.opened, closed.pending) == (
        made.client,
        0,
        0,
        False,
        False,
    )
    later = engine.Access.closed(made.client, 3, 9, True)
    assert (later.client, later.offset, later.size, later.opened, later.pending) == (made.client, 3, 9, False, True)


def reads_of(buffer: Any) -> dict[str, Callable[[], Any]]:
    return {
        "index": lambda: buffer[0],
        "negative": lambda: buffer[-1],
        "index object": lambda: buffer[Index(0)],
        "far": lambda: buffer[1 << 60],
        "slice": lambda: buffer[0:1],
        "all": lambda: buffer[:],
        "step": lambda: buffer[::2],
        "view": lambda: buffer.view(),
        "part": lambda: buffer.view(0, 1),
    }


@pytest.mark.parametrize("how", list(reads_of(None)))
def test_closed_record_refuses_every_read(engine: Any, bench: Make, how: str) -> None:
    made = tiny(bench)
    buffer = made.buffer()
    assert buffer[:] == made.data
    buffer._access = engine.Access.closed(made.client)
    assert len(buffer) == 0
    with pytest.raises(Closed):
        reads_of(buffer)[how]()
    buffer._access = made.access()
    assert buffer[:] == made.data


@pytest.mark.parametrize("how", [how for how in reads_of(None) if how != "far"])
def test_pending_record_opens_at_the_first_read(engine: Any, bench: Make, how: str) -> None:
    made = tiny(bench)
    regions, cursor = [made.grid(number) for number in range(5)], made.cursor()
    for region in regions:  # nothing is read from them before
        region.pin(cursor)
    pending = engine.Access.closed(made.client, 2, 15, True)
    buffer = made.buffer_of(pending, made.access(2, 15))
    assert len(buffer) == 15
    assert buffer._access is pending
    found = reads_of(buffer)[how]()
    data = made.data[2:17]
    assert found == reads_of(data)[how]() if "view" not in how and how != "part" else bytes(found) in data
    assert buffer._access.opened
    assert buffer[:] == data


def test_read_that_took_one_record_sees_one_file(bench: Make) -> None:
    """The buffer gets another file in the middle of a read, which goes on in the first one."""
    one, two = tiny(bench, name="one"), tiny(bench, name="two")
    for reading in (
        lambda buffer: buffer[1:18],
        lambda buffer: buffer[1:18:1],
        lambda buffer: buffer._copy(buffer._access, 1, 18),
    ):
        for turn in range(5):
            buffer = one.buffer()
            fetched, fetch = 0, one._fetch

            def switch(*args: Any) -> bytes:
                nonlocal fetched
                if fetched == turn:
                    buffer._access = two.access()
                fetched += 1
                return fetch(*args)

            one._fetch = switch  # type: ignore[method-assign]
            assert reading(buffer) == one.data[1:18]
            one._fetch = fetch  # type: ignore[method-assign]
            assert fetched == 5
            assert buffer[1:18] == two.data[1:18]


@pytest.mark.parametrize("how", ["slice", "step", "index", "view", "long view", "copied slice", "negative"])
def test_record_swapped_at_any_step_gives_one_file_or_the_other(bench: Make, steps: Steps, how: str) -> None:
    one, two = tiny(bench, name="one", cached=True), tiny(bench, name="two", cached=True)
    one.keep_idle(1)
    two.keep_idle(1)
    two.keep_idle(2)
    reads: dict[str, Callable[[Any], Any]] = {
        "slice": lambda data: data[5:7],
        "step": lambda data: data[1:10:3],
        "index": lambda data: data[6],
        "view": lambda data: bytes(data.view(5, 7) if hasattr(data, "view") else data[5:7]),
        "long view": lambda data: bytes(data.view(1, 10) if hasattr(data, "view") else data[1:10]),
        "copied slice": lambda data: data[1:10],
        "negative": lambda data: data[-14:-8],
    }
    read = reads[how]
    allowed = [read(one.data), read(two.data[2:17])]  # of another offset and size, too
    assert allowed[0] != allowed[1]

    def run(at: int) -> bool:
        buffer, found = one.buffer(), []

        def swap() -> None:
            buffer._access = two.access(2, 15)

        more = meanwhile(steps, at, lambda: found.append(read(buffer)), swap)
        assert found[0] in allowed, at
        return more

    every_step(run)


# The buffer protocol


def _exports(engine: Any) -> bool:
    return sys.version_info >= (3, 12) or PYPY or not engine.__file__.endswith(".py")


def test_buffer_protocol_gives_a_read_only_view(engine: Any, bench: Make) -> None:
    made = tiny(bench)
    buffer = made.buffer(2)
    if not _exports(engine):
        with pytest.raises(TypeError):
            memoryview(buffer)
        return
    view = memoryview(buffer)
    assert view == made.data[2:]
    assert view.readonly
    assert bytes(view[3:5]) == made.data[5:7]
    if not PYPY:  # whose ctypes takes what is read-only: see docs/security.md
        with pytest.raises((TypeError, BufferError)):
            ctypes.c_char.from_buffer(buffer)
    if sys.version_info >= (3, 12):
        with pytest.raises(BufferError):
            buffer.__buffer__(inspect.BufferFlags.WRITABLE)
    if not LATE:
        assert made.counts()[0] == 1
        view.release()
        assert made.counts() == (0, 0)


# Threads


def test_threads_read_right_bytes_while_windows_come_and_go(bench: Make) -> None:
    made = bench(16 * G, window=G, cached=True)
    data, buffer = made.data, made.buffer()
    failed: list[Any] = []
    stop = threading.Event()
    made.keep = lambda client, region: None  # type: ignore[method-assign]  # only the main thread adds

    def read(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not stop.is_set():
                start = chance.randrange(16 * G)
                stop_ = min(start + chance.choice([1, 9, G, 3 * G]), 16 * G)
                found = chance.choice([buffer.__getitem__, lambda key: buffer.view(key.start, key.stop)])(
                    slice(start, stop_)
                )
                if found != data[start:stop_] or buffer[start] != data[start]:
                    failed.append((start, stop_))
        except BaseException as error:
            failed.append(error)

    def fetch(_client: Any, start: int, stop: int, _due: bool) -> bytes:
        return data[start:stop]

    def map_range(_client: Any, start: int, stop: int) -> Any:
        with lock:
            return made.make(start - start % G, stop)

    lock = threading.Lock()
    made._fetch = fetch  # type: ignore[method-assign]
    made._map_range = map_range  # type: ignore[method-assign]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    try:
        for thread in threads:
            thread.start()
        chance = random.Random(9)
        for _ in range(600):
            with lock:
                made.ledger.settle()
                number = chance.randrange(16)
                if made.file.table.find(number) is None:
                    made.keep_idle(number)
                if len(made.idle) > 6:
                    made.idle.pop_oldest()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert not failed, failed[:3]
    while len(made.idle):
        made.idle.pop_oldest()
    reclaim()
    assert made.counts() == (0, 0)


def test_interrupted_reads_leave_all_as_it_was(bench: Make) -> None:
    made = bench(8 * G, window=G, cached=True)
    for number in (0, 1, 5):
        made.keep_idle(number)
    buffer, chance = made.buffer(), random.Random(2)

    def action() -> None:
        start = chance.randrange(8 * G)
        stop = min(start + chance.choice([1, 9, G, 3 * G]), 8 * G)
        assert buffer[start:stop] == made.data[start:stop]
        assert buffer[start] == made.data[start]
        assert buffer.view(start, stop) == made.data[start:stop]

    def check() -> None:
        dead()
        assert made.counts() == (3, 3 * G)
        assert sorted(made.idle_keys()) == [0, 1, 5]

    alarmed(0.3, action, check)
    assert made.descriptor.read(9, 0) == made.data[:9]
    assert not made.descriptor.closed
