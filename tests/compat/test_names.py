"""Every name of smmap 5 that others use, and what it means: one small test for each."""

from __future__ import annotations

import array
import copy
import errno
import importlib.metadata
import importlib.util
import inspect
import mmap
import os
import pathlib
import re
import struct
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

import smmap
import smmap.buf
import smmap.mman
import smmap.util
from core._tools import LATE, File, G, World, linux, reclaim, run_python
from smmap.util import MapRegion, MapRegionList, MapWindow

W = 2 * G
"""The smallest window there is."""

SIZE = 5 * W + 123
"""A file of five whole windows and a part."""

WINDOWS = sys.platform == "win32"


@pytest.fixture
def file(world: World) -> File:
    return world.file(SIZE)  # type: ignore[no-any-return]


@pytest.fixture
def manager(world: World) -> Any:
    return world.manager(W)


@pytest.fixture(params=["static", "sliding"])
def either(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(W, static=request.param == "static")


@pytest.fixture
def cursor(manager: Any, file: File) -> Iterator[Any]:
    cursor = manager.make_cursor(str(file.path))
    yield cursor
    cursor._destroy()  # pytest still refers to it when the manager's ledger is read


def signature(function: Any) -> str:
    """Names and defaults of the parameters that smmap 5 has, `self` and keyword-only ones aside."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    told = [
        p.name if p.default is p.empty else f"{p.name}={'maxsize' if p.default == sys.maxsize else p.default}"
        for p in parameters
        if p.kind in kinds and p.name != "self"
    ]
    return ", ".join(told)


# Names, import paths, the distribution


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (smmap, "SlidingWindowMapManager StaticWindowMapManager WindowCursor SlidingWindowMapBuffer"),
        (smmap, "__version__ version_info"),
        (smmap.mman, "SlidingWindowMapManager StaticWindowMapManager WindowCursor"),
        (smmap.buf, "SlidingWindowMapBuffer"),
        (smmap.util, "MapWindow MapRegion MapRegionList ALLOCATIONGRANULARITY is_64_bit align_to_mmap"),
    ],
)
def test_names_are_there(module: ModuleType, names: str) -> None:
    assert set(names.split()) <= set(module.__all__)
    assert all(hasattr(module, name) for name in names.split())


def test_a_name_is_one_object_wherever_it_is_taken_from() -> None:
    for module in (smmap.mman, smmap.buf):
        for name in module.__all__:
            assert getattr(module, name) is getattr(smmap, name)
    for name in ("MapWindow", "MapRegion", "MapRegionList"):
        assert getattr(smmap.StaticWindowMapManager, f"{name}Cls") is getattr(smmap.util, name)


def test_class_attributes_of_managers() -> None:
    for cls in (smmap.StaticWindowMapManager, smmap.SlidingWindowMapManager):
        assert cls.MapRegionListCls is MapRegionList
        assert cls.MapWindowCls is MapWindow
        assert cls.MapRegionCls is MapRegion
        assert cls.WindowCursorCls is smmap.WindowCursor


def test_sliding_is_a_kind_of_static() -> None:
    assert issubclass(smmap.SlidingWindowMapManager, smmap.StaticWindowMapManager)


def test_version() -> None:
    assert smmap.version_info == (5, 1, 0)
    assert smmap.__version__ == "5.1.0"


def test_the_distribution_satisfies_gitdb() -> None:
    version = importlib.metadata.version("smmap")
    assert version == smmap.__version__
    assert version in SpecifierSet(">=3.0.1,<6")
    pytest.importorskip("gitdb")
    (wanted,) = (need for need in importlib.metadata.requires("gitdb") or [] if need.startswith("smmap"))
    assert version in SpecifierSet(re.sub("[^<>=0-9.,]", "", wanted.replace("smmap", "")))


def test_the_distribution_needs_nothing() -> None:
    assert all("extra ==" in need for need in importlib.metadata.requires("smmap") or [])
    assert importlib.metadata.metadata("smmap")["License-Expression"] == "BSD-3-Clause"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (smmap.StaticWindowMapManager.__init__, "window_size=0, max_memory_size=0, max_open_handles=maxsize"),
        (smmap.SlidingWindowMapManager.__init__, "window_size=-1, max_memory_size=0, max_open_handles=maxsize"),
        (smmap.StaticWindowMapManager.make_cursor, "path_or_fd"),
        (smmap.StaticWindowMapManager.force_map_handle_removal_win, "base_path"),
        (smmap.WindowCursor.use_region, "offset=0, size=0, flags=0"),
        (smmap.WindowCursor.includes_ofs, "ofs"),
        (smmap.WindowCursor.assign, "rhs"),
        (smmap.SlidingWindowMapBuffer.__init__, "cursor=None, offset=0, size=maxsize, flags=0"),
        (smmap.SlidingWindowMapBuffer.begin_access, "cursor=None, offset=0, size=maxsize, flags=0"),
        (MapRegion.__init__, "path_or_fd, ofs, size, flags=0"),
        (MapRegion.includes_ofs, "ofs"),
        (MapRegion.increment_client_count, "ofs=1"),
        (MapWindow.__init__, "offset, size"),
        (MapWindow.extend_left_to, "window, max_size"),
        (MapWindow.extend_right_to, "window, max_size"),
        (MapWindow.from_region, "region"),
        (smmap.util.align_to_mmap, "num, round_up"),
        (smmap.util.is_64_bit, ""),
    ],
)
def test_signatures(function: Any, expected: str) -> None:
    assert signature(function) == expected


def test_a_list_of_regions_takes_the_file_first() -> None:
    assert signature(MapRegionList.__init__).startswith("path_or_fd")
    assert signature(smmap.WindowCursor.__init__).startswith("manager=None")


# Managers


def test_default_sizes() -> None:
    sliding, static = smmap.SlidingWindowMapManager(), smmap.StaticWindowMapManager()
    assert sliding.window_size() == (4 << 30 if smmap.util.is_64_bit() else 64 << 20)
    assert static.window_size() == 0
    for manager in (sliding, static):
        assert manager.max_mapped_memory_size() == (32 << 30 if smmap.util.is_64_bit() else 1 << 30)


@pytest.mark.parametrize("cls", [smmap.StaticWindowMapManager, smmap.SlidingWindowMapManager])
def test_window_size_minus_one_and_zero(cls: Any) -> None:
    assert cls(window_size=-1).window_size() == smmap.SlidingWindowMapManager().window_size()
    assert cls(window_size=0).window_size() == 0


@pytest.mark.parametrize(("asked", "rounded"), [(1, W), (W - 1, W), (W, W), (W + 1, 2 * W), (3 * G, 2 * W)])
def test_window_size_reports_the_rounded_size(asked: int, rounded: int) -> None:
    assert smmap.SlidingWindowMapManager(asked).window_size() == rounded
    assert smmap.StaticWindowMapManager(asked).window_size() == rounded


def test_a_default_window_is_at_most_an_eighth_of_the_memory() -> None:
    window = smmap.SlidingWindowMapManager(max_memory_size=100 << 20).window_size()
    assert W <= window <= (100 << 20) // 8
    assert window % W == 0


def test_limits_are_reported_as_given() -> None:
    manager = smmap.SlidingWindowMapManager(W, 12345, 67)
    assert manager.max_mapped_memory_size() == 12345
    assert manager.max_file_handles() == 67


def test_the_handle_limit_comes_from_the_system_when_not_given() -> None:
    assert 1 <= smmap.SlidingWindowMapManager().max_file_handles() <= sys.maxsize


def test_the_constructor_and_the_import_have_no_side_effect() -> None:
    run_python(
        """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)) if event.startswith(("open", "os.", "mmap", "resource",
                                                                                    "_thread", "socket")) else None)
