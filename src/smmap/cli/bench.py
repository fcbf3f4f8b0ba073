"""`smmap bench`: the same reads by every contender, one contender after the other, timed, checked and watched.

The reads are made in batches. Only the reads themselves are timed; between batches the system's figures are
taken, and every byte of the batch is compared with a plain read of the file.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random
from time import perf_counter_ns
from typing import Any, NamedTuple, Union

from .. import SlidingWindowMapBuffer, SlidingWindowMapManager
from .contenders import (
    CachedPread,
    Contender,
    KeptMemmap,
    KeptMmap,
    OpenRead,
    PlainMmap,
    Reader,
    SmmapBuffer,
    SmmapCursor,
    SmmapGather,
)
from .files import Found
from .plan import Read, make_plan
from .system import NOTHING, Usage, usage

__all__ = ["Outcome", "Result", "Settings", "few_descriptors", "run", "steps"]

BATCHES = 64  # a run is watched at least so often
BATCH_BYTES = 16 << 20  # the most bytes kept at a time, so that results do not count as memory growth

Step = Callable[[str], None]
Got = Union[bytes, Exception]
FAILURES = (OSError, ValueError, MemoryError)  # ValueError: mmap of a file that is now empty or shorter


class Settings(NamedTuple):
    """The settings of a run; -1, 0 and `sys.maxsize` leave a limit to the manager."""

    window: int = -1
    memory: int = 0
    handles: int = sys.maxsize
    reads: int = 50_000
    size: int = 4096
    pattern: str = "zipf"
    threads: int = 1
    seed: int = 0
    files: int = 2000


@dataclass
class Result:
    """The figures of one contender. `stats` are those of its manager, if it uses one."""

    name: str
    reads: int = 0
    nanoseconds: int = 0
    wrong: int = 0
    stopped: str = ""
    peak: Usage = NOTHING
    stats: Any = None
    batched: bool = False

    @property
    def ns_per_read(self) -> float | None:
        return self.nanoseconds / self.reads if self.reads else None


@dataclass
class Outcome:
    """All figures of a run."""

    settings: Settings
    found: Found
    files_read: int
    bytes_read: int
    descriptors: int
    """The soft limit of descriptors that the run had."""
    changed: list[str]
    results: list[Result]

    @property
    def wrong(self) -> int:
        return sum(result.wrong for result in self.results)

    @property
    def good(self) -> bool:
        """Whether there was no wrong read, and smmap completed all reads."""
        return not self.wrong and not any(result.stopped for result in self.results if result.stats)


def contenders(settings: Settings) -> list[Contender]:
    """One of each kind that this platform supports; those of smmap have a manager each."""

    def manager() -> SlidingWindowMapManager:
        return SlidingWindowMapManager(settings.window, settings.memory, settings.handles)

    every: list[Contender] = [SmmapBuffer(manager()), SmmapCursor(manager())]
    if hasattr(SlidingWindowMapBuffer, "gather"):
        every.append(SmmapGather(manager()))
    every += [PlainMmap(), KeptMmap()]
    try:
        every.append(KeptMemmap())
    except ImportError:
        pass
    every.append(OpenRead())
    if hasattr(os, "pread"):
        handles = manager().max_file_handles()
        every.append(CachedPread(min(handles, _descriptors() // 2), settings.threads))
    return every


def _descriptors() -> int:
    """How many descriptors this process may have."""
    try:
        import resource
    except ImportError:
        return 512
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


@contextmanager
def few_descriptors(most: int = 1024) -> Iterator[None]:
    """A soft limit of descriptors as on most systems, so that contenders that keep one per file reach it."""
    try:
        import resource
    except ImportError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft <= most:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def run(found: Found, settings: Settings, step: Step = lambda name: None) -> Outcome:
    """Read, time, check and watch; `step` is called with the contender's name after each batch."""
    chosen = found.files
    if len(chosen) > settings.files:
        chosen = sorted(Random(settings.seed).sample(chosen, settings.files))
    plan = make_plan(chosen, settings.pattern, settings.reads, settings.size, settings.seed)
    with ThreadPoolExecutor(settings.threads) as pool:
        bench = _Bench(found, settings, pool)
        plan, unreadable = bench.warm(plan, step)
        results = [bench.turn(contender, plan, step) for contender in contenders(settings)] if plan else []
    return Outcome(
        settings=settings,
        found=found._replace(unreadable=found.unreadable + unreadable),
        files_read=len({path for path, _, _ in plan}),
        bytes_read=sum(size for _, _, size in plan),
        results=results,
        descriptors=_descriptors(),
        changed=bench.changes(plan),
    )


