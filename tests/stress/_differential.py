"""The same calls for both engines, in turn, at random: bytes, errors, counters and orders must be the same.

The library is loaded twice in one process, as `smmap_plain` and `smmap_fast`; a `Pair` makes each call once for each of
them, over the same files, and compares what came of it. After each step the managers of both sides must have the same
counters, the same regions in the same states, and the same least recently used orders. What was read must also be what
the file holds.

Hostile is whatever calls user code: `__index__` and (from Python 3.12 on) `__buffer__` that raise, lie, collect garbage
with finalizers, use or close the very client that called them, or let another thread do so; system calls that fail with
any error number, or in which a signal handler raises. All of this happens at the same moment for both sides.

Not compared: what an exception in the middle of a call costs (one use in an order, a region that is mapped again).
After one, both sides must pass `_check`, have nothing mapped once all is let go, and start anew.

Must run in a process that has not imported `smmap` with the fast engine: an extension is loaded once.
"""

from __future__ import annotations

import array
import errno
import gc
import importlib.util
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import threading
import types
from collections import Counter
from mmap import ALLOCATIONGRANULARITY as G
from pathlib import Path
from typing import Any, Callable, ClassVar

__all__ = ["Difference", "Episode", "load"]

SIDES = ("plain", "fast")
W = 2 * G
MOST = {"cursors": 5, "buffers": 5, "views": 8}
CODES = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ENODEV, errno.EPERM, errno.EACCES]
CALLS = ["open", "fstat", "pread", "mmap"]
FREE_THREADED = "free-threading" in sys.version  # there, what another thread drops may live on for a while
HAS_BUFFER_METHOD = sys.version_info >= (3, 12)


class Difference(AssertionError):
    """The two sides did not do the same."""


class Alarm(BaseException):
    """What a signal handler raises, in the middle of a system call."""


class Oops(Exception):
    """What hostile user code raises."""


def load(engine: str) -> Any:
    """The library with this engine, under a name of its own."""
    name = f"smmap_{engine}"
    if name not in sys.modules:
        folder = Path(__file__).parents[2] / "src" / "smmap"
        if not folder.exists():
            found = importlib.util.find_spec("smmap")
            assert found is not None
            assert found.origin is not None
            folder = Path(found.origin).parent
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        before = os.environ.get("SMMAP_ENGINE")
        os.environ["SMMAP_ENGINE"] = engine
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            os.environ.pop("SMMAP_ENGINE")
            if before is not None:
                os.environ["SMMAP_ENGINE"] = before
        assert module.engine == engine
        _Faults.put_between(module)
    return sys.modules[name]