import smmap
del seen[:]
managers = [cls(*arguments) for cls in (smmap.StaticWindowMapManager, smmap.SlidingWindowMapManager)
            for arguments in ((), (1 << 20,), (1 << 20, 1 << 24, 10))]
assert seen == [], seen
import threading
assert threading.active_count() == 1
"""
    )


def test_a_manager_may_live_until_the_process_ends(file: File) -> None:
    """gitdb makes one at import and never closes it; here one ends with maps that are pinned, idle and detached."""
    run_python(
        f"""
import smmap, sys
manager = smmap.SlidingWindowMapManager({W})
pinned = manager.make_cursor(sys.argv[1]).use_region(0, 10)
view = manager.make_cursor(sys.argv[1]).use_region({W}, 10).buffer()
manager.collect()
idle = smmap.SlidingWindowMapBuffer(manager.make_cursor(sys.argv[1]), {2 * W})
""",
        file.path,
    )


def test_counters(manager: Any, world: World) -> None:
    first, second = world.file(SIZE, "first"), world.file(SIZE, "second")
    assert (manager.num_file_handles(), manager.num_open_files(), manager.mapped_memory_size()) == (0, 0, 0)
    a = manager.make_cursor(str(first.path))
    b = manager.make_cursor(str(second.path))
    assert (manager.num_file_handles(), manager.num_open_files(), manager.mapped_memory_size()) == (0, 0, 0)
    a.use_region(0, 1)
    assert (manager.num_file_handles(), manager.num_open_files(), manager.mapped_memory_size()) == (1, 1, W)
    a.use_region(W, 1)
    assert (manager.num_file_handles(), manager.num_open_files(), manager.mapped_memory_size()) == (2, 1, 2 * W)
    b.use_region(SIZE - 1, 1)
    assert (manager.num_file_handles(), manager.num_open_files(), manager.mapped_memory_size()) == (3, 2, 2 * W + 123)


def test_collect_frees_every_idle_region_and_says_how_many(manager: Any, cursor: Any) -> None:
    for number in range(4):
        cursor.use_region(number * W, 1)
    assert manager.collect() == 3, "the fourth is pinned"
    assert manager.num_file_handles() == 1
    assert cursor.is_valid()
    cursor.unuse_region()
    assert manager.collect() == 1
    assert manager.collect() == 0
    assert manager.num_file_handles() == 0


def test_collect_never_raises(manager: Any, file: File) -> None:
    """With views of every kind alive, the file gone, and the manager closed: GitPython calls it unguarded."""
    cursor = manager.make_cursor(str(file.path)).use_region(0, W)
    views = [cursor.buffer(), memoryview(cursor.map()), cursor.region().buffer()]
    iterator = iter(cursor.buffer())
    next(iterator)
    cursor.unuse_region()
    assert manager.collect() == 1
    assert manager.collect() == 0
    if not WINDOWS:
        file.path.unlink()
    manager.collect()
    manager.close()
    assert manager.collect() == 0
    for view in views:
        assert view[:W] == file.data[:W]
    assert next(iterator) == file.data[1]


def test_static_regions_larger_than_the_limit_stay_idle_until_collect(world: World, file: File) -> None:
    manager = world.manager(0, SIZE // 3, static=True)
    manager.make_cursor(str(file.path)).use_region(10, 10).unuse_region()
    assert (manager.num_file_handles(), manager.mapped_memory_size()) == (1, SIZE)
    assert manager.collect() == 1
    assert manager.num_file_handles() == 0


def test_collect_lru_region_makes_room(world: World, file: File) -> None:
    """0: whatever is idle; n: the oldest, as many as n more bytes need; what cannot fit takes nothing."""
    manager = world.manager(W, 4 * W)
    assert manager._collect_lru_region(0) == 0
    cursor = manager.make_cursor(str(file.path))
    for number in range(4):
        cursor.use_region(number * W, 1)
    cursor.unuse_region()
    assert manager._collect_lru_region(sys.maxsize) == 0
    assert manager.num_file_handles() == 4
    assert manager._collect_lru_region(1) == 1
    assert manager._collect_lru_region(W) == 0
    assert manager._collect_lru_region(2 * W) == 1
    misses = manager.stats().misses
    cursor.use_region(2 * W, 1).use_region(3 * W, 1)
    assert manager.stats().misses == misses, "the two youngest are there still"
    assert cursor.use_region(0, 1).is_valid()
    assert manager.stats().misses == misses + 1
    cursor.unuse_region()
    assert manager._collect_lru_region(0) == 3


@pytest.mark.skipif(WINDOWS, reason="there it does something")
def test_force_map_handle_removal_win_does_nothing_elsewhere(manager: Any, file: File) -> None:
    cursor = manager.make_cursor(str(file.path)).use_region(0, 10)
    manager.make_cursor(str(file.path)).use_region(W, 10).unuse_region()
    before = manager.stats()
    for path in (str(file.path), str(file.path.parent), str(file.path.parent / "no such file"), ""):
        assert manager.force_map_handle_removal_win(path) is None
    assert manager.stats() == before
    assert cursor.is_valid()
    assert cursor.buffer() == file.data[:10]


@pytest.mark.skipif(not WINDOWS, reason="elsewhere it does nothing")
def test_force_map_handle_removal_win_closes_maps_on_windows(manager: Any, world: World) -> None:
    inside, beside = world.file(SIZE, "folder/data"), world.file(SIZE, "folder2")
    cursor = manager.make_cursor(str(inside.path)).use_region(0, 10)
    other = manager.make_cursor(str(beside.path)).use_region(0, 10)
    manager.force_map_handle_removal_win(str(inside.path.parent))
    inside.path.unlink()
    with pytest.raises(smmap.ClosedError):
        cursor.buffer()
    assert other.buffer() == beside.data[:10], "whole components of the path count"


def test_make_cursor_refuses_at_once(either: Any, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        either.make_cursor(missing)
    assert caught.value.filename == missing
    if not WINDOWS:
        with pytest.raises(IsADirectoryError) as folder:
            either.make_cursor(str(tmp_path))
        assert folder.value.filename == str(tmp_path)
    with pytest.raises(OSError) as closed:
        either.make_cursor(1 << 20)
    assert closed.value.errno == errno.EBADF
    assert either.stats().files == 0


# Cursors


def test_a_new_cursor_is_associated_and_maps_nothing(either: Any, file: File) -> None:
    cursor = either.make_cursor(str(file.path))
    assert cursor.is_associated()
    assert not cursor.is_valid()
    assert cursor.size() == 0
    assert cursor.region() is None
    assert cursor.file_size() == SIZE
    assert either.num_file_handles() == 0


def test_a_cursor_of_a_manager_alone_is_unassociated(manager: Any) -> None:
    for cursor in (smmap.WindowCursor(manager), smmap.WindowCursor()):
        assert not cursor.is_associated()
        assert not cursor.is_valid()
        assert cursor.size() == 0
        cursor.unuse_region()
        cursor._destroy()
        cursor._destroy()


def test_use_region_returns_the_cursor(cursor: Any) -> None:
    assert cursor.use_region() is cursor
    assert cursor.use_region(10, 10) is cursor
    assert cursor.use_region(offset=SIZE, size=1, flags=0) is cursor


@pytest.mark.parametrize("size", [1, G, W])
def test_offsets_of_a_cursor(size: int, manager: Any, cursor: Any, file: File) -> None:
    for offset in (0, 1, G - 1, G, W - 1, W, 3 * W + 17, SIZE - 1):
        assert cursor.use_region(offset, size).is_valid()
        end = min(offset + size, SIZE)
        assert (cursor.ofs_begin(), cursor.ofs_end(), cursor.size()) == (offset, end, end - offset)
        assert cursor.buffer() == file.data[offset:end]
        assert cursor.includes_ofs(offset)
        assert cursor.includes_ofs(end - 1)
        assert not cursor.includes_ofs(end)
        assert not cursor.includes_ofs(offset - 1)
        region = cursor.region()
        assert isinstance(region, MapRegion)
        assert region.ofs_begin() <= offset < end <= region.ofs_end()
        assert region.client_count() == 2
        assert manager.stats().pinned == 1


def test_size_zero_gives_at_least_half_a_window(cursor: Any, file: File) -> None:
    for offset in range(0, SIZE, 997):
        cursor.use_region(offset)
        assert cursor.ofs_begin() == offset
        assert cursor.size() >= min(W // 2, SIZE - offset)
        assert cursor.buffer() == file.data[offset : cursor.ofs_end()]


def test_everything_is_one_window_for_a_static_manager(world: World, file: File) -> None:
    manager = world.manager(static=True)
    cursor = manager.make_cursor(str(file.path)).use_region()
    assert cursor.buffer() == file.data
    assert cursor.use_region(4711).buffer() == file.data[4711:]
    assert cursor.use_region(0, 12).buffer() == file.data[:12]
    assert cursor.region().size() == SIZE
    assert manager.num_file_handles() == 1


@pytest.mark.parametrize("offset", [SIZE, SIZE + 1, 10 * SIZE, sys.maxsize])
def test_an_offset_past_the_end_is_not_valid(offset: int, manager: Any, cursor: Any, file: File) -> None:
    cursor.use_region(0, 10)
    for size in (0, 1):
        assert not cursor.use_region(offset, size).is_valid()
    assert cursor.is_associated()
    assert manager.stats().pinned == 0
    assert cursor.use_region(5, 5).buffer() == file.data[5:10], "and it can be used again"


def test_an_empty_file_is_never_valid(either: Any, world: World) -> None:
    cursor = either.make_cursor(str(world.file(0).path))
    assert cursor.file_size() == 0
    assert cursor.is_associated()
    assert not cursor.use_region().is_valid()
    assert not cursor.use_region(0, 1).is_valid()
    assert either.num_file_handles() == 0


def test_a_buffer_is_read_only(cursor: Any, file: File) -> None:
    view = cursor.use_region(3, 30).buffer()
    assert type(view) is memoryview
    assert (view.readonly, view.format, view.nbytes, view.contiguous) == (True, "B", 30, True)
    with pytest.raises(TypeError):
        view[0] = 0
    with pytest.raises((TypeError, ValueError)):
        cursor.map()[0] = 0
    assert struct.unpack_from(">LLL", view) == struct.unpack_from(">LLL", file.data, 3)


def test_a_view_outlives_everything(world: World, file: File) -> None:
    manager = world.manager(W, W, 4)
    cursor = manager.make_cursor(str(file.path)).use_region(7, 100)
    view = cursor.buffer()
    expected = file.data[7:107]
    cursor.use_region(W, 1)
    assert view == expected, "the cursor moved"
    manager.collect()
    assert view == expected, "and the region went"
    cursor._destroy()
    del cursor
    reclaim()
    assert view == expected
    if not WINDOWS:
        file.path.unlink()
    manager.close()
    assert view == expected
    assert array.array("B", view).tobytes() == expected
    part = view[10:20]
    view.release()
    assert part == expected[10:20]


def test_a_view_may_be_released_by_its_user(cursor: Any, file: File) -> None:
    """A `with` on one view does not take the next one away."""
    with cursor.use_region(0, 50).buffer() as view:
        assert view == file.data[:50]
    assert cursor.buffer() == file.data[:50]
    with cursor.region().buffer() as whole:
        assert whole == file.data[:W]
    assert cursor.buffer() == file.data[:50]


def is_a_map(thing: Any) -> bool:
    """The plain engine gives the `mmap` itself, the other one what answers like it."""
    return isinstance(thing, mmap.mmap) or smmap.engine != "plain"


def test_map_is_the_mmap_itself(cursor: Any, file: File) -> None:
    data = cursor.use_region(W + 5, 10).map()
    assert is_a_map(data)
    assert data is cursor.region().map()
    assert cursor.region().ofs_begin() == W
    assert len(data) == W
    assert data.find(file.data[W + 9 : W + 19]) == 9
    assert data.rfind(file.data[W + 9 : W + 19]) == 9
    with pytest.raises(TypeError):
        data[0] = 0
    with pytest.raises(BufferError):
        data.close()
    assert type(data[10:20]) is bytes
    assert data[10:20] == file.data[W + 10 : W + 20]
    assert data[-40:-20] == file.data[2 * W - 40 : 2 * W - 20]
    assert struct.unpack_from(">L", data, 4) == struct.unpack_from(">L", file.data, W + 4)


@pytest.mark.parametrize("window", [0, 1 << 20])
def test_map_starts_with_the_file_if_one_window_covers_it(window: int, world: World, file: File) -> None:
    """gitdb reads pack indexes so, after any `use_region`."""
    cursor = world.manager(window).make_cursor(str(file.path))
    for offset in (0, 5, W, SIZE - 20):
        data = cursor.use_region(offset).map()
        assert len(data) == SIZE
        assert data[:4] == file.data[:4]
        assert data[-40:-20] == file.data[-40:-20]


@pytest.mark.parametrize("kind", ["str", "bytes", "path"])
def test_paths_come_back_as_they_were_given(kind: str, either: Any, file: File) -> None:
    given: Any = {"str": str(file.path), "bytes": os.fsencode(file.path), "path": pathlib.PurePath(file.path)}[kind]
    cursor = either.make_cursor(given)
    assert cursor.path_or_fd() is given
    assert cursor.path() is given
    with pytest.raises(ValueError):
        cursor.fd()
    assert cursor.use_region(5, 5).buffer() == file.data[5:10]
    assert either.num_open_files() == 1


def test_each_name_of_a_file_comes_back_and_the_regions_are_shared(manager: Any, file: File) -> None:
    link = file.path.with_name("link")
    os.link(file.path, link)
    first, second = str(file.path), str(link)
    a, b = manager.make_cursor(first), manager.make_cursor(second)
    assert a.use_region(0, 10).region() is b.use_region(5, 10).region()
    assert a.region().client_count() == 3
    assert a.path() is first
    assert b.path() is second
    assert manager.num_open_files() == 1


def test_descriptors_come_back_and_stay_open(either: Any, file: File) -> None:
    with file.path.open("rb") as opened:
        number = opened.fileno()
        cursor = either.make_cursor(number)
        assert cursor.path_or_fd() == number
        assert cursor.fd() == number
        with pytest.raises(ValueError):
            cursor.path()
        assert cursor.use_region(W - 5, 10).buffer() == file.data[W - 5 : W + 5]
        del cursor
        either.collect()
        assert opened.read() == file.data, "it was not closed, nor moved"


def test_path_and_fd_of_an_unassociated_cursor(manager: Any) -> None:
    for question in (smmap.WindowCursor(manager).path, smmap.WindowCursor(manager).fd):
        with pytest.raises(ValueError):
            question()


def test_unuse_region_any_number_of_times(manager: Any, cursor: Any, file: File) -> None:
    cursor.unuse_region()
    cursor.use_region(0, 10)
    region = cursor.region()
    assert region.client_count() == 2
    for _ in range(3):
        cursor.unuse_region()
        assert not cursor.is_valid()
        assert region.client_count() == 1
    assert cursor.is_associated()
    assert manager.num_file_handles() == 1, "it stays mapped until room is needed"
    assert cursor.use_region(0, 10).region() is region


def test_destroy_any_number_of_times(manager: Any, cursor: Any) -> None:
    region = cursor.use_region(0, 10).region()
    for _ in range(3):
        cursor._destroy()
        assert not cursor.is_valid()
        assert region.client_count() == 1
    assert manager.stats().pinned == 0


def test_a_cursor_is_a_context_manager(manager: Any, file: File) -> None:
    with manager.make_cursor(str(file.path)) as cursor:
        assert cursor.use_region(1, 2).is_valid()
        region = cursor.region()
    assert not cursor.is_valid()
    assert region.client_count() == 1


def test_a_dropped_cursor_lets_go(manager: Any, cursor: Any, file: File) -> None:
    other = manager.make_cursor(str(file.path)).use_region(0, 10)
    region = cursor.use_region(0, 10).region()
    assert region.client_count() == 3
    del other
    reclaim()
    assert manager.stats().pinned == 1
    assert region.client_count() == 2


def test_a_copy_shares_the_region_and_moves_alone(manager: Any, cursor: Any, file: File) -> None:
    cursor.use_region(5, 10)
    twin = copy.copy(cursor)
    assert type(twin) is type(cursor)
    assert twin.is_valid()
    assert twin.region() is cursor.region()
    assert twin.region().client_count() == 3
    assert twin.buffer() == cursor.buffer() == file.data[5:15]
    assert twin.path_or_fd() is cursor.path_or_fd()
    twin.use_region(W, 3)
    assert (cursor.ofs_begin(), cursor.size(), cursor.buffer()) == (5, 10, file.data[5:15])
    cursor._destroy()
    assert twin.buffer() == file.data[W : W + 3]


def test_a_copy_of_a_cursor_without_a_region(cursor: Any, file: File) -> None:
    twin = copy.copy(cursor)
    assert twin.is_associated()
    assert not twin.is_valid()
    assert twin.use_region(0, 3).buffer() == file.data[:3]
    assert not cursor.is_valid()


def test_a_copy_of_an_unassociated_cursor(manager: Any, file: File) -> None:
    twin = copy.copy(smmap.WindowCursor(manager))
    assert not twin.is_associated()
    assert not twin.is_valid()
    twin.assign(manager.make_cursor(str(file.path)))
    assert twin.use_region(0, 3).buffer() == file.data[:3]


def test_assign(manager: Any, cursor: Any, world: World, file: File) -> None:
    """The old region is let go, the other one's is pinned too."""
    other_file = world.file(SIZE, "other")
    other = manager.make_cursor(str(other_file.path)).use_region(W + 1, 5)
    old = cursor.use_region(0, 10).region()
    assert cursor.assign(other) is None
    assert old.client_count() == 1
    assert cursor.region() is other.region()
    assert cursor.region().client_count() == 3
    assert cursor.buffer() == other_file.data[W + 1 : W + 6]
    assert cursor.path_or_fd() is other.path_or_fd()
    other._destroy()
    assert cursor.use_region(3, 4).buffer() == other_file.data[3:7]


