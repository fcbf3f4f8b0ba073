"""Rows and batches of `Shards`, against numpy's own array of all files joined."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smmap
from core._tools import LATE, G, World, linux, maps, payload
from smmap import _engine, _system

np: Any = pytest.importorskip("numpy")

import smmap.numpy  # noqa: E402
from smmap.numpy import Shards  # noqa: E402
from smmap.numpy import _gather as gather_module  # noqa: E402
from smmap.numpy import _shards as shards_module  # noqa: E402

PYPY = sys.implementation.name == "pypy"
WINDOW = 2 * G
LIMITS = {"roomy": (WINDOW, 0, sys.maxsize), "tight": (WINDOW, 2 * WINDOW, 2), "one": (WINDOW, WINDOW, 1)}


@pytest.fixture(params=LIMITS, ids=str)
def manager(request: pytest.FixtureRequest, world: World) -> Any:
    return world.manager(*LIMITS[request.param])


def filled(dtype: Any, shape: Any) -> Any:
    """An array in which every element is another one, as far as the dtype goes."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    if kind.kind in "iuf" and kind.itemsize > 1:
        return (np.arange(count) * 7919 % 65521).astype(kind).reshape(shape)
    return np.frombuffer(payload(count * kind.itemsize, str(kind)), kind, count).reshape(shape)


def joined(folder: Path, dtype: Any, counts: list[int], row: tuple[int, ...] = (), raw: bool = False) -> Any:
    """Files of that many rows each, and the array of all."""
    array = filled(dtype, (sum(counts), *row))
    paths = []
    for number, start in enumerate(itertools.accumulate([0, *counts[:-1]])):
        part = array[start : start + counts[number]]
        paths.append(folder / f"{number:03}.{'bin' if raw else 'npy'}")
        if raw:
            paths[-1].write_bytes(part.tobytes())
        else:
            np.save(paths[-1], part)
    return paths, array


def same(got: Any, want: Any) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.tobytes() == want.tobytes()


def windows(array: Any, length: int) -> Any:
    """What `blocks` takes from: all blocks of that length."""
    return array[np.arange(len(array) - length + 1)[:, None] + np.arange(length)]


# Rows

ROWS = {"2-D": (7,), "3-D": (3, 5), "4-D": (2, 1, 3), "one column": (1,), "long": (5000,)}
COUNTS = [30, 0, 1, 7, 0, 25]


