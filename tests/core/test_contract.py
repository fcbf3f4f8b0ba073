"""One contract for every manager, window, backing and way to name a file: whatever is asked, it is what `bytes` says.

The windows are two and four granules, the whole file, and the default; each also under limits so tight that hardly any
window survives the next request. Offsets and sizes are all those at which an answer may change. That truly *every*
pair is right is shown in test_tiny.py, where a granule is a few bytes.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

import smmap
from core._tools import World
from smmap.util import MapRegion, MapRegionList

from ._tools import LATE, File, G, borders, descriptors, expected_size, lengths, linux, payload


class Setting(NamedTuple):
    """A manager to be tested."""

    name: str
    window: int
    static: bool = False
    tight: bool = False

    def make(self, make_manager: Any, backing: str) -> Any:
        memory = max(2 * self.window, G) if self.tight else 0
        handles = 3 if self.tight else sys.maxsize
        return make_manager(self.window, memory, handles, static=self.static, backing=backing)


SETTINGS = [
    Setting("static", 0, static=True),
    Setting("static-tight", 0, static=True, tight=True),
    Setting("whole", 0),
    Setting("default", -1),
    Setting("2G", 2 * G),
    Setting("2G-tight", 2 * G, tight=True),
    Setting("4G", 4 * G),
    Setting("4G-tight", 4 * G, tight=True),
]
SIZES = [1, G - 1, G, 2 * G + 1, 9 * G + 123, 12 * G]
BACKINGS = ["mmap", "read", "auto"]

settings = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
backings = pytest.mark.parametrize("backing", BACKINGS)


def ways(file: File) -> Iterator[tuple[str, Any]]:
    """Each kind of name that is accepted."""
    number = os.open(file.path, os.O_RDONLY)
    try:
        yield "str", str(file.path)
        yield "bytes", os.fsencode(file.path)
        yield "PathLike", file.path
        yield "relative", os.path.relpath(file.path)
        yield "descriptor", number
    finally:
        os.close(number)


def check_cursor(cursor: Any, data: bytes, window: int, offset: int, size: int) -> None:
    """Ask for (offset, size) and compare all that the cursor says with `data`."""
    assert cursor.use_region(offset, size) is cursor
    where = (offset, size, window, len(data))
    assert cursor.is_associated()
    assert cursor.file_size() == len(data)
    if offset >= len(data):
        assert not cursor.is_valid(), where
        assert cursor.size() == 0, where
        return
    assert cursor.is_valid(), where
    assert cursor.size() == expected_size(offset, size, window, len(data)), where
    assert cursor.ofs_begin() == offset, where
    assert cursor.ofs_end() == offset + cursor.size(), where
    view = cursor.buffer()
    assert isinstance(view, memoryview)
    assert (view.readonly, view.format, view.ndim, view.nbytes) == (True, "B", 1, cursor.size()), where
    assert view == data[offset : offset + cursor.size()], where
    for inside in (offset, cursor.ofs_end() - 1):
        assert cursor.includes_ofs(inside), where
    for outside in (offset - 1, cursor.ofs_end()):
        assert not cursor.includes_ofs(outside), where
    region = cursor.region()
    start, stop = region.ofs_begin(), region.ofs_end()
    assert start % G == 0
    assert 0 <= start <= offset < cursor.ofs_end() <= stop <= len(data), where
    assert region.size() == stop - start <= (window + G if window else len(data)), where
    assert region.includes_ofs(start)
    assert region.includes_ofs(stop - 1)
    assert not region.includes_ofs(start - 1)
    assert not region.includes_ofs(stop)
    raw = cursor.map()
    assert raw is region.map()
    assert len(raw) == stop - start
    piece = raw[offset - start : offset - start + cursor.size()]
    assert isinstance(piece, bytes)
    assert piece == view
    assert struct.unpack_from("B", raw, offset - start) == (data[offset],)


@backings
@settings
def test_cursor_at_every_border(setting: Setting, backing: str, world: World) -> None:
    for size in SIZES:
        file = world.file(size, f"data{size}")
        manager = setting.make(world.manager, backing)
        window = manager.window_size() if manager.window_size() < 1 << 20 else 0
        pairs = [(offset, n) for offset in borders(size, window or 4 * G) for n in lengths(window or 4 * G)]
        pairs += [(offset, n) for offset in (size + 1, size + G, sys.maxsize) for n in (0, 1, sys.maxsize)]
        random.Random(size).shuffle(pairs)  # nothing may depend on what was asked before
        if LATE and setting.tight:
            del pairs[60:]  # each miss collects garbage there
        with manager.make_cursor(str(file.path)) as cursor:
            for offset, n in pairs:
                check_cursor(cursor, file.data, window, offset, n)
        manager._check()


@settings
def test_cursors_and_history_do_not_change_sizes(setting: Setting, world: World) -> None:
    """A cursor with no history, one with a long one, and one of a manager full of windows get the same sizes."""
    file = world.file(9 * G + 123)
    manager = setting.make(world.manager, "auto")
    window = manager.window_size() if manager.window_size() < 1 << 20 else 4 * G
    old = manager.make_cursor(file.path)
    chance = random.Random(5)
    for _ in range(60 if LATE and setting.tight else 300):
        offset, n = chance.choice(borders(len(file.data), window)), chance.choice(lengths(window))
        fresh = setting.make(world.manager, "auto")
        with fresh.make_cursor(file.path) as young:
            young.use_region(offset, n)
            old.use_region(offset, n)
            assert (old.is_valid(), old.size()) == (young.is_valid(), young.size())
            if old.is_valid():
                assert (old.region().ofs_begin(), old.region().ofs_end()) == (
                    young.region().ofs_begin(),
                    young.region().ofs_end(),
                ) or n > 0  # for n > 0 the region that the cursor has is enough
                assert old.buffer() == young.buffer()
        fresh.close()


@backings
@settings
def test_every_way_to_name_a_file(setting: Setting, backing: str, world: World) -> None:
    file = world.file(9 * G + 123)
    manager = setting.make(world.manager, backing)
    window = manager.window_size() if manager.window_size() < 1 << 20 else 0
    for kind, name in ways(file):
        cursor = manager.make_cursor(name)
        assert cursor.path_or_fd() is name
        if kind == "descriptor":
            assert cursor.fd() == name
            with pytest.raises(ValueError, match=r".+"):
                cursor.path()
        else:
            assert cursor.path() is name
            with pytest.raises(ValueError, match=r".+"):
                cursor.fd()
        for offset, n in [(0, 0), (1, G), (G + 1, 2 * G - 1), (4 * G - 1, 2), (len(file.data) - 1, 5), (9 * G, 0)]:
            check_cursor(cursor, file.data, window, offset, n)
        buffer = smmap.SlidingWindowMapBuffer(cursor)
        assert buffer[:] == file.data
        assert buffer[3 * G - 5 : 6 * G + 5] == file.data[3 * G - 5 : 6 * G + 5]
        buffer.close()
        cursor.close()


@backings
def test_empty_file(backing: str, world: World) -> None:
    file = world.file(0)
    for setting in SETTINGS:
        manager = setting.make(world.manager, backing)
        for _, name in ways(file):
            with manager.make_cursor(name) as cursor:
                for offset in (0, 1, G):
                    for n in (0, 1, G):
                        check_cursor(cursor, b"", 0, offset, n)
                with smmap.SlidingWindowMapBuffer(cursor) as buffer:
                    assert len(buffer) == 0
                    assert buffer[:] == b""
                    assert list(buffer) == []
                    assert b"" in buffer
                    assert buffer.find(b"x") == -1
                    assert buffer == b""
                    with pytest.raises(IndexError):
                        buffer[0]
                with pytest.raises(ValueError, match=r".+"):
                    smmap.SlidingWindowMapBuffer(cursor, 1)


@linux
@settings
def test_descriptors_of_the_user_are_left_alone(setting: Setting, world: World) -> None:
    """Neither closed nor moved: its own file position is the user's."""
    file = world.file(9 * G)
    manager = setting.make(world.manager, "auto")
    number = os.open(file.path, os.O_RDONLY)
    os.lseek(number, 77, os.SEEK_SET)
    with manager.make_cursor(number) as cursor:
        with smmap.SlidingWindowMapBuffer(cursor) as buffer:
            for offset in range(0, 9 * G, 1000):
                assert buffer[offset : offset + 10] == file.data[offset : offset + 10]
        cursor.use_region(5 * G, 10)
    manager.close()
    assert os.lseek(number, 0, os.SEEK_CUR) == 77
    assert descriptors(file.path.parent) == [str(file.path)]
    os.close(number)


