"""Reads of data that is not in memory, one by one and in batches: `make bench-cold`.

The other rows read from a page cache that has everything. Here, before each round, the benchmark's own files are
dropped from it, by `posix_fadvise(DONTNEED)`, which does not need root; nothing may have them mapped then. All
contenders of a row read the same places, in rounds that take turns, and the medians count.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import smmap

from . import report
from .data import GIB, MIB, ROOT, file_of, files_of

SIZE = 2048
TOKENS = 1025
PAGE = ROOT / "docs" / "cold.md"
FIGURE = ROOT / "docs" / "assets" / "storage.svg"
FIGURES = ROOT / "docs" / "assets" / "storage.json"
MARKS = ("<!-- measured -->\n", "<!-- end of measured -->\n")
UNMAPPED = {"window_size": MIB, "max_memory_size": 8 * MIB}  # too small for the random reads
POINTS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


class Reader(NamedTuple):
    """One way to read: `ready()` and `prepare(places)`, which returns the argument of `run`, come first, untimed."""

    name: str
    run: Callable[[Any], object]
    ready: Callable[[], object] = gc.collect
    prepare: Callable[[Any], Any] = lambda places: places


class Goal(NamedTuple):
    """A line of the table: ours beside another contender, in microseconds per read."""

    row: str
    against: str
    ours: float
    other: float
    goal: float

    @property
    def ratio(self) -> float:
        return self.ours / self.other


class Bench:
    """The files, and dropping them between rounds."""

    def __init__(self, options: argparse.Namespace) -> None:
        if not hasattr(os, "posix_fadvise"):
            raise SystemExit("this system cannot drop a file from its page cache: no posix_fadvise")
        self.rounds = options.rounds
        self.length = options.gib * GIB
        self.path = file_of(self.length)
        self.small = files_of(options.files, MIB)
        self.number = os.open(self.path, os.O_RDONLY)
        self.source = random.Random(options.seed)
        self.goals: list[Goal] = []
        self.points: dict[str, dict[str, list[tuple[int, float]]]] = {"cold": {}, "warm": {}}

    def drop(self, paths: Sequence[str] = ()) -> None:
        """Drop the files from memory."""
        for path in paths or [self.path]:
            number = os.open(path, os.O_RDONLY)
            os.fdatasync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)

    def warm(self) -> None:
        """Bring the large file into memory."""
        with open(self.path, "rb", 0) as file:
            while file.read(16 * MIB):
                pass

    def places(self, count: int) -> list[int]:
        return [self.source.randrange(self.length - SIZE) for _ in range(count)]

    def times(
        self,
        readers: Sequence[Reader],
        draw: Callable[[], Any],
        count: int,
        before: Callable[[], object],
        rounds: int = 0,
    ) -> dict[str, float]:
        """The median time of each reader, in microseconds per read."""
        spent: dict[str, list[float]] = {one.name: [] for one in readers}
        for number in range(rounds or self.rounds):
            work = draw()
            turn = number % len(readers)
            for one in [*readers[turn:], *readers[:turn]]:
                for each in readers:  # mapped files would not be dropped
                    each.ready()
                mine = one.prepare(work)
                before()
                start = time.perf_counter()
                one.run(mine)
                spent[one.name].append((time.perf_counter() - start) / count * 1e6)
        return {name: statistics.median(values) for name, values in spent.items()}

    def row(self, name: str, times: dict[str, float], goals: dict[str, dict[str, float]]) -> None:
        """Note and show how ours compare with others."""
        for ours, others in goals.items():
            for other, goal in others.items():
                self.goals.append(Goal(f"{name}, {ours}", other, times[ours], times[other], goal))
                print(line(self.goals[-1]), flush=True)


def microseconds(value: float) -> str:
    return f"{value:,.0f} us" if value >= 100 else f"{value:.3g} us"


def line(one: Goal) -> str:
    kept = "yes" if one.ratio <= one.goal else "**no**"
    return (
        f"| {one.row} | {one.against} | {microseconds(one.ours)} | {microseconds(one.other)} | "
        f"x{one.ratio:.2f} | x{one.goal:g} | {kept} |"
    )


HEAD = "| | beside | ours | other | ratio | goal | kept |\n|---|---|--:|--:|--:|--:|---|"


# Others


def pread_loop(number: int) -> Reader:
    return Reader("loop of os.pread", lambda places: [os.pread(number, SIZE, place) for place in places])


def pool_of(number: int, count: int = 16) -> Reader:
    pool = ThreadPoolExecutor(count)
    return Reader(
        f"thread pool of {count}",
        lambda places: list(pool.map(lambda place: os.pread(number, SIZE, place), places)),
    )


def memmap_of(path: str) -> Reader:
    import numpy as np

    kept: list[Any] = []
    row = np.arange(SIZE)

    def renew() -> None:  # as long as it is mapped, its pages are not dropped
        kept.clear()
        gc.collect()

    def run(places: Any) -> Any:
        if not kept:
            kept.append(np.memmap(path, mode="r"))
        return kept[0][np.asarray(places)[:, None] + row]

    return Reader("np.memmap", run, renew)


def ours(name: str, path: str, run: Callable[[Any, Any], object], keep: bool = False, **limits: Any) -> Reader:
    """A reader with its own manager; unless it should `keep` mapped windows, each round starts without any."""
    manager = smmap.SlidingWindowMapManager(**limits)
    buffer = manager.buffer(path)

    def ready() -> None:
        if not keep:
            manager.collect()
            buffer[:1]  # opens the file again, since the others have it open

    return Reader(name, lambda places: run(buffer, places), ready)


def gather_of(path: str, **more: Any) -> Reader:
    return ours("gather", path, lambda buffer, places: buffer.gather(places, SIZE), **more)


def ranges_of(path: str, **more: Any) -> Reader:
    return ours(
        "ranges", path, lambda buffer, places: buffer.ranges(places, [place + SIZE for place in places]), **more
    )


# Rows


def one_by_one(bench: Bench) -> None:
    def run(buffer: Any, places: Any) -> Any:
        return [buffer[place : place + SIZE] for place in places]

    readers = [pread_loop(bench.number)]
    for name, limits in (
        ("default manager", {}),
        ("windows of 64 MiB", {"window_size": 64 * MIB}),
        ("windows of 8 MiB", {"window_size": 8 * MIB}),
    ):
        readers.append(ours(name, bench.path, run, **limits))
    times = bench.times(readers, lambda: bench.places(800), 800, bench.drop)
    bench.row("cold, one by one", times, {one.name: {"loop of os.pread": 1.25} for one in readers[1:]})


def sequential(bench: Bench) -> None:
    count = 128

    def readinto(starts: Any) -> None:
        target = bytearray(MIB)
        with open(bench.path, "rb", 0) as file:
            for _ in starts:
                file.readinto(target)

    readers = [
        Reader("unbuffered readinto", readinto),
        ours(
            "default manager",
            bench.path,
            lambda buffer, starts: [len(buffer[start : start + MIB]) for start in starts],
        ),
    ]
    times = bench.times(readers, lambda: range(0, count * MIB, MIB), count, bench.drop)
    bench.row("cold, slices of 1 MiB in a row", times, {"default manager": {"unbuffered readinto": 1.15}})


def batches(bench: Bench) -> None:
    readers = [pread_loop(bench.number), memmap_of(bench.path), gather_of(bench.path), ranges_of(bench.path)]
    times = bench.times(readers, lambda: bench.places(800), 800, bench.drop, max(bench.rounds // 2, 3))
    goals = {"loop of os.pread": 0.4, "np.memmap": 0.05}
    bench.row("cold, 800 ranges", times, {"gather": goals, "ranges": goals})
    for count, goal in ((16, 0.3), (256, 0.5), (2048, 0.5)):
        readers = [pool_of(bench.number), gather_of(bench.path)]
        times = bench.times(readers, lambda count=count: bench.places(count), count, bench.drop)
        bench.row(f"cold, {count:,} ranges", times, {"gather": {"thread pool of 16": goal}})


def many_files(bench: Bench) -> None:
    paths = bench.small
    manager = smmap.SlidingWindowMapManager(max_open_handles=256)
    buffers = [manager.buffer(path) for path in paths]
    pool = ThreadPoolExecutor(16)

    def one(work: tuple[int, int]) -> bytes:
        number = os.open(paths[work[0]], os.O_RDONLY)
        try:
            return os.pread(number, SIZE, work[1])
        finally:
            os.close(number)

    def draw() -> Any:
        which = [bench.source.randrange(len(paths)) for _ in range(800)]
        return which, [bench.source.randrange(MIB - SIZE) for _ in which]

    readers = [
        Reader("loop of open, pread, close", lambda work: list(map(one, zip(*work)))),
        Reader("thread pool of 16", lambda work: list(pool.map(one, zip(*work)))),
        Reader("gather", lambda work: manager.gather(buffers, *work, SIZE), manager.collect),
    ]
    times = bench.times(readers, draw, 800, lambda: bench.drop(paths))
    goals = {"loop of open, pread, close": 0.6, "thread pool of 16": 0.8}
    bench.row(f"cold, 800 ranges of {len(paths):,} files, 256 handles", times, {"gather": goals})


def cats(bench: Bench) -> None:
    """The ranges that readers of columns ask for, by fsspec: from local files, and from `smmap://`."""
    import fsspec

    def reader(protocol: str) -> Reader:
        files = fsspec.filesystem(protocol)
        return Reader(f"fsspec, {protocol}://", lambda work: files.cat_ranges(*work))

    def draw() -> Any:
        starts = [bench.source.randrange(MIB - SIZE) for _ in range(800)]
        return [bench.source.choice(bench.small[:100]) for _ in starts], starts, [start + SIZE for start in starts]

    readers = [reader("file"), reader("smmap")]
    times = bench.times(readers, draw, 800, int, 3 * bench.rounds)
    bench.row("warm, 800 ranges of 100 files, cat_ranges", times, {readers[1].name: {readers[0].name: 0.37}})


def slices_of(number: int) -> Reader:
    file = mmap.mmap(number, 0, access=mmap.ACCESS_READ)
    return Reader("loop of mmap slices", lambda places: [file[place : place + SIZE] for place in places])


def warm(bench: Bench) -> None:
    bench.warm()
    rounds = 5 * bench.rounds
    slices = slices_of(bench.number)
    lookup = memmap_of(bench.path)._replace(ready=gc.collect)
    work = bench.places(512)  # the same in each round, so that all of it is in memory and, where it is kept, mapped
    mapped = [slices, lookup, gather_of(bench.path, keep=True)]
    for reader in mapped * 2:
        reader.run(work)
    times = bench.times(mapped, lambda: work, 512, int, rounds)
    bench.row("warm, mapped, 512 ranges", times, {"gather": {"loop of mmap slices": 0.5, "np.memmap": 0.2}})
    times = bench.times(
        [pread_loop(bench.number), gather_of(bench.path, **UNMAPPED)],
        lambda: work,
        512,
        int,
        rounds,
    )
    bench.row("warm, unmapped, 512 ranges", times, {"gather": {"loop of os.pread": 0.8}})


def trainers(bench: Bench) -> tuple[list[Reader], Callable[[], Any]]:
    """Readers of 64 samples of 1,025 tokens of two bytes, and the function that draws the starts of the samples."""
    import numpy as np

    from smmap.numpy import Shards

    manager = smmap.SlidingWindowMapManager(max_memory_size=64 * MIB)
    shards = Shards([bench.path], "<u2", manager=manager)
    tokens = np.memmap(bench.path, "<u2", "r")
    out = np.empty((64, TOKENS), "<u2")
    rows = [memoryview(row).cast("B") for row in out]

    def loop(starts: Any) -> Any:
        return np.stack([tokens[start : start + TOKENS].astype(np.int64) for start in starts.tolist()])

    def preadv(starts: Any) -> None:
        for row, start in zip(rows, starts.tolist()):
            os.preadv(bench.number, [row], 2 * start)

    def draw() -> Any:
        return np.array([bench.source.randrange(len(tokens) - TOKENS) for _ in range(64)])

    readers = [
        Reader("trainer's loop", loop, int),
        Reader("loop of preadv", preadv, int),
        Reader("blocks", lambda starts: shards.blocks(starts, TOKENS, out), int),
    ]
    return readers, draw


def trainer(bench: Bench) -> None:
    """The batch of a language model's trainer."""
    times = bench.times(*trainers(bench), 64, int, 20 * bench.rounds)
    bench.row("warm, 64 rows, 64 MiB", times, {"blocks": {"trainer's loop": 0.1, "loop of preadv": 0.9}})


