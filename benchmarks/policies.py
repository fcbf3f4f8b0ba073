"""Compares LRU with the optimum, SIEVE and 2Q, on traces of real programs that are recorded here.

    python -m benchmarks.policies                       # records four traces in a temporary folder, prints a table
    python -m benchmarks.policies --repository ~/linux  # walks that repository
    python -m benchmarks.policies --keep traces         # leaves the traces there, for `smmap replay`

The programs are ordinary ones: gitdb walks all objects of a repository in the order of its history; a loader draws
sequences of tokens from shards, nine of ten from a fiftieth of them; `zipfile` reads members of archives of this
Python's library; binary search looks up keys in sorted files. Needs numpy, gitdb and git.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import smmap
from smmap._report import format_size
from smmap._trace import Trace
from smmap._trace_format import load
from smmap.cli import advice, again, prices
from smmap.cli.policies import POLICIES, simulate
from smmap.cli.touches import reads_of, touches_of
from smmap.numpy import Shards

PARTS = (32, 16, 8, 4, 2)
WINDOW, MEMORY = 64 << 10, 4 << 20


def git_walk(folder: Path, repository: str) -> None:
    """All objects of a repacked repository, as gitdb returns them."""
    from binascii import unhexlify

    from gitdb.db import GitDB

    bare = folder / "repository"
    subprocess.run(["git", "clone", "--quiet", "--mirror", "--no-hardlinks", repository, str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "repack", "-adq"], check=True)
    names = subprocess.run(
        ["git", "-C", str(bare), "rev-list", "--objects", "--all"], check=True, capture_output=True, text=True
    ).stdout
    database = GitDB(str(bare / "objects"))
    for line in names.splitlines():
        database.stream(unhexlify(line.split()[0])).read()


def token_loader(folder: Path, _repository: str) -> None:
    """Sequences of 512 tokens from 500 shards of 128 KiB."""
    paths = []
    for number in range(500):
        paths.append(folder / f"{number:03}.bin")
        paths[-1].write_bytes(np.random.default_rng(number).bytes(131_072))
    draw = random.Random(1)
    with smmap.SlidingWindowMapManager(WINDOW, MEMORY) as manager:
        shards: Any = Shards(paths, "<u2", manager=manager)
        for _ in range(60_000):
            shard = draw.randrange(10) if draw.random() < 0.9 else draw.randrange(500)
            start = shard * 65_536 + draw.randrange(65_536 - 512)
            shards[start : start + 512]


def archives(folder: Path, _repository: str) -> None:
    """Members of 200 archives, some archives more popular than others."""
    sources = [path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")) if path.stat().st_size]
    paths = []
    for number in range(200):
        paths.append(folder / f"{number:03}.zip")
        with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for source in sources[number * 7 % len(sources) :: 101][:12]:
                archive.write(source)
    draw = random.Random(2)
    with smmap.SlidingWindowMapManager(WINDOW, MEMORY) as manager:
        for _ in range(2500):
            path = paths[int(201 ** draw.random()) - 1]
            with smmap.open(path, manager=manager) as file, zipfile.ZipFile(file) as archive:
                archive.read(draw.choice(archive.namelist()))


def sorted_files(folder: Path, _repository: str) -> None:
    """Keys of eight bytes in 40 files of 1 MiB."""
    count = 131_072
    buffers = []
    with smmap.SlidingWindowMapManager(WINDOW, MEMORY) as manager, contextlib.ExitStack() as stack:
        for number in range(40):
            path = folder / f"{number:02}.keys"
            keys = np.sort(np.random.default_rng(number).integers(0, 1 << 62, count))
            path.write_bytes(keys.astype(">u8").tobytes())
            buffers.append(stack.enter_context(manager.buffer(path)))
        draw = random.Random(3)
        for _ in range(12_000):
            data, wanted = draw.choice(buffers), draw.randrange(1 << 62).to_bytes(8, "big")
            low, high = 0, count
            while low < high:
                middle = (low + high) // 2
                if data[middle * 8 : middle * 8 + 8] < wanted:
                    low = middle + 1
                else:
                    high = middle


WORKLOADS: dict[str, Callable[[Path, str], None]] = {
    "gitdb walks a repository": git_walk,
    "tokens from shards": token_loader,
    "zipfile over archives": archives,
    "binary search in sorted files": sorted_files,
}


@contextlib.contextmanager
def kept(folder: str | None) -> Iterator[Path]:
    """The folder for traces: the requested one, or one that is removed afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        os.makedirs(folder, exist_ok=True)
        yield Path(folder)


def main() -> None:
    """Record, simulate, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies")
    parser.add_argument("--repository", default=str(Path(__file__).parents[1]), help="what gitdb walks")
    parser.add_argument("--keep", metavar="FOLDER", help="leave the traces there")
    options = parser.parse_args()
    costs = prices.measure()
    print(f"| trace | reads | footprint | memory | {' | '.join(POLICIES)} |")
    print(f"|---|---|---|---|{'---|' * len(POLICIES)}")
    notes = []
    with kept(options.keep) as traces:
        for number, (name, work) in enumerate(WORKLOADS.items()):
            path = traces / f"{number + 1}.trace"
            with tempfile.TemporaryDirectory() as folder:
                with Trace(path, None):
                    work(Path(folder), options.repository)
                recorded = load(str(path))
                reads = reads_of(recorded)
                touches = touches_of(reads, WINDOW)
                windows, sizes = touches.window.tolist(), touches.sizes.tolist()
                for part in PARTS:
                    memory = max(sum(sizes) // part, max(sizes))
                    shares = [simulate(policy, windows, sizes, memory) for policy in POLICIES]
                    head = [name, f"{len(reads):,}", format_size(sum(sizes))] if part == PARTS[0] else ["", "", ""]
                    print(f"| {' | '.join([*head, f'1/{part}', *(f'{share:.1%}' for share in shares)])} |", flush=True)
                present = max(recorded.managers.values(), key=lambda manager: manager.memory)
                start = time.process_time()
                best = advice.advise(reads, present._replace(memory=MEMORY), costs, 1 << 40).recommended
                took = time.process_time() - start
                measured = again.again(reads, best.window, best.memory, min(best.handles, 10_000))
                notes.append(
                    f"{name}: {best}: predicted {best.outcome.miss_ratio:.2%}, replayed for real "
                    f"{measured.miss_ratio:.2%} ({took:.1f} s of CPU for the advice)"
                )
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