@settings
def test_copies_and_assigns(setting: Setting, world: World) -> None:
    import copy

    file, other = world.file(9 * G + 123), world.file(5 * G, "other")
    manager = setting.make(world.manager, "auto")
    cursor = manager.make_cursor(file.path).use_region(3 * G + 1, G)
    twin = copy.copy(cursor)
    assert (twin.ofs_begin(), twin.size(), twin.path_or_fd()) == (3 * G + 1, G, file.path)
    assert twin.region() is cursor.region()
    cursor.use_region(0, 5)
    assert twin.buffer() == file.data[3 * G + 1 : 4 * G + 1]
    view = cursor.buffer()
    cursor.assign(twin)
    assert cursor.buffer() == twin.buffer()
    assert view == file.data[:5]
    twin.close()
    assert cursor.buffer() == file.data[3 * G + 1 : 4 * G + 1]
    cursor.assign(manager.make_cursor(other.path))
    assert not cursor.is_valid()
    assert cursor.is_associated()
    assert cursor.use_region(G, 9).buffer() == other.data[G : G + 9]
    empty = smmap.WindowCursor(manager)
    assert not empty.is_associated()
    assert not empty.is_valid()
    assert empty.size() == 0
    assert not copy.copy(empty).is_associated()
    cursor.assign(empty)
    assert not cursor.is_associated()
    cursor.close()


