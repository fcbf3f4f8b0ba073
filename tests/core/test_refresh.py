"""`refresh`: a buffer or file object sees what was appended to its file, and never takes another file for it."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import World
from smmap import FileChangedError, _default, _files, _growth
from smmap._engine import chosen as engine

from ._tools import LINUX, PYPY, G, by_policy, payload, reclaim

W = 2 * G
SIZE = 3 * W + 77
MORE = 9 * W + 5
DATA = payload(MORE, "growing")
Buffer: Any = smmap.SlidingWindowMapBuffer
pytestmark = pytest.mark.skipif(os.name != "posix", reason="mapped files cannot be replaced there")


def append(path: Path, stop: int = MORE) -> None:
    """Let a file of the first bytes of `DATA` have more of them."""
    with open(path, "ab") as out:
        out.write(DATA[path.stat().st_size : stop])


@pytest.fixture(params=["mmap", "read"])
def manager(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(W, 3 * W, 5, backing=request.param)


@pytest.fixture
def path(world: World) -> Path:
    return world.file(SIZE, "log", DATA[:SIZE]).path


@pytest.mark.parametrize("past", ["fresh", "read", "mapped", "collected"])
def test_buffer_that_is_refreshed_has_what_was_appended(manager: Any, path: Path, past: str) -> None:
    buffer = manager.buffer(path)
    if past == "read":
        assert buffer[5:9] == DATA[5:9]
    elif past in ("mapped", "collected"):
        assert buffer.view(0, W) == DATA[:W]
    if past == "collected":
        manager.collect()
        if _generation(path) == 0:
            pytest.skip("no file system that tells generations")
    assert buffer.refresh() == len(buffer) == SIZE
    for stop in (SIZE + 1, SIZE + W, MORE):
        append(path, stop)
        assert len(buffer) < stop
        assert buffer.refresh() == len(buffer) == stop
        assert buffer[:] == DATA[:stop]
        assert buffer.view(stop - 9) == DATA[stop - 9 : stop]
        assert buffer.find(DATA[stop - 9 : stop]) == stop - 9
    assert buffer.refresh() == MORE


def _generation(path: Path) -> int:
    with open(path, "rb") as file:
        return _files._generation(file.fileno())


def test_refresh_of_a_file_that_did_not_change_opens_nothing(world: World, path: Path) -> None:
    manager = world.manager(W)
    buffer = manager.buffer(path)
    record = buffer._access
    manager.collect()
    for _ in range(3):
        assert buffer.refresh() == SIZE
    assert buffer._access is record
    assert manager.stats().descriptors == 0


def test_views_stay_as_long_as_they_were(manager: Any, path: Path) -> None:
    buffer = manager.buffer(path)
    view = buffer.view()
    append(path)
    buffer.refresh()
    assert view == DATA[:SIZE]
    assert buffer.view() == DATA


def test_part_of_a_file_grows_as_far_as_its_size_allows(manager: Any, path: Path) -> None:
    parts = {
        "inside": manager.buffer(path, 100, 50),
        "beyond": manager.buffer(path, 100, SIZE + W),
        "rest": manager.buffer(path, 100),
        "exactly to the end": manager.buffer(path, 100, SIZE - 100),
        "by a cursor": Buffer(manager.make_cursor(path), 100, SIZE + W),
        "by a cursor, the rest": Buffer(manager.make_cursor(path), 100),
    }
    parts.update({f"copy of {name}": copy.copy(part) for name, part in parts.items()})
    append(path)
    wanted = {"inside": 50, "beyond": SIZE + W, "exactly to the end": SIZE - 100, "by a cursor": SIZE + W}
    for name, part in parts.items():
        size = wanted.get(name.replace("copy of ", ""), MORE - 100)
        assert part.refresh() == len(part) == size, name
        assert part[:] == DATA[100 : 100 + size], name


@pytest.mark.parametrize("size", [None, SIZE - 100, SIZE + W, 50])
def test_limit_of_a_part_travels_with_its_pickle(
    world: World, path: Path, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_default, "_manager", world.manager(W))
    packed = pickle.dumps(smmap.buffer(path, 100, size))
    arrived = pickle.loads(packed)
    assert arrived.refresh() == min(size or MORE, SIZE - 100)
    append(path)
    assert arrived.refresh() == len(arrived) == min(size or MORE, MORE - 100)
    assert arrived[:] == DATA[100:][:size]
    again = pickle.loads(pickle.dumps(arrived))
    assert again[:] == arrived[:]


def test_crafted_limit_of_a_pickle_gives_no_more_than_the_file_has(path: Path, world: World) -> None:
    status = path.stat()
    state = world.manager(W), str(path), 100, 50, SIZE, status.st_mtime_ns, "normal", 0
    assert Buffer._later(*state, 7).refresh() == 50
    assert Buffer._later(*state, 1 << 80)[:] == DATA[100:150]
    with pytest.raises(TypeError):
        Buffer._later(*state, "7")


def test_buffer_over_a_descriptor_continues_after_a_rename(manager: Any, path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        buffer = manager.buffer(number)
        moved = path.with_name("log.1")
        path.rename(moved)
        path.write_bytes(b"another")
        append(moved)
        assert buffer.refresh() == MORE
        assert buffer[:] == DATA
    finally:
        os.close(number)


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(payload(MORE, "another"))
    path.with_name("new").replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = {
    replace: "another file is here now",
    truncate: f"truncated to {SIZE - 1} bytes, from {SIZE}",
    empty: f"truncated to 0 bytes, from {SIZE}",
    remove: "no longer there",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", ["buffer", "raw", "file"])
def test_another_or_a_shorter_file_is_refused_and_the_old_buffer_continues(
    manager: Any, path: Path, change: Any, kind: str
) -> None:
    opened = manager.buffer(path) if kind == "buffer" else manager.open(path, buffering=-1 if kind == "file" else 0)
    change(path)
    for _ in range(2):
        with pytest.raises(FileChangedError, match=CHANGES[change]) as caught:
            opened.refresh()
        assert caught.value.filename == str(path)
        assert str(path) in str(caught.value)
    if change in (replace, remove):
        assert (opened[:] if kind == "buffer" else opened.read()) == DATA[:SIZE]
    elif kind == "buffer":
        assert len(opened) == SIZE


def test_path_without_a_regular_file_is_refused(manager: Any, path: Path) -> None:
    buffer = manager.buffer(path)
    folder(path)
    with pytest.raises(FileChangedError, match="Is a directory"):
        buffer.refresh()
    os.rmdir(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        with pytest.raises(FileChangedError, match="not a regular file"):
            buffer.refresh()
    assert buffer[:] == DATA[:SIZE]


def test_file_that_may_be_another_with_the_same_inode_number_is_refused(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing keeps the number from being used again once all of the file was closed."""
    manager = world.manager(W)
    buffer = manager.buffer(path)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "_generation", lambda number: 0)  # as on tmpfs
        buffer = manager.buffer(path)
        buffer._access.client.file.generation = 0
        manager.collect()
        append(path)
        with pytest.raises(FileChangedError, match="nothing of it was open"):
            buffer.refresh()
    held = manager.buffer(path)
    view = held.view(0, 9)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "_generation", lambda number: 0)
        held._access.client.file.generation = 0
        manager.collect()  # the view keeps the map, and so the file
        with open(path, "ab") as out:
            out.write(b"abc")
        assert held.refresh() == MORE + 3
    assert view == DATA[:9]