def test_assign_to_itself(cursor: Any, file: File) -> None:
    cursor.use_region(5, 10)
    cursor.assign(cursor)
    assert cursor.is_valid()
    assert cursor.region().client_count() == 2
    assert cursor.buffer() == file.data[5:15]


def test_assign_between_associated_and_unassociated(manager: Any, cursor: Any, file: File) -> None:
    blank: Any = smmap.WindowCursor(manager)
    blank.assign(cursor)
    assert blank.is_associated()
    assert not blank.is_valid()
    region = blank.use_region(0, 5).region()
    blank.assign(smmap.WindowCursor(manager))
    assert not blank.is_associated()
    assert not blank.is_valid()
    assert region.client_count() == 1
    cursor.use_region(0, 5)
    smmap.WindowCursor().assign(cursor)


@pytest.mark.skipif(WINDOWS, reason="a mapped file cannot be deleted")
def test_copy_and_assign_after_the_file_was_deleted(manager: Any, cursor: Any, file: File) -> None:
    cursor.use_region(5, 10)
    loose = manager.make_cursor(str(file.path))
    file.path.unlink()
    twin = copy.copy(cursor)
    assert twin.buffer() == file.data[5:15]
    blank = smmap.WindowCursor(manager)
    blank.assign(cursor)
    assert blank.buffer() == file.data[5:15]
    for other in (copy.copy(loose), loose):
        assert other.is_associated()
        assert other.file_size() == SIZE
        assert other.use_region(3, 10).buffer() == file.data[3:13], "the window is still mapped"
        other._destroy()