@pytest.mark.parametrize("windows", [(2 * G, 8 * G), (8 * G, 2 * G)])
def test_a_copy_has_the_windows_of_its_manager(world: World, windows: Any) -> None:
    file = world.file(24 * G)
    own, other = (world.manager(window) for window in windows)
    rhs = other.make_cursor(file.path)
    pinning = [other.make_cursor(file.path).use_region(offset, 9) for offset in range(0, 24 * G, 2 * G)]
    cursor = own.make_cursor(file.path).use_region(0, 9)
    cursor.assign(rhs)
    for offset, size in ((5, 9), (10 * G + 1, 9), (4 * G - 5, 0), (7, 6 * G), (22 * G, 0), (18 * G, 4 * G)):
        cursor.use_region(offset, size)
        assert cursor.size() == expected_size(offset, size, windows[1], 24 * G)
        assert cursor.buffer() == file.data[offset : offset + cursor.size()]
    for each in (cursor, rhs, *pinning):
        each.close()


def test_unuse_any_number_of_times(world: World) -> None:
    file = world.file(3 * G)
    manager = world.manager(2 * G)
    cursor = manager.make_cursor(file.path)
    cursor.unuse_region()
    for _ in range(3):
        cursor.use_region(G, 7)
        assert manager.stats().pinned == 1
        for _ in range(3):
            cursor.unuse_region()
            assert not cursor.is_valid()
            assert cursor.is_associated()
            assert manager.stats().pinned == 0
    assert manager.stats().idle == 1
    for _ in range(3):
        cursor._destroy()


def test_window_sizes(world: World) -> None:
    """Rounded up to twice the granularity, and at most an eighth of a memory limit if none is asked for."""
    for window in (1, G, 2 * G - 1, 2 * G, 2 * G + 1, 64 * G):
        manager = world.manager(window)
        rounded = manager.window_size()
        assert rounded % (2 * G) == 0
        assert window <= rounded < window + 2 * G
    assert world.manager(0).window_size() == 0
    assert world.manager(static=True).window_size() == 0
    assert world.manager().window_size() == (4 << 30 if sys.maxsize > 1 << 32 else 64 << 20)
    assert world.manager(backing="read").window_size() == 8 << 20
    assert world.manager(backing="read").max_mapped_memory_size() == 1 << 30
    assert world.manager(-1, 160 * G).window_size() <= 20 * G
    assert world.manager(-1, 160 * G).window_size() % (2 * G) == 0
    assert world.manager(16 * G, 32 * G).window_size() == 16 * G
    default = world.manager()
    assert default.max_mapped_memory_size() == (32 << 30 if sys.maxsize > 1 << 32 else 1 << 30)
    assert world.manager(16 * G, 32 * G, 5).max_mapped_memory_size() == 32 * G
    assert world.manager(16 * G, 32 * G, 5).max_file_handles() == 5


def test_a_region_of_its_own(world: World) -> None:
    file = world.file(5 * G + 9)
    region = MapRegion(str(file.path), 2 * G, 2 * G)
    assert (region.ofs_begin(), region.ofs_end(), region.size()) == (2 * G, 4 * G, 2 * G)
    assert region.buffer() == file.data[2 * G : 4 * G]
    assert region.map()[:9] == file.data[2 * G : 2 * G + 9]
    assert region.client_count() == 1
    view = region.buffer()
    region.release()
    assert view == file.data[2 * G : 4 * G]
    clipped = MapRegion(file.path, 4 * G, sys.maxsize)
    assert clipped.buffer() == file.data[4 * G :]
    for offset, size in [(-G, G), (1, G), (6 * G, G)]:
        with pytest.raises(ValueError, match=r".+"):
            MapRegion(file.path, offset, size)


def test_region_list(world: World) -> None:
    file = world.file(5 * G + 9)
    listed = MapRegionList(str(file.path))
    assert len(listed) == 0
    assert list(listed) == []
    assert listed.file_size() == len(file.data)
    assert listed.path_or_fd() == str(file.path)
    assert payload(10) != payload(10, 1)


def accepted(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ValueError:
        return False
    return True


@settings
def test_where_a_buffer_may_start(setting: Setting, world: World, tmp_path: Path) -> None:
    file = world.file(3 * G + 5)
    manager = setting.make(world.manager, "auto")
    cursor = manager.make_cursor(file.path)
    for offset in borders(len(file.data), 2 * G):
        fine = accepted(lambda: smmap.SlidingWindowMapBuffer(cursor, offset).close())
        assert fine == (offset < len(file.data)), offset
    assert not accepted(lambda: smmap.SlidingWindowMapBuffer(cursor, -1))
    assert not accepted(lambda: smmap.SlidingWindowMapBuffer(smmap.WindowCursor(manager)))