def test_inode_number_that_was_used_again_is_another_file(world: World, path: Path) -> None:
    manager = world.manager(W)
    buffer = manager.buffer(path)
    manager.collect()
    was = path.stat().st_ino
    for _ in range(50):
        path.unlink()
        path.write_bytes(payload(MORE, "another"))
        if path.stat().st_ino == was:
            break
    else:
        pytest.skip("the inode number was not used again")
    with pytest.raises(FileChangedError):
        buffer.refresh()


def test_empty_file_that_grows(manager: Any, world: World) -> None:
    path = world.file(0, "log").path
    buffer, file = manager.buffer(path), manager.open(path)
    assert (buffer.refresh(), file.refresh(), file.read()) == (0, 0, b"")
    append(path, 9)
    assert (buffer.refresh(), file.refresh()) == (9, 9)
    assert buffer[:] == file.read() == DATA[:9]


@pytest.mark.parametrize("buffering", [0, 3, -1])
def test_file_object_reads_on_where_it_stopped(manager: Any, path: Path, buffering: int) -> None:
    with manager.open(path, buffering=buffering) as file:
        assert file.read() == DATA[:SIZE]
        append(path, SIZE + W)
        assert file.read() == b""
        assert file.refresh() == SIZE + W
        assert file.tell() == SIZE
        assert file.read() == DATA[SIZE : SIZE + W]
        append(path)
        file.refresh()
        assert file.seek(-9, os.SEEK_END) == MORE - 9
        assert file.read() == DATA[-9:]
        file.seek(7)
        assert file.read() == DATA[7:]
    with pytest.raises(ValueError):
        file.refresh()
    other = manager.open(path)
    raw = other.detach()
    with pytest.raises(ValueError, match="detached"):
        other.refresh()
    assert raw.refresh() == MORE


