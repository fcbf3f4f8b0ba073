"""Makes wrong changes to the policy and the plain engine, one at a time, and checks that a test fails: `make mutants`.

Each mutant is an exact piece of code, which must be found exactly once in all core modules, and its replacement in a
copy of the sources in a temporary folder. The tests named for it run there, and stop at the first
failure. A mutant that survives must be explained beside it; if it is not, the exit status is 1, as it is if a piece
is no longer found, or is found twice.

    python tools/mutants.py                     all of them, two at a time
    python tools/mutants.py -k seam descriptor  those whose module or reason has one of the words
    python tools/mutants.py -n 3 17             the third and the 17th; each run prints the numbers
    python tools/mutants.py --list              only check that each piece is found once
    python tools/mutants.py --despite-failures  leave out the tests that fail without a mutant

Each mutant breaks one promise, and no other mutant implies it. `make mutation` generates more mutants, for the lines of
a change.
"""

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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ["src", "tests", "pyproject.toml"]
ENVIRONMENT = {**os.environ, "SMMAP_ENGINE": "plain", "SMMAP_STRESS_SECONDS": "0"}


class Mutant(NamedTuple):
    """A wrong change."""

    tests: str
    """The tests that have to notice it: files below `tests`, without `test_` and `.py`."""
    reason: str
    """What is wrong with it."""
    old: str
    new: str
    explained: str = ""
    """If no test can notice it: why not."""


