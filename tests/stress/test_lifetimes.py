"""Objects closed in the middle of their own calls, ended interpreters, names in errors.

What closes is an `__index__` that the call itself runs, which is also the exact form of what another thread may do at
that place. The answer is right or says that the object is closed; never anything else.
"""

from __future__ import annotations

import copy
import os
import pickle
import struct
from typing import Any, Callable

import pytest

import smmap
from core._tools import File, G, World, reclaim, run_python
from smmap import ClosedError

W = 2 * G
SIZE = 5 * W + 77
Buffer = smmap.SlidingWindowMapBuffer


@pytest.fixture
def file(world: World) -> File:
    made: File = world.file(SIZE, "volume")
    return made


class Closing:
    """An integer that does something when it is asked for its value."""

    def __init__(self, value: int, action: Callable[[], object]) -> None:
        self.value = value
        self.action = action
        self.asked = 0

    def __index__(self) -> int:
        self.asked += 1
        self.action()
        return self.value

    __int__ = __index__


class Things:
    """A manager, a cursor with a region, a buffer, and what each call must give."""

    def __init__(self, file: File, backing: str, window: int) -> None:
        cls = smmap.SlidingWindowMapManager if window else smmap.StaticWindowMapManager
        self.manager: Any = cls(window, 3 * W, 6, backing=backing)
        self.path = file.path
        self.data = file.data
        self.cursor = self.manager.make_cursor(file.path).use_region(W, 99)
        self.region = self.cursor.region()
        self.buffer = Buffer(self.manager.make_cursor(file.path), 5)
        self.view = self.buffer.view(W, W + 9)

    def finish(self) -> None:
        """Whatever happened: nothing is left behind."""
        assert self.view == self.data[W + 5 : W + 14]
        del self.view
        manager = self.manager
        manager._check()
        self.cursor.close()
        self.buffer.close()
        manager._check()
        del self.cursor, self.buffer, self.region
        reclaim()
        manager.collect()
        reclaim()
        manager._check()
        assert manager.stats()[:7] == (0,) * 7, manager.stats()


# Each takes the things and a maker of integers, and gives what was answered and what `bytes` would answer; the place of
# the n-th integer made is where the object is closed.
Number = Callable[[int], Any]
Call = Callable[[Things, Number], "tuple[Any, Any]"]


def buffer_calls() -> dict[str, Call]:
    def d(t: Things) -> bytes:
        return t.data[5:]

    return {
        "index": lambda t, n: (t.buffer[n(7)], d(t)[7]),
        "negative index": lambda t, n: (t.buffer[n(-7)], d(t)[-7]),
        "slice": lambda t, n: (t.buffer[n(W - 3) : n(W + 9)], d(t)[W - 3 : W + 9]),
        "long slice": lambda t, n: (t.buffer[n(3) : n(4 * W)], d(t)[3 : 4 * W]),
        "steps": lambda t, n: (t.buffer[n(3) : n(4 * W) : n(7)], d(t)[3 : 4 * W : 7]),
        "steps back": lambda t, n: (t.buffer[n(4 * W) : n(3) : n(-7)], d(t)[4 * W : 3 : -7]),
        "view": lambda t, n: (bytes(t.buffer.view(n(3), n(W))), d(t)[3:W]),
        "view across": lambda t, n: (bytes(t.buffer.view(n(W - 9), n(2 * W))), d(t)[W - 9 : 2 * W]),
        "iter_views": lambda t, n: (
            b"".join(map(bytes, t.buffer.iter_views(n(W - 9), n(2 * W), n(999)))),
            d(t)[W - 9 : 2 * W],
        ),
        "find": lambda t, n: (t.buffer.find(d(t)[W + 1 : W + 9], n(3), n(4 * W)), W + 1),
        "rfind": lambda t, n: (t.buffer.rfind(d(t)[W + 1 : W + 9], n(3), n(4 * W)), W + 1),
        "rfind missing": lambda t, n: (t.buffer.rfind(b"no such bytes", n(3), n(4 * W)), -1),
        "index of": lambda t, n: (t.buffer.index(d(t)[W + 1 : W + 9], n(3), n(4 * W)), W + 1),
        "rindex of": lambda t, n: (t.buffer.rindex(d(t)[W + 1 : W + 9], n(3), n(4 * W)), W + 1),
        "count": lambda t, n: (t.buffer.count(d(t)[W + 1 : W + 9], n(3), n(4 * W)), 1),
        "find a byte": lambda t, n: (t.buffer.find(n(d(t)[0])), 0),
        "contains": lambda t, n: (n(d(t)[W]) in t.buffer, True),
        "count a byte": lambda t, n: (t.buffer.count(n(65), n(9), n(3 * W)), d(t).count(65, 9, 3 * W)),
        "find nothing": lambda t, n: (t.buffer.find(b"", n(9), n(99)), 9),
        "unpack_from": lambda t, n: (t.buffer.unpack_from("<Q", n(W + 9)), struct.unpack_from("<Q", d(t), W + 9)),
        "unpack_from the end": lambda t, n: (
            t.buffer.unpack_from("<Q", n(-9)),
            struct.unpack_from("<Q", d(t), SIZE - 14),
        ),
        "finditer": lambda t, n: (
            [match.span() for match in t.buffer.finditer(d(t)[W + 1 : W + 5].replace(b"\\", b"."), n(W))][:1],
            [(W + 1, W + 5)],
        ),
        "readinto": lambda t, n: (filled(t.buffer, n(W - 9), 99), d(t)[W - 9 : W + 90]),
        "begin_access": lambda t, n: (t.buffer.begin_access(None, n(5), n(W)) and t.buffer[:9], d(t)[:9]),
    }


