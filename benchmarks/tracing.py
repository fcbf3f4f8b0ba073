"""The cost of a trace per hit: without one, while one runs that does not sample the hit, and while one runs that does.

    python -m benchmarks.tracing            # about a minute
    SMMAP_ENGINE=plain python -m benchmarks.tracing

Times are CPU times per hit, the least of many short loops; loops without and with a trace take turns.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time_ns

import smmap
from smmap._places import PLACE_SHIFT

READS = 2000
LAYOUTS = {
    "in one place (16 MiB)": (0, lambda rng: rng.randrange(60_000)),
    "over 16 places of one window": (0, lambda rng: (rng.randrange(16) << PLACE_SHIFT) + rng.randrange(4096)),
    "over 1,000 windows of 64 KiB": (1 << 16, lambda rng: (rng.randrange(1000) << 16) + rng.randrange(60_000)),
}


def reads_of(path: str, window: int, places: list[int]) -> tuple[smmap.StaticWindowMapManager, dict[str, Callable]]:
    """A manager, and functions that read these places in each way; everything is mapped."""
    manager = smmap.SlidingWindowMapManager(window) if window else smmap.StaticWindowMapManager()
    data, cursor = manager.buffer(path), manager.make_cursor(path)
    for place in places:
        data.view(place, place + 4096)

    def index() -> None:
        for place in places:
            data[place]

    def cut() -> None:
        for place in places:
            data[place : place + 4096]

    def view() -> None:
        for place in places:
            data.view(place, place + 4096)

    def move() -> None:
        for place in places:
            cursor.use_region(place, 4096)

    return manager, {"buf[i]": index, "buf[i:i+4096]": cut, "buf.view(i, i+4096)": view, "use_region(i, 4096)": move}


def least(call: Callable[[], None], count: int) -> float:
    """Nanoseconds of CPU time that a read takes."""
    best = 1 << 60
    for _ in range(count):
        start = process_time_ns()
        call()
        best = min(best, process_time_ns() - start)
    return best / READS


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print(f"{smmap.engine} engine\n")
    print("| hits | | no trace | sampled out | | sampled |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path, trace = str(Path(folder, "data")), Path(folder, "trace")
        Path(path).write_bytes(random.Random(1).randbytes(1 << 20) * 256)
        for title, (window, place) in LAYOUTS.items():
            rng = random.Random(1)
            manager, calls = reads_of(path, window, [place(rng) for _ in range(READS)])
            times = {name: ([1e9], [1e9], [1e9]) for name in calls}
            for number in range(options.rounds):
                for name, call in calls.items():
                    times[name][0].append(least(call, 6))
                with manager.trace(trace, rate=1e-9):
                    for name, call in calls.items():
                        call()
                        times[name][1].append(least(call, 6))
                if number < 3:
                    with manager.trace(trace):
                        for name, call in calls.items():
                            times[name][2].append(least(call, 2))
            for name, (off, out, sampled) in times.items():
                more = min(out) / min(off) - 1
                row = [title, f"`{name}`", f"{min(off):.1f} ns", f"{min(out):.1f} ns", f"{more:+.1%}"]
                print(f"| {' | '.join([*row, f'{min(sampled) / 1000:.1f} us'])} |", flush=True)
                title = ""


if __name__ == "__main__":
    main()
