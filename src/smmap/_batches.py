"""Batches: many ranges, known at once, of one buffer or several. Arguments, checks, errors, and the order of steps.

When data is not in memory, a loop of reads waits for storage once per read. A batch announces its reads to the system
first, and then waits for all of them together. Part of the policy, built on `_manager.py`. The engine copies.

Files are served in waves: only the descriptors of one wave are open at a time, as many as the limits leave, and each
file is opened once. Mapped ranges need no descriptor.
"""

from __future__ import annotations

import struct
import sys
from array import array
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import _system
from ._engine import chosen as engine
from ._errors import ClosedError, FileChangedError, LimitError
from ._system import called

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Batched", "gather", "joined", "prefetch", "ranges"]

T = TypeVar("T")
Integers = Any  # a sequence of ints, or an array of them: numpy's and torch's types say too little

_MOST_OPEN = 64  # descriptors that one batch uses at a time
_INTEGERS = frozenset("bBhHiIlLqQnN")
_SWAPPED = ">" if sys.byteorder == "little" else "<"
_MOST = (1 << 63) - 1


class Batched:
    """The batches that buffers have."""

    __slots__ = ()

    def _ready(self) -> Any:
        """The record that reads use; opens the file first if it is not open yet."""
        raise NotImplementedError

    @overload
    def gather(self, offsets: Integers, size: int, out: None = None) -> bytearray: ...

    @overload
    def gather(self, offsets: Integers, size: int, out: T) -> T: ...

    def gather(self, offsets: Integers, size: int, out: Any = None) -> Any:
        """The `size` bytes at each offset, one after the other: n * size bytes.

        `offsets`: a sequence of ints, or an array of any integer type (numpy, `array`, torch in the CPU's memory), in
        any order. `out`: a writable C-contiguous buffer or array of n * size bytes, of any format and shape, which is
        filled and returned; without it the result is a new bytearray.

        Mapped windows are copied, and everything else is read straight into the result. Ranges that are not in memory
        are all announced to the system before they are read: on cold storage this is many times as fast as a loop.
        Counts and maps as that many reads would, but a batch larger than the manager's memory limit maps nothing.
        O(n log(n)), one copy.

        Raises, before anything is read, `IndexError` for a range that is not in the buffer, and `TypeError` or
        `ValueError` for an `out` that does not fit. If a read fails, the error names its range; `out` may then be
        partly filled. Any thread may call it, and batches of several threads run in parallel.
        """
        found = engine.Batch.at_hand(self, offsets, size, out)
        if found is not None:
            return found
        self._ready()
        return gather((self,), None, offsets, size, out)

    def ranges(self, starts: Integers, stops: Integers) -> list[bytes]:
        """`[buffer[start:stop] for start, stop in zip(starts, stops)]`, read as a batch: see `gather`.

        Clipped as slices are; `ValueError` unless there are as many starts as stops.
        """
        self._ready()
        return ranges((self,), None, starts, stops)

    def prefetch(self, starts: Integers, stops: Integers) -> None:
        """Announce to the system that these ranges, clipped as slices, will be read soon, and wait for none.

        The system starts to read the ranges that are not in memory, so that later reads of them wait less, or not at
        all. Maps nothing, and does not count as a use. Ranges that are announced too early, or that exceed the free
        memory, may be dropped again before they are used. O(n log(n)). Any thread may call it.
        """
        self._ready()
        prefetch((self,), None, starts, stops)


