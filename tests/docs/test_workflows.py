"""What GitHub would run is valid beside GitHub's own schema, calls what there is, and the citation is of this version.

The workflows themselves have to run there; here they are only read.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import smmap

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = [
    *((path, "vendor.github-workflows") for path in WORKFLOWS),
    (ROOT / ".github" / "dependabot.yml", "vendor.dependabot"),
    (ROOT / "CITATION.cff", "vendor.citation-file-format"),
]


def check(path: Path, schema: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("path", "schema"), FILES, ids=[path.name for path, _ in FILES])
def test_file_is_valid_by_its_schema(path: Path, schema: str) -> None:
    done = check(path, schema)
    assert done.returncode == 0, done.stdout + done.stderr


def test_misspelt_key_is_found(tmp_path: Path) -> None:
    (path,) = (path for path in WORKFLOWS if path.name == "test.yml")
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(path.read_text(encoding="utf-8").replace("runs-on:", "run-on:", 1), encoding="utf-8")
    assert check(wrong, "vendor.github-workflows").returncode == 1


def test_workflows_call_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    call = re.compile(r"\bmake ([\w-]+)$", re.MULTILINE)
    called = {target for path in WORKFLOWS for target in call.findall(path.read_text(encoding="utf-8"))}
    assert {"docs", "lint", "test-all"} <= called <= targets


def test_workflows_name_folders_of_tests_that_exist() -> None:
    named = {found for path in WORKFLOWS for found in re.findall(r"\btests/[\w/.]+", path.read_text(encoding="utf-8"))}
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_citation_is_of_this_version() -> None:
    assert f"\nversion: {smmap.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