@linux
def test_what_never_touches_the_file(file: File) -> None:
    run_python(
        f"""
import copy, smmap, sys
manager = smmap.SlidingWindowMapManager({W})
cursor = manager.make_cursor(sys.argv[1]).use_region(0, 10)
blank = smmap.WindowCursor(manager)
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("open", "os.", "mmap", "fcntl")) else None)
twin = copy.copy(cursor)
blank.assign(cursor)
blank.unuse_region()
blank.assign(twin)
twin._destroy()
cursor.file_size(), cursor.path(), cursor.buffer(), cursor.map()
del cursor, twin, blank
import gc
gc.collect()
assert seen == [], seen
assert manager.stats().pinned == 0
""",
        file.path,
    )


@linux
def test_flags_are_added_to_those_of_open(file: File) -> None:
    run_python(
        f"""
import os, smmap, sys
manager = smmap.SlidingWindowMapManager({W})
opened = []
sys.addaudithook(lambda event, args: opened.append(args[2]) if event == "open" and args[0] == sys.argv[1] else None)
flag = os.O_NOFOLLOW
cursor = manager.make_cursor(sys.argv[1]).use_region(0, 10, flag)
assert opened and opened[-1] & flag, opened
del opened[:]
manager.collect()
manager.make_cursor(sys.argv[1]).use_region({W}, 10)
assert opened and not opened[-1] & flag, opened
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(sys.argv[1]), flags=flag)
assert all(not flags & (os.O_WRONLY | os.O_RDWR) and flags & os.O_CLOEXEC for flags in opened), opened
""",
        file.path,
    )