def gather(buffers: Sequence[Any], which: Any, offsets: Any, size: Any, out: Any) -> Any:
    """See `StaticWindowMapManager.gather`; `which` is None for the ranges of a single buffer."""
    size = index(size)
    if size < 0:
        raise ValueError(f"size must not be negative: {size}")
    places = _integers("offsets", offsets)
    chosen = None if which is None else _integers("which", which)
    if chosen is not None and len(chosen) != len(places):
        raise ValueError(f"which and offsets must have the same length, not {len(chosen)} and {len(places)}")
    accesses = _accesses(buffers)
    batch = engine.Batch([one.size for one in accesses], chosen, places, None, min(size, _MOST))
    if batch.wrong >= 0:
        raise _outside(batch.wrong, accesses, chosen, places, size)
    target: Any = None
    if out is None:
        out = batch.fresh()
    else:
        target = _bytes_of(out, batch.total, len(batch), size)
    if batch.total:
        view = memoryview(out) if target is None else target
        try:
            batch.into(view)
            _run(batch, buffers, accesses)
        finally:  # not a `with` block: if a signal handler raises here, it would raise that the view is in use
            batch.close()
            view.release()
    return out


def joined(
    buffers: Sequence[Any],
    opened: Callable[[int], Any],
    borders: Any,
    starts: Any,
    unit: int,
    size: int,
    target: memoryview | None,
) -> bool:
    """Fill `target` with the `size` bytes at each of `starts` in all buffers joined; False if one range is outside.

    Without a target, the ranges are only announced.

    `borders`: where each buffer starts in the joined buffers, in bytes, and where the last one stops. `starts` are
    integers that count units of `unit` bytes. A buffer may be None until `opened(number)` returns it.
    """
    batch = engine.Batch(borders, None, starts, None, size, unit)
    if batch.wrong >= 0:
        return False
    if batch.total:
        try:
            if target is not None:
                batch.into(target)
            _run(batch, buffers, [None if one is None else one._access for one in buffers], opened)
        finally:
            batch.close()
    return True


def ranges(buffers: Sequence[Any], which: Any, starts: Any, stops: Any) -> list[bytes]:
    """The bytes of each range, clipped as a slice."""
    accesses, batch = _clipped(buffers, which, starts, stops)
    batch.each()
    try:
        _run(batch, buffers, accesses)
        found: list[bytes] = batch.results()
    finally:
        batch.close()
    return found


def prefetch(buffers: Sequence[Any], which: Any, starts: Any, stops: Any) -> None:
    """Announce these ranges, clipped as slices."""
    accesses, batch = _clipped(buffers, which, starts, stops)
    try:
        _run(batch, buffers, accesses)
    finally:
        batch.close()


def _clipped(buffers: Sequence[Any], which: Any, starts: Any, stops: Any) -> tuple[list[Any], Any]:
    first, last = _integers("starts", starts), _integers("stops", stops)
    if len(first) != len(last):
        raise ValueError(f"starts and stops must have the same length, not {len(first)} and {len(last)}")
    accesses = _accesses(buffers)
    return accesses, engine.Batch([one.size for one in accesses], which, first, last, 0)


def _accesses(buffers: Sequence[Any]) -> list[Any]:
    """The records of buffers, for the whole batch: meanwhile, another thread may give a buffer another file."""
    found = [one._access for one in buffers]
    for buffer, access in zip(buffers, found):
        if not (access.opened or access.pending):
            raise buffer._closed_error(access)
    return found


# Arguments


def _integers(name: str, given: Any) -> Any:
    """A sequence of ints as a list, or a one-dimensional buffer of native integers."""
    if type(given) in (list, tuple):
        given = list(given)  # other threads may change the given one
        if engine.Batch.takes(given):
            return given
    try:
        view = memoryview(_in_memory(given))
    except TypeError:
        try:
            return [int(index(each)) for each in given]  # before Python 3.10 `index` leaves a bool as it is
        except TypeError:
            raise _not_integers(name, given) from None
    except ValueError:
        if not hasattr(given, "__array__"):
            raise
        raise _not_integers(name, given) from None  # numpy does not export dates
    code = view.format.lstrip("@=<>!")
    if code not in _INTEGERS:
        raise TypeError(f"{name} must be integers, not of format {view.format!r}")
    if view.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not {view.ndim}")
    if view.format[0] in ">!<" and (view.format[0] in "!>") is (_SWAPPED == ">") and view.itemsize > 1:
        return list(struct.unpack(f"{view.format[0]}{len(view)}{code}", view.tobytes()))
    if code in "nN":
        return view.tolist()  # `array` has no such type
    return view if view.c_contiguous and view.format[0] not in "<>!" else array(code, view.tobytes())


