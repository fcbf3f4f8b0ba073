"""What `import smmap` brings along. Every user of a program that uses smmap pays for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import smmap

CODE = "import sys; sys.path.insert(0, sys.argv[1]); import smmap; print(*sys.modules)"


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """The modules that are loaded after `import smmap` in a Python without site-packages."""
    source = str(Path(smmap.__file__).parents[1])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", CODE, source], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_costly(modules: set[str]) -> None:
    assert not modules & {"dataclasses", "inspect", "asyncio", "argparse", "logging", "pathlib", "subprocess"}
    assert "smmap.cli" not in modules


@pytest.mark.skipif(sys.version_info < (3, 10), reason="no list of the standard library's names")
def test_only_the_standard_library(modules: set[str]) -> None:
    known: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset())
    known |= {"_frozen_importlib", "_frozen_importlib_external"}  # PyPy does not list them
    of_cython = {name for name in modules if name.startswith(("cython_runtime", "_cython_"))}  # made up by its C code
    assert {name.partition(".")[0] for name in modules - of_cython} - known <= {"smmap", "__main__"}
