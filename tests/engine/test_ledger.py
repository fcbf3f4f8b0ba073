"""The ledger counts exactly the regions that live, however they came, went, or were interrupted."""

from __future__ import annotations

import errno
import gc
import random
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from core._tools import G, World, collecting_always, descriptors, linux, reclaim
from smmap._window import Window

from ._tools import CPYTHON, Bench, Interrupt, Steps, alarmed, dead, every_step, interrupt, shot

W = 2 * G
Make = Callable[..., Bench]
kinds = pytest.mark.parametrize("kind", ["map", "read"])
ways = pytest.mark.parametrize("way", ["alarm", "thread"])


def copies_open() -> int:
    """How many files in memory are open: what a file is read into may be one."""
    return sum(name.startswith("/memfd:") for name in descriptors())


def agrees(made: Bench, regions: list[Any]) -> None:
    """The counters say that exactly these regions live."""
    dead()
    assert made.counts() == (len(regions), sum(region.stop - region.start for region in regions))
    for region in regions:
        assert region[0:5] == made.data[region.start : min(region.start + 5, region.stop)]


@kinds
def test_new_ledger_is_empty_and_settle_changes_nothing(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    assert (made.ledger.mapped, made.ledger.memory) == (0, 0)
    made.ledger.settle()
    assert made.counts() == (0, 0)


@kinds
def test_region_is_counted_when_it_is_made(bench: Make, kind: str) -> None:
    made = bench(5 * G + 9, kind=kind)
    regions = []
    for start, stop in [(0, G), (G, 3 * G), (4 * G, 5 * G + 9), (0, 5 * G + 9), (5 * G, 5 * G + 1), (0, G)]:
        regions.append(made.make(start, stop))
        assert made.ledger.mapped == len(regions)  # needs no settling
        assert made.ledger.memory == sum(region.stop - region.start for region in regions)
    agrees(made, regions)
    while regions:
        del regions[len(regions) // 2]
        agrees(made, regions)


@kinds
def test_settle_is_needed_once_however_many_died(bench: Make, kind: str) -> None:
    made = bench(8 * G, kind=kind)
    regions = [made.make(at * G, at * G + G) for at in range(8)]
    del regions[2:]
    dead()
    made.ledger.settle()
    assert (made.ledger.mapped, made.ledger.memory) == (2, 2 * G)
    made.ledger.settle()
    assert (made.ledger.mapped, made.ledger.memory) == (2, 2 * G)


@kinds
def test_what_failed_is_not_counted(engine: Any, bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    kept = [made.make(0, G)]
    call = engine.map_window if kind == "map" else engine.read_window
    for _ in range(3):
        assert made.make(G, W + 1) is None
        with pytest.raises(OSError) as caught:
            call(made.ledger, made.file, -1, Window(0, 0, G), "normal")
        assert caught.value.errno == errno.EBADF
        del caught
        agrees(made, kept)


@kinds
def test_ledgers_count_their_own(engine: Any, bench: Make, kind: str) -> None:
    one, two = bench(W, "one", kind=kind), bench(W, "two", kind=kind)
    regions = [one.make(0, G), one.make(G, W)]
    agrees(two, [])
    other = two.make(0, W)
    agrees(one, regions)
    agrees(two, [other])
    del other
    agrees(two, [])
    agrees(one, regions)


@kinds
def test_detached_region_is_counted_until_its_view_is_dropped(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    views = [made.make(0, G).view(0, 1), made.make(G, W).view(G, W)]
    dead()
    assert made.counts() == (2, W)
    del views[0]
    dead()
    assert made.counts() == (1, G)
    views.clear()
    dead()
    assert made.counts() == (0, 0)


@kinds
def test_dies_in_another_thread(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    regions = [made.make(0, G), made.make(G, W)]
    views = [regions[0].view(0, 9)]
    for drop in (regions.clear, views.clear):
        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
    reclaim()
    assert made.counts() == (0, 0)


@kinds
def test_made_in_another_thread(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    regions: list[Any] = []
    thread = threading.Thread(target=lambda: regions.append(made.make(0, G)))
    thread.start()
    thread.join()
    agrees(made, regions)
    regions.clear()
    reclaim()
    assert made.counts() == (0, 0)


@kinds
def test_threads_that_drop_at_once_are_all_counted(bench: Make, kind: str) -> None:
    made = bench(8 * G, kind=kind)
    regions = [[made.make(at % 8 * G, at % 8 * G + G)] for at in range(400)]
    start = threading.Barrier(4)

    def drop(mine: list[list[Any]]) -> None:
        start.wait()
        for one in mine:
            one.clear()

    threads = [threading.Thread(target=drop, args=(regions[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        made.ledger.settle()
    for thread in threads:
        thread.join()
    reclaim()
    assert made.counts() == (0, 0)


@kinds
def test_dies_in_a_cycle_when_garbage_is_collected(bench: Make, kind: str) -> None:
    made = bench(W, kind=kind)
    gc.collect()
    gc.disable()
    try:
        for target in ("region", "view"):
            cycle: list[Any] = [made.make(0, G)]
            if target == "view":
                cycle[0] = cycle[0].view(0, 9)
            cycle.append(cycle)
            del cycle
            assert made.counts() == (1, G)
            reclaim()
            assert made.counts() == (0, 0)
    finally:
        gc.enable()


@kinds
def test_dies_together_with_its_file_in_one_cycle(bench: Make, kind: str) -> None:
    made, other = bench(W, kind=kind), bench(W, "other", kind=kind)
    other.ledger = made.ledger
    cycle: list[Any] = [other.make(0, G), other.file]
    cycle.append(cycle)
    other.file = None
    other.client = None
    del cycle
    reclaim()
    assert made.counts() == (0, 0)


def test_ledger_may_die_before_its_regions(bench: Make) -> None:
    made = bench(W)
    region = made.make(0, G)
    view = region.view(0, 9)
    made.ledger = None
    reclaim()
    del region
    reclaim()
    assert view == made.data[:9]
    del view
    reclaim()
    assert made.file.table.find((0, G)) is None


@kinds
def test_collection_of_garbage_at_any_moment(bench: Make, kind: str) -> None:
    made = bench(8 * G, kind=kind)
    chance = random.Random(3)
    regions: list[Any] = []
    with collecting_always(5):
        for _ in range(120):
            at = chance.randrange(8)
            cycle: list[Any] = [made.make(at * G, at * G + G, at)]
            if chance.random() < 0.5:
                cycle.append(cycle)
            else:
                regions.append(cycle[0])
            del cycle
            made.ledger.settle()
            if len(regions) > 5:
                del regions[chance.randrange(6)]
            assert made.ledger.mapped >= len(regions)
    reclaim()
    agrees(made, regions)


@kinds
def test_random_births_and_deaths_against_a_list(bench: Make, kind: str) -> None:
    made = bench(8 * G + 5, kind=kind)
    chance = random.Random(11)
    alive: list[Any] = []  # regions, and views of regions that nobody else has: as (start, stop, object)
    for _ in range(400):
        action = chance.random()
        if action < 0.5 and len(alive) < 20:
            start = chance.randrange(9) * G
            stop = min(start + chance.choice([1, G, W, 9 * G]), 8 * G + 5)
            region = made.make(start, stop, chance.choice([None, 1, ~1]))
            alive.append((start, stop, region.view(start, stop) if action < 0.2 else region))
            del region
        elif alive:
            del alive[chance.randrange(len(alive))]
        if chance.random() < 0.5:
            dead()
            assert made.counts() == (len(alive), sum(stop - start for start, stop, _ in alive))
    for start, stop, one in alive:
        assert bytes(one[0 : stop - start]) == made.data[start:stop]


# Interrupted


@kinds
def test_interrupted_at_any_step_of_a_birth(bench: Make, world: World, kind: str, steps: Steps) -> None:
    made = bench(5 * G, kind=kind)
    kept = [made.make(0, G, 0)]

    def run(at: int) -> bool:
        found: list[Any] = []
        more = interrupt(steps, at, lambda: found.append(made.make(2 * G, 3 * G, 2)))
        agrees(made, kept + found)
        assert made.file.table.find(2) is (found[0] if found else None)
        assert len(made.file.table.regions()) == 1 + len(found)
        found.append(made.make(2 * G, 3 * G, 2))  # all goes on as before
        agrees(made, kept + found)
        assert made.file.table.find(2) is found[-1]
        if kind == "map" and sys.platform == "linux":
            assert world.pages()["data", 2] == len(found)
        if sys.platform == "linux":
            assert copies_open() == (len(kept + found) if made.engine.MAP_COSTS_DESCRIPTOR and kind == "read" else 0)
        return more

    assert every_step(run) > 50
    agrees(made, kept)


@kinds
@pytest.mark.parametrize("first", ["the other", "the traceback"])
def test_interrupted_birth_that_a_traceback_keeps(bench: Make, kind: str, first: str, steps: Steps) -> None:
    """Until another region was made, which dies before the traceback or after it."""
    made = bench(5 * G, kind=kind)

    def run(at: int) -> bool:
        error: Any = None

        def action() -> None:
            nonlocal error
            try:
                made.make(2 * G, 3 * G, 2)
            except Interrupt as caught:
                error = caught
                raise

        more = interrupt(steps, at, action)
        mapped, memory = made.counts()
        assert (mapped, memory) in ((0, 0), (1, G))
        other = made.make(0, G, 0)
        assert made.counts() == (mapped + 1, memory + G)
        if first == "the other":
            del other
            assert made.counts() == (mapped, memory)
            error = None
        else:
            error = None
            agrees(made, [other])
            assert made.file.table.find(0) is other
            del other
        agrees(made, [])
        return more

    every_step(run)


@kinds
def test_interrupted_at_any_step_of_settling(bench: Make, kind: str, steps: Steps) -> None:
    made = bench(9 * G, kind=kind)
    kept = [made.make(8 * G, 9 * G, 8)]

    def run(at: int) -> bool:
        regions = [made.make(0, G, 0), made.make(2 * G, 4 * G, 2), made.make(5 * G, 6 * G, 5)]
        del regions[:2]
        more = interrupt(steps, at, made.ledger.settle)
        agrees(made, kept + regions)
        assert len(made.file.table.regions()) == 2
        assert made.file.table.find(0) is made.file.table.find(2) is None
        return more

    every_step(run)
    made.ledger.settle()
    assert len(list(made.file.table.values())) == 1


def test_interrupted_twice(bench: Make, steps: Steps) -> None:
    """First in any line of a birth whose traceback lives on, then in any line of settling, and nobody looks between."""
    made = bench(9 * G)

    def first(births: int) -> bool:
        more = False

        def second(at: int) -> bool:
            nonlocal more
            errors: list[Any] = []

            def birth() -> None:
                try:
                    made.make(0, 3 * G, 0)
                except Interrupt as caught:
                    errors.append(caught)
                    raise

            dying = [made.make(4 * G, 5 * G, 4)]
            more = interrupt(steps, births, birth, "line")
            dying.clear()
            again = interrupt(steps, at, made.ledger.settle, "line")
            last = made.make(6 * G, 8 * G, 6)
            mapped, memory = made.counts()
            assert (mapped, memory) in ((1, 2 * G), (2, 5 * G))
            del last
            errors.clear()
            agrees(made, [])
            return again

        every_step(second)
        return more

    every_step(first)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no alarms")
@ways
@kinds
def test_interrupted_at_random_moments(bench: Make, kind: str, way: str) -> None:
    if way == "thread" and not CPYTHON:
        pytest.skip("only CPython raises exceptions in other threads")
    made = bench(8 * G, kind=kind)
    chance = random.Random(17)
    regions: list[Any] = []
    views: list[Any] = []

    def action() -> None:
        at = chance.randrange(8)
        what = chance.random()
        if what < 0.4 and len(regions) < 10:
            regions.append(made.make(at * G, at * G + G, at))
        elif what < 0.6:
            made.make(at * G, at * G + G, at)
        elif what < 0.7 and not views:
            views.append(made.make(at * G, at * G + G, at).view(at * G, at * G + 9))
        elif what < 0.8 and regions:
            regions.pop(chance.randrange(len(regions)))
        elif what < 0.85:
            views.clear()
        else:
            made.ledger.settle()

    def check() -> None:
        dead()
        made.ledger.settle()
        assert made.ledger.mapped == len(regions) + len(views)
        assert made.ledger.memory == made.ledger.mapped * G
        assert {id(region) for region in made.file.table.regions()} <= {id(region) for region in regions} or views

    if way == "alarm":
        assert alarmed(0.4, action, check)
    else:
        assert shot(0.4, action, check)
    regions.clear()
    views.clear()
    reclaim()
    assert made.counts() == (0, 0)
    assert made.file.table.regions() == []


@linux
@ways
def test_nothing_stays_mapped_after_interrupts(bench: Make, world: World, way: str) -> None:
    if way == "thread" and not CPYTHON:
        pytest.skip("only CPython raises exceptions in other threads")
    made = bench(4 * G)

    def action() -> None:
        made.make(0, G)
        made.make(2 * G, 3 * G).view(2 * G, 3 * G)
        made.make(0, G, kind="read")

    (alarmed if way == "alarm" else shot)(0.2, action, lambda: None)
    reclaim()
    assert made.counts() == (0, 0)
    assert not world.pages()
    bench(G, "other")  # what was left for the next one is done
    assert copies_open() == 0