def _not_integers(name: str, given: Any) -> TypeError:
    return TypeError(f"{name} must be a sequence of integers or an array of them, not {_kind_of(given)}")


def _in_memory(thing: Any) -> Any:
    """An object with the buffer protocol: the thing itself, or the array that shares the memory of a torch tensor."""
    try:
        memoryview(thing).release()
    except TypeError:
        if not hasattr(thing, "__array__"):
            raise
        found, again = thing.__array__(), thing.__array__()
        if found.nbytes and found.__array_interface__["data"] != again.__array_interface__["data"]:
            raise TypeError("it copies its data instead of sharing its memory") from None
        return found
    return thing


def _kind_of(given: Any) -> str:
    """The name of a wrong argument's type: that of the first element that is not an integer, if there is one."""
    try:
        for place, each in enumerate(given):
            if not hasattr(each, "__index__"):
                return f"{type(each).__name__} (at index {place})"
    except TypeError:
        pass
    return type(given).__name__


def _bytes_of(out: Any, total: int, count: int, size: int) -> memoryview:
    """The memory to fill, as bytes."""
    try:
        try:
            view = memoryview(_in_memory(out))
        except ValueError:
            if not hasattr(out, "__array__"):
                raise
            view = memoryview(out.view("u1"))  # numpy does not export dates, but their bytes
    except (TypeError, ValueError, BufferError):
        raise TypeError(
            f"out must be a writable bytes-like object or array in the memory of the CPU, not {type(out).__name__}"
        ) from None
    if view.readonly:
        raise TypeError(f"out must be writable, but this {type(out).__name__} is read-only")
    if not view.c_contiguous:
        raise ValueError(f"out must be C-contiguous, but has strides {view.strides}")
    if view.nbytes != total:
        raise ValueError(f"out must have {total} bytes, for {count} ranges of {size}, not {view.nbytes}")
    if not total:
        return memoryview(b"")
    if view.format == "B" and view.ndim == 1:
        return view
    try:
        return view.cast("B")
    except (TypeError, ValueError, NotImplementedError):  # an element of several fields, say
        import ctypes

        return memoryview((ctypes.c_char * total).from_buffer(view)).cast("B")


def _outside(number: int, accesses: Sequence[Any], which: Any, offsets: Any, size: int) -> IndexError:
    """The error of a range that is not in its buffer."""
    if which is not None and not 0 <= which[number] < len(accesses):
        return IndexError(f"which[{number}] is {which[number]}: there are {len(accesses)} buffers")
    length = accesses[0 if which is None else which[number]].size
    return IndexError(
        f"offsets[{number}] is {offsets[number]}: {size} bytes from there are not in a buffer of {length} bytes"
    )


# Reading


def _run(batch: Any, buffers: Sequence[Any], accesses: list[Any], opened: Callable[[int], Any] | None = None) -> None:
    """Serve all files of a batch, in waves. `opened` returns a buffer that `buffers` does not have yet."""
    rest, due = batch.quick(accesses)
    if rest:
        _serve(batch, buffers, accesses, opened, rest, due)
    if due:
        _buy(batch, due)


def _serve(
    batch: Any,
    buffers: Sequence[Any],
    accesses: list[Any],
    opened: Callable[[int], Any] | None,
    rest: Any,
    due: Any,
) -> None:
    wave = _Wave()
    chosen = batch.chosen()
    try:
        for file, left, client in rest:
            if client is None:
                access = accesses[chosen[file]]
                if access is None or not access.opened:
                    buffer = buffers[chosen[file]]
                    if buffer is None and opened is not None:
                        buffer = opened(chosen[file])
                    access = _retry_after_wave(batch, wave, due, _same, buffer, access)
                client = access.client
                left = batch.serve(file, access)
            if left == 2:
                if len(wave) >= wave.room(client.manager):
                    _finish(batch, wave, due)
                descriptor = _retry_after_wave(batch, wave, due, _opened, client)
                wave.append((file, client, descriptor))
                batch.announce(file, descriptor.number)
            else:
                wave.append((file, client, None))
        _finish(batch, wave, due)
    finally:
        for _, client, descriptor in wave:
            if descriptor is not None:
                client.manager._done(descriptor)
        wave.clear()  # an exception that is being handled keeps it alive


