"""What the contract tests share: the least of a policy that an engine needs, and ways to interrupt it.

The oracle is always the file's content, as bytes.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from core._tools import File, G, reclaim
from smmap import _files
from smmap._window import Window

__all__ = [
    "CPYTHON",
    "Bench",
    "Closed",
    "Interrupt",
    "Lost",
    "Steps",
    "alarmed",
    "dead",
    "every_step",
    "interrupt",
    "meanwhile",
    "needs_python",
    "numbers_of",
    "shot",
]

CPYTHON = sys.implementation.name == "cpython"
NEVER = 1 << 30  # a price that no rent reaches


class Closed(Exception):
    """What the policy below says of a buffer that is closed."""


class Lost(Exception):
    """What the policy below says of a cursor without a region."""


class Bench:
    """One file, its descriptor, a ledger, an order, and a policy that does the least and notes what it is asked."""

    closed = False

    def __init__(
        self,
        engine: Any,
        file: File,
        *,
        window: int = 2 * G,
        kind: str = "map",
        price: int = NEVER,
        cached: bool = False,
        ledger: Any = None,
    ) -> None:
        self.engine = engine
        self.path = str(file.path)
        self.data = file.data
        self.window = window
        self.kind = kind
        self.ledger = ledger or engine.Ledger()
        self.idle = self.ledger.idle
        self.asked: list[Any] = []
        self.descriptor, status = engine.open_file(self.path, 0)
        self.file = _files.File(status, engine.Table())
        self.file.price, self.file.patience = price, 1000
        if cached:
            self.file.descriptor = self.descriptor
        self.client = _files.Client(self, self.file, file.path, self.path, status.size, status.mtime)

    def close(self) -> None:
        if self.descriptor is None:
            return
        self.descriptor.close()
        self.descriptor = self.file = self.client = self.idle = None  # which are a cycle

    # Regions

    def make(self, start: int, stop: int, key: Any = None, advice: str = "normal", kind: str | None = None) -> Any:
        """A region, or None."""
        call = self.engine.map_window if (kind or self.kind) == "map" else self.engine.read_window
        window = Window((start, stop) if key is None else key, start, stop)
        return call(self.ledger, self.file, self.descriptor.number, window, advice)

    def grid(self, number: int) -> Any:
        """The region of a grid window, mapped now."""
        start = number * self.window
        return self.make(start, min(start + self.window, len(self.data)), number)

    def keep_idle(self, number: int) -> None:
        """Map a grid window and keep it as idle."""
        region = self.grid(number)
        self.idle.add(region.entry, region)

    def restart(self, *numbers: int) -> None:
        """Let these grid windows be idle, in this order, and nothing else be mapped or used."""
        while len(self.idle):
            self.idle.pop_oldest()
        dead()
        assert self.counts() == (0, 0)
        for number in numbers:
            self.keep_idle(number)
        self.asked.clear()

    def idle_keys(self) -> list[Any]:
        """The keys of the idle windows, least recently used first."""
        return [region.key for region in self.idle]

    def cold_reads(self) -> int:
        """How many ranges were read by the cached descriptor."""
        return int(self.ledger.open.hits)

    def counts(self) -> tuple[int, int]:
        self.ledger.settle()
        return self.ledger.mapped, self.ledger.memory

    # What an engine asks of the policy

    def _fetch(self, client: Any, start: int, stop: int, due: bool) -> bytes:
        assert client.file is self.file
        self.asked.append(("fetch", start, stop, due))
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def _map_range(self, client: Any, start: int, stop: int) -> Any:
        assert client.file is self.file
        self.asked.append(("map_range", start, stop))
        low = start - start % G if self.kind == "map" else start
        return self.make(low, stop)

    def _keep(self, client: Any, region: Any) -> None:
        self.asked.append(("keep", region.key))
        self.idle.add(region.entry, region)

    # Clients

    def access(self, offset: int = 0, size: int | None = None) -> Any:
        size = len(self.data) - offset if size is None else size
        return self.engine.Access(self.client, offset, size, self.window, self.ledger)

    def buffer(self, offset: int = 0, size: int | None = None) -> Any:
        """A buffer that is open."""
        return self.buffer_of(self.access(offset, size))

    def buffer_of(self, access: Any, later: Any = None) -> Any:
        """A buffer with this record; if that one is pending, `later` is its record once the file was opened."""

        class Buffer(self.engine.BufferBase):  # type: ignore[name-defined, misc]
            def _ready(self) -> Any:
                if not self._access.opened:
                    if not self._access.pending:
                        raise Closed
                    self._access = later
                return self._access

        buffer = Buffer()
        buffer._access = access
        return buffer

    def cursor(self) -> Any:
        """A cursor without a region, which notes each move that the engine leaves to the policy."""

        class Cursor(self.engine.CursorBase):  # type: ignore[name-defined, misc]
            def _move(self, offset: Any, size: Any, flags: Any) -> Any:
                self.moves.append((offset, size, flags))
                self.during()
                return self

            def _lost(self) -> Exception:
                return Lost()

            def _revoke(self) -> None:
                self.revoked += 1

        cursor = Cursor()
        cursor._access = self.access()
        cursor._use = None, 0, 0
        cursor.moves = []
        cursor.during = lambda: None
        cursor.revoked = 0
        return cursor

    def _soon(self, operation: Any, *args: Any) -> None:
        operation(*args)

    def _tidy(self, region: Any, last: Any) -> None:
        self.asked.append(("tidy", region().key, None if last is None else last().key))


def dead() -> None:
    """What nothing refers to, and what no other thread had, has died on any interpreter."""
    if not CPYTHON:
        reclaim()


# Interrupts


class Interrupt(BaseException):
    """Raised in the middle of something."""


def needs_python(engine: Any) -> str:
    """The engine's source; skips the test of a compiled one."""
    if not (CPYTHON and engine.__file__.endswith(".py")):
        pytest.skip("only Python code has steps to stop at, and modules to stand in for")
    return str(engine.__file__)


