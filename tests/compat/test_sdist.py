"""The sdist is complete: from its unpacked files the site is built, and tests are found and run, as from a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
LEFT_OUT = {".gitignore", ".ci/run"}

pytestmark = pytest.mark.long


def tracked() -> list[str]:
    """The files of the project; none if this is not a checkout."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.splitlines() if done.returncode == 0 else []
    return [name for name in names if (ROOT / name).is_file()] if "pyproject.toml" in names else []


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an sdist that was built from nothing but the files that git knows."""
    pytest.importorskip("setuptools", minversion="77")
    names = tracked()
    if not names:
        pytest.skip("not a checkout")
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=tree, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked")
    (found,) = (folder / "unpacked").iterdir()
    return found


def run(tree: Path, *command: str, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SMMAP_", "PYTEST"))}
    environment["PYTHONPATH"] = str(tree / "src")
    done = subprocess.run(
        command, cwd=tree, env={**environment, **settings}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def test_sdist_has_every_file_of_the_project(unpacked: Path) -> None:
    assert {name for name in tracked() if not (unpacked / name).is_file()} == LEFT_OUT


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("target", ["test", "docs", "lint", "demo", "bench-quick"])
def test_makefile_knows_its_targets_there(target: str, unpacked: Path) -> None:
    assert "pip" in run(unpacked, "make", "--dry-run", target, f"PYTHON={sys.executable}")


def test_site_is_built_there(unpacked: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    if sys.version_info < (3, 10):
        pytest.skip("what builds the site needs Python 3.10 or later")
    run(unpacked, sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", NO_MKDOCS_2_WARNING="1")
    assert (unpacked / "site" / "api.html").is_file()


def test_tests_are_found_and_run_there(unpacked: Path) -> None:
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    shown = run(unpacked, *test, "--collect-only", "tests/cli", "tests/docs", "tests/compat", SMMAP_ENGINE="plain")
    for name in ("cli/test_bench.py", "docs/test_docs.py", "compat/test_names.py"):
        assert f"tests/{name}::" in shown
    run(unpacked, *test, "tests/compat/test_names.py", "tests/docs/test_workflows.py", SMMAP_ENGINE="plain")