class _Faults:
    """Lets the system call of that name and number, counted from when it was armed, do something else first."""

    name = ""
    left = 0
    then: Callable[[], int] = staticmethod(lambda: 0)
    came = False

    @classmethod
    def arm(cls, name: str, number: int, then: Callable[[], int]) -> None:
        cls.name, cls.left, cls.then, cls.came = name, number, then, False

    @classmethod
    def disarm(cls) -> None:
        cls.name = ""

    @classmethod
    def look(cls, name: str) -> int:
        """Before each system call; the code that it is to fail with."""
        if name == cls.name:
            cls.left -= 1
            if not cls.left:
                cls.came, cls.name = True, ""
                return cls.then()
        return 0

    @classmethod
    def raising(cls, name: str) -> None:
        code = cls.look(name)
        if code:
            raise OSError(code, os.strerror(code))

    @classmethod
    def put_between(cls, package: Any) -> None:
        """Be asked before each system call of an engine."""
        engine = package._engine.chosen
        if package.engine == "fast":
            for name in CALLS:
                engine.seams[name] = lambda *_, name=name: cls.look(name)
            return

        def guarded(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(*args: Any) -> Any:
                cls.raising(name)
                return real(*args)

            return call

        stand_in = types.ModuleType("os")
        stand_in.__dict__.update(vars(os))
        for name in CALLS[:-1]:
            setattr(stand_in, name, guarded(name))
        engine.os = stand_in
        real_region = engine.Region

        class Region(real_region):  # type: ignore[misc, valid-type]
            __slots__ = ()

            def __new__(cls, *args: Any, **kwargs: Any) -> Any:
                _Faults.raising("mmap")
                return super().__new__(cls, *args, **kwargs)

        engine.Region = Region


class Index:
    """An index with a mind of its own."""

    def __init__(self, value: Any, first: Callable[[], object] = lambda: None) -> None:
        self.value = value
        self.first = first

    def __index__(self) -> Any:
        self.first()
        if isinstance(self.value, type):
            raise self.value
        return self.value

    def __repr__(self) -> str:
        return f"Index({self.value!r})"


class Exporter:
    """Bytes with a mind of its own, from Python 3.12 on."""

    def __init__(self, target: Any, first: Callable[[], object]) -> None:
        self.target = target
        self.first = first

    def __buffer__(self, flags: int) -> memoryview:
        self.first()
        if isinstance(self.target, type):
            raise self.target
        return memoryview(self.target)

    def __release_buffer__(self, view: memoryview) -> None:
        self.first()


class Finalized:
    """Garbage in a cycle, which does something when it is collected."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.me = self
        self.then = then

    def __del__(self) -> None:
        try:
            self.then()
        except BaseException:
            pass  # it is the next call that is compared


class Side:
    """What belongs to one of the two libraries: its managers and clients, by the same numbers as the other's."""

    def __init__(self, package: Any) -> None:
        self.package = package
        self.managers: list[Any] = []
        self.traces: dict[int, Any] = {}
        self.cursors: dict[int, Any] = {}
        self.buffers: dict[int, Any] = {}
        self.views: dict[int, Any] = {}
        self.kept: Any = None  # what the call that is being made returned

    def state(self) -> list[Any]:
        """All that must be the same."""
        return [self._state_of(manager) for manager in self.managers] + [self._reads_of(one) for one in self.traces]

    def _reads_of(self, number: int) -> Any:
        """The last of what was recorded of a manager."""
        trace = self.traces[number]
        return {"trace": number, "recorded": trace.recorded, "reads": trace._reads[-64:]}

    def _state_of(self, manager: Any) -> Any:
        cache, names = manager._cache, manager._files.name_of
        return {
            "stats": tuple(manager.stats())[:-1],  # the last is a limit of the system's, where none is given
            "regions": sorted(map(repr, (tuple(region)[:-1] for region in manager.regions()))),
            "idle": [(names(region.file), region.key) for region in cache.idle],
            "open": [names(file) for file in cache.open],
            "hits": (cache.idle.hits, cache.open.hits),
            "crowded": cache.idle.crowded,
        }


def plain_value(answer: Any) -> Any:
    """What can be compared of an answer: not whose object it is."""
    if answer is None or isinstance(answer, (int, float, str, bytes, bytearray, list, tuple)):
        return type(answer).__name__, answer
    if isinstance(answer, memoryview):
        return "view", bytes(answer), answer.readonly, answer.format, answer.ndim, answer.shape, answer.strides
    return type(answer).__name__


class Episode:
    """Some managers, files and clients, and calls on them that follow from a seed."""

    met: ClassVar[Counter[str]] = Counter()

    def __init__(self, seed: str, log: Callable[[str], object] = lambda line: None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.log = log
        self.folder = tempfile.mkdtemp(prefix="smmap-pair-")
        self.files: dict[str, bytes] = {}
        self.serial = 0
        self.shaken = False  # whether an exception cut a call short in this step
        self.ever: dict[str, list[bytes]] = {}
        self.of: dict[tuple[str, int], str] = {}  # which file a client was made for
        self.numbers: list[int] = []
        self.sides = [Side(load(name)) for name in SIDES]
        self.settings: list[Any] = []
        self.rate = self.chance.choice([None, 1.0, 0.5])  # of traces
        reads = self.chance.random() < 0.2
        for _ in range(2):
            window = self.chance.choice([W, W, 2 * W, 0])
            memory = self.chance.choice([W, 2 * W, 3 * W, 5 * W, 0])
            handles = self.chance.choice([1, 2, 3, 4, 6, sys.maxsize])
            backing = "read" if reads else self.chance.choice(["mmap", "auto", "read"])
            self.log(f"manager: window {window}, memory {memory}, handles {handles}, {backing}")
            self.settings.append((window, memory, handles, backing))
            for side in self.sides:
                side.managers.append(self.manager(side, len(self.settings) - 1))
        self.reads = reads
        for name in ("one", "two", "six"):
            self.write(name, self.content(self.any_size()))

    def manager(self, side: Side, number: int) -> Any:
        """A new manager, made as that one is."""
        *sizes, backing = self.settings[number]
        manager = side.package.SlidingWindowMapManager(*sizes, backing=backing)
        if number in side.traces:
            side.traces.pop(number).close()
        if self.rate is not None:
            path = os.path.join(self.folder, f"{side.package.engine}{number}.trace")
            side.traces[number] = manager.trace(path, rate=self.rate)
        return manager

    # Files

    def any_size(self) -> int:
        near = self.chance.choice([0, 1, 2, 4, 5, 6, 8, 9]) * G
        return max(0, near + self.chance.choice([-1, 0, 0, 1, 77]))

    def content(self, size: int) -> bytes:
        return self.chance.randbytes(size)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, data: bytes) -> None:
        """Another file at that name."""
        with open(self.path("new"), "wb") as file:
            file.write(data)
        os.replace(self.path("new"), self.path(name))
        self.changed(name, data)

    def changed(self, name: str, data: bytes) -> None:
        self.files[name] = data
        self.ever.setdefault(name, []).append(data)
        self.serial += 1
        now = 10**18 + 1000 * self.serial
        os.utime(self.path(name), ns=(now, now))

    # Calls

    def call(self, what: str, function: Callable[[Side], Any]) -> Any:
        """The answer of the first side, if both have the same; the exception of both is returned, too."""
        found = []
        for side in self.sides:
            self.log(f"{what}: {side.package.engine}")
            armed = (_Faults.name, _Faults.left, _Faults.then)
            try:
                side.kept = function(side)
                answer = plain_value(side.kept)
            except (Exception, Alarm) as error:
                side.kept = None
                answer = self.told(error)
            if side is self.sides[0]:
                came = _Faults.came
                _Faults.arm(*armed)
            found.append(answer)
        faulty = armed[0] != "" and (came or _Faults.came)
        if faulty:
            _Faults.disarm()
            self.shaken = True
        if found[0] != found[1] and not (faulty and self.promised(found)):
            raise Difference(f"{what}: plain {found[0]!r:.600}\nfast {found[1]!r:.600}")
        kind = found[0][1] if isinstance(found[0], tuple) and found[0][0] == "error" else "answer"
        self.met[str(kind)] += 1
        return found[0]

    @staticmethod
    def told(error: BaseException) -> Any:
        code = error.errno if isinstance(error, OSError) else None
        kinds = tuple(kind.__name__ for kind in type(error).__mro__)
        said = str(error) if "SmmapError" in kinds else ""
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return "error", type(error).__name__, kinds, code, said

    def promised(self, found: list[Any]) -> bool:
        """The engines need not make the same system calls: after a fault, each may fail as promised, or be right."""
        failed = [one for one in found if isinstance(one, tuple) and one[0] == "error"]
        faults = [one for one in failed if "OSError" in one[2] or one[1] == "Alarm"]
        return bool(faults) or not failed  # beside a fault, `ValueError` may be right: nothing was found

    # Values

    def number(self, size: int) -> Any:
        """A place in so many bytes, or near them, or a hostile one."""
        pick = self.chance.random()
        if pick < 0.03:
            return self.chance.choice([1 << 31, 1 << 63, -(1 << 63), 1 << 70, True, None, "1", 1.0, size, -size - 1])
        if pick < 0.10:
            return self.chance.choice([0, 1, -1, size - 1, size, size + 1, -size])
        if pick < 0.6 and size:
            return self.chance.randrange(size)
        step = self.chance.choice([G, W])
        return min(size, self.chance.randrange(10) * step + self.chance.choice([-1, 0, 1]))

    def hostile(self, value: Any) -> Callable[[Side], Any]:
        """Mostly the value itself; or an index that does something first."""
        if self.chance.random() > 0.06 or not isinstance(value, int):
            return lambda side: value
        given = self.chance.choice([value, value, value, Oops])
        first = self.meddle()
        if self.chance.random() < 0.05:
            given = self.chance.choice(["no index", None, 1.5, 1 << 80])
        return lambda side: Index(given, lambda: first(side))

    def meddle(self) -> Callable[[Side], object]:
        """User code in the middle of a call: what it does to the client's library."""
        what = self.chance.choice(["collect", "read", "read", "move", "drop", "garbage", "close", "thread", "release"])
        number, place = self.chance.randrange(100), self.chance.randrange(9 * G)

        def do(side: Side, what: str = what) -> None:
            self.log(f"  meanwhile {what} {number} {place}: {side.package.engine}")
            buffers, cursors = sorted(side.buffers), sorted(side.cursors)
            if what == "collect":
                side.managers[number % 2].collect()
            elif what == "read" and buffers:
                self.quiet(lambda: side.buffers[buffers[number % len(buffers)]][place : place + 99])
            elif what == "move" and cursors:
                self.quiet(lambda: side.cursors[cursors[number % len(cursors)]].use_region(place, 99))
            elif what == "drop":
                for key in sorted(side.views)[: number % 3]:
                    del side.views[key]
            elif what == "garbage":
                self.quiet(lambda: Finalized(lambda: (do(side, "read"), do(side, "collect"))) and None)
                gc.collect()
            elif what == "close" and buffers and number % 4 == 0:
                side.buffers[buffers[number % len(buffers)]].end_access()
            elif what == "release":
                side.managers[number % 2].release(self.folder)
            elif what == "thread" and not FREE_THREADED:
                thread = threading.Thread(target=do, args=(side, "collect" if number % 2 else "read"))
                thread.start()
                thread.join()

        return do

    @staticmethod
    def quiet(function: Callable[[], object]) -> None:
        try:
            function()
        except Exception as error:
            error.__traceback__ = None

    # Steps

    def step(self) -> None:
        kinds = STEPS
        name = self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        if not _Faults.name and self.chance.random() < 0.01:
            self.arm()
        getattr(self, name)()
        if self.shaken:
            self.resume()
        self.compare(name)

    def arm(self) -> None:
        """Let a system call of the next call that makes it fail, or a signal handler raise in it."""
        name, number = self.chance.choice(CALLS), self.chance.choice([1, 1, 1, 2, 3])
        code = self.chance.choice(CODES)
        if self.chance.random() < 0.4:

            def then() -> int:
                before = signal.signal(signal.SIGUSR1, self.raise_alarm)
                try:
                    signal.raise_signal(signal.SIGUSR1)
                finally:
                    signal.signal(signal.SIGUSR1, before)
                return 0
        else:

            def then() -> int:
                return code

        self.log(f"call {number} of {name}() fails: {errno.errorcode[code]}")
        _Faults.arm(name, number, then)

    @staticmethod
    def raise_alarm(*_: object) -> None:
        raise Alarm

    def resume(self) -> None:
        """After an exception that cut short a call: all is let go, and both sides start anew.

        With new managers, since no counter tells what windows have paid.
        """
        self.shaken = False
        self.met["cut short"] += 1
        for side in self.sides:
            for manager in side.managers:
                manager._check()
            for client in (*side.cursors.values(), *side.buffers.values()):
                self.quiet(client.close if hasattr(client, "close") else client.end_access)
            for clients in (side.cursors, side.buffers, side.views):
                clients.clear()
        gc.collect(0)
        self.check_zero()
        for side in self.sides:
            for number, manager in enumerate(side.managers):
                manager.close()
                side.managers[number] = self.manager(side, number)

    def check_zero(self) -> None:
        """Nothing is mapped or open."""
        for side in self.sides:
            for manager in side.managers:
                manager._check()
                manager.collect()
                manager._check()
                if tuple(manager.stats())[:7] != (0,) * 7:
                    raise Difference(f"{side.package.engine}: {manager.stats()} after all was let go")

    def compare(self, name: str) -> None:
        """Counters, regions and orders."""
        plain, fast = (side.state() for side in self.sides)
        if plain != fast:
            said = [
                f"manager {number}, {key}: plain {mine[key]!r:.400}, fast {theirs[key]!r:.400}"
                for number, (mine, theirs) in enumerate(zip(plain, fast))
                for key in mine
                if mine[key] != theirs[key]
            ]
            raise Difference(f"after {name}: " + "\n".join(said))

    def check(self) -> None:
        for side in self.sides:
            for manager in side.managers:
                manager._check()

    def right(self, name: str, start: int, answer: Any) -> None:
        """What was read of a file is what it holds, or held."""
        kind, data = answer[:2]
        versions = self.ever[name]
        if kind not in ("bytes", "view") or any(data == old[start : start + len(data)] for old in versions):
            return
        for place, byte in enumerate(data, start):  # it was written in place, in parts
            if all(old[place : place + 1] != bytes((byte,)) for old in versions):
                raise Difference(f"wrong bytes of {name} at {place}: both sides agree on them")

    def pick(self, kind: str) -> int | None:
        known = sorted(getattr(self.sides[0], kind))
        return self.chance.choice(known) if known else None

    def new(self, kind: str, make: Callable[[Side], Any], name: str) -> None:
        """A new client on both sides, if it can be made."""
        known = sorted(getattr(self.sides[0], kind))
        if len(known) >= MOST[kind]:
            gone = self.chance.choice(known)
            for side in self.sides:
                del getattr(side, kind)[gone]
        self.serial += 1
        self.call(f"new {kind} {self.serial} of {name}", make)
        if all(side.kept is not None for side in self.sides):
            for side in self.sides:
                getattr(side, kind)[self.serial] = side.kept
            self.of[kind, self.serial] = name
        for side in self.sides:
            side.kept = None

    def given(self, name: str) -> Any:
        path = self.path(name)
        pick = self.chance.random()
        if pick < 0.1 and os.path.exists(path):
            self.numbers.append(os.open(path, os.O_RDONLY))
            return self.numbers[-1]
        return path if pick < 0.7 else os.fsencode(path) if pick < 0.85 else Path(path)

    def make_cursor(self) -> None:
        name, number = self.chance.choice([*self.files]), self.chance.randrange(2)
        given = self.given(name)
        self.new("cursors", lambda side: side.managers[number].make_cursor(given), name)

    def make_buffer(self) -> None:
        name, number = self.chance.choice([*self.files]), self.chance.randrange(2)
        size = len(self.files[name])
        offset = self.chance.choice([0, 0, self.chance.randrange(size + 1)])
        count = self.chance.choice([None, None, self.chance.randrange(size + 9)])
        access = self.chance.choice(["normal", "normal", "random", "sequential"])
        given = self.given(name)
        self.new("buffers", lambda side: side.managers[number].buffer(given, offset, count, access=access), name)
        self.of["offset", self.serial] = offset  # type: ignore[assignment]

    def make_buffer_of_cursor(self) -> None:
        key = self.pick("cursors")
        if key is not None:
            self.new(
                "buffers",
                lambda side: side.package.SlidingWindowMapBuffer(side.cursors[key]),
                self.of["cursors", key],
            )
            self.of["offset", self.serial] = 0  # type: ignore[assignment]

    def on_buffer(self, what: str, function: Callable[[Side, Any], Any]) -> tuple[Any, str, int] | None:
        """A call on some buffer: the answer, its file, its offset."""
        key = self.pick("buffers")
        if key is None:
            return None
        answer = self.call(f"buffer {key} {what}", lambda side: function(side, side.buffers[key]))
        return answer, self.of["buffers", key], self.of["offset", key]  # type: ignore[return-value]

    def size_of_some(self) -> int:
        return len(self.files[self.chance.choice([*self.files])])

    def index(self) -> None:
        place = self.number(self.size_of_some())
        given = self.hostile(place)
        self.on_buffer(f"[{place!r}]", lambda side, buffer: buffer[given(side)])

    def slice(self) -> None:
        start = self.number(self.size_of_some())
        length = self.chance.choice([0, 1, 9, 100, 4096, G, W, W + 1, 3 * W])
        stop = start + length if isinstance(start, int) else self.number(99)
        first, last = self.hostile(start), self.hostile(stop)
        found = self.on_buffer(f"[{start!r}:{stop!r}]", lambda side, buffer: buffer[first(side) : last(side)])
        plain = isinstance(start, int) and start >= 0
        if found is not None and plain:
            answer, name, offset = found
            self.right(name, offset + start, answer)

    def stepped(self) -> None:
        size = self.size_of_some()
        start, stop = self.number(size), self.number(size)
        step = self.chance.choice([1, 2, 7, 100, 600, -1, -3, -G, G + 1, 0, 1 << 70])
        given = self.hostile(step)
        self.on_buffer(f"[{start!r}:{stop!r}:{step}]", lambda side, buffer: buffer[slice(start, stop, given(side))])

    def view(self) -> None:
        key = self.pick("buffers")
        if key is None:
            return
        start = self.number(self.size_of_some())
        length = self.chance.choice([0, 1, 100, 4096, G, W, 3 * W])
        stop = start + length if isinstance(start, int) else None
        first = self.hostile(start)
        self.new("views", lambda side: side.buffers[key].view(first(side), stop), self.of["buffers", key])

    def drop_view(self) -> None:
        key = self.pick("views")
        if key is not None:
            self.call(f"view {key}", lambda side: side.views[key])
            for side in self.sides:
                del side.views[key]
                side.kept = None

    def read_into(self) -> None:
        size = self.chance.choice([0, 1, 9, 4096, G, W + 9])
        start = self.number(self.size_of_some())
        kind = self.chance.choice(["bytearray", "array", "bytes", "view", "strided", "hostile", "int"])
        first, where = self.meddle(), self.hostile(start)

        def call(side: Side, buffer: Any) -> Any:
            room = bytearray(size)
            target: Any = room
            if kind == "array":
                target = array.array("H", bytes(size // 2 * 2))
            elif kind == "bytes":
                target = bytes(size)
            elif kind == "view":
                target = memoryview(room)[size // 3 :]
            elif kind == "strided":
                target = memoryview(room)[::2]
            elif kind == "int":
                target = size
            elif kind == "hostile" and HAS_BUFFER_METHOD:
                target = Exporter(room, lambda: first(side))
            count = buffer.readinto(where(side), target)
            return count, bytes(target) if kind == "array" else bytes(room)

        self.on_buffer(f"readinto({start!r}, {kind} of {size})", call)

    def unpack(self) -> None:
        fmt = self.chance.choice(["<I", ">Q", "B", "7s", "<HHI", "100s", "x", "", "Z"])
        place = self.number(self.size_of_some())
        given = self.hostile(place)

        def call(side: Side, buffer: Any) -> Any:
            try:
                return buffer.unpack_from(fmt, given(side))
            except struct.error as error:
                error.__traceback__ = None
                return "struct.error"

        self.on_buffer(f"unpack_from({fmt!r}, {place!r})", call)

    def search(self) -> None:
        if not self.sides[0].package._system.SEARCHES_MAPS:
            return  # there the plain engine copies what it searches, and each copy counts as a hit
        name = self.chance.choice([*self.files])
        data = self.files[name]
        start = self.chance.randrange(len(data) + 1)
        needle: Any = data[start : start + self.chance.choice([0, 1, 2, 9, 300])]
        if self.chance.random() < 0.2:
            needle = self.chance.choice(
                [b"nowhere in it", needle * 2, memoryview(needle), bytearray(needle), "x", 7, 999]
            )
        how = self.chance.choice(["find", "rfind", "count", "index", "rindex"])
        ends = [None, None] if self.chance.random() < 0.5 else [self.number(len(data)), self.number(len(data))]
        low, high = (self.hostile(end) for end in ends)
        first = self.meddle()
        hostile = HAS_BUFFER_METHOD and self.chance.random() < 0.1

        def call(side: Side, buffer: Any) -> Any:
            sub = Exporter(needle, lambda: first(side)) if hostile and isinstance(needle, bytes) else needle
            return getattr(buffer, how)(sub, low(side), high(side))

        self.on_buffer(f"{how} of {needle!r:.40} in {ends}", call)

    def contains(self) -> None:
        what = self.chance.choice([b"\0\1", b"", 7, -1, 256, "x", None])
        if not self.sides[0].package._system.SEARCHES_MAPS:
            what = self.chance.choice([-1, 256, "x", None])  # as above
        self.on_buffer(f"contains {what!r}", lambda side, buffer: what in buffer)

    def whole(self) -> None:
        how = self.chance.choice(["bytes", "export", "len", "iterate", "reverse", "equal", "hash", "views", "repr"])

        def call(side: Side, buffer: Any) -> Any:
            if how == "bytes":
                return bytes(buffer)
            if how == "export":
                return bytes(memoryview(buffer)[:99])
            if how == "len":
                return len(buffer)
            if how == "iterate":
                return [byte for byte, _ in zip(buffer, range(50))]
            if how == "reverse":
                return [byte for byte, _ in zip(reversed(buffer), range(50))]
            if how == "equal":
                return buffer == b"no" * 9, buffer == buffer[:]
            if how == "hash":
                return hash(buffer) and 0
            if how == "repr":
                return repr(buffer).replace("smmap_", "")
            return [bytes(view) for view, _ in zip(buffer.iter_views(3, None, W), range(3))]

        if how != "export" or HAS_BUFFER_METHOD:
            self.on_buffer(how, call)

    def end_buffer(self) -> None:
        how = self.chance.choice(["end_access", "del", "refresh", "cursor"])
        key = self.pick("buffers")
        if key is None:
            return
        if how == "del":
            for side in self.sides:
                del side.buffers[key]
        elif how == "cursor":
            self.call(f"buffer {key} cursor()", lambda side: side.buffers[key].cursor() and None)
        else:
            self.call(f"buffer {key} {how}", lambda side: getattr(side.buffers[key], how)())
            if how == "end_access" and self.chance.random() < 0.8:
                for side in self.sides:
                    del side.buffers[key]

    def on_cursor(self, what: str, function: Callable[[Side, Any], Any]) -> tuple[Any, str] | None:
        key = self.pick("cursors")
        if key is None:
            return None
        return self.call(f"cursor {key} {what}", lambda side: function(side, side.cursors[key])), self.of[
            "cursors", key
        ]

    def move(self) -> None:
        place = self.number(self.size_of_some())
        size: Any = self.chance.choice([0, 0, 1, 9, 4096, G, W - 1, W, W + 1, 9 * W, -1, 1 << 70, "x"])
        first, count = self.hostile(place), self.hostile(size)
        flags = self.chance.choice([0] * 20 + [os.O_NOFOLLOW, -1])

        def call(side: Side, cursor: Any) -> Any:
            cursor.use_region(first(side), count(side), flags)
            if not cursor.is_valid():
                return "not valid"
            assert cursor.region().ofs_begin() <= cursor.ofs_begin()
            return bytes(cursor.buffer())

        found = self.on_cursor(f"use_region({place!r}, {size!r}, {flags})", call)
        if found is not None and isinstance(place, int) and place >= 0:
            self.right(found[1], place, found[0])

    def look(self) -> None:
        def call(side: Side, cursor: Any) -> Any:
            if not cursor.is_valid():
                return cursor.is_associated(), cursor.closed, cursor.file_size()
            region = cursor.region()
            return (
                *(cursor.ofs_begin(), cursor.ofs_end(), cursor.size(), cursor.includes_ofs(cursor.ofs_begin() + 5)),
                *(region.ofs_begin(), region.ofs_end(), region.size(), region.client_count(), bytes(cursor.buffer())),
            )

        self.on_cursor("look", call)

    def map(self) -> None:
        key = self.pick("cursors")
        if key is None:
            return
        place, needle = self.number(W), self.chance.choice([b"\0", b"ab", b"", 7])
        low = place if isinstance(place, int) and abs(place) < 1 << 62 else 3  # others not every `mmap.find` takes
        given = self.hostile(place)
        step = self.chance.choice([None, 1, 3, -2, 0])

        def call(side: Side) -> Any:
            region = side.cursors[key].map()
            found: list[Any] = [len(region), region.size(), region.find(b"\1\2"), region.rfind(b"\1")]
            for look in (
                lambda: region[given(side)],
                lambda: region[place : place + 99],
                lambda: region[place::step][:99],
                lambda: region.find(needle, low),
                lambda: region.rfind(needle, 0, low),
                lambda: bytes(memoryview(region)[5:9]),
                lambda: region.madvise(0, 0, 5),
                lambda: region.close(),
                lambda: region.__setitem__(0, 1),
            ):
                try:
                    found.append(look())
                except Exception as error:
                    found.append(type(error).__name__)
                    error.__traceback__ = None
            return found

        self.call(f"cursor {key} map() at {place!r}", call)

    def let_go(self) -> None:
        how = self.chance.choice(["unuse_region", "unuse_region", "close", "del", "copy", "assign"])
        key, other = self.pick("cursors"), self.pick("cursors")
        if key is None:
            return
        if how == "del":
            for side in self.sides:
                del side.cursors[key]
        elif how == "assign":
            self.call(f"cursor {key} assign {other}", lambda side: side.cursors[key].assign(side.cursors[other]))
            self.of["cursors", key] = self.of["cursors", other]  # type: ignore[index]
        elif how == "copy":
            self.new("cursors", lambda side: side.cursors[key].__copy__(), self.of["cursors", key])
        else:
            self.call(f"cursor {key} {how}", lambda side: getattr(side.cursors[key], how)())

    def manage(self) -> None:
        how = self.chance.choice(["collect", "release", "num", "reset", "again", "default"])
        number = self.chance.randrange(2)
        path = self.path(self.chance.choice([*self.files, "nothing", "."]))
        if how == "again" and self.chance.random() < 0.8:
            return

        def call(side: Side) -> Any:
            manager = side.managers[number]
            if how == "collect":
                return manager.collect()
            if how == "release":
                return manager.release(path)
            if how == "reset":
                return manager.reset_stats()
            if how == "again":
                manager.close()
                assert not manager.stats().pinned
                side.managers[number] = self.manager(side, number)
                return None
            return manager.num_file_handles(), manager.num_open_files(), manager.mapped_memory_size(), manager.hit_rate

        self.call(f"manager {number} {how}", call)

    def read_file(self) -> None:
        name, number = self.chance.choice([*self.files]), self.chance.randrange(2)
        places = [(self.chance.randrange(9 * G), self.chance.choice([0, 1, 100, W + 1])) for _ in range(3)]

        def call(side: Side) -> Any:
            with side.managers[number].open(self.path(name), "rb") as file:
                found = []
                for place, size in places:
                    file.seek(place)
                    found.append(file.read(size))
                return found

        self.call(f"open {name}", call)

    def in_thread(self) -> None:
        """The same step, by another thread."""
        failed: list[BaseException] = []

        def work() -> None:
            try:
                self.chance.choice([self.slice, self.move, self.view, self.index, self.let_go, self.manage])()
            except BaseException as error:
                failed.append(error)

        if _Faults.name or FREE_THREADED:  # a signal's handler runs in the main thread
            return
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    def change(self) -> None:
        """A file changes: replaced, grown, written in place, deleted and made anew, or (where all read) truncated."""
        name = self.chance.choice([*self.files])
        data = self.files[name]
        how = self.chance.choice(["replace", "replace", "grow", "rewrite", "again", "truncate"])
        self.log(f"{how} {name}")
        if how == "replace":
            self.write(name, self.content(self.any_size()))
        elif how == "grow" and len(data) < 20 * G:
            more = self.content(self.chance.choice([1, 99, G, W]))
            with open(self.path(name), "ab") as file:
                file.write(more)
            self.changed(name, data + more)
        elif how == "rewrite" and data:
            at = self.chance.randrange(len(data))
            piece = self.content(99)[: len(data) - at]
            with open(self.path(name), "r+b") as file:
                file.seek(at)
                file.write(piece)
            self.changed(name, data[:at] + piece + data[at + len(piece) :])
        elif how == "again":
            os.unlink(self.path(name))
            self.call(f"{name} is gone", lambda side: side.managers[0].make_cursor(self.path(name)))
            self.write(name, self.content(self.any_size()))
        elif how == "truncate" and self.reads:
            size = self.chance.randrange(len(data) + 1)
            os.truncate(self.path(name), size)
            self.changed(name, data[:size])

    def run(self, steps: int) -> int:
        """So many steps; at the end nothing is left mapped."""
        was = gc.isenabled()
        gc.disable()  # the same garbage must go at the same moment for both
        try:
            for number in range(steps):
                self.log(f"step {number}")
                self.step()
                if number % 25 == 24:
                    self.check()
            self.end()
        finally:
            _Faults.disarm()
            if was:
                gc.enable()
            self.close()
        return steps

    def end(self) -> None:
        _Faults.disarm()
        for side in self.sides:
            for clients in (side.cursors, side.buffers, side.views):
                clients.clear()
            side.kept = None
        gc.collect()
        self.check_zero()

    def close(self) -> None:
        for side in self.sides:
            for trace in side.traces.values():
                trace.close()
            for manager in side.managers:
                manager.close()
        for number in self.numbers:
            os.close(number)
        shutil.rmtree(self.folder, ignore_errors=True)


STEPS = [
    ("make_cursor", 3),
    ("make_buffer", 4),
    ("make_buffer_of_cursor", 1),
    ("index", 12),
    ("slice", 20),
    ("stepped", 4),
    ("view", 8),
    ("drop_view", 6),
    ("read_into", 6),
    ("unpack", 5),
    ("search", 5),
    ("contains", 1),
    ("whole", 2),
    ("end_buffer", 2),
    ("move", 16),
    ("look", 3),
    ("map", 3),
    ("let_go", 5),
    ("manage", 3),
    ("read_file", 2),
    ("in_thread", 2),
    ("change", 2),
]