# fmt: off
# ruff: noqa: E501 - pieces of code are written as they are in the sources
MUTANTS = [
    # Which window serves a request
    Mutant("core/window engine/windows", "windows are rounded to one granule: no map can start at half of one",
           "return -(-size // (2 * granule)) * (2 * granule)",
           "return -(-size // granule) * granule"),
    Mutant("core/window core/contract", "a request that reaches one byte past the border is in the grid window",
           "if stop <= start + window:",
           "if stop <= start + window + 1:"),
    Mutant("core/window core/contract", "a request that starts before the seam window is in it",
           "if offset >= start and stop <= start + window:",
           "if stop <= start + window:"),
    Mutant("core/window core/contract", "seam windows have the keys of grid windows",
           "return Window(~number, start,",
           "return Window(number, start,"),
    Mutant("core/window core/contract", "wide windows start unaligned",
           "    start = offset - offset % granule\n    return Window((start, stop), start, stop)\n\n\ndef within",
           "    start = offset\n    return Window((start, stop), start, stop)\n\n\ndef within"),
    Mutant("core/window core/contract", "size 0 asks for a quarter of a window",
           "min(size or window // 2, window)",
           "min(size or window // 4, window)"),
    Mutant("core/eviction core/errors core/files", "what has to be read is read as a whole window",
           "return within(offset, min(size, self._window or size, client.size - offset), client.size)",
           "return window"),

    # Which region goes
    Mutant("core/eviction engine/table_and_order", "a use does not change the order: first in, first out",
           "self._items.move_to_end(key)",
           "self._items[key]"),
    Mutant("core/eviction core/limits", "one region more than needed is evicted for a new one",
           "while ledger.mapped + len(self.open) > most or",
           "while ledger.mapped + len(self.open) >= most or"),
    Mutant("core/eviction core/limits", "the memory limit is kept only after a region was mapped",
           "        self.trim(None, size, 1)\n        while",
           "        self.trim(None, 0, 1)\n        while"),
    Mutant("core/eviction core/limits", "regions go before descriptors",
           "            elif len(self.open) and ledger.mapped + len(self.open) > most:\n",
           "            elif len(self.open) and not len(self.idle):\n"),
    Mutant("core/eviction", "what was used last goes for itself",
           "elif len(self.idle) > keep:",
           "elif len(self.idle):"),
    Mutant("core/eviction", "a pinned region larger than the limit evicts all others in vain",
           "if memory < 0 or (pinned is not None and pinned.stop - pinned.start > memory):",
           "if memory < 0:"),
    Mutant("core/eviction core/limits", "a region that becomes idle over the limit stays",
           "self.idle.crowded = self.closed or ledger.memory > self.max_memory or",
           "self.idle.crowded = self.closed or"),
    Mutant("core/files core/overlay core/ledger", "what becomes idle of a file that was replaced stays mapped",
           "if region is not None and (self._closed or region.file.gone):",
           "if region is not None and self._closed:"),
    Mutant("core/eviction core/ledger", "a detached region that is used again stays detached",
           "            self._cache.use(region)\n            self._cache.trim(",
           "            self._cache.trim("),
    Mutant("core/eviction engine/cursors", "a pinned region stays in the order of idle ones",
           "        access.idle.remove(region.entry)\n",
           ""),
    Mutant("core/eviction core/errors", "the hard handle limit is exceeded by one",
           "while self.limits.hard and self.ledger.mapped >= self.limits.handles:",
           "while self.limits.hard and self.ledger.mapped > self.limits.handles:"),
    Mutant("core/eviction core/limits core/errors", "the system's default limits are refusals",
           "while self.limits.hard and self.ledger.mapped >= self.limits.handles:",
           "while self.ledger.mapped >= self.limits.handles:"),
    Mutant("core/eviction core/errors", "a move cannot have the place of the cursor's own region",
           "if cursor._use[0] is None or users_of(cursor._use[0], cursor) or not (full or short):",
           "if True:"),
    Mutant("core/eviction core/errors", "a failed move loses the cursor's region",
           "                cursor._pin(self._obtain(client, window), start, stop)\n",
           "                pass\n"),

    # What is counted
    Mutant("core/ledger engine/ledger", "a region that died is still counted",
           "if self._living.pop(entry.serial, None) is not None:",
           "if self._living.get(entry.serial, None) is not None:"),
    Mutant("core/ledger engine/ledger", "a region that died stays in its file's table",
           "            entry.table.remove(entry)\n",
           ""),
    Mutant("engine/ledger engine/table_and_order", "the death of a region removes its successor from the table",
           "if self.get(entry.key) is entry:",
           "if entry.key in self:"),
    Mutant("core/ledger", "cold reads are not counted",
           "        self._cache.open.touch(client.file, 1)\n",
           ""),
    Mutant("core/ledger", "the peak is what is mapped now",
           "self.peak_memory = max(self.peak_memory, self.memory)",
           "self.peak_memory = self.memory"),

    # Pins
    Mutant("core/ledger core/lifetime engine/cursors", "a cursor that moves on does not unpin its region",
           "if own is not None and own is not region:",
           "if own is None:"),
    Mutant("core/ledger core/lifetime", "a cursor that dies does not unpin its region",
           "        if use is not None and use[0] is not None:\n            self._let_go(use[0])\n\n    def _move",
           "        pass\n\n    def _move"),
    Mutant("core/ledger engine/cursors engine/regions", "the first of several cursors that unpins a region makes it idle",
           "if self.pinned_by or (PYPY and self.closed) or self.entry() is None:",
           "if (PYPY and self.closed) or self.entry() is None:"),
    Mutant("core/lifetime core/errors core/ledger", "closing a manager leaves cursors their regions",
           "revoked = sum(map(self._revoke, self._cache.regions())) if self._closed else 0",
           "revoked = 0"),
    Mutant("compat/names core/lifetime", "a copy of a cursor pins nothing",
           "        if use[0] is not None:\n            self._pin(*use)\n",
           "        self._use = use\n"),

    # Files: which one a name means, and whether it changed
    Mutant("core/files core/overlay", "a new client takes the old version of a file that was written to",
           "if file is None or file.status != status or file.cut:",
           "if file is None or file.cut:"),
    Mutant("core/files core/overlay", "a file that is known is taken to be unchanged",
           "if file is None or file.gone or not engine.unchanged(where, file.status):",
           "if file is None or file.gone:"),
    Mutant("core/files core/errors", "what is opened later is not verified",
           "    if now.key != then.key:\n        what",
           "    return\n    if now.key != then.key:\n        what"),
    Mutant("core/files core/overlay", "a file of the same size and age that got the same inode number is taken for it",
           "if (generation and generation == file.generation) or not all(reads):",
           "if True:"),
    Mutant("core/files core/errors core/ledger", "a file that was replaced stays mapped until a limit is met",
           "                self._gone_from(where)\n            files.call",
           "                pass\n            files.call"),
    Mutant("core/cost core/files", "a file keeps each name that it ever had",
           "if len(ref.names) > _MOST_NAMES:",
           "if False:"),
    Mutant("core/files", "releasing a folder releases its neighbours of a longer name",
           'folders = tuple(os.path.join(name, "") for name in names)',
           "folders = tuple(names)"),
    Mutant("core/files core/errors", "a short read of a file that was truncated is returned",
           "        if len(data) < stop - start:\n            raise",
           "        if not data:\n            raise"),

    # Descriptors
    Mutant("engine/descriptors core/limits", "a descriptor that is closed stays open",
           "        if not self._users:\n            _close_held(self._held)\n\n    def __del__",
           "\n    def __del__"),
    Mutant("engine/descriptors core/threads", "a descriptor is closed while a thread reads by it",
           "        self.closed = True\n        if not self._users:\n",
           "        self.closed = True\n        if True:\n"),
    Mutant("core/limits core/eviction", "more descriptors are cached than the limits leave room for",
           "        while len(self.open) >= room:\n            self.uncache(self.open.oldest())\n",
           ""),
    Mutant("core/eviction core/limits", "the descriptor of the file read longest ago is not the first to go",
           "                ledger.open.touch(file)\n",
           ""),
    Mutant("core/errors", "a descriptor opened with a client's own flags is cached for all",
           "if not (flags or client.flags or self._closed):",
           "if not self._closed:"),

    # When a cold window is mapped
    Mutant("core/rents", "a window is bought one read too late",
           "bought = rent >= price",
           "bought = rent > price"),
    Mutant("core/rents", "rents are remembered for ever",
           "        if len(young) > patience:\n            self._old = young\n",
           "        if False:\n            self._old = young\n"),
    Mutant("core/rents engine/buffers", "the windows of all files pay into one account",
           "        window = file.serial + start // access.window\n        due =",
           "        window = start // access.window\n        due ="),
    Mutant("core/errors core/limits", "a copy fails where there is no room for a region",
           "            if isinstance(error, FileChangedError) or error.errno is None:\n                raise",
           "            if isinstance(error, OSError):\n                raise"),

    # The lock
    Mutant("core/locks", "a finalizer may use the manager that it interrupted",
           "        if not rlock._is_owned():\n            try:\n                if may_wait",
           "        if True:\n            try:\n                if may_wait"),
    Mutant("core/locks", "a finalizer may wait for another manager",
           "return outer is None or not outer._is_owned()",
           "return True"),
    Mutant("core/locks core/threads", "what was noted while the lock was taken waits for the next operation",
           "if self._notes:  # of calls that did not wait in the meantime",
           "if False:"),
    Mutant("core/locks core/interrupts", "a note is forgotten if an exception cuts it short",
           "operation, args = notes[0]\n            operation(*args)\n            del operation, args\n            notes.popleft()",
           "operation, args = notes.popleft()\n            operation(*args)\n            del operation, args"),
    Mutant("core/locks stress/processes", "a fork copies a manager in the middle of an operation",
           "os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)",
           "os.register_at_fork(after_in_parent=_after_fork_in_parent)"),
    Mutant("core/locks core/lifetime", "a forked child inherits locks that nobody will release",
           "        lock._rlock = threading.RLock()\n\n\nif",
           "        pass\n\n\nif"),

    # Buffers, cursors, searches
    Mutant("core/buffer engine/buffers", "an index is relative to the file, not to the buffer",
           "position = key + access.offset",
           "position = key"),
    Mutant("core/buffer engine/buffers", "a slice that reaches past its region comes out short",
           "                    and end <= region.clear\n                    and (stop - start",
           "                    and (stop - start"),
    Mutant("core/threads core/buffer", "a buffer that is opened late by two threads is given two files",
           "        if buffer._access is old:\n            buffer._access = new",
           "        buffer._access = new"),
    Mutant("core/buffer", "a buffer started again meanwhile is gone through as if it were the same",
           "        if not (grown and now.client.file.status.key == access.client.file.status.key):\n",
           "        if not grown:\n"),
    Mutant("core/refresh", "a file of which nothing was open is taken for the same one, whatever has its number now",
           "    elif pins or WINDOWS or (then.generation and then.generation == _generation(number)):\n        return\n",
           "    elif True:\n        return\n"),
    Mutant("core/refresh", "older clients of a file that was refreshed learn that it has grown",
           "            manager._lock.run(_note, manager, then, now.file)\n",
           "            pass\n"),
    Mutant("core/contract engine/cursors", "a move past the end of the file keeps the region",
           "        if offset >= client.size:\n            self.unuse_region()\n",
           "        if offset >= client.size:\n"),
    Mutant("core/contract engine/cursors", "a move past the end of a file stays in its last region",
           "(stop <= found.stop or found.stop == file_size > offset)",
           "(stop <= found.stop or found.stop == file_size)"),
    Mutant("core/buffer", "a needle across a border is missed by find",
           "        low = max(start, stop - size + 1)\n",
           "        low = max(start, stop - size + 2)\n"),
    Mutant("core/buffer", "matches that start in the tail of a piece are counted twice or never",
           "start = stop - min(len(between[-1]), len(needle) - 1)",
           "start = stop - len(needle) + 1"),
    Mutant("core/buffer faces/buffers", "a long match is cut without an error",
           "            if stop == high != end:\n",
           "            if False:\n"),
]
# fmt: on


