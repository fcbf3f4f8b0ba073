"""The meaning of an index: integers, integer arrays and masks. Pure: reads no file."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from ._arrays import Array

__all__ = ["as_integer", "consecutive", "dimensions", "places", "split"]


def split(key: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The part of a key for the first dimension, and the parts for the others: () if these ask for everything."""
    parts = [part for part in key if part is not Ellipsis]
    each = [dimensions(part) for part in parts]
    if len(key) - len(parts) > 1 or sum(each) > len(shape):
        raise IndexError(f"too many indices: {key}")
    if 0 in each:
        raise IndexError(f"an index cannot add a dimension: {key}")
    dots = next((place for place, part in enumerate(key) if part is Ellipsis), len(parts))
    parts[dots:dots] = [slice(None)] * (len(shape) - sum(each))
    if dimensions(parts[0]) > 1:
        mask = np.asarray(parts[0])
        if mask.shape != shape[: mask.ndim]:
            raise IndexError(f"a mask of shape {mask.shape} does not fit an array of shape {shape}")
        parts[:1] = mask.nonzero()
    rest = tuple(parts[1:])
    return parts[0], () if all(isinstance(part, slice) and part == slice(None) for part in rest) else rest


def dimensions(part: Any) -> int:
    """How many dimensions of an array a part of a key is for: a mask is for as many as it has."""
    if part is None or isinstance(part, (bool, np.bool_)):
        return 0
    if not isinstance(part, (list, np.ndarray)):
        return 1
    if isinstance(part, list) and not (part and hasattr(part[0], "__len__")):
        return 1  # without a conversion, however long it is
    found = np.asarray(part)
    return found.ndim if found.dtype == bool else 1


def as_integer(key: Any) -> int | None:
    """The integer that a key stands for; None for a possible array, including those of other libraries."""
    if isinstance(key, (list, np.ndarray, bool, np.bool_)) or bool(getattr(key, "shape", ())):
        return None
    try:
        return index(key)
    except (TypeError, ValueError):
        return None


def places(key: Any, size: int) -> Array:
    """The places, of `size`, that an integer array or a mask stands for: int64, in its shape, none negative."""
    found = np.asarray(key)
    if isinstance(key, (list, tuple)) and not found.size:
        found = found.astype(np.int64)
    if found.dtype == bool:
        if found.shape != (size,):
            raise IndexError(f"a mask of shape {found.shape} does not fit {size} elements")
        return np.flatnonzero(found).astype(np.int64, copy=False)
    if found.dtype.kind not in "iu":
        raise IndexError("only integers, slices, integer arrays and masks are valid indices")
    if not found.size:
        return np.empty(found.shape, np.int64)
    low, high = int(found.min()), int(found.max())
    if low < -size or high >= size:
        raise IndexError(f"index {low if low < -size else high} is out of bounds for {size} elements")
    if low >= 0:
        return found.astype(np.int64, copy=False)
    wrapped = found.astype(np.int64)
    wrapped[wrapped < 0] += size
    return wrapped


def consecutive(wanted: Array) -> bool:
    """Whether these places increase by one along the last dimension, as in blocks."""
    if not (wanted.ndim and wanted.size) or wanted.shape[-1] < 2:
        return False
    length = wanted.shape[-1]
    if bool((wanted[..., -1] - wanted[..., 0] != length - 1).any()):  # finds most cases that are not, at a low cost
        return False
    return bool((wanted[..., 1:] - wanted[..., :-1] == 1).all())
