"""Ctrl-C while the command is still being imported: one line and the status of an interrupt, at whatever import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import smmap

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")

SITE = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
SCRIPT = "import sys\nfrom smmap.cli import main\nsys.exit(main())\n"  # what pip installs
MODULES = [
    "smmap._compat",
    "smmap._engine",
    "smmap._report",
    "smmap._installation",
    "smmap.cli",
    "smmap.cli.arguments",
    "smmap.cli.bench",
]


def run(folder: Path, name: str, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    path = os.pathsep.join([str(folder), str(Path(smmap.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path, "INTERRUPT_AT": name},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("way", ["smmap", "-m smmap", "-m smmap.cli"])
def test_interrupt_during_import_prints_one_line(name: str, way: str, tmp_path: Path) -> None:
    if way != "-m smmap" and name == "smmap._installation":
        pytest.skip("only `python -m smmap` imports it")
    if way.startswith("-m") and sys.version_info < (3, 10):
        pytest.skip("this Python does not say which module it was started with")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"abc")
    (tmp_path / "smmap").write_text(SCRIPT, encoding="utf-8")
    start = [str(tmp_path / "smmap")] if way == "smmap" else way.split()
    done = run(tmp_path, name, *start, "bench", str(tmp_path / "data"), "--reads", "5")
    assert (done.returncode, done.stderr, done.stdout) == (130, "smmap: interrupted\n", "")


def test_another_program_gets_its_keyboard_interrupt(tmp_path: Path) -> None:
    code = "try:\n    import smmap\nexcept KeyboardInterrupt:\n    print('caught')"
    done = run(tmp_path, "smmap._report", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "caught\n", "")


def test_import_leaves_the_handler_as_it_was() -> None:
    code = "import signal, sys; sys.argv = ['smmap']; before = signal.default_int_handler\n"
    code += "signal.signal(2, before); import smmap.cli as cli\n"  # the shell may have this process ignore it
    code += "import smmap; assert signal.getsignal(2) is not before; cli._starting.restore()\n"
    code += "assert signal.getsignal(2) is before"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
