"""The engine: what must be fast. This page is its contract; the plain engine is the one to read, after `_manager.py`.

An engine is the mechanism under the policy of `_manager.py`. It decides nothing: not what is mapped, not which region
goes, not what an error says. A module that is an engine exports, and nothing else:

- `Ledger()`: what an engine keeps for one manager. It counts the regions that live, each from when it is made until it
  dies, in one step each, whatever exception is raised meanwhile: `mapped` (regions) and `memory` (bytes) are exact
  after `settle()`, which takes note of those that died; `regions()` has them. All of this is called under the manager's
  lock. `idle` and `open` are its orders of idle regions and of files with a cached descriptor, `rents` what was paid
  for cold windows (see _rents.py). `misses`, `evictions`, `peak_mapped`, `peak_memory` are for `stats()`; `sample` is
  for traces (see below). The policy
  sets `most_handles`, `most_descriptors`, `most_memory` and `shortcut` (its `Lock`, and a function that says whether
  each step is logged; None: no shortcut). By these an engine may do itself, in place of the policy, what leaves nothing
  to decide: map a grid window by the file's cached descriptor, evicting what is idle as the policy would to keep the
  limits; and open a file whose status is unchanged, read it, and cache the descriptor. All changes are made under
  that lock, if it is free. For whatever else it then finds it asks the policy.
- `Region`: one mapped window, [`start`, `stop`) of its `file`, found under `key` in the file's table. It is unmapped
  when its last reference goes, so what is read is never unmapped. `region[i]`, `region[i:j]`, `find`, `rfind` as `mmap`
  has them; `view(start, stop)` is a read-only memoryview of a range of the *file* that keeps the region alive;
  `shared()` is what a cursor's `map()` gives; `exported` says whether there ever was either. `reads`: it is a copy in
  memory, not a map of the file. `born`: when it was made, by `time.monotonic()`. Cursors call `pin(cursor)` and
  `unpin(id(cursor), idle)`, without a lock; after the last one the region is idle. `pins` counts them, `holders()` has
  them, `pinned` looks whether one truly has it, `revoke()` takes it away from them. `drop(ledger)` is called when the
  manager drops it: where objects die late, it is unmapped at once unless a view may exist; `closed` is true then.
- `region.entry`, in tables and orders, refers to a region weakly: `entry()` is the region, or None once it is dying.
- `Table()`: a file's regions by window, each as long as it lives. `find(key)` is the living region or None, `regions()`
  has all of them, `values()` their entries.
- `Order()`: what may be dropped, least recently used first: regions by entry, or files with a cached descriptor by
  themselves. `add`, `touch` (go last), `remove`, `oldest`, `pop_oldest` are O(1), atomic, and need no lock; `drain`
  takes out all. `hits` counts windows that a read found mapped, or cold reads by a cached descriptor; the policy adds
  those that it serves by `touch(key, 1)`. The policy sets `crowded` where it must
  look after each region that becomes idle.
- `Access(client, offset, size, window, ledger)`: all that a buffer's or cursor's reads go by, made once and never
  changed. A client that gets another file gets another record, so a read that took one record sees one file.
  `Access.closed(client, ...)` reads nothing; a `pending` one opens its file at the first read.
- `BufferBase`: `len`, `buf[i]`, `buf[i:j]`, `unpack_from`, `view`, the buffer protocol, and `_copy`, `_found`,
  `_read_into`, `_slice`, `_near` over an `Access`. It serves what is mapped itself, notes each use in the order, reads
  a cold range by the cached descriptor and pays rent for it (`ledger.rents`). For all else it asks the policy: `_ready`
  (open the file, or refuse), `_unpack` (at an offset that is no plain index, or out of range), `manager._fetch` (a copy
  of a cold range), `manager._map_range` (a region for a view), `manager._keep` (a detached region was used).
- `Batch(sizes, which, starts, stops, size, unit=0)`: ranges of several buffers, read together. `sizes`: bytes in each
  buffer; `which`: the buffer of each range (None: all of the first); `starts` and `stops` (both clipped as slices
  are), or `stops` None and each `size` bytes; each a list of int that it `takes`, or a row of integers with the buffer
  protocol. With a `unit`, `starts` are those of ranges of all buffers joined, counted in units of so many bytes, and
  `sizes` are where the buffers start there, and where the last one stops. `wrong` is the number of the first range that
  is not in its buffer, or -1; `len` counts the ranges, `total` their bytes. They go `into` a writable buffer (one after
  the other, as into `fresh()`, or each to its place; until `close()`), or `each` into a bytes object (`results()`, at
  the end); without either they are only announced. `quick(buffers)` serves what needs neither the policy nor waiting,
  and returns what is left: the places in `chosen()`, the numbers of the buffers of which there are ranges, each with
  what `serve` gave, or -1; and the clients and starts of the windows that are to be bought. The rest is served by
  place, in `chosen()`: `serve(i, access)` copies what is mapped, and where that is not in memory announces it; it
  returns 2 if a descriptor is needed for the rest, 1 if `read(i)` is enough, else 0. `announce(i, number)` reads by a
  descriptor what is in memory, and announces the rest (no more than can be read soon); any number of buffers may be
  announced before the first is read. `read(i, number)` reads what is left; it returns the number of a range that the
  file no longer has, or -1, and may be tried again after the system's error, when `failed` is the range's number.
  `where(number, i)` is (start, stop) of a range, in its file. `settle(i)` counts the reads, pays the rents (not of
  what had to be waited for: mapping would have waited too), and lets go; it returns where the windows start that are
  to be bought. `Batch.at_hand(buffer, offsets, size, out)` is all of that at once, for ranges of one buffer that lie in
  one mapped window, in memory: it returns what was filled, or None where it is not as simple as that, an argument is
  wrong, or the engine has no such thing; then nothing was counted.
- `CursorBase`: `use_region` within the region that the cursor has or another mapped grid window, `buffer`, `map`. For
  all else it asks the policy: `_move`, `_lost`, `manager._soon(manager._tidy, ...)`. It lets go when it dies.
- `MAP_COSTS_DESCRIPTOR`: whether each map does.
- `open_file(where, flags)`: a `Descriptor` and the file's status. A descriptor closes its number once: by `close()`, or
  when the last thread that uses it (`use`, `done`, `read`) has done so, or when it dies.
- `unchanged(path, status)`: whether the file there has just that status now, and is not empty.
- `read_at(number, size, offset)`: the bytes there, fewer only where the file ends.
- `guard(ledger, how, owner)`: from the next map on, what is read from this ledger's regions is guarded ("copies",
  "views", "off": see `StaticWindowMapManager`). Where a region turns out to have lost bytes, the engine raises what
  `_files.lost` gives, and `owner()`, the manager if it lives, hears of it: `_lose`. `notice()`: `_zeroed`, for regions
  whose views read zeros since. The plain engine cannot guard: it refuses "views".
- `ledger.sample(trace, threshold)`, under the manager's lock: from now on reads that start in a place of which the hash
  is below the threshold (see _places.py) are recorded by the trace, `ledger.trace`; None: none are. Before such a read,
  or several that are made together, the engine calls `trace.before(access, kind, [(start, stop), ...])` with ranges of
  the file, and after it what that returned; not if it failed. `trace.searched(access, start, stop)` says what of a
  mapped region was searched; where the policy searches it calls `access.searched(start, stop)` for that.
  `access.sampled(start)` says whether reads from there are recorded. Reads through a view or region that a program
  holds are not.
  All other reads are served, counted and ordered as without a trace, and at almost no cost: each region knows a part
  of itself which is `clear`, of which no place is sampled, and a hit is what lies within that in place of the whole
  region. That is all of it while nothing is traced, nothing when a trace starts or the region is new, and then found
  by the hits that miss it. A threshold that falls makes no clear part smaller. So a hit on a place that is not
  sampled costs one comparison, the one that it costs without a trace; but where places of one window are in part
  sampled, and hits fall among them at random, or windows are larger than a place in the plain engine, also a hash of
  the place.
- `map_window` and `read_window(ledger, file, number, window, advice)`: a `Region`, by `mmap` or, where the file system
  cannot map, by reading; None if the file does not reach so far. `advice` is the user's ("normal", "random",
  "sequential"), or "scattered" where `rents.scattered(window)` says so of the reads that bought the window: then as for
  "random", but a long copy lets the system read all of it at once, and a second one behind it takes the advice back.

System calls release the interpreter's lock. No engine holds a lock of its own while user code may run.

The engine is chosen once, when smmap is imported: the fastest there is, unless `SMMAP_ENGINE` in the environment names
one ("plain" or "fast"; `ImportError` if that one is not there). `smmap.engine` is its name, `smmap.engine_error` says
why the fast one is not in use ("" if it is).
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

FAST = False
"""For type checkers: `mypy --always-true FAST` checks the library with the fast engine's stub."""