class Outcome(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    killed: bool
    by: str
    """The first test that failed."""
    seconds: float


def modules(root: Path) -> dict[str, str]:
    """The text of each core module, the modules of the engine among them, by its path below `smmap`."""
    package = root / "src" / "smmap"
    found = [*package.glob("_*.py"), *(package / "_engine").glob("*.py")]
    return {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in sorted(found)}


def module_of(mutant: Mutant, texts: dict[str, str]) -> str:
    """The module that has the piece; `LookupError` unless it is found exactly once."""
    counts = {name: text.count(mutant.old) for name, text in texts.items() if mutant.old in text}
    if sum(counts.values()) != 1:
        raise LookupError(f"found {counts or 'nowhere'}: {mutant.reason}\n{mutant.old}")
    return next(iter(counts))


def files_of(mutants: Iterable[Mutant]) -> list[str]:
    """The test files that are named for them, each once."""
    names = dict.fromkeys(name for mutant in mutants for name in mutant.tests.split())
    return [f"tests/{folder}/test_{name}.py" for folder, _, name in (name.partition("/") for name in names)]


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A temporary copy of sources and tests, without the fast engine."""
    folder = Path(tempfile.mkdtemp(prefix="smmap-mutant-"))
    try:
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(
                    root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
                )
            else:
                shutil.copy(root / name, folder / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(folder: Path, tests: Sequence[str], seconds: float, *options: str) -> tuple[int, list[str], str]:
    """The exit status of pytest (124 when the time was up), the tests that failed, and its last line."""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(folder / "src"), "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "h")}
    common = ["-q", "--tb=no", "-p", "no:cacheprovider", "-rfE", f"--basetemp={folder / 'tmp'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *common, *options, *tests],
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
            return 124, [], "the time limit"
    failed = re.findall(r"^(?:FAILED|ERROR) (tests/\S+(?: \S+)*?)(?: - .*)?$", out, re.MULTILINE)
    return process.returncode, failed, (out.strip().splitlines() or ["nothing was said"])[-1]


def outcome_of(mutant: Mutant, root: Path, seconds: float, left_out: Sequence[str]) -> Outcome:
    """Make the change in a copy, and run the tests."""
    start = time.monotonic()
    with copy_of(root) as folder:
        path = folder / "src" / "smmap" / module_of(mutant, modules(root))
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        options = ["-x", *(f"--deselect={name}" for name in left_out)]
        status, failed, last = run_tests(folder, files_of([mutant]), seconds, *options)
    return Outcome(mutant, status != 0, failed[0] if failed else last, time.monotonic() - start)


def baseline(mutants: Sequence[Mutant], root: Path, seconds: float) -> list[str]:
    """What fails without any mutant."""
    with copy_of(root) as folder:
        where = subprocess.run(
            [sys.executable, "-c", "import smmap; print(smmap.__file__)"],
            env={**ENVIRONMENT, "PYTHONPATH": str(folder / "src")},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if not where.startswith(str(folder)):
            return [f"tests would run on {where.strip()}"]
        status, failed, last = run_tests(folder, files_of(mutants), seconds)
        return failed or ([last] if status else [])


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", nargs="+", default=[""], metavar="WORD", help="only mutants that have one of the words")
    parser.add_argument("-n", nargs="+", type=int, default=[], metavar="N", help="only those of these numbers, from 1")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="so many at a time (2)")
    parser.add_argument("--seconds", type=float, default=300, help="the time limit of one run of the tests (300)")
    parser.add_argument("--list", action="store_true", help="only check that each piece is found once")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutant first")
    parser.add_argument("--despite-failures", action="store_true", help="leave out tests that fail without a mutant")
    return parser.parse_args()


def run(options: argparse.Namespace, root: Path) -> int:
    """Run the mutants that were chosen; the exit status."""
    texts = modules(root)
    wrong = []
    places = {}
    for mutant in MUTANTS:
        try:
            places[mutant] = module_of(mutant, texts)
        except LookupError as error:
            wrong.append(str(error))
    if wrong:
        print(*wrong, f"{len(wrong)} of {len(MUTANTS)} pieces have to be looked at", sep="\n")
        return 1
    chosen = [
        mutant
        for number, mutant in enumerate(MUTANTS, 1)
        if (not options.n or number in options.n)
        and any(word in places[mutant] or word in mutant.reason for word in options.k)
    ]
    print(f"{len(chosen)} of {len(MUTANTS)} mutants, {sum(bool(one.explained) for one in chosen)} of them explained")
    if options.list:
        return 0
    left_out: list[str] = []
    if not options.no_baseline:
        left_out = baseline(chosen, root, 3 * options.seconds)
        if left_out:
            print(*(f"without a mutant: {name}" for name in left_out), sep="\n", flush=True)
            if not options.despite_failures:
                return 1
    counts = dict.fromkeys(("killed", "explained", "SURVIVED"), 0)
    with ThreadPoolExecutor(options.j) as pool:
        for outcome in pool.map(lambda one: outcome_of(one, root, options.seconds, left_out), chosen):
            mutant = outcome.mutant
            verdict = "killed" if outcome.killed else "explained" if mutant.explained else "SURVIVED"
            counts[verdict] += 1
            number = MUTANTS.index(mutant) + 1
            print(f"{verdict:9} {outcome.seconds:4.0f} s  {number:3} {places[mutant]:17} {mutant.reason}", flush=True)
            print(f"{'':22}{outcome.by if outcome.killed else mutant.explained or mutant.tests}", flush=True)
    print(*(f"{count} {verdict}" for verdict, count in counts.items()), sep=", ")
    return bool(counts["SURVIVED"])


def main() -> int:
    options = parsed()
    with copy_of(ROOT) as root:  # so that nobody changes it meanwhile
        return run(options, root)


if __name__ == "__main__":
    sys.exit(main())