def ahead(bench: Bench) -> None:
    """If the next batch is announced in advance, computation hides the time of storage."""
    size, count, seconds = 256, 12, 0.02
    manager = smmap.SlidingWindowMapManager()
    buffer = manager.buffer(bench.path)

    def waits(announces: bool) -> float:
        batches = [bench.places(size) for _ in range(count)]
        manager.collect()
        bench.drop()
        waited = []
        for number, places in enumerate(batches):
            start = time.perf_counter()
            buffer.gather(places, SIZE)
            if announces and number + 1 < count:
                following = batches[number + 1]
                buffer.prefetch(following, [place + SIZE for place in following])
            waited.append(time.perf_counter() - start)
            time.sleep(seconds)  # as if a device computed
        return statistics.median(waited[1:]) / size * 1e6

    found: dict[str, list[float]] = {"without prefetch": [], "prefetch of the next batch": []}
    for _ in range(bench.rounds):
        for announces, values in enumerate(found.values()):
            values.append(waits(bool(announces)))
    times = {name: statistics.median(values) for name, values in found.items()}
    name = "cold, batches of 256, each consumed for 20 ms: gather and prefetch alone"
    bench.row(name, times, {"prefetch of the next batch": {"without prefetch": 0.75}})


def curves(bench: Bench) -> None:
    """The time of a read by the number of reads in a batch; warm, the same places each time."""
    for state, before in (("cold", bench.drop), ("warm", int)):
        warm = state == "warm"
        if warm:
            bench.warm()
        for count in POINTS:
            readers = [pread_loop(bench.number), pool_of(bench.number), gather_of(bench.path, keep=warm)]
            if warm or count <= 300:  # np.memmap takes seconds for the others
                readers.append(memmap_of(bench.path)._replace(**({"ready": int} if warm else {})))
            work = bench.places(count)
            for reader in readers * 3 if warm else ():
                reader.run(work)
            times = bench.times(
                readers,
                lambda work=work, warm=warm: work if warm else bench.places(len(work)),
                count,
                before,
                9 if warm or count <= 100 else 3,
            )
            for name, value in times.items():
                bench.points[state].setdefault(name, []).append((count, value))
            print(state, count, {name: round(value, 2) for name, value in times.items()}, flush=True)


