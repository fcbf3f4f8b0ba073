"""Tables find what lives; an order says what goes next."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from core._tools import G, reclaim
from smmap import _rents

from ._tools import Bench, Steps, alarmed, dead, every_step, interrupt, meanwhile

W = 2 * G
Make = Callable[..., Bench]


# Table


@pytest.mark.parametrize("key", [0, 3, ~0, ~3, (0, 5), (G, W)])
def test_finds_by_key_while_it_lives(bench: Make, key: Any) -> None:
    made = bench(W)
    table = made.file.table
    assert table.find(key) is None
    region = made.make(0, G, key)
    assert table.find(key) is region
    for other in (1, ~1, (0, 6), 1 << 40):
        assert table.find(other) is None
    assert table.regions() == [region]
    del region
    dead()
    assert table.find(key) is None  # needs no settling
    assert table.regions() == []
    made.ledger.settle()
    assert len(list(table.values())) == 0


def test_keys_of_grid_seam_and_wide_windows_differ(bench: Make) -> None:
    made = bench(4 * G)
    regions = {key: made.make(0, G, key) for key in (0, 1, ~0, ~1, (0, 1), (0, 2))}
    assert all(made.file.table.find(key) is region for key, region in regions.items())
    assert len(made.file.table.regions()) == len(regions)


def test_newer_region_of_the_same_window_replaces_the_older(bench: Make) -> None:
    made = bench(W)
    older = made.make(0, G, 7)
    newer = made.make(G, W, 7)
    assert made.file.table.find(7) is newer
    assert made.counts() == (2, W)
    del older
    dead()
    assert made.counts() == (1, G)
    assert made.file.table.find(7) is newer  # its death took nothing along
    del newer
    dead()
    made.ledger.settle()
    assert made.file.table.find(7) is None


def test_table_does_not_keep_alive(bench: Make) -> None:
    made = bench(W)
    for key in range(300):
        made.make(0, G, key)
    dead()
    assert made.counts() == (0, 0)
    assert len(list(made.file.table.values())) == 0  # dead entries go


def test_entries_of_a_table_lead_to_its_regions(bench: Make) -> None:
    made = bench(4 * G)
    regions = [made.make(at * G, at * G + G, at) for at in range(4)]
    assert {id(entry()) for entry in made.file.table.values()} == set(map(id, regions))
    assert {id(region) for region in made.file.table.regions()} == set(map(id, regions))
    assert all(region.entry() is region for region in regions)


def test_new_table_is_empty(engine: Any) -> None:
    table = engine.Table()
    assert table.find(0) is None
    assert table.regions() == []
    assert len(list(table.values())) == 0


# Order


class Key:
    """Compared by identity, like entries and files."""

    def __init__(self, name: int) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Key({self.name})"


def holds(order: Any, oracle: OrderedDict[Any, Any]) -> None:
    """The order has just these items in this order."""
    assert list(order) == list(oracle.values())
    assert len(order) == len(oracle)
    if oracle:
        assert order.oldest() is next(iter(oracle.values()))


def test_empty_order(engine: Any) -> None:
    order = engine.Order()
    assert len(order) == 0
    assert list(order) == []
    assert order.hits == 0
    assert not order.crowded
    assert Key(0) not in order
    assert not order.touch(Key(0))
    assert not order.remove(Key(0))
    for _ in range(2):
        with pytest.raises(KeyError):
            order.pop_oldest()
        with pytest.raises(StopIteration):
            order.oldest()
    holds(order, OrderedDict())


def test_oldest_is_dropped_first(engine: Any) -> None:
    order, keys = engine.Order(), [Key(number) for number in range(4)]
    for key in keys:
        order.add(key, key.name)
    assert order.touch(keys[1]) is True
    assert order.remove(keys[2]) is True
    assert order.oldest() == order.oldest() == 0  # it stays
    assert [order.pop_oldest() for _ in range(3)] == [0, 3, 1]
    with pytest.raises(KeyError):
        order.pop_oldest()


def test_item_added_again_is_last_and_there_only_once(engine: Any) -> None:
    order, keys = engine.Order(), [Key(number) for number in range(3)]
    for key in keys:
        order.add(key, key.name)
    order.add(keys[0], "again")
    assert list(order) == [1, 2, "again"]
    assert len(order) == 3


def test_drain_takes_out_all_oldest_first(engine: Any) -> None:
    order, keys = engine.Order(), [Key(number) for number in range(5)]
    assert order.drain() == []
    for key in keys:
        order.add(key, key.name)
    order.touch(keys[1])
    assert order.drain() == [0, 2, 3, 4, 1]
    holds(order, OrderedDict())
    order.add(keys[3], 3)
    assert list(order) == [3]


def test_hits_are_counted_as_told_whether_the_key_is_there_or_not(engine: Any) -> None:
    order, key = engine.Order(), Key(0)
    order.add(key, 0)
    order.touch(key)
    assert order.hits == 0
    order.touch(key, 1)
    order.touch(Key(1), 7)
    assert order.hits == 8


def test_touch_and_remove_of_what_is_not_there_change_nothing(engine: Any) -> None:
    order, key, other = engine.Order(), Key(0), Key(1)
    order.add(key, 0)
    assert order.touch(other) is False
    assert order.remove(other) is False
    assert other not in order
    assert list(order) == [0]


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_against_an_ordered_dict(engine: Any, seed: int) -> None:
    chance = random.Random(seed)
    order, oracle = engine.Order(), OrderedDict()
    keys = [Key(number) for number in range(chance.choice([2, 5, 30]))]
    for number in range(3000):
        key, action = chance.choice(keys), chance.random()
        if action < 0.3:
            order.add(key, number)
            oracle[key] = number
            oracle.move_to_end(key)
        elif action < 0.65:
            assert order.touch(key) is (key in oracle)
            if key in oracle:
                oracle.move_to_end(key)
        elif action < 0.85:
            assert order.remove(key) is (oracle.pop(key, None) is not None)
        elif oracle:
            assert order.pop_oldest() == oracle.popitem(last=False)[1]
        else:
            with pytest.raises(KeyError):
                order.pop_oldest()
        assert (key in order) is (key in oracle)
        holds(order, oracle)


def test_keeps_its_items_alive_and_lets_go_of_them(bench: Make) -> None:
    made = bench(8 * G)
    for number in (2, 0, 1):
        made.keep_idle(number)
    assert made.counts() == (3, 3 * W)
    assert made.idle_keys() == [2, 0, 1]
    made.idle.pop_oldest()
    dead()
    assert made.counts() == (2, 2 * W)
    made.idle.remove(made.file.table.find(1).entry)
    dead()
    assert made.counts() == (1, W)
    made.idle.add(made.file.table.find(0).entry, made.file.table.find(0))
    assert made.counts() == (1, W)
    made.idle.pop_oldest()
    dead()
    assert made.counts() == (0, 0)


def test_removal_may_run_finalizers_that_use_the_order(engine: Any) -> None:
    order = engine.Order()
    seen: list[int] = []

    class Item:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            order.touch(keys[2])
            order.add(keys[3], 3)
            seen.append(self.number)

    keys = [Key(number) for number in range(4)]
    order.add(keys[0], Item(0))
    order.add(keys[1], Item(1))
    order.add(keys[2], 2)
    order.remove(keys[0])
    order.pop_oldest()
    reclaim()
    assert seen == [0, 1]
    assert list(order) == [2, 3]


# Order, interrupted, and used by several threads


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


OPERATIONS: dict[str, Callable[[Any, list[Key]], Any]] = {
    "add-new": lambda order, keys: order.add(keys[3], 3),
    "add-oldest": lambda order, keys: order.add(keys[0], "again"),
    "add-newest": lambda order, keys: order.add(keys[2], "again"),
    "touch-oldest": lambda order, keys: order.touch(keys[0]),
    "touch-middle": lambda order, keys: order.touch(keys[1]),
    "touch-newest": lambda order, keys: order.touch(keys[2]),
    "remove-oldest": lambda order, keys: order.remove(keys[0]),
    "remove-newest": lambda order, keys: order.remove(keys[2]),
    "pop_oldest": lambda order, keys: order.pop_oldest(),
    "oldest": lambda order, keys: order.oldest(),
}


def _order(engine: Any, size: int) -> tuple[Any, list[Key]]:
    """An order of the last `size` of three keys."""
    order, keys = engine.Order(), [Key(number) for number in range(4)]
    for key in keys[3 - size : 3]:
        order.add(key, key.name)
    return order, keys


def _outcome(operation: Callable[[], Any]) -> Any:
    try:
        return operation()
    except (KeyError, StopIteration) as error:
        return type(error)


@pytest.mark.parametrize("first", OPERATIONS)
def test_two_threads_do_one_after_the_other(engine: Any, first: str, steps: Steps) -> None:
    """Whenever another thread's operation comes in between, all is as if it had come before or after."""
    for second, size in itertools.product(OPERATIONS, range(4)):
        allowed = []
        for turns in ((first, second), (second, first)):
            order, keys = _order(engine, size)
            results = {turn: _outcome(lambda: OPERATIONS[turn](order, keys)) for turn in turns}
            if first == second:
                order, keys = _order(engine, size)
                pair = [_outcome(lambda: OPERATIONS[first](order, keys)) for _ in turns]
                allowed += [(pair[0], pair[1], list(order)), (pair[1], pair[0], list(order))]
            else:
                allowed.append((results[first], results[second], list(order)))

        if first == "add-oldest" and second == "pop_oldest" and size == 3:
            allowed.append((None, "again", [1, 2]))  # what is there is replaced first, and then goes last
        if first == "add-oldest" and second == "oldest" and size == 3:
            allowed.append((None, "again", [1, 2, "again"]))

        def run(at: int) -> bool:
            order, keys = _order(engine, size)
            results: list[Any] = [None, "not reached"]

            def one() -> None:
                results[0] = _outcome(lambda: OPERATIONS[first](order, keys))

            def other() -> None:
                results[1] = _outcome(lambda: OPERATIONS[second](order, keys))

            more = meanwhile(steps, at, one, other)
            if more:
                assert (*results, list(order)) in allowed, (second, size, at)
            return more

        every_step(run)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_interrupted_at_any_step(engine: Any, operation: str, steps: Steps) -> None:
    """It was done or it was not; all goes on as before."""
    for size in range(4):
        before, after = _order(engine, size), _order(engine, size)
        _outcome(lambda: OPERATIONS[operation](*after))
        allowed = [list(before[0]), list(after[0])]
        if operation.startswith("add"):  # one use may be missing
            replaced = {"add-new": 3, "add-oldest": 0, "add-newest": 2}[operation]
            allowed.append(["again" if item == replaced else item for item in before[0]])

        def run(at: int) -> bool:
            order, keys = _order(engine, size)
            more = interrupt(steps, at, lambda: _outcome(lambda: OPERATIONS[operation](order, keys)))
            assert list(order) in allowed, (size, at)
            oracle = OrderedDict.fromkeys(key for key in keys if key in order)
            other = threading.Thread(target=order.remove, args=(Key(-1),), daemon=True)
            other.start()
            other.join(30)
            assert not other.is_alive(), "a lock stayed taken"
            while oracle:
                order.remove(oracle.popitem()[0])
            assert len(order) == 0
            order.add(keys[0], "new")
            holds(order, OrderedDict({keys[0]: "new"}))
            return more

        every_step(run)