if TYPE_CHECKING:
    if not FAST:
        from . import plain as chosen
    else:
        from . import fast as chosen

__all__ = ["chosen", "engine", "engine_error"]


def _choose(wanted: str) -> tuple[str, str]:
    """The engine's name, and why it is not the fast one."""
    if wanted not in ("", "plain", "fast"):
        raise ImportError(f'SMMAP_ENGINE must be "plain" or "fast", not {wanted!r}')
    if wanted == "plain":
        return wanted, 'SMMAP_ENGINE is "plain"'
    try:
        importlib.import_module(f"{__name__}.fast")
    except ImportError as error:
        if wanted:
            raise ImportError(
                f"SMMAP_ENGINE is {wanted!r}, but it cannot be loaded: {error}", name=error.name
            ) from None
        return "plain", _reason(error)
    return "fast", ""


def _reason(error: ImportError) -> str:
    """Why the fast engine cannot be imported, as far as its build told."""
    if not isinstance(error, ModuleNotFoundError):
        return str(error)  # it is there, but not for this interpreter
    try:
        with open(os.path.join(os.path.dirname(__file__), "fast-not-built.txt"), encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        where = "for CPython, on Linux and macOS, where there is a C compiler"
        return f"{error}: it is built {where}"


engine: str
"""The engine that runs: "fast" or "plain"."""
engine_error: str
"""Why the fast engine is not in use; empty if it is."""
engine, engine_error = _choose(os.environ.get("SMMAP_ENGINE", ""))
if not TYPE_CHECKING:
    chosen = importlib.import_module(f"{__name__}.{engine}")
