"""overlayfs, the file system of every container: a file that is written moves to another layer, under the same numbers.

Device and inode stay, but maps and descriptors made before go on with the old bytes. A new client must not meet them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import World
from smmap import FileChangedError

from ._tools import G, linux, payload, run_python

W = 2 * G
SIZE = 6 * W + 77
OLD = payload(SIZE, "old")
pytestmark = linux
backings = pytest.mark.parametrize("backing", ["auto", "mmap", "read"])


class Layers:
    """Files in a lower layer, seen through an overlay."""

    def __init__(self, folder: Path) -> None:
        self.parts = {name: folder / name for name in ("lower", "upper", "work", "merged")}
        for part in self.parts.values():
            part.mkdir()
        self.path = self.parts["merged"] / "data"
        (self.parts["lower"] / "data").write_bytes(OLD)

    def mount(self) -> None:
        options = f"lowerdir={self.parts['lower']},upperdir={self.parts['upper']},workdir={self.parts['work']}"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, str(self.parts["merged"])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no overlay can be mounted: {done.stderr.strip()}")

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.parts["merged"])], capture_output=True, check=False)

    def change(self, data: bytes, keep_time: bool = False) -> None:
        """Write in place: from then on the file is another one, by the same numbers."""
        before = os.stat(self.path)
        with open(self.path, "r+b") as out:
            out.write(data)
            out.truncate()
        if keep_time:
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = os.stat(self.path)
        if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
            pytest.skip("the numbers are others after the file was moved up")
        assert (self.parts["upper"] / "data").exists()


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    if shutil.which("mount") is None:
        pytest.skip("no overlay can be mounted: there is no mount")
    made = Layers(tmp_path)
    made.mount()
    yield made
    made.unmount()


def cursor_that(layers: Layers, manager: Any, past: str) -> Any:
    cursor = manager.make_cursor(layers.path)
    for number in (0, 3):
        assert cursor.use_region(number * W + 1, 9).buffer() == OLD[number * W + 1 : number * W + 10]
    if past == "idle":
        cursor.unuse_region()
    return cursor


def check_new(manager: Any, path: Path, data: bytes) -> None:
    """Every kind of new client sees the file as it is now, wherever it reads."""
    with manager.make_cursor(path) as cursor:
        assert cursor.file_size() == len(data)
        for number in range(len(data) // W + 1):
            cursor.use_region(number * W, W)
            assert cursor.buffer() == data[number * W : (number + 1) * W], number
    for buffer in (manager.buffer(path), smmap.SlidingWindowMapBuffer(manager.make_cursor(path))):
        for start in (0, 3 * W + 1, len(data) - 9):
            assert buffer[start : start + 9] == data[start : start + 9], start
        assert buffer[:] == data
        assert buffer.view() == data
        buffer.close()
    with smmap.open(path, manager=manager) as file:
        assert file.read() == data


@backings
@pytest.mark.parametrize("past", ["idle", "pinned"])
@pytest.mark.parametrize("how", ["written", "written and dated back", "grown", "shrunk"])
def test_new_clients_of_a_file_that_moved_up_see_it_as_it_is_now(
    layers: Layers, world: World, backing: str, past: str, how: str
) -> None:
    manager = world.manager(W, backing=backing)
    old = cursor_that(layers, manager, past)
    new = payload({"grown": SIZE + 3 * W, "shrunk": SIZE - 3 * W}.get(how, SIZE), "new")
    layers.change(new, keep_time=how == "written and dated back")
    check_new(manager, layers.path, new)
    manager._check()
    manager.collect()
    check_new(manager, layers.path, new)
    if past == "pinned":
        assert old.buffer() == OLD[3 * W + 1 : 3 * W + 10]
    old.close()


@backings
def test_new_buffer_reads_by_no_descriptor_of_the_old_layer(layers: Layers, world: World, backing: str) -> None:
    """Cold reads only, by a cached descriptor; and one slice is not half old."""
    manager = world.manager(W, backing=backing)
    old = manager.buffer(layers.path)
    for start in (0, 2 * W, 5 * W):
        assert old[start : start + 9] == OLD[start : start + 9]
    assert (manager.stats().mapped, manager.stats().descriptors) == (0, 1)
    new = payload(SIZE, "new")
    layers.change(new)
    buffer = manager.buffer(layers.path)
    for start in (0, 2 * W, 5 * W):
        assert buffer[start : start + 9] == new[start : start + 9]
    assert buffer[2 * W - 9 : 2 * W + 9] == new[2 * W - 9 : 2 * W + 9]
    assert buffer[:] == new
    old.close()
    buffer.close()


READS: dict[str, Callable[[Any, int], Any]] = {
    "slice": lambda buffer, start: buffer[start : start + 99],
    "view": lambda buffer, start: buffer.view(start, start + 99),
}


@backings
@pytest.mark.parametrize("name", READS)
def test_old_buffer_reads_one_layer_at_a_time_or_raises(layers: Layers, world: World, backing: str, name: str) -> None:
    """A map shows the old layer for ever, a descriptor the new one: a write in place. What is opened anew differs."""
    new = payload(SIZE, "new")
    manager = world.manager(W, 2 * W, backing=backing)
    old = manager.buffer(layers.path)
    assert old.view(W, W + 9) == OLD[W : W + 9]
    layers.change(new)
    for turn in range(3):
        for start in range(0, SIZE, W // 2):
            try:
                found = READS[name](old, start)
            except FileChangedError as error:
                assert str(layers.path) in str(error)
            else:
                assert bytes(found) in (OLD[start : start + 99], new[start : start + 99]), (turn, start)
            found = None
        manager.collect()
        check_new(manager, layers.path, new)
    with pytest.raises(FileChangedError):
        old.view(4 * W, 5 * W)
    old.close()


def test_two_managers_agree_about_a_file_that_moved_up(layers: Layers) -> None:
    """What one process knew before makes no difference: a process that never saw the old bytes reads the same."""
    manager = smmap.SlidingWindowMapManager(W)
    with manager.make_cursor(layers.path) as cursor:
        assert cursor.use_region(0, 9).buffer() == OLD[:9]
    layers.change(payload(SIZE, "new"))
    script = "import smmap, sys; sys.stdout.write(smmap.buffer(sys.argv[1])[:].hex())"
    assert bytes.fromhex(run_python(script, layers.path).stdout) == manager.buffer(layers.path)[:]
    manager.close()
