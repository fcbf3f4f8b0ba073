"""What takes bytes takes a buffer: the standard library, numpy and pyarrow, whole or by views, wherever windows end."""

from __future__ import annotations

import array
import binascii
import collections.abc
import copy
import ctypes
import hashlib
import io
import mmap
import os
import pickle
import re
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import smmap
from core._tools import LATE, PYPY, File, G, World, agree, linux, maps, payload
from smmap import _engine, _search

WINDOW = 2 * G
LENGTH = 9 * G + 124
# PyPy always could, and so can C.
PEP_688 = sys.version_info >= (3, 12) or sys.implementation.name == "pypy" or smmap.engine == "fast"
only_with_pep_688 = pytest.mark.skipif(not PEP_688, reason="before CPython 3.12 no class in Python can export bytes")

# Windows that stay, windows that go at once, and one window for all
LIMITS = {"roomy": (WINDOW, 0, sys.maxsize), "tight": (WINDOW, 2 * WINDOW, 2), "whole": (0, 0, sys.maxsize)}


@pytest.fixture(params=LIMITS, ids=str)
def manager(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(*LIMITS[request.param])


# Whole: who takes anything that exports bytes

WHOLE: dict[str, Callable[[Any], Any]] = {
    "re.finditer": lambda data: [found.span() for found in re.finditer(rb"[a-f][0-9]\x00?", data)],
    "re.search": lambda data: re.search(rb"(?s)\xff.{3}\x01", data),
    "zlib.crc32": zlib.crc32,
    "zlib.compress": zlib.compress,
    "binascii.hexlify": binascii.hexlify,
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "unpack_from": lambda data: struct.unpack_from("<5I", data, WINDOW - 10),
    "iter_unpack": lambda data: list(struct.iter_unpack("<4Q", data[: LENGTH // 32 * 32])),
    "memoryview": lambda data: memoryview(data).cast("I").tolist(),
    "join": lambda data: b"".join([data, b"-", data]),
    "bytes": bytes,
    "bytearray": bytearray,
    "BytesIO": lambda data: io.BytesIO(data).read(),
    "int.from_bytes": lambda data: int.from_bytes(memoryview(data)[WINDOW - 3 : WINDOW + 5], "big"),
}


def shown(result: Any) -> Any:
    """What can be compared of a result."""
    return (result.span(), result.group()) if isinstance(result, re.Match) else result


@pytest.mark.parametrize("name", WHOLE)
def test_takes_a_view(name: str, manager: Any, world: World) -> None:
    """What `.view()` gives works everywhere."""
    file = world.file(LENGTH)
    with manager.buffer(file.path) as buffer:
        assert shown(WHOLE[name](buffer.view())) == shown(WHOLE[name](file.data))


@only_with_pep_688
@pytest.mark.parametrize("name", WHOLE)
def test_takes_a_buffer(name: str, manager: Any, world: World) -> None:
    if name == "unpack_from" and sys.implementation.name == "pypy":
        pytest.skip("takes what is built in only; buffers have an unpack_from of their own")
    file = world.file(LENGTH)
    with manager.buffer(file.path) as buffer:
        assert shown(WHOLE[name](buffer)) == shown(WHOLE[name](file.data))
    with manager.buffer(file.path, G + 4, WINDOW + 8) as part:
        assert zlib.crc32(part) == zlib.crc32(file.data[G + 4 :][: WINDOW + 8])


@pytest.mark.skipif(PEP_688, reason="there it works")
@pytest.mark.parametrize("call", [zlib.crc32, hashlib.sha256, memoryview, lambda data: re.search(b"a", data)])
def test_older_pythons_need_a_view(call: Any, world: World) -> None:
    file = world.file(100)
    with world.manager().buffer(file.path) as buffer:
        with pytest.raises(TypeError):
            call(buffer)
        call(buffer.view())


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="numpy on PyPy never lets go of a view")
def test_numpy_from_a_view(manager: Any, world: World) -> None:
    np = pytest.importorskip("numpy")
    file = world.file(LENGTH)
    with manager.buffer(file.path) as buffer:
        for source in [buffer.view(), buffer] if sys.version_info >= (3, 12) else [buffer.view()]:
            array = np.frombuffer(source, "<u2")
            assert not array.flags.writeable
            assert np.array_equal(array, np.frombuffer(file.data, "<u2"))
        assert array[WINDOW - 1] == np.frombuffer(file.data, "<u2")[WINDOW - 1]
    manager.collect()
    assert np.array_equal(array, np.frombuffer(file.data, "<u2"))  # what is held stays valid
    del array, source


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="numpy on PyPy never lets go of a view")
@pytest.mark.parametrize(
    ("offset", "length"), [(0, None), (0, 0), (5, 1), (G + 1, WINDOW - 1), (WINDOW - 1, 2), (3, 3 * WINDOW)]
)
def test_numpy_takes_a_buffer_for_its_bytes_without_a_copy(
    offset: int, length: Any, manager: Any, world: World
) -> None:
    np = pytest.importorskip("numpy")
    file = world.file(LENGTH)
    want = file.data[offset:] if length is None else file.data[offset : offset + length]
    for buffer in (
        manager.buffer(file.path, offset, length),
        smmap.SlidingWindowMapBuffer(manager.make_cursor(file.path), offset, sys.maxsize if length is None else length),
    ):
        view = buffer.view()
        arrays = [np.asarray(buffer), np.asanyarray(buffer), np.array(buffer, copy=False, ndmin=1)]
        for made in arrays:
            assert (made.dtype, made.shape, made.flags.writeable) == (np.uint8, (len(want),), False)
            assert made.tobytes() == want
            if want:
                assert made.ctypes.data == np.frombuffer(view, np.uint8).ctypes.data
        copied = np.array(buffer)
        assert (copied.dtype, copied.tobytes(), copied.flags.writeable) == (np.uint8, want, True)
        assert np.concatenate([buffer, buffer]).tobytes() == want * 2
        del view, made
        buffer.close()
        manager.collect()
        assert all(made.tobytes() == want for made in arrays)  # what is held stays valid
        assert manager.stats().detached == bool(want)
        del arrays, copied
        manager._check()
        assert LATE or manager.stats().mapped == 0
        with pytest.raises(smmap.ClosedError):
            np.asarray(buffer)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="numpy on PyPy never lets go of a view")
def test_libraries_over_numpy_take_a_buffer_for_its_bytes(manager: Any, world: World) -> None:
    file = world.file(LENGTH)
    buffer = manager.buffer(file.path)
    pd = pytest.importorskip("pandas")
    for series in (pd.Series(buffer), pd.Series(pickle.loads(pickle.dumps(buffer)))):
        assert (series.dtype, len(series)) == ("uint8", LENGTH)
        assert series.to_numpy().tobytes() == file.data
    del series
    smmap.default_manager().collect()


def test_pyarrow_from_a_view(manager: Any, world: World) -> None:
    pa = pytest.importorskip("pyarrow")
    file = world.file(LENGTH)
    with manager.buffer(file.path) as buffer:
        for source in [buffer.view(), buffer] if sys.version_info >= (3, 12) else [buffer.view()]:
            arrow = pa.py_buffer(source)
            assert (arrow.size, arrow.is_mutable) == (LENGTH, False)
            assert arrow.to_pybytes() == file.data
            assert pa.BufferReader(arrow).read() == file.data
        del arrow, source


@only_with_pep_688
def test_the_wide_window_is_kept_while_it_is_exported(world: World) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    buffer: Any = manager.buffer(file.path)
    assert manager.stats().mapped == 0
    first = memoryview(buffer)
    second = memoryview(buffer)
    assert (manager.stats().mapped, manager.stats().mapped_memory, manager.stats().misses) == (1, LENGTH, 1)
    manager.collect()
    third = memoryview(buffer)  # the detached region is found again
    assert (manager.stats().mapped, manager.stats().misses) == (1, 1)
    if not PYPY:  # its ctypes takes everything that is read-only, also bytes
        with pytest.raises((BufferError, TypeError)):
            (ctypes.c_char * LENGTH).from_buffer(buffer)
    buffer.close()
    assert first == second == third == file.data
    with pytest.raises(ValueError, match="closed"):
        memoryview(buffer)
    del first, second, third


# Piece by piece


@pytest.mark.parametrize("size", [1, 1000, G, WINDOW - 1, WINDOW, WINDOW + 1, sys.maxsize])
@pytest.mark.parametrize(("offset", "length"), [(0, None), (G + 1, None), (WINDOW - 1, 2), (3, 0)])
def test_iter_views(manager: Any, world: World, size: int, offset: int, length: Any) -> None:
    file = world.file(LENGTH)
    want = file.data[offset:] if length is None else file.data[offset : offset + length]
    window = manager.window_size() or LENGTH
    if size == 1:
        want, length = want[: 2 * G], min(len(want), 2 * G)
    with manager.buffer(file.path, offset, length) as buffer:
        place = 0
        for view in buffer.iter_views(size=size):
            assert isinstance(view, memoryview)
            assert 0 < len(view) <= size
            assert view == want[place : place + len(view)]
            assert (offset + place) // window == (offset + place + len(view) - 1) // window, "crosses a border"
            place += len(view)
        assert place == len(want)
        view = None
        for start, stop in [(5, -5), (-G, None), (None, G), (G, 5), (None, None), (WINDOW, WINDOW + 1)]:
            pieces = b"".join(bytes(view) for view in buffer.iter_views(start or 0, stop, max(size, 100)))
            assert pieces == want[start:stop]


@linux
def test_iter_views_maps_one_window_at_a_time(world: World, tmp_path: Path) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW, WINDOW, 1)
    buffer = manager.buffer(file.path)
    views = buffer.iter_views()
    for start in range(0, LENGTH, WINDOW):
        view = next(views)
        assert view == file.data[start : start + WINDOW]
        assert maps(tmp_path) == [file.name]
        assert manager.stats().mapped == 1
        del view
    assert next(views, None) is None
    assert LATE or manager.stats().misses == LENGTH // WINDOW + 1


