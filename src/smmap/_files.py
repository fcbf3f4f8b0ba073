"""Names and identity of files: where a name leads, what is refused, whether a file is still the one it was.

Knows nothing of windows, limits or order. A `File` is one *version* of a file: a client that finds another status at
its name gets another record. So no client ever gets a map, or a cached descriptor, that belongs to other bytes,
even where both have the same device and inode number, as on overlayfs, whose files move to another layer when they
are written.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import struct
import sys
import weakref
from collections import deque
from typing import Any, Callable, NamedTuple, Union

from ._errors import FileChangedError
from ._places import mark_of
from ._system import WINDOWS, Where, called, is_readable, look_at, named, raised_by_handler

try:
    from fcntl import ioctl
except ImportError:  # Windows

    def ioctl(*args: Any) -> Any:  # type: ignore[no-redef]
        """Windows has no ioctl."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


__all__ = [
    "NOBODY",
    "Client",
    "File",
    "FileRef",
    "Files",
    "PathOrFd",
    "Status",
    "absolute",
    "examine",
    "key_at",
    "lost",
    "names_of",
    "note_growth",
    "status_of",
    "verify",
    "verify_grown",
]


PathOrFd = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", int]
"""How users name a file: by a path, or by a descriptor, which stays theirs."""

Opens = Callable[[Where, int], tuple[Any, "Status"]]
"""The engine's `open_file`."""


class Status(NamedTuple):
    """The status that tells one version of a file from any other. Nobody can set the change time."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @property
    def key(self) -> tuple[int, int]:
        """The system's identity of the file. It may later be another file's: a freed inode number is reused at once."""
        return self[:2]


_GETVERSION = 2 << 30 | struct.calcsize("l") << 16 | ord("v") << 8 | 1  # _IOR('v', 1, long), as Linux has it
_serials = itertools.count(1)


class File:
    """One version of a file as one manager knows it, with its regions and cached descriptor."""

    __slots__ = (
        "__weakref__",
        "called",
        "cut",
        "descriptor",
        "generation",
        "gone",
        "growth",
        "mark",
        "name",
        "patience",
        "price",
        "reads",
        "serial",
        "status",
        "table",
        "where",
        "zeroed",
    )

    def __init__(self, status: Status, table: Any) -> None:
        self.status = status
        self.table = table
        """Its regions, by window."""
        self.descriptor: Any = None
        """The cached descriptor."""
        self.generation: int | None = None
        """How often its inode was used, if that is known."""
        self.mark = mark_of(status)
        """The number that stands for the file in hashes of places."""
        self.growth: Growth | None = None
        """How far refreshes have seen the file grow since."""
        self.name: str | bytes = ""
        """Its name in the log: that of the client for which a window of it was last mapped."""
        self.where: Where | None = None
        """The same client's path or descriptor."""
        self.called: str | bytes = ""
        """The path under which it was last opened, once a later version was found."""
        self.cut = False
        """Whether a map of it has lost bytes by truncation: a client that has to open it gets an error."""
        self.zeroed = False
        """Whether views of it read zeros since then."""
        self.gone = False
        """Whether another version, or none, was found under one of its names: idle regions then go at once."""
        self.reads = False
        """Whether windows are read into memory, because the file system cannot map."""
        self.serial = next(_serials) << 44
        """Added to a window's number, it tells that window from those of all other files."""
        self.price = 0
        """The cost of mapping a window, in small reads: see _rents.py."""
        self.patience = 0
        """How many windows a generation of rents remembers."""


class Growth:
    """How far refreshes saw a file grow, shared by the versions that they led through: older clients may read on.

    It refers to no version, so each version dies with its last client. A refresh that leads from a version with one
    `Growth` to a version with another one shows that both are of the same file; from then on, one stands for both.
    """

    __slots__ = ("joined", "status")

    def __init__(self, status: Status) -> None:
        self.status = status
        self.joined: Growth | None = None

    def last(self) -> Growth:
        """The one that now stands for it."""
        found = self
        while found.joined is not None:
            found = found.joined
        if found is not self:
            self.joined = found  # so that no chain grows, and those between may die
        return found


