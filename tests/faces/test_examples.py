"""The examples run, with small numbers, and say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import smmap

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    """What an example prints, as its user would run it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_token_shards() -> None:
    pytest.importorskip("numpy")
    shown = run(
        "token_shards.py",
        "--shards",
        1100,
        "--tokens",
        600,
        "--context",
        70,
        "--batches",
        12,
        "--batch-size",
        9,
        "--workers",
        2,
        "--handles",
        5,
    )
    assert re.search(r"^1,100 files, [\d,]+ tokens, 1 MiB$", shown, re.MULTILINE)
    if os.name == "posix":
        assert re.search(r"fails after (9\d\d|1,0\d\d) of 1,100 files: Too many open files$", shown, re.MULTILINE)
    used = re.search(r"smmap used at most (\d+) handles and [\d.]+ MiB in any worker$", shown, re.MULTILINE)
    assert used
    assert 1 <= int(used[1]) <= 5
    assert shown.endswith("\nwrong tokens: 0\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a system does where a file is truncated")
def test_truncated() -> None:
    """The system ends whoever reads a bare map; smmap's readers count errors, and no wrong byte."""
    shown = run("truncated.py", "--seconds", 2, "--files", 4, "--threads", 3)
    if smmap.engine == "plain":
        assert shown.startswith("the plain engine cannot guard: ")
        return
    assert "a map kept for each file: ended by SIGBUS\n" in shown
    for name in "smmap, slices", 'smmap, views, guard="views"':
        counts = re.search(rf"^{name}: ([\d,]+) right reads, ([\d,]+) errors, 0 wrong reads$", shown, re.MULTILINE)
        assert counts, shown
        assert all(int(count.replace(",", "")) for count in counts.groups())
