"""Finds the Pythons on this machine that smmap is tested on.

Searches PATH, pyenv's versions, and the folders that SMMAP_PYTHONS names (separated as in PATH).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["FOUND", "MISSING", "PATH"]

WANTED = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.13t", "3.14t", "pypy3"]

# pyenv's shims exist even for versions that are not active; the versions' own folders do not have that problem.
_folders = [folder for folder in os.environ.get("SMMAP_PYTHONS", "").split(os.pathsep) if folder]
_folders += map(str, sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin")))
PATH = os.pathsep.join([*_folders, os.environ["PATH"]])


def _command(python: str) -> str | None:
    command = shutil.which(python if python.startswith("pypy") else f"python{python}", path=PATH)
    return command if command and not subprocess.run([command, "-c", ""], capture_output=True).returncode else None


_commands = {python: _command(python) for python in WANTED}
FOUND = {python: command for python, command in _commands.items() if command}
"""Each one's command, by its version."""
MISSING = [python for python in WANTED if python not in FOUND]