def draw(points: dict[str, dict[str, list[tuple[int, float]]]]) -> None:
    """Write the figure."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "smmap", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10.5}
    )
    import matplotlib.pyplot as plt

    from .plots import STYLES, plain_ticks

    names = {"gather": "fast", "loop of os.pread": "os.pread", "np.memmap": "np.memmap kept"}
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
    for axis, (state, lines) in zip(axes, points.items()):
        for name, found in lines.items():
            style = STYLES.get(names.get(name, name), {"color": "#008a5e", "marker": "<"})
            axis.plot(*zip(*found), label=name, markersize=4, **style)
        axis.set(xscale="log", yscale="log", title=state, xlabel="ranges in a batch")
        plain_ticks(axis.xaxis)
        plain_ticks(axis.yaxis)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("us a range of 2 KiB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})
    text = "\n".join(row.rstrip() for row in FIGURE.read_text(encoding="utf-8").splitlines())
    FIGURE.write_text(text + "\n", encoding="utf-8")


def write(goals: Sequence[Goal], where: dict[str, str]) -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    table = "\n".join([report.head(where).partition("\n")[0] + ".", "", HEAD, *map(line, goals)])
    PAGE.write_text(f"{head}{MARKS[0]}\n{table}\n\n{MARKS[1]}{tail}", encoding="utf-8")


ROWS = (one_by_one, sequential, batches, many_files, cats, warm, trainer, ahead, curves)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a `Bench`."""
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gib", type=int, default=1, help="size of the large file")
    parser.add_argument("--files", type=int, default=1000, help="number of the small ones")
    parser.add_argument("--seed", type=int, default=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(row.__name__ for row in ROWS)}; all without one")
    add_options(parser)
    parser.add_argument("--write", action="store_true", help="write docs/cold.md and docs/assets/storage.*")
    options = parser.parse_args(arguments)
    where = report.machine()
    bench = Bench(options)
    print(report.head(where).partition("\n")[0], HEAD, sep="\n\n", flush=True)
    for row in ROWS:
        if not options.rows or row.__name__ in options.rows:
            row(bench)
    missed = sum(one.ratio > one.goal for one in bench.goals)
    print(f"{len(bench.goals) - missed} of {len(bench.goals)} goals are kept, by {smmap.engine}")
    if options.write:
        found = {"where": where, "goals": [one._asdict() for one in bench.goals], "points": bench.points}
        FIGURES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write(bench.goals, where)
        draw(bench.points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
