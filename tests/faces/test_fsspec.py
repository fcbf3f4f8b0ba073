"""`smmap://` beside fsspec's own local file system, which is the oracle: same names, same bytes, within limits."""

from __future__ import annotations

import copy
import errno
import inspect
import io
import itertools
import multiprocessing
import ntpath
import os
import pickle
import random
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import File, G, World, borders, descriptors, linux, maps, payload, reclaim, run_python

fsspec = pytest.importorskip("fsspec")
local = pytest.importorskip("fsspec.implementations.local")

from smmap.fsspec import ReadOnlyError, SmmapFile, SmmapFileSystem  # noqa: E402

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
WINDOW = 2 * G
LENGTH = 5 * WINDOW + 123
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "tight": {"window_size": WINDOW, "max_memory_size": 2 * WINDOW, "max_open_handles": 3},
    "read": {"window_size": WINDOW, "max_memory_size": 2 * WINDOW, "max_open_handles": 3, "backing": "read"},
    "whole": {"window_size": 0, "max_open_handles": 2},
}
TIGHT = OPTIONS["tight"]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test starts without instances; in the end every manager's ledger is exact, and goes down to zero."""
    SmmapFileSystem.clear_instance_cache()
    before = smmap._default._manager
    yield
    managers = {id(fs.manager): fs.manager for fs in SmmapFileSystem._cache.values()}
    SmmapFileSystem.clear_instance_cache()
    reclaim()
    for manager in managers.values():
        manager._check()
        manager.collect()
        stats = manager.stats()
        assert (stats.mapped, stats.mapped_memory, stats.descriptors) == (0, 0, 0), stats
    smmap._default._manager = before


@pytest.fixture(params=OPTIONS, ids=str)
def fs(request: pytest.FixtureRequest) -> Any:
    return fsspec.filesystem("smmap", **OPTIONS[request.param])


@pytest.fixture
def plain() -> Any:
    return fsspec.filesystem("file")


@pytest.fixture
def tree(world: World, tmp_path: Path) -> dict[str, File]:
    """Files in folders, of sizes around the windows' borders, with names that are no trouble to have."""
    names = [
        "a.bin",
        "b.txt",
        "deep/a.bin",
        "deep/er/c.bin",
        "deep/er/d e.bin",
        "[x]/{y}.bin",
        "\u00e4\u4e16.bin",
        "~t",
    ]
    sizes = [0, 1, G - 1, WINDOW, WINDOW + 1, 3 * WINDOW - 1, LENGTH, LENGTH + 1]
    files = {name: world.file(size, f"tree/{name}") for name, size in zip(names, sizes)}
    (tmp_path / "tree/empty").mkdir()
    if hasattr(os, "symlink"):
        os.symlink(tmp_path / "tree/deep/a.bin", tmp_path / "tree/link.bin")
    return files


# How fsspec finds it


def test_entry_point(world: World) -> None:
    file = world.file(LENGTH)
    script = """
import sys, fsspec
assert "smmap.fsspec" not in sys.modules
assert "smmap" in fsspec.available_protocols()
with fsspec.open(f"smmap://{sys.argv[1]}") as found:
    sys.stdout.buffer.write(b"%d %d" % (len(found.read()), hash(type(found.fs).__module__ == "smmap.fsspec")))
"""
    assert run_python(script, file.path, options=()).stdout == f"{LENGTH} 1"


def test_without_fsspec() -> None:
    script = """
import sys
sys.modules["fsspec"] = None
import smmap
try:
    import smmap.fsspec
except ImportError as error:
    print(error)
"""
    assert run_python(script).stdout == "smmap:// needs fsspec: pip install fsspec\n"


def test_importing_smmap_leaves_fsspec_alone() -> None:
    assert run_python("import smmap, sys; print('fsspec' in sys.modules)").stdout == "False\n"


# Names


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    here = os.getcwd()
    strip = SmmapFileSystem._strip_protocol
    wanted = {
        "smmap:///a/b": "/a/b",
        "smmap:/a/b": "/a/b",
        "/a/b": "/a/b",
        "/a/b/": "/a/b",
        "smmap:///": "/",
        "/": "/",
        "smmap://a/b": f"{here}/a/b",
        "a/b": f"{here}/a/b",
        "./a": f"{here}/a",
        "smmap://./a": f"{here}/a",
        "smmap://.": here,
        "smmap://": here,
        "": here,
        "../a": f"{here}/../a",
        "smmap://~/a": "/home/somebody/a",
        "smmap://file:x": f"{here}/file:x",
        "smmap://[a]*?.b": f"{here}/[a]*?.b",
    }
    assert {name: strip(name) for name in wanted} == wanted
    assert {name: strip(found) for name, found in wanted.items()} == wanted, "stripping again changes nothing"
    assert strip(list(wanted)) == list(wanted.values())
    assert strip(tmp_path / "x") == str(tmp_path / "x")
    fs = fsspec.filesystem("smmap")
    assert fs.unstrip_protocol("a") == f"smmap://{here}/a"
    assert fs.unstrip_protocol("smmap:///a") == "smmap:///a"
    assert [fs._parent(name) for name in ("smmap:///a/b", "/a", "/", "x")] == ["/a", "/", "/", here]


def test_names_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    class WindowsOs:
        sep, altsep, name, path = "\\", "/", "nt", ntpath
        fspath = staticmethod(os.fspath)

        @staticmethod
        def getcwd() -> str:
            return "C:\\here"

    monkeypatch.setattr(local, "os", WindowsOs)
    monkeypatch.setattr(local, "osp", ntpath)
    wanted = {
        "smmap://C:/a/b": "C:/a/b",
        "smmap:///C:/a/b": "C:/a/b",
        "smmap://C:\\a\\b": "C:/a/b",
        "C:\\a\\b\\": "C:/a/b",
        "d:/x": "d:/x",
        "smmap://C:/": "C:/",
        "C:\\": "C:/",
        "smmap://a/b": "C:/here/a/b",
        "a\\b": "C:/here/a/b",
        "smmap:///a": "C:/a",
        "\\\\server\\share\\a": "//server/share/a",
        "smmap:////server/share/a": "//server/share/a",
    }
    strip = SmmapFileSystem._strip_protocol
    assert {name: strip(name) for name in wanted} == wanted
    assert {name: strip(found) for name, found in wanted.items()} == wanted