def test_iter_views_refuses(world: World) -> None:
    buffer = world.manager().buffer(world.file(10).path)
    for size in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            next(buffer.iter_views(size=size))
    buffer.close()
    with pytest.raises(ValueError, match="closed"):
        next(buffer.iter_views())


# Regular expressions over windows

PATTERNS = [
    rb"",
    rb"|a",
    rb"a|",
    rb"a*?",
    rb"a{1,3}b?",
    rb"[ab]{0,4}",
    rb"(a|b{0,2})(\n)?",
    rb"(?<=ab)a",
    rb"(?<!a)b(?!a)",
    rb"a(?=b)",
    rb"(?=b)",
    rb"(?<=\n)",
    rb"^a",
    rb"a$",
    rb"^",
    rb"$",
    rb"\Aa?",
    rb"b?\Z",
    rb"(?m)^ab?$",
    rb"(?m)^",
    rb"(?m)$",
    rb"(?m)a$\n^b?",
    rb"\b",
    rb"\B",
    rb"\ba",
    rb"a\b",
    rb"b\B",
    rb"(?P<one>a)(?P=one)?(?P<two>b)?",
    rb"(?s)a.b",
    rb"(?i)A[^B]",
    rb"(?<=a)(?=b)|\n",
]
LONGEST = 8  # longer than any match of these