class FileRef(weakref.ref[File]):
    """A manager's weak reference to a file, which lives while a client, a region or the descriptor cache needs it."""

    __slots__ = ("key", "names")

    key: tuple[int, int]
    names: dict[str, tuple[str | bytes, str]]
    """The names by which clients opened it recently, each as it was given, and normalized."""


_MOST_NAMES = 8  # names that are remembered per file


class Files:
    """The files that one manager knows, by identity and by name. Needs the manager's lock, except for `at`.

    Each call is O(1), except `below`.
    """

    def __init__(self) -> None:
        self._by_key: dict[tuple[int, int], FileRef] = {}
        self._by_name: dict[Any, FileRef] = {}
        self._died: deque[Any] = deque()

    def at(self, where: Where) -> File | None:
        """The file that was last found at this path. Needs no lock."""
        ref = self._by_name.get(os.fsdecode(where) if isinstance(where, bytes) else where)
        return None if ref is None else ref()

    def version(self, status: Status) -> File | None:
        """The version that was last found of the file with the identity of this status."""
        ref = self._by_key.get(status.key)
        return None if ref is None else ref()

    def add(self, file: File) -> None:
        """Make a version findable by its identity, in place of any other version."""
        ref = FileRef(file, self._died.append)
        ref.key = file.status.key
        before = self._by_key.get(ref.key)
        earlier = None if before is None else before()
        if earlier is not None:
            earlier.called = self.name_of(earlier)
        ref.names = {} if before is None else before.names.copy()
        self._by_key[ref.key] = ref

    def call(self, file: File, where: str | bytes) -> None:
        """Make a file findable by this name."""
        ref = self._by_key[file.status.key]
        name = os.fsdecode(where)
        self._by_name[name] = ref
        ref.names.pop(name, None)  # the last one is the one that was used last
        ref.names[name] = where, _normal(name)
        if len(ref.names) > _MOST_NAMES:  # a file that is renamed again and again must not use more and more memory
            self._forget_name(ref, next(iter(ref.names)))

    def name_of(self, file: File) -> str | bytes:
        """The path under which a file was last opened; if none is known, its inode and device."""
        ref = self._by_key.get(file.status.key)
        if ref is not None and ref() is file and ref.names:
            return ref.names[next(reversed(ref.names))][0]
        device, inode = file.status.key
        return file.called or f"<inode {inode} of device {device}>"

    def settle(self) -> None:
        """Forget the files that nothing needs now."""
        while self._died:
            ref: FileRef = self._died[0]
            if self._by_key.get(ref.key) is ref:
                del self._by_key[ref.key]
            for name in list(ref.names):
                self._forget_name(ref, name)
            self._died.popleft()

    def _forget_name(self, ref: FileRef, name: str) -> None:
        if self._by_name.get(name) is ref:
            del self._by_name[name]
        ref.names.pop(name, None)

    def below(self, names: set[str], key: tuple[int, int] | None) -> list[File]:
        """The files that have this identity, one of these names, or a name below one of them. Linear in all files."""
        folders = tuple(os.path.join(name, "") for name in names)
        return [
            file
            for file, ref in ((ref(), ref) for ref in list(self._by_key.values()))
            if file is not None
            and (ref.key == key or any(name in names or name.startswith(folders) for _, name in ref.names.values()))
        ]