def test_each_item_comes_out_once_under_threads(engine: Any) -> None:
    order = engine.Order()
    out: list[list[Any]] = [[] for _ in range(4)]
    start = threading.Barrier(4)
    failed: list[BaseException] = []
    keys = [[Key(which * 1000 + number) for number in range(300)] for which in range(4)]

    def work(which: int) -> None:
        chance, mine = random.Random(which), out[which]
        start.wait()
        try:
            for key in keys[which]:
                order.add(key, key.name)
                order.touch(chance.choice(keys[chance.randrange(4)]))
                if chance.random() < 0.5 and order.remove(key):
                    mine.append(key.name)
                if chance.random() < 0.02:
                    mine += order.drain()
                elif chance.random() < 0.5:
                    try:
                        mine.append(order.pop_oldest())
                    except KeyError:
                        pass
        except BaseException as error:
            failed.append(error)

    with switching_often():
        threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed, failed
    left = list(order)
    assert len(order) == len(left)
    found = Counter(left)
    for mine in out:
        found.update(mine)
    assert found == Counter(key.name for mine in keys for key in mine)


def test_touched_by_threads_while_items_come_and_go(engine: Any) -> None:
    order, keys = engine.Order(), [Key(number) for number in range(20)]
    failed: list[BaseException] = []
    stop = threading.Event()

    def touch() -> None:
        chance = random.Random(1)
        try:
            while not stop.is_set():
                order.touch(chance.choice(keys))
        except BaseException as error:
            failed.append(error)

    with switching_often():
        threads = [threading.Thread(target=touch) for _ in range(3)]
        for thread in threads:
            thread.start()
        chance, there = random.Random(2), set()
        for _ in range(4000):
            key = chance.choice(keys)
            if key in there:
                assert order.remove(key) is True
                there.discard(key)
            else:
                order.add(key, key.name)
                there.add(key)
            assert len(order) == len(there)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed
    assert sorted(order) == sorted(key.name for key in there)