def _same(buffer: Any, pending: Any) -> Any:
    """The record of a buffer that has to be opened first, if it is still as long as it was."""
    access = buffer._ready()
    if pending is not None and access.size != pending.size:
        raise ClosedError(f"{buffer!r} was given another file in the meantime")
    return access


def _retry_after_wave(batch: Any, wave: Any, due: Any, call: Callable[..., T], *args: Any) -> T:
    """`call(*args)`; if no descriptor is left, again after the wave was read, which frees its own."""
    try:
        return call(*args)
    except LimitError:
        if not wave:
            raise
    _finish(batch, wave, due)
    return call(*args)


class _Wave(list[Any]):
    """The files that one thread serves together: the number of each in the batch, its client, and a descriptor or None.

    The waves of all threads share what the limits leave.
    """

    def room(self, manager: Any) -> int:
        """How many descriptors it may have."""
        cache = manager._cache
        cache.waves[id(self)] = self
        waves = [ref() for ref in cache.waves.valuerefs()]
        others = sum(len(wave) for wave in waves if wave is not None and wave is not self)
        return int(min(_MOST_OPEN, cache.limits.handles - cache.ledger.mapped - others, cache.limits.descriptors))


def _opened(client: Any) -> Any:
    """A descriptor of the client's file, in use; cached for later reads if there is room."""
    manager = client.manager
    manager._check_open(client.where)
    descriptor = manager._open(client, 0, 0, 0, manager._attempt)
    try:
        if not (descriptor.cached or client.flags):
            manager._lock.run(manager._keep_open, client, descriptor)
    except BaseException:
        manager._done(descriptor)
        raise
    return descriptor


def _finish(batch: Any, wave: _Wave, due: list[tuple[Any, int]]) -> None:
    """Read the rest of the files of a wave, in the order in which they were announced, and release them."""
    wave.reverse()
    while wave:
        file, client, descriptor = wave[-1]
        manager = client.manager
        number = -1 if descriptor is None else descriptor.number
        while True:
            try:
                failed = batch.read(file, number)
                break
            except (OSError, MemoryError) as error:
                if _system.code_of(error) in _system.REFUSALS:
                    failed = manager._lock.run(manager._cache.attempt, client.where, 0, 0, batch.read, file, number)
                    break
                if not isinstance(error, OSError) or error.errno is None or batch.failed < 0:
                    raise
                raise _named(error, batch, file, client) from None
        if failed >= 0:
            raise _short(batch, file, client)
        due.extend((client, start) for start in batch.settle(file))
        wave.pop()
        if descriptor is not None:
            manager._done(descriptor)


def _buy(batch: Any, due: list[tuple[Any, int]]) -> None:
    """Map the windows whose rents have reached the price; none of them if not all of the batch would fit."""
    manager = due[0][0].manager
    most = manager._cache.max_memory
    sizes = sum(min(manager._window or client.size, client.size - start) for client, start in due)
    if batch.total <= most and sizes <= most and len(due) <= manager._cache.limits.handles:
        for client, start in due:
            client.manager._map_first(client, start, 0)  # no read: those of the batch have been counted


def _named(error: OSError, batch: Any, file: int, client: Any) -> OSError:
    start, stop = batch.where(batch.failed, file)
    return OSError(error.errno, f"range {batch.failed}, [{start}, {stop}): {error.strerror}", called(client.where))


def _short(batch: Any, file: int, client: Any) -> FileChangedError:
    start, stop = batch.where(batch.failed, file)
    return FileChangedError(
        f"truncated: not all of range {batch.failed}, [{start}, {stop}), is left", called(client.where)
    )
