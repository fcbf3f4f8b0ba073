"""Many threads on one manager with tiny limits, while files are replaced, grown and deleted under them.

Each file's bytes are the start of a *text* that is its own, and each text has sizes of its own (modulo 64), so whoever
opens a file knows from its size what must be in it. Replacing and growing are atomic to whoever looks at the size.
Nothing here truncates: reading a map of a truncated file kills the process, and a read beside `truncate` may see zeros.

Beside the readers, two threads start one buffer on two files at the same moment, over and over, and the main thread is
interrupted by alarms that raise. No error may come in a finalizer, either.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import gc
import hashlib
import itertools
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import smmap
from core._tools import LINUX, G, descriptors, expected_size, maps, reclaim
from smmap._system import RECLAIMS_LATE

__all__ = ["Limits", "Round", "rounds"]

W = 2 * G
STEP = 64  # sizes of a text are alike modulo this; 0 is nobody's
NAMES = ["one", "two", "six", "ten", "red", "sky"]
PAIR = {"left": 5 * W + 33, "right": 3 * W + 3}  # two files that never change
LONGEST = 9 * W
WATCHDOG = 900  # seconds for a round: those of tiny limits take minutes without the interpreter's lock


class Alarm(Exception):
    """What the handler of a signal raises."""


class Limits(NamedTuple):
    """What a round's manager is made with."""

    window: int
    memory: int
    handles: int
    backing: str
    garbage: bool  # whether cursors are dropped in cycles, and the collector runs at random


class World:
    """The files of a round, and what each must hold."""

    def __init__(self, folder: str, seed: object) -> None:
        self.folder = folder
        self.seed = seed
        self.texts: dict[str, dict[int, bytes]] = {name: {} for name in NAMES}
        self.sizes: dict[str, int] = {}
        self.changes = dict.fromkeys([*NAMES, *PAIR], 0)  # odd while a file is being changed
        for name in NAMES:
            self.replace(name, random.Random(f"{seed} {name}"))
        self.pair = {name: hashlib.shake_128(f"{seed} {name}".encode()).digest(size) for name, size in PAIR.items()}
        for name, data in self.pair.items():
            Path(self.path(name)).write_bytes(data)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[None]:
        self.changes[name] += 1
        yield
        self.changes[name] += 1

    def replace(self, name: str, chance: random.Random) -> bool:
        """Another file by this name; False if no more can be told apart."""
        texts = self.texts[name]
        number = len(texts) + 1
        if number >= STEP:
            return False
        texts[number] = hashlib.shake_128(f"{self.seed} {name} {number}".encode()).digest(LONGEST + STEP)
        size = chance.choice([0, G, W, 3 * W, 6 * W, chance.randrange(0, 8 * W, STEP)]) + number
        with open(self.path(name + ".new"), "wb") as file:
            file.write(texts[number][:size])
        with self.changing(name):
            os.replace(self.path(name + ".new"), self.path(name))
            self.sizes[name] = size
        return True

    def grow(self, name: str) -> None:
        """Up to the next page, whose size is nobody's, and on."""
        size = self.sizes.get(name, LONGEST)
        if size + 2 * G > LONGEST:
            return
        text = self.texts[name][size % STEP]
        page = -(-size // G) * G
        with self.changing(name), open(self.path(name), "ab", buffering=0) as file:
            file.write(text[size:page])
            self.sizes[name] = page + size % STEP
            file.write(text[page : self.sizes[name]])

    def delete(self, name: str) -> None:
        with self.changing(name):
            self.sizes.pop(name, None)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(name))

    def seen(self, name: str) -> int:
        """A stamp by which `changed` tells whether a client made after it may find the file changed."""
        return self.changes[name]

    def changed(self, name: str, stamp: int) -> bool:
        return stamp % 2 == 1 or self.changes[name] != stamp


class Shared:
    """A buffer that all threads read, and what is in it."""

    def __init__(self, buffer: Any, name: str, data: bytes, stamp: int) -> None:
        self.buffer = buffer
        self.name = name
        self.data = data
        self.stamp = stamp
        self.closed = False


