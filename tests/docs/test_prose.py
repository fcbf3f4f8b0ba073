"""The check of words that `make lint` runs finds what it is for, and leaves code alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prose() -> Any:
    spec = importlib.util.spec_from_file_location("prose", ROOT / "tools" / "prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "wrong",
    [
        "## One\n\nWhich face when",
        "a quarter of `memory_limit` is a good begin.",
        "`ValueError` tells of a file.",
        "One that holds\nnothing any more.",
        "smmap comes near to it.",
        "- one\n- What was read is counted.\n",
        "Yes. What lies past the end is zero.",
        "| a | Who reads it gets an error. |",
        "A cursor lets go of its region.",
        "More than the limit of memory is mapped.",
        "The window is to be bought.",
        "It pickles small.",
        "Reading what was cut off from a map ends the process.",
    ],
)
def test_fault_in_a_page_is_found(prose: Any, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "HERE", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(wrong, encoding="utf-8")
    assert list(prose.faults(page))


@pytest.mark.parametrize(
    "right",
    [
        "```python\nbegin = face(1)\n```\n",
        "Call `begin_access`, and `face`.",
        "Hugging Face has data sets.",
        "What is mapped? All of it is.",
        "The bytes that were read are counted.",
        "A limit of memory, maps or descriptors is reached.",
    ],
)
def test_code_and_plain_sentences_are_left_alone(
    prose: Any, right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "HERE", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(right, encoding="utf-8")
    assert list(prose.faults(page)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "x = 1  # the begin of it\n"),
        ("a.py", '"""A module.\n\nWhat is mapped stays mapped.\n"""\n'),
        ("a.py", 'raise ValueError(f"{name} is no array")\n'),
        ("a.pyx", "cdef int x  # from the begin\n"),
        ("a.h", "/* by and by */\n"),
    ],
)
def test_fault_in_a_source_is_found(
    prose: Any, name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "HERE", tmp_path)
    source = tmp_path / name
    source.write_text(text, encoding="utf-8")
    assert list(prose.faults(source))


def test_this_tree_has_no_fault() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "prose.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
