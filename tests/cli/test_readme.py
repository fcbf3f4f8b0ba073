"""The README's examples run, and what it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from smmap.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[list[str]]:
    """The arguments of every such command in the shell examples."""
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == [name]]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_there_is_an_example() -> None:
    assert blocks("python")
    assert commands("make")
    assert commands("smmap")


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {arguments[0] for arguments in commands("make")} <= targets


@pytest.mark.parametrize("arguments", commands("smmap"))
def test_smmap_commands_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 99)
    arguments = [str(tmp_path) if argument.startswith("~") else argument for argument in arguments]
    if arguments[0] == "bench":
        assert main([*arguments, "--reads", "50"]) == 0
        assert "\n0 wrong reads; " in capsys.readouterr().out
    elif "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
    else:
        assert main(arguments) == 0


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
