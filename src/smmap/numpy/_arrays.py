"""An array that lies in a file, over that file's window."""

from __future__ import annotations

import math
import weakref
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .. import _system
from .._buffer import SlidingWindowMapBuffer
from .._errors import refuse_state
from ._npy import header, short

if TYPE_CHECKING:
    import os
    from typing import Union

    from typing_extensions import TypeAlias

    from .._buffer import SlidingWindowMapBuffer

    FilePath: TypeAlias = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]

__all__ = ["Array", "Layout", "MappedArray", "layout", "mapped", "reach", "root"]

Array = np.ndarray[Any, Any]


class MappedArray(np.ndarray[Any, Any]):
    """What `load` and `memmap` give: a read-only array over a file's window, otherwise like any other array.

    Slices, fields, transposed and reshaped arrays that share its memory are `MappedArray` too, and each pickles as
    path, range, size, mtime and layout, without the data; what arrives is a `LazyArray`. Results of computations are
    plain arrays, and what was copied, by whatever method, pickles as a plain array with its data.

    `filename`, `offset` and `mode` say what those of an `np.memmap` say.
    """

    __array_priority__ = -100.0
    __setstate__ = refuse_state  # numpy's would give it other memory

    _Lazy: ClassVar[Any]  # set by _lazy.py: imports go one way

    _source: tuple[SlidingWindowMapBuffer, int, int, Any] | None = None
    """The file, the offset in it that lies at which address, and a weak reference to what keeps that mapped."""

    def __array_finalize__(self, obj: Any) -> None:
        self._source = getattr(obj, "_source", None)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        result = np.asarray(array)
        return result[()] if result.shape == () else result

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(2)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        place = self._place()
        if place is not None and isinstance(place[0]._access.client.where, (str, bytes)):
            strides = None if self.flags.c_contiguous else self.strides
            return self._Lazy, (*place, short(self.dtype), self.shape, strides)
        reduced: Any = np.asarray(self).__reduce_ex__(protocol)
        return tuple(reduced)

    def _place(self) -> tuple[SlidingWindowMapBuffer, int] | None:
        """The file, and where the first element lies in it; None for what was copied."""
        if self._source is None:
            return None
        data, offset, address, kept = self._source
        owner = kept()  # None once it is gone; an array that owns its memory, as copies do, has None for a root
        if owner is None or owner is not root(self):
            return None
        return data, offset + self.__array_interface__["data"][0] - address

    @property
    def filename(self) -> str | bytes | None:
        """The file's absolute path; None for one that was given as a descriptor, and for what was copied."""
        place = self._place()
        where = None if place is None else place[0]._access.client.where
        return None if isinstance(where, int) else where

    @property
    def offset(self) -> int | None:
        """Where the first element lies in the file, in bytes, also of a slice; None for what was copied."""
        place = self._place()
        return None if place is None else place[1] + int(place[0]._access.offset)

    @property
    def mode(self) -> str:
        """ "r": for reading only."""
        return "r"

    def flush(self) -> None:
        """Nothing: there is never anything to write."""


class Layout(NamedTuple):
    """Where an array lies in a file: its first element is at `offset`."""

    data: SlidingWindowMapBuffer
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    """None for C order."""


def layout(data: SlidingWindowMapBuffer, longest: int) -> Layout:
    """Where the array lies in a `.npy` file."""
    shape, fortran, dtype, start = header(data, longest)
    strides = None
    if fortran and len(shape) > 1:
        strides = tuple(accumulate((dtype.itemsize, *shape[:-1]), lambda size, count: size * count))
    needed = start + math.prod(shape) * dtype.itemsize
    if needed > len(data):
        raise ValueError(
            f"{data._access.client.name} is truncated: its array needs {needed} bytes, the file has {len(data)}"
        )
    return Layout(data, start, dtype, shape, strides)


def mapped(place: Layout) -> MappedArray:
    """The array. Maps what it covers."""
    low, high = reach(place)
    data, offset, dtype, shape, strides = place
    if low == high:
        return _over(np.ndarray(shape, dtype, b""), data, offset, b"")
    # frombuffer keeps what it is given; ndarray(buffer=...) keeps the map behind it, which could then be closed
    raw = np.frombuffer(data[low:high] if _system.PYPY else data.view(low, high), np.uint8)
    return _over(np.ndarray(shape, dtype, raw, offset - low, strides), data, offset, root(raw))


def reach(place: Layout) -> tuple[int, int]:
    """Where in the file the bytes of such an array lie. Opens nothing."""
    data, offset, dtype, shape, strides = place
    if any(length < 0 for length in shape):
        raise ValueError(f"no array has the shape {shape}")
    if not math.prod(shape) * dtype.itemsize:
        return offset, offset
    if strides is None:
        low, high = offset, offset + math.prod(shape) * dtype.itemsize
    else:
        steps = [(length - 1) * stride for length, stride in zip(shape, strides)]
        low = offset + sum(min(step, 0) for step in steps)
        high = offset + sum(max(step, 0) for step in steps) + dtype.itemsize
    if not 0 <= low < high <= len(data):
        raise ValueError(f"[{low}, {high}) does not lie in {data._access.client.name}, which has {len(data)} bytes")
    return low, high


def _over(array: Array, data: SlidingWindowMapBuffer, offset: int, owner: Any) -> MappedArray:
    """The array, whose first element is at `offset` of the file and whose memory is `owner`'s, knowing where it is."""
    found = array.view(MappedArray)
    found._source = data, offset, array.__array_interface__["data"][0], _weak(owner)
    return found


def root(array: Any) -> Any:
    """What an array's memory belongs to in the end."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array


def _weak(owner: Any) -> Any:
    return weakref.ref(owner) if isinstance(owner, memoryview) else lambda: owner
