"""What smmap guards against: writing to what was opened for reading, and opening what nobody asked for.

What it promises is in SECURITY.md and docs/security.md, whose examples run here too.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import mmap
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
from operator import delitem, setitem
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import LINUX, G, World, before_system_call, by_policy, linux, payload, run_python
from smmap import FileChangedError
from smmap._engine import chosen as engine
from smmap.util import MapRegion

W = 2 * G
SIZE = 6 * W + 77
PYPY = sys.implementation.name == "pypy"
Buffer = smmap.SlidingWindowMapBuffer
backings = pytest.mark.parametrize("backing", ["mmap", "read"])
posix = pytest.mark.skipif(os.name != "posix", reason="no such flags there")
ROOT = Path(__file__).parents[2]


# Read-only


def views_of(manager: Any, path: Path) -> dict[str, Any]:
    """Everything that gives memory away without a copy."""
    cursor = manager.make_cursor(path).use_region(W, 96)
    buffer = manager.buffer(path)
    found = {
        "cursor": cursor.buffer(),
        "region": cursor.region().buffer(),
        "alone": MapRegion(str(path), 0, W).buffer(),
        "view": buffer.view(0, 96),
        "seam": buffer.view(W - 48, W + 48),
        "wide": buffer.view(5, 3 * W),
        "first of many": next(buffer.iter_views(W, W + 96)),
    }
    if sys.version_info >= (3, 12):
        found["exported"] = memoryview(buffer)
    return found


FORMATS = ["B", "b", "c", "H", "i", "q", "d", "?"]


def attacks(view: memoryview) -> list[Callable[[], Any]]:
    """Ways to write through a view, or to get one that can be written through; each must fail."""
    view = view[: len(view) // 16 * 16]
    assert len(view) >= 64
    tries: list[Callable[[], Any]] = [
        lambda: setitem(view, 0, 1),
        lambda: setitem(view, slice(0, 2), b"xx"),
        lambda: setitem(view, slice(None), bytes(len(view))),
        lambda: delitem(view, 0),
        lambda: setitem(view[::2], 0, 1),
        lambda: setitem(view[::-1], 0, 1),
        lambda: setitem(memoryview(view), 0, 1),
        lambda: setitem(view.toreadonly(), 0, 1),
        lambda: setitem(view.cast("B", [4, len(view) // 4]), (0, 0), 1),
        lambda: struct.pack_into("<I", view, 0, 1),
        lambda: io.BytesIO(b"x" * 99).readinto(view),
    ]
    if not PYPY:  # which does not look there: see docs/security.md
        tries.append(lambda: (ctypes.c_char * 9).from_buffer(view))
        tries.append(lambda: ctypes.c_uint64.from_buffer(view))
    for form in FORMATS:
        cast = view.cast("B").cast(form)
        tries.append(lambda cast=cast: setitem(cast, 0, cast[1]))
        tries.append(lambda cast=cast: setitem(cast.cast("B"), 0, 1))
    return tries


FAILS = (TypeError, ValueError, BufferError, NotImplementedError)


@backings
def test_no_view_can_be_written_through(backing: str, world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    views = views_of(manager, file.path)
    for name, view in views.items():
        assert view.readonly, name
        for number, attack in enumerate(attacks(view)):
            with pytest.raises(FAILS):
                assert attack() is None, (name, number)
    assert file.path.read_bytes() == file.data
    views.clear()
    del view, attack


@pytest.mark.skipif(PYPY, reason="has another interface for C")
@backings
def test_no_view_is_exported_for_writing(backing: str, world: World) -> None:
    """`PyObject_GetBuffer` with PyBUF_WRITABLE, which is what any extension must call before it writes."""
    file = world.file(SIZE)
    views = views_of(world.manager(W, backing=backing), file.path)
    export = ctypes.pythonapi.PyObject_GetBuffer
    export.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    space = ctypes.create_string_buffer(256)
    targets = dict(views)
    with world.manager(W, backing=backing).make_cursor(file.path) as cursor:
        targets["map"] = cursor.use_region(0, 5).map()
        targets["buffer"] = Buffer(cursor)
        for name, target in targets.items():
            for flags in (0x0001, 0x0001 | 0x0008, 0x0001 | 0x0018, 0x011D):  # with shape, strides, all of it
                with pytest.raises((BufferError, TypeError)):
                    assert export(target, space, flags) is None, (name, flags)
        targets.clear()
        del target
    views.clear()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 688 came with Python 3.12")
@backings
def test_no_buffer_is_exported_for_writing(backing: str, world: World) -> None:
    import inspect

    flags: Any = inspect.BufferFlags  # type: ignore[attr-defined, unused-ignore]
    file = world.file(SIZE)
    with world.manager(W, backing=backing).buffer(file.path) as buffer:
        for flag in flags:
            if flag & flags.WRITABLE:
                with pytest.raises(BufferError):
                    buffer.__buffer__(flag)
            else:
                assert memoryview(buffer.__buffer__(flag)).readonly
        for attack in attacks(memoryview(buffer)):
            with pytest.raises(FAILS):
                attack()
        with pytest.raises(FAILS):
            (ctypes.c_char * 9).from_buffer(buffer)
        with pytest.raises(FAILS):
            io.BytesIO(b"x" * 99).readinto(buffer)
    assert file.path.read_bytes() == file.data


@backings
def test_no_array_is_writable(backing: str, world: World) -> None:
    np = pytest.importorskip("numpy")
    file = world.file(SIZE)
    views = views_of(world.manager(W, backing=backing), file.path)
    for name, view in views.items():
        view = view[:64]
        arrays = [np.frombuffer(view, "<u2"), np.asarray(view), np.frombuffer(view, "V8"), np.array(view, copy=False)]
        arrays += [arrays[0][::2], arrays[0].view("<u4"), arrays[0].reshape(4, 8).T, np.asarray(arrays[0])]
        arrays += [np.lib.stride_tricks.as_strided(arrays[0], (4,), (2,)), np.ndarray((4,), "<u2", view)]
        for array in arrays:
            assert not array.flags.writeable, name
            tries: list[Callable[[], Any]] = [
                lambda array=array: setattr(array.flags, "writeable", True),
                lambda array=array: array.setflags(write=True),
                lambda array=array: setitem(array, 0, array[1]),
                lambda array=array: array.fill(array.flat[0]),
                lambda array=array: array.sort(axis=0),
                lambda array=array: np.copyto(array, array.copy()),
                lambda array=array: np.ndarray.__iadd__(array, 1),
            ]
            for attack in tries:
                with pytest.raises((ValueError, TypeError)):
                    attack()
    assert file.path.read_bytes() == file.data
    views.clear()
    del view, arrays, array, tries, attack


@backings
def test_the_map_itself_is_read_only(backing: str, world: World) -> None:
    """`cursor.map()` gives the real thing away: no method of it writes, none of it unmaps under others."""
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    cursor = manager.make_cursor(file.path).use_region(W, 96)
    store: Any = cursor.map()
    tries: list[Callable[[], Any]] = [lambda: setitem(store, 0, 1), lambda: setitem(store, slice(0, 2), b"xx")]
    if backing == "mmap":
        tries += [
            lambda: store.write(b"x"),
            lambda: store.write_byte(1),
            lambda: store.move(0, 1, 1),
            lambda: store.resize(3 * W),
        ]
        if not PYPY:  # which lets both do: see docs/security.md
            tries += [store.close, lambda: (ctypes.c_char * 9).from_buffer(store)]
    for attack in tries:
        with pytest.raises((*FAILS, SystemError, OSError, AttributeError)):
            attack()
    assert cursor.buffer() == file.data[W : W + 96]
    assert file.path.read_bytes() == file.data
    assert os.path.getsize(file.path) == SIZE
    store = None
    tries.clear()
    del attack
    cursor.close()


# What is opened, and how

WATCH = """
import json, logging, os, sys
logging.getLogger("smmap").setLevel("ERROR")
events = []
def hook(event, args):
    if event.startswith(("open", "mmap.", "os.", "fcntl.", "shutil.", "subprocess.", "socket.", "tempfile.")):
        events.append([event, *(arg if isinstance(arg, (str, int)) else os.fsdecode(arg) if isinstance(arg, bytes) else
                                repr(arg) for arg in args)])