def test_refresh_of_what_is_closed_or_has_no_file(manager: Any, path: Path) -> None:
    buffer = manager.buffer(path)
    buffer.close()
    with pytest.raises(smmap.ClosedError):
        buffer.refresh()
    with pytest.raises(ValueError, match="no file"):
        Buffer().refresh()
    other = manager.buffer(path)
    manager.close()
    append(path)
    with pytest.raises(smmap.ClosedError):
        other.refresh()


def test_iterating_a_buffer_continues_while_it_is_refreshed(manager: Any, path: Path) -> None:
    """What was started goes to the end that there was; only closing, or another file, stops it."""
    buffer = manager.buffer(path)
    pieces = buffer.iter_views(size=W)
    found = [bytes(next(pieces))]
    append(path)
    buffer.refresh()
    found += map(bytes, pieces)
    assert b"".join(found) == DATA[:SIZE]
    assert bytes(iter(buffer)) == DATA
    pieces = buffer.iter_views(size=W)
    next(pieces)
    buffer.begin_access(None, 7)
    with pytest.raises(smmap.ClosedError):
        next(pieces)


def test_buffer_grows_under_threads_that_read_it(manager: Any, path: Path) -> None:
    """Right bytes; or an error if the descriptor had to go for others, and the file grew since it was refreshed."""
    buffer = manager.buffer(path)
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                size = buffer.refresh()
                try:
                    if buffer[size - 50 : size] != DATA[size - 50 : size] or buffer[7:90] != DATA[7:90]:
                        wrong.append(size)
                except FileChangedError as error:
                    if "(grown to " not in str(error):
                        raise
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for stop in range(SIZE, MORE, 501):
            append(path, stop)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert buffer.refresh() == stop
    assert buffer[:] == DATA[:stop]
    manager._check()


