"""The recipe of docs/guide/growing.md, which follows a log, against a second process that writes and rotates it."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import World

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "growing.md"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be renamed there")

# It rotates only after the reader said that it has seen the line it was told to wait for: what a follower can follow.
WRITER = """
import os, shutil, sys
path, rotation, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
number = 0
out = open(path, "ab", buffering=0)
def write(count, pieces):
    global number
    for _ in range(count):
        line = b"%d %s\\n" % (number, b"x" * (number * 7 % 301))
        number += 1
        cut = number % len(line)
        out.write(line[:cut])  # a line comes in two pieces, and between them in none
        out.write(line[cut:])
def seen(wanted):
    print(wanted, flush=True)
    assert sys.stdin.readline() == f"{wanted}\\n"
for at in range(rounds):
    write(1, 2)
    seen(number - 1)  # the reader has the new file open
    write(400 + at, 2)
    if at == rounds - 1:
        break
    if rotation == "rename":
        os.rename(path, f"{path}.{at}")
        write(3, 2)  # the old file is written a little longer, as by a service that was not told yet
        out.close()
        out = open(path, "ab", buffering=0)
    else:
        seen(number - 1)
        shutil.copyfile(path, f"{path}.{at}")
        os.truncate(path, 0)
print(f"end {number}", flush=True)
sys.stdin.readline()
"""


def recipe() -> dict[str, Any]:
    """What the page defines."""
    text = PAGE.read_text(encoding="utf-8")
    code = next(block for block in text.split("```python\n") if "def follow(" in block).partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.fixture
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "app.log"), request.param, "6"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("writer", ["rename", "copytruncate"], indirect=True)
def test_recipe_loses_no_line_and_repeats_none(writer: Any, tmp_path: Path) -> None:
    names = recipe()
    lines: queue.Queue[bytes] = queue.Queue()
    done = threading.Event()

    def read() -> None:
        for line in names["follow"](tmp_path / "app.log", pause=0.001):
            lines.put(line)
            if done.is_set():
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    expected = 0
    wanted: int | None = None
    while wanted is None or expected < wanted:
        word = writer.stdout.readline().split()
        if word[0] == "end":
            wanted = int(word[1])
        target = wanted if wanted is not None else int(word[0]) + 1
        while expected < target:
            line = lines.get(timeout=60)
            assert line == b"%d %s\n" % (expected, b"x" * (expected * 7 % 301))
            expected += 1
        if wanted is None:
            writer.stdin.write(f"{word[0]}\n")
            writer.stdin.flush()
    assert expected > 2400
    done.set()
    with open(tmp_path / "app.log", "ab") as out:
        out.write(b"last\n")
    thread.join(60)
    assert not thread.is_alive()
    assert lines.get(timeout=60) == b"last\n"
    names["manager"]._check()


APPENDING = """
import sys
with open(sys.argv[1], "ab", buffering=0) as out:
    for number in range(1 << 40):
        out.write(b"%07d\\n" % number)
"""


@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_file_that_is_written_all_the_time_can_be_opened_and_refreshed(
    world: World, tmp_path: Path, backing: str
) -> None:
    """By a process that writes as fast as it can: no look at the file is of the same size as the next one."""
    path = world.file(0, "log").path
    manager = world.manager(1 << 16, 1 << 20, backing=backing)
    with subprocess.Popen([sys.executable, "-c", APPENDING, str(path)]) as process:
        try:
            buffer, file = manager.buffer(path), manager.open(path)
            sizes = set()
            stop = time.monotonic() + 1.5
            while time.monotonic() < stop or len(sizes) < 30:
                size = buffer.refresh() // 8 * 8
                assert buffer[size - 8 : size] == (b"%07d\n" % (size // 8 - 1) if size else b"")
                size = file.refresh() // 8 * 8
                file.seek(max(size - 80, 0))
                assert file.read(8)[:8] == (b"%07d\n" % (max(size - 80, 0) // 8) if size else b"")
                new = manager.buffer(path)
                assert len(new) >= size
                if size:
                    assert new[:8] == b"0000000\n"
                sizes.add(size)
        finally:
            process.kill()
    manager._check()


def test_the_page_reads_what_others_truncate() -> None:
    assert recipe()["manager"]._backing == "read"
    assert isinstance(recipe()["manager"], smmap.StaticWindowMapManager)