@contextmanager
def _swallowed() -> Iterator[list[Any]]:
    """The exceptions that nobody could catch, since they were raised in a finalizer."""
    seen: list[Any] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: seen.append(unraisable.exc_type)
    try:
        yield seen
    finally:
        sys.unraisablehook = before


class Steps:
    """Calls a function before one of the steps (instructions or lines) that an engine makes in its own modules.

    From CPython 3.12 on by `sys.monitoring`, since there `sys.settrace` does not show all instructions.
    """

    TOOL = 4

    def __init__(self, engine: Any) -> None:
        modules = [module for name, module in sys.modules.items() if name.startswith(engine.__name__)]
        self.sources = {module.__file__ for module in modules}
        self.count = self.at = 0
        self.then: Any = None
        self.kind = ""
        self.codes = []
        if hasattr(sys, "monitoring"):
            for module in modules:
                self.codes += _codes(vars(module).values(), module.__file__)
        if self.codes:
            monitoring = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
            monitoring.use_tool_id(self.TOOL, "steps")
            for event, kind in ((monitoring.events.INSTRUCTION, "opcode"), (monitoring.events.LINE, "line")):
                monitoring.register_callback(self.TOOL, event, lambda *_, kind=kind: self.step(kind))
            for code in self.codes:
                monitoring.set_local_events(self.TOOL, code, monitoring.events.INSTRUCTION | monitoring.events.LINE)

    def close(self) -> None:
        if self.codes:
            monitoring = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
            for code in self.codes:
                monitoring.set_local_events(self.TOOL, code, 0)
            for event in (monitoring.events.INSTRUCTION, monitoring.events.LINE):
                monitoring.register_callback(self.TOOL, event, None)
            monitoring.free_tool_id(self.TOOL)

    def step(self, kind: str) -> None:
        if kind == self.kind:
            self.count += 1
            if self.count == self.at:
                self.kind = ""  # steps of what is called now do not count
                try:
                    self.then()
                finally:
                    self.kind = kind

    def _trace(self, frame: Any, event: str, _arg: Any) -> Any:
        if event == "call":
            if frame.f_code.co_filename not in self.sources:
                return None
            frame.f_trace_opcodes = self.kind == "opcode"
            frame.f_trace_lines = self.kind == "line"
        else:
            self.step(event)
        return self._trace

    def run(self, at: int, action: Callable[[], object], then: Callable[[], object], kind: str) -> bool:
        """Run `action`, and `then` before its step `at`; whether there were so many steps."""
        self.count, self.at, self.then, self.kind = 0, at, then, kind
        before, collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # what others left must not die in the middle, and take steps
        if not self.codes:
            sys.settrace(self._trace)
        try:
            with _swallowed():
                action()
        finally:
            self.kind, self.then = "", None
            if not self.codes:
                sys.settrace(before)
            if collects:
                gc.enable()
        return self.count >= at