def test_refresh_of_a_file_that_grows_on_meanwhile_finds_the_bytes_of_one_moment(
    manager: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if another client of that version then sees the file grow, and the file grows once more."""
    buffer = manager.buffer(path)
    append(path, SIZE + 10)
    real = _growth.verify

    def late(*args: Any) -> None:
        monkeypatch.setattr(_growth, "verify", real)
        other = manager.buffer(path)
        assert len(other) == SIZE + 10
        append(path, SIZE + 20)
        assert other.refresh() == SIZE + 20
        append(path, SIZE + 30)
        real(*args)

    monkeypatch.setattr(_growth, "verify", late)
    assert buffer.refresh() == SIZE + 10
    assert buffer[:] == DATA[: SIZE + 10]


def test_versions_of_a_followed_file_die_although_one_client_stays_at_the_first(manager: Any, path: Path) -> None:
    """Otherwise a log that is followed for long would take more and more memory."""
    still, follower = manager.buffer(path), manager.buffer(path)
    assert still[SIZE - 50 :] == DATA[SIZE - 50 : SIZE]
    for stop in range(SIZE + 1, SIZE + 51):
        append(path, stop)
        assert follower.refresh() == stop
        assert follower[stop - 50 :] == DATA[stop - 50 : stop]
    manager.collect()
    reclaim()
    manager.collect()
    reclaim()
    status = path.stat()
    versions = [each for each in gc.get_objects() if isinstance(each, _files.File)]
    count = sum(file.status.key == (status.st_dev, status.st_ino) for file in versions)
    assert 2 <= count <= (10 if PYPY else 2), "PyPy's dictionaries refer for a while to what was removed"
    assert len(still) == SIZE


def test_older_client_reads_on_after_a_refresh_that_found_only_another_time(manager: Any, path: Path) -> None:
    """As after `touch`: the newest version that was found counts, even if it is no longer than the one before."""
    follower, older = manager.buffer(path), manager.buffer(path)
    append(path, SIZE + 1)
    assert follower.refresh() == SIZE + 1
    os.utime(path, ns=(1, 1))
    assert follower.refresh() == SIZE + 1
    manager.collect()
    assert older[:] == DATA[:SIZE]


def test_older_clients_read_on_whichever_of_two_followers_is_ahead(manager: Any, path: Path) -> None:
    """Each follower saw versions of its own, until a refresh of one found a version of the other."""
    first, still_first = manager.buffer(path), manager.buffer(path)
    append(path, SIZE + 1)
    first.refresh()
    append(path, SIZE + 2)
    second, still_second = manager.buffer(path), manager.buffer(path)
    append(path, SIZE + 3)
    second.refresh()
    first.refresh()
    append(path, SIZE + 4)
    second.refresh()
    manager.collect()
    assert still_first[:] == DATA[:SIZE]
    manager.collect()
    assert still_second[:] == DATA[: SIZE + 2]
    append(path, SIZE + 5)
    first.refresh()
    manager.collect()
    assert still_second[:] == DATA[: SIZE + 2]
    manager.collect()
    assert still_first[:] == DATA[:SIZE]


def test_file_that_just_grew_from_nothing_is_not_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at its size, which was 0, and at its first byte; as after copytruncate."""
    path = world.file(0, "log").path
    real = _files._fiction

    def late(*args: Any) -> str:
        if path.stat().st_size == 0:
            append(path, 9)
        return real(*args)

    monkeypatch.setattr(_files, "_fiction", late)
    assert world.manager().buffer(path)[:] == DATA[:9]


def test_sparse_file_that_was_just_truncated_is_not_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.file(0, "log").path
    os.truncate(path, 1 << 20)
    if path.stat().st_blocks:
        pytest.skip("no sparse files")
    real = _files._fiction

    def late(*args: Any) -> str:
        if path.stat().st_size == 1 << 20:
            os.truncate(path, 5)
        return real(*args)

    monkeypatch.setattr(_files, "_fiction", late)
    assert world.manager().buffer(path)[:] == bytes(5)


def test_file_that_is_replaced_at_each_look_is_an_error_in_the_end(
    manager: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is replaced only a few times is opened. Each is shorter: it may get the inode number of another."""
    stat, unchanged, times = os.stat, engine.unchanged, [3]

    def replacing(look: Any) -> Any:
        def looking(where: Any, *args: Any, **options: Any) -> Any:
            found = look(where, *args, **options)
            if os.fspath(where) == str(path) and times[0]:
                times[0] -= 1
                path.with_name("new").write_bytes(DATA[: SIZE + times[0]])
                path.with_name("new").replace(path)
            return found

        return looking

    def replace_after_each_look(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(os, "stat", replacing(stat))
        if smmap.engine == "fast":  # the plain one's is `os.stat`
            patch.setattr(engine, "unchanged", replacing(unchanged))

    with monkeypatch.context() as patch:
        replace_after_each_look(patch)
        buffer = manager.buffer(path)
    assert times == [0]
    assert buffer[:] == DATA[:SIZE]
    buffer.close()
    manager.collect()  # else the file that is found at the first look is open already
    times[0] = 1000
    with monkeypatch.context() as patch:
        replace_after_each_look(patch)
        with pytest.raises(FileChangedError) as caught:
            manager.buffer(path)
    assert caught.value.filename == str(path)
    assert 900 < times[0] < 1000


def test_file_that_is_refreshed_while_an_older_client_opens_it_is_not_taken_for_truncated(
    manager: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status was looked at before it grew, and is compared after another thread has refreshed it."""
    older, other = manager.buffer(path), manager.buffer(path)
    assert other[5:9] == DATA[5:9]
    manager.collect()
    by_policy(manager)
    real = engine.open_file

    def open_file(where: Any, flags: int) -> Any:
        descriptor, status = real(where, flags)
        monkeypatch.setattr(engine, "open_file", real)
        append(path)
        other.refresh()
        return descriptor, status

    with other.view(0, 9) as view:  # which keeps the inode from being used again
        monkeypatch.setattr(engine, "open_file", open_file)
        manager._cache.unload()
        assert older[W + 5 : W + 90] == DATA[W + 5 : W + 90]
        assert view == DATA[:9]
    assert engine.open_file is real
    assert len(other) == MORE
    assert len(older) == SIZE


def test_older_client_of_a_file_that_was_refreshed_reads_on(manager: Any, path: Path) -> None:
    """Also when it has to open the file again: it is known to be the same. Without a refresh nobody knows."""
    buffer, other = manager.buffer(path), manager.buffer(path)
    pieces = iter(other)
    append(path)
    buffer.refresh()
    append_more = path.open("ab")
    append_more.write(b"more")
    append_more.close()
    buffer.refresh()
    manager.collect()
    assert bytes(pieces) == other[:] == DATA[:SIZE]
    with path.open("ab") as out:
        out.write(b"and more")
    manager.collect()
    with pytest.raises(FileChangedError, match="grown"):
        other[:]


def test_versions_of_a_followed_file_leave_no_descriptors(world: World) -> None:
    """One is enough for all of them: each refers to the same file."""
    path = world.file(SIZE, "log", DATA[:SIZE]).path
    manager = world.manager(W)
    buffer = manager.buffer(path)
    for stop in range(SIZE + 1, SIZE + 20):
        append(path, stop)
        assert buffer.refresh() == stop
        assert buffer[stop - 9 : stop] == DATA[stop - 9 : stop]
        assert manager.stats().descriptors == 1
        assert len(world.descriptors()) == 1 or not LINUX


def test_file_that_was_replaced_is_no_longer_open_however_many_versions_it_had(world: World) -> None:
    """Nobody refreshes here: each version has a buffer of its own, which is dropped."""
    path = world.file(SIZE, "log", DATA[:SIZE]).path
    manager = world.manager(W)
    for stop in range(SIZE + 1, SIZE + 9):
        append(path, stop)
        assert manager.buffer(path)[stop - 9 : stop] == DATA[stop - 9 : stop]
    inode = path.stat().st_ino
    other = world.file(SIZE, "other")
    other.path.replace(path)
    assert manager.buffer(path)[:9] == other.data[:9]
    reclaim()
    assert inode not in [file.status.inode for file in manager._cache.open]
    assert manager.stats().descriptors == 1
    assert world.descriptors() == [str(path)] or not LINUX
