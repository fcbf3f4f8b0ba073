"""`pip install` of this project, then of GitPython: this library stays, and GitPython works on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import smmap

from . import _gitrepo, _wheels

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.long

# Reads through gitdb in a repository with a pack and with loose objects, then tells what was used.
SCRIPT = """
import hashlib, importlib.metadata, json, pathlib, sys, warnings

import git, gitdb, smmap

warnings.simplefilter("ignore", DeprecationWarning)  # GitPython has another default than the database that maps packs
with git.Repo(sys.argv[1], odbt=git.GitDB) as repo:
    walked = [commit.hexsha for commit in repo.iter_commits("main")]
    blobs = {}
    for blob in repo.tree("main").traverse(lambda item, depth: item.type == "blob"):
        data = blob.data_stream.read()
        assert hashlib.sha1(b"blob %d\\0%b" % (len(data), data)).hexdigest() == blob.hexsha
        blobs[blob.path] = len(data)
    mapped = gitdb.util.mman.stats().misses
json.dump({
    "walked": walked,
    "blobs": blobs,
    "mapped": mapped,
    "versions": {name: importlib.metadata.version(name) for name in ("smmap", "gitdb", "GitPython")},
    "version": smmap.__version__,
    "file": smmap.__file__,
    "gitdb": gitdb.util.smmap.__file__ if hasattr(gitdb.util, "smmap") else sys.modules["smmap"].__file__,
    "manager": type(gitdb.util.mman).__module__ + "." + type(gitdb.util.mman).__qualname__,
}, sys.stdout)
"""


@pytest.mark.skipif(not (PROJECT / "pyproject.toml").exists(), reason="the tests were taken out of the project")
def test_gitpython_keeps_this_smmap(tmp_path: Path) -> None:
    home = tmp_path / "environment"
    venv.create(home, with_pip=True, symlinks=sys.platform != "win32")
    python = str(next(home.glob("bin/python")) if sys.platform != "win32" else home / "Scripts" / "python.exe")
    _wheels.run_pip("install", str(PROJECT), python=python)
    said = _wheels.run_pip("install", "gitpython", python=python)
    assert "Uninstalling smmap" not in said
    assert "Successfully installed" in said

    repo = _gitrepo.GitRepo.init(tmp_path / "small.git")
    repo.commit(
        [{"text": _gitrepo.text(i, 9_000), f"data {i}": _gitrepo.incompressible(i, 5_000 * i)} for i in range(9)]
    )
    repo.git("repack", "-adfq")
    repo.commit([{"loose": b"not packed yet"}])

    done = subprocess.run(
        [python, "-c", SCRIPT, str(repo.path)],
        env=_wheels.clean_environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["versions"]["smmap"] == told["version"] == "5.1.0"
    assert home.resolve() in Path(told["file"]).resolve().parents
    assert told["manager"] == f"{smmap.SlidingWindowMapManager.__module__}.SlidingWindowMapManager"
    assert told["mapped"] > 0
    assert told["walked"] == repo.git("rev-list", "main").decode().split()
    assert told["blobs"] == {
        path.decode(): int(size)
        for size, path in (line[53:].split(b"\t") for line in repo.git("ls-tree", "-r", "-l", "main").splitlines())
    }

    installed = Path(told["file"]).parent
    source = PROJECT / "src" / "smmap"
    if source.exists():  # nothing was left out of the wheel
        assert modules(installed) == modules(source)


ENGINE = """
import os, sys, smmap
with smmap.SlidingWindowMapManager(8192) as manager:
    with open(sys.argv[1], "rb") as file:
        assert manager.buffer(sys.argv[1])[5000:9000] == file.read()[5000:9000]
print(smmap.engine, smmap.engine_error, sep="\\n")
"""


@pytest.mark.skipif(not (PROJECT / "setup.py").exists(), reason="the tests were taken out of the project")
@pytest.mark.skipif(sys.platform == "win32", reason="the fast engine is not built there")
@pytest.mark.parametrize("how", ["fails", "is not there"])
def test_without_a_compiler_the_plain_engine_is_installed_and_the_reason_reported(how: str, tmp_path: Path) -> None:
    home, source = tmp_path / "environment", tmp_path / "source"
    venv.create(home, with_pip=True, symlinks=True)
    built = shutil.ignore_patterns("*.so", "fast.c", "fast-not-built.txt", "__pycache__", "*.egg-info")
    shutil.copytree(PROJECT / "src", source / "src", ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    compiler = "false" if how == "fails" else str(tmp_path / "no-such-compiler")
    python = str(home / "bin" / "python")
    _wheels.run_pip("install", "--no-deps", str(source), python=python, CC=compiler)
    done = subprocess.run(
        [python, "-I", "-c", ENGINE, str(PROJECT / "setup.py")],
        env=_wheels.clean_environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    engine, reason = done.stdout.split("\n", 1)
    assert engine == "plain"
    if sys.implementation.name == "cpython":
        assert "the fast engine could not be built" in reason
        assert compiler in reason


def modules(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".py", ".typed")}