@pytest.mark.parametrize("kind", ["npy", "raw", "raw, from a pickle"])
@pytest.mark.parametrize("row", ROWS)
def test_rows_of_many_files_are_one_array(row: str, kind: str, manager: Any, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", COUNTS, ROWS[row], kind != "npy")
    shards = Shards(paths, None if kind == "npy" else ("<f4", ROWS[row]), manager=manager)
    if "pickle" in kind:
        shards = pickle.loads(pickle.dumps(shards))
    for name in ("shape", "dtype", "size", "itemsize", "nbytes", "ndim"):
        assert getattr(shards, name) == getattr(array, name)
    assert len(shards) == len(array)
    assert shards.counts == COUNTS
    same(np.asarray(shards), array)
    same(np.stack(list(shards)), array)
    for place in (0, 29, 30, 31, 37, 62, -1, -63, np.int64(5), np.array(33)):
        same(shards[place], array[place])
    for place in (63, -64, 1 << 70):
        with pytest.raises(IndexError):
            shards[place]
    bounds = (None, 0, 3, 29, 30, 38, 63, -5, 99)
    for start, stop, step in itertools.product(bounds, bounds, (None, 2, 11, -1, -7)):
        same(shards[start:stop:step], array[start:stop:step])
    for key in ([], [5, 5, -1, 30], np.arange(63)[::-1], np.array([[1, 62], [30, 31]]), np.arange(63) % 3 == 1):
        same(shards[key], array[key])
        assert shards[key].flags.writeable
    smmap.default_manager().collect()


MASK = np.arange(15).reshape(3, 5) % 2 == 0
KEYS: dict[str, Any] = {
    "element": (33, 2, 4),
    "row, column": (33, slice(None), 4),
    "row, places": (33, slice(None), [4, 0]),
    "row, places on both": (33, [1, 0], [4, 0]),
    "rows, column": (slice(20, 40), 1),
    "rows, slices": (slice(20, 40, 3), slice(None, None, -1), slice(1, 4)),
    "rows, places": (slice(20, 40), [2, 0]),
    "places, column": ([40, 2, 2], 1),
    "places, slice": ([40, 2, 2], slice(1, None)),
    "places, slice, column": ([40, 2, -2], slice(None), 3),
    "places on both": ([40, 2, 2], [1, 0, 2]),
    "places on all": ([[40], [2]], [1, 0], [[3], [4]]),
    "places and a mask": ([40, 2], np.array([True, False, True])),
    "mask, column": (np.arange(63) % 9 == 4, 1),
    "rows, mask on both": (slice(20, 40), MASK),
    "row, mask on both": (33, MASK),
    "places, mask on both": ([40, 2, 2, 5, 9, 11, 3, 62], MASK),
    "dots, mask on both": (..., MASK),
    "mask on two": (np.arange(63 * 3).reshape(63, 3) % 7 == 4,),
    "mask on two, column": (np.arange(63 * 3).reshape(63, 3) % 7 == 4, 2),
    "mask on all": (np.arange(63 * 15).reshape(63, 3, 5) % 7 == 4,),
    "mask on all, dots": (np.arange(63 * 15).reshape(63, 3, 5) % 7 == 4, ...),
    "mask in lists": (33, MASK.tolist()),
    "dots first": (..., 2),
    "dots last": (33, ...),
    "dots in between": (33, ..., 2),
    "dots for nothing": (33, 1, ..., 2),
    "dots only": (...,),
    "nothing": (),
    "all": (slice(None), slice(None), slice(None)),
    "negative": (-1, -2, -3),
    "numpy's integers": (np.int8(33), np.uint8(2)),
}


@pytest.mark.parametrize("name", KEYS)
def test_tuples_mean_what_they_mean_to_numpy(name: str, manager: Any, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", COUNTS, (3, 5))
    got, want = Shards(paths, manager=manager)[KEYS[name]], array[KEYS[name]]
    assert got.tobytes() == want.tobytes()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert np.isscalar(got) == np.isscalar(want) or "dots" in name


def test_mask_of_several_dimensions_needs_no_tuple(manager: Any, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", COUNTS, (3, 5))
    shards = Shards(paths, manager=manager)
    for ndim in (2, 3):
        mask = np.arange(array[(0,) * 0].size).reshape(array.shape) % 7 == 4
        mask = mask if ndim == 3 else mask[:, :, 0]
        same(shards[mask], array[mask])


def test_membership_is_that_of_the_joined_array(manager: Any, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", COUNTS, (3, 5))
    shards = Shards(paths, manager=manager)
    for value in (array[40, 2, 3], -1, array[40, 2], array[40], array[40] + 0.5, array, array + 0.5):
        assert (value in shards) == (value in array)
    paths, array = joined(tmp_path, "<u4", COUNTS)
    shards = Shards(paths, manager=manager)
    assert array[50] in shards
    assert 1 << 40 not in shards


@pytest.mark.parametrize(
    "key",
    [
        (1, 2, 3, 4),
        (..., 1, ...),
        (63,),
        (0, 3),
        (0, slice(None), 5),
        ([0, 63], 1),
        ([0, 1], [0, 1, 2]),
        (None, 1),
        (1, None),
        (True, 1),
        (0.5, 1),
        (1, 0.5),
        ("a",),
        (np.ones((62, 3), bool),),
        (np.ones((63, 3, 5, 1), bool),),
        (1, np.ones((3, 5), bool), 1),
        (np.array(True), 1),
    ],
    ids=str,
)
def test_tuples_that_numpy_refuses_are_refused(key: Any, world: World, tmp_path: Path) -> None:
    paths, _ = joined(tmp_path, "<f4", COUNTS, (3, 5))
    with pytest.raises(IndexError):
        Shards(paths, manager=world.manager(WINDOW))[key]


def test_mixed_row_shapes_are_refused_by_name(world: World, tmp_path: Path) -> None:
    manager = world.manager(WINDOW)
    for name, array in {
        "a": np.zeros((5, 3)),
        "b": np.zeros((5, 4)),
        "c": np.zeros((5, 3, 1)),
        "d": np.zeros(5),
        "e": np.zeros(()),
        "f": np.zeros((5, 0)),
        "g": np.asfortranarray(np.zeros((5, 3))),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "raw").write_bytes(bytes(240))
    a = tmp_path / "a.npy"
    for name, message in {
        "b": r"b\.npy: .* rows of shape \(4,\), not \(3,\), as in .*a\.npy",
        "c": r"c\.npy: .* rows of shape \(3, 1\), not \(3,\)",
        "d": r"d\.npy: .* rows of shape \(\), not \(3,\)",
        "e": r"e\.npy: .* no dimension",
        "f": r"f\.npy: .* rows of shape \(0,\)",
        "g": r"g\.npy: .* Fortran order",
    }.items():
        with pytest.raises(ValueError, match=message):
            Shards([a, tmp_path / f"{name}.npy"], manager=manager)
    for alone, message in (("e", "no dimension"), ("f", r"f\.npy: .* no elements"), ("g", "Fortran")):
        with pytest.raises(ValueError, match=message):
            Shards([tmp_path / f"{alone}.npy"], manager=manager)
    for paths in ([a, tmp_path / "raw"], [tmp_path / "raw", a]):
        with pytest.raises(ValueError, match=r"(a\.npy|raw): .*as in .*(a\.npy|raw)"):
            Shards(paths, "<f8", manager=manager)
    with pytest.raises(ValueError, match=r"a\.npy: .* rows of shape \(3,\), not \(4,\)$"):
        Shards([a], ("<f8", (4,)), manager=manager)
    assert Shards([a, tmp_path / "raw"], ("<f8", (3,)), manager=manager).counts == [5, 10]


def test_one_column_in_fortran_order_lies_in_a_row(world: World, tmp_path: Path) -> None:
    head = b"{'descr': '<u2', 'fortran_order': True, 'shape': (9, 1), }\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head + bytes(range(18)))
    same(Shards([tmp_path / "a.npy"], manager=world.manager(WINDOW))[:], np.load(tmp_path / "a.npy"))


def test_rows_that_no_dtype_can_have_are_refused(world: World, tmp_path: Path) -> None:
    head = b"{'descr': '<u2', 'fortran_order': False, 'shape': (1, 1073741824), }\n"
    with open(tmp_path / "a.npy", "wb") as out:
        out.write(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)
        out.truncate(4 << 30)
    with pytest.raises(ValueError, match=r"a\.npy: .*2 GiB"):
        Shards([tmp_path / "a.npy"], manager=world.manager(WINDOW))


@pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")
def test_large_rows_are_no_copies(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", [3, 3], (9000,))
    manager = world.manager(WINDOW)
    shards = Shards(paths, manager=manager)
    row = shards[4]
    assert manager.stats().mapped == 1
    assert not row.flags.writeable
    same(row, array[4])
    manager.close()
    same(row, array[4])


def test_rows_pickle_small(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", [9] * 50, (4, 6))
    shards = Shards(paths)
    assert len(pickle.dumps(shards)) < 50 * 24 + 400
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(shards, protocol))
        assert (again.shape, again.dtype, again.paths, again.counts) == (
            shards.shape,
            shards.dtype,
            shards.paths,
            shards.counts,
        )
        same(again[100:200], array[100:200])
    smmap.default_manager().collect()


@pytest.mark.parametrize("row", [(-1,), (0,), (-2, -3), (1 << 40,), ("3",), (1.5,), ((2, 3),)], ids=str)
def test_crafted_rows_are_refused(row: Any, world: World, tmp_path: Path) -> None:
    paths, _ = joined(tmp_path, "<f4", [9], (6,))
    build, state = Shards(paths).__reduce__()
    assert len(build(*state)) == 9
    with pytest.raises((ValueError, TypeError)):
        build(*state[:-1], row)


# Blocks

STARTS: dict[str, Callable[[int], Any]] = {  # of the number of blocks
    "all": lambda count: np.arange(count),
    "backwards": lambda count: np.arange(count)[::-1],
    "scattered": lambda count: (np.arange(40) * 7919 % count).astype(np.int32),
    "repeated": lambda count: [count - 1, 0, 0, count - 1, count // 2],
    "negative": lambda count: [-1, -count, count - 1],
    "unsigned": lambda count: np.array([count - 1, 0], ">u8"),
    "table": lambda count: np.array([[0, count - 1, count // 3], [count // 2, 0, 0]]),
    "tuple": lambda count: (count - 1, 0),
    "none": lambda count: [],
    "empty table": lambda count: np.empty((3, 0), np.int64),
    "mask": lambda count: np.arange(count) % 5 == 2,
    "one": lambda count: np.array(count // 2),
}
MANY_COUNTS = [700, 0, 1, 1, 0, 333, 3000, 2]


@pytest.mark.parametrize("row", [(), (3,)], ids=["elements", "rows"])
@pytest.mark.parametrize("length", [0, 1, 3, 129, 3100, sum(MANY_COUNTS)])
@pytest.mark.parametrize("starts", STARTS)
def test_blocks_equal_sliding_windows(starts: str, length: int, row: Any, world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", MANY_COUNTS, row)
    wanted = STARTS[starts](len(array) - length + 1)
    everything = np.lib.stride_tricks.sliding_window_view(array, length, axis=0)
    everything = np.moveaxis(everything, -1, 1)  # numpy has the length last, also of rows
    want = np.ascontiguousarray(everything[np.asarray(wanted) if np.size(wanted) else np.asarray(wanted, np.int64)])
    for limits in ("roomy", "one"):
        shards = Shards(paths, manager=world.manager(*LIMITS[limits]))
        same(shards.blocks(wanted, length).reshape(want.shape), want)
        out = np.zeros_like(want)
        assert shards.blocks(wanted, length, out) is out
        same(out, want)


def test_blocks_take_no_second_copy_of_all(world: World, tmp_path: Path) -> None:
    """Not even where one of them is across files."""
    paths, array = joined(tmp_path, "<u4", [2_000_000, 2_000_000], raw=True)
    shards = Shards(paths, "<u4", manager=world.manager(1 << 20, 4 << 20))
    out = np.empty((40, 1_000_000), "<u4")
    starts = np.arange(40) * 75_000
    tracemalloc = pytest.importorskip("tracemalloc")  # PyPy has none
    tracemalloc.start()
    try:
        shards.blocks(starts, 1_000_000, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (out[:, 0] == array[starts]).all()
    assert (out[:, -1] == array[starts + 999_999]).all()
    assert peak < 40 << 20  # of 160 MB


def test_blocks_are_written_into_whatever_has_their_bytes(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", [70, 5, 80])
    shards = Shards(paths, manager=world.manager(WINDOW))
    starts = [72, 0, 60]
    want = windows(array, 20)[starts]
    outs: dict[str, Any] = {
        "2-D": np.empty((3, 20), "<u2"),
        "flat": np.empty(60, "<u2"),
        "3-D": np.empty((3, 5, 4), "<u2"),
        "bytes of an array": np.empty(120, "u1"),
        "bytearray": bytearray(120),
        "memoryview": memoryview(bytearray(120)),
        "part of a memoryview": memoryview(bytearray(140))[7:127],
        "array.array": __import__("array").array("H", bytes(120)),
        "unaligned": np.frombuffer(bytearray(121), "u1")[1:].view("<u2"),
        "part of an array": np.empty((9, 20), "<u2")[3:6],
        "subclass": np.empty((3, 20), "<u2").view(np.ma.MaskedArray),
        "rows of a transposed one": np.empty((20, 3), "<u2", order="F").T,
    }
    for name, out in outs.items():
        assert shards.blocks(starts, 20, out) is out, name
        assert bytes(memoryview(out)) == want.tobytes(), name
    torch = sys.modules.get("torch")
    if torch is not None:
        out = torch.empty((3, 20), dtype=torch.uint16)
        assert shards.blocks(np.array(starts), 20, out) is out
        same(out.numpy(), want)


def test_blocks_are_written_into_tensors(world: World, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    paths, array = joined(tmp_path, "<i4", [70, 5, 80])
    shards = Shards(paths, manager=world.manager(WINDOW))
    out = torch.empty((3, 20), dtype=torch.int32)
    assert shards.blocks(torch.tensor([72, 0, 60]), 20, out) is out
    same(out.numpy(), windows(array, 20)[[72, 0, 60]])
    same(shards[torch.tensor([5])], array[[5]])
    assert shards[torch.tensor(5)] == array[5]
    for wrong, kind in (
        (torch.empty((3, 20), dtype=torch.int64), TypeError),
        (torch.empty((20, 3), dtype=torch.int32).T, ValueError),
        (torch.empty((2, 20), dtype=torch.int32), ValueError),
    ):
        with pytest.raises(kind):
            shards.blocks([72, 0, 60], 20, wrong)


def test_blocks_refuse_an_out_that_does_not_fit(world: World, tmp_path: Path) -> None:
    """Before anything is read."""
    paths, _ = joined(tmp_path, "<u2", [70, 5, 80])
    manager = world.manager(WINDOW)
    shards = Shards(paths, manager=manager)

    class Maker:
        """Makes an array when it is asked for one, as lazy arrays do: what is written to it is lost."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.zeros((3, 20), "<u2")

    read_only = np.zeros((3, 20), "<u2")
    read_only.flags.writeable = False
    before = manager.stats()
    for out, kind, message in (
        (np.zeros((3, 20), "<u4"), TypeError, "uint16"),
        (np.zeros((3, 20), ">u2"), TypeError, "uint16"),
        (np.zeros((3, 20), "<i2"), TypeError, "int16"),
        (np.zeros((3, 19), "<u2"), ValueError, r"120 bytes.*114.*\(3, 19\)"),
        (bytearray(119), ValueError, "120 bytes"),
        (np.zeros((3, 40), "<u2")[:, ::2], ValueError, "contiguous"),
        (np.zeros((20, 3), "<u2").T, ValueError, "contiguous"),
        (read_only, ValueError, "read-only"),
        (bytes(120), ValueError, "read-only"),
        ([0] * 60, TypeError, "list"),
        (Maker(), TypeError, "Maker"),
        ("x" * 120, TypeError, "str"),
        (7, TypeError, "int"),
    ):
        with pytest.raises(kind, match=message):
            shards.blocks([72, 0, 60], 20, out)
    for starts, length, kind in (
        ([136], 20, IndexError),
        ([-137], 20, IndexError),
        ([0.5], 20, IndexError),
        (["a"], 20, IndexError),
        ([True], 20, IndexError),
        ([0], 156, ValueError),
        ([0], -1, ValueError),
        ([0], 1.5, TypeError),
        ([0], None, TypeError),
    ):
        with pytest.raises(kind):
            shards.blocks(starts, length)  # type: ignore[arg-type, unused-ignore]
    assert manager.stats() == before
    shards.close()
    with pytest.raises(smmap.ClosedError):
        shards.blocks([], 1)


@settings(max_examples=60 if PYPY else 300, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_blocks_of_anything(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    counts = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=7))
    dtype = data.draw(st.sampled_from(["u1", "<u2", "V3", "<u4", "<u8", "S5", "<c16"]))
    row = data.draw(st.sampled_from([(), (), (2,), (3, 1)]))
    paths, array = joined(tmp_path_factory.mktemp("some"), dtype, counts, row, raw=data.draw(st.booleans()))
    length = data.draw(st.integers(0, sum(counts)))
    place = st.integers(-(sum(counts) - length + 1), sum(counts) - length)
    wanted = np.array(data.draw(st.lists(place, max_size=20)), np.int64)
    keys = np.where(wanted < 0, wanted + sum(counts) - length + 1, wanted)[:, None] + np.arange(length)
    with smmap.SlidingWindowMapManager(WINDOW, WINDOW, 1) as manager, pytest.MonkeyPatch.context() as patch:
        for name in ("_BLOCK", "_LARGE", "_FEW"):
            patch.setattr(gather_module, name, data.draw(st.integers(1, 64)))
        patch.setattr(shards_module, "_BATCH", data.draw(st.integers(1, 200)))
        shards = Shards(paths, (dtype, row) if row else dtype, manager=manager)
        same(shards.blocks(wanted, length), array[keys])
        same(shards[keys], array[keys])


@pytest.mark.parametrize("start", [1 << 62, (1 << 62) + 7, (1 << 63) - 1, -(1 << 62), -(1 << 63)], ids=str)
def test_starts_far_outside_are_refused(start: int, world: World, tmp_path: Path) -> None:
    """Although their bytes would be counted beyond what numpy's integers hold."""
    paths, _ = joined(tmp_path, "<i4", [2500, 2500])
    shards = Shards(paths, manager=world.manager(WINDOW))
    for length in (3, 2000):
        for starts in (np.array([start]), np.array([5, start]), [start]):
            with pytest.raises(IndexError):
                shards.blocks(starts, length)


def test_traced_blocks_are_read(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<i4", [3 * G, 5 * G])
    manager = world.manager(WINDOW)
    shards = Shards(paths, manager=manager)
    with manager.trace(tmp_path / "trace") as trace:
        got = shards.blocks(np.array([5 * G, 3, 3 * G - 1]), 2000)
    assert got.tolist() == [array[at : at + 2000].tolist() for at in (5 * G, 3, 3 * G - 1)]
    assert trace.recorded >= 3


def test_blocks_are_announced(manager: Any, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", [5000, 0, 3, 9000], raw=True)
    shards = Shards(paths, "<u2", manager=manager)
    starts = np.array([[4990, 0], [-1, 14_000 - 40]])
    before = manager.stats()
    shards.prefetch(starts, 20)
    shards.prefetch(starts[:1].astype("u2"), 20)
    shards.prefetch([], 20)
    after = manager.stats()
    assert (after.mapped, after.cold_reads) == (before.mapped, before.cold_reads)
    same(shards.blocks(starts, 20), windows(array, 20)[starts])
    with pytest.raises(IndexError, match="index 14003 is out of bounds"):
        shards.prefetch([14_003], 1)
    with pytest.raises(ValueError, match="a block of 14004 does not fit"):
        shards.prefetch([0], 14_004)
    shards.close()
    with pytest.raises(smmap.ClosedError):
        shards.prefetch([0], 1)


# How many reads


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the system is asked for: files that are opened, and ranges that are read."""
    if _engine.engine != "plain" or not _system.KEEPS_DESCRIPTORS:
        pytest.skip("the system calls are not Python's, or no descriptor is kept")
    calls: dict[str, list[Any]] = {"open_file": [], "read_at": []}
    for name in calls:
        monkeypatch.setattr(_engine.chosen, name, counting(getattr(_engine.chosen, name), calls[name]))
    if not hasattr(os, "preadv"):
        pytest.skip("no preadv there")
    calls["preadv"] = []
    monkeypatch.setattr(os, "preadv", counting(os.preadv, calls["preadv"]))
    return calls


def counting(call: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls.append(args)
        return call(*args)

    return counted


def test_each_file_is_opened_once_for_a_batch(reads: Any, world: World, tmp_path: Path) -> None:
    """Under one handle, whatever the order of the blocks; in the order of offsets."""
    paths, array = joined(tmp_path, "<u2", [20_000] * 8, raw=True)
    shards = Shards(paths, "<u2", manager=world.manager(WINDOW, WINDOW, 1))
    numbers = np.arange(64)
    starts = numbers % 8 * 20_000 + numbers // 8 * 3 % 8 * 2400 + numbers * 7919 % 1300  # none meets another
    same(shards.blocks(starts, 1025), array[starts[:, None] + np.arange(1025)])
    assert [args[0] for args in reads["open_file"]] == [str(path) for path in paths]
    offsets = [args[2] for args in reads["preadv"]]
    assert 8 <= len(offsets) <= 64  # what lies close together is read by one call
    assert sum(one > other for one, other in zip(offsets, offsets[1:])) <= 7  # goes back with each other file only


def test_blocks_across_files_open_each_file_once_more_at_most(reads: Any, world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", [2000] * 8, raw=True)
    shards = Shards(paths, "<u2", manager=world.manager(WINDOW, WINDOW, 1))
    starts = np.arange(60) * 7919 % (16_000 - 600)
    same(shards.blocks(starts, 600), array[starts[:, None] + np.arange(600)])
    opened = [args[0] for args in reads["open_file"]]
    assert max(map(opened.count, opened)) <= 2
    reads["open_file"].clear()
    shards = Shards(paths, "<u2", manager=world.manager(WINDOW))
    same(shards.blocks(starts, 600), array[starts[:, None] + np.arange(600)])
    assert sorted(args[0] for args in reads["open_file"]) == [str(path) for path in paths]


def test_index_array_of_blocks_is_read_as_blocks(reads: Any, world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", [60_000] * 2, raw=True)
    shards = Shards(paths, "<u2", manager=world.manager(32 * G))
    starts = np.array([100_000, 5, 40_000, 80_000])
    for dtype in (np.int64, np.int32, np.uint32):
        keys = (starts[:, None] + np.arange(9000)).astype(dtype)
        reads["preadv"].clear()
        same(shards[keys], array[keys])
        assert len(reads["preadv"]) in (4, 0)  # as a set of places it takes one read for each 16 KiB


@pytest.mark.parametrize(
    "key",
    [[5, 9, 7], [[5, 5, 7]], [[5, 6, 7], [5, 9, 7]], [5, 4, 3], [-1, 0], [154, -155], [7], [[7], [5]], [5, 6, 7]],
    ids=str,
)
def test_places_that_are_almost_blocks(key: Any, world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", [70, 5, 80])
    same(Shards(paths, manager=world.manager(WINDOW))[np.array(key)], array[np.array(key)])


@linux
def test_blocks_stay_within_the_limits(tmp_path: Path, world: World) -> None:
    paths, array = joined(tmp_path, "<u2", [3 * G] * 100, raw=True)
    manager = world.manager(WINDOW, 4 * WINDOW, 6)
    shards = Shards(paths, "<u2", manager=manager)
    out = np.empty((32, 1025), "<u2")
    for turn in range(40):
        starts = np.random.RandomState(turn).randint(0, len(array) - 1024, 32)
        same(shards.blocks(starts, 1025, out), array[starts[:, None] + np.arange(1025)])
        assert len(maps(tmp_path)) <= 6 + LATE * 6
    assert manager.stats().peak_mapped <= 6
    assert manager.stats().detached == 0


@linux
@pytest.mark.parametrize("left", [1, 3])
def test_blocks_are_read_where_the_system_has_few_descriptors_left(tmp_path: Path, world: World, left: int) -> None:
    import resource

    paths, array = joined(tmp_path, "<u2", [2 * G] * 40, raw=True)
    shards = Shards(paths, "<u2", manager=world.manager(WINDOW))
    starts = np.random.RandomState(1).randint(0, len(array) - 1024, 90)
    keys = starts[:, None] + np.arange(1025)
    before, in_use = resource.getrlimit(resource.RLIMIT_NOFILE), os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, in_use)) + 4, before[1]))
    taken: list[int] = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.dup(0))
        for _ in range(left):
            os.close(taken.pop())
        same(shards.blocks(starts, 1025), array[keys])
        same(shards[keys], array[keys])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for number in taken:
            os.close(number)


def test_blocks_of_a_changed_file_are_refused(world: World, tmp_path: Path) -> None:
    """The error names the file; blocks of other files are read after it as before."""
    paths, array = joined(tmp_path, "<u2", [70, 50, 80], raw=True)
    shards = Shards(paths, "<u2", manager=world.manager(WINDOW))
    paths[1].write_bytes(bytes(98))
    for starts in ([0, 80, 140], [60], [115, 0]):
        with pytest.raises(smmap.FileChangedError) as caught:
            shards.blocks(starts, 20)
        assert caught.value.filename == str(paths[1])
    same(shards.blocks([0, 50, 120], 20), windows(array, 20)[[0, 50, 120]])


def test_threads_take_blocks_at_once(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<u2", [5 * G, 100, 3 * G, 7], raw=True)
    shards = Shards(paths, "<u2", manager=world.manager(WINDOW, 2 * WINDOW, 99 if LATE else 8))
    right: list[int] = []

    def work(number: int) -> None:
        chance = np.random.RandomState(number)
        for _ in range(30):
            starts = chance.randint(0, len(array) - 600, 20)
            same(shards.blocks(starts, 601), array[starts[:, None] + np.arange(601)])
        right.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 4


def test_gather_fills_its_output_in_order(world: World) -> None:
    """The function by itself: ranges that overlap, touch and repeat, over several buffers, of every size."""
    files = [world.file(size, f"f{size}") for size in (3 * G + 11, 1, 500)]
    manager = world.manager(WINDOW, WINDOW, 1)
    buffers = [manager.buffer(file.path) for file in files]
    chance = np.random.RandomState(4)
    for size in (0, 1, 2, 3, 8, 100, 500):
        which = chance.choice([0, 2] if size > 1 else [0, 1, 2], 300)
        offsets = np.array([chance.randint(0, len(files[number].data) - size + 1) for number in which.tolist()])
        out = bytearray(300 * size)
        gather_module.gather(buffers, which.astype(np.int64), offsets.astype(np.int64), size, memoryview(out))
        assert out == b"".join(
            files[number].data[offset : offset + size] for number, offset in zip(which.tolist(), offsets.tolist())
        )


def test_order_of_ranges_whose_offsets_are_huge() -> None:
    """Two keys do not fit into one number then."""
    which, offsets = np.array([0, 1 << 20, 0, 1, 0]), np.array([1 << 61, 5, 3, 1 << 61, 3])
    order = gather_module._order(which, offsets)
    assert sorted(order[:2].tolist()) == [2, 4]
    assert order[2:].tolist() == [0, 3, 1]
    assert gather_module._order(np.sort(which), np.arange(5)) is None


# Other libraries


def test_shards_of_one_file_are_exchanged_without_a_copy(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", [0, 3000, 0], (5,))
    manager = world.manager(WINDOW)
    shards = Shards(paths, manager=manager)
    takers: list[Callable[[Any], Any]] = [np.asarray, lambda it: np.asarray(it.__array__(copy=False))]
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        takers.append(np.from_dlpack)
    for take in takers:
        found = take(shards)
        same(found, array)
        assert not found.flags.writeable
        assert PYPY or manager.stats().mapped == 1
        shards.close()
        manager.collect()
        same(found, array)
        shards = Shards(paths, manager=manager)
        del found
    assert shards.__array_interface__["shape"] == (3000, 5)


def test_shards_of_several_files_are_exchanged_as_a_copy(world: World, tmp_path: Path) -> None:
    paths, array = joined(tmp_path, "<f4", [100, 50], (5,))
    shards = Shards(paths, manager=world.manager(WINDOW))
    assert not hasattr(shards, "__array_interface__")
    same(np.asarray(shards), array)
    same(np.from_dlpack(shards), array)
    with pytest.raises(BufferError, match="several files"):
        shards.__dlpack__(copy=False)
    shards.close()
    for use in (np.asarray, np.from_dlpack, lambda it: it.__dlpack__(copy=False)):
        with pytest.raises(smmap.ClosedError):
            use(shards)
    one = Shards(paths[:1], manager=world.manager(WINDOW))
    one.close()
    assert not hasattr(one, "__array_interface__")


@pytest.mark.parametrize("counts", [[3000], [100, 50]], ids=["one file", "two files"])
def test_shards_go_to_torch_at_once(counts: list[int], world: World, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    paths, array = joined(tmp_path, "<f4", counts, (5,))
    shards = Shards(paths, manager=world.manager(WINDOW))
    asked: list[Any] = []
    taking = Shards.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shards, "__getitem__", lambda self, key: asked.append(key) or taking(self, key))
        for name in ("as_tensor", "tensor", "asarray", "from_dlpack"):
            assert torch.equal(getattr(torch, name)(shards), torch.from_numpy(array))
    assert asked == []


def test_tab_completion_shows_what_users_call() -> None:
    assert [name for name in dir(Shards) if not name.startswith("_")] == [
        "blocks",
        "close",
        "closed",
        "counts",
        "dtype",
        "itemsize",
        "nbytes",
        "ndim",
        "paths",
        "prefetch",
        "shape",
        "size",
    ]
    assert shards_module.__all__ == ["Shards"]
