"""The command `smmap replay`, in a process of its own, on traces that were recorded here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

import smmap
from smmap import _trace_format as form
from smmap._places import FULL, place_hash

from .conftest import Run

pytest.importorskip("numpy")

WINDOW = 64 << 10


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads of sixty files by Zipf's law, under limits that are too tight."""
    folder = tmp_path_factory.mktemp("traced")
    paths = []
    for number in range(60):
        paths.append(folder / f"{number}.bin")
        paths[-1].write_bytes(Random(number).randbytes(300_000))
    random = Random(1)
    with smmap.SlidingWindowMapManager(WINDOW, 8 * WINDOW, 40) as manager:
        buffers = [manager.buffer(path) for path in paths]
        cursors = [manager.make_cursor(path) for path in paths]
        with manager.trace(folder / "reads.trace"):
            for turn in range(30_000):
                number, start = int(61 ** random.random()) - 1, int(1000 ** random.random()) * 250
                if turn % 3:
                    buffers[number][start : start + 100]
                else:
                    cursors[number].use_region(start, 100)
                    cursors[number].unuse_region()
    return folder / "reads.trace"


def replay(run: Run, *arguments: object, **more: Any) -> dict[str, Any]:
    done = run("replay", "--json", *arguments, **more)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_present_limits_are_those_of_the_trace_and_the_recommended_are_better(run: Run, trace: Path) -> None:
    answer = replay(run, trace)
    assert (answer["reads"], answer["rate"], answer["files"]) == (30_000, 1.0, 60)
    present, best = answer["present"], answer["recommended"]
    assert (present["window_size"], present["max_memory_size"], present["max_open_handles"]) == (WINDOW, 8 * WINDOW, 40)
    assert best["miss_ratio"] < present["miss_ratio"] / 3
    assert best["ns_per_read"] < present["ns_per_read"]
    assert answer["recommendation"].endswith("times fewer than with your present limits")
    assert {curve["window_size"] for curve in answer["curves"]} >= {WINDOW, 4 * WINDOW}
    for curve in answer["curves"]:
        assert curve["miss_ratio"] == sorted(curve["miss_ratio"], reverse=True)


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "a sample"])
def test_present_limits_are_those_of_the_manager_with_the_most_reads(run: Run, sampled: bool, tmp_path: Path) -> None:
    """Although another one's file, of the same name, has no recorded read."""
    threshold = FULL // 2 if sampled else FULL
    above, below = (next(m for m in count(1) if (place_hash(m, 0) < FULL // 2) == wanted) for wanted in (False, True))
    parts = [
        form.header(1, 0.0),
        form.chunk(b"MNGR", form.manager_body(0, 1 << 20, 1 << 30, 100)),
        form.chunk(b"MNGR", form.manager_body(1, 256 << 10, 8 << 20, 7)),
        form.chunk(b"FILE", form.file_body(1, 0, 1 << 20, above, "/tmp/same")),
        form.chunk(b"FILE", form.file_body(2, 1, 1 << 20, below, "/tmp/same")),
        form.chunk(b"READ", b"".join(form.READ.pack(1, 4096, turn * 4096) for turn in range(50 * sampled))),
        form.chunk(b"READ", b"".join(form.READ.pack(2, 4096, turn % 200 * 4096) for turn in range(1000))),
        *([form.rate_chunk(threshold)] if sampled else []),
        form.tail_chunk(2000, 1000 + 50 * sampled),
    ]
    (tmp_path / "trace").write_bytes(b"".join(parts))
    present = replay(run, tmp_path / "trace")["present"]
    limits = present["window_size"], present["max_memory_size"], present["max_open_handles"]
    assert limits == (256 << 10, 8 << 20, 7)


def test_the_present_limits_miss_as_much_as_the_recorded_manager_did(run: Run, trace: Path) -> None:
    from smmap._trace_format import load

    outcomes = [word >> 60 for word in memoryview(load(str(trace)).reads).cast("Q")[1::2]]
    answer = replay(run, trace)
    recorded = sum(outcome != 0 for outcome in outcomes) / len(outcomes)
    assert answer["present"]["miss_ratio"] == pytest.approx(recorded, abs=0.01)


def test_replaying_for_real_gives_the_predicted_misses(run: Run, trace: Path) -> None:
    answer = replay(run, trace, "--measure")
    assert answer["measured"]["miss_ratio"] == pytest.approx(answer["recommended"]["miss_ratio"], abs=0.01)
    assert not answer["measured"]["stand_ins"]


def test_a_sampled_trace_predicts_what_a_real_replay_of_all_reads_gives(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same files in each run: which are sampled depends on their marks, else on inodes and times."""
    from smmap import _files
    from smmap import _trace_format as form
    from smmap.cli import again
    from smmap.cli.touches import reads_of

    marks = count(1)
    monkeypatch.setattr(_files, "mark_of", lambda _status: next(marks))
    folder = tmp_path / "many"
    folder.mkdir()
    paths = [folder / str(number) for number in range(1500)]
    for path in paths:
        path.write_bytes(bytes(5000))
    random = Random(2)
    places = [int(1500 ** random.random()) - 1 for _ in range(60_000)]
    for rate, name in ((1.0, "whole"), (0.25, "sampled")):
        with smmap.SlidingWindowMapManager(WINDOW, 4 << 20) as manager:
            cursors = [manager.make_cursor(path) for path in paths]
            with manager.trace(tmp_path / name, rate=rate):
                for number in places:
                    cursors[number].use_region(0, 100)
                    cursors[number].unuse_region()
    limits = ("--memory", "2M", "--handles", "5000")
    sampled = replay(run, tmp_path / "sampled", *limits)
    assert 0.2 < sampled["rate"] <= 0.25
    whole = reads_of(form.load(str(tmp_path / "whole")))
    measured = again.again(whole, WINDOW, 2 << 20, 5000)
    assert abs(sampled["present"]["miss_ratio"] - measured.miss_ratio) < 0.02


def test_text_has_a_plot_a_table_and_the_recommendation(run: Run, trace: Path) -> None:
    done = run("replay", trace, "--policies", "--measure")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "30,000 reads of 60 files" in done.stdout
    assert "limit of mapped memory" in done.stdout
    assert "a window 64K" in done.stdout
    assert (
        "memory     LRU    OPT  SIEVE     2Q" in done.stdout.replace("   ", " ").replace("  ", " ")
        or "SIEVE" in done.stdout
    )
    assert "replayed for real on the files: misses " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("window ")
    assert "reading again ..." in done.stderr


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plots_are_pictures(run: Run, trace: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    done = run("replay", trace, "--plot", tmp_path / f"out.{kind}")
    assert done.returncode == 0, done.stderr
    if kind == "svg":
        root = ElementTree.parse(tmp_path / "out.svg").getroot()
        assert root.tag.endswith("svg")
    else:
        assert (tmp_path / "out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "limit of mapped memory" not in done.stdout, "no text plot beside it"


def test_policies_are_ordered_as_they_must_be(run: Run, trace: Path) -> None:
    rows = replay(run, trace, "--policies")["policies"]
    assert len(rows) == 5
    for row in rows:
        assert row["OPT"] <= min(row["LRU"], row["SIEVE"], row["2Q"])


def test_a_budget_bounds_what_is_recommended(run: Run, trace: Path) -> None:
    assert replay(run, trace, "--budget", "2M")["recommended"]["max_memory_size"] <= 2 << 20


def test_a_trace_without_an_end_is_replayed_in_part(run: Run, trace: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(trace.read_bytes()[:-40])
    done = run("replay", cut)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"smmap replay: '{cut}': truncated")
    assert "--partial" in done.stderr
    assert replay(run, cut, "--partial")["reads"] > 20_000


@pytest.mark.parametrize("what", ["missing", "foreign", "folder", "empty"])
def test_no_trace_is_a_clear_error(run: Run, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "foreign":
        path.write_bytes(b"\x00\x01\x02" * 99)
    elif what == "folder":
        path.mkdir()
    elif what == "empty":
        with smmap.SlidingWindowMapManager() as manager, manager.trace(path):
            pass
    done = run("replay", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_missing_is_named_with_its_extra(run: Run, trace: Path) -> None:
    done = run("replay", trace, patch="sys.modules['numpy'] = None")
    assert (done.returncode, done.stdout) == (3, "")
    assert "needs numpy: install the extra `numpy`" in done.stderr
    done = run("replay", trace, "--plot", "x.svg", patch="sys.modules['matplotlib'] = None")
    assert (done.returncode, done.stdout) == (3, "")
    assert "needs matplotlib: install the extra `plot`" in done.stderr
    assert run("replay", trace, patch="sys.modules['matplotlib'] = sys.modules['rich'] = None").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", "--synthetic", "zipf"],
        ["x", "--plot", "out.pdf"],
        ["--synthetic", "zipf:files=x"],
        ["x", "--memory", "0"],
    ],
    ids=["nothing", "both", "pdf", "specification", "memory"],
)
def test_wrong_usage_is_reported(run: Run, arguments: list[str]) -> None:
    done = run("replay", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "smmap replay: error: " in done.stderr


def test_synthetic_reads_take_bounded_memory_at_flat_cost(run: Run) -> None:
    answer = replay(run, "--synthetic", "zipf:files=1000000,accesses=2000000", "--memory", "64M")
    assert answer["hits"] + answer["misses"] + answer["cold_reads"] == 2_000_000
    assert answer["most_memory"] <= 64 << 20
    stages = answer["stages"]
    assert stages[-1]["files"] > 200_000
    costs = [stage["ns_per_access"] for stage in stages]
    assert min(costs[5:]) < 2 * min(costs[:5]), "no dearer with more files"
    assert stages[-1]["resident"] < stages[1]["resident"] + (30 << 20)
    answer = replay(run, "--synthetic", "zipf:files=500,accesses=30000,size=100K", "--memory", "1M", "--measure")
    assert 400 < answer["real"][-1]["files"] <= 500


def test_synthetic_reads_of_whole_files(run: Run) -> None:
    answer = replay(run, "--synthetic", "zipf:files=500,accesses=3000,size=100K", "--memory", "1M", "--window", "0")
    assert answer["limits"]["window_size"] == 0
    assert answer["most_memory"] % (100 << 10) == 0
    done = run("replay", "--synthetic", "zipf:files=500,accesses=3000", "--window", "0")
    assert "limits: window whole files" in done.stdout


def test_too_many_synthetic_files_are_a_clear_error(run: Run) -> None:
    done = run("replay", "--synthetic", "zipf:files=1000T")
    assert (done.returncode, done.stdout) == (2, "")
    assert "smmap replay: there is not enough memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt_of_a_long_replay(trace: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "smmap.cli", "replay", "--synthetic", "zipf:accesses=500000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "simulating ...\n"
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "smmap: interrupted\n")
