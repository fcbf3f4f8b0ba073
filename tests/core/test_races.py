"""What another thread does in the very moment between two steps of ours, made to happen there each time."""

from __future__ import annotations

import contextlib
import copy
import errno
import itertools
import os
import pickle
import sys
from typing import Any, Callable

import pytest

import smmap
from smmap import SlidingWindowMapBuffer as Buffer
from smmap import _buffer, _manager, _system
from smmap._ledger import Ledger
from smmap.util import MapRegion

from ._tools import LINUX, G, maps, payload, reclaim


def test_the_last_view_dies_while_its_region_is_evicted(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region was still lent when it was let go, and no more when that is written down."""
    file = make_file(4 * G)
    manager = make_manager(2 * G)
    with manager.make_cursor(file.path) as cursor:
        views = [cursor.use_region(0, 10).buffer()]
    drop = MapRegion.drop

    def racing(region: MapRegion, died: Any) -> bool:
        gone = drop(region, died)
        views.clear()
        reclaim()
        return gone

    monkeypatch.setattr(MapRegion, "drop", racing)
    assert manager.collect() == 1
    monkeypatch.undo()
    manager._check()
    assert manager.stats()[:7] == (0, 0, 0, 0, 0, 0, 0)
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(5, 10).buffer() == file.data[5:15]


def test_a_region_is_evicted_while_a_cursor_takes_it(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever evicts had settled who holds what, and a cursor takes an idle region without the lock just then."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    with manager.make_cursor(file.path) as cursor, manager.make_cursor(file.path) as other:
        other.use_region(2 * G, 10).unuse_region()
        cursor.use_region(0, 10)
        unload = Ledger.unload

        def racing(ledger: Ledger, held: bool = False) -> int:
            assert cursor.use_region(2 * G + 7, 10).region().store is not None
            return unload(ledger, held)

        monkeypatch.setattr(Ledger, "unload", racing)
        assert manager.collect() == 1
        monkeypatch.undo()
        assert cursor.is_valid()
        assert (cursor.ofs_begin(), cursor.size()) == (2 * G + 7, 10)
        with copy.copy(cursor) as twin:
            assert twin.is_valid()
            assert twin.buffer() == file.data[2 * G + 7 : 2 * G + 17]
        region = cursor.region()
        assert region.ofs_begin() == 2 * G
        assert region.buffer()[7:17] == file.data[2 * G + 7 : 2 * G + 17]
        assert cursor.buffer() == file.data[2 * G + 7 : 2 * G + 17]
        manager._check()
        assert manager.stats().held == 1
    manager.collect()
    assert manager.stats()[:7] == (0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("again", ["another window", "a longer window"])
def test_a_cursor_whose_region_was_evicted_while_it_took_it_moves_on(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """The region that is mapped in its place may begin and end elsewhere."""
    size = 6 * G if again == "another window" else 3 * G
    file = make_file(size)
    manager = make_manager(2 * G)
    cursor = manager.make_cursor(file.path).use_region(0, 10)
    if again == "a longer window":
        with file.path.open("ab") as grown:
            grown.write(bytes(G))
    other = manager.make_cursor(file.path)
    other.use_region(2 * G - 5 if again == "another window" else 2 * G, 10).unuse_region()
    unload = Ledger.unload

    def racing(ledger: Ledger, held: bool = False) -> int:
        if again == "another window":
            cursor.use_region(2 * G - 5, 10)  # the seam
            cursor.use_region(2 * G - 9, 9)  # which a window of the grid serves too
        else:
            cursor.use_region(2 * G + 7, 10)
        return unload(ledger, held)

    monkeypatch.setattr(Ledger, "unload", racing)
    assert manager.collect() == 1
    monkeypatch.undo()
    if again == "another window":
        assert cursor.buffer() == file.data[2 * G - 9 : 2 * G]
        assert cursor.use_region(2 * G + 5, 10).buffer() == file.data[2 * G + 5 : 2 * G + 15]
    else:
        other.use_region(2 * G, 10)
        assert cursor.buffer() == file.data[2 * G + 7 : 2 * G + 17]
        assert cursor.use_region(3 * G - 3, 10).buffer() == file.data[-3:]
    cursor.close()
    other.close()


def test_the_manager_is_closed_while_a_buffer_is_made(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was looked at, and is about to be opened: nothing is kept open by a closed manager."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    associate = type(manager).associate

    def racing(self: Any, client: Any, path: Any) -> None:
        associate(self, client, path)
        self.close()

    monkeypatch.setattr(type(manager), "associate", racing)
    with pytest.raises(smmap.ClosedError, match=file.path.name):
        manager.buffer(file.path)
    manager._check()
    assert manager.stats().descriptors == 0


def test_a_buffer_is_closed_while_a_reader_settles_on_a_window(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader had worked out where the window lies; nothing of it may outlive the closing."""
    one, two = make_file(2 * G - 5, "one"), make_file(2 * G - 5, "two")
    manager = make_manager(2 * G)
    for action in ("close", "begin"):
        buffer = Buffer(manager.make_cursor(one.path))
        other = Buffer(manager.make_cursor(one.path))
        assert other[1] == one.data[1]  # now the window is hot
        place = max

        def racing(*values: int) -> int:
            monkeypatch.undo()
            if action == "close":
                buffer.close()
            else:
                buffer.begin_access(manager.make_cursor(two.path))
            assert other[2] == one.data[2]
            return place(*values)

        monkeypatch.setattr(_buffer, "max", racing, raising=False)
        with contextlib.suppress(smmap.ClosedError):
            assert buffer[3] == one.data[3]
        assert other[4] == one.data[4]
        if action == "close":
            assert len(buffer) == 0
            with pytest.raises(smmap.ClosedError):
                buffer[5]
            with pytest.raises(smmap.ClosedError):
                buffer[5:9]
            with pytest.raises(smmap.ClosedError):
                buffer.view(5, 9)
        else:
            assert buffer[5] == two.data[5]
            assert buffer[5:50] == two.data[5:50]
            assert buffer.view(5, 50) == two.data[5:50]


@pytest.mark.parametrize("step", [1, 3])
def test_a_buffer_is_given_another_file_in_the_middle_of_a_slice(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The bytes of one of them, or an error; never of both."""
    one, two = make_file(6 * G, "one"), make_file(6 * G, "two")
    manager = make_manager(2 * G)
    buffer = Buffer(manager.make_cursor(one.path))
    name = "fetch" if step == 1 else "window_at"
    serve = getattr(type(manager), name)

    def racing(self: Any, *args: Any) -> Any:
        result = serve(self, *args)
        monkeypatch.undo()
        buffer.begin_access(self.make_cursor(two.path))
        return result

    monkeypatch.setattr(type(manager), name, racing)
    with pytest.raises(smmap.ClosedError, match="meanwhile"):
        buffer[2 * G + 9 : 6 * G - 5 : step]
    assert buffer[2 * G - 5 : 2 * G + 5] == two.data[2 * G - 5 : 2 * G + 5]


@pytest.mark.parametrize("where", [0, 4 * G + 3])
def test_a_buffer_is_given_another_file_between_the_steps_of_a_hit(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch, where: int
) -> None:
    """A reader had taken the offset, and takes the windows of another file."""
    one, two = make_file(6 * G, "one"), make_file(6 * G, "two")
    manager = make_manager(2 * G)
    with manager.make_cursor(one.path) as cursor, manager.make_cursor(two.path) as second:
        for start in range(0, 6 * G, 2 * G):
            cursor.use_region(start, 1)
            second.use_region(start, 1)
    note = type(manager).note
    for read in (
        lambda: buffer[where],
        lambda: buffer[where : where + 9],
        lambda: bytes(buffer.view(where, where + 9)),
    ):
        buffer = Buffer(manager.make_cursor(one.path), 0)
        manager.settle()

        def racing(self: Any, region: Any) -> Any:
            monkeypatch.undo()
            buffer.begin_access(self.make_cursor(two.path), G + 7)
            return note(self, region)

        monkeypatch.setattr(type(manager), "note", racing)
        shifted = two.data[G + 7 :]
        try:
            got = read()
        except (smmap.ClosedError, IndexError):
            continue
        finally:
            monkeypatch.undo()
        wanted = [(data[where], data[where : where + 9]) for data in (one.data, shifted)]
        assert got in (wanted[0] + wanted[1])


def test_a_file_from_the_begin_of_1970_is_not_taken_for_a_closed_buffer(make_manager: Any, make_file: Any) -> None:
    """As some archives and reproducible builds date them all."""
    file = make_file(2 * G)
    os.utime(file.path, ns=(0, 0))
    with pickle.loads(pickle.dumps(make_manager(2 * G).buffer(file.path))) as buffer:
        assert buffer[:9] == file.data[:9]


def answer(read: Callable[[Any], Any], data: Any) -> Any:
    """What it reads, or that it is out of bounds; None for an error that a change may lead to."""
    try:
        return read(data)
    except IndexError:
        return IndexError
    except (smmap.ClosedError, smmap.FileChangedError):
        return None


WITHOUT_LOCK = {"fetch", "_fetch_with_lock", "note", "view", "window_at", "_serve"}
"""What buffers call in _manager.py, as far as it does not have the lock."""


def before_line(number: int, act: Callable[[], Any], call: Callable[[], Any]) -> tuple[bool, Any]:
    """`call()`, with `act()` before its line of this number; whether it has so many, and what it gave."""
    left = number

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        nonlocal left
        code = frame.f_code
        if code.co_filename != _buffer.__file__ and not (
            code.co_filename == _manager.__file__ and code.co_name in WITHOUT_LOCK
        ):
            return None
        if event == "line":
            left -= 1
            if left == -1:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        got = call()
    finally:
        sys.settrace(before)
    return left < 0, got


# The windows have 2 * G bytes.
READS: dict[str, Callable[[Any], Any]] = {
    "byte": lambda data: data[9],
    "other byte": lambda data: data[G + 9],
    "far byte": lambda data: data[2 * G + 9],
    "slice": lambda data: data[9:50],
    "far slice": lambda data: data[2 * G + 9 : 2 * G + 50],
    "long slice": lambda data: data[9 : 2 * G + 9],
    "steps": lambda data: data[9:50:3],
    "long steps": lambda data: data[9 : 2 * G + 9 : 3],
    "view": lambda data: bytes(memoryview(data)[9:50] if isinstance(data, bytes) else data.view(9, 50)),
    "long view": lambda data: bytes(
        memoryview(data)[9 : 2 * G + 9] if isinstance(data, bytes) else data.view(9, 2 * G + 9)
    ),
    "search": lambda data: data.find(NEEDLE),
    "into": lambda data: filled(data, 9, 2 * G),
}


def filled(data: Any, start: int, size: int) -> bytes:
    """What `readinto` puts into a target of so many bytes."""
    if isinstance(data, bytes):
        return data[start : start + size]
    target = bytearray(size)
    return bytes(target[: data.readinto(start, target)])


NEEDLE = payload(6 * G, "two")[G + 107 : G + 127]


@pytest.mark.parametrize("kind", READS)
def test_an_unpickled_buffer_is_closed_while_it_opens(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = make_file(6 * G)
    start = Buffer._start

    def racing(self: Any, *args: Any) -> None:
        buffer.close()
        start(self, *args)

    buffer = pickle.loads(pickle.dumps(make_manager(2 * G).buffer(file.path)))
    monkeypatch.setattr(Buffer, "_start", racing)
    with pytest.raises(smmap.ClosedError):
        READS[kind](buffer)
    monkeypatch.undo()
    assert buffer.closed
    assert len(buffer) == 0


@pytest.mark.parametrize("kind", READS)
def test_the_first_read_of_an_unpickled_buffer(make_manager: Any, make_file: Any, kind: str) -> None:
    file = make_file(6 * G)
    with pickle.loads(pickle.dumps(make_manager(2 * G).buffer(file.path))) as buffer:
        assert READS[kind](buffer) == READS[kind](file.data)


CHANGES = ["close", "another file", "half", "elsewhere", "shorter"]


@pytest.mark.parametrize(("kind", "change"), [*itertools.product(READS, CHANGES)])
def test_a_buffer_changes_between_two_lines_of_a_read(make_file: Any, kind: str, change: str) -> None:
    """The read has the bytes of before or after or an error, and nothing of before stays, whichever lines they are."""
    one, two = make_file(6 * G, "one"), make_file(6 * G, "two")
    read = READS[kind]
    after = {"another file": two.data[G + 7 :], "elsewhere": one.data[G + 7 : 5 * G + 7], "shorter": one.data[:G]}.get(
        change
    )
    wanted = [answer(read, one.data[: 4 * G]), None if after is None else answer(read, after), None]

    def turn(manager: Any, state: int, number: int) -> bool:
        buffer, other = manager.buffer(one.path, 0, 4 * G), manager.buffer(one.path)
        for start in (0, 2 * G) if state else ():
            manager.window_at(other, start)
            assert other.view(start + 8, start + 9) == one.data[start + 8 : start + 9]  # now there is one to cut from
        if state > 1:
            assert other[8] == one.data[8]
        if state > 2:
            assert buffer[8] == one.data[8]

        def warm() -> None:
            """The window that the buffer was near is the one that is hot."""
            if not state:
                manager.window_at(other, 0)
            assert other[8] == one.data[8]
            assert other[9] == one.data[9]

        def act() -> None:
            if change in ("close", "half"):
                buffer.close()
                if change == "half":  # so far has the other thread come
                    buffer._adopt(manager.make_cursor(two.path))
            elif change == "another file":
                buffer.begin_access(manager.make_cursor(two.path), G + 7)
            elif change == "elsewhere":
                buffer.begin_access(None, G + 7, 4 * G)
            else:
                buffer.begin_access(None, 0, G)
            warm()

        acted, got = before_line(number, act, lambda: answer(read, buffer))
        assert got in wanted
        for check in READS.values() if acted else ():
            warm()
            if after is not None:
                assert answer(check, buffer) == answer(check, after)
            else:
                assert len(buffer) == 0
                with pytest.raises(smmap.ClosedError):
                    check(buffer)
        manager._check()
        return acted

    for state in range(4):  # cold, mapped, hot, near
        for number in range(1000):
            with smmap.SlidingWindowMapManager(2 * G) as manager:
                if not turn(manager, state, number):
                    break
        else:
            pytest.fail("there is no end of lines")


@pytest.mark.parametrize("change", ["close", "another file", "elsewhere"])
@pytest.mark.parametrize("kind", READS)
def test_a_buffer_is_read_between_two_lines_of_a_change(
    make_manager: Any, make_file: Any, kind: str, change: str
) -> None:
    """The read has the bytes of before or after, or is told that the buffer is closed; it never finds it empty."""
    one, two = make_file(6 * G, "one"), make_file(6 * G, "two")
    manager = make_manager(2 * G)
    read = READS[kind]
    after = {"another file": two.data[G + 7 :], "elsewhere": one.data[G + 7 :]}.get(change)
    wanted = [read(one.data), None if after is None else read(after), None]

    def turn(number: int) -> bool:
        buffer = Buffer(manager.make_cursor(one.path))
        assert [buffer[9] for _ in range(3)] == [one.data[9]] * 3

        def alter() -> None:
            if change == "close":
                buffer.close()
            elif change == "another file":
                buffer.begin_access(manager.make_cursor(two.path), G + 7)
            else:
                buffer.begin_access(None, G + 7)

        got: list[Any] = []
        acted, _ = before_line(number, lambda: got.append(answer(read, buffer)), alter)
        assert all(each in wanted for each in got)
        assert answer(read, buffer) == (None if after is None else read(after))
        buffer.close()
        return acted

    assert any(not turn(number) for number in range(1000))


class Interruption(Exception):
    """What a signal's handler raises."""


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("end", ["close", "drop", "move"])
def test_a_signal_interrupts_a_move_at_its_end(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch, mapped: bool, settled: bool, end: str
) -> None:
    """The manager has the cursor for a holder, the cursor was not told."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    if mapped:
        manager.make_cursor(file.path).use_region(0, 10).close()
    cursor = manager.make_cursor(file.path)
    name = "change" if mapped else "hold"
    serve = getattr(type(manager), name)

    def interrupted(self: Any, *args: Any) -> None:
        serve(self, *args)
        raise Interruption

    monkeypatch.setattr(type(manager), name, interrupted)
    with pytest.raises(Interruption):
        cursor.use_region(0, 10)
    monkeypatch.undo()
    if settled:
        assert manager.stats().held == 1
    if end == "close":
        cursor.close()
    elif end == "drop":
        del cursor
        reclaim()
    else:
        assert cursor.use_region(2 * G + 1, 10).buffer() == file.data[2 * G + 1 : 2 * G + 11]
        assert manager.stats().held == 1
        cursor.close()
    manager.collect()
    manager._check()
    assert manager.stats()[:7] == (0, 0, 0, 0, 0, 0, 0)


def test_a_path_that_is_not_there_interrupts_a_call(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer asks for it while its thread is busy with the manager: that costs nobody their windows."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    for start in range(0, 6 * G, 2 * G):
        manager.make_cursor(file.path).use_region(start, 1).close()
    fits = Ledger.fits

    def interrupting(ledger: Ledger) -> bool:
        monkeypatch.undo()
        with pytest.raises(FileNotFoundError):
            manager.make_cursor(f"{file.path}.missing")
        return fits(ledger)

    monkeypatch.setattr(Ledger, "fits", interrupting)
    with manager.make_cursor(file.path) as cursor:
        cursor.use_region(2 * G - 5, 9)  # the seam: it is mapped
    assert manager.stats().idle == 4


def test_a_region_is_evicted_while_a_cursor_takes_it_and_lives_on_in_a_view(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lent and held; who asks for its window next takes it back, and it is held then, not idle."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    with manager.make_cursor(file.path) as cursor, manager.make_cursor(file.path) as other:
        view = other.use_region(2 * G, 10).buffer()
        other.unuse_region()
        unload = Ledger.unload

        def racing(ledger: Ledger, held: bool = False) -> int:
            cursor.use_region(2 * G + 7, 10)
            return unload(ledger, held)

        monkeypatch.setattr(Ledger, "unload", racing)
        assert manager.collect() == 1
        monkeypatch.undo()
        assert manager.buffer(file.path).view(2 * G, 2 * G + 10) == view
        manager._check()
        assert manager.stats()[:4] == (1, 1, 0, 0)
        assert cursor.buffer() == file.data[2 * G + 7 : 2 * G + 17]
        del view


def test_a_region_is_evicted_while_a_cursor_takes_it_and_cannot_be_mapped_again(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor has to ask with the lock, in vain: it stays as it was."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    with manager.make_cursor(file.path) as cursor:
        manager.make_cursor(file.path).use_region(2 * G, 10).close()
        cursor.use_region(0, 10)
        manager.settle()
        tick = manager._clock

        def racing() -> int:
            manager._clock = tick
            manager._ledger.evict(next(iter(manager._ledger.idle)))
            return tick()

        def refuse(*args: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        manager._clock = racing
        with monkeypatch.context() as patch:
            patch.setattr(_system, "map_at", refuse)
            with pytest.raises(OSError, match="Input/output"):
                cursor.use_region(2 * G, 10)
        assert manager.stats()[:4] == (1, 1, 0, 0)
        assert cursor.buffer() == file.data[:10]


def test_a_window_is_read_while_it_is_evicted(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever evicts had settled who reads what, and a reader uses the window just then: it does not keep it."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    buffer = manager.buffer(file.path)
    manager.window_at(buffer, 2 * G)
    unload = Ledger.unload

    def racing(ledger: Ledger, held: bool = False) -> int:
        assert buffer[2 * G + 5] == file.data[2 * G + 5]
        return unload(ledger, held)

    monkeypatch.setattr(Ledger, "unload", racing)
    assert manager.collect() == 1
    monkeypatch.undo()
    reclaim()
    if LINUX:
        assert maps(file.path.parent) == []  # at once, and not only when the manager is asked for something again
    assert manager.stats()[:4] == (0, 0, 0, 0)
    assert buffer[2 * G + 5] == file.data[2 * G + 5]
    buffer.close()
