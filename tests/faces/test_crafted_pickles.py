"""Pickles that were made to deceive: what is unpickled says and reads what its constructor checked, or is refused."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
import smmap._reader
from core._tools import PYPY, G, World
from smmap import _buffer
from smmap.util import MapRegion, MapRegionList

try:
    import numpy as np

    import smmap.numpy
except ImportError:  # no wheel for this interpreter
    np = None  # type: ignore[assignment]

try:
    import fsspec

    import smmap.fsspec
except ImportError:
    fsspec = None

WINDOW = 2 * G
LENGTH = 5 * G + 128


@pytest.fixture
def path(tmp_path: Path, world: World) -> str:
    """A file that can be read as bytes and as a `.npy` file."""
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({(LENGTH - 128) // 2},), }}".ljust(117) + "\n"
    head = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()
    return str(world.file(0, data=head + world.file(LENGTH - len(head)).data).path)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    smmap.default_manager().collect()


# State that no constructor checked


def pickled(thing: Any) -> bytes:
    """A pickle without its end."""
    return pickle.dumps(thing, 2)[:-1]


def called(function: Any, *args: Any) -> bytes:
    """A pickle without its end of what `function(*args)` gives: also of what refuses to be pickled."""
    return pickled(function) + pickled(args)[2:] + b"R"


def bare(cls: type) -> bytes:
    """A pickle without its end of an instance that no constructor has seen."""
    return pickled(cls) + pickled(())[2:] + b"\x81"


def archive_beside(path: str) -> str:
    np.savez(path + ".npz", a=np.arange(LENGTH))
    return path + ".npz"


VICTIMS: dict[str, Callable[[str], bytes]] = {
    "buffer": lambda path: pickled(smmap.buffer(path)),
    "raw file": lambda path: pickled(smmap.open(path, buffering=0)),
    "file": lambda path: pickled(smmap.open(path)),
    "manager": lambda path: called(smmap.SlidingWindowMapManager),
    "static manager": lambda path: called(smmap.StaticWindowMapManager),
    "default manager": lambda path: called(smmap.default_manager),
    "cursor": lambda path: called(smmap.WindowCursor),
    "region": lambda path: called(MapRegion, path, 0, G),
    "regions": lambda path: called(MapRegionList, path),
    "bare buffer": lambda path: bare(smmap.SlidingWindowMapBuffer),
    "bare raw file": lambda path: bare(smmap._reader.FileReader),
    "bare file": lambda path: bare(smmap._reader.BufferedFileReader),
    "bare cursor": lambda path: bare(smmap.WindowCursor),
}
if np is not None:
    VICTIMS["shards"] = lambda path: pickled(smmap.numpy.Shards([path]))
    VICTIMS["bare shards"] = lambda path: bare(smmap.numpy.Shards)
    VICTIMS["lazy array"] = lambda path: called(
        smmap.numpy.LazyArray, smmap.buffer(path), 128, "<u2", ((LENGTH - 128) // 2,), None
    )
    VICTIMS["mapped array"] = lambda path: called(smmap.numpy.load, path)
    VICTIMS["archive"] = lambda path: pickled(smmap.numpy.load(archive_beside(path)))
    VICTIMS["bare archive"] = lambda path: bare(smmap.numpy.MappedNpz)
    VICTIMS["bare lazy array"] = lambda path: bare(smmap.numpy.LazyArray)
    VICTIMS["bare mapped array"] = lambda path: called(smmap.numpy.MappedArray, (3,), "<u2")
if fsspec is not None:
    VICTIMS["file system"] = lambda path: pickled(fsspec.filesystem("smmap"))
    VICTIMS["fsspec file"] = lambda path: pickled(fsspec.filesystem("smmap").open(path))
    VICTIMS["bare fsspec file"] = lambda path: bare(smmap.fsspec.SmmapFile)

STATES: dict[str, Callable[[], Any]] = {
    "attributes": lambda: {"_name": "/etc/passwd", "name": "/etc/passwd", "path": "/etc/passwd", "_position": 3},
    "position": lambda: {"_position": 9},
    "closed": lambda: {"_closed": True, "_window": 1},
    "array": lambda: {"_array": b"other", "_layout": None},
    "options": lambda: {"_options": (("backing", "read"),), "storage_options": {}, "protocol": "file"},
    "slots": lambda: (None, {"_access": None, "_use": None, "_client": None, "_start": 5, "_given": "/etc/passwd"}),
    "both": lambda: ({"_paths": ["/etc/passwd"]}, {"_cursor": None}),
    "of an array": lambda: (1, (3,), None if np is None else np.dtype("<u2"), False, b"abcdef"),
    "none": lambda: None,
}


# From CPython 3.13 on, `io` reports that it cannot close what was never initialised.
uninitialized = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("unpickler", ["C", "Python"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@uninitialized
def test_state_that_a_pickle_sets_is_refused(victim: str, state: str, unpickler: str, path: str) -> None:
    if PYPY and unpickler == "C":
        pytest.skip("PyPy has only one")
    loads = pickle.loads if unpickler == "C" else pickle._loads  # type: ignore[attr-defined]
    prefix = VICTIMS[victim](path)
    manager = smmap.default_manager()
    before = vars(fsspec.filesystem("smmap")).copy() if fsspec is not None else {}
    loads(prefix + b".")  # all but the state is right
    with pytest.raises(TypeError, match="takes no state"):
        loads(prefix + pickled(STATES[state]())[2:] + b"b.")
    # What lives in this process anyway, and was named by the pickle, is as it was
    assert not manager.closed
    assert smmap.default_manager() is manager
    assert manager.window_size() >= G
    assert smmap.buffer(path)[:] == Path(path).read_bytes()
    if fsspec is not None:
        assert vars(fsspec.filesystem("smmap")) == before


@pytest.mark.parametrize("victim", [victim for victim in VICTIMS if victim != "bare mapped array"])  # any array
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@uninitialized
def test_item_that_a_pickle_sets_is_refused(victim: str, path: str) -> None:
    """Also without the file being opened for it."""
    data = VICTIMS[victim](path)
    manager = smmap.default_manager()
    manager.collect()
    before = manager.stats()
    for opcodes in (b"K\0K\1s.", b"(K\0K\1u.", b"K\1a.", b"(K\1e."):
        with pytest.raises((TypeError, AttributeError, ValueError)):
            pickle.loads(data + opcodes)
    if "mapped" not in victim:
        assert manager.stats() == before


def test_file_says_what_it_reads(path: str, world: World) -> None:
    """A file object and a buffer of one pickle do not share what they read by."""
    other = world.file(LENGTH, "other")
    for buffering in (0, -1):
        with smmap.open(path, buffering=buffering) as opened:
            raw = opened if buffering == 0 else opened.raw
            again, buffer = pickle.loads(pickle.dumps((opened, raw._buffer)))  # type: ignore[union-attr]
        with again:
            buffer.begin_access(smmap.default_manager().make_cursor(other.path))
            assert again.name == path
            assert again.read() == Path(path).read_bytes()
            buffer.close()
            again.seek(0)
            assert again.read() == Path(path).read_bytes()
            with pytest.raises(AttributeError):
                again.name = str(other.path)


# Arguments that the constructor refuses


@pytest.mark.parametrize("position", [-1, -5, 1 << 63, 1.5, "1", None], ids=str)
@pytest.mark.parametrize("buffering", [0, 100])
def test_file_at_no_position_is_refused(position: Any, buffering: int, path: str) -> None:
    with smmap.buffer(path) as buffer, pytest.raises((TypeError, ValueError)):
        smmap._reader._reopened(buffer, position, buffering)


@uninitialized
def test_file_over_anything_else_is_refused(path: str) -> None:
    class Pretender:
        _access = smmap.buffer(path)._access

        def __copy__(self) -> Pretender:
            return self

    for other in (Pretender(), b"bytes", bytearray(9), io.BytesIO(b"abc"), None):
        with pytest.raises((TypeError, AttributeError)):
            smmap._reader._reopened(other, 0, 0)  # type: ignore[arg-type, unused-ignore]
        with pytest.raises(TypeError, match="FileReader"):
            smmap._reader.BufferedFileReader(other)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(TypeError):
        smmap._reader.FileReader(Pretender())  # type: ignore[arg-type, unused-ignore]


@pytest.mark.skipif(np is None, reason="needs numpy")
@pytest.mark.parametrize(
    "args",
    [
        (128, "<u2", (1.5,), None),
        (128, "<u2", ("1",), None),
        (128, "<u2", (-1,), None),
        (128, "<u2", (LENGTH,), None),
        (-2, "<u2", (1,), None),
        ("128", "<u2", (1,), None),
        (128, "<u2", (5, 5), (2,)),
        (128, "<u2", (5,), (2, 2)),
        (128, "<u2", (5,), ("2",)),
        (128, "<u2", (5,), (-LENGTH,)),
        (128, "O", (5,), None),
    ],
    ids=str,
)
def test_lazy_array_that_no_file_has_is_refused(args: Any, path: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        smmap.numpy.LazyArray(smmap.buffer(path), *args)


@pytest.mark.skipif(np is None, reason="needs numpy")
def test_lazy_array_over_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="buffer"):
        smmap.numpy.LazyArray(bytearray(99), 0, "<u2", (5,), None)  # type: ignore[arg-type, unused-ignore]


@pytest.mark.skipif(np is None, reason="needs numpy")
def test_archive_over_anything_else_is_refused(path: str) -> None:
    archive = smmap.buffer(archive_beside(path))
    for args in (
        (bytearray(99),),
        (None,),
        (archive, "w+"),
        (archive, 5),
        (archive, "r", "5"),
        (archive, "r", 10_000, True),
    ):
        with pytest.raises((TypeError, ValueError)):
            smmap.numpy.MappedNpz(*args)  # type: ignore[arg-type, unused-ignore]


@uninitialized
@pytest.mark.skipif(fsspec is None, reason="needs fsspec")
def test_fsspec_file_of_another_file_system_is_refused(path: str) -> None:
    status = os.stat(path)
    with pytest.raises(TypeError, match="SmmapFileSystem"):
        smmap.fsspec._reopened(fsspec.filesystem("file"), path, status.st_size, status.st_mtime_ns, 0)
    for place in (-1, 1.5):
        with pytest.raises((TypeError, ValueError)):
            smmap.fsspec._reopened(
                fsspec.filesystem("smmap"),
                path,
                status.st_size,
                status.st_mtime_ns,
                place,  # type: ignore[arg-type, unused-ignore]
            )


def test_path_of_another_kind_is_refused(path: str) -> None:
    """A descriptor of this process's, above all."""
    for where in (0, True, None, [path], Path(path)):
        with pytest.raises(TypeError):
            _buffer._unpickled(smmap.SlidingWindowMapBuffer, where, 0, 5, 9, 0, "normal")
