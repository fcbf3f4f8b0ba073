"""Arrays over managed windows against numpy's own over the same files."""

from __future__ import annotations

import copy
import io
import multiprocessing
import operator
import os
import pickle
import struct
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smmap
from core._tools import LATE, LINUX, G, World, agree, before_system_call, descriptors, linux, maps, payload, run_python

np: Any = pytest.importorskip("numpy")

import smmap.numpy  # noqa: E402
from smmap import _engine, _system  # noqa: E402
from smmap.numpy import LazyArray, MappedArray, Shards, load  # noqa: E402
from smmap.numpy import _gather as gather_module  # noqa: E402
from smmap.numpy import _shards as shards_module  # noqa: E402

PYPY = sys.implementation.name == "pypy"
WINDOW = 2 * G
LIMITS = {"roomy": (WINDOW, 0, sys.maxsize), "tight": (WINDOW, 2 * WINDOW, 2), "whole": (0, 0, sys.maxsize)}


@pytest.fixture(params=LIMITS, ids=str)
def manager(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(*LIMITS[request.param])


def filled(dtype: Any, shape: Any) -> Any:
    """An array of random bytes."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if kind.kind == "U":
        return np.array([f"\u4e16{number * 7919 % 997}" for number in range(count)], kind).reshape(shape)
    return np.frombuffer(payload(count * kind.itemsize, str(kind)), kind, count).reshape(shape)


def same(got: Any, want: Any) -> None:
    """Equal to the byte (there are NaNs)."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if got.dtype.names:  # what lies between fields is not copied, and means nothing
        for name in got.dtype.names:
            same(got[name], want[name])
    else:
        assert got.tobytes() == want.tobytes()


# load

DTYPES = [
    "u1",
    "<u2",
    ">u2",
    "<i4",
    ">f4",
    "<f8",
    "<c16",
    "?",
    "S7",
    "<U5",
    "V3",
    "<M8[ns]",
    ">m8[s]",
    "<f2",
    [("a", "<i2"), ("b", ">f8"), ("c", "S3")],
    [("pair", "<i4", (2, 3)), ("deep", [("x", "u1"), ("y", "<u8")])],
    np.dtype({"names": ["a", "b"], "formats": ["u1", "<u4"], "offsets": [3, 8], "itemsize": 16}),
]
SHAPES: list[Any] = [(), (1,), (0,), (5, 0, 2), (3000,), (60, 50), (3, 40, 5), (G, 2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_load_any_dtype_and_shape(manager: Any, tmp_path: Path, dtype: Any) -> None:
    for shape in SHAPES:
        for order in ("C", "F"):
            np.save(tmp_path / "a.npy", np.array(filled(dtype, shape), order=order))
            want = np.load(tmp_path / "a.npy")
            got = load(tmp_path / "a.npy", manager=manager)
            assert type(got) is MappedArray
            same(got, want)
            assert got.flags.c_contiguous == want.flags.c_contiguous
            assert got.flags.f_contiguous == want.flags.f_contiguous
            assert not got.flags.writeable
            assert got.strides == want.strides or not want.size
            again = pickle.loads(pickle.dumps(got))
            same(np.asarray(again), want)
            assert not again.flags.writeable
            del got, again


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_load_any_version(manager: Any, tmp_path: Path, version: Any) -> None:
    for dtype in ("<u4", [("a", "<u2"), ("b'\\\"", "<u2")], [("\u4e16\u754c", "<u2"), ("caf\u00e9\\", "<u2")]):
        array = filled("<u4", (700,)).view(dtype)
        with open(tmp_path / "a.npy", "wb") as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                np.lib.format.write_array(out, array, version)
            except (UnicodeEncodeError, ValueError):
                assert version != (3, 0)
                continue
        same(load(tmp_path / "a.npy", manager=manager), array)


def test_load_is_no_copy(world: World, tmp_path: Path) -> None:
    if PYPY:
        pytest.skip("numpy on PyPy never lets go of a view, so there it is one")
    manager = world.manager(WINDOW)
    table = filled("<u4", (5000,))
    np.save(tmp_path / "a.npy", table)
    array = load(tmp_path / "a.npy", manager=manager)
    assert manager.stats().mapped == 1
    with open(tmp_path / "a.npy", "r+b") as out:
        out.seek(128 + 4 * 3000)
        out.write(struct.pack("<I", 12345))
    assert array[3000] == 12345
    manager.collect()
    assert (manager.stats().mapped, manager.stats().detached) == (1, 1)
    part = array[10:20]
    del array
    assert manager.stats().detached == 1
    same(np.asarray(part), table[10:20])
    manager.close()
    same(np.asarray(part), table[10:20])
    del part
    assert LATE or manager.stats().mapped == 0


def test_load_is_an_array(world: World, tmp_path: Path) -> None:
    """Whatever reads arrays reads it, and results are plain arrays."""
    table = filled("<i4", (40, 30))
    np.save(tmp_path / "a.npy", table)
    array = load(tmp_path / "a.npy", manager=world.manager(WINDOW))
    assert isinstance(array, np.ndarray)
    same(array + 1, table + 1)
    assert type(array + 1) is type(-array) is type(array.sum(0)) is type(np.sqrt(abs(array) * 1.0)) is np.ndarray
    assert type(array.sum()) is type(table.sum())
    assert type(array[3, 4]) is np.int32
    assert type(array.astype("f8")) in (np.ndarray, MappedArray)
    assert (array == table).all()
    assert array.mean() == table.mean()
    same(np.concatenate([array, array]), np.concatenate([table, table]))
    same(np.sort(array, axis=None), np.sort(table, axis=None))
    total = np.zeros((40, 30), "<i4")
    np.add(array, array, out=total)
    same(total, table + table)
    for change in (
        lambda: array.__setitem__(0, 1),
        lambda: array.sort(),
        lambda: np.add(array, 1, out=array),
        lambda: array.fill(0),
        lambda: setattr(array.flags, "writeable", True),
    ):
        with pytest.raises(ValueError):
            change()
    same(copy.copy(array), table)
    same(copy.deepcopy(array), table)
    assert copy.deepcopy(array).flags.writeable


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_load_pickles_without_the_data(world: World, tmp_path: Path) -> None:
    manager = world.manager(WINDOW)
    table = filled([("a", "<u2"), ("b", ">f4")], (300, 70))
    np.save(tmp_path / "a.npy", table)
    array = load(tmp_path / "a.npy", manager=manager)
    views = [
        lambda it: it,
        lambda it: it.T,
        lambda it: it["b"],
        lambda it: it[17:290:7, ::-3],
        lambda it: it[::-1],
        lambda it: it[299, 60:],
        lambda it: it[5:5],
        lambda it: it[None, 3, ..., None],
        lambda it: it.reshape(-1)[::11],
        lambda it: it["a"].view("i2"),
        lambda it: np.broadcast_to(it[0], (3, 70), subok=True),
        lambda it: np.diagonal(it["b"]),
    ]
    for view in views:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            ours, want = view(array), view(table)
            data = pickle.dumps(ours, protocol)
            assert len(data) < 500 + len(str(tmp_path))
            assert want.tobytes()[:50] not in data or not want.size
            again = pickle.loads(data)
            assert type(again) is LazyArray
            same(np.asarray(pickle.loads(pickle.dumps(again, protocol))), want)
            same(np.asarray(again), want)
            assert not again.flags.writeable
            same(np.asarray(pickle.loads(pickle.dumps(again, protocol))), want)
    # What was copied is data; also where it comes to lie where a map was
    for made in (array[[3, 1]], array.copy(), array[array["a"] > 9999], array["a"] + 1):
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is np.ndarray
        same(again, np.asarray(made))
        assert again.flags.writeable
    element = array[2, 3]
    assert pickle.loads(pickle.dumps(element)) == element
    del array, ours, again, made, element
    smmap.default_manager().collect()


# Every way to copy an array; the shape and the order may change.
COPIES: dict[str, Callable[[Any], Any]] = {
    "index array": lambda it: it[[5, 3, 1]],
    "mask": lambda it: it[it % 3 == 1],
    "copy": lambda it: it.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "sort": np.sort,
    "astype": lambda it: it.astype("<f4"),
    "astype the same": lambda it: it.astype(it.dtype),
    "roll": lambda it: np.roll(it, 7),
    "take": lambda it: it.take([9, 2, 2]),
    "repeat": lambda it: it.repeat(3, axis=0),
    "flatten": lambda it: it.T.flatten(),
    "reshape that copies": lambda it: it.T.reshape(-1),
    "fortran order": lambda it: it.copy("F"),
    "slice of a copy": lambda it: it.copy()[3:9, ::2],
    "copy of a slice": lambda it: it[3:9, ::2].copy(),
    "subclass kept": lambda it: np.array(it, subok=True),
    "in place": lambda it: np.negative(it, out=it.copy()),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_pickle_as_data(name: str, tmp_path: Path) -> None:
    """Whether what they were copied from is there, is gone, or is gone with its file and another one mapped there."""
    table = filled("<i4", (60, 50))
    np.save(tmp_path / "a.npy", table)
    make, array = COPIES[name], load(tmp_path / "a.npy")
    want, made = make(table), make(array)
    of_temporary = make(load(tmp_path / "a.npy"))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for each in (made, of_temporary):
            again = pickle.loads(pickle.dumps(each, protocol))
            assert type(again) is np.ndarray
            assert again.flags.writeable or not each.flags.writeable
            same(again, want)
    del array
    smmap.default_manager().collect()
    same(pickle.loads(pickle.dumps(made)), want)
    if made.flags.writeable:  # numpy 1 refuses that for what a mask gives of a subclass
        want = np.full_like(want, 7)
        made[...] = 7  # the file's data no more
    (tmp_path / "a.npy").unlink()
    same(pickle.loads(pickle.dumps(made)), want)
    same(copy.deepcopy(made), want)


def test_a_copy_as_out_stays_itself(tmp_path: Path) -> None:
    for value in (3.0, [1.0, 2.0, 3.0]):
        np.save(tmp_path / "a.npy", np.array(value))
        for mine in (load(tmp_path / "a.npy").copy(), np.load(tmp_path / "a.npy", mmap_mode="r").copy()):
            assert np.multiply(mine, 2, out=mine) is mine
            it = mine
            it *= 2
            assert it is mine
            it[...] += 1
            assert mine.tolist() == (np.array(value) * 4 + 1).tolist()
        assert type(load(tmp_path / "a.npy").copy() + 1) is type(np.array(value) + 1)


def test_copies_that_lie_where_a_map_was(tmp_path: Path) -> None:
    """Memory is handed out again: an address in the range of a former map says nothing."""
    table = np.arange(500_000.0)  # large enough that numpy's memory comes from the system, as maps do
    np.save(tmp_path / "a.npy", table)
    array = load(tmp_path / "a.npy")
    made = array.copy()
    made[:] = -made
    del array
    smmap.default_manager().collect()
    parts = [made[start : start + 50_000].copy() for start in range(0, 500_000, 50_000)]
    for number, part in enumerate(parts):
        same(pickle.loads(pickle.dumps(part)), -table[number * 50_000 : number * 50_000 + 50_000])


def copied_in_worker(path: str, name: str) -> Any:
    return COPIES[name](load(path))


def test_copies_come_back_from_a_pool(tmp_path: Path) -> None:
    table = filled("<i4", (60, 50))
    np.save(tmp_path / "a.npy", table)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results = {name: pool.apply_async(copied_in_worker, (str(tmp_path / "a.npy"), name)) for name in COPIES}
        for name, result in results.items():
            same(result.get(60), COPIES[name](table))


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_empty_arrays_stay_what_they_are(tmp_path: Path) -> None:
    for shape in ((0,), (5, 0, 2)):
        want = np.empty(shape, ">u2")
        np.save(tmp_path / "a.npy", want)
        array = load(tmp_path / "a.npy")
        for _ in range(3):
            same(np.asarray(array), want)
            assert not array.flags.writeable
            array = pickle.loads(pickle.dumps(array))
            assert type(array) is LazyArray
        part = pickle.loads(pickle.dumps(array[..., :0]))
        assert (part.dtype, part.shape, part.flags.writeable) == (want.dtype, want[..., :0].shape, False)
        made = pickle.loads(pickle.dumps(array.copy()))
        assert type(made) is np.ndarray
        assert made.flags.writeable


def test_load_pickles_small(tmp_path: Path) -> None:
    if PYPY:
        pytest.skip("numpy on PyPy: arrays are copies")
    np.save(tmp_path / "a.npy", filled("<f8", (300, 70)))
    array = load(tmp_path / "a.npy")
    assert len(pickle.dumps(array)) - len(str(tmp_path / "a.npy")) < 300 - 40
    assert len(pickle.dumps(array[5:90, ::3])) - len(str(tmp_path / "a.npy")) < 300 - 40
    sizes = []
    for count in (1, 2, 30):  # a field costs its name and some ten bytes
        np.save(tmp_path / "a.npy", filled([(f"column {number:02}", "<f8") for number in range(count)], 50))
        sizes.append(len(pickle.dumps(load(tmp_path / "a.npy"))) - len(str(tmp_path / "a.npy")))
        assert sizes[-1] < 200 + count * (len("column 00") + 12)


INNER = np.dtype([(f"f{number}", "<f8") for number in range(20)])
ALIGNED = np.dtype([("c", "u1"), ("d", "<f8")], align=True)

# Those that the form in which .npy files have them keeps as they are, and those that it does not, or makes longer.
SHORT = {
    "plain": np.dtype([("a", "<i2"), ("b", ">f8"), ("c", "S3"), ("d", "<M8[ms]")]),
    "subarrays": np.dtype([("pair", "<i4", (2, 3)), ("b", "u1", 4)]),
    "nested": np.dtype([("pair", "<i4", (2, 3)), ("deep", [("x", "u1"), ("y", [("z", "<u8")], 2)])]),
    "padded": np.dtype({"names": ["a", "b"], "formats": ["u1", "<u4"], "offsets": [3, 8], "itemsize": 16}),
    "titles": np.dtype([(("the title", "a"), "<i2"), (("another", "b"), "<f8")]),
    "no names": np.dtype([("", "u1"), ("", "<u4")]),
}
LONG = {
    "aligned": np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    "aligned inside": np.dtype([("a", "u1"), ("b", ALIGNED)]),
    "aligned in a subarray": np.dtype([("a", ALIGNED, 3)]),
    "aligned in a subarray's field": np.dtype([("a", [("b", ALIGNED)], 3)]),
    "overlapping": np.dtype({"names": ["a", "b"], "formats": ["<u4", "<u2"], "offsets": [0, 2]}),
    "out of order": np.dtype({"names": ["a", "b"], "formats": ["<u4", "<u2"], "offsets": [2, 0]}),
    "record": np.dtype((np.record, [("a", "<i2"), ("b", ">f8")])),
    "record inside": np.dtype([("a", (np.record, [("a", "<i2"), ("b", ">f8")])), ("b", "u1")]),
    "metadata": np.dtype("<f8", metadata={"unit": "m"}),
    "metadata inside": np.dtype([("a", np.dtype("<f8", metadata={"unit": "m"})), ("b", "u1")]),
    "one many times": np.dtype([(f"g{number}", INNER) for number in range(20)]),
}


def all_of(dtype: Any) -> Any:
    """Everything that a dtype says, as `==` between dtypes does not look at it all."""
    inside = [(name, dtype.fields[name][1:], all_of(dtype.fields[name][0])) for name in dtype.names or ()]
    below = dtype.subdtype and (all_of(dtype.subdtype[0]), dtype.subdtype[1])
    titles = sorted(dtype.fields or ())
    flat = dtype.type, dtype.str, dtype.itemsize, dtype.isalignedstruct, dict(dtype.metadata or {})
    return flat, titles, inside, below


@pytest.mark.parametrize("files", [1, 2])
def test_dtypes_of_other_libraries_survive(files: int, tmp_path: Path) -> None:
    """Such as bfloat16, or `rational`, which numpy has for its own tests. Their `str` says only their size."""
    name = "numpy._core" if int(np.__version__.split(".")[0]) > 1 else "numpy.core"
    rational: Any = pytest.importorskip(f"{name}._rational_tests").rational
    dtype = np.dtype(rational)
    want = np.array([rational(number, 7) for number in range(500)])
    want.tofile(tmp_path / "raw")
    array = smmap.numpy.memmap(tmp_path / "raw", dtype)
    shards = Shards([tmp_path / "raw"] * files, dtype)
    for it, right in ((array, want), (pickle.loads(pickle.dumps(array)), want), (shards, np.tile(want, files))):
        got = np.asarray(it)
        assert (got.dtype, got.tolist()) == (dtype, right.tolist())
        assert np.add(it, 1).tolist() == (right + 1).tolist()


@pytest.mark.parametrize("name", [*SHORT, *LONG])
def test_structured_dtypes_travel_exactly(name: str, tmp_path: Path) -> None:
    dtype = {**SHORT, **LONG}[name]
    data = payload(40 * dtype.itemsize)
    (tmp_path / "raw").write_bytes(data)
    want = np.frombuffer(data, dtype)
    shards = pickle.loads(pickle.dumps(Shards([tmp_path / "raw"], dtype)))
    assert all_of(shards.dtype) == all_of(dtype)
    assert shards[3:9].tobytes() == want[3:9].tobytes()
    if not PYPY:
        np.save(tmp_path / "a.npy", np.frombuffer(data, "u1"))
        octets = load(tmp_path / "a.npy")
        array = octets.view(dtype)
        packed = pickle.dumps(array)
        again = pickle.loads(packed)
        assert all_of(again.dtype) == all_of(dtype)
        assert type(again[...]) is MappedArray
        assert again.tobytes() == want.tobytes()
        least = pickle.dumps(dtype.descr if name in SHORT else dtype)
        assert len(packed) < len(pickle.dumps(octets)) + len(least)
        assert len(least) <= len(pickle.dumps(dtype))


def test_load_over_a_descriptor(world: World, tmp_path: Path) -> None:
    table = filled("<f8", (300, 7))
    np.save(tmp_path / "a.npy", table)
    number = os.open(tmp_path / "a.npy", os.O_RDONLY)
    try:
        array = load(number, manager=world.manager(WINDOW))
    finally:
        os.close(number)
    same(array, table)
    same(pickle.loads(pickle.dumps(array)), table)  # no path: with the data


def header(text: str, version: bytes = b"\1\0", size: int | None = None) -> bytes:
    data = text.encode("latin-1")
    return (
        b"\x93NUMPY"
        + version
        + struct.pack("<H" if version == b"\1\0" else "<I", len(data) if size is None else size)
        + data
    )


GOOD = "{'descr': '<u4', 'fortran_order': False, 'shape': (10,), }\n"
BAD = {
    "empty": b"",
    "short": b"\x93NUM",
    "only magic": b"\x93NUMPY\1\0",
    "text": b"1,2,3\n" * 99,
    "zip": b"PK\3\4" + bytes(99),
    "version": header(GOOD, b"\4\0") + bytes(40),
    "header cut": header(GOOD, size=9999),
    "header huge": header(GOOD, b"\2\0", 0xFFFFFFFF),
    "no python": header("{'descr': '<u4', ") + bytes(40),
    "no literal": header("{'descr': '<u4', 'fortran_order': False, 'shape': open('x')}") + bytes(40),
    "no dict": header("[1, 2]") + bytes(40),
    "keys": header("{'descr': '<u4', 'shape': (10,)}") + bytes(40),
    "no dtype": header(GOOD.replace("<u4", "<z9")) + bytes(40),
    "negative": header(GOOD.replace("(10,)", "(-10,)")) + bytes(40),
    "negatives": header(GOOD.replace("(10,)", "(-2, -5)")) + bytes(40),
    "not utf-8": header(GOOD.replace("10", "\xff"), b"\3\0") + bytes(40),
    "deep": header("(" * 5000 + ")" * 5000) + bytes(40),
    "truncated": header(GOOD) + bytes(39),
    "far too large": header(GOOD.replace("(10,)", "(1 << 62, 1 << 62)".replace("1 << 62", str(1 << 62)))) + bytes(40),
    "objects": header(GOOD.replace("<u4", "|O")) + bytes(99),
    "objects inside": header(GOOD.replace("'<u4'", "[('a', '<u4'), ('b', '|O')]")) + bytes(999),
}


@pytest.mark.parametrize("kind", BAD)
def test_load_refuses(kind: str, world: World) -> None:
    file = world.file(0, "bad.npy", data=BAD[kind])
    manager = world.manager(WINDOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy on what it parses
        with pytest.raises(ValueError, match=r"bad\.npy|truncated") as caught:
            load(file.path, manager=manager)
        with pytest.raises(ValueError, match=r"bad\.npy") as many:
            Shards([file.path], manager=manager)
    if kind.startswith("objects"):
        assert "allow_pickle" in str(caught.value)
    if kind == "truncated":
        size = len(BAD[kind])
        assert str(caught.value).endswith(f"is truncated: its array needs {size + 1} bytes, the file has {size}")
    if kind == "zip":
        assert isinstance(caught.value, zipfile.BadZipFile)
        assert "smmap.numpy.load(path) reads .npz" in str(many.value)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("count", [0, 10])
def test_cut_anywhere(version: Any, count: int, tmp_path: Path, world: World) -> None:
    """A file that was cut is a `ValueError` that names it, however little is left."""
    whole, path = io.BytesIO(), tmp_path / "cut.npy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that version 3 was not needed
        np.lib.format.write_array(whole, filled("<u4", (count,)), version)
    data, manager = whole.getvalue(), world.manager(WINDOW)
    assert len(data) - 4 * count > 60
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.npy"):
            load(path, manager=manager)
        with pytest.raises(ValueError, match=r"cut\.npy"):
            Shards([path], manager=manager)
        with pytest.raises(ValueError, match=r"cut\.npy"):
            Shards([path], "<u4", manager=manager)
    path.write_bytes(data)
    same(load(path, manager=manager), filled("<u4", (count,)))


def test_load_errors_of_its_own(world: World, tmp_path: Path) -> None:
    manager = world.manager(WINDOW, 0, 1)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.npy", manager=manager)
    np.save(tmp_path / "a.npy", filled("<u4", (5000,)))
    np.save(tmp_path / "b.npy", filled("<u4", (5000,)))
    array = load(tmp_path / "a.npy", manager=manager)
    if not PYPY:
        with pytest.raises(smmap.LimitError):
            load(tmp_path / "b.npy", manager=manager)
    same(array, filled("<u4", (5000,)))
    manager.close()
    with pytest.raises(smmap.ClosedError):
        load(tmp_path / "b.npy", manager=manager)
    del array


@pytest.fixture
def table() -> Any:
    return filled("<i4", (60, 50))


@pytest.fixture
def arrived(tmp_path: Path, table: Any) -> Any:
    """An array that came by a pickle, and was not used yet."""
    if PYPY:
        pytest.skip("numpy on PyPy: arrays are copies")
    np.save(tmp_path / "a.npy", table)
    return pickle.loads(pickle.dumps(load(tmp_path / "a.npy")))


USES: dict[str, Callable[[Any], Any]] = {
    "element": lambda it: it[3, 4],
    "slice": lambda it: it[3:50:7, ::-2],
    "index array": lambda it: it[[5, 3]],
    "method": lambda it: it.sum(axis=0),
    "attribute": lambda it: it.T,
    "function": lambda it: np.sort(it, axis=None),
    "reduction": lambda it: np.mean(it, axis=1, keepdims=True),
    "joined": lambda it: np.concatenate([it, it], axis=1),
    "matrix product": lambda it: it @ it.T,
    "operator": lambda it: it * 2 + 1,
    "turned operator": lambda it: 7 - it,
    "with itself": lambda it: np.add(it, it),
    "comparison": lambda it: it == it[::-1],
    "ufunc's method": lambda it: np.add.reduce(it),
    "minus": lambda it: -it,
    "rows": lambda it: list(it),
    "contains": lambda it: int(it[7, 7]) in it,
    "array": lambda it: np.array(it),
    "array of another kind": lambda it: np.asarray(it, "<f8"),
    "truth": lambda it: bool(it[3:4, 3:4]),
    "out": lambda it: np.negative(it, out=np.empty(it.shape, it.dtype)),
    "into": lambda it: np.copyto(np.empty(it.shape), it),
    "string": lambda it: it.tobytes(),
    "bytes": lambda it: bytes(it),
    "format": lambda it: f"{it[0, 0]:>12}",
    "divmod": lambda it: divmod(it, 1000),
    "turned divmod": lambda it: divmod(1 << 30, it[1:2, 1:3]),
    "array by it": lambda it: np.arange(60)[it % 60],
    "added to another in place": lambda it: operator.iadd(np.ones(it.shape, "i8"), it),
    "clipped": lambda it: np.clip(it, -5, it),
    "where": lambda it: np.where(it, it, 7),
}

OPERATORS = [
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift", "matmul"),
    *("lt", "le", "eq", "ne", "gt", "ge"),
]

KINDS = {
    "floats": np.array([-np.inf, -0.0, 4.0, np.nan], "f8"),
    "small floats": np.array([1.1, 2.7, 3.3], "f4"),
    "complex": np.array([1.5 + 2j, 3 - 1j], "c8"),
    "truths": np.array([True, False, True]),
    "small integers": np.array([1, 200, 7], "u1"),
    "strings": np.array(["abc", "d", ""]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "fields": np.array([(1, 2.0), (3, 4.0)], "i4,f8"),
    "one": np.array(5),
}


@pytest.mark.parametrize("name", USES)
def test_what_arrived_answers_as_the_array_does(name: str, arrived: Any, table: Any) -> None:
    """At its first use, whichever that is, and after."""
    for _ in range(2):
        np.testing.assert_equal(USES[name](arrived), USES[name](table))


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
@pytest.mark.parametrize("kind", KINDS)
def test_operators_of_what_arrived(kind: str, tmp_path: Path) -> None:
    """They give what the array's do, to the bit and to the error, on either side."""
    np.save(tmp_path / "a.npy", KINDS[kind])
    array = load(tmp_path / "a.npy")
    one = pickle.loads(pickle.dumps(array))
    for name in OPERATORS:
        operation = getattr(operator, name)
        for other in (array, one, array[::-1] if array.ndim else 7, 3, 0.5, np.float32(2), "abc", None):
            plain = array if other is one else other
            for got, want in (
                (lambda: operation(one, other), lambda: operation(array, plain)),
                (lambda: operation(other, one), lambda: operation(plain, array)),
            ):
                assert outcome(got) == outcome(want), (name, other)


def outcome(function: Callable[[], Any]) -> Any:
    """What it gives, down to dtype and bytes, or the kind of error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function()
    except (TypeError, ValueError) as error:
        return TypeError if isinstance(error, TypeError) else type(error)
    return type(found), np.asarray(found).dtype, np.asarray(found).tobytes()


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_a_mask_that_arrived(tmp_path: Path) -> None:
    values, mask = np.arange(6.0), np.array([True, False, True, True, False, True])
    np.save(tmp_path / "a.npy", mask)
    arrived = pickle.loads(pickle.dumps(load(tmp_path / "a.npy")))
    assert np.sum(values, where=arrived) == values.sum(where=arrived) == values.sum(where=mask)
    same(np.add(values, 1, where=arrived, out=np.zeros(6)), np.add(values, 1, where=mask, out=np.zeros(6)))
    same(values[arrived], values[mask])


def test_what_arrived_is_not_taken_for_something_else(arrived: Any) -> None:
    """An iterable of small integers would be taken for the bytes themselves."""
    with pytest.raises(ValueError, match="index"):
        bytearray(arrived)
    for use in (lambda: memoryview(arrived), lambda: hash(arrived), lambda: io.BytesIO().write(arrived)):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(TypeError):
        np.negative(np.asarray(arrived), out=arrived)


def test_what_arrived_opens_at_its_first_use(arrived: Any, table: Any, tmp_path: Path) -> None:
    arrived = pickle.loads(pickle.dumps(arrived))  # this one nobody else holds
    before = smmap.default_manager().stats()
    assert (arrived.shape, arrived.dtype, arrived.ndim) == (table.shape, table.dtype, table.ndim)
    assert (arrived.size, arrived.itemsize, arrived.nbytes) == (table.size, table.itemsize, table.nbytes)
    assert len(arrived) == len(table)
    assert str(tmp_path / "a.npy") in repr(arrived)
    assert arrived.__dlpack_device__() == (1, 0)
    assert {"mean", "T", "shape", "astype"} < set(dir(arrived))
    for name in ("close", "__cuda_array_interface__", "__array_struct__", "_source", "names"):
        assert not hasattr(arrived, name)
    assert smmap.default_manager().stats() == before
    array = np.asarray(arrived)
    assert type(array) is np.ndarray
    opened = smmap.default_manager().stats()
    assert np.shares_memory(array, np.asarray(arrived))
    assert np.shares_memory(array, arrived[3:9])
    assert smmap.default_manager().stats() == opened  # asked once
    smmap.default_manager().collect()
    assert not LINUX or len(maps(tmp_path)) == 1
    assert np.array(arrived, "<i4").flags.writeable
    del arrived, array
    smmap.default_manager().collect()
    assert not LINUX or maps(tmp_path) == []


def test_what_arrived_is_read_only(arrived: Any, table: Any) -> None:
    for write in (
        lambda: arrived.__setitem__(0, 7),
        lambda: arrived.__iadd__(1),
        lambda: arrived.fill(7),
        lambda: np.asarray(arrived).sort(),
    ):
        with pytest.raises(ValueError, match="read-only"):
            write()
    same(np.asarray(arrived), table)


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_one_element_that_arrived(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(7, "<u2"))
    element = pickle.loads(pickle.dumps(load(tmp_path / "a.npy")))
    for kind in (bool, int, float, complex, range):
        assert kind(element) == kind(7)  # type: ignore[call-overload]
    assert element[()] == 7
    with pytest.raises(TypeError, match="unsized"):
        len(element)
    with pytest.raises(TypeError, match="0-d"):
        iter(element)


def test_what_arrived_when_asked_for_no_copy(arrived: Any) -> None:
    assert np.shares_memory(arrived.__array__(copy=False), arrived.__array__(np.dtype("<i4"), copy=False))
    with pytest.raises(ValueError, match="float64"):
        arrived.__array__("<f8", copy=False)
    assert not np.shares_memory(arrived.__array__(copy=True), arrived.__array__())


def test_what_arrived_maps_once_for_many_threads(arrived: Any, table: Any) -> None:
    before = smmap.default_manager().stats()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: arrived[number % 60], range(400)))
    for number, row in enumerate(found):
        same(row, table[number % 60])
    assert smmap.default_manager().stats().misses <= before.misses + 1
    del found, row


def test_load_unpickled_after_a_change(arrived: Any, tmp_path: Path) -> None:
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    for _ in range(2):  # and it stays so
        for use in (lambda: arrived[5:9], lambda: np.asarray(arrived), lambda: arrived + 1, lambda: arrived.sum()):
            with pytest.raises(smmap.FileChangedError) as caught:
                use()
            assert caught.value.filename == str(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("offset", "dtype", "shape", "strides"),
    [
        (90, "<u4", (3,), None),
        (-1, "u1", (3,), None),
        (0, "u1", (101,), None),
        (0, "u1", (2, 51), (51, 1)),
        (0, "u1", (3,), (-1,)),
        (0, "O", (1,), None),
        (0, "u1", (-1, -5), None),
        (0, "u1", (1 << 62, 4), None),
        (5, "<u4", (2,), (1 << 62,)),
        (0, [("a", "|O")], (1,), None),
        (0, [("a", "<u4"), ("b", [("c", "|O")])], (0,), None),
        (0, [("a", "<z9")], (1,), None),
        (0, [("a", "u1", -1)], (1,), None),
        (0, [1], (1,), None),
        (90, [("a", "<u4"), ("", "|V3")], (2,), None),
    ],
)
def test_a_crafted_pickle_reads_nothing_outside(
    world: World, offset: int, dtype: Any, shape: Any, strides: Any
) -> None:
    file = world.file(100)
    with pytest.raises((ValueError, OverflowError, TypeError)):
        LazyArray(smmap.buffer(file.path), offset, dtype, shape, strides)
    assert LazyArray(smmap.buffer(file.path), 90, "<u2", (5,), None).tobytes() == file.data[90:]


def test_needs_numpy(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('there is none')")
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import smmap
try:
    import smmap.numpy
except ModuleNotFoundError as error:
    print(error.name, error)
"""
    assert run_python(script, tmp_path).stdout == "numpy smmap.numpy needs numpy: pip install numpy\n"
    assert run_python("import sys, smmap; print('numpy' in sys.modules)").stdout == "False\n"


# Shards


class Many:
    """Files, and the array that all of them joined make."""

    def __init__(self, folder: Path, dtype: Any, counts: list[int], kind: str, offset: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.array = filled(dtype, (sum(counts),))
        self.offset = offset
        self.paths = []
        start = 0
        for number, count in enumerate(counts):
            part = self.array[start : start + count]
            npy = kind == "npy" or (kind == "mixed" and number % 2)
            path = folder / f"{number:04}.{'npy' if npy else 'bin'}"
            if npy:
                np.save(path, part)
            else:
                path.write_bytes(payload(offset, number) + part.tobytes())
            self.paths.append(path)
            start += count

    def shards(self, manager: Any) -> Shards:
        return Shards(self.paths, self.dtype, manager=manager, offset=self.offset)


COUNTS = [700, 0, 1, 5 * G, 0, 0, 333, 9000, 2, 0]


@pytest.fixture(params=["raw", "npy", "mixed"])
def many(request: pytest.FixtureRequest, tmp_path: Path) -> Many:
    return Many(tmp_path, "<u2", COUNTS, request.param, offset=0 if request.param == "npy" else 24)


def places_of(many: Many) -> list[int]:
    """Every index at which something changes, in disorder."""
    size = len(many.array)
    borders = {0, size // 2, size}
    start = 0
    for count in COUNTS:
        start += count
        borders |= {start, start - count + WINDOW // 2, start - count + gather_module._BLOCK // 2}
    return [place for border in sorted(borders) for place in (border - 1, border, border + 1)]


def test_shards_look_like_an_array(many: Many, world: World) -> None:
    shards = many.shards(world.manager(WINDOW, 0, 4))
    array = many.array
    for name in ("shape", "dtype", "size", "itemsize", "nbytes", "ndim"):
        assert getattr(shards, name) == getattr(array, name)
        assert type(getattr(shards, name)) is type(getattr(array, name))
    assert len(shards) == len(array)
    assert shards.counts == COUNTS
    assert shards.paths == [str(path) for path in many.paths]
    assert repr(shards) == f"<smmap.numpy.Shards of 10 files, {len(array)} elements of uint16>"
    assert b"".join(element.tobytes() for element in shards) == array.tobytes()
    assert type(next(iter(shards))) is np.uint16
    same(np.asarray(shards), array)
    same(np.array(shards), array)
    same(np.asarray(shards, "f8"), array.astype("f8"))
    assert np.array(shards).flags.writeable
    assert np.add.reduce(np.asarray(shards), dtype="u8") == array.sum(dtype="u8")
    with pytest.raises(ValueError, match="copy"):
        shards.__array__(copy=False)
    assert array[9] in shards


def test_shards_at_integers(many: Many, manager: Any) -> None:
    shards, array = many.shards(manager), many.array
    for place in places_of(many):
        for key in (place, place - len(array), np.int64(place), np.array(place)):
            if -len(array) <= key < len(array):
                assert shards[key] == array[key]
                assert type(shards[key]) is np.uint16
                assert shards[(key,)] == shards[..., key] == array[key]
    for outside in (len(array), -len(array) - 1, 1 << 62, 1 << 70, -(1 << 70)):
        with pytest.raises(IndexError):
            shards[outside]


@pytest.mark.parametrize("small", [1, 32 << 10])
def test_shards_at_slices(many: Many, manager: Any, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_SMALL", small)
    monkeypatch.setattr(shards_module, "_CHUNK", 3000)
    monkeypatch.setattr(shards_module, "_MANY", 50)
    shards, array = many.shards(manager), many.array
    places = [*places_of(many), None, -1, -len(array), 1 << 70]
    chance = np.random.RandomState(1)
    for start in places:
        for stop in chance.choice(len(places), 5):
            for step in (
                None,
                1,
                *chance.choice([2, 3, 7, 100, 1000, 5000, 99999, -1, -2, -9, -5000, -99999], 1).tolist(),
            ):
                key = slice(start, places[stop], step)
                got = shards[key]
                same(got, array[key])
                assert not got.flags.writeable
    same(shards[:], array)
    same(shards[::-1], array[::-1])
    same(shards[:, ...], array)
    same(shards[...], array)
    same(shards[()], array)
    del got


def test_shards_at_many_places(many: Many, manager: Any) -> None:
    shards, array = many.shards(manager), many.array
    size = len(array)
    chance = np.random.RandomState(2)
    inside = [place for place in places_of(many) if -size <= place < size]
    keys: list[Any] = [
        inside,
        inside[::-1],
        [],
        [5, 5, -5, 5],
        np.array([], np.int64),
        np.array(7),
        np.arange(size),
        np.arange(size)[::-1],
        np.arange(0, size, 13, dtype=np.int32),
        np.arange(200, dtype=np.uint8),
        np.arange(200, dtype=">u8"),
        chance.randint(-size, size, 2000),
        chance.randint(0, size, (40, 50)),
        chance.randint(0, size - 64, 30)[:, None] + np.arange(64),
        chance.randint(0, size, (3, 0, 2)),
        np.zeros(size, bool),
        np.ones(size, bool),
        chance.rand(size) < 0.01,
        (chance.rand(size) < 0.5).tolist(),
        (chance.randint(0, size, 9),),
    ]
    for key in keys:
        got, want = shards[key], array[key]
        same(got, want)
        assert type(got) is type(want)
        assert got.shape == () or got.flags.writeable
    for wrong in (
        [size],
        [-size - 1],
        [0.5],
        np.array([0.0]),
        ["a"],
        [True],
        np.ones(size + 1, bool),
        np.ones((size, 1), bool),
        np.array([1 << 63], np.uint64),
        "a",
        1.5,
        (1, 2),
        (slice(3), 4),
    ):
        with pytest.raises(IndexError):
            shards[wrong]
    for wrong in (None, True, np.bool_(True)):  # numpy would add a dimension
        with pytest.raises(IndexError):
            shards[wrong]


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_shards_at_places_that_are_arrays_of_others(many: Many, world: World, tmp_path: Path) -> None:
    shards, array = many.shards(world.manager(WINDOW)), many.array
    for key in (np.array([3, 0, -2]), np.array([[1, 7]], "u1"), np.arange(len(array)) % 5 == 1, np.array(4)):
        np.save(tmp_path / "key.npy", key)
        same(shards[pickle.loads(pickle.dumps(load(tmp_path / "key.npy")))], array[key])
        same(shards[pytest.importorskip("dask.array").from_array(key)], array[key])
    with pytest.raises(IndexError, match="only integers"):
        shards[np.ones(3)]


@pytest.mark.parametrize("dtype", [">f8", "S5", "<M8[s]", "V3", [("a", "u1"), ("b", "<f4")]], ids=str)
def test_shards_of_other_dtypes(dtype: Any, tmp_path: Path, world: World) -> None:
    for kind in ("raw", "npy"):
        (tmp_path / kind).mkdir()
        many = Many(tmp_path / kind, dtype, [100, 3, 5000, 0, 40], kind)
        shards, array = many.shards(world.manager(WINDOW, WINDOW, 1)), many.array
        same(shards[:], array)
        same(shards[90:5100:7], array[90:5100:7])
        same(shards[[5142, 3, 100, 102, 103]], array[[5142, 3, 100, 102, 103]])
        assert shards[4000].tobytes() == array[4000].tobytes()
        again = pickle.loads(pickle.dumps(shards))
        assert again.dtype == many.dtype
        same(again[50:200], array[50:200])


small_counts = st.lists(st.integers(0, 40), max_size=8)


@settings(max_examples=60 if PYPY else 200, deadline=None, derandomize=True, database=None)
@given(counts=small_counts, data=st.data())
def test_shards_at_anything(tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: Any) -> None:
    many = Many(tmp_path_factory.mktemp("many"), ">u4", counts, "raw", offset=3)
    size = sum(counts)
    number = st.integers(-size - 3, size + 3)
    numbers = st.none() | number
    keys = st.one_of(
        number,
        st.slices(size),
        st.builds(slice, numbers, numbers, st.none() | st.integers(-9, 9).filter(bool)),
        st.lists(number, max_size=30),
        st.lists(st.booleans(), min_size=size, max_size=size).map(lambda mask: np.array(mask, bool)),
    )
    with smmap.SlidingWindowMapManager(WINDOW, WINDOW, 1) as manager, pytest.MonkeyPatch.context() as patch:
        for name in ("_SMALL", "_NEAR", "_CHUNK", "_MANY"):
            patch.setattr(shards_module, name, data.draw(st.integers(4, 64)))
        for name in ("_BLOCK", "_LARGE", "_FEW"):
            patch.setattr(gather_module, name, data.draw(st.integers(4, 64)))
        shards = many.shards(manager)
        for key in data.draw(st.lists(keys, min_size=1, max_size=8)):
            agree(shards, many.array, lambda it: it[key].tolist())


def test_shards_refuse(world: World, tmp_path: Path) -> None:
    manager = world.manager(WINDOW)
    odd = world.file(1001, "odd.bin").path
    np.save(tmp_path / "a.npy", filled("<u2", (10,)))
    np.save(tmp_path / "b.npy", filled("<u4", (10,)))
    np.save(tmp_path / "c.npy", filled("<u2", (5, 2)))
    (tmp_path / "d.bin").write_bytes((tmp_path / "b.npy").read_bytes())
    cases: list[tuple[Any, Any, Any, str]] = [
        ([odd], "<u2", {}, "odd.bin"),
        ([odd], "<u2", {"offset": 1002}, "odd.bin"),
        ([odd], "O", {}, "objects"),
        ([odd], "S0", {}, "joined"),
        ([odd], ("<u2", (0, 4)), {}, "no elements"),
        ([odd], ("<u2", (4,)), {"offset": 3}, "odd.bin"),
        ([odd], None, {}, r"odd\.bin.* is not a \.npy file"),
        ([odd], "<u2", {"offset": -1}, "offset"),
        ([tmp_path / "a.npy", tmp_path / "b.npy"], None, {}, "b.npy"),
        ([tmp_path / "a.npy", tmp_path / "d.bin"], None, {}, "d.bin"),
        ([tmp_path / "b.npy"], "<u2", {}, "b.npy"),
        (
            [tmp_path / "a.npy", tmp_path / "c.npy"],
            None,
            {},
            r"c\.npy: .* rows of shape \(2,\), not \(\), as in .*a\.npy",
        ),
        ([], None, {}, "dtype"),
    ]
    for paths, dtype, options, message in cases:
        with pytest.raises(ValueError, match=message):
            Shards(paths, dtype, manager=manager, **options)
    for wrong in ("a.bin", b"a.bin", tmp_path / "a.npy", [5], [None], 5):
        with pytest.raises(TypeError):
            Shards(wrong, "<u2", manager=manager)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(TypeError):
        Shards([odd], "<u2", offset=1.5)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(TypeError, match="manager"):
        Shards([odd], "<u2", offset=1, manager="x")  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(FileNotFoundError):
        Shards([tmp_path / "missing"], "<u2")
    with pytest.raises(IsADirectoryError):
        Shards([tmp_path], "<u2")
    assert len(Shards([odd], "<u2", offset=1)) == 500
    assert len(Shards([odd], "<u2", offset=1001)) == 0


def test_no_files(world: World) -> None:
    shards = Shards([], "<u2", manager=world.manager(WINDOW))
    same(shards[:], np.empty(0, "<u2"))
    same(np.asarray(shards), np.empty(0, "<u2"))
    same(shards[[]], np.empty(0, "<u2"))
    assert list(shards) == []
    with pytest.raises(IndexError):
        shards[0]
    assert len(pickle.loads(pickle.dumps(shards))) == 0


@linux
def test_shards_stay_within_the_limits(tmp_path: Path, world: World) -> None:
    """300 files under 6 handles, whatever is read; nothing is opened before the first read."""
    many = Many(tmp_path, "<u2", [3 * G] * 300, "raw")
    manager = world.manager(WINDOW, 4 * WINDOW, 6)
    shards, array = many.shards(manager), many.array
    assert maps(tmp_path) == descriptors(tmp_path) == []
    size = len(array)
    chance = np.random.RandomState(3)
    for turn in range(60):
        starts = chance.randint(0, size - 600, 8)
        keys = starts[:, None] + np.arange(50)
        same(shards[keys], array[keys])
        same(shards[starts[0] : starts[0] + 600], array[starts[0] : starts[0] + 600])
        same(shards[starts[1] : starts[1] + 3 * G], array[starts[1] : starts[1] + 3 * G])
        same(shards[starts[2] :: 4099], array[starts[2] :: 4099])
        assert shards[int(starts[3])] == array[starts[3]]
        assert len(maps(tmp_path)) + len(descriptors(tmp_path)) <= 6 + LATE * 6, turn
    stats = manager.stats()
    assert stats.peak_mapped <= 6
    assert stats.peak_memory <= 4 * WINDOW or PYPY
    assert stats.cold_reads > 1000


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_large_slices_are_no_copies(tmp_path: Path, world: World) -> None:
    many = Many(tmp_path, "<u2", [30 * G] * 6, "raw")
    manager = world.manager(WINDOW, 0, 3)
    shards, array = many.shards(manager), many.array
    kept = []
    for number in range(6):  # three handles: then copies
        start = number * 30 * G + 5
        kept.append(shards[start : start + 20 * G])
        assert manager.stats().mapped == min(number + 1, 3)
    small = shards[:100]
    with open(many.paths[0], "r+b") as out:
        out.write(b"\xff" * 30)
    assert kept[0][0] == small[5] ^ small[5] ^ 0xFFFF
    assert small[5] == array[5]
    manager.collect()
    for number, part in enumerate(kept):
        start = number * 30 * G + 5
        same(part[99:], array[start + 99 : start + 20 * G])
    assert np.shares_memory(kept[1], np.asarray(kept[1]))
    whole = Shards(many.paths[1:2], "<u2", manager=manager)
    del kept, part
    same(whole.__array__(copy=False), array[30 * G : 60 * G])


def test_small_slices_of_cold_files_map_nothing(tmp_path: Path, world: World) -> None:
    many = Many(tmp_path, "<u2", [9 * G] * 6, "raw")
    manager = world.manager(WINDOW)
    shards, array = many.shards(manager), many.array
    for start in range(5, len(array) - 999, 9 * G):
        same(shards[start : start + 999], array[start : start + 999])
        assert shards[start] == array[start]
    assert manager.stats().mapped == (0 if _system.KEEPS_DESCRIPTORS else 6)
    for turn in range(30):
        same(shards[turn : turn + 999], array[turn : turn + 999])
    assert manager.stats().mapped >= 1  # read often


def test_shards_changed(many: Many, world: World) -> None:
    """What was not read yet is noticed; also what pickled shards meet."""
    manager = world.manager(WINDOW)
    shards, array = many.shards(manager), many.array
    data = pickle.dumps(shards)
    assert shards[5] == array[5]
    path = many.paths[3]
    times = os.stat(path)
    content = path.read_bytes()
    first = sum(COUNTS[:3])

    def refused(message: str = str(path)) -> None:
        for changed in (shards, pickle.loads(data)):
            for key in (first, slice(first - 3, first + 3), [first + 9], slice(first, first + 3 * G)):
                with pytest.raises(smmap.FileChangedError, match="changed") as caught:
                    changed[key]
                assert caught.value.filename == message
            same(changed[: first - 9], array[: first - 9])  # the others are as they were

    path.write_bytes(content[:-2])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    refused()
    path.write_bytes(content + b"ab")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    refused()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    refused()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        shards[first]
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    same(shards[:], array)


def test_shards_pickle_small(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    many = Many(folder, "<u2", [100] * 400, "raw")
    one = Shards(many.paths[:1], "<u2")
    assert len(pickle.dumps(one)) - len(str(many.paths[0])) < 200
    few = Shards(many.paths[:5], "<u2")
    assert len(pickle.dumps(few)) - len(str(folder)) < 300
    assert len(pickle.dumps(many.shards(None))) < 400 * 24 + 400  # size, mtime and the end of the name
    for shards in (one, few, many.shards(None)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(shards, protocol))
            assert again.paths == shards.paths
            assert again.__reduce__() == shards.__reduce__()
            same(again[:], many.array[: len(shards)])
    status = os.stat(many.paths[0])
    assert not {status.st_ino, status.st_dev} & set(map(str, one.__reduce__()[1]))


def test_crafted_shards(world: World) -> None:
    file = world.file(100)
    size, mtime = 100, os.stat(file.path).st_mtime_ns
    build = shards_module._shards
    good = (1, str(file.path), "", "<u2", size, mtime, 0, None)
    same(build(*good)[:], np.frombuffer(file.data, "<u2"))
    for change in (
        {0: 2},
        {3: "O"},
        {6: -2},
        {6: 101},
        {7: 51},
        {7: -1},
        {5: bytes(16)},
        {4: bytes(9)},
    ):
        with pytest.raises((ValueError, TypeError)):
            build(*(change.get(place, value) for place, value in enumerate(good)))
    with pytest.raises(smmap.FileChangedError):
        build(*good[:4], 200, mtime, 0, None)[0]


def test_closing(many: Many, world: World) -> None:
    manager = world.manager(WINDOW)
    with many.shards(manager) as shards:
        part = shards[:50]
        assert not shards.closed
    assert shards.closed
    same(part, many.array[:50])
    for use in (
        lambda: shards[0],
        lambda: shards[len(many.array)],
        lambda: shards[np.int64(3)],
        lambda: shards[:9],
        lambda: shards[0:0],
        lambda: shards[5:0:-2],
        lambda: shards[9:3:2],
        lambda: shards[...],
        lambda: shards[(slice(4, 4),)],
        lambda: shards[[1]],
        lambda: shards[[]],
        lambda: shards[np.zeros(len(many.array), bool)],
        lambda: list(shards),
        lambda: np.asarray(shards),
        lambda: pickle.dumps(shards),
    ):
        with pytest.raises(smmap.ClosedError):
            use()
    shards.close()
    assert "closed" in repr(shards)
    with Shards([], "<u2", manager=manager) as empty:
        assert list(empty) == []
    for use in (lambda: empty[:], lambda: list(empty), lambda: np.asarray(empty), lambda: empty[0]):
        with pytest.raises(smmap.ClosedError):
            use()


def test_copies(many: Many, world: World) -> None:
    manager = world.manager(WINDOW)
    for copied in (copy.copy, copy.deepcopy):
        shards = many.shards(manager)
        other = copied(shards)
        shards.close()
        misses = manager.stats().cold_reads
        same(other[600:800], many.array[600:800])
        assert manager.stats().cold_reads > misses
        with pytest.raises(smmap.ClosedError):
            copied(shards)


def test_threads_share_shards(many: Many, world: World) -> None:
    shards, array = many.shards(world.manager(WINDOW, 2 * WINDOW, 99 if LATE else 12)), many.array
    right: list[int] = []

    def work(number: int) -> None:
        chance = np.random.RandomState(number)
        for _ in range(40):
            keys = chance.randint(0, len(array), 30)
            same(shards[keys], array[keys])
            same(shards[keys[0] : keys[0] + 900], array[keys[0] : keys[0] + 900])
        right.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 4


def test_names_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    array = filled("<u2", (60,))
    names = ["plain", "\u4e16 \u00e9", "new\nline", "-"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(array[number * 15 : number * 15 + 15].tobytes())
    monkeypatch.chdir(tmp_path)
    shards = Shards(
        [names[0], os.fsencode(names[1]), tmp_path / names[2], Path(names[3])], "<u2", manager=world.manager()
    )
    monkeypatch.chdir("/")
    same(shards[:], array)
    same(pickle.loads(pickle.dumps(shards))[:], array)
    same(pickle.loads(pickle.dumps(Shards([tmp_path / names[0]] * 3, "<u2")))[:], np.tile(array[:15], 3))


def test_dask_token(many: Many) -> None:
    assert many.shards(None).__dask_tokenize__() == many.shards(None).__dask_tokenize__()
    shards = many.shards(None)
    os.utime(many.paths[0], ns=(5, 5))
    assert many.shards(None).__dask_tokenize__() != shards.__dask_tokenize__()


def test_nothing_is_looked_up_twice(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many reads: each block of each file once, in order, however the indexes stand."""
    many = Many(tmp_path, "<u2", [20 * G] * 4, "raw")
    shards = many.shards(world.manager(WINDOW))
    reads: list[int] = []
    before_system_call(monkeypatch, "pread", lambda _number, _size, offset: reads.append(offset))
    block = gather_module._BLOCK // 2
    keys = np.array([shard * 20 * G + place for place in (9, 3, 7, block + 5, block + 1, 5) for shard in (3, 1)])
    same(shards[keys], many.array[keys])
    if _system.KEEPS_DESCRIPTORS and _engine.engine == "plain":  # the other one reads these without waiting
        assert len(reads) == 4
        assert [offset // gather_module._BLOCK for offset in reads] == [0, 1, 0, 1]
