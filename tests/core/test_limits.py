"""Limits of handles, of descriptors and of the system; and what other systems and interpreters do differently."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import smmap
from smmap import _files, _system
from smmap._engine import chosen as engine
from smmap._engine import plain as plain_engine

from ._tools import LATE, LINUX, PYPY, TRACKS, File, G, World, before_system_call, by_policy, linux, reclaim, run_python

W = 2 * G
Buffer: Any = smmap.SlidingWindowMapBuffer
backings = pytest.mark.parametrize("backing", ["mmap", "read"])
posix = pytest.mark.skipif(os.name != "posix", reason="patches what POSIX has")
plain = pytest.mark.skipif(smmap.engine != "plain", reason="patches what the plain engine uses")


# What is in force


@posix
def test_default_limits_are_half_of_what_the_system_allows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half of the maps, or of the descriptors where each map costs one; a quarter of the descriptors may be cached."""
    import resource

    def with_limits(maps: Any, soft: Any, costs: bool, given: int = sys.maxsize) -> tuple[int, int, bool]:
        limit = tmp_path / "max_map_count"
        if maps is None:
            limit.unlink(missing_ok=True)
        else:
            limit.write_text(str(maps))
        monkeypatch.setattr(_system, "open", lambda _name, mode: limit.open(mode), raising=False)
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, soft))
        return tuple(_system.handle_limits(given, costs))

    assert with_limits(1000, 400, False) == (500, 100, False)
    assert with_limits(1000, 400, True) == (200, 100, False)
    assert with_limits(1000, 4000, True) == (500, 1000, False)
    assert with_limits(1, 4, True) == (1, 1, False)
    assert with_limits(None, 4, False) == (65530 // 2, 1, False)
    assert with_limits("what", resource.RLIM_INFINITY, True) == (65530 // 2, (1 << 20) // 4, False)
    assert with_limits(1000, 400, True, 7) == (7, 100, True)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert _system.handle_limits(sys.maxsize, False)[1] == (1 << 20) // 4
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert _system.is_readable(0)


def test_window_is_read_where_the_system_has_no_files_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    file, manager = world.file(3 * W), world.manager(W, backing="read")
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(W, W).buffer() == file.data[W : 2 * W]
    assert manager.stats().idle == 1


@pytest.mark.parametrize("costs", [True, False], ids=["costs a descriptor", "costs none"])
def test_whether_a_map_costs_a_descriptor_is_found_out(monkeypatch: pytest.MonkeyPatch, costs: bool) -> None:
    class Map:
        def __init__(self, number: int, size: int, **options: bool) -> None:
            if costs:
                raise TypeError("mmap() got an unexpected keyword argument 'trackfd'")

        def close(self) -> None: ...

    monkeypatch.setattr(plain_engine.mmap, "mmap", Map)
    assert plain_engine._map_costs_descriptor() is costs


MANY_CURSORS = """
import resource, sys
import smmap
from smmap._engine import chosen as engine
folder, window, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count - 40, 2 * count - 40))
manager = smmap.SlidingWindowMapManager(window)
assert manager.max_file_handles() < count or not engine.MAP_COSTS_DESCRIPTOR
cursors = []
for number in range(count):
    with open(f"{folder}/{number}", "wb") as file:
        file.write(b"%08d" % number * (window // 4))
    cursors.append(manager.make_cursor(f"{folder}/{number}").use_region(window + 8, 8))
assert manager.stats().pinned == count
for number, cursor in enumerate(cursors):
    assert cursor.buffer() == b"%08d" % number
manager._check()
"""


@linux
def test_default_limits_refuse_no_cursor_that_the_system_allows(tmp_path: Path) -> None:
    """They are targets for what is cached: smmap 5 has none there, and gitdb pins two regions a pack."""
    run_python(MANY_CURSORS, tmp_path, W, 150)


def test_limit_of_the_user_is_hard(world: World) -> None:
    file = world.file(8 * W)
    manager = world.manager(W, 0, 3)
    cursors = [manager.make_cursor(file.path).use_region(number * W, 9) for number in range(3)]
    other = manager.make_cursor(file.path)
    for number in range(3, 8):
        with pytest.raises(smmap.LimitError, match="max_open_handles is 3, 3 regions are pinned"):
            other.use_region(number * W, 9)
        assert not other.is_valid()
    cursors.pop().close()
    assert other.use_region(7 * W, 9).buffer() == file.data[7 * W : 7 * W + 9]
    for cursor in (*cursors, other):
        cursor.close()


@pytest.mark.parametrize(
    "read",
    [lambda buffer, start, stop: buffer[start:stop], lambda buffer, start, _: buffer.unpack_from("9s", start)[0]],
    ids=["slice", "unpack_from"],
)
def test_read_across_a_border_evicts_the_window_where_it_starts_for_the_next(read: Any, world: World) -> None:
    """Where the limit leaves room for one: the read itself must not keep the first one mapped."""
    file = world.file(2 * W)
    manager = world.manager(W, 0, 1)
    with manager.buffer(file.path) as buffer:
        buffer.view(0, 1).release()
        for _ in range(20):
            assert read(buffer, W - 1, W + 8) == file.data[W - 1 : W + 8]
        assert manager.stats().misses > 1


@backings
def test_copies_need_no_handle_while_views_keep_them_all(backing: str, world: World) -> None:
    """Not even when a window's rent has fallen due, however often."""
    file, other = world.file(8 * W), world.file(4 * W, "other")
    manager = world.manager(W, 0, 3, backing=backing)
    buffer, second = manager.buffer(file.path), manager.buffer(other.path)
    views = [buffer.view(number * W, number * W + 9) for number in range(3)]
    for turn in range(60):
        for number in range(8):
            start = number * W + turn * 7
            assert buffer[start : start + 9] == file.data[start : start + 9]
        assert second[turn] == other.data[turn]
    assert buffer[:] == file.data
    assert second[:: W // 2] == other.data[:: W // 2]
    assert second.find(other.data[-9:]) == 4 * W - 9
    target = bytearray(4 * W)
    assert second.readinto(0, target) == 4 * W
    assert target == other.data
    assert Buffer(manager.make_cursor(other.path), W)[5] == other.data[W + 5]
    with pytest.raises(smmap.LimitError):
        second.view(0, 9)
    assert manager.stats().mapped == 3
    assert [view == file.data[number * W : number * W + 9] for number, view in enumerate(views)] == [True] * 3
    views.clear()
    assert second.view(0, 9) == other.data[:9]
    buffer.close()
    second.close()


def test_refusals_make_windows_dearer_but_not_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads are refused in one moment, the window is mapped again after some thousands of reads."""
    file = world.file(2 * W)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    assert buffer[5] == file.data[5]  # the descriptor is cached

    def refuse(*_: Any) -> None:
        raise smmap.LimitError(errno.EMFILE, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(manager, "_obtain", refuse)
        for _ in range(100):
            manager._map_first(buffer._access.client, W)
    before = manager.stats().misses
    for turn in range(9):
        assert buffer[W + turn] == file.data[W + turn]
    assert manager.stats().misses == before, "dearer"
    for turn in range(40_000):
        assert buffer[W + turn % W] == file.data[W + turn % W]
    assert manager.stats().misses == before + 1
    buffer.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.EOVERFLOW, errno.EFBIG], ids=errno.errorcode.get)
@pytest.mark.parametrize("backing", ["auto", "mmap"])
def test_copies_go_on_where_the_file_cannot_be_mapped(
    backing: Any, code: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(3 * W)
    manager = by_policy(world.manager(W, backing=backing))

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(engine, "map_window", refuse)
    buffer = manager.buffer(file.path)
    for turn in range(50):
        assert buffer[turn : turn + 9] == file.data[turn : turn + 9]
        assert buffer.gather([W, turn], 9) == file.data[W : W + 9] + file.data[turn : turn + 9]
    if backing == "auto" and code != errno.EFBIG:
        assert buffer.view(W, W + 9) == file.data[W : W + 9], "it is read into memory"
    else:
        with pytest.raises(OSError, match=str(file.path)) as caught:
            buffer.view(2 * W, 2 * W + 9)
        assert caught.value.errno == code


def test_limits_beyond_what_the_system_counts_are_no_limits(world: World) -> None:
    file = world.file(3 * W)
    for limits in ((sys.maxsize, 0), (1 << 70, 0), (0, 1 << 63), (0, 0, 1 << 70), ("100000P", "100000P")):
        manager = smmap.SlidingWindowMapManager(*limits)
        assert manager.buffer(file.path)[5:9] == file.data[5:9]
        assert manager.make_cursor(file.path).use_region(0, 9).buffer() == file.data[:9]
        assert manager.window_size() <= sys.maxsize
        assert manager.window_size() % (2 * G) == 0
        manager.close()


# What the system sees

PEAKS = """
import os, random, sys, threading, time
import smmap
folder, window, count, seconds, tracks = sys.argv[1], *map(int, sys.argv[2:6])
data = {}
for number in range(count):
    name = f"{folder}/{number}"
    with open(name, "rb") as file:
        data[name] = file.read()
limit, readers = 10, 8
manager = smmap.SlidingWindowMapManager(window, 0, limit, backing=sys.argv[6])
names = sorted(data)
peaks = [0, 0, 0]
stop = threading.Event()
errors = []

def maps_now():
    with open("/proc/self/maps") as lines:
        return sum(line.rstrip().endswith(tuple(names)) for line in lines)

def open_now():
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}") in data
        except OSError:
            pass
    return found

def watch():
    while not stop.is_set():
        # A look takes time: it may see a map that is gone meanwhile, and the one that took its place.
        maps, opened = min(maps_now(), maps_now(), maps_now()), open_now()
        peaks[0], peaks[1] = max(peaks[0], maps), max(peaks[1], opened)
        # neither moment is that of the other: what was there in both is there at once
        peaks[2] = max(peaks[2], min(maps, maps_now()) + (0 if tracks else min(opened, open_now())))

def read(seed):
    chance = random.Random(seed)
    buffers = {}
    try:
        while not stop.is_set():
            name = chance.choice(names)
            content = data[name]
            offset = chance.randrange(len(content) - 99)
            if chance.random() < 0.5:
                buffer = buffers.get(name) or buffers.setdefault(name, manager.buffer(name))
                assert buffer[offset:offset + 99] == content[offset:offset + 99]
            else:
                with manager.make_cursor(name) as cursor:
                    assert cursor.use_region(offset, 9).buffer() == content[offset:offset + 9]
    except BaseException as error:
        errors.append(error)
        raise

sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=read, args=(seed,)) for seed in range(readers)]
watcher = threading.Thread(target=watch)
for thread in (*threads, watcher):
    thread.start()
