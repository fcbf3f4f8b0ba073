"""`smmap info` about processes that know nothing of smmap, beside what the system and psutil say of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smmap.cli import info, maps

from .conftest import Run

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="what is mapped is read from /proc")

READY = "print('ready', flush=True); sys.stdin.read()"
MEMMAPS = f"""
import os, sys
import numpy as np
folder = sys.argv[1]
kept = []
for number in range(300):
    path = os.path.join(folder, f"{{number:03}}.bin")
    with open(path, "wb") as file:
        file.write(bytes([number % 256]) * (4096 * (number + 1)))
    kept.append(np.memmap(path, mode="r"))
touched = sum(int(one[0]) + int(one[-1]) for one in kept)
os.remove(os.path.join(folder, "007.bin"))
{READY}
"""
PLAIN = f"""
import mmap, sys
path = sys.argv[1]
with open(path, "rb") as file:
    kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
kept[:]
{READY}
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A foreign Python that waits after it ran the code."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        try:
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.stdin.close()
            started.wait(30)


def ask(run: Run, *arguments: object) -> dict[str, Any]:
    done = run("info", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_three_hundred_memmaps_of_a_foreign_python_are_listed(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    folder = os.path.realpath(tmp_path)
    with process(MEMMAPS, folder) as foreign:
        answer = ask(run, foreign.pid, "--top", 1000)
        whole = Path(f"/proc/{foreign.pid}/maps").read_text().splitlines()
        descriptors = len(os.listdir(f"/proc/{foreign.pid}/fd"))
        by_folder = ask(run, foreign.pid, "--by", "folder", "--top", 1)
    ours = {os.path.basename(one["path"]): one for one in answer["files"] if one["path"].startswith(folder)}
    assert sorted(ours) == [f"{number:03}.bin" for number in range(300)]
    for number in range(300):
        one = ours[f"{number:03}.bin"]
        assert (one["maps"], one["virtual"]) == (1, 4096 * (number + 1))
        assert 4096 <= one["proportional"] <= one["resident"] <= one["virtual"]
    assert [name for name, one in ours.items() if one["deleted"]] == ["007.bin"]
    assert answer["maps"] == len(whole)
    assert answer["descriptors"] == descriptors
    assert answer["max_maps"] == int(Path("/proc/sys/vm/max_map_count").read_text())
    assert (by_folder["files"][0]["path"], by_folder["files"][0]["maps"]) == (f"{folder}/", 300)


def test_virtual_and_resident_agree_with_psutil(run: Run, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)
    with process(PLAIN, tmp_path / "a") as foreign:
        answer = ask(run, foreign.pid)
        theirs = psutil.Process(foreign.pid)
        memory = theirs.memory_full_info()
        limit = theirs.rlimit(psutil.RLIMIT_NOFILE)[0]
    assert answer["virtual"] == pytest.approx(memory.vms, abs=64 << 10)  # they differ by what the kernel adds
    assert answer["resident"] == pytest.approx(memory.rss, rel=0.05)
    assert answer["proportional"] == pytest.approx(memory.pss, rel=0.05)
    assert answer["max_descriptors"] == limit


def test_table_shows_the_first_files_and_sums_up_the_others(run: Run, tmp_path: Path) -> None:
    name = tmp_path / "two words [red].bin"
    name.write_bytes(b"1" * 90_000_000)
    with process(PLAIN, name) as foreign:
        done = run("info", foreign.pid, "--top", 1, "--sort", "virtual")
    assert done.returncode == 0, done.stderr
    head, table = done.stdout.split("\n\n")
    assert head.startswith(f"process {foreign.pid}: ")
    assert "of 65,530 (vm.max_map_count, " in head or "(vm.max_map_count, " in head
    assert "(RLIMIT_NOFILE, " in head
    lines = table.splitlines()
    assert lines[0].split() == ["file", "maps", "virtual", "resident", "proportional"]
    assert lines[1].startswith(os.path.realpath(name))
    assert "85.8 MiB" in lines[1]
    assert "more files)" in lines[2]
    assert lines[3].startswith("(no file: ")
    assert len({len(line) for line in lines}) == 1, "columns are aligned"


@pytest.mark.parametrize("name", ["plain", "new\nline", "it is (deleted)", "\udcff\udcfe"])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_deleted_file_is_distinguished_from_one_of_that_name(
    run: Run, tmp_path: Path, name: str, deleted: bool
) -> None:
    path = Path(os.path.realpath(tmp_path)) / name
    path.write_bytes(b"1" * 5000)
    with process(PLAIN.replace("sys.argv[1]", repr(str(path)))) as foreign:
        if deleted:
            path.unlink()
        found = [one for one in maps.look(foreign.pid).files if (one.path or "").startswith(str(path.parent))]
        table = run("info", foreign.pid, "--top", 1000)
    assert [(one.path, one.deleted) for one in found] == [(str(path), deleted)]
    assert table.returncode == 0, table.stderr
    assert "Traceback" not in table.stderr


def test_a_command_is_watched_and_its_status_handed_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 8192)
    code = (
        f"import mmap, sys, time; f = open({str(tmp_path / 'a')!r}, 'rb')\n"
        "kept = [mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) for _ in range(25)]\n"
        "time.sleep(0.7); kept = None; time.sleep(0.7); print('its own output'); sys.exit(7)"
    )
    done = run("info", "--json", "--top", 9999, "--", sys.executable, "-c", code)
    assert done.returncode == 7
    assert done.stdout == "its own output\n"
    answer = json.loads(done.stderr)
    mine = [one for one in answer["files"] if one["path"] == os.path.realpath(tmp_path / "a")]
    assert [one["maps"] for one in mine] == [25], "the moment with the most maps"


def test_a_command_that_is_killed_or_missing_has_the_status_that_a_shell_gives(run: Run) -> None:
    done = run("info", "--", sys.executable, "-c", "import os, time; time.sleep(0.3); os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + 9
    done = run("info", "--", "/none/such")
    assert (done.returncode, done.stderr) == (
        127,
        "smmap info: cannot run '/none/such': No such file or directory\n",
    )


def test_a_process_that_one_may_not_read_is_a_clear_error(run: Run) -> None:
    patch, pid = "", "1"
    if os.geteuid() == 0:
        patch, pid = (
            "import locale, os, shutil\nfrom smmap.cli import arguments, maps, table\nos.setuid(65534)",
            str(os.getpid()),
        )
    done = run("info", pid, patch=patch)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"smmap info: process {pid} belongs to another user")
    assert "Traceback" not in done.stderr


def test_a_command_that_one_may_not_read_runs_to_its_end(run: Run) -> None:
    patch = (
        "from smmap.cli import maps\n"
        "def refused(pid):\n    raise PermissionError(f'process {pid} belongs to another user')\n"
        "maps.look = refused"
    )
    code = "import time; time.sleep(0.5); print('its own output'); raise SystemExit(7)"
    done = run("info", "--", sys.executable, "-c", code, patch=patch)
    assert (done.returncode, done.stdout) == (7, "its own output\n")
    assert "belongs to another user" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_process_is_a_clear_error(run: Run) -> None:
    done = run("info", 4_000_000)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "smmap info: there is no process 4000000\n")