def test_flags_cannot_ask_for_writing(cursor: Any) -> None:
    with pytest.raises(ValueError):
        cursor.use_region(0, 10, os.O_RDWR)


# Regions


def test_the_first_read_at_5000_maps_from_0(world: World, file: File) -> None:
    manager = world.manager(W + 1)
    cursor = manager.make_cursor(str(file.path)).use_region(5000, manager.window_size() // 2)
    assert cursor.region().ofs_begin() == 0
    assert cursor.region().size() == smmap.util.align_to_mmap(manager.window_size(), True) == 2 * W
    assert manager.mapped_memory_size() == cursor.region().size()


@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_a_region_works_without_a_manager(by: str, file: File) -> None:
    with file.path.open("rb") as opened:
        region = MapRegion(str(file.path) if by == "path" else opened.fileno(), G, W)
        assert opened.read(1) == file.data[:1]
    assert (region.ofs_begin(), region.ofs_end(), region.size()) == (G, G + W, W)
    assert region.buffer()[:] == file.data[G : G + W]
    assert is_a_map(region.map())
    assert region.map()[:10] == file.data[G : G + 10]
    assert region.client_count() == 1


def test_a_region_is_clipped_to_the_file(file: File) -> None:
    assert MapRegion(str(file.path), 0, sys.maxsize).size() == SIZE
    assert MapRegion(str(file.path), 5 * W, W).size() == 123
    for offset in (G * (SIZE // G + 1), 10 * W):
        with pytest.raises(ValueError):
            MapRegion(str(file.path), offset, W)


def test_a_region_includes_offsets(file: File) -> None:
    region = MapRegion(str(file.path), G, W)
    inside = [offset for offset in (-1, 0, G - 1, G, G + W - 1, G + W, sys.maxsize) if region.includes_ofs(offset)]
    assert inside == [G, G + W - 1]


def test_a_region_starts_aligned(file: File) -> None:
    for offset in (1, G - 1, G + 1):
        with pytest.raises(ValueError):
            MapRegion(str(file.path), offset, W)


def test_counting_the_clients_of_a_region_alone(file: File) -> None:
    region = MapRegion(str(file.path), 0, W)
    assert region.increment_client_count() is False
    assert region.client_count() == 2
    assert region.increment_client_count(2) is False
    assert region.client_count() == 4
    assert region.increment_client_count(-3) is False
    assert region.client_count() == 1
    assert region.increment_client_count(-1) is True, "the last one went, and the map with it"
    with pytest.raises(ValueError):
        region.buffer()


def test_releasing_a_region_alone(file: File) -> None:
    region = MapRegion(str(file.path), 0, W)
    view = region.buffer()
    region.release()
    region.release()
    assert view[:W] == file.data[:W], "what you hold stays valid"
    with pytest.raises(smmap.ClosedError):
        region.map()


def test_client_count_is_the_manager_and_each_cursor(manager: Any, cursor: Any, file: File) -> None:
    region = cursor.use_region(0, 1).region()
    assert region.client_count() == 2
    others = [manager.make_cursor(str(file.path)).use_region(number, 1) for number in range(3)]
    assert region.client_count() == 5
    buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(str(file.path)))
    assert buffer[0] == file.data[0]
    assert region.client_count() == 5, "a buffer pins nothing"
    for other in others:
        other.unuse_region()
    assert region.client_count() == 2
    cursor.unuse_region()
    assert region.client_count() == 1
    assert manager.collect() == 1


@pytest.mark.parametrize("pinned", [False, True])
def test_counting_by_hand_never_goes_below_the_manager(pinned: bool, manager: Any, cursor: Any, file: File) -> None:
    """Whatever is done by hand, the region stays mapped, readable and evictable, and the ledger right."""
    region = cursor.use_region(0, 10).region()
    if not pinned:
        cursor.unuse_region()
    for change in (1, 1, -1, 3, -4, -1, -1, -7, 1, -1, -1):
        region.increment_client_count(change)
        assert region.client_count() >= 1
        manager._check()
    assert manager.num_file_handles() == 1
    assert region.buffer()[:10] == file.data[:10]
    cursor.unuse_region()
    manager._check()
    assert region.client_count() == 1
    cursor.use_region(3, 10)
    assert cursor.buffer() == file.data[3:13]
    assert cursor.region().client_count() == 2
    cursor.unuse_region()
    assert manager.stats()[:3] == (1, 0, 1)
    assert manager.collect() == 1


def test_clients_counted_by_hand_keep_a_region_from_eviction(manager: Any, cursor: Any) -> None:
    region = cursor.use_region(0, 10).region()
    assert region.increment_client_count() is False
    cursor.unuse_region()
    assert region.client_count() == 2
    assert manager.collect() == 0
    assert region.increment_client_count(-1) is False
    assert manager.collect() == 1


def test_clients_counted_by_hand_are_forgotten_with_the_region_that_is_released(manager: Any, cursor: Any) -> None:
    region = cursor.use_region(0, 10).region()
    region.increment_client_count(2)
    assert len(manager._counted_by_hand) == 2
    cursor.unuse_region()
    region.release()
    assert (manager.stats().mapped, manager._counted_by_hand) == (0, set())


def test_releasing_a_region_of_a_manager_evicts_it(manager: Any, cursor: Any, file: File) -> None:
    region = cursor.use_region(0, 10).region()
    view = cursor.buffer()
    cursor.unuse_region()
    region.release()
    region.release()
    manager._check()
    assert (manager.stats().idle, manager.stats().detached) == (0, 1)
    assert view == file.data[:10]
    view.release()
    reclaim()
    assert manager.num_file_handles() == 0
    assert cursor.use_region(0, 10).buffer() == file.data[:10]
    assert manager.stats().evictions == 1


def test_releasing_a_region_that_cursors_hold(manager: Any, cursor: Any, file: File) -> None:
    """They find out, and can map it again; views are left alone."""
    twin = copy.copy(cursor.use_region(0, 10))
    view = twin.buffer()
    cursor.region().release()
    manager._check()
    assert not cursor.is_valid()
    with pytest.raises(smmap.ClosedError):
        cursor.buffer()
    assert view == file.data[:10]
    for other in (cursor, twin):
        assert other.use_region(0, 10).buffer() == file.data[:10]
        other.unuse_region()
    manager._check()
    assert manager.stats().pinned == 0


def test_a_list_of_regions_alone(file: File) -> None:
    with file.path.open("rb") as opened:
        for given in (str(file.path), opened.fileno()):
            regions = MapRegionList(given)
            assert len(regions) == 0
            assert list(regions) == []
            assert regions.path_or_fd() is given
            assert regions.file_size() == SIZE


# The window helpers, beside those of the published wheel


@pytest.fixture(scope="module")
def published_util(smmap5_wheel: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_util", smmap5_wheel / "smmap" / "util.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_alignment_is_as_published(published_util: ModuleType) -> None:
    assert smmap.util.ALLOCATIONGRANULARITY == mmap.ALLOCATIONGRANULARITY
    assert smmap.util.is_64_bit() is (sys.maxsize > 1 << 32)
    for number in [*range(3 * G + 2), *range((1 << 40) - 2, (1 << 40) + 3)]:
        for round_up in (False, True):
            assert smmap.util.align_to_mmap(number, round_up) == published_util.align_to_mmap(number, round_up)


def test_windows_stretch_as_published(published_util: ModuleType) -> None:
    """All ways in which a window can lie beside another one, and every size it may get to."""
    for gap in range(5):
        for size in range(1, 4):
            for most in range(size, 12):
                theirs, ours = published_util.MapWindow(3 + gap, size), MapWindow(3 + gap, size)
                theirs.extend_left_to(published_util.MapWindow(1, 2), most)
                ours.extend_left_to(MapWindow(1, 2), most)
                assert (ours.ofs, ours.size, ours.ofs_end()) == (theirs.ofs, theirs.size, theirs.ofs_end())
                theirs.extend_right_to(published_util.MapWindow(20 + gap, 1), most + 4)
                ours.extend_right_to(MapWindow(20 + gap, 1), most + 4)
                assert (ours.ofs, ours.size, ours.ofs_end()) == (theirs.ofs, theirs.size, theirs.ofs_end())


def test_windows_align_as_published(published_util: ModuleType) -> None:
    for offset in (0, 1, G - 1, G, G + 1, 5 * G + 17):
        for size in (0, 1, G - 1, G, G + 1, 3 * G - 1, 3 * G):
            theirs, ours = published_util.MapWindow(offset, size), MapWindow(offset, size)
            theirs.align()
            ours.align()
            assert (ours.ofs, ours.size) == (theirs.ofs, theirs.size)


def test_a_window_of_a_region(file: File, cursor: Any) -> None:
    window = MapWindow.from_region(MapRegion(str(file.path), G, W))
    assert (type(window), window.ofs, window.size, window.ofs_end()) == (MapWindow, G, W, G + W)
    window = MapWindow.from_region(cursor.use_region(W, 1).region())
    assert (window.ofs, window.size) == (W, W)


# Buffers


def test_a_buffer_without_a_cursor(cursor: Any, file: File) -> None:
    buffer = smmap.SlidingWindowMapBuffer()
    assert buffer.cursor() is None
    assert len(buffer) == 0
    buffer.end_access()
    buffer.end_access()
    assert buffer.begin_access() is False
    assert buffer.begin_access(cursor, 7) is True
    assert bytes(buffer[:]) == file.data[7:]


def test_a_buffer_of_an_unassociated_cursor(manager: Any) -> None:
    with pytest.raises(ValueError):
        smmap.SlidingWindowMapBuffer(smmap.WindowCursor(manager))
    with pytest.raises(ValueError):
        smmap.SlidingWindowMapBuffer(smmap.WindowCursor())


@pytest.mark.parametrize("offset", [SIZE, SIZE + 1, sys.maxsize])
def test_an_offset_out_of_bounds(offset: int, cursor: Any) -> None:
    with pytest.raises(ValueError):
        smmap.SlidingWindowMapBuffer(cursor, offset)
    buffer = smmap.SlidingWindowMapBuffer(cursor)
    assert buffer.begin_access(cursor, offset) is False
    assert len(buffer) == 0
    assert smmap.SlidingWindowMapBuffer(cursor, SIZE - 1)[0] >= 0


def test_a_buffer_of_an_empty_file(either: Any, world: World) -> None:
    """0 is within bounds there, and nowhere else."""
    cursor = either.make_cursor(str(world.file(0).path))
    buffer = smmap.SlidingWindowMapBuffer(cursor)
    assert len(buffer) == 0
    assert buffer[:] == b""
    with pytest.raises(IndexError):
        buffer[0]
    with pytest.raises(ValueError):
        smmap.SlidingWindowMapBuffer(cursor, 1)


def test_a_new_buffer_has_its_first_window_mapped(manager: Any, cursor: Any) -> None:
    """Idle: smmap 5's tests count one map right after construction."""
    buffer = smmap.SlidingWindowMapBuffer(cursor, 3 * W)
    assert manager.stats()[:3] == (1, 0, 1)
    assert not cursor.is_valid(), "the cursor stays as it was"
    assert buffer.begin_access(offset=W) is True
    assert manager.stats()[:3] == (2, 0, 2)


def test_index_0_is_the_byte_at_the_offset(either: Any, file: File) -> None:
    for offset in (0, 1, 100, W - 1, W, 2 * W + 5, SIZE - 1):
        buffer = smmap.SlidingWindowMapBuffer(either.make_cursor(str(file.path)), offset)
        expected = file.data[offset:]
        assert len(buffer) == SIZE - offset
        assert buffer[0] == expected[0]
        assert buffer[-1] == expected[-1]
        assert buffer[:] == expected
        assert buffer[0:W] == expected[0:W]
        for index in range(0, len(buffer), 1009):
            assert buffer[index] == expected[index]
            assert buffer[index : index + W + 3] == expected[index : index + W + 3]


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 10), (100, W), (W - 3, 7), (SIZE - 5, 100), (5, sys.maxsize)])
def test_the_size_of_a_buffer(offset: int, size: int, cursor: Any, file: File) -> None:
    buffer = smmap.SlidingWindowMapBuffer(cursor, offset, size)
    expected = file.data[offset : offset + min(size, SIZE)]
    assert len(buffer) == len(expected)
    assert buffer[:] == expected
    for index in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            buffer[index]


