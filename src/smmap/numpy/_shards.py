"""One long array over many files, of which no more is open or mapped than the manager allows."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _system
from .._buffer import SlidingWindowMapBuffer
from .._default import buffer, chosen
from .._errors import ClosedError, LimitError, refuse_state
from .._files import absolute, examine
from ._arrays import Array, root
from ._npy import header, in_a_row, long, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from .._managers import StaticWindowMapManager

__all__ = ["Shards"]

_SMALL = 32 << 10  # bytes: below that a copy costs no more than a view, and a cold one need not be mapped
_BLOCK = 16 << 10  # bytes: elements that are gathered from one such block of a file are read at once
_CHUNK = 1 << 20  # bytes read at once where a long range is gone through
_MANY = 1 << 16  # elements gathered at once


class Shards:
    """One long read-only 1-D array over many files, within the manager's limits however many files there are.

    `paths`: str, bytes or os.PathLike each; made absolute. Files called `*.npy`, and all files if no `dtype` is given,
    hold a 1-D `.npy` array; the others are raw: elements of `dtype` from `offset` bytes on. Sizes, times and headers
    are read at once; each file is opened at its first read. On the process's default manager unless another is given.

    `shards[i]`, `shards[start:stop:step]`, `shards[[3, 1, 2]]`, `shards[mask]` give what the array of all files joined
    would give; slices are read-only arrays, integer arrays give fresh ones. A contiguous slice of 32 KiB or more that
    lies in one file is not copied: it is a view, counted as mapped until you drop it, or a copy where no handle is left
    for it. Everything else is one copy, and reads that are small and cold map nothing. O(log(files)) for an integer or
    a slice; O(k log(k)) for k indexes, each file and each block of it read once.

    Any number of threads may share it. It pickles as paths, sizes and mtimes, and opens again at the first read, on the
    default manager of the process that it came to.

    `ValueError`: files that do not fit the dtype. Reads raise `IndexError`, `FileChangedError` where a file is not as
    large or as old as it was any more, `LimitError`, `ClosedError` or the system's error.
    """

    ndim = 1

    __setstate__ = refuse_state

    def __init__(
        self,
        paths: Iterable[Any],
        dtype: Any = None,
        *,
        manager: StaticWindowMapManager | None = None,
        offset: int = 0,
    ) -> None:
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths must be several paths, as in a list, not {type(paths).__name__}")
        names = [_name(path) for path in paths]
        if manager is not None:
            chosen(manager)
        offset = index(offset)
        if offset < 0:
            raise ValueError(f"offset must not be negative: {offset}")
        kind = None if dtype is None else in_a_row(np.dtype(dtype))
        sizes, mtimes, offsets, counts = [], [], [], []
        for name in names:
            if dtype is None or name.endswith(".npy"):
                with buffer(name, manager=manager) as data:
                    size, mtime = len(data), data._access.client.mtime
                    shape, _, found, start = header(data)
                if len(shape) != 1:
                    raise ValueError(f"{name}: the array has {len(shape)} dimensions, Shards takes 1")
                if kind is not None and found != kind:
                    raise ValueError(f"{name}: the array is of dtype {found}, not {kind}")
                kind, count = found, shape[0]
            else:
                assert kind is not None
                status = examine(name)
                size, mtime, start = status.size, status.mtime, offset
                count, rest = divmod(size - start, kind.itemsize)
                if rest or count < 0:
                    raise ValueError(f"{name}: {size} bytes are not {start} and then elements of {kind.itemsize} bytes")
            sizes.append(size)
            mtimes.append(mtime)
            offsets.append(start)
            counts.append(count)
        if kind is None:
            raise ValueError("without any path, a dtype must be given")
        self._become(names, kind, sizes, mtimes, offsets, counts, manager)

    def _become(
        self,
        paths: list[str],
        dtype: np.dtype[Any],
        sizes: list[int],
        mtimes: list[int],
        offsets: list[int],
        counts: list[int],
        manager: StaticWindowMapManager | None,
    ) -> None:
        self._dtype = in_a_row(dtype)
        self._paths = paths
        self._sizes = sizes
        self._mtimes = mtimes
        self._offsets = offsets
        self._counts = counts
        self._manager = manager
        for path, size, start, count in zip(paths, sizes, offsets, counts):
            if count < 0 or not 0 <= start <= start + count * dtype.itemsize <= size:
                raise ValueError(f"{path} is truncated: {count} elements from {start} on are not in {size} bytes")
        self._starts = [0, *accumulate(counts)]
        self._start_array = np.array(self._starts, np.int64)
        self._buffers: list[SlidingWindowMapBuffer | None] | None = [None] * len(paths)

    def __repr__(self) -> str:
        state = ", closed" if self._buffers is None else ""
        return f"<smmap.numpy.Shards of {len(self._paths)} files, {len(self)} elements of {self._dtype}{state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further reads; any number of times. Arrays that it gave stay valid."""
        self._buffers = None

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._buffers is None

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        common = _common(self._paths)
        names = "\0".join(path[len(common) :] for path in self._paths)
        itemsize = self._dtype.itemsize
        counts = [(size - start) // itemsize for size, start in zip(self._sizes, self._offsets)]
        state = len(self._paths), common, names, short(self._dtype)
        lists = self._sizes, self._mtimes, self._offsets, None if counts == self._counts else self._counts
        return _shards, (*state, *map(_packed, lists))

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
        return self._dtype

    @property
    def shape(self) -> tuple[int]:
        """(number of elements,)"""
        return (self._starts[-1],)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._starts[-1]

    @property
    def itemsize(self) -> int:
        """Bytes in an element."""
        return self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in all elements."""
        return self._starts[-1] * self._dtype.itemsize

    @property
    def paths(self) -> list[str]:
        """The files, absolute, in order."""
        return list(self._paths)

    @property
    def counts(self) -> list[int]:
        """How many elements each file has."""
        return list(self._counts)

    def __len__(self) -> int:
        return self._starts[-1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self._check_open()
        array = self._span(0, len(self))
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        if copy is False and not (wanted == array.dtype and isinstance(root(array), memoryview)):
            raise ValueError("an array over several files, a small one, or one of another dtype is always a copy")
        return array.astype(wanted, copy=bool(copy))

    def __iter__(self) -> Iterator[Any]:
        self._check_open()
        step = max(_CHUNK // self._dtype.itemsize, 1)
        for start in range(0, len(self), step):
            yield from self._span(start, min(start + step, len(self)))

    def __getitem__(self, key: Any) -> Any:
        self._check_open()  # also where nothing is to be read
        if type(key) is int:
            return self._element(key)
        if isinstance(key, tuple):
            parts = [part for part in key if part is not Ellipsis]
            if len(key) - len(parts) > 1 or len(parts) > 1:
                raise IndexError(f"too many indices: {key}")
            key = parts[0] if parts else slice(None)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._span(start, stop) if step == 1 else self._stride(range(start, stop, step))
        if key is Ellipsis:
            return self._span(0, len(self))
        place = None if isinstance(key, (list, np.ndarray, bool, np.bool_)) else _as_integer(key)
        return self._gather(key) if place is None else self._element(place)

    def _element(self, place: int) -> Any:
        size = len(self)
        wanted, place = place, place + size if place < 0 else place
        if not 0 <= place < size:
            raise IndexError(f"index {wanted} is out of bounds for {size} elements")
        shard = bisect_right(self._starts, place) - 1
        offset = (place - self._starts[shard]) * self._dtype.itemsize
        return np.frombuffer(self._open(shard)[offset : offset + self._dtype.itemsize], self._dtype)[0]

    def _span(self, start: int, stop: int) -> Array:
        """[start, stop), read-only."""
        if start >= stop:
            return _read_only(np.empty(0, self._dtype))
        itemsize = self._dtype.itemsize
        shard = bisect_right(self._starts, start) - 1
        first = self._starts[shard]
        if stop <= self._starts[shard + 1]:
            return np.frombuffer(self._bytes(shard, (start - first) * itemsize, (stop - first) * itemsize), self._dtype)
        joined = np.empty(stop - start, self._dtype)
        octets: Any = joined.view(np.uint8)  # numpy's types say that it is a buffer only from Python 3.12 on
        target = memoryview(octets)
        while start < stop:
            end = min(stop, self._starts[shard + 1])
            if start < end:
                size = (end - start) * itemsize
                self._open(shard).readinto((start - self._starts[shard]) * itemsize, target[:size])
                target = target[size:]
            start = end
            shard += 1
        return _read_only(joined)

    def _bytes(self, shard: int, start: int, stop: int) -> Any:
        """Bytes of one file: without a copy if they are many and there is a handle for it."""
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
        found = np.empty(len(chosen), self._dtype)
        near = chosen.step * self._dtype.itemsize <= _BLOCK // 4
        step = max(_CHUNK // (chosen.step * self._dtype.itemsize), 1) if near else _MANY
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            found[start : start + step] = (
                self._span(part[0], part[-1] + 1)[:: part.step]
                if near
                else self._gather(np.arange(part.start, part.stop, part.step, dtype=np.int64))
            )
        return _read_only(found[::-1] if backwards else found)

    def _gather(self, key: Any) -> Any:
        """Elements at any places, in a fresh array of the key's shape."""
        size = len(self)
        places = np.asarray(key)
        if isinstance(key, list) and not places.size:
            places = places.astype(np.int64)
        if places.dtype == bool:
            if places.shape != (size,):
                raise IndexError(f"a mask of shape {places.shape} does not fit {size} elements")
            places = np.flatnonzero(places)
        if places.dtype.kind not in "iu":
            raise IndexError("only integers, slices, integer arrays and masks are valid indices")
        if not places.size:
            return np.empty(places.shape, self._dtype)
        low, high = int(places.min()), int(places.max())
        if low < -size or high >= size:
            raise IndexError(f"index {low if low < -size else high} is out of bounds for {size} elements")
        flat = places.ravel().astype(np.int64)
        if low < 0:
            flat[flat < 0] += size
        if bool((flat[1:] >= flat[:-1]).all()):
            found = self._gather_sorted(flat)
        else:
            order = np.argsort(flat, kind="stable")
            found = np.empty(len(flat), self._dtype)
            found[order] = self._gather_sorted(flat[order])
        return found.reshape(places.shape) if places.shape else found[0]

    def _gather_sorted(self, places: Array) -> Array:
        """The same for places in order: those that lie in one block of one file are read at once."""
        itemsize = self._dtype.itemsize
        shards = np.searchsorted(self._start_array, places, "right") - 1
        offsets = (places - self._start_array[shards]) * itemsize
        blocks = offsets // _BLOCK
        borders = np.flatnonzero((shards[1:] != shards[:-1]) | (blocks[1:] != blocks[:-1])) + 1
        firsts = np.concatenate([[0], borders])
        lasts = np.concatenate([borders, [len(places)]])
        found = np.empty(len(places), self._dtype)
        for first, last, shard, start, stop in zip(
            firsts.tolist(),
            lasts.tolist(),
            shards[firsts].tolist(),
            offsets[firsts].tolist(),
            (offsets[lasts - 1] + itemsize).tolist(),
        ):
            block = np.frombuffer(self._open(shard)[start:stop], self._dtype)
            found[first:last] = block[(offsets[first:last] - start) // itemsize] if last - first > 1 else block
        return found

    # Files

    def _open(self, shard: int) -> SlidingWindowMapBuffer:
        """The buffer of a file's elements, which opens it at the first read."""
        buffers = self._buffers
        if buffers is None:
            raise self._closed_error()
        data = buffers[shard]
        if data is None:
            data = buffers[shard] = SlidingWindowMapBuffer._later(
                self._manager,
                self._paths[shard],
                self._offsets[shard],
                self._counts[shard] * self._dtype.itemsize,
                self._sizes[shard],
                self._mtimes[shard],
            )
        return data

    def _check_open(self) -> None:
        if self._buffers is None:
            raise self._closed_error()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self!r} cannot be read")


def _name(path: Any) -> str:
    name: Any = absolute(os.fspath(path))  # descriptors are no paths
    return os.fsdecode(name)


def _as_integer(key: Any) -> int | None:
    """The integer that a key stands for; None for what may be an array, as of other libraries."""
    try:
        return index(key)
    except (TypeError, ValueError):
        return None


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _common(names: list[str]) -> str:
    """What all names start with."""
    low, high = min(names, default=""), max(names, default="")
    length = 0
    while low[length : length + 1] == high[length : length + 1] != "":
        length += 1
    return low[:length]


def _packed(numbers: list[int] | None) -> Any:
    """Numbers as they pickle best: one where all are the same, else their bytes."""
    if not numbers:
        return None
    return numbers[0] if len(set(numbers)) == 1 else np.array(numbers, "<i8").tobytes()


def _unpacked(packed: Any, count: int) -> list[int]:
    if isinstance(packed, bytes):
        found: list[int] = np.frombuffer(packed, "<i8").tolist()
        return found
    return [index(packed)] * count if count else []


def _shards(count: int, common: str, names: str, dtype: Any, *lists: Any) -> Shards:
    """Unpickled: nothing is opened before the first read."""
    shards = Shards.__new__(Shards)
    kind = long(dtype)
    paths = [common + name for name in names.split("\0")] if count else []
    sizes, mtimes, offsets = (_unpacked(packed, count) for packed in lists[:3])
    if lists[3] is None:
        counts = [(size - start) // kind.itemsize for size, start in zip(sizes, offsets)]
    else:
        counts = _unpacked(lists[3], count)
    if {len(paths), len(sizes), len(mtimes), len(offsets), len(counts)} != {count}:
        raise ValueError("not what Shards pickles to")
    shards._become(paths, kind, sizes, mtimes, offsets, counts, None)
    return shards
