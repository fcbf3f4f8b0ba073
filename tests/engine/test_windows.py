"""`map_window` and `read_window`: a region of a window, or the reason why there is none."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core._tools import G, World, descriptors, linux, payload
from smmap._window import Window

from ._tools import Bench, dead

Make = Callable[..., Bench]
kinds = pytest.mark.parametrize("kind", ["map", "read"])


@kinds
def test_none_if_the_file_is_too_short(bench: Make, kind: str) -> None:
    made = bench(3 * G, kind=kind)
    for size in (3 * G - 1, G + 1, G, 5, 0):
        os.truncate(made.path, size)
        assert made.make(G, 3 * G) is None
        assert made.counts() == (0, 0)
        assert made.file.table.find((G, 3 * G)) is None
    os.truncate(made.path, 3 * G)
    assert made.make(G, 3 * G)[0:W] == bytes(2 * G)


W = 2 * G


@kinds
def test_window_may_reach_the_very_end_and_no_byte_further(bench: Make, kind: str) -> None:
    made = bench(G + 7, kind=kind)
    for stop in (1, G, G + 1, G + 7):
        assert made.make(0, stop)[0:stop] == made.data[:stop]
    assert made.make(G, G + 7)[0:9] == made.data[G:]
    assert made.make(0, G + 8) is None
    assert made.make(G, G + 8) is None


@kinds
def test_bad_descriptor_is_the_systems_error_and_counts_nothing(engine: Any, bench: Make, kind: str) -> None:
    made = bench(G, kind=kind)
    call = engine.map_window if kind == "map" else engine.read_window
    made.descriptor.close()
    with pytest.raises(OSError) as caught:
        call(made.ledger, made.file, -1, Window(0, 0, G), "normal")
    assert caught.value.errno == errno.EBADF
    del caught
    dead()
    assert made.counts() == (0, 0)
    assert made.file.table.find(0) is None


@kinds
def test_folder_is_the_systems_error(engine: Any, bench: Make, world: World, kind: str) -> None:
    made = bench(G, kind=kind)
    folder, _ = engine.open_file(str(world.folder), 0)
    try:
        with pytest.raises(OSError):
            made.engine.read_window(made.ledger, made.file, folder.number, Window(0, 0, 1), "normal")
    finally:
        folder.close()
    dead()
    assert made.counts() == (0, 0)


@linux
def test_read_window_leaves_no_descriptor(bench: Make) -> None:
    made = bench(3 * G, kind="read")
    before = descriptors()
    region = made.make(0, 3 * G)
    os.truncate(made.path, G)
    for _ in range(5):
        assert made.make(0, 3 * G) is None
    assert len(descriptors()) == len(before) + made.engine.MAP_COSTS_DESCRIPTOR
    del region
    dead()
    assert descriptors() == before


def test_map_shows_what_is_written_in_place(bench: Make) -> None:
    made = bench(W)
    region = made.make(0, W)
    with open(made.path, "r+b") as file:
        file.seek(G + 5)
        file.write(b"new")
    assert region[G + 5 : G + 8] == b"new"


def test_read_window_is_private(bench: Make, world: World) -> None:
    made = bench(W, kind="read")
    region = made.make(0, W)
    view = region.view(0, W)
    with open(made.path, "r+b") as file:
        file.write(b"other bytes")
    assert region[0:W] == made.data
    os.truncate(made.path, 0)
    assert view == made.data
    if os.path.exists("/proc/self/maps"):
        assert not world.pages()
    assert Path(made.path).stat().st_size == 0


@linux
def test_map_window_is_a_map(bench: Make, world: World) -> None:
    made = bench(4 * G)
    region = made.make(G, 3 * G)
    assert world.pages() == {("data", 1): 1, ("data", 2): 1}
    assert region.start == G


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, (2 << 20) + 12345])
def test_large_windows(bench: Make, size: int) -> None:
    made = bench(size)
    assert made.make(0, size)[0:size] == made.data
    region = made.make(G, size, kind="read")
    assert region[0:size] == made.data[G:]
    assert region.view(G, size) == made.data[G:]
    assert made.make(0, size + 1, kind="read") is None


@kinds
@pytest.mark.parametrize("advice", ["normal", "random", "sequential"])
def test_advice_changes_no_byte(bench: Make, kind: str, advice: str) -> None:
    made = bench(W, kind=kind)
    assert made.make(0, W, advice=advice)[0:W] == made.data


@linux
@pytest.mark.parametrize(("advice", "flag"), [("normal", ""), ("random", "rr"), ("sequential", "sr")])
def test_advice_is_given_to_the_system(bench: Make, advice: str, flag: str) -> None:
    made = bench(W)
    region = made.make(0, W, advice=advice)
    area = re.compile(rf"^[^\n]* {re.escape(made.path)}$.*?^VmFlags: ([^\n]*)$", re.MULTILINE | re.DOTALL)
    found = area.search(Path("/proc/self/smaps").read_text(errors="surrogateescape"))
    if found is None:
        pytest.skip("the system shows no flags of maps")
    assert {name for name in found[1].split() if name in ("rr", "sr")} == ({flag} if flag else set())
    assert region[0:1] == made.data[:1]


def test_moves_no_offset_of_the_descriptor(bench: Make) -> None:
    made = bench(W)
    os.lseek(made.descriptor.number, 5, os.SEEK_SET)
    regions = [made.make(0, W), made.make(0, W, kind="read")]
    if os.name != "nt":
        assert os.lseek(made.descriptor.number, 0, os.SEEK_CUR) == 5
    assert regions[0][0:W] == regions[1][0:W] == payload(W, "data")