def test_index_len_is_an_error(either: Any, file: File) -> None:
    buffer = smmap.SlidingWindowMapBuffer(either.make_cursor(str(file.path)))
    assert buffer[SIZE - 1] == file.data[-1]
    assert buffer[-SIZE] == file.data[0]
    for index in (SIZE, SIZE + 1, -SIZE - 1, sys.maxsize):
        with pytest.raises(IndexError):
            buffer[index]


@pytest.mark.parametrize("start", [None, 0, 1, W - 1, W, -1, -W - 1, SIZE, SIZE + 9, -SIZE - 9])
def test_slices_are_always_bytes(start: Any, cursor: Any, file: File) -> None:
    """Where windows lie does not matter; smmap 5 gave views or bytes, depending on that."""
    buffer = smmap.SlidingWindowMapBuffer(cursor)
    for stop in (None, 0, 1, W, W + 1, 3 * W, -1, -W, SIZE, SIZE + 9, -SIZE - 9, sys.maxsize):
        for step in (None, 1, 3, -1, -W):
            piece = buffer[start:stop:step]
            assert type(piece) is bytes
            assert piece == file.data[start:stop:step]


def test_opening_a_buffer_checks_the_file_and_maps_nothing(file: File, tmp_path: Path) -> None:
    """Beside the constructor, which has to map: `smmap.buffer` does so at the first read."""
    before = smmap.default_manager().stats()
    buffer = smmap.buffer(file.path)
    assert smmap.default_manager().stats()[:5] == before[:5]
    assert buffer[W] == file.data[W]
    assert buffer.cursor() is not None
    buffer.close()
    with pytest.raises(FileNotFoundError):
        smmap.buffer(tmp_path / "missing")
    smmap.default_manager().collect()