import smmap, smmap.util, resource, fcntl, pickle            # modules' own files are opened before
looked = []
real = os.stat
def stat(path, *args, **kwargs):
    looked.append(path if isinstance(path, int) else os.fsdecode(path))
    return real(path, *args, **kwargs)
smmap._system.os.stat = stat
sys.addaudithook(hook)
folder, W = sys.argv[1], int(sys.argv[2])
path, other = os.path.join(folder, "data"), os.path.join(folder, "other")
"""

USE = """
for backing in ("auto", "read"):
    manager = smmap.SlidingWindowMapManager(W, 3 * W, 6, backing=backing)
    with manager.make_cursor(path) as cursor:
        for offset in (0, 3 * W, W - 5, 5):
            cursor.use_region(offset, 9).buffer()
        cursor.use_region(0, 0, os.O_NOFOLLOW)
        buffer = smmap.SlidingWindowMapBuffer(cursor)
        for _ in range(20):
            buffer[2 * W + 5:2 * W + 50]
        bytes(buffer); buffer.find(b"needle"); buffer.view(5, 4 * W)
    number = os.dup(3) if False else None
    manager.buffer(other)[5]
    manager.make_cursor(os.fsencode(path)).use_region(W, 5)
    manager.release(path)
    manager.collect(); manager.stats(); manager.close()
