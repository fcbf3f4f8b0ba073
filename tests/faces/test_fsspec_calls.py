"""The table of docs/guide/fsspec.md: each call, in each library that is there, gives all rows, or fails as it says."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import smmap
from core._tools import payload

fsspec = pytest.importorskip("fsspec")
np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow.dataset")

from smmap.fsspec import SmmapFileSystem  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "fsspec.md"
ROWS = 3000
LIMITS = {"window_size": "64K", "max_memory_size": "256K", "max_open_handles": 8}
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Call(NamedTuple):
    library: str
    code: str
    note: str


def calls() -> list[Call]:
    table = PAGE.read_text(encoding="utf-8").partition("## What works with which call")[2].partition("## ")[0]
    return [Call(*row) for row in re.findall(r"^\| (\w+) \| `(.+)` \| ((?:yes|no).*) \|$", table, re.MULTILINE)]


def test_table_is_found() -> None:
    assert len(calls()) > 20
    assert {call.note[:3] for call in calls()} == {"yes", "no:"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in each format."""
    folder = tmp_path_factory.mktemp("data")
    numbers = np.frombuffer(payload(8 * ROWS, "rows"), "<i8")
    frame = pd.DataFrame({"a": numbers, "b": [f"{number:x}" for number in numbers.tolist()]})
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet", row_group_size=500)
    (folder / "parts").mkdir()
    for part in range(3):
        frame.iloc[part * ROWS // 3 : (part + 1) * ROWS // 3].to_parquet(folder / f"parts/{part}.parquet")
    with open(folder / "t.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"a": number}) + "\n" for number in numbers.tolist())
    with tarfile.open(folder / "t.tar", "w") as tar:
        for number in range(ROWS):
            member = tarfile.TarInfo(f"{number:05d}.txt")
            member.size = 9
            tar.addfile(member, BytesIO(b"%09d" % number))
    return folder


@pytest.fixture
def names(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the calls of the table may use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    SmmapFileSystem.clear_instance_cache()
    fs = fsspec.filesystem("smmap", **LIMITS)
    yield {"fs": fs, "limits": LIMITS, "smmap": smmap, "fsspec": fsspec, "pd": pd}
    SmmapFileSystem.clear_instance_cache()


def prepare(call: Call, data: Path, names: dict[str, Any]) -> None:
    """What the page says is to be done before."""
    module = pytest.importorskip(call.library)
    if "from pyarrow 17 on" in call.note and int(module.__version__.split(".")[0]) < 17:
        pytest.skip("older")
    import pyarrow.dataset
    import pyarrow.parquet

    names.update(ds=pyarrow.dataset, pq=pyarrow.parquet, pl=module, wds=module, zarr=module, h5py=module)
    if call.library == "duckdb":
        names["con"] = module.connect()
    elif call.library == "dask":
        names["dd"] = pytest.importorskip("dask.dataframe")
    elif call.library == "datasets":
        names["load_dataset"] = module.load_dataset
    elif call.library == "webdataset":
        line = re.search(r"^    (gopen_schemes.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        assert line
        from webdataset.gopen import gopen_schemes

        exec(line[1], {"gopen_schemes": gopen_schemes, "fsspec": fsspec})
    elif call.library == "zarr":
        made = module.open(str(data / "t.zarr"), mode="w", shape=(ROWS,), dtype="<i8", chunks=(100,))
        made[:] = np.arange(ROWS)
    elif call.library == "h5py":
        with module.File(data / "t.h5", "w") as out:
            out["a"] = np.arange(ROWS)


def rows_of(found: Any) -> int:
    """How many rows a library found."""
    if isinstance(found, str):
        found = open(found, "rb")
    if hasattr(found, "count_rows"):
        return int(found.count_rows())
    if hasattr(found, "num_rows"):
        return int(found.num_rows)
    if hasattr(found, "fetchall"):
        return len(found.fetchall())
    if hasattr(found, "readlines"):
        with found:
            return len(found.readlines()) - 1
    return len(found) if hasattr(found, "__len__") else sum(1 for _ in found)


@pytest.mark.parametrize("call", calls(), ids=lambda call: f"{call.library}: {call.code}")
def test_call_works_as_the_table_says(call: Call, data: Path, names: dict[str, Any]) -> None:
    prepare(call, data, names)
    code = call.code.replace("/data/", f"{data}/")
    if call.note.startswith("no"):
        with pytest.raises(Exception, match=r"smmap|No such file|scheme"):
            eval(code, names)
        return
    before = smmap.default_manager().stats()
    assert rows_of(eval(code, names)) == ROWS
    if "open_local" in code or "filecache" in code:
        return
    after, own = smmap.default_manager().stats(), names["fs"].manager.stats()
    reads = after.cold_reads + after.misses + after.hits - before.cold_reads - before.misses - before.hits
    assert reads + own.cold_reads + own.misses + own.hits > 0, "nothing was read through smmap"
    assert own.peak_mapped <= LIMITS["max_open_handles"]
    assert "limits" not in code or "datasets" in call.library or own.cold_reads + own.misses > 0
    assert os.getcwd() != str(data)
