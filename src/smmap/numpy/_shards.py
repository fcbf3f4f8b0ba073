"""One long array over many files, with no more of them open or mapped than the manager allows."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from .. import _system
from .._batches import joined
from .._buffer import SlidingWindowMapBuffer
from .._default import chosen
from .._errors import ClosedError, LimitError, refuse_state
from .._interop import Exchanged
from ._arrays import Array, root
from ._gather import copy, gather, in_blocks, octets, writable
from ._keys import as_integer, consecutive, dimensions, places, split
from ._npy import fully_named
from ._parts import Parts, examined, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from .._managers import StaticWindowMapManager
    from ._arrays import FilePath

__all__ = ["Shards"]

T = TypeVar("T")

_SMALL = 32 << 10  # bytes: below that a copy costs no more than a view, and a cold range need not be mapped
_NEAR = 4 << 10  # bytes: elements at most this far apart are read together with the bytes between them
_CHUNK = 1 << 20  # bytes read at once when going through a long range
_MANY = 1 << 16  # elements gathered at once
_BATCH = 16 << 20  # bytes gathered at once if they are then moved to their places


class Shards(Exchanged):
    """One long read-only array over many files, within the manager's limits however many files there are.

    `paths`: str, bytes or os.PathLike each; made absolute. Files named `*.npy`, and all files if no `dtype` is given,
    each hold a `.npy` array, and are joined along axis 0. For 1-D arrays `shards[i]` is an element, for others a row;
    `len(shards)` counts them, and all rows must have one shape. Other files are raw: elements of `dtype`, which may be
    a subarray's, as in `("<f4", (768,))`, from `offset` bytes on. Sizes, times and headers are read at once; each file
    is opened at its first read. Uses the process's default manager unless another is given.

    `shards[i]`, `shards[start:stop:step]`, `shards[[3, 1, 2]]`, `shards[mask]`, and tuples of these, give what the
    joined array of all files would give; elements, rows and slices are read-only, integer arrays give new arrays. A
    contiguous slice (or a row) of 32 KiB or more within one file is not copied: it is a view, counted as mapped
    until you drop it, or a copy if no handle is left for it. Everything else is one copy, and small cold reads map
    nothing. O(log(files)) for an integer or a slice; O(k log(k)) for k indexes. See also `blocks`.

    `np.asarray(shards)` and, by DLPack, `torch.as_tensor(shards)` read all of it, without a copy if it is in one file.

    Any number of threads may share it. It pickles as paths, sizes and mtimes. The unpickled object opens the files at
    their first reads, on the default manager of the process where it arrives.

    `ValueError` for files that do not fit the dtype or each other. Reads raise `IndexError`, `FileChangedError` if the
    size or mtime of a file has changed, `LimitError`, `ClosedError` or the system's error.
    """

    __setstate__ = refuse_state

    def __init__(
        self,
        paths: Iterable[FilePath],
        dtype: Any = None,
        *,
        manager: StaticWindowMapManager | None = None,
        offset: int = 0,
    ) -> None:
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths must be several paths, as in a list, not {type(paths).__name__}")
        if manager is not None:
            chosen(manager)
        offset = index(offset)
        if offset < 0:
            raise ValueError(f"offset must not be negative: {offset}")
        self._become(examined(paths, dtype, offset, manager), manager)

    def _become(self, parts: Parts, manager: StaticWindowMapManager | None) -> None:
        self._parts = parts
        self._unit = parts.unit
        self._manager = manager
        self._starts = [0, *accumulate(parts.counts)]
        self._start_array = np.array(self._starts, np.int64)
        self._borders = self._start_array * parts.unit.itemsize
        self._buffers: list[SlidingWindowMapBuffer | None] | None = [None] * len(parts.paths)

    def __repr__(self) -> str:
        state = ", closed" if self._buffers is None else ""
        what = f"rows of shape {self._parts.row}" if self._parts.row else "elements"
        count = len(self._parts.paths)
        return f"<smmap.numpy.Shards of {count} files, {len(self)} {what} of {self.dtype}{state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further reads. May be called any number of times. Arrays from it stay valid."""
        self._buffers = None

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._buffers is None

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _shards, packed(self._parts)

    def __copy__(self) -> Shards:
        build, state = self.__reduce__()
        new: Shards = build(*state)
        new._manager = self._manager
        return new

    def __deepcopy__(self, _memo: Any) -> Shards:
        return self.__copy__()

    def __dask_tokenize__(self) -> Any:
        return self.__reduce__()

    # As an array

    @property
    def dtype(self) -> np.dtype[Any]:
        """The elements' dtype."""
        return self._parts.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(number of elements,), or (number of rows, *shape of a row)."""
        return (self._starts[-1], *self._parts.row)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return 1 + len(self._parts.row)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.nbytes // self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes in an element."""
        return self._parts.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in all elements."""
        return self._starts[-1] * self._unit.itemsize

    @property
    def paths(self) -> list[str]:
        """The files, absolute, in order."""
        return list(self._parts.paths)

    @property
    def counts(self) -> list[int]:
        """How many elements, or rows, each file has."""
        return list(self._parts.counts)

    def __len__(self) -> int:
        return self._starts[-1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self._check_open()
        array = self._span(0, len(self))
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        if copy is False and not (wanted == array.dtype and isinstance(root(array), memoryview)):
            raise ValueError("an array over several files, a small one, or one of another dtype is always a copy")
        return array.astype(wanted, copy=bool(copy))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The memory of the array, if it is in one file, and has a dtype that this protocol describes fully."""
        filled = [shard for shard, count in enumerate(self._parts.counts) if count]
        if self._buffers is None or len(filled) != 1 or not fully_named(self.dtype):
            raise AttributeError("__array_interface__")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": self._bytes(filled[0], 0, self.nbytes),
        }

    def __iter__(self) -> Iterator[Any]:
        self._check_open()
        for part in self._chunks():
            yield from part

    def __contains__(self, value: Any) -> bool:
        self._check_open()
        if np.ndim(value) >= self.ndim:  # it is compared with the whole array
            return value in np.asarray(self)
        return any(value in part for part in self._chunks())

    def _chunks(self) -> Iterator[Array]:
        step = max(_CHUNK // self._unit.itemsize, 1)
        for start in range(0, len(self), step):
            yield self._span(start, min(start + step, len(self)))

    @overload
    def __getitem__(self, key: slice | list[int] | list[bool] | Array) -> Array: ...

    @overload
    def __getitem__(self, key: Any) -> Any: ...  # an element or a row, or what a tuple asks for: as in numpy's types

    def __getitem__(self, key: Any) -> Any:
        self._check_open()  # even if there is nothing to read
        if type(key) is int:
            return self._element(key)
        if isinstance(key, tuple) or dimensions(key) > 1:
            key, rest = split(key if isinstance(key, tuple) else (key,), self.shape)
            if rest:
                return self._below(key, rest)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._span(start, stop) if step == 1 else self._stride(range(start, stop, step))
        if key is Ellipsis:
            return self._span(0, len(self))
        place = as_integer(key)
        return self._gather(key) if place is None else self._element(place)

    def _place(self, place: int) -> int:
        size = len(self)
        if not -size <= place < size:
            raise IndexError(f"index {place} is out of bounds for {size} elements")
        return place + size if place < 0 else place

    def _element(self, place: int) -> Any:
        place = self._place(place)
        if self._parts.row:
            return self._span(place, place + 1)[0]
        shard = bisect_right(self._starts, place) - 1
        offset = (place - self._starts[shard]) * self._unit.itemsize
        return np.frombuffer(self._open(shard)[offset : offset + self._unit.itemsize], self._unit)[0]

    def _below(self, key: Any, rest: tuple[Any, ...]) -> Any:
        """Rows, indexed by the rest of a key, as by numpy."""
        if isinstance(key, slice):
            return self[key][(slice(None), *rest)]
        place = as_integer(key)
        if place is not None:
            place = self._place(place)
            return self._span(place, place + 1)[(0, *rest)]
        wanted = places(key, len(self))
        distinct, position = np.unique(wanted, return_inverse=True)
        rows = np.empty(len(distinct), self._unit)
        self._fill(distinct, 1, octets(rows))
        return rows[(position.reshape(wanted.shape), *rest)]

    def _span(self, start: int, stop: int) -> Array:
        """[start, stop), read-only."""
        if start >= stop:
            return _read_only(np.empty(0, self._unit))
        size = self._unit.itemsize
        shard = bisect_right(self._starts, start) - 1
        first = self._starts[shard]
        if stop <= self._starts[shard + 1]:
            return np.frombuffer(self._bytes(shard, (start - first) * size, (stop - first) * size), self._unit)
        joined = np.empty(stop - start, self._unit)
        for shard, offset, at, count in self._pieces(start, stop):
            self._open(shard).readinto(offset, octets(joined)[at : at + count])
        return _read_only(joined)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """The pieces of [start, stop): file, and in bytes the offset in it, the offset in the result, and the size."""
        size, first = self._unit.itemsize, start
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[shard + 1])
            if start < end:
                yield shard, (start - self._starts[shard]) * size, (start - first) * size, (end - start) * size
            start = end
            shard += 1

    def _bytes(self, shard: int, start: int, stop: int) -> Any:
        """Bytes of one file: without a copy if they are many and a handle is left for it."""
        data = self._open(shard)
        if stop - start >= _SMALL and not _system.PYPY:
            try:
                return data.view(start, stop)
            except LimitError:
                pass
        return data[start:stop]

    def _stride(self, chosen: range) -> Array:
        """Elements at equal distances, read-only."""
        backwards = chosen.step < 0
        if backwards:
            chosen = chosen[::-1]
        found = np.empty(len(chosen), self._unit)
        distance = chosen.step * self._unit.itemsize
        step = max(_CHUNK // distance, 1) if distance <= _NEAR else _MANY
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            if distance <= _NEAR:
                found[start : start + step] = self._span(part[0], part[-1] + 1)[:: part.step]
            else:
                wanted = np.arange(part.start, part.stop, part.step, dtype=np.int64)
                self._fill(wanted, 1, octets(found[start : start + step]))
        return _read_only(found[::-1] if backwards else found)

    # Batches

    @overload
    def blocks(self, starts: Any, length: int, out: None = None) -> Array: ...

    @overload
    def blocks(self, starts: Any, length: int, out: T) -> T: ...

    def blocks(self, starts: Any, length: int, out: Any = None) -> Any:
        """The `length` elements (or rows) at each start, also across the borders of files: one row for each start.

        For elements equal to `np.lib.stride_tricks.sliding_window_view(everything, length)[starts]`, and for both to
        `everything[starts[:, None] + np.arange(length)]`. `starts`: integers, as a sequence or an array; negative ones
        count from the last block. `out`: a writable C-contiguous array of the same dtype and number of elements, of any
        shape and library (numpy, torch in the CPU's memory, pinned or not), or a bytes-like object of as many bytes. It
        is filled and returned; without it the result is a new array.

        One copy, file by file and in the order of offsets, whatever the order of `starts`: O(n log(n)). Raises, before
        anything is read, `IndexError` for a start outside, `TypeError` or `ValueError` for an `out` that does not fit,
        and `ValueError` for a length that exceeds the array's. See `Shards` for the errors of reads, after which `out`
        may be partly filled. Any thread may call it.
        """
        self._check_open()
        length = index(length)
        if not 0 <= length <= len(self):
            raise ValueError(f"a block of {length} does not fit into {len(self)} elements")
        wanted = starts if type(starts) is np.ndarray and starts.dtype == np.int64 else self._starts_in(starts, length)
        if out is None:
            out = np.empty((*wanted.shape, length), self._unit)
            target = octets(out)
        else:
            target = writable(out, self.dtype, wanted.size * length * (self._unit.itemsize // self.itemsize))
        size = length * self._unit.itemsize
        if wanted is starts:
            quick = size and wanted.ndim == 1 and wanted.flags.c_contiguous and not in_blocks(size)
            if quick and joined(self._all(), self._open, self._borders, wanted, self._unit.itemsize, size, target):
                return out
            wanted = self._starts_in(starts, length)
        self._fill(wanted.reshape(-1), length, target)
        return out

    def prefetch(self, starts: Any, length: int) -> None:
        """Announce to the system that `blocks(starts, length)` will be read soon, and wait for nothing.

        Storage then works in the background: announce the next batch while you use the last one. Maps nothing.
        Arguments and opening files raise the same errors as in `blocks`. O(n log(n)). Any thread may call it.
        """
        self._check_open()
        length = index(length)
        if not 0 <= length <= len(self):
            raise ValueError(f"a block of {length} does not fit into {len(self)} elements")
        wanted = np.ascontiguousarray(self._starts_in(starts, length).reshape(-1))
        unit = self._unit.itemsize
        joined(self._all(), self._open, self._borders, wanted, unit, length * unit, None)

    def _starts_in(self, starts: Any, length: int) -> Array:
        return places(starts, len(self) - length + 1)

    def _gather(self, key: Any) -> Any:
        """Elements at any places, in a new array of the key's shape."""
        wanted = places(key, len(self))
        shape = wanted.shape
        found = np.empty(shape, self._unit)
        if consecutive(wanted):
            self._fill(wanted[..., 0].reshape(-1), shape[-1], octets(found))
        else:
            self._fill(wanted.reshape(-1), 1, octets(found))
        return found if shape or self._parts.row else found[()]

    def _fill(self, starts: Array, length: int, target: memoryview) -> None:
        """Copy the `length` rows at each start, one after the other."""
        size = length * self._unit.itemsize
        if not (len(starts) and size):
            return
        if not in_blocks(size):
            starts = np.ascontiguousarray(starts)
            joined(self._all(), self._open, self._borders, starts, self._unit.itemsize, size, target)
            return
        shards = np.searchsorted(self._start_array, starts, "right") - 1
        whole = starts + length <= self._start_array[shards + 1]
        if bool(whole.all()):
            self._fill_whole(starts, shards, size, target)
            return
        within = np.flatnonzero(whole)
        within = within[np.argsort(starts[within])]
        rows = np.frombuffer(target, np.uint8).reshape(-1, size)
        step = max(_BATCH // size, 1)
        for at in range(0, len(within), step):
            part = within[at : at + step]
            blocks = np.empty((len(part), size), np.uint8)
            self._fill_whole(starts[part], shards[part], size, octets(blocks))
            rows[part] = blocks
        across = np.flatnonzero(~whole).tolist()
        pieces = [
            (shard, offset, number * size + at, count)
            for number, start in zip(across, starts[across].tolist())
            for shard, offset, at, count in self._pieces(start, start + length)
        ]
        for shard, offset, at, count in sorted(pieces):
            copy(self._open(shard), offset, target[at : at + count])

    def _fill_whole(self, starts: Array, shards: Array, size: int, target: memoryview) -> None:
        """The same for blocks of `size` bytes, each within one file."""
        offsets = (starts - self._start_array[shards]) * self._unit.itemsize
        used = np.flatnonzero(np.bincount(shards))
        number = np.empty(len(self._parts.paths), np.int64)
        number[used] = np.arange(len(used))
        gather([self._open(shard) for shard in used.tolist()], number[shards], offsets, size, target)

    # Files

    def _open(self, shard: int) -> SlidingWindowMapBuffer:
        """The buffer of a file's elements, which opens it at the first read."""
        buffers = self._buffers
        if buffers is None:
            raise self._closed_error()
        data = buffers[shard]
        if data is None:
            parts = self._parts
            data = buffers[shard] = SlidingWindowMapBuffer._later(
                self._manager,
                parts.paths[shard],
                parts.offsets[shard],
                parts.counts[shard] * self._unit.itemsize,
                parts.sizes[shard],
                parts.mtimes[shard],
            )
        return data

    def _all(self) -> list[SlidingWindowMapBuffer | None]:
        """The buffers of all files; None for files that were not read yet."""
        if self._buffers is None:
            raise self._closed_error()
        return self._buffers

    def _check_open(self) -> None:
        if self._buffers is None:
            raise self._closed_error()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self!r} cannot be read")


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _shards(*state: Any) -> Shards:
    """The unpickled `Shards`. Opens nothing before the first read."""
    shards = Shards.__new__(Shards)
    shards._become(unpacked(*state), None)
    return shards