with smmap.open(path) as file:
    file.seek(W - 5); file.read(10)
buffer = smmap.buffer(path, W)
again = pickle.loads(pickle.dumps(buffer))
again[5]
smmap.util.MapRegion(path, 0, 5).buffer()
smmap.default_manager().close()
print(json.dumps([events, looked]))
"""


@linux
def test_nothing_is_opened_that_was_not_asked_for(world: World, tmp_path: Path) -> None:
    """The interpreter's own audit records every file and the flags: only those two, only for reading, not inherited."""
    world.file(SIZE, "data")
    world.file(W, "other")
    events, looked = json.loads(run_python(WATCH + USE, tmp_path, W, options=("-B",)).stdout)
    asked = {str(tmp_path / "data"), str(tmp_path / "other")}
    opened = [event for event in events if event[0] == "open"]
    assert len(opened) > 10
    limits = "/proc/sys/vm/max_map_count"
    assert {event[1] for event in opened} == asked | {limits}, opened
    wanted = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    for _, name, mode, flags in opened:
        if PYPY and name == limits:  # it does not say how its own open() opens
            assert mode == "r"
            continue
        assert flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) == os.O_RDONLY
        assert not flags & (os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_EXCL)
        assert flags & os.O_CLOEXEC
        assert name == limits or flags & wanted == wanted, (name, mode, flags)
    assert {name for name in looked if isinstance(name, str)} == asked
    maps = [event for event in events if event[0] == "mmap.__new__"]
    assert maps
    assert all(access == 1 for _, _, _, access, _ in maps)  # mmap.ACCESS_READ
    assert {event[0] for event in events} <= {"open", "mmap.__new__", "fcntl.fcntl", "fcntl.ioctl"}


@linux
@backings
def test_descriptors_are_neither_writable_nor_inherited(backing: str, world: World) -> None:
    """All that is open while cursors and buffers work: of our files, also the maps' own before Python 3.13."""
    import fcntl

    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    given = os.open(file.path, os.O_RDWR)
    os.set_inheritable(given, True)
    places: list[Any] = [(0, file.path), (W, given), (3 * W, given)]
    clients = [manager.make_cursor(name).use_region(place, 9) for place, name in places]
    buffers = [manager.buffer(file.path), manager.buffer(given)]
    assert [buffer[5 * W] for buffer in buffers] == [file.data[5 * W]] * 2
    numbers = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == str(file.path) and number != given:
                numbers.append(number)
        except OSError:
            continue
    assert numbers
    if PYPY and backing == "mmap":  # its maps have duplicates that are inherited: see docs/security.md
        manager.collect()
        numbers = [file.descriptor.number for file in manager._cache.open]
    for number in numbers:
        assert not os.get_inheritable(number)
        assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    own = [
        number
        for number in numbers
        if fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) == os.O_RDONLY
    ]
    shared = set(numbers) - set(own)  # duplicates of the user's own are open as the user opened it
    assert len(shared) <= 4
    script = "import os; print([os.path.realpath('/proc/self/fd/' + name) for name in os.listdir('/proc/self/fd')])"
    os.set_inheritable(given, False)
    seen = subprocess.run([sys.executable, "-c", script], close_fds=False, capture_output=True, text=True, check=False)
    assert str(file.path) not in seen.stdout or (PYPY and backing == "mmap")
    os.close(given)
    for client in [*clients, *buffers]:
        client.close()