def filled(buffer: Any, start: Any, size: int) -> bytes:
    target = bytearray(size)
    assert buffer.readinto(start, target) == size
    return bytes(target)


def other_calls() -> dict[str, Call]:
    def used(cursor: Any) -> bytes:
        return bytes(cursor.buffer())

    return {
        "use_region": lambda t, n: (used(t.cursor.use_region(n(3 * W + 1), n(99))), t.data[3 * W + 1 : 3 * W + 100]),
        "use_region again": lambda t, n: (used(t.cursor.use_region(n(W + 1), n(9))), t.data[W + 1 : W + 10]),
        "use_region flags": lambda t, n: (used(t.cursor.use_region(n(9), n(9), n(0))), t.data[9:18]),
        "manager.buffer": lambda t, n: (t.manager.buffer(t.path, n(7), n(W))[3:9], t.data[10:16]),
        "smmap.buffer": lambda t, n: (smmap.buffer(t.path, n(7), n(W), manager=t.manager)[3:9], t.data[10:16]),
        "a new buffer": lambda t, n: (
            Buffer(t.manager.make_cursor(t.path), n(7), n(W), n(0))[3:9],
            t.data[10:16],
        ),
    }


def run_all(call: Call, file: File, backing: str, window: int, action: Callable[[Things], object]) -> None:
    """Run a call with the n-th of its integers doing `action`, for each n."""
    count = 0

    def counting(value: int) -> int:
        nonlocal count
        count += 1
        return value

    things = Things(file, backing, window)
    got, want = call(things, counting)
    assert got == want, "wrong without closing already"
    things.finish()
    for which in range(count):
        things = Things(file, backing, window)
        made: list[Closing] = []

        def number(value: int, things: Things = things, made: list[Closing] = made, which: int = which) -> Any:
            made.append(Closing(value, lambda: action(things) if made[which].asked == 1 else None))
            return made[-1] if len(made) - 1 == which else value

        got = want = None
        try:
            got, want = call(things, number)
        except ClosedError as error:
            assert "volume" in str(error)
        else:
            assert got == want, f"integer {which}"
        del got, want
        assert made[which].asked, f"integer {which} was never asked for"
        made.clear()
        things.finish()


ACTIONS: dict[str, Callable[[Things], object]] = {
    "buffer.close": lambda t: t.buffer.close(),
    "cursor.close": lambda t: t.cursor.close(),
    "unuse_region": lambda t: t.cursor.unuse_region(),
    "manager.close": lambda t: t.manager.close(),
    "collect": lambda t: t.manager.collect(),
    "release": lambda t: t.region.release(),
    "everything": lambda t: (t.cursor.close(), t.buffer.close(), t.manager.close(), reclaim()),
}


@pytest.mark.long
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("call", [*buffer_calls(), *other_calls()])
def test_closed_in_the_middle_of_a_call(call: str, action: str, file: File) -> None:
    function = {**buffer_calls(), **other_calls()}[call]
    for backing in ("mmap", "read"):
        for window in (W, 0):
            run_all(function, file, backing, window, ACTIONS[action])


# After closing