time.sleep(seconds / 10)
stop.set()
for thread in (*threads, watcher):
    thread.join()
assert not errors
maps, opened, both = peaks
stats = manager.stats()
print(peaks, stats.peak_mapped)
assert stats.peak_mapped <= limit
assert maps <= limit, peaks
assert opened <= limit + 1 + readers, peaks     # where each map costs a descriptor, maps are among them
assert both <= limit + 1 + readers, peaks
"""


@linux
@pytest.mark.skipif(LATE and not TRACKS, reason="maps of dead regions wait for the collector")
@backings
def test_system_never_sees_more_than_the_limit_and_what_is_under_way(backing: str, world: World) -> None:
    """Ten handles, eight threads: `max_open_handles`, one descriptor while a file is opened or mapped, and one for each
    thread that is in the middle of a cold read."""
    for number in range(24):
        world.file(4 * W + 100, str(number))
    run_python(PEAKS, world.folder, W, 24, 12, int(TRACKS), backing)


def test_reader_of_a_descriptor_that_is_cached_no_more_keeps_it_open_for_itself_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the one for each thread in the middle of a cold read."""
    files = [world.file(3 * W, str(number)) for number in range(6)]
    manager = world.manager(W, 0, 2)
    buffers = [manager.buffer(file.path) for file in files]
    inside, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> None:
        inside.release()
        assert go_on.wait(60)

    before_system_call(monkeypatch, "pread", slow)
    got: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=n: got.update({n: buffers[n][W : W + 99]})) for n in range(len(buffers))
    ]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=60)
    assert manager.stats().descriptors <= 2
    monkeypatch.undo()
    if sys.platform.startswith("linux"):
        assert len(world.descriptors()) <= 2 + len(threads)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert [got[n] for n in range(6)] == [file.data[W : W + 99] for file in files]
    if sys.platform.startswith("linux"):
        assert len(world.descriptors()) <= 2
    for buffer in buffers:
        buffer.close()