def test_a_kernel_thread_has_no_files(run: Run) -> None:
    if not Path("/proc/2/comm").exists() or os.geteuid():
        pytest.skip("none to be seen here")
    answer = ask(run, 2)
    assert (answer["maps"], answer["files"]) == (0, [])


def test_the_own_process_is_shown(run: Run) -> None:
    answer = ask(run, "--self")
    assert answer["maps"] > 5
    assert "smmap" in answer["name"]


@pytest.mark.parametrize("arguments", [[], ["1", "--self"], ["--self", "--", "true"], ["--watch", "1", "--", "true"]])
def test_not_one_process_is_wrong_usage(run: Run, arguments: list[str]) -> None:
    done = run("info", *arguments)
    assert done.returncode == 2
    assert "smmap info: error: " in done.stderr


def test_watch_prints_json_lines_until_the_process_ends(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 5000)
    with process(PLAIN, tmp_path / "a") as foreign:
        timer = threading.Timer(2.5, foreign.kill)
        timer.start()
        done = run("info", foreign.pid, "--watch", "0.1", "--json")
        timer.join()
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) > 2
    assert {answer["pid"] for answer in answers} == {foreign.pid}


def test_watch_on_a_terminal_draws_over_itself_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    (tmp_path / "a").write_bytes(b"1" * 5000)
    main, side = os.openpty()
    with process(PLAIN, tmp_path / "a") as foreign:
        watcher = subprocess.Popen(
            [sys.executable, "-m", "smmap.cli", "info", str(foreign.pid), "--watch", "0.1", "--top", "2"],
            stdout=side,
            stderr=side,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(side)
        shown = b""
        while shown.count(b"RLIMIT_NOFILE") < 3:
            shown += os.read(main, 65536)
        watcher.send_signal(signal.SIGINT)
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        os.close(main)
        assert watcher.wait(30) == 0
    assert b"\x1b[1A\x1b[2K" in shown, "it goes up and clears what it drew"
    assert b"Traceback" not in shown


def test_without_proc_psutil_provides_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil")
    (tmp_path / "a").write_bytes(b"1" * 5_000_000)
    monkeypatch.setattr(maps, "PROC", "/nowhere")
    with process(PLAIN, tmp_path / "a") as foreign:
        found = maps.look(foreign.pid)
        with pytest.raises(ProcessLookupError, match="no process 4000000"):
            maps.look(4_000_000)
    [one] = [one for one in found.files if one.path == os.path.realpath(tmp_path / "a")]
    assert (one.resident or 0) >= 5_000_000
    assert (found.maps, one.maps) == (None, None)
    assert "unknown" in info._head(found)[2]


def test_without_proc_and_psutil_it_says_what_to_install(run: Run) -> None:
    patch = "import sys; sys.modules['psutil'] = None\nfrom smmap.cli import maps\nmaps.PROC = '/nowhere'"
    done = run("info", "--self", patch=patch)
    assert (done.returncode, done.stdout) == (3, "")
    assert "install psutil" in done.stderr


def test_looking_at_five_thousand_maps_takes_no_more_than_seconds(tmp_path: Path) -> None:
    """`smaps` has 25 lines a map, and the kernel itself walks the pages."""
    (tmp_path / "a").write_bytes(b"1" * 4096)
    code = PLAIN.replace("kept = mmap", "kept = [mmap").replace("ACCESS_READ)", "ACCESS_READ) for _ in range(5000)]")
    with process(code.replace("kept[:]", ""), tmp_path / "a") as foreign:
        start = time.process_time()
        found = maps.look(foreign.pid)
        assert time.process_time() - start < 5
    assert max(one.maps or 0 for one in found.files) == 5000
