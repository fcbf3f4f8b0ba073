"""Wrong changes to the engine, one at a time, and which test notices: `make mutants`.

Each mutant is an exact piece of `src/smmap/_*.py`, which must be found there once, and what takes its place, in a copy
of the sources in a temporary folder. The chosen tests run there, and stop at the first failure. A mutant that survives
must be explained beside it; one that is not makes the exit status 1, as does a piece that is no longer found.

    python tools/mutants.py                  all of them, two at a time
    python tools/mutants.py -k ledger        those whose file or reason has the word
    python tools/mutants.py --list           only check that each piece is found
"""

# ruff: noqa: E501 - pieces of code stand here as they are found

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ["src", "tests", "pyproject.toml", "README.md", "SECURITY.md", "docs"]

CORE = "tests/core"
STRESS = "tests/stress"
QUICK = [f"{CORE}/test_corners.py", f"{CORE}/test_errors.py", f"{CORE}/test_eviction.py", f"{CORE}/test_ledger.py"]
FIRST = {
    "_window.py": [f"{CORE}/test_window.py", f"{CORE}/test_contract.py"],
    "_ledger.py": QUICK,
    "_rents.py": [f"{CORE}/test_corners.py", f"{CORE}/test_eviction.py", f"{CORE}/test_ledger.py"],
    "_file.py": [f"{CORE}/test_corners.py", f"{CORE}/test_errors.py", f"{CORE}/test_files.py"],
    "_region.py": [f"{CORE}/test_corners.py", f"{CORE}/test_lifetime.py", f"{CORE}/test_ledger.py"],
    "_system.py": [f"{CORE}/test_corners.py", f"{CORE}/test_errors.py", f"{STRESS}/test_security.py"],
    "_cursor.py": [f"{CORE}/test_corners.py", f"{CORE}/test_contract.py", f"{CORE}/test_lifetime.py"],
    "_buffer.py": [f"{CORE}/test_corners.py", f"{CORE}/test_buffer.py", f"{CORE}/test_contract.py"],
    "_search.py": [f"{CORE}/test_corners.py", f"{CORE}/test_buffer.py"],
    "_default.py": [f"{CORE}/test_corners.py", "tests/faces"],
    "_manager.py": [*QUICK, f"{CORE}/test_files.py"],
}
"""Which tests are asked first, by file; then all of these."""
THEN = [CORE, f"{STRESS}/test_hostile.py", f"{STRESS}/test_security.py", f"{STRESS}/test_faults.py"]


class Mutant(NamedTuple):
    """A wrong change."""

    file: str
    reason: str
    """What is wrong about it."""
    old: str
    new: str
    explained: str = ""
    """Why no test can notice it, if none can."""


