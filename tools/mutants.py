"""Wrong changes to the engine, one at a time, and which test notices: `make mutants`.

Each mutant is an exact piece of `src/smmap/_*.py`, which must be found there once, and what takes its place, in a copy
of the sources in a temporary folder. The chosen tests run there, and stop at the first failure. A mutant that survives
must be explained beside it; one that is not makes the exit status 1, as does a piece that is no longer found.

    python tools/mutants.py                  all of them, two at a time
    python tools/mutants.py -k ledger fork   those whose file or reason has one of the words
    python tools/mutants.py -n 3 17          the third and the 17th; each run says the numbers
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
    "_ledger.py": [*QUICK, f"{CORE}/test_files.py", f"{CORE}/test_interrupts.py"],
    "_rents.py": [f"{CORE}/test_rents.py", f"{CORE}/test_eviction.py", f"{CORE}/test_ledger.py"],
    "_file.py": [f"{CORE}/test_corners.py", f"{CORE}/test_errors.py", f"{CORE}/test_files.py"],
    "_status.py": [f"{CORE}/test_corners.py", f"{CORE}/test_errors.py", f"{CORE}/test_files.py"],
    "_region.py": [f"{CORE}/test_corners.py", f"{CORE}/test_lifetime.py", f"{CORE}/test_ledger.py"],
    "_system.py": [f"{CORE}/test_rents.py", *QUICK, f"{STRESS}/test_security.py"],
    "_cursor.py": [
        f"{CORE}/{name}.py" for name in ("test_corners", "test_races", "test_contract", "test_lifetime", "test_files")
    ],
    "_buffer.py": [f"{CORE}/{name}.py" for name in ("test_corners", "test_races", "test_buffer", "test_contract")],
    "_search.py": [f"{CORE}/test_corners.py", f"{CORE}/test_buffer.py"],
    "_default.py": [f"{CORE}/test_corners.py", "tests/faces"],
    "_manager.py": [*QUICK, f"{CORE}/test_races.py", f"{CORE}/test_files.py"],
    "_source.py": [*QUICK, f"{CORE}/test_files.py"],
    "_lock.py": [f"{CORE}/test_corners.py", f"{CORE}/test_interrupts.py", f"{CORE}/test_races.py"],
    "_fork.py": [f"{CORE}/test_corners.py", f"{CORE}/test_seldom.py", f"{CORE}/test_lifetime.py"],
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
    Mutant("_window.py", "a request reaches past window and file",
           "return wanted if 0 < wanted < most else most", "return wanted or most"),
    Mutant("_window.py", "what is aligned is rounded up once more",
           "if round_up and down != num else down", "if round_up else down"),
    Mutant("_window.py", "stretching to the left goes past the neighbour",
           "max(window.ofs_end(), end - max_size)", "min(window.ofs_end(), end - max_size)"),

    # What is mapped, and what goes
    Mutant("_ledger.py", "what is mapped is not counted in bytes",
           "self.memory += region.end - region.begin", "self.memory += 0"),
    Mutant("_ledger.py", "what is mapped is not counted",
           "        self.mapped += 1\n", "        self.mapped += 0\n"),
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
    Mutant("_ledger.py", "a region of a file that is gone stays idle",
           "if file is not None and file.gone:", "if False:"),
    Mutant("_manager.py", "what a cursor leaves of a file that is gone stays, if it moved under the lock",
           "            if own is not None:\n                ledger.dismiss(own)\n            return region", "            return region"),
    Mutant("_manager.py", "what a cursor leaves of a file that is gone stays, if it let go",
           "            self._ledger.dismiss(own)\n", ""),
    Mutant("_manager.py", "what is let go by hand of a file that is gone stays",
           "            self._ledger.dismiss(region)\n", ""),
    Mutant("_ledger.py", "evictions are not counted",
           "self.evictions += 1", "self.evictions += 0"),
    Mutant("_ledger.py", "what a view keeps mapped is not counted",
           "        self.lent[region.token] = region, file\n        if _system", "        self._unmapped(region, file)\n        if _system"),
    Mutant("_ledger.py", "what was lent counts as gone also where it was not confirmed",
           "        if _system.PYPY:\n            self._unsure", "        if True:\n            self._unsure"),
    Mutant("_ledger.py", "what was lent never counts as gone before garbage was collected",
           "        if _system.PYPY:\n            self._unsure", "        if False:\n            self._unsure"),
    Mutant("_ledger.py", "what was taken back still counts as gone",
           "        self._unsure_memory -= self._unsure.pop(region.token, 0)\n", ""),
    Mutant("_ledger.py", "what died still counts as gone twice",
           "            self._unsure_memory -= self._unsure.pop(token, 0)\n", ""),
    Mutant("_ledger.py", "what garbage did not bring down still counts as gone",
           "        self._unsure.clear()\n", ""),

    Mutant("_ledger.py", "a revived region may be unmapped by close() of its map",
           "        region.lend_locked()\n", "        pass\n"),
    Mutant("_ledger.py", "a revived region that is held counts as idle",
           "region.lend_locked()\n        (self.held if region.holds else self.idle)[region] = file", "region.lend_locked()\n        self.idle[region] = file"),
    Mutant("_ledger.py", "a lent region counts for ever",
           "self._unmapped(*self.lent.pop(token))", "self.lent.pop(token)"),
    Mutant("_ledger.py", "what is unmapped is still counted in bytes",
           "self.memory -= region.end - region.begin", "self.memory -= 0"),
    Mutant("_ledger.py", "what is unmapped is still counted",
           "        self.mapped -= 1\n", "        self.mapped -= 0\n"),
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
           "self.memory - self._unsure_memory <= memory:", "self.memory - self._unsure_memory < memory:"),
    Mutant("_ledger.py", "the limit of memory is not kept",
           "self.memory - self._unsure_memory <= memory:", "True:"),
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
           "if self.mapped > (self._limits or self.limits())[0]:", "if self.mapped >= (self._limits or self.limits())[0]:"),
    Mutant("_ledger.py", "the hard limit is not kept",
           "if self.mapped > (self._limits or self.limits())[0]:", "if False:"),
    Mutant("_ledger.py", "peaks are not noted",
           "        if self.mapped > self._peak_mapped:\n", "        if True:\n"),
    Mutant("_ledger.py", "peaks of memory are not noted",
           "        if self.memory > self._peak_memory:\n", "        if True:\n"),
    Mutant("_ledger.py", "a cursor's own region cannot make room for its move",
           "or (own is not None and own.holds == 1 and own in self.held)", "or False"),
    Mutant("_ledger.py", "a region that another one holds can make room",
           "own is not None and own.holds == 1 and", "own is not None and",
           explained="`has_room` only spares a map that would be given back at once: `fits` refuses it afterwards"),
    Mutant("_ledger.py", "where all is held, a window is mapped in vain",
           "            self.mapped < (self._limits or self.limits())[0]\n            or bool(self.idle)", "            True\n            or bool(self.idle)"),
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
    Mutant("_status.py", "pipes and devices are opened",
           "if not stat.S_ISREG(status.st_mode):", "if False:"),
    Mutant("_status.py", "a descriptor that cannot be read is taken",
           "if isinstance(where, int) and not _system.is_readable(where):", "if False:"),
    Mutant("_status.py", "files in /proc are empty",
           "if _system.read_at(descriptor.number, 1, 0):", "if False:"),
    Mutant("_status.py", "an empty file's descriptor is left open",
           "            finally:\n                descriptor.close()\n    except OSError", "            finally:\n                _leak.append(descriptor)\n    except OSError"),
    Mutant("_file.py", "the size that was found is not taken over",
           "            self.size = status.st_size\n            self.mtime = status.st_mtime_ns\n", ""),
    Mutant("_file.py", "a file that was written to goes unnoticed",
           "            self.written = True\n", ""),

    # The lock, and what is settled under it
    Mutant("_lock.py", "the lock is left out",
           "        with lock:\n            return", "        if True:\n            return"),
    Mutant("_lock.py", "what a handler raises beside the block leaves the lock taken",
           "            lock.release()\n", "            pass\n"),
    Mutant("_lock.py", "what is nested in the lock gives away who has it",
           "if not nested and lock", "if lock"),
    Mutant("_manager.py", "who interrupts its own thread goes on in the half-done state",
           "        if self._busy and self._lock._is_owned():", "        if False:"),
    Mutant("_manager.py", "what was cut short is not mended",
           "            self._mend_locked()\n", "            pass\n"),
    Mutant("_manager.py", "each error of ours is mended like one from outside",
           "self._busy = _is_from_outside(error)", "self._busy = True"),
    Mutant("_manager.py", "what handlers of alarms raise is taken for an error of the system's",
           "self._busy = _is_from_outside(error)", "self._busy = False"),
    Mutant("_manager.py", "mended tables leave out what cursors hold",
           "self._ledger.rebuild(files, self._known.values())", "self._ledger.rebuild(files, [])"),
    Mutant("_manager.py", "mended tables leave out what files have",
           "self._ledger.rebuild(files, self._known.values())", "self._ledger.rebuild([], self._known.values())"),
    Mutant("_manager.py", "a manager that was cut short while it closed keeps its windows",
           "        if self._closed:\n            self._ledger.unload(True)\n", ""),
    Mutant("_manager.py", "what was mended may be over its limits",
           "            self._ledger.unload(True)\n        self._ledger.trim(None)\n", "            self._ledger.unload(True)\n"),
    Mutant("_ledger.py", "a lent region is lost when tables are mended",
           "**dict(self.lent.values())}", "}"),
    Mutant("_ledger.py", "holds are not counted anew",
           "            region.holds = holds[region]\n", ""),
    Mutant("_ledger.py", "a descriptor that only one side knows stays kept",
           "            if ref.descriptor is not descriptor:\n                del self.kept[descriptor]\n", ""),
    Mutant("_ledger.py", "the descriptor of a file that is gone stays kept",
           "            if ref() is None:\n                ref.descriptor = None\n", ""),
    Mutant("_ledger.py", "a file goes on with a descriptor that is not kept",
           "            if file.ref.descriptor not in self.kept:\n                file.ref.descriptor = None\n", ""),
    Mutant("_region.py", "a store is let go before it has a token",
           "                self._name(store, died)  # before it is let go: so it is not lost, wherever that is cut short\n            self.store = None\n", "                self.store = None\n                self._name(store, died)\n            self.store = None\n"),
    Mutant("_system.py", "a descriptor belongs to nobody until its number is stored",
           "    descriptor.opened = opened\n", ""),
    Mutant("_cursor.py", "a move that is cut short leaves half of it",
           "        self._region = None  # as above\n", ""),
    Mutant("_buffer.py", "who goes through a buffer does not look whether it is the same",
           "            self._buffer._must_be(self.grid)\n", "            pass\n"),
    Mutant("_buffer.py", "a search fails where no handle is left",
           "        except LimitError:  # of handles; reading needs none\n", "        except LimitError:\n            raise\n"),
    Mutant("_buffer.py", "a cursor without a file begins the old one",
           "            if not cursor.is_associated():\n                return False\n", "            if not cursor.is_associated():\n                cursor = self._cursor or self\n"),
    Mutant("_buffer.py", "flags do not travel",
           "flags = (self._flags,) if self._flags else ()", "flags = ()"),
    Mutant("_manager.py", "a file is released by the names that the manager knows only",
           "chosen = {_alive(self._files.get(key))} if key else set()", "chosen = set()"),
    Mutant("_manager.py", "the manager stays busy after an error",
           "            self._over = self._ledger.memory > self._ledger.max_memory\n        self._busy = False\n", "            self._over = self._ledger.memory > self._ledger.max_memory\n"),
    Mutant("_manager.py", "nobody is told that the memory is over its limit",
           "            self._over = self._ledger.memory > self._ledger.max_memory\n", "            self._over = False\n"),
    Mutant("_manager.py", "what cursors hold now is not settled",
           "if self._inbox or self._uses or self._changed:", "if self._inbox or self._uses:",
           explained="every change of a hold is noted as a use as well"),
    Mutant("_manager.py", "what died is not settled",
           "if self._inbox or self._uses or self._changed:", "if self._uses or self._changed:"),
    Mutant("_manager.py", "a hold without the lock does not look whether memory is over its limit",
           "if self._over or store is None:", "if store is None:"),
    Mutant("_manager.py", "a try to hold an evicted region is a hit",
           "if self._over or store is None:", "if self._over:"),
    Mutant("_manager.py", "a window clipped at the old end of the file is held for the new one",
           "region.end >= window[2] and self.change", "self.change"),
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
    Mutant("_manager.py", "reading on by a descriptor is no use, though another was used under the lock",
           "            self._reading = -1  #", "            pass  #"),
    Mutant("_manager.py", "a cursor that moved on still holds",
           "                    released.append(own)", "                    pass"),
    Mutant("_manager.py", "a cursor that moved on without the lock does not hold",
           "                    self._ledger.take(region)\n                if own", "                    pass\n                if own"),
    Mutant("_manager.py", "a region that was evicted in the moment it was taken is held",
           "        self._changed[holder] = own\n        return False", "        return False"),
    Mutant("_manager.py", "letting go is not written down",
           "        self._changed[holder] = None\n", "        pass\n"),
    Mutant("_manager.py", "a hold without the lock that a cursor was not told of is forgotten",
           "return self._changed[holder] if holder in self._changed else self._known.get(holder)", "return self._known.get(holder)"),
    Mutant("_manager.py", "a hold under the lock that a cursor was not told of is forgotten",
           "return self._changed[holder] if holder in self._changed else self._known.get(holder)", "return self._changed.get(holder)"),
    Mutant("_manager.py", "letting go counts as a hit",
           "        self._pauses += 1\n\n    def untold", "\n    def untold"),
    Mutant("_manager.py", "what becomes idle over the limit stays",
           "        if released:\n            self._trim_locked()", ""),
    Mutant("_manager.py", "what becomes idle by hand over the limit stays",
           "            self._ledger.dismiss(region)\n            self._trim_locked()\n", "            self._ledger.dismiss(region)\n"),

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
           "                    self._run(self._unload_path_locked, where)\n", "                    pass\n"),
    Mutant("_manager.py", "a path that is not there unloads everything if it interrupts a call",
           "                    self._run(self._unload_path_locked, where)\n", "                    self._put_off_or_run(self._unload_path_locked, None, where)\n"),
    Mutant("_manager.py", "a file whose path leads elsewhere is not gone",
           "            file.gone = True\n", ""),
    Mutant("_manager.py", "a file that is there again is gone for ever",
           "        file.gone = False\n", ""),
    Mutant("_manager.py", "a file that is there again is found without a word: it stays gone",
           "file.written or file.gone or self._closed", "file.written or self._closed"),
    Mutant("_manager.py", "files are remembered for ever",
           "            del self._files[ref.key]", "            pass"),
    Mutant("_manager.py", "paths are remembered for ever",
           "                del self._paths[path]", "                pass"),
    Mutant("_manager.py", "a/b is taken for the folder of a/bc",
           'os.path.join(base, "") for base', "base for base"),
    Mutant("_source.py", "a descriptor may be closed while a window is mapped by it",
           "        descriptor.readers += 1\n", "        descriptor.readers += 0\n"),
    Mutant("_source.py", "what was opened is not verified",
           "        self.attempt(where, begin, end, file.verify, descriptor.number, descriptor.shared, begin, end, where)", "        pass"),
    Mutant("_source.py", "the descriptor of another file is left open",
           "                ledger.check_in(descriptor)\n                raise\n        return descriptor", "                globals().setdefault('_leak', []).append(descriptor)\n                raise\n        return descriptor"),
    Mutant("_source.py", "a buffer's flags are forgotten when it opens its file",
           "self._open_anew(where, begin, end, flags | client._flags)", "self._open_anew(where, begin, end, flags)"),
    Mutant("_manager.py", "a window that is mapped is given whatever the flags say",
           "            if flags:\n                ledger.check_in", "            if False:\n                ledger.check_in"),
    Mutant("_manager.py", "a closed manager maps",
           "    def _check_open_locked(self, where: Where) -> None:\n        if self._closed:", "    def _check_open_locked(self, where: Where) -> None:\n        if False:"),
    Mutant("_manager.py", "a manager that was closed meanwhile opens and keeps a file",
           "    def _try_opening_locked(self, client: Client) -> None:\n        self._check_open_locked(client._where)\n", "    def _try_opening_locked(self, client: Client) -> None:\n"),

    # Where the system refuses
    Mutant("_source.py", "any error evicts",
           "                if code not in _system.REFUSALS:\n                    if isinstance", "                if False:\n                    if isinstance"),
    Mutant("_source.py", "errors without a name stay so",
           "if isinstance(error, OSError) and error.filename is None:", "if False:"),
    Mutant("_source.py", "the most recently used goes when the system has run out",
           "ledger.evict(next(iter(ledger.idle)))", "ledger.evict(next(reversed(ledger.idle)))"),
    Mutant("_source.py", "maps go where descriptors are short, in vain",
           "elif ledger.idle and (_system.TRACKS_DESCRIPTOR or not short_of_descriptors):", "elif ledger.idle:"),
    Mutant("_source.py", "kept descriptors stay where descriptors are short",
           "if short_of_descriptors and ledger.kept:", "if False:"),
    Mutant("_source.py", "a file system that cannot map is an error",
           "if reads or self._backing != \"auto\" or error.errno not in _system.UNMAPPABLE:", "if True:"),
    Mutant("_source.py", "what cannot be mapped is read where maps were asked for",
           "if reads or self._backing != \"auto\" or error.errno not in _system.UNMAPPABLE:", "if reads or error.errno not in _system.UNMAPPABLE:"),
    Mutant("_source.py", "a file that cannot be mapped is tried again each time",
           "            file.reads = True\n", "            file.reads = self._backing == 'auto' and not file.maps\n"),
    Mutant("_manager.py", "looking at a file fails where the system has run out",
           "                if _system.code_of(error) not in _system.REFUSALS:\n                    raise\n                status", "                if True:\n                    raise\n                status"),
    Mutant("_manager.py", "a cold read fails where the system has run out",
           "                if _system.code_of(error) not in _system.REFUSALS:\n                    raise\n                again", "                if True:\n                    raise\n                again"),

    # Which descriptors are kept
    Mutant("_source.py", "a descriptor opened with flags of one cursor is kept for all",
           "not (descriptor.shared or flags or client._flags)", "not (descriptor.shared or client._flags)"),
    Mutant("_source.py", "a descriptor opened with flags of one buffer is kept for all",
           "not (descriptor.shared or flags or client._flags)", "not (descriptor.shared or flags)"),
    Mutant("_source.py", "a kept descriptor that was given up for want of another is kept again",
           "not (descriptor.shared or flags or client._flags)", "not (flags or client._flags)"),
    Mutant("_source.py", "a request with flags is served by the kept descriptor",
           "kept = None if flags else file.ref.descriptor", "kept = file.ref.descriptor"),
    Mutant("_source.py", "the kept descriptor is not used",
           "kept = None if flags else file.ref.descriptor", "kept = None"),
    Mutant("_source.py", "mapping does not say which flags its descriptor was opened with",
           "self.keep(client, descriptor, flags)", "self.keep(client, descriptor)"),
    Mutant("_source.py", "a descriptor is kept for a file that is mapped as a whole",
           "            if reads or 0 < self._window < file.size:\n", "            if True:\n"),
    Mutant("_source.py", "no descriptor is kept for a file that is mapped by windows",
           "            if reads or 0 < self._window < file.size:\n", "            if reads:\n"),
    Mutant("_source.py", "no descriptor is kept for a file that is read",
           "            if reads or 0 < self._window < file.size:\n", "            if 0 < self._window < file.size:\n"),
    Mutant("_source.py", "a use of a kept descriptor under the lock does not change the order",
           "            ledger.kept.move_to_end(descriptor)\n", "            pass\n"),
    Mutant("_source.py", "what is mapped gives no descriptor back",
           "        finally:\n            self._ledger.check_in(descriptor)", "        finally:\n            pass"),
    Mutant("_source.py", "a file that is gone is an error of the system's",
           "            if error.errno not in _system.GONE or (flags and error.errno in (errno.ELOOP, errno.ENOTDIR)):", "            if True:"),
    Mutant("_source.py", "a link that flags refuse is a file that changed",
           "error.errno not in _system.GONE or (flags and error.errno in (errno.ELOOP, errno.ENOTDIR))", "error.errno not in _system.GONE"),

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
           "            self._ledger.take(own)\n            self._known[holder] = own", "            pass"),
    Mutant("_manager.py", "a copied cursor does not hold",
           "        self._known[holder] = region\n        self._ledger.take(region)\n        return True", "        return True"),
    Mutant("_manager.py", "a window is held that was worked out before the file turned out to be only readable",
           "        if self._source.reads(client):  # as may have turned out only now\n", "        if False:  #\n"),
    Mutant("_manager.py", "a move under the limit forgets a view of what was read, where references are not counted",
           "        lent = own is not None and own.lent is not None\n", "        lent = False\n"),
    Mutant("_manager.py", "where memory is reclaimed late, what cursors held is not unmapped",
           "        if not _system.RECLAIMS_LATE:  # there", "        if True:  # there"),
    Mutant("_manager.py", "letting go by hand has no bound",
           "for _ in range(min(-change, region.holds)):", "for _ in range(-change):",
           explained="`Ledger.let_go` has the same bound: neither goes below none"),
    Mutant("_manager.py", "a region evicted by hand comes back",
           "        region.disown()\n", ""),
    Mutant("_manager.py", "mapping for a buffer evicts nothing",
           "        region = self._obtain_locked(client, key, begin, end)\n        ledger.trim(region)", "        region = self._obtain_locked(client, key, begin, end)"),
    Mutant("_manager.py", "a buffer that finds no handle keeps its map",
           "            ledger.evict(region)\n            raise self._no_handle(client)\n        return region", "            raise self._no_handle(client)\n        return region"),
    Mutant("_manager.py", "a view as long as a window makes one of its own",
           "long = 0 < self._window < end - begin", "long = 0 < self._window <= end - begin"),
    Mutant("_manager.py", "a view may be unmapped by close() of its map",
           "        region.lend_locked()\n        view = region.view", "        region.lent = region.lent or memoryview(b'')\n        view = memoryview(region.store)"),
    Mutant("_manager.py", "a cold read that came short gives fewer bytes",
           "                if len(data) == size:\n                    self._ledger.cold_reads", "                if True:\n                    self._ledger.cold_reads"),
    Mutant("_manager.py", "cold reads are not counted",
           "            self._ledger.cold_reads += 1\n            if not file.price:", "            if not file.price:"),
    Mutant("_manager.py", "cold reads without the lock are not counted",
           "                    self._ledger.cold_reads += 1\n                    return data", "                    return data"),
    Mutant("_manager.py", "a window is mapped at its first read",
           "if cold and _system.KEEPS_DESCRIPTORS and not (due and self._ledger.has_room(None)):", "if False:"),
    Mutant("_manager.py", "a cold window is never mapped",
           "if cold and _system.KEEPS_DESCRIPTORS and not (due and self._ledger.has_room(None)):", "if cold:"),
    Mutant("_manager.py", "no window is bought while another one of its number is in the way",
           "if file.price and (region is None or region.end < end or (region.store is None and not region.pins)):", "if file.price and region is None:"),
    Mutant("_manager.py", "a window that was clipped before the file grew is in the way of its purchase",
           "if file.price and (region is None or region.end < end or (region.store is None and not region.pins)):", "if file.price and (region is None or (region.store is None and not region.pins)):"),
    Mutant("_manager.py", "a window that was read, and is lent, is in the way of its purchase",
           "if file.price and (region is None or region.end < end or (region.store is None and not region.pins)):", "if file.price and (region is None or region.end < end):"),
    Mutant("_manager.py", "a window that was mapped, and is lent, is rented",
           "if file.price and (region is None or region.end < end or (region.store is None and not region.pins)):", "if file.price and (region is None or region.end < end or region.store is None):"),
    Mutant("_manager.py", "a cold read keeps no descriptor",
           "            self._source.keep(client, descriptor)\n            self._ledger.cold_reads", "            self._ledger.cold_reads"),
    Mutant("_manager.py", "a window that is to be mapped takes the last handle from what is held",
           "and not (due and self._ledger.has_room(None)):", "and not due:"),
    Mutant("_manager.py", "a map that was clipped before the file grew serves what is beyond",
           "cold = region is None or region.end < end or (", "cold = region is None or ("),
    Mutant("_manager.py", "the descriptor of a cold read is never checked in, on PyPy",
           "                    self._inbox.append(found)", "                    pass"),
    Mutant("_manager.py", "a window read instead of mapped is not aligned",
           "begin = max(begin, offset - offset % grain)", "begin = offset"),
    Mutant("_manager.py", "windows may be a quarter of the memory",
           "max_memory_size // 8 // unit", "max_memory_size // 4 // unit"),

    # Forking
    Mutant("_fork.py", "a forked child has the parent's locks",
           "        manager._lock = threading.RLock()\n", "        pass\n"),
    Mutant("_fork.py", "a fork does not wait for the lock",
           "if not lock.acquire(blocking=False):\n                break", "if not lock.acquire(blocking=False):\n                continue"),
    Mutant("_fork.py", "a manager made while the locks are taken is forgotten",
           "            if set(_registry) <= set(managers):\n", "            if True:\n"),
    Mutant("_fork.py", "locks are held while another one is waited for",
           "        _after_fork_in_parent()\n        under", "        under"),
    Mutant("_fork.py", "the parent's locks are held after the fork",
           "        _taken.pop().release()\n", "        _taken.pop()\n"),
    Mutant("_fork.py", "the parent can make no manager after the fork",
           "            _taken.append(lock)\n", "            _taken[:] = [*_taken, lock] if lock is not _registry_lock else _taken\n"),
    Mutant("_fork.py", "the child can make no manager",
           "    _registry_lock = threading.RLock()\n    for", "    for"),
    Mutant("_fork.py", "the child lets go what its parent took",
           "    _taken.clear()\n", ""),
    Mutant("_fork.py", "managers live for ever",
           "weakref.WeakSet()", "set()"),

    # Regions
    Mutant("_region.py", "an evicted region still gives its map away",
           "            self.store = None\n            if copies_only", "            if copies_only"),
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
           "                and region.begin <= offset < end <= self._high\n", "                and region.begin <= offset < end <= self._high + 1\n"),
    Mutant("_cursor.py", "a move within the region reaches before it",
           "                and region.begin <= offset < end <= self._high\n", "                and region.begin - 1 <= offset < end <= self._high\n"),
    Mutant("_cursor.py", "a move within the region reaches past the size that the client knows",
           "                and region.begin <= offset < end <= self._high\n", "                and region.begin <= offset < end <= region.end\n"),
    Mutant("_cursor.py", "a move within the region gets more than a window",
           "                and size <= self._most\n", ""),
    Mutant("_cursor.py", "a mapped window gives more than a window",
           "                        if size > most:\n                            end = offset + most\n", "",
           explained="a window is no longer than that: one that is asked for more does not serve, and the way with the lock answers"),
    Mutant("_cursor.py", "a mapped window gives more than the file",
           "                        if end > length:\n                            end = length\n", "",
           explained="what is asked for ends past the window, which ends with the file at most: the way with the lock answers"),
    Mutant("_cursor.py", "everything from here is less than half a window",
           "serves = high == length or offset + most // 2 <= high == found.begin + most", "serves = high == length or high == found.begin + most"),
    Mutant("_cursor.py", "everything from here ends where a window was clipped before the file grew",
           "serves = high == length or offset + most // 2 <= high == found.begin + most", "serves = high == length or offset + most // 2 <= high"),
    Mutant("_cursor.py", "everything from here reaches past the size that the client knows",
           "                    if high > length:\n                        high = length\n", ""),
    Mutant("_cursor.py", "after a move to a mapped window the range of the last one counts",
           "                        self._end = end\n                        self._high = high\n", "                        self._end = end\n"),
    Mutant("_cursor.py", "a window that was mapped serves past the size that the client knows",
           "        self._high = high\n        self._region = region\n        return self\n", "        self._high = region.end\n        self._region = region\n        return self\n"),
    Mutant("_cursor.py", "a window that was mapped gives what was asked for, also past window and file",
           "end = min(offset + min(size, self._most), high) if size else high", "end = offset + size if size else high"),
    Mutant("_cursor.py", "a region that was lost and found serves past the size that the client knows",
           "            self._region = None\n            self._high = high\n", "            self._region = None\n            self._high = region.end\n"),
    Mutant("_cursor.py", "a region that was lost and found serves as far as the last one did",
           "            self._region = None\n            self._high = high\n", "            self._region = None\n"),
    Mutant("_cursor.py", "a copied cursor serves past the size that its client knows",
           "rhs._end, rhs._high", "rhs._end, region.end"),
    Mutant("_cursor.py", "an evicted region is held on",
           "(found is region and found.store is not None) or", "found is region or"),
    Mutant("_cursor.py", "a copy of a cursor moves by windows of another manager",
           "        self._most = rhs._most\n", ""),
    Mutant("_cursor.py", "a region that was evicted is used on",
           "                    and region.store is not None\n                ):", "                ):"),
    Mutant("_cursor.py", "flags are ignored by a move within the region",
           "if type(offset) is type(size) is int and flags is _NO_FLAGS:", "if type(offset) is type(size) is int:"),
    Mutant("_cursor.py", "a mapped window that was clipped serves a longer request",
           "serves = end <= high", "serves = True"),
    Mutant("_cursor.py", "the byte past the end is in the file",
           "        if offset >= self._length:\n", "        if offset > self._length:\n"),
    Mutant("_cursor.py", "negative sizes are taken",
           "if offset < 0 or size < 0:", "if offset < 0:"),
    Mutant("_cursor.py", "negative sizes are taken where a window is mapped",
           "0 <= offset < self._length and size >= 0 and", "0 <= offset < self._length and"),
    Mutant("_cursor.py", "a negative offset is one of the seam windows",
           "if 0 <= offset < self._length and", "if offset < self._length and"),
    Mutant("_cursor.py", "an offset past the size that the client knows is in a mapped window",
           "if 0 <= offset < self._length and", "if 0 <= offset and"),
    Mutant("_cursor.py", "a cursor without a file fails in its own way",
           " and self._file is not None:\n                most", ":\n                most"),
    Mutant("_cursor.py", "a view begins with the region",
           "return view[self._begin - begin : self._end - begin]", "return view[: self._end - begin]"),
    Mutant("_cursor.py", "a view is one byte short",
           "return view[self._begin - begin : self._end - begin]", "return view[self._begin - begin : self._end - begin - 1]"),
    Mutant("_cursor.py", "a cursor that is collected holds for ever",
           "                manager.leave(id(self), region)\n\n    def __enter__", "                pass\n\n    def __enter__"),
    Mutant("_cursor.py", "letting go waits for the next call",
           "                manager.leave(id(self), region)\n                manager.settle()", "                manager.leave(id(self), region)"),
    Mutant("_cursor.py", "a hold that a collected cursor was not told of lasts for ever",
           "            region = region or manager.untold(id(self))\n            if region is not None:\n                manager.leave(id(self), region)\n\n", "            if region is not None:\n                manager.leave(id(self), region)\n\n"),
    Mutant("_cursor.py", "a hold that a closed cursor was not told of lasts for ever",
           "            region = region or manager.untold(id(self))\n            if region is not None:\n                manager.leave(id(self), region)\n                manager.settle()", "            if region is not None:\n                manager.leave(id(self), region)\n                manager.settle()"),
    Mutant("_cursor.py", "a copied cursor has another range",
           "self._high = region, rhs._begin, rhs._end, rhs._high", "self._high = region, rhs._begin, region.end, rhs._high"),
    Mutant("_cursor.py", "the end is part of the range",
           "return self._begin <= ofs < self._end", "return self._begin <= ofs <= self._end"),
    Mutant("_cursor.py", "a cursor whose region was evicted is valid",
           "return region is not None and (region.store is not None or self._is_lost())", "return region is not None"),
    Mutant("_cursor.py", "a cursor whose region was evicted in the moment it was taken is not valid",
           "return region is not None and (region.store is not None or self._is_lost())", "return region is not None and region.store is not None"),
    Mutant("_cursor.py", "the region that was evicted in the moment it was taken is given away",
           "return self._found_again() if self._is_lost() else self._region", "return self._region"),
    Mutant("_cursor.py", "a copy of a cursor whose region was evicted in the moment it was taken is not valid",
           "            and (self._manager.share(id(self), region) or rhs._is_lost())\n", "            and self._manager.share(id(self), region)\n"),
    Mutant("_cursor.py", "a region released by hand is mapped again",
           "            and region.is_owned()\n", ""),

    # Buffers
    Mutant("_buffer.py", "a buffer reaches past its file",
           "self._size = size = min(size, self._length - offset)", "self._size = size = min(size, self._length)"),
    Mutant("_buffer.py", "an offset at the end is in bounds",
           "(offset >= self._length and (offset or self._length))", "(offset > self._length)"),
    Mutant("_buffer.py", "a copy takes a window that was clipped before the file grew",
           "        if found is not None and end <= found.end:\n            store = found.hot\n", "        if found is not None:\n            store = found.hot\n"),
    Mutant("_buffer.py", "a closed buffer is ready",
           "        grid = self._grid\n        if grid is _CLOSED:\n", "        grid = self._grid\n        if False:\n"),
    Mutant("_buffer.py", "a read does not open the file that an unpickled buffer names",
           "        if self._grid is _UNOPENED:\n            self._open()\n        grid", "        grid"),
    Mutant("_buffer.py", "an index before the begin wraps around twice",
           "if not -size <= key < size:", "if not -size - 1 <= key < size:"),
    Mutant("_buffer.py", "the index of the size is in the buffer",
           "if not -size <= key < size:", "if not -size <= key <= size:"),
    Mutant("_buffer.py", "a slice by steps goes on past a window's border",
           "here = chosen[: -(-(end - chosen[0]) // chosen.step)]", "here = chosen[: (end - chosen[0]) // chosen.step + 1]"),
    Mutant("_buffer.py", "a slice backwards comes forwards",
           "return data[::-1] if backwards else data", "return data"),
    Mutant("_buffer.py", "flags are not looked at when a buffer begins",
           "            self._manager.try_opening(self)\n        if size", "            pass\n        if size"),
    Mutant("_buffer.py", "buffers are exported for writing",
           "        if flags & 1:\n", "        if False:\n"),
    Mutant("_buffer.py", "a pickle may name a descriptor",
           "        if not isinstance(path, (str, bytes)):\n", "        if False:\n"),
    Mutant("_buffer.py", "a pickle may name a range that no file has",
           "if not 0 <= index(offset) <= index(offset) + index(size) <= index(length) or size < 0:", "if False:"),
    Mutant("_buffer.py", "a file that changed since it was pickled is read",
           "if (client._length, file.mtime) != (self._length, mtime):", "if False:"),
    Mutant("_buffer.py", "a buffer that was closed while it opened is open",
           "        if self._mtime is None:\n            self.end_access()\n", ""),
    Mutant("_buffer.py", "closing leaves no word for the thread that opens the buffer just now",
           "        self._mtime = None  # a thread", "        # a thread"),
    Mutant("_buffer.py", "a file from the begin of 1970 is closed once it was unpickled",
           "        if self._mtime is None:\n            self.end_access()\n", "        if not self._mtime:\n            self.end_access()\n"),

    # Buffers that another thread closes, or gives another file, in the middle of a read
    Mutant("_buffer.py", "a copy made across a change of files is given",
           '            data = b"".join(pieces)\n        if self._grid is not grid:\n            self._must_be(grid)\n', '            data = b"".join(pieces)\n'),
    Mutant("_buffer.py", "what is read of two places of a file is given",
           "        if now[0] is not grid[0] or now[1:] != grid[1:]:", "        if now[0] is not grid[0]:"),
    Mutant("_buffer.py", "a slice made across a change of files is given",
           "range(start, stop, step))\n        if self._grid is not grid:\n            self._must_be(grid)\n", "range(start, stop, step))\n"),
    Mutant("_buffer.py", "what is read of two files is given",
           "        if now[0] is not grid[0] or now[1:] != grid[1:]:", "        if now[1:] != grid[1:]:"),
    Mutant("_buffer.py", "a buffer that two threads open at once is refused to one of them",
           "        if now[0] is not grid[0] or now[1:] != grid[1:]:", "        if now is not grid:"),
    Mutant("_buffer.py", "a view of bounds that were of another file is given",
           'memoryview(b"")\n        if self._grid is not grid:\n            self._must_be(grid)\n', 'memoryview(b"")\n'),
    Mutant("_buffer.py", "a view mapped across a change of files is given",
           "stop + offset)  # type: ignore[union-attr]\n        if self._grid is not grid:\n            self._must_be(grid)\n", "stop + offset)  # type: ignore[union-attr]\n"),
    Mutant("_buffer.py", "a view goes past the end of a file that was changed for a shorter one",
           "        if stop > size:\n            raise self._swapped()\n        view", "        view"),
    Mutant("_buffer.py", "what was read into a target across a change is given",
           "                    piece = data.view(low, high)\n", "                    piece = self.view(low, high)\n"),
    Mutant("_buffer.py", "a window mapped across a change of files is given",
           "            return self._copy(low, high), low, high\n        if self._grid is not grid:\n            self._must_be(grid)\n", "            return self._copy(low, high), low, high\n"),
    Mutant("_buffer.py", "a window is mapped past the end of a file that was changed for a shorter one",
           "        if start >= size:\n            raise self._swapped()\n", ""),
    Mutant("_buffer.py", "a copy goes past the end of a file that was changed for a shorter one",
           "            raise self._swapped()\n        position, end = start + offset, stop + offset", "            pass\n        position, end = start + offset, stop + offset"),
    Mutant("_buffer.py", "a buffer that was closed is quick to find its last window",
           "        if self._grid is not grid or regions.get(region.key) is not region:", "        if regions.get(region.key) is not region:"),
    Mutant("_buffer.py", "a window of the file that a buffer had is quick to be found",
           "        if self._grid is not grid or regions.get(region.key) is not region:", "        if self._grid is not grid:"),
    Mutant("_manager.py", "what is opened without the lock is not verified",
           "            file.verify(descriptor.number, False, begin, end, where)\n            data", "            data"),
    Mutant("_manager.py", "what was opened without the lock and is not kept is left open",
           "            if descriptor is not None and not descriptor.shared:\n                descriptor.close()\n", "            globals().setdefault('_leak', []).append(descriptor)\n"),
    Mutant("_manager.py", "what is opened with flags of a client's own is kept for all",
           "        if not (flags or self._closed):", "        if not self._closed:"),
    Mutant("_manager.py", "what was opened when the manager was closed is kept",
           "        if not (flags or self._closed):", "        if not flags:"),
    Mutant("_manager.py", "a closed manager opens files",
           "not _system.KEEPS_DESCRIPTORS or self._closed:", "not _system.KEEPS_DESCRIPTORS:"),
    Mutant("_manager.py", "what the system refuses without the lock is final",
           "            if isinstance(error, SmmapError) or not _system.code_of(error):  # or", "            if True:  # or"),
    Mutant("_manager.py", "a signal's exception in a cold read is taken for a refusal",
           "            if isinstance(error, SmmapError) or not _system.code_of(error):  # or", "            if isinstance(error, SmmapError):  # or"),
    Mutant("_manager.py", "a cold read that opens is not counted",
           "        self._ledger.cold_reads += 1\n        if not (flags", "        if not (flags"),
    Mutant("_manager.py", "a cold read that opens keeps nothing",
           "            self._ledger.keep(descriptor, file)\n\n    # Windows", "            pass\n\n    # Windows"),
    Mutant("_manager.py", "a descriptor that is read from without the lock is not used last",
           "            self._ledger.kept.move_to_end(descriptor)  # a", "            pass  # a"),
    Mutant("_file.py", "a file that grew keeps the price of its windows",
           "            self.price = 0  # it depends on the size\n", ""),
    Mutant("_buffer.py", "a cold slice across a change of files is given",
           "                            if self._grid is not grid:\n                                self._must_be(grid)\n", ""),
    Mutant("_buffer.py", "a cold slice goes past its window",
           "                        if end <= (number + 1) * window:\n", "                        if True:\n"),
    Mutant("_buffer.py", "an index from the end across a change of files is given",
           "        byte = self[key % size]\n        if self._grid is not grid:\n            self._must_be(grid)\n", "        byte = self[key % size]\n"),
    Mutant("_buffer.py", "a slice takes a window that was clipped before the file grew",
           "                    elif end <= found.end:  # as", "                    else:  # as"),
    Mutant("_buffer.py", "a view takes a window that was clipped before the file grew",
           "                if found is not None and end <= found.end:\n                    if found.hot", "                if found is not None:\n                    if found.hot"),
    Mutant("_buffer.py", "views one after the other go on with another file",
           "            view = self.view(start, end)\n            if self._grid is not grid:\n                self._must_be(grid)\n", "            view = self.view(start, end)\n"),
    Mutant("_source.py", "a kept descriptor is trusted where windows are read",
           "        if kept is None or not _system.MAP_LOOKS or self.reads(client):", "        if kept is None or not _system.MAP_LOOKS:",
           "What comes short is refused by who reads it, and a new client looks for itself whether the file was written to."),
    Mutant("_source.py", "a new descriptor is not verified",
           "        if kept is None or not _system.MAP_LOOKS or self.reads(client):", "        if not _system.MAP_LOOKS or self.reads(client):"),
    Mutant("_source.py", "a map past the end is told without the file's size",
           "            self._verify(client, file, descriptor, begin, end)\n            raise F", "            raise F"),
    Mutant("_cursor.py", "everything from here on, in a region that is not the rule's",
           "region.key == offset // self._most and region.store", "region.store"),
    Mutant("_cursor.py", "everything from here on, before the file's begin",
           "                if 0 <= offset < high and (", "                if offset < high and ("),
    Mutant("_cursor.py", "everything from here on, at the region's end",
           "                if 0 <= offset < high and (", "                if 0 <= offset <= high and ("),
    Mutant("_cursor.py", "everything from here on is less than half a window, in the region held",
           "or offset + self._most // 2 <= high == region.begin + self._most", "or high == region.begin + self._most"),
    Mutant("_cursor.py", "everything from here on ends where the region held was clipped before the file grew",
           "or offset + self._most // 2 <= high == region.begin + self._most", "or offset + self._most // 2 <= high"),
    Mutant("_cursor.py", "everything from here on, in a region that was evicted",
           "            elif region is not None and region.key == offset // self._most and region.store is not None:", "            elif region is not None and region.key == offset // self._most:"),
    Mutant("_buffer.py", "a window that is all of a buffer's last file is not forgotten",
           "            self._whole = _NO_REGION\n            self._near = _NOT_NEAR\n\n    # Zero", "            self._near = _NOT_NEAR\n\n    # Zero"),
    Mutant("_buffer.py", "a part of a window of a buffer's last file is not forgotten",
           "            self._whole = _NO_REGION\n            self._near = _NOT_NEAR\n\n    # Zero", "            self._whole = _NO_REGION\n\n    # Zero"),

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
           '            return _owned(map(os.open, (f"/proc/self/fd/{where}",), (_OPENING | flags,)))\n', "            return _owned(iter((where,)))\n"),
    Mutant("_system.py", "where it cannot be opened anew, the user's own descriptor is read, and closed",
           "    return _owned(map(os.dup, (where,)))\n", "    return _owned(iter((where,)))\n"),
    Mutant("_system.py", "the user's descriptor is only duplicated: its locks, flags and right to write are shared",
           "    if _REOPENS:\n", "    if False:\n"),
    Mutant("_system.py", "a descriptor that cannot be opened anew is an error",
           "            if error.errno in REFUSALS:\n                raise", "            if True:\n                raise"),
    Mutant("_system.py", "where descriptors are short, a descriptor is duplicated instead of making room",
           "            if error.errno in REFUSALS:\n                raise", "            pass"),
    Mutant("_system.py", "flags are not for a descriptor of the user's",
           '(f"/proc/self/fd/{where}",), (_OPENING | flags,)', '(f"/proc/self/fd/{where}",), (_OPENING,)'),
    Mutant("_system.py", "what one holds, others hold",
           "count(store) > _REFERENCES_OF_ONE_CALLER", "count(store) >= _REFERENCES_OF_ONE_CALLER"),
    Mutant("_system.py", "what a view holds, nobody holds",
           "count(store) > _REFERENCES_OF_ONE_CALLER", "count(store) > _REFERENCES_OF_ONE_CALLER + 9"),
    Mutant("_system.py", "where references are not counted, nothing is held",
           "return unknown if count is None", "return False if count is None"),
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
           "        if not self.closes_itself:\n            self.close()", "        self.close()"),
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
    parser.add_argument(
        "-k", nargs="+", default=[""], metavar="WORD", help="only mutants whose file or reason has one of them"
    )
    parser.add_argument("-n", nargs="+", type=int, default=[], metavar="N", help="only those of these numbers, from 1")
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
    chosen = [
        mutant
        for number, mutant in enumerate(MUTANTS, 1)
        if (not options.n or number in options.n)
        and any(word in mutant.file or word in mutant.reason for word in options.k)
    ]
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
            number = MUTANTS.index(mutant) + 1
            print(f"{verdict:9} {outcome.seconds:5.0f} s  {number:3} {mutant.file:11} {mutant.reason}", flush=True)
            print(f"{'':24}{outcome.by or mutant.explained}", flush=True)
            if outcome.killed:
                killed += 1
            else:
                (explained if mutant.explained else survived).append(mutant)
    print(f"{killed} killed, {len(explained)} explained, {len(survived)} survived")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