class Writable:
    """A file of which the part across a window's border is written anew for each example."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file"
        self.path.write_bytes(payload(2 * WINDOW))
        self.manager = smmap.SlidingWindowMapManager(WINDOW, WINDOW, 1)

    def buffer(self, text: bytes, before: int) -> Any:
        with open(self.path, "r+b") as file:
            file.seek(WINDOW - before)
            file.write(text)
        return self.manager.buffer(self.path, WINDOW - before, len(text))


@pytest.fixture(scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writable]:
    made = Writable(tmp_path_factory.mktemp("writable"))
    yield made
    made.manager._check()
    made.manager.close()


def everything(match: Any) -> tuple[Any, ...]:
    """All that a match says."""
    groups = range(match.re.groups + 1)
    return (
        [match.span(group) for group in groups],
        [(match.start(group), match.end(group), match.group(group), match[group]) for group in groups],
        match.groups(b"none"),
        match.groupdict(),
        (match.lastindex, match.lastgroup, match.re.pattern, match.expand(rb"<\g<0>>")),
    )


@settings(
    max_examples=100 if sys.implementation.name == "pypy" else 500, deadline=None, derandomize=True, database=None
)
@given(
    text=st.text("ab\n", min_size=30, max_size=60) | st.text("ab\n", max_size=30),  # several pieces, or one
    pattern=st.sampled_from(PATTERNS),
    step=st.integers(1, 9),
    longest=st.integers(LONGEST, 2 * LONGEST),
    before=st.integers(0, 60),
)
@example("abab\n\nab", rb"", 1, LONGEST, 3)
def test_finditer_as_in_one_piece(
    writable: Writable, text: str, pattern: bytes, step: int, longest: int, before: int
) -> None:
    data = text.encode()
    with pytest.MonkeyPatch.context() as patch, writable.buffer(data, before) as buffer:
        patch.setattr(_search, "STEP", step)
        for wanted in (pattern, re.compile(pattern)):
            got = [everything(match) for match in buffer.finditer(wanted, longest)]
            assert got == [everything(match) for match in re.finditer(pattern, data)]


def test_finditer_over_many_windows(manager: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(LENGTH)
    monkeypatch.setattr(_search, "STEP", 3 * G // 2)
    with manager.buffer(file.path) as buffer:
        for pattern in (rb"[\x00-\x0f]{2,5}", rb"(?s)\xaa.{0,900}?\xbb", rb"(?<=\x07)[^\x08]{3}(?=\x09)?"):
            want = [(found.span(), found.group()) for found in re.finditer(pattern, file.data)]
            assert len(want) > 20
            assert [(found.span(), found.group()) for found in buffer.finditer(pattern, 2000)] == want
    with manager.buffer(file.path, G + 1, WINDOW) as part:  # offsets are the buffer's
        assert [found.start() for found in part.finditer(rb"\x11")] == [
            found.start() for found in re.finditer(rb"\x11", file.data[G + 1 :][:WINDOW])
        ]


def test_finditer_cuts_no_match(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A match that is longer than was said is an error, not a part of it."""
    file = world.file(0, data=b"b" * 50 + b"a" * 200 + b"b" * 50)
    monkeypatch.setattr(_search, "STEP", 16)
    buffer = world.manager().buffer(file.path)
    with pytest.raises(ValueError, match="max_match=20"):
        list(buffer.finditer(rb"a+", 20))
    assert [found.span() for found in buffer.finditer(rb"a+", 201)] == [(50, 250)]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_match"):
            buffer.finditer(rb"a", wrong)
    with pytest.raises(TypeError):
        buffer.finditer("a")
    with pytest.raises(re.error):
        buffer.finditer(rb"(")
    assert repr(next(buffer.finditer(rb"ba"))) == "<smmap.Match span=(49, 51), match=b'ba'>"
    buffer.close()
    with pytest.raises(ValueError, match="closed"):
        buffer.finditer(rb"a")


