"""Many ranges of several buffers at once, into one array. Knows nothing of shards.

The core makes batches. Only if each range costs a step in Python (with the plain engine), small ranges are read here
in blocks, which numpy then takes apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _batches
from .._engine import engine
from ._arrays import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._buffer import SlidingWindowMapBuffer

__all__ = ["copy", "gather", "in_blocks", "octets", "writable"]

_BLOCK = 16 << 10  # bytes: small ranges that start in one such block of a file are read at once
_FEW = 8  # a range is small if so many of its size fit into a block
_LARGE = 64 << 10  # bytes: a range of this size or more is read straight into its place
_OWN_KINDS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}  # numpy copies these faster than elements of any other size


def gather(buffers: Sequence[SlidingWindowMapBuffer], which: Array, offsets: Array, size: int, out: memoryview) -> None:
    """Fill `out` with n ranges of `size` bytes each: the i-th starts at `offsets[i]` of `buffers[which[i]]`.

    `which` and `offsets` are arrays of int64; each range is within its buffer, and `out` has n * size bytes. Reads file
    by file, in the order of offsets: no file is opened twice, however few handles there are. O(n log(n)). After an
    error, which names its file, `out` may be partly filled. Any thread may call it.
    """
    if not (len(which) and size):
        return
    if not in_blocks(size):
        _batches.gather(buffers, which, offsets, size, out)
        return
    order = _order(which, offsets)
    if order is not None:
        which, offsets = which[order], offsets[order]
    if order is None:
        _gather_small(buffers, which, offsets, size, out)
    else:
        kind = _kind(size)
        found = np.empty(len(which), kind)
        _gather_small(buffers, which, offsets, size, octets(found))
        np.frombuffer(out, kind)[order] = found


def copy(data: SlidingWindowMapBuffer, start: int, target: memoryview) -> None:
    """Fill `target` with what starts at `start`."""
    if len(target) < _LARGE:
        target[:] = data[start : start + len(target)]
    else:
        data.readinto(start, target)


def in_blocks(size: int) -> bool:
    """Whether ranges of `size` bytes are read in blocks."""
    return engine == "plain" and size * _FEW <= _BLOCK


def _order(which: Array, offsets: Array) -> Array | None:
    """The order that sorts the ranges by file and offset; None if they are in that order."""
    after, same = which[1:] > which[:-1], which[1:] == which[:-1]
    if bool((after | (same & (offsets[1:] >= offsets[:-1]))).all()):
        return None
    stride = int(offsets.max()) + 1
    if stride * (int(which.max()) + 1) < 1 << 63:
        return np.argsort(which * stride + offsets)  # faster than with two keys
    return np.lexsort((offsets, which))


def _kind(size: int) -> np.dtype[Any]:
    """A dtype of that size which numpy copies fast."""
    return np.dtype(_OWN_KINDS.get(size, f"V{size}"))


def _gather_small(
    buffers: Sequence[SlidingWindowMapBuffer], which: Array, offsets: Array, size: int, out: memoryview
) -> None:
    """The same for sorted ranges: those that start in one block of one file are read at once."""
    blocks = offsets // _BLOCK
    borders = np.flatnonzero((which[1:] != which[:-1]) | (blocks[1:] != blocks[:-1])) + 1
    firsts = np.concatenate([[0], borders])
    lasts = np.concatenate([borders, [len(which)]])
    kind = _kind(size)
    found = np.frombuffer(out, kind)
    as_elements = not bool((offsets % size).any())
    for first, last, number, start, stop in zip(
        firsts.tolist(),
        lasts.tolist(),
        which[firsts].tolist(),
        offsets[firsts].tolist(),
        (offsets[lasts - 1] + size).tolist(),
    ):
        data = buffers[number][start:stop]
        if last - first == 1:
            out[first * size : last * size] = data
        elif as_elements:
            found[first:last] = np.frombuffer(data, kind)[(offsets[first:last] - start) // size]
        else:  # each byte starts an element
            elements = np.ndarray(stop - start - size + 1, kind, data, 0, (1,))
            found[first:last] = elements[offsets[first:last] - start]


# Targets


def octets(array: Array) -> memoryview:
    """The bytes of a C-contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)  # numpy's types say that it is a buffer only from Python 3.12 on
    return memoryview(flat)


def writable(out: Any, dtype: np.dtype[Any], count: int) -> memoryview:
    """The bytes of a target array for `count` elements, or of any bytes-like object of that size.

    `TypeError` for anything but an array of that dtype; `ValueError` for one that has another size, is
    read-only, or is not C-contiguous.
    """
    array = out if isinstance(out, np.ndarray) else _array_over(out)
    if array.dtype not in (dtype, np.uint8):
        raise TypeError(f"out must have elements of {dtype}, or bytes, not of {array.dtype}")
    if array.nbytes != count * dtype.itemsize:
        raise ValueError(
            f"out must have {count * dtype.itemsize} bytes, for {count} elements of {dtype}, not {array.nbytes} "
            f"(shape {array.shape})"
        )
    if not array.flags.writeable:
        raise ValueError("out must be writable, but is read-only")
    if not array.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous, but has strides {array.strides}")
    return octets(array.view(np.ndarray))


def _array_over(out: Any) -> Array:
    """An array that shares the memory of a bytes-like object, or of another library's array, such as a torch tensor."""
    try:
        return np.asarray(memoryview(out))
    except TypeError:
        pass
    if hasattr(out, "__array__"):
        array, again = np.asarray(out), np.asarray(out)
        if not array.nbytes or np.may_share_memory(array, again):  # otherwise it makes copies, and would not be filled
            return array
    raise TypeError(f"out must be an array in the memory of the CPU or a bytes-like object, not {type(out).__name__}")