def test_everything_says_which_file_was_closed(file: File) -> None:
    """Each method that needs what was closed; asked twice, after being closed twice."""
    manager = smmap.SlidingWindowMapManager(W)
    cursor = manager.make_cursor(file.path).use_region(0, 9)
    buffer = Buffer(manager.make_cursor(file.path))
    for _ in range(2):
        buffer.close()
        cursor.close()
    calls: list[Callable[[], Any]] = [
        lambda: buffer[0],
        lambda: buffer[0:9],
        lambda: buffer[::2],
        lambda: buffer[99:9],
        lambda: bytes(buffer),
        lambda: list(buffer),
        lambda: list(reversed(buffer)),
        lambda: buffer.view(),
        lambda: list(buffer.iter_views()),
        lambda: buffer.find(b"x"),
        lambda: buffer.rfind(b"x"),
        lambda: buffer.index(b"x"),
        lambda: buffer.rindex(b"x"),
        lambda: buffer.count(b"x"),
        lambda: b"x" in buffer,
        lambda: list(buffer.finditer(b"x")),
        lambda: buffer.unpack_from("<I"),
        lambda: buffer.readinto(0, bytearray(9)),
        lambda: pickle.dumps(buffer),
        lambda: cursor.use_region(),
        lambda: cursor.use_region(0, 9),
        cursor.buffer,
        cursor.map,
        copy.copy(cursor).use_region,
    ]
    for call in calls * 2:
        with pytest.raises(ClosedError, match="volume"):
            call()
    with pytest.raises(ValueError):
        Buffer(cursor)
    assert not cursor.is_valid()
    assert len(buffer) == 0
    assert cursor.path_or_fd() is file.path
    number = os.open(file.path, os.O_RDONLY)
    try:
        of_number = manager.make_cursor(number)
        of_number.close()
        with pytest.raises(ClosedError, match=f"descriptor {number}"):
            of_number.use_region()
        for _ in range(2):
            manager.close()
        for given, name in ((file.path, "volume"), (number, f"descriptor {number}")):
            for make in (manager.make_cursor, manager.buffer):
                with pytest.raises(ClosedError, match=name):
                    make(given)
    finally:
        os.close(number)
    assert manager.collect() == manager.release(file.path) == 0
    manager._check()


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("backing", ["mmap", "read"])
def test_closed_in_any_order(order: int, backing: str, file: File) -> None:
    """Twice each, inside `with` blocks that close them again; views stay, the ledger ends at zero."""
    with smmap.SlidingWindowMapManager(W, backing=backing) as manager:
        with manager.make_cursor(file.path) as cursor, Buffer(manager.make_cursor(file.path)) as buffer:
            views = [cursor.use_region(W, 9).buffer(), buffer.view(W, W + 9), buffer.cursor().buffer()[W // 2 :][:1]]
            closers = [manager.close, cursor.close, buffer.close]
            for number in [0, 1, 2] * 2:
                closers[(number * (1 + order % 2) + order // 2) % 3]()
                manager._check()
            assert views[0] == views[1] == file.data[W : W + 9]
    assert views[2] == file.data[W // 2 : W // 2 + 1]
    assert manager.stats().detached > 0
    views.clear()
    reclaim()
    manager._check()
    assert manager.stats()[:7] == (0,) * 7


# The end of the interpreter

AT_THE_END = """
import atexit, builtins, collections, contextvars, functools, gc, pickle, sys, threading, types, weakref
import smmap
path, window = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window, 3 * window, 6, backing=sys.argv[3])
cursor = manager.make_cursor(path).use_region(window, 9)
buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
default = smmap.buffer(path)
assert default[5] == data[5]
view = buffer.view(0, 5)
everything = [manager, cursor, buffer, default, view, cursor.region(), cursor.map(), cursor.buffer()]
"""

ENDS = {
    "kept by sys": "sys.smmap_things = everything",
    "kept by builtins": "builtins.smmap_things = everything; del manager, cursor, buffer, default, view",
    "kept by a module": "m = types.ModuleType('m'); m.things = everything; sys.modules['m'] = m; m.me = m",
    "kept by a class": "C = type('C', (), {'things': everything}); C.me = C; del manager, cursor, buffer, default",
    "views in sys": "sys.views = everything[4:]; del manager, cursor, buffer, default, view, everything",
    "views only": "sys.view = view; del manager, cursor, buffer, default, everything",
    "in a context": "contextvars.ContextVar('v').set(everything)",
    "in a thread's own": "local = threading.local(); local.things = everything; sys.local = local",
    "in a partial": "sys.call = functools.partial(print, everything); everything.append(sys.call)",
    "kept by a callback": "weakref.finalize(buffer, lambda *a: None, everything[0:2], view)",
    "read by a finalizer": """
class Last:
    def __init__(self, things):
        self.things, self.me = things, self
    def __del__(self):
        manager, cursor, buffer, default, view = self.things[:5]
        assert view == data[:5] and bytes(view) == data[:5]
        try:
            assert buffer[3 * window] == data[3 * window]
            assert cursor.use_region(2 * window, 9).buffer() == data[2 * window:2 * window + 9]
            assert default[7] == data[7]
        except smmap.ReentryError:
            pass
        cursor.close()
        buffer.close()
        manager.close()
        manager.close()
        assert view == data[:5]
sys.last = Last(everything)
""",
    "read at exit": """
@atexit.register
def check():
    assert buffer[:] == data and view == data[:5] and default[-1] == data[-1]
    manager.close()
    assert view == data[:5]
    cursor.close()
""",
    "closed twice": "[thing.close() for thing in everything[:4] * 2]",
    "an open iterator": "sys.iterators = iter(buffer), reversed(buffer), buffer.iter_views(), buffer.finditer(b'x')\n"
    "[next(iterator) for iterator in sys.iterators]",
    "pickled": "sys.copies = [pickle.loads(pickle.dumps(buffer)) for _ in range(2)]; sys.copies[0][3]",
    "a thread that goes on": """
def work():
    with manager.make_cursor(path) as mine:
        while True:
            for at in range(0, len(data), 999):
                mine.use_region(at, 9).buffer(), buffer[at:at + 99], buffer.view(at, at + 9)
threading.Thread(target=work, daemon=True).start()
""",
}


@pytest.mark.parametrize("backing", ["mmap", "read"])
@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_well(end: str, backing: str, file: File) -> None:
    """Whatever keeps what alive: no warning, no noise, no crash."""
    run_python(AT_THE_END + ENDS[end], file.path, W, backing)
