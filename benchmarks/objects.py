"""Objects for other libraries: file objects, where `open(path, "rb")` is the limit, and arrays."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

from .data import MIB, directory, file_of
from .engines import part, sides
from .harness import Contender, Settings, SkippedError, once, row

LIMIT = 'open(path, "rb")'
GOAL = 1.15


def text_of(size: int) -> str:
    """The path of a file of lines of 60 bytes."""
    path = directory("data") / f"lines-{size}"
    if not path.exists():
        path.write_bytes(b"".join(b"%011d %s\n" % (number, b"some text" * 5 + b"..") for number in range(size // 60)))
    return str(path)


def archive_of(count: int) -> str:
    """The path of an archive of so many small files."""
    path = directory("data") / f"{count}.zip"
    if not path.exists():
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"folder/{number}.txt", b"x" * 50)
    return str(path)


def opened_by_each(work: Callable[[Any], Any], **options: Any) -> Sequence[Contender]:
    """The same work, given the built-in `open`, and ours."""
    return [
        once("open", partial(work, partial(open, mode="rb", **options)), role="limit"),
        *(once(name, partial(work, partial(library.open, **options)), role=name) for name, library in sides()),
    ]


@row("lines of text", limit=LIMIT, fast=GOAL)
def lines(settings: Settings) -> Sequence[Contender]:
    """All lines of a text file, through `io.TextIOWrapper`."""
    path = text_of(settings.few(16 * MIB))

    def work(opened: Callable[[str], Any]) -> int:
        with io.TextIOWrapper(opened(path), "utf-8") as text:
            return sum(1 for _ in text)

    class Subclass(io.FileIO):
        """The standard library's text files over any other raw file: before each line they ask for `closed`."""

    return [
        *opened_by_each(work),
        once("subclass of io.FileIO", partial(work, lambda path: io.BufferedReader(Subclass(path)))),
        once("io.BytesIO", partial(work, lambda path: io.BytesIO(Path(path).read_bytes()))),
    ]


@row("directory of a zip archive", limit=LIMIT, fast=GOAL)
def directory_of_zip(settings: Settings) -> Sequence[Contender]:
    """The names in an archive of 5,000 files."""
    path = archive_of(5000)

    def work(opened: Callable[[str], Any]) -> int:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return len(archive.namelist())

    return opened_by_each(work)


@row("h5py", limit=LIMIT, fast=GOAL)
def hdf(settings: Settings) -> Sequence[Contender]:
    """1,000 slices of a dataset in chunks of 64 KiB, through `h5py.File(file object)`."""
    try:
        import h5py
    except ImportError:
        raise SkippedError("h5py is not installed") from None
    import numpy as np

    path = directory("data") / "chunks.h5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            data = np.random.default_rng(3).integers(0, 1 << 16, (2000, 4096), dtype=np.uint16)
            file.create_dataset("data", data=data, chunks=(8, 4096))
    starts = np.random.default_rng(4).integers(0, 1990, 1000).tolist()

    def work(opened: Callable[[Any], Any]) -> int:
        with opened(path) as raw, h5py.File(raw, "r") as file:
            data = file["data"]
            return sum(int(data[start, 17]) for start in starts)

    return opened_by_each(work)


@row("pieces of 8 KiB into a buffer", limit=LIMIT, fast=GOAL)
def pieces(settings: Settings) -> Sequence[Contender]:
    """`readinto` of the raw file objects, as `io.BufferedReader` calls it."""
    path = file_of(settings.few(16 * MIB))
    target = memoryview(bytearray(8192))

    def work(opened: Callable[[str], Any]) -> int:
        with opened(path) as file:
            return sum(iter(lambda: file.readinto(target), 0))

    return opened_by_each(work, buffering=0)


def rows_of(count: int) -> str:
    """The path of an array of so many rows of 64 numbers."""
    import numpy as np

    path = directory("data") / f"{count}x64.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(5).random((count, 64), dtype=np.float32))
    return str(path)


def taken_by(take: Callable[[Any], Any]) -> Sequence[Contender]:
    """100,000 rows, loaded as a map by numpy and by ours, and given to another library."""
    import numpy as np

    path = rows_of(100_000)

    def work(load: Callable[..., Any]) -> Any:
        taken = take(load(path, mmap_mode="r"))
        return bytes(memoryview(np.asarray(taken[[0, 1234, 99_999]])).cast("B"))

    return [
        once("np.load", partial(work, np.load), role="limit"),
        *(once(name, partial(work, part(library, "numpy").load), role=name) for name, library in sides()),
    ]


@row("np.asarray of an array that is loaded lazily", limit='np.load(path, mmap_mode="r")', fast=2)
def as_array(settings: Settings) -> Sequence[Contender]:
    """By the array interface: no copy."""
    import numpy as np

    return taken_by(np.asarray)


@row("torch.as_tensor of an array that is loaded lazily", limit='np.load(path, mmap_mode="r")', fast=2, python="torch")
def as_tensor(settings: Settings) -> Sequence[Contender]:
    """By the same interface, or DLPack; element by element it would take 6 seconds."""
    import warnings

    import torch

    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    return taken_by(torch.as_tensor)
