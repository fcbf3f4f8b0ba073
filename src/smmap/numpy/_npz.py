"""The arrays in one `.npz` file: uncompressed ones are mapped where they are in the file."""

from __future__ import annotations

import copy
import errno
import importlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.lib import format as npy

from .._buffer import SlidingWindowMapBuffer
from .._errors import ClosedError, refuse_state
from .._reader import BufferedFileReader, FileReader
from ._arrays import layout, mapped
from ._npy import ANY_HEADER, LONGEST_HEADER, header, is_npy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MappedNpz", "checked_mode", "is_zip"]

_LOCAL = struct.Struct("<4s22xHH")  # of a member: "PK\3\4", and how long its name and the fields after it are
_DAMAGED: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, zlib.error, EOFError, struct.error),
    NotImplementedError,  # an unknown method
    OSError,  # of bz2, without a number
)
for _module, _name in (("lzma", "LZMAError"), ("compression.zstd", "ZstdError")):  # if this Python has them
    try:
        _DAMAGED += (getattr(importlib.import_module(_module), _name),)
    except ImportError:
        pass
_ENCRYPTED = 1
_SHOWN = 5  # names in the repr
_READING = "r", "readonly"
_WRITING = "r+", "readwrite", "w+", "write", "c", "copyonwrite"


def checked_mode(mode: Any) -> str | None:
    """ "r", or None for reading into memory; `ValueError` for np.memmap's other modes."""
    if mode is None or mode in _READING:
        return mode and "r"
    if mode in _WRITING:
        raise ValueError(
            f'mode {mode!r} is for writing, and smmap only reads: use "r", and .copy() for a writable array'
        )
    raise ValueError(f'mode must be "r", not {mode!r}')


def is_zip(head: bytes) -> bool:
    """Whether a file that starts with these bytes is an archive, maybe an empty one."""
    return head.startswith((b"PK\3\4", b"PK\5\6"))


class BadArchiveError(ValueError, zipfile.BadZipFile):
    """The file is not a `.npz` file, or is damaged."""


