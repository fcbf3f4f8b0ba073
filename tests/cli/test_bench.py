"""The command itself, in a process of its own, on files made here and on the files of this Python."""

from __future__ import annotations

import importlib.util
import mmap
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from random import Random
from typing import Any, Callable

import pytest

import smmap

from .conftest import Run

Bench = Callable[..., "dict[str, Any]"]

BATCHES = hasattr(smmap.SlidingWindowMapBuffer, "gather")
NUMPY = importlib.util.find_spec("numpy") is not None
CONTENDERS = {
    "smmap buffer": "SmmapBuffer",
    "smmap cursor": "SmmapCursor",
    **({"smmap gather": "SmmapGather"} if BATCHES else {}),
    "mmap": "PlainMmap",
    "kept mmap": "KeptMmap",
    **({"kept memmap": "KeptMemmap"} if NUMPY else {}),
    "open-read": "OpenRead",
    "pread LRU": "CachedPread",
}
NAMES = list(CONTENDERS)
OURS = [name for name in NAMES if name.startswith("smmap")]
CLASSES = [name for name in CONTENDERS.values() if name != "SmmapGather"]  # which does no read by itself
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="peaks are read from /proc/self")


def patch_first_read(contender: str, action: str) -> str:
    """Code that runs the action, once, before the first read of the contender; then `data` is what the read gave."""
    return f"""
import os
from smmap.cli import contenders
make = contenders.{contender}.reader
done = []
def put(path, mode, data):
    with open(path, mode) as file:
        file.write(data)
def reader(self):
    read = make(self)
    def patched(path, offset, size):
        first = not done
        done.append(path)
        if first:
            pass
            {action}
        data = read(path, offset, size)
        return data
    return patched
contenders.{contender}.reader = reader
"""


