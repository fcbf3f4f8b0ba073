"""What goes wrong is told at once, with the file's name, in a kind that users of `open` and `mmap` already catch.

And it costs nobody anything: nothing is evicted, nothing is left half made. So each test looks at the ledger, at the
process's descriptors and at its maps, before and after.
"""

from __future__ import annotations

import copy
import errno
import os
import pickle
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import smmap
from smmap import ClosedError, FileChangedError, LimitError, SmmapError, _engine
from smmap.util import MapRegion

from ._tools import (
    LINUX,
    PYPY,
    TRACKS,
    File,
    G,
    World,
    before_system_call,
    by_policy,
    descriptors,
    linux,
    maps,
    open_to_all,
    reclaim,
    run_python,
)

W = 2 * G
Buffer: Any = smmap.SlidingWindowMapBuffer
posix = pytest.mark.skipif(os.name != "posix", reason="no such files there")


class Scene:
    """A manager at work: a cursor that holds a window, and idle windows that an error must not cost."""

    def __init__(self, make_manager: Any, make_file: Any, folder: Path, **kwargs: Any) -> None:
        self.folder = folder
        self.manager = make_manager(W, **kwargs)
        self.file: File = make_file(8 * W, "kept")
        self.cursor = self.manager.make_cursor(self.file.path)
        for number in (1, 2, 3):
            self.cursor.use_region(number * W + 1, 9)

    def state(self) -> Any:
        reclaim()
        stats = self.manager.stats()
        known = (
            stats.mapped,
            stats.pinned,
            stats.idle,
            stats.detached,
            stats.mapped_memory,
            stats.files,
            stats.descriptors,
        )
        system = (descriptors(), maps(self.folder)) if LINUX else ()
        return known, stats.evictions, stats.misses, system

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Whatever happens in here changes nothing."""
        before = self.state()
        yield
        self.manager._check()
        assert self.state() == before
        assert self.cursor.is_valid()
        assert (self.cursor.ofs_begin(), self.cursor.size()) == (3 * W + 1, 9)
        assert self.cursor.buffer() == self.file.data[3 * W + 1 : 3 * W + 10]


@pytest.fixture
def scene(world: World, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(world.manager, world.file, tmp_path)
    yield made
    made.cursor.close()


def refusal(scene: Scene, name: Any, *kinds: type[BaseException]) -> Any:
    """Make a cursor of `name`, which must fail so; a buffer is made of a cursor, so it fails there too."""
    with scene.unharmed():
        with pytest.raises(kinds) as failure:
            scene.manager.make_cursor(name).use_region(0, 1)
        error = failure.value
        error.__traceback__ = None
        del failure
    return error


def test_kinds() -> None:
    """Both a kind of our own and the built-in kind that callers know."""
    assert issubclass(ClosedError, (SmmapError, ValueError))
    assert issubclass(ClosedError, SmmapError)
    assert issubclass(ClosedError, ValueError)
    for kind in (FileChangedError, LimitError):
        assert issubclass(kind, SmmapError)
        assert issubclass(kind, OSError)
    for ours in (ClosedError, FileChangedError, LimitError):
        assert getattr(smmap, ours.__name__) is ours
    assert not issubclass(SmmapError, (OSError, ValueError))


def test_missing(scene: Scene, tmp_path: Path) -> None:
    for name in (tmp_path / "missing", str(tmp_path / "missing"), os.fsencode(tmp_path / "missing")):
        error = refusal(scene, name, FileNotFoundError)
        assert error.errno == errno.ENOENT
        assert os.fsdecode(error.filename) == str(tmp_path / "missing")
    error = refusal(scene, scene.file.path / "below a file", NotADirectoryError)
    assert error.filename == str(scene.file.path / "below a file")


def test_folder(scene: Scene, tmp_path: Path) -> None:
    error = refusal(scene, tmp_path, IsADirectoryError)
    assert error.errno == errno.EISDIR
    assert error.filename == str(tmp_path)
    if LINUX:
        number = os.open(tmp_path, os.O_RDONLY)
        error = refusal(scene, number, IsADirectoryError)
        assert str(number) in str(error)
        os.close(number)


@posix
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "pipe"])
def test_not_regular(kind: str, scene: Scene, tmp_path: Path) -> None:
    """Refused before it is opened, so that nothing hangs and no device does anything."""
    name: Any = str(tmp_path / kind)
    closing: list[Any] = []
    if kind == "fifo":
        os.mkfifo(name)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        os.chdir(tmp_path)
        server.bind(kind)
        closing.append(server.close)
    elif kind == "device":
        name = "/dev/zero"
    else:
        name, other = os.pipe()
        closing += [lambda: os.close(name), lambda: os.close(other)]
    error = refusal(scene, name, OSError)
    assert str(name) in str(error)
    assert "regular" in str(error)
    for close in closing:
        close()


@posix
def test_not_regular_by_descriptor(scene: Scene) -> None:
    for name in ("/dev/zero", "/dev/null"):
        number = os.open(name, os.O_RDONLY)
        error = refusal(scene, number, OSError)
        assert str(number) in str(error)
        os.close(number)


@linux
def test_data_without_size(scene: Scene) -> None:
    """A file in /proc says that it is empty and is not."""
    for name in ("/proc/self/status", "/proc/version"):
        error = refusal(scene, name, OSError)
        assert error.filename == name
    with open("/proc/self/status", "rb") as file:
        refusal(scene, file.fileno(), OSError)
        assert file.read(5) == b"Name:"  # the user's own position has not moved


def short_files() -> list[str]:
    """Files in /sys, each of which says that it has a page, and has a line."""
    found = []
    for folder in ("/sys/kernel/mm/transparent_hugepage", "/sys/kernel", "/sys/fs/ext4/features", "/sys/module/kernel"):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            try:
                if os.path.isfile(path) and 0 < len(Path(path).read_bytes()) < os.path.getsize(path):
                    found.append(path)
            except OSError:
                continue
    return found[:3]


@linux
def test_size_that_is_a_fiction(scene: Scene) -> None:
    """The file was not truncated: it never had what its size says. The error says so, and what to do."""
    names = short_files()
    if not names:
        pytest.skip("there is no such file")
    for name in names:
        number = os.open(name, os.O_RDONLY)
        for given, called in ((name, name), (number, f"descriptor {number}")):
            calls: list[Callable[[], Any]] = [
                lambda: scene.manager.make_cursor(given),
                lambda: scene.manager.buffer(given),
                lambda: smmap.open(given, manager=scene.manager),
            ]
            for call in calls:
                with scene.unharmed():
                    with pytest.raises(OSError, match="fiction") as failure:
                        call()
                    error: Any = failure.value
                    error.__traceback__ = None
                    del failure
                assert not isinstance(error, SmmapError)
                assert error.filename == called
                for wanted in ("/sys", "open()", str(os.path.getsize(name))):
                    assert wanted in str(error)
                for wrong in ("truncated", "changed"):
                    assert wrong not in str(error)
        assert os.lseek(number, 0, os.SEEK_CUR) == 0  # the user's own position has not moved
        os.close(number)


@posix
def test_no_permission(world: World, tmp_path: Path) -> None:
    """As a user without privileges: an error that names the file, and nothing lost."""
    file, secret = world.file(3 * W, "open"), world.file(W, "secret")
    os.chmod(secret.path, 0)
    open_to_all(tmp_path)
    script = """
