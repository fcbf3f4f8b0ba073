"""Buffers against `bytes`: whatever is done to both, they answer alike, wherever windows start and stop."""

from __future__ import annotations

import array
import functools
import operator
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import smmap
from core._tools import World
from smmap import _engine, _system

from ._tools import PYPY, File, G, agree, borders, by_policy, linux, maps, payload, run_python

WINDOW = 2 * G
LENGTH = 9 * G + 123
Buffer: Any = smmap.SlidingWindowMapBuffer

# (window, memory limit, handle limit): windows that stay, windows that go at once, and one window for all
LIMITS = [(WINDOW, 0, sys.maxsize), (WINDOW, 2 * WINDOW, 2), (2 * WINDOW, 0, 1), (0, 0, sys.maxsize)]


@pytest.fixture(params=LIMITS, ids=["roomy", "tight", "single", "whole"])
def limits(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["mmap", "read"])
def manager(limits: Any, request: pytest.FixtureRequest, world: World) -> Any:
    if PYPY and request.param == "read" and limits[2] < 3:
        pytest.skip("each miss collects garbage: too slow for so many")
    return world.manager(*limits, backing=request.param)


# Parts of the file: all of it, borders at both ends, one byte, and more than there is.
PARTS = [
    (0, sys.maxsize),
    (1, sys.maxsize),
    (G - 1, WINDOW + 2),
    (WINDOW, WINDOW),
    (5 * G + 7, 1),
    (3 * G, LENGTH),
    (7, 0),
]
parts = pytest.mark.parametrize(("offset", "size"), PARTS)


@parts
def test_index_and_length(manager: Any, world: World, offset: int, size: int) -> None:
    file = world.file(LENGTH)
    want = file.data[offset : offset + size]
    with Buffer(manager.make_cursor(file.path), offset, size) as buffer:
        assert len(buffer) == len(want)
        places = [at for at in borders(len(want), WINDOW) if at < len(want)] if want else []
        random.Random(1).shuffle(places)
        for at in places:
            assert buffer[at] == want[at]
            assert buffer[at - len(want)] == want[at]
            assert type(buffer[at]) is int
        for outside in (len(want), len(want) + 1, -len(want) - 1, sys.maxsize, -sys.maxsize - 1, 1 << 70):
            with pytest.raises(IndexError):
                buffer[outside]


class Number:
    """Something that is not an int, yet can be an index."""

    def __index__(self) -> int:
        return 3

    def __repr__(self) -> str:
        return "Number()"


@pytest.mark.parametrize(
    "index",
    [True, Number(), 1.0, "1", None, b"1", (1, 2), slice(None, None, 0), slice("a"), slice(1.5)],
    ids=["bool", "Number", "float", "str", "None", "bytes", "tuple", "no step", "slice of str", "slice of float"],
)
def test_odd_indexes(manager: Any, world: World, index: Any) -> None:
    file = world.file(LENGTH)
    with Buffer(manager.make_cursor(file.path)) as buffer:
        agree(buffer, file.data, lambda it: it[index])
        agree(buffer, file.data, lambda it: it[index : Number()])


@parts
def test_slices(manager: Any, world: World, offset: int, size: int) -> None:
    file = world.file(LENGTH)
    want = file.data[offset : offset + size]
    places = [*borders(len(want), WINDOW), -1, -G, -WINDOW - 1, -len(want) - 5, None]
    chance = random.Random(2)
    with Buffer(manager.make_cursor(file.path), offset, size) as buffer:
        for start in places:
            for stop in chance.sample(places, min(len(places), 12)):
                got = buffer[start:stop]
                assert type(got) is bytes
                assert got == want[start:stop], (start, stop)
        for step in (1, 2, 3, 7, G - 1, G, G + 1, WINDOW, LENGTH, sys.maxsize, -1, -2, -G, -WINDOW - 1, -LENGTH):
            for start, stop in [(None, None), *((chance.choice(places), chance.choice(places)) for _ in range(6))]:
                got = buffer[start:stop:step]
                assert type(got) is bytes
                assert got == want[start:stop:step], (start, stop, step)
        for index in (
            slice(1 << 70),
            slice(-(1 << 70), None),
            slice(None, None, -(1 << 70)),
            slice(5, 1 << 70, 1 << 70),
        ):
            assert buffer[index] == want[index]


