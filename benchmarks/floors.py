"""The least time that batches of `storage.py` can take: the same copies and system calls, as a loop in C.

`python -m benchmarks.floors` compiles `floors.c` with the C compiler of this Python, and measures it beside the rows of
`python -m benchmarks.storage`, in the same rounds. The arguments of a floor are made beforehand, and nothing is
checked, counted or sorted, so that no library can be faster without another system call.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report, storage
from .storage import SIZE, TOKENS, Bench, Reader

SPACE = 2048 * SIZE  # bytes, for the largest batch
SOURCE = Path(__file__).with_suffix(".c")
MARKS = ("<!-- floors -->\n", "<!-- end of floors -->\n")
HEAD = "| | us a range | ours beside it | it beside the other |\n|---|--:|--:|--:|"


def compiled() -> ctypes.CDLL:
    """The functions of floors.c."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "floors.so"
        subprocess.run([*compiler, "-O2", "-shared", "-fPIC", "-pthread", SOURCE, "-o", library], check=True)
        found = ctypes.CDLL(str(library))
    found.floor_map.restype = ctypes.c_void_p
    return found


class Floors:
    """Readers that call C."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.library = compiled()
        self.base = self.library.floor_map(bench.number, ctypes.c_size_t(bench.length))
        if not self.base:
            raise SystemError("the file cannot be mapped")
        self.out = ctypes.create_string_buffer(SPACE)
        self.lines: list[str] = []

    def reader(
        self, name: str, function: str, *more: Any, size: int = SIZE, unit: int = 1, ordered: bool = False
    ) -> Reader:
        """A reader of ranges that start at multiples of `unit`, in the order of offsets if `ordered`."""
        call = getattr(self.library, function)
        source = ctypes.c_void_p(self.base) if function == "floor_copy" else self.bench.number

        def prepare(places: Any) -> tuple[Any, ...]:
            starts = [unit * int(place) for place in places]
            kept = array("q", sorted(starts) if ordered else starts)
            where = ctypes.c_void_p(kept.buffer_info()[0])
            return kept, source, where, len(kept), ctypes.c_size_t(size), self.out, *more

        def run(prepared: tuple[Any, ...]) -> None:
            if call(*prepared[1:]):
                raise SystemError(f"{name}: not all was read")

        return Reader(name, run, int, prepare)

    def show(self, row: str, other: str, ours: str, times: dict[str, float]) -> None:
        """Record and print the lines of a row."""
        for name, value in times.items():
            beside = f"x{times[ours] / value:.2f} | x{value / times[other]:.2f}"
            self.lines.append(f"| {row}, {name} | {storage.microseconds(value)} | {beside} |")
            print(self.lines[-1], flush=True)


def mapped(bench: Bench, floors: Floors) -> None:
    bench.warm()
    work = bench.places(512)
    slices, gather = storage.slices_of(bench.number), storage.gather_of(bench.path, keep=True)
    readers = [slices, gather, floors.reader("memcpy in C", "floor_copy")]
    for reader in readers * 3:
        reader.run(reader.prepare(work))
    times = bench.times(readers, lambda: work, 512, int, 20 * bench.rounds)
    floors.show("warm, mapped, 512 ranges", slices.name, gather.name, times)


def unmapped(bench: Bench, floors: Floors) -> None:
    bench.warm()
    work = bench.places(512)
    loop, gather = storage.pread_loop(bench.number), storage.gather_of(bench.path, **storage.UNMAPPED)
    readers = [
        loop,
        gather,
        floors.reader("pread in C", "floor_pread"),
        floors.reader("pread in C, in order", "floor_pread", ordered=True),
        floors.reader("as many pread of a byte in C", "floor_calls"),
        floors.reader("mmap, memcpy, munmap in C", "floor_faults", ctypes.c_size_t(bench.length)),
    ]
    times = bench.times(readers, lambda: work, 512, int, 20 * bench.rounds)
    floors.show("warm, unmapped, 512 ranges", loop.name, gather.name, times)


def blocks(bench: Bench, floors: Floors) -> None:
    bench.warm()
    readers, draw = storage.trainers(bench)
    for name, function in (("pread in C", "floor_pread"), ("as many pread of a byte in C", "floor_calls")):
        readers.append(floors.reader(name, function, size=2 * TOKENS, unit=2))
    times = bench.times(readers, draw, 64, int, 40 * bench.rounds)
    floors.show("warm, 64 rows, 64 MiB", "trainer's loop", "blocks", times)


def cold(bench: Bench, floors: Floors) -> None:
    for count in (256, 2048):
        pool, gather = storage.pool_of(bench.number), storage.gather_of(bench.path)
        readers = [
            pool,
            gather,
            floors.reader("posix_fadvise of all, pread of all in C", "floor_announced", ordered=True),
            floors.reader("16 threads of pread in C", "floor_threads", 16),
        ]
        times = bench.times(readers, lambda count=count: bench.places(count), count, bench.drop, 3 * bench.rounds)
        floors.show(f"cold, {count:,} ranges", pool.name, gather.name, times)


def write(lines: Sequence[str]) -> None:
    """Put the table into the page."""
    text = storage.PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(MARKS[0])
    table = "\n".join(lines)
    storage.PAGE.write_text(f"{head}{MARKS[0]}\n{table}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


ROWS = (mapped, unmapped, blocks, cold)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(row.__name__ for row in ROWS)}; default: all")
    storage.add_options(parser)
    parser.add_argument("--write", action="store_true", help="write docs/cold.md")
    options = parser.parse_args(arguments)
    bench = Bench(options)
    floors = Floors(bench)
    print(report.head(report.machine()).partition("\n")[0], HEAD, sep="\n\n", flush=True)
    for row in ROWS:
        if not options.rows or row.__name__ in options.rows:
            row(bench, floors)
    if options.write:
        write([report.head(report.machine()).partition("\n")[0] + ".", "", HEAD, *floors.lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
