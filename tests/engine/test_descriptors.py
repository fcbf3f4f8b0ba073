"""Descriptors: opened as asked, closed once, and never read by after their number was given away."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from core._tools import LINUX, G, World, linux, payload, reclaim
from smmap._files import status_of

from ._tools import (
    CPYTHON,
    Bench,
    Steps,
    alarmed,
    dead,
    every_step,
    interrupt,
    meanwhile,
    needs_python,
    numbers_of,
    shot,
)

SIZE = 3 * G + 7
ways = pytest.mark.parametrize("way", ["alarm", "thread"])


@contextmanager
def user_descriptor(path: Any, flags: int = os.O_RDONLY) -> Iterator[int]:
    number = os.open(path, flags)
    try:
        yield number
    finally:
        os.close(number)


# open_file


@pytest.mark.parametrize("kind", ["str", "bytes", "descriptor"])
def test_opens_what_is_there_and_says_its_status(engine: Any, world: World, kind: str) -> None:
    file = world.file(SIZE)
    with user_descriptor(file.path) as number:
        where = {"str": str(file.path), "bytes": os.fsencode(file.path), "descriptor": number}[kind]
        descriptor, status = engine.open_file(where, 0)
        assert status == status_of(os.stat(file.path))
        assert not descriptor.closed
        assert not descriptor.cached
        assert descriptor.number not in (-1, number)
        assert descriptor.read(9, 5) == file.data[5:14]
        descriptor.close()
        assert os.pread(number, 5, 0) == file.data[:5] if hasattr(os, "pread") else True  # the user's is the user's


@linux
def test_opened_read_only_and_not_inherited(engine: Any, world: World) -> None:
    import fcntl

    file = world.file(SIZE)
    with user_descriptor(file.path, os.O_RDWR) as number:
        os.set_inheritable(number, True)
        for where in (str(file.path), number):
            descriptor, _ = engine.open_file(where, 0)
            assert fcntl.fcntl(descriptor.number, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR) == os.O_RDONLY
            assert not os.get_inheritable(descriptor.number)
            with pytest.raises(OSError):
                os.write(descriptor.number, b"x")
            descriptor.close()
    assert file.path.read_bytes() == file.data


@linux
def test_flags_are_added(engine: Any, world: World) -> None:
    file = world.file(SIZE)
    link = world.folder / "link"
    link.symlink_to(file.path)
    descriptor, _ = engine.open_file(str(link), 0)
    descriptor.close()
    with pytest.raises(OSError) as caught:
        engine.open_file(str(link), os.O_NOFOLLOW)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        engine.open_file(str(file.path), os.O_DIRECTORY)
    assert caught.value.errno == errno.ENOTDIR


@pytest.mark.parametrize("use", ["read", "map_window", "read_window"])
def test_users_descriptor_keeps_its_own_offset(engine: Any, bench: Any, world: World, use: str) -> None:
    made = bench(SIZE)
    with user_descriptor(made.path) as number:
        os.lseek(number, 11, os.SEEK_SET)
        descriptor, _ = engine.open_file(number, 0)
        if LINUX:
            os.lseek(descriptor.number, 99, os.SEEK_SET)  # it is not even shared
        if use == "read":
            assert descriptor.read(5, 50) == made.data[50:55]
        else:
            made.descriptor.close()
            made.descriptor = descriptor
            assert made.make(0, G, kind=use.split("_")[0])[0:G] == made.data[:G]
        assert os.lseek(number, 0, os.SEEK_CUR) == 11
        descriptor.close()
        assert os.read(number, 5) == made.data[11:16]


@linux
def test_users_descriptor_of_a_deleted_file(engine: Any, world: World) -> None:
    file = world.file(SIZE)
    with user_descriptor(file.path) as number:
        file.path.unlink()
        world.file(SIZE, data=b"another file of this name")
        descriptor, status = engine.open_file(number, 0)
        assert descriptor.read(SIZE, 0) == file.data
        assert status.inode == os.fstat(number).st_ino
        descriptor.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
def test_users_descriptor_of_a_file_that_may_not_be_opened_again(engine: Any, world: World) -> None:
    file = world.file(SIZE)
    with user_descriptor(file.path) as number:
        file.path.chmod(0)
        descriptor, _ = engine.open_file(number, 0)
        assert descriptor.read(9, 0) == file.data[:9]
        descriptor.close()


def test_nothing_is_remembered_of_descriptors_that_died(engine: Any, world: World) -> None:
    needs_python(engine)
    file = world.file(SIZE)
    descriptor, _ = engine.open_file(file.path, 0)
    before = len(engine._numbers)
    for _ in range(5):
        descriptor.close()
        descriptor, _ = engine.open_file(file.path, 0)
        reclaim()
    assert len(engine._numbers) <= before + 1
    descriptor.close()


def test_nothing_is_remembered_of_windows_that_were_read(bench: Callable[..., Bench]) -> None:
    """Each was in a file in memory, of which nobody opens another descriptor."""
    made = bench(5 * G, kind="read")
    needs_python(made.engine)
    made.make(0, G, 0)
    before = len(made.engine._numbers)
    for _ in range(20):
        made.make(G, 2 * G, 1)
        reclaim()
    assert len(made.engine._numbers) <= before + 1


@linux
def test_users_descriptor_where_proc_is_not_there(engine: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_python(engine)
    file, opened = world.file(SIZE), os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "no /proc", path)
        return opened(path, *args, **kwargs)

    with user_descriptor(file.path) as number:
        monkeypatch.setattr(os, "open", refuse)
        descriptor, status = engine.open_file(number, 0)
        monkeypatch.undo()
        assert descriptor.number != number
        assert not os.get_inheritable(descriptor.number)
        assert descriptor.read(9, 7) == file.data[7:16]
        assert status.size == SIZE
        descriptor.close()
        assert os.fstat(number).st_size == SIZE


@linux
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_refusal_of_the_system_is_said_and_not_gone_around(
    engine: Any, world: World, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    needs_python(engine)
    file = world.file(SIZE)

    def refuse(path: Any, *_: Any) -> int:
        raise OSError(code, os.strerror(code), path)

    with user_descriptor(file.path) as number:
        for where in (number, str(file.path)):
            monkeypatch.setattr(os, "open", refuse)
            with pytest.raises(OSError) as caught:
                engine.open_file(where, 0)
            monkeypatch.undo()
            assert caught.value.errno == code


def test_error_of_what_is_not_there(engine: Any, world: World) -> None:
    with pytest.raises(FileNotFoundError):
        engine.open_file(str(world.folder / "missing"), 0)
    with pytest.raises(OSError) as caught:
        engine.open_file(987654, 0)
    assert caught.value.errno in (errno.EBADF, errno.ENOENT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe_in_a_files_place_does_not_make_it_wait(engine: Any, world: World) -> None:
    path = world.folder / "pipe"
    os.mkfifo(path)
    descriptor, _ = engine.open_file(str(path), 0)
    assert stat.S_ISFIFO(os.fstat(descriptor.number).st_mode)
    descriptor.close()


# Reading


@pytest.mark.parametrize("size", [0, 1, G, SIZE])
def test_reads_any_range(engine: Any, world: World, size: int) -> None:
    file = world.file(size)
    descriptor, _ = engine.open_file(str(file.path), 0)
    for offset in sorted({0, 1, G - 1, G, max(size - 1, 0), size, size + 1, size + G}):
        for count in (0, 1, 9, G, size, size + 1):
            found = descriptor.read(count, offset)
            assert found == file.data[offset : offset + count]
            assert type(found) is bytes
    descriptor.close()


def test_short_reads_of_the_system_are_continued(engine: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_python(engine)
    if not hasattr(os, "pread"):
        pytest.skip("the system has no pread")
    file, pread = world.file(SIZE), os.pread
    descriptor, _ = engine.open_file(str(file.path), 0)
    monkeypatch.setattr(os, "pread", lambda number, count, offset: pread(number, min(count, 1000), offset))
    for offset, count in [(0, SIZE), (5, 999), (5, 1000), (5, 1001), (5, 2001), (G, SIZE), (SIZE, 5)]:
        assert descriptor.read(count, offset) == file.data[offset : offset + count]
    descriptor.close()


@linux
def test_read_says_the_systems_error(engine: Any, world: World) -> None:
    descriptor, _ = engine.open_file(str(world.folder), 0)
    with pytest.raises(OSError) as caught:
        descriptor.read(5, 0)
    assert caught.value.errno == errno.EISDIR
    descriptor.close()
    assert numbers_of(str(world.folder)) == []


# Closing


@linux
def test_closes_its_number_once(engine: Any, world: World) -> None:
    file, other = world.file(SIZE), world.file(SIZE, "other")
    descriptor, _ = engine.open_file(str(file.path), 0)
    number = descriptor.number
    assert numbers_of(str(file.path)) == [number]
    descriptor.close()
    assert descriptor.closed
    assert descriptor.number == -1
    assert numbers_of(str(file.path)) == []
    with user_descriptor(other.path) as reused:
        assert reused == number
        descriptor.close()
        assert descriptor.read(5, 0) == b""
        descriptor.use()
        descriptor.done()
        descriptor.close()
        del descriptor
        reclaim()
        assert os.pread(reused, 5, 0) == other.data[:5]


@linux
def test_closes_when_it_dies(engine: Any, world: World) -> None:
    file = world.file(SIZE)
    descriptor, _ = engine.open_file(str(file.path), 0)
    del descriptor
    dead()
    assert numbers_of(str(file.path)) == []
    used, _ = engine.open_file(str(file.path), 0)
    used.use()
    used.close()
    del used
    dead()
    engine.open_file(str(file.path), 0)[0].close()  # what was left for the next one is done
    assert numbers_of(str(file.path)) == []


@linux
def test_stays_open_while_it_is_used(engine: Any, world: World) -> None:
    file = world.file(SIZE)
    descriptor, _ = engine.open_file(str(file.path), 0)
    number = descriptor.number
    descriptor.use()
    descriptor.use()
    descriptor.close()
    assert descriptor.closed
    assert descriptor.number == number  # who uses it may go on by it
    assert numbers_of(str(file.path)) == [number]
    assert descriptor.read(5, 0) == b""  # but nobody starts anew
    assert numbers_of(str(file.path)) == [number]
    descriptor.done()
    assert numbers_of(str(file.path)) == [number]
    descriptor.close()
    assert numbers_of(str(file.path)) == [number]
    descriptor.done()
    assert descriptor.number == -1
    assert numbers_of(str(file.path)) == []


def test_used_and_done_without_closing_stays_open(engine: Any, world: World) -> None:
    file = world.file(SIZE)
    descriptor, _ = engine.open_file(str(file.path), 0)
    descriptor.use()
    descriptor.done()
    assert not descriptor.closed
    assert descriptor.read(5, 3) == file.data[3:8]
    descriptor.close()


# Several threads


@linux
@pytest.mark.parametrize("second", ["close", "done", "read"])
@pytest.mark.parametrize("first", ["close", "done", "read"])
def test_closed_by_two_threads_once(engine: Any, world: World, first: str, second: str, steps: Steps) -> None:
    """Whenever another thread comes in between, the number is closed once, when nobody uses it."""
    file, other = world.file(SIZE), world.file(SIZE, "other")

    def run(at: int) -> bool:
        descriptor, _ = engine.open_file(str(file.path), 0)
        users = [turn for turn in (first, second) if turn == "done"]
        for _ in users:
            descriptor.use()
        if users:
            descriptor.close()
        results = []

        def turn(which: str) -> None:
            if which == "read":
                results.append(descriptor.read(5, 3))
            else:
                getattr(descriptor, which)()

        reused = []

        def meantime() -> None:
            turn(second)
            reused.append(os.open(other.path, os.O_RDONLY))  # takes the number, if it is free

        more = meanwhile(steps, at, lambda: turn(first), meantime)
        if not more:
            meantime()
        assert os.pread(reused[0], 5, 0) == other.data[:5], at
        os.close(reused[0])
        assert set(results) <= {file.data[3:8], b""}
        if "close" in (first, second) or users:
            assert numbers_of(str(file.path)) == []
        with user_descriptor(other.path) as number:
            descriptor.close()
            assert os.pread(number, 5, 0) == other.data[:5]
        assert numbers_of(str(file.path)) == []
        return more

    every_step(run)


@linux
@pytest.mark.parametrize("first", ["done", "close", "read"])
def test_number_is_not_closed_under_a_reader(engine: Any, world: World, first: str, steps: Steps) -> None:
    """A reader comes at any step of another thread's, takes the number, and only then a third one closes it."""
    file = world.file(SIZE)

    def run(at: int) -> bool:
        descriptor, _ = engine.open_file(str(file.path), 0)
        reading: list[int] = []
        if first == "done":
            descriptor.use()

        def others() -> None:
            descriptor.use()
            if descriptor.closed:  # it came too late
                descriptor.done()
            else:
                reading.append(descriptor.number)
            descriptor.close()

        more = meanwhile(
            steps, at, (lambda: descriptor.read(5, 0)) if first == "read" else getattr(descriptor, first), others
        )
        if reading:
            assert numbers_of(str(file.path)) == reading, at
            assert os.pread(reading[0], 5, 3) == file.data[3:8]
            descriptor.done()
        descriptor.close()
        assert numbers_of(str(file.path)) == [], at
        return more

    every_step(run)


