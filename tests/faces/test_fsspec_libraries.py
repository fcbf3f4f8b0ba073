"""The libraries that read through fsspec get from `smmap://` what they get from the plain path, within tiny limits."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core._tools import G, payload, reclaim

fsspec = pytest.importorskip("fsspec")
np = pytest.importorskip("numpy")

from smmap.fsspec import SmmapFileSystem  # noqa: E402

WINDOW = 2 * G
HANDLES = 4
LIMITS: dict[str, dict[str, Any]] = {
    "mapped": {"window_size": WINDOW, "max_memory_size": 3 * WINDOW, "max_open_handles": HANDLES},
    "read": {"window_size": WINDOW, "max_memory_size": 3 * WINDOW, "max_open_handles": HANDLES, "backing": "read"},
}
ROWS = 20_000


@pytest.fixture(params=LIMITS, ids=str)
def options(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Storage options; in the end, much was read under them, and never more was mapped than they allow."""
    SmmapFileSystem.clear_instance_cache()
    fs = fsspec.filesystem("smmap", **LIMITS[request.param])
    manager = fs.manager
    yield LIMITS[request.param]
    stats = manager.stats()
    assert stats.cold_reads + stats.misses > 5, "nothing was read through the manager"
    assert stats.peak_mapped <= HANDLES
    assert stats.peak_memory <= 3 * WINDOW
    SmmapFileSystem.clear_instance_cache()
    reclaim()
    manager._check()
    manager.collect()
    assert manager.stats()[:5] == (0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def pd() -> Any:
    return pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def pa() -> Any:
    pytest.importorskip("pyarrow.dataset")
    return pytest.importorskip("pyarrow")


def columns(rows: int, seed: int) -> dict[str, Any]:
    """Columns in which no value comes twice at a short distance, of several kinds."""
    numbers = np.frombuffer(payload(8 * rows, seed), "<i8")
    return {
        "number": numbers,
        "real": numbers / 7.0,
        "text": [f"{value:x}" * (1 + value % 3) for value in numbers.tolist()],
        "group": numbers % 5,
    }


@pytest.fixture(scope="module")
def frame(pd: Any) -> Any:
    return pd.DataFrame(columns(ROWS, 1))


def tight(path: Path) -> Path:
    assert path.stat().st_size > 20 * WINDOW, "so small a file shows nothing"
    return path


# pandas


def test_pandas_csv(pd: Any, frame: Any, options: Any, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "table.csv", index=False)
    path = tight(tmp_path / "table.csv")
    wanted = pd.read_csv(path)
    pd.testing.assert_frame_equal(pd.read_csv(f"smmap://{path}", storage_options=options), wanted)
    pieces = pd.read_csv(f"smmap://{path}", storage_options=options, chunksize=1000, usecols=["number", "text"])
    pd.testing.assert_frame_equal(pd.concat(pieces), wanted[["number", "text"]])
    frame.to_csv(tmp_path / "table.csv.gz", index=False)
    packed = tight(tmp_path / "table.csv.gz")
    pd.testing.assert_frame_equal(pd.read_csv(f"smmap://{packed}", storage_options=options), wanted)


def test_pandas_parquet(pd: Any, pa: Any, frame: Any, options: Any, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "table.parquet", row_group_size=1500)
    path = tight(tmp_path / "table.parquet")
    url = f"smmap://{path}"
    pd.testing.assert_frame_equal(pd.read_parquet(url, storage_options=options), frame)
    some = pd.read_parquet(url, storage_options=options, columns=["real"], filters=[("number", ">", 0)])
    pd.testing.assert_frame_equal(some, pd.read_parquet(path, columns=["real"], filters=[("number", ">", 0)]))
    assert 0 < len(some) < ROWS


def test_pandas_pickle_and_feather(pd: Any, pa: Any, frame: Any, options: Any, tmp_path: Path) -> None:
    frame.to_pickle(tmp_path / "table.pkl")
    path = tight(tmp_path / "table.pkl")
    pd.testing.assert_frame_equal(pd.read_pickle(f"smmap://{path}", storage_options=options), frame)
    frame.to_feather(tmp_path / "table.feather")
    path = tight(tmp_path / "table.feather")
    pd.testing.assert_frame_equal(pd.read_feather(f"smmap://{path}", storage_options=options), frame)


def test_pandas_does_not_write(pd: Any, frame: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="smmap:// is read-only"):
        frame.head().to_csv(f"smmap://{tmp_path}/new.csv")
    assert list(tmp_path.iterdir()) == []


# pyarrow


def test_pyarrow_dataset(pa: Any, options: Any, tmp_path: Path) -> None:
    for part in range(5):
        table = pa.table(columns(ROWS // 5, part))
        (tmp_path / f"set/kind={part % 2}").mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(table, tmp_path / f"set/kind={part % 2}/{part}.parquet", row_group_size=2000)
    fs = fsspec.filesystem("smmap", **options)
    wanted = pa.dataset.dataset(tmp_path / "set", partitioning="hive")
    found = pa.dataset.dataset(f"{tmp_path}/set", filesystem=fs, partitioning="hive")
    assert sorted(found.files) == sorted(wanted.files)
    assert found.schema == wanted.schema
    order = [("number", "ascending")]
    assert found.to_table().sort_by(order).equals(wanted.to_table().sort_by(order))
    chosen = (pa.dataset.field("kind") == 1) & (pa.dataset.field("group") == 3)
    some = found.to_table(filter=chosen, columns=["number", "text"])
    assert some.sort_by(order).equals(wanted.to_table(filter=chosen, columns=["number", "text"]).sort_by(order))
    assert 0 < len(some) < ROWS // 2
    assert found.count_rows() == ROWS


def test_pyarrow_random_access(pa: Any, options: Any, tmp_path: Path) -> None:
    """Row groups and columns in any order out of one open file."""
    table = pa.table(columns(ROWS, 3))
    path = tmp_path / "table.parquet"
    pa.parquet.write_table(table, path, row_group_size=500)
    source = random.Random(1)
    with fsspec.open(f"smmap://{tight(path)}", **options) as opened:
        found = pa.parquet.ParquetFile(opened)
        for _ in range(60):
            group = source.randrange(ROWS // 500)
            column = source.choice(table.column_names)
            piece = found.read_row_group(group, columns=[column]).column(column)
            assert piece.equals(table.column(column).slice(group * 500, 500))


def test_pyarrow_filesystem(pa: Any, options: Any, tmp_path: Path) -> None:
    """pyarrow's own face of it: listings, streams, random access, and no writing."""
    data = payload(30 * WINDOW, "stream")
    (tmp_path / "data").write_bytes(data)
    handler = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fsspec.filesystem("smmap", **options)))
    found = handler.get_file_info(pa.fs.FileSelector(str(tmp_path)))
    assert [(info.path, info.size, info.type) for info in found] == [
        (f"{tmp_path}/data", len(data), pa.fs.FileType.File)
    ]
    with handler.open_input_stream(f"{tmp_path}/data") as stream:
        assert stream.read() == data
    with handler.open_input_file(f"{tmp_path}/data") as file:
        assert file.size() == len(data)
        assert file.read_at(3 * WINDOW, WINDOW - 1) == data[WINDOW - 1 : 4 * WINDOW - 1]
    with pytest.raises(OSError, match="smmap:// is read-only"):
        handler.open_output_stream(f"{tmp_path}/new")
    with pytest.raises(OSError, match="smmap:// is read-only"):
        handler.delete_file(f"{tmp_path}/data")


# zarr and xarray


@pytest.fixture
def array() -> Any:
    return np.frombuffer(payload(4 * 300 * 500, "array"), "<u4").reshape(300, 500)


@pytest.fixture
def zarr() -> Any:
    return pytest.importorskip("zarr")


def save(zarr: Any, path: Path, array: Any, **extra: Any) -> None:
    made = zarr.open(str(path), mode="w", shape=array.shape, dtype=array.dtype, chunks=(64, 200), **extra)
    made[:] = array


def open_zarr(zarr: Any, path: Path, options: Any) -> Any:
    return zarr.open(f"smmap://{path}", mode="r", storage_options=options)


def compare(found: Any, array: Any) -> None:
    assert found.shape == array.shape
    assert np.array_equal(found[:], array)
    source = random.Random(2)
    for _ in range(50):
        row, column = source.randrange(300), source.randrange(500)
        assert found[row, column] == array[row, column]
        high, wide = row + source.randrange(1, 80), column + source.randrange(1, 250)
        assert np.array_equal(found[row:high, column:wide], array[row:high, column:wide])


def test_zarr(zarr: Any, array: Any, options: Any, tmp_path: Path) -> None:
    save(zarr, tmp_path / "array.zarr", array)
    found = open_zarr(zarr, tmp_path / "array.zarr", options)
    compare(found, array)
    with pytest.raises(Exception, match=r"read.only") as told:
        found[0, 0] = 1
    assert type(told.value).__module__.partition(".")[0] in ("builtins", "zarr")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3, which has shards, needs Python 3.11")
def test_zarr_shards(zarr: Any, array: Any, options: Any, tmp_path: Path) -> None:
    """Many chunks in one file: zarr asks for ranges of it."""
    made = zarr.create_array(
        str(tmp_path / "array.zarr"), shape=array.shape, dtype=array.dtype, chunks=(16, 25), shards=(160, 500)
    )
    made[:] = array
    compare(open_zarr(zarr, tmp_path / "array.zarr", options), array)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
@pytest.mark.filterwarnings("ignore:numpy.ndarray size changed:RuntimeWarning")
def test_xarray(zarr: Any, array: Any, options: Any, tmp_path: Path) -> None:
    xr = pytest.importorskip("xarray")
    made = xr.Dataset(
        {"first": (("y", "x"), array), "second": (("y",), np.arange(300) / 7)},
        coords={"x": np.arange(500) * 3},
        attrs={"from": "a test"},
    )
    made.to_zarr(tmp_path / "set.zarr")
    ways: list[Any] = [None, {}]
    for chunks in ways:
        with xr.open_zarr(f"smmap://{tmp_path}/set.zarr", storage_options=options, chunks=chunks) as found:
            xr.testing.assert_identical(found.load(), made)
    with xr.open_zarr(f"smmap://{tmp_path}/set.zarr", storage_options=options) as found:
        part = found["first"].sel(x=[30, 600, 9]).isel(y=slice(10, 200, 7)).mean("y")
        xr.testing.assert_allclose(
            part.compute(), made["first"].sel(x=[30, 600, 9]).isel(y=slice(10, 200, 7)).mean("y")
        )
