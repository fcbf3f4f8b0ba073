"""File objects of smmap against those of the built-in `open`, by hand and under the libraries that read from files."""

from __future__ import annotations

import array
import bz2
import copy
import csv
import ctypes
import errno
import gzip
import hashlib
import io
import itertools
import lzma
import mmap
import os
import pickle
import random
import shutil
import sqlite3
import sys
import tarfile
import threading
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import LATE, G, World, agree, descriptors, linux, maps, payload
from smmap._system import FREE_THREADED

as_io_refuses = pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="its io raises other errors than CPython's"
)
WINDOW = 2 * G
LENGTH = 9 * G + 123
LIMITS = {"roomy": (WINDOW, 0, sys.maxsize), "tight": (WINDOW, 2 * WINDOW, 2), "whole": (0, 0, sys.maxsize)}
BUFFERING = [0, -1, 2, 7, G, WINDOW + 1, 1 << 20]


@pytest.fixture(params=LIMITS, ids=str)
def manager(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(*LIMITS[request.param])


@pytest.fixture
def tight(world: World) -> Any:
    return world.manager(*LIMITS["tight"])


# As the built-in file object


@pytest.mark.parametrize("buffering", BUFFERING)
@pytest.mark.parametrize("size", [0, 1, WINDOW, LENGTH])
def test_any_reads_in_any_order(manager: Any, world: World, buffering: int, size: int) -> None:
    """The same calls on both answer alike, errors included."""
    file = world.file(size)
    chance = random.Random(buffering * 1000 + size)
    sizes = [0, 1, 2, 9, G - 1, G, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, LENGTH + 9, -1, None]
    places = [
        0,
        1,
        G,
        WINDOW - 1,
        WINDOW,
        size - 1,
        size,
        size + 1,
        size + WINDOW,
        -1,
        -2,
        -size,
        -size - 1,
        1 << 42,
        -(1 << 63),
        1 << 70,
    ]

    def into(file: Any, count: int) -> tuple[Any, bytes]:
        target = bytearray(count)
        return file.readinto(target), bytes(target)

    def seek(place: int, whence: int) -> Callable[[Any], Any]:
        return lambda file: (file.seek(place, whence), file.tell())

    as_large = io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering  # open() asks the file system
    with smmap.open(file.path, manager=manager, buffering=buffering) as ours, open(file.path, "rb", as_large) as theirs:
        assert ours.tell() == 0
        for _ in range(250):
            count = chance.choice(sizes)
            call: Callable[[Any], Any] = chance.choice(
                [
                    lambda file: file.read(count),
                    lambda file: file.read(count),
                    lambda file: into(file, count or 1),
                    lambda file: into(file, count or 1),
                    lambda file: file.readline(),
                    lambda file: file.readline(count),
                    lambda file: file.readlines(min(count or 9, 99)),
                    lambda file: file.tell(),
                    lambda file: file.read(),
                    lambda file: next(file, None),
                    seek(chance.choice(places), chance.choice([0, 0, 0, 1, 2, 2])),
                    seek(chance.randrange(size + 1), 0),
                    seek(chance.randrange(size + 1), 0),
                    seek(-chance.randrange(size + 1), 2),
                    lambda file: file.readall(),
                    lambda file: (file.read1(count if count is not None else -1) is None) and file.peek(1)[:1],
                ]
            )
            agree(ours, theirs, call)
            agree(ours, theirs, lambda file: file.tell())
    del call


def test_the_whole(manager: Any, world: World) -> None:
    file = world.file(LENGTH)
    for buffering in BUFFERING:
        with smmap.open(file.path, manager=manager, buffering=buffering) as ours:
            assert ours.read() == file.data
            assert ours.read() == b""
            ours.seek(WINDOW - 5)
            assert ours.read(-1) == file.data[WINDOW - 5 :]
            ours.seek(3)
            assert b"".join(ours) == file.data[3:]
            ours.seek(0)
            assert b"".join(iter(lambda: ours.read(1000), b"")) == file.data
    with smmap.open(file.path, manager=manager, buffering=0) as raw:
        assert raw.read(5) + raw.readall() == file.data
        assert raw.readall() == b""
        raw.seek(LENGTH + 9)
        assert raw.readall() == b""


@pytest.mark.parametrize("buffering", [0, -1])
def test_what_it_says_of_itself(world: World, tight: Any, buffering: int) -> None:
    file = world.file(LENGTH)
    with smmap.open(file.path, manager=tight, buffering=buffering) as ours, open(file.path, "rb", buffering) as theirs:
        for name in ("readable", "seekable", "writable", "isatty", "tell", "flush"):
            agree(ours, theirs, lambda it: getattr(it, name)())
        for name in ("name", "mode", "closed"):
            agree(ours, theirs, lambda it: getattr(it, name))
        assert isinstance(ours, io.RawIOBase if buffering == 0 else io.BufferedReader)
        assert isinstance(ours, io.IOBase)
        assert str(file.path) in repr(ours)
        for refused in (
            lambda it: it.write(b"a"),
            lambda it: it.truncate(),
            lambda it: it.truncate(3),
            lambda it: it.writelines([b"a"]),
            lambda it: it.seek(0, 7),
            lambda it: it.seek(0, -1),
            lambda it: it.seek(1.5),
            lambda it: it.seek("1"),
            lambda it: it.seek(),
            lambda it: it.read("1"),
            lambda it: it.read(1.5),
            lambda it: it.readinto(b"read-only"),
            lambda it: it.readinto("text"),
            lambda it: it.readinto(5),
        ):
            agree(ours, theirs, refused)
        with pytest.raises(OSError) as caught:
            ours.seek(-1)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(io.UnsupportedOperation, match=r"open\(path, 'rb'\).*smmap\.buffer\(path\)"):
            ours.fileno()
    for call in (
        lambda it: it.read(),
        lambda it: it.readinto(bytearray(1)),
        lambda it: it.readline(),
        lambda it: it.tell(),
        lambda it: it.seek(0),
        lambda it: it.readable(),
        lambda it: it.seekable(),
        lambda it: it.writable(),
        lambda it: it.isatty(),
        lambda it: it.fileno(),
        lambda it: it.write(b""),
        lambda it: it.closed,
        lambda it: it.close(),
        lambda it: it.__enter__(),
        lambda it: next(it),
    ):
        agree(ours, theirs, call)
    with pytest.raises(smmap.ClosedError):
        (ours if buffering == 0 else ours.raw).read()


@pytest.mark.parametrize("buffering", [-9, -1, 0, 1, 2, 100])
def test_buffering_is_as_for_open(world: World, tight: Any, buffering: int, recwarn: pytest.WarningsRecorder) -> None:
    file = world.file(LENGTH)
    with smmap.open(file.path, manager=tight, buffering=buffering) as ours, open(file.path, "rb", buffering) as theirs:
        assert isinstance(ours, io.BufferedReader) == isinstance(theirs, io.BufferedReader)
        assert [warning.category for warning in recwarn] == [RuntimeWarning] * 2 * (buffering == 1)
        assert recwarn.list[:1] == [] or recwarn[0].filename == __file__
        if buffering > 1:
            ours.read(1)
            assert ours.raw.tell() == buffering
        assert ours.read(9) == file.data[buffering > 1 :][:9]
    with pytest.raises(TypeError):
        smmap.open(file.path, manager=tight, buffering="1")  # type: ignore[call-overload, unused-ignore]


def test_other_targets(manager: Any, world: World) -> None:
    """What the built-in file object fills, ours fills."""
    file = world.file(LENGTH)
    targets: list[Callable[[], Any]] = [
        lambda: bytearray(WINDOW + 9),
        lambda: memoryview(bytearray(WINDOW + 9))[3:-3],
        lambda: array.array("H", bytes(2 * G + 2)),
        lambda: memoryview(bytearray(24)).cast("B", (2, 3, 4)),
        lambda: memoryview(bytearray(LENGTH * 8)).cast("Q"),
        lambda: bytearray(),
    ]
    with smmap.open(file.path, manager=manager, buffering=0) as ours, open(file.path, "rb", 0) as theirs:
        for place in (0, WINDOW - 3, LENGTH - 10):
            for make in targets:
                mine, other = make(), make()
                agree(ours, theirs, lambda it: it.seek(place))
                assert ours.readinto(mine) == theirs.readinto(other)
                assert mine == other
                assert ours.tell() == theirs.tell()


# Arguments, one by one, beside the `io.FileIO` of the same file


class Number:
    """A number that is no int."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Kind(int):
    """An int of its own kind."""


class Odd:
    def __index__(self) -> int:
        raise KeyError("odd")


class Wrong:
    def __index__(self) -> Any:
        return "1"


NUMBERS: dict[str, Any] = {
    **{str(number): number for number in (0, 1, -1, -2, -5, 7, LENGTH - 8, LENGTH - 7, LENGTH - 6, LENGTH, LENGTH + 1)},
    **{f"2**{bits}": 1 << bits for bits in (31, 32, 63, 64, 70)},
    **{f"-2**{bits}": -(1 << bits) for bits in (31, 32, 63, 70)},
    "-2**63-1": -(1 << 63) - 1,
    "None": None,
    "True": True,
    "False": False,
    "Number(5)": Number(5),
    "Number(-1)": Number(-1),
    "Number(-3)": Number(-3),
    "Number(2**70)": Number(1 << 70),
    "Kind(3)": Kind(3),
    "Odd()": Odd(),
    "Wrong()": Wrong(),
    "1.0": 1.0,
    "1.5": 1.5,
    "nan": float("nan"),
    "text": "1",
    "bytes": b"1",
    "list": [1],
    "complex": 1j,
}
WHENCES: dict[str, Any] = {
    **{
        str(whence): whence for whence in (0, 1, 2, 5, 99, -1, -2, 1 << 31, 1 << 32, (1 << 32) + 1, -(1 << 31), 1 << 70)
    },
    **{name: getattr(os, name) for name in ("SEEK_DATA", "SEEK_HOLE") if hasattr(os, name)},
    "Number(2)": Number(2),
    "Number(7)": Number(7),
    **{name: NUMBERS[name] for name in ("None", "True", "False", "Kind(3)", "Odd()", "Wrong()", "1.0", "text", "list")},
}


@pytest.fixture
def both(tight: Any, world: World) -> Iterator[tuple[Any, Any]]:
    """Our raw file object and the built-in one over the same file, both at 7."""
    file = world.file(LENGTH)
    with smmap.open(file.path, manager=tight, buffering=0) as ours, open(file.path, "rb", 0) as theirs:
        for opened in (ours, theirs):
            opened.seek(7)
        yield ours, theirs


def alike(ours: Any, theirs: Any, call: Callable[[Any], Any]) -> None:
    """They give the same or raise the same, with the same `errno`, and then are at the same place."""

    def outcome(opened: Any) -> Any:
        try:
            found = call(opened)
        except OSError as error:
            return type(error), error.errno
        except Exception as error:
            return ValueError if isinstance(error, ValueError) else type(error)
        return type(found), found, opened.tell()

    wanted = outcome(theirs)
    assert outcome(ours) == wanted
    if not theirs.closed:
        assert ours.tell() == theirs.tell()


@pytest.mark.parametrize("name", NUMBERS)
def test_read_takes_and_refuses_what_io_does(name: str, both: Any) -> None:
    size = NUMBERS[name]
    if isinstance(size, int) and size < 1 << 63:  # FileIO allocates what is asked for
        size = min(size, 1 << 32)
    alike(*both, lambda opened: opened.read(size))
    alike(*both, lambda opened: opened.read(3))


@pytest.mark.parametrize("name", NUMBERS)
def test_readline_takes_and_refuses_what_io_does(name: str, both: Any) -> None:
    alike(*both, lambda opened: opened.readline(NUMBERS[name]))


@as_io_refuses
@pytest.mark.parametrize("offset", [name for name in NUMBERS if name != "2**63"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_seek_takes_and_refuses_what_io_does(offset: str, both: Any) -> None:
    """With each `whence` that there is, and some that there are not."""
    for whence in WHENCES.values():
        alike(*both, lambda opened: opened.seek(NUMBERS[offset], whence))
        alike(*both, lambda opened: opened.read(3))
        alike(*both, lambda opened: opened.seek(7))


CALLS: dict[str, Callable[[Any], Any]] = {
    "read by name": lambda opened: opened.read(size=3),
    "read with two": lambda opened: opened.read(1, 2),
    "readall with one": lambda opened: opened.readall(3),
    "seek without": lambda opened: opened.seek(),
    "seek with three": lambda opened: opened.seek(1, 2, 3),
    "seek by name": lambda opened: opened.seek(offset=1),
    "whence by name": lambda opened: opened.seek(1, whence=1),
    "tell with one": lambda opened: opened.tell(1),
    "readinto without": lambda opened: opened.readinto(),
    "readinto of bytes": lambda opened: opened.readinto(b"abc"),
    "readinto of text": lambda opened: opened.readinto("abc"),
    "readinto of None": lambda opened: opened.readinto(None),
    "readinto of a number": lambda opened: opened.readinto(3),
    "readinto of a read-only view": lambda opened: opened.readinto(memoryview(bytearray(9)).toreadonly()),
    "readinto of every second byte": lambda opened: opened.readinto(memoryview(bytearray(9))[::2]),
    "readinto of bytes backwards": lambda opened: opened.readinto(memoryview(bytearray(9))[::-1]),
    "readinto of a list": lambda opened: opened.readinto([0, 0]),
    "readinto by name": lambda opened: opened.readinto(b=bytearray(3)),
    "seek to a hole before the start": lambda opened: opened.seek(-1, 4),
}


@as_io_refuses
@pytest.mark.parametrize("name", CALLS)
def test_call_is_refused_as_io_refuses_it(name: str, both: Any) -> None:
    alike(*both, CALLS[name])


@as_io_refuses
@pytest.mark.parametrize(
    "name",
    [
        *(
            name for name in CALLS if "readinto of" not in name
        ),  # all of them are refused, that it is closed comes first
        "read text",
        "read 2**70",
        "seek text",
        "whence text",
        "whence 2**70",
    ],
)
def test_call_on_a_closed_file_is_refused_as_io_refuses_it(name: str, both: Any) -> None:
    """Which complaint comes first, where there are two."""
    calls: dict[str, Callable[[Any], Any]] = {
        **CALLS,
        "read text": lambda opened: opened.read("1"),
        "read 2**70": lambda opened: opened.read(1 << 70),
        "seek text": lambda opened: opened.seek("1"),
        "whence text": lambda opened: opened.seek("1", "1"),
        "whence 2**70": lambda opened: opened.seek(1, 1 << 70),
    }
    for opened in both:
        opened.close()
    alike(*both, calls[name])


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="no SEEK_HOLE")
def test_seek_takes_a_file_for_one_without_holes(tight: Any, tmp_path: Path) -> None:
    """As a system may, which knows of no holes: also where there are some."""
    path = tmp_path / "sparse"
    with open(path, "wb") as out:
        out.truncate(9 * WINDOW)
        out.seek(4 * WINDOW)
        out.write(b"data")
    with smmap.open(path, manager=tight, buffering=0) as ours:
        assert ours.seek(5, os.SEEK_DATA) == ours.tell() == 5
        assert ours.seek(5, os.SEEK_HOLE) == ours.tell() == 9 * WINDOW
    with smmap.open(path, manager=tight) as buffered:
        assert buffered.seek(5, os.SEEK_DATA) == buffered.tell() == 5


# Targets of any format


def test_readinto_takes_any_writable_memory_of_the_standard_library(manager: Any, world: World) -> None:
    file = world.file(LENGTH)

    class Record(ctypes.BigEndianStructure):
        _fields_ = [("number", ctypes.c_uint32), ("text", ctypes.c_char * 5)]

    targets: list[Callable[[], Any]] = [
        lambda: (Record * 700)(),
        lambda: (ctypes.c_double * 99)(),
        lambda: (ctypes.c_uint16.__ctype_be__ * WINDOW)(),
        lambda: Record(),
        lambda: ctypes.create_string_buffer(WINDOW + 1),
        lambda: (Record * 0)(),
        lambda: array.array("d", bytes(8 * G)),
        lambda: memoryview((Record * 3)()),
        lambda: mmap.mmap(-1, G),
    ]
    for buffering in (0, 100, -1):
        with (
            smmap.open(file.path, manager=manager, buffering=buffering) as ours,
            open(file.path, "rb", buffering) as theirs,
        ):
            for place in (0, WINDOW - 3, LENGTH - 10, LENGTH, LENGTH + 5):
                for make in targets:
                    mine, other = make(), make()
                    assert ours.seek(place) == theirs.seek(place)
                    assert ours.readinto(mine) == theirs.readinto(other)
                    assert bytes(mine) == bytes(other)
                    assert ours.tell() == theirs.tell()


@pytest.mark.parametrize(
    "dtype",
    ["M8[ns]", "m8[s]", ">i4", ">f8", "<u2", "S5", "U3", "V7", "?", "c16", [("a", ">u2"), ("b", "M8[D]"), ("c", "V3")]],
    ids=str,
)
def test_readinto_takes_arrays_of_any_dtype(dtype: Any, manager: Any, world: World) -> None:
    np = pytest.importorskip("numpy")
    file = world.file(LENGTH)
    kind = np.dtype(dtype)
    with smmap.open(file.path, manager=manager, buffering=0) as ours, open(file.path, "rb", 0) as theirs:
        for count in (0, 1, 5, 3 * WINDOW // kind.itemsize, LENGTH):
            for place in (0, WINDOW - 3, LENGTH - 10):
                mine, other = np.zeros(count, kind), np.zeros(count, kind)
                assert ours.seek(place) == theirs.seek(place)
                assert ours.readinto(mine) == theirs.readinto(other)
                assert mine.tobytes() == other.tobytes()
                assert ours.tell() == theirs.tell()
        for refused in (np.zeros(9, kind)[::2], np.zeros((4, 4), kind)[:, :2], np.zeros((4, 4), kind).T[:2]):
            alike(ours, theirs, lambda opened: opened.readinto(refused))
        read_only = np.zeros(9, kind)
        read_only.flags.writeable = False
        alike(ours, theirs, lambda opened: opened.readinto(read_only))


def test_readinto_that_fails_leaves_the_position(world: World) -> None:
    """Whatever the target's format: the error is the read's own, and the file stays open."""
    file = world.file(LENGTH)
    manager = world.manager(WINDOW, WINDOW, 1)
    targets = [bytearray(9), (ctypes.c_uint16.__ctype_be__ * 9)()]
    with smmap.open(file.path, manager=manager, buffering=0) as ours:
        ours.seek(WINDOW - 5)
        os.truncate(file.path, 3)
        for target in targets:
            with pytest.raises(smmap.FileChangedError):
                ours.readinto(target)
            assert ours.tell() == WINDOW - 5
        manager.close()
        for target in targets:
            with pytest.raises(smmap.ClosedError):
                ours.readinto(target)
        assert not ours.closed


def test_names(world: World, tight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(LENGTH)
    monkeypatch.chdir(file.path.parent)
    number = os.open(file.path, os.O_RDONLY)
    try:
        for name in (str(file.path), os.fsencode(file.path), file.path, file.name, number):
            with smmap.open(name, manager=tight) as ours, open(name, "rb", closefd=name is not number) as theirs:
                assert ours.name == theirs.name
                assert type(ours.name) is type(theirs.name)
                assert ours.read(99) == theirs.read(99) == file.data[:99]
                ours.seek(0)
                theirs.seek(0)
        os.lseek(number, 0, os.SEEK_SET)
        with smmap.open(number, manager=tight) as ours:
            ours.read(99)
            assert os.lseek(number, 0, os.SEEK_CUR) == 0  # has a place of its own
    finally:
        os.close(number)


@pytest.mark.parametrize("kind", ["missing", "folder", "file/below"])
def test_what_cannot_be_opened(kind: str, world: World, tight: Any, tmp_path: Path) -> None:
    world.file(1, "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as theirs:
        open(tmp_path / kind, "rb")
    with pytest.raises(type(theirs.value)) as ours:
        smmap.open(tmp_path / kind, manager=tight)
    assert (ours.value.errno, ours.value.filename) == (theirs.value.errno, os.fspath(tmp_path / kind))


@linux
def test_nothing_is_held(world: World, tmp_path: Path) -> None:
    """Thousands of files are open, and nothing is, beyond the limit."""
    manager = world.manager(WINDOW, 0, 4)
    made = [world.file(G + number, f"{number}") for number in range(300)]
    files = [smmap.open(file.path, manager=manager) for file in made]
    for turn in range(2):
        for file, open_file in zip(made, files):
            open_file.seek(turn * 100)
            assert open_file.read(50) == file.data[turn * 100 :][:50]
            assert len(maps(tmp_path)) + len(descriptors(tmp_path)) <= 4
    for open_file in files:
        open_file.close()
    manager.collect()
    assert maps(tmp_path) == descriptors(tmp_path) == []


def test_dropped_without_closing(world: World) -> None:
    """A file object that nobody closed holds nothing back (and warns of nothing: warnings are errors here)."""
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    for buffering in (0, -1):
        smmap.open(file.path, manager=manager, buffering=buffering).read(9)


def test_the_file_changes(world: World, tmp_path: Path) -> None:
    file, other = world.file(LENGTH), world.file(LENGTH, "other")
    manager = world.manager(WINDOW, WINDOW, 1)
    with smmap.open(file.path, manager=manager, buffering=0) as ours:
        assert ours.read(9) == file.data[:9]
        os.replace(other.path, file.path)
        for place in range(0, LENGTH, G):
            ours.seek(place)
            try:
                assert ours.read(9) == file.data[place : place + 9]
            except smmap.FileChangedError:
                assert ours.tell() == place
    with smmap.open(file.path, manager=manager) as ours:
        assert ours.read() == other.data


def test_closed_manager(world: World) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW)
    with smmap.open(file.path, manager=manager, buffering=0) as ours:
        manager.close()
        with pytest.raises(smmap.ClosedError):
            ours.read(1)
        with pytest.raises(smmap.ClosedError):
            ours.readinto(bytearray(1))
    assert ours.closed


def test_detach(world: World, tight: Any) -> None:
    file = world.file(LENGTH)
    ours = smmap.open(file.path, manager=tight)
    assert ours.read(3) == file.data[:3]
    raw = ours.detach()
    raw.seek(5)
    assert raw.read(3) == file.data[5:8]
    raw.close()
    with pytest.raises(ValueError, match="detached"):
        pickle.dumps(ours)


def test_copies_have_a_place_of_their_own(world: World, tight: Any) -> None:
    file = world.file(LENGTH)
    before = smmap.default_manager().stats()
    for buffering in (0, -1):
        for copied in (copy.copy, copy.deepcopy):
            ours = smmap.open(file.path, manager=tight, buffering=buffering)
            ours.seek(WINDOW - 1)
            other = copied(ours)
            assert type(other) is type(ours)
            assert (ours.read(5), other.read(5)) == (file.data[WINDOW - 1 :][:5],) * 2
            ours.seek(0)
            assert other.tell() == WINDOW + 4
            ours.close()
            assert other.read() == file.data[WINDOW + 4 :]
            other.close()
            with pytest.raises(ValueError, match="closed"):
                copied(ours)
    assert smmap.default_manager().stats() == before  # a copy stays with its manager


# Under libraries. Each reads from ours what it reads from the built-in file object.


def same(path: Path, tight: Any, read: Callable[[Any], Any]) -> Any:
    with open(path, "rb") as theirs:
        want = read(theirs)
    for buffering in (-1, 100):
        with smmap.open(path, manager=tight, buffering=buffering) as ours:
            got = read(ours)
            assert type(got) is type(want)
            assert got == want
    return got


TEXT = "".join(f"{number}, caf\u00e9 \u4e16\u754c {number * 7919 % 1000}\r\n" for number in range(2000))


def test_text(world: World, tight: Any) -> None:
    file = world.file(0, data=TEXT.encode())

    def through(read: Callable[[io.TextIOWrapper], Any], **options: Any) -> Any:
        def wrapped(it: Any) -> Any:
            text = io.TextIOWrapper(it, "utf-8", **options)
            try:
                return read(text)
            finally:
                text.detach()

        return same(file.path, tight, wrapped)

    def about(text: io.TextIOWrapper) -> Any:
        text.readline()
        place = text.tell()
        first = text.read(5000)
        text.seek(place)
        assert text.read(5000) == first
        return place, first

    assert through(lambda text: text.read(), newline="") == TEXT
    assert "".join(through(lambda text: text.readlines(), newline="")) == TEXT
    assert len(through(lambda text: list(csv.reader(text)), newline="")) == 2000
    assert through(lambda text: [line[::-1] for line in text])[7].startswith("\n")
    through(about)


def test_copying(world: World, tight: Any, tmp_path: Path) -> None:
    file = world.file(LENGTH)

    def copied(it: Any) -> bytes:
        with open(tmp_path / "copy", "wb") as out:
            shutil.copyfileobj(it, out)
        return (tmp_path / "copy").read_bytes()

    assert same(file.path, tight, copied) == file.data
    if sys.version_info >= (3, 11):
        assert same(file.path, tight, lambda it: hashlib.file_digest(it, "sha256").digest())


@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=lambda module: module.__name__)
def test_compressed(module: Any, world: World, tight: Any) -> None:
    data = payload(5 * WINDOW) + b"a" * WINDOW
    file = world.file(0, data=module.compress(data))
    assert same(file.path, tight, lambda it: module.open(it).read()) == data

    def about(it: Any) -> bytes:
        with module.open(it) as unpacked:
            unpacked.seek(3 * WINDOW)
            piece = unpacked.read(99)
            unpacked.seek(5)
            return bytes(piece + unpacked.read(99))

    assert same(file.path, tight, about) == data[3 * WINDOW :][:99] + data[5:104]


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz"])
def test_tarfile(kind: str, world: World, tight: Any, tmp_path: Path) -> None:
    members = {f"folder/{number}": payload(number * 997, number) for number in range(25)}
    with tarfile.open(tmp_path / "tar", kind) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))

    def read(it: Any) -> dict[str, bytes]:
        with tarfile.open(fileobj=it) as tar:
            order = tar.getmembers()[::-1]
            return {info.name: tar.extractfile(info).read() for info in order}  # type: ignore[union-attr]

    assert same(tmp_path / "tar", tight, read) == members


def zipped(path: Path) -> dict[str, bytes]:
    members = {f"folder/{number}": payload(number * 499, number) for number in range(60)}
    with zipfile.ZipFile(path, "w") as out:
        for number, (name, data) in enumerate(members.items()):
            out.writestr(name, data, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return members


def test_zipfile(tight: Any, tmp_path: Path) -> None:
    members = zipped(tmp_path / "zip")

    def read(it: Any) -> dict[str, bytes]:
        assert zipfile.is_zipfile(it)
        archive = zipfile.ZipFile(it)
        assert archive.testzip() is None
        assert archive.fp is it
        return {name: archive.read(name) for name in archive.namelist()[::-1]}

    assert same(tmp_path / "zip", tight, read) == members
    with smmap.open(tmp_path / "zip", manager=tight) as ours, zipfile.ZipFile(ours) as archive:
        for name in ("folder/58", "folder/59"):
            with archive.open(name) as member:
                member.seek(9000)
                assert member.read(9) == members[name][9000:9009]


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(True, marks=pytest.mark.skipif(FREE_THREADED, reason="zipfile miscounts there, with any file")),
        False,
    ],
    ids=["one ZipFile", "one each"],
)
def test_zipfile_from_threads(shared: bool, world: World, tmp_path: Path) -> None:
    members = zipped(tmp_path / "zip")
    manager = world.manager(WINDOW, 2 * WINDOW, 99 if LATE else 2)
    right: list[int] = []

    def archive() -> Any:
        return zipfile.ZipFile(smmap.open(tmp_path / "zip", manager=manager))

    def work(number: int, one: Any) -> None:
        own = one or archive()
        names = list(members)
        random.Random(number).shuffle(names)
        for name in names:
            with own.open(name) as member:
                data = member.read(777) + member.read()
            assert data == members[name]
        right.append(number)
        if not one:
            own.fp.close()

    one = archive() if shared else None
    threads = [threading.Thread(target=work, args=(number, one)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(right) == list(range(8))
    if one:
        one.fp.close()


def test_pickle_load(world: World, tight: Any) -> None:
    things = [{"number": number, "data": payload(number * 37, number), "text": TEXT[:number]} for number in range(200)]
    data = b"".join(pickle.dumps(thing, protocol) for protocol in (0, 2, 4, 5) for thing in things)
    file = world.file(0, data=data)
    assert same(file.path, tight, lambda it: [pickle.load(it) for _ in range(4 * len(things))]) == things * 4


def test_wave(tight: Any, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound"), "wb") as out:
        out.setparams((2, 2, 44100, 0, "NONE", ""))
        out.writeframes(payload(4 * 5000))

    def read(it: Any) -> tuple[Any, bytes]:
        sound = wave.open(it)
        sound.setpos(4000)
        return tuple(sound.getparams()), sound.readframes(500)

    assert same(tmp_path / "sound", tight, read)[1] == payload(4 * 5000)[16000:18000]


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "deserialize"), reason="before Python 3.11")
def test_sqlite_deserialize(tight: Any, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "base")
    with connection:
        connection.execute("create table t (n integer, data blob)")
        connection.executemany("insert into t values (?, ?)", [(n, payload(n * 7, n)) for n in range(200)])
    connection.close()

    def read(it: Any) -> Any:
        memory = sqlite3.connect(":memory:")
        memory.deserialize(it.read())
        found = memory.execute("select * from t order by n").fetchall()
        memory.close()
        return found

    assert same(tmp_path / "base", tight, read) == [(n, payload(n * 7, n)) for n in range(200)]


def test_numpy_load(tight: Any, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    table = np.frombuffer(payload(8 * 6000), "<f8").reshape(60, 100)
    np.save(tmp_path / "a.npy", table)
    np.savez(tmp_path / "b.npz", one=table, two=table.T)
    np.savez_compressed(tmp_path / "c.npz", one=table, two=table.T)
    with smmap.open(tmp_path / "a.npy", manager=tight) as ours:
        assert np.load(ours).tobytes() == table.tobytes()
    for name in ("b.npz", "c.npz"):
        with smmap.open(tmp_path / name, manager=tight) as ours, np.load(ours) as arrays:
            assert arrays["two"].tobytes() == table.T.tobytes()
            assert arrays["one"].tobytes() == table.tobytes()
    with smmap.open(tmp_path / "a.npy", manager=tight) as ours, pytest.raises(io.UnsupportedOperation, match="smmap"):
        np.fromfile(ours)


def test_pandas(tight: Any, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"number": range(3000), "text": [f"caf\u00e9 {number * 7919 % 1000}" for number in range(3000)]}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_pickle(tmp_path / "a.pickle")
    frame.to_json(tmp_path / "a.json", orient="records", lines=True)
    readers: list[tuple[str, Callable[[Any], Any]]] = [
        ("a.csv", pd.read_csv),
        ("a.csv", lambda it: pd.read_csv(it, engine="python")),
        ("a.csv", lambda it: pd.concat(pd.read_csv(it, chunksize=170))),
        ("a.pickle", pd.read_pickle),
        ("a.json", lambda it: pd.read_json(it, lines=True)),
    ]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        pass
    else:
        frame.to_parquet(tmp_path / "a.parquet")
        frame.to_feather(tmp_path / "a.feather")
        readers += [
            ("a.csv", lambda it: pd.read_csv(it, engine="pyarrow")),
            ("a.parquet", pd.read_parquet),
            ("a.feather", pd.read_feather),
        ]
    for name, read in readers:
        with smmap.open(tmp_path / name, manager=tight) as ours:
            pd.testing.assert_frame_equal(read(ours), frame)


def test_pyarrow(world: World, tight: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    file = world.file(LENGTH)
    with smmap.open(file.path, manager=tight) as ours:
        wrapped = pa.PythonFile(ours, "r")
        assert wrapped.size() == LENGTH
        wrapped.seek(WINDOW - 5)
        assert wrapped.read(99) == file.data[WINDOW - 5 :][:99]
        assert wrapped.read_at(10, WINDOW) == file.data[WINDOW : WINDOW + 10]


def test_h5py(tight: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    np = pytest.importorskip("numpy")
    table = np.frombuffer(payload(4 * 40000), "<u4").reshape(200, 200)
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["plain"] = table
        out.create_dataset("chunks", data=table, chunks=(16, 16), compression="gzip")
        out.attrs["of"] = "these"
    with smmap.open(tmp_path / "a.h5", manager=tight) as ours, h5py.File(ours, "r") as tables:
        assert tables.attrs["of"] == "these"
        for name in ("plain", "chunks"):
            assert np.array_equal(tables[name][:], table)
            assert np.array_equal(tables[name][37:170:3, 5:9], table[37:170:3, 5:9])
    with smmap.open(tmp_path / "a.h5", manager=tight, buffering=0) as ours, h5py.File(ours, "r") as tables:
        assert np.array_equal(tables["chunks"][:], table)


def test_tifffile(tight: Any, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    np = pytest.importorskip("numpy")
    pages = np.frombuffer(payload(2 * 3 * 120 * 150), "<u2").reshape(3, 120, 150)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "tiles.tif", pages, photometric="minisblack", tile=(32, 32))
    for name in ("a.tif", "tiles.tif"):
        with smmap.open(tmp_path / name, manager=tight) as ours, tifffile.TiffFile(ours) as tiff:
            assert np.array_equal(tiff.asarray(), pages)
            assert np.array_equal(tiff.pages[2].asarray(), pages[2])
        with smmap.open(tmp_path / name, manager=tight) as ours:
            assert np.array_equal(tifffile.imread(ours), pages)


def test_pillow(tight: Any, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.frombytes("RGB", (150, 120), payload(3 * 150 * 120))
    for kind in ("PNG", "TIFF", "BMP", "GIF", "PPM"):
        image.save(tmp_path / kind, kind)
        with image_module.open(tmp_path / kind) as theirs:
            want = theirs.convert("RGB").tobytes()
        with smmap.open(tmp_path / kind, manager=tight) as ours, image_module.open(ours) as opened:
            assert opened.format == kind
            assert opened.convert("RGB").tobytes() == want
        assert kind == "GIF" or want == image.tobytes()


# Modes


MODES = ["".join(mode) for size in range(5) for mode in itertools.permutations("rwaxbt+U", size)]
WAYS: dict[str, Callable[[Any], Any]] = {"smmap": lambda manager: smmap, "manager": lambda manager: manager}


@pytest.fixture(params=WAYS, ids=str)
def opener(request: pytest.FixtureRequest, tight: Any) -> Any:
    """What has an `open`: the package, and a manager."""
    return WAYS[request.param](tight)


@pytest.mark.filterwarnings("ignore:'U' mode is deprecated:DeprecationWarning")
def test_modes_are_those_of_open_that_read_bytes(opener: Any, world: World, tmp_path: Path) -> None:
    """Every mode of up to four letters: what the built-in refuses is refused, what would write or read text too."""
    file = world.file(LENGTH)
    kinds = set()
    for mode in [*MODES, "rr", "rbb", "rB", " rb"]:
        (tmp_path / "copy").write_bytes(b"abc")
        if "x" in mode:
            (tmp_path / "copy").unlink()
        try:
            with open(tmp_path / "copy", mode) as theirs:
                kind = type(theirs)
        except ValueError:
            kind = ValueError
        if kind is io.BufferedReader and "U" not in mode:
            with opener.open(file.path, mode) as ours:
                assert ours.read(9) == file.data[:9]
                assert isinstance(ours, kind)
        else:
            with pytest.raises(ValueError) as caught:
                opener.open(file.path, mode)
            writes = kind is not ValueError and set(mode) & set("wax+")
            assert (type(caught.value) is io.UnsupportedOperation) == bool(writes), mode
        kinds.add(kind)
    assert len(kinds) == 5
    assert file.path.read_bytes() == file.data


def test_text_mode_is_refused_with_the_line_that_reads_text(opener: Any, world: World, tmp_path: Path) -> None:
    path = str(world.file(0, data="caf\u00e9\n".encode() * 9).path)
    for mode in ("r", "rt", "tr"):
        with pytest.raises(ValueError, match="is for text") as caught:
            opener.open(path, mode)
        line = str(caught.value).partition("write ")[2]
        with eval(line, {"io": io, "smmap": smmap, "manager": opener}) as text:
            assert text.read() == "caf\u00e9\n" * 9


def test_mode_that_is_no_text(opener: Any, world: World) -> None:
    file = world.file(9)
    for mode in (None, 3, b"rb"):
        with pytest.raises(TypeError, match="mode must be str"):
            opener.open(file.path, mode)


def test_mode_that_writes_opens_nothing(opener: Any, tmp_path: Path) -> None:
    for mode in ("wb", "ab", "xb", "r+b", "w"):
        with pytest.raises(io.UnsupportedOperation, match=r"smmap only reads: use the built-in open\("):
            opener.open(tmp_path / "not there", mode)
    assert list(tmp_path.iterdir()) == []


def test_open_takes_what_open_takes_by_place(opener: Any, world: World) -> None:
    file = world.file(LENGTH)
    with opener.open(file.path, "rb", 0) as raw, opener.open(file.path, "rb", 7) as small:
        assert isinstance(raw, io.RawIOBase)
        assert raw.read(9) == file.data[:9]
        small.read(1)
        assert small.raw.tell() == 7
    with opener.open(file.path, mode="br", buffering=0) as raw:
        assert isinstance(raw, io.RawIOBase)


def test_manager_opens_on_itself(world: World, recwarn: pytest.WarningsRecorder) -> None:
    file = world.file(LENGTH)
    manager = world.manager(WINDOW, 2 * WINDOW, 2)
    with manager.open(file.path) as ours:
        assert ours.read() == file.data
    assert manager.stats().misses + manager.stats().cold_reads > 0
    manager.open(file.path, buffering=1).close()
    assert [(warning.category, warning.filename) for warning in recwarn] == [(RuntimeWarning, __file__)]
    manager.close()
    with pytest.raises(smmap.ClosedError):
        manager.open(file.path)
