"""How cost grows, counted in calls, maps and bytes, never in time: what is promised to be constant or linear is so."""

from __future__ import annotations

import gc
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap

from ._tools import LINUX, PYPY, G, World, linux, payload, reclaim, run_python

W = 2 * G
posix = pytest.mark.skipif(os.name != "posix", reason="patches calls that only POSIX has")


# Names

LOOKS = ("stat", "lstat", "readlink", "getcwd")


class Looks:
    """The names that the system is asked about."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        for call in LOOKS:
            patch.setattr(os, call, self._counting(getattr(os, call)))

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.names.append(os.fsdecode(args[0]) if args else "")
            return real(*args, **kwargs)

        return counting


def looks_of_release(manager: Any, name: Path) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        looks = Looks(patch)
        manager.release(name)
        return looks.names


@posix
@pytest.mark.parametrize("where", ["elsewhere", "below"])
def test_release_asks_the_system_about_its_own_name_only(where: str, world: World, tmp_path: Path) -> None:
    """Never about the names of known files: one of them might lie on a mount that is dead, and hang everyone."""
    target = world.file(W, "target/one").path if where == "elsewhere" else tmp_path / "known"
    manager = world.manager(W)
    counts = []
    for count in (1, 60):
        files = [world.file(9, f"known/{number}/data") for number in range(count)]
        cursors = [manager.make_cursor(file.path).use_region(0, 9) for file in files]
        asked = looks_of_release(manager, target)
        allowed = {str(target), *map(str, target.parents)}
        assert asked
        assert set(asked) <= allowed, sorted(set(asked) - allowed)
        counts.append(len(asked))
        for cursor in cursors:
            cursor.close()
    assert counts[0] == counts[1]


def names_kept(manager: Any, folder: Path) -> int:
    """How many names of files below a folder can be reached from a manager."""
    seen: set[int] = set()
    todo: list[Any] = [manager]
    found = 0
    opaque = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, opaque):
            continue
        seen.add(id(thing))
        found += isinstance(thing, (str, bytes)) and str(folder) in os.fsdecode(thing)
        todo += gc.get_referents(thing)
    return found


@posix
@pytest.mark.parametrize("how", ["renamed", "linked", "symlinked", "below a renamed folder"])
def test_remembers_few_names_of_a_living_file(how: str, world: World, tmp_path: Path) -> None:
    """Found by ever new names while a cursor uses it: memory does not grow with them."""
    file = world.file(W, "folder/data")
    manager = world.manager(W)
    keeper = manager.make_cursor(file.path).use_region(0, 9)
    name, folder, counts = str(file.path), str(file.path.parent), []
    for number in range(400):
        new = str(tmp_path / f"name{number}")
        if how == "below a renamed folder":
            os.rename(folder, new)
            name, folder = os.path.join(new, "data"), new
        else:
            change: Callable[[str, str], None] = {"renamed": os.rename, "linked": os.link}.get(how, os.symlink)
            change(name, new)
            name = name if how == "symlinked" else new
        with manager.make_cursor(new if how == "symlinked" else name) as cursor:
            assert cursor.use_region(0, 9).buffer() == file.data[:9]
            if how in ("symlinked", "below a renamed folder"):  # which changes nothing about the file
                assert cursor.region() is keeper.region()
        del cursor
        if number in (99, 399):
            reclaim()
            manager.stats()  # takes note of what died
            counts.append(names_kept(manager, tmp_path))
    assert counts[1] <= 50
    assert counts[0] == counts[1] or (PYPY and counts[1] < counts[0] + 9)  # a few dead ones may still be reached there
    keeper.close()
    assert manager.release(new if how == "symlinked" else name) == 1  # it is found by the name that it had last


@posix
def test_forgotten_names_of_a_living_file_lead_to_it_again(world: World, tmp_path: Path) -> None:
    file = world.file(W)
    manager = world.manager(W)
    keeper = manager.make_cursor(file.path).use_region(0, 9)
    names = [tmp_path / f"name{number}" for number in range(30)]
    for name in names:
        os.symlink(file.path, name)
    for name in [file.path, *names, file.path, *reversed(names)]:
        with manager.make_cursor(name) as cursor:
            assert cursor.use_region(0, 9).region() is keeper.region()
            assert cursor.path() is name
    keeper.close()


def test_file_that_is_no_longer_at_its_path_is_released_by_the_last_eight_names_that_it_was_opened_by(
    world: World, tmp_path: Path
) -> None:
    file = world.file(W)
    manager = world.manager(W)
    names = [tmp_path / f"name{number}" for number in range(20)]
    for name in names:
        os.symlink(file.path, name)
        with manager.make_cursor(name) as cursor:
            assert cursor.use_region(0, 9).buffer() == file.data[:9]
    away = tmp_path / "away"
    os.rename(file.path, away)  # so that no name leads to it
    assert [manager.release(name) for name in (file.path, *names[:12])] == [0] * 13
    assert manager.stats().idle == 1
    assert manager.release(names[12]) == 1
    reclaim()
    manager.collect()
    assert manager.stats().mapped == 0


# Windows


@contextmanager
def counting_steps() -> Iterator[list[int]]:
    """Count the lines that are run in here."""
    steps = [0]

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        steps[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


@pytest.mark.skipif(PYPY, reason="lines of compiled loops are not counted")
@pytest.mark.parametrize("backing", ["mmap", "read"])
@pytest.mark.parametrize("change", ["append", "write", "replace"])
def test_cursor_of_a_changed_file_costs_the_same_however_much_of_it_is_mapped(
    backing: str, change: str, world: World
) -> None:
    steps, evictions = [], []
    for windows in (200, 1600):
        file = world.file(windows * W, f"file{windows}")
        manager = world.manager(W, 0, 1 << 20, backing=backing)
        with manager.make_cursor(file.path) as cursor:
            for number in range(windows):
                cursor.use_region(number * W, 1)
        assert manager.stats().idle == windows
        if change == "replace":
            other = world.file(windows * W, f"other{windows}")
            os.replace(other.path, file.path)
        else:
            with open(file.path, "ab" if change == "append" else "r+b") as out:
                out.write(b"more")
        before = manager.stats().evictions
        with counting_steps() as counted:
            new = manager.make_cursor(file.path)
        steps.append(counted[0])
        evictions.append(manager.stats().evictions - before)
        assert new.file_size() == os.path.getsize(file.path)
        new.close()
        manager.collect()
    assert steps[1] <= 1.5 * steps[0], steps
    assert evictions[1] <= evictions[0] <= 100


def sparse(folder: Path, size: int, name: str = "sparse") -> Path:
    path = folder / name
    with open(path, "wb") as file:
        try:
            file.truncate(size)
        except OSError as error:
            pytest.skip(f"no file of {size} bytes can be made here: {error}")
    return path


@pytest.mark.parametrize("step", [W, 2 * W, -2 * W, W + 1, W // 3])
def test_slice_with_a_wide_step_maps_no_window_that_it_reads_once(step: int, world: World, tmp_path: Path) -> None:
    """A byte here and there pays rent, as one by one; what is hot stays mapped."""
    path, hot = sparse(tmp_path, 120 * W), world.file(W, "hot")
    manager = world.manager(W, 8 * W)
    kept = manager.make_cursor(hot.path).use_region(0, 9)
    region = kept.region()
    kept.unuse_region()
    buffer = manager.buffer(path)
    before = manager.stats()
    assert buffer[::step] == bytes(len(range(0, 120 * W, abs(step))))
    after = manager.stats()
    assert (after.misses - before.misses, after.evictions - before.evictions) == (0, 0)
    assert kept.use_region(0, 9).region() is region
    assert kept.buffer() == hot.data[:9]
    kept.close()
    buffer.close()


def test_slice_with_a_step_maps_a_window_that_it_reads_often(world: World) -> None:
    """Rent falls due: as many windows as byte by byte."""
    file = world.file(10 * W + 5)
    for step in (W // 16, W // 64, 3):
        maps = []
        for read in (
            lambda buffer: buffer[::step],
            lambda buffer: bytes(buffer[at] for at in range(0, len(buffer), step)),
        ):
            manager = world.manager(W)
            buffer = manager.buffer(file.path)
            assert read(buffer) == file.data[::step]
            maps.append(manager.stats().misses)
            buffer.close()
        assert maps[0] <= maps[1]


class Reads:
    """The bytes that are read by `os.pread`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = os.pread

        def counting(number: int, size: int, offset: int) -> bytes:
            data = real(number, size, offset)
            self.bytes += len(data)
            return data

        patch.setattr(os, "pread", counting)


