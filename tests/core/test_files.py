"""A client reads the one file that it was made for, whatever happens to names, numbers and sizes meanwhile.

A new client sees the file as it is now; an old one goes on with its own or raises `FileChangedError`. Never a mixture.
"""

from __future__ import annotations

import copy
import errno
import gc
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import World
from smmap import FileChangedError, _files

from ._tools import LATE, PYPY, File, G, descriptors, expected_size, linux, maps, payload, reclaim, run_python

W = 2 * G
SIZE = 6 * W + 77
Buffer: Any = smmap.SlidingWindowMapBuffer
posix = pytest.mark.skipif(os.name != "posix", reason="mapped files cannot be replaced there")
pytestmark = posix
backings = pytest.mark.parametrize("backing", ["mmap", "read"])
# What an old client did before the file changed: nothing, used a window and let it go, or pins one.
pasts = pytest.mark.parametrize("past", ["fresh", "used", "pinning", "collected"])


@pytest.mark.parametrize("year", [1901, 2261, 2263, 2300, 2440])
@backings
def test_file_of_any_age_is_read(backing: Any, year: int, world: World) -> None:
    """Also where its time has more nanoseconds than the integers of C have room for."""
    file = world.file(SIZE)
    when = int((year - 1970) * 365.2425 * 86400)
    os.utime(file.path, (when, when))
    if os.stat(file.path).st_mtime != when:
        pytest.skip("the file system knows no such time")
    manager = world.manager(W, backing=backing)
    for _ in range(12):
        assert Buffer(manager.make_cursor(file.path))[5:9] == file.data[5:9]
        assert manager.make_cursor(file.path).use_region(W, 9).buffer() == file.data[W : W + 9]
        assert smmap.buffer(file.path)[:9] == file.data[:9]
        manager.collect()
    kept = manager.buffer(file.path)
    file.path.write_bytes(payload(SIZE, 5))
    os.utime(file.path, (when + 1, when + 1))
    manager.collect()
    with pytest.raises(FileChangedError):
        kept[5:9]
    assert manager.buffer(file.path)[5:9] == payload(SIZE, 5)[5:9]