def test_interrupted_at_random_moments(engine: Any) -> None:
    order, keys = engine.Order(), [Key(number) for number in range(8)]
    chance = random.Random(4)

    def action() -> None:
        key, what = chance.choice(keys), chance.random()
        if what < 0.5:
            order.add(key, key)
        elif what < 0.7:
            order.touch(key)
        elif what < 0.9:
            order.remove(key)
        else:
            _outcome(order.pop_oldest)

    def check() -> None:
        items = list(order)
        assert len(items) == len(set(items)) == len(order)
        assert all(key in order for key in items)

    alarmed(0.2, action, check)


def test_hits_can_be_counted(engine: Any) -> None:
    order = engine.Order()
    order.hits += 1
    order.hits += 1
    assert order.hits == 2


# Rents


def test_rents_are_those_of_the_simple_ones(engine: Any) -> None:
    """`_rents.Rents` is the oracle: both sides see the same payments, and buy the same windows."""
    chance = random.Random(3)
    for patience in (1, 2, 7, 100, 4096):
        ours, oracle = engine.Ledger().rents, _rents.Rents()
        files = [number << 44 for number in range(1, 5)]
        for _ in range(5000):
            window = chance.choice(files) + int(chance.expovariate(1 / patience))
            size = chance.choice([1, 100, 1 << 15, 1 << 17])
            assert ours.due(window, size, 9, patience) == oracle.due(window, size, 9, patience)