def test_a_relative_path_is_of_the_folder_it_was_opened_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.file(LENGTH, "one/data")
    other = world.file(LENGTH, "two/data")
    monkeypatch.chdir(file.path.parent)
    fs = fsspec.filesystem("smmap", **TIGHT)
    with fs.open("smmap://data") as opened:
        monkeypatch.chdir(other.path.parent)
        assert opened.read() == file.data
    assert fs.cat_file("smmap://data") == other.data


# Listing: what the local file system says


def listings(fs: Any, root: str) -> dict[str, Any]:
    """Everything that the file system tells of a tree, but for bytes."""
    names = fs.find(root, withdirs=True)
    told: dict[str, Any] = {"find": names}
    told["info"] = {name: fs.info(name) for name in names}
    told["ls"] = {name: sorted(fs.ls(name, detail=False)) for name in [root, *names]}
    told["detail"] = sorted((entry["name"], entry["size"], entry["type"]) for entry in fs.ls(root, detail=True))
    told["walk"] = [(folder, sorted(below), sorted(files)) for folder, below, files in fs.walk(root)]
    patterns = ["*", "**", "*.bin", "**/*.bin", "*/*/c.*", "deep/*", "[[]x]/*", "d*/er/[cd]*", "none*", "?.txt"]
    told["glob"] = {pattern: fs.glob(f"{root}/{pattern}") for pattern in patterns}
    told["glob detail"] = fs.glob(f"{root}/**", detail=True)
    for ask in (fs.exists, fs.lexists, fs.isfile, fs.isdir):
        told[ask.__name__] = [name for name in [root, f"{root}/none", *names] if ask(name)]
    for ask in (fs.size, fs.created, fs.modified):
        told[ask.__name__] = [ask(name) for name in names]
    told["sizes"] = fs.sizes(names)
    told["du"] = fs.du(root, total=False)
    told["expand"] = fs.expand_path(f"{root}/deep", recursive=True)
    return told


def test_listings_are_those_of_the_local_file_system(fs: Any, plain: Any, tree: Any, tmp_path: Path) -> None:
    root = str(tmp_path / "tree")
    wanted = listings(plain, root)
    assert len(wanted["find"]) == 14
    assert listings(fs, root) == wanted
    assert listings(fs, f"smmap://{root}")["find"] == wanted["find"]
    assert fs.glob(f"smmap://{root}/*.bin") == plain.glob(f"{root}/*.bin")


def test_a_link_to_nothing(fs: Any, plain: Any, tmp_path: Path) -> None:
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    for one in (fs, plain):
        name = f"{tmp_path}/broken"
        assert [one.exists(name), one.lexists(name), one.isfile(name), one.isdir(name)] == [False, True, False, False]
        assert one.ls(str(tmp_path), detail=True)[0]["islink"]
        for ask in (one.info, one.open, one.cat_file):
            with pytest.raises(FileNotFoundError):
                ask(name)


def test_what_is_not_there(fs: Any, tmp_path: Path) -> None:
    name = str(tmp_path / "none")
    for ask in (fs.info, fs.ls, fs.size, fs.created, fs.modified, fs.ukey, fs.checksum, fs.open, fs.cat_file):
        with pytest.raises(FileNotFoundError) as told:
            ask(name)
        assert name in str(told.value)
    with pytest.raises(IsADirectoryError):
        fs.cat_file(str(tmp_path))
    with pytest.raises(IsADirectoryError):
        fs.open(str(tmp_path))
    assert fs.find(name) == fs.glob(name + "*") == []


@pytest.mark.parametrize("ask", ["ukey", "checksum"])
def test_keys_change_with_the_file(ask: str, world: World) -> None:
    file = world.file(LENGTH)
    key = getattr(fsspec.filesystem("smmap"), ask)
    old = key(file.path)
    assert type(old) is (str if ask == "ukey" else int)
    os.chmod(file.path, 0o400)
    assert key(f"smmap://{file.path}") == old, "made of size and time of writing alone"
    os.utime(file.path, ns=(0, os.stat(file.path).st_mtime_ns + 1))
    touched = key(file.path)
    assert touched != old
    other = world.file(LENGTH, "other")
    shutil.copystat(file.path, other.path)
    assert key(other.path) != touched
    os.chmod(file.path, 0o600)
    with open(file.path, "ab") as grown:
        grown.write(b"x")
    os.utime(file.path, ns=(0, os.stat(other.path).st_mtime_ns))
    assert key(file.path) != touched


def test_keys_are_alike_in_every_process(world: World) -> None:
    """Dask names its tasks by them."""
    file = world.file(LENGTH)
    script = "import sys, fsspec; print(fsspec.filesystem('smmap').ukey(sys.argv[1]))"
    fs = fsspec.filesystem("smmap", **TIGHT)
    assert run_python(script, file.path, options=()).stdout.strip() == fs.ukey(file.path)


# Bytes