import os, sys
import smmap
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
manager = smmap.SlidingWindowMapManager(int(sys.argv[3]))
cursor = manager.make_cursor(sys.argv[1]).use_region(0, 5)
for attempt in range(3):
    try:
        manager.make_cursor(sys.argv[2]).use_region(0, 5)
    except PermissionError as error:
        assert error.filename == sys.argv[2], error
    else:
        raise AssertionError("no error")
    manager._check()
    stats = manager.stats()
    assert (stats.mapped, stats.pinned, stats.evictions) == (1, 1, 0), stats
    assert cursor.is_valid()
print(cursor.buffer().hex())
"""
    try:
        import pwd

        pwd.getpwuid(65534)
        done = run_python(f"import sys; sys.path[:0] = {sys.path!r}\n" + script, file.path, secret.path, W)
    finally:
        os.chmod(secret.path, 0o600)
        os.chmod(tmp_path, 0o700)
    assert done.stdout.strip() == file.data[:5].hex()


@pytest.mark.parametrize(
    "name",
    [None, 1.5, ["path"], ("path",), {}, object(), bytearray(b"path"), Exception],
    ids=["None", "float", "list", "tuple", "dict", "object", "bytearray", "type"],
)
def test_wrong_kind_of_name(name: Any, scene: Scene) -> None:
    error = refusal(scene, name, TypeError)
    for accepted in ("str", "bytes", "PathLike", "int"):
        assert accepted in str(error)
    assert type(name).__name__ in str(error)


@pytest.mark.parametrize("name", ["a\0b", b"a\0b"])
def test_name_with_a_null(name: Any, scene: Scene) -> None:
    refusal(scene, name, ValueError)


def test_bad_descriptors(scene: Scene) -> None:
    number = os.open(scene.file.path, os.O_RDONLY)
    os.close(number)
    for bad in (number, 1 << 20, -1):
        error = refusal(scene, bad, OSError, ValueError)
        assert isinstance(error, ValueError) or error.errno == errno.EBADF
        assert str(bad) in str(error)
    refusal(scene, 1 << 80, OSError, OverflowError, ValueError)


@posix
def test_descriptor_that_cannot_be_read(scene: Scene) -> None:
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_APPEND, getattr(os, "O_PATH", os.O_WRONLY)):
        number = os.open(scene.file.path, flags)
        error = refusal(scene, number, OSError)
        assert str(number) in str(error)
        os.close(number)
    number = os.open(scene.file.path, os.O_RDWR)
    with scene.manager.make_cursor(number) as cursor:
        assert cursor.use_region(0, 5).buffer() == scene.file.data[:5]
    os.close(number)


NOT_NUMBERS: list[Any] = ["5", 1.5, None, b"5", [1]]


@pytest.mark.parametrize("wrong", NOT_NUMBERS, ids=repr)
def test_wrong_kind_of_number(wrong: Any, scene: Scene) -> None:
    cursor, manager = scene.cursor, scene.manager
    with scene.unharmed():
        calls: dict[str, Callable[[], object]] = {
            "offset": lambda: cursor.use_region(wrong),
            "size": lambda: cursor.use_region(0, wrong),
            "flags": lambda: cursor.use_region(0, 1, wrong),
            "buffer's offset": lambda: Buffer(cursor, wrong),
            "buffer's size": lambda: Buffer(cursor, 0, wrong),
            "window": lambda: type(manager)(wrong),
            "memory": lambda: type(manager)(0, wrong),
            "handles": lambda: type(manager)(0, 0, wrong),
        }
        for what, call in calls.items():
            if isinstance(wrong, str) and what in ("window", "memory", "handles"):
                continue  # these take sizes as text
            with pytest.raises(TypeError):
                assert not call(), what


def test_negative_numbers(scene: Scene) -> None:
    cursor, manager = scene.cursor, scene.manager
    with scene.unharmed():
        calls: list[Callable[[], object]] = [
            lambda: cursor.use_region(-1),
            lambda: cursor.use_region(0, -1),
            lambda: cursor.use_region(-sys.maxsize, 5),
            lambda: Buffer(cursor, -1),
            lambda: Buffer(cursor, 0, -1),
            lambda: type(manager)(-2),
            lambda: type(manager)(0, -1),
            lambda: type(manager)(0, 0, -1),
            lambda: type(manager)(0, 0, 0),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=r"-|negative|must"):
                call()
    for backing in ("", "MMAP", None, 5):
        with pytest.raises((ValueError, TypeError)):
            type(manager)(backing=backing)


WRITING = ["O_WRONLY", "O_RDWR", "O_TRUNC", "O_CREAT", "O_APPEND"]


def test_negative_numbers_where_windows_are_mapped(world: World) -> None:
    file = world.file(4 * W)
    manager = world.manager(W)
    held = [manager.make_cursor(file.path).use_region(offset, 9) for offset in (0, W - 5, W, 2 * W - 5)]
    cursor = manager.make_cursor(file.path).use_region(5, 9)
    for number in (-1, -5, -W, -2 * W):
        for request in ((number, 9), (number, 0), (number, W), (5, number), (W + 5, number)):
            with pytest.raises(ValueError, match="negative"):
                cursor.use_region(*request)
            assert cursor.buffer() == file.data[5:14]
    for each in (cursor, *held):
        each.close()


@pytest.mark.parametrize("flag", WRITING)
def test_flags_that_write(flag: str, scene: Scene, world: World, tmp_path: Path) -> None:
    """Refused with the file untouched, whether or not a window must be mapped for the request."""
    other = world.file(W, "other")
    flags = getattr(os, flag)
    cursor = scene.manager.make_cursor(other.path)
    with scene.unharmed():
        for client in (cursor, scene.cursor):
            with pytest.raises(ValueError, match="flags"):
                client.use_region(0, 1, flags)
            with pytest.raises(ValueError, match="flags"):
                Buffer(client, 0, 5, flags)
            with pytest.raises(ValueError, match="flags"):
                smmap.SlidingWindowMapBuffer().begin_access(client, 0, 5, flags)
    with pytest.raises(ValueError, match="flags"):
        MapRegion(str(other.path), 0, 5, flags)
    assert other.path.read_bytes() == other.data
    assert scene.file.path.read_bytes() == scene.file.data
    assert sorted(os.listdir(tmp_path)) == ["kept", "other"]
    cursor.close()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no such flag")
def test_no_follow(scene: Scene, tmp_path: Path) -> None:
    """Honoured, also where the file behind the link is mapped already."""
    link = tmp_path / "link"
    link.symlink_to(scene.file.path)
    cursor = scene.manager.make_cursor(link)
    assert cursor.use_region(5 * W, 5).buffer() == scene.file.data[5 * W : 5 * W + 5]
    cursor.unuse_region()
    with scene.unharmed():
        for offset in (0, 3 * W, 5 * W, 7 * W):
            with pytest.raises(OSError, match=r".+") as failure:
                cursor.use_region(offset, 5, os.O_NOFOLLOW)
            assert failure.value.errno == errno.ELOOP
            assert failure.value.filename == str(link)
            assert not cursor.is_valid()
            failure.value.__traceback__ = None
            del failure
    direct = scene.manager.make_cursor(scene.file.path)
    assert direct.use_region(7 * W, 5, os.O_NOFOLLOW).buffer() == scene.file.data[7 * W : 7 * W + 5]
    assert cursor.use_region(7 * W, 5).buffer() == scene.file.data[7 * W : 7 * W + 5]
    direct.close()
    cursor.close()


@linux
def test_files_are_opened_for_reading_and_not_inherited(world: World, tmp_path: Path) -> None:
    import fcntl

    file = world.file(5 * W)
    manager = world.manager(W)
    buffer = Buffer(manager.make_cursor(file.path))
    assert buffer[3 * W] == file.data[3 * W]
    found = inherited = 0
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{number}") != str(file.path):
                continue
        except OSError:
            continue
        found += 1
        assert fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR) == os.O_RDONLY
        inherited += os.get_inheritable(number)
    assert found
    assert inherited == (manager.stats().mapped if PYPY else 0)  # a duplicate that PyPy's own maps have
    buffer.close()


def test_file_changed(scene: Scene) -> None:
    """The error names the file and the range that is gone; `errno` is ESTALE."""
    with open(scene.file.path, "r+b") as file:
        file.truncate(5 * W)
    with scene.unharmed():
        for offset, end in ((5 * W, 6 * W), (7 * W + 5, 8 * W), (6 * W, 7 * W)):
            with pytest.raises(FileChangedError) as failure:
                scene.cursor.use_region(offset, 9)
            error = failure.value
            assert error.errno == errno.ESTALE
            assert os.fspath(error.filename) == str(scene.file.path)
            text = str(error)
            assert str(scene.file.path) in text
            assert "truncated" in text
            assert str(offset // W * W) in text
            assert str(end) in text
            error.__traceback__ = None
            del failure, error


def test_limit(world: World, tmp_path: Path) -> None:
    file, other = world.file(8 * W), world.file(W, "other")
    manager = world.manager(W, 0, 2)
    held = [manager.make_cursor(file.path).use_region(number * W, 5) for number in range(2)]
    cursor = manager.make_cursor(other.path)
    before = manager.stats()
    for _ in range(3):
        with pytest.raises(LimitError) as failure:
            cursor.use_region(7, 11)
        text = str(failure.value)
        assert str(other.path) in text
        assert "max_open_handles" in text
        assert "2" in text
        assert failure.value.filename == os.fspath(other.path)
        failure.value.__traceback__ = None
        del failure
    after = manager.stats()
    assert (after.mapped, after.pinned, after.evictions) == (before.mapped, before.pinned, before.evictions)
    assert [client.buffer()[0] for client in held] == [file.data[0], file.data[W]]
    held.pop().close()
    assert cursor.use_region(7, 11).buffer() == other.data[7:18]
    held.pop().close()
    cursor.close()


@pytest.mark.parametrize("client", ["cursor", "buffer", "manager"])
def test_closed(client: str, world: World) -> None:
    file = world.file(8 * W, "closed-file")
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 5)
    buffer = Buffer(cursor)
    {"cursor": cursor, "buffer": buffer, "manager": manager}[client].close()
    calls: list[Any] = []
    if client in ("cursor", "manager"):
        calls += [cursor.use_region, lambda: cursor.use_region(5 * W, 1)]
        calls += [cursor.buffer, cursor.map] if client == "cursor" else []
    if client in ("buffer", "manager"):
        calls += [lambda: buffer[6 * W], lambda: buffer[6 * W :], lambda: buffer.view(6 * W), lambda: bytes(buffer)]
        calls += [lambda: buffer.find(b"x"), lambda: b"xyz" in buffer, lambda: buffer.count(b"x"), lambda: list(buffer)]
        calls += [lambda: buffer[::7], lambda: buffer.rfind(b"x"), lambda: buffer.index(b"x")]
    if client == "manager":
        calls += [lambda: manager.make_cursor(file.path)]
    for number, call in enumerate(calls):
        with pytest.raises(ClosedError, match="closed-file"):
            assert call() is None, number
    manager._check()
    assert manager.collect() >= 0
    cursor.close()
    buffer.close()


def test_not_associated(world: World) -> None:
    cursor = smmap.WindowCursor(world.manager())
    for call in (cursor.use_region, cursor.buffer, cursor.map, cursor.path, cursor.fd, lambda: Buffer(cursor)):
        with pytest.raises(ValueError, match=r".+"):
            call()
    with pytest.raises(TypeError):
        cursor.assign("a cursor")  # type: ignore[arg-type]


def test_a_cursor_without_a_region(world: World) -> None:
    file = world.file(W, "some-file")
    with world.manager().make_cursor(file.path) as cursor:
        for call in (cursor.buffer, cursor.map):
            with pytest.raises(ValueError, match="some-file"):
                call()
        assert (cursor.size(), cursor.region()) == (0, None)


# What the system refuses


class Refusing:
    """Stands for a function of the engine: fails with `code` for the next `times` calls, then works again.

    "pread" is the system's.
    """

    def __init__(self, patch: pytest.MonkeyPatch, name: str, code: int, times: int = 1) -> None:
        self.code, self.times, self.calls = code, times, 0
        if name == "pread":
            before_system_call(patch, name, self.refused)
        else:
            self.real = getattr(_engine.chosen, name)
            patch.setattr(_engine.chosen, name, self)

    def refused(self, *_: Any) -> int:
        self.calls += 1
        self.times -= 1
        return self.code if self.times >= 0 else 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.times > 0:
            self.times -= 1
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args)


CALLS = ["open_file", "map_window"]
RUN_OUT = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN]
OTHER = [errno.EIO, errno.EACCES, errno.EBUSY, errno.ENOSPC]


def names(code: int) -> str:
    return errno.errorcode[code]


@linux
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", RUN_OUT, ids=names)
def test_idle_regions_go_one_by_one_when_the_system_has_run_out(
    name: str, code: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oldest first, no more than the system asks for. Where a map costs no descriptor, none goes for lack of those."""
    files = {letter: world.file(W, letter) for letter in "abcde"}  # one window each, so no descriptor is kept
    manager = world.manager(W)
    for letter in "abc":
        with manager.make_cursor(files[letter].path) as cursor:
            cursor.use_region(0, 5)
    held = manager.make_cursor(files["d"].path).use_region(0, 5)
    cursor = manager.make_cursor(files["e"].path)
    assert (manager.stats().idle, manager.stats().descriptors) == (3, 0)
    refusing = Refusing(monkeypatch, name, code, 2)
    if TRACKS or code in (errno.ENOMEM, errno.EAGAIN):
        assert cursor.use_region(0, 5).buffer() == files["e"].data[:5]
        assert refusing.calls == 3
        reclaim()
        assert "".join(maps(tmp_path)) == "cde"
    else:
        refusing.times = 1000  # garbage may be collected, and it be tried again
        with pytest.raises(LimitError):
            cursor.use_region(0, 5)
        reclaim()
        assert "".join(maps(tmp_path)) == "abcd"
    assert held.buffer() == files["d"].data[:5]
    manager._check()
    held.close()
    cursor.close()


