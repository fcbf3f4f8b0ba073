"""What travels to workers: small, as a name and what must not have changed; opened there, at the first read."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import pickle
import pickletools
import sys
import threading
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import LINUX, G, descriptors, maps, payload
from smmap import _buffer, _default, _engine, _reader

try:
    import numpy as np

    import smmap.numpy
except ImportError:  # no wheel for this interpreter
    np = None  # type: ignore[assignment]

PYPY = sys.implementation.name == "pypy"
WINDOW = 2 * G
LENGTH = 9 * G + 124
TIMES = 1_700_000_000_123_456_789


class Thing:
    """Something over a file: how it is made, how all of it is read, and what it is to give."""

    def __init__(self, make: Callable[[Any], Any], read: Callable[[Any], bytes], part: slice) -> None:
        self.make = make
        self.read = read
        self.part = part

    def arrives_as(self, original: Any) -> type:
        """Arrays cannot be there without their memory, so they arrive as what will be one."""
        return smmap.numpy.LazyArray if np is not None and isinstance(original, np.ndarray) else type(original)


def bytes_of(thing: Any) -> bytes:
    return bytes(thing[:])


def rest_of(file: Any) -> bytes:
    data: bytes = file.read()
    return data


def elements_of(array: Any) -> bytes:
    data: bytes = array[:].tobytes()
    return data


def at_5(file: Any) -> Any:
    file.seek(5)
    return file


THINGS = {
    "buffer": Thing(smmap.buffer, bytes_of, slice(None)),
    "part of a file": Thing(lambda path: smmap.buffer(path, G + 1, WINDOW), bytes_of, slice(G + 1, G + 1 + WINDOW)),
    "buffer by a cursor": Thing(
        lambda path: smmap.SlidingWindowMapBuffer(smmap.default_manager().make_cursor(path), 7),
        bytes_of,
        slice(7, None),
    ),
    "file": Thing(smmap.open, rest_of, slice(None)),
    "file at 5": Thing(lambda path: at_5(smmap.open(path)), rest_of, slice(5, None)),
    "small file buffer": Thing(lambda path: at_5(smmap.open(path, buffering=3)), rest_of, slice(5, None)),
    "raw file at 5": Thing(lambda path: at_5(smmap.open(path, buffering=0)), rest_of, slice(5, None)),
}
if np is not None:
    THINGS["shards"] = Thing(lambda path: smmap.numpy.Shards([path], "<u2", offset=4), elements_of, slice(4, None))
    THINGS["npy shards"] = Thing(lambda path: smmap.numpy.Shards([path]), elements_of, slice(128, None))
    if not PYPY:
        THINGS["array"] = Thing(smmap.numpy.load, elements_of, slice(128, None))
        THINGS["raw array"] = Thing(lambda path: smmap.numpy.memmap(path, "<u2", "r", 4), elements_of, slice(4, None))
        THINGS["part of an array"] = Thing(
            lambda path: smmap.numpy.load(path)[100:1000], elements_of, slice(128 + 200, 128 + 2000)
        )

things = pytest.mark.parametrize("name", THINGS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that can be read as bytes and as a `.npy` file."""
    path = tmp_path / "a"
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({(LENGTH - 128) // 2},), }}".ljust(117) + "\n"
    head = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()
    path.write_bytes(head + payload(LENGTH - len(head)))
    os.utime(path, ns=(TIMES, TIMES))
    assert len(head) == 128
    return path


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    smmap.default_manager().collect()


@things
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_small_and_the_same(name: str, protocol: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = THINGS[name]
    want = file.read_bytes()[thing.part]
    monkeypatch.chdir(file.parent)
    original = thing.make(file.name)
    data = pickle.dumps(original, protocol)
    status = os.stat(file)
    if protocol >= 2:
        assert len(data) < 300 - 30 + len(str(file))
    assert not {status.st_ino, status.st_dev} & {number for _, number, _ in pickletools.genops(data)}
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert type(again) is thing.arrives_as(original)
    third = pickle.loads(pickle.dumps(again, protocol))  # on it goes, without being opened
    assert thing.read(again) == thing.read(third) == thing.read(original) == want
    if hasattr(again, "tell"):
        assert again.tell() == third.tell() == len(want) + (thing.part.start or 0)
        assert again.name == str(file)
    if hasattr(again, "close"):
        for each in (original, again, third):
            each.close()


def touches(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """From now on: what is looked at or opened, (call, path), at or below a folder."""
    found: list[tuple[str, str]] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(where: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(where, int) and os.fsdecode(where).startswith(str(folder)):
                found.append((name, os.fsdecode(where)))
            return original(where, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("stat", "lstat", "open"):
        watch(os, name)
    for name in ("unchanged", "open_file"):
        watch(_engine.chosen, name)
    return found


@things
def test_nothing_is_opened_before_the_first_read(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = THINGS[name]
    data = pickle.dumps(thing.make(file))
    want = file.read_bytes()[thing.part]
    smmap.default_manager().collect()
    before = (descriptors(), maps(file.parent)) if LINUX else None
    calls = touches(monkeypatch, file)
    monkeypatch.setattr(_default, "_manager", None)
    again = pickle.loads(data)
    again = copy.copy(pickle.loads(pickle.dumps(again)))
    assert repr(again)
    if hasattr(again, "seek"):
        assert again.seek(0, 2) == LENGTH
        assert again.seek(9) == again.tell() == 9
        again.seek(thing.part.start or 0)
    else:
        assert len(again)
    assert calls == []
    assert _default._manager is None
    assert before is None or (descriptors(), maps(file.parent)) == before
    assert thing.read(again) == want
    assert calls[0] == ("stat", str(file))
    assert _default._manager is not None
    if hasattr(again, "close"):
        again.close()
    del again
    smmap.default_manager().collect()


def shorter(file: Path) -> None:
    os.truncate(file, LENGTH - 2)


def longer(file: Path) -> None:
    with open(file, "ab") as out:
        out.write(b"ab")


def touched(file: Path) -> None:
    os.utime(file, ns=(TIMES, TIMES + 1))


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(payload(LENGTH, "other"))
    os.replace(other, file)


def deleted(file: Path) -> None:
    file.unlink()


@things
@pytest.mark.parametrize("change", [shorter, longer, touched, replaced, deleted])
def test_changed_in_between(name: str, change: Callable[[Path], None], file: Path) -> None:
    thing = THINGS[name]
    data = pickle.dumps(thing.make(file))
    change(file)
    if change in (shorter, longer):
        os.utime(file, ns=(TIMES, TIMES))  # the size alone tells
    kind = FileNotFoundError if change is deleted else smmap.FileChangedError
    again = pickle.loads(data)
    for _ in range(2):  # and it stays so
        with pytest.raises(kind) as caught:
            thing.read(again)
        assert caught.value.filename == str(file)
        told = {shorter: "bytes now", longer: "bytes now", touched: "written to", replaced: "another file"}
        assert told.get(change, "") in str(caught.value)
    assert thing.read is not rest_of or again.tell() == (thing.part.start or 0)


def test_threads_open_it_once_or_all_fail(file: Path) -> None:
    """The first reads of many threads at once, also of a file that has changed."""
    sys.setswitchinterval(1e-6)
    try:
        for changed in (False, True):
            data = pickle.dumps(smmap.buffer(file))
            want = file.read_bytes()
            if changed:
                longer(file)
                os.utime(file, ns=(TIMES, TIMES))
            for _ in range(20):
                found: list[Any] = []
                buffer = pickle.loads(data)
                gate = threading.Barrier(6)

                def read(start: int) -> None:
                    gate.wait()
                    try:
                        found.append(buffer[start:] == want[start:])
                    except smmap.FileChangedError:
                        found.append("changed")

                threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert found == (["changed"] if changed else [True]) * 6
    finally:
        sys.setswitchinterval(0.005)


# What cannot travel, and what must not


def test_descriptors_do_not_travel(file: Path) -> None:
    number = os.open(file, os.O_RDONLY)
    try:
        with smmap.buffer(number) as buffer, pytest.raises(TypeError, match="descriptor"):
            pickle.dumps(buffer)
        for buffering in (0, -1):
            with smmap.open(number, buffering=buffering) as opened, pytest.raises(TypeError, match="descriptor"):
                pickle.dumps(opened)
    finally:
        os.close(number)


@pytest.mark.parametrize("name", ["buffer", "file", "raw file at 5"])
def test_closed_things_do_not_travel(name: str, file: Path) -> None:
    thing = THINGS[name].make(file)
    thing.close()
    with pytest.raises(ValueError, match="closed"):
        pickle.dumps(thing)


@pytest.mark.parametrize(
    "state",
    [
        (0, 0, 5, 9, 0, "normal"),
        (True, 0, 5, 9, 0, "normal"),
        (None, 0, 5, 9, 0, "normal"),
        (["a"], 0, 5, 9, 0, "normal"),
        ("a", -1, 5, 9, 0, "normal"),
        ("a", 0, -5, 9, 0, "normal"),
        ("a", 5, 5, 9, 0, "normal"),
        ("a", 0, 10, 9, 0, "normal"),
        ("a", "0", 5, 9, 0, "normal"),
        ("a", 0, 5, None, 0, "normal"),
        ("a", 0, 5, 9, "now", "normal"),
        ("a", 0, 5, 9, 0, "willneed"),
    ],
)
def test_crafted(state: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor of the process's, no place outside the file."""
    monkeypatch.chdir(file.parent)
    with pytest.raises((TypeError, ValueError)):
        _buffer._unpickled(smmap.SlidingWindowMapBuffer, *state)


def test_crafted_reads_only_what_it_names(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = touches(monkeypatch, file.parent)
    crafted = pickle.dumps(smmap.buffer(file)).replace(LENGTH.to_bytes(2, "little"), (LENGTH + 9).to_bytes(2, "little"))
    opened.clear()
    again = pickle.loads(crafted)
    assert len(again) == LENGTH + 9
    assert opened == []
    with pytest.raises(smmap.FileChangedError):
        again[:]
    assert {path for _, path in opened} == {str(file)}
    missing = _buffer._unpickled(smmap.SlidingWindowMapBuffer, str(file) + "-missing", 0, 5, 9, 0, "normal")
    for use in (
        lambda: missing[0],
        lambda: missing.view(),
        lambda: missing.find(b"a"),
        lambda: missing.unpack_from("B"),
    ):
        with pytest.raises(FileNotFoundError):
            use()
    reader = _reader._reopened(missing, 3, 0)
    with pytest.raises(FileNotFoundError):
        reader.read()
    assert reader.tell() == 3


def test_access_travels(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = pickle.loads(pickle.dumps(smmap.buffer(file, access="random")))
    told: list[str] = []
    map_window = _engine.chosen.map_window
    monkeypatch.setattr(_engine.chosen, "map_window", lambda *args: (told.append(args[-1]), map_window(*args))[1])
    smmap.default_manager().collect()
    assert again.view(0, 1) == b"\x93"
    assert told == ["random"]


def test_an_unopened_buffer_is_a_buffer(file: Path) -> None:
    """Every way to start with it opens the file."""
    want = file.read_bytes()
    data = pickle.dumps(smmap.buffer(file, 3))
    uses: list[tuple[Callable[[Any], Any], Callable[[bytes], Any]]] = [
        (lambda it: it[5], lambda it: it[5]),
        (lambda it: it[-1:], lambda it: it[-1:]),
        (lambda it: it[::-999], lambda it: it[::-999]),
        (lambda it: it.view(9, 99).tobytes(), lambda it: it[9:99]),
        (lambda it: [bytes(view) for view in it.iter_views(9, 99, 50)], lambda it: [it[9:59], it[59:99]]),
        (lambda it: it == want[3:], lambda it: True),
        (lambda it: want[99:105] in it, lambda it: True),
        (lambda it: it.rfind(b"\1"), lambda it: it.rfind(b"\1")),
        (lambda it: it.count(b"\1"), lambda it: it.count(b"\1")),
        (lambda it: list(it), lambda it: list(it)),
        (lambda it: bytes(reversed(it)), lambda it: it[::-1]),
        (
            lambda it: [match.start() for match in it.finditer(rb"\x01")],
            lambda it: [at for at, byte in enumerate(it) if byte == 1],
        ),
        (lambda it: it.unpack_from("<H", 1), lambda it: (int.from_bytes(it[1:3], "little"),)),
        (lambda it: it.readinto(0, bytearray(5)), lambda it: 5),
        (lambda it: bytes(it), lambda it: it),
        (lambda it: it.cursor().file_size(), lambda it: LENGTH),
        (lambda it: it.begin_access(offset=7) and it[:5], lambda it: want[7:12]),
    ]
    for ours, theirs in uses:
        again = pickle.loads(data)
        assert not again.closed
        assert len(again) == LENGTH - 3
        assert ours(again) == theirs(want[3:])
        again.close()
        assert again.closed
    again = pickle.loads(data)
    again.close()
    with pytest.raises(smmap.ClosedError):
        again[0]


# Real workers


def to_root() -> None:
    os.chdir("/")


def in_worker(thing: Any, read: Callable[[Any], bytes]) -> tuple[int, str, int, int, Any]:
    """What a worker finds."""
    size = len(pickle.dumps(thing))
    stats = smmap.default_manager().stats()
    found = hashlib.sha256(read(thing)).hexdigest()
    return os.getpid(), found, size, stats.max_open_handles, type(thing).__name__


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers that start afresh, with limits of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMMAP_MAX_HANDLES", "3")
        patch.setenv("SMMAP_WINDOW_SIZE", str(WINDOW))
        with multiprocessing.get_context("spawn").Pool(2, to_root) as made:
            yield made
            made.close()
            made.join()


def test_in_workers(pool: Pool, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    made = {name: thing.make(file.name) for name, thing in THINGS.items()}
    jobs = {name: pool.apply_async(in_worker, (made[name], thing.read)) for name, thing in THINGS.items()}
    for name, job in jobs.items():
        pid, found, size, handles, kind = job.get(60)
        assert pid != os.getpid()
        assert found == hashlib.sha256(file.read_bytes()[THINGS[name].part]).hexdigest(), name
        assert size < 300 - 30 + len(str(file))
        assert handles == 3
        assert kind == THINGS[name].arrives_as(made[name]).__name__
    for thing in made.values():
        if hasattr(thing, "close"):
            thing.close()


def test_in_workers_after_a_change(pool: Pool, file: Path) -> None:
    """The error comes back whole."""
    made = smmap.buffer(file)
    touched(file)
    with pytest.raises(smmap.FileChangedError) as caught:
        pool.apply(in_worker, (made, bytes_of))
    assert caught.value.filename == str(file)
    assert "changed" in str(caught.value)
