"""The parts of `smmap replay` against slow and simple oracles, and against a real manager."""

from __future__ import annotations

import itertools
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

np: Any = pytest.importorskip("numpy")

import smmap  # noqa: E402
from smmap import _trace_format as form  # noqa: E402
from smmap._places import COPY, CURSOR, FULL, PLACE_SHIFT, VIEW, place_hash  # noqa: E402
from smmap._window import ALLOCATIONGRANULARITY as G  # noqa: E402
from smmap._window import serving  # noqa: E402
from smmap.cli import advice, again, prices, synthetic  # noqa: E402
from smmap.cli.distances import NEVER, distances_of  # noqa: E402
from smmap.cli.policies import POLICIES, Smmap, simulate  # noqa: E402
from smmap.cli.touches import reads_of, touches_of  # noqa: E402

W = 2 * G


def recorded(reads: Sequence[tuple[int, int, int, int]], sizes: Sequence[int], threshold: int = FULL) -> Any:
    """A trace of reads (file, start, size, kind) of files with these sizes."""
    found = form.Recorded(1, 0.0, PLACE_SHIFT, 2, threshold, {0: form.TracedManager(W, 4 * W, 99)})
    found.files = {number + 1: form.TracedFile(f"/{number}", size, 0, number + 1) for number, size in enumerate(sizes)}
    found.reads = b"".join(form.READ.pack(file + 1, size, start | kind << 56) for file, start, size, kind in reads)
    found.seen = len(reads)
    return found