def test_installed_command_reads_the_python_library() -> None:
    command = shutil.which("smmap", path=sysconfig.get_path("scripts"))
    assert command, "the package is not installed here"
    done = subprocess.run(
        [command, "bench", "--reads", "300", "--handles", "16"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "\n0 wrong reads; " in done.stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"smmap {smmap.__version__}\n"


def test_table_is_plain_text_without_a_terminal(run: Run, data: Path) -> None:
    done = run("bench", data, "--reads", 500, "--window", "64K", "--memory", "256K", "--handles", 8, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    head, speed, peaks, work, notes = done.stdout.split("\n\n")
    assert head.splitlines()[0].startswith(f"smmap {smmap.__version__}, {smmap.engine} engine, ")
    assert "12 files of 4.0 MiB; 0 empty and 0 unreadable skipped" in head
    assert "500 reads of up to 4 KiB in " in head
    assert "zipf, seed 3, 1 thread\n" in head
    assert "limits: window 64 KiB, memory 256 KiB, handles 8" in head
    tables = []
    for table in (speed, peaks, work):
        tables.append([re.split(r" {2,}", line) for line in table.splitlines()])
        assert len({len(line) for line in table.splitlines()}) == 1, "columns are aligned"
        assert max(map(len, table.splitlines())) <= 80
    assert tables[0][0] == ["speed", "reads/s", "ns a read", "ratio to best", "wrong reads"]
    assert tables[1][0] == ["as the system counts", "peak maps", "peak descriptors", "peak mapped", "resident growth"]
    assert tables[2][0] == ["as smmap counts", "hits", "misses", "cold reads", "mapped for later", "evictions"]
    assert [row[0] for row in tables[0][1:]] == NAMES
    assert [row[0] for row in tables[1][1:]] == [*NAMES, "limit"]
    assert [row[0] for row in tables[2][1:]] == OURS
    assert "1.00" in [row[3] for row in tables[0]]
    assert {row[4] for row in tables[0][1:]} == {"0"}
    assert tables[1][-1] == ["limit", "8", "1,024", "256 KiB", "-"]
    assert tables[2][1][3] != "0", "cold reads of the buffer"
    assert tables[2][2][2] != "0", "misses of the cursor"
    assert notes == "0 wrong reads; every byte was compared with a plain read of the file\n"
    assert done.stderr.splitlines() == [f"{name} ..." for name in ["warming up", *NAMES]]


@needs_proc
def test_limits_hold_as_the_system_sees_them(bench: Bench, data: Path) -> None:
    answer = bench(data, "--reads", 2000, "--pattern", "random", "--window", "64K", "--memory", "512K", "--handles", 5)
    limits = {"window_size": 64 << 10, "max_memory_size": 512 << 10, "max_open_handles": 5}
    assert answer["limits"] == {**limits, "descriptors": 1024}
    for name in OURS:
        figures = answer["by_name"][name]
        assert 0 <= figures["peak_maps"] <= 5
        assert figures["peak_mapped_bytes"] <= (512 << 10) + 5 * mmap.PAGESIZE  # the system counts whole pages
        assert figures["peak_descriptors"] <= 5
    cursor = answer["by_name"]["smmap cursor"]
    assert min(cursor["peak_maps"], cursor["peak_mapped_bytes"], cursor["evictions"]) > 0
    assert cursor["misses"] > 5
    buffer = answer["by_name"]["smmap buffer"]
    assert buffer["cold_reads"] > 1000, "reads so far apart that no window is worth mapping"
    kept = answer["by_name"]["kept mmap"]
    assert kept["peak_maps"] == answer["files"]["read"]
    assert kept["peak_mapped_bytes"] > 3 << 20
    assert answer["by_name"]["mmap"]["peak_maps"] == 1
    assert answer["by_name"]["open-read"]["peak_maps"] == answer["by_name"]["pread LRU"]["peak_maps"] == 0
    assert answer["by_name"]["open-read"]["peak_descriptors"] == 1
    assert answer["by_name"]["pread LRU"]["peak_descriptors"] == 5


@pytest.mark.parametrize("pattern", ["zipf", "sequential"])
def test_hits_misses_and_cold_reads_are_the_reads(bench: Bench, data: Path, pattern: str) -> None:
    """Reads of these patterns start at multiples of their size, so none goes across a window's border."""
    limits = ("--window", "64K", "--memory", "2M", "--handles", 40)
    answer = bench(data, "--reads", 2000, "--pattern", pattern, *limits)
    for name in OURS:
        figures = answer["by_name"][name]
        assert figures["hits"] + figures["misses"] + figures["cold_reads"] == figures["reads"] == 2000
        # A batch reads first, and maps then what its reads have paid for.
        assert (figures["misses"] > 0, figures["mapped_for_later"] > 0) == (
            name != "smmap gather",
            name == "smmap gather",
        )
    assert answer["by_name"]["smmap buffer"]["cold_reads"] > 0
    assert answer["by_name"]["smmap cursor"]["cold_reads"] == 0
    assert answer["by_name"]["pread LRU"]["cold_reads"] is None


def test_ratio_and_speed_are_of_one_measurement(bench: Bench, data: Path) -> None:
    answer = bench(data, "--reads", 500)
    costs = [contender["ns_per_read"] for contender in answer["contenders"]]
    for contender in answer["contenders"]:
        assert contender["reads"] == 500
        assert contender["ratio_to_best"] == pytest.approx(contender["ns_per_read"] / min(costs))
        assert contender["reads_per_second"] == pytest.approx(1e9 / contender["ns_per_read"])
        assert contender["stopped"] is None


def test_a_seed_gives_the_same_run_again(bench: Bench, data: Path) -> None:
    def story(seed: int) -> list[object]:
        limits = ("--window", "64K", "--memory", "512K", "--handles", 5)
        answer = bench(data, "--reads", 700, "--pattern", "zipf", "--seed", seed, *limits)
        names = ("hits", "misses", "evictions")
        return [answer["bytes_per_contender"], *([one[name] for name in names] for one in answer["contenders"])]

    assert story(5) == story(5)
    assert story(5) != story(6)


@pytest.mark.parametrize("pattern", ["random", "zipf", "sequential"])
@pytest.mark.parametrize("threads", [1, 3])
def test_patterns_and_threads(bench: Bench, data: Path, pattern: str, threads: int) -> None:
    limits = ("--window", "64K", "--memory", "512K", "--handles", 8)
    answer = bench(data, "--reads", 1000, "--pattern", pattern, "--threads", threads, *limits)
    assert answer["settings"]["pattern"] == pattern
    assert answer["settings"]["threads"] == threads
    assert answer["wrong_reads"] == 0
    assert [contender["reads"] for contender in answer["contenders"]] == [1000] * len(NAMES)


@pytest.mark.parametrize("window", ["0", "64K"])
def test_reads_larger_than_a_window(bench: Bench, data: Path, window: str) -> None:
    answer = bench(data, "--reads", 50, "--size", "200K", "--window", window, "--memory", "2M", "--handles", 20)
    assert answer["wrong_reads"] == 0
    assert answer["bytes_per_contender"] > 50 * 64 << 10


@pytest.mark.parametrize(("contender", "name"), [(kind, name) for name, kind in CONTENDERS.items() if kind in CLASSES])
def test_a_wrong_byte_is_found(bench: Bench, data: Path, contender: str, name: str) -> None:
    patch = patch_first_read(contender, "").replace(
        "return data", "return bytes([data[0] ^ 1]) + data[1:] if len(done) == 150 else data"
    )
    answer = bench(data, "--reads", 300, patch=patch, status=1)
    assert answer["wrong_reads"] == 1
    assert {one["name"]: one["wrong_reads"] for one in answer["contenders"]} == {**dict.fromkeys(NAMES, 0), name: 1}


def test_missing_bytes_are_a_wrong_read(run: Run, data: Path) -> None:
    patch = patch_first_read("SmmapBuffer", "").replace("return data", "return data[:-1] if len(done) == 150 else data")
    done = run("bench", data, "--reads", 300, patch=patch)
    assert done.returncode == 1
    assert "\n1 wrong reads; " in done.stdout


CHANGES = {
    "grown": "put(path, 'ab', b'more')",
    "replaced": "put(path + '~', 'wb', b'other' * 9999); os.replace(path + '~', path)",
    "deleted": "os.remove(path)",
    "rewritten": "put(path, 'r+b', bytes(os.path.getsize(path))); os.utime(path, (1, 1))",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("contender", CLASSES)
def test_changed_files_are_named_and_not_held_against_anyone(
    bench: Bench, data: Path, change: str, contender: str
) -> None:
    patch = patch_first_read(contender, CHANGES[change])
    answer = bench(data, "--reads", 300, "--window", "64K", patch=patch)
    assert answer["wrong_reads"] == 0
    assert len(answer["files"]["changed"]) == 1
    assert all(one["stopped"] is None for one in answer["contenders"])


def test_names_that_cannot_be_written(run: Run, data: Path) -> None:
    name = data / "\udcff\udcfe"
    name.write_bytes(bytes(range(250)) * 99)
    done = run(
        "bench",
        name,
        "--reads",
        99,
        patch=patch_first_read("OpenRead", CHANGES["grown"]),
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert "Traceback" not in done.stderr
    assert r"changed meanwhile, reads not counted: " in done.stdout
    assert r"\udcff\udcfe" in done.stdout


def test_changed_files_are_named_in_the_table(run: Run, data: Path) -> None:
    done = run(
        "bench", data / "folder2" / "11.bin", "--reads", 99, patch=patch_first_read("OpenRead", CHANGES["grown"])
    )
    assert done.returncode == 0
    assert f"changed meanwhile, reads not counted: {data / 'folder2' / '11.bin'}" in done.stdout


def test_a_failing_smmap_is_reported_and_exits_with_1(run: Run, data: Path) -> None:
    patch = patch_first_read("SmmapCursor", "raise OSError(5, 'made up')")
    done = run("bench", data, "--reads", 300, patch=patch)
    assert done.returncode == 1
    assert "smmap cursor stopped after 0 reads: OSError(5, 'made up')" in done.stdout


def test_a_failing_peer_is_reported(bench: Bench, data: Path) -> None:
    answer = bench(data, "--reads", 300, patch=patch_first_read("PlainMmap", "raise OSError(5, 'made up')"))
    assert answer["by_name"]["mmap"]["stopped"] == "after 0 reads: OSError(5, 'made up')"
    assert answer["by_name"]["mmap"]["ns_per_read"] is None
    assert answer["by_name"]["pread LRU"]["reads"] == 300


def test_kept_maps_stop_at_the_descriptor_limit_and_the_run_continues(bench: Bench, tmp_path: Path) -> None:
    for number in range(80):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 5000)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    answer = bench(tmp_path, "--reads", 2000, "--handles", 8, preexec_fn=few)
    assert "Too many open files" in answer["by_name"]["kept mmap"]["stopped"]
    for name in (*OURS, "mmap", "open-read", "pread LRU"):
        assert answer["by_name"][name]["reads"] == 2000
        assert answer["by_name"][name]["stopped"] is None
    assert answer["wrong_reads"] == 0


def test_the_run_gives_itself_as_many_descriptors_as_most_systems_do(bench: Bench, tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("no more than that are allowed here")
    for number in range(1300):
        (tmp_path / f"{number}").write_bytes(b"%d" % number * 50)
    answer = bench(
        tmp_path,
        *("--reads", 6000, "--pattern", "sequential", "--handles", 100),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard)),
    )
    for name in ["kept mmap", *(["kept memmap"] if NUMPY else [])]:
        assert "Too many open files" in answer["by_name"][name]["stopped"]
        assert 900 < answer["by_name"][name]["peak_descriptors"] <= 1024
    assert answer["limits"]["descriptors"] == 1024
    assert all(answer["by_name"][name]["reads"] == 6000 for name in OURS)


def test_no_more_files_are_read_than_asked_for(bench: Bench, data: Path) -> None:
    answer = bench(data, "--reads", 2000, "--files", 3, "--pattern", "sequential")
    assert (answer["files"]["found"], answer["files"]["read"]) == (12, 3)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plots_are_pictures(run: Run, data: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    done = run("bench", data, "--reads", 99, "--plot", tmp_path / f"out.{kind}")
    assert done.returncode == 0, done.stderr
    head = (tmp_path / f"out.{kind}").read_bytes()[:100]
    assert head.startswith(b"\x89PNG\r\n\x1a\n" if kind == "png" else b"<?xml")


def test_plots_of_another_kind_and_without_matplotlib_are_refused(run: Run, data: Path) -> None:
    assert run("bench", data, "--plot", "out.pdf").returncode == 2
    done = run("bench", data, "--plot", "out.svg", patch="sys.modules['matplotlib'] = None")
    assert (done.returncode, done.stdout) == (3, "")
    assert "extra `plot`" in done.stderr


def test_batches_are_checked_as_single_reads_are(bench: Bench, data: Path) -> None:
    """By a `gather` made here, where the buffers have none yet; its last byte of all is wrong, once."""
    patch = """
import smmap
def gather(self, offsets, size, out=None):
    found = bytearray(b"".join(self[offset : offset + size] for offset in offsets))
    if not wrong:
        found[-1] ^= 1
        wrong.append(1)
    return found
wrong = []
smmap.SlidingWindowMapBuffer.gather = gather
"""
    if BATCHES:
        pytest.skip("they have one, which is checked with all others")
    answer = bench(data, "--reads", 500, patch=patch, status=1)
    assert {one["name"]: one["wrong_reads"] for one in answer["contenders"]}["smmap gather"] == 1
    assert answer["wrong_reads"] == 1
    assert answer["by_name"]["smmap gather"]["reads"] == 500


def test_empty_and_unreadable_files_are_counted(bench: Bench, data: Path) -> None:
    (data / "empty").touch()
    (data / "dangling").symlink_to("nowhere")
    os.mkfifo(data / "fifo")  # opened, it would wait for ever
    os.link(data / "folder2" / "11.bin", data / "again.bin")
    (data / "also.bin").symlink_to(data / "folder2" / "11.bin")
    answer = bench(data, data, "--reads", 300)
    assert answer["files"]["found"] == 12
    assert (answer["files"]["empty"], answer["files"]["unreadable"]) == (1, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_counted(bench: Bench, data: Path) -> None:
    (data / "folder2" / "11.bin").chmod(0)
    answer = bench(data, "--reads", 300)
    assert (answer["files"]["found"], answer["files"]["unreadable"]) == (11, 1)


LIAR = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # says 4096 bytes, has some 20


@pytest.mark.skipif(not LIAR.exists(), reason="no such file here")
def test_files_that_hold_less_than_they_say_are_unreadable(bench: Bench, run: Run, data: Path) -> None:
    answer = bench(LIAR, data / "folder1" / "01.bin", "--reads", 300)
    assert (answer["files"]["read"], answer["files"]["unreadable"]) == (1, 1)
    done = run("bench", LIAR)
    assert done.returncode == 2
    assert done.stderr.endswith("smmap bench: none of the files could be read\n")


def test_no_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = run("bench", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "smmap bench: no files to read (1 empty and 0 unreadable skipped)\n"


def test_missing_path(run: Run, tmp_path: Path) -> None:
    done = run("bench", tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file or directory" in done.stderr
    assert str(tmp_path / "none") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "0"],
        ["--size", "4X"],
        ["--window", "-5"],
        ["--memory", "lots"],
        ["--handles", "0"],
        ["--reads", "1.5"],
        ["--threads", "-1"],
        ["--pattern", "backwards"],
        ["--seed", "x"],
        ["--faster"],
    ],
)
def test_wrong_usage(run: Run, data: Path, arguments: list[str]) -> None:
    done = run("bench", data, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "smmap bench: error: " in done.stderr or "smmap: error: " in done.stderr
    assert arguments[0] in done.stderr


def test_no_command(run: Run) -> None:
    done = run()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


def on_terminal(data: Path, patch: str = "", columns: int = 100) -> str:
    """What the command prints on a terminal of its own."""
    main, side = os.openpty()
    code = f"import sys\n{patch}\nfrom smmap.cli import main\nsys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "bench", str(data), "--reads", "300"],
        stdout=side,
        stderr=side,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(side)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # what Linux says when the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert process.wait(60) == 0
    return shown.decode()


def test_terminal_with_rich(data: Path) -> None:
    pytest.importorskip("rich")
    shown = on_terminal(data)
    assert "━" in shown, "a bar"
    assert "100%" in shown
    assert "────" in shown, "a table"
    assert "warming up ..." not in shown


def test_a_narrow_terminal_shows_every_name(data: Path) -> None:
    pytest.importorskip("rich")
    shown = on_terminal(data, columns=80)
    assert all(name in shown for name in [*NAMES, "ratio to best", "resident growth"])
    assert "…" not in shown


def test_terminal_without_rich(data: Path) -> None:
    shown = on_terminal(data, patch="sys.modules['rich'] = None")
    assert "\x1b" not in shown
    assert "━" not in shown
    assert shown.startswith("warming up ...\r\nsmmap buffer ...\r\n")
    assert "reads/s" in shown


def test_interrupt(data: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "smmap.cli", "bench", str(data), "--reads", "300000", "--threads", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have it ignored, and that is handed on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "warming up ...\n"
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "smmap: interrupted"
    assert "Traceback" not in err


@pytest.mark.parametrize("module", ["argparse", "json", "smmap.cli.info", "smmap.cli.bench", "smmap.cli.report"])
def test_an_interrupt_while_modules_are_imported_prints_no_traceback(run: Run, data: Path, module: str) -> None:
    patch = f"""
class Interrupt:
    def find_spec(self, name, *more):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
"""
    done = run("bench", data, "--reads", 99, patch=patch)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "smmap: interrupted\n")


def test_reader_of_the_table_stops_early(data: Path) -> None:
    away, out = os.pipe()
    os.close(away)
    done = subprocess.run(
        [sys.executable, "-m", "smmap.cli", "bench", str(data), "--reads", "99"],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(out)
    assert done.returncode == 141
    assert "Error" not in done.stderr


COMMANDS = [["bench", "DATA", "--reads", "99"], ["bench", "DATA", "--reads", "99", "--json"], ["bench", "--help"]]
COMMANDS += [["--help"], ["--version"]]


def into(data: Path, arguments: list[str], redirection: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What the command does whose output the shell sends somewhere."""
    words = [sys.executable, "-m", "smmap.cli", *(str(data) if word == "DATA" else word for word in arguments)]
    command = f"{shlex.join(words)} {redirection}"
    env = {**os.environ, **more}
    return subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="nothing that is full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_nowhere_to_write_to(data: Path, arguments: list[str]) -> None:
    """One line says so, and the exit status is neither that of success nor that of a wrong read."""
    for redirection, reason in (
        (">/dev/full", "[Errno 28] No space left on device"),
        (">&-", "standard output is closed"),
    ):
        for unbuffered in ("", "1"):
            done = into(data, arguments, redirection, PYTHONUNBUFFERED=unbuffered)
            assert (done.returncode, done.stdout) == (3, "")
            told = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]
            assert told == [f"smmap: {reason}"]
    assert into(data, arguments, ">/dev/full 2>&1").returncode == 3


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_readers_that_stop_early_get_no_message(data: Path, arguments: list[str]) -> None:
    away, out = os.pipe()
    os.close(away)
    words = [sys.executable, "-m", "smmap.cli", *(str(data) if word == "DATA" else word for word in arguments)]
    for streams in ({"stdout": out, "stderr": subprocess.PIPE}, {"stdout": out, "stderr": out}):
        done = subprocess.run(words, **streams, text=True, timeout=60)  # type: ignore[call-overload]
        assert done.returncode == 141
        assert all(line.endswith(" ...") for line in (done.stderr or "").splitlines())
    os.close(out)


def test_without_standard_error(data: Path) -> None:
    done = into(data, ["bench", "DATA", "--reads", "99"], "2>&-")
    assert done.returncode == 0
    assert done.stdout.startswith("smmap ")
    assert " ..." not in done.stdout
    assert "0 wrong reads; " in done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a system does then")
@pytest.mark.parametrize("contender", ["SmmapCursor", "KeptMmap"])
def test_a_file_that_is_truncated_while_it_is_mapped_ends_the_process(run: Run, tmp_path: Path, contender: str) -> None:
    """As the help says, which says it because of this."""
    (tmp_path / "a").write_bytes(Random(1).randbytes(3_000_000))
    patch = patch_first_read(contender, "").replace("data = read", "cut(path, done); data = read")
    patch += "def cut(path, done):\n    if len(done) == 50:\n        os.truncate(path, 0)\n"
    done = run("bench", tmp_path, "--reads", 300, patch=patch)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "")
    assert "SIGBUS" in run("bench", "--help").stdout


@needs_proc
def test_without_proc_there_are_no_peaks(bench: Bench, data: Path) -> None:
    patch = "from smmap.cli import system\nsystem.PROC = '/nowhere'"
    for contender in bench(data, "--reads", 300, patch=patch)["contenders"]:
        assert contender["peak_maps"] is contender["peak_mapped_bytes"] is contender["resident_growth_bytes"] is None
        assert contender["reads"] == 300
