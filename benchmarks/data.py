"""The files and places to read: made once, in `.bench/` or the folder in SMMAP_BENCH_DIR, and always the same."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from pathlib import Path

__all__ = ["GIB", "KIB", "MIB", "ROOT", "directory", "file_of", "files_of", "spread", "walk", "zipf"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROOT = Path(__file__).resolve().parent.parent


def directory(name: str = "") -> Path:
    """A folder of the benchmark, made if necessary."""
    path = Path(os.environ.get("SMMAP_BENCH_DIR") or ROOT / ".bench") / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache  # it would be read each time
def file_of(size: int, end: bytes = b"") -> str:
    """The path of a file of `size` random bytes that ends with `end`; it is in memory after this."""
    path = directory("data") / (f"{size}-{end.hex()}" if end else f"{size}")
    if not path.exists() or path.stat().st_size != size:
        source = random.Random(size)
        part = path.with_suffix(f".{os.getpid()}")
        with part.open("wb") as file:
            for start in range(0, size, MIB):
                file.write(source.randbytes(min(MIB, size - start)))
            file.seek(size - len(end))
            file.write(end)
        part.replace(path)
    _warm(path)
    return str(path)


@functools.cache
def files_of(count: int, size: int) -> list[str]:
    """The paths of `count` files of `size` random bytes each; they are in memory after this."""
    folder = directory(f"data/{count}x{size}")
    paths = [folder / f"{number // 1000:02}" / f"{number:05}.bin" for number in range(count)]
    if not (folder / "complete").exists():
        source = random.Random(count)
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(source.randbytes(size))
        (folder / "complete").touch()
    for path in paths:
        _warm(path)
    return [str(path) for path in paths]


def _warm(path: Path) -> None:
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def spread(count: int, start: int, stop: int, size: int = 1, window: int = 0, seed: int = 1) -> list[int]:
    """So many random offsets in [start, stop) at which `size` bytes follow; with `window`, all of one window."""
    source = random.Random(seed)
    if window:
        return [
            source.randrange(start, stop) // window * window + source.randrange(window - size + 1) for _ in range(count)
        ]
    return [source.randrange(start, stop - size + 1) for _ in range(count)]


def zipf(count: int, length: int, size: int, seed: int = 2) -> list[int]:
    """Offsets of blocks of `size` bytes, the r-th most frequent with probability 1/r; frequent ones are far apart."""
    source = random.Random(seed)
    blocks: Sequence[int] = range(0, length, size)
    weights = [1 / rank for rank in range(1, len(blocks) + 1)]
    return source.choices(source.sample(blocks, len(blocks)), weights, k=count)


def walk(count: int, length: int, size: int, steps: int = 64, seed: int = 3) -> list[int]:
    """Offsets that stay within 64 KiB for some steps, then jump."""
    source = random.Random(seed)
    near = 64 * KIB
    positions: list[int] = []
    while len(positions) < count:
        place = source.randrange(length // near) * near
        positions += [place + source.randrange(near - size + 1) for _ in range(steps)]
    return positions[:count]