def steps(settings: Settings) -> int:
    """How often a run reports a step, including the warm-up."""
    share, piece = _shares(settings.reads, settings)
    return -(-share // piece) * (1 + len(contenders(settings)))


def _shares(reads: int, settings: Settings) -> tuple[int, int]:
    """How many of the reads each thread makes, in total and in one batch."""
    batch = min(-(-reads // BATCHES), BATCH_BYTES // settings.size)
    return -(-reads // settings.threads), max(1, batch // settings.threads)


class _Bench:
    """One run: its threads, its files, and which of them have changed since they were found."""

    def __init__(self, found: Found, settings: Settings, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.files = {file.path: file for file in found.files}
        self.settings = settings
        self.changed: set[str] = set()

    def batches(self, plan: Sequence[Read]) -> Iterator[list[list[Read]]]:
        """The plan in batches: each batch has a piece of every thread's slice, without files that changed."""
        share, piece = _shares(len(plan), self.settings)
        slices = [plan[start : start + share] for start in range(0, share * self.settings.threads, share)]
        for start in range(0, share, piece):
            pieces = (reads[start : start + piece] for reads in slices)
            yield [[read for read in reads if read[0] not in self.changed] for reads in pieces]

    def warm(self, plan: Sequence[Read], step: Step) -> tuple[list[Read], int]:
        """Bring everything that will be read into the page cache. Returns the possible reads, and the number of
        unreadable files.

        Works like the contenders' turns, so that the heap has its size before its growth is measured.
        """
        bad: set[str] = set()
        for parts in self.batches(plan):
            for reads, (_, _, got) in zip(parts, self.pool.map(_timed, repeat(_plain_read), parts)):
                for (path, _, size), one in zip(reads, got):
                    if isinstance(one, Exception) or len(one) != size:
                        bad.add(path)
            step("warming up")
        self.changed.update(path for path in bad if self.files[path].changed())
        return [read for read in plan if read[0] not in bad], len(bad - self.changed)

    def turn(self, contender: Contender, plan: Sequence[Read], step: Step) -> Result:
        """All reads of one contender."""
        result = Result(contender.name, batched=contender.batched)
        gc.collect()
        with open(os.devnull) as spare, closing(contender):
            before = usage(self.files.keys())
            readers = [contender.reader() for _ in range(self.settings.threads)]
            for parts in self.batches(plan):
                done = list(self.pool.map(_timed, readers, parts))
                failed = any(isinstance(one, Exception) for _, _, got in done for one in got)
                if failed:
                    spare.close()  # the contender may have used up all descriptors, and checking needs one
                else:
                    result.reads += sum(map(len, parts))
                    result.nanoseconds += max(end for _, end, _ in done) - min(start for start, _, _ in done)
                self.check(chain.from_iterable(parts), chain.from_iterable(got for _, _, got in done), result)
                del done  # the read bytes do not count as growth
                result.peak = result.peak.highest(self.look(contender, [] if failed else parts).since(before))
                step(contender.name)
                if result.stopped:
                    break
            if contender.manager is not None:
                result.stats = contender.manager.stats()
        return result

    def check(self, reads: Iterable[Read], got: Iterable[Got], result: Result) -> None:
        """Compare with a plain read of the file. A difference because the file changed is not a wrong read."""
        for (path, offset, size), one in zip(reads, got):
            _, _, [truth] = _timed(_plain_read, [(path, offset, size)])
            if isinstance(one, bytes) and one == truth:
                continue
            if path in self.changed or self.files[path].changed():
                self.changed.add(path)
            elif isinstance(one, Exception) or isinstance(truth, Exception):
                error = one if isinstance(one, Exception) else truth
                result.stopped = result.stopped or f"after {result.reads:,} reads: {error!r}"
            else:
                result.wrong += 1

    def look(self, contender: Contender, parts: Sequence[Sequence[Read]]) -> Usage:
        """The system's figures while every thread is in its last read."""
        with ExitStack() as stack:
            for reads in filter(None, parts):
                with suppress(OSError, ValueError):  # the file may be gone
                    stack.enter_context(contender.opened(reads[-1][0]))
            return usage(self.files.keys())

    def changes(self, plan: Sequence[Read]) -> list[str]:
        """The files that have changed since they were found, even if all their reads were right."""
        self.changed.update(path for path in {path for path, _, _ in plan} if self.files[path].changed())
        return sorted(self.changed)


def _timed(read: Reader, reads: Sequence[Read]) -> tuple[int, int, list[Got]]:
    """When the reads started and ended, and the result of each."""
    got: list[Got] = []
    many = getattr(read, "many", None)
    start = perf_counter_ns()
    if many is not None and reads:
        try:
            got += many(reads)
        except FAILURES as error:
            got += [error] * len(reads)
        return start, perf_counter_ns(), got
    for path, offset, size in reads:
        try:
            got.append(read(path, offset, size))
        except FAILURES as error:
            got.append(error)
    return start, perf_counter_ns(), got


def _plain_read(path: str, offset: int, size: int) -> bytes:
    """The independent read with which all others are compared."""
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)
