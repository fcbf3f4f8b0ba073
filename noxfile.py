"""The tests on every Python that is found here (see tools/pythons.py); missing ones are named and left out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "tools"))

from pythons import FOUND, MISSING, PATH

LIGHT = ["tests/core", "tests/engine", "tests/stress", "tests/compat/test_names.py"]  # need only pytest and hypothesis
PARALLEL = ["-n", "auto", "--dist", "loadfile"]  # a file's tests in one process: some of them share what they make

nox.options.sessions = ["matrix"]

os.environ["PATH"] = PATH
if MISSING:
    print("not found, left out:", *MISSING)


@nox.session(python=list(FOUND))
def matrix(session: nox.Session) -> None:
    """Core, engine, stress and names, with only pytest and hypothesis. Added arguments go to pytest."""
    session.install("--only-binary=:all:", "pytest", "pytest-xdist", "hypothesis")
    session.install("--no-deps", "--editable", ".")
    session.run("python", "-c", "import sys; print(sys.version, getattr(sys, '_is_gil_enabled', lambda: True)())")
    session.run("python", "-m", "pytest", *PARALLEL, *(session.posargs or LIGHT))


@nox.session(python=list(FOUND))
def tests(session: nox.Session) -> None:
    """All tests, with all libraries. Added arguments go to pytest."""
    group = "test-core" if str(session.python).endswith("t") else "test"  # not all libraries have wheels for it
    session.install("--only-binary=:all:", "--editable", ".", "--group", group)  # pip 25.1 or later
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)
