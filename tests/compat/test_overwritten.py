"""The published smmap installed over this one, as pip does it for gitdb: `python -m smmap` and our modules say so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import smmap

from ._wheels import clean_environment


def test_files_of_smmap_5_over_ours_are_reported(smmap5_wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    shutil.copytree(Path(smmap.__file__).parent, target / "smmap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(smmap5_wheel, target, dirs_exist_ok=True)
    for arguments in ([], ["bench", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "smmap", *arguments],
            env=clean_environment(PYTHONPATH=str(target)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "has overwritten __init__.py, buf.py, mman.py, util.py." in done.stderr
        assert "smmap 5.0.3 from the package index" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["numpy", "fsspec"])
def test_importing_what_smmap_5_does_not_have_says_that_files_were_overwritten(
    module: str, smmap5_wheel: Path, tmp_path: Path
) -> None:
    target = tmp_path / "site"
    shutil.copytree(Path(smmap.__file__).parent, target / "smmap", ignore=shutil.ignore_patterns("__pycache__"))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", f"import smmap.{module}"],
            env=clean_environment(PYTHONPATH=str(target)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    before = run()
    assert "overwritten" not in before.stderr  # it may still miss the library, on this Python
    shutil.copytree(smmap5_wheel, target, dirs_exist_ok=True)
    done = run()
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: smmap.{module} cannot be imported: smmap 5.0.3 ")
    assert "has overwritten __init__.py, buf.py, mman.py, util.py" in last
    assert "pip uninstall" in last
