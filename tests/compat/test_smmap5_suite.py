"""The whole of smmap 5's own test suite, taken from its published wheel, run unchanged against this library."""

from __future__ import annotations

import base64
import csv
import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from ._suite import OURS, names_of_tests, run_suite

# `test_buf` draws the place of a single byte with `randint(0, file_size)`. Both ends of randint are inclusive, so about
# once in 13,000 runs (600 draws out of 8,005,196) it asks for the byte behind the last one; no buffer has that, nor has
# the `bytes` that the test compares with: an IndexError of the test's own making. The end is therefore left out where
# the draw starts at 0; slices that end at the end of the file are still drawn, since those draws start elsewhere. The
# seed makes every run read the same places.
_NO_DRAW_BEHIND_THE_END = """
import random

random.seed(503)
_randint = random.randint
_FILE_SIZE = 1000 * 1000 * 8 + 5195


def randint(low, high):
    return _randint(low, high - 1 if (low, high) == (0, _FILE_SIZE) else high)


random.randint = randint
"""

# `test_tutorial` imports `smmap.test.lib`, which this library does not have: the wheel's folder lends it, as the last
# place that is looked at, so that every other module stays ours.
_LEND_TEST_FOLDER = """
import os
import smmap

smmap.__path__.append(os.environ["SMMAP5_FOLDER"])
"""

# The files that the suite makes are zeros but for the last byte, so a wrong offset would go unseen. Where asked, they
# are filled with bytes that tell their place instead (the test files stay as they are). One assertion takes for granted
# that bytes 100 to 200 are bytes 0 to 100 again, so they are.
_TELLING_FILES = """
import hashlib, importlib

def _telling(cls):
    made = cls.__init__

    def __init__(self, size, prefix=""):
        made(self, size, prefix)
        data = hashlib.shake_128(prefix.encode()).digest(size)
        with open(self.path, "r+b") as file:
            file.write((data[:100] * 2 + data[200:])[:size])

    cls.__init__ = __init__

for _name in ("published_tests.lib", "smmap.test.lib"):
    _telling(importlib.import_module(_name).FileCreator)
"""


# It asserts that the window of a buffer that was dropped is idle; on PyPy both die together.
COUNTING = {"test_buf.TestBuf.test_basics"}


@pytest.mark.parametrize("telling", [False, True], ids=["as-published", "telling-files"])
def test_every_test_of_smmap_5_passes(telling: bool, smmap5_wheel: Path, tmp_path: Path) -> None:
    published = smmap5_wheel / "smmap" / "test"
    expected = names_of_tests(published)
    assert len(expected) == 9

    shutil.copytree(published, tmp_path / "published_tests")
    outcome = run_suite(
        tmp_path,
        "published_tests",
        conftest=_NO_DRAW_BEHIND_THE_END + _LEND_TEST_FOLDER + (_TELLING_FILES if telling else ""),
        path=[OURS.parent],
        environment={"SMMAP5_FOLDER": str(smmap5_wheel / "smmap")},
        timeout=900,
    )

    apart = COUNTING if sys.implementation.name == "pypy" else set()
    assert set(outcome.failed) <= apart, outcome.output
    assert not outcome.skipped
    assert outcome.passed == sorted(set(expected) - set(outcome.failed))

    assert "smmap.test.lib" in outcome.modules
    for name, file in outcome.modules.items():
        home = smmap5_wheel / "smmap" if name.startswith("smmap.test") else OURS
        assert file is not None
        assert home in Path(file).resolve().parents, f"{name} was taken from {file}"


def test_the_files_are_those_that_were_published(smmap5_wheel: Path) -> None:
    """The wheel's own record names a digest for each file; all nine tests live in files that have it."""
    (record,) = smmap5_wheel.glob("smmap-5.0.3.dist-info/RECORD")
    with record.open(newline="") as lines:
        digests = {row[0]: row[1] for row in csv.reader(lines)}
    files = sorted((smmap5_wheel / "smmap" / "test").glob("*.py"))
    assert [file.name for file in files if file.name.startswith("test_")] == [
        "test_buf.py",
        "test_mman.py",
        "test_tutorial.py",
        "test_util.py",
    ]
    for file in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
        assert digests[f"smmap/test/{file.name}"] == f"sha256={digest}"
