"""Readers of files that another process keeps truncating and writing again.

    python examples/truncated.py
    python examples/truncated.py --files 20 --seconds 10 --threads 8

A writer truncates one file after the other at some page, and writes the same bytes again. Three readers, each in
its own process, read the files at the same time and check every byte that they get:

- one with an `np.memmap` for each file (or `mmap`, without numpy): the system kills it with SIGBUS;
- one with slices of smmap's buffers: reading a truncated range raises `FileChangedError`, and the reader makes a new
  buffer;
- one with smmap's views and `guard="views"`: a truncated range reads as zeros, and the next call raises an error.

Needs the fast engine.
"""

from __future__ import annotations

import argparse
import mmap
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import smmap

PAGE = mmap.ALLOCATIONGRANULARITY
PAGES = 64
LONGEST = 3 * PAGE


def bytes_of(path: Path) -> bytes:
    """The content of a file while it is whole: no two places are alike, and no byte is zero."""
    return random.Random(path.name).randbytes(PAGES * PAGE).replace(b"\0", b"\1")


def write(paths: list[Path]) -> None:
    """Truncate a file at a page and write it again, until the process is killed."""
    numbers = random.Random(1)
    data = {path: bytes_of(path) for path in paths}
    while True:
        path = numbers.choice(paths)
        left = numbers.randrange(PAGES) * PAGE
        with open(path, "r+b", buffering=0) as file:
            file.truncate(left)
            time.sleep(0.001)
            file.seek(left)
            file.write(data[path][left:])
        time.sleep(0.001)


def read_maps(path: Path, maps: dict[Path, Any]) -> Any:
    """A reader that keeps a map of the file, as most programs do."""
    if path not in maps:
        try:
            import numpy as np

            maps[path] = np.memmap(path, np.uint8, "r")
        except ImportError:
            with open(path, "rb") as file:
                maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = maps[path]
    return lambda start, stop: bytes(found[start:stop])


def read_copies(path: Path, buffers: dict[Path, Any]) -> Any:
    """A reader that slices a buffer."""
    if path not in buffers:
        buffers[path] = smmap.buffer(path)
    found = buffers[path]
    return lambda start, stop: found[start:stop]


def read_views(path: Path, buffers: dict[Path, Any]) -> Any:
    """A reader that uses views of a buffer."""
    if path not in buffers:
        buffers[path] = smmap.buffer(path)
    found = buffers[path]

    def read(start: int, stop: int) -> bytes:
        with found.view(start, stop) as view:
            data = bytes(view)
        found.view(start, stop).release()  # the next call: raises if zeros were read
        return data

    return read


READERS = {"maps": read_maps, "copies": read_copies, "views": read_views}


def read(how: str, paths: list[Path], threads: int, seconds: float) -> Counter[str]:
    """Read random places, and count the results."""
    counts: Counter[str] = Counter(right=0, wrong=0, errors=0)
    data = {path: bytes_of(path) for path in paths}
    stop_at = time.monotonic() + seconds
    lock = threading.Lock()

    def run(seed: int) -> None:
        numbers, kept = random.Random(seed), dict[Path, Any]()
        mine: Counter[str] = Counter()
        while time.monotonic() < stop_at:
            path = numbers.choice(paths)
            start = numbers.randrange(PAGES * PAGE)
            stop = min(start + numbers.randrange(1, LONGEST), PAGES * PAGE)
            try:
                found = READERS[how](path, kept)
                got = found(start, stop)
            except (smmap.FileChangedError, ValueError):  # `ValueError`: an empty file cannot be mapped
                mine["errors"] += 1
                kept.pop(path, None)
                continue
            if len(got) < stop - start:  # the buffer was made while the file was shorter
                kept.pop(path, None)
            mine["right" if data[path][start : start + len(got)] == got else "wrong"] += 1
        with lock:
            counts.update(mine)

    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counts


def main() -> int:
    """Run the writer, and one reader after the other."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--files", type=int, default=8)
    options.add_argument("--threads", type=int, default=4)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--role", choices=["write", *READERS], help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.role:
        paths = sorted(given.folder.iterdir())
        if given.role == "write":
            write(paths)
        if given.role == "views":
            warnings.simplefilter("ignore")
            smmap.configure(guard="views")
        counts = read(given.role, paths, given.threads, given.seconds)
        print(f"{counts['right']:,} right reads, {counts['errors']:,} errors, {counts['wrong']} wrong reads")
        return int(counts["wrong"] > 0)
    if smmap.engine != "fast":
        print(f"the plain engine cannot guard: {smmap.engine_error}")
        return 0
    names = {"maps": "a map kept for each file", "copies": "smmap, slices", "views": 'smmap, views, guard="views"'}
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.bin") for number in range(given.files)]
        arguments = [f"--folder={folder}", f"--threads={given.threads}", f"--seconds={given.seconds}"]
        command = [sys.executable, __file__, *arguments]
        for role, name in names.items():
            for path in paths:  # the last writer may have been killed between truncating a file and writing it
                path.write_bytes(bytes_of(path))
            writer = subprocess.Popen([*command, "--role=write"])
            try:
                done = subprocess.run([*command, f"--role={role}"], capture_output=True, text=True, check=False)
            finally:
                writer.kill()
                writer.wait()
            if done.returncode == -signal.SIGBUS:
                print(f"{name}: ended by SIGBUS")
                continue
            print(f"{name}: {done.stdout.strip()}{done.stderr}")
            worst = max(worst, abs(done.returncode))
    return worst


if __name__ == "__main__":
    sys.exit(main())
