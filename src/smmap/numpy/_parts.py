"""The files that `Shards` joins: how they are examined, checked, and packed for a pickle. Knows nothing of reads."""

from __future__ import annotations

import math
import os
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._default import buffer
from .._engine import chosen as engine
from .._files import absolute, examine
from ._npy import header, in_a_row, long, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._managers import StaticWindowMapManager

__all__ = ["Parts", "checked", "examined", "packed", "unpacked"]

_LONGEST_ROW = 1 << 31  # bytes


class Parts(NamedTuple):
    """Files, one after the other, and the layout of their rows."""

    dtype: np.dtype[Any]
    row: tuple[int, ...]
    """The shape of a row; () if a row is an element."""
    unit: np.dtype[Any]
    """A row as a dtype."""
    paths: list[str]
    sizes: list[int]
    """Bytes in each file."""
    mtimes: list[int]
    """In nanoseconds."""
    offsets: list[int]
    """Where the first row starts."""
    counts: list[int]
    """How many rows each file has."""


def examined(paths: Iterable[Any], dtype: Any, offset: int, manager: StaticWindowMapManager | None) -> Parts:
    """The files as they are now; `ValueError` names the first one that does not fit."""
    names = [_name(path) for path in paths]
    given = None if dtype is None else np.dtype(dtype)
    kind: np.dtype[Any] | None = None
    row: tuple[int, ...] | None = None
    if given is not None:
        kind = in_a_row(given.base)
        row = given.shape or None
    sizes, mtimes, offsets, counts = [], [], [], []
    first = ""
    for name in names:
        if given is None or name.endswith(".npy"):
            with buffer(name, manager=manager) as data:
                size, mtime = len(data), data._access.client.mtime
                shape, fortran, found, start = header(data)
            if not shape:
                raise ValueError(f"{name}: the array has no dimensions, but Shards joins arrays along their first one")
            if fortran and sum(length > 1 for length in shape) > 1:
                raise ValueError(
                    f"{name}: the array of shape {shape} is in Fortran order, so its rows are not contiguous"
                )
            if kind is not None and found != kind:
                raise ValueError(f"{name}: the array is of dtype {found}, not {kind}")
            if row is not None and shape[1:] != row:
                where = f", as in {first}" if first else ""
                raise ValueError(f"{name}: the array has rows of shape {shape[1:]}, not {row}{where}")
            kind, row, count = found, shape[1:], shape[0]
            try:
                _unit(kind, row)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        else:
            assert kind is not None
            if row not in (None, given.shape):
                raise ValueError(f"{name}: elements of shape {given.shape} by the dtype, not {row}, as in {first}")
            row = given.shape
            itemsize = _unit(kind, row).itemsize
            status = examine(name, engine.open_file)
            size, mtime, start = status.size, status.mtime, offset
            count, rest = divmod(size - start, itemsize)
            if rest or count < 0:
                raise ValueError(
                    f"{name}: {size} bytes are not an offset of {start} bytes followed by elements of {itemsize} bytes"
                )
        first = first or name
        sizes.append(size)
        mtimes.append(mtime)
        offsets.append(start)
        counts.append(count)
    if kind is None:
        raise ValueError("without paths, a dtype must be given")
    return checked(kind, row or (), names, sizes, mtimes, offsets, counts)


def checked(
    dtype: np.dtype[Any],
    row: tuple[int, ...],
    paths: list[str],
    sizes: list[int],
    mtimes: list[int],
    offsets: list[int],
    counts: list[int],
) -> Parts:
    """These parts; `ValueError` if that many rows do not fit into a file of that size."""
    row = tuple(map(index, row))
    unit = _unit(in_a_row(dtype), row)
    for path, size, start, count in zip(paths, sizes, offsets, counts):
        if count < 0 or not 0 <= start <= start + count * unit.itemsize <= size:
            raise ValueError(f"{path} is truncated: {count} elements from {start} on are not in {size} bytes")
    return Parts(dtype, row, unit, paths, sizes, mtimes, offsets, counts)


def _unit(dtype: np.dtype[Any], row: tuple[int, ...]) -> np.dtype[Any]:
    if not row:
        return dtype
    if min(row) < 1:
        raise ValueError(f"rows of shape {row} have no elements")
    if math.prod(row) * dtype.itemsize >= _LONGEST_ROW:
        raise ValueError(f"rows of shape {row} of {dtype} are too long: numpy has dtypes of less than 2 GiB")
    return np.dtype((dtype, row))


def _name(path: Any) -> str:
    name: Any = absolute(os.fspath(path))  # raises for a descriptor
    return os.fsdecode(name)


# Pickles


def packed(parts: Parts) -> tuple[Any, ...]:
    """The arguments of `unpacked`: a few numbers, and the parts in which the paths differ."""
    common = _common(parts.paths)
    names = "\0".join(path[len(common) :] for path in parts.paths)
    size = parts.unit.itemsize
    counts = [(file - start) // size for file, start in zip(parts.sizes, parts.offsets)]
    lists = parts.sizes, parts.mtimes, parts.offsets, None if counts == parts.counts else parts.counts
    rows = (parts.row,) if parts.row else ()
    return len(parts.paths), common, names, short(parts.dtype), *map(_packed, lists), *rows


def unpacked(
    count: int,
    common: str,
    names: str,
    dtype: Any,
    sizes: Any,
    mtimes: Any,
    offsets: Any,
    counts: Any,
    row: tuple[int, ...] = (),
) -> Parts:
    """The parts that were packed. Opens nothing."""
    kind = long(dtype)
    paths = [common + name for name in names.split("\0")] if count else []
    lists = [_unpacked(numbers, count) for numbers in (sizes, mtimes, offsets)]
    if counts is None:
        size = _unit(in_a_row(kind), tuple(row)).itemsize
        lists.append([(file - start) // size for file, start in zip(lists[0], lists[2])])
    else:
        lists.append(_unpacked(counts, count))
    if {len(paths), *map(len, lists)} != {count}:
        raise ValueError("this is not a pickle of Shards")
    return checked(kind, row, paths, *lists)


def _common(names: list[str]) -> str:
    """The common start of all names."""
    low, high = min(names, default=""), max(names, default="")
    length = 0
    while low[length : length + 1] == high[length : length + 1] != "":
        length += 1
    return low[:length]


def _packed(numbers: list[int] | None) -> Any:
    """Numbers in a short form for pickles: one number if all are the same, else their bytes."""
    if not numbers:
        return None
    return numbers[0] if len(set(numbers)) == 1 else np.array(numbers, "<i8").tobytes()


def _unpacked(packed: Any, count: int) -> list[int]:
    if isinstance(packed, bytes):
        found: list[int] = np.frombuffer(packed, "<i8").tolist()
        return found
    return [index(packed)] * count if count else []