CTYPES = """
import ctypes, sys
import smmap
cursor = smmap.SlidingWindowMapManager(backing=sys.argv[2]).make_cursor(sys.argv[1]).use_region()
view = cursor.buffer()
before = bytes(view)
array = (ctypes.c_char * 9).from_buffer(view)
array[:] = bytes(byte ^ 255 for byte in before[:9])
if bytes(view) != before:
    print("changed")
"""


@pytest.mark.skipif(not PYPY, reason="other interpreters refuse")
@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_ctypes_on_pypy_does_not_reach_the_file(backing: str, world: World) -> None:
    """PyPy's `from_buffer` takes read-only memory; the processor refuses to write there."""
    file = world.file(SIZE)
    done = subprocess.run(
        [sys.executable, "-c", CTYPES, str(file.path), backing],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGSEGV
    assert "changed" not in done.stdout
    assert file.path.read_bytes() == file.data


@posix
def test_a_map_of_a_writable_descriptor_is_read_only(world: World) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    number = os.open(file.path, os.O_RDWR)
    with manager.make_cursor(number) as cursor:
        view = cursor.use_region(W, 96).buffer()
        for attack in attacks(view):
            with pytest.raises(FAILS):
                attack()
        if LINUX:
            with open("/proc/self/maps") as lines:
                rights = [line.split()[1] for line in lines if str(file.path) in line]
            assert rights
            assert not [right for right in rights if "w" in right or "x" in right]
        del view, attack
    os.close(number)
    assert file.path.read_bytes() == file.data


WRITE_TO_IT = """
import ctypes, sys
import smmap
path, backing, how = sys.argv[1:]
manager = smmap.SlidingWindowMapManager(1 << 14, backing=backing)
cursor = manager.make_cursor(path).use_region(0, 100)
target = cursor.buffer() if how == "view" else cursor.map()
class Buffer(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("rest", ctypes.c_char * 256)]
found = Buffer()
export = ctypes.pythonapi.PyObject_GetBuffer
export.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
export(target, ctypes.byref(found), 0)
assert ctypes.string_at(found.start, 1) == open(path, "rb").read(1)
print("before", flush=True)
ctypes.memset(found.start, 1, 1)
print("after", flush=True)
"""


@posix
@pytest.mark.skipif(PYPY, reason="has another interface for C")
@pytest.mark.parametrize("how", ["view", "map"])
@backings
def test_memory_of_a_window_written_by_an_extension_ends_the_process(backing: str, how: str, world: World) -> None:
    """The processor protects it: that of maps, and that into which windows are read."""
    file = world.file(SIZE)
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TO_IT, str(file.path), backing, how],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "before\n"), done.stderr
    assert file.path.read_bytes() == file.data


TENSOR = """
import sys
import smmap, torch
with smmap.buffer(sys.argv[1]) as buffer:
    tensor = torch.as_tensor(buffer)
    print(int(tensor[0]), flush=True)
    tensor[0] = 1
print("after", flush=True)
"""


@posix
def test_tensor_of_a_buffer_that_is_written_to_ends_the_process_and_spares_the_file(world: World) -> None:
    pytest.importorskip("torch")
    file = world.file(SIZE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TENSOR, str(file.path)],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, f"{file.data[0]}\n"), done.stderr
    assert file.path.read_bytes() == file.data


