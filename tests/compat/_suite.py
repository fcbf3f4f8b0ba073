"""Run a foreign test suite, unchanged, in a process of its own against the smmap that is imported here."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import pytest

import smmap

from ._wheels import clean_environment

__all__ = ["OURS", "Outcome", "names_of_tests", "run_suite"]

OURS = Path(smmap.__file__).resolve().parent

# Put at the end of every generated conftest: which modules the suite really used.
_TELL = """

def pytest_sessionfinish(session):
    import json, os, pathlib, sys
    found = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())
             if name.partition(".")[0] in ("smmap", "gitdb")}
    pathlib.Path(os.environ["SUITE_MODULES"]).write_text(json.dumps(found))
"""


class Outcome(NamedTuple):
    passed: list[str]
    failed: dict[str, str]
    skipped: dict[str, str]
    modules: dict[str, str | None]
    output: str


def names_of_tests(folder: Path) -> list[str]:
    """Names of all tests in the files below a folder, read from their text: what has to be run, said by no runner."""
    return sorted(
        f"{path.stem}.{node.name}.{item.name}"
        for path in folder.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name.startswith("test")
    )


def run_suite(
    folder: Path, *targets: str, conftest: str, path: list[Path], environment: dict[str, str], timeout: float = 300
) -> Outcome:
    """Run pytest in the folder on the targets; `path` is where modules are looked for, before all else."""
    (folder / "conftest.py").write_text(conftest + _TELL, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # else pytest finds a project's configuration
    report, modules = folder / "report.xml", folder / "modules.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--junitxml={report}", *targets],
        cwd=folder,
        env=clean_environment(
            PYTHONPATH=os.pathsep.join(map(str, path)),
            PYTHONDONTWRITEBYTECODE="1",
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            SUITE_MODULES=str(modules),
            **environment,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if not report.exists() or not modules.exists():
        pytest.fail(f"the suite did not run:\n{done.stdout}", pytrace=False)
    outcome = Outcome([], {}, {}, json.loads(modules.read_text()), done.stdout)
    for case in ET.parse(report).iter("testcase"):
        *_, module, name = f"{case.get('classname')}".split(".")
        key = f"{module}.{name}.{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped")
        if bad is not None:
            outcome.failed[key] = f"{bad.get('message')}\n{bad.text}"
        elif skipped is not None:
            outcome.skipped[key] = f"{skipped.get('message')}"
        else:
            outcome.passed.append(key)
    outcome.passed.sort()
    return outcome
