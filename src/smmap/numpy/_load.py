"""`load` and `memmap`, with the arguments of numpy's functions of these names."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from .._buffer import SlidingWindowMapBuffer
from .._default import buffer
from .._reader import BufferedFileReader, FileReader
from ._arrays import Layout, MappedArray, layout, mapped
from ._npy import ANY_HEADER, LONGEST_HEADER, header, is_npy, plain
from ._npz import MappedNpz, checked_mode, is_zip

if TYPE_CHECKING:
    from typing import Literal, Protocol

    from .._managers import StaticWindowMapManager
    from ._arrays import FilePath

    class Readable(Protocol):
        """A file object."""

        def read(self, size: int = ..., /) -> bytes:
            """The next bytes."""

    class HasDescriptor(Protocol):
        """A file object with a descriptor."""

        def fileno(self) -> int:
            """Its descriptor."""


__all__ = ["load", "memmap"]


def load(
    path: FilePath | int | Readable,
    mmap_mode: Literal["r", "readonly"] | None = "r",
    allow_pickle: bool = False,
    fix_imports: bool = True,
    encoding: Literal["ASCII", "latin1", "bytes"] = "ASCII",
    *,
    max_header_size: int = LONGEST_HEADER,
    manager: StaticWindowMapManager | None = None,
) -> Any:
    """The content of a `.npy` or `.npz` file, without a copy: like `np.load(path, mmap_mode="r")`, within limits.

    For a `.npy` file it returns a `MappedArray`: any dtype without Python objects, any shape and order. The range of
    the array is mapped at once, as one window however long, and counts as mapped until the array and everything that
    shares its memory are gone. For a `.npz` file it returns a `MappedNpz`. `path`: str, bytes, os.PathLike, or a
    descriptor, which stays yours. Uses the process's default manager unless another is given.

    The other arguments are those of `np.load`. `mmap_mode=None` reads into memory, and returns arrays that you may
    write to; modes for writing are refused. `allow_pickle`, which can run any code in the file, is for that mode, for
    members that are not mapped, and for files that contain only a pickle. A file object is read by `np.load`, in any
    mode.

    O(1) apart from the header or the archive's directory. `ValueError` for a file that is of neither kind, is
    truncated, or holds Python objects; `LimitError` if no handle is left; `FileChangedError` and the system's errors as
    for buffers. Any thread may call it. (On PyPy, where numpy never releases a map, the array is a copy.)
    """
    mode = checked_mode(mmap_mode)
    if encoding not in ("ASCII", "latin1", "bytes"):
        raise ValueError(f'encoding must be "ASCII", "latin1" or "bytes", not {encoding!r}')
    pickles: Any = {"allow_pickle": allow_pickle, "fix_imports": fix_imports, "encoding": encoding}
    if hasattr(path, "read"):
        file: Any = path
        return np.load(file, **pickles, max_header_size=max_header_size)
    data = buffer(path, manager=manager)
    head = data[:8]
    if is_zip(head):
        if not allow_pickle:
            return MappedNpz(data, mode, max_header_size)
        return MappedNpz._trusted(data, mode, max_header_size, {"fix_imports": fix_imports, "encoding": encoding})
    if mode is None or (allow_pickle and not is_npy(head)):
        if not allow_pickle and not is_npy(head):
            header(data)  # raises the error
        with BufferedFileReader(FileReader(data)) as file:
            return np.load(file, **pickles, max_header_size=max_header_size)
    return mapped(layout(data, ANY_HEADER if allow_pickle else max_header_size))


def memmap(
    path: FilePath | int | HasDescriptor,
    dtype: Any = np.uint8,
    mode: Literal["r", "readonly"] = "r",
    offset: int = 0,
    shape: int | Iterable[int] | None = None,
    order: Literal["C", "F"] = "C",
    *,
    manager: StaticWindowMapManager | None = None,
) -> MappedArray:
    """A read-only array over a raw file of elements: like `np.memmap(..., mode="r")`, within limits.

    `path`: str, bytes, os.PathLike, a descriptor, which stays yours, or a file object that has one. `dtype`: any
    without Python objects. `mode`: "r" or "readonly"; the others are refused. `offset`: bytes before the array.
    `shape`: an integer or several; by default as many elements as the rest of the file has. `order`: "C" or "F". The
    range of the array is mapped at once, as for `load`, and not copied. Its pickle is small: see `MappedArray`.

    O(1). `ValueError` if the file is too short for the shape, or if, without a shape, it does not end with a whole
    element; `LimitError` if no handle is left; `FileChangedError` and the system's errors as for buffers. Any thread
    may call it.
    """
    if checked_mode(mode) is None:
        raise ValueError('mode must be "r": smmap only reads')
    if order not in ("C", "F"):
        raise ValueError(f'order must be "C" or "F", not {order!r}')
    kind = np.dtype(dtype)
    base, inner = plain(kind.base), kind.shape
    start = index(offset)
    if start < 0:
        raise ValueError(f"offset must not be negative: {start}")
    if hasattr(path, "fileno") and not isinstance(path, os.PathLike):
        path = path.fileno()
    data = buffer(path, manager=manager)
    outer = _whole(data, kind, start) if shape is None else _lengths(shape)
    if any(length < 0 for length in outer):
        raise ValueError(f"no array has the shape {outer}")
    needed = start + math.prod(outer) * kind.itemsize
    if needed > len(data):
        raise ValueError(
            f"{data._access.client.name} is too short: shape {outer} of {kind} at offset {start} needs {needed} bytes, "
            f"the file has {len(data)}"
        )
    whole = (*outer, *inner)
    strides = None
    if order == "F" and len(whole) > 1 and needed > start:
        strides = tuple(accumulate((base.itemsize, *whole[:-1]), lambda size, count: size * count))
    return mapped(Layout(data, start, base, whole, strides))


def _lengths(shape: int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(shape, Iterable) and not isinstance(shape, np.ndarray):
        return tuple(map(index, shape))
    return tuple(map(index, np.atleast_1d(shape)))


def _whole(data: SlidingWindowMapBuffer, kind: np.dtype[Any], start: int) -> tuple[int]:
    """How many elements the rest of the file has."""
    name, size = data._access.client.name, len(data)
    if start > size:
        raise ValueError(f"{name} is too short: offset {start} is past its {size} bytes")
    if not kind.itemsize:
        raise ValueError(f"{name}: a shape is needed for elements of {kind}, which have no bytes")
    count, rest = divmod(size - start, kind.itemsize)
    if rest:
        raise ValueError(
            f"{name}: the {size - start} bytes from offset {start} on are not a multiple of the {kind.itemsize} bytes "
            f"of {kind}"
        )
    return (count,)