@pytest.mark.skipif(PYPY, reason="its mmap closes under views, and reading these ends the process")
def test_map_closed_by_the_method_of_its_base_class_is_unmapped_under_others(world: World) -> None:
    """A view keeps it; without one, cursors find nothing any more, and buffers map the window anew."""
    file = world.file(SIZE)
    manager = smmap.SlidingWindowMapManager(W)  # whose counters are wrong afterwards
    cursor = manager.make_cursor(file.path).use_region(W, 9)
    store: Any = cursor.map()
    if not isinstance(store, mmap.mmap):
        assert smmap.engine == "fast"
        with pytest.raises(TypeError):
            mmap.mmap.close(store)
        return
    view = cursor.buffer()
    with pytest.raises(BufferError):
        mmap.mmap.close(store)
    assert view == file.data[W : W + 9]
    view.release()
    mmap.mmap.close(store)
    with pytest.raises(ValueError, match="closed"):
        cursor.buffer()
    assert manager.buffer(file.path)[W : W + 9] == file.data[W : W + 9]
    del store
    cursor.close()


# Locks, settings, looks


LOCK_IT = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        (fcntl.lockf if sys.argv[2] == "lockf" else fcntl.flock)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free")
    except OSError:
        print("locked")
"""


@posix
@pytest.mark.parametrize("kind", ["lockf", "flock"])
@backings
def test_lock_of_lockf_ends_when_smmap_closes_a_descriptor_of_the_file_and_that_of_flock_stays(
    backing: str, kind: str, world: World
) -> None:
    import fcntl

    file = world.file(SIZE)

    def seen_by_another_process() -> str:
        return run_python(LOCK_IT, file.path, kind, options=()).stdout.strip()

    manager = world.manager(W, backing=backing)
    with open(file.path, "r+b") as mine:
        (fcntl.lockf if kind == "lockf" else fcntl.flock)(mine, fcntl.LOCK_EX)
        assert seen_by_another_process() == "locked"
        with manager.make_cursor(file.path) as cursor:
            assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]
        manager.close()
        assert seen_by_another_process() == ("free" if kind == "lockf" else "locked")


SETTINGS = """
import os, sys
asked = set()
class Recorded(type(os.environ)):
    def __getitem__(self, key):
        asked.add(key)
        return super().__getitem__(key)
os.environ.__class__ = Recorded
import smmap
at_import, asked = asked, set()
manager = smmap.default_manager()
manager.buffer(sys.argv[1])[:]
with manager.make_cursor(sys.argv[1]) as cursor:
    cursor.use_region(0, 9).buffer()
manager.release(sys.argv[1])
for name in (at_import, asked):
    print(*sorted(each for each in name if "SMMAP" in each))
"""


def test_settings_that_are_read_from_the_environment_are_those_of_the_page(world: World) -> None:
    at_import, later = run_python(SETTINGS, world.file(SIZE).path, options=()).stdout.splitlines()
    assert at_import.split() == ["SMMAP_ENGINE", "SMMAP_TRACE"]
    assert later.split() == [
        f"SMMAP_{name}" for name in ("BACKING", "GUARD", "MAX_HANDLES", "MAX_MEMORY", "WINDOW_SIZE")
    ]
    page = ROOT / "docs" / "security.md"
    if page.exists():
        assert {*at_import.split(), *later.split()} == set(re.findall(r"SMMAP_[A-Z_]+", page.read_text("utf-8")))


@posix
def test_file_without_blocks_is_opened_as_it_is_examined_and_one_byte_is_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size may be a fiction. Any other file is examined without being opened."""
    file = world.file(SIZE)
    holes = tmp_path / "holes"
    holes.touch()
    os.truncate(holes, SIZE)
    if os.stat(holes).st_blocks or not os.stat(file.path).st_blocks:
        pytest.skip("the file system counts blocks in another way")
    manager = world.manager(W)
    calls: list[Any] = []
    before_system_call(monkeypatch, "open", lambda *args: calls.append("open"))
    before_system_call(monkeypatch, "pread", lambda _number, size, offset: calls.append((size, offset)))
    manager.make_cursor(file.path).close()
    assert calls == []
    manager.make_cursor(holes).close()
    assert calls == ["open", (1, SIZE - 1)]


# Flags