@pytest.mark.parametrize("backing", ["read", "mmap"])
def test_new_client_gets_nothing_of_what_was_read_before_a_write_that_restored_the_time(
    backing: Any, world: World
) -> None:
    file = world.file(4 * W)
    manager = world.manager(W, backing=backing)
    old = manager.buffer(file.path)
    first = old.view(0, 9)
    assert first == file.data[:9]
    status = os.stat(file.path)
    other = payload(4 * W, "other")
    with open(file.path, "r+b") as out:
        out.write(other)
    os.utime(file.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    manager._lock.run(manager._cache.uncache, old._access.client.file)
    try:
        old.view(2 * W, 2 * W + 9).release()  # opens the file again
    except FileChangedError:
        pass  # a file system that does not count the uses of its inodes
    new = manager.buffer(file.path)
    assert new[:] == other
    assert new.view(0, 9) == other[:9]
    first.release()


STRICT = """
import os, sys, smmap
path = sys.argv[1]
manager = smmap.SlidingWindowMapManager()
with open(path, "rb") as file:
    data = file.read()
for name in (path, os.fsencode(path), path, os.fsencode(path)):
    assert manager.buffer(name)[5:9] == data[5:9]
    with manager.make_cursor(name) as cursor:
        assert cursor.use_region(0, 9).buffer() == data[:9]
assert manager.release(os.fsencode(path)) == 1
assert manager.release(path) == 0
"""


def test_path_as_text_and_as_bytes_where_python_forbids_to_compare_them(world: World) -> None:
    run_python(STRICT, world.file(SIZE).path, options=["-bb"])


@pytest.mark.skipif(os.name != "posix", reason="files have no such modes there")
@pytest.mark.parametrize("counts", [True, False], ids=["inodes' uses are counted", "they are not"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "not mapped"])
@pytest.mark.parametrize("change", ["mode", "link", "name"])
def test_old_client_of_a_file_whose_time_of_change_alone_is_another_goes_on_where_it_is_surely_the_same(
    change: str, mapped: bool, counts: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a map of it lives, or where the file system counts how often an inode was used."""
    file = world.file(SIZE)
    manager = world.manager(W, backing="mmap")
    if not counts:
        monkeypatch.setattr(_files, "ioctl", refuse_to_say)
    else:
        monkeypatch.setattr(_files, "ioctl", lambda *_: (12345).to_bytes(8, sys.byteorder))
    holder = manager.make_cursor(file.path).use_region(0, 9)
    old = manager.make_cursor(file.path).use_region(W, 9)
    old.unuse_region()
    manager.collect()  # and closes what was open
    assert manager.stats().descriptors <= 1
    if not mapped:
        holder.unuse_region()
        manager.collect()
    was = os.stat(file.path)
    time.sleep(0.02)  # until the file system's clock has moved on
    if change == "mode":
        os.chmod(file.path, 0o640)
    elif change == "link":
        os.link(file.path, f"{file.path}.link")
    else:
        os.rename(file.path, f"{file.path}.away")
        os.rename(f"{file.path}.away", file.path)
    now = os.stat(file.path)
    if now.st_ctime_ns == was.st_ctime_ns:
        pytest.skip("the file system does not note that")
    assert now.st_mtime_ns == was.st_mtime_ns
    if mapped or counts:
        assert old.use_region(3 * W, 9).buffer() == file.data[3 * W : 3 * W + 9]
        old.unuse_region()
    else:
        with pytest.raises(FileChangedError):
            old.use_region(3 * W, 9)
    holder.close()


def refuse_to_say(*_: Any) -> Any:
    """Stands for `ioctl`, as on a file system that does not count."""
    raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


@backings
def test_file_of_the_same_size_and_age_that_got_the_same_inode_number_is_another(world: World, backing: str) -> None:
    manager = world.manager(W, backing=backing)
    file = world.file(SIZE)
    buffer = manager.buffer(file.path)
    old = client(manager, file, "collected")
    assert buffer[5:14] == file.data[5:14]
    manager.collect()
    was = os.stat(file.path)
    make_another_with_the_same_number(file.path, was)
    with pytest.raises(FileChangedError):
        buffer[5:14]
    with pytest.raises(FileChangedError):
        old.use_region(0, 9)


def test_window_that_was_read_does_not_keep_the_inode_number_from_being_used_for_another_file(world: World) -> None:
    """As one that is mapped would."""
    file, manager = world.file(SIZE), world.manager(W, backing="read")
    buffer = manager.buffer(file.path)
    view = buffer.view(5, 14)
    manager.collect()
    assert (manager.stats().detached, manager.stats().descriptors) == (1, 0)
    make_another_with_the_same_number(file.path, os.stat(file.path))
    for call in (lambda: buffer[W : W + 9], lambda: buffer.view(W, W + 9)):
        with pytest.raises(FileChangedError):
            call()
    assert view == file.data[5:14]


def make_another_with_the_same_number(path: Path, was: os.stat_result) -> None:
    """And of the same size and age; skips the test where the file system does not."""
    data = payload(was.st_size, "another")
    for _ in range(50):  # a file system that uses freed numbers again does so soon
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        if os.stat(path).st_ino == was.st_ino:
            return
    pytest.skip("the inode number was not used again")


def client(manager: Any, file: File, past: str, name: Any = None) -> Any:
    cursor = manager.make_cursor(file.path if name is None else name)
    if past != "fresh":
        assert cursor.use_region(W + 1, 9).buffer() == file.data[W + 1 : W + 10]
    if past in ("used", "collected"):
        cursor.unuse_region()
    if past == "collected":
        manager.collect()
    return cursor


def never_mixed(cursor: Any, data: bytes) -> int:
    """Ask an old client for all of its file: its own bytes or the promised error. How often it had bytes."""
    good = 0
    assert cursor.file_size() == len(data)
    requests = [(W + 1, 9), (0, 9), (W - 5, 10), (3 * W, W), (5 * W + 1, 0), (len(data) - 1, 1), (W, W), (0, W)]
    for offset, size in requests:
        try:
            cursor.use_region(offset, size)
        except FileChangedError:
            continue
        assert cursor.is_valid()
        if size:
            assert cursor.size() == size
        assert cursor.buffer() == data[offset : offset + cursor.size()]
        good += 1
    return good


def never_mixed_buffer(buffer: Any, data: bytes) -> int:
    good = 0
    assert len(buffer) == len(data)
    for start in [*range(0, len(data), 1000), len(data) - 1]:
        for size in (1, 50, W + 5):
            try:
                assert buffer[start : start + size] == data[start : start + size]
                good += 1
            except FileChangedError:
                continue
    return good


def all_right(manager: Any, name: Any, data: bytes) -> None:
    """A new client sees exactly this."""
    with manager.make_cursor(name) as cursor:
        assert cursor.file_size() == len(data)
        for offset in (0, W - 1, 3 * W + 5, len(data) - 1):
            if 0 <= offset < len(data):
                cursor.use_region(offset, W)
                assert cursor.buffer() == data[offset : offset + W][: cursor.size()]
                assert cursor.size() == min(W, len(data) - offset)
        if data:
            with Buffer(cursor) as buffer:
                assert buffer == data


@backings
@pasts
@pytest.mark.parametrize("size", [SIZE, SIZE + 1, W, 0])
def test_replaced_by_rename(backing: str, past: str, size: int, world: World, tmp_path: Path) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, 4 * W, backing=backing)
    old = client(manager, file, past)
    buffer = Buffer(manager.make_cursor(file.path)) if past != "fresh" else None
    new = world.file(size, "new")
    os.replace(new.path, file.path)
    never_mixed(old, file.data)
    all_right(manager, file.path, new.data)
    good = never_mixed(old, file.data)
    if past == "pinning" and backing == "mmap":
        assert good  # what it pins stays
    if buffer:
        never_mixed_buffer(buffer, file.data)
        buffer.close()
    all_right(manager, file.path, new.data)
    old.close()


@backings
@pasts
def test_replaced_again_and_again(backing: str, past: str, world: World) -> None:
    """Many generations of one name, each with clients that live on."""
    manager = world.manager(W, 6 * W, backing=backing)
    path, clients = None, []
    for generation in range(12):
        fresh = world.file(SIZE, f"generation{generation}")
        if path is None:
            path = fresh.path
        else:
            os.replace(fresh.path, path)
        file = File(path, fresh.data)
        all_right(manager, path, file.data)
        clients.append((client(manager, file, past), file.data))
        for cursor, data in clients:
            never_mixed(cursor, data)
        manager._check()
    for cursor, _ in clients:
        cursor.close()


@backings
@pasts
def test_truncated(backing: str, past: str, world: World) -> None:
    """New windows past the new end are refused; a new client sees the new size."""
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    old = client(manager, file, past)
    with open(file.path, "r+b") as out:
        out.truncate(3 * W + 5)
    for offset, size in [(3 * W, W), (5 * W, 1), (SIZE - 1, 1), (3 * W + 5, 1)]:
        with pytest.raises(FileChangedError):
            old.use_region(offset, size)
    all_right(manager, file.path, file.data[: 3 * W + 5])
    assert old.file_size() == SIZE
    if past == "pinning":
        assert old.buffer() == file.data[W + 1 : W + 10]
    with open(file.path, "r+b") as out:
        out.truncate(0)
    new = manager.make_cursor(file.path)
    assert new.file_size() == 0
    assert not new.use_region().is_valid()
    if backing == "read":  # a map of it would die with SIGBUS: nobody may touch that
        never_mixed(old, file.data)
        manager.collect()
        old.unuse_region()
        manager.collect()
        for offset in (0, 3 * W, 5 * W):
            with pytest.raises(FileChangedError):
                old.use_region(offset, 5)
    old.close()
    new.close()


@pytest.mark.parametrize("backing", ["auto", "mmap", "read"])
@pytest.mark.parametrize("past", ["idle", "pinned", "viewed", "bought"])
@pytest.mark.parametrize("left", [W // 2 + 5, W + 5, 4 * W, 4 * W + 5])
@pytest.mark.parametrize("by", ["path", "link", "descriptor"])
def test_client_made_after_a_truncation_never_gets_a_longer_region(
    backing: str, past: str, left: int, by: str, world: World, tmp_path: Path
) -> None:
    """Its map would kill the process that reads all of it."""
    file = world.file(SIZE)
    manager = world.manager(4 * W, backing=backing)
    old = manager.make_cursor(file.path)
    buffer = manager.buffer(file.path)
    view = None
    if past == "viewed":
        view = buffer.view(5, 9)
        manager.collect()
    elif past == "bought":
        for at in range(500):
            assert buffer[at] == file.data[at]
    else:
        for offset in (4 * W, 0):
            old.use_region(offset, 0)
        if past == "idle":
            old.unuse_region()
    os.truncate(file.path, left)
    name: Any = file.path
    if by == "link":
        name = tmp_path / "link"
        os.link(file.path, name)
    elif by == "descriptor":
        name = os.open(file.path, os.O_RDONLY)
    new = manager.make_cursor(name)
    assert new.file_size() == left
    for offset in (0, left - 1, left // 2):
        new.use_region(offset, 0)
        region = new.region()
        assert region.ofs_end() <= left
        assert len(new.map()) == region.size()
        assert new.map()[:] == region.buffer() == file.data[region.ofs_begin() : region.ofs_end()]
    new.close()
    with smmap.SlidingWindowMapBuffer(manager.make_cursor(name)) as fresh:
        assert fresh == fresh.view() == file.data[:left]
    if by == "descriptor":
        os.close(name)
    del view
    old.close()
    buffer.close()


@pasts
def test_read_and_truncated(past: str, world: World) -> None:
    """With `backing="read"` a truncated file is an error where a map would kill the process."""
    file = world.file(SIZE)
    manager = world.manager(W, 3 * W, backing="read")
    old = client(manager, file, past)
    buffer = Buffer(manager.make_cursor(file.path))
    assert buffer[:9] == file.data[:9]
    view = buffer.view(2 * W + 5, 3 * W)
    with open(file.path, "r+b") as out:
        out.truncate(W // 2)
    assert view == file.data[2 * W + 5 : 3 * W]
    never_mixed(old, file.data)
    failures = 0
    for at in range(0, SIZE, 500):
        try:
            assert buffer[at : at + 20] == file.data[at : at + 20]
        except FileChangedError as error:
            assert str(file.path) in str(error)
            failures += 1
    assert failures
    with pytest.raises(FileChangedError):
        buffer[SIZE - 1]
    all_right(manager, file.path, file.data[: W // 2])
    old.close()
    buffer.close()


@backings
@pasts
@pytest.mark.parametrize("more", [1, W - 77, 3 * W])
def test_grown(backing: str, past: str, more: int, world: World) -> None:
    """A new client sees the new size at once, an old one keeps its own, also where they share a window."""
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    old = client(manager, file, past)
    end = manager.make_cursor(file.path)
    if past != "fresh":
        end.use_region(6 * W, 0)
        assert end.size() == 77
    buffer = Buffer(manager.make_cursor(file.path))
    grown = file.data + payload(more, "more")
    with open(file.path, "ab") as out:
        out.write(grown[SIZE:])
    all_right(manager, file.path, grown)
    new = manager.make_cursor(file.path)
    assert new.use_region(6 * W, 0).buffer() == grown[6 * W : 7 * W]
    if past != "fresh":
        assert end.buffer() == file.data[6 * W :]
    never_mixed(old, file.data)
    never_mixed_buffer(buffer, file.data)
    with pytest.raises(IndexError):
        buffer[SIZE]
    assert new.use_region(6 * W + 7, 0).buffer() == grown[6 * W + 7 : 7 * W]
    for cursor in (old, end, new):
        cursor.close()
    buffer.close()


def test_client_of_a_grown_file_never_gets_a_window_of_the_shorter_one(world: World) -> None:
    """Each version of a file has windows of its own, which its clients share, and nobody else."""
    file = world.file(W + 5)
    manager = world.manager(W)
    old = manager.make_cursor(file.path).use_region(W, 0)
    short = old.region()
    with open(file.path, "ab") as out:
        out.write(b"grown")
    new = manager.make_cursor(file.path).use_region(W, 0)
    assert (old.size(), new.size()) == (5, 10)
    assert new.buffer() == file.data[W:] + b"grown"
    assert old.region() is short
    assert manager.stats().pinned == 2
    third = manager.make_cursor(file.path).use_region(W, 3)
    assert third.region() is new.region()
    for cursor in (old, third, new):
        cursor.close()
        manager._check()
    assert manager.stats().idle == 1


@backings
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("length", [W + G // 2, W + G + G // 2])
def test_clients_that_know_other_sizes_get_sizes_of_their_own(
    world: World, backing: str, static: bool, length: int
) -> None:
    """Neither bytes past the size that a client knows, nor fewer than there are; an old client may be refused."""
    file = world.file(2 * W)
    data = file.data
    window = 0 if static else W
    manager = world.manager(W, static=static, backing=backing)
    os.truncate(file.path, length)
    old = manager.make_cursor(file.path).use_region(W + 1)
    assert old.buffer() == data[W + 1 : length]
    with file.path.open("ab") as grown:
        grown.write(data[length:])
    new = manager.make_cursor(file.path)
    offsets = [5, W - 5, W + 5, length - 3, length - 1, length, length + 3, 2 * W]
    sizes = [0, 1, 3, 10, G, W, W + 1, 2 * W, sys.maxsize]
    requests = [(offset, size) for offset in offsets for size in sizes]
    right = 0
    for first in requests:
        for second in requests:
            for cursor, known in ((old, length), (new, 2 * W), (copy.copy(old), length)):
                for request in (first, second):
                    try:
                        cursor.use_region(*request)
                    except FileChangedError:
                        assert known == length
                        continue
                    assert cursor.size() == expected_size(*request, window, known), (request, known)
                    if cursor.is_valid():
                        assert cursor.buffer() == data[request[0] : request[0] + cursor.size()]
                    right += cursor is old
    assert right
    old.close()
    new.close()


@backings
@pasts
def test_deleted(backing: str, past: str, world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    old = client(manager, file, past)
    os.unlink(file.path)
    good = never_mixed(old, file.data)
    if past == "pinning":
        assert good
    with pytest.raises(FileNotFoundError):
        manager.make_cursor(file.path)
    if past != "pinning":
        old.unuse_region()
        with pytest.raises(FileNotFoundError):
            manager.make_cursor(file.path)
        assert manager.stats().idle == 0  # idle regions of a deleted file go at the next chance
    world.file(W, file.name)
    all_right(manager, file.path, payload(W, file.name))
    never_mixed(old, file.data)
    old.close()


@pasts
@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "link", "dangling"])
def test_replaced_by_something_else(kind: str, past: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a hang, never another file's bytes."""
    file, other = world.file(SIZE), world.file(SIZE, "other")
    manager = world.manager(W)
    old = client(manager, file, past)
    os.unlink(file.path)
    if kind == "folder":
        os.mkdir(file.path)
    elif kind == "fifo":
        os.mkfifo(file.path)
    elif kind == "socket":
        import socket

        monkeypatch.chdir(file.path.parent)
        server = socket.socket(socket.AF_UNIX)
        server.bind(file.name)
        server.close()
    elif kind == "link":
        os.symlink(other.path, file.path)
    else:
        os.symlink("nowhere", file.path)
    never_mixed(old, file.data)
    if kind == "link":
        all_right(manager, file.path, other.data)
    else:
        with pytest.raises(OSError, match=r".+"):
            manager.make_cursor(file.path)
    never_mixed(old, file.data)
    old.close()


@backings
def test_hard_links_share_one_map(backing: str, world: World, tmp_path: Path) -> None:
    file = world.file(SIZE)
    os.link(file.path, tmp_path / "link")
    os.symlink(file.path, tmp_path / "symlink")
    number = os.open(file.path, os.O_RDONLY)
    manager = world.manager(W, backing=backing)
    cursors = [manager.make_cursor(name) for name in (file.path, tmp_path / "link", tmp_path / "symlink", number)]
    for cursor in cursors:
        cursor.use_region(W, W)
        assert cursor.region() is cursors[0].region()
        assert cursor.buffer() == file.data[W : 2 * W]
    assert (manager.stats().mapped, manager.stats().pinned, manager.num_open_files()) == (1, 1, 1)
    if backing == "mmap" and sys.platform.startswith("linux"):
        assert len(maps(tmp_path)) == 1
    os.close(number)
    os.unlink(file.path)
    for offset in (0, 3 * W):  # by the name that is left
        cursors[1].use_region(offset, 9)
        assert cursors[1].buffer() == file.data[offset : offset + 9]
    for cursor in cursors:
        never_mixed_or_bad_descriptor(cursor, file.data)
        cursor.close()


def never_mixed_or_bad_descriptor(cursor: Any, data: bytes) -> None:
    try:
        never_mixed(cursor, data)
    except OSError as error:
        assert isinstance(cursor.path_or_fd(), int)
        assert "descriptor" in str(error)


@backings
@pasts
def test_a_link_that_is_switched(backing: str, past: str, world: World, tmp_path: Path) -> None:
    first, second = world.file(SIZE, "first"), world.file(SIZE, "second")
    link = tmp_path / "link"
    link.symlink_to(first.path)
    manager = world.manager(W, 4 * W, backing=backing)
    old = client(manager, first, past, link)
    for turn in range(4):
        other = (second, first)[turn % 2]
        spare = tmp_path / "spare"
        spare.symlink_to(other.path)
        os.replace(spare, link)
        never_mixed(old, first.data)
        all_right(manager, link, other.data)
        all_right(manager, first.path, first.data)
    old.close()


@backings
@pasts
def test_relative_path_after_chdir(
    backing: str, past: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = world.file(SIZE, "here/data"), world.file(SIZE, "there/data")
    manager = world.manager(W, 3 * W, backing=backing)
    monkeypatch.chdir(here.path.parent)
    for name in ("data", b"data", Path("data"), "./data", "../here/data"):
        monkeypatch.chdir(here.path.parent)
        old = client(manager, here, past, name)
        buffer = Buffer(manager.make_cursor(name))
        monkeypatch.chdir(there.path.parent)
        assert never_mixed(old, here.data) == 8
        assert buffer == here.data
        assert old.path_or_fd() is name
        if name != "../here/data":
            all_right(manager, name, there.data)
        monkeypatch.chdir(tmp_path)
        assert never_mixed(old, here.data) == 8
        old.close()
        buffer.close()


@backings
@pasts
def test_descriptor_closed_and_its_number_reused(backing: str, past: str, world: World) -> None:
    file, other = world.file(SIZE), world.file(SIZE, "other")
    manager = world.manager(W, 4 * W, backing=backing)
    number = os.open(file.path, os.O_RDONLY)
    old = client(manager, file, past, number)
    buffer = Buffer(manager.make_cursor(number)) if past != "fresh" else None
    os.close(number)
    again = os.open(other.path, os.O_RDONLY)
    if again != number:
        os.dup2(again, number)
        os.close(again)
    never_mixed(old, file.data)
    all_right(manager, number, other.data)
    never_mixed(old, file.data)
    if buffer:
        never_mixed_buffer(buffer, file.data)
        buffer.close()
    os.close(number)
    all_right(manager, other.path, other.data)
    old.close()


def reused(path: Path, size: int, shift: int, seed: object) -> bytes | None:
    """Replace the file at `path` by another one of the same inode, if the file system does so; its bytes."""
    before = os.stat(path)
    for _ in range(50):
        os.unlink(path)
        data = payload(size, seed)
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + shift))
        if os.stat(path).st_ino == before.st_ino:
            return data
    return None


@backings
@pytest.mark.parametrize(("more", "shift"), [(1, 0), (-1, 0), (0, 1), (0, -1), (W, 10**9)])
@pytest.mark.parametrize("with_buffer", [False, True])
def test_inode_reused(backing: str, more: int, shift: int, with_buffer: bool, world: World) -> None:
    """Nothing of ours pins the file, and its number goes to another one: size or time tell."""
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    old = client(manager, file, "collected")
    buffer = Buffer(manager.make_cursor(file.path)) if with_buffer else None
    manager.collect()
    reclaim()
    data = reused(file.path, SIZE + more, shift, "another")
    if data is None:
        pytest.skip("the file system does not hand numbers out again at once")
    for offset in (W + 1, 0, 5 * W):
        with pytest.raises(FileChangedError):
            old.use_region(offset, 9)
    all_right(manager, file.path, data)
    for offset in (W + 1, 0, 5 * W):  # also while the new file is mapped
        with pytest.raises(FileChangedError):
            old.use_region(offset, 9)
    new = manager.make_cursor(file.path).use_region(W, 9)
    if buffer:
        for at in (0, W + 3, SIZE - 1):
            with pytest.raises(FileChangedError):
                buffer[at]
        with pytest.raises(FileChangedError):
            buffer.view(0, 5)
        buffer.close()
    assert new.buffer() == data[W : W + 9]
    new.close()
    old.close()


def test_a_pinned_inode_is_not_reused(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    old = client(manager, file, "pinning")
    inode = os.stat(file.path).st_ino
    assert reused(file.path, SIZE, 0, "another") is None
    assert os.stat(file.path).st_ino != inode
    never_mixed(old, file.data)
    old.close()


def test_in_place_writes_show_through_a_map(world: World) -> None:
    """It is the file's own content; so are cold reads by a cached descriptor."""
    file = world.file(SIZE)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    view = cursor.buffer()
    buffer = manager.buffer(file.path)
    assert buffer[5 * W : 5 * W + 9] == file.data[5 * W : 5 * W + 9]
    with open(file.path, "r+b") as out:
        for place in (W, 5 * W):
            out.seek(place)
            out.write(b"overwrite")
    assert buffer[W : W + 9] == buffer[5 * W : 5 * W + 9] == b"overwrite"
    assert (manager.stats().mapped, manager.stats().cold_reads) == (1, 2)
    buffer.close()
    assert view == b"overwrite"
    assert cursor.use_region(W + 4, 5).buffer() == b"write"
    assert cursor.use_region(3 * W, 9).buffer() == file.data[3 * W : 3 * W + 9]
    del view
    cursor.close()


# Unloading by name


def idle_names(manager: Any, folder: Path) -> list[str]:
    reclaim()
    manager._check()
    return sorted({name for name in maps(folder) if " (deleted)" not in name})


NAMES = ["a/b/1", "a/b/2", "a/b/c/3", "a/bc/4", "a/bc", "a/b.5", "a/b 6", "a-7", "z/8"]


@pytest.fixture
def tree(world: World) -> list[File]:
    return [world.file(W, name) for name in NAMES if name != "a/bc"]


@linux
@pytest.mark.parametrize(
    ("target", "gone"),
    [
        ("a/b/1", {"a/b/1"}),
        ("a/b", {"a/b/1", "a/b/2", "a/b/c/3"}),
        ("a/b/", {"a/b/1", "a/b/2", "a/b/c/3"}),
        ("a/./b/../b", {"a/b/1", "a/b/2", "a/b/c/3"}),
        ("a/bc", {"a/bc/4"}),
        ("a/b/c", {"a/b/c/3"}),
        ("a", {"a/b/1", "a/b/2", "a/b/c/3", "a/bc/4", "a/b.5", "a/b 6"}),
        ("", {"a/b/1", "a/b/2", "a/b/c/3", "a/bc/4", "a/b.5", "a/b 6", "a-7", "z/8"}),
        ("a/b/9", set()),
        ("nowhere", set()),
        ("a/b/1/x", set()),
    ],
)
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_release(
    kind: Callable[[Any], Any], target: str, gone: set[str], tree: Any, world: World, tmp_path: Path
) -> None:
    """Whole path components: a/b is not a/bc."""
    manager = world.manager(W)
    names = {str(file.path.relative_to(tmp_path)) for file in tree}
    cursors = [manager.make_cursor(file.path) for file in tree]
    for cursor in cursors:
        cursor.use_region(0, 5)
        cursor.unuse_region()
    assert idle_names(manager, tmp_path) == sorted(names)
    assert manager.release(kind(os.path.join(tmp_path, target))) == len(gone)
    assert idle_names(manager, tmp_path) == sorted(names - gone)
    assert manager.release(kind(os.path.join(tmp_path, target))) == 0
    for cursor in cursors:
        cursor.close()


@linux
def test_release_spares_what_is_held(tree: Any, world: World, tmp_path: Path) -> None:
    manager = world.manager(W)
    held = manager.make_cursor(tree[0].path).use_region(0, 5)
    idle = manager.make_cursor(tree[1].path).use_region(0, 5)
    idle.unuse_region()
    assert manager.release(tmp_path) == 1
    assert idle_names(manager, tmp_path) == ["a/b/1"]
    assert held.buffer() == tree[0].data[:5]
    assert idle.use_region(0, 5).buffer() == tree[1].data[:5]
    held.close()
    idle.close()


@linux
def test_release_by_other_names(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    """Relative, by a link to the folder, after deletion, without any client left."""
    file = world.file(6 * W, "real/data")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    manager = world.manager(W)

    def use(name: Any) -> None:
        with manager.make_cursor(name) as cursor:
            cursor.use_region(W, 5)
        assert manager.stats().idle == 1

    monkeypatch.chdir(tmp_path)
    use(file.path)
    assert manager.release("real") == 1
    use(file.path)
    assert manager.release(link) == 1
    use(link / "data")
    assert manager.release(link) == 1
    use(link / "data")
    assert manager.release(tmp_path / "nowhere") == 0
    assert manager.release(tmp_path / "real/data") == 1  # the folder "real" would not do: names stay as they were given
    use("real/data")
    assert manager.release("real/data") == 1
    use(file.path)
    os.unlink(file.path)
    assert manager.release(file.path) == 1
    assert maps(tmp_path) == []
    assert descriptors(tmp_path) == []
    for wrong in (5, None, 1.5):
        with pytest.raises(TypeError):
            manager.release(wrong)


def test_removal_for_windows_does_nothing_elsewhere(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 5)
    idle = manager.make_cursor(file.path).use_region(W, 5)
    idle.unuse_region()
    before = manager.stats()
    assert manager.force_map_handle_removal_win(str(file.path)) is None
    assert manager.stats() == before
    assert cursor.buffer() == file.data[:5]
    cursor.close()


# Entries


def entries(manager: Any) -> int:
    for _ in range(3 if LATE else 1):  # a region must be seen to have died before its file can
        reclaim()
        manager.stats()
    reclaim()
    return sum(type(thing) is _files.File for thing in gc.get_objects())


@backings
def test_entries_die_with_their_clients(backing: str, world: World, tmp_path: Path) -> None:
    """Nothing remembers a file that no cursor, buffer or region has."""
    manager = world.manager(W, backing=backing)
    before = entries(manager)
    file = world.file(SIZE)
    for number in range(30):
        os.link(file.path, tmp_path / f"link{number}")
    others = [world.file(W, f"file{number}") for number in range(30)]
    for name in [*(tmp_path / f"link{number}" for number in range(30)), *(other.path for other in others)]:
        with manager.make_cursor(name) as cursor:
            cursor.use_region(0, 5)
        manager.make_cursor(name)
    assert entries(manager) == before + 31  # regions keep them
    del cursor
    manager.collect()
    assert entries(manager) == before
    assert manager.stats().files == 0
    manager._check()
    assert not manager._files._by_key
    assert not manager._files._by_name
    cursors = [manager.make_cursor(file.path) for _ in range(5)]
    assert entries(manager) == before + 1
    cursors.pop().close()
    assert entries(manager) == before + 1
    buffer = Buffer(cursors.pop())
    cursors.clear()
    manager.collect()
    assert entries(manager) == before + 1
    assert buffer[SIZE - 1] == file.data[-1]
    del buffer
    manager.collect()
    assert entries(manager) == before


@backings
def test_a_name_that_is_replaced_does_not_pile_up(backing: str, world: World) -> None:
    manager = world.manager(W, backing=backing)
    path = world.file(SIZE).path
    before = entries(manager)
    for generation in range(40):
        new = world.file(SIZE, f"new{generation}")
        os.replace(new.path, path)
        with manager.make_cursor(path) as cursor:
            cursor.use_region(random.Random(generation).randrange(SIZE), 5)
    del cursor
    assert entries(manager) <= before + 2
    assert manager.stats().idle <= 2
    manager._check()


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_pinned_region_of_a_file_that_is_gone_is_evicted_when_unpinned(world: World, how: str) -> None:
    """Nobody could find it any more, and it would keep the deleted file's room on the disk."""
    file, other = world.file(4 * W), world.file(4 * W, "other")
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(W + 5, 10)
    view = cursor.buffer()
    if how == "replaced":
        os.replace(other.path, file.path)
        with manager.make_cursor(file.path) as new:
            assert new.use_region(W + 5, 10).buffer() == other.data[W + 5 : W + 15]
    else:
        os.unlink(file.path)
        with pytest.raises(FileNotFoundError):
            manager.make_cursor(file.path)
    assert cursor.use_region(W + 7, 10).buffer() == file.data[W + 7 : W + 17]
    before = manager.stats()
    cursor.close()
    assert view == file.data[W + 5 : W + 15]
    del view
    if PYPY:  # where it dies at a collection only
        reclaim()
    assert manager.stats().mapped == before.mapped - 1


def test_a_file_that_was_taken_for_gone_is_kept_again(world: World) -> None:
    """Its path led elsewhere for a moment, and leads to it again."""
    file, other = world.file(4 * W), world.file(4 * W, "other")
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 10)
        os.rename(file.path, f"{file.path}.aside")
        os.rename(other.path, file.path)
        manager.make_cursor(file.path).close()
        os.rename(f"{file.path}.aside", file.path)
        with manager.make_cursor(file.path) as again:
            assert again.use_region(0, 10).buffer() == file.data[:10]
    assert manager.stats().idle == 1


def test_a_file_whose_name_was_away_is_kept_again(world: World) -> None:
    """It was asked for in between, and then found by the same name, unchanged."""
    file = world.file(4 * W)
    name = str(file.path)
    manager = world.manager(W)
    with manager.make_cursor(name) as cursor:
        cursor.use_region(0, 10)
        os.rename(name, f"{name}.aside")
        with pytest.raises(FileNotFoundError):
            manager.make_cursor(name)
        os.rename(f"{name}.aside", name)
        with manager.make_cursor(name) as again:
            assert again.use_region(0, 10).buffer() == file.data[:10]
    assert manager.stats().idle == 1


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="what one client's flags do to another's reads is seen with it")
@pytest.mark.parametrize("how", ["flags", "descriptor"])
def test_flags_of_one_client_are_not_for_others(world: World, how: str) -> None:
    """A descriptor opened with O_DIRECT reads aligned blocks only."""
    file = world.file(16 * W)
    manager = world.manager(2 * W)
    try:
        number = os.open(file.path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:  # tmpfs before Linux 6.5
        pytest.skip(str(error))
    victim = Buffer(manager.make_cursor(file.path))
    manager.collect()
    if how == "flags":
        cursor = manager.make_cursor(file.path).use_region(0, 100, os.O_DIRECT)
    else:
        cursor = manager.make_cursor(number).use_region(0, 100)
    start = 10 * W + 3
    assert victim[start : start + 50] == file.data[start : start + 50]
    assert cursor.buffer() == file.data[:100]
    cursor.close()
    victim.close()
    os.close(number)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a duplicate must do, and shares its locks")
def test_a_lock_on_a_descriptor_ends_when_its_owner_closes_it(world: World) -> None:
    """What smmap keeps open is not the user's own open file."""
    import fcntl

    file = world.file(8 * W)
    manager = world.manager(W)
    with open(file.path, "rb") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        buffer = manager.buffer(mine.fileno())
        assert buffer[3 * W : 3 * W + 9] == file.data[3 * W : 3 * W + 9]
    assert manager.stats().descriptors == 1
    with open(file.path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert buffer[5 * W : 5 * W + 9] == file.data[5 * W : 5 * W + 9]
    buffer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="opens /proc/self/fd")
def test_a_descriptor_is_read_only_even_if_the_users_is_not(world: World) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    with open(file.path, "r+b") as mine:
        buffer = manager.buffer(mine.fileno())
        assert buffer[5] == file.data[5]
        (known,) = manager._cache.open
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(known.descriptor.number, b"x")
    buffer.close()


def test_a_file_that_grows_while_it_is_mapped_is_opened_again(world: World) -> None:
    """No handle is left to cache a descriptor: an old client has its own bytes, or is told; a new one sees the end."""
    file = world.file(8 * W)
    manager = world.manager(W, 0, 2)
    with manager.make_cursor(file.path) as first, manager.make_cursor(file.path) as second:
        first.use_region(0, 9)
        second.use_region(W, 9)
        assert manager.stats().descriptors == 0
        with open(file.path, "ab") as grown:
            grown.write(b"more")
        never_mixed(second, file.data)
        second.unuse_region()
        all_right(manager, file.path, file.data + b"more")
        assert first.buffer() == file.data[:9]


def test_a_file_that_grew_while_it_was_mapped_is_the_same_when_it_no_longer_is(world: World) -> None:
    """Its size was looked at meanwhile, and is what it is compared with when nothing pins it."""
    file = world.file(3 * W)
    manager = world.manager(4 * W)
    with manager.make_cursor(file.path) as first:
        first.use_region(0, 9)
        with open(file.path, "ab") as grown:
            grown.write(file.data[:W])
        second = manager.make_cursor(file.path)
        assert second.file_size() == 4 * W
    manager.collect()
    assert manager.stats()[:7] == (0, 0, 0, 0, 0, 0, 0)
    assert second.use_region(3 * W + 5, 9).buffer() == file.data[5:14]
    second.close()


def test_no_handle_is_left_for_a_file_that_is_gone(world: World) -> None:
    """A move that fails leaves the cursor as it was, although nobody else would find what it holds."""
    file, other, third = world.file(4 * W), world.file(4 * W, "other"), world.file(W, "third")
    manager = world.manager(W, 0, 2)
    number = os.open(file.path, os.O_RDONLY)
    first = manager.make_cursor(number).use_region(0, 9)
    manager.make_cursor(file.path).close()
    os.replace(other.path, file.path)
    manager.make_cursor(file.path).close()
    with manager.make_cursor(third.path) as cursor:
        kept = cursor.use_region(0, 9).buffer()
    view = first.buffer()
    for _ in range(2):
        with pytest.raises(smmap.LimitError):
            first.use_region(2 * W, 9)
        manager._check()
        assert first.is_valid()
        assert first.buffer() == view == file.data[:9]
        assert manager.stats().pinned == 1
    second = manager.make_cursor(number)
    with pytest.raises(smmap.LimitError):
        second.use_region(2 * W, 9)
    manager._check()
    assert kept == third.data[:9]
    del kept
    reclaim()
    assert second.use_region(2 * W + 3, 9).buffer() == file.data[2 * W + 3 : 2 * W + 12]
    second.close()
    del view
    assert first.use_region(3 * W, 9).buffer() == file.data[3 * W : 3 * W + 9]
    first.close()
    os.close(number)


@pytest.mark.parametrize("how", ["move", "by hand"])
def test_idle_regions_of_a_file_that_is_gone_are_evicted(world: World, how: str) -> None:
    """A cursor moves on within the file, or its pin is taken away: nobody else would find the window it had."""
    file, other = world.file(4 * W), world.file(4 * W, "other")
    manager = world.manager(W)
    number = os.open(file.path, os.O_RDONLY)
    cursor = manager.make_cursor(number).use_region(0, 9)
    manager.make_cursor(file.path).close()
    os.replace(other.path, file.path)
    manager.make_cursor(file.path).close()
    assert manager.stats()[:4] == (1, 1, 0, 0)
    if how == "move":
        assert cursor.use_region(W + 5, 9).buffer() == file.data[W + 5 : W + 14]
        assert manager.stats()[:4] == (1, 1, 0, 0)
    else:
        cursor.region().increment_client_count(-1)
        assert manager.stats()[:4] == (1, 0, 0, 1)  # evicted, but the cursor reads on
        assert cursor.buffer() == file.data[:9]
    cursor.close()
    reclaim()
    assert manager.stats()[:4] == (0, 0, 0, 0)
    os.close(number)


@pytest.mark.parametrize("seen", ["by its path", "by a client that is there"])
def test_what_was_read_of_a_file_is_read_again_once_it_was_written_to(world: World, seen: str) -> None:
    """Windows in memory are as old as they are: a new client gets the file as it is now, whoever saw the change."""
    file = world.file(4 * W)
    manager = world.manager(W, backing="read")
    old = manager.make_cursor(str(file.path)).use_region(0)
    keeper = manager.make_cursor(str(file.path)).use_region(W)  # and a descriptor is kept, which tells the file
    old.unuse_region()
    changed = bytes(255 - byte for byte in file.data)
    with open(file.path, "r+b") as writer:
        writer.write(changed)
    age = os.stat(file.path).st_mtime_ns
    os.utime(file.path, ns=(age + 10**9, age + 10**9))
    if seen == "by a client that is there":
        assert keeper.use_region(2 * W).buffer() == changed[2 * W : 3 * W]
    with manager.make_cursor(str(file.path)) as new:
        assert new.use_region(0).buffer() == changed[:W]
    old.close()
    keeper.close()


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links")
def test_release_finds_the_file_by_any_name(world: World, tmp_path: Path) -> None:
    """Also one that the manager never heard of."""
    file, other = world.file(2 * W), world.file(2 * W, "other")
    os.link(file.path, tmp_path / "link")
    manager = world.manager(W)
    number = os.open(file.path, os.O_RDONLY)
    try:
        for where in (number, file.path, tmp_path / "link"):
            for name in (file.path, tmp_path / "link"):
                manager.make_cursor(where).use_region(0, 10).close()
                manager.make_cursor(other.path).use_region(0, 10).close()
                assert manager.release(name) == 1
                assert manager.stats().idle == 1
                assert manager.release(tmp_path / "missing") == 0
        assert manager.release(tmp_path) == 1
    finally:
        os.close(number)


@linux
@pytest.mark.parametrize("left", ["link", "hard link"])
def test_file_that_is_gone_from_another_path_keeps_its_windows(world: World, left: str) -> None:
    file, other = world.file(4 * W, "file"), world.file(4 * W, "other")
    link = world.folder / "link"
    os.link(file.path, link) if left == "hard link" else link.symlink_to(file.path)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    manager.make_cursor(link).use_region(0, 9)
    link.unlink()
    link.symlink_to(other.path)
    manager.make_cursor(link).use_region(0, 9)
    for _ in range(2):
        manager.reset_stats()
        for number in range(4):
            assert cursor.use_region(number * W, 9).buffer() == file.data[number * W : number * W + 9]
    assert (manager.stats().misses, manager.stats().evictions) == (0, 0)
    cursor.close()


@linux
@pytest.mark.parametrize("way", ["linked", "moved"])
def test_release_by_the_name_of_an_earlier_version(world: World, way: str) -> None:
    file = world.file(4 * W, "one/file")
    (world.folder / "two").mkdir()
    manager = world.manager(W)
    assert manager.buffer(file.path).view(0, 9) == file.data[:9]
    (os.link if way == "linked" else os.rename)(file.path, world.folder / "two/file")
    assert manager.buffer(world.folder / "two/file").view(W, W + 9) == file.data[W : W + 9]
    reclaim()
    assert manager.release(world.folder / "one") == 1
    reclaim()
    assert manager.stats().mapped == manager.stats().descriptors == 0


@linux
def test_release_of_a_file_that_was_opened_by_a_path_with_two_slashes(world: World) -> None:
    file = world.file(W)
    manager = world.manager(W)
    assert manager.buffer(f"/{file.path}").view(0, 9) == file.data[:9]
    assert manager.release(world.folder) == 1


def test_region_of_an_earlier_version_has_its_name(world: World) -> None:
    file = world.file(W)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    with open(file.path, "ab") as out:
        out.write(b"more")
    later = manager.make_cursor(file.path).use_region(0, 9)
    assert [info.file for info in manager.regions()] == [str(file.path)] * 2
    cursor.close()
    later.close()


@linux
def test_region_of_an_earlier_version_has_the_name_by_which_that_was_opened_last(world: World) -> None:
    """Not that of the client for which it was mapped, nor that of the later version."""
    file = world.file(W)
    link = world.folder / "link"
    os.link(file.path, link)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    manager.make_cursor(link)
    with open(file.path, "ab") as out:
        out.write(b"more")
    later = manager.make_cursor(file.path).use_region(0, 9)
    assert [(info.file, info.stop) for info in manager.regions()] == [(str(file.path), W), (str(link), W)]
    cursor.close()
    later.close()
