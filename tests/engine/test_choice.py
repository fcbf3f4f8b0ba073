"""The engine is chosen once, when smmap is imported; the environment may name one."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from core._tools import run_python

SAY = """
import smmap
print(smmap.engine)
print(smmap._engine.chosen.__name__)
print(smmap.engine_error)
"""

# Lets the plain engine's source be loaded as the fast engine, or fail to load.
FAKE = """
import importlib.abc, importlib.util, pathlib, sys

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "smmap._engine.fast":
            source = pathlib.Path(path[0]) / "plain.py"
            return importlib.util.spec_from_file_location(name, source, loader=self if BROKEN else None)

    def create_module(self, spec):
        raise ImportError("undefined symbol: whatever", name=spec.name)

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, Finder())
"""

READS = """
import os, tempfile
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "file")
    with open(path, "wb") as file:
        file.write(bytes(range(256)) * 64)
    with smmap.SlidingWindowMapManager(8192) as manager:
        assert manager.buffer(path)[8190:8195] == bytes((254, 255, 0, 1, 2))
        cursor = manager.make_cursor(path).use_region(300, 5)
        assert bytes(cursor.buffer()) == bytes(range(44, 49))
        assert isinstance(cursor, smmap._engine.chosen.CursorBase)
        cursor.close()
"""

BUILT = importlib.util.find_spec("smmap._engine.fast") is not None


def said(script: str) -> list[str]:
    return run_python(script).stdout.split("\n")


@pytest.fixture(autouse=True)
def _no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMMAP_ENGINE", raising=False)


def test_plain_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", "plain")
    engine, module, error, _ = said(SAY + READS)
    assert (engine, module) == ("plain", "smmap._engine.plain")
    assert "SMMAP_ENGINE" in error


def test_plain_is_forced_although_a_fast_one_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", "plain")
    script = "BROKEN = False" + FAKE + SAY + "print('smmap._engine.fast' in sys.modules)"
    engine, module, error, loaded, _ = said(script)
    assert (engine, module, loaded) == ("plain", "smmap._engine.plain", "False")
    assert error


@pytest.mark.parametrize("wish", ["", "fast"])
def test_fast_is_chosen_where_it_is_there(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", wish)
    assert said("BROKEN = False" + FAKE + SAY + READS) == ["fast", "smmap._engine.fast", "", ""]


@pytest.mark.skipif(not BUILT, reason="smmap._engine.fast is not built")
@pytest.mark.parametrize("wish", ["", "fast"])
def test_the_fast_engine_is_chosen(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", wish)
    assert said(SAY + READS) == ["fast", "smmap._engine.fast", "", ""]


def test_plain_where_fast_cannot_be_loaded_and_the_reason_is_said() -> None:
    engine, module, error, _ = said("BROKEN = True" + FAKE + SAY + READS)
    assert (engine, module) == ("plain", "smmap._engine.plain")
    assert "undefined symbol: whatever" in error


@pytest.mark.skipif(BUILT, reason="smmap._engine.fast is built")
def test_plain_where_fast_was_not_built() -> None:
    engine, module, error, _ = said(SAY + READS)
    assert (engine, module) == ("plain", "smmap._engine.plain")
    assert "fast" in error


REFUSED = """
try:
    import smmap
except ImportError as error:
    print(error)
else:
    print("it was imported")
"""


def test_fast_that_cannot_be_loaded_is_an_error_if_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", "fast")
    (message, _) = said("BROKEN = True" + FAKE + REFUSED)
    assert "SMMAP_ENGINE" in message
    assert "'fast'" in message
    assert "undefined symbol: whatever" in message


@pytest.mark.parametrize("wish", ["slow", "FAST", "plain,fast"])
def test_anything_else_is_an_error(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", wish)
    for script in (REFUSED, "BROKEN = False" + FAKE + REFUSED):
        (message, _) = said(script)
        assert "SMMAP_ENGINE" in message
        assert repr(wish) in message


def test_chosen_when_imported_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", "plain")
    script = SAY + "import os; os.environ['SMMAP_ENGINE'] = 'nonsense'; import smmap.mman; print(smmap.engine)"
    assert said(script)[-2:] == ["plain", ""]


def test_what_this_process_has_chosen_is_said() -> None:
    import smmap

    chosen: Any = smmap._engine.chosen  # type: ignore[attr-defined]
    assert smmap.engine in ("plain", "fast")
    assert chosen.__name__ == f"smmap._engine.{smmap.engine}"
    assert (smmap.engine_error == "") is (smmap.engine == "fast")
