"""Regions: the bytes of a window, who uses them, and how long they stay."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core._tools import LATE, PYPY, G, linux
from smmap._window import Window

from ._tools import Bench, dead, numbers_of

W = 2 * G
kinds = pytest.mark.parametrize("kind", ["map", "read"])
Make = Callable[..., Bench]


# Bytes


@kinds
@pytest.mark.parametrize(("start", "stop"), [(0, 3 * G + 7), (G, 2 * G), (2 * G, 3 * G + 7), (3 * G, 3 * G + 1)])
def test_index_and_slice_give_the_bytes_of_the_window(bench: Make, kind: str, start: int, stop: int) -> None:
    made = bench(3 * G + 7, kind=kind)
    region, data = made.make(start, stop), made.data[start:stop]
    size = len(data)
    for at in {0, 1, size // 2, size - 1, -1, -size}:
        if -size <= at < size:
            assert region[at] == data[at]
    for at in (size, -size - 1):
        with pytest.raises(IndexError):
            region[at]
    ends = sorted({0, 1, size // 2, size - 1, size, size + 9, -1, -size, -size - 1})
    for low in ends:
        for high in ends:
            assert region[low:high] == data[low:high]
    assert type(region[0]) is int
    assert type(region[0:1]) is bytes


@kinds
def test_find_answers_as_mmap_does(bench: Make, kind: str) -> None:
    made = bench(3 * G, kind=kind)
    region, data = made.make(G, 3 * G), made.data[G:]
    with open(made.path, "rb") as file, mmap.mmap(file.fileno(), W, access=mmap.ACCESS_READ, offset=G) as oracle:
        needles = [data[:1], data[:5], data[-5:], data[77:99], made.data[:8], data[G - 3 : G + 3]]
        for needle in needles:
            assert region.find(needle) == oracle.find(needle) == data.find(needle)
            assert region.rfind(needle) == oracle.rfind(needle) == data.rfind(needle)
            for low, high in [(0, W), (5, 90), (77, 99), (77, 98), (78, 99), (-5, W), (G, G), (W - 4, W)]:
                assert region.find(needle, low, high) == oracle.find(needle, low, high)
                assert region.rfind(needle, low, high) == oracle.rfind(needle, low, high)


@kinds
def test_says_what_it_is(bench: Make, kind: str) -> None:
    made = bench(3 * G, kind=kind)
    for key, start, stop in [(1, G, W), (~0, G, W), ((G, W), G, W)]:
        region = made.make(start, stop, key)
        assert (region.key, region.start, region.stop) == (key, start, stop)
        assert region.file is made.file
        assert not region.closed
        assert region.pins == 0
        assert region.entry() is region


# Views


@kinds
def test_view_gives_a_range_of_the_file(bench: Make, kind: str) -> None:
    made = bench(3 * G + 7, kind=kind)
    region = made.make(G, 3 * G + 7)
    ends = [G, G + 1, 2 * G - 1, 2 * G, 3 * G, 3 * G + 6, 3 * G + 7]
    for start in ends:
        for stop in ends:
            if start <= stop:
                view = region.view(start, stop)
                assert view == made.data[start:stop]
                assert (view.format, view.itemsize, view.ndim, view.nbytes) == ("B", 1, 1, stop - start)
                assert view.c_contiguous


@kinds
def test_view_cannot_be_written(bench: Make, kind: str) -> None:
    made = bench(G, kind=kind)
    view = made.make(0, G).view(5, 99)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError):
        view[:2] = b"ab"
    with pytest.raises(TypeError):
        view.cast("b")[0] = 1
    if not PYPY:  # whose ctypes takes what is read-only: see docs/security.md
        with pytest.raises(TypeError):
            ctypes.c_char.from_buffer(view)
    assert view == made.data[5:99]
    assert Path(made.path).read_bytes() == made.data


@kinds
def test_view_keeps_the_region_alive_and_counted(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    region = made.make(G, W, 7)
    view = region.view(G + 1, W)
    part = view[10:20]
    region.drop(made.ledger)
    del region
    dead()
    assert made.counts() == (1, G)
    assert made.file.table.find(7) is not None  # it is found again
    del view
    dead()
    assert part == made.data[G + 11 : G + 21]
    assert made.counts() == (1, G)
    del part
    dead()
    assert made.counts() == (0, 0)
    assert made.file.table.find(7) is None


@kinds
def test_view_released_by_hand_lets_go(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    view = made.make(0, G).view(0, 9)
    assert made.counts() == (1, G)
    view.release()
    dead()
    assert made.counts() == (0, 0)


@kinds
def test_exported_once_there_was_a_view(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    region = made.make(0, G)
    assert not region.exported
    assert region[0:5] + bytes(region[5:6]) == made.data[:6]
    assert region.find(made.data[9:20]) == 9
    assert not region.exported  # a copy is no view
    region.view(0, 1).release()
    assert region.exported  # there was one


@kinds
def test_exported_once_it_was_shared(bench: Make, kind: str) -> None:
    region = bench(W, kind=kind).make(0, G)
    region.shared()
    assert region.exported


@kinds
def test_shared_answers_as_mmap_does(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    region = made.make(G, W)
    shared, data = region.shared(), made.data[G:]
    assert shared[0] == data[0]
    assert shared[5:50] == data[5:50]
    assert shared[:] == data
    assert shared.find(data[30:40]) == 30
    assert shared.rfind(data[30:40]) == 30
    assert len(shared) == G
    with memoryview(shared) as view:
        assert view.readonly
        assert view == data
    assert re.search(re.escape(data[50:60]), shared).span() == (50, 60)  # type: ignore[union-attr]
    assert struct.unpack_from("<I", shared, 8) == struct.unpack_from("<I", data, 8)
    assert shared[:] == data


@kinds
def test_shared_has_the_position_that_mmap_has(bench: Make, kind: str) -> None:
    made = bench(3 * G, kind=kind)
    shared = made.make(G, 3 * G).shared()

    def outcome(one: Any, call: str, *args: Any) -> Any:
        try:
            return getattr(one, call)(*args) if call != "seek" else (one.seek(*args), one.tell())[1]
        except ValueError:
            return ValueError

    with open(made.path, "rb") as file, mmap.mmap(file.fileno(), W, access=mmap.ACCESS_READ, offset=G) as oracle:
        for call, *args in (
            *(("tell",), ("read", 9), ("tell",), ("read_byte",), ("readline",), ("readline",), ("tell",)),
            *(("seek", 5), ("read", 0), ("seek", -3, 1), ("read", 4), ("seek", -1, 2), ("read_byte",), ("read_byte",)),
            *(
                ("tell",),
                ("readline",),
                ("read", 7),
                ("seek", W),
                ("seek", W + 1),
                ("tell",),
                ("seek", -1),
                ("seek", 1, 2),
            ),
            *(("seek", 0, 9), ("seek", W - 40), ("read", W), ("seek", W - 40), ("read",), ("seek", 0), ("read", None)),
            *(("seek", 77), ("find", shared[40:44]), ("find", shared[90:94]), ("rfind", shared[40:44])),
            *(("seek", 77), ("find", shared[40:44], 0), ("rfind", shared[90:94], 0, 95), ("find", b""), ("rfind", b"")),
            *(("seek", 77), ("read", -1), ("seek", -W, 2), ("tell",), ("seek", -W - 1, 2), ("seek", 1 << 62, 1)),
        ):
            assert outcome(shared, call, *args) == outcome(oracle, call, *args), (call, args)


@pytest.mark.parametrize("start", [0, 1 << 20])
def test_first_long_copy_of_a_scattered_region_leaves_it_scattered(bench: Make, start: int) -> None:
    """Also at the start of the file: it is behind no other one."""
    size = 4 << 20
    made = bench(size, window=size)
    window = Window(0, 0, size)
    region = made.engine.map_window(made.ledger, made.file, made.descriptor.number, window, "scattered")
    for at, scattered in ((start, True), (start + size // 4, False)):
        assert region[at : at + size // 4] == made.data[at : at + size // 4]
        assert region.scattered is scattered or made.engine.__name__.endswith("plain")


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="no such advice")
@kinds
def test_no_advice_empties_a_region(bench: Make, kind: str) -> None:
    made = bench(3 * G, kind=kind)
    shared = made.make(G, 3 * G).shared()
    for name in ("MADV_DONTNEED", "MADV_FREE"):
        try:
            shared.madvise(getattr(mmap, name))
        except (AttributeError, OSError):
            pass
        except SystemError:  # PyPy's own `mmap.madvise`, where the system refuses
            assert PYPY
        assert shared[:] == made.data[G : 3 * G], name
    with pytest.raises(TypeError):
        shared.madvise(1.5)


@kinds
def test_size_is_the_files(bench: Make, kind: str) -> None:
    """As that of `mmap` is, also where the region is a copy in memory."""
    assert bench(3 * G + 7, kind=kind).make(G, W).shared().size() == 3 * G + 7


@kinds
def test_index_of_any_size_is_out_of_range(bench: Make, kind: str) -> None:
    region = bench(W, kind=kind).make(G, W)
    for index in (1 << 31, 1 << 63, -(1 << 63) - 1, 1 << 70):
        with pytest.raises((IndexError, OverflowError) if PYPY else IndexError):  # as PyPy's own `mmap`
            region[index]


@kinds
def test_shared_has_steps_iteration_and_advice_as_mmap_has(bench: Make, kind: str) -> None:
    made = bench(3 * G, kind=kind)
    shared = made.make(G, 3 * G).shared()
    with open(made.path, "rb") as file, mmap.mmap(file.fileno(), W, access=mmap.ACCESS_READ, offset=G) as oracle:
        for step in (2, 7, -1, -3, W):
            assert shared[::step] == oracle[::step]
            assert shared[9:-9:step] == oracle[9:-9:step]
        assert list(shared) == list(oracle)
        for start, end in ((0, W), (5, 9), (W, W), (W + 1, W + 9)):
            assert shared.find(b"", start, end) == oracle.find(b"", start, end)
            assert shared.rfind(b"", start, end) == oracle.rfind(b"", start, end)
        assert shared.find(b"", 9, 5) in (-1, oracle.find(b"", 9, 5))  # CPython 3.11.2 finds it at 9
        assert shared.rfind(b"", 9, 5) in (-1, oracle.rfind(b"", 9, 5))
        for args in ((0,), (0, 0, 5), (0, G), (0, 0, 1 << 40)):
            assert shared.madvise(*args) is oracle.madvise(*args) is None
        for wrong in ((0, -1), (0, W), (0, 0, -1)):
            for one in (shared, oracle):
                with pytest.raises(ValueError, match="madvise"):
                    one.madvise(*wrong)
        for one in (shared, oracle):
            with pytest.raises(SystemError if PYPY else OSError):  # as PyPy's own `mmap`
                one.madvise(1 << 20)
            with pytest.raises(TypeError):
                del one[0]
        assert {name for name in dir(shared) if not name.startswith("_")} <= set(dir(oracle))
    assert repr(shared) == f"<Region [{G}, {3 * G})>"


@kinds
def test_copies_and_searches_of_many_mebibytes(bench: Make, kind: str) -> None:
    """Which give up the interpreter's lock, and look for signals in between."""
    made = bench(35 << 20, kind=kind, window=64 << 20)
    region, data = made.make(0, 35 << 20, 0), made.data
    made.idle.add(region.entry, region)
    assert region[5:-5] == data[5:-5]
    assert made.buffer()[7:-7] == data[7:-7]
    for place in (0, 1 << 24, (1 << 24) - 3, (1 << 25) - 1, len(data) - 9):
        needle = data[place : place + 9]
        assert region.find(needle) == region.rfind(needle) == place
    assert region.find(b"not in it, which takes long") == -1
    assert region.rfind(b"not in it, which takes long") == -1


