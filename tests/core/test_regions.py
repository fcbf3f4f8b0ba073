"""`manager.regions()`, `repr` and what a notebook shows, beside what the system says is mapped."""

from __future__ import annotations

import os
import re
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

import smmap
from smmap._report import format_size

from ._tools import G, World, linux, reclaim

W = 2 * G


def test_each_region_is_listed_with_its_file_range_and_state(world: World) -> None:
    one, two = world.file(5 * W, "one"), world.file(W // 2, "two")
    manager = world.manager(W, 100 * W)
    cursor, again = manager.make_cursor(one.path).use_region(0, 10), manager.make_cursor(one.path).use_region(5, 10)
    manager.make_cursor(str(two.path)).use_region(0, 1).close()
    view = manager.buffer(one.path).view(3 * W + 7, 3 * W + 12)
    found = manager.regions()
    assert [tuple(region)[:-1] for region in found] == [
        (str(one.path), 0, W, 2, "pinned"),
        (str(one.path), 3 * W, 4 * W, 0, "idle"),
        (str(two.path), 0, W // 2, 0, "idle"),
    ]
    manager.collect()
    assert [(region.start, region.state) for region in manager.regions()] == [(0, "pinned"), (3 * W, "detached")]
    assert bytes(view) == one.data[3 * W + 7 : 3 * W + 12]
    cursor.close()
    again.close()
    del view


@linux
def test_the_list_is_what_the_system_has_mapped(world: World) -> None:
    files = [world.file(W + number * 1000, f"file{number}") for number in range(20)]
    manager = world.manager(W, 9 * W)
    for file in files:
        with manager.make_cursor(file.path) as cursor:
            cursor.use_region(0, 1)
    found = manager.regions()
    assert sorted(os.path.basename(os.fsdecode(region.file)) for region in found) == sorted(world.maps())
    stats = manager.stats()
    assert len(found) == stats.mapped == stats.idle
    assert sum(region.stop - region.start for region in found) == stats.mapped_memory


def test_age_grows_from_the_moment_a_region_was_mapped(world: World) -> None:
    file = world.file(4 * W)
    manager = world.manager(W, 100 * W)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 1)
        time.sleep(0.05)
        cursor.use_region(W, 1)
        first, second = manager.regions()
        assert first.age >= second.age + 0.05
        assert 0 <= second.age < 5


def test_a_file_without_a_known_path_is_named_by_its_inode(world: World) -> None:
    file = world.file(W)
    manager = world.manager(W)
    with open(file.path, "rb") as opened, manager.make_cursor(opened.fileno()) as cursor:
        cursor.use_region(0, 1)
        [region] = manager.regions()
        assert region.file == f"<inode {os.fstat(opened.fileno()).st_ino} of device {os.stat(file.path).st_dev}>"


def test_bytes_paths_are_listed_as_bytes_between_others(world: World) -> None:
    manager = world.manager(W)
    paths = [os.fsencode(world.file(W, "b").path), str(world.file(W, "a").path), os.fsencode(world.file(W, "c").path)]
    cursors = [manager.make_cursor(path).use_region(0, 1) for path in paths]
    assert [region.file for region in manager.regions()] == [paths[1], paths[0], paths[2]]
    del cursors


def test_listing_keeps_nothing_mapped_and_does_not_count_as_a_use(world: World) -> None:
    file = world.file(4 * W)
    manager = world.manager(W, 2 * W)
    with manager.make_cursor(file.path) as cursor:
        for number in range(2):
            cursor.use_region(number * W, 1)
    before = manager.stats()
    kept = manager.regions()
    assert manager.stats() == before
    manager.collect()
    reclaim()
    assert manager.regions() == []
    assert len(kept) == 2


def test_any_thread_may_list_while_others_map(world: World) -> None:
    files = [world.file(3 * W, f"file{number}") for number in range(8)]
    manager = world.manager(W, 4 * W)
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                for file in files:
                    with manager.make_cursor(file.path) as cursor:
                        cursor.use_region(W, 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        for region in manager.regions():
            assert region.state in ("pinned", "idle", "detached")
            assert region.stop - region.start == W
        repr(manager)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_repr_is_one_informative_line(world: World) -> None:
    file = world.file(3 * W)
    manager = world.manager(W, 4 << 20)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(0, 1)
        cursor.use_region(W, 1)
        text = repr(manager)
    assert text == (
        f"<SlidingWindowMapManager 2 regions of 1 files (1 pinned, 1 idle, 0 detached), {2 * W >> 10} KiB of 4 MiB "
        f"mapped, window {W >> 10} KiB, 0 hits, 2 misses, 0 cold reads, 0 evictions>"
    )
    manager.close()
    assert repr(manager).startswith("<SlidingWindowMapManager closed, 0 regions")
    assert "whole files" in repr(world.manager(static=True))


def test_sizes_are_written_in_the_largest_unit_that_they_fill() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 64 << 20: "64 MiB", 5 << 60: "5120 PiB"}
    assert {size: format_size(size) for size in sizes} == sizes


class Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.mark.parametrize("name", ["<b>bold & quick</b>", "line\nfeed"])
def test_notebooks_get_a_table_in_which_names_are_text(world: World, name: str) -> None:
    manager = world.manager(W, 100 * W)
    cursor = manager.make_cursor(Path(os.path.realpath(world.folder)) / world.file(W, name.replace("/", "_")).name)
    cursor.use_region(0, 1)
    parser = Tables()
    parser.feed(manager._repr_html_())
    assert set(parser.tags) == {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
    shown = name.replace("/", "_").replace("\n", "\\n")
    assert any(cell.endswith(shown) for cell in parser.cells)
    assert "pinned" in parser.cells
    assert "\n" not in manager._repr_html_()
    cursor.close()


def test_notebooks_get_no_more_than_the_largest_regions(world: World) -> None:
    file = world.file(30 * W)
    manager = world.manager(W, 100 * W)
    with manager.make_cursor(file.path) as cursor:
        for number in range(30):
            cursor.use_region(number * W, 1)
    text = manager._repr_html_()
    assert text.count("<tr>") == 21
    assert "and 10 more regions" in text
    assert re.search(r"<table>", smmap.SlidingWindowMapManager()._repr_html_()) is None