def test_begin_access_again(cursor: Any, world: World, manager: Any, file: File) -> None:
    buffer = smmap.SlidingWindowMapBuffer(cursor, 100)
    assert buffer.begin_access() is True
    assert buffer[:] == file.data, "with no arguments it starts again on the same file, at 0"
    assert buffer.begin_access(offset=10, size=5) is True
    assert buffer[:] == file.data[10:15]
    other = world.file(SIZE, "other")
    assert buffer.begin_access(manager.make_cursor(str(other.path)), 3) is True
    assert buffer[:] == other.data[3:]
    buffer.end_access()
    assert buffer.begin_access() is True
    assert buffer[:] == other.data


def test_end_access(manager: Any, cursor: Any, file: File) -> None:
    buffer: Any = smmap.SlidingWindowMapBuffer(cursor, 5)
    own = buffer.cursor()
    assert own.is_valid()
    for _ in range(3):
        buffer.end_access()
        assert len(buffer) == 0
        assert not buffer.cursor().is_valid()
        assert buffer.cursor().is_associated()
        assert manager.stats().pinned == 0
    assert buffer.begin_access() is True
    assert buffer.cursor().is_valid()


def test_the_cursor_of_a_buffer_is_its_own(manager: Any, cursor: Any, file: File) -> None:
    """Made at the first call, then it pins a region until `end_access`."""
    buffer = smmap.SlidingWindowMapBuffer(cursor, W + 5)
    assert manager.stats().pinned == 0
    own = buffer.cursor()
    assert own is not cursor
    assert own is buffer.cursor()
    assert type(own) is smmap.WindowCursor
    assert own.is_valid()
    assert manager.stats().pinned == 1
    assert own.includes_ofs(W + 5)
    assert own.path_or_fd() is cursor.path_or_fd()
    buffer[0], buffer[4 * W], buffer[:]
    assert manager.stats().pinned == 1
    buffer.end_access()
    assert manager.stats().pinned == 0