class MappedNpz(Mapping[str, Any]):
    """What `load` returns for a `.npz` file: a mapping of names to arrays, as from `np.load`.

    Uncompressed members (`np.savez`) are `MappedArray`s. Each is mapped when you ask for it, without a copy and
    without checking its checksum. Compressed ones (`np.savez_compressed`) are read into plain arrays, each time you ask
    for them. With `mmap_mode=None` all are read. A member that is not a `.npy` file is returned as its bytes.

    Holds no map and no descriptor of its own. It pickles as path, size and mtime. The unpickled object opens the file
    at its first use, on the default manager of the process where it arrives; there it never unpickles objects, whatever
    `allow_pickle` was. Any number of threads may share it.

    `KeyError` for a missing member, `ValueError` (also a `zipfile.BadZipFile`) for a damaged file or member,
    `ClosedError` after `close`, otherwise the errors of `load`.
    """

    __setstate__ = refuse_state

    _pickles: ClassVar[dict[str, Any]] = {}
    """What `np.load` needs to unpickle. Not an argument, so that an unpickled archive never unpickles anything."""

    def __init__(
        self, data: SlidingWindowMapBuffer, mode: str | None = "r", max_header_size: int = LONGEST_HEADER
    ) -> None:
        if not isinstance(data, SlidingWindowMapBuffer):
            raise TypeError(f"data must be a buffer of smmap, not {type(data).__name__}")
        self._data = data
        self._mode = checked_mode(mode)
        self._longest = index(max_header_size)
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, str] = {}
        if data._access.opened:
            self._opened()

    @classmethod
    def _trusted(
        cls, data: SlidingWindowMapBuffer, mode: str | None, max_header_size: int, pickles: dict[str, Any]
    ) -> Self:
        """An archive whose objects may be unpickled."""
        found = cls(data, mode, max_header_size)
        found._pickles = pickles  # type: ignore[misc]
        return found

    def __repr__(self) -> str:
        what = "closed" if self._data.closed else "not open yet"
        if self._zip is not None and not self._data.closed:
            names = self.files
            what = "with keys: " + ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
        return f"<smmap.numpy.MappedNpz {self._name} {what}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedNpz, (self._data, self._mode, *(() if self._longest == LONGEST_HEADER else (self._longest,)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further use. May be called any number of times. Arrays from it stay valid."""
        self._data.close()
        self._zip = None

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._data.closed

    @property
    def _name(self) -> str:
        return str(self._data._access.client.name)

    # As a mapping

    @property
    def files(self) -> list[str]:
        """The names of all members, without `.npy`."""
        return [_key(name) for name in self._opened().namelist()]

    @property
    def f(self) -> Any:
        """The arrays as attributes: `npz.f.weights`."""
        return _Attributes(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self._opened().namelist())

    def __contains__(self, key: object) -> bool:
        self._opened()
        return key in self._members

    def __getitem__(self, key: str) -> Any:
        archive = self._opened()
        if key not in self._members:
            raise KeyError(f"{key} is not a file in the archive")
        info = archive.getinfo(self._members[key])
        try:
            if not 0 <= info.header_offset < len(self._data):
                raise zipfile.BadZipFile(f"offset {info.header_offset} does not lie in the file")
            if self._mode and info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & _ENCRYPTED:
                part = self._part(info)
                if is_npy(part[:8]) and not (self._pickles and header(part, ANY_HEADER, True)[2].hasobject):
                    return mapped(layout(part, ANY_HEADER if self._pickles else self._longest))
            return self._read(archive, info)
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the system
                raise
            raise BadArchiveError(f"{self._name}, member {info.filename!r}: {error}") from error

    def _opened(self) -> zipfile.ZipFile:
        """The archive's directory, read at the first use; `ClosedError` after `close`."""
        if self._data.closed:
            raise ClosedError(f"{self!r} cannot be read")
        archive = self._zip
        if archive is None:
            self._data._ready()
            try:
                archive = zipfile.ZipFile(self._file())
            except (zipfile.BadZipFile, struct.error, EOFError, UnicodeDecodeError) as error:
                raise BadArchiveError(f"{self._name} is not an archive: {error}") from None
            except OSError as error:  # before Python 3.11, zipfile may look for a directory before the file's start
                if error.errno != errno.EINVAL:
                    raise
                raise BadArchiveError(f"{self._name} is not an archive: its directory is not where it says") from None
            names = archive.namelist()
            self._members = {**{_key(name): name for name in names}, **{name: name for name in names}}
            self._zip = archive
        return archive

    def _part(self, info: zipfile.ZipInfo) -> SlidingWindowMapBuffer:
        """The bytes of an uncompressed member."""
        access = self._data._ready()
        start = info.header_offset
        head = self._data[start : start + _LOCAL.size]
        if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile(f"its header is not at offset {start}")
        _, name, extra = _LOCAL.unpack(head)
        start += _LOCAL.size + name + extra
        stop = start + info.file_size
        if info.file_size != info.compress_size or stop > access.size:
            raise zipfile.BadZipFile(f"[{start}, {stop}) does not lie in the {access.size} bytes of the file")
        return SlidingWindowMapBuffer._over(access.client, access.offset + start, info.file_size)

    def _file(self) -> BufferedFileReader:
        return BufferedFileReader(FileReader(self._data.__copy__()))

    def _read(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
        own = copy.copy(archive)
        own.fp = self._file()  # in CPython 3.13.0, threads that read members of one file move each other's position
        with own.open(info) as member:
            head = member.read(8)
            member.seek(0)
            if not is_npy(head):
                return member.read()
            return npy.read_array(
                member,
                allow_pickle=bool(self._pickles),
                pickle_kwargs=self._pickles or None,
                max_header_size=self._longest,
            )


class _Attributes:
    """See `MappedNpz.f`."""

    def __init__(self, npz: MappedNpz) -> None:
        self.__npz = npz

    def __reduce__(self) -> tuple[Any, ...]:  # otherwise a copy would look for its archive in itself
        return _Attributes, (self.__npz,)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__npz[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> list[str]:
        return self.__npz.files


def _key(name: str) -> str:
    return name[:-4] if name.endswith(".npy") else name  # noqa: FURB188  # Python 3.9
