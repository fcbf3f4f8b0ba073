from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `smmap` with the arguments in a process of its own; `patch` is code that runs before the command."""

    def run(*arguments: object, patch: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
        code = f"import sys\n{patch}\nfrom smmap.cli import main\nsys.exit(main(sys.argv[1:]))"
        start = ["-c", code] if patch else ["-m", "smmap.cli"]
        return subprocess.run(
            [sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, timeout=120, **more
        )

    return run


@pytest.fixture
def bench(run: Run) -> Callable[..., dict[str, Any]]:
    """Runs `smmap bench --json`, checks the exit status, gives the object; contenders are found by name."""

    def bench(*arguments: object, status: int = 0, **more: Any) -> dict[str, Any]:
        done = run("bench", "--json", *arguments, **more)
        assert done.returncode == status, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        answer["by_name"] = {contender["name"]: contender for contender in answer["contenders"]}
        return answer

    return bench


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of twelve files, of 1 byte to 700 KB, in which no two places look alike."""
    folder = tmp_path / "data"
    for number in range(12):
        path = folder / f"folder{number % 3}" / f"{number:02}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Random(number).randbytes(1 + number * 63_737))
    return folder


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find the package that is tested, installed or not."""
    import smmap

    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(smmap.__file__).parents[1]))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