@kinds
def test_shared_can_neither_be_written_nor_closed(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    region = made.make(G, W)
    shared = region.shared()
    refused: list[Callable[[], Any]] = [
        shared.close,
        lambda: shared.__setitem__(0, 1),
        lambda: shared.__setitem__(slice(0, 2), b"ab"),
        *([] if PYPY else [lambda: ctypes.c_char.from_buffer(shared)]),  # as above
    ]
    for name, args in [("write", (b"a",)), ("write_byte", (1,)), ("move", (0, 1, 1)), ("resize", (1,))]:
        if hasattr(shared, name):
            refused.append(lambda name=name, args=args: getattr(shared, name)(*args))
    for call in refused:
        with pytest.raises((BufferError, TypeError, ValueError)):
            call()
    assert not region.closed
    assert shared[:] == made.data[G:]
    assert Path(made.path).read_bytes() == made.data


@kinds
def test_view_leads_to_nothing_that_can_be_written(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    view = made.make(0, G).view(0, G)
    with pytest.raises(TypeError):
        view.obj[0] = 1  # type: ignore[index]
    with memoryview(view.obj) as whole:  # type: ignore[arg-type]
        assert whole.readonly
    assert view == made.data[:G]


# Users


def test_counts_each_cursor_once(bench: Make) -> None:
    made = bench(W)
    region = made.make(0, G)
    one, two = made.cursor(), made.cursor()
    region.pin(one)
    region.pin(one)
    assert region.pins == 1
    assert region.holders() == [one]
    region.pin(two)
    assert region.pins == 2
    assert set(map(id, region.holders())) == {id(one), id(two)}
    region.unpin(id(one), made.idle)
    assert region.holders() == [two]
    region.unpin(id(one), made.idle)  # again
    assert region.pins == 1
    assert made.idle_keys() == []
    region.unpin(id(two), made.idle)
    region.unpin(id(two), made.idle)
    assert region.pins == 0
    assert region.holders() == []


def test_pin_does_not_keep_the_cursor_alive(bench: Make) -> None:
    made = bench(W)
    region = made.make(0, G)
    cursor = made.cursor()
    region.pin(cursor)
    number = id(cursor)
    del cursor
    dead()
    assert region.holders() == []
    assert not region.pinned
    region.unpin(number, made.idle)  # as its finalizer would, were this a whole cursor
    assert region.pins == 0


def test_pins_of_one_region_are_not_those_of_another(bench: Make) -> None:
    made = bench(W)
    one, two, cursor = made.make(0, G), made.make(G, W), made.cursor()
    one.pin(cursor)
    assert (one.pins, two.pins) == (1, 0)
    two.unpin(id(cursor), made.idle)
    assert (one.pins, two.pins) == (1, 0)


def test_pinned_says_whether_a_cursor_truly_has_it(bench: Make) -> None:
    made = bench(W)
    region, cursor = made.make(0, G), made.cursor()
    assert not region.pinned
    region.pin(cursor)
    assert not region.pinned  # it is about to
    cursor._use = region, 0, G
    assert region.pinned
    region.unpin(id(cursor), made.idle)
    assert not region.pinned


def test_idle_and_last_in_the_order_after_the_last_cursor(bench: Make) -> None:
    made = bench(4 * G)
    for number in (0, 1):
        made.keep_idle(number)
    region, one, two = made.file.table.find(0), made.cursor(), made.cursor()
    for cursor in (one, two):
        region.pin(cursor)
    made.idle.remove(region.entry)
    region.unpin(id(one), made.idle)
    assert made.idle_keys() == [1]
    region.unpin(id(two), made.idle)
    assert made.idle_keys() == [1, 0]


@pytest.mark.parametrize(("crowded", "gone"), [(False, False), (True, False), (False, True)])
def test_last_unpin_says_whether_the_manager_must_tidy(bench: Make, crowded: bool, gone: bool) -> None:
    made = bench(W)
    region, one, two = made.grid(0), made.cursor(), made.cursor()
    region.pin(one)
    region.pin(two)
    made.idle.crowded, made.file.gone = crowded, gone
    assert not region.unpin(id(one), made.idle)
    assert bool(region.unpin(id(two), made.idle)) is (crowded or gone)


def test_revoke_takes_it_from_every_cursor(bench: Make) -> None:
    made = bench(W)
    region, cursors = made.make(0, G), [made.cursor(), made.cursor(), made.cursor()]
    assert region.revoke() is False
    for cursor in cursors[:2]:
        region.pin(cursor)
    assert region.revoke() is True
    assert [cursor.revoked for cursor in cursors] == [1, 1, 0]
    assert region.pins == 0
    assert region.holders() == []
    assert region.revoke() is False
    assert region[0:9] == made.data[:9]


# The end


@kinds
def test_close_is_refused(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    region = made.make(0, G)
    for _ in range(2):
        with pytest.raises(BufferError, match="cannot be closed"):
            region.close()
    assert not region.closed
    assert region[0:9] == made.data[:9]
    assert made.counts() == (1, G)


def test_with_block_does_not_close_a_shared_map(bench: Make) -> None:
    made = bench(W)
    region = made.make(0, G)
    shared = region.shared()
    if hasattr(type(shared), "__exit__"):
        try:
            with shared:
                pass
        except BufferError:
            pass
    assert not region.closed
    assert shared[0:9] == made.data[:9]


@kinds
@pytest.mark.parametrize("use", ["view", "shared", "pinned"])
def test_drop_unmaps_nothing_that_may_be_read(bench: Make, kind: str, use: str) -> None:
    made = bench(W, kind=kind)
    region, cursor = made.make(0, G), made.cursor()
    kept = None
    if use == "pinned":
        region.pin(cursor)
    else:
        kept = region.view(0, G) if use == "view" else region.shared()
    region.drop(made.ledger)
    assert made.counts() == (1, G)
    assert region[0:G] == made.data[:G]
    assert kept is None or kept[0:G] == made.data[:G]


@kinds
def test_dropped_region_is_gone_at_once(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    region = made.make(0, G, 7)
    region.drop(made.ledger)
    del region
    assert made.counts() == (0, 0)  # wherever objects die late, too
    assert made.file.table.find(7) is None


@kinds
def test_dropped_twice_counts_once(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    kept, region = made.make(G, W), made.make(0, G)
    region.drop(made.ledger)
    if not region.closed:
        region.drop(made.ledger)
    del region
    dead()
    assert made.counts() == (1, G)
    assert kept[0:1] == made.data[G : G + 1]


@linux
def test_unmapped_with_its_last_reference(bench: Make, world: Any) -> None:
    made = bench(4 * G)
    one, two = made.make(0, G), made.make(2 * G, 3 * G)
    assert world.pages() == {("data", 0): 1, ("data", 2): 1}
    del one
    dead()
    assert world.pages() == {("data", 2): 1}
    del two
    dead()
    assert not world.pages()


@linux
def test_outlives_the_descriptor(bench: Make, world: Any) -> None:
    made = bench(W)
    regions = [made.make(0, G), made.make(G, W, kind="read")]
    views = [region.view(region.start, region.stop) for region in regions]
    made.descriptor.close()
    if not made.engine.MAP_COSTS_DESCRIPTOR:
        assert numbers_of(made.path) == []
    os.unlink(made.path)
    assert views[0] == regions[0][0:G] == made.data[:G]
    assert views[1] == regions[1][0:G] == made.data[G:]


@kinds
def test_view_read_in_another_thread_after_all_was_dropped(bench: Make, kind: str) -> None:
    made = bench(8 * G, kind=kind)
    views = [made.make(at, at + G).view(at, at + G) for at in range(0, 8 * G, G)]
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.extend(made.data[at * G : at * G + G] == views[at] for at in range(8))
    )
    thread.start()
    thread.join()
    assert found == [True] * 8
    thread = threading.Thread(target=views.clear)
    thread.start()
    thread.join()
    dead()
    assert made.counts() == (0, 0) or LATE


def test_each_region_has_bytes_of_its_own_file(bench: Make) -> None:
    one, two = bench(W, "one"), bench(W, "two")
    regions = [(made, made.make(at, at + G)) for at in (0, G) for made in (one, two)]
    for made, region in regions:
        assert region[0:G] == made.data[region.start : region.stop]
    assert one.file.table.find((0, G)) is regions[0][1]
    assert two.file.table.find((0, G)) is regions[1][1]
