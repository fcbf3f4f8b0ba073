"""Every system call that the library makes fails, each in turn, in every way: right bytes or a named error.

And it costs nothing: the ledger is exact, nothing is leaked, a cursor whose move failed stays as it was, and the same
call works as soon as the system does. First by a seam (see `_seam.py`), then for real, in processes under limits.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import smmap
from core._tools import LATE, LINUX, G, descriptors, linux, maps, open_to_all, payload, reclaim, run_python
from smmap import FileChangedError, LimitError, SmmapError, _system
from smmap._engine import chosen as engine

from ._seam import CODES, DEPTHS, OUT_OF_MEMORY, OWN, Seam, name_of_code

W = 2 * G
SIZE = 8 * W + 77
Buffer = smmap.SlidingWindowMapBuffer
posix = pytest.mark.skipif(os.name != "posix", reason="patches calls that only POSIX has")
pytestmark = posix
codes = pytest.mark.parametrize("code", CODES, ids=name_of_code)
depths = pytest.mark.parametrize("depth", DEPTHS)
RUN_OUT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, OUT_OF_MEMORY}
MADE_WAY = {OUT_OF_MEMORY, errno.ENOMEM} | (_system.NO_DESCRIPTOR if engine.MAP_COSTS_DESCRIPTOR else set())
"""After these, a cursor gives up its own region for the one that it moves to."""
DATA = {
    name: payload(size, name) for name, size in [("a", SIZE), ("b", 3 * W), ("d", W), ("new", 2 * W + 5), ("empty", 0)]
}
DATA["link"] = DATA["a"]


class World:
    """A manager with limits so small that every step evicts, and clients of four files."""

    def __init__(self, folder: Path, backing: str) -> None:
        self.folder = folder
        self.manager = smmap.SlidingWindowMapManager(W, 3 * W, 5, backing=backing)
        for name in ("a", "b", "d", "empty"):
            if name == "b" or not (folder / name).exists():
                (folder / name).write_bytes(DATA[name])
        if not (folder / "link").is_symlink():
            (folder / "link").symlink_to(folder / "a")
        self.number = os.open(folder / "d", os.O_RDONLY)
        self.things: dict[str, Any] = {}

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def put(self, key: str, thing: Any) -> None:
        self.things[key] = thing

    def move(self, key: str, data: str, offset: int, size: int, flags: int = 0) -> None:
        """Move a cursor; it has the right bytes then."""
        cursor = self.things[key]
        cursor.use_region(offset, size, flags)
        assert cursor.is_valid() == (offset < len(DATA[data]))
        if cursor.is_valid():
            assert cursor.size() == min(size, W, len(DATA[data]) - offset) or not size
            assert cursor.buffer() == DATA[data][offset : offset + cursor.size()]

    def read(self, key: str, start: int, stop: int, step: int = 1) -> None:
        assert self.things[key][start:stop:step] == DATA["a"][start:stop:step]

    def view(self, key: str, start: int, stop: int) -> None:
        assert self.things[key].view(start, stop) == DATA["a"][start:stop]

    def replace(self) -> None:
        """Another file takes the place of `b`; its old clients have their own bytes or an error from then on."""
        (self.folder / "new").write_bytes(DATA["new"])
        os.replace(self.folder / "new", self.folder / "b")

    def old(self, key: str, offset: int, size: int) -> None:
        try:
            self.move(key, "b", offset, size)
        except FileChangedError:
            pass

    def close(self) -> None:
        for key in sorted(self.things):
            self.things.pop(key).close()
        self.manager.close()
        os.close(self.number)


class Step:
    """One call: what it does, which file its errors name, and an offset in the range that they name (or None)."""

    def __init__(self, name: str, file: str, call: Callable[[World], Any], asked: int | None = None) -> None:
        self.name, self.file, self.call, self.asked = name, file, call, asked

    def __repr__(self) -> str:
        return self.name


def steps() -> Iterator[Step]:
    def made(key: str, make: Callable[[World], Any]) -> Callable[[World], None]:
        return lambda world: world.put(key, make(world))

    def moved(*args: Any) -> Callable[[World], None]:
        return lambda world: world.move(*args)

    def read(*args: Any) -> Callable[[World], None]:
        return lambda world: world.read(*args)

    yield Step("limits", "a", lambda w: w.manager.max_file_handles() == 5 or 1 / 0)
    yield Step("cursor", "a", made("c", lambda w: w.manager.make_cursor(w.path("a"))))
    yield Step("move", "a", moved("c", "a", W + 1, 9), W + 1)
    yield Step("move to a seam", "a", moved("c", "a", 2 * W - 5, 10), 2 * W - 5)
    yield Step("move to a wide window", "a", moved("c", "a", 3 * W - 5, W), 3 * W - 5)
    yield Step("move to all from here", "a", moved("c", "a", 5 * W + 1, 0), 5 * W + 1)
    yield Step("move by flags", "a", moved("c", "a", 5 * W + 9, 9, os.O_NOFOLLOW), 5 * W + 9)
    yield Step("second cursor", "b", made("d", lambda w: w.manager.make_cursor(os.fsencode(w.path("b")))))
    yield Step("move the second", "b", moved("d", "b", 0, W), 0)
    yield Step("cursor of a link", "link", made("l", lambda w: w.manager.make_cursor(w.folder / "link")))
    yield Step("move by the link", "link", moved("l", "link", 7 * W, W), 7 * W)
    yield Step("cursor of a descriptor", "", made("n", lambda w: w.manager.make_cursor(w.number)))
    yield Step("move by the descriptor", "", moved("n", "d", 5, 9), 5)
    yield Step("let go", "a", lambda w: w.things["c"].unuse_region())
    yield Step("nothing is in the file", "empty", made("e", lambda w: w.manager.make_cursor(w.path("empty"))))
    yield Step("move to nothing", "empty", moved("e", "empty", 0, 5))
    yield Step("buffer of a cursor", "a", made("b", lambda w: Buffer(w.things["c"])), 0)
    for number in range(8):  # rented, then bought
        yield Step(f"cold read {number}", "a", read("b", 4 * W + number, 4 * W + number + 99), 4 * W + number)
    yield Step("hit", "a", read("b", 4 * W + 5, 4 * W + 50))
    yield Step("cold read of many", "a", read("b", 5, SIZE))
    yield Step("cold read with gaps", "a", read("b", 7, SIZE, 1000))
    yield Step("evict", "a", lambda w: w.manager.collect())
    yield Step("view", "a", lambda w: w.view("b", W + 5, W + 500), W + 5)
    yield Step("long view", "a", lambda w: w.view("b", 5, 3 * W), 5)
    yield Step("search", "a", lambda w: w.things["b"].find(DATA["a"][-9:]) == SIZE - 9 or 1 / 0)
    yield Step("search back", "a", lambda w: w.things["b"].rfind(DATA["a"][:9]) == 0 or 1 / 0)
    yield Step("count", "a", lambda w: w.things["b"].count(DATA["a"][:9]) == 1 or 1 / 0)
    yield Step("compare", "a", lambda w: w.things["b"] == DATA["a"] or 1 / 0)
    yield Step("cursor of the buffer", "a", lambda w: w.things["b"].cursor().buffer() == DATA["a"][:W] or 1 / 0, 0)
    yield Step("end", "a", lambda w: w.things["b"].end_access())
    yield Step("buffer of a path", "a", made("p", lambda w: w.manager.buffer(w.path("a"), access="random")))
    yield Step("view with advice", "a", lambda w: w.view("p", 2 * W + 5, 2 * W + 50), 2 * W + 5)
    yield Step("cold read of one", "a", read("p", SIZE - 1, SIZE), SIZE - 1)
    yield Step("release", "a", lambda w: w.manager.release(w.folder))
    yield Step("statistics", "a", lambda w: w.manager.stats())
    yield Step("again the first", "a", moved("c", "a", 0, 9), 0)
    yield Step("replaced", "b", lambda w: w.replace())
    yield Step("cursor of the new one", "b", made("f", lambda w: w.manager.make_cursor(w.path("b"))))
    yield Step("move in the old one", "b", lambda w: w.old("d", 2 * W, 9), 2 * W)
    yield Step("move in the new one", "b", moved("f", "new", W, 0), W)
    yield Step("past the end", "a", moved("c", "a", SIZE, 9))
    yield Step("unpickled", "a", made("u", lambda w: pickle.loads(pickle.dumps(w.things["p"]))))
    yield Step("read what was unpickled", "a", read("u", 3 * W - 5, 3 * W + 5))
    yield Step("close", "a", lambda w: [w.things.pop(key).close() for key in sorted(w.things)])
    yield Step("close all", "a", lambda w: w.manager.close())


STEPS = list(steps())


def cursors(world: World) -> dict[str, Any]:
    """Where each cursor is, and what it reads."""
    return {
        key: (thing.is_valid(), thing.ofs_begin(), thing.size(), bytes(thing.buffer()))
        for key, thing in world.things.items()
        if isinstance(thing, smmap.WindowCursor) and thing.is_valid()
    }


def check_error(error: BaseException, step: Step, world: World, seam: Seam) -> None:
    """A promised error: of the system's number, with the file's name, and the window where one was to be made."""
    _, _, code = seam.faults[-1]
    said = f"{step}: {seam.faults} {error!r}"
    assert isinstance(error, OSError), said
    assert error.errno == (errno.ENOMEM if code == OUT_OF_MEMORY else code), said
    assert isinstance(error, LimitError) == isinstance(error, SmmapError) == (code in RUN_OUT), said
    text = str(error)
    wanted = world.path(step.file) if step.file else f"descriptor {world.number}"
    assert error.filename is not None, said
    assert os.fsdecode(error.filename) == wanted, said
    assert wanted in text, said
    if code in RUN_OUT:
        advice = {errno.EMFILE: "RLIMIT_NOFILE", errno.ENFILE: "fs.file-max", errno.EAGAIN: "RLIMIT_MEMLOCK"}
        assert advice.get(code, "vm.max_map_count") in text, said
    if step.asked is not None:
        span = re.search(r"\[(\d+), (\d+)\)", text)
        assert span, said
        assert int(span[1]) <= step.asked < int(span[2]), said


def go(world: World, seam: Seam, todo: list[Step]) -> int:
    """Do the steps, each again until it works; how often one failed."""
    failures = 0
    for step in todo:
        before = cursors(world)
        failed = False
        try:
            with seam:
                step.call(world)
        except (OSError, MemoryError) as error:
            if not seam.faults:
                raise
            error.__traceback__ = None
            check_error(error, step, world, seam)
            failed = True
        world.manager._check()
        smmap.default_manager()._check()
        if failed:
            failures += 1
            after = cursors(world)
            if len(seam.faults) > 1 and seam.faults[-1][2] in MADE_WAY:
                # The cursor's own region went to make room, and another map of it was refused, too
                lost = before.keys() - after.keys()
                assert not lost or (len(lost) == 1 and step.asked is not None), step
                before = {key: before[key] for key in before.keys() - lost}
            assert after == before, step
            step.call(world)  # works as soon as the system does
            world.manager._check()
    return failures


def nothing_left(world: World) -> None:
    smmap.default_manager().collect()
    for _ in range(4 if LATE else 0):
        reclaim()
        world.manager.collect()
        smmap.default_manager().collect()
    for manager in (world.manager, smmap.default_manager()):
        manager._check()
        stats = manager.stats()
        counts = (
            stats.mapped,
            stats.pinned,
            stats.idle,
            stats.detached,
            stats.mapped_memory,
            stats.files,
            stats.descriptors,
        )
        assert counts == (0,) * 7, stats
        if not _system.PYPY:  # its dictionaries refer for a while to what was removed
            assert not manager._files._by_key
            assert not manager._files._by_name
    if LINUX:
        assert descriptors(world.folder) == []
        assert maps(world.folder) == []


def run(folder: Path, backing: str, seam: Seam) -> int:
    world = World(folder, backing)
    failures = go(world, seam, STEPS)
    world.close()
    nothing_left(world)
    return failures


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files are; the process's manager is small, too."""
    monkeypatch.setattr(smmap._default, "_manager", smmap.SlidingWindowMapManager(W, 3 * W, 5))
    return tmp_path


