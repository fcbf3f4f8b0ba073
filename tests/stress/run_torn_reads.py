"""What `os.pread` reads of a file that is cut and written again meanwhile: `python tests/stress/run_torn_reads.py`.

On ext4, Linux lets a read and a truncation run at the same time: a reader that has found a page of the cache may copy
from it while it is cleared because it is now beyond the end (see `filemap_read` and `truncate_inode_pages_range` in the
sources of Linux). A copy from a map can be torn in the same way, so the tests of smmap allow that: by zeros only, and
rarely.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from mmap import ALLOCATIONGRANULARITY as G
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from core._tools import payload

SIZE = 64 * G
DATA = payload(SIZE, "torn").replace(b"\0", b"\1")


def torn(got: bytes, start: int, data: bytes) -> bool:
    """Whether these bytes of [start, ...) are those of the file but for some that read zero; none in `data` is zero."""
    return all(byte in (0, right) for byte, right in zip(got, data[start:]))


def write_for_ever(path: str) -> None:
    """Cut the file at a page, and write it again, the same bytes."""
    data = Path(path).read_bytes()
    file = os.open(path, os.O_RDWR)
    numbers = random.Random(7)
    print("ready", flush=True)
    while True:
        left = numbers.randrange(64) * G
        os.ftruncate(file, left)
        time.sleep(numbers.random() / 1000)
        for start in range(left, len(data), 8 * G):
            os.pwrite(file, data[start : start + 8 * G], start)
        time.sleep(numbers.random() / 200)


def start_writer(path: str) -> subprocess.Popen[bytes]:
    writer = subprocess.Popen([sys.executable, __file__, "--write", path], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.stdout.close()
    return writer


def main() -> int:
    parser = argparse.ArgumentParser(description="Count torn reads by os.pread.")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write_for_ever(args.write)
    counts = []

    def read(seed: int) -> None:
        numbers = random.Random(seed)
        file = os.open(path, os.O_RDONLY)
        reads = zeros = 0
        while time.monotonic() < end:
            start = numbers.randrange(SIZE)
            got = os.pread(file, numbers.choice((3000, 5 * G, 20 * G)), start)
            reads += 1
            if got != DATA[start : start + len(got)]:
                assert torn(got, start, DATA)
                zeros += 1
        os.close(file)
        counts.append((reads, zeros))

    with tempfile.TemporaryDirectory(prefix="smmap-torn-") as folder:
        path = os.path.join(folder, "data")
        Path(path).write_bytes(DATA)
        writer = start_writer(path)
        end = time.monotonic() + args.seconds
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.kill()
        writer.wait()
    reads, zeros = map(sum, zip(*counts))
    print(f"{reads} reads, {zeros} of them torn")
    return 0 if len(counts) == 8 else 1


if __name__ == "__main__":
    sys.exit(main())
