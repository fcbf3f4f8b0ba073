"""The command's parts: sizes, finding files, choosing reads, asking the system."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smmap._report import format_size
from smmap._sizes import parse_size
from smmap.cli.arguments import parser
from smmap.cli.files import File, default_paths, find_files
from smmap.cli.plan import PATTERNS, make_plan
from smmap.cli.report import skipped
from smmap.cli.system import NOTHING, Usage, usage


@pytest.mark.parametrize("text", ["0", "4096", "4096B", "64K", "64k", "64MB", "64MiB", " 1G ", "3T", "2P"])
@pytest.mark.parametrize("option", ["window", "memory", "size"])
def test_sizes_are_those_of_the_environment(option: str, text: str) -> None:
    size = parse_size(text)
    if size or option == "window":
        assert getattr(parser().parse_args(["bench", f"--{option}", text]), option) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "4 M", "64Q", "0x10", "1_000", "1e3", "4iB", "٤"])
def test_no_sizes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)
    with pytest.raises(SystemExit) as exited:
        parser().parse_args(["bench", f"--memory={text}"])
    assert exited.value.code == 2
    assert "--memory: " in (told := capsys.readouterr().err)
    assert "is not a size: write 4096, 64K, 64M, 1G" in told


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 << 20, "64 MiB"),
        (-3 << 20, "-3 MiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


def test_default_paths_hold_the_library() -> None:
    names = {Path(file.path).name for file in find_files(default_paths()).files}
    assert {"os.py", "argparse.py"} <= names


def test_finding_fifty_thousand_files_takes_less_than_two_seconds_of_processor_time(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).mkdir()
        first = tmp_path / str(number) / "0"
        first.write_bytes(b"1")
        for other in range(1, 10):
            (tmp_path / str(number) / str(other)).write_bytes(b"1")
    start = time.process_time()
    found = find_files([str(tmp_path), str(tmp_path / "7")])
    taken = time.process_time() - start
    assert len(found.files) == 5000
    assert taken * 10 < 2


def test_links_to_files_and_folders_lead_to_each_file_once(tmp_path: Path) -> None:
    real = Path(os.path.realpath(tmp_path))
    (real / "folder").mkdir()
    (real / "folder" / "a").write_bytes(b"1")
    (real / "outside").mkdir()
    (real / "outside" / "b").write_bytes(b"12")
    (real / "folder" / "b").symlink_to(real / "outside" / "b")
    (real / "folder" / "round").symlink_to(real / "folder")
    (real / "way").symlink_to(real / "folder")
    found = find_files([str(real / "way"), str(real / "folder"), str(real / "folder" / "a")])
    assert [file.path for file in found.files] == [str(real / "folder" / "a"), str(real / "outside" / "b")]


def test_found_files_know_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    [file] = find_files([str(path)]).files
    assert (file.path, file.size, file.changed()) == (os.path.realpath(path), 5, False)
    os.utime(path, (1, 1))
    assert file.changed()
    path.unlink()
    assert file.changed()


def test_folders_that_cannot_be_listed_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "a/secret/2", "a/secret/3", "b/4", "shut/5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if os.path.basename(path) in ("secret", "shut"):  # so that root is refused, too
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find_files([str(tmp_path), str(tmp_path / "a")])
    assert [os.path.basename(file.path) for file in found.files] == ["1", "4"]
    assert (found.empty, found.unreadable) == (0, 2)
    found = find_files([str(tmp_path / "shut")])
    assert (found.files, found.empty, found.unreadable) == ([], 0, 1)
    assert find_files([str(tmp_path / "a" / "1")])[1:] == (0, 0)
    assert skipped(found) == "0 empty and 1 unreadable skipped"


FILES = [File(f"/{number}", size, ()) for number, size in enumerate([1, 10, 4096, 4097, 100_000, 7])]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [1, 10, 4096, 200_000])
def test_plans_stay_inside_the_files(pattern: str, size: int) -> None:
    sizes = {file.path: file.size for file in FILES}
    plan = make_plan(FILES, pattern, 3000, size, seed=1)
    assert len(plan) == 3000
    for path, offset, length in plan:
        assert 0 <= offset < sizes[path]
        assert length == min(size, sizes[path] - offset)
    assert plan == make_plan(FILES, pattern, 3000, size, seed=1)


@pytest.mark.parametrize("pattern", ["random", "zipf"])
def test_plans_depend_on_the_seed(pattern: str) -> None:
    assert make_plan(FILES, pattern, 100, 10, seed=1) != make_plan(FILES, pattern, 100, 10, seed=2)


def test_random_reads_every_byte_alike() -> None:
    files = [File("/a", 3, ()), File("/b", 1, ())]
    starts = Counter((path, offset) for path, offset, _ in make_plan(files, "random", 40_000, 1, seed=1))
    assert set(starts) == {("/a", 0), ("/a", 1), ("/a", 2), ("/b", 0)}
    assert all(abs(count - 10_000) < 500 for count in starts.values())


def test_zipf_prefers_few_files_and_blocks() -> None:
    files = [File(f"/{number}", 64_000, ()) for number in range(100)]
    plan = make_plan(files, "zipf", 20_000, 1000, seed=1)
    by_file = [count for _, count in Counter(path for path, _, _ in plan).most_common()]
    assert len(by_file) == 100
    assert 0.13 < by_file[0] / 20_000 < 0.17  # ln 2 / ln 101 = 0.150
    by_block = [count for _, count in Counter(offset for _, offset, _ in plan).most_common()]
    assert len(by_block) == 64
    assert 0.15 < by_block[0] / 20_000 < 0.19  # ln 2 / ln 65 = 0.166


def test_sequential_reads_the_files_repeatedly() -> None:
    files = [File("/a", 25, ()), File("/b", 10, ())]
    once = [("/a", 0, 10), ("/a", 10, 10), ("/a", 20, 5), ("/b", 0, 10)]
    assert make_plan(files, "sequential", 10, 10, seed=1) == once + once + once[:2]


def test_usage_of_nothing_known() -> None:
    some = Usage(1, 2, 3, 4)
    assert NOTHING.since(some) == some.since(NOTHING) == NOTHING
    assert NOTHING.highest(some) == some.highest(NOTHING) == some
    assert some.highest(Usage(0, 5, 3, 9)) == Usage(1, 5, 3, 9)
    assert some.since(Usage(1, 1, 1, 1)) == Usage(0, 1, 2, 3)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="nothing to ask")
@pytest.mark.parametrize("name", ["two words", "two\nlines", "back\\slash", "\udcff\udcfe"])
def test_usage_is_what_the_system_says(name: str, tmp_path: Path) -> None:
    path = Path(os.path.realpath(tmp_path)) / name
    path.write_bytes(b"x" * 10_000)
    before = usage({str(path)})
    assert before.maps == before.mapped == 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        file.close()
        now = usage({str(path)}).since(before)
        assert usage({"/other"}).maps == 0
    assert (now.maps, now.descriptors, now.mapped) == (1, 1, 12288)
    assert usage({str(path)}).since(before)[:3] == (0, 0, 0)
