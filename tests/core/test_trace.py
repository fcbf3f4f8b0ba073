"""What a trace records, beside what was read; and that nothing is left of it when it ends."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

import smmap
from smmap import _system, _trace
from smmap import _trace_format as form
from smmap._places import COPY, CURSOR, FULL, VIEW, place_hash
from smmap._trace_format import COLD, HIT, MISS, TraceError

from ._tools import PYPY, G, World

W = 2 * G


class Read(NamedTuple):
    name: str
    start: int
    stop: int
    kind: int
    outcome: int


def reads(path: Any, partial: bool = False) -> list[Read]:
    """The reads of a trace, decoded by the words of the documentation."""
    found = form.load(str(path), partial)
    decoded = []
    for number, size, word in struct.iter_unpack("<IIQ", found.reads):
        start = word & (1 << 56) - 1
        name = os.path.basename(found.files[number].path)
        decoded.append(Read(name, start, start + size, word >> 56 & 15, word >> 60))
    return decoded


def test_each_read_is_recorded_with_its_range_kind_and_outcome(world: World, tmp_path: Path) -> None:
    file = world.file(5 * W + 100, "one")
    manager = world.manager(W, 100 * W)
    before = manager.buffer(file.path)
    with manager.trace(tmp_path / "trace") as trace:
        assert before[3] == file.data[3]
        assert before[W - 5 : W + 5] == file.data[W - 5 : W + 5]
        assert before[-10:] == file.data[-10:]
        assert before[100:50:-10] == file.data[100:50:-10]
        view = before.view(2 * W + 1, 2 * W + 9)
        assert before[2 * W] == file.data[2 * W]
        cursor = manager.make_cursor(file.path).use_region(3 * W, 10)
        cursor.use_region(3 * W + W // 4, 0)
        cursor.use_region(4 * W - 8, 16)
        part = manager.buffer(file.path, 100, 1000)
        assert part[0:7] == file.data[100:107]
        target = bytearray(50)
        assert before.readinto(5 * W + 60, target) == 40
        assert before.unpack_from("<I", 8) == struct.unpack_from("<I", file.data, 8)
    assert trace.closed
    assert reads(tmp_path / "trace") == [
        Read("one", 3, 4, COPY, COLD),
        Read("one", W - 5, W + 5, COPY, COLD),
        Read("one", 5 * W + 90, 5 * W + 100, COPY, COLD),
        Read("one", 60, 101, COPY, COLD),
        Read("one", 2 * W + 1, 2 * W + 9, VIEW, MISS),
        Read("one", 2 * W, 2 * W + 1, COPY, HIT),
        Read("one", 3 * W, 3 * W + 10, CURSOR, MISS),
        Read("one", 3 * W + W // 4, 3 * W + W // 4 + W // 2, CURSOR, HIT),
        Read("one", 4 * W - 8, 4 * W + 8, CURSOR, MISS),
        Read("one", 100, 107, COPY, COLD),
        Read("one", 5 * W + 60, 5 * W + 100, COPY, COLD),
        Read("one", 8, 12, COPY, COLD),
    ]
    assert bytes(view) == file.data[2 * W + 1 : 2 * W + 9]
    cursor.close()


def test_outcomes_agree_with_the_counters_of_the_manager(world: World, tmp_path: Path) -> None:
    files = [world.file(4 * W + number, f"file{number}") for number in range(6)]
    manager = world.manager(W, 8 * W)
    random = Random(1)
    with manager.trace(tmp_path / "trace"):
        buffers = [manager.buffer(file.path) for file in files]
        for _ in range(3000):
            number = int(len(files) ** random.random() - 1)
            start = random.randrange(4 * W) // 64 * 64
            assert buffers[number][start : start + 64] == files[number].data[start : start + 64]
    found = reads(tmp_path / "trace")
    stats = manager.stats()
    outcomes = [sum(read.outcome == outcome for read in found) for outcome in (HIT, MISS, COLD)]
    assert outcomes == [stats.hits, stats.misses, stats.cold_reads]
    assert min(outcomes) > 0
    assert len(found) == 3000


SEARCHED = {
    "find": (lambda data, needle: data.find(needle), 0, 300_010),
    "rfind": (lambda data, needle: data.rfind(needle), 300_000, 500_000),
    "contains": (lambda data, needle: needle in data, 0, 300_010),
    "count": (lambda data, needle: data.count(needle, 10, -10), 10, 499_990),
    "finditer": (lambda data, needle: [one.start() for one in data.finditer(re.escape(needle))], 0, 500_000),
    "equals": (lambda data, needle: data == data, 0, 500_000),
    "bytes": (lambda data, needle: bytes(data), 0, 500_000),
    "views": (lambda data, needle: sum(map(len, data.iter_views())), 0, 500_000),
    "numbers": (lambda data, needle: sum(data), 0, 500_000),
    "integers": (lambda data, needle: sum(one for (one,) in data.iter_unpack("<I")), 0, 500_000),
    "steps": (lambda data, needle: data[::-1], 0, 500_000),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", SEARCHED)
def test_iteration_of_a_buffer_is_recorded_as_far_as_it_went(
    world: World, tmp_path: Path, name: str, mapped: bool
) -> None:
    call, low, high = SEARCHED[name]
    file = world.file(500_000)
    manager = world.manager(W, 100 * W)
    data = manager.buffer(file.path)
    needle = file.data[300_000:300_010]
    if mapped:
        for start in range(0, len(file.data), W):
            data.view(start, start + 1)
    manager.reset_stats()
    with manager.trace(tmp_path / "trace"):
        call(data, needle)
    found = reads(tmp_path / "trace")
    touched = bytearray(len(file.data))
    for read in found:
        touched[read.start : read.stop] = b"x" * (read.stop - read.start)
    expected = bytes(low) + b"x" * (high - low) + bytes(len(file.data) - high)
    last = high + (-high % W or W) if name in ("find", "contains") else high  # a cold window is copied beyond the match
    first = low // W * W if name == "rfind" else low
    assert touched[low:high] == expected[low:high]
    assert not any(touched[:first])
    assert not any(touched[last:])
    if mapped:
        assert {read.outcome for read in found} == {HIT}
        if _system.SEARCHES_MAPS or name not in ("find", "rfind", "contains"):  # else pieces are copied and searched
            assert touched == expected


def test_batches_are_recorded_read_by_read(world: World, tmp_path: Path) -> None:
    file = world.file(4 * W)
    data = world.manager(W, 100 * W).buffer(file.path)
    manager = data._access.client.manager
    with manager.trace(tmp_path / "trace"):
        assert bytes(data.gather([5, W, 3 * W], 4)) == b"".join(file.data[at : at + 4] for at in (5, W, 3 * W))
        assert [bytes(one) for one in data.ranges([1, 9], [3, 9 + W])] == [file.data[1:3], file.data[9 : 9 + W]]
    spans = [(read.start, read.stop) for read in reads(tmp_path / "trace")]
    assert spans == [(5, 9), (W, W + 4), (3 * W, 3 * W + 4), (1, 3), (9, 9 + W)]


def test_errors_are_those_of_an_untraced_read_and_record_nothing(world: World, tmp_path: Path) -> None:
    file = world.file(1000)
    manager = world.manager(W)
    data, cursor = manager.buffer(file.path), manager.make_cursor(file.path)
    wrong: list[Any] = [
        lambda: data[1000],
        lambda: data["x"],
        lambda: data[::0],
        lambda: data.unpack_from("<I", 998),
        lambda: data.readinto(-1, bytearray(3)),
        lambda: data.find(object()),
        lambda: cursor.use_region(-1, 5),
        lambda: cursor.use_region("x"),
    ]

    def raised(call: Any) -> tuple[type, str]:
        with pytest.raises(Exception) as info:
            call()
        return info.type, str(info.value)

    plain = [raised(call) for call in wrong]
    with manager.trace(tmp_path / "trace"):
        assert [raised(call) for call in wrong] == plain
        data.close()
        assert raised(lambda: data[0])[0] is smmap.ClosedError
    assert reads(tmp_path / "trace") == []


def test_other_managers_are_not_recorded(world: World, tmp_path: Path) -> None:
    file = world.file(1000)
    traced, other = world.manager(W), world.manager(W)
    with traced.trace(tmp_path / "trace"):
        assert other.buffer(file.path)[5] == file.data[5]
        assert traced.buffer(file.path)[6] == file.data[6]
    assert [read.start for read in reads(tmp_path / "trace")] == [6]


def test_nothing_is_left_of_a_trace_that_ended(world: World, tmp_path: Path) -> None:
    file = world.file(9 * W)
    one, two = world.manager(W), world.manager(W)
    first = one.trace(tmp_path / "one")
    with two.trace(tmp_path / "two"):
        data = one.buffer(file.path)
        data.view(0, 5)
        first.close()
        first.close()
        assert one._cache.ledger.trace is None
        assert two._cache.ledger.trace is not None
        data[3], data.view(W, W + 3), data[5 * W]
    assert two._cache.ledger.trace is None
    assert len(reads(tmp_path / "one")) == 1
    assert not _trace._traces
    data.close()


def test_a_managers_own_trace_comes_before_one_of_all(world: World, tmp_path: Path) -> None:
    file = world.file(1000)
    everything = _trace.Trace(tmp_path / "all", None)
    manager = world.manager(W)
    data = manager.buffer(file.path)
    try:
        data[1]
        with manager.trace(tmp_path / "own"):
            data[2]
            world.manager(W).buffer(file.path)[3]
        data[4]
    finally:
        everything.close()
    data[5], world.manager(W).buffer(file.path)[6]
    assert [read.start for read in reads(tmp_path / "own")] == [2]
    assert [read.start for read in reads(tmp_path / "all")] == [1, 3, 4]
    assert len(form.load(str(tmp_path / "all")).managers) == 2


def test_regions_that_are_mapped_already_are_recorded_and_counters_stay_right(world: World, tmp_path: Path) -> None:
    file = world.file(8 * W)
    manager = world.manager(W, 100 * W)
    data, cursor, still = manager.buffer(file.path), manager.make_cursor(file.path), manager.make_cursor(file.path)
    for number in range(8):
        data.view(number * W, number * W + 1)
    still.use_region(7 * W, 20)
    data[5]
    manager.reset_stats()
    with manager.trace(tmp_path / "trace"):
        assert data[6] == file.data[6]
        assert data[W : W + 9] == file.data[W : W + 9]
        assert data.view(2 * W, 2 * W + 3) == file.data[2 * W : 2 * W + 3]
        cursor.use_region(3 * W, 7)
        still.use_region(7 * W + 3, 5)
        assert data.unpack_from("<I", 4 * W) == struct.unpack_from("<I", file.data, 4 * W)
        assert data.gather([5 * W, 6 * W], 2) == file.data[5 * W : 5 * W + 2] + file.data[6 * W : 6 * W + 2]
    assert [(read.start // W, read.outcome) for read in reads(tmp_path / "trace")] == [
        (number, HIT) for number in (0, 1, 2, 3, 7, 4, 5, 6)
    ]
    stats = manager.stats()
    assert (stats.hits, stats.misses, stats.cold_reads) == (7, 0, 0), "a move within its region is no use of a window"
    assert [region.key for region in manager._cache.idle] == [0, 1, 2, 4, 5, 6], "exactly in the order of their use"


def test_refused_trace_leaves_the_running_one_whole(world: World, tmp_path: Path) -> None:
    file = world.file(4 * W)
    manager, other = world.manager(W), world.manager(W)
    data = manager.buffer(file.path)
    (tmp_path / "link").symlink_to(tmp_path / "trace")
    with manager.trace(tmp_path / "trace") as trace:
        data[:9], data[W : W + 9]
        with pytest.raises(ValueError, match="already traced"):
            manager.trace(tmp_path / "trace")
        for name in ("trace", "link"):
            with pytest.raises(ValueError, match=r"is already written by another trace: choose another path"):
                other.trace(tmp_path / name)
        data[2 * W : 2 * W + 9]
    assert trace.recorded == 3
    assert [read.start // W for read in reads(tmp_path / "trace")] == [0, 1, 2]
    with other.trace(tmp_path / "trace"):
        pass
    assert not list(reads(tmp_path / "trace"))


def test_one_trace_of_a_manager_at_a_time(world: World, tmp_path: Path) -> None:
    manager = world.manager(W)
    with manager.trace(tmp_path / "one"):
        with pytest.raises(ValueError, match=r"already traced, into .*one"):
            manager.trace(tmp_path / "two")
        assert not (tmp_path / "two").exists()
    with manager.trace(tmp_path / "one"):
        pass
    for rate in (0, -1, 1.5):
        with pytest.raises(ValueError, match="rate must be"):
            manager.trace(tmp_path / "one", rate=rate)
    with pytest.raises(FileNotFoundError):
        manager.trace(tmp_path / "none" / "one")


def test_a_trace_that_cannot_be_written_warns_and_the_reads_go_on(world: World) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("nothing that is full")
    file = world.file(100_000)
    manager = world.manager(W)
    with pytest.warns(RuntimeWarning, match=r"trace '/dev/full' ends here: .*No space left"):
        trace = manager.trace("/dev/full")
    data = manager.buffer(file.path)
    assert [data[place] for place in range(10_000)] == list(file.data[:10_000])
    trace.close()
    assert trace.closed


def test_what_a_signal_handler_raises_as_a_trace_is_written_comes_out(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.file(1000)
    manager = world.manager(W)
    raised = TimeoutError("from a handler")

    def ring(*_: object) -> None:
        raise raised

    trace = manager.trace(tmp_path / "trace")
    data = manager.buffer(file.path)
    assert data[7:9] == file.data[7:9]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", ring)
        with pytest.raises(TimeoutError) as caught:
            trace.close()
    assert caught.value is raised
    assert data[9:12] == file.data[9:12]
    trace.close()
    assert trace.closed


def test_buffers_from_pickles_are_recorded_from_their_first_read_on(world: World, tmp_path: Path) -> None:
    file = world.file(1000)
    data = smmap.buffer(file.path, manager=world.manager(W))
    with smmap.default_manager().trace(tmp_path / "trace"):
        again = pickle.loads(pickle.dumps(data))
        assert again[7:9] == file.data[7:9]
        assert type(again) is smmap.SlidingWindowMapBuffer
        again.close()
    assert [(read.start, read.stop) for read in reads(tmp_path / "trace")] == [(7, 9)]
    smmap.default_manager().close()


def test_sampling_keeps_whole_places_and_says_how_many_reads_there_were(world: World, tmp_path: Path) -> None:
    files = [world.file(5000, f"file{number}") for number in range(300)]
    manager = world.manager(W)
    with manager.trace(tmp_path / "all") as everything:
        read_all(manager, files)
    with manager.trace(tmp_path / "some", rate=0.25) as some:
        read_all(manager, files)
    whole, kept = reads(tmp_path / "all"), reads(tmp_path / "some")
    assert everything.seen == some.seen == form.load(str(tmp_path / "some")).seen == len(whole) == 600
    names = {read.name for read in kept}
    assert 40 < len(names) < 110
    assert [read[:4] for read in whole if read.name in names] == [read[:4] for read in kept], "all or nothing of a file"


def read_all(manager: Any, files: Any) -> None:
    for start in (0, 2000):
        for file in files:
            with manager.buffer(file.path) as data:
                assert data[start : start + 4] == file.data[start : start + 4]


def test_the_rate_is_halved_each_time_that_many_reads_were_recorded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_HALVING", 2000)
    monkeypatch.setattr(_trace, "_AT_ONCE", 100)
    files = [world.file(50, f"file{number}") for number in range(200)]
    manager = world.manager(W)
    buffers = [manager.buffer(file.path) for file in files]
    with manager.trace(tmp_path / "trace") as trace:
        for _ in range(100):
            for data in buffers:
                data[7]
    assert trace.seen == 20_000
    assert trace.recorded < 2000 * 5
    found = form.load(str(tmp_path / "trace"))
    assert found.threshold == trace._threshold <= FULL // 4
    assert len(found.files) == 200


def test_many_files_lower_the_rate_so_that_memory_and_file_stay_small(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_MOST_FILES", 64)
    files = [world.file(50, f"file{number}") for number in range(1000)]
    manager = world.manager(W)
    with manager.trace(tmp_path / "trace") as trace:
        for _ in range(3):
            for file in files:
                with manager.buffer(file.path) as data:
                    assert data[7] == file.data[7]
                assert len(trace._files) <= 64
    found = form.load(str(tmp_path / "trace"))
    assert FULL // 256 < found.threshold <= FULL // 16
    assert len(found.files) < 64 * 8
    assert len({one.path for one in found.files.values()}) == len(found.files), "none is forgotten and met again"
    kept = {number for number, one in found.files.items() if place_hash(one.mark, 0) < found.threshold}
    counts = dict.fromkeys(kept, 0)
    for number, _, _ in struct.iter_unpack("<IIQ", found.reads):
        counts[number] = counts.get(number, 0) + 1
    assert {counts[number] for number in kept} == {3}, "each read of what is sampled to the end"
    assert found.seen is not None
    assert abs(found.seen - 3000) < 30, "each read uses one window"


@pytest.mark.parametrize("kind", ["copies", "cursors"])
def test_sample_says_how_many_reads_there_were_though_counters_were_reset(
    world: World, tmp_path: Path, kind: str
) -> None:
    files = [world.file(3 * W, f"file{number}") for number in range(64)]
    manager = world.manager(W, 500 * W)
    random, count = Random(3), 0
    with manager.trace(tmp_path / "trace", rate=0.3) as trace:
        clients: Any = [manager.buffer(f.path) if kind == "copies" else manager.make_cursor(f.path) for f in files]
        for _ in range(6000):
            client, start = random.choice(clients), random.randrange(2 * W)
            if kind == "copies":
                client[start : start + W]  # of two windows, mostly
            else:
                client.use_region(start, 9)
                client.use_region(start + 1, 7)  # mostly within the region
                count += 1
            count += 1
            if count == 2000:
                manager.reset_stats()
    for client in clients:
        client.close()
    seen = form.load(str(tmp_path / "trace")).seen
    assert trace.recorded < count / 2
    assert seen is not None
    assert abs(seen - count) < 0.12 * count  # which places are kept is random, and makes 2 to 3 % (one sigma)


def test_trace_of_version_1_is_read_with_numbers_for_marks(trace_file: Path) -> None:
    data = trace_file.read_bytes()
    found, at = form.load(str(trace_file)), 24
    old = data[:8] + struct.pack("<H", 1) + data[10:24]
    while at < len(data):
        tag, size, _ = struct.unpack_from("<4sII", data, at)
        body = zlib.decompress(data[at + 12 : at + 12 + size])
        old += form.chunk(tag, body[:16] + body[20:] if tag == b"FILE" else body)
        at += 12 + size
    trace_file.write_bytes(old)
    again = form.load(str(trace_file))
    assert again.reads == found.reads
    assert {number: one._replace(mark=0) for number, one in again.files.items()} == {
        number: one._replace(mark=0) for number, one in found.files.items()
    }
    assert all(one.mark == number for number, one in again.files.items())


def test_threads_lose_no_read(world: World, tmp_path: Path) -> None:
    files = [world.file(9000, f"file{number}") for number in range(4)]
    manager = world.manager(W)
    shared = [manager.buffer(file.path) for file in files]

    def read(seed: int) -> None:
        random = Random(seed)
        for _ in range(5000):
            number, start = random.randrange(4), random.randrange(8000)
            assert shared[number][start : start + 8] == files[number].data[start : start + 8]

    with manager.trace(tmp_path / "trace"):
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = []
    for seed in range(4):
        random = Random(seed)
        expected += [(f"file{random.randrange(4)}", random.randrange(8000)) for _ in range(5000)]
    assert sorted((read.name, read.start) for read in reads(tmp_path / "trace")) == sorted(expected)


@pytest.mark.skipif(PYPY, reason="its collector has no such threshold")
def test_a_read_in_a_finalizer_while_the_trace_is_written_does_not_wait(world: World, tmp_path: Path) -> None:
    file = world.file(100_000)
    manager = world.manager(W)
    data = manager.buffer(file.path)

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            data[5]

    threshold = gc.get_threshold()
    gc.set_threshold(5)
    try:
        with manager.trace(tmp_path / "trace"):
            for place in range(20_000):
                Cycle()
                data[place]
            gc.collect()  # without the interpreter's lock the collector waits for more garbage
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(reads(tmp_path / "trace")) > 20_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_writes_a_file_of_its_own(world: World, tmp_path: Path) -> None:
    file = world.file(9000)
    manager = world.manager(W)
    data = manager.buffer(file.path)
    with manager.trace(tmp_path / "trace") as trace:
        data[1]
        child = os.fork()
        if not child:
            try:
                data[2]
                trace.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        data[3]
    assert [read.start for read in reads(tmp_path / "trace")] == [1, 3]
    assert [read.start for read in reads(f"{tmp_path / 'trace'}.{child}")] == [2]
    assert form.load(f"{tmp_path / 'trace'}.{child}").pid == child


PROGRAM = """
import multiprocessing, os, subprocess, sys
import smmap