@posix
@backings
@pytest.mark.parametrize("mapped", [False, True])
def test_links_are_not_followed_if_so_asked(mapped: bool, backing: str, world: World, tmp_path: Path) -> None:
    """O_NOFOLLOW: by cursors and buffers, whether or not the window is mapped, held or kept open already."""
    file = world.file(SIZE)
    link = tmp_path / "link"
    link.symlink_to(file.path)
    manager = world.manager(W, backing=backing)
    direct = manager.make_cursor(file.path)
    cursor = manager.make_cursor(link)
    warm = manager.buffer(file.path)
    if mapped:
        direct.use_region(W, 9)
        cursor.use_region(W, 9)
        assert warm[3 * W] == file.data[3 * W]
    before = manager.stats()
    for call in (
        lambda: cursor.use_region(W, 9, os.O_NOFOLLOW),
        lambda: cursor.use_region(5 * W, 0, os.O_NOFOLLOW),
        lambda: Buffer(cursor, 0, sys.maxsize, os.O_NOFOLLOW),
        lambda: Buffer(cursor, W, 9, os.O_NOFOLLOW),
        lambda: Buffer().begin_access(cursor, W, 9, os.O_NOFOLLOW),
        lambda: MapRegion(str(link), 0, W, os.O_NOFOLLOW),
    ):
        with pytest.raises(OSError) as failure:
            call()
        assert failure.value.errno == errno.ELOOP
        assert failure.value.filename == str(link)
        failure.value.__traceback__ = None
        del failure
    after = manager.stats()
    assert (after.mapped, after.misses, after.evictions) == (before.mapped, before.misses, before.evictions)
    assert cursor.is_valid() == mapped
    for client in (direct, manager.make_cursor(file.path)):
        assert client.use_region(W, 9, os.O_NOFOLLOW).buffer() == file.data[W : W + 9]
        with Buffer(client, 0, sys.maxsize, os.O_NOFOLLOW) as buffer:
            assert buffer == file.data
            assert buffer.cursor().buffer()[:9] == file.data[:9]
        client.close()
    cursor.close()
    warm.close()


@posix
def test_links_that_come_later_are_not_followed_either(world: World, tmp_path: Path) -> None:
    """Not even to the very same file."""
    file = world.file(SIZE)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path)
    buffer = Buffer(cursor, 0, sys.maxsize, os.O_NOFOLLOW)
    free = Buffer(cursor)
    os.link(file.path, tmp_path / "same")
    os.unlink(file.path)
    file.path.symlink_to(tmp_path / "same")
    manager.collect()
    for read in (lambda: buffer[3 * W], lambda: buffer.view(W, W + 9), lambda: buffer.find(file.data[-9:])):
        with pytest.raises(OSError) as failure:
            read()
        assert failure.value.errno == errno.ELOOP
        del failure
    assert free[3 * W] == file.data[3 * W]
    buffer.close()
    free.close()
    cursor.close()


@posix
def test_links_to_folders_along_the_path_are_followed_although_the_last_part_must_be_no_link(
    world: World, tmp_path: Path
) -> None:
    file = world.file(SIZE, "folder/data")
    (tmp_path / "other").symlink_to(tmp_path / "folder")
    manager = world.manager(W)
    with manager.make_cursor(tmp_path / "other" / "data") as cursor:
        assert cursor.use_region(W, 9, os.O_NOFOLLOW).buffer() == file.data[W : W + 9]


@posix
@backings
def test_file_that_came_in_place_of_another_just_before_it_is_opened_is_closed_and_nothing_of_it_is_read(
    backing: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(SIZE)
    manager = by_policy(world.manager(W, backing=backing))
    cursor = manager.make_cursor(file.path)
    other, reads, opened = world.file(SIZE, "other"), [], []

    def swap(*_: Any) -> None:
        if not opened:
            opened.append(1)
            os.rename(other.path, file.path)

    before_system_call(monkeypatch, "open", swap)
    before_system_call(monkeypatch, "pread", lambda *args: reads.append(args))
    with pytest.raises(FileChangedError):
        cursor.use_region(W, 9)
    assert (opened, reads) == ([1], [])
    assert manager.stats()[:7] == (0,) * 7
    if LINUX:
        assert world.descriptors() == []
    cursor.close()


@posix
@pytest.mark.parametrize("flag", ["O_DIRECTORY", "O_PATH", "O_NOFOLLOW", "O_SYNC", "O_NONBLOCK", "O_NOATIME"])
def test_other_flags(flag: str, world: World) -> None:
    """Right bytes, or the system's error with the file's name; nothing is opened for writing by any of them."""
    value = getattr(os, flag, None)
    if value is None:
        pytest.skip("no such flag here")
    file = world.file(SIZE)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        try:
            assert cursor.use_region(W, 9, value).buffer() == file.data[W : W + 9]
        except OSError as error:
            assert error.filename == str(file.path)
            assert flag in ("O_DIRECTORY", "O_PATH")
        assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]
    manager._check()