def test_iteration(manager: Any, world: World) -> None:
    file = world.file(LENGTH)
    with Buffer(manager.make_cursor(file.path), 5, LENGTH - 9) as buffer:
        want = file.data[5 : LENGTH - 4]
        assert bytes(iter(buffer)) == want
        assert bytes(buffer) == want
        assert bytes(reversed(buffer)) == want[::-1]
        first, second = iter(buffer), iter(buffer)
        assert [next(first) for _ in range(3)] == list(want[:3])
        assert next(second) == want[0]  # each iterator has its own place
        assert bool(buffer)
        assert max(buffer) == max(want)


def test_views(manager: Any, world: World) -> None:
    file = world.file(LENGTH)
    places: list[Any] = [*borders(LENGTH, 2 * WINDOW), -1, -WINDOW, -LENGTH - 9, None, 1 << 70, Number()]
    chance = random.Random(3)
    for offset, size in [(0, sys.maxsize), (G + 1, LENGTH), (WINDOW - 1, 2)]:
        want = file.data[offset : offset + size]
        with Buffer(manager.make_cursor(file.path), offset, size) as buffer:
            assert buffer.view() == want
            assert buffer.view(G) == want[G:]
            for _ in range(150):
                start, stop = chance.choice(places), chance.choice(places)
                view = buffer.view(start, stop)
                assert isinstance(view, memoryview)
                assert (view.readonly, view.format, view.ndim, view.nbytes) == (True, "B", 1, len(want[start:stop]))
                assert view == want[start:stop]
                with pytest.raises(TypeError):
                    view[:1] = b"x"
                del view  # it takes a handle until it dies


@linux
def test_views_are_not_copies(world: World, tmp_path: Path) -> None:
    """What is written into the file afterwards shows in a view, and not in a slice."""
    file = world.file(LENGTH)
    manager = world.manager(WINDOW, backing="mmap")
    buffer = Buffer(manager.make_cursor(file.path))
    for start, stop in [(0, 10), (WINDOW - 5, WINDOW + 5), (G + 1, 7 * G), (0, LENGTH)]:
        view, copy = buffer.view(start, stop), buffer[start:stop]
        with open(file.path, "r+b", buffering=0) as out:
            out.seek(start)
            out.write(b"now")
        assert bytes(view[:3]) == b"now"
        assert copy[:3] == file.data[start : start + 3]
        file.path.open("r+b").close()
        with open(file.path, "r+b") as out:
            out.write(file.data)
    assert maps(tmp_path)
    buffer.close()