def work(place):
    return smmap.buffer(sys.argv[1])[place]

if __name__ == "__main__":
    method = sys.argv[2]
    work(1)
    if method == "command":
        subprocess.run([sys.executable, __file__, sys.argv[1], "none"], check=True)
    elif method != "none":
        process = multiprocessing.get_context(method).Process(target=work, args=(2,))
        process.start()
        process.join()
    smmap.SlidingWindowMapManager(64 << 10).make_cursor(sys.argv[1]).use_region(0, 10)
"""


@pytest.mark.parametrize("method", ["none", "fork", "spawn", "command"])
def test_the_environment_traces_a_program_and_each_process_that_it_starts(
    world: World, tmp_path: Path, method: str
) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork")
    file = world.file(9000)
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "SMMAP_TRACE": str(tmp_path / "trace")}
    environment["PYTHONPATH"] = str(Path(smmap.__file__).parents[1])
    for _ in range(2):  # the second run writes the file anew
        subprocess.run(
            [sys.executable, str(tmp_path / "program.py"), str(file.path), method], env=environment, check=True
        )
    assert [(read.start, read.kind) for read in reads(tmp_path / "trace")] == [(1, COPY), (0, CURSOR)]
    found = form.load(str(tmp_path / "trace"))
    assert [one.window for one in found.managers.values()] == [smmap.default_manager().window_size(), 64 << 10]
    others = [path for path in tmp_path.glob("trace.*") if form.load(str(path)).reads]
    starts = {"none": [], "fork": [2], "spawn": [2], "command": [1, 0]}[method]
    assert [[read.start for read in reads(path)] for path in others] == [starts] * (2 if starts else 0)


def test_a_killed_process_leaves_what_was_written(world: World, tmp_path: Path) -> None:
    file = world.file(9000)
    code = (
        "import os, signal, smmap, sys\ndata = smmap.buffer(sys.argv[1])\n"
        "for place in range(5000): data[place]\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "SMMAP_TRACE": str(tmp_path / "trace")}
    environment["PYTHONPATH"] = str(Path(smmap.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(file.path)], env=environment)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(TraceError, match=r"truncated at offset .*killed.*4,096 reads before it are whole: `--partial`"):
        form.load(str(tmp_path / "trace"))
    assert len(reads(tmp_path / "trace", partial=True)) == 4096


# Files that are no trace, or damaged


@pytest.fixture
def trace_file(world: World, tmp_path: Path) -> Path:
    file = world.file(9000, "übér")
    manager = world.manager(W, 4 * W, 77)
    with manager.trace(tmp_path / "trace"):
        data = manager.buffer(file.path)
        for place in range(500):
            data[place]
    return tmp_path / "trace"


def test_a_trace_says_where_it_comes_from(trace_file: Path) -> None:
    found = form.load(str(trace_file))
    assert found.pid == os.getpid()
    assert found.managers == {0: (W, 4 * W, 77)}
    [one] = found.files.values()
    assert (os.path.basename(one.path), one.size, one.manager) == ("übér", 9000, 0)
    assert found.seen == 500


@pytest.mark.parametrize("content", [b"", b"\x93", b"hello world, this is no trace", b"\x1f\x8b" + bytes(100)])
def test_a_foreign_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(TraceError, match="foreign' is not a trace of smmap"):
        form.load(str(path))
    assert issubclass(TraceError, (smmap.SmmapError,))
    assert issubclass(TraceError, ValueError)


def test_a_trace_that_was_transferred_as_text_is_refused(trace_file: Path) -> None:
    trace_file.write_bytes(trace_file.read_bytes().replace(b"\r\n", b"\n", 1))
    with pytest.raises(TraceError, match="transfer as text"):
        form.load(str(trace_file))


def test_a_trace_of_a_later_version_is_refused(trace_file: Path) -> None:
    data = bytearray(trace_file.read_bytes())
    data[8] = 3
    trace_file.write_bytes(data)
    with pytest.raises(TraceError, match="version 3; this smmap reads version 2"):
        form.load(str(trace_file))


def test_a_trace_cut_off_anywhere_is_a_clear_error(trace_file: Path) -> None:
    whole = trace_file.read_bytes()
    for size in range(len(whole)):
        trace_file.write_bytes(whole[:size])
        with pytest.raises(TraceError, match=r"truncated|not a trace"):
            form.load(str(trace_file))
    trace_file.write_bytes(whole + b"more")
    with pytest.raises(TraceError, match="4 bytes follow the end"):
        form.load(str(trace_file))


def test_a_trace_with_any_changed_byte_is_a_clear_error(trace_file: Path) -> None:
    whole = trace_file.read_bytes()
    for place in range(24, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        trace_file.write_bytes(changed)
        with pytest.raises(TraceError):
            form.load(str(trace_file))


def test_a_sound_chunk_that_is_unknown_is_a_clear_error(trace_file: Path) -> None:
    whole = trace_file.read_bytes()
    body = zlib.compress(b"?")
    strange = struct.pack("<4sII", b"WHAT", len(body), zlib.crc32(body, zlib.crc32(b"WHAT"))) + body
    trace_file.write_bytes(whole[:24] + strange + whole[24:])
    with pytest.raises(TraceError, match="chunk b'WHAT' of 1 bytes is unknown"):
        form.load(str(trace_file))


def test_a_chunk_that_cannot_be_unpacked_is_a_clear_error(trace_file: Path) -> None:
    whole, body = trace_file.read_bytes(), b"no zlib"
    strange = struct.pack("<4sII", b"READ", len(body), zlib.crc32(body, zlib.crc32(b"READ"))) + body
    trace_file.write_bytes(whole[:24] + strange + whole[24:])
    with pytest.raises(TraceError, match="the chunk at offset 24 cannot be read"):
        form.load(str(trace_file))


def test_a_chunk_without_a_sensible_tag_is_a_clear_error(trace_file: Path) -> None:
    whole = trace_file.read_bytes()
    trace_file.write_bytes(whole[:24] + struct.pack("<4sII", b"\0\0\0\0", 0, 0) + whole[24:])
    with pytest.raises(TraceError, match="is not the tag of a chunk"):
        form.load(str(trace_file))


def test_places_are_hashed_evenly() -> None:
    for rate in (0.5, 0.01):
        kept = sum(place_hash(file, place) < rate * FULL for file in range(300) for place in range(300))
        assert abs(kept / 90_000 - rate) < 0.05 * rate + 0.002
