"""The file system `smmap://` of fsspec: local files, read through managed windows. Needs fsspec.

Names, listings and times come from fsspec's own local file system; bytes come from smmap. fsspec keeps one instance per
thread. So the objects that a process has only once are outside the class: a manager for each set of options, and the
buffers used last.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import io
import os
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ._installation import complaint

if _complaint := complaint(__name__):  # otherwise an import below would fail without saying why
    raise ImportError(_complaint, name=__name__)

try:
    from fsspec.implementations.local import LocalFileSystem, make_path_posix
    from fsspec.spec import AbstractFileSystem
    from fsspec.utils import stringify_path
except ImportError as error:
    raise ImportError("smmap:// needs fsspec: pip install fsspec", name="fsspec") from error

from . import _default
from ._batches import ranges
from ._buffer import SlidingWindowMapBuffer
from ._errors import SmmapError, refuse_state
from ._managers import Backing, SlidingWindowMapManager, StaticWindowMapManager
from ._reader import BufferedFileReader, FileReader
from ._sizes import size_of

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["AmbiguousPathError", "ReadOnlyError", "SmmapFile", "SmmapFileSystem"]

_MOST_BUFFERS = 32  # kept open for the next cat_file; each may keep one descriptor
_SIZES = ("window_size", "max_memory_size", "max_open_handles")
_OPTIONS = (*_SIZES, "backing")
_ALIKE = 0.7  # how similar an unknown option must be to one of ours to count as a misspelling

_Options = tuple[tuple[str, Any], ...]


class ReadOnlyError(SmmapError, OSError, NotImplementedError):
    """A call tried to write through `smmap://`: `errno` is EROFS. Also a `NotImplementedError`, as in fsspec."""


class _Shared:
    """The objects that all file systems with the same options share in this process: a manager and recent buffers."""

    def __init__(self, options: _Options) -> None:
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, SlidingWindowMapBuffer] = OrderedDict()
        # Options that are left out have the values of the default manager.
        self.own = SlidingWindowMapManager(**_default.settings(**dict(options))) if options else None

    @property
    def manager(self) -> StaticWindowMapManager:
        return self.own or _default.default_manager()

    def buffer(self, path: str) -> SlidingWindowMapBuffer:
        """A buffer over the file that is at `path` now: the last one, unless file or manager have changed since."""
        manager = self.manager  # after the default manager was closed, it is a new one
        with self._lock:
            found = self._recent.get(path)
        if found is not None and manager._client(path).file is found._access.client.file:
            buffer = found  # a new one would be over the same version of the file
        else:
            buffer = manager.buffer(path)
        with self._lock:
            self._recent[path] = buffer
            self._recent.move_to_end(path)
            if len(self._recent) > _MOST_BUFFERS:
                self._recent.popitem(last=False)
        return buffer


_shared: dict[_Options, _Shared] = {}
_shared_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _shared, _shared_lock
    _shared = {}
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class AmbiguousPathError(SmmapError, ValueError):
    """`smmap://data/file` may be `data/file` in the working folder or `/data/file`, and both exist.

    Write `smmap://./data/file` for the first. Libraries such as Hugging Face `datasets` drop a slash of
    `smmap:///data/file`; with them, only another working folder helps.
    """


def _as_it_was(name: str) -> str:
    """The name in a URL; made absolute if it exists only then, since a library may have dropped its first slash."""
    if not name or name[0] in "/.~" or os.path.isabs(name):
        return name
    absolute = f"/{name}"
    if not os.path.lexists(absolute):
        return name
    if not os.path.lexists(name):
        return absolute
    if os.path.exists(name) and os.path.exists(absolute) and os.path.samefile(name, absolute):
        return name
    raise AmbiguousPathError(
        f"smmap://{name} may be {os.path.abspath(name)} or {absolute}, and both exist: "
        f"write smmap://./{name} or smmap://{absolute}"
    )


class SmmapFile(BufferedFileReader):
    """The file object of `smmap.open`, with the attributes that fsspec's users expect: `fs`, `path` and `size`.

    Pickles as file system, path, size, mtime and position. The unpickled object opens the file at the first read, on
    the file system's manager in the process where it arrives, and raises `FileChangedError` if the file changed in
    between.
    """

    def __init__(self, fs: SmmapFileSystem, buffer: SlidingWindowMapBuffer, position: int = 0) -> None:
        super().__init__(FileReader(buffer, position))
        self._source = buffer
        self.fs = fs
        self.path: str = buffer._access.client.given
        self.size = len(buffer)
        self.blocksize = io.DEFAULT_BUFFER_SIZE

    def _fetch_range(self, start: int, end: int) -> bytes:
        """The bytes [start, end), for fsspec's block cache. The position stays."""
        data: bytes = self._source[start:end]
        return data

    def refresh(self) -> int:
        """Adopt what was appended to the file since it was opened or refreshed; return its new size in bytes."""
        self.size = super().refresh()
        return self.size

    def __copy__(self) -> SmmapFile:
        return SmmapFile(self.fs, self._source.__copy__(), self.tell())

    def __reduce__(self) -> tuple[Any, ...]:
        place = self.tell()
        client = self._source._access.client
        return _reopened, (self.fs, self.path, client.size, client.mtime, place)


