"""smmap inside the workers of a Dask cluster: each within its own limits, results as in one process."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import File, G, payload

pytest.importorskip("fsspec")
distributed: Any = pytest.importorskip("distributed")
dask: Any = pytest.importorskip("dask")
np: Any = pytest.importorskip("numpy")
pd: Any = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
array: Any = pytest.importorskip("dask.array")
bag: Any = pytest.importorskip("dask.bag")
dataframe: Any = pytest.importorskip("dask.dataframe")
read_bytes: Any = pytest.importorskip("dask.bytes").read_bytes

WINDOW = 2 * G
WORKERS = 2
LIMITS = {"window_size": WINDOW, "max_memory_size": 4 * WINDOW, "max_open_handles": 6}
ENVIRONMENT = {
    "SMMAP_WINDOW_SIZE": f"{4 * WINDOW}",
    "SMMAP_MAX_MEMORY": f"{64 * G >> 10}K",
    "SMMAP_MAX_HANDLES": "5",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the cluster's own sockets
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two worker processes of two threads each, with limits in their environment."""
    with (
        dask.config.set({"temporary-directory": str(tmp_path_factory.mktemp("dask"))}),
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=2, processes=True, dashboard_address=":0", env=ENVIRONMENT
        ) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


def of_options() -> smmap.Stats:
    """In a worker: the counters of the manager for `LIMITS`."""
    import fsspec

    stats: smmap.Stats = fsspec.filesystem("smmap", **LIMITS).manager.stats()
    return stats


def of_default() -> smmap.Stats:
    """In a worker: the counters of the default manager."""
    return smmap.default_manager().stats()


def check(client: Any, ask: Any, handles: int, memory: int) -> None:
    """The workers have read, each by itself and within its own limits."""
    found: list[smmap.Stats] = list(client.run(ask).values())
    assert len(found) == WORKERS
    assert sum(stats.cold_reads + stats.misses for stats in found) > 0
    for stats in found:
        assert (stats.max_open_handles, stats.max_memory_size) == (handles, memory)
        assert stats.peak_mapped <= handles
        assert stats.peak_memory <= memory


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    """Files of lines, of which no two are alike."""
    folder = tmp_path_factory.mktemp("texts")
    files = []
    for number in range(24):
        data = payload(60_000 + 1000 * number, number).replace(b"\r", b"x")
        files.append(File(folder / f"{number:02d}.txt", data))
        files[-1].path.write_bytes(data)
    return files


def test_limits_from_the_environment(client: Any) -> None:
    found = list(client.run(of_default).values())
    assert [stats[-3:] for stats in found] == [(4 * WINDOW, 64 * G, 5)] * WORKERS


def test_each_worker_is_within_its_own_limits(client: Any, texts: list[File]) -> None:
    """Both read everything at the same time, three times: neither may count what the other has mapped."""

    def read(folder: str) -> tuple[list[bytes], smmap.Stats]:
        import fsspec

        fs = fsspec.filesystem("smmap", **LIMITS)
        for _ in range(3):
            paths = fs.glob(f"{folder}/*.txt")
            fs.cat_ranges(
                paths * 20, [n % 50_000 for n in range(0, 20 * 97 * len(paths), 97)], [60_000] * 20 * len(paths)
            )
        return [fs.cat_file(path) for path in paths], fs.manager.stats()

    for found, stats in client.run(read, str(texts[0].path.parent)).values():
        assert found == [file.data for file in texts]
        assert stats.misses + stats.cold_reads > 1000
        assert (stats.max_open_handles, stats.max_memory_size, stats.window_size) == (6, 4 * WINDOW, WINDOW)
        assert stats.peak_mapped <= 6
        assert stats.peak_memory <= 4 * WINDOW


@pytest.mark.parametrize("delimiter", [None, b"\n"], ids=["cut anywhere", "lines"])
def test_read_bytes(delimiter: Any, client: Any, texts: list[File]) -> None:
    url = f"smmap://{texts[0].path.parent}/*.txt"
    sample, blocks, paths = read_bytes(
        url, blocksize=2 * WINDOW, delimiter=delimiter, include_path=True, sample=1000, **LIMITS
    )
    assert paths == [str(file.path) for file in texts]
    assert sample.startswith(texts[0].data[:1000])
    assert min(map(len, blocks)) > 2
    found = dask.compute(*blocks)
    assert [b"".join(pieces) for pieces in found] == [file.data for file in texts]
    if delimiter:
        assert all(piece.endswith(delimiter) for pieces in found for piece in pieces[:-1])
    check(client, of_options, 6, 4 * WINDOW)


def test_default_manager_in_the_workers(client: Any, texts: list[File]) -> None:
    """Without options the limits are those of the workers' environment, not those of this process."""
    lines = bag.read_text(f"smmap://{texts[0].path.parent}/*.txt", encoding="latin-1", linedelimiter="\n")
    wanted = sum(len(line.strip()) for file in texts for line in file.data.decode("latin-1").split("\n"))
    assert lines.map(str.strip).map(len).sum().compute() == wanted
    check(client, of_default, 5, 64 * G)


def test_buffers_go_to_the_workers(client: Any, texts: list[File]) -> None:
    """A buffer is sent as a name and a range, and read on the default manager of the worker that it comes to."""

    def count(data: Any, needle: bytes) -> tuple[int, int, bytes]:
        return len(data), data.count(needle), data[-9:]

    buffers = [smmap.buffer(file.path, 100) for file in texts]
    found = client.gather(client.map(count, buffers, needle=b"ab"))
    assert found == [count(file.data[100:], b"ab") for file in texts]
    check(client, of_default, 5, 64 * G)


