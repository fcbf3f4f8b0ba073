"""The tests on every Python that is found here; those that are not are named and left out.

Found is what is on PATH, what pyenv has, and what lies in the folders that SMMAP_PYTHONS names (separated as in PATH).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

WANTED = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.13t", "3.14t", "pypy3"]
LIGHT = ["tests/core", "tests/engine", "tests/stress", "tests/compat/test_names.py"]  # need pytest and hypothesis only
PARALLEL = ["-n", "auto", "--dist", "loadfile"]  # a file's tests in one process: some of them share what they make

nox.options.sessions = ["matrix"]

# pyenv's own commands answer for versions that are not switched on; the versions' folders do not.
_folders = [folder for folder in os.environ.get("SMMAP_PYTHONS", "").split(os.pathsep) if folder]
_folders += map(str, sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin")))
os.environ["PATH"] = os.pathsep.join([*_folders, os.environ["PATH"]])


def _runs(python: str) -> bool:
    command = shutil.which(python if python.startswith("pypy") else f"python{python}")
    return command is not None and not subprocess.run([command, "-c", ""], capture_output=True).returncode


FOUND = [python for python in WANTED if _runs(python)]
if len(FOUND) < len(WANTED):
    print("not found, left out:", *(python for python in WANTED if python not in FOUND))


@nox.session(python=FOUND)
def matrix(session: nox.Session) -> None:
    """Core, engine, stress and names, with nothing but pytest and hypothesis. What is added goes to pytest."""
    session.install("--only-binary=:all:", "pytest", "pytest-xdist", "hypothesis")
    session.install("--no-deps", "--editable", ".")
    session.run("python", "-c", "import sys; print(sys.version, getattr(sys, '_is_gil_enabled', lambda: True)())")
    session.run("python", "-m", "pytest", *PARALLEL, *(session.posargs or LIGHT))


@nox.session(python=FOUND)
def tests(session: nox.Session) -> None:
    """All tests, with all libraries. What is added on the command line goes to pytest."""
    extra = "test-core" if str(session.python).endswith("t") else "test"  # not all libraries have wheels for it
    session.install("--only-binary=:all:", "--editable", f".[{extra}]")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)