# As a sequence, and as struct reads it


def test_is_a_sequence(manager: Any, world: World) -> None:
    file = world.file(LENGTH)
    with manager.buffer(file.path) as buffer:
        assert isinstance(buffer, collections.abc.Sequence)
        assert list(buffer) == list(file.data)
        assert list(reversed(buffer)) == list(reversed(file.data))
        assert buffer.index(file.data[-9:]) == LENGTH - 9
        assert (min(buffer), max(buffer), sum(buffer)) == (min(file.data), max(file.data), sum(file.data))
        first, *_, last = buffer
        assert (first, last) == (file.data[0], file.data[-1])


@pytest.mark.parametrize("fmt", ["<I", ">QH", "B", "", "16s", f"{WINDOW + 3}s", f"{LENGTH}s", b"<d", "@lB"])
def test_unpack_from(manager: Any, world: World, fmt: Any) -> None:
    file = world.file(LENGTH)
    size = struct.calcsize(fmt)
    last = LENGTH - size
    with manager.buffer(file.path) as buffer:
        for offset in (
            0,
            1,
            WINDOW - 1,
            WINDOW,
            last - 1,
            last,
            last + 1,
            -size,
            -size - 1,
            1 - size,
            -LENGTH,
            -LENGTH - 1,
        ):
            agree(
                buffer,
                file.data,
                lambda it: it.unpack_from(fmt, offset) if it is buffer else struct.unpack_from(fmt, it, offset),
            )
        for wrong in (1.5, "1", None):
            with pytest.raises(TypeError):
                buffer.unpack_from(fmt, wrong)
        for wrong in ("no such format", "<\u00e9"):
            with pytest.raises((struct.error, UnicodeEncodeError)):
                buffer.unpack_from(wrong)
        buffer.view(0, min(LENGTH, WINDOW))  # mapped now
        for offset in (0, 5, last):
            if offset <= last:
                assert buffer.unpack_from(fmt, offset) == struct.unpack_from(fmt, file.data, offset)
                assert buffer.unpack_from(fmt, offset - LENGTH) == struct.unpack_from(fmt, file.data, offset)
    for offset in (0, -1):
        with pytest.raises(ValueError, match="closed"):
            buffer.unpack_from(fmt, offset)


