"""What type checkers say of a program that uses `smmap.numpy`: what is right passes strictly, a typo is an error."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import smmap

pytest.importorskip("numpy")

SOURCES = Path(smmap.__file__).parents[1]
PROGRAM = """\
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import smmap.numpy
from smmap.numpy import LazyArray, MappedArray, MappedNpz, Shards, load, memmap


def use(path: Path, starts: NDArray[np.int64], out: NDArray[np.uint16]) -> None:
    shards = Shards([path, str(path)], "<u2", offset=4)
    assert_type(shards[3:9], np.ndarray[Any, Any])
    assert_type(shards[starts], np.ndarray[Any, Any])
    assert_type(shards[[1, 2]], np.ndarray[Any, Any])
    assert_type(shards[5], Any)
    assert_type(shards[5, 2], Any)
    assert_type(shards.shape, tuple[int, ...])
    assert_type(shards.blocks(starts, 1025), np.ndarray[Any, Any])
    assert_type(shards.blocks(starts, 1025, out=out), NDArray[np.uint16])
    assert_type(shards.blocks([1, 2], 1025, bytearray(4100)), bytearray)
    array = memmap(path, "<f4", "r", 0, (3, 4), "C")
    assert_type(array, MappedArray)
    assert_type(array.offset, "int | None")
    print(array.mean(), array + 1, array[0])
    weights = load(path)["weights"]
    print(weights, np.asarray(shards), np.asarray(array))
    with shards as opened:
        assert_type(opened, Shards)


def arrived(lazy: LazyArray, npz: MappedNpz) -> None:
    print(lazy[0], lazy.mean(), np.asarray(lazy), lazy + 1, -lazy, lazy == 3, [row for row in lazy])
    assert_type(npz.files, list[str])
    for name, value in npz.items():
        print(name, value)


shards = Shards(["a"], "<u2")
shards.block([1], 2)  # error
shards.blocks([1])  # error
memmap("a", "<u2", "r+")  # error
memmap("a", "<u2", "r", 0, 5, "A")  # error
load("a", "c")  # error
load(3.5)  # error
Shards(5)  # error
Shards([5])  # error
memmap(3.5)  # error
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def wrong_lines() -> set[int]:
    return {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# error")}


def checked(program: Path, *command: str) -> str:
    environment = {**os.environ, "MYPYPATH": str(SOURCES), "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-m", *command, program.name],
        cwd=program.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    return done.stdout


def test_mypy_reports_what_is_wrong_and_nothing_else(program: Path) -> None:
    pytest.importorskip("mypy")
    printed = checked(program, "mypy", "--strict", "--config-file=", f"--cache-dir={program.parent}")
    assert {
        int(number) for number in re.findall(r"^program\.py:(\d+): error", printed, re.MULTILINE)
    } == wrong_lines(), printed


def test_pyright_reports_what_is_wrong_and_nothing_else(program: Path) -> None:
    found = [name for name in ("pyright", "basedpyright") if importlib.util.find_spec(name)]
    if not found:
        pytest.skip("neither pyright nor basedpyright is there")
    report = json.loads(checked(program, found[0], "--outputjson", "--pythonpath", sys.executable))
    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    assert {each["range"]["start"]["line"] + 1 for each in errors} == wrong_lines(), errors