# Pickles


class Only(pickle.Unpickler):
    """Lets a pickle name nothing but what our own pickles name: what a careful receiver would do."""

    allowed = frozenset(
        {
            ("smmap._buffer", "_unpickled"),
            ("smmap._buffer", "SlidingWindowMapBuffer"),
            ("smmap._reader", "_reopened"),
            ("smmap._errors", "FileChangedError"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def loads(data: bytes) -> Any:
    return Only(io.BytesIO(data)).load()


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The process's manager, made anew for the test."""
    manager = smmap.SlidingWindowMapManager(W)
    monkeypatch.setattr(smmap._default, "_manager", manager)
    yield manager
    manager.close()


UNPICKLE = """
data = bytes.fromhex(sys.argv[3])
thing = pickle.loads(data)
len(thing) if hasattr(thing, "__len__") else thing.tell()
repr(thing)
silent = list(events), list(looked)
thing[5] if hasattr(thing, "__getitem__") else thing.read(5)
loud = list(events), list(looked)
print(json.dumps([silent, loud]))
"""


@linux
@pytest.mark.parametrize("kind", ["buffer", "raw file", "file"])
def test_unpickling_opens_nothing(kind: str, world: World, default: Any, tmp_path: Path) -> None:
    """Nothing is opened or even looked at before the first read, and then only the one file."""
    file = world.file(SIZE)
    make: dict[str, Callable[[], Any]] = {
        "buffer": lambda: smmap.buffer(file.path, W),
        "raw file": lambda: smmap.open(file.path, buffering=0),
        "file": lambda: smmap.open(file.path),
    }
    with make[kind]() as thing:
        data = pickle.dumps(thing)
    out = run_python(WATCH + UNPICKLE, tmp_path, W, data.hex(), options=("-B",)).stdout
    (silent, unseen), (loud, seen) = json.loads(out)
    assert (silent, unseen) == ([], [])
    assert {event[1] for event in loud if event[0] == "open"} <= {str(file.path), "/proc/sys/vm/max_map_count"}
    assert {name for name in seen if isinstance(name, str)} == {str(file.path)}


def test_a_pickle_is_small_and_names_little(world: World, default: Any) -> None:
    """The path, numbers and the names of two functions of ours: a receiver can allow those alone."""
    file = world.file(SIZE)
    with smmap.buffer(file.path, W, 99) as buffer, smmap.open(file.path) as reader:
        for thing in (buffer, reader):
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                data = pickle.dumps(thing, protocol)
                assert len(data) < 300 + len(str(file.path))
                again = loads(data)
                assert (again[:9] if thing is buffer else again.read(9)) == file.data[W * (thing is buffer) :][:9]
                again.close()


CRAFTED: list[tuple[Any, ...]] = [
    (5, 0, 9, 9, 0, "normal"),  # a descriptor of the receiver's
    (True, 0, 9, 9, 0, "normal"),
    (None, 0, 9, 9, 0, "normal"),
    (["/etc/passwd"], 0, 9, 9, 0, "normal"),
    ("/etc/passwd", -9, 9, 9, 0, "normal"),
    ("/etc/passwd", 0, -9, 9, 0, "normal"),
    ("/etc/passwd", 5, 9, 9, 0, "normal"),
    ("/etc/passwd", 0, 1 << 70, 9, 0, "normal"),
    ("/etc/passwd", 0.5, 9, 9, 0, "normal"),
    ("/etc/passwd", "0", 9, 9, 0, "normal"),
    ("/etc/passwd", 0, 9, 9, 0, "write"),
    ("/etc/passwd", 0, 9, 9, "0", "normal"),
    ("/etc/passwd",),
    (),
]


@pytest.mark.parametrize("arguments", CRAFTED, ids=repr)
def test_crafted_pickles_are_refused(arguments: tuple[Any, ...], default: Any) -> None:
    """Where the numbers make no sense, or a descriptor is named, there is no buffer at all."""

    class Evil:
        def __reduce__(self) -> Any:
            return smmap._buffer._unpickled, (Buffer, *arguments)

    with pytest.raises((TypeError, ValueError)):
        loads(pickle.dumps(Evil()))
    assert default.stats().descriptors == 0


def test_crafted_pickles_open_what_they_name_or_nothing(
    world: World, default: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lies about size or time opens nothing for long; none leads to another file than the one it names."""
    file, other = world.file(SIZE, "file"), world.file(SIZE, "other")
    mtime = os.stat(file.path).st_mtime_ns
    opened: list[Any] = []
    real = engine.open_file
    monkeypatch.setattr(engine, "open_file", lambda where, flags: opened.append(where) or real(where, flags))

    class Evil:
        def __init__(self, *arguments: Any, state: Any = None) -> None:
            self.arguments, self.state = arguments, state

        def __reduce__(self) -> Any:
            return (smmap._buffer._unpickled, (Buffer, *self.arguments), *([self.state] if self.state else []))

    for lie in [(0, 9, SIZE + 1, mtime), (0, 9, SIZE - 1, mtime), (0, 9, SIZE, mtime + 1), (0, 9, SIZE, 0)]:
        buffer = loads(pickle.dumps(Evil(str(file.path), *lie, "normal")))
        with pytest.raises(FileChangedError):
            buffer[0]
    true = (str(file.path), 0, SIZE, SIZE, mtime, "normal")
    assert bytes(loads(pickle.dumps(Evil(*true)))) == file.data
    for state in [
        (None, {"_given": str(other.path), "_where": str(other.path)}),
        (None, {"_where": 0, "_regions": {}}),
        (None, {"_size": 1 << 60, "_offset": -(1 << 60)}),
        {"_where": str(other.path)},
    ]:
        with pytest.raises((TypeError, AttributeError, pickle.UnpicklingError, ValueError)):
            loads(pickle.dumps(Evil(*true, state=state)))
    assert set(opened) <= {str(file.path)}
    default.collect()


def test_what_cannot_be_pickled(world: World) -> None:
    """Managers, cursors, regions and buffers over descriptors belong to their process."""
    file = world.file(SIZE)
    manager = world.manager(W)
    number = os.open(file.path, os.O_RDONLY)
    cursor = manager.make_cursor(file.path).use_region(0, 5)
    things = [manager, cursor, cursor.region(), manager.buffer(number), cursor.buffer()]
    if not PYPY:  # which pickles an mmap, without its contents
        things.append(cursor.map())
    for thing in things:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises((TypeError, pickle.PicklingError)):
                pickle.dumps(thing, protocol)
    os.close(number)
    things.clear()
    del thing
    cursor.close()


# The pages


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/security.md"])
def test_the_examples_run(page: str, tmp_path: Path) -> None:
    """Each ```python block, one after the other, in a folder of its own where `data.bin` lies."""
    if not (ROOT / page).exists():
        pytest.skip("installed without its pages")
    (tmp_path / "data.bin").write_bytes(payload(SIZE))
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks or page == "SECURITY.md"
    if blocks:
        run_python("\n".join(blocks), cwd=tmp_path)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
def test_flags_travel(world: World, default: Any) -> None:
    """What must not follow links does not where it arrives."""
    made = world.file(SIZE)
    file = made.path
    cursor = default.make_cursor(file)
    original = smmap.SlidingWindowMapBuffer(cursor, 0, sys.maxsize, os.O_NOFOLLOW)
    data = pickle.dumps(original)
    assert pickle.loads(data)[:9] == made.data[:9]
    original.close()
    cursor.close()
    os.rename(file, f"{file}.real")
    os.symlink(f"{file}.real", file)
    again = pickle.loads(data)
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            again[0]
    assert len(pickle.dumps(again)) == len(data)
