"""The types, as a user's mypy and pyright see them: what is right passes, each mistake is an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import PYPY

SOURCES = Path(smmap.__file__).parents[1]
pytestmark = pytest.mark.skipif(PYPY, reason="mypy and pyright have no wheels there")

RIGHT = """
from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Sequence
from typing import Union

import smmap
from typing_extensions import assert_type

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", int]


def read(manager: smmap.SlidingWindowMapManager, path: Path) -> int:
    buf = manager.buffer(path, 0, 100, access="random")
    assert_type(buf, smmap.SlidingWindowMapBuffer)
    assert_type(buf[0], int)
    assert_type(buf[1:9], bytes)
    assert_type(buf[::2], bytes)
    assert_type(buf.view(0, 9), memoryview)
    assert_type(buf.find(b"abc", 5), int)
    assert_type(bytes(buf), bytes)
    assert_type(buf.refresh(), int)
    assert_type([match.start() for match in buf.finditer(rb"a+")], "list[int]")
    assert_type(next(buf.iter_views()), memoryview)
    assert_type(sum(buf), int)
    return total(buf)


def total(numbers: Sequence[int]) -> int:
    return sum(numbers)


def pin(manager: smmap.StaticWindowMapManager) -> memoryview:
    with manager.make_cursor("a") as cursor:
        assert_type(cursor, smmap.WindowCursor)
        assert_type(cursor.use_region(0, 9), smmap.WindowCursor)
        assert_type(cursor.path_or_fd(), Path)
        assert_type(cursor.fd(), int)
        assert_type(cursor.size(), int)
        return cursor.use_region(0, 10).buffer()


def files(path: pathlib.Path) -> list[bytes]:
    with smmap.open(path) as file, smmap.open(path, "rb", buffering=0) as raw, smmap.open(path, "rb", 100) as small:
        stream: io.BufferedReader = file
        bare: io.RawIOBase = raw
        other: io.BufferedReader = small
        line: bytes = file.readline()
        assert_type(file.refresh(), int)
        text = io.TextIOWrapper(file, encoding="utf-8")
        assert_type(text.read(), str)
        return [line, stream.read(), bare.readall(), other.read()]


def manage() -> smmap.Stats:
    smmap.configure(max_memory_size="64M", window_size=1 << 20, backing="read")
    with smmap.SlidingWindowMapManager("4M", max_memory_size=64 << 20, backing="mmap") as manager:
        assert_type(manager, smmap.SlidingWindowMapManager)
        buf = smmap.buffer("a", manager=manager)
        assert_type(buf, smmap.SlidingWindowMapBuffer)
        assert_type(manager.open("a", buffering=0).readall(), bytes)
        assert_type(manager.release(pathlib.Path("a")), int)
        stats = manager.stats()
        assert_type(stats.mapped, int)
        return stats


assert_type(smmap.default_manager(), smmap.SlidingWindowMapManager)
old = smmap.SlidingWindowMapBuffer(smmap.default_manager().make_cursor(b"a"), 0, 10)
assert_type(old.cursor(), Union[smmap.WindowCursor, None])
try:
    assert_type(old[0], int)
except smmap.FileChangedError as error:
    assert_type(error.errno, Union[int, None])
"""

WRONG = [
    "smmap.buffer(1.5)",
    "smmap.buffer('a', access='randm')",
    "smmap.buffer('a', acces='random')",
    "smmap.buffer(None)",
    "smmap.open('a', 'r')",
    "smmap.open('a', 'wb')",
    "smmap.open(['a'])",
    "smmap.open('a', buffering='1')",
    "smmap.default_manager().open('a', 'rt')",
    "smmap.default_manager().make_cursor(2.5)",
    "smmap.default_manager().make_cursor('a').use_regoin(0)",
    "smmap.default_manager().make_cursor('a').use_region('0')",
    "smmap.default_manager().buffer('a')['b']",
    "smmap.default_manager().buffer('a')[0].decode()",
    "smmap.default_manager().buffer('a')[:9].encode()",
    "smmap.default_manager().buffer('a').veiw()",
    "smmap.default_manager().buffer('a', manager=None)",
    "smmap.default_manager().release(3)",
    "smmap.default_manager().stats().maped",
    "smmap.SlidingWindowMapManager(backing='tape')",
    "smmap.SlidingWindowMapManager(window_size=1.5)",
    "smmap.configure(backing='maps')",
    "smmap.configure(max_memory=5)",
]


def mypy(path: Path, folder: Path) -> set[int]:
    """The lines with errors, after `mypy --strict`; nothing else may be wrong."""
    pytest.importorskip("mypy")
    done = run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "--config-file=", str(path)],
        {"MYPYPATH": str(SOURCES)},
        folder,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert all(line.startswith(f"{path.name}:") for line in found), done.stdout
    return {int(line.split(":")[1]) for line in found}


def pyright(path: Path, folder: Path) -> set[int]:
    """The same, after pyright in its strict mode."""
    pytest.importorskip("pyright")
    config: dict[str, Any] = {"include": [path.name], "typeCheckingMode": "strict", "extraPaths": [str(SOURCES)]}
    config["reportUnusedExpression"] = config["reportUnusedCallResult"] = False
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    done = run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)], {}, folder
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])["generalDiagnostics"]
    assert all(Path(each["file"]).name == path.name for each in found), found
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


def run(command: list[str], more: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **more, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("check", [mypy, pyright], ids=lambda check: check.__name__)
def test_program_that_is_right_passes(check: Any, tmp_path: Path) -> None:
    path = tmp_path / "right.py"
    path.write_text(RIGHT)
    assert check(path, tmp_path) == set()


@pytest.mark.parametrize("check", [mypy, pyright], ids=lambda check: check.__name__)
def test_each_mistake_is_an_error(check: Any, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("import smmap\n" + "\n".join(WRONG) + "\n")
    found = check(path, tmp_path)
    assert {text for number, text in enumerate(WRONG, 2) if number not in found} == set()
    assert found == set(range(2, len(WRONG) + 2))


def test_mistakes_of_types_are_mistakes() -> None:
    """What the checkers refuse, the library refuses too."""
    for text in WRONG:
        if re.search(r"decode|encode|default_manager|configure", text):
            continue
        with pytest.raises((TypeError, ValueError, AttributeError)):
            eval(text.replace("'a'", repr(__file__)), {"smmap": smmap})