class Round:
    """One manager, its files, its threads; `reads` and `met` count what was answered in the end."""

    def __init__(self, limits: Limits, seed: int, threads: int, reads: int, end: float = float("inf")) -> None:
        self.limits = limits
        self.seed = seed
        self.threads = threads
        self.share = reads // threads
        self.end = end
        self.done = [0] * threads  # reads, by reader
        self.met: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.closing = False
        self.closes = seed % 2 == 1
        self.armed = False  # whether an alarm may raise now
        self.over = False
        self.folder = tempfile.mkdtemp(prefix="smmap-threads-")
        self.world = World(self.folder, seed)
        self.manager: Any = self.make_manager()
        self.shared: list[Shared | None] = [None] * 6
        self.contested: Any = smmap.SlidingWindowMapBuffer(self.manager.make_cursor(self.world.path("left")))
        # One region for each cursor and each view, one that is on its way, and one that a reader has in hand.
        self.roomy = limits.handles >= 4 * threads + 8 and not limits.garbage

    def make_manager(self) -> Any:
        window, memory, handles, backing, _ = self.limits
        if window:
            return smmap.SlidingWindowMapManager(window, memory, handles, backing=backing)
        return smmap.StaticWindowMapManager(0, memory, handles, backing=backing)

    def run(self) -> None:
        """All of it; raises what the first thread that failed raised."""
        try:
            self.run_threads()
            if self.errors:
                raise self.errors[0]
            self.finish()
        finally:
            self.over = True
            self.shared.clear()
            shutil.rmtree(self.folder, ignore_errors=True)

    def run_threads(self) -> None:
        self.meet = threading.Barrier(2)
        works = [*[self.read] * self.threads, self.change, self.clean, self.contest, self.contest]
        start = threading.Barrier(len(works))
        everyone = [threading.Thread(target=self.guarded, args=(start, work, n)) for n, work in enumerate(works)]
        readers, helpers = everyone[: self.threads], everyone[self.threads :]
        before = sys.unraisablehook
        sys.unraisablehook = self.unraisable
        try:
            for thread in everyone:
                thread.start()
            self.be_interrupted(readers)
            for thread in readers:
                thread.join()
            self.over = True
            self.meet.abort()
            for thread in helpers:
                thread.join()
        finally:
            sys.unraisablehook = before

    def unraisable(self, found: Any) -> None:
        """An error in a finalizer."""
        if not isinstance(found.exc_value, Alarm):
            self.errors.append(found.exc_value)
            self.over = True

    def guarded(self, start: threading.Barrier, work: Callable[[int, random.Random], None], number: int) -> None:
        try:
            start.wait(60)
            work(number, random.Random(f"{self.seed} {number}"))
        except BaseException as error:
            self.errors.append(error)
            self.over = True

    def finish(self) -> None:
        """Every client is gone: the ledger reads zero, and the system agrees."""
        manager = self.manager
        self.shared.clear()
        self.contested = None
        for _ in range(3):
            reclaim()
            manager.collect()
        manager._check()
        stats = manager.stats()
        assert stats[:7] == (0,) * 7, stats
        if LINUX:
            assert maps(Path(self.folder)) == []
            assert descriptors(Path(self.folder)) == []

    # What may come

    def promised(
        self, error: Exception, name: str, stamp: int, shared: Shared | None = None, zero_copy: bool = False
    ) -> None:
        """Raises the error again unless it may come here and now."""
        kind = type(error)
        if kind is smmap.ClosedError:
            good = self.closing or (shared is not None and shared.closed)
        elif kind is smmap.FileChangedError:
            good = self.world.changed(name, stamp)
        elif kind is FileNotFoundError:
            good = self.world.changed(name, stamp) or name not in self.world.sizes
        elif kind is smmap.LimitError:
            good = zero_copy and not self.roomy
        else:
            good = False
        if not good:
            raise error
        self.met[kind.__name__] += 1

    # The threads

    def read(self, number: int, chance: random.Random) -> None:
        """A reader: its own cursor, the shared buffers, a view held for a while."""
        view: Any = None
        wanted = b""
        late = 20  # how often it tries after the manager was closed
        while not self.over and self.done[number] < self.share and late and time.monotonic() < self.end:
            what = chance.random()
            if what < 0.70:
                self.done[number] += self.read_shared(chance)
            elif what < 0.75:
                self.done[number] += self.read_contested(chance)
            elif what < 0.95:
                self.done[number] += self.read_cursor(chance)
            elif what < 0.98:
                assert view is None or view == wanted, "a view changed"
                view = None  # before the next one: so one thread holds no more than one
                view, wanted = self.take_view(chance)
            else:
                self.renew(chance)
            if self.limits.garbage and what < 0.001:
                gc.collect()
            late -= self.closing
        assert view is None or view == wanted, "a view changed"

    def read_shared(self, chance: random.Random) -> int:
        place = chance.randrange(len(self.shared))
        shared = self.shared[place]
        if shared is None:
            self.renew(chance)
            return 0
        kind = chance.randrange(12)
        try:
            return self.burst(kind, shared.buffer, shared.data, chance)
        except (smmap.SmmapError, OSError) as error:
            self.promised(error, shared.name, shared.stamp, shared, zero_copy=kind == 9)
            if self.shared[place] is shared:
                self.shared[place] = None
            return 0

    def burst(self, kind: int, buffer: Any, data: bytes, chance: random.Random) -> int:
        """Some reads of one kind; how many. Only kind 9 needs a region."""
        size = len(data)
        if kind < 4:  # of one byte
            for at in [chance.randrange(size) for _ in range(40)]:
                assert buffer[at] == data[at], "wrong byte"
            return 40
        if kind < 7:  # of a few bytes
            for at in [chance.randrange(size) for _ in range(30)]:
                assert buffer[at : at + 33] == data[at : at + 33], "wrong bytes"
            return 30
        at = chance.randrange(size)
        if kind == 7:  # in order, as most do
            for start in range(at, min(at + 3000, size), 100):
                assert buffer[start : start + 100] == data[start : start + 100], "wrong bytes"
            return 30
        if kind == 8:  # across windows
            stop = at + chance.choice([G, W, 2 * W + 1])
            assert buffer[at:stop] == data[at:stop], "wrong bytes"
            assert buffer[at:stop:97] == data[at:stop:97], "wrong bytes"
            return 2
        if kind == 9:
            stop = min(at + chance.choice([1, G, W, 2 * W + 1]), size)
            assert buffer.view(at, stop) == data[at:stop], "wrong view"
            assert buffer[at - size] == data[at], "wrong byte"
            return 2
        if kind == 10:
            needle = data[at : at + 8]
            assert buffer.find(needle, max(0, at - 3000), at + 3000) == data.find(needle, max(0, at - 3000), at + 3000)
            assert buffer.rfind(needle) == data.rfind(needle), "found elsewhere"
            return 2
        if at + 8 <= size:
            assert buffer.unpack_from("<Q", at) == struct.unpack_from("<Q", data, at), "wrong number"
        return 1

    def read_cursor(self, chance: random.Random) -> int:
        """A cursor of this thread's own, for a while; dropped in one of all ways."""
        name = chance.choice(NAMES)
        stamp = self.world.seen(name)
        manager = self.manager
        done = 0
        try:
            cursor = manager.make_cursor(self.world.path(name))
            length = cursor.file_size()
            text = self.world.texts[name].get(length % STEP)
            if text is None:  # caught in the middle of growing
                return 0
            way = chance.randrange(4)
            for _ in range(chance.choice([1, 5, 20])):
                offset, size = chance.randrange(length), chance.choice([0, 1, 100, G, W, 3 * W])
                cursor.use_region(offset, size)
                got = cursor.size()
                want = expected_size(offset, size, self.limits.window, length)
                assert got == want or self.closing, f"{got} bytes instead of {want}"
                assert cursor.buffer() == text[offset : offset + got], "wrong bytes"
                done += 1
                if not done % 4:
                    other = copy.copy(cursor)
                    other.unuse_region()
                    cursor.unuse_region()
                    other.assign(cursor)
            if way == 0:
                cursor.close()
            elif way == 1:
                cursor.unuse_region()
            elif way == 2 and self.limits.garbage:
                ring: list[Any] = [cursor]
                ring.append(ring)
        except (smmap.SmmapError, OSError) as error:
            self.promised(error, name, stamp, zero_copy=True)
        return done

    def open_shared(self, chance: random.Random) -> Shared | None:
        """A new buffer over some file, or None if it cannot be had now."""
        name = chance.choice(NAMES)
        stamp = self.world.seen(name)
        path = self.world.path(name)
        try:
            if chance.random() < 0.5:
                buffer, offset = self.manager.buffer(path), 0
                length = len(buffer)
            else:
                with self.manager.make_cursor(path) as cursor:
                    length = cursor.file_size()
                    offset = chance.randrange(length // 3 + 1)
                    buffer = smmap.SlidingWindowMapBuffer(cursor, offset)
        except (smmap.SmmapError, OSError) as error:
            self.promised(error, name, stamp)
            return None
        text = self.world.texts[name].get(length % STEP)
        return None if text is None else Shared(buffer, name, text[offset:length], stamp)

    def renew(self, chance: random.Random) -> None:
        """Put another buffer in a place; the old one may be closed while others read it."""
        shared = self.open_shared(chance)
        place = chance.randrange(len(self.shared))
        old, self.shared[place] = self.shared[place], shared
        if old is not None and chance.random() < 0.5:
            old.closed = True
            old.buffer.close()

    def take_view(self, chance: random.Random) -> tuple[Any, bytes]:
        shared = self.shared[chance.randrange(len(self.shared))]
        if shared is None:
            return None, b""
        at = chance.randrange(len(shared.data))
        stop = min(at + chance.choice([1, G, W]), len(shared.data))
        try:
            view = shared.buffer.view(at, stop)
        except (smmap.SmmapError, OSError) as error:
            self.promised(error, shared.name, shared.stamp, shared, zero_copy=True)
            return None, b""
        wanted = shared.data[at:stop]
        assert view == wanted, "wrong view"
        return view, wanted

    def read_contested(self, chance: random.Random) -> int:
        """A slice of the buffer that others start on another file meanwhile: of one file, as a whole."""
        at = chance.randrange(min(PAIR.values()) - 1)
        stop = min(at + chance.choice([9, G, 2 * W]), *PAIR.values())
        try:
            data = self.contested[at:stop]
        except smmap.ClosedError:  # between the end of one access and the start of the next
            return 0
        assert data in [whole[at:stop] for whole in self.world.pair.values()], "two files in one slice"
        return 1

    def contest(self, number: int, chance: random.Random) -> None:
        """One of two threads that start the buffer on two files at once: afterwards it is on one of them."""
        name = sorted(PAIR)[number % 2]
        try:
            cursor = self.manager.make_cursor(self.world.path(name))
        except smmap.ClosedError:  # already
            self.meet.abort()
            return
        while not self.over and not self.closing:
            try:
                self.meet.wait(60)
                try:
                    self.contested.begin_access(cursor)
                    if chance.random() < 0.3:  # there and back
                        self.contested.begin_access(cursor)
                finally:
                    self.meet.wait(60)
            except threading.BrokenBarrierError:
                break
            except smmap.ClosedError:
                break
            if name == "left":
                try:
                    whole = bytes(self.contested)
                except smmap.ClosedError:
                    break
                try:
                    led = self.contested.cursor()
                except (smmap.ClosedError, smmap.LimitError):  # it needs a region
                    led = None
                found = [name for name, data in self.world.pair.items() if data == whole]
                assert found, f"{len(whole)} bytes that are of neither file"
                assert led is None or os.path.basename(led.path()) == found[0], "its cursor is of another file"
                self.met["contest"] += 1
            time.sleep(chance.random() * 0.002)
        self.meet.abort()

    def be_interrupted(self, readers: list[threading.Thread]) -> None:
        """The main thread: alarms raise in the middle of its calls, as long as the readers work."""
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            return

        def ring(*_: object) -> None:
            if self.armed:
                self.armed = False
                raise Alarm

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        chance = random.Random(f"{self.seed} alarms")
        data = self.world.pair["left"]
        try:
            while any(thread.is_alive() for thread in readers):
                try:
                    try:
                        self.armed = True
                        self.read_briefly(chance, data)
                    finally:
                        self.armed = False
                except Alarm:
                    self.met["Alarm"] += 1
                except smmap.SmmapError as error:
                    self.promised(error, "left", 0, zero_copy=True)
                time.sleep(0.001)
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def read_briefly(self, chance: random.Random, data: bytes) -> None:
        manager, path = self.manager, self.world.path("left")
        with manager.buffer(path) as buffer:
            for at in [chance.randrange(len(data) - 9) for _ in range(4)]:
                cursor = manager.make_cursor(path).use_region(at, 9)
                assert cursor.buffer() == data[at : at + 9], "wrong bytes"
                del cursor
                assert buffer[at : at + 9] == data[at : at + 9], "wrong bytes"
                assert buffer.view(at, at + 9) == data[at : at + 9], "wrong view"

    def change(self, number: int, chance: random.Random) -> None:
        """The files are replaced, grown, deleted, made again."""
        while not self.over:
            name = chance.choice(NAMES)
            what = chance.random()
            if what < 0.3 or name not in self.world.sizes:
                self.world.replace(name, chance)
            elif what < 0.9:
                self.world.grow(name)
            elif what < 0.95 and len(self.world.texts[name]) < STEP - 2:
                self.world.delete(name)
            time.sleep(chance.random() * 0.02)

    def clean(self, number: int, chance: random.Random) -> None:
        """`collect`, `release`, `stats` beside the readers; in the end of every second round `close`."""
        manager = self.manager
        before = gc.get_threshold() if hasattr(gc, "get_threshold") else None  # PyPy has none
        try:
            while not self.over:
                what = chance.random()
                if what < 0.4:
                    assert manager.collect() >= 0
                elif what < 0.6:
                    assert manager.release(self.world.path(chance.choice(NAMES))) >= 0
                elif what < 0.8:
                    manager._check()
                else:
                    stats = manager.stats()
                    assert stats.mapped == stats.pinned + stats.idle + stats.detached, stats
                    assert stats.mapped <= self.limits.handles, stats
                if self.limits.garbage and before:
                    gc.set_threshold(*chance.choice([(1,), before, before]))
                if self.closes and sum(self.done) > 0.8 * self.share * self.threads and not self.closing:
                    self.closing = True
                    manager.close()
                    manager._check()
                time.sleep(chance.random() * 0.005)
        finally:
            if before:
                gc.set_threshold(*before)


def rounds(seed: int, threads: int, reads: int, end: float = float("inf"), most: int = 400_000) -> Iterator[Round]:
    """Rounds with limits of all kinds, run, until so many reads were made or the time has come."""
    made = 0
    for number in itertools.count():
        if made >= reads or time.monotonic() >= end:
            return
        chance = random.Random(f"{seed} {number}")
        garbage = number % 4 == 3
        limits = Limits(
            window=chance.choice([W, W, 2 * W, 0]),
            memory=chance.choice([W, 4 * W, 8 * W, 0]),
            handles=chance.choice([2, 4, 4 * threads, 4 * threads, sys.maxsize]),
            backing=chance.choice(["mmap", "mmap", "read", "auto"]),
            garbage=garbage,
        )
        fewer = 1 if not garbage else 20
        if RECLAIMS_LATE and limits.handles <= 4:
            fewer = 200  # each refusal collects garbage first
        share = min(most // fewer, reads - made)
        faulthandler.dump_traceback_later(WATCHDOG, exit=True)
        one = Round(limits, seed * 1000 + number, threads, max(share, threads), end)
        try:
            one.run()
        except BaseException:
            print(f"round {number} of seed {seed}: {limits}", file=sys.stderr)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        made += sum(one.done)
        yield one
