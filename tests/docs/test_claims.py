"""What the pages on security, reliability and limits claim, sentence by sentence, and the tests that assert it.

`claims.txt` has every sentence of these pages, in their order, and below each one, indented, either the tests that
assert it (`folder/test_file.py: test_one, test_other`), or why there is none:

- `intro`: it leads over to what follows, or defines a word, and claims nothing.
- `advice`: what to do; what smmap does then is another sentence.
- `example`: the page's own example shows it, whose output test_docs.py compares.
- `system`: it is about the system, the interpreter or another library.
- `run`: the figure of a run, which the command in the same row gives again.
- `open`: what is not promised, or was not run.

Who changes a sentence changes it there, and looks whether its tests still assert it; who adds one finds or writes them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = Path(__file__).with_name("claims.txt")
PAGES = ["security.md", "reliability.md", "limits.md"]
WITHOUT_A_TEST = {"intro", "advice", "example", "system", "run", "open"}
BLOCK = re.compile(r"^ *```.*?^ *```[^\n]*\n|<!--.*?-->", re.MULTILINE | re.DOTALL)
END = re.compile(r"(?<=[.?])(?:\*\*)? (?=[A-Z`*(\[]|smmap )")


def sentences(text: str) -> list[str]:
    """The sentences of a page, without headings and code; the rows of its tables are one each.

    Of the rows of figures, which each run may change, only what was run.
    """
    found = []
    for block in re.split(r"\n\s*\n", BLOCK.sub("\n", text)):
        lines = block.strip().splitlines()
        if not lines or lines[0].startswith("#"):
            continue
        if lines[0].startswith("|"):
            figures = lines[0].startswith("| what | figure |")
            found += [line.split(" | ")[0] + " |" if figures else line for line in lines[2:]]
            continue
        for item in re.split(r"^- ", "\n".join(lines), flags=re.MULTILINE):
            found += filter(None, END.split(" ".join(item.split())))
    return found


def noted() -> dict[str, list[tuple[str, list[str]]]]:
    """By page: each sentence with the lines below it."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for line in CLAIMS.read_text(encoding="utf-8").splitlines():
        if line.startswith("# docs/"):
            page = found.setdefault(line[len("# docs/") :], [])
        elif line.startswith("    "):
            page[-1][1].append(line.strip())
        elif line and found:
            page.append((line, []))
    return found


@cache
def names_of_tests(path: Path) -> frozenset[str]:
    """The names of the tests of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):  # the model's, which hypothesis makes
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(name for name in names if name.lower().startswith("test"))


def test_sentences_are_found() -> None:
    text = (
        "# One\n\nThis is `a.b`. It has two lines\nand ends (see\n[there](x.md)). smmap reads.\n\n"
        "| a | b |\n|---|---|\n| c | d. E |\n\n| what | figure |\n|---|---|\n| f | 1 |\n\n"
        "- One. Two?\n- **Bold.** Three.\n\n```python\na = 1. B\n```\nLast\n"
    )
    assert sentences(text) == [
        *("This is `a.b`.", "It has two lines and ends (see [there](x.md)).", "smmap reads.", "| c | d. E |", "| f |"),
        *("One.", "Two?", "**Bold.", "Three.", "Last"),
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_sentence_of_a_page_is_noted_with_its_tests_in_the_order_of_the_page(page: str) -> None:
    said = sentences((ROOT / "docs" / page).read_text(encoding="utf-8"))
    there = [sentence for sentence, _ in noted()[page]]
    assert [each for each in said if each not in there] == [], "new or changed: which test asserts it?"
    assert [each for each in there if each not in said] == [], "no longer in the page"
    assert there == said


@pytest.mark.parametrize("page", PAGES)
def test_each_claim_has_tests_that_exist_or_a_reason_for_none(page: str) -> None:
    for sentence, below in noted()[page]:
        assert below, sentence
        if len(below) == 1 and below[0] in WITHOUT_A_TEST:
            continue
        for line in below:
            name, colon, tests = line.partition(": ")
            path = ROOT / "tests" / name
            assert colon, line
            assert path.is_file(), line
            for test in tests.split(", "):
                assert test in names_of_tests(path), f"{test} is not in {name}: {sentence}"


def test_pages_are_those_that_are_noted() -> None:
    assert list(noted()) == PAGES


def test_each_mutant_is_a_piece_of_the_sources() -> None:
    """Found once: else `make mutants` would try one fewer than it lists."""
    script = ROOT / "tools" / "mutants.py"
    done = subprocess.run([sys.executable, str(script), "--list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
