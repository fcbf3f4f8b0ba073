"""Files that others change, hide or fake while they are read: the right bytes, or a clear error at once, never a hang.

What a replaced, truncated, grown or deleted file does between two calls is in `core/test_files.py`, what is refused at
once in `core/test_errors.py`. Here it happens within a call, or in places and sizes that are hard to come by.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import LINUX, File, G, World, descriptors, linux, maps, open_to_all, payload, reclaim, run_python
from smmap import FileChangedError, SmmapError
from smmap._engine import chosen as engine
from smmap.util import MapRegion, MapRegionList

W = 2 * G
SIZE = 6 * W + 77
Buffer = smmap.SlidingWindowMapBuffer
pytestmark = pytest.mark.skipif(os.name != "posix", reason="such files are found on POSIX")
backings = pytest.mark.parametrize("backing", ["mmap", "read"])


@pytest.fixture(autouse=True)
def at_once(tmp_path: Path) -> Iterator[None]:
    """Nothing hangs, and nothing of these files stays open or mapped."""

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    previous = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(50)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def nothing_open(folder: Path) -> None:
    reclaim()
    if LINUX:
        assert descriptors(folder) == []
        assert maps(folder) == []


# Large


def sparse(path: Path, size: int, places: list[int]) -> Callable[[int, int], bytes]:
    """A file of holes with 64 bytes of its own at each place; what [start, stop) of it holds, for short ranges."""
    pieces = {place: payload(64, place) for place in places}
    with open(path, "wb") as file:
        try:
            for place, piece in pieces.items():
                file.seek(place)
                file.write(piece)
            file.truncate(size)
        except OSError as error:  # pragma: no cover - depends on the file system
            pytest.skip(f"the file system has no such files: {error}")

    def data(start: int, stop: int) -> bytes:
        stop = min(stop, size)
        whole = bytearray(max(stop - start, 0))
        for place, piece in pieces.items():
            for at, byte in enumerate(piece[: size - place], place):
                if start <= at < stop:
                    whole[at - start] = byte
        return bytes(whole)

    return data


KINDS: dict[str, Callable[[], Any]] = {
    "default": smmap.SlidingWindowMapManager,
    "tiny": lambda: smmap.SlidingWindowMapManager(W, 4 * W, 8),
    "1 GiB": lambda: smmap.SlidingWindowMapManager(1 << 30, 2 << 30),
    "static": smmap.StaticWindowMapManager,
    "read": lambda: smmap.SlidingWindowMapManager(1 << 20, 4 << 20, backing="read"),
}


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="needs 64-bit addresses")
@pytest.mark.parametrize("size", [(4 << 30) + 4242, (1 << 40) + 4242])
@pytest.mark.parametrize("kind", KINDS)
def test_beyond_what_32_bits_count(kind: str, size: int, tmp_path: Path) -> None:
    """Sparse files of 4 GiB and 1 TiB, read around every power of two that may overflow, and at the far end."""
    edges = [1 << 31, 1 << 32, *([] if size < 1 << 40 else [1 << 33, 1 << 36, (1 << 40) - (1 << 32), 1 << 40])]
    places = [0, *(edge - 32 for edge in edges), size - 64]
    data = sparse(tmp_path / "sparse", size, places)
    with KINDS[kind]() as manager:
        cursor = manager.make_cursor(tmp_path / "sparse")
        assert cursor.file_size() == size
        for place in places:
            for offset, length in [(place, 64), (place + 5, 1), (place, 200), (place, 0), (place + 60, W)]:
                cursor.use_region(offset, length)
                assert cursor.is_valid()
                assert (cursor.ofs_begin(), cursor.ofs_end() - cursor.size()) == (offset, offset)
                assert cursor.size() == (min(length, size - offset) if length else cursor.size())
                assert bytes(cursor.buffer()[:200]) == data(offset, min(offset + 200, cursor.ofs_end()))
        assert not cursor.use_region(size, 1).is_valid()
        buffer = manager.buffer(tmp_path / "sparse")
        assert len(buffer) == size
        assert (buffer[-1], buffer[size - 1], buffer[-64:]) == (data(size - 1, size)[0],) * 2 + (data(size - 64, size),)
        for place in places:
            assert buffer[place - min(place, 9) : place + 99] == data(place - min(place, 9), place + 99)
            assert buffer[place : place + 64 : 7] == data(place, place + 64)[::7]
            assert buffer[place + 63 : place : -5] == data(place, place + 64)[63:0:-5]
            assert buffer.view(place, place + 64) == data(place, place + 64)
            assert buffer.find(payload(64, place)[:9], place - min(place, 99), place + 99) == place
            assert buffer.rfind(payload(64, place)[:9], place, place + 99) == place
            assert buffer.unpack_from("<Q", place + 3)[0] == int.from_bytes(data(place + 3, place + 11), "little")
        with pytest.raises(IndexError):
            buffer[size]
        part = manager.buffer(tmp_path / "sparse", size - 64)
        assert (len(part), bytes(part)) == (64, data(size - 64, size))
        manager._check()
        buffer.close()
        cursor.close()
        part.close()
    nothing_open(tmp_path)


# Not files that can be read at random


FACES: dict[str, Callable[[Any, Any], Any]] = {
    "cursor": lambda manager, name: manager.make_cursor(name),
    "buffer": lambda manager, name: manager.buffer(name),
    "region": lambda _, name: MapRegion(name, 0, 5),
    "list": lambda _, name: MapRegionList(name),
}
faces = pytest.mark.parametrize("face", FACES)


def refused(face: str, manager: Any, name: Any) -> BaseException:
    with pytest.raises((OSError, ValueError)) as failure:
        FACES[face](manager, name)
    text = str(failure.value)
    assert (os.fsdecode(name) if not isinstance(name, int) else str(name)) in text, text
    manager._check()
    assert manager.stats().mapped == 0
    return failure.value


@faces
@pytest.mark.parametrize("how", ["itself", "by a link", "as bytes", "by descriptor"])
@pytest.mark.parametrize(
    "kind", ["fifo", "socket", "folder", "/dev/zero", "/dev/null", "/dev/full", "/dev/urandom", "/dev/tty"]
)
def test_no_regular_file(kind: str, how: str, face: str, world: World, tmp_path: Path, monkeypatch: Any) -> None:
    name: Any = kind if kind.startswith("/") else str(tmp_path / kind)
    if not os.path.exists(kind) and kind.startswith("/"):
        pytest.skip("no such device here")
    if kind == "fifo":
        os.mkfifo(name)
    elif kind == "folder":
        os.mkdir(name)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(kind)
    if how == "by a link":
        os.symlink(name, tmp_path / "link")
        name = str(tmp_path / "link")
    elif how == "as bytes":
        name = os.fsencode(name)
    elif how == "by descriptor":
        try:
            name = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            pytest.skip("cannot be opened")
    before = descriptors() if LINUX else []
    refused(face, world.manager(W), name)
    if isinstance(name, int):
        os.fstat(name)  # still open
        os.close(name)
    elif LINUX:
        reclaim()
        assert descriptors() == before


@linux
@pytest.mark.parametrize("face", ["cursor", "buffer", "list"])
@pytest.mark.parametrize("name", ["/proc/self/status", "/proc/self/maps", "/proc/cpuinfo", "/proc/self/mem"])
def test_no_size(name: str, face: str, world: World) -> None:
    """Files that say that they are empty and are not; one of them cannot even be read (EIO)."""
    error = refused(face, world.manager(W), name)
    assert isinstance(error, OSError)
    assert error.filename == name
    assert error.errno in (errno.ENODEV, errno.EIO)


def sizes_that_lie() -> list[str]:
    """Files in /sys that say 4096 and hold a few bytes, and cannot be mapped."""
    found = ["/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_seqnum", "/sys/kernel/profiling"]
    return [name for name in found if os.access(name, os.R_OK)][:1]


@linux
@pytest.mark.parametrize("face", ["cursor", "buffer", "list"])
@pytest.mark.parametrize("name", sizes_that_lie())
def test_less_than_its_size(name: str, face: str, world: World) -> None:
    """Refused with a reason, instead of an error that says that it was truncated."""
    assert len(Path(name).read_bytes()) < os.stat(name).st_size
    error = refused(face, world.manager(W), name)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENODEV
    assert "fiction" in str(error)


# Swapped within a call

SWAPS = ["fifo", "fifo with data", "socket", "folder", "nothing", "/dev/zero", "/dev/tty", "other", "empty", "loop"]


def swap(path: Path, kind: str) -> Callable[[], None]:
    """Put something else in the place of a file; what to call in the end."""
    os.unlink(path)
    if kind.startswith("fifo"):
        os.mkfifo(path)
        if kind == "fifo with data":
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(writer, b"x" * 100)

            def close() -> None:
                assert len(os.read(reader, 200)) == 100  # nobody took anything out
                os.close(reader)
                os.close(writer)

            return close
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(before)
    elif kind == "folder":
        os.mkdir(path)
    elif kind.startswith("/"):
        os.symlink(kind, path)
    elif kind == "other":
        path.write_bytes(payload(SIZE, "other"))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "loop":
        os.symlink(path.name, path)
    return lambda: None


class Swapping:
    """Stands for a function: something else takes the file's place just after it (or just before it)."""

    def __init__(
        self, patch: pytest.MonkeyPatch, place: Any, name: str, action: Callable[[], Any], before: bool = False
    ) -> None:
        self.real, self.action, self.before, self.done = getattr(place, name), action, before, False
        self.result: Any = None
        patch.setattr(place, name, self)
        if name == "stat":
            looked = engine.unchanged

            def unchanged(*args: Any) -> bool:
                answer = looked(*args)
                self.act()
                return answer

            patch.setattr(engine, "unchanged", unchanged)

    def act(self) -> None:
        if not self.done:
            self.done = True
            self.result = self.action()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.before:
            self.act()
        answer = self.real(*args, **kwargs)
        if not self.before:
            self.act()
        return answer