# What the system refuses


@pytest.mark.parametrize("costs", [False, True], ids=["costs none", "costs a descriptor"])
def test_idle_maps_go_for_a_descriptor_only_where_they_cost_one(
    costs: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = world.file(8 * W), world.file(W, "other")
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        for number in range(3):
            cursor.use_region(number * W, 9)
    monkeypatch.setattr(engine, "MAP_COSTS_DESCRIPTOR", costs)
    failures = [OSError(errno.EMFILE, "no more")] * (2 if costs else 9)  # the cached descriptor goes first
    real = engine.open_file

    def open_file(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr(engine, "open_file", open_file)
    with manager.make_cursor(other.path) as cursor:
        if costs:
            assert cursor.use_region(0, 9).buffer() == other.data[:9]
            assert manager.stats().evictions == 1
        else:
            with pytest.raises(smmap.LimitError, match="RLIMIT_NOFILE"):
                cursor.use_region(0, 9)
            assert manager.stats().evictions == 0


@pytest.mark.parametrize("call", ["open", "pread"])
def test_cold_read_that_the_system_refuses_gets_what_is_idle(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file, idle = world.file(3 * W), world.file(3 * W, "idle")
    manager = by_policy(world.manager(W))
    buffer, other = manager.buffer(file.path), manager.buffer(idle.path)
    assert buffer[5] == file.data[5]
    manager.collect()
    assert other[W + 5] == idle.data[W + 5]
    assert manager.stats().descriptors == 1
    refused: list[Any] = []

    def refuse(*args: Any) -> int:
        if len(refused) < 2:  # the first one is tried again before anything goes
            refused.append(args)
            return errno.EMFILE
        return 0

    before_system_call(monkeypatch, call, refuse)
    assert buffer[7:99] == file.data[7:99]
    assert len(refused) == 2
    assert manager.stats().descriptors == 1
    manager._check()
    buffer.close()
    other.close()


@plain
def test_advice_that_the_system_refuses_is_not_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(self: Any, advice: int, *args: int) -> None:
        asked.append(advice)
        raise OSError(errno.EINVAL, "Invalid argument")

    file = world.file(3 * W)
    manager = world.manager(W, backing="mmap")
    monkeypatch.setattr(engine.Region, "madvise", refuse, raising=False)
    buffer = manager.buffer(file.path, access="random")
    assert buffer.view(W, W + 9) == file.data[W : W + 9]
    assert asked == ([mmap.MADV_RANDOM] if hasattr(mmap, "MADV_RANDOM") else [])
    buffer.close()


@plain
def test_file_truncated_between_the_look_at_its_size_and_the_map_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(4 * W)
    manager = world.manager(W, backing="mmap")
    real = engine.Region

    def late(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        os.truncate(file.path, 2 * W)
        return real(*args, **kwargs)

    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(W, 9)
        monkeypatch.setattr(engine, "Region", late)
        with pytest.raises(smmap.FileChangedError, match="truncated"):
            cursor.use_region(3 * W, 9)
        assert cursor.buffer() == file.data[W : W + 9]


# Other systems and interpreters


@plain
@pytest.mark.parametrize(("pieces", "longest"), [(1 << 30, 1 << 30), (7, 1 << 30), (1 << 30, 10), (3, 4)])
def test_reads_go_on_where_the_system_gives_less(
    pieces: int, longest: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call asks for no more than the system can give at once."""
    file = world.file(1000)
    number = os.open(file.path, os.O_RDONLY)
    real = os.pread
    asked: list[int] = []

    def some(number: int, size: int, offset: int) -> bytes:
        asked.append(size)
        return real(number, min(size, pieces), offset)

    monkeypatch.setattr(engine, "_LONGEST_READ", longest)
    monkeypatch.setattr(os, "pread", some)
    for offset, size in [(0, 50), (5, 1), (990, 10), (990, 50), (1000, 5), (0, 1000)]:
        assert engine.read_at(number, size, offset) == file.data[offset : offset + size]
    assert max(asked) <= longest
    os.close(number)


@plain
@pytest.mark.parametrize("backing", ["auto", "read"])
def test_windows_are_mapped_at_once_without_pread(backing: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: nothing is rented and no descriptor is cached; what is read is read by seeking."""
    file = world.file(8 * W)
    monkeypatch.setattr(_system, "KEEPS_DESCRIPTORS", False)
    monkeypatch.setattr(engine, "KEEPS_DESCRIPTORS", False)
    manager = world.manager(W, backing=backing)
    with manager.buffer(file.path) as buffer:
        assert buffer[3 * W : 3 * W + 9] == file.data[3 * W : 3 * W + 9]
        assert buffer == file.data
        stats = manager.stats()
        assert (stats.cold_reads, stats.descriptors) == (0, 0)
        assert stats.misses == 8
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(W + 5, 9).buffer() == file.data[W + 5 : W + 14]


def test_paths_are_made_absolute_by_the_system_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path there may be relative to a drive."""
    monkeypatch.setattr(_files, "WINDOWS", True)
    monkeypatch.setattr(os.path, "abspath", lambda name: "abspath of " + name)
    assert _files.absolute("data") == "abspath of data"


@pytest.mark.parametrize("pinned", [False, True], ids=["idle", "pinned"])
def test_removal_on_windows_takes_regions_from_their_cursors(
    pinned: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one place where a pinned region goes, so that its file can be deleted."""
    file, other = world.file(4 * W, "a/file"), world.file(4 * W, "ab/file")
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    spared = manager.make_cursor(other.path).use_region(W, 9)
    if not pinned:
        cursor.unuse_region()
    with monkeypatch.context() as patch:
        patch.setattr(_system, "WINDOWS", True)
        assert manager.force_map_handle_removal_win(os.path.dirname(file.path)) is None
    reclaim()
    assert manager.stats()[:3] == (1, 1, 0)
    assert not cursor.is_valid()
    if pinned:
        with pytest.raises(smmap.ClosedError):
            cursor.buffer()
    assert spared.buffer() == other.data[W : W + 9]
    assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]
    cursor.close()
    spared.close()


@linux
def test_file_that_cannot_be_mapped_is_read_where_objects_die_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "RECLAIMS_LATE", True)

    def refuse(*args: Any) -> None:
        raise OSError(errno.ENODEV, "No such device")

    file: File = world.file(3 * W)
    with world.manager(W).make_cursor(file.path) as cursor:
        monkeypatch.setattr(engine, "map_window", refuse)
        assert cursor.use_region(W + 5, 9).buffer() == file.data[W + 5 : W + 14]
        assert not world.pages()


def test_managers_have_limits_of_their_own_which_add_up(world: World) -> None:
    """Nobody's windows go for another's."""
    files = [world.file(8 * W, name) for name in "ab"]
    managers = [world.manager(W, 2 * W) for _ in files]
    first = managers[0].make_cursor(files[0].path)
    for number in range(2):
        first.use_region(number * W, 9)
    first.unuse_region()
    before = managers[0].stats()
    second = managers[1].make_cursor(files[1].path)
    for number in range(8):
        second.use_region(number * W, 9)
        assert second.buffer() == files[1].data[number * W : number * W + 9]
    assert managers[0].stats() == before
    assert [manager.mapped_memory_size() for manager in managers] == [2 * W, 2 * W]
    if LINUX:
        assert sum(world.pages().values()) == 4 * W // G
    first.close()
    second.close()


PEAK = """
import sys
import smmap
path, size = sys.argv[1], int(sys.argv[2])

def used(name):
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith(name)).split()[1]) << 10

manager = smmap.SlidingWindowMapManager(size, backing="read")
cursor = manager.make_cursor(path)
with open("/proc/self/clear_refs", "w") as file:        # the peak is that of now
    file.write("5")
before = used("VmRSS")
cursor.use_region(0, size)
peak = used("VmHWM") - before
assert cursor.buffer()[::4096] == open(path, "rb").read()[::4096]
print(manager.mapped_memory_size(), peak)
"""


@linux
@pytest.mark.skipif(PYPY, reason="its memory grows in steps of its own")
def test_window_that_is_read_takes_its_size_and_at_most_one_mebibyte_more(world: World) -> None:
    size = 48 << 20
    file = world.file(size, data=bytes(range(1, 256)) * (size // 255) + bytes(size % 255))
    counted, peak = map(int, run_python(PEAK, file.path, size, options=()).stdout.split())
    assert counted == size
    assert peak <= size + (1 << 20) + (1 << 19)  # what the interpreter itself took meanwhile


def test_window_that_is_read_is_the_requested_range_for_cursors_and_views_and_whole_for_reads_of_a_buffer(
    world: World,
) -> None:
    window = 8 * G
    file = world.file(3 * window)
    manager = world.manager(window, backing="read")
    cursor = manager.make_cursor(file.path).use_region(100, 50)
    assert manager.mapped_memory_size() == G
    buffer = manager.buffer(file.path)
    with buffer.view(window + 2 * G - 5, window + 2 * G + 5):
        assert manager.mapped_memory_size() == 3 * G
    for _ in range(3000):
        assert buffer[2 * window + 9 : 2 * window + 99] == file.data[2 * window + 9 : 2 * window + 99]
    assert manager.mapped_memory_size() == 3 * G + window
    cursor.close()
    buffer.close()