BACKINGS = ["auto", "mmap", "read"]


@depths
@pytest.mark.parametrize("backing", BACKINGS)
def test_without_faults(depth: str, backing: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene makes every call that there is, so that each can fail below."""
    seam = Seam(monkeypatch, depth)
    assert run(folder, backing, seam) == 0
    if depth == "seam":
        wanted = {"examine", "open_file", "map_window"} | ({"read_window"} if backing == "read" else set())
        wanted |= {"read_at"} if smmap.engine == "plain" else set()
    else:
        wanted = {"os.stat", "os.fstat", "os.open", "os.dup", "os.pread", "os.close", "mmap.mmap", "mmap.madvise"}
        wanted |= {"fcntl.fcntl", "os.lstat", "open", "resource.getrlimit"}
        if LINUX and depth != "duplicates":
            wanted -= {"os.dup"}
        if smmap.engine == "fast":  # no error of these is looked at
            wanted -= {"os.close", "mmap.madvise"}
    if backing == "read":
        wanted -= {"map_window", "mmap.madvise"}
    assert wanted <= set(seam.counted), seam.counted


def count_calls(folder: Path, backing: str, depth: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        seam = Seam(patch, depth)
        run(folder, backing, seam)
        return len(seam.log)


def exhaust(
    folder: Path, backing: str, depth: str, chosen_codes: list[int], lasting: bool, own: Counter[Any] | None = None
) -> dict[str, int]:
    """Let each call fail, one in each run, by each code, or by the codes in turn if there are fewer than all.

    `lasting`: from there on all calls of that name fail, until the step fails or ends. How often which call failed.
    """
    failed: dict[str, int] = {}
    every = len(chosen_codes) == len(CODES)
    stride = 1 if every else 31 if _system.PYPY else 7 if LATE else 1  # collecting garbage after each run takes long
    for chosen in range(0, count_calls(folder, backing, depth), stride):
        for code in chosen_codes if every else chosen_codes[chosen % len(chosen_codes) :][:1]:
            with pytest.MonkeyPatch.context() as patch:
                seam = Seam(patch, depth)
                seam.wants = OneFault(seam, chosen, code, lasting)
                seen = run(folder, backing, seam)
                assert seam.faults or code == OUT_OF_MEMORY
                assert lasting or len(seam.faults) <= 1
                assert seen <= len(seam.faults)
                if own is not None:
                    own.update(seam.own)
                for name, _, _ in seam.faults:
                    failed[name] = failed.get(name, 0) + 1
    return failed


class OneFault:
    """The call of this number fails, and if it lasts all later ones of its name, until the seam is disarmed."""

    def __init__(self, seam: Seam, chosen: int, code: int, lasting: bool) -> None:
        self.seam, self.chosen, self.code, self.lasting = seam, chosen, code, lasting
        self.name, self.turn = "", -1

    def __call__(self, name: str, number: int) -> int | None:
        if number == self.chosen:
            self.name, self.turn = name, self.seam.turns
            return self.code
        return self.code if self.lasting and name == self.name and self.turn == self.seam.turns else None


@pytest.mark.long
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(
    ("backing", "depth"), [("auto", "seam"), ("auto", "duplicates"), *((backing, "system") for backing in BACKINGS)]
)
def test_each_call_fails(backing: str, depth: str, lasting: bool, folder: Path) -> None:
    """Each call once, by the codes in turn: the next test is the whole of it."""
    failed = exhaust(folder, backing, depth, CODES[:-1], lasting)
    assert sum(failed.values()) >= (5 if LATE else 150 if smmap.engine == "plain" else 40)


@pytest.mark.skipif(smmap.engine != "fast", reason="the plain engine's calls are among those above")
@codes
@pytest.mark.parametrize("name", OWN)
def test_each_call_of_the_fast_engine_fails_by_each_code(
    name: str, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its system calls: the third time in the first run, then the next, until no run makes so many."""
    if code == OUT_OF_MEMORY and name not in ("os.pread", "mmap.mmap"):
        pytest.skip("takes no memory of Python's")
    depth = "duplicates" if name == "os.dup" else "system"
    for turn in range(0, 30, 3):
        with pytest.MonkeyPatch.context() as patch:
            seam = Seam(patch, depth)
            seam.wants = Own(seam, name, turn, code)
            run(folder, "auto", seam)
            if not seam.own[name, code]:
                assert turn > 0, f"{name} was never made to fail"
                break


class Own:
    """The fast engine's call of that name and number fails."""

    def __init__(self, seam: Seam, name: str, number: int, code: int) -> None:
        self.seam, self.name, self.left, self.code = seam, name, number, code

    def __call__(self, name: str, _number: int) -> int | None:
        if name == self.name and sys._getframe(2).f_code.co_name == "code_of":
            self.left -= 1
            return self.code if self.left == -1 else None
        return None


@pytest.mark.slow
@depths
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("backing", BACKINGS)
def test_each_call_fails_in_every_way(backing: str, lasting: bool, depth: str, folder: Path) -> None:
    own: Counter[tuple[str, int]] = Counter()
    failed = exhaust(folder, backing, depth, CODES, lasting, own)
    if smmap.engine == "fast" and depth != "seam":
        made = [name for name in OWN if name != "os.dup" or depth == "duplicates"]
        memory = {("os.pread", OUT_OF_MEMORY), ("mmap.mmap", OUT_OF_MEMORY)}
        assert {(name, code) for name in made for code in CODES[:-1]} | memory <= set(own), own
    print(f"{sum(failed.values())} faults injected:", failed)


# At random


class Chance:
    """Each call fails with this probability, by any code."""

    def __init__(self, rng: random.Random, probability: float) -> None:
        self.rng, self.probability = rng, probability

    def __call__(self, name: str, number: int) -> int | None:
        return self.rng.choice(CODES) if self.rng.random() < self.probability else None


NAMES = ["a", "b", "d", "empty", "link"]


class Chaos(World):
    """Random calls on random clients while random system calls fail; the bytes are known from the files' names."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        super().__init__(folder, self.rng.choice(BACKINGS))
        self.clients: list[tuple[Any, bytes]] = []

    def step(self) -> None:
        """One call. What it raises is checked by the caller."""
        rng, clients = self.rng, self.clients
        choice = rng.randrange(12)
        if choice == 0 or not clients:
            name = rng.choice(NAMES)
            path: Any = self.number if name == "d" else self.path(name)
            if len(clients) > 5:
                clients.pop(rng.randrange(len(clients)))[0].close()
            kind = rng.randrange(3)
            cursor = self.manager.make_cursor(path) if kind else self.manager.buffer(path, access="random")
            if kind == 2 and name != "empty":
                cursor = Buffer(cursor)
            clients.append((cursor, DATA[name]))
        elif choice == 1:
            rng.choice([self.manager.collect, self.manager.stats, lambda: self.manager.release(self.folder)])()
        elif choice == 2:
            client, _ = rng.choice(clients)
            getattr(client, "unuse_region", getattr(client, "__len__", None))()
        else:
            client, data = rng.choice(clients)
            start, size = rng.randrange(len(data) + 1), rng.choice([0, 1, 9, G, W - 1, W, 3 * W])
            if isinstance(client, smmap.WindowCursor):
                client.use_region(start, size, rng.choice([0, 0, 0, os.O_NOATIME if LINUX else 0]))
                if client.is_valid():
                    assert client.size() == (min(size, W, len(data) - start) if size else client.size())
                    assert client.buffer() == data[start : start + client.size()]
            elif choice < 6:
                assert client.view(start, start + size) == data[start : start + size]
            elif choice < 8:
                needle = data[start : start + 9]
                assert client.find(needle, start) == start
            else:
                assert client[start : start + size] == data[start : start + size]

    def check(self, error: BaseException) -> None:
        """A promised error with the name of one of our files."""
        assert isinstance(error, OSError), repr(error)
        assert isinstance(error, LimitError) == (error.errno in RUN_OUT), repr(error)
        assert error.errno in CODES, repr(error)
        name = os.fsdecode(error.filename)
        assert name == f"descriptor {self.number}" or name in map(self.path, NAMES), repr(error)

    def close(self) -> None:
        while self.clients:
            self.clients.pop()[0].close()
        super().close()


def chaos(folder: Path, seed: int, count: int) -> tuple[int, int]:
    """How many faults there were, and how many calls failed."""
    failures = 0
    with pytest.MonkeyPatch.context() as patch:
        seam = Seam(patch, DEPTHS[seed % 2])
        world = Chaos(folder, seed)
        seam.wants = Chance(world.rng, world.rng.choice([0.02, 0.2, 0.6]))
        for _ in range(count):
            before = [here(client) for client, _ in world.clients]
            alive = [client for client, _ in world.clients]
            places = dict(zip(map(id, alive), before))
            try:
                with seam:
                    world.step()
            except (OSError, MemoryError) as error:
                error.__traceback__ = None
                world.check(error)
                failures += 1
                lost = [client for client, _ in world.clients if here(client) != places.get(id(client))]
                # Such a move gives up the cursor's own region, which may then be refused, too.
                made_way = any(code in MADE_WAY for _, _, code in seam.faults)
                assert not lost or (made_way and len(lost) == 1 and not lost[0].is_valid())
            world.manager._check()
        alive.clear()
        lost = []
        world.close()
        nothing_left(world)
    return len(seam.faults), failures


def here(client: Any) -> Any:
    """Where a cursor is, and what it reads."""
    if not isinstance(client, smmap.WindowCursor) or not client.is_valid():
        return None
    return client.ofs_begin(), client.size(), bytes(client.buffer())


SECONDS = float(os.environ.get("SMMAP_STRESS_SECONDS", "0"))


def test_calls_fail_at_random(folder: Path) -> None:
    """Twenty seeds, and more for as long as SMMAP_STRESS_SECONDS says."""
    faults = failures = seed = 0
    end = time.monotonic() + SECONDS
    while seed < (5 if _system.PYPY else 20) or time.monotonic() < end:
        try:
            more, seen = chaos(folder, seed, 150)
        except BaseException:
            print(f"seed {seed}")
            raise
        faults, failures, seed = faults + more, failures + seen, seed + 1
    print(f"{seed} seeds, {faults} faults injected, {failures} calls failed")
    assert failures > (10 if _system.PYPY else 100)


def test_calls_fail_under_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, own cursors and a shared buffer, one manager of five handles, one call in ten fails."""
    seam = Seam(monkeypatch, "system")
    world = World(folder, "auto")
    manager, data = world.manager, DATA["a"]
    clients = [manager.buffer(world.path("a"))]
    seam.wants = Chance(random.Random(1), 0.1)
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        start.wait()
        try:
            cursor = None
            for _ in range(50 if _system.PYPY else 300):
                offset, size = rng.randrange(SIZE), rng.choice([1, 99, W])
                try:
                    if cursor is None:
                        cursor = manager.make_cursor(world.path("a"))
                    if rng.random() < 0.5:
                        assert cursor.use_region(offset, size).buffer() == data[offset : offset + cursor.size()]
                        if rng.random() < 0.3:
                            cursor.unuse_region()
                    elif rng.random() < 0.1:
                        manager.collect()
                    else:
                        assert clients[0][offset : offset + size] == data[offset : offset + size]
                except OSError as error:
                    if error.errno not in CODES or os.fsdecode(error.filename) != world.path("a"):
                        raise
                    error.__traceback__ = None
            if cursor is not None:
                cursor.close()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    with seam:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(seam.faults) > (10 if _system.PYPY else 50)
    clients.pop().close()
    manager._check()
    world.close()
    nothing_left(world)


# And for real

COMMON = """
import errno, os, sys
import smmap
sys.path[:0] = [{tests!r}]
from core._tools import payload
sys.unraisablehook = lambda *_: None        # free-threaded Python's collector itself complains when it gets no memory
folder, W = sys.argv[1], int(sys.argv[2])

def path(name):
    return os.path.join(folder, name)

def refused(call, *words):
    try:
        call()
    except smmap.LimitError as error:
        for word in words:
            assert word in str(error), (word, error)
        assert os.path.dirname(error.filename) == folder, error
        error.__traceback__ = None
        return error.errno
    raise AssertionError("no error")

def zero(manager):
    import gc
    gc.collect()
    manager.collect()
    manager._check()
    stats = manager.stats()
    assert stats[:4] == (0, 0, 0, 0) and stats.mapped_memory == stats.files == stats.descriptors == 0, stats
    with open("/proc/self/maps") as lines:
        assert not [line for line in lines if folder in line]
    for number in os.listdir("/proc/self/fd"):
        try:
            assert folder not in os.readlink("/proc/self/fd/" + number)
        except FileNotFoundError:
            pass

def nobody():
    if os.getuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
""".replace("{tests!r}", repr(str(Path(__file__).parents[1])))


def for_real(script: str, folder: Path, *args: object) -> str:
    for above in [folder, *folder.parents][:3]:
        os.chmod(above, 0o755)  # pytest's own folders are for their owner only
    try:
        done = run_python(f"import sys; sys.path[:0] = {sys.path!r}\n{COMMON}{script}", folder, *args)
    finally:
        os.chmod(folder.parent, 0o700)
    print(done.stdout)
    return done.stdout


def make_files(folder: Path, count: int, size: int) -> None:
    for number in range(count):
        (folder / f"file{number}").write_bytes(payload(size, f"file{number}"))


NO_MAP_IS_LEFT = """
import mmap
count, windows = 12, 4
manager = smmap.SlidingWindowMapManager(W, 0, 10 ** 6)
data = {f"file{number}": payload(windows * W, f"file{number}") for number in range(count)}
idle = manager.make_cursor(path("file0"))
for number in range(3):
    idle.use_region(number * W, 9)
idle.unuse_region()
buffer = manager.buffer(path("file1"))
assert buffer[:9] == data["file1"][:9]
fillers = []
protections = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE     # neighbours that differ do not merge
try:
    while True:
        protection = protections[len(fillers) % 2]
        fillers.append(mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection))
except OSError as error:
    assert error.errno == errno.ENOMEM, error
del fillers[-4:]
for name in data:                                   # idle regions go, one by one, and all of it can be read
    with manager.make_cursor(path(name)) as cursor:
        for number in range(windows):
            offset = number * W + 5
            assert cursor.use_region(offset, 99).buffer() == data[name][offset:offset + 99]
    manager._check()
evictions = manager.stats().evictions
assert evictions > count, manager.stats()
held, errors = [], 0
for name in data:                                   # until all that is left is held
    for number in range(windows):
        cursor = manager.make_cursor(path(name))
        try:
            cursor.use_region(number * W, 9)
        except smmap.LimitError as error:
            error.__traceback__ = None
            errors += 1
            assert not cursor.is_valid()
        else:
            held.append((cursor, name, number * W))
        manager._check()
assert errors and held
name = f"file{count - 1}"
cursor = manager.make_cursor(path(name))
words = "vm.max_map_count", path(name), f"[{2 * W}, {3 * W})"
assert refused(lambda: cursor.use_region(2 * W + 5, 9), *words) == errno.ENOMEM
assert buffer[W:W + 9] == data["file1"][W:W + 9]    # cold reads need no map
for client, name, offset in held:
    assert client.buffer() == data[name][offset:offset + 9]
moving, name, offset = held[0]
moving.use_region(W - 5, W)     # a wide window, for which the cursor's own region goes
assert moving.buffer() == data[name][W - 5:2 * W - 5]
held.pop()[0].close()
name = f"file{count - 1}"
assert cursor.use_region(2 * W + 5, 9).buffer() == data[name][2 * W + 5:2 * W + 14]
del fillers[:]
for _ in range(2):
    for name in data:
        with manager.make_cursor(path(name)) as client:
            assert client.use_region(W - 5, 10).buffer() == data[name][W - 5:W + 5]
manager._check()
print(len(held), "held", errors, "errors", evictions, "evictions")
cursor.close(); buffer.close(); moving.close()
for client, _, _ in held:
    client.close()
del held, cursor, client, moving, buffer, idle
zero(manager)
"""


def max_map_count() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 0


@linux
@pytest.mark.skipif(not 0 < max_map_count() <= 300_000, reason="so many maps are allowed that filling them takes long")
@pytest.mark.skipif(_system.PYPY, reason="PyPy itself needs maps at any moment and dies without")
def test_maps_run_out(tmp_path: Path) -> None:
    """`vm.max_map_count` is nearly used up by the program itself."""
    make_files(tmp_path, 12, 4 * W)
    assert "held" in for_real(NO_MAP_IS_LEFT, tmp_path, W)


NO_MEMORY_IS_LEFT = """
import resource
manager = smmap.SlidingWindowMapManager(W, 0, 10 ** 6, backing="read")
data = payload(W, "file")
count = os.path.getsize(path("file")) // W
def right(view, number):
    return len(view) == W and view[:99] == b"%099d" % number and view[-1:] == b"\\0"
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
room = used + 8 * W
resource.setrlimit(resource.RLIMIT_AS, (room, room))
filler = []
def fill():
    try:
        while True:
            filler.append(bytearray(W // 8))            # not the last byte: the interpreter needs some
    except MemoryError:
        pass
fill()
del filler[-44:]                                        # room for five and a half windows
cursor = manager.make_cursor(path("file"))
for number in range(count):
    assert right(cursor.use_region(number * W, W).buffer(), number)
    manager._check()
evictions = manager.stats().evictions
assert evictions
cursor.unuse_region()
held = []
def more():
    held.append(manager.make_cursor(path("file")))
    held[-1].use_region((len(held) - 1) * W, W)
for _ in range(count - 1):
    try:
        more()
    except smmap.LimitError:
        break
failed = held.pop()
words = "RLIMIT_AS", f"[{len(held) * W}, {(len(held) + 1) * W})"
assert refused(lambda: failed.use_region(len(held) * W, W), *words) == errno.ENOMEM
assert not failed.is_valid()
buffer = manager.buffer(path("file"))
fill()
if "free-threading" not in sys.version:                 # whose allocator may have some left
    assert refused(lambda: buffer[len(held) * W:(len(held) + 1) * W], "RLIMIT_AS", path("file")) == errno.ENOMEM
assert buffer[len(held) * W:len(held) * W + 99] == b"%099d" % len(held)
manager._check()
for number, client in enumerate(held):
    assert right(client.buffer(), number)
held.pop().close()
held.pop().close()
filler.clear()
assert right(failed.use_region((count - 1) * W, W).buffer(), count - 1)
assert buffer[:W][:99] == b"%099d" % 0
print(evictions)
failed.close(); buffer.close()
for client in held:
    client.close()
del client, buffer, failed, held, cursor
zero(manager)
"""


@linux
@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="needs 64-bit addresses")
@pytest.mark.skipif(_system.PYPY, reason="PyPy's collector lets go of memory when it likes, and dies without")
def test_memory_runs_out(tmp_path: Path) -> None:
    """`RLIMIT_AS`, for files that are read into memory."""
    size, count = 32 << 20, 12
    with open(tmp_path / "file", "wb") as file:
        for number in range(count):
            file.seek(number * size)
            file.write(b"%099d" % number)
        file.truncate(count * size)
    assert int(for_real(NO_MEMORY_IS_LEFT, tmp_path, size)) > 0


