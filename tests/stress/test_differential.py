"""Both engines do the same: see `_differential.py`. In a process of its own, since an extension is loaded once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import smmap

SCRIPT = Path(__file__).with_name("run_differential.py")
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="raises signals"),
    pytest.mark.skipif(importlib.util.find_spec("smmap._engine.fast") is None, reason="the fast engine is not built"),
]


def run(steps: int, seed: int) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--steps", str(steps), "--seed", str(seed)],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_the_engines_do_the_same_at_random(seed: int) -> None:
    said = run(10_000, seed)
    assert "10000 steps" in said
    assert "0 differences" in said
    for met in ("answer", "Alarm", "ClosedError", "FileChangedError", "LimitError", "Oops", "cut short"):
        assert met in said, f"{met} never came"


@pytest.mark.slow
def test_the_engines_do_the_same_for_long() -> None:
    assert "0 differences" in run(200_000, 3)