@linux
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE], ids=names)
def test_kept_descriptors_go_first_when_descriptors_have_run_out(
    code: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [world.file(3 * W, letter) for letter in "abc"]
    other = world.file(3 * W, "other")
    manager = world.manager(W)
    buffers = [Buffer(manager.make_cursor(file.path)) for file in files]
    assert (manager.stats().idle, manager.stats().descriptors) == (3, 3)
    cursor = manager.make_cursor(other.path)
    Refusing(monkeypatch, "open_file", code, 2)
    assert cursor.use_region(W, 5).buffer() == other.data[W : W + 5]
    assert (manager.stats().idle, manager.stats().pinned) == (3, 1)  # no window went
    kept = [name for name in descriptors(tmp_path) if name != str(other.path)]
    assert (not TRACKS and kept == [str(files[2].path)]) or TRACKS  # the two used least recently went
    manager._check()
    assert [buffer[2 * W] for buffer in buffers] == [file.data[2 * W] for file in files]
    for buffer in buffers:
        buffer.close()
    cursor.close()


def test_maps_by_a_cached_descriptor_that_is_dropped_in_between(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is mapped by the very descriptor that had to go: it is closed after that, and not cached again."""
    file = world.file(8 * W)
    manager = by_policy(world.manager(W))
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    assert manager.stats().descriptors == 1
    Refusing(monkeypatch, "map_window", errno.EMFILE)
    assert cursor.use_region(3 * W, 9).buffer() == file.data[3 * W : 3 * W + 9]
    assert (manager.stats().idle, manager.stats().descriptors) == (1, 0)
    cursor.close()


class RefusingToOpenAnew:
    """Lets opening fail for what another descriptor refers to, as where nothing is below /proc."""

    def __init__(self, patch: pytest.MonkeyPatch, code: int, times: int = sys.maxsize) -> None:
        self.code, self.times, self.calls = code, times, 0
        before_system_call(patch, "open", self.refused)

    def refused(self, path: Any, *_: Any) -> int:
        if not str(path).startswith("/proc/self/fd/"):
            return 0
        self.calls += 1
        return self.code if self.calls <= self.times else 0


@posix
@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ELOOP], ids=names)
def test_a_descriptor_that_cannot_be_opened_again(code: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, or permission, or on another system: a duplicate of it is read, and the user's stays open."""
    file = world.file(8 * W)
    number = os.open(file.path, os.O_RDONLY)
    refusing = RefusingToOpenAnew(monkeypatch, code)
    with world.manager(W) as manager, manager.make_cursor(number) as cursor:
        assert cursor.use_region(W + 3, 9).buffer() == file.data[W + 3 : W + 12]
        with manager.buffer(number) as buffer:
            assert buffer[5 * W : 5 * W + 9] == file.data[5 * W : 5 * W + 9]
    assert refusing.calls
    del cursor, buffer, manager
    reclaim()
    assert os.pread(number, 9, 7) == file.data[7:16]
    os.close(number)


@linux
@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_duplicate_of_a_descriptor_has_its_rights_and_maps_of_it_can_only_be_read(
    backing: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    file = world.file(8 * W)
    number = os.open(file.path, os.O_RDWR)
    refusing = RefusingToOpenAnew(monkeypatch, errno.EACCES)
    manager = world.manager(W, backing=backing)
    buffer = manager.buffer(number)
    assert buffer[5 * W : 5 * W + 9] == file.data[5 * W : 5 * W + 9]
    with manager.make_cursor(number) as cursor:
        view = cursor.use_region(W, 9).buffer()
        assert refusing.calls
        monkeypatch.undo()
        ours = [
            each
            for each in map(int, os.listdir("/proc/self/fd"))
            if each != number and os.path.realpath(f"/proc/self/fd/{each}") == str(file.path)
        ]
        assert ours
        assert any(fcntl.fcntl(each, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR) == os.O_RDWR for each in ours)
        with pytest.raises(TypeError):
            view[0] = 1
        with open("/proc/self/maps") as lines:
            rights = [line.split()[1] for line in lines if str(file.path) in line]
        assert bool(rights) == (backing == "mmap")
        assert not [each for each in rights if "w" in each]
        del view
    buffer.close()
    os.close(number)
    assert file.path.read_bytes() == file.data


@linux
@pytest.mark.parametrize("code", RUN_OUT, ids=names)
def test_room_is_made_for_opening_a_descriptor_again(code: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has run out, a duplicate would share the lock and the flags of the user's for no need."""
    other, file = world.file(8 * W, "other"), world.file(8 * W)
    manager = world.manager(W)
    cursor = manager.make_cursor(other.path).use_region(0, 9)
    cursor.unuse_region()
    before = manager.stats()
    assert (before.idle, before.descriptors) == (1, 1)
    number = os.open(file.path, os.O_RDONLY)
    refusing = RefusingToOpenAnew(monkeypatch, code, 1)
    before_system_call(monkeypatch, "dup", lambda *_: pytest.fail("a duplicate was made"))
    buffer = manager.buffer(number)
    assert refusing.calls == 2
    after = manager.stats()
    assert (after.idle, after.descriptors) == ((1, 1) if code in (errno.EMFILE, errno.ENFILE) else (0, 2))
    assert buffer[:9] == file.data[:9]
    buffer.close()
    os.close(number)


@posix
@pytest.mark.parametrize("by_number", [False, True])
def test_flags_reach_the_system(by_number: bool, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a request, and those of a buffer; a descriptor of the user's is opened anew with them on Linux."""
    file = world.file(8 * W)
    number = os.open(file.path, os.O_RDONLY)
    asked: list[int] = []

    def opening(_path: Any, flags: int, *_: Any) -> int:
        asked.append(flags & os.O_SYNC)
        return 0

    before_system_call(monkeypatch, "open", opening)
    manager = world.manager(W)
    given = number if by_number else file.path
    with manager.make_cursor(given) as cursor:
        cursor.use_region(W, 9, os.O_SYNC)
        buffer = Buffer(manager.make_cursor(given), 0, sys.maxsize, os.O_SYNC)
        assert asked == [os.O_SYNC] * len(asked)
        assert len(asked) >= 2 or (by_number and not LINUX)
        assert manager.stats().descriptors == 0  # what was opened with flags of one client's is not for others
        assert buffer[:9] == file.data[:9]
    buffer.close()
    os.close(number)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", RUN_OUT, ids=names)
def test_the_limit_of_the_system_is_named(name: str, code: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing is left that could go, the error names the limit, and how to raise it; what is held stays."""
    file, other = world.file(8 * W), world.file(8 * W, "other")
    manager = world.manager(W)
    held = manager.make_cursor(file.path).use_region(W, 9)
    cursor = manager.make_cursor(other.path)
    refusing = Refusing(monkeypatch, name, code, 1000)
    for _ in range(3):
        with pytest.raises(LimitError) as failure:
            cursor.use_region(3 * W, 9)
        assert failure.value.errno == code
        text = str(failure.value)
        assert str(other.path) in text
        assert str(3 * W) in text
        assert {errno.EMFILE: "ulimit -n", errno.ENFILE: "file-max", errno.ENOMEM: "max_map_count"}.get(
            code, "RLIMIT"
        ) in text
        failure.value.__traceback__ = None
        del failure
        manager._check()
        assert not cursor.is_valid()
        assert held.buffer() == file.data[W : W + 9]
        assert (manager.stats().pinned, manager.stats().mapped) == (1, 1)
    refusing.times = 0
    assert cursor.use_region(3 * W, 9).buffer() == other.data[3 * W : 3 * W + 9]
    held.close()
    cursor.close()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", OTHER, ids=names)
def test_other_errors_evict_nothing(
    name: str, code: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(world.manager, world.file, tmp_path, backing="mmap")  # `auto` would read instead at some of them
    other = world.file(8 * W, "other")
    cursor = scene.manager.make_cursor(other.path)
    refusing = Refusing(monkeypatch, name, code, 1000)
    with scene.unharmed():
        for _ in range(3):
            with pytest.raises(OSError, match=r".+") as failure:
                cursor.use_region(3 * W, 9)
            assert failure.value.errno == code
            assert str(other.path) in str(failure.value)
            failure.value.__traceback__ = None
            del failure
    assert refusing.calls == 3
    refusing.times = 0
    assert cursor.use_region(3 * W, 9).buffer() == other.data[3 * W : 3 * W + 9]
    cursor.close()
    scene.cursor.close()


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EPERM, errno.EACCES, errno.EINVAL], ids=names)
def test_file_systems_that_do_not_map(code: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` reads there, and goes on reading; `mmap` raises."""
    file = world.file(8 * W + 5)
    refusing = Refusing(monkeypatch, "map_window", code, 1000)
    manager = world.manager(W)
    cursor = manager.make_cursor(file.path)
    for offset, size in [(3 * W + 1, 9), (W - 5, 10), (0, 0), (8 * W, 0), (7 * W - 1, W)]:
        cursor.use_region(offset, size)
        assert cursor.buffer() == file.data[offset : offset + cursor.size()]
        assert cursor.buffer().readonly
        assert cursor.map()[:] == cursor.region().buffer()
        assert cursor.region().size() < len(file.data)
        manager._check()
    assert refusing.calls == 1
    with Buffer(cursor) as buffer:
        assert buffer == file.data
    cursor.close()
    strict = world.manager(W, backing="mmap")
    cursor = strict.make_cursor(file.path)
    with pytest.raises(OSError, match=r".+") as failure:
        cursor.use_region(0, 5)
    assert failure.value.errno == code
    assert str(file.path) in str(failure.value)
    assert not isinstance(failure.value, SmmapError)
    cursor.close()


@linux
@pytest.mark.skipif(not os.access("/sys/kernel/notes", os.R_OK), reason="no file that cannot be mapped")
def test_a_real_file_that_cannot_be_mapped(world: World) -> None:
    name = "/sys/kernel/notes"
    data = Path(name).read_bytes()
    if len(data) != os.stat(name).st_size:
        pytest.skip("its size is not what it says")
    with world.manager(W).make_cursor(name) as cursor:
        assert cursor.use_region(5, 0).buffer() == data[5:]
    with world.manager(W, backing="mmap").make_cursor(name) as cursor:
        with pytest.raises(OSError, match=name) as failure:
            cursor.use_region()
        assert failure.value.errno == errno.ENODEV


def test_a_file_system_that_maps_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mapped stays; the rest of the file is read."""
    file = world.file(8 * W)
    with by_policy(world.manager(W)).make_cursor(file.path) as cursor:
        view = cursor.use_region(W, 9).buffer()
        refusing = Refusing(monkeypatch, "map_window", errno.ENODEV, 1000)
        for number in (3, 5, 1):
            assert cursor.use_region(number * W, 9).buffer() == file.data[number * W : number * W + 9]
            assert cursor.region().size() == (W if number == 1 else G)  # no more is read than was asked for
        assert refusing.calls == 1
        assert view == file.data[W : W + 9]


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EAGAIN], ids=names)
def test_a_cold_read_makes_room_when_the_system_has_run_out(
    code: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(8 * W)
    manager = world.manager(W)
    with manager.make_cursor(file.path) as cursor:
        for number in range(3):
            cursor.use_region(number * W, 9)
    with manager.buffer(file.path) as buffer:
        Refusing(monkeypatch, "pread", code, 3)  # the first two are tried again before anything goes
        assert buffer[5 * W : 5 * W + 9] == file.data[5 * W : 5 * W + 9]
        assert manager.stats().idle == 2
        assert buffer[6 * W : 6 * W + 9] == file.data[6 * W : 6 * W + 9]
        Refusing(monkeypatch, "pread", code, 1000)
        with pytest.raises(LimitError):
            buffer[7 * W : 7 * W + 9]


@pytest.mark.parametrize("code", [errno.EIO, errno.EISDIR], ids=lambda code: errno.errorcode[code])
def test_reads_that_fail(code: int, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = Buffer(scene.manager.make_cursor(scene.file.path), 3 * W)
    assert buffer[2 * W] == scene.file.data[5 * W]
    refusing = Refusing(monkeypatch, "pread", code, 1000)
    with scene.unharmed():
        for _ in range(3):
            with pytest.raises(OSError, match=r".+") as failure:
                buffer[2 * W]
            assert failure.value.errno == code
            assert str(scene.file.path) in str(failure.value)
            assert str(5 * W) in str(failure.value)
            failure.value.__traceback__ = None
            del failure
    refusing.times = 0
    assert buffer[2 * W] == scene.file.data[5 * W]
    buffer.close()


def test_short_reads(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that gives less than the file's size promises is an error, not fewer bytes."""
    buffer = Buffer(scene.manager.make_cursor(scene.file.path), 3 * W)
    assert buffer[2 * W : 2 * W + 9] == scene.file.data[5 * W : 5 * W + 9]
    path = scene.file.path

    def truncated(*_: Any) -> int:
        os.truncate(path, 5 * W + 8)
        return 0

    with scene.unharmed(), monkeypatch.context() as patch:
        before_system_call(patch, "pread", truncated)
        with pytest.raises(FileChangedError):
            buffer[2 * W : 2 * W + 9]
    buffer.close()


# And for real

RUN_OUT_OF_DESCRIPTORS = """
import os, resource, sys
import smmap
folder, window = sys.argv[1], int(sys.argv[2])
names = sorted(os.listdir(folder))
contents = []
for name in names:
    with open(os.path.join(folder, name), "rb") as file:
        contents.append(file.read())
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
manager = smmap.SlidingWindowMapManager(window, 0, 10 ** 6)
cursors, buffers = [], []
for name, data in zip(names, contents):                # more files than descriptors, each once
    path = os.path.join(folder, name)
    with manager.make_cursor(path) as cursor:
        for offset in (0, 3 * window - 5):
            assert cursor.use_region(offset, 9).buffer() == data[offset:offset + 9]
    buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
    assert buffer[2 * window:2 * window + 99] == data[2 * window:2 * window + 99]
    buffers.append((buffer, data))
    manager._check()
for buffer, data in buffers:
    assert buffer == data
taken = []

def take_all():                                        # the program itself takes every descriptor there is
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass

assert manager.stats().descriptors
take_all()
for number, name in list(enumerate(names))[::-7]:      # those that are kept are given up for what is asked for
    with manager.make_cursor(os.path.join(folder, name)) as cursor:
        assert cursor.use_region(3 * window, 9).buffer() == buffers[number][1][3 * window:3 * window + 9]
manager.collect()
take_all()
failures = 0
for number, name in enumerate(names):
    cursor = manager.make_cursor(os.path.join(folder, name))
    try:
        cursor.use_region(0, 9)
    except OSError as error:
        assert isinstance(error, smmap.LimitError), repr(error)
        assert "RLIMIT_NOFILE" in str(error) and name in str(error), error
        failures += 1
    else:
        assert cursor.buffer() == buffers[number][1][:9]
    cursors.append(cursor)
    manager._check()
for number in taken:
    os.close(number)
for number, cursor in enumerate(cursors[:20]):
    if not cursor.is_valid():
        cursor.use_region(0, 9)
        assert cursor.buffer() == buffers[number][1][:9]
    cursor.unuse_region()
print(failures)
"""


@linux
def test_descriptors_run_out(world: World, tmp_path: Path) -> None:
    for number in range(60):
        world.file(4 * W, f"file{number:02}")
    done = run_python(RUN_OUT_OF_DESCRIPTORS, tmp_path, W)
    assert int(done.stdout) > 0


MOVE_WITHOUT_DESCRIPTORS = """
import os, resource, sys
import smmap
path, window, spare, cached = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "cached"
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window)
manager.max_file_handles()
cursor = manager.make_cursor(path).use_region(0, 9)
if not cached:
    manager.collect()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
others = []
try:
    while True:
        others.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for number in others[:spare]:
    os.close(number)
moves = 0
for number in range(1, 9):
    start = cursor.ofs_begin()
    try:
        cursor.use_region(number * window, 9)
    except smmap.LimitError:
        assert cursor.ofs_begin() == start
    else:
        moves += 1
    assert cursor.buffer() == data[cursor.ofs_begin() : cursor.ofs_end()]
    assert manager.stats().mapped == manager.stats().pinned + manager.stats().idle
    assert manager.stats().pinned == 1
manager._check()
print(moves)
"""


@linux
@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("cached", ["cached", "not cached"])
def test_cursor_may_move_where_its_own_region_has_the_last_descriptor(world: World, spare: int, cached: str) -> None:
    """A move needs one for the file, unless that is cached, and one for the map, unless maps cost none."""
    file = world.file(9 * W)
    moves = int(run_python(MOVE_WITHOUT_DESCRIPTORS, file.path, W, spare, cached).stdout)
    assert moves == (0 if spare == 0 and cached == "not cached" else 8)


LEAVE_HALF = """
import os, resource, sys
import smmap
folder, window = sys.argv[1], int(sys.argv[2])
names = sorted(os.listdir(folder))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
def count():
    return sum(os.readlink(f"/proc/self/fd/{number}").startswith(folder) for number in os.listdir("/proc/self/fd")
               if os.path.islink(f"/proc/self/fd/{number}"))
manager = smmap.SlidingWindowMapManager(window)
most = 0
for name in names:
    path = os.path.join(folder, name)
    buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
    with manager.make_cursor(path) as cursor:
        for number in range(4):
            cursor.use_region(number * window, 9)
            most = max(most, count())
    assert len(buffer[3 * window:]) == window
    most = max(most, count())
print(most)
"""


@linux
def test_half_of_the_descriptors_are_left_to_the_program(world: World, tmp_path: Path) -> None:
    for number in range(60):
        world.file(4 * W, f"file{number:02}")
    assert 0 < int(run_python(LEAVE_HALF, tmp_path, W).stdout) <= 32


RUN_OUT_OF_ADDRESSES = """
import resource, sys
import smmap
path, window, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
room = used + 10 * window + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
manager = smmap.SlidingWindowMapManager(window)
cursor = manager.make_cursor(path)
for number in range(count):
    cursor.use_region(number * window, 9)
    assert cursor.buffer() == b"%09d" % number, number
    manager._check()
evictions = manager.stats().evictions
held = []
try:
    for number in range(count):
        held.append(manager.make_cursor(path))
        held[-1].use_region(number * window, 9)
except smmap.LimitError as error:
    assert "RLIMIT_AS" in str(error) and path in str(error), error
else:
    raise AssertionError("no error")
assert not held.pop().is_valid()
for number, cursor in enumerate(held):
    assert cursor.buffer() == b"%09d" % number, number
manager._check()
for cursor in held:
    cursor.close()
assert cursor.is_associated() is False
with manager.make_cursor(path) as cursor:
    assert cursor.use_region((count - 1) * window, 9).buffer() == b"%09d" % (count - 1)
print(evictions)
"""


DEFAULTS_WITH_FEW_ADDRESSES = """
import resource, sys
import smmap
path, size = sys.argv[1], int(sys.argv[2])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
def mark(place):
    return b"%015d" % place

manager = smmap.SlidingWindowMapManager()
assert manager.window_size() == 4 << 30
buffer, cursor = manager.buffer(path), manager.make_cursor(path)
for place in (0, 5 << 30, size - 15):
    for _ in range(3):
        assert buffer[place:place + 15] == mark(place)
    for call in (lambda: buffer.view(place, place + 15), lambda: cursor.use_region(place, 15)):
        try:
            call()
        except smmap.LimitError as error:
            assert "RLIMIT_AS" in str(error), error
        else:
            assert place == size - 15       # the last window may be small enough
manager.close()
manager = smmap.SlidingWindowMapManager(max_memory_size="512M")
buffer, cursor = manager.buffer(path), manager.make_cursor(path)
for place in (0, 5 << 30, size - 15):
    assert buffer.view(place, place + 15) == mark(place) == cursor.use_region(place, 15).buffer()
"""


@linux
@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="needs 64-bit addresses")
@pytest.mark.skipif(PYPY, reason="the interpreter itself does not survive it")
def test_default_windows_that_no_address_space_is_left_for_are_read_and_fit_with_a_limit_below(tmp_path: Path) -> None:
    size = (9 << 30) + 12345
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        for place in (0, 5 << 30, size - 15):
            file.seek(place)
            file.write(b"%015d" % place)
    run_python(DEFAULTS_WITH_FEW_ADDRESSES, path, size)


def test_errors_name_a_file_that_was_given_by_a_relative_path_by_its_absolute_one_unless_it_is_closed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(6 * W)
    monkeypatch.chdir(tmp_path)
    manager = world.manager(W, 0, 1)
    cursor, other, buffer = manager.make_cursor("data"), manager.make_cursor("data"), manager.buffer("data")
    cursor.use_region(0, 9)
    with pytest.raises(smmap.LimitError) as no_room:
        other.use_region(W, 9)
    cursor.unuse_region()
    world.file(99, "data")
    manager.collect()
    with pytest.raises(smmap.FileChangedError) as changed:
        other.use_region(W, 9)
    with pytest.raises(smmap.FileChangedError) as changed_too:
        buffer[5 * W]
    file.path.unlink()
    with pytest.raises(FileNotFoundError) as missing:
        manager.make_cursor("data")
    buffer.close()
    with pytest.raises(smmap.ClosedError) as closed:
        buffer[0]
    for error in (no_room, changed, changed_too, missing):
        assert str(tmp_path / "data") in str(error.value)
        error.value.__traceback__ = None
    assert "of 'data' is closed" in str(closed.value)  # as it was given


@linux
@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="needs 64-bit addresses")
@pytest.mark.skipif(PYPY, reason="the interpreter itself does not survive it")
def test_addresses_run_out(tmp_path: Path) -> None:
    window, count = 64 << 20, 40
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        for number in range(count):
            file.seek(number * window)
            file.write(b"%09d" % number)
        file.truncate(count * window)
    done = run_python(RUN_OUT_OF_ADDRESSES, path, window, count)
    assert int(done.stdout) > 0
    assert stat.S_ISREG(os.stat(path).st_mode)


def test_a_manager_is_not_copied(world: World) -> None:
    """A copy would share some of its tables, and not know when the other is closed."""
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="each process makes its own"):
            copied(world.manager(W))


def test_a_cursor_of_something_that_is_not_a_manager() -> None:
    for wrong in (5, "x", object()):
        with pytest.raises(TypeError, match="manager must be"):
            smmap.WindowCursor(wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name")
def test_regions_of_their_own_look_before_they_open(world: World, tmp_path: Path) -> None:
    file = world.file(2 * W)
    os.mkfifo(tmp_path / "pipe")
    for where, kind in ((tmp_path / "pipe", OSError), (tmp_path, IsADirectoryError), ("/dev/zero", OSError)):
        with pytest.raises(kind) as caught:
            MapRegion(str(where), 0, 10)
        assert caught.value.filename == str(where)
    number = os.open(file.path, os.O_WRONLY)
    try:
        with pytest.raises(PermissionError):
            MapRegion(number, 0, 10)
    finally:
        os.close(number)
    for arguments in ((file.path, "0", 10), (file.path, 0, 1.5), (file.path, 0, 10, "x"), (None, 0, 10)):
        with pytest.raises(TypeError):
            MapRegion(*arguments)


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="no such flag")
def test_flags_that_the_file_refuses(world: World) -> None:
    """The system's answer, not that the file has changed."""
    cursor = world.manager(W).make_cursor(world.file(W).path)
    with pytest.raises(NotADirectoryError):
        cursor.use_region(0, 5, os.O_DIRECTORY)


def test_no_code_of_the_users_runs_under_the_lock(world: World) -> None:
    file = world.file(W)
    manager = world.manager(W)

    class Named:
        def __fspath__(self) -> str:
            self.asked()
            return str(file.path)

        def __repr__(self) -> str:
            self.asked()
            return "Named()"

        def asked(self) -> None:
            thread = threading.Thread(target=manager.num_file_handles, daemon=True)
            thread.start()
            thread.join(20)
            assert not thread.is_alive(), "the lock is taken"

    assert manager.buffer(Named())[:9] == file.data[:9]
    cursor = manager.make_cursor(Named())
    assert cursor.use_region(0, 9).buffer() == file.data[:9]
    manager.close()
    with pytest.raises(ClosedError):
        manager.buffer(Named())
    with pytest.raises(ClosedError):
        cursor.use_region(0, 9).buffer()