def needles(want: bytes) -> Iterator[Any]:
    """Needles that lie across borders, at both ends, too long, absent, empty, and of each type accepted."""
    for at in borders(len(want), WINDOW, 0):
        for size in (1, 2, 9, G + 3, WINDOW + 3):
            yield want[max(at - size // 2, 0) :][:size]
    yield from (b"", want, want[1:], want[:-1], want + b"x", b"\x00" * 40, want[-3:], want[:3])
    yield from (want[G - 2 : G + 2], 0, 255, want[-1], bytearray(want[5:9]), memoryview(want)[WINDOW - 2 : WINDOW + 2])


BOUNDS: list[tuple[Any, ...]] = [
    (),
    (1,),
    (None,),
    (None, None),
    (None, -1),
    (-1, None),
    (-LENGTH * 2, LENGTH * 2),
    (G - 1, WINDOW + 1),
    (WINDOW, None),
    (-WINDOW, -1),
    (LENGTH, None),
    (LENGTH + 1, LENGTH + 2),
    (WINDOW, G),
    (-(1 << 70), 1 << 70),
    (Number(), 3 * G),
]


class Index(int):
    """A kind of int."""


def test_kinds_of_int_are_ints(manager: Any, world: World) -> None:
    """True is an int, and so is what comes from an enumeration or a library for numbers."""
    file = world.file(LENGTH)
    with Buffer(manager.make_cursor(file.path)) as buffer:
        for warm in (False, True):
            if warm:
                buffer.view(0, 9)
            for one, three in ((True, 3), (Index(1), Index(3)), (True, Index(3)), (1, Number())):
                assert buffer.view(one, three) == file.data[1:3]
                assert buffer.view(one) == file.data[1:]
                assert buffer.view(stop=three) == file.data[:3]
                assert buffer[one:three] == file.data[1:3]
                assert type(buffer[one]) is int
                assert buffer[three] == file.data[3]
                assert buffer[one:three:one] == file.data[1:3]


@pytest.mark.parametrize("needle", [b"", b"\x00", 0, True], ids=repr)
def test_search_gives_plain_ints(manager: Any, world: World, needle: Any) -> None:
    """Never a bound as it was given: `False` is not 0 to who prints it."""
    file = world.file(LENGTH)
    with Buffer(manager.make_cursor(file.path)) as buffer:
        for name in ("find", "rfind", "count", "index", "rindex"):
            for bounds in ((False,), (True,), (False, True), (Index(2), Index(5)), (0, Index(LENGTH)), (Number(),)):
                agree(buffer, file.data, lambda it: getattr(it, name)(needle, *bounds))


TARGETS: dict[str, Callable[[Any], Any]] = {
    "datetime64": lambda numpy: numpy.zeros(20, "M8[s]"),
    "timedelta64": lambda numpy: numpy.zeros((4, 5), "m8[ns]"),
    "big-endian": lambda numpy: numpy.zeros(20, ">i4"),
    "structured": lambda numpy: numpy.zeros(11, [("number", "<i4"), ("text", "S3"), ("time", "M8[s]")]),
    "void": lambda numpy: numpy.zeros(11, "V7"),
    "unicode": lambda numpy: numpy.zeros(11, "U2"),
    "complex": lambda numpy: numpy.zeros(11, complex),
    "half": lambda numpy: numpy.zeros(11, "f2"),
    "bool": lambda numpy: numpy.zeros(11, bool),
    "no axis": lambda numpy: numpy.zeros((), "M8[s]"),
    "two axes": lambda numpy: numpy.zeros((3, 5), ">u2"),
    "empty": lambda numpy: numpy.zeros(0, "M8[s]"),
    "read-only": lambda numpy: numpy.frombuffer(bytes(16), "M8[s]"),
    "with gaps": lambda numpy: numpy.zeros(20, "M8[s]")[::2],
    "columns first": lambda numpy: numpy.asfortranarray(numpy.zeros((3, 5), "M8[s]")),
}


@pytest.mark.parametrize("start", [0, 3 * WINDOW - 9, LENGTH - 30, LENGTH])
@pytest.mark.parametrize("kind", TARGETS)
def test_readinto_takes_the_targets_that_files_take(kind: str, start: int, world: World) -> None:
    """One of which memoryview does not know the format has bytes all the same; the others are refused by both."""
    numpy = pytest.importorskip("numpy")
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    buffer = manager.buffer(file.path)
    with open(file.path, "rb", buffering=0) as plain, smmap.open(file.path, manager=manager, buffering=0) as ours:
        for _ in ("cold", "mapped"):
            results = []
            for read in (plain.readinto, ours.readinto, functools.partial(buffer.readinto, start)):
                target = TARGETS[kind](numpy)
                plain.seek(start)
                ours.seek(start)
                try:
                    result: Any = read(target)
                except (TypeError, ValueError, BufferError):
                    result = "refused"
                results.append((result, target.tobytes()))
            assert results[1:] == results[:1] * 2
            view = buffer.view()
    del view
    buffer.close()


@pytest.mark.parametrize("bounds", BOUNDS, ids=repr)
def test_searching(manager: Any, world: World, bounds: Any) -> None:
    file = world.file(LENGTH)
    for offset, size in [(0, sys.maxsize), (G + 1, 3 * WINDOW)]:
        want = file.data[offset : offset + size]
        with Buffer(manager.make_cursor(file.path), offset, size) as buffer:
            for needle in needles(want):
                for name in ("find", "rfind", "index", "rindex", "count"):
                    if hasattr(Buffer, name):
                        agree(buffer, want, lambda it: getattr(it, name)(needle, *bounds))
            if not bounds:
                for needle in needles(want):
                    assert (needle in buffer) == (needle in want)


SEARCH_AT_THE_EDGE = """
import mmap, sys
import smmap

size = 2 * mmap.ALLOCATIONGRANULARITY
guards = []
for number in range(20):  # each map is put below the one before it, if there is no gap that it fits into
    with open(sys.argv[1], "wb") as file:
        file.write(b"%02d" % number * (size // 2))
    with smmap.SlidingWindowMapManager(size, 4 * size) as manager:
        buffer = manager.buffer(sys.argv[1])
        guards.append(mmap.mmap(-1, size, prot=0))
        view = buffer.view(0, 9)
        for needle in (b"x", b"xy", b"xyz", b"some more bytes"):
            assert buffer.find(needle) == buffer.rfind(needle) == -1
            with manager.make_cursor(sys.argv[1]).use_region(0, 9) as cursor:
                assert cursor.map().find(needle) == cursor.map().rfind(needle) == -1
"""


@linux
def test_search_never_reads_past_the_end_of_a_window(tmp_path: Path) -> None:
    """What follows may be memory that cannot be read."""
    run_python(SEARCH_AT_THE_EDGE, tmp_path / "file")


@pytest.mark.parametrize("needle", [256, -1, "x", None, 1.5, [1], array.array("H", [1, 2])], ids=repr)
def test_odd_needles(manager: Any, world: World, needle: Any) -> None:
    file = world.file(LENGTH)
    with Buffer(manager.make_cursor(file.path)) as buffer:
        for name in ("find", "rfind", "index", "count"):
            agree(buffer, file.data, lambda it: getattr(it, name)(needle))
            for bound in ("a", 1.5, b"1"):
                agree(buffer, file.data, lambda it: getattr(it, name)(b"x", bound))
        agree(buffer, file.data, lambda it: needle in it)


def test_counting_needles_that_overlap(manager: Any, world: World) -> None:
    chance = random.Random(4)
    data = bytes(chance.choice(b"aab") for _ in range(LENGTH))
    data = data[: WINDOW - 50] + b"a" * 100 + data[WINDOW + 50 :]
    file = world.file(0, data=data)
    with Buffer(manager.make_cursor(file.path)) as buffer:
        for needle in (b"a", b"aa", b"aaa", b"aba", b"abab", b"a" * 60, b"a" * 100, b"a" * 101, b"", 97):
            agree(buffer, data, lambda it: it.count(needle))
            agree(buffer, data, lambda it: it.count(needle, 3, -3))
            agree(buffer, data, lambda it: (it.find(needle), it.rfind(needle)))
            for border in range(WINDOW, LENGTH, WINDOW):
                for shift in (-2, -1, 0, 1):
                    agree(buffer, data, lambda it: it.count(needle, border + shift - 40, border + shift + 40))
                    agree(buffer, data, lambda it: it.find(needle, border + shift))
                    agree(buffer, data, lambda it: it.rfind(needle, None, border + shift))


def test_equality(manager: Any, world: World) -> None:
    file, twin = world.file(LENGTH), world.file(0, "twin", data=payload(LENGTH, "data"))
    assert file.data == twin.data
    with Buffer(manager.make_cursor(file.path)) as buffer, Buffer(manager.make_cursor(twin.path)) as other:
        assert buffer == other
        assert buffer == buffer
        for kind in (bytes, bytearray, memoryview):
            assert buffer == kind(file.data)
            assert kind(file.data) == buffer
            assert not buffer != kind(file.data)
            for at in [at for at in borders(LENGTH, WINDOW, 0) if at < LENGTH] + [LENGTH - 1]:
                changed = bytearray(file.data)
                changed[at] ^= 1
                assert buffer != kind(changed)
                assert not buffer == kind(changed)
            assert buffer != kind(file.data[:-1])
            assert buffer != kind(file.data + b"x")
        for stranger in (None, 5, file.data.decode("latin-1"), list(file.data), object()):
            assert buffer != stranger
            assert not buffer == stranger
        with Buffer(manager.make_cursor(file.path), 0, LENGTH - 1) as shorter:
            assert shorter != buffer
            assert shorter == file.data[:-1]
        with Buffer(manager.make_cursor(file.path), 0, 0) as nothing:
            assert nothing == b""
            assert nothing != b"x"


def test_starts_access_again(manager: Any, world: World) -> None:
    file, other = world.file(LENGTH), world.file(3 * G, "other")
    buffer = Buffer()
    assert len(buffer) == 0
    assert buffer.cursor() is None
    assert not buffer.begin_access()
    assert buffer.begin_access(manager.make_cursor(file.path), G)
    assert buffer[0] == file.data[G]
    assert buffer.cursor().is_associated()
    assert buffer.begin_access(offset=5, size=10)
    assert buffer[:] == file.data[5:15]
    assert buffer.begin_access(manager.make_cursor(other.path))
    assert buffer == other.data
    for _ in range(3):
        buffer.end_access()
        assert len(buffer) == 0
        with pytest.raises(smmap.ClosedError):
            buffer[:]
        assert not buffer.cursor().is_valid()
        assert buffer.cursor().is_associated()
    assert buffer.begin_access()
    assert buffer == other.data
    with pytest.raises(ValueError, match=r".+"):
        Buffer(smmap.WindowCursor(manager))
    with pytest.raises(ValueError, match=r".+"):
        Buffer(manager.make_cursor(file.path), LENGTH)
    with pytest.raises(ValueError, match=r".+"):
        Buffer(manager.make_cursor(file.path), -1)
    buffer.close()


def test_buffer_maps_its_first_window_and_pins_nothing(world: World) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    buffer = Buffer(manager.make_cursor(file.path), 3 * WINDOW + 5)
    assert (manager.stats().mapped, manager.stats().pinned, manager.stats().idle) == (1, 0, 1)
    assert manager.num_file_handles() == 1
    assert buffer[0] == file.data[3 * WINDOW + 5]
    assert manager.stats().cold_reads == 0
    cursor = buffer.cursor()
    assert cursor.is_valid()
    assert cursor is buffer.cursor()
    assert manager.stats().pinned == 1
    assert cursor.includes_ofs(3 * WINDOW + 5)
    buffer.end_access()
    assert manager.stats().pinned == 0


def test_cold_windows_are_rented_before_they_are_mapped(world: World) -> None:
    """Few reads of a window cost no map, many do, and all give the right bytes."""
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    buffer = Buffer(manager.make_cursor(file.path))
    before = manager.stats()
    for at in (WINDOW + 5, 2 * WINDOW + 6, 3 * WINDOW):
        assert buffer[at : at + 9] == file.data[at : at + 9]
    assert manager.stats().mapped == before.mapped
    assert manager.stats().cold_reads == before.cold_reads + 3
    for at in range(WINDOW, WINDOW + 64):
        assert buffer[at] == file.data[at]
    assert manager.stats().mapped == before.mapped + 1
    assert manager.stats().cold_reads < before.cold_reads + 64
    assert buffer.view(3 * WINDOW, 3 * WINDOW + 5) == file.data[3 * WINDOW : 3 * WINDOW + 5]
    assert manager.stats().mapped == before.mapped + 2  # zero-copy always maps
    buffer.close()


@pytest.mark.skipif(not _system.KEEPS_DESCRIPTORS, reason="no descriptor is cached here")
def test_cold_reads_open_the_file_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the cached descriptor was closed."""
    file = world.file(LENGTH)
    manager = by_policy(world.manager(WINDOW))
    buffer = manager.buffer(file.path)
    opened: list[Any] = []
    open_file = _engine.chosen.open_file
    monkeypatch.setattr(_engine.chosen, "open_file", lambda *args: (opened.append(args), open_file(*args))[1])
    for times in (1, 2):
        manager.collect()
        assert manager.stats().descriptors == 0
        for at in (WINDOW + 5, 2 * WINDOW + 6, 3 * WINDOW):
            assert buffer[at : at + 9] == file.data[at : at + 9]
            assert manager.stats().descriptors == 1
        assert len(opened) == times
    assert manager.stats().mapped == 0
    buffer.close()


def test_access_to_a_closed_cursor_leaves_the_buffer_closed(world: World) -> None:
    one, two = world.file(LENGTH, "one"), world.file(LENGTH, "two")
    manager = world.manager(WINDOW)
    buffer = Buffer(manager.make_cursor(one.path))
    cursor = manager.make_cursor(two.path)
    cursor.close()
    for nothing in (cursor, smmap.WindowCursor(manager)):
        assert not buffer.begin_access(nothing)
        assert (len(buffer), buffer.closed) == (0, True)
        assert buffer.begin_access()
        assert buffer[:9] == one.data[:9]
    with pytest.raises(TypeError, match="WindowCursor"):
        buffer.begin_access(5)  # type: ignore[arg-type]
    assert buffer[:9] == one.data[:9]
    with pytest.raises(smmap.ClosedError, match="two"):
        Buffer(cursor)


WAYS: dict[str, Any] = {
    "iter": iter,
    "reversed": reversed,
    "finditer": lambda buffer: buffer.finditer(rb"(?s).", 1),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("step", [100, 1 << 20])
def test_iterating_a_buffer_that_is_given_another_file_raises(
    name: str, step: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with an error, and never goes on in another file, or outside."""
    for owner in (smmap._buffer, smmap._search):
        monkeypatch.setattr(owner, "STEP", step)
    one, two, short = world.file(LENGTH, "one"), world.file(LENGTH, "two"), world.file(WINDOW + 3, "short")
    manager = world.manager(WINDOW)
    for again in (
        lambda: buffer.begin_access(manager.make_cursor(two.path)),
        lambda: buffer.begin_access(manager.make_cursor(short.path)),
        lambda: buffer.begin_access(None, 5),
        lambda: buffer.begin_access(None, 0, WINDOW),
        lambda: buffer.close(),
    ):
        buffer = Buffer(manager.make_cursor(one.path))
        through = WAYS[name](buffer)
        found = [next(through)]
        assert again() in (True, None)
        if step > LENGTH:  # all of it is at hand already
            found.extend(through)
            assert len(found) == LENGTH
        else:
            with pytest.raises(smmap.ClosedError, match="in the meantime"):
                found.extend(through)
            assert 0 < len(found) <= step + 2
        got = bytes(each if isinstance(each, int) else each.group()[0] for each in found)
        assert got == (one.data[::-1] if name == "reversed" else one.data)[: len(got)]
        buffer.close()


def test_search_in_a_buffer_that_is_given_another_file_stays_in_its_file(world: World) -> None:
    """A bound whose `__index__` starts the buffer anew stands for what another thread might do."""
    file, other = world.file(LENGTH), world.file(LENGTH, "other")
    manager = world.manager(WINDOW)

    class Restarting:
        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            buffer.begin_access(manager.make_cursor(other.path), 7)
            return self.value

    for search in ("find", "rfind", "count", "index", "rindex"):
        buffer = Buffer(manager.make_cursor(file.path))
        needle = file.data[3 * WINDOW - 4 : 3 * WINDOW + 5]
        found = getattr(buffer, search)(needle, 0, Restarting(LENGTH))
        assert found == getattr(file.data, search)(needle)
        assert buffer[:9] == other.data[7:16]
        buffer.close()


@pytest.mark.parametrize("step", [2, 3, 5, 8])
def test_counting_where_pieces_meet(step: int, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Matches do not overlap, wherever one piece stops and the next starts."""
    monkeypatch.setattr(smmap._search, "STEP", step)
    path = tmp_path / "repeated"
    for data in (b"a" * 61, b"ab" * 30 + b"a", b"aab" * 20, b"baaa" * 15):
        path.write_bytes(data)
        with world.manager(WINDOW).buffer(path) as buffer:
            for needle in (b"a", b"aa", b"aaa", b"aba", b"abab", b"ba", data, data + b"a"):
                for start in range(4):
                    assert buffer.count(needle, start) == data.count(needle, start), (data, needle, start)


def test_reading_needs_no_handle(world: World) -> None:
    """While views take them all: searches, steps and new buffers read what plain slices read."""
    if not _system.KEEPS_DESCRIPTORS:
        pytest.skip("no descriptor is cached here")
    file = world.file(LENGTH)
    manager = world.manager(WINDOW, 0, 1)
    buffer = manager.buffer(file.path)
    view = buffer.view(0, 5)
    data = file.data
    for at in (3 * WINDOW - 4, 5 * WINDOW + 1, LENGTH - 30):
        needle = data[at : at + 9]
        assert buffer.find(needle) == data.find(needle)
        assert buffer.rfind(needle) == data.rfind(needle)
        assert buffer.count(needle) == data.count(needle)
        assert needle in buffer
        assert buffer[at : at + 9 : 2] == data[at : at + 9 : 2]
        assert buffer[at + 9 : at - 9 : -3] == data[at + 9 : at - 9 : -3]
    assert buffer[:: WINDOW // 3] == data[:: WINDOW // 3]
    assert buffer == data
    other = Buffer(manager.make_cursor(file.path), 5)
    assert other[:9] == data[5:14]
    assert view == data[:5]
    assert (manager.stats().mapped, manager.stats().detached + manager.stats().idle) == (1, 1)
    with pytest.raises(smmap.LimitError):
        buffer.view(3 * WINDOW, 3 * WINDOW + 5)
    del view


def test_equal_to_what_bytes_are_equal_to(world: World) -> None:
    file = world.file(2000)
    buffer = world.manager(WINDOW).buffer(file.path)
    data = file.data
    for other in (
        memoryview(data),
        memoryview(bytes(2 * byte for byte in b"a") + data)[1:],
        memoryview(b"".join(bytes((byte, 0)) for byte in data))[::2],
        memoryview(data[::-1])[::-1],
        bytearray(data),
        array.array("H", data),
        memoryview(array.array("H", data)),
        memoryview(data).cast("B", (2, 1000)),
        memoryview(data).cast("b"),
        memoryview(data).cast("c"),
        data.decode("latin-1"),
        5,
        None,
    ):
        if PYPY and isinstance(other, memoryview) and (other.format, other.ndim) != ("B", 1):
            continue  # PyPy's bytes are equal to what has the same memory, whatever is in it
        assert (buffer == other) == (data == other), other
        assert (buffer != other) == (data != other), other


# Against bytes at random

numbers = st.one_of(
    st.none(),
    st.integers(-LENGTH - 3, LENGTH + 3),
    st.sampled_from(borders(LENGTH, WINDOW, 2)),
    st.sampled_from([-at for at in borders(LENGTH, WINDOW, 2)]),
)
quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)
DATA = payload(LENGTH, "random")
LETTERS = bytes(byte & 1 for byte in DATA)


class Pair:
    """The same bytes in a buffer under tight limits and in `bytes`."""

    def __init__(self, folder: Path, data: bytes) -> None:
        self.file = File(folder / "file", data)
        self.file.path.write_bytes(data)
        self.manager = smmap.SlidingWindowMapManager(WINDOW, 3 * WINDOW, 3)
        self.buffer = Buffer(self.manager.make_cursor(self.file.path))

    def close(self) -> None:
        self.buffer.close()
        self.manager._check()
        self.manager.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), DATA)
    yield made
    made.close()


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("letters"), LETTERS)
    yield made
    made.close()


@quick
@given(start=numbers, stop=numbers, step=st.none() | st.integers(-LENGTH, LENGTH))
@example(start=None, stop=None, step=-1)
def test_any_slice(pair: Pair, start: Any, stop: Any, step: Any) -> None:
    agree(pair.buffer, DATA, operator.itemgetter(slice(start, stop, step)))
    agree(pair.buffer, DATA, operator.itemgetter(slice(start, stop)))
    assert pair.buffer.view(start, stop) == DATA[start:stop]


@quick
@given(at=st.integers(0, LENGTH), size=st.integers(0, 3 * WINDOW), change=st.booleans(), start=numbers, stop=numbers)
def test_any_needle(pair: Pair, at: int, size: int, change: bool, start: Any, stop: Any) -> None:
    needle = bytearray(DATA[at : at + size])
    if change and needle:
        needle[-1] ^= 1
    for name in ("find", "rfind", "index", "count"):
        agree(pair.buffer, DATA, lambda it: getattr(it, name)(needle, start, stop))
    agree(pair.buffer, DATA, lambda it: needle in it)
    agree(pair.buffer, DATA, lambda it: it.find(at % 256, start, stop))
    agree(pair.buffer, DATA, lambda it: it.rfind(at % 256, start, stop))


@quick
@given(at=st.integers(0, LENGTH), size=st.integers(0, 14), start=numbers, stop=numbers)
def test_any_needle_found_often(letters: Pair, at: int, size: int, start: Any, stop: Any) -> None:
    needle = LETTERS[at : at + size]
    for name in ("find", "rfind", "index", "count"):
        agree(letters.buffer, LETTERS, lambda it: getattr(it, name)(needle, start, stop))


@quick
@given(offset=st.integers(0, LENGTH - 1), size=st.integers(0, LENGTH), index=st.integers(-LENGTH, LENGTH), stop=numbers)
def test_any_part(pair: Pair, offset: int, size: int, index: int, stop: Any) -> None:
    with Buffer(pair.manager.make_cursor(pair.file.path), offset, size) as part:
        want = DATA[offset : offset + size]
        agree(part, want, len)
        agree(part, want, operator.itemgetter(index))
        agree(part, want, operator.itemgetter(slice(index, stop)))
        assert part == want


@pytest.mark.parametrize("way", [iter, reversed])
def test_iterator_that_has_not_begun_is_of_the_file_that_the_buffer_had(world: World, way: Callable[..., Any]) -> None:
    file, other = world.file(G, "one"), world.file(2 * G, "two")
    manager = world.manager(2 * G)
    buffer = manager.buffer(file.path)
    values = way(buffer)
    buffer.begin_access(manager.make_cursor(other.path))
    with pytest.raises(smmap.ClosedError):
        next(values)


def test_buffer_that_is_closed_while_it_is_compared_is_not_equal_to_other_bytes(world: World) -> None:
    """As another thread might do: here, after the lengths have been compared."""
    files = [world.file(G, name) for name in ("one", "two")]
    manager = world.manager(2 * G)

    class Closing(smmap.SlidingWindowMapBuffer):
        __slots__ = ()

        def _all_of(self, access: Any, step: int = 1) -> Iterator[bytes]:
            one.close()
            return super()._all_of(access, step)

    one = Closing(manager.make_cursor(files[0].path))
    with pytest.raises(smmap.ClosedError):
        assert one == manager.buffer(files[1].path)


def test_object_that_cannot_export_its_bytes_now_is_not_equal(world: World) -> None:
    view = memoryview(b"abc")
    view.release()
    assert world.manager().buffer(world.file(9).path) != view
