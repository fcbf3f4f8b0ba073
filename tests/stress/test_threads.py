"""Many threads on one manager, for a moment; `run_threads.py` goes on for as long as you like."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

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