# fmt: off
MUTANTS = [
    # Which window serves a request
    Mutant("_window.py", "windows are rounded to one granule: half of one is no place to map at",
           "return -(-size // (2 * granule)) * (2 * granule)", "return -(-size // granule) * granule"),
    Mutant("_window.py", "a request reaches past the end of the file",
           "    most = length - offset\n    if 0 < window < most:", "    most = window or length\n    if 0 < window < most:"),
    Mutant("_window.py", "size 0 asks for a quarter of a window",
           "wanted = size or window // 2\n", "wanted = size or window // 4\n"),
    Mutant("_window.py", "a request that ends at the border is not in the grid window",
           "if end <= begin + window:", "if end < begin + window:"),
    Mutant("_window.py", "a request that reaches one byte past the border is",
           "if end <= begin + window:", "if end <= begin + window + 1:"),
    Mutant("_window.py", "the seam window begins at the border",
           "begin += window // 2\n", "begin += window\n"),
    Mutant("_window.py", "a request at the begin of the seam window is not in it",
           "if offset >= begin and end <= begin + window:", "if offset > begin and end <= begin + window:"),
    Mutant("_window.py", "a request that ends with the seam window is not in it",
           "if offset >= begin and end <= begin + window:", "if offset >= begin and end < begin + window:"),
    Mutant("_window.py", "a request that begins before the seam window is in it",
           "if offset >= begin and end <= begin + window:", "if end <= begin + window:"),
    Mutant("_window.py", "seam windows have the keys of grid windows",
           "return ~number, begin", "return number, begin"),
    Mutant("_window.py", "wide windows begin unaligned",
           "begin = offset - offset % granule", "begin = offset"),
    Mutant("_window.py", "the client gets what it asked for, also past window and file",
           "return offset + reach(offset, size, window, length)", "return offset + size"),
    Mutant("_window.py", "what is aligned is rounded up once more",
           "if round_up and down != num else down", "if round_up else down"),
    Mutant("_window.py", "stretching to the left goes past the neighbour",
           "max(window.ofs_end(), end - max_size)", "min(window.ofs_end(), end - max_size)"),

    # What is mapped, and what goes
    Mutant("_ledger.py", "what is mapped is not counted in bytes",
           "self.memory += region.size()", "self.memory += 0"),
    Mutant("_ledger.py", "a map does not pin its file",
           "file.pins += region.pins", "file.pins += 0"),
    Mutant("_ledger.py", "a file is counted with each of its regions",
           "self.files += file.maps == 1", "self.files += file.maps >= 1"),
    Mutant("_ledger.py", "the shorter region of a file that grew stays idle for ever",
           "if replaced is not None and replaced in self.idle:", "if False:"),
    Mutant("_ledger.py", "misses are not counted",
           "self.misses += 1", "self.misses += 0"),
    Mutant("_ledger.py", "hits are not counted",
           "self.hits += 1", "self.hits += 0"),
    Mutant("_ledger.py", "a use does not change the order: first in, first out",
           "            self.idle.move_to_end(region)\n\n    def take", "            pass\n\n    def take"),
    Mutant("_ledger.py", "a second hold is not counted",
           "region.holds += 1", "region.holds = 1"),
    Mutant("_ledger.py", "what is held stays among the idle",
           "self.held[region] = self.idle.pop(region)", "self.held[region] = self.idle[region]"),
    Mutant("_ledger.py", "a region is idle while one still holds it",
           "if region.holds == 0 and region in self.held:", "if region.holds <= 1 and region in self.held:"),
    Mutant("_ledger.py", "holds go below none",
           "region.holds -= region.holds > 0", "region.holds -= 1"),
    Mutant("_ledger.py", "a region that none can find becomes idle",
           "            if file.regions.get(region.key) is region:\n                self.idle", "            if True:\n                self.idle"),
    Mutant("_ledger.py", "evictions are not counted",
           "self.evictions += 1", "self.evictions += 0"),
    Mutant("_ledger.py", "what a view keeps mapped is not counted",
           "        self.lent[region.token] = region, file\n        return False", "        self._unmapped(region, file)\n        return True"),
    Mutant("_ledger.py", "a revived region may be unmapped by close() of its map",
           "        region.lend_locked()\n", "        pass\n"),
    Mutant("_ledger.py", "a revived region that is held counts as idle",
           "(self.held if region.holds else self.idle)[region] = file", "self.idle[region] = file"),
    Mutant("_ledger.py", "a lent region counts for ever",
           "self._unmapped(*self.lent.pop(token))", "self.lent.pop(token)"),
    Mutant("_ledger.py", "what is unmapped is still counted in bytes",
           "self.memory -= region.size()", "self.memory -= 0"),
    Mutant("_ledger.py", "what is unmapped still pins its file",
           "        file.pins -= region.pins", "        file.pins -= 0"),
    Mutant("_ledger.py", "a file of which nothing is mapped is still counted",
           "self.files -= file.maps == 0", "self.files -= 0"),
    Mutant("_ledger.py", "an unmapped region stays in the table of its file",
           "is region:\n            del file.regions[region.key]", "is region:\n            pass"),
    Mutant("_ledger.py", "the most recently used goes first",
           "region = next(iter(self.idle), None)", "region = next(reversed(self.idle), None)"),
    Mutant("_ledger.py", "one handle is never used",
           "if maps <= handles and", "if maps < handles and"),
    Mutant("_ledger.py", "one handle too many is used",
           "if maps <= handles and", "if maps <= handles + 1 and"),
    Mutant("_ledger.py", "what fits exactly into the memory does not",
           "self.memory - owed_memory <= memory:", "self.memory - owed_memory < memory:"),
    Mutant("_ledger.py", "the limit of memory is not kept",
           "self.memory - owed_memory <= memory:", "True:"),
    Mutant("_ledger.py", "what was used last goes too",
           "if region is None or region is last:", "if region is None:"),
    Mutant("_ledger.py", "a held region as large as the limit costs no other its place",
           "last in self.held and last.size() > memory)", "last in self.held and last.size() >= memory)"),
    Mutant("_ledger.py", "a held region larger than the limit evicts all others in vain",
           "last in self.held and last.size() > memory)", "False)"),
    Mutant("_ledger.py", "kept descriptors do not give way to maps",
           "if self.kept and maps + len(self.kept) > handles:", "if False:"),
    Mutant("_ledger.py", "kept descriptors give way one too early",
           "if self.kept and maps + len(self.kept) > handles:", "if self.kept and maps + len(self.kept) >= handles:"),
    Mutant("_ledger.py", "the last handle leaves no room",
           "if count > self.limits()[0]:", "if count >= self.limits()[0]:"),
    Mutant("_ledger.py", "the hard limit is not kept",
           "if count > self.limits()[0]:", "if False:"),
    Mutant("_ledger.py", "peaks are not noted",
           "self._peak_mapped = max(self._peak_mapped, count)", "self._peak_mapped = count"),
    Mutant("_ledger.py", "a cursor's own region cannot make room for its move",
           "or bool(self.idle) or movable", "or bool(self.idle)"),
    Mutant("_ledger.py", "a region that another one holds can make room",
           "own is not None and own.holds == 1 and", "own is not None and",
           explained="`has_room` only spares a map that would be given back at once: `fits` refuses it afterwards"),
    Mutant("_ledger.py", "where all is held, a window is mapped in vain",
           "return self.count() < self.limits()[0] or bool(self.idle) or movable", "return True"),
    Mutant("_ledger.py", "a file has two kept descriptors, one of them forgotten",
           "if room <= 0 or file.ref.descriptor is not None:", "if room <= 0:",
           explained="no caller offers a second one: each asks for the kept one first, under the same lock"),
    Mutant("_ledger.py", "one descriptor too many is kept",
           "while len(self.kept) >= room:", "while len(self.kept) > room:"),
    Mutant("_ledger.py", "a kept descriptor does not pin its file",
           "        file.pins += 1\n", "        file.pins += 0\n"),
    Mutant("_ledger.py", "the descriptor used last is closed first",
           "descriptor = next(iter(self.kept))", "descriptor = next(reversed(self.kept))"),
    Mutant("_ledger.py", "a closed descriptor still pins its file",
           "            file.pins -= 1\n", "            file.pins -= 0\n"),
    Mutant("_ledger.py", "a descriptor is closed while it is read from",
           "        if not descriptor.readers:\n            descriptor.retire()\n\n    def check_in", "        descriptor.close()\n\n    def check_in"),
    Mutant("_ledger.py", "who read from a descriptor is never done",
           "descriptor.readers -= 1", "descriptor.readers -= 0"),
    Mutant("_ledger.py", "collect() leaves descriptors open",
           "        while self.kept:\n            self.drop_descriptor()\n        regions", "        regions"),
    Mutant("_ledger.py", "close() leaves held regions mapped",
           "regions = [*self.idle, *(self.held if held else ())]", "regions = [*self.idle]"),
    Mutant("_ledger.py", "releasing a file leaves its descriptor open",
           "        if file.ref.descriptor is not None:\n            self.drop_descriptor(file.ref.descriptor)\n        regions", "        regions"),

    # Which file is read
    Mutant("_file.py", "another file at the same path is read",
           "            if (status.st_dev, status.st_ino) != self.key:", "            if False:"),
    Mutant("_file.py", "another file with the same inode is read",
           "if not self.pins and not self.is_as(status):", "if False:"),
    Mutant("_file.py", "a file that grew while it is mapped is another one",
           "if not self.pins and not self.is_as(status):", "if not self.is_as(status):"),
    Mutant("_file.py", "a file that was truncated is mapped",
           "if status.st_size < end:", "if False:"),
    Mutant("_file.py", "a file that ends with the window is too short",
           "if status.st_size < end:", "if status.st_size <= end:"),
    Mutant("_file.py", "the time of a file is not looked at",
           "status.st_size == self.size and status.st_mtime_ns == self.mtime", "status.st_size == self.size"),
    Mutant("_file.py", "the size of a file is not looked at",
           "status.st_size == self.size and status.st_mtime_ns == self.mtime", "status.st_mtime_ns == self.mtime"),
    Mutant("_file.py", "a short read gives fewer bytes",
           "    if len(data) != size:\n", "    if False:\n"),
    Mutant("_file.py", "pipes and devices are opened",
           "if not stat.S_ISREG(status.st_mode):", "if False:"),
    Mutant("_file.py", "a descriptor that cannot be read is taken",
           "if isinstance(where, int) and not _system.is_readable(where):", "if False:"),
    Mutant("_file.py", "files in /proc are empty",
           "if _system.read_at(descriptor.number, 1, 0):", "if False:"),
    Mutant("_file.py", "an empty file's descriptor is left open",
           "            finally:\n                descriptor.close()\n    except OSError", "            finally:\n                _leak.append(descriptor)\n    except OSError"),
    Mutant("_file.py", "the size that was found is not taken over",
           "            self.size = status.st_size\n            self.mtime = status.st_mtime_ns\n", ""),
    Mutant("_file.py", "a file that was written to goes unnoticed",
           "            self.written = True\n", ""),

    # The lock, and what is settled under it
    Mutant("_manager.py", "the lock is left out",
           "        with self._lock:\n            if self._busy:", "        if True:\n            if self._busy:"),
    Mutant("_manager.py", "who interrupts its own thread goes on in the half-done state",
           "            if self._busy:\n", "            if False:\n"),
    Mutant("_manager.py", "the manager stays busy after an error",
           "                self._over = self._ledger.memory > self._ledger.max_memory\n                self._busy = False", "                self._over = False\n                self._busy = sys.exc_info()[0] is not None"),
    Mutant("_manager.py", "what cursors hold now is not settled",
           "if self._inbox or self._uses or self._changed:", "if self._inbox or self._uses:",
           explained="every change of a hold is noted as a use as well"),
    Mutant("_manager.py", "what died is not settled",
           "if self._inbox or self._uses or self._changed:", "if self._uses or self._changed:"),
    Mutant("_manager.py", "a hold without the lock does not look whether memory is over its limit",
           "        if self._over:\n            return False\n", ""),
    Mutant("_manager.py", "uses are settled in any order",
           "        order.sort(key=_time)\n", ""),
    Mutant("_manager.py", "a region stays hot: later uses are not noted",
           "                used.hot = None  #", "                pass  #"),
    Mutant("_manager.py", "a reader that goes over leaves the last one hot",
           "            self._last.hot = None\n            self._last = region", "            self._last = region"),
    Mutant("_manager.py", "a settled use of an idle region does not change the order",
           "                    ledger.idle.move_to_end(used)", "                    pass"),
    Mutant("_manager.py", "a settled use of a descriptor does not change the order",
           "                    ledger.kept.move_to_end(used)", "                    pass"),
    Mutant("_manager.py", "a cursor that moved on still holds",
           "                    released.append(own)", "                    pass"),
    Mutant("_manager.py", "a cursor that moved on without the lock does not hold",
           "                    self._ledger.take(region)\n                if own", "                    pass\n                if own"),
    Mutant("_manager.py", "a region that was evicted in the moment it was taken is held",
           "        self._changed[holder] = own\n        return False", "        return False"),
    Mutant("_manager.py", "letting go is not written down",
           "        self._changed[holder] = None\n", "        pass\n"),
    Mutant("_manager.py", "what becomes idle over the limit stays",
           "        if released:\n            ledger.trim(next(reversed(ledger.idle), None))", ""),

    # Files and descriptors, as the manager has them
    Mutant("_manager.py", "a known path is taken without looking at the time",
           "if status.st_size != length or status.st_mtime_ns != file.mtime or not length:", "if status.st_size != length or not length:"),
    Mutant("_manager.py", "a known path is taken for its file, whichever is there",
           "        if (status.st_dev, status.st_ino) != file.key:\n            return False\n", ""),
    Mutant("_manager.py", "what nothing pins is taken for the same file",
           "            if file.pins:\n                file.update(status)", "            if True:\n                file.update(status)"),
    Mutant("_manager.py", "idle regions of a file that was replaced stay",
           "            self._unload_path_locked(where)\n            self._paths[where] = ref", "            self._paths[where] = ref"),
    Mutant("_manager.py", "idle regions of a file that was deleted stay",
           "                self._put_off_or_run(self._unload_path_locked, None, where)\n", ""),
    Mutant("_manager.py", "files are remembered for ever",
           "            del self._files[ref.key]", "            pass"),
    Mutant("_manager.py", "paths are remembered for ever",
           "                del self._paths[path]", "                pass"),
    Mutant("_manager.py", "a/b is taken for the folder of a/bc",
           'os.path.join(base, "") for base', "base for base"),
    Mutant("_manager.py", "a descriptor may be closed while a window is mapped by it",
           "        descriptor.readers += 1\n", "        descriptor.readers += 0\n"),
    Mutant("_manager.py", "what was opened is not verified",
           "            self._attempt_locked(where, span, file.verify, descriptor.number, kept, begin, end, where)", "            pass"),
    Mutant("_manager.py", "the descriptor of another file is left open",
           "            ledger.check_in(descriptor)\n            raise\n        return descriptor", "            _forking_descriptors = globals().setdefault('_leak', [])\n            _forking_descriptors.append(descriptor)\n            raise\n        return descriptor"),
    Mutant("_manager.py", "a buffer's flags are forgotten when it opens its file",
           "        flags |= client._flags\n", ""),
    Mutant("_manager.py", "a window that is mapped is given whatever the flags say",
           "            if flags:\n                ledger.check_in", "            if False:\n                ledger.check_in"),
    Mutant("_manager.py", "a closed manager maps",
           "    def _check_open_locked(self, name: str) -> None:\n        if self._closed:", "    def _check_open_locked(self, name: str) -> None:\n        if False:"),
    Mutant("_manager.py", "a manager that was closed meanwhile opens and keeps a file",
           "    def _try_opening_locked(self, client: Client) -> None:\n        self._check_open_locked(client._name())\n", "    def _try_opening_locked(self, client: Client) -> None:\n"),

    # Where the system refuses
    Mutant("_manager.py", "any error evicts",
           "                if code not in _system.REFUSALS:\n                    if isinstance", "                if False:\n                    if isinstance"),
    Mutant("_manager.py", "errors without a name stay so",
           "if isinstance(error, OSError) and error.filename is None:", "if False:"),
    Mutant("_manager.py", "the most recently used goes when the system has run out",
           "ledger.evict(next(iter(ledger.idle)))", "ledger.evict(next(reversed(ledger.idle)))"),
    Mutant("_manager.py", "maps go where descriptors are short, in vain",
           "elif ledger.idle and (_system.TRACKS_DESCRIPTOR or not short_of_descriptors):", "elif ledger.idle:"),
    Mutant("_manager.py", "kept descriptors stay where descriptors are short",
           "if short_of_descriptors and ledger.kept:", "if False:"),
    Mutant("_manager.py", "a file system that cannot map is an error",
           "if reads or self._backing != \"auto\" or error.errno not in _system.UNMAPPABLE:", "if True:"),
    Mutant("_manager.py", "what cannot be mapped is read where maps were asked for",
           "if reads or self._backing != \"auto\" or error.errno not in _system.UNMAPPABLE:", "if reads or error.errno not in _system.UNMAPPABLE:"),
    Mutant("_manager.py", "a file that cannot be mapped is tried again each time",
           "            file.reads = True\n", "            file.reads = self._backing == 'auto' and not file.maps\n"),
    Mutant("_manager.py", "looking at a file fails where the system has run out",
           "                if _system.code_of(error) not in _system.REFUSALS:\n                    raise\n                status", "                if True:\n                    raise\n                status"),
    Mutant("_manager.py", "a cold read fails where the system has run out",
           "                if _system.code_of(error) not in _system.REFUSALS:\n                    raise\n                span", "                if True:\n                    raise\n                span"),

    # Holding and borrowing
    Mutant("_manager.py", "a window clipped at the old end of the file serves the new one",
           "if region is not None and region.end >= end and (region.store is not None or ledger.revive(region)):", "if region is not None and (region.store is not None or ledger.revive(region)):"),
    Mutant("_manager.py", "a lent region is mapped anew",
           "if region is not None and region.end >= end and (region.store is not None or ledger.revive(region)):", "if region is not None and region.end >= end and region.store is not None:"),
    Mutant("_manager.py", "a cursor that moves under the lock keeps what it had",
           "            ledger.let_go(own)\n        ledger.trim(region)", "        ledger.trim(region)"),
    Mutant("_manager.py", "mapping for a cursor evicts nothing",
           "            ledger.let_go(own)\n        ledger.trim(region)", "            ledger.let_go(own)"),
    Mutant("_manager.py", "a cursor whose move failed holds nothing",
           "            ledger.take(own)\n            self._known[holder] = own", "            pass"),
    Mutant("_manager.py", "a copied cursor does not hold",
           "        self._known[holder] = region\n        self._ledger.take(region)\n        return True", "        return True"),
    Mutant("_manager.py", "letting go by hand has no bound",
           "for _ in range(min(-change, region.holds)):", "for _ in range(-change):",
           explained="`Ledger.let_go` has the same bound: neither goes below none"),
    Mutant("_manager.py", "a region evicted by hand comes back",
           "        region.disown()\n", ""),
    Mutant("_manager.py", "mapping for a buffer evicts nothing",
           "        region = self._obtain_locked(client, window)\n        ledger.trim(region)", "        region = self._obtain_locked(client, window)"),
    Mutant("_manager.py", "a buffer that finds no handle keeps its map",
           "            ledger.evict(region)\n            raise self._no_handle(client)\n        return region", "            raise self._no_handle(client)\n        return region"),
    Mutant("_manager.py", "a view as long as a window makes one of its own",
           "long = 0 < self._window < end - begin", "long = 0 < self._window <= end - begin"),
    Mutant("_manager.py", "a view may be unmapped by close() of its map",
           "        region.lend_locked()\n        view = region.view", "        region.lent = region.lent or memoryview(b'')\n        view = memoryview(region.store)"),
    Mutant("_manager.py", "a cold read that came short gives fewer bytes",
           "                if len(data) == size:\n                    self._ledger.cold_reads", "                if True:\n                    self._ledger.cold_reads"),
    Mutant("_manager.py", "cold reads are not counted",
           "            self._ledger.cold_reads += 1\n            size", "            size"),
    Mutant("_manager.py", "cold reads without the lock are not counted",
           "                    self._ledger.cold_reads += 1\n                    return data", "                    return data"),
    Mutant("_manager.py", "a window is mapped at its first read",
           "if cold and _system.KEEPS_DESCRIPTORS and not (due and self._ledger.has_room(None)):", "if False:"),
    Mutant("_manager.py", "a cold window is never mapped",
           "if cold and _system.KEEPS_DESCRIPTORS and not (due and self._ledger.has_room(None)):", "if cold:"),
    Mutant("_manager.py", "a window that is to be mapped takes the last handle from what is held",
           "and not (due and self._ledger.has_room(None)):", "and not due:"),
    Mutant("_manager.py", "a map that was clipped before the file grew serves what is beyond",
           "cold = region is None or region.end < end or (", "cold = region is None or ("),
    Mutant("_manager.py", "the descriptor of a cold read is never checked in",
           "                if found.shared:\n                    self._inbox.append(found)", "                if found.shared:\n                    pass"),
    Mutant("_manager.py", "a window read instead of mapped is not aligned",
           "begin = max(begin, offset - offset % grain)", "begin = offset"),
    Mutant("_manager.py", "windows may be a quarter of the memory",
           "max_memory_size // 8 // unit", "max_memory_size // 4 // unit"),
    Mutant("_manager.py", "a forked child has the parent's locks",
           "        manager._lock = threading.RLock()\n    _forking", "        pass\n    _forking"),
    Mutant("_manager.py", "a fork does not wait for the lock",
           "if not lock.acquire(blocking=False):\n                break", "if not lock.acquire(blocking=False):\n                continue"),

    # Regions
    Mutant("_region.py", "an evicted region still gives its map away",
           "        self.store = None\n        self.hot = self.lent = None  # after", "        self.hot = self.lent = None  # after"),
    Mutant("_region.py", "an evicted region keeps its map",
           "        self.hot = self.lent = None  # after", "        self.hot = None  # after"),
    Mutant("_region.py", "an evicted region stays hot",
           "        self.hot = self.lent = None  # after", "        self.lent = None  # after"),
    Mutant("_region.py", "bytes that were lent die without a word",
           "            self.died(self.token)\n", "            pass\n"),
    Mutant("_region.py", "a map that was lent dies without a word",
           "self.token = weakref.ref(survivor, died)", "self.token = weakref.ref(survivor)"),
    Mutant("_region.py", "a region may be unmapped by close() of its map",
           "            self.lent = memoryview(self.store)\n", "            pass\n"),
    Mutant("_region.py", "a region counts its clients only",
           "return self.holds + 1 if self.store is not None", "return self.holds if self.store is not None"),
    Mutant("_region.py", "the manager's own view is handed out",
           "            raise self.gone()\n        return view[:]", "            raise self.gone()\n        return view"),
    Mutant("_region.py", "a region that stands alone reaches past its file",
           "end = min(ofs + size, _system.status_of(descriptor.number).st_size)", "end = ofs + size"),
    Mutant("_region.py", "a region that stands alone leaves its descriptor open",
           "            finally:\n                descriptor.close()\n        except", "            finally:\n                _leak = globals().setdefault('_leak', [])\n                _leak.append(descriptor)\n        except"),

    # Cursors
    Mutant("_cursor.py", "a move within the region reaches one byte past it",
           "and region.begin <= offset < end <= region.end\n", "and region.begin <= offset < end <= region.end + 1\n"),
    Mutant("_cursor.py", "a move within the region reaches before it",
           "and region.begin <= offset < end <= region.end\n", "and region.begin - 1 <= offset < end <= region.end\n"),
    Mutant("_cursor.py", "a move within the region reaches past the size that the client knows",
           "                and end <= self._length\n", ""),
    Mutant("_cursor.py", "a move within the region gets more than a window",
           "                and size <= self._most\n", ""),
    Mutant("_cursor.py", "a region that was evicted is used on",
           "                and region.store is not None\n            ):", "            ):"),
    Mutant("_cursor.py", "flags are ignored by a move within the region",
           "if type(offset) is type(size) is int and flags is _NO_FLAGS:", "if type(offset) is type(size) is int:"),
    Mutant("_cursor.py", "a mapped window that was clipped serves a longer request",
           "if found is not None and end <= found.end and self._manager.change", "if found is not None and self._manager.change"),
    Mutant("_cursor.py", "the byte past the end is in the file",
           "        if offset >= self._length:\n", "        if offset > self._length:\n"),
    Mutant("_cursor.py", "negative sizes are taken",
           "if offset < 0 or size < 0:", "if offset < 0:"),
    Mutant("_cursor.py", "a view begins with the region",
           "return view[self._begin - begin : self._end - begin]", "return view[: self._end - begin]"),
    Mutant("_cursor.py", "a view is one byte short",
           "return view[self._begin - begin : self._end - begin]", "return view[self._begin - begin : self._end - begin - 1]"),
    Mutant("_cursor.py", "a cursor that is collected holds for ever",
           "            self._manager.leave(self._holder, region)\n\n    def __enter__", "            pass\n\n    def __enter__"),
    Mutant("_cursor.py", "letting go waits for the next call",
           "            self._manager.leave(self._holder, region)\n            self._manager.settle()", "            self._manager.leave(self._holder, region)"),
    Mutant("_cursor.py", "a copied cursor has another range",
           "self._region, self._begin, self._end = region, rhs._begin, rhs._end", "self._region, self._begin, self._end = region, rhs._begin, region.end"),
    Mutant("_cursor.py", "the end is part of the range",
           "return self._begin <= ofs < self._end", "return self._begin <= ofs <= self._end"),
    Mutant("_cursor.py", "a cursor whose region was evicted is valid",
           "return region is not None and (region.store is not None or self._is_lost())", "return region is not None"),
    Mutant("_cursor.py", "a cursor whose region was evicted in the moment it was taken is not valid",
           "return region is not None and (region.store is not None or self._is_lost())", "return region is not None and region.store is not None"),
    Mutant("_cursor.py", "the region that was evicted in the moment it was taken is given away",
           "return self._found_again() if self._is_lost() else self._region", "return self._region"),
    Mutant("_cursor.py", "a copy of a cursor whose region was evicted in the moment it was taken is not valid",
           "and (self._manager.share(self._holder, region) or rhs._is_lost())", "and self._manager.share(self._holder, region)"),
    Mutant("_cursor.py", "a region released by hand is mapped again",
           "            and region.is_owned()\n", ""),

    # Buffers
    Mutant("_buffer.py", "a buffer reaches past its file",
           "self._size = min(size, self._length - offset)", "self._size = min(size, self._length)"),
    Mutant("_buffer.py", "an offset at the end is in bounds",
           "(offset >= self._length and (offset or self._length))", "(offset > self._length)"),
    Mutant("_buffer.py", "a copy takes a window that was clipped before the file grew",
           "        if region is not None and end <= region.end:\n            store = region.hot\n            if store is None:\n                store = self._manager.note(region)  # type: ignore[union-attr]\n            else:\n                self._stay(region)\n            if store is not None:\n                try:\n                    return store[position - region.begin : end - region.begin]\n                except ValueError:  # PyPy: evicted and closed meanwhile\n                    pass\n        if self",
           "        if region is not None:\n            store = region.hot\n            if store is None:\n                store = self._manager.note(region)  # type: ignore[union-attr]\n            else:\n                self._stay(region)\n            if store is not None:\n                try:\n                    return store[position - region.begin : end - region.begin]\n                except ValueError:  # PyPy: evicted and closed meanwhile\n                    pass\n        if self"),
    Mutant("_buffer.py", "an index before the begin wraps around twice",
           "if -size <= key < size:", "if -size - 1 <= key < size:"),
    Mutant("_buffer.py", "the index of the size is in the buffer",
           "if -size <= key < size:", "if -size <= key <= size:"),
    Mutant("_buffer.py", "a slice by steps loses the step at a window's border",
           "here = chosen[: -(-(end - chosen[0]) // chosen.step)]", "here = chosen[: max((end - chosen[0]) // chosen.step, 1)]"),
    Mutant("_buffer.py", "a slice backwards comes forwards",
           "return data if step > 0 else data[::-1]", "return data"),
    Mutant("_buffer.py", "flags are not looked at when a buffer begins",
           "            self._manager.try_opening(self)\n        if size", "            pass\n        if size"),
    Mutant("_buffer.py", "buffers are exported for writing",
           "        if flags & 1:\n", "        if False:\n"),
    Mutant("_buffer.py", "a pickle may name a descriptor",
           "        if not isinstance(path, (str, bytes)):\n", "        if False:\n"),
    Mutant("_buffer.py", "a pickle may name a range that no file has",
           "if not 0 <= index(offset) <= index(offset) + index(size) <= index(length) or size < 0:", "if False:"),
    Mutant("_buffer.py", "a file that changed since it was pickled is read",
           "if (client._length, file.mtime) != (self._length, self._mtime):", "if False:"),

    # Searching
    Mutant("_search.py", "what straddles a border by one byte is not found",
           "low = max(start, border - len(needle) + 1)", "low = max(start, border - len(needle) + 2)"),
    Mutant("_search.py", "what ends just after a border is not found",
           "min(end, border + len(needle) - 1)", "min(end, border + len(needle) - 2)"),
    Mutant("_search.py", "what begins another match is counted twice",
           "min(len(between[-1]), len(needle) - 1)", "len(needle) - 1"),
    Mutant("_search.py", "the last place is not searched",
           "    while end - start >= len(needle):\n        stop, found", "    while end - start > len(needle):\n        stop, found"),

    # The system
    Mutant("_system.py", "files are opened for writing if flags say so",
           "    if flags & _WRITING:\n", "    if False:\n"),
    Mutant("_system.py", "opening a pipe hangs",
           '"O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"', '"O_CLOEXEC", "O_NOCTTY"'),
    Mutant("_system.py", "a relative path leads elsewhere after chdir",
           "    if os.path.isabs(name):\n        return name\n", "    if True:\n        return name\n"),
    Mutant("_system.py", "the user's own descriptor is read, and closed",
           "        return os.dup(where)\n", "        return where\n"),
    Mutant("_system.py", "a read that came in pieces repeats the first",
           "        offset += len(data)\n", "        offset += 0\n"),
    Mutant("_system.py", "a read that came in pieces gives the first only",
           "    while data:\n        pieces.append(data)", "    for _ in range(1):\n        pieces.append(data)"),
    Mutant("_system.py", "a map can be written to",
           "access=mmap.ACCESS_READ", "access=mmap.ACCESS_COPY"),
    Mutant("_system.py", "each map keeps a descriptor",
           'if TRACKS_DESCRIPTOR else {"trackfd": False}', 'if True else {"trackfd": False}'),
    Mutant("_system.py", "refused advice makes a map fail",
           "        except OSError:\n            pass  # it was advice", "        except KeyError:\n            pass  # it was advice"),
    Mutant("_system.py", "a number is closed twice",
           "number, self.number = self.number, -1", "number = self.number"),
    Mutant("_system.py", "a number is never closed",
           "                _close(number)\n", "                pass\n"),
    Mutant("_system.py", "an error of close() breaks off what the ledger does",
           "            except OSError:\n                pass  # it is closed", "            except KeyError:\n                pass  # it is closed"),
    Mutant("_system.py", "a descriptor is closed under one who reads without the lock",
           "        if PYPY or not self.shared:\n            self.close()", "        self.close()"),
    Mutant("_system.py", "smmap takes all that the system allows",
           "if TRACKS_DESCRIPTOR else maps) // 2)", "if TRACKS_DESCRIPTOR else maps))"),
    Mutant("_system.py", "a descriptor opened for writing only can be read",
           "return not mode & os.O_WRONLY and", "return"),

    # Renting and buying
    Mutant("_rents.py", "a window is bought one read too late",
           "bought = rent >= price", "bought = rent > price"),
    Mutant("_rents.py", "a window is bought one read too early",
           "bought = rent >= price", "bought = rent >= price - 1"),
    Mutant("_rents.py", "long reads cost no more than short ones",
           "rent += 1 + (size >> _SHIFT)", "rent += 1"),
    Mutant("_rents.py", "the old generation is forgotten",
           "rent = self._old.get(window, 0)", "rent = 0"),
    Mutant("_rents.py", "rents are remembered for ever",
           "        if len(young) > patience:\n", "        if False:\n"),
    Mutant("_rents.py", "what was bought is bought again at once",
           "young[window] = 0 if bought else rent", "young[window] = rent"),

    # The process's own manager
    Mutant("_default.py", "a forked child uses the parent's manager",
           "    _manager = None\n    _lock = threading.RLock()", "    _lock = threading.RLock()"),
]
# fmt: on