NO_DESCRIPTOR_IS_LEFT = """
import resource
names = [f"file{number}" for number in range(12)]
data = {name: payload(4 * W, name) for name in names}
open(path("empty"), "wb").close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
manager = smmap.SlidingWindowMapManager(W, 0, 20)
buffers = [manager.buffer(path(name)) for name in names[:6]]
for buffer, name in zip(buffers, names):
    assert buffer[W:W + 9] == data[name][W:W + 9]                 # rented: keeps the file open
kept = manager.stats().descriptors
assert kept == 6, manager.stats()
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    assert error.errno == errno.EMFILE
for name in names[6:9]:                                            # what smmap keeps open goes first
    with manager.make_cursor(path(name)) as cursor:
        assert cursor.use_region(5, 99).buffer() == data[name][5:104]
assert manager.make_cursor(path("empty")).file_size() == 0
assert buffers[-1][2 * W:2 * W + 9] == data["file5"][2 * W:2 * W + 9]
while manager.stats().descriptors or manager.stats().idle:
    manager.collect()
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
cursor = manager.make_cursor(path("file9"))
for _ in range(3):
    assert refused(lambda: cursor.use_region(W, 9), "RLIMIT_NOFILE", path("file9"), f"[{W}, {2 * W})") == errno.EMFILE
    assert refused(lambda: manager.make_cursor(path("empty")), "RLIMIT_NOFILE", path("empty")) == errno.EMFILE
    assert refused(lambda: manager.buffer(path("file10")), "RLIMIT_NOFILE", path("file10")) == errno.EMFILE
    assert refused(lambda: buffers[0][3 * W], "RLIMIT_NOFILE", path("file0")) == errno.EMFILE
    manager._check()
    assert not cursor.is_valid()
for number in taken:
    os.close(number)
assert cursor.use_region(W, 9).buffer() == data["file9"][W:W + 9]
assert buffers[0][3 * W] == data["file0"][3 * W]
cursor.close()
for buffer in buffers:
    buffer.close()
del cursor, buffer, buffers
zero(manager)
print("right")
"""