def _reopened(fs: SmmapFileSystem, path: str, length: int, mtime: int, place: int) -> SmmapFile:
    """A file object that opens its file at the first read."""
    if not isinstance(fs, SmmapFileSystem):
        raise TypeError(f"fs must be a SmmapFileSystem, not {type(fs).__name__}")
    return SmmapFile(fs, SlidingWindowMapBuffer._later(fs._share().own, path, 0, length, length, mtime), place)


class SmmapFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Local files, read-only, through windows of smmap: `fsspec.open("smmap:///data/file.parquet")`.

    Without options, it uses the process's default manager. With `window_size`, `max_memory_size`, `max_open_handles`
    (numbers, or sizes like "64M") or `backing`, it makes its own manager; options that are left out have the values of
    the default manager. All instances with the same options share one manager in a process. An instance pickles as its
    options alone, and uses the manager of the process where it arrives. Options of fsspec or of other file systems
    (`cache_type`, `block_size`, ...) are ignored, as by `file://`.

    `smmap://relative/path` is relative to the working folder, `smmap:///absolute/path` and `smmap://C:/path` are not.
    Some libraries turn `smmap:///data/file` into `smmap://data/file`: that means `/data/file` if there is no
    `data/file` in the working folder, and raises `AmbiguousPathError` if both exist.

    Every call that would write raises `ReadOnlyError`. `TypeError` for an option that looks like a misspelling of one
    of ours, `ValueError` for a value that the manager does not accept.
    """

    protocol = "smmap"
    root_marker = "/"
    local_file = True  # so that `fsspec.open_local` returns the path itself

    __setstate__ = refuse_state

    def __init__(
        self,
        window_size: int | str | None = None,
        max_memory_size: int | str | None = None,
        max_open_handles: int | str | None = None,
        backing: Backing | None = None,
        **storage_options: Any,
    ) -> None:
        for name in storage_options:
            meant = difflib.get_close_matches(name, _OPTIONS, 1, _ALIKE)
            if meant:
                options = f"{', '.join(_SIZES)} and backing"
                raise TypeError(f"smmap:// has no option {name!r}, did you mean {meant[0]!r}? There are {options}")
        super().__init__(**storage_options)
        given: dict[str, Any] = {"backing": backing}
        for name, value in zip(_SIZES, (window_size, max_memory_size, max_open_handles)):
            given[name] = None if value is None else size_of(name, value)
        self._options: _Options = tuple((name, value) for name, value in given.items() if value is not None)
        self._local = LocalFileSystem()
        if self._options:
            self._share()

    def _share(self) -> _Shared:
        found = _shared.get(self._options)
        if found is None:
            with _shared_lock:
                found = _shared.get(self._options)
                if found is None:
                    found = _shared[self._options] = _Shared(self._options)
        return found

    @property
    def manager(self) -> StaticWindowMapManager:
        """The manager of this file system in this process: its `stats()` say what is mapped."""
        return self._share().manager

    @classmethod
    def clear_instance_cache(cls) -> None:
        """Forget all instances and their managers. Open files continue with the managers that they have."""
        super().clear_instance_cache()
        with _shared_lock:
            _shared.clear()

    @property
    def fsid(self) -> str:
        """The id of this file system."""
        return "smmap"

    # Names

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        name: str = stringify_path(path)
        for prefix in ("smmap://", "smmap:"):
            if name.startswith(prefix):
                name = name[len(prefix) :]
                if prefix == "smmap://":
                    name = _as_it_was(name)
                break
        return LocalFileSystem._strip_protocol(make_path_posix(name))

    def unstrip_protocol(self, name: str) -> str:
        """The absolute name, with `smmap://` in front."""
        return f"smmap://{self._strip_protocol(name)}"

    @classmethod
    def _parent(cls, path: Any) -> str:
        parent: str = LocalFileSystem._parent(cls._strip_protocol(path))
        return parent

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Name, size, type, times and more, from the local file system."""
        found: dict[str, Any] = self._local.info(self._strip_protocol(path), **kwargs)
        return found

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """The content of a folder: names, or with `detail` the `info` of each."""
        found: list[Any] = self._local.ls(self._strip_protocol(path), detail=detail, **kwargs)
        return found

    def isfile(self, path: str) -> bool:
        """Whether a file is there."""
        return os.path.isfile(self._strip_protocol(path))

    def isdir(self, path: str) -> bool:
        """Whether a folder is there."""
        return os.path.isdir(self._strip_protocol(path))

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether the path exists, after following links."""
        return os.path.exists(self._strip_protocol(path))

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """Whether the path exists, even as a link to nothing."""
        return os.path.lexists(self._strip_protocol(path))

    def created(self, path: str) -> datetime:
        """When the file was created, if the system knows, else when its status changed."""
        when: datetime = self._local.created(self._strip_protocol(path))
        return when

    def modified(self, path: str) -> datetime:
        """When the file was last written."""
        when: datetime = self._local.modified(self._strip_protocol(path))
        return when

    def ukey(self, path: str) -> str:
        """A key that changes when the file does: a hash of name, size and modification time, the same on every host."""
        name = self._strip_protocol(path)
        status = os.stat(name)
        return hashlib.sha256(
            f"{name}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogatepass")
        ).hexdigest()

    def checksum(self, path: str) -> int:
        """`ukey` as a number."""
        return int(self.ukey(path)[:32], 16)

    # Bytes

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **kwargs: Any) -> Any:
        if mode != "rb":
            raise self._refusal(path)
        return SmmapFile(self, self.manager.buffer(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes of `path` from `start` to `end`, like a slice: negative numbers count from the end."""
        data: bytes = self._share().buffer(self._strip_protocol(path))[start:end]
        return data

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """The bytes of each range [start, end) of each path. `starts` and `ends`: lists, or one number for all.

        An error takes the place of the bytes, or is raised at once with on_error="raise". All ranges are announced
        to the system before they are read (`buffer.ranges`), so on cold storage this takes a fraction of the time of as
        many `cat_file` calls. `max_gap` is for file systems where requests are expensive: here it has no effect.
        """
        if not isinstance(paths, list):
            raise TypeError(f"paths must be a list, not {type(paths).__name__}")
        starts, ends = (each if isinstance(each, list) else [each] * len(paths) for each in (starts, ends))
        if not len(paths) == len(starts) == len(ends):
            raise ValueError(f"{len(paths)} paths, but {len(starts)} starts and {len(ends)} ends")
        share = self._share()
        buffers: dict[str, Any] = {}
        for path in dict.fromkeys(paths):
            try:
                buffers[path] = share.buffer(self._strip_protocol(path))
            except Exception as error:
                if on_error != "return":
                    raise
                buffers[path] = error
        there = [number for number, path in enumerate(paths) if not isinstance(buffers[path], Exception)]
        found: list[Any] = [buffers[path] for path in paths]
        try:
            data = self._batch(buffers, [(paths[number], starts[number], ends[number]) for number in there])
        except Exception:  # which range failed? Those that were read are in memory now
            return self._ranges_alone(paths, starts, ends, on_error)
        for number, one in zip(there, data):
            found[number] = one
        return found

    def _batch(self, buffers: dict[str, Any], wanted: list[tuple[str, Any, Any]]) -> list[bytes]:
        """The ranges of the existing files, read together."""
        numbers = {path: number for number, path in enumerate(dict.fromkeys(path for path, _, _ in wanted))}
        return ranges(
            [buffers[path] for path in numbers],
            [numbers[path] for path, _, _ in wanted],
            [0 if start is None else start for _, start, _ in wanted],
            [sys.maxsize if end is None else end for _, _, end in wanted],
        )

    def _ranges_alone(self, paths: list[str], starts: list[Any], ends: list[Any], on_error: str) -> list[Any]:
        """Each range read separately, or its error."""
        found: list[Any] = []
        for path, start, end in zip(paths, starts, ends):
            try:
                found.append(self.cat_file(path, start, end))
            except Exception as error:
                if on_error != "return":
                    raise
                found.append(error)
        return found

    # Writing, which is refused

    def _refusal(self, path: Any) -> ReadOnlyError:
        return ReadOnlyError(errno.EROFS, "smmap:// is read-only: write with file://", self._strip_protocol(path))

    def _refuse(self, path: Any = "", *args: Any, **kwargs: Any) -> Any:
        """Refuse with `ReadOnlyError`."""
        raise self._refusal(path)

    mkdir = makedirs = rmdir = rm = rm_file = _rm = touch = pipe_file = chmod = _refuse

    def _refuse_second(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse with `ReadOnlyError`, which names the second argument: the one that would be written."""
        names = ("rpath", "path2", "dst")  # its names in fsspec's classes
        raise self._refusal([*args[1:2], *(kwargs[name] for name in names if name in kwargs), ""][0])

    put = put_file = cp_file = copy = mv = link = symlink = _refuse_second