def test_thousands_of_buffers_hold_nothing(world: World, file: File) -> None:
    manager = world.manager(W, 2 * W, 20)
    buffers = [smmap.SlidingWindowMapBuffer(manager.make_cursor(str(file.path)), number) for number in range(2000)]
    assert manager.stats().pinned == 0
    assert manager.num_file_handles() <= 2
    for number, buffer in enumerate(buffers):
        assert buffer[3 * W] == file.data[number + 3 * W]
    assert manager.num_file_handles() <= 2


def test_a_buffer_is_a_context_manager(manager: Any, cursor: Any, file: File) -> None:
    buffer: Any = smmap.SlidingWindowMapBuffer(cursor)
    with buffer:
        assert buffer[W] == file.data[W]
        assert buffer.cursor().is_valid()
    assert len(buffer) == 0
    assert manager.stats().pinned == 0


def test_a_dropped_buffer_ends_its_access(manager: Any, cursor: Any) -> None:
    buffer = smmap.SlidingWindowMapBuffer(cursor)
    assert buffer.cursor() is not None
    del buffer
    reclaim()
    assert manager.stats().pinned == 0
    if not LATE:
        assert manager.stats().idle == 1


def test_the_cursor_of_the_user_stays_as_it_was(manager: Any, cursor: Any, file: File) -> None:
    cursor.use_region(2 * W, 10)
    with smmap.SlidingWindowMapBuffer(cursor) as buffer:
        assert buffer[5] == file.data[5]
        assert (cursor.ofs_begin(), cursor.size()) == (2 * W, 10)
        cursor._destroy()
        assert buffer[W + 5] == file.data[W + 5]
    assert not cursor.is_valid()


# What a user is offered, as by the tab key


API = Path(__file__).parents[2] / "docs" / "api.md"
MADE_OF_CLASSES = {"MapRegionCls", "MapRegionListCls", "MapWindowCls", "WindowCursorCls"}  # as smmap 5 has them


def offered(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def documented(name: str) -> set[str]:
    """The members that the API page lists."""
    _, _, rest = API.read_text(encoding="utf-8").partition(f"::: {name}\n")
    return set(re.findall(r"^        - (\w+)$", rest.partition(":::")[0], re.MULTILINE))


def test_manager_offers_what_is_documented(world: World) -> None:
    for manager in (world.manager(), world.manager(static=True)):
        assert offered(manager) - MADE_OF_CLASSES == documented("smmap.SlidingWindowMapManager")


def test_clients_offer_what_is_documented(world: World) -> None:
    file = world.file(5 * G)
    manager = world.manager(2 * G)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 0)
        assert offered(cursor.region()) == documented("smmap.util.MapRegion")
        assert offered(cursor.map()) <= offered(mmap.mmap)
        assert {"find", "size", "madvise"} <= offered(cursor.map()) | ({"madvise"} - offered(mmap.mmap))
        assert offered(cursor) == {
            *("assign", "buffer", "close", "closed", "fd", "file_size", "includes_ofs", "is_associated", "is_valid"),
            *("map", "ofs_begin", "ofs_end", "path", "path_or_fd", "region", "size", "unuse_region", "use_region"),
        }
    assert offered(manager.buffer(file.path)) == {
        *("begin_access", "close", "closed", "count", "cursor", "end_access", "find", "finditer", "gather", "index"),
        *(
            "iter_unpack",
            "iter_views",
            "prefetch",
            "ranges",
            "readinto",
            "refresh",
            "rfind",
            "rindex",
            "unpack_from",
            "view",
        ),
    }
    with manager.open(file.path) as opened, open(file.path, "rb") as theirs:
        assert offered(opened) == offered(theirs) | {"refresh"}
    with manager.open(file.path, buffering=0) as raw, open(file.path, "rb", buffering=0) as theirs:
        assert offered(raw) == offered(theirs) - {"closefd"} | {"refresh"}


def test_package_offers_what_is_documented() -> None:
    assert offered(smmap) == {name for name in smmap.__all__ if not name.startswith("_")} | {
        *("open", "buf", "mman", "util"),
        *({"numpy"} & offered(smmap)),
        *({"fsspec", "cli"} & offered(smmap)),
    }


def test_region_can_be_referred_to_weakly(world: World) -> None:
    cursor = world.manager(W).make_cursor(world.file(W).path).use_region(0, 9)
    region = cursor.region()
    assert weakref.ref(region)() is region
    cursor.close()
