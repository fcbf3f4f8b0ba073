"""`python -m smmap`, as a newcomer and as somebody with a broken installation runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import smmap
from smmap.__main__ import overwritten, report

FOLDER = Path(smmap.__file__).parent


def run(*arguments: str, code: str = "", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    words = ["-c", code] if code else ["-m", "smmap"]
    return subprocess.run([sys.executable, *options, *words, *arguments], capture_output=True, text=True, timeout=60)


def test_version_engine_and_the_reason_for_it_are_reported() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"smmap {smmap.__version__} in {FOLDER}"
    assert lines[2].startswith(f"engine {smmap.engine}")
    assert smmap.engine_error in lines[2]
    assert done.stderr == ""


def test_it_needs_only_the_standard_library() -> None:
    code = f"import runpy, sys; sys.path.insert(0, {str(FOLDER.parent)!r})\n"
    code += "runpy.run_module('smmap', None, '__main__')"
    done = run(code=code, options=("-I", "-S"))
    assert done.returncode == 0, done.stderr
    assert f"engine {smmap.engine}" in done.stdout


def test_arguments_run_the_command(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 99)
    assert run("--version").stdout == f"smmap {smmap.__version__}\n"
    done = run("bench", str(tmp_path), "--reads", "50")
    assert done.returncode == 0, done.stderr
    assert "\n0 wrong reads; " in done.stdout


def test_a_forced_engine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", "plain")
    assert 'engine plain (SMMAP_ENGINE is "plain")' in run().stdout


def test_a_sound_installation_is_sound() -> None:
    assert overwritten() == []
    assert report()[1]


@pytest.mark.parametrize("name", ["buf", "mman", "util"])
def test_a_single_file_of_another_distribution_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = type(sys)(f"smmap.{name}")
    monkeypatch.setitem(sys.modules, f"smmap.{name}", foreign)
    assert overwritten() == [f"{name}.py"]
    lines, sound = report()
    assert not sound
    assert f"has overwritten {name}.py" in lines[0]
    assert os.fspath(FOLDER) in lines[0]