def bounds(length: int) -> list[Any]:
    near = borders(length, WINDOW)
    chosen = near[:6] + near[-6:] + [near[len(near) // 2], WINDOW, WINDOW + 7, 2 * WINDOW - 1]
    return [None, *sorted({*chosen, *(-place for place in chosen)})]


def test_cat_file_is_a_slice(fs: Any, world: World) -> None:
    file = world.file(LENGTH)
    for start, end in itertools.product(bounds(LENGTH), repeat=2):
        assert fs.cat_file(file.path, start, end) == file.data[start:end], (start, end)
    empty = world.file(0, "empty")
    assert fs.cat_file(empty.path) == fs.cat_file(empty.path, 0, 5) == fs.cat_file(empty.path, -5) == b""


def test_cat_file_of_all_sizes(fs: Any, tree: dict[str, File]) -> None:
    for _ in range(3):
        for file in tree.values():
            assert fs.cat_file(f"smmap://{file.path}") == file.data


def ranges(files: list[File], count: int, seed: int) -> tuple[list[str], list[int], list[int]]:
    source = random.Random(seed)
    chosen = [source.choice(files) for _ in range(count)]
    starts = [source.randrange(len(file.data) + 10) for file in chosen]
    return [str(file.path) for file in chosen], starts, [start + source.randrange(2 * WINDOW) for start in starts]


def test_cat_ranges(fs: Any, plain: Any, tree: dict[str, File]) -> None:
    files = list(tree.values())
    content = {str(file.path): file.data for file in files}
    paths, starts, ends = ranges(files, 500, 3)
    wanted = [content[path][start:end] for path, start, end in zip(paths, starts, ends)]
    assert fs.cat_ranges(paths, starts, ends) == wanted == plain.cat_ranges(paths, starts, ends)
    assert fs.cat_ranges([f"smmap://{path}" for path in paths], starts, ends, max_gap=64) == wanted
    assert fs.cat_ranges(paths[:50], 3, 99) == [content[path][3:99] for path in paths[:50]]
    assert fs.cat_ranges(paths[:50], None, None) == [content[path] for path in paths[:50]]
    assert fs.cat_ranges(paths[:50], -7, None) == [content[path][-7:] for path in paths[:50]]
    assert fs.cat_ranges([], [], []) == []


def walks(files: list[File], count: int, seed: int) -> Iterator[tuple[File, int, int]]:
    """Ranges of some files: twenty short ones close by, then far away. So some windows are worth mapping."""
    source = random.Random(seed)
    for _ in range(count):
        file = source.choice(files)
        place = source.randrange(len(file.data))
        for _ in range(20):
            start = max(place + source.randrange(-G, G), 0)
            yield file, start, start + source.choice([1, 50, G, 3 * WINDOW])


def test_cat_ranges_stays_within_limits(tree: dict[str, File]) -> None:
    fs = fsspec.filesystem("smmap", **TIGHT)
    files, starts, ends = zip(*walks([file for file in tree.values() if file.data], 200, 4))
    found = fs.cat_ranges([str(file.path) for file in files], list(starts), list(ends))
    assert found == [file.data[start:end] for file, start, end in zip(files, starts, ends)]
    stats = fs.manager.stats()
    assert stats.misses == 0, "the batch is larger than the limit of memory"
    assert stats.cold_reads > 100
    for file, start, end in zip(files, starts, ends):
        assert fs.cat_ranges([str(file.path)], [start], [end]) == [file.data[start:end]]
    stats = fs.manager.stats()
    assert stats.misses > 20
    assert stats.evictions > 20
    assert stats.peak_mapped <= 3
    assert stats.peak_memory <= 2 * WINDOW


def test_cat_ranges_with_errors(fs: Any, world: World, tmp_path: Path) -> None:
    file = world.file(LENGTH)
    paths = [str(file.path), str(tmp_path / "none"), str(tmp_path), str(file.path)]
    found = fs.cat_ranges(paths, [0, 0, 0, 9], [3, 3, 3, 12])
    assert [found[0], found[3]] == [file.data[:3], file.data[9:12]]
    assert [type(error) for error in found[1:3]] == [FileNotFoundError, IsADirectoryError]
    with pytest.raises(FileNotFoundError, match="none"):
        fs.cat_ranges(paths, 0, 3, on_error="raise")
    assert fs.cat_ranges([str(file.path)] * 3, [0, -3, None], [None, None, -LENGTH - 1]) == [
        file.data,
        file.data[-3:],
        b"",
    ]
    with pytest.raises(TypeError, match="list"):
        fs.cat_ranges(str(file.path), 0, 3)
    with pytest.raises(ValueError, match="4 paths, but 1 starts and 4 ends"):
        fs.cat_ranges(paths, [0], 3)


def test_what_fsspec_makes_of_it(fs: Any, plain: Any, tree: dict[str, File], tmp_path: Path) -> None:
    root = str(tmp_path / "tree")
    wanted = {name: plain.cat_file(name) for name in plain.glob(f"{root}/**/*.bin")}
    assert len(wanted) == 7
    assert fs.cat(f"{root}/**/*.bin") == wanted
    below = fs.cat(f"{root}/deep", recursive=True, on_error="omit")
    assert below == plain.cat(f"{root}/deep", recursive=True, on_error="omit")
    assert len(below) == 3
    found = fs.cat([f"{root}/a.bin", f"{root}/none"], on_error="return")
    assert found[f"{root}/a.bin"] == b""
    assert type(found[f"{root}/none"]) is FileNotFoundError
    name = str(tree["\u00e4\u4e16.bin"].path)
    data = tree["\u00e4\u4e16.bin"].data
    assert fs.head(name, 10) == data[:10]
    assert fs.tail(name, WINDOW + 3) == data[-WINDOW - 3 :]
    assert fs.read_bytes(name, 5, -5) == data[5:-5]
    assert fs.read_block(name, 7, 2 * WINDOW) == data[7 : 7 + 2 * WINDOW]
    assert fs.read_block(name, 100, WINDOW, b"\n") == plain.read_block(name, 100, WINDOW, b"\n")
    fs.get(root, str(tmp_path / "copy"), recursive=True)
    copies = {str(path)[len(str(tmp_path / "copy")) + 1 :] for path in (tmp_path / "copy").rglob("*.bin")}
    assert copies == {path[len(root) + 1 :] for path in wanted}
    assert all((tmp_path / "copy" / path[len(root) + 1 :]).read_bytes() == content for path, content in wanted.items())
    mapper = fs.get_mapper(root)
    keys = [key for key in mapper if key.endswith(".bin") and "[" not in key]  # fsspec's mapper takes that as a pattern
    assert {f"{root}/{key}": mapper[key] for key in keys} == {name: wanted[name] for name in wanted if "[" not in name}
    with pytest.raises(KeyError):
        mapper["none"]
    assert mapper.getitems(["a.bin", "none"], on_error="omit") == {"a.bin": b""}


# Files


def test_an_open_file_reads_as_a_plain_one(fs: Any, world: World) -> None:
    file = world.file(LENGTH)
    source = random.Random(5)
    with fs.open(file.path) as ours, open(file.path, "rb") as theirs:
        assert (ours.size, ours.path, ours.fs) == (LENGTH, str(file.path), fs)
        assert isinstance(ours, SmmapFile)
        assert ours.readable()
        assert ours.seekable()
        assert not ours.writable()
        for _ in range(400):
            step = source.randrange(5)
            if step == 0:
                place, whence = source.randrange(LENGTH + 50), 0
                assert ours.seek(place, whence) == theirs.seek(place, whence)
            elif step == 1:
                place = -source.randrange(LENGTH)
                assert ours.seek(place, 2) == theirs.seek(place, 2)
            elif step == 2:
                assert ours.readline() == theirs.readline()
            else:
                size = source.choice([1, 100, WINDOW, WINDOW + 1, source.randrange(3 * WINDOW)])
                assert ours.read(size) == theirs.read(size)
            assert ours.tell() == theirs.tell()
        assert ours.seek(0) == theirs.seek(0)
        assert list(ours) == list(theirs)
    assert ours.closed
    with pytest.raises(ValueError, match="closed"):
        ours.read()


def test_copies_of_open_files(fs: Any, world: World) -> None:
    """A copy is an open file of the same file system, at the same position, and goes its own way."""
    file = world.file(LENGTH)
    with fs.open(file.path) as opened:
        opened.seek(WINDOW - 3)
        for copied in (copy.copy(opened), copy.deepcopy(opened), copy.copy(copy.copy(opened))):
            assert type(copied) is SmmapFile
            assert (copied.fs, copied.path, copied.size) == (fs, str(file.path), LENGTH)
            assert copied.tell() == WINDOW - 3
            assert copied.read(5) == file.data[WINDOW - 3 : WINDOW + 2]
            assert opened.tell() == WINDOW - 3
            again = pickle.loads(pickle.dumps(copied))
            assert again.read(9) == file.data[WINDOW + 2 : WINDOW + 11]
            assert again._source._access.client.manager is copied._source._access.client.manager is fs.manager
            for each in (copied, again):
                each.close()
        assert opened.read() == file.data[WINDOW - 3 :]
    for copier in (copy.copy, copy.deepcopy):
        with pytest.raises(ValueError, match="closed"):
            copier(opened)


def test_text_and_compression(fs: Any, plain: Any, tmp_path: Path) -> None:
    lines = [f"{number} \u00e4\u4e16\r\n" * (number % 7) for number in range(5000)]
    text = tmp_path / "text.txt"
    text.write_bytes("".join(lines).encode("utf-16"))
    assert text.stat().st_size > 10 * WINDOW
    for newline in (None, "", "\n"):
        with (
            fs.open(text, "r", encoding="utf-16", newline=newline) as ours,
            open(text, encoding="utf-16", newline=newline) as theirs,
        ):
            assert list(ours) == list(theirs)
    assert fs.read_text(text, encoding="utf-16") == text.read_text(encoding="utf-16")
    for name in ("gzip", "bz2", "xz", "zip"):
        packed = tmp_path / f"text.{name}"
        with fsspec.open(f"file://{packed}", "wb", compression=name) as out:
            out.write(payload(LENGTH, name))
        with fsspec.open(f"smmap://{packed}", compression=name, **TIGHT) as found:
            assert found.read() == payload(LENGTH, name)


def test_open_files_hold_nothing(world: World) -> None:
    """A hundred files are open at once within three handles."""
    files = [world.file(LENGTH, f"file {number}") for number in range(100)]
    fs = fsspec.filesystem("smmap", **TIGHT)
    opened = [fs.open(file.path) for file in files]
    for place in (0, WINDOW - 5, LENGTH - 20):
        for file, found in zip(files, opened):
            found.seek(place)
            assert found.read(20) == file.data[place : place + 20]
    stats = fs.manager.stats()
    assert stats.cold_reads + stats.misses >= 300, "another manager has read"
    assert stats.peak_mapped <= 3
    for found in opened:
        found.close()


@linux
def test_nothing_is_left_open(world: World, tmp_path: Path) -> None:
    """After many files were read, no more descriptors and maps are there than the limit allows; then none."""
    files = [world.file(LENGTH, f"file {number}") for number in range(50)]
    fs = fsspec.filesystem("smmap", **TIGHT)
    for _ in range(3):
        for file in files:
            assert fs.cat_file(file.path, 10, LENGTH - 10) == file.data[10:-10]
            assert len(descriptors(tmp_path)) <= 3
            assert len(maps(tmp_path)) <= 3
    assert len(fs._share()._recent) == 32, "no more buffers are kept for the next cat_file"
    fs.manager.collect()
    assert descriptors(tmp_path) == maps(tmp_path) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of fsspec's own caches
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_chained(world: World, tmp_path: Path) -> None:
    """Other file systems stand on this one: archives, and caches (which pay for far ones only, but must work)."""
    file = world.file(LENGTH)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file.path, "in/side")
    with fsspec.open(f"zip://in/side::smmap://{tmp_path}/packed.zip", smmap=TIGHT) as found:
        assert found.read() == file.data
    caches = re.findall(r"`(\w+cache)::`", (GUIDE / "fsspec.md").read_text(encoding="utf-8"))
    assert "simplecache" in caches
    for cache in caches:
        options = {cache: {"cache_storage": str(tmp_path / cache)}}
        with fsspec.open(f"{cache}::smmap://{file.path}", **options) as found:
            assert found.read() == file.data
        del found
        reclaim()
    assert [opened.path for opened in fsspec.open_files(f"smmap://{tmp_path}/da*")] == [str(file.path)]
    below = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("smmap", **TIGHT))
    assert below.cat_file("data", 3, 9) == file.data[3:9]


