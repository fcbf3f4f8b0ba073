"""Headers of `.npy` files, and dtypes as they are pickled."""

from __future__ import annotations

import io
import pickle
import struct
import tokenize
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from .._buffer import SlidingWindowMapBuffer

__all__ = ["ANY_HEADER", "LONGEST_HEADER", "fully_named", "header", "in_a_row", "is_npy", "long", "plain", "short"]

LONGEST_HEADER = 10_000
"""Characters, as for `np.load`: Python's parser takes too long for a longer header."""

ANY_HEADER = 1 << 62
"""Characters: for files that are trusted."""

_LONGEST_READ = 1 << 20
_BAD_HEADER = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, struct.error, tokenize.TokenError)


def is_npy(head: bytes) -> bool:
    """Whether a file that starts with these bytes says that it is a `.npy` file."""
    return head[: npy.MAGIC_LEN - 2] == npy.MAGIC_PREFIX


def header(
    data: SlidingWindowMapBuffer, longest: int = LONGEST_HEADER, objects: bool = False
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran order, dtype, and where the array starts in a `.npy` file.

    `longest`: the most characters of a header to parse. `objects`: whether Python objects are allowed.
    """
    name = data._access.client.name
    head = data[: npy.MAGIC_LEN + 4]
    if not is_npy(head) or len(head) < npy.MAGIC_LEN:
        hint = "; smmap.numpy.load(path) reads .npz" if head[:2] == b"PK" else ""
        raise ValueError(f"{name} is not a .npy file{hint}")
    version = head[npy.MAGIC_LEN - 2 : npy.MAGIC_LEN]
    try:
        if version not in (b"\1\0", b"\2\0", b"\3\0"):
            raise ValueError(f"format {version[0]}.{version[1]} is unknown")
        start = npy.MAGIC_LEN + (2 if version == b"\1\0" else 4)
        (size,) = struct.unpack("<H" if version == b"\1\0" else "<I", head[npy.MAGIC_LEN : start])
        text = data[start : start + min(size, max(longest, _LONGEST_READ))]
        if len(text) < size:
            raise ValueError(f"the header of {size} bytes is truncated or too long")
        if version == b"\3\0":  # numpy has no public function for it: rewritten as version 2, with longer characters
            decoded = text.decode("utf-8")
            text = decoded.encode("ascii", "backslashreplace")
            longest += len(text) - len(decoded)
        shape, fortran, dtype = npy.read_array_header_2_0(
            io.BytesIO(struct.pack("<I", len(text)) + text), max_header_size=longest
        )
        if any(length < 0 for length in shape):
            raise ValueError(f"no array has the shape {shape}")
        return shape, fortran, dtype if objects else plain(dtype), start + size
    except _BAD_HEADER as error:
        raise ValueError(f"{name}: {error}") from None


def short(dtype: np.dtype[Any]) -> Any:
    """The dtype in a short form for pickles, read by `long`: as in `.npy` files, unless that is lossy or longer."""
    try:
        written = dtype.descr if dtype.names else dtype.str
        if not _same(long(written), dtype):
            return dtype
    except (ValueError, TypeError):  # fields in another order than their offsets, or that overlap
        return dtype
    # It is longer if many fields have the same dtype, which a pickle holds only once
    return dtype if dtype.names and len(pickle.dumps(written)) > len(pickle.dumps(dtype)) else written


def long(dtype: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = npy.descr_to_dtype(dtype) if isinstance(dtype, list) else np.dtype(dtype)
    return found


def _same(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether the dtypes are the same, including the properties that `==` does not compare."""
    if one != other or one.type is not other.type:
        return False
    if one.isalignedstruct != other.isalignedstruct or one.metadata != other.metadata:
        return False
    if one.subdtype and other.subdtype:
        return _same(one.subdtype[0], other.subdtype[0])
    if one.names and one.fields and other.fields:
        return all(_same(one.fields[name][0], other.fields[name][0]) for name in one.names)
    return True


def fully_named(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype.str` says everything: not of fields, metadata, and dtypes that other libraries define."""
    return _same(np.dtype(dtype.str), dtype)


def plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.hasobject:
        raise ValueError(
            "arrays of Python objects cannot be mapped; if you trust the file, "
            "smmap.numpy.load(path, mmap_mode=None, allow_pickle=True) unpickles them"
        )
    return dtype


def in_a_row(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.subdtype is not None or not dtype.itemsize:  # elements that are arrays, or empty
        raise ValueError(f"elements of {dtype} cannot be joined")
    return plain(dtype)