@linux
def test_two_threads_open_at_once(engine: Any, world: World, steps: Steps) -> None:
    file = world.file(SIZE)

    def run(at: int) -> bool:
        for _ in range(2):  # something is left of those that died
            engine.open_file(str(file.path), 0)
        opened = []

        def action() -> None:
            opened.append(engine.open_file(str(file.path), 0)[0])

        more = meanwhile(steps, at, action, action)
        for descriptor in opened:
            assert descriptor.read(5, 3) == file.data[3:8]
        assert len({descriptor.number for descriptor in opened}) == len(opened)
        assert len(numbers_of(str(file.path))) == len(opened)
        for descriptor in opened:
            descriptor.close()
        assert numbers_of(str(file.path)) == []
        return more

    every_step(run)


@linux
def test_readers_see_this_file_or_nothing(engine: Any, world: World) -> None:
    """While threads read, the descriptor is closed, and its number is given to another file at once."""
    file, other = world.file(G), world.file(G, "other")
    slots: list[Any] = [engine.open_file(str(file.path), 0)[0]]
    failed: list[Any] = []
    counts = [0, 0]
    stop = threading.Event()

    def read(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not stop.is_set():
                at = chance.randrange(G - 9)
                found = slots[0].read(9, at)
                counts[bool(found)] += 1
                if found not in (file.data[at : at + 9], b""):
                    failed.append((at, found))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(400):
        slots[0].close()
        reused = os.open(other.path, os.O_RDONLY)
        slots[0] = engine.open_file(str(file.path), 0)[0]
        os.close(reused)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    assert counts[True]
    slots[0].close()
    reclaim()
    assert numbers_of(str(file.path)) == []
    assert numbers_of(str(other.path)) == []


# Interrupted


@linux
@pytest.mark.parametrize("action", ["open", "open after a death", "read", "close", "done", "die"])
def test_nothing_leaks_when_interrupted_at_any_step(engine: Any, world: World, action: str, steps: Steps) -> None:
    file, another = world.file(SIZE), world.file(SIZE, "other")

    def run(at: int) -> bool:
        kept: list[Any] = []
        if action == "open after a death":
            cut_short, _ = engine.open_file(str(file.path), 0)
            cut_short.use()
            cut_short.close()
            del cut_short
        elif action != "open":
            kept.append(engine.open_file(str(file.path), 0)[0])
        if action == "done":
            kept[0].use()
            kept[0].close()
        actions: dict[str, Callable[[], Any]] = {
            "open": lambda: kept.append(engine.open_file(str(file.path), 0)[0]),
            "open after a death": lambda: kept.append(engine.open_file(str(file.path), 0)[0]),
            "read": lambda: kept[0].read(5, 0),
            "close": lambda: kept[0].close(),
            "done": lambda: kept[0].done(),
            "die": kept.clear,
        }
        more = interrupt(steps, at, actions[action])
        assert len(numbers_of(str(file.path))) <= 1 + (action == "open after a death")
        reused = os.open(another.path, os.O_RDONLY)  # takes the number, if it is free
        while kept:
            if not kept[0].closed:
                assert kept[0].read(5, 0) == file.data[:5]
            kept.pop().close()
        engine.open_file(str(another.path), 0)[0].close()  # what was left for the next one is done
        assert numbers_of(str(file.path)) == [], at
        assert os.pread(reused, 5, 0) == another.data[:5], at
        os.close(reused)
        return more

    if action == "die" and not run(1):
        return  # a death that makes no step cannot be interrupted
    every_step(run)


@linux
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no alarms")
@ways
@pytest.mark.parametrize("end", ["close", "die"])
def test_nothing_leaks_when_interrupted_at_random_moments(engine: Any, world: World, way: str, end: str) -> None:
    if way == "thread" and not CPYTHON:
        pytest.skip("only CPython raises exceptions in other threads")
    file = world.file(SIZE)

    def action() -> None:
        descriptor, _ = engine.open_file(str(file.path), 0)
        assert descriptor.read(5, 9) == file.data[9:14]
        if end == "close":
            descriptor.close()

    check = (lambda: None) if CPYTHON else reclaim  # elsewhere, the dead would use up the system's descriptors
    assert (alarmed if way == "alarm" else shot)(0.4, action, check)
    reclaim()
    engine.open_file(str(file.path), 0)[0].close()  # what was left for the next one is done
    assert numbers_of(str(file.path)) == []


def test_payload_differs() -> None:
    """The oracle of these tests: no two files have the same bytes anywhere near."""
    assert payload(G, "data")[:9] != payload(G, "other")[:9]


def test_unchanged_says_whether_a_path_has_just_that_status(engine: Any, world: World) -> None:
    file = world.file(9)
    path = str(file.path)
    descriptor, status = engine.open_file(path, 0)
    descriptor.close()
    assert engine.unchanged(path, status)
    assert engine.unchanged(os.fsencode(path), status)
    for field in status._fields:
        assert not engine.unchanged(path, status._replace(**{field: getattr(status, field) + 1}))
    with open(path, "ab") as grown:
        grown.write(b"x")
    assert not engine.unchanged(path, status)
    os.truncate(path, 0)
    descriptor, empty = engine.open_file(path, 0)
    descriptor.close()
    assert not engine.unchanged(path, empty), "an empty file may have data, as in /proc"
    os.unlink(path)
    assert not engine.unchanged(path, status)
