"""Search many files on a Dask cluster, each worker within its own limits, and check it against a plain search.

    python examples/dask_scan.py                                  # makes its own files, in a temporary folder
    python examples/dask_scan.py ~/logs --pattern 'timeout=\\d+' --workers 4 --memory 256M

Needs `pip install '.[cli]' 'dask[distributed]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dask import config
from distributed import Client, LocalCluster, as_completed
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import smmap

MAX_MATCH = 4096  # no match is longer than this
Found = list[tuple[int, bytes]]


def search(paths: list[str], pattern: bytes) -> dict[str, Found]:
    """In a worker: every match in each file, by its offset. Reads through the worker's own default manager."""
    found = {}
    for path in paths:
        with smmap.buffer(path) as data:
            found[path] = [(match.start(), match.group()) for match in data.finditer(pattern, MAX_MATCH)]
    return found


def state() -> tuple[int, smmap.Stats]:
    """In a worker: its process id, and its manager's counters."""
    return os.getpid(), smmap.default_manager().stats()


def search_plainly(paths: list[str], pattern: bytes) -> dict[str, Found]:
    """The same search in this process alone, without smmap, to check the cluster's answer against."""
    return {
        path: [(match.start(), match.group()) for match in re.finditer(pattern, Path(path).read_bytes())]
        for path in paths
    }


def make_files(folder: Path, count: int, size: int) -> None:
    """Text files without repetition, with a few lines that are worth finding."""
    for number in range(count):
        source = random.Random(number)
        text = bytearray(hashlib.shake_128(b"%d" % number).hexdigest(size // 2), "ascii")
        text[79::80] = b"\n" * len(text[79::80])
        for _ in range(source.randrange(8)):
            line = b"\nERROR [%x] request=%d\n" % (source.getrandbits(24), source.getrandbits(30))
            place = source.randrange(size - len(line))
            text[place : place + len(line)] = line
        (folder / f"{number:05d}.log").write_bytes(text)


def run(arguments: argparse.Namespace, paths: list[str], console: Console) -> int:
    """Search, show and check the results; return how many files differ or workers went over their limit."""
    pattern = arguments.pattern.encode()
    limits = {
        "SMMAP_WINDOW_SIZE": arguments.window,
        "SMMAP_MAX_MEMORY": arguments.memory,
        "SMMAP_MAX_HANDLES": str(arguments.handles),
    }
    batches = [paths[start : start + arguments.batch] for start in range(0, len(paths), arguments.batch)]
    found: dict[str, Found] = {}
    with (
        LocalCluster(
            n_workers=arguments.workers,
            threads_per_worker=arguments.threads,
            dashboard_address=":0",
            env=limits,
            silence_logs=logging.CRITICAL,  # the error of a task is raised here
        ) as cluster,
        Client(cluster) as client,
        Progress(console=console) as progress,
    ):
        start = time.perf_counter()
        bar = progress.add_task(f"{len(paths)} files", total=len(paths))
        futures = client.map(search, batches, pattern=pattern)
        for future in as_completed(futures):
            found.update(future.result())
            progress.update(bar, completed=len(found))
        took = time.perf_counter() - start
        workers = client.run(state)

    table = Table(title=f"{arguments.workers} workers, each within {arguments.memory} and {arguments.handles} handles")
    for heading in ("worker", "windows mapped", "evicted", "peak maps", "peak MiB mapped"):
        table.add_column(heading, justify="right")
    for process, stats in workers.values():
        peak = f"{stats.peak_memory / (1 << 20):.1f}"
        table.add_row(str(process), *map(str, (stats.misses, stats.evictions, stats.peak_mapped)), peak)
    console.print(table)

    start = time.perf_counter()
    wanted = search_plainly(paths, pattern)
    alone = time.perf_counter() - start
    wrong = sum(found.get(path) != wanted[path] for path in paths)
    table = Table(title="checked against a search of whole files")
    for heading in ("", "files", "MiB", "matches", "seconds"):
        table.add_column(heading, justify="right" if heading else "left")
    size = sum(os.path.getsize(path) for path in paths) / (1 << 20)
    for name, result, seconds in (("cluster", found, took), ("one process", wanted, alone)):
        count = sum(map(len, result.values()))
        table.add_row(name, str(len(result)), f"{size:.0f}", str(count), f"{seconds:.2f}")
    console.print(table)
    over = [stats for _, stats in workers.values() if stats.peak_mapped > stats.max_open_handles]
    console.print(f"{wrong} files differ; {len(over)} workers went over their limit")
    return wrong + len(over)


def main(command: list[str] | None = None) -> int:
    """Read the command line, find or make the files, run."""
    parser = argparse.ArgumentParser(description="Search many files on a Dask cluster through smmap.")
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders; default: files that are made for this")
    parser.add_argument("--pattern", default=r"ERROR \[(\w+)\] request=\d+", help="a regular expression")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of each worker")
    parser.add_argument("--memory", default="8M", help="bytes that each worker may keep mapped")
    parser.add_argument("--window", default="1M", help="bytes in one window")
    parser.add_argument("--handles", type=int, default=32, help="maps and cached descriptors that each worker may have")
    parser.add_argument("--batch", type=int, default=4, help="files in a task")
    parser.add_argument("--files", type=int, default=100, help="how many files to make")
    parser.add_argument("--size", type=int, default=1500 << 10, help="bytes in each file that is made")
    arguments = parser.parse_args(command)

    console = Console()
    with tempfile.TemporaryDirectory(prefix="dask_scan-") as folder:
        made: list[Path] = []
        if not arguments.paths:
            console.print(f"making {arguments.files} files of {arguments.size} bytes")
            made = [Path(folder) / "files"]
            made[0].mkdir()
            make_files(made[0], arguments.files, arguments.size)
        every = (
            path for given in arguments.paths or made for path in (given.rglob("*") if given.is_dir() else [given])
        )
        paths = sorted(str(path) for path in every if path.is_file())
        if not paths:
            parser.error("no files there")
        settings: dict[str, Any] = {"temporary-directory": folder}
        with config.set(settings):
            return 1 if run(arguments, paths, console) else 0


if __name__ == "__main__":
    sys.exit(main())