class Client:
    """The file, manager and arguments of a cursor or buffer. Immutable: another file needs another record."""

    __slots__ = ("advice", "file", "flags", "given", "manager", "mtime", "size", "where")

    def __init__(
        self,
        manager: Any,
        file: Any,
        given: Any,
        where: Where,
        size: int,
        mtime: int,
        advice: str = "normal",
        flags: int = 0,
    ) -> None:
        self.manager = manager
        self.file = file
        """The `File`; None until an unpickled buffer is opened."""
        self.given = given
        """The same object that the user passed."""
        self.where = where
        self.size = size
        """The file's size in bytes when the client was made."""
        self.mtime = mtime
        """The file's modification time then, in nanoseconds."""
        self.advice = advice
        """How maps will be read: see `smmap.buffer`."""
        self.flags = flags
        """Flags that are added when the file is opened for this client."""

    def _replace(self, **changes: Any) -> Client:
        """Another record, with these changes."""
        return Client(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return f"descriptor {self.given}" if isinstance(self.given, int) else repr(self.given)


NOBODY = Client(None, None, None, -1, 0, 0)
"""The client record of a cursor or buffer without a file."""


_ROOT = "\0" if WINDOWS else "/"  # the first character of an absolute path


def absolute(path_or_fd: Any) -> Where:
    """The absolute path, so that a later `chdir` does not lead it elsewhere; or the descriptor.

    Links and `..` stay as they are. `TypeError` for anything else says what is accepted.
    """
    if type(path_or_fd) is str and path_or_fd.startswith(_ROOT):
        return path_or_fd
    if isinstance(path_or_fd, int):
        return path_or_fd
    try:
        name: str | bytes = os.fspath(path_or_fd)
    except TypeError:
        kind = type(path_or_fd).__name__
        raise TypeError(f"path_or_fd must be str, bytes, os.PathLike or int (a descriptor), not {kind}") from None
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    # Of no derived class: its objects may refer to a client, and such a cycle could not be collected
    name = "".join((name,)) if isinstance(name, str) else b"".join((name,))
    if os.path.isabs(name):
        return name
    try:
        if WINDOWS:
            return os.path.abspath(name)
        return os.path.join(os.getcwd(), name) if isinstance(name, str) else os.path.join(os.getcwdb(), name)
    except OSError as error:  # the current folder is gone
        raise named(error, name) from None


def status_of(found: os.stat_result) -> Status:
    """The part of a status that identifies a version of a file."""
    return Status(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


_LOOKS = 10  # for a file that is truncated and written again in a loop, a size may seem to be wrong a few times


def examine(where: Where, open_file: Opens) -> Status:
    """The status of a file to read. Anything but a regular file with a true size is refused, before it is opened."""
    try:
        if isinstance(where, int) and not is_readable(where):
            raise PermissionError(errno.EACCES, "not open for reading")
        wrong = ""
        for _ in range(_LOOKS):
            found = look_at(where)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ENODEV, "not a regular file: only those can be read at random; use open()")
            wrong = _fiction(where, found, open_file)
            if not wrong:
                return status_of(found)
        raise OSError(errno.ENODEV, wrong)
    except OSError as error:
        raise named(error, where) from None


def _fiction(where: Where, found: os.stat_result, open_file: Opens) -> str:
    """The fault of a size: the system made it up, or it may be of another file. Empty if there is none."""
    size = found.st_size
    if size and getattr(found, "st_blocks", 1):
        return ""
    descriptor, now = open_file(where, 0)
    try:
        if now.key != (found.st_dev, found.st_ino):
            return "another file is there each time it is looked at"
        if bool(descriptor.read(1, max(size - 1, 0))) == bool(size):
            return ""
    finally:
        descriptor.close()
    if size:
        return f"its size of {size} bytes is a fiction (as in /sys); use open()"
    return "has data although its size is 0 (as in /proc); use open()"


def verify(file: File, now: Status, where: Where, number: int) -> None:
    """`FileChangedError` unless the file that was just opened, as descriptor `number`, is exactly this version.

    A different change time alone does not make it another version: renaming, linking and `chmod` change it, too. But
    then it has to be certain that its inode was not reused in the meantime, for a file of the same size and
    modification time.
    """
    then, seen = file.status, None
    while now[:4] != then[:4] and file.growth is not None and file.growth.last().status is not seen:
        then = seen = file.growth.last().status  # grown, it still has all bytes of this version
        now = status_of(look_at(number))  # since it was opened, it may have grown, and a refresh may have noted that
    if now[:4] == then[:4]:
        generation = _generation(number) if file.generation is None or now != then else file.generation
        if now == then:
            file.generation = generation
            return
        reads = [region.reads for region in file.table.regions()]
        if (generation and generation == file.generation) or not all(reads):
            if then is file.status and not any(reads):
                file.status = now  # but new clients do not get windows that were read before, in case it was written
            return
    if now.key != then.key:
        what = "another file is here now"
    elif now.size < then.size:
        what = f"truncated to {now.size} bytes, from {then.size}"
    elif now.size > then.size:
        what = f"grown to {now.size} bytes, from {then.size}"
    else:
        what = f"written to, or another file of the same {now.size} bytes is here now"
    raise FileChangedError(f"changed since the cursor or buffer was made ({what}): make a new one", called(where))


def verify_grown(then: File, now: Status, where: Where, number: int = -1, pins: bool = True) -> None:
    """`FileChangedError` unless this is the status of a later version of the same file as `then`, and not shorter.

    `number` is a descriptor of it; `then` was opened before. `pins`: a map or descriptor of ours has kept the inode of
    `then` from being reused until now.
    """
    if now.key != then.status.key:
        what = "another file is here now"
    elif now.size < then.status.size:
        what = f"truncated to {now.size} bytes, from {then.status.size}"
    elif pins or WINDOWS or (then.generation and then.generation == _generation(number)):
        return
    else:
        what = "nothing of it was open in the meantime, so it may be another file"
    raise FileChangedError(f"cannot be followed ({what}): make a new cursor or buffer", called(where))


def note_growth(then: File, now: File) -> None:
    """A refresh led from the version `then` of a file to its version `now`. Needs the lock."""
    growth = then.growth or now.growth or Growth(now.status)
    growth = growth.last()
    if now.growth is not None and now.growth.last() is not growth:
        now.growth.last().joined = growth
    if (now.status.size, now.status.ctime) > (growth.status.size, growth.status.ctime):  # a slower thread's is older
        growth.status = now.status
    then.growth = now.growth = growth


def lost(file: File, now: Status | None, start: int, stop: int) -> FileChangedError:
    """The error for [start, stop), which a map of this version no longer has. `now` is its status, if known."""
    then = file.status
    if now is None:
        what = f"truncated (it had {then.size} bytes; its present size is unknown, since its name leads elsewhere)"
    elif now.size < then.size:
        what = f"truncated to {now.size} bytes, from {then.size}"
    elif now == then and not file.cut:
        what = f"it has {now.size} bytes, but they cannot be read: its storage failed"
    else:
        what = f"truncated in the meantime, and written again: it has {now.size} bytes, and had {then.size}"
    return FileChangedError(
        f"[{start}, {stop}) is no longer mapped ({what}): make a new cursor or buffer",
        None if file.where is None else called(file.where),
    )


def _generation(number: int) -> int:
    """How often the inode of a descriptor was used, if the file system counts that (ext4, xfs, btrfs, f2fs); else 0.

    The call is FS_IOC_GETVERSION, ioctl_iflags(2).
    """
    try:
        return int.from_bytes(ioctl(number, _GETVERSION, bytes(8))[:4], sys.byteorder)
    except OSError as error:
        if error.errno is None:  # a signal handler raised it
            raise
        return 0


def names_of(path: Any) -> set[str]:
    """A path as it is written, and with links followed; `TypeError` for anything but a path."""
    where = absolute(path)
    if isinstance(where, int):
        raise TypeError("path must be str, bytes or os.PathLike, not int")
    name = os.fsdecode(where)
    found = {_normal(name)}
    try:
        found.add(os.path.realpath(name))
    except OSError as error:  # before Python 3.10, where a link cannot be read
        if error.errno is None:  # the handler of a signal raised it
            raise
    except SystemError as error:
        raise raised_by_handler(error) from None
    return found


def _normal(name: str) -> str:
    """A path as it is written, without what says nothing. POSIX lets two slashes at its start mean anything."""
    name = os.path.normpath(name)
    return name[1:] if name.startswith("//") else name


def key_at(path: Any) -> tuple[int, int] | None:
    """The identity of the file at a path; None for a folder, and if there is nothing."""
    try:
        found = look_at(absolute(path))
    except OSError as error:
        if error.errno is None:  # the handler of a signal raised it
            raise
        return None
    return None if stat.S_ISDIR(found.st_mode) else (found.st_dev, found.st_ino)
