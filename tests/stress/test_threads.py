"""Many threads on one manager, for a moment; `run_threads.py` goes on for as long as you like."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smmap

from ._threads import rounds

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are replaced under their maps")

CPYTHON = sys.implementation.name == "cpython"


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    gc.collect()
    if hasattr(gc, "freeze"):  # what other tests left need not be gone through at each of many collections
        gc.freeze()
    yield
    if hasattr(gc, "unfreeze"):
        gc.unfreeze()
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", [1, 2])
def test_eight_threads(seed: int) -> None:
    """Right bytes or a promised error; in the end every ledger reads zero. Every fourth round is full of garbage."""
    reads = 48_000 if CPYTHON else 12_000
    assert sum(sum(one.done) for one in rounds(seed, 8, reads, most=reads // 8)) >= reads


def test_run_says_at_its_start_and_end_whether_the_lock_of_the_interpreter_is_on() -> None:
    script = Path(__file__).with_name("run_threads.py")
    done = subprocess.run(
        [sys.executable, str(script), "--reads", "500", "--threads", "8", "--seed", "3"],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.splitlines()
    state = "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"
    for line in (first, last):
        assert f"GIL {state}" in line
        assert "8 threads" in line