@linux
def test_descriptors_run_out(tmp_path: Path) -> None:
    """`RLIMIT_NOFILE`: what smmap keeps open only to be fast goes first; then a named error."""
    make_files(tmp_path, 12, 4 * W)
    assert "right" in for_real(NO_DESCRIPTOR_IS_LEFT, tmp_path, W)


NO_LOCKED_MEMORY_IS_LEFT = """
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
manager = smmap.SlidingWindowMapManager(W, 0, 1000)
count = os.path.getsize(path("file")) // W
hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
room = 8 * W if hard == resource.RLIM_INFINITY else min(8 * W, hard)
if room < 6 * W:
    print("cannot lock as much")
    raise SystemExit
resource.setrlimit(resource.RLIMIT_MEMLOCK, (room, room))
nobody()
if libc.mlockall(2):                                   # MCL_FUTURE: what will be mapped
    print("cannot lock", os.strerror(ctypes.get_errno()))
    raise SystemExit
def right(view, number):
    return len(view) == 99 and view == b"%099d" % number
cursor = manager.make_cursor(path("file"))
for number in range(count):
    assert right(cursor.use_region(number * W, 99).buffer(), number)
    manager._check()
assert manager.stats().evictions, manager.stats()
held = []
try:
    while len(held) < count:
        held.append(manager.make_cursor(path("file")))
        held[-1].use_region((len(held) - 1) * W, 99)
except smmap.LimitError as error:
    error.__traceback__ = None
failed = held.pop()
assert refused(lambda: failed.use_region(len(held) * W, 9), "RLIMIT_MEMLOCK", path("file")) == errno.EAGAIN
for number, client in enumerate(held):
    assert right(client.buffer(), number)
held.pop().close()
assert right(failed.use_region((count - 1) * W, 99).buffer(), count - 1)
print("right", len(held))
"""