@pytest.mark.skipif(not hasattr(os, "pread"), reason="counts what is read by pread")
@pytest.mark.parametrize("search", ["find", "rfind", "index", "rindex", "count"])
def test_search_for_a_needle_longer_than_a_window_is_linear(
    search: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays mapped, so each copied byte is read: a constant number of times, however long the needle is."""
    reads = Reads(monkeypatch)
    file = world.file(256 * W)
    for size in (9, W, 3 * W, 16 * W, 64 * W):
        needle = payload(size, "needle")
        manager = world.manager(W, 1, 1, backing="read")
        buffer = manager.buffer(file.path)
        before = reads.bytes
        if search in ("index", "rindex"):
            with pytest.raises(ValueError, match="not found"):
                getattr(buffer, search)(needle)
        else:
            assert getattr(buffer, search)(needle) in (-1, 0)
        assert reads.bytes - before <= 4 * len(file.data), size
        buffer.close()


@pytest.mark.skipif(not hasattr(os, "pread"), reason="counts what is read by pread")
def test_search_that_is_repeated_reads_no_more_than_it_must(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A match near the start costs a few pages, not a window or the file."""
    reads = Reads(monkeypatch)
    file = world.file(64 * W)
    buffer = world.manager(16 * W).buffer(file.path)
    for _ in range(3):
        assert buffer.find(file.data[50:60]) == 50
        assert buffer.rfind(file.data[-60:-50]) == 64 * W - 60
    assert reads.bytes <= 6 * W
    buffer.close()


# Memory

TOO_LONG = """
import resource, sys
import smmap
path, window, backing = sys.argv[1], int(sys.argv[2]), sys.argv[3]
room = 4 << 30
resource.setrlimit(resource.RLIMIT_AS, (room, room))
manager = smmap.SlidingWindowMapManager(window, backing=backing)
buffer = manager.buffer(path)
assert buffer[:9] == bytes(9)
view = buffer.view(5 * window, 5 * window + 9)
before = manager.stats()
for name, call in {
    "slice": lambda: buffer[:],
    "slice of a part": lambda: buffer[7 : 3 << 40],
    "with a step": lambda: buffer[::2],
    "backwards": lambda: buffer[::-1],
    "bytes": lambda: bytes(buffer),
    "read": lambda: smmap.open(path, manager=manager).read(),
}.items():
    try:
        call()
    except MemoryError:
        pass
    else:
        raise AssertionError(name)
    manager._check()
    after = manager.stats()
    for field in ("mapped", "idle", "misses", "evictions", "cold_reads"):
        assert getattr(after, field) == getattr(before, field), (name, before, after)
assert view == buffer[-9:] == bytes(9)
"""


@linux
@pytest.mark.skipif(sys.maxsize < 1 << 40, reason="needs 64-bit addresses")
@pytest.mark.parametrize("window", [W, 1 << 30])
@pytest.mark.parametrize("backing", ["auto", "read"])
def test_slice_that_no_memory_can_hold_fails_before_anything_is_read(window: int, backing: str, tmp_path: Path) -> None:
    path = sparse(tmp_path, 5 << 40)
    run_python(TOO_LONG, path, window, backing)


PEAK = """
import resource, sys
import smmap
path, window, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
buffer = smmap.SlidingWindowMapManager(window).buffer(path)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
room = used + size + size // 2 + (16 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
data = buffer[1:]
assert len(data) == size - 1 and data[:: 1 << 20] == bytes(size >> 20)
"""


@linux
@pytest.mark.skipif(PYPY, reason="PyPy itself needs addresses at any moment")
def test_slice_over_many_windows_takes_its_own_size_of_memory(tmp_path: Path) -> None:
    """Not twice as much: parts and the whole."""
    size = 256 << 20
    run_python(PEAK, sparse(tmp_path, size), 1 << 20, size)


# Handles

COPIES: dict[str, Callable[[Any, int, int], Any]] = {
    "slice": lambda buffer, start, stop: buffer[start:stop],
    "index": lambda buffer, start, stop: bytes(buffer[at] for at in range(start, stop)),
    "step": lambda buffer, start, stop: buffer[stop - 1 : start - 1 : -1][::-1],
    "readinto": lambda buffer, start, stop: read_into(buffer, start, stop),
    "unpack_from": lambda buffer, start, stop: buffer.unpack_from(f"{stop - start}s", start)[0],
    "find": lambda buffer, start, stop: buffer[buffer.find(buffer[start:stop], start) :][: stop - start],
}


def read_into(buffer: Any, start: int, stop: int) -> bytes:
    target = bytearray(stop - start)
    assert buffer.readinto(start, target) == stop - start
    return bytes(target)


@pytest.mark.skipif(not LINUX, reason="elsewhere each read may open the file")
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("holder", ["views", "cursors"])
@pytest.mark.parametrize("name", COPIES)
def test_copies_need_no_handle_however_often_they_read_a_window(
    name: str, holder: str, limit: int, world: World
) -> None:
    """Views or cursors use all of the handles: rent falls due again and again, and reading goes on."""
    file = world.file(8 * W)
    manager = world.manager(W, 0, limit)
    buffer = manager.buffer(file.path)
    users: list[Any] = []
    for number in range(limit):
        if holder == "views":
            users.append(buffer.view(number * W, number * W + 9))
        else:
            users.append(manager.make_cursor(file.path).use_region(number * W, 9))
    for turn in range(60):
        for number in (3, 5):
            start = number * W + 7 * turn + 1
            assert COPIES[name](buffer, start, start + 9) == file.data[start : start + 9], (turn, number)
    stats = manager.stats()
    assert (stats.mapped, stats.descriptors) == (limit, 0)
    with pytest.raises(smmap.LimitError):
        buffer.view(3 * W, 3 * W + 9)
    with pytest.raises(smmap.LimitError):
        manager.make_cursor(file.path).use_region(3 * W, 9)
    for number, user in enumerate(users):
        assert (user if holder == "views" else user.buffer()) == file.data[number * W : number * W + 9]
        if holder == "cursors":
            user.close()
    buffer.close()