def test_pyarrow_datasets(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder by its absolute name only, as the guide says."""
    dataset = pytest.importorskip("pyarrow.dataset")
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"number": list(range(3000))})
    rows = {"max_rows_per_file": 1000, "max_rows_per_group": 1000}
    dataset.write_dataset(table, str(tmp_path / "folder"), format="parquet", **rows)
    monkeypatch.chdir(tmp_path)
    for fs in (fsspec.filesystem("smmap", **TIGHT), fsspec.filesystem("smmap")):
        found = dataset.dataset(os.path.abspath("folder"), filesystem=fs)
        assert len(found.files) == 3
        assert sorted(found.to_table()["number"].to_pylist()) == list(range(3000))
        with pytest.raises(pyarrow.ArrowInvalid):
            dataset.dataset("folder", filesystem=fs)


# Files that change


def test_cat_file_sees_the_file_as_it_is_now(fs: Any, world: World) -> None:
    file = world.file(LENGTH)
    for _ in range(9):
        assert fs.cat_file(file.path, 5, 20) == file.data[5:20]
    other = world.file(LENGTH, "other")
    os.replace(other.path, file.path)
    assert fs.cat_file(file.path, 5, 20) == other.data[5:20]
    assert fs.cat_file(file.path) == other.data
    with open(file.path, "ab") as grown:
        grown.write(b"grown")
    assert fs.cat_file(file.path, -8) == other.data[-3:] + b"grown"
    os.remove(file.path)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(file.path, 5, 20)
    again = world.file(LENGTH, "data", payload(LENGTH, "again"))
    assert fs.cat_file(file.path) == again.data


def test_cat_file_reads_on_after_a_change_of_permissions(fs: Any, world: World) -> None:
    file = world.file(LENGTH)
    assert fs.cat_file(file.path, 5, 20) == file.data[5:20]
    os.chmod(file.path, 0o600)
    fs.manager.collect()  # closes the descriptor that was cached
    assert fs.cat_file(file.path, 5, 20) == file.data[5:20]
    assert fs.cat_ranges([str(file.path)] * 2, [0, 7], [9, 20]) == [file.data[:9], file.data[7:20]]


def test_an_open_file_never_mixes(world: World) -> None:
    file = world.file(LENGTH)
    fs = fsspec.filesystem("smmap", **TIGHT)
    with fs.open(file.path) as opened:
        start = opened.read(10)
        os.replace(world.file(LENGTH, "other").path, file.path)
        try:
            rest = opened.read()
        except smmap.FileChangedError:
            rest = file.data[10:]
        assert start + rest == file.data


# Options and managers


def test_default_options_are_the_default_manager(world: World) -> None:
    fs = fsspec.filesystem("smmap")
    assert fs.manager is smmap.default_manager()
    file = world.file(LENGTH)
    before = smmap.default_manager().stats().cold_reads
    assert fs.cat_file(file.path, 0, 9) == file.data[:9]
    assert smmap.default_manager().stats().cold_reads == before + 1


def test_a_default_manager_that_was_closed_is_followed_by_another(world: World) -> None:
    """As for `smmap.buffer`: also for files that were read a moment ago."""
    file = world.file(LENGTH)
    fs = fsspec.filesystem("smmap")
    for turn in range(3):
        manager = smmap.default_manager()
        assert fs.cat_file(file.path, turn, 50) == file.data[turn:50]
        assert fs.cat_ranges([file.path] * 2, [0, 9], [5, 99]) == [file.data[0:5], file.data[9:99]]
        with fs.open(file.path) as opened:
            assert opened.read(9) == file.data[:9]
        assert fs.manager is manager
        manager.close()
    own = fsspec.filesystem("smmap", **TIGHT)
    own.manager.close()  # nobody said that there should be another one
    with pytest.raises(smmap.ClosedError):
        own.cat_file(file.path)


def test_one_manager_for_the_same_options() -> None:
    """fsspec has an instance for each thread: they share."""
    one = fsspec.filesystem("smmap", **TIGHT)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(fsspec.filesystem("smmap", **TIGHT).manager)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [manager is one.manager for manager in found] == [True] * 4
    assert SmmapFileSystem(**TIGHT, skip_instance_cache=True).manager is one.manager
    assert (
        SmmapFileSystem(window_size=f"{WINDOW}", max_memory_size=2 * WINDOW, max_open_handles=3).manager is one.manager
    )
    others = [{}, {**TIGHT, "backing": "read"}, {**TIGHT, "max_open_handles": 4}, {"window_size": WINDOW}]
    managers = [fsspec.filesystem("smmap", **options).manager for options in others]
    assert len({id(manager) for manager in [*managers, one.manager]}) == 5
    assert [fsspec.filesystem("smmap", **options).manager for options in others] == managers


def test_options_reach_the_manager() -> None:
    fs = fsspec.filesystem("smmap", window_size="1M", max_memory_size="64M", max_open_handles="17")
    stats = fs.manager.stats()
    assert (stats.window_size, stats.max_memory_size, stats.max_open_handles) == (1 << 20, 64 << 20, 17)
    assert fsspec.filesystem("smmap", max_memory_size=8 << 20).manager.window_size() == 1 << 20
    assert fsspec.filesystem("smmap", window_size=0).manager.window_size() == 0
    assert fsspec.filesystem("smmap", backing="read").manager.window_size() == 8 << 20


def test_options_that_are_none_of_ours() -> None:
    slips = {"max_memory": "max_memory_size", "window": "window_size", "max_handles": "max_open_handles"}
    for slip, meant in slips.items():
        wanted = f"'{slip}', did you mean '{meant}'.*window_size, max_memory_size, max_open_handles and backing"
        with pytest.raises(TypeError, match=wanted):
            fsspec.filesystem("smmap", **{slip: 5})
    with pytest.raises(ValueError, match="backing"):
        fsspec.filesystem("smmap", backing="none")
    with pytest.raises(ValueError, match="max_open_handles"):
        fsspec.filesystem("smmap", max_open_handles=0)
    with pytest.raises(ValueError, match="is not a size"):
        fsspec.filesystem("smmap", max_memory_size="lots")
    with pytest.raises(TypeError):
        fsspec.filesystem("smmap", window_size=1.5)
    fsspec.filesystem("smmap", asynchronous=False, use_listings_cache=False, auto_mkdir=True)


def test_options_of_fsspec_and_of_others_are_ignored(world: World) -> None:
    """As `file://` does. They make no manager either."""
    file = world.file(LENGTH)
    others: dict[str, Any] = {
        "default_cache_type": "none",
        "default_block_size": 5,
        "cache_type": "readahead",
        "block_size": 7,
        "blocksize": 7,
        "cache_options": {"a": 1},
        "fill_cache": False,
        "anon": True,
        "max_block_size": 9,
    }
    for scheme in ("file", "smmap"):
        with fsspec.open(f"{scheme}://{file.path}", **others) as opened:
            assert opened.read() == file.data
    fs = fsspec.filesystem("smmap", **TIGHT, **others)
    assert fs.manager is fsspec.filesystem("smmap", **TIGHT).manager
    again = pickle.loads(pickle.dumps(fs))
    assert again.manager is fs.manager
    with fs.open(str(file.path), **others) as opened:
        assert opened.read() == file.data


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of fsspec's own caches
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_file_has_what_a_block_cache_asks_for(world: World, tmp_path: Path) -> None:
    file = world.file(LENGTH)
    fs = fsspec.filesystem("smmap", **TIGHT)
    with fs.open(str(file.path)) as ours, fsspec.filesystem("file").open(str(file.path)) as theirs:
        assert (ours.blocksize, ours.size) == (theirs.blocksize, theirs.size)
        ours.seek(9)
        assert ours._fetch_range(5, WINDOW + 9) == theirs._fetch_range(5, WINDOW + 9) == file.data[5 : WINDOW + 9]
        assert ours.tell() == 9
    for cache in ("blockcache", "filecache", "simplecache"):
        for _ in range(2):
            options = {cache: {"cache_storage": str(tmp_path / cache)}, "smmap": TIGHT}
            with fsspec.open(f"{cache}::smmap://{file.path}", **options) as cached:
                cached.seek(3)
                assert cached.read() == file.data[3:]
            del cached
            reclaim()
    assert fsspec.open_local(f"smmap://{file.path}", **TIGHT) == str(file.path)
    assert fsspec.open_local([f"smmap://{file.path}"] * 2) == [str(file.path)] * 2


def test_url_that_lost_its_first_slash(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Hugging Face's `datasets` makes it: the absolute path where nothing else is meant, never a guess."""
    file = world.file(9, "deep/data")
    monkeypatch.chdir(world.folder / "deep")
    lost = str(file.path).lstrip("/")
    strip = SmmapFileSystem._strip_protocol
    assert strip(f"smmap://{lost}") == strip(f"smmap:///{lost}") == f"/{lost}"
    assert strip(f"smmap://{lost}x") == f"{os.getcwd()}/{lost}x"  # nothing is there: relative, as ever
    assert strip(lost) == strip(f"smmap:{lost}") == strip(f"smmap://./{lost}") == f"{os.getcwd()}/{lost}"
    world.file(9, f"deep/{lost}", b"relative!")
    fs = fsspec.filesystem("smmap")
    for path in (f"smmap://{lost}", f"smmap://{lost}"):
        with pytest.raises(smmap.SmmapError, match=r"may be .* or .* both exist: write smmap://\./") as caught:
            fs.cat_file(path)
        assert isinstance(caught.value, ValueError)
    assert fs.cat_file(f"smmap://./{lost}") == b"relative!"
    assert fs.cat_file(f"smmap:///{lost}") == file.data
    os.unlink(lost)
    os.symlink(file.path, lost)
    assert fs.cat_file(f"smmap://{lost}") == file.data


def test_what_is_left_out_is_as_for_the_default_manager() -> None:
    script = """
import os, fsspec, smmap
os.environ.update(SMMAP_WINDOW_SIZE="1M", SMMAP_MAX_MEMORY="32M", SMMAP_MAX_HANDLES="9")
fs = fsspec.filesystem("smmap", backing="read", max_open_handles=5)
smmap.configure(max_memory_size=16 << 20)
other = fsspec.filesystem("smmap", backing="mmap")
print(*fs.manager.stats()[-3:], *other.manager.stats()[-3:], *fsspec.filesystem("smmap").manager.stats()[-3:])
"""
    told = run_python(script, options=()).stdout.split()
    mib = 1 << 20
    assert [int(number) for number in told] == [mib, 32 * mib, 5, mib, 16 * mib, 9, mib, 16 * mib, 9]


def test_options_go_before_a_wrong_environment() -> None:
    script = """
import os, fsspec, smmap
os.environ.update(SMMAP_WINDOW_SIZE="1M", SMMAP_MAX_MEMORY="lots")
fs = fsspec.filesystem("smmap", max_memory_size="32M")
print(*fs.manager.stats()[-3:-1])
try:
    fsspec.filesystem("smmap", max_open_handles=5)
except ValueError as error:
    print(error)
smmap.configure(max_memory_size=16 << 20)
print(*fsspec.filesystem("smmap", backing="read").manager.stats()[-3:-1])
print(*fsspec.filesystem("smmap", max_memory_size="8M").manager.stats()[-3:-1])
"""
    first, told, second, third = run_python(script, options=()).stdout.splitlines()
    assert first == f"{1 << 20} {32 << 20}"
    assert told.startswith("environment variable SMMAP_MAX_MEMORY: 'lots' is not a size")
    assert second == f"{1 << 20} {16 << 20}"
    assert third == f"{1 << 20} {8 << 20}"


def test_options_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own configuration, by which options reach the workers of a cluster."""
    monkeypatch.setenv("FSSPEC_SMMAP_MAX_MEMORY_SIZE", "32M")
    monkeypatch.setenv("FSSPEC_SMMAP", '{"window_size": 65536}')
    script = "import fsspec; print(*fsspec.filesystem('smmap').manager.stats()[-3:-1])"
    assert run_python(script, options=()).stdout == f"65536 {32 << 20}\n"


def test_making_a_file_system_makes_no_default_manager() -> None:
    """So that `configure` may still be called."""
    script = """
import fsspec, pickle, smmap
fs = pickle.loads(pickle.dumps(fsspec.filesystem("smmap")))
fs.ls("/")
smmap.configure(max_memory_size=1 << 20)
print(fs.manager.stats().max_memory_size)
"""
    assert run_python(script, options=()).stdout == f"{1 << 20}\n"


def test_clearing_the_instances_forgets_the_managers(world: World) -> None:
    file = world.file(LENGTH)
    fs = fsspec.filesystem("smmap", **TIGHT)
    manager = fs.manager
    opened = fs.open(file.path)
    SmmapFileSystem.clear_instance_cache()
    other = fsspec.filesystem("smmap", **TIGHT)
    assert other is not fs
    assert fs.manager is other.manager is not manager
    assert opened.read() == file.data
    opened.close()


def test_threads(world: World) -> None:
    """Each thread has its own instance; all share eight handles and six windows."""
    files = [world.file(LENGTH, f"file {number}") for number in range(40)]
    options = {"window_size": WINDOW, "max_memory_size": 6 * WINDOW, "max_open_handles": 8}
    wrong: list[Any] = []

    def read(seed: int) -> None:
        source = random.Random(seed)
        try:
            fs = fsspec.filesystem("smmap", **options)
            for file, start, end in walks(files, 20, seed):
                if source.random() < 0.5:
                    found = fs.cat_file(file.path, start, end)
                else:
                    with fs.open(file.path) as opened:
                        opened.seek(start)
                        found = opened.read(end - start)
                if found != file.data[start:end]:
                    wrong.append((file.name, start, end))
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    stats = fsspec.filesystem("smmap", **options).manager.stats()
    assert stats.peak_mapped <= 8
    assert stats.evictions > 0  # how many depends on how the threads take turns
    assert stats.cold_reads > 0


# Other processes


def test_pickles_are_small_and_open_nothing(fs: Any, world: World) -> None:
    file = world.file(LENGTH)
    opened = fs.open(file.path)
    opened.seek(WINDOW - 3)
    assert opened.read(2) == file.data[WINDOW - 3 : WINDOW - 1]
    packed = {"fs": pickle.dumps(fs), "file": pickle.dumps(opened)}
    packed["fsspec.open"] = pickle.dumps(fsspec.open(f"smmap://{file.path}", **fs.storage_options))
    sizes = {name: len(data) - len(str(file.path)) * (name != "fs") for name, data in packed.items()}
    assert max(sizes.values()) < 300, sizes
    assert pickle.loads(packed["fs"]) == fs
    os.rename(file.path, f"{file.path}.moved")
    again = pickle.loads(packed["file"])
    assert (again.tell(), again.size, again.path, again.fs) == (WINDOW - 1, LENGTH, str(file.path), fs)
    with pytest.raises(FileNotFoundError):
        again.read()
    os.rename(f"{file.path}.moved", file.path)
    assert again.read() == file.data[WINDOW - 1 :]
    twice = pickle.loads(pickle.dumps(again))
    assert twice.seek(-9, 2) == LENGTH - 9
    assert twice.read() == file.data[-9:]


def test_a_pickled_file_that_changed(world: World) -> None:
    file = world.file(LENGTH)
    fs = fsspec.filesystem("smmap", **TIGHT)
    with fs.open(file.path) as opened:
        packed = pickle.dumps(opened)
    with pytest.raises(ValueError, match="closed"):
        pickle.dumps(opened)
    again = pickle.loads(packed)
    os.utime(file.path, ns=(0, 12345))
    with pytest.raises(smmap.FileChangedError):
        again.read()


def in_worker(packed: bytes) -> tuple[bytes, bytes, Any, bool]:
    """What another process reads from a pickled file system and file, and the state of the manager it did it by."""
    fs, opened = pickle.loads(packed)
    stats = fs.manager.stats()
    assert (stats.misses, stats.cold_reads) == (0, 0)
    data = opened.read()
    return (
        data,
        fs.cat_file(opened.path, 3, LENGTH - 3),
        fs.manager.stats(),
        opened._source._access.client.manager is fs.manager,
    )


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_have_their_own_manager(method: str, world: World) -> None:
    file = world.file(LENGTH)
    fs = fsspec.filesystem("smmap", **TIGHT)
    assert fs.cat_file(file.path) == file.data  # so that there is something to inherit
    with fs.open(file.path) as opened, multiprocessing.get_context(method).Pool(1) as pool:
        opened.seek(WINDOW + 1)
        whole, part, stats, own = pool.apply(in_worker, (pickle.dumps((fs, opened)),))
    assert whole == file.data[WINDOW + 1 :]
    assert part == file.data[3:-3]
    assert own
    assert stats.cold_reads > 0
    assert stats[-3:] == (WINDOW, 2 * WINDOW, 3)
    assert stats.peak_mapped <= 3


# Writing


def test_writing_is_refused(fs: Any, tree: Any, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    name, new = f"{root}/a.bin", f"{root}/new"
    other = tmp_path / "other"
    other.write_bytes(b"other")

    def state() -> Any:
        return [(path, path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]

    before = state()
    modes = ["wb", "ab", "xb", "w", "a", "x", "r+b", "w+b", "rb+", "r+"]
    calls: list[tuple[Any, ...]] = [(fs.open, path, mode) for path in (name, new) for mode in modes]
    calls += [(fs.mkdir, new), (fs.makedirs, new), (fs.makedirs, f"{root}/empty", True), (fs.mkdirs, new)]
    calls += [(fs.makedir, new), (fs.rmdir, f"{root}/empty"), (fs.rm, name), (fs.rm, [name]), (fs.rm_file, name)]
    calls += [(fs.rm, str(root), True), (fs.delete, name), (fs._rm, name), (fs.touch, name), (fs.touch, new, False)]
    calls += [(fs.pipe_file, new, b"x"), (fs.pipe, new, b"x"), (fs.pipe, {new: b"x"}), (fs.write_bytes, new, b"x")]
    calls += [(fs.write_text, new, "x"), (fs.put_file, str(other), new), (fs.put, str(other), new)]
    calls += [(fs.upload, str(other), new), (fs.cp_file, name, new), (fs.copy, name, new), (fs.cp, name, new)]
    calls += [(fs.mv, name, new), (fs.move, name, new), (fs.rename, name, new), (fs.chmod, name, 0)]
    calls += [(fs.symlink, name, new), (fs.link, name, new)]
    for call, *arguments in calls:
        with pytest.raises(ReadOnlyError) as told:
            call(*arguments)
        assert told.value.errno == errno.EROFS
        assert isinstance(told.value, (OSError, NotImplementedError, smmap.SmmapError))
        assert "smmap:// is read-only: write with file://" in str(told.value)
        again = pickle.loads(pickle.dumps(told.value))
        assert (type(again), str(again)) == (ReadOnlyError, str(told.value))
    with fs.transaction, pytest.raises(ReadOnlyError):
        fs.pipe_file(new, b"x")
    mapper = fs.get_mapper(str(root))
    with pytest.raises(ReadOnlyError):
        mapper["new"] = b"x"
    with pytest.raises(KeyError) as refused:  # the mapper's own
        del mapper["a.bin"]
    assert isinstance(refused.value.__context__, ReadOnlyError)
    assert state() == before
    with fs.open(name) as opened, pytest.raises(io.UnsupportedOperation):
        opened.write(b"x")


WRITERS = {
    *("chmod", "copy", "cp", "cp_file", "delete", "link", "makedir", "makedirs", "mkdir", "mkdirs", "move", "mv"),
    *("pipe", "pipe_file", "put", "put_file", "rename", "rm", "rm_file", "rmdir", "symlink", "touch", "upload"),
    *("write_bytes", "write_text", "_rm"),
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_refusals_by_position_and_by_keyword(name: str, tmp_path: Path) -> None:
    """With the names that fsspec gives the arguments; its local file system's differ here and there."""
    fs = fsspec.filesystem("smmap")
    values: dict[str, Any] = {key: str(tmp_path / "from") for key in ("lpath", "path1", "src")}
    values |= {key: str(tmp_path / "to") for key in ("path", "rpath", "path2", "dst")}
    values |= {"value": "x" if name == "write_text" else b"x", "mode": 0o600}
    classes = [each for each in (fsspec.AbstractFileSystem, local.LocalFileSystem) if hasattr(each, name)]
    assert classes
    for each in classes:
        _, *parameters = inspect.signature(getattr(each, name)).parameters.values()
        wanted = [it.name for it in parameters if it.name in values and (it.default is it.empty or it.name == "value")]
        assert {"path", "rpath", "path2", "dst"} & {*wanted}
        for count in range(len(wanted) + 1):  # so many by position, the others by keyword
            arguments = [values[key] for key in wanted[:count]]
            with pytest.raises(ReadOnlyError) as told:
                getattr(fs, name)(*arguments, **{key: values[key] for key in wanted[count:]})
            assert told.value.filename == str(tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_refused_does_not_write(tmp_path: Path) -> None:
    """There is no method of fsspec's that is neither refused nor known to read."""
    public = {name for name in dir(fsspec.AbstractFileSystem) if name[0] != "_"} | {"_rm"}
    takes = {name for name in public if callable(getattr(fsspec.AbstractFileSystem, name))}
    writes = re.compile("^(_rm|chmod|copy|cp|del|link|make|mk|mov|mv|pipe|put|ren|rm|sym|touch|trunc|up|write)")
    assert {name for name in takes if writes.match(name)} == WRITERS - {"chmod", "link", "symlink"}


def test_the_error_names_the_path_that_was_to_be_written(tmp_path: Path) -> None:
    fs = fsspec.filesystem("smmap")
    with pytest.raises(ReadOnlyError) as told:
        fs.cp_file("smmap:///from", f"smmap://{tmp_path}/to")
    assert told.value.filename == f"{tmp_path}/to"