@pytest.fixture(scope="module")
def frame() -> Any:
    numbers = np.frombuffer(payload(8 * 24_000, "frame"), "<i8")
    return pd.DataFrame(
        {
            "number": numbers,
            "real": numbers / 7.0,
            "text": [f"{value:x}" for value in numbers.tolist()],
            "group": numbers % 5,
        }
    )


def test_read_parquet(client: Any, frame: Any, tmp_path: Path) -> None:
    for part in range(6):
        piece = frame.iloc[4000 * part : 4000 * (part + 1)]
        piece.to_parquet(tmp_path / f"{part}.parquet", row_group_size=500)
    table = dataframe.read_parquet(f"smmap://{tmp_path}/*.parquet", storage_options=LIMITS)
    assert table.npartitions == 6
    pd.testing.assert_frame_equal(table.compute(), frame, check_dtype=False)
    some = table[table["group"] == 3].groupby("group").agg({"number": "max", "real": "min"}).compute()
    pd.testing.assert_frame_equal(
        some, frame[frame["group"] == 3].groupby("group").agg({"number": "max", "real": "min"}), check_dtype=False
    )
    check(client, of_options, 6, 4 * WINDOW)


def test_read_csv(client: Any, frame: Any, tmp_path: Path) -> None:
    for part in range(3):
        frame.iloc[8000 * part : 8000 * (part + 1)].to_csv(tmp_path / f"{part}.csv", index=False)
    table = dataframe.read_csv(f"smmap://{tmp_path}/*.csv", blocksize=100_000, storage_options=LIMITS)
    assert table.npartitions > 6
    pd.testing.assert_frame_equal(table.compute().reset_index(drop=True), frame, check_dtype=False, rtol=1e-12)
    check(client, of_options, 6, 4 * WINDOW)


def test_zarr(client: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    values = np.frombuffer(payload(4 * 400 * 300, "zarr"), "<u4").reshape(400, 300)
    made = zarr.open(str(tmp_path / "array.zarr"), mode="w", shape=values.shape, dtype=values.dtype, chunks=(50, 100))
    made[:] = values
    found = array.from_zarr(f"smmap://{tmp_path}/array.zarr", storage_options=LIMITS)
    assert np.array_equal(found.compute(), values)
    assert np.array_equal(found[7:, ::9].sum(axis=1).compute(), values[7:, ::9].sum(axis=1))
    check(client, of_options, 6, 4 * WINDOW)


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Any, Any]:
    """One long array over 60 files on the default manager, and the same array in memory."""
    numpy: Any = pytest.importorskip("smmap.numpy")
    values = np.frombuffer(payload(4 * 60 * 20_000, "shards"), "<u4")
    paths = [tmp_path / f"{number:02d}.npy" for number in range(60)]
    for path, piece in zip(paths, np.split(values, len(paths))):
        np.save(path, piece)
    return numpy.Shards(paths, "<u4"), values


def test_shards_as_one_array(shards: Any, client: Any) -> None:
    ours, values = shards
    found = array.from_array(ours, chunks=17_000)
    assert found.numblocks == (71,)
    assert np.array_equal(found.compute(), values)
    assert int(found.astype("u8").sum().compute()) == int(values.astype("u8").sum())
    assert np.array_equal(found[123_456:654_321:77].compute(), values[123_456:654_321:77])
    handles(client)


def test_shards_piece_by_piece(shards: Any, client: Any) -> None:
    """Each task gets the whole array, which is small to send, and reads what it needs."""
    ours, values = shards

    def pick(data: Any, places: Any) -> Any:
        return data[places]

    places = [np.random.default_rng(seed).integers(0, len(values), 3000) for seed in range(20)]
    lazy = dask.delayed(ours)
    blocks = [array.from_delayed(dask.delayed(pick)(lazy, some), (3000,), "u4") for some in places]
    assert np.array_equal(array.concatenate(blocks).compute(), values[np.concatenate(places)])
    handles(client)


def handles(client: Any) -> None:
    """The limit of handles is hard, whatever arrays the cluster keeps."""
    found = list(client.run(of_default).values())
    assert sum(stats.cold_reads + stats.misses for stats in found) > 0
    assert all(stats.peak_mapped <= stats.max_open_handles == 5 for stats in found)


def run_example(*arguments: object, method: str = "spawn") -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[2] / "examples" / "dask_scan.py"
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": method},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "method", [name for name in ("spawn", "forkserver") if name in multiprocessing.get_all_start_methods()]
)
def test_example(texts: list[File], method: str) -> None:
    """The example finds what is there, on workers started in each way: the tables say so, and the exit status."""
    pytest.importorskip("rich")
    folder = texts[0].path.parent
    options = "--pattern", "a[bc]+", "--window", "64K", "--memory", "512K", "--handles", 8
    done = run_example(folder, *options, method=method)
    assert (done.returncode, done.stderr) == (0, "")
    matches = sum(len(re.findall(rb"a[bc]+", file.data)) for file in texts)
    size = f"{sum(len(file.data) for file in texts) / (1 << 20):.0f}"
    for name in ("cluster", "one process"):
        row = next(line for line in done.stdout.splitlines() if f" {name} " in line)
        assert re.findall(r"[\d.]+", row)[:3] == ["24", size, str(matches)]
    assert done.stdout.splitlines()[-1] == "0 files differ; 0 workers went over their limit"


def test_example_without_files(tmp_path: Path) -> None:
    done = run_example(tmp_path)
    assert done.returncode == 2
    assert "no files there" in done.stderr
