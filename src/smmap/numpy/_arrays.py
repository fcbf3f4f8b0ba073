"""Arrays over windows of files."""

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
    """The array that `load` and `memmap` return: read-only, over a file's window, otherwise like any other array.

    Slices, fields, transposed and reshaped arrays that share its memory are `MappedArray`s too. Each pickles as
    path, range, size, mtime and layout, without the data, and unpickles as a `LazyArray`. Results of computations are
    plain arrays; a copy, by whatever method, pickles as a plain array with its data.

    `filename`, `offset` and `mode` have the same meaning as for an `np.memmap`.
    """

    __array_priority__ = -100.0
    __setstate__ = refuse_state  # numpy's method would give it other memory

    _Lazy: ClassVar[Any]  # set by _lazy.py: imports go one way

    _source: tuple[SlidingWindowMapBuffer, int, int, Any] | None = None
    """The file, an offset in it, the memory address of that offset, and a weak reference to the owner of the map."""

    def __array_finalize__(self, obj: Any) -> None:
        self._source = getattr(obj, "_source", None)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool | None = None) -> Any:
        if array is self:  # a writable copy, as `out`
            return self
        result = np.asarray(array)
        if return_scalar is None:  # numpy 1 does not say it
            return_scalar = result.shape == ()
        return result[()] if return_scalar else result

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
        """The file, and the offset of the first element in it; None for a copy."""
        if self._source is None:
            return None
        data, offset, address, kept = self._source
        owner = kept()  # None once it is gone; an array that owns its memory, such as a copy, has None as its root
        if owner is None or owner is not root(self):
            return None
        return data, offset + self.__array_interface__["data"][0] - address

    @property
    def filename(self) -> str | bytes | None:
        """The file's absolute path; None for a file that was given as a descriptor, and for a copy."""
        place = self._place()
        where = None if place is None else place[0]._access.client.where
        return None if isinstance(where, int) else where

    @property
    def offset(self) -> int | None:
        """The offset of the first element (also of a slice) in the file, in bytes; None for a copy."""
        place = self._place()
        return None if place is None else place[1] + int(place[0]._access.offset)

    @property
    def mode(self) -> str:
        """ "r": read-only."""
        return "r"

    def flush(self) -> None:
        """Does nothing: there is never anything to write."""


class Layout(NamedTuple):
    """The place of an array in a file: its first element is at `offset`."""

    data: SlidingWindowMapBuffer
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    """None for C order."""


def layout(data: SlidingWindowMapBuffer, longest: int) -> Layout:
    """The place of the array in a `.npy` file."""
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
    """The array. Maps its range."""
    low, high = reach(place)
    data, offset, dtype, shape, strides = place
    if low == high:
        return _over(np.ndarray(shape, dtype, b""), data, offset, b"")
    # frombuffer keeps its argument; ndarray(buffer=...) keeps the map behind it, which could then be closed
    raw = np.frombuffer(data[low:high] if _system.PYPY else data.view(low, high), np.uint8)
    return _over(np.ndarray(shape, dtype, raw, offset - low, strides), data, offset, root(raw))


def reach(place: Layout) -> tuple[int, int]:
    """The byte range of such an array in the file. Opens nothing."""
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
    """A `MappedArray` that knows its place: its first element is at `offset` of the file, its memory is `owner`'s."""
    found = array.view(MappedArray)
    found._source = data, offset, array.__array_interface__["data"][0], _weak(owner)
    return found


def root(array: Any) -> Any:
    """The object that owns an array's memory in the end."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array


def _weak(owner: Any) -> Any:
    return weakref.ref(owner) if isinstance(owner, memoryview) else lambda: owner