class Outcome(NamedTuple):
    mutant: Mutant
    killed: bool
    by: str
    seconds: float


def broken_pieces(mutants: list[Mutant], root: Path) -> list[str]:
    """What is wrong with the list itself: pieces that are not found exactly once."""
    wrong = []
    for mutant in mutants:
        count = (root / "src" / "smmap" / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        if count != 1:
            wrong.append(f"{mutant.file}: {mutant.reason}: found {count} times, not once: {mutant.old!r}")
        if mutant.old == mutant.new:
            wrong.append(f"{mutant.file}: {mutant.reason}: changes nothing")
    return wrong


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A temporary folder with what tests need, without what they leave behind."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "site")
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    try:
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, folder / name, ignore=ignored)
            elif (root / name).exists():
                shutil.copy(root / name, folder / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(folder: Path, tests: list[str], seconds: float) -> tuple[int, str]:
    """The exit status of pytest, and the test that failed first; 124 when the time was up."""
    found = [name for name in tests if (folder / name).exists()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SMMAP_STRESS_SECONDS": "0",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis"),
    }
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-rfE", f"--basetemp={folder / 'tmp'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *found],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    ) as process:
        try:
            out = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return 124, "the time limit"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.MULTILINE)
    last = out.strip().splitlines()[-1:] or ["nothing was said"]
    return process.returncode, failed[1].replace("tests/", "", 1) if failed else last[0][:70]