def _codes(found: Iterable[Any], source: str) -> Iterator[Any]:
    """All code objects of a source, from what its module has."""
    for one in found:
        if isinstance(one, types.CodeType):
            if one.co_filename == source:
                yield one
                yield from _codes(one.co_consts, source)
        elif isinstance(one, types.FunctionType):
            yield from _codes([one.__code__], source)
        elif isinstance(one, property):
            yield from _codes([one.fget], source)
        elif isinstance(one, classmethod):
            yield from _codes([one.__func__], source)
        elif isinstance(one, type) and one.__module__.startswith("smmap."):
            yield from _codes(list(vars(one).values()), source)


def interrupt(steps: Steps, at: int, action: Callable[[], object], kind: str = "opcode") -> bool:
    """Run `action` and raise an exception before its step (or line) `at`; whether it got so far."""

    def then() -> None:
        raise Interrupt

    try:
        return steps.run(at, action, then, kind)
    except Interrupt:
        return True


def meanwhile(steps: Steps, at: int, action: Callable[[], object], other: Callable[[], object]) -> bool:
    """Run `action`, and before its step `at` all of `other`, as if another thread did that; whether it got so far."""
    return steps.run(at, action, other, "opcode")


def every_step(run: Callable[[int], bool]) -> int:
    """Call `run` with 1, 2, ... until it says that there was no such step; how many there were."""
    at = 1
    while run(at):
        at += 1
        assert at < 5000, "it never ends"
    assert at > 1, "no step was seen"
    return at - 1


def _repeat(action: Callable[[], object], go_on: Callable[[], bool]) -> None:
    """A function of its own: CPython 3.13 lets exceptions out of a `try` block if they are raised where a loop in it
    starts again."""
    while go_on():
        action()


def alarmed(seconds: float, action: Callable[[], object], check: Callable[[], object]) -> int:
    """Repeat `action`; a signal handler raises at random moments of it, and then there is a `check`. How many."""

    def handler(*_: object) -> None:
        raise Interrupt

    chance, count = random.Random(5), 0
    before = signal.signal(signal.SIGALRM, handler)
    end = time.monotonic() + seconds
    try:
        with _swallowed() as seen:
            while time.monotonic() < end:
                known = len(seen)
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 4e-4))
                    _repeat(action, lambda: len(seen) == known)
                except Interrupt:
                    pass
                count += 1
                check()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return count


def shot(seconds: float, action: Callable[[], object], check: Callable[[], object]) -> int:
    """The same in another thread, with exceptions as `PyThreadState_SetAsyncExc` raises them."""
    import ctypes

    chance, count = random.Random(7), 0
    failed: list[BaseException] = []
    ready = threading.Event()
    stop = threading.Event()

    def work() -> None:
        nonlocal count
        try:
            while not stop.is_set():
                known = len(seen)
                try:
                    ready.set()
                    _repeat(action, lambda: len(seen) == known and not stop.is_set())
                except Interrupt:
                    pass
                count += 1
                check()
        except BaseException as error:
            failed.append(error)

    with _swallowed() as seen:
        thread = threading.Thread(target=work)
        thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and thread.is_alive():
            if ready.wait(0.05):
                ready.clear()
                time.sleep(chance.uniform(0, 3e-4))
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupt))
        ready.wait(0.5)  # the last exception has arrived
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
    return count


def numbers_of(path: str) -> list[int]:
    """The numbers under which the process has a file open now."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == path:
                found.append(int(name))
        except OSError:  # the listing's own descriptor
            continue
    return found