@pytest.mark.parametrize("size", [SIZE, 0], ids=["full", "empty"])
@pytest.mark.parametrize("how", ["cursor", "buffer", "buffer of a cursor"])
@pytest.mark.parametrize("kind", SWAPS)
@pytest.mark.parametrize("backing", ["auto", "read"])
def test_swapped_between_looking_and_opening(
    backing: str, kind: str, how: str, size: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name leads to something else after it was examined and before it is opened."""
    file = world.file(size)
    manager = world.manager(W, backing=backing)
    swapping = Swapping(monkeypatch, os, "stat", lambda: swap(file.path, kind))
    try:
        cursor = None
        if how == "buffer":
            buffer = manager.buffer(file.path)
        else:
            cursor = manager.make_cursor(file.path)
            cursor.use_region(W if size else 0, 9)
            buffer = Buffer(cursor) if how != "cursor" else None
        # A buffer, and what is made of a file that was empty, is made of what is there after a second look
        looks_again = kind in ("other", "empty") and (how == "buffer" or not size)
        now = file.path.read_bytes() if looks_again else file.data
        if cursor is not None and cursor.is_valid():
            assert cursor.buffer() == (now[W : W + 9] if size else now[:9])
        if buffer is not None:
            assert bytes(buffer) == now
        if buffer is not None:
            buffer.close()
        if cursor is not None:
            cursor.close()
        # An empty file needs no second look: it may be what it was
        assert not size or looks_again, "the wrong file was opened"
    except OSError as error:
        assert str(file.path) in str(error)
        assert not isinstance(error, SmmapError) or error.errno == errno.ESTALE
        error.__traceback__ = None
    assert swapping.done
    manager._check()
    assert manager.stats().pinned == 0
    swapping.result()
    cursor = buffer = None
    manager.collect()
    nothing_open(file.path.parent)


@pytest.mark.parametrize("kind", ["first", "second"])
def test_a_link_switched_between_looking_and_opening(
    kind: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of what it led to when it was looked at, or an error; the next client sees the other file."""
    first, second = world.file(SIZE, "first"), world.file(SIZE, "second")
    link = tmp_path / "link"
    link.symlink_to(first.path)

    def switch() -> None:
        (tmp_path / "spare").symlink_to(second.path)
        os.replace(tmp_path / "spare", link)

    manager = world.manager(W)
    if kind == "second":  # the file is known and mapped already
        with manager.make_cursor(link) as cursor:
            cursor.use_region(3 * W, 9)
    Swapping(monkeypatch, os, "stat", switch)
    cursor = manager.make_cursor(link)
    for offset in (3 * W, 0):
        try:
            assert cursor.use_region(offset, 9).buffer() == first.data[offset : offset + 9]
        except FileChangedError as error:
            assert str(link) in str(error)
    with manager.make_cursor(link) as other:
        assert other.use_region(3 * W, 9).buffer() == second.data[3 * W : 3 * W + 9]
    cursor.close()


@backings
@pytest.mark.parametrize("left", [0, 1, W, W + 4, 2 * W - 1])
@pytest.mark.parametrize("call", ["stat", "fstat", "open_file"])
def test_truncated_within_a_call(
    call: str, left: int, backing: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was examined, when it is open, or just before the window is mapped or read."""
    file = world.file(SIZE)
    manager = world.manager(W, backing=backing)
    cursor = manager.make_cursor(file.path)
    if call == "stat":
        cursor.close()
    if call == "fstat" and smmap.engine != "plain":
        pytest.skip("a system call of the engine's own")
    place = engine if call == "open_file" else os
    swapping = Swapping(monkeypatch, place, call, lambda: os.truncate(file.path, left), before=call == "fstat")
    if call == "stat":
        cursor = manager.make_cursor(file.path)
    with pytest.raises(FileChangedError, match=str(file.path)) as failure:
        cursor.use_region(W, W)
    assert swapping.done
    assert not cursor.is_valid()
    assert failure.value.errno == errno.ESTALE
    del failure
    cursor.close()
    manager._check()
    with manager.make_cursor(file.path) as new:
        assert new.file_size() == left
        if left:
            assert new.use_region(0, 0).buffer() == file.data[: min(left, W)]


@pytest.mark.skipif(smmap.engine != "plain", reason="a system call of the engine's own")
def test_truncated_within_a_cold_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(SIZE)
    manager = world.manager(W)
    buffer = manager.buffer(file.path)
    Swapping(monkeypatch, os, "pread", lambda: os.truncate(file.path, W + 4), before=True)
    with pytest.raises(FileChangedError, match=str(file.path)):
        buffer[W : W + 9]
    assert buffer[W : W + 4] == file.data[W : W + 4]
    buffer.close()


UNDER_A_MAP = """
import gc, os, sys
import smmap
path, backing = sys.argv[1], sys.argv[2]
size = os.path.getsize(path)
manager = smmap.SlidingWindowMapManager(size, backing=backing)
cursor = manager.make_cursor(path).use_region(0, size)
view, buffer = cursor.buffer(), manager.buffer(path)
data = bytes(view)
os.truncate(path, 5)
try:
    assert bytes(view) == data
    print("the bytes are still there")
    cursor.unuse_region()
    manager.collect()
    assert cursor.use_region(0, size).buffer() == data
    print("and found again while a view holds them")
    cursor.unuse_region()
    del view
    for _ in range(3):
        gc.collect()
        manager.collect()
    cursor.use_region(0, size)
except smmap.FileChangedError as error:
    assert path in str(error), error
    print("FileChangedError")
try:
    buffer[size - 9]
except smmap.FileChangedError:
    print("FileChangedError")
"""


@pytest.mark.parametrize("backing", ["auto", "read"])
def test_truncated_under_a_map(backing: str, world: World) -> None:
    """The system kills whoever touches a page that is no longer there; what was read instead stays."""
    file = world.file(5 * G)
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_MAP, str(file.path), backing],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if backing == "read":
        assert (done.returncode, done.stderr) == (0, "")
        there = ["the bytes are still there", "and found again while a view holds them"]
        assert done.stdout.splitlines() == [*there, "FileChangedError", "FileChangedError"]
    else:
        assert done.returncode == -signal.SIGBUS
        assert "there" not in done.stdout


# Names

ODD = [
    b"\xff\xfe\x80.bin",
    "caf\u00e9".encode("latin-1"),
    b"new\nline",
    b"%s {0} {x!r} %(y)d",
    b" ",
    b"'quoted\"",
    b"~",
    b"-",
    b"a" * 255,
    "\u202e\U0001f40d".encode(),
    b"back\\slash",
]


@pytest.mark.parametrize("raw", ODD, ids=repr)
def test_odd_names(raw: bytes, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any name that the system takes, as str (with surrogate escapes), bytes or a path object; in errors too."""
    data = payload(SIZE, raw)
    full = os.path.join(os.fsencode(tmp_path), raw)
    with open(full, "wb") as out:
        out.write(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(smmap._default, "_manager", None)
    manager = world.manager(W)
    name = os.fsdecode(full)
    forms: list[Any] = [full, name, Path(name), raw, os.fsdecode(raw)]
    cursors = [manager.make_cursor(form) for form in forms]
    for cursor, form in zip(cursors, forms):
        assert cursor.path() is form
        assert cursor.use_region(W - 5, 10).buffer() == data[W - 5 : W + 5]
        assert cursor.region() is cursors[0].region()
        repr(cursor)
    assert manager.num_open_files() == 1
    buffer = manager.buffer(name)
    again = pickle.loads(pickle.dumps(buffer))
    assert again == data
    again.close()
    smmap.default_manager().close()
    for cursor in cursors:
        cursor.unuse_region()
    assert manager.release(full) == 1
    os.unlink(full)
    for cursor in cursors:
        with pytest.raises(FileChangedError) as failure:
            cursor.use_region(0, 1)
        error = failure.value
        assert os.fsencode(error.filename) == full
        assert str(error).encode("utf-8", "surrogateescape")
        assert repr(name)[1:-1] in str(error) or repr(full)[2:-1] in str(error)
        cursor.close()
        with pytest.raises(smmap.ClosedError) as closed:
            cursor.use_region(0, 1)
        assert str(closed.value).encode("utf-8")  # can be printed
        error.__traceback__ = None
        del failure, closed, error
    with pytest.raises(FileNotFoundError) as missing:
        manager.make_cursor(full)
    assert missing.value.filename == full
    buffer.close()


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("a" * 256, OSError, errno.ENAMETOOLONG),
        ("a/" * 3000 + "b", OSError, errno.ENAMETOOLONG),
        ("loop", OSError, errno.ELOOP),
        ("dangling", FileNotFoundError, errno.ENOENT),
        ("", FileNotFoundError, errno.ENOENT),
        ("\ud800", ValueError, None),
        ("nul\0", ValueError, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_names_that_lead_nowhere(name: str, kind: type, code: Any, world: World, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    manager = world.manager(W)
    full = os.path.join(str(tmp_path), name) if name else name
    for call in (manager.make_cursor, manager.buffer, MapRegionList):
        with pytest.raises(kind) as failure:
            call(full)
        if code is not None:
            if name:
                assert failure.value.errno == code
            assert failure.value.filename is not None
        del failure
    manager._check()


def test_many_links_in_a_row(world: World, tmp_path: Path) -> None:
    file = world.file(SIZE)
    last = file.path
    for number in range(30):
        (tmp_path / f"link{number}").symlink_to(last)
        last = tmp_path / f"link{number}"
    with world.manager(W).make_cursor(last) as cursor:
        assert cursor.use_region(W, 9).buffer() == file.data[W : W + 9]


GONE = """
import os, sys
import smmap
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
manager = smmap.SlidingWindowMapManager()
for name in ("data", b"data", "../nothing"):
    for call in (manager.make_cursor, manager.buffer, manager.release, smmap.util.MapRegionList):
        try:
            call(name)
        except FileNotFoundError as error:
            assert error.filename is not None and os.fsdecode(error.filename).endswith(os.fsdecode(name)), error
        else:
            raise AssertionError("no error")
with manager.make_cursor(sys.argv[2]) as cursor:
    print(bytes(cursor.use_region(0, 9).buffer()).hex())
"""


def test_the_current_folder_is_gone(world: World, tmp_path: Path) -> None:
    file = world.file(W)
    (tmp_path / "gone").mkdir()
    done = run_python("import smmap.util\n" + GONE, tmp_path / "gone", file.path)
    assert bytes.fromhex(done.stdout) == file.data[:9]


class Fickle:
    """Names another file each time it is asked."""

    def __init__(self, *names: Any) -> None:
        self.names, self.asked = names, 0

    def __fspath__(self) -> Any:
        self.asked += 1
        name = self.names[min(self.asked, len(self.names)) - 1]
        if isinstance(name, BaseException):
            raise name
        return name


def test_path_objects_that_change_their_mind(world: World) -> None:
    first, second = world.file(SIZE, "first"), world.file(SIZE, "second")
    manager = world.manager(W)
    fickle = Fickle(str(first.path), str(second.path))
    cursor = manager.make_cursor(fickle)
    for offset in (0, 3 * W, W):
        assert cursor.use_region(offset, 9).buffer() == first.data[offset : offset + 9]
    manager.collect()
    assert cursor.use_region(2 * W, 9).buffer() == first.data[2 * W : 2 * W + 9]
    assert fickle.asked == 1
    assert cursor.path() is fickle
    cursor.close()
    for wrong, kind in [(5, TypeError), (None, TypeError), (KeyError("x"), KeyError), (OSError(5, "x"), OSError)]:
        with pytest.raises(kind):
            manager.make_cursor(Fickle(wrong))
    manager._check()


# Places


def test_files_without_a_name(world: World, tmp_path: Path) -> None:
    """Read by descriptor: one that was deleted, one that never had a name."""
    data = payload(SIZE, "nameless")
    numbers = [os.open(tmp_path / "deleted", os.O_RDWR | os.O_CREAT)]
    os.unlink(tmp_path / "deleted")
    if hasattr(os, "memfd_create"):
        numbers.append(os.memfd_create("nameless"))
    for flag in ["O_TMPFILE"] if hasattr(os, "O_TMPFILE") else []:
        try:
            numbers.append(os.open(tmp_path, os.O_RDWR | getattr(os, flag)))
        except OSError:  # pragma: no cover - depends on the file system
            pass
    manager = world.manager(W)
    for number in numbers:
        os.write(number, data)
        names: list[Any] = [number]
        if LINUX:
            names.append(f"/proc/self/fd/{number}")
        for name in names:
            with manager.make_cursor(name) as cursor:
                assert cursor.use_region(3 * W - 5, 10).buffer() == data[3 * W - 5 : 3 * W + 5]
            with manager.buffer(name) as buffer:
                assert buffer == data
        os.close(number)
        manager.collect()


def test_the_folder_is_swapped(world: World, tmp_path: Path) -> None:
    """A file of the same name in another folder that takes the place of the first."""
    here, there = world.file(SIZE, "here/data"), world.file(SIZE, "there/data")
    manager = world.manager(W)
    old = manager.make_cursor(here.path).use_region(W, 9)
    fresh = manager.make_cursor(here.path)
    os.rename(tmp_path / "here", tmp_path / "away")
    os.rename(tmp_path / "there", tmp_path / "here")
    for offset in (0, 3 * W, W):
        for cursor in (old, fresh):
            try:
                assert cursor.use_region(offset, 9).buffer() == here.data[offset : offset + 9]
            except FileChangedError:
                continue
    with manager.make_cursor(here.path) as new:
        assert new.use_region(W, 9).buffer() == there.data[W : W + 9]
    with manager.make_cursor(tmp_path / "away" / "data") as moved:
        assert moved.use_region(W, 9).buffer() == here.data[W : W + 9]
    old.close()
    fresh.close()


NO_LONGER_ALLOWED = """
import errno, gc, os, sys
import smmap
folder, W = sys.argv[1], int(sys.argv[2])
path, other = os.path.join(folder, "data"), os.path.join(folder, "secret")
with open(path, "rb") as file:
    data = file.read()
secret = os.open(other, os.O_RDONLY)
with open(other, "rb") as file:
    secret_data = file.read()
root = os.getuid() == 0
def become_nobody():
    if root:
        os.setgroups([]); os.setegid(65534); os.seteuid(65534)
def become_root():
    if root:
        os.seteuid(0); os.setegid(0)
become_nobody()
manager = smmap.SlidingWindowMapManager(W, 3 * W, 8)
cursor, buffer = manager.make_cursor(path).use_region(W, 9), manager.buffer(path)
fresh = manager.make_cursor(path)
become_root()
os.chmod(path, 0)
become_nobody()
for offset in range(0, 6 * W, W):                      # a file that is open stays so
    assert cursor.use_region(offset, 9).buffer() == data[offset:offset + 9]
    assert buffer[offset:offset + 9] == data[offset:offset + 9]
view = buffer.view(4 * W, 4 * W + 9)
manager.release(path)                                  # but for what is pinned or in a view,
assert view == data[4 * W:4 * W + 9] and cursor.buffer() == data[5 * W:5 * W + 9]
view.release()
del view
cursor.unuse_region()
manager.release(path)                                  # now it is not
gc.collect()
for attempt in range(3):
    for call in (lambda: cursor.use_region(W, 9), lambda: fresh.use_region(0, 9), lambda: buffer[2 * W],
                 lambda: buffer.view(0, 9), lambda: manager.buffer(path)):
        try:
            call()
        except PermissionError as error:
            assert error.filename == path and error.errno == errno.EACCES, error
        else:
            raise AssertionError("no error")
        manager._check()
    assert manager.stats().mapped == 0
become_root()
os.chmod(path, 0o644)
os.chmod(folder, 0)                                    # the folder cannot be searched
become_nobody()
for call in (lambda: cursor.use_region(W, 9), lambda: manager.make_cursor(path)):
    try:
        call()
    except PermissionError as error:
        assert error.filename == path, error
    else:
        raise AssertionError("no error")
with manager.make_cursor(secret) as owned:             # a descriptor is a permission
    assert owned.use_region(0, 9).buffer() == secret_data[:9]
become_root()
os.chmod(folder, 0o755)
become_nobody()
assert cursor.use_region(W, 9).buffer() == data[W:W + 9]
assert buffer[2 * W] == data[2 * W]
if hasattr(os, "O_NOATIME"):                           # only the owner may ask for that
    try:
        cursor.use_region(0, 9, os.O_NOATIME)
    except PermissionError as error:
        assert error.filename == path and error.errno == errno.EPERM, error
    else:
        assert not root, "no error"
    assert cursor.buffer() == data[W:W + 9]
manager._check()
cursor.close(); buffer.close(); fresh.close()
manager.close()
os.close(secret)
"""


def test_permission_taken_away(world: World, tmp_path: Path) -> None:
    """As an unprivileged user: what is open stays readable, what is not is refused by name, and costs nothing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    world.file(SIZE, "folder/data")
    secret = world.file(SIZE, "folder/secret")
    os.chmod(secret.path, 0o600)
    open_to_all(tmp_path)
    try:
        run_python(f"import sys; sys.path[:0] = {sys.path!r}\n" + NO_LONGER_ALLOWED, folder, W)
    finally:
        os.chmod(folder, 0o755)
        os.chmod(tmp_path.parent, 0o700)


# All at once


def test_replaced_all_the_time(world: World, tmp_path: Path) -> None:
    """Another thread replaces, truncates and deletes without a pause; each client has the bytes of one version.

    Versions never share bytes at an offset, and are never truncated in place while a map of them may be read.
    """
    versions = [payload(SIZE - number * 1000, number) for number in range(4)]
    manager = world.manager(W, 3 * W, 6)
    path = tmp_path / "data"
    path.write_bytes(versions[0])
    stop = threading.Event()

    def replace() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            spare = tmp_path / f"spare{turn % 3}"
            spare.write_bytes(versions[turn % 4])
            os.replace(spare, path)
            if turn % 5 == 0:
                os.unlink(path)

    thread = threading.Thread(target=replace)
    thread.start()
    good = 0
    try:
        for number in itertools.count():
            if number >= 400 and good > 50:
                break
            assert number < 100_000, "hardly anything was read"
            try:
                cursor = manager.make_cursor(path)
                data = next((data for data in versions if len(data) == cursor.file_size()), None)
                if data is None:  # looked at while it was written
                    continue
                with Buffer(cursor) if number % 2 else manager.buffer(path) as buffer:
                    mine = next((data for data in versions if len(data) == len(buffer)), None)
                    for offset in (W - 5, 3 * W + 1, 0, 2 * W):
                        cursor.use_region(offset, 10)
                        assert cursor.buffer() == data[offset : offset + 10]
                        assert mine is None or buffer[offset : offset + 99] == mine[offset : offset + 99]
                        good += 1
            except (FileNotFoundError, FileChangedError) as error:
                error.__traceback__ = None
            finally:
                cursor = None
    finally:
        stop.set()
        thread.join()
    manager._check()
    gc.collect()


def test_hard_links_are_one_file(world: World, tmp_path: Path) -> None:
    """One map of it, by whatever name; clients go on, or raise, when names come and go, for that changes its status."""
    file: File = world.file(SIZE)
    manager = world.manager(W)
    names = [file.path, *(tmp_path / f"link{number}" for number in range(5))]
    for name in names[1:]:
        os.link(file.path, name)
    cursors = [manager.make_cursor(name).use_region(W, 9) for name in names]
    assert manager.stats()[:2] == (1, 1)
    assert all(cursor.region() is cursors[0].region() for cursor in cursors)
    os.unlink(file.path)
    os.unlink(tmp_path / "link0")
    os.rename(tmp_path / "link1", tmp_path / "renamed")
    with manager.make_cursor(tmp_path / "renamed") as new:
        assert new.use_region(W, 9).buffer() == file.data[W : W + 9]
    with pytest.raises(FileNotFoundError):
        manager.make_cursor(tmp_path / "link0")
    for cursor in cursors:
        assert cursor.buffer() == file.data[W : W + 9]
        try:
            assert cursor.use_region(3 * W, 9).buffer() == file.data[3 * W : 3 * W + 9]
        except FileChangedError:
            assert cursor.buffer() == file.data[W : W + 9]
        cursor.close()
