"""The engine: what must be fast. This page is its contract. Read the plain engine next, after `_manager.py`.

An engine is the mechanism under the policy of `_manager.py`. It decides nothing: not what is mapped, not which region
is evicted, not what an error says. An engine is a module that exports exactly this:

- `Ledger()`: the state that an engine keeps for one manager. It counts living regions: each is counted when it is made
  and uncounted when it dies, in one step each, whatever exception is raised in between. `mapped` (regions) and `memory`
  (bytes) are exact after `settle()`, which takes note of dead regions; `regions()` returns the living ones. All of this
  is called under the manager's lock. `idle` and `open` are its orders of idle regions and of files with a cached
  descriptor; `rents` holds the rents of cold windows (see _rents.py). `misses`, `evictions`, `peak_mapped` and
  `peak_memory` are for `stats()`; `sample` is for traces (see below). The policy
  sets `most_handles`, `most_descriptors`, `most_memory` and `shortcut` (its `Lock`, and a function that says whether
  each step is logged; None: no shortcut). With these an engine may do itself, in place of the policy, what needs no
  decision: it maps a grid window by the file's cached descriptor, and evicts idle regions as the policy would to keep
  the limits; and it opens a file whose status is unchanged, reads it, and caches the descriptor. All changes are made
  under that lock; the engine waits for it only if `may_wait()`. In every other situation it asks the policy.
- `Region`: one mapped window, [`start`, `stop`) of its `file`, found under `key` in the file's table. It is unmapped
  when its last reference goes, so bytes are never unmapped while they are read. `region[i]`, `region[i:j]`, `find` and
  `rfind` work as for `mmap`; `view(start, stop)` is a read-only memoryview of a range of the *file* that keeps the
  region alive; `shared()` is the result of a cursor's `map()`; `exported` says whether there ever was either. `reads`:
  it is a copy in memory, not a map of the file. `born`: when it was made, by `time.monotonic()`. Cursors call
  `pin(cursor)` and `unpin(id(cursor), idle)`, without a lock; after the last `unpin` the region is idle. `pins` counts
  the cursors, `holders()` returns them, `pinned` checks whether one really uses the region, `revoke()` takes it away
  from them. `drop(ledger)` is called when the manager drops the region: where objects die late, it is then unmapped at
  once unless a view may exist; `closed` is true then.
- `region.entry`, in tables and orders, refers to a region weakly: `entry()` is the region, or None once it is dying.
- `Table()`: a file's regions by window, each as long as it lives. `find(key)` returns the living region or None,
  `regions()` all of them, `values()` their entries.
- `Order()`: the items that may be dropped, least recently used first: regions by entry, or files with a cached
  descriptor by themselves. `add`, `touch` (move to the end), `remove`, `oldest` and `pop_oldest` are O(1), atomic, and
  need no lock; `drain` takes out all items. `hits` counts windows that a read found mapped, or cold reads by a cached
  descriptor; the policy counts those that it serves itself by `touch(key, 1)`. The policy sets `crowded` when it must
  check each region that becomes idle.
- `Access(client, offset, size, window, ledger)`: the record that a buffer's or cursor's reads use, made once and never
  changed. A client that gets another file gets another record, so a read that took one record sees one file.
  `Access.closed(client, ...)` reads nothing; a `pending` one opens its file at the first read.
- `BufferBase`: `len`, `buf[i]`, `buf[i:j]`, `unpack_from`, `view`, the buffer protocol, and `_copy`, `_found`,
  `_read_into`, `_slice`, `_near` over an `Access`. It serves mapped windows itself, notes each use in the order, reads
  a cold range by the cached descriptor and pays rent for it (`ledger.rents`). For everything else it asks the policy:
  `_ready` (open the file, or refuse), `_unpack` (at an offset that is not a plain index, or out of range),
  `manager._fetch` (a copy of a cold range), `manager._map_range` (a region for a view), `manager._keep` (a detached
  region was used).
- `Batch(sizes, which, starts, stops, size, unit=0)`: ranges of several buffers, read together. `sizes`: bytes in each
  buffer; `which`: the buffer of each range (None: always the first). A range is given by `starts` and `stops` (both
  clipped as slices are), or has `size` bytes if `stops` is None; each is a list of int that `takes` accepts, or a
  one-dimensional buffer of integers. With a `unit`, `starts` refer to all buffers joined, counted in units of `unit`
  bytes, and `sizes` are the starts of the buffers there, and the stop of the last one. `wrong` is the number of the
  first range that is not in its buffer, or -1; `len` counts the ranges, `total` their bytes. They go `into` a writable
  buffer (one after the other, as into `fresh()`, or each to its place; until `close()`), or `each` into a bytes object
  (`results()`, at the end); without either they are only announced. `quick(accesses)` serves every range that needs
  neither the policy nor waiting. It returns the rest: places in `chosen()` (the numbers of the buffers that have
  ranges), each with the result of `serve` and the client that it was for, or with -1 and None; and the clients and
  starts of the windows that should be bought. The rest is served by place in `chosen()`: `serve(i, access)` copies
  mapped ranges, or announces them if they are not in memory; it returns 2 if the rest needs a descriptor, 1 if
  `read(i)` is enough, else 0. `announce(i, number)` reads by a descriptor the ranges that are in memory, and announces
  the others (no more than can be read soon); any number of buffers may be announced before the first is read. `read(i,
  number)` reads the rest; it returns the number of a range that the file no longer has, or -1, and may be tried again
  after an error of the system, when `failed` is the range's number. `where(number, i)` is (start, stop) of a range, in
  its file. `settle(i)` counts the reads, pays the rents (not for ranges that had to be waited for: mapping would have
  waited too), and releases everything; it returns the starts of the windows that should be bought.
  `Batch.at_hand(buffer, offsets, size, out)` does all of this at once, for ranges of one buffer in one mapped window
  that is in memory. It returns the filled buffer; or None, having counted nothing, if the case is not that simple, an
  argument is wrong, or the engine has no such shortcut.
- `CursorBase`: `use_region` within the region that the cursor has or another mapped grid window, `buffer`, `map`. For
  everything else it asks the policy: `_move`, `_lost`, `manager._soon(manager._tidy, ...)`. It unpins its region when
  it dies. It gives up a region (`_revoke`) that it pinned without the manager's lock, if `manager.closed` by then.
- `MAP_COSTS_DESCRIPTOR`: whether each map costs a descriptor.
- `open_file(where, flags)`: a `Descriptor` and the file's status. A descriptor closes its number once: by `close()`, or
  when the last thread that uses it (`use`, `done`, `read`) is done, or when it dies.
- `unchanged(path, status)`: whether the file there has exactly that status now, and is not empty.
- `read_at(number, size, offset)`: the bytes there, fewer only at the end of the file.
- `guard(ledger, how, owner)`: from the next map on, reads of this ledger's regions are guarded ("copies",
  "views", "off": see `StaticWindowMapManager`). When a region turns out to have lost bytes, the engine raises the error
  of `_files.lost`, and calls `_lose` of `owner()`, which is the manager if it lives. `notice()` calls `_zeroed` for
  regions whose views have read zeros since. The plain engine cannot guard: it refuses "views".
- `ledger.sample(trace, threshold)`, under the manager's lock: from now on the trace, `ledger.trace`, records reads that
  start in a place whose hash is below the threshold (see _places.py); None: nothing is recorded. Before such a read,
  or several that are made together, the engine calls `trace.before(access, kind, [(start, stop), ...])` with ranges of
  the file, and after it the function that `before` returned, unless the read failed.
  `trace.searched(access, start, stop)` reports which part of a mapped region was searched; where the policy searches,
  it calls `access.searched(start, stop)`. `access.sampled(start)` says whether reads from there are recorded. Reads
  through a view or region that a program holds are not.
  All other reads are served, counted and ordered as without a trace, and at almost no cost: each region knows a `clear`
  part of itself, in which no place is sampled, and a hit compares its range with that part instead of the whole
  region. The clear part is everything while nothing is traced, and empty when a trace starts or the region is new; hits
  outside of it then find it. A falling threshold never shrinks a clear part. So a hit on a place that is not
  sampled costs one comparison, the same one as without a trace. It also costs a hash of the place if only some places
  of the window are sampled and hits fall among them at random, or if, in the plain engine, windows are larger than a
  place.
- `map_window` and `read_window(ledger, file, number, window, advice)`: a `Region`, by `mmap` or, where the file system
  cannot map, by reading; None if the file is too short. `advice` is the user's ("normal", "random",
  "sequential"), or "scattered" if `rents.scattered(window)` says so of the reads that bought the window. It then works
  like "random", but a long copy lets the system read all of the copy at once, and a second one right behind it takes
  the advice back.

System calls that may wait release the interpreter's lock. No engine holds a lock of its own while user code may run.

The engine is chosen once, when smmap is imported: the fastest one that is installed, unless `SMMAP_ENGINE` in the
environment names one ("plain" or "fast"; `ImportError` if that one is missing). `smmap.engine` is its name, and
`smmap.engine_error` says why the fast one is not in use ("" if it is).
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

FAST = False
"""For type checkers: `mypy --always-true FAST` checks the library with the fast engine's stub."""

if TYPE_CHECKING:
    if FAST:
        from . import fast as chosen
    else:  # last: the documentation shows these docstrings, also where the fast engine is not built
        from . import plain as chosen  # type: ignore[no-redef, unused-ignore]

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
    """Why the fast engine cannot be imported, if its build has recorded a reason."""
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