def test_touches_are_the_windows_that_serve_each_read() -> None:
    random = Random(1)
    sizes = [1, 5, W - 1, W, W + 1, 7 * W + 12345, 20 * W]
    reads = []
    for _ in range(3000):
        file = random.randrange(len(sizes))
        start = random.randrange(sizes[file])
        reads.append((file, start, random.randint(1, min(sizes[file] - start, 3 * W)), random.randrange(3)))
    for window in (W, 4 * W, 0):
        touches = touches_of(reads_of(recorded(reads, sizes)), window)
        expected: list[tuple[Any, int, Any, bool]] = []
        for file, start, size, kind in reads:
            if kind == COPY:
                full = window or sizes[file]
                for number in range(start // full, (start + size - 1) // full + 1):
                    low, high = number * full, min((number + 1) * full, sizes[file])
                    read = min(start + size, high) - max(start, low)
                    expected.append(((file, number), high - low, read, True))
            elif kind == VIEW and 0 < window < size:
                low = start - start % G
                expected.append(((file, (low, start + size)), start + size - low, size, False))
            elif kind == VIEW or size <= (window or size):
                found = serving(start, size, window, sizes[file])
                expected.append(((file, found.key), found.stop - found.start, size, False))
            else:  # a cursor gets no more than a window
                found = serving(start, size, window, sizes[file])
                expected.append(((file, found.key), found.stop - found.start, None, False))
        names: dict[Any, int] = {}
        for at, (key, size, read, copies) in enumerate(expected):
            number = int(touches.window[at])
            if read is None:
                continue
            assert names.setdefault(key, number) == number, (window, at, key)
            assert touches.sizes[number] == size, (window, at, key)
            assert touches.copies[at] == copies
            assert touches.read[at] == read
        assert len(set(names.values())) == len(names)
        assert len(touches) == len(expected)


@pytest.mark.parametrize("seed", range(6))
def test_distances_are_what_was_used_in_between(seed: int) -> None:
    random = Random(seed)
    count = random.choice([1, 2, 3, 100, 1500])
    windows = [int(40 ** random.random()) for _ in range(count)]
    sizes = [random.randint(1, 99) for _ in range(41)]
    found = distances_of(np.array(windows), np.array(sizes))
    last: dict[int, int] = {}
    for at, window in enumerate(windows):
        if window in last:
            between = {*windows[last[window] + 1 : at], window}
            assert found.windows[at] == len(between)
            assert found.memory[at] == sum(sizes[one] for one in between)
        else:
            assert found.windows[at] == found.memory[at] == NEVER
        last[window] = at


def test_a_curve_has_the_misses_of_each_limit_simulated_by_itself() -> None:
    random = Random(3)
    windows = [int(300 ** random.random()) for _ in range(5000)]
    sizes = [random.randint(1, 99) for _ in range(301)]
    found = distances_of(np.array(windows), np.array(sizes))
    memories = [100, 500, 1000, 3000, 10_000]
    for memory, share in zip(memories, found.curve(memories)):
        assert share == pytest.approx(simulate("LRU", windows, sizes, memory))
        assert share == found.misses(memory)


def test_a_million_accesses_take_less_than_five_seconds_of_one_processor() -> None:
    windows = (200_001 ** np.random.default_rng(1).random(1_000_000)).astype(np.int64)
    start = time.process_time()
    found = distances_of(windows, np.full(200_001, 65536))
    taken = time.process_time() - start
    assert taken < 5
    assert 0.1 < found.misses(1 << 60) < 0.2


def test_a_sample_gives_nearly_the_curve_of_all() -> None:
    windows = (50_001 ** np.random.default_rng(1).random(400_000)).astype(np.int64)
    sizes = np.full(50_001, 65536)
    memories = [65536 << shift for shift in range(8, 17)]  # of so few windows that a tenth is none, it says little
    whole = distances_of(windows, sizes).curve(memories)
    kept = np.array([place_hash(int(one), 0) < FULL // 10 for one in range(50_001)])[windows]
    sample = distances_of(windows[kept], sizes, 0.1, expected=len(windows) * 0.1).curve(memories)
    assert max(abs(one - other) for one, other in zip(whole, sample)) < 0.04


def brute_force_optimum(windows: Sequence[int], room: int) -> int:
    states = {frozenset[int](): 0}
    for window in windows:
        following: dict[frozenset[int], int] = {}
        for cached, misses in states.items():
            if window in cached:
                options = [(cached, misses)]
            elif len(cached) < room:
                options = [(cached | {window}, misses + 1)]
            else:
                options = [(cached - {victim} | {window}, misses + 1) for victim in cached]
            for state, count in options:
                following[state] = min(following.get(state, sys.maxsize), count)
        states = following
    return min(states.values())


@pytest.mark.parametrize("seed", range(5))
def test_the_optimum_is_the_least_that_any_choice_of_victims_misses(seed: int) -> None:
    random = Random(seed)
    windows = [random.randrange(6) for _ in range(40)]
    for room in (1, 2, 3):
        assert POLICIES["OPT"](windows, [1] * 6, room) == brute_force_optimum(windows, room)


def test_each_policy_is_between_the_optimum_and_no_cache() -> None:
    random = Random(5)
    windows = [int(500 ** random.random()) for _ in range(20_000)]
    sizes = [1] * 501
    for room in (5, 50, 400):
        shares = {name: simulate(name, windows, sizes, room) for name in POLICIES}
        assert all(shares["OPT"] <= share <= 1 for share in shares.values()), shares
    assert {simulate(name, windows, sizes, 1000) for name in POLICIES} == {len(set(windows)) / len(windows)}


def test_sieve_and_two_queues_resist_a_scan() -> None:
    """What they are for: windows that are used often survive a pass over many that are used once."""
    scan = itertools.count(100)
    windows = [one for _ in range(300) for one in (*range(8), *range(8), *itertools.islice(scan, 6))]
    sizes = [1] * (max(windows) + 1)
    assert simulate("LRU", windows, sizes, 10) == 14 / 22
    assert simulate("SIEVE", windows, sizes, 10) < 7 / 22
    assert simulate("2Q", windows, sizes, 12) < 9 / 22


def sieve_by_hand(windows: Sequence[int], room: int) -> int:
    """From the paper's text: a list, newest first; a hand that goes from the oldest to the newest."""
    queue: list[int] = []
    visited: set[int] = set()
    hand: int | None = None
    misses = 0
    for window in windows:
        if window in queue:
            visited.add(window)
            continue
        misses += 1
        if len(queue) >= room:
            at = queue.index(hand) if hand is not None else len(queue) - 1
            while queue[at] in visited:
                visited.discard(queue[at])
                at = at - 1 if at > 0 else len(queue) - 1
            hand = queue[at - 1] if at > 0 else None
            del queue[at]
        queue.insert(0, window)
    return misses


@pytest.mark.parametrize("seed", range(5))
def test_sieve_follows_its_paper(seed: int) -> None:
    random = Random(seed)
    windows = [int(60 ** random.random()) for _ in range(3000)]
    for room in (1, 5, 20):
        assert POLICIES["SIEVE"](windows, [1] * 61, room) == sieve_by_hand(windows, room)


@pytest.mark.parametrize("kind", [COPY, CURSOR, VIEW])
@pytest.mark.parametrize("limits", [(W, 8 * W, 50), (4 * W, 30 * W, 10), (W, 200 * W, 9), (0, 60 * W, 40)])
def test_the_simulated_policy_does_what_a_real_manager_does(
    tmp_path: Path, kind: int, limits: tuple[int, int, int]
) -> None:
    """Use for use: the same hits, misses and cold reads, on files of many sizes, one read a window."""
    random = Random(7)
    sizes = [1 + number * 7777 % (9 * W) for number in range(60)]
    for number, size in enumerate(sizes):
        with open(tmp_path / str(number), "wb") as file:
            file.truncate(size)
    reads = []
    for _ in range(6000):
        file_number = int(60 ** random.random()) - 1
        start = random.randrange(sizes[file_number]) // 64 * 64
        reads.append((file_number, start, min(64, sizes[file_number] - start), kind))
    found = reads_of(recorded(reads, sizes))
    found.paths = [str(tmp_path / path[1:]) for path in found.paths]
    window, memory, handles = limits
    outcome = advice.simulated(touches_of(found, window), memory, handles)
    measured = again.again(found, window, memory, handles)
    assert not measured.stand_ins
    assert (measured.hits, measured.misses, measured.cold_reads) == (
        outcome.hits,
        outcome.misses,
        outcome.cold_reads,
    )
    assert measured.miss_ratio == outcome.miss_ratio
    assert outcome.most_windows <= handles
    assert outcome.most_memory <= memory


def test_stand_ins_are_made_for_files_that_are_gone(tmp_path: Path) -> None:
    found = reads_of(recorded([(0, 5, 10, 0), (1, 0, 3, 0)], [1000, 3]))
    measured = again.again(found, W, 8 * W, 99)
    assert measured.stand_ins
    assert measured.cold_reads == 2


def test_a_sampled_trace_is_filtered_by_its_last_rate() -> None:
    reads = [(file, 0, 10, 0) for file in range(1000)]
    found = reads_of(recorded(reads, [100] * 1000, FULL // 4))
    assert 180 < len(found) < 320
    assert found.rate == 0.25
    assert found.seen == 1000


def test_recommended_limits_suit_a_working_set(tmp_path: Path) -> None:
    """A hundred files of one window, read round and round: nothing helps but room for all of them."""
    reads = [(number % 100, 0, 100, CURSOR) for number in range(20_000)]
    found = reads_of(recorded(reads, [W] * 100))
    costs = prices.Prices(100, 20_000, 1000, 900_000, 50_000)
    present = form.TracedManager(W, 50 * W, 1000)
    result = advice.advise(found, present, costs, sys.maxsize)
    assert result.present.outcome.miss_ratio == 1.0
    assert result.recommended.outcome.miss_ratio == 0.005
    assert 100 * W <= result.recommended.memory <= 200 * W
    assert result.recommended.handles >= 100
    assert "200.0 times fewer than with your present limits" in result.line
    limited = advice.advise(found, present, costs, 60 * W)
    assert limited.recommended.memory <= 60 * W
    assert limited.recommended.outcome.miss_ratio == 1.0, "as bad, with less"
    assert "100.0% with your present limits; " in limited.line
    best = result.recommended
    same = advice.advise(found, form.TracedManager(best.window, best.memory, best.handles), costs, sys.maxsize)
    assert same.line.startswith("keep your present limits (window ")


def test_limits_that_are_as_good_take_less_memory() -> None:
    reads = [(number % 10, 0, 100, CURSOR) for number in range(5000)]
    found = reads_of(recorded(reads, [64 * W] * 10))
    costs = prices.Prices(100, 20_000, 1000, 900_000, 50_000)
    result = advice.advise(found, form.TracedManager(0, 1 << 35, 1000), costs, sys.maxsize)
    assert result.recommended.outcome.most_memory <= result.present.outcome.most_memory / 8
    assert "mapped at most" in result.line


def test_windows_are_judged_up_to_the_first_that_holds_the_largest_file() -> None:
    costs = prices.Prices(100, 20_000, 1000, 900_000, 50_000)
    for size, expected in (
        (1000, [64]),
        (70_000, [64, 256]),
        (1 << 20, [64, 256, 1024]),
        (1 << 30, [64, 256, 1024, 4096, 16384]),
    ):
        found = reads_of(recorded([(0, 0, 10, 0)] * 50, [size]))
        result = advice.advise(found, form.TracedManager(64 << 10, 1 << 30, 100), costs, sys.maxsize)
        assert [curve.window >> 10 for curve in result.curves] == expected


def test_a_sample_is_not_asked_about_fewer_windows_than_it_has() -> None:
    assert advice._memories(1 << 30, 64 << 10, 1.0)[0] == 64 << 10
    assert advice._memories(1 << 30, 64 << 10, 0.01)[0] >= 800 * (64 << 10)


def test_prices_are_those_of_this_machine() -> None:
    found = prices.measure()
    assert 0 < found.hit <= found.cold_read
    assert found.hit < found.miss < 1e9
    assert found.total(2, 1, 1) == 2 * found.hit + found.miss + found.cold_read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random:files=3", "does not start with 'zipf'"),
        ("zipf:file=3", "'file' is not one of files, accesses, size, read, seed"),
        ("zipf:files=x", "is not a size"),
        ("zipf:files=0", "files must be at least 1"),
        ("zipf:size=1K,read=4K", "do not fit"),
    ],
)
def test_a_wrong_specification_is_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic.parse(text)


def test_synthetic_reads_follow_zipf_and_stay_inside_the_files() -> None:
    spec = synthetic.parse("zipf:files=1000,accesses=300000,size=64K,read=1000,seed=3")
    assert spec == (1000, 300_000, 65536, 1000, 3)
    parts = list(synthetic.chunks(spec))
    file = np.concatenate([one for one, _ in parts])
    offset = np.concatenate([one for _, one in parts])
    assert len(file) == 300_000
    assert offset.min() >= 0
    assert offset.max() + 1000 <= 65536
    counts = np.bincount(file, minlength=1000)
    assert counts[0] / len(file) == pytest.approx(np.log(2) / np.log(1001), rel=0.03)
    assert counts.min() > 0


def test_synthetic_misses_are_those_of_all_accesses_simulated_at_once() -> None:
    spec = synthetic.Spec(2000, 400_000, W, 4096)
    found = synthetic.simulate(spec, W, 300 * W, 10_000)
    windows = np.concatenate([file for file, _ in synthetic.chunks(spec)]).tolist()
    cache: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for window in windows:
        if window in cache:
            cache.move_to_end(window)
            continue
        misses += 1
        cache[window] = None
        if len(cache) > 256:
            cache.popitem(last=False)
    at = found.memories.index(256 * W)
    assert found.misses[at] == pytest.approx(misses / len(windows), abs=0.02)
    assert found.outcome.uses == 400_000
    assert [stage.files for stage in found.stages] == sorted(stage.files for stage in found.stages)


def test_the_simulated_manager_takes_the_same_memory_however_many_files_there_are() -> None:
    policy = Smmap(100 * W)
    for start in range(0, 400_000, 20_000):
        part = range(start, start + 20_000)
        policy.use(part, [10] * 20_000, [True] * 20_000, lambda _: W, [W] * 20_000)
    assert len(policy._idle) <= 100
    assert len(policy._rents._young) + len(policy._rents._old) <= 5000
    assert policy.outcome.uses == 400_000


def test_real_files_are_read_by_a_real_manager() -> None:
    stages = synthetic.files_for_real(synthetic.Spec(300, 9000, W, 512), W, 10 * W, 50)
    assert 250 < stages[-1].files <= 300
    assert smmap.default_manager().stats().mapped == 0


@pytest.mark.parametrize("even", [True, False])
def test_a_sample_with_more_or_fewer_places_than_its_share_predicts_the_same_misses(even: bool) -> None:
    """Whether the places are read alike, or a few of them most of the time."""
    rng = Random(3)
    count, files = 40_000, 2000
    order = [rng.randrange(files) if even else int(files ** rng.random()) - 1 for _ in range(count)]
    reads = [(number, 0, 100, CURSOR) for number in order]
    every = reads_of(recorded(reads, [100] * files))
    memory = 100 * files // 8
    wanted = distances_of(*_windows_of(every)).misses(memory)
    off, plainly = [], []
    for shift in range(20):  # other samples: each by other marks
        found = recorded(reads, [100] * files, FULL // 4)
        found.seen = count
        found.files = {number: one._replace(mark=number + files * shift) for number, one in found.files.items()}
        sample = reads_of(found)
        window, sizes = _windows_of(sample)
        distances = distances_of(window, sizes, 0.25, float(sample.expected(len(sample))))
        off.append(abs(distances.misses(memory) - wanted))
        plainly.append(abs(distances_of(window, sizes, 0.25).misses(memory) - wanted))
    assert sum(off) / len(off) < 0.02
    assert max(off) < 0.05
    assert sum(off) < 1.2 * sum(plainly)


def _windows_of(reads: Any) -> Any:
    touches = touches_of(reads, W)
    return touches.window, touches.sizes


def test_recommended_limits_give_the_predicted_misses_though_copies_are_read_cold(tmp_path: Path) -> None:
    rng = Random(5)
    paths = [tmp_path / f"{number}" for number in range(400)]
    for path in paths:
        path.write_bytes(bytes(200_000))
    with smmap.SlidingWindowMapManager(W, 2 << 20, 3000) as manager:
        buffers = [manager.buffer(path) for path in paths]
        with manager.trace(tmp_path / "trace"):
            for _ in range(20_000):
                start = rng.randrange(190_000)
                buffers[int(400 ** rng.random()) - 1][start : start + 500]
        for buffer in buffers:
            buffer.close()
    reads = reads_of(form.load(str(tmp_path / "trace")))
    costs = prices.Prices(2000.0, 40_000.0, 3500.0, None, None)
    best = advice.advise(reads, form.TracedManager(W, 2 << 20, 3000), costs, sys.maxsize).recommended
    real = again.again(reads, best.window, best.memory, best.handles)
    assert real.cold_reads > 1000
    assert abs(real.miss_ratio - best.outcome.miss_ratio) < 0.01