@linux
@pytest.mark.skipif(_system.PYPY, reason="PyPy's collector maps and unmaps while it runs, and dies without")
def test_locked_memory_runs_out(tmp_path: Path) -> None:
    """`RLIMIT_MEMLOCK` in a process that locks all it maps: the system says EAGAIN."""
    size, count = 1 << 20, 12
    with open(tmp_path / "file", "wb") as file:
        for number in range(count):
            file.seek(number * size)
            file.write(b"%099d" % number)
        file.truncate(count * size)
    os.chmod(tmp_path / "file", 0o644)
    open_to_all(tmp_path)
    out = for_real(NO_LOCKED_MEMORY_IS_LEFT, tmp_path, size)
    if "cannot lock" in out:
        pytest.skip(out.strip())
    assert "right" in out


SIGNALS = """
import random, signal
count = 0
def handler(number, frame):
    global count
    count += 1
signal.signal(signal.SIGALRM, handler)
data = payload(40 * W, "file0")
manager = smmap.SlidingWindowMapManager(W, 4 * W, 6)
cursor, buffer = manager.make_cursor(path("file0")), manager.buffer(path("file0"))
rng = random.Random(1)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for _ in range(100 if sys.implementation.name == "pypy" else 6000):    # whose collector runs each time
    offset = rng.randrange(40 * W - 99)
    assert cursor.use_region(offset, 99).buffer() == data[offset:offset + 99]
    assert buffer[offset:offset + 99] == data[offset:offset + 99]
    manager.make_cursor(path("file0")).close()
signal.setitimer(signal.ITIMER_REAL, 0)
manager._check()
cursor.close(); buffer.close()
del cursor, buffer
zero(manager)
print(count)
"""


@linux
def test_signals_interrupt_nothing(tmp_path: Path) -> None:
    """Signals that arrive in the middle of system calls (EINTR) are not seen."""
    make_files(tmp_path, 1, 40 * W)
    assert int(for_real(SIGNALS, tmp_path, W)) > 20
