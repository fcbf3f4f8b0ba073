"""Traces: reads of sampled places are handed to the trace, each once, whatever is mapped; all others never."""

from __future__ import annotations

import random
import weakref
from typing import Any

import pytest

from core._tools import G
from smmap._places import COPY, CURSOR, FULL, PLACE_SHIFT, VIEW, place_hash

from ._tools import Bench, dead

PLACES = 9
SIZE = (PLACES << PLACE_SHIFT) - 12345


class Sparse:
    """A file of many places that takes no room. What is read is the engines' other tests' business."""

    def __init__(self, path: Any) -> None:
        self.path = path
        with open(path, "wb") as file:
            file.truncate(SIZE)
        self.data = range(SIZE)  # of which only the length is asked for


class Noting:
    """A trace that remembers what it was told of."""

    def __init__(self) -> None:
        self.before_reads: list[Any] = []
        self.after_reads: list[Any] = []

    def before(self, access: Any, kind: int, spans: Any) -> Any:
        noted = [(kind, *span) for span in spans]
        self.before_reads += noted
        return lambda: self.after_reads.extend(noted)

    def searched(self, access: Any, start: int, stop: int) -> None:
        self.before_reads.append((COPY, start, stop))
        self.after_reads.append((COPY, start, stop))


class Reader:
    """Reads of every kind through a buffer at an offset, each of which says what a trace must be told of."""

    def __init__(self, made: Bench, offset: int) -> None:
        self.made = made
        self.offset = offset
        self.buffer = made.buffer(offset)
        self.cursor = made.cursor()

    def read(self, kind: str, start: int, size: int) -> Any:
        data, stop, at = self.buffer, start + size, start + self.offset
        if kind == "index":
            data[start]
            return COPY, at, at + 1
        if kind == "from the end":
            data[start - len(data)]
            return COPY, at, at + 1
        if kind == "slice":
            data[start:stop]
        elif kind == "steps":
            data[start:stop:2]
            stop = start + (size - 1) // 2 * 2 + 1
        elif kind == "copy":
            data._copy(data._access, start, stop)
        elif kind == "into":
            data._read_into(data._access, start, memoryview(bytearray(size)))
        elif kind == "unpack":
            data.unpack_from(f"<{size}s", start)
        elif kind == "view":
            data.view(start, stop)
            return VIEW, at, at + size
        elif kind == "batch":
            self.batch(start, size)
        elif kind == "find":  # what the first mapped window does not have is for the policy to search
            if data._found(data._access, at, at + 1) is None:
                return None
            near = data._near(b"\0", start, None, False)
            return None if near is None else (COPY, at, at + 1)  # before Python 3.11, the policy searches
        else:
            self.cursor.use_region(at, size)
            return CURSOR, at, at + size
        return COPY, at, stop + self.offset

    def batch(self, start: int, size: int) -> None:
        batch = self.made.engine.Batch([len(self.buffer)], None, [start], None, size)
        with memoryview(batch.fresh()) as view:
            batch.into(view)
            for file, left, client in batch.quick([self.buffer._access])[0]:
                assert (client is None) == (left < 0)
                if left < 0:
                    left = batch.serve(file, self.buffer._access)
                if left == 2:
                    batch.announce(file, self.made.descriptor.number)
                assert batch.read(file, self.made.descriptor.number) == -1
                batch.settle(file)
            batch.close()


KINDS = "index", "from the end", "slice", "steps", "copy", "into", "unpack", "view", "batch", "find", "cursor"


@pytest.mark.parametrize("mark", range(1, 7))
@pytest.mark.parametrize("window", [4 * G, 3 << 20, 1 << PLACE_SHIFT, 40 << 20, SIZE + G & -G])
def test_reads_of_sampled_places_are_noted_and_no_others(engine: Any, tmp_path: Any, window: int, mark: int) -> None:
    rng = random.Random(window + mark)
    made = Bench(engine, Sparse(tmp_path / "data"), window=window, cached=True)
    made.file.mark = mark
    trace = Noting()
    readers = [Reader(made, offset) for offset in (0, 5, 50 << 20)]
    hot = [rng.randrange(SIZE - (51 << 20)) for _ in range(12)] + [(place << PLACE_SHIFT) + 7 for place in range(5)]
    expected: list[Any] = []
    told = {True: 0, False: 0}
    for round_, threshold in enumerate((0, FULL // 2, FULL // 4, FULL, 0, FULL // 3, 1, FULL // 2, 0)):
        made.ledger.sample(trace if threshold else None, threshold)
        if round_ % 3 == 2:
            while len(made.idle):
                made.idle.pop_oldest()
        for _ in range(300):
            reader, kind = rng.choice(readers), rng.choice(KINDS)
            start, size = rng.choice(hot) + rng.randrange(64), rng.randrange(1, 200)
            if kind in ("view", "cursor", "find"):  # what is mapped: the policy keeps it idle
                key = (start + reader.offset) // window
                if (start + reader.offset + size - 1) // window != key:
                    continue
                if made.file.table.find(key) is None:
                    keep(made, key)
            found = reader.read(kind, start, size)
            if found is None:
                continue
            sampled = place_hash(made.file.mark, found[1] >> PLACE_SHIFT) < threshold
            told[sampled] += 1
            if sampled:
                expected.append(found)
            assert trace.before_reads == trace.after_reads == expected, (kind, start, threshold)
            assert readers[0].buffer._access.sampled(found[1]) is sampled
    assert min(told.values()) > 400
    for reader in readers:
        reader.cursor._use = None, 0, 0
        reader.buffer = reader.cursor = None
    made.close()


def keep(made: Bench, key: int) -> None:
    start = key * made.window
    region = made.make(start, min(start + made.window, SIZE), key)
    made.idle.add(region.entry, region)


def test_read_that_fails_is_not_done(engine: Any, bench: Any) -> None:
    made = bench(10 * G)
    trace = Noting()
    made.ledger.sample(trace, FULL)
    data, cursor = made.buffer(), made.cursor()

    def fail(*_: Any) -> None:
        raise InterruptedError

    made._fetch = made._map_range = cursor.during = fail
    for read in (lambda: data[G : G + 8], lambda: data[G], lambda: data.view(0, 3), lambda: cursor.use_region(G, 9)):
        with pytest.raises(InterruptedError):
            read()
    assert [kind for kind, *_ in trace.before_reads] == [COPY, COPY, VIEW, CURSOR]
    assert trace.after_reads == []


def test_trace_is_released_when_it_ends_and_with_its_ledger(engine: Any) -> None:
    ledger, trace = engine.Ledger(), Noting()
    ledger.sample(trace, FULL)
    gone = weakref.ref(trace)
    assert ledger.trace is trace
    del trace
    ledger.sample(None, 0)
    dead()
    assert gone() is None
    assert ledger.trace is None
    trace = Noting()
    gone = weakref.ref(trace)
    ledger.sample(trace, FULL)
    del trace, ledger
    dead()
    assert gone() is None