def outcome_of(mutant: Mutant, root: Path, seconds: float) -> Outcome:
    start = time.monotonic()
    with copy_of(root) as folder:
        path = folder / "src" / "smmap" / mutant.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        first = FIRST[mutant.file]
        status, by = run_tests(folder, first, seconds)
        if status == 0:
            status, by = run_tests(folder, THEN, 3 * seconds)
    return Outcome(mutant, status != 0, by if status else "", time.monotonic() - start)


def baseline(root: Path, seconds: float) -> str:
    """What fails without any mutant; empty if nothing does."""
    with copy_of(root) as folder:
        where = subprocess.run(
            [sys.executable, "-c", "import smmap; print(smmap.__file__)"],
            env={**os.environ, "PYTHONPATH": str(folder / "src")},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if not where.startswith(str(folder)):
            return f"tests would run on {where.strip()}"
        status, by = run_tests(folder, [*QUICK, *THEN], 10 * seconds)
        return by if status else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORD", help="only mutants whose file or reason has it")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="so many at a time (2)")
    parser.add_argument("--seconds", type=float, default=300, help="the time limit of one run of the tests (300)")
    parser.add_argument("--list", action="store_true", help="only check that each piece is found")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutant first")
    options = parser.parse_args()
    with copy_of(ROOT) as root:  # so that nobody changes it meanwhile
        return run(options, root)


def run(options: argparse.Namespace, root: Path) -> int:
    wrong = broken_pieces(MUTANTS, root)
    if wrong:
        print(*wrong, sep="\n")
        return 1
    chosen = [mutant for mutant in MUTANTS if options.k in mutant.file or options.k in mutant.reason]
    print(
        f"{len(chosen)} of {len(MUTANTS)} mutants, {sum(bool(mutant.explained) for mutant in chosen)} of them explained"
    )
    if options.list:
        return 0
    if not options.no_baseline:
        failing = baseline(root, options.seconds)
        if failing:
            print(f"without a mutant: {failing}")
            return 1
    killed = 0
    explained: list[Mutant] = []
    survived: list[Mutant] = []
    with ThreadPoolExecutor(options.j) as pool:
        for outcome in pool.map(lambda mutant: outcome_of(mutant, root, options.seconds), chosen):
            mutant = outcome.mutant
            verdict = "killed" if outcome.killed else "explained" if mutant.explained else "SURVIVED"
            print(f"{verdict:9} {outcome.seconds:5.0f} s  {mutant.file:11} {mutant.reason}", flush=True)
            print(f"{'':20}{outcome.by or mutant.explained}", flush=True)
            if outcome.killed:
                killed += 1
            else:
                (explained if mutant.explained else survived).append(mutant)
    print(f"{killed} killed, {len(explained)} explained, {len(survived)} survived")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