def test_unpack_from_calls_user_code_before_it_looks_at_the_buffer(world: World) -> None:
    buffer = world.manager().buffer(world.file(99).path)
    buffer.end_access()
    called = []

    class Place:
        def __index__(self) -> int:
            called.append(1)
            return 5

    with pytest.raises(smmap.ClosedError):
        buffer.unpack_from("B", Place())  # type: ignore[arg-type]
    assert called


def test_unpack_from_takes_more_formats_than_are_remembered(world: World) -> None:
    file = world.file(LENGTH)
    buffer = world.manager(WINDOW).buffer(file.path)
    for size in [*range(1, 300), *range(300, 1, -1)]:
        assert buffer.unpack_from(f"<{size}s", size) == (file.data[size : 2 * size],)


@pytest.mark.parametrize("step", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("fmt", ["<I", ">QH", "B", "13s", f"{WINDOW + 3}s", b"<d", "@lB"])
def test_iter_unpack(manager: Any, world: World, fmt: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smmap._buffer, "STEP", step)
    size = struct.calcsize(fmt)
    file = world.file(LENGTH if step > 7 else 4 * size + 3 * (size < 20) + 40)
    length = len(file.data)
    parts = ((0, None), (1, None), (3, 3 + 2 * size), (0, size), (5, 5), (9, 5), (-2 * size, None), (0, -3))
    with manager.buffer(file.path) as buffer:
        for start, stop in (*parts, (length % size, None)):
            part = file.data[start:stop]  # `repr`, since NaN equals nothing
            agree(
                buffer,
                part,
                lambda it: repr(
                    list(it.iter_unpack(fmt, start, stop) if it is buffer else struct.iter_unpack(fmt, it))
                ),
            )
        agree(buffer, file.data, lambda it: list(it.iter_unpack("") if it is buffer else struct.iter_unpack("", it)))
        going = buffer.iter_unpack("B")
        assert next(going) == (file.data[0],)
    if step < length:
        with pytest.raises(smmap.ClosedError):
            list(going)
    with pytest.raises(smmap.ClosedError):
        buffer.iter_unpack("B")


def test_iter_unpack_goes_through_a_file_in_little_memory(world: World) -> None:
    file = world.file(30 * WINDOW)
    manager = world.manager(WINDOW, 2 * WINDOW)
    buffer = manager.buffer(file.path)
    assert sum(value for (value,) in buffer.iter_unpack("<I")) == sum(
        value for (value,) in struct.iter_unpack("<I", file.data)
    )
    assert manager.stats().peak_memory <= 2 * WINDOW


# What part, and how it is read


@pytest.mark.parametrize("offset", [0, 1, WINDOW - 1, WINDOW, LENGTH - 1, LENGTH])
@pytest.mark.parametrize("size", [None, 0, 1, WINDOW + 1, LENGTH, LENGTH + 1, sys.maxsize, 1 << 70])
def test_offset_and_size(world: World, offset: int, size: Any) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    want = file.data[offset:] if size is None else file.data[offset : offset + size]
    for made in (manager.buffer(file.path, offset, size), smmap.buffer(file.path, offset, size, manager=manager)):
        assert len(made) == len(want)
        assert made == want
        assert made.view() == want
        assert made[-1:] == want[-1:]


@pytest.mark.parametrize(
    ("offset", "size", "kind"),
    [
        (LENGTH + 1, None, ValueError),
        (1 << 70, 0, ValueError),
        (-1, None, ValueError),
        (0, -1, ValueError),
        (1.0, None, TypeError),
        (0, "1", TypeError),
        (None, 1, TypeError),
    ],
)
def test_wrong_offset_and_size(world: World, offset: Any, size: Any, kind: Any) -> None:
    file = world.file(LENGTH)
    with pytest.raises(kind):
        world.manager().buffer(file.path, offset, size)


def test_an_empty_file(world: World) -> None:
    with world.manager().buffer(world.file(0).path) as buffer:
        assert len(buffer) == 0
        assert (buffer[:], buffer.view(), list(buffer.iter_views()), list(buffer)) == (b"", b"", [], [])
        assert [match.span() for match in buffer.finditer(b"")] == [(0, 0)]
        if PEP_688:
            assert zlib.crc32(buffer) == 0  # type: ignore[arg-type, unused-ignore]


@pytest.mark.parametrize("kind", ["str", "bytes", "Path", "relative", "descriptor"])
def test_any_name_of_a_file(kind: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(LENGTH)
    monkeypatch.chdir(file.path.parent)
    number = os.open(file.path, os.O_RDONLY)
    name: Any = {
        "str": str(file.path),
        "bytes": os.fsencode(file.path),
        "Path": file.path,
        "relative": file.name,
        "descriptor": number,
    }[kind]
    try:
        with world.manager(WINDOW).buffer(name) as buffer:
            monkeypatch.chdir("/")
            assert buffer == file.data
            assert repr(name if kind != "descriptor" else f"descriptor {name}").strip("'") in repr(buffer)
    finally:
        os.close(number)


def test_what_cannot_be_opened(tmp_path: Path, world: World) -> None:
    manager = world.manager()
    with pytest.raises(FileNotFoundError) as caught:
        manager.buffer(tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        manager.buffer(tmp_path)
    for wrong in (None, 1.5, ["a"]):
        with pytest.raises(TypeError, match="path_or_fd"):
            manager.buffer(wrong)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="regular"):
            manager.buffer(tmp_path / "pipe")


def test_closing(world: World) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    with manager.buffer(file.path) as buffer:
        assert not buffer.closed
        view = buffer.view(0, 9)
    for _ in range(2):
        assert buffer.closed
        assert view == file.data[:9]
        for use in (
            lambda: buffer[0],
            lambda: buffer.view(),
            lambda: buffer.find(b"a"),
            lambda: buffer.count(b"a"),
            lambda: buffer.unpack_from("B"),
            lambda: buffer.readinto(0, bytearray(9)),
        ):
            with pytest.raises(smmap.ClosedError):
                use()
        buffer.close()
    other = manager.buffer(file.path)
    manager.close()
    assert view == file.data[:9]
    with pytest.raises(smmap.ClosedError):
        other[0]
    with pytest.raises(smmap.ClosedError):
        manager.buffer(file.path)
    del view


def test_copies(world: World) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    for copied in (copy.copy, copy.deepcopy):
        buffer = manager.buffer(file.path, 5, 3 * WINDOW)
        other = copied(buffer)
        buffer.close()
        assert other == file.data[5 : 5 + 3 * WINDOW]
        assert other.view() == file.data[5 : 5 + 3 * WINDOW]
        other.close()
        assert copied(other).closed
    assert manager.stats().misses >= 1


def test_nothing_is_mapped_before_the_first_read(world: World) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    buffer = manager.buffer(file.path)
    assert len(buffer) == LENGTH
    assert manager.stats().mapped == manager.stats().cold_reads == 0
    assert buffer[5] == file.data[5]
    assert (manager.stats().mapped, manager.stats().cold_reads) == (0, 1)
    assert buffer.view(2 * WINDOW, 2 * WINDOW + 5) == file.data[2 * WINDOW : 2 * WINDOW + 5]
    assert (manager.stats().mapped, manager.stats().cold_reads) == (1, 1)


@pytest.mark.skipif(not hasattr(mmap, "MADV_RANDOM"), reason="no madvise")
@pytest.mark.parametrize("access", ["normal", "random", "sequential"])
def test_access_is_told_to_the_system(access: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    engine: Any = _engine.chosen
    if smmap.engine != "plain":
        pytest.skip("the system call is not Python's")

    class Map(engine.Region):
        __slots__ = ()

        def madvise(self, option: int, *rest: Any) -> None:
            told.append(option)
            super().madvise(option, *rest)

    monkeypatch.setattr(engine, "Region", Map)
    file = world.file(LENGTH)
    with world.manager(WINDOW).buffer(file.path, access=access) as buffer:
        assert buffer.view(0, 5) == file.data[:5]
    assert told == {"normal": [], "random": [mmap.MADV_RANDOM], "sequential": [mmap.MADV_SEQUENTIAL]}[access]


def test_wrong_access(world: World) -> None:
    with pytest.raises(ValueError, match="access"):
        world.manager().buffer(world.file(1).path, access="willneed")


# Needles of other libraries


class Both(bytearray):
    """Bytes-like, and a number, which are not the same."""

    number: Any = 98

    def __index__(self) -> int:
        if isinstance(self.number, Exception):
            raise self.number
        return int(self.number)


class Wide(Both):
    number = 256


class Broken(Both):
    number = KeyError("a number it is not")


DATA = b"zabc\0\0\0\0\0\0\0\1\5z"


def numpy_needles(np: Any) -> list[Any]:
    two = np.frombuffer(b"abc", "u1")
    arrays = [two[:2], two[:1], two[:0], np.zeros((0, 2), "u1"), np.array([[97, 98]], "u1"), np.array(b"ab")]
    arrays += [np.array([97]), np.array([0x6261], "<u2"), np.array([97.0]), np.array([True]), two[:2].view("S2")]
    arrays += [np.array(97), np.array(97, "u1"), np.array(1.5), two[::2], np.asfortranarray(np.ones((2, 2), "u1"))]
    arrays += [np.array([5], "M8[s]"), np.array(["ab"])]
    numbers = [np.uint8(5), np.uint8(97), np.int64(97), np.int8(-1), np.int16(300), np.bool_(True), np.float32(1)]
    return [*arrays, *numbers, np.bytes_(b"ab"), np.str_("ab"), np.array(["ab"], object)]


class NoNumber:
    """Has the name of a number's method, and no number."""

    def __index__(self) -> int:
        raise TypeError("no number")


def test_needles_of_any_kind(manager: Any, world: World) -> None:
    """What is bytes-like and a number, as numpy's numbers are, is the one to `find` and the other to `in`."""
    needles = [True, False, Both(b"abc"), Both(b"q"), Wide(b"ab"), Wide(b"q"), Broken(b"ab"), Broken(b"q")]
    needles += [memoryview(b"ab"), memoryview(b"a-b-")[::2], array.array("H", [0x6261]), NoNumber()]
    try:
        import numpy as np
    except ImportError:
        pass
    else:
        needles += numpy_needles(np)
    file = world.file(0, data=DATA)
    with manager.buffer(file.path) as buffer:
        for needle in needles:
            for name in ("find", "rfind", "index", "rindex", "count", "__contains__"):
                if name == "__contains__" and isinstance(needle, Both) and sys.implementation.name == "pypy":
                    continue  # there they are bytes to `in`, too
                for bounds in [()] if name == "__contains__" else [(), (2,), (0, -3), (3, 1)]:
                    agree(buffer, DATA, lambda it: getattr(it, name)(needle, *bounds))


# Filling what the user has


@pytest.mark.parametrize(
    "make", [bytearray, lambda size: memoryview(bytearray(size)), lambda size: mmap.mmap(-1, size)]
)
def test_readinto(manager: Any, world: World, make: Any) -> None:
    file = world.file(LENGTH)
    with manager.buffer(file.path, 3) as buffer:
        for _ in range(2):  # cold, then as far as windows have been mapped
            for start in (0, 1, WINDOW - 4, WINDOW - 3, LENGTH - 10, LENGTH - 3, LENGTH):
                for size in (1, 2, G, WINDOW + 1, LENGTH):
                    target = make(size)
                    count = buffer.readinto(start, target)
                    want = file.data[3:][start : start + size]
                    assert count == len(want)
                    assert bytes(target[:count]) == want
                    assert not any(target[count:])
            assert buffer.view(0, 1) == file.data[3:4]
        with pytest.raises(TypeError):
            buffer.readinto(0, b"read-only")
        with pytest.raises(TypeError):
            buffer.readinto(0, "text")
        with pytest.raises(ValueError, match="negative"):
            buffer.readinto(-1, bytearray(1))
        for start in (sys.maxsize, 1 << 63, 1 << 70):
            assert buffer.readinto(start, make(9)) == 0
            assert buffer.readinto(start, array.array("H", bytes(8))) == 0


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5), (4, 5), (1, 1, 7), ()], ids=str)
def test_readinto_of_any_shape(shape: Any, world: World) -> None:
    """As the built-in file's."""
    np = pytest.importorskip("numpy")
    file = world.file(LENGTH)
    with world.manager(WINDOW).buffer(file.path) as buffer, open(file.path, "rb", buffering=0) as oracle:
        for start in (0, 5, LENGTH - 3, LENGTH, LENGTH + 9, 1 << 40):
            ours, theirs = np.zeros(shape, "<u2"), np.zeros(shape, "<u2")
            oracle.seek(start)
            assert buffer.readinto(start, ours) == oracle.readinto(theirs)
            assert ours.tobytes() == theirs.tobytes()
        read_only = np.zeros(shape)
        read_only.flags.writeable = False
        for file_like in (oracle.readinto, lambda target: buffer.readinto(0, target)):
            with pytest.raises((TypeError, ValueError)):
                file_like(read_only)
    with smmap.open(file.path, manager=world.manager(WINDOW), buffering=0) as raw:
        ours = np.ones(shape, "u1")
        assert raw.readinto(ours) == ours.size
        assert ours.tobytes() == file.data[: ours.size]


def test_threads_share_a_buffer(world: World) -> None:
    """Every way to read at once, under limits that evict all the time."""
    file: File = world.file(LENGTH)
    manager = world.manager(
        WINDOW, 2 * WINDOW, 99 if LATE else 8
    )  # views that are dropped may live on for a while there
    wrong: list[Any] = []

    def work(number: int) -> None:
        for turn in range(60):
            start = (number * 7919 + turn * 104729) % LENGTH
            stop = min(start + WINDOW, LENGTH)
            want = file.data[start:stop]
            target = bytearray(len(want))
            buffer.readinto(start, target)
            found = next(buffer.finditer(re.escape(want[:9]), 99)).start() if turn % 20 == 0 else start
            with buffer.view(start, stop) as view:
                same = view == want
            if not (same and buffer[start:stop] == want == target and found == start):
                wrong.append((number, start))

    with manager.buffer(file.path) as buffer:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    manager._check()
