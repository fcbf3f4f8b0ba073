"""Subinterpreters: there the plain engine runs, and `engine_error` says why. Never a crash.

An extension that keeps state of its own is loaded into one interpreter only; Cython sees to that, and this is what the
tests look at. Each test has a process of its own.
"""

from __future__ import annotations

import importlib.util

import pytest

from core._tools import run_python

pytestmark = pytest.mark.skipif(
    all(importlib.util.find_spec(name) is None for name in ("_interpreters", "_xxsubinterpreters")),
    reason="this Python has no module for subinterpreters",
)
BUILT = importlib.util.find_spec("smmap._engine.fast") is not None

# Reads in a subinterpreter, and says which engine runs there.
INSIDE = """
import os, sys
sys.path[:] = {path!r}
import smmap
data = bytes(range(256)) * 200
with open({name!r}, "rb") as file:
    assert file.read() == data
with smmap.SlidingWindowMapManager(8192, 16384) as manager:
    buffer = manager.buffer({name!r})
    for start in range(0, len(data) - 999, 777):
        assert buffer[start : start + 999] == data[start : start + 999]
        assert buffer.view(start, start + 9) == data[start : start + 9]
    cursor = manager.make_cursor({name!r}).use_region(20_000, 99)
    assert cursor.buffer() == data[20_000 : 20_099]
    cursor.close()
    del cursor, buffer
    manager.collect()
    assert manager.stats().mapped == 0
os.write(1, (smmap.engine + " " + smmap.engine_error + "\\n").encode())
"""

WANTED = """
import os, sys
sys.path[:] = {path!r}
os.environ["SMMAP_ENGINE"] = "fast"
try:
    import smmap
except ImportError as error:
    os.write(1, (str(error) + "\\n").encode())
else:
    os.write(1, b"it was imported\\n")
"""

RUN = """
import os, sys, tempfile, warnings
warnings.simplefilter("ignore")
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def create(isolated):
    if hasattr(interpreters, "new_config"):
        return interpreters.create("isolated" if isolated else "legacy")
    return interpreters.create(isolated=isolated)

def run(number, script):
    found = (interpreters.exec if hasattr(interpreters, "exec") else interpreters.run_string)(number, script)
    assert found is None, found

with tempfile.TemporaryDirectory() as folder:
    name = os.path.join(folder, "file")
    with open(name, "wb") as file:
        file.write(bytes(range(256)) * 200)
    script = INSIDE.format(path=sys.path, name=name)
    if FIRST:
        import smmap
        print(smmap.engine, smmap.engine_error, flush=True)
        kept = smmap.buffer(name)
        kept[:]
        view = kept.view(3, 99)
    for turn in range(3):
        number = create(ISOLATED)
        run(number, script)
        interpreters.destroy(number)
    if FIRST:
        assert kept[5:9] == bytes((5, 6, 7, 8)) and view[0] == 3
    else:  # if a subinterpreter took the extension, this one does without
        import smmap
        assert smmap.buffer(name)[5:9] == bytes((5, 6, 7, 8))
"""


def said(first: bool, isolated: bool, inside: str = INSIDE) -> list[list[str]]:
    """The engine, and why not the fast one: in the main interpreter if it comes first, then in three others."""
    script = f"INSIDE = {inside!r}\nFIRST, ISOLATED = {first}, {isolated}\n{RUN}"
    lines = run_python(script, options=()).stdout.splitlines()
    return [line.split(maxsplit=1) for line in lines]


@pytest.fixture(autouse=True)
def _no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMMAP_ENGINE", raising=False)


isolation = pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "legacy"])


@isolation
def test_plain_engine_runs_in_a_subinterpreter_beside_the_fast_one(isolated: bool) -> None:
    main, *others = said(True, isolated)
    assert main[0] == ("fast" if BUILT else "plain")
    assert len(others) == 3
    for engine, *reason in others:
        assert engine == "plain"
        assert reason, "it is not told why"


@isolation
def test_subinterpreter_that_imports_it_first_reads_or_falls_back(isolated: bool) -> None:
    others = said(False, isolated)
    assert len(others) == 3
    for engine, *reason in others:
        assert engine == "fast" or reason


@pytest.mark.skipif(not BUILT, reason="the fast engine is not built")
def test_fast_engine_that_is_wanted_in_a_subinterpreter_is_a_clear_error() -> None:
    _, *others = said(True, True, WANTED)
    assert len(others) == 3
    for told in map(" ".join, others):
        assert "SMMAP_ENGINE is 'fast', but it cannot be loaded" in told
        assert "interpreter" in told
