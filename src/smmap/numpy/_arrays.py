"""The array in one `.npy` file: in its window, or on its way to one."""

from __future__ import annotations

import math
import weakref
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .. import _system
from .._buffer import SlidingWindowMapBuffer, buffer
from ._npy import header, long, plain, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._manager import StaticWindowMapManager

__all__ = ["Array", "LazyArray", "MappedArray", "load", "root"]

Array = np.ndarray[Any, Any]


class MappedArray(np.ndarray[Any, Any]):
    """What `load` gives: a read-only array over a file's window, otherwise like any other array.

    Slices, fields, transposed and reshaped arrays that share its memory are `MappedArray` too, and each pickles as
    path, range, size, mtime and layout, without the data; what arrives is a `LazyArray`. Results of computations are
    plain arrays, and what was copied, by whatever method, pickles as a plain array with its data.
    """

    __array_priority__ = -100.0

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
        if self._source is not None:
            data, offset, address, kept = self._source
            mapped = kept()  # None once it is gone; an array that owns its memory, as copies do, has None for a root
            if mapped is not None and mapped is root(self) and isinstance(data._where, (str, bytes)):
                offset += self.__array_interface__["data"][0] - address
                strides = None if self.flags.c_contiguous else self.strides
                return LazyArray, (data, offset, short(self.dtype), self.shape, strides)
        reduced: Any = np.asarray(self).__reduce_ex__(protocol)
        return tuple(reduced)


def load(path: Any, *, manager: StaticWindowMapManager | None = None) -> MappedArray:
    """The array in a `.npy` file, read-only and without a copy: as `np.load(path, mmap_mode="r")`, within limits.

    `path`: str, bytes, os.PathLike, or a descriptor, which stays yours. On the process's default manager unless another
    is given. Any dtype without Python objects, any shape and order. What the array covers is mapped at once, as one
    window however long that must be, and counts as mapped until the array and all that share its memory are gone.

    O(1) but for the header. `ValueError` for what is not a `.npy` file, is truncated, or holds Python objects;
    `LimitError` if no handle is left; `FileChangedError` and the system's errors as for buffers. (On PyPy, where numpy
    never lets go of a map, the array is a copy.)
    """
    data = buffer(path, manager=manager)
    shape, fortran, dtype, begin = header(data)
    strides = None
    if fortran and len(shape) > 1:
        strides = tuple(accumulate((dtype.itemsize, *shape[:-1]), lambda size, count: size * count))
    needed = begin + math.prod(shape) * dtype.itemsize
    if needed > len(data):
        raise ValueError(f"{data._name()} is truncated: its array needs {needed} bytes, the file has {len(data)}")
    return _mapped(data, begin, dtype, shape, strides)


class LazyArray(NDArrayOperatorsMixin):
    """A `MappedArray` as it arrives from a pickle: maps what it covers at its first use, and from then on is one.

    Shape, dtype and sizes are known before, `repr` and pickling do not open it either. Anything else that an array does
    opens the path on the default manager of the process that it came to, once; `FileChangedError` if the file changed
    in between, `LimitError` if no handle is left, else the system's errors, again at each use. Slices, methods and
    operators give what the array would; `np.asarray(it)` is that array, without a copy, for code that asks for an
    `np.ndarray`. Any number of threads may share it.
    """

    _array: MappedArray | None = None

    def __init__(
        self,
        data: SlidingWindowMapBuffer,
        offset: int,
        dtype: Any,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
    ) -> None:
        kind = plain(long(dtype))
        _reach(data, offset, kind, shape, strides)
        self._layout = data, offset, kind, shape, strides

    def __repr__(self) -> str:
        return f"<smmap.numpy.LazyArray of shape {self.shape}, {self.dtype}, in {self._layout[0]._name()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        data, offset, dtype, shape, strides = self._layout
        return LazyArray, (data, offset, short(dtype), shape, strides)

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each dimension."""
        return self._layout[3]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The elements' dtype."""
        return self._layout[2]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes in an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in all elements."""
        return self.size * self.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    # What opens it

    def _open(self) -> MappedArray:
        array = self._array
        if array is None:
            array = self._array = _mapped(*self._layout)
        return array

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(MappedArray, name):  # a question after a protocol opens nothing
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._open(), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self._open()
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        if copy is False and wanted != array.dtype:
            raise ValueError(f"an array of {wanted} is a copy of one of {array.dtype}")
        return array.astype(wanted, copy=bool(copy))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:  # which numpy refuses, as what is mapped is read-only
            options["out"] = tuple(map(_opened, options["out"]))
        return getattr(ufunc, method)(*map(_opened, inputs), **options)

    def __getitem__(self, key: Any) -> Any:
        return self._open()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._open()[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._open())

    def __contains__(self, value: Any) -> bool:
        return value in self._open()

    def __bool__(self) -> bool:
        return bool(self._open())

    def __int__(self) -> int:
        return int(self._open())

    def __float__(self) -> float:
        return float(self._open())

    def __complex__(self) -> complex:
        return complex(self._open())

    def __index__(self) -> int:
        return index(self._open())


def _opened(thing: Any) -> Any:
    return thing._open() if isinstance(thing, LazyArray) else thing


def _mapped(
    data: SlidingWindowMapBuffer,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
) -> MappedArray:
    """An array over a file, whose first element is at `offset`. Maps what it covers."""
    low, high = _reach(data, offset, dtype, shape, strides)
    if low == high:
        return _over(np.ndarray(shape, dtype, b""), data, offset, b"")
    # frombuffer keeps what it is given; ndarray(buffer=...) keeps the map behind it, which could then be closed
    raw = np.frombuffer(data[low:high] if _system.PYPY else data.view(low, high), np.uint8)
    return _over(np.ndarray(shape, dtype, raw, offset - low, strides), data, offset, root(raw))


def _reach(
    data: SlidingWindowMapBuffer,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
) -> tuple[int, int]:
    """Where in the file the bytes of such an array lie. Opens nothing."""
    if any(length < 0 for length in shape):
        raise ValueError(f"no array has the shape {shape}")
    if not math.prod(shape) * dtype.itemsize:
        return offset, offset
    if strides is None:
        low, high = offset, offset + math.prod(shape) * dtype.itemsize
    else:
        reach = [(length - 1) * stride for length, stride in zip(shape, strides)]
        low = offset + sum(min(step, 0) for step in reach)
        high = offset + sum(max(step, 0) for step in reach) + dtype.itemsize
    if not 0 <= low < high <= len(data):
        raise ValueError(f"[{low}, {high}) does not lie in {data._name()}, which has {len(data)} bytes")
    return low, high


def _over(array: Array, data: SlidingWindowMapBuffer, offset: int, owner: Any) -> MappedArray:
    """The array, whose first element is at `offset` of the file and whose memory is `owner`'s, knowing where it is."""
    mapped = array.view(MappedArray)
    mapped._source = data, offset, array.__array_interface__["data"][0], _weak(owner)
    return mapped


def root(array: Any) -> Any:
    """What an array's memory belongs to in the end."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array


def _weak(owner: Any) -> Any:
    return weakref.ref(owner) if isinstance(owner, memoryview) else lambda: owner
