"""The stateful model: whatever users and file systems do, in any order, against plain `bytes`.

`Model` drives managers of tiny limits together with the files below them, and keeps for each file what it holds now and
what it ever held. Each answer must be right by that, or one of the promised errors where the model says that it may
come; after each step every ledger is checked against what the model holds. All oracles follow the promises, none the
the code. Times of files are set by a clock that ticks at each change, since a system's own may stand still for 4 ms.

Three things happen at a moment that is chosen as everything else is, so that a failure comes again: an exception is
raised in the middle of a call as a signal handler raises one; another thread makes a call in the middle of a call; a
file gets other bytes under the same device and inode, as on overlayfs (`os.stat` and `os.fstat` are told to say so).

What is avoided, because no map survives it: reading past the end of a file that was truncated under its map.
"""

from __future__ import annotations

import copy
import gc
import itertools
import os
import pickle
import shutil
import signal
import struct
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Callable, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import smmap
from core._tools import LATE, LINUX, G, descriptors, expected_size, maps, payload
from smmap import _default

__all__ = ["Model"]

W = 2 * G
NAMES = ["a/one", "a/two", "a/six", "b/one", "b/two\udcff"]
LINKS = ["a/via", "b/via"]
MOST = {"managers": 3, "cursors": 8, "buffers": 6, "views": 8, "numbers": 3}

SIZES = sorted({0, 1, 2, 99, 5 * G + 7, *(n * G + d for n in (1, 2, 3, 4, 6, 9) for d in (-1, 0, 1))})
PLACES = sorted({0, 77, 1000, 7001, 20001, *(n * G + d for n in range(1, 10) for d in (-2, -1, 0, 1))})
COUNTS = [0, 1, 2, 9, 100, G - 1, G, G + 1, W - 1, W, W + 1, 2 * W + 1, 3 * W, 1 << 40]

pick = st.integers(0, 47)
size_of_file = st.one_of(st.sampled_from(SIZES), st.sampled_from(SIZES[-8:]))
place = st.sampled_from(PLACES)
count = st.sampled_from(COUNTS)

FAILED = object()
Key = tuple[int, Any]

LIBRARY = os.path.dirname(smmap.__file__)
moment = st.one_of(st.integers(1, 12), st.integers(1, 150))
switches = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 200), st.integers(1, 1000)), min_size=1, max_size=9)


class Alarm(Exception):
    """What a signal handler raises."""


def forgetful(error: BaseException) -> BaseException:
    """The error, which keeps alive nothing that the call had in hand."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class Moments:
    """Counts the moments of a call at which an interpreter may run a signal handler or another thread.

    Those are where a function of the library starts and where it has called C code; with `every_step`, between any two
    steps of the interpreter, as for threads on Python 3.9 and on free-threaded ones. `do` is called at those that were
    chosen, each of which is counted from the one before.
    """

    def __init__(self, chosen: list[int], do: Callable[[], object], every_step: bool = False) -> None:
        self.left = list(reversed(chosen))
        self.do = do
        self.every_step = every_step and sys.gettrace() is None
        self.came = False

    def count(self) -> None:
        self.left[-1] -= 1
        if not self.left[-1]:
            self.left.pop()
            self.came = True
            if not self.left:
                self.watch(None)
            self.do()

    def watch(self, function: Any) -> None:
        if self.every_step:
            sys.settrace(function)
        else:
            sys.setprofile(function)

    def look(self, frame: Any, event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        if self.every_step:
            frame.f_trace_opcodes = True
        if self.left and event in (["opcode"] if self.every_step else ["call", "c_return"]):
            self.count()
        return self.look

    def __call__(self, function: Callable[[], Any]) -> Any:
        self.watch(self.look)
        try:
            return function()
        finally:
            self.watch(None)


class Layers:
    """Lets a file say that it is another inode: the one that was there before it was copied to another layer."""

    def __init__(self) -> None:
        self.called: dict[tuple[int, int], tuple[int, int]] = {}
        self.kept: list[int] = []  # descriptors: else an inode's number might be used again
        self.stat, self.fstat = os.stat, os.fstat
        os.stat, os.fstat = self.stat_of(self.stat), self.stat_of(self.fstat)
        engine = sys.modules.get("smmap._engine.fast")  # its system calls are its own
        self.engine, self.open_file = engine, getattr(engine, "open_file", None)
        if engine is not None:
            engine.open_file = self.opened  # type: ignore[attr-defined]

    def stat_of(self, call: Callable[..., os.stat_result]) -> Any:
        def told(*args: Any, **options: Any) -> os.stat_result:
            found = call(*args, **options)
            key = self.called.get((found.st_dev, found.st_ino))
            if key is None:
                return found
            return os.stat_result((found[0], key[1], key[0], *found[3:]), {n: getattr(found, n) for n in STAT_FIELDS})

        return told

    def opened(self, *args: Any) -> Any:
        descriptor, status = self.open_file(*args)
        key = self.called.get(status[:2], status[:2])
        return descriptor, status._replace(device=key[0], inode=key[1])

    def copied_up(self, old: str, new: str) -> None:
        """The file at `new` is to be known by the number of the one at `old`."""
        found = self.stat(new)
        shown = os.stat(old)
        self.kept += [os.open(new, os.O_RDONLY), os.open(old, os.O_RDONLY)]
        self.called[found.st_dev, found.st_ino] = shown.st_dev, shown.st_ino

    def close(self) -> None:
        os.stat, os.fstat = self.stat, self.fstat
        if self.engine is not None:
            self.engine.open_file = self.open_file
        for number in self.kept:
            os.close(number)


CALLS_OF_CURSORS = {"use_region", "unuse_region", "copy", "close"}
kind_of_call = st.sampled_from(
    ["glance", "slice", "index", "view", "drop_view", "collect", "collect", "make_cursor", *sorted(CALLS_OF_CURSORS)]
)
FIRST = "mode", "ino", "dev", "nlink", "uid", "gid", "size"
# Those that the first ten do not have: the times with fractions, and what only some systems tell.
STAT_FIELDS = [name for name in dir(os.stat_result) if name.startswith("st_") and name[3:] not in FIRST]


class Inode:
    """A file's bytes now (the last of its versions), whatever it is called."""

    clock = itertools.count(1_000_000_000_000_000_000, 1_000)
    numbers = itertools.count()

    def __init__(self, size: int) -> None:
        self.versions = [payload(size, next(self.numbers))]
        self.changes = 0  # of its bytes or of its names: a system tells both alike

    @property
    def data(self) -> bytes:
        return self.versions[-1]


class Ref:
    """What a client was made for: which file, as it was then."""

    def __init__(self, manager: Manager, inode: Inode, where: Any, label: str) -> None:
        self.manager = manager
        self.inode = inode
        self.where = where
        self.label = label  # what an error must name
        self.since = len(inode.versions) - 1
        self.length = len(inode.data)
        self.changes = inode.changes

    def changed(self) -> bool:
        """Whether the file's status was changed since the client was made."""
        return self.inode.changes > self.changes

    def copied_to(self, manager: Manager) -> Ref:
        """The same for a client of another manager."""
        other = copy.copy(self)
        other.manager = manager
        return other

    def readable(self, end: int) -> int:
        """How far up to `end` bytes may be touched: see the module's last sentence."""
        return end if self.manager.reads else min(end, len(self.inode.data))

    def confirm(self, start: int, data: Any) -> None:
        """The bytes are those at `start`: of now through a map, since the client was made where they are copies."""
        data = bytes(data)
        end = start + len(data)
        if data == self.inode.data[start:end]:
            return
        assert self.manager.reads, f"wrong bytes in [{start}, {end}) of {self.where!r}"
        versions = self.inode.versions[self.since :]
        for position, byte in enumerate(data, start):
            assert any(byte == old[position] for old in versions if position < len(old)), f"wrong byte at {position}"


class Manager:
    """A manager, and what it was made with."""

    def __init__(self, obj: Any, handles: int, reads: bool) -> None:
        self.obj = obj
        self.handles = handles
        self.reads = reads
        self.window = obj.window_size()
        self.memory = obj.max_mapped_memory_size()
        self.closed = False
        self.uses: dict[Key, float] = {}  # when each region was used last, by (file, window)
        self.pinned: set[Key] = set()  # after the step before
        self.idle: list[Key] = []  # after the step before, least recently used first
        self.misses = -1  # how many there were when an alarm came last
        self.litter = 0  # regions that only the garbage collector can let go
        self.counted: list[Any] = []  # regions whose clients were counted by hand


class Cursor:
    """`state`: "none" (uses no region), "valid", "dead" (its region was taken away), "closed"."""

    def __init__(self, obj: Any, ref: Ref | None, owner: Buffer | None = None) -> None:
        self.obj = obj
        self.ref = ref
        self.owner = owner
        self.state = "none"
        self.start = self.end = 0


class Buffer:
    def __init__(self, obj: Any, ref: Ref, offset: int, size: int) -> None:
        self.obj = obj
        self.ref = ref
        self.offset = offset
        self.size = size
        self.closed = False
        self.unopened = False

    def readable(self) -> int:
        """How many of its bytes may be touched."""
        return max(0, self.ref.readable(self.offset + self.size) - self.offset)


class View:
    def __init__(self, obj: memoryview, ref: Ref, start: int) -> None:
        self.obj = obj
        self.ref = ref
        self.start = start
        self.end = start + obj.nbytes
        self.copied = bytes(obj) if ref.manager.reads else None

    def region(self) -> int | None:
        """The identity of the region that it keeps mapped, if it is not a view of a copy."""
        return None if isinstance(self.obj.obj, bytes) else id(self.obj.obj)

    def confirm(self) -> None:
        if self.copied is not None:  # nothing can change it
            assert bytes(self.obj) == self.copied
            return
        end = self.ref.readable(self.end)
        if end > self.start:
            self.ref.confirm(self.start, self.obj[: end - self.start])


def mapped(region: Any) -> int | None:
    """The identity of what a cursor's region stands for, or None once that was given up."""
    found = None if region is None else region._region()
    return None if found is None else id(found)


def key_of(region: Any) -> Key:
    return region.file.serial, region.key


class Model(RuleBasedStateMachine):
    """See the module."""

    steps = 0  # of all machines in this process
    met: ClassVar[Counter[str]] = Counter()  # what happened how often: a model that meets nothing proves nothing

    def __init__(self) -> None:
        super().__init__()
        gc.disable()  # else a failure might not come again: garbage is collected by a rule of the model
        Model.steps -= 1  # the invariants are looked at once before the first step
        self.home = os.getcwd()
        self.folder = tempfile.mkdtemp(prefix="smmap-model-")
        self.files: dict[str, Inode] = {}
        self.links: dict[str, str] = {}
        self.numbers: dict[int, Inode | None] = {}  # descriptors of ours; None: closed
        self.layers = Layers()
        self.step = 0
        self.unsure = False  # whether it is not known what was used, or dropped, by this step
        self.alarmed = False  # whether an alarm came in this step
        self.managers: list[Manager] = []
        self.cursors: list[Cursor] = []
        self.buffers: list[Buffer] = []
        self.views: list[View] = []
        for sub in ("a", "b"):
            os.mkdir(self.path(sub))
        self.here = self.path("a")
        os.chdir(self.here)

    # Files, as the model sees them

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def found(self, name: str) -> Inode | None:
        return self.files.get(self.links.get(name, name))

    def leads_to(self, where: Any) -> Inode | None:
        """The file at a path or descriptor of a client."""
        if isinstance(where, int):
            return self.numbers.get(where)
        return self.found(os.path.relpath(os.fsdecode(where), self.folder))

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data)
        self.touch(path)

    def touch(self, path: str) -> None:
        now = next(Inode.clock)
        os.utime(path, ns=(now, now))

    def change(self, name: str, data: bytes) -> None:
        """The same file has other bytes now."""
        self.touch(self.path(name))
        self.files[name].versions.append(data)
        self.files[name].changes += 1

    def lose_name(self, name: str) -> None:
        """A file is called so no longer."""
        inode = self.files.pop(name, None)
        if inode is not None:
            inode.changes += 1

    def existing(self, chosen: int) -> str:
        names = sorted(self.files)
        return names[chosen % len(names)]

    def any_name(self, chosen: int) -> str:
        """Mostly of a file that exists."""
        names = [*sorted(self.files) * 3, *NAMES, *sorted(self.links)]
        return names[chosen % len(names)]

    # What may come of a call

    def holders(self, manager: Manager, own: Cursor | None) -> int:
        """How many maps of a manager cannot go: the hard limit may only be hit where these reach it."""
        stores = {view.region() for view in self.views if view.ref.manager is manager}
        for cursor in self.cursors:
            if cursor.ref and cursor.ref.manager is manager and cursor is not own and cursor.state == "valid":
                stores.add(mapped(cursor.obj.region()))
        stores.update(map(mapped, manager.counted))
        return len(stores - {None}) + manager.litter

    def call(
        self,
        ref: Ref,
        function: Callable[[], Any],
        own: Cursor | None = None,
        may_be_closed: bool = False,
        opening: bool = False,
        zero_copy: bool = False,
        beside: int = 0,
    ) -> Any:
        """The answer, or FAILED after an error that may come here.

        `beside`: how many regions other threads may be about to make or to let go of.
        """
        manager = ref.manager
        try:
            answer = function()
        except smmap.ClosedError as error:
            assert manager.closed or may_be_closed, f"not closed: {error}"
            assert ref.label in str(error), f"does not name {ref.label}: {error}"
            self.met["ClosedError"] += 1
            self.unsure = True
            return FAILED
        except smmap.FileChangedError as error:
            assert ref.changed() or self.leads_to(ref.where) is not ref.inode, f"did not change: {error}"
            assert error.filename == (f"descriptor {ref.where}" if isinstance(ref.where, int) else ref.where)
            self.met["FileChangedError"] += 1
            self.unsure = True
            return FAILED
        except smmap.LimitError as error:
            assert zero_copy, f"a copy needs no handle: {error}"
            assert self.holders(manager, own) + beside >= manager.handles, f"there was room: {error}"
            self.met["LimitError"] += 1
            self.unsure = True
            return FAILED
        except FileNotFoundError as error:
            assert opening, f"was found before: {error}"
            assert self.leads_to(ref.where) is None, f"is still there: {error}"
            self.met["FileNotFoundError"] += 1
            self.unsure = True
            return FAILED
        assert not manager.closed or may_be_closed, f"a closed manager answered {answer!r:.99}"
        return answer

    # Files

    @initialize(
        sizes=st.lists(size_of_file, min_size=2, max_size=4),
        window=st.sampled_from([W, W, 2 * W]),
        backings=st.sampled_from(["mmap", "read", "auto"]),
        memory=st.sampled_from([W, 2 * W, 3 * W]),
        handles=st.sampled_from([1, 2, 3, 4]),
    )
    def set_up(self, sizes: list[int], window: int, backings: str, memory: int, handles: int) -> None:
        """Some files, the process's default manager, and one with a cursor and a buffer."""
        for name, size in zip(NAMES, sizes):
            self.create(name, size)
        self.managers.append(self.make_default(window, backings))
        self.make_manager(window, memory, handles, backings)
        self.make_cursor(1, 0, 0)
        self.make_cursor(1, 5, 0)
        self.make_buffer_of_path(1, 0, 0, 0, 1 << 40, 0)

    def make_default(self, window: int, backing: str) -> Manager:
        """The process's default manager."""
        _default._manager = smmap.SlidingWindowMapManager(window, 3 * W, 6, backing=backing)
        return Manager(_default._manager, 6, backing == "read")

    def create(self, name: str, size: int) -> None:
        self.files[name] = Inode(size)
        self.write(name, self.files[name].data)

    @precondition(lambda self: len(self.files) < len(NAMES))
    @rule(chosen=pick, size=size_of_file)
    def make_file(self, chosen: int, size: int) -> None:
        free = [name for name in NAMES if name not in self.files]
        self.create(free[chosen % len(free)], size)

    @rule(chosen=pick, size=size_of_file, same=st.booleans())
    def replace(self, chosen: int, size: int, same: bool) -> None:
        """By another file at the same name, often of the same size."""
        name = NAMES[chosen % len(NAMES)] if not self.files else self.existing(chosen)
        old = self.files.get(name)
        inode = Inode(len(old.data) if old and same else size)
        self.write("new", inode.data)
        os.replace(self.path("new"), self.path(name))
        self.lose_name(name)
        self.files[name] = inode

    @precondition(lambda self: self.files)
    @rule(chosen=pick, size=size_of_file)
    def delete_and_make(self, chosen: int, size: int) -> None:
        """The inode's number is likely to be used again."""
        name = self.existing(chosen)
        os.unlink(self.path(name))
        size = size or len(self.files[name].data)
        self.lose_name(name)
        self.create(name, size)

    @precondition(lambda self: self.files)
    @rule(chosen=pick, size=count)
    def grow(self, chosen: int, size: int) -> None:
        name = self.existing(chosen)
        more = payload(min(size, 2 * W), next(Inode.numbers))
        if len(self.files[name].data) < 9 * W:
            with open(self.path(name), "ab") as file:
                file.write(more)
            self.change(name, self.files[name].data + more)

    @precondition(lambda self: self.files)
    @rule(chosen=pick, size=size_of_file)
    def truncate(self, chosen: int, size: int) -> None:
        name = self.existing(chosen)
        size = min(size, len(self.files[name].data))
        os.truncate(self.path(name), size)
        self.change(name, self.files[name].data[:size])
        self.look_anew(name)

    @precondition(lambda self: self.files)
    @rule(chosen=pick, at=place, size=st.sampled_from(COUNTS[1:-1]))
    def rewrite(self, chosen: int, at: int, size: int) -> None:
        """In place."""
        name = self.existing(chosen)
        data = self.files[name].data
        piece = payload(size, next(Inode.numbers))[: max(0, len(data) - at)]
        with open(self.path(name), "r+b") as file:
            file.seek(at)
            file.write(piece)
        self.change(name, data[:at] + piece + data[at + len(piece) :])
        self.look_anew(name)

    def look_anew(self, name: str) -> None:
        """New clients see a file as it is now."""
        self.unsure = True
        for manager in self.managers:
            if manager.closed:
                continue
            path = self.path(name)
            ref = Ref(manager, self.found(name), path, os.path.basename(name)[:3])
            cursor = self.call(ref, lambda: manager.obj.make_cursor(path))
            assert cursor.file_size() == ref.length
            for place in range(0, ref.length, manager.window or 4 * W):
                found = self.call(ref, lambda: cursor.use_region(place, 0), Cursor(cursor, ref), zero_copy=True)
                if found is not FAILED:
                    assert cursor.region().ofs_end() <= ref.length, "a region reaches past the end of the file"
                    ref.confirm(place, cursor.buffer())
            cursor.unuse_region()
            with self.call(ref, lambda: manager.obj.buffer(path)) as buffer:
                ref.confirm(0, self.call(ref, lambda: bytes(buffer)))

    @precondition(lambda self: self.files)
    @rule(chosen=pick, size=size_of_file, same=st.booleans())
    def copy_up(self, chosen: int, size: int, same: bool) -> None:
        """Another file with the same inode number: who made a map or opened it before goes on by the old one."""
        name = self.existing(chosen)
        inode = Inode(len(self.files[name].data) if same else size)
        self.write("new", inode.data)
        self.layers.copied_up(self.path(name), self.path("new"))
        os.replace(self.path("new"), self.path(name))
        self.lose_name(name)
        self.files[name] = inode
        self.look_anew(name)

    @precondition(lambda self: self.files)
    @rule(chosen=pick)
    def delete(self, chosen: int) -> None:
        name = self.existing(chosen)
        os.unlink(self.path(name))
        self.lose_name(name)

    @precondition(lambda self: self.files)
    @rule(chosen=pick, to=pick, hard=st.booleans())
    def rename(self, chosen: int, to: int, hard: bool) -> None:
        """Or give it a second name."""
        name, other = self.existing(chosen), NAMES[to % len(NAMES)]
        if hard and other not in self.files:
            os.link(self.path(name), self.path(other))
            self.files[other] = self.files[name]
        elif not hard and self.files.get(other) is not self.files[name]:  # else rename does nothing
            os.rename(self.path(name), self.path(other))
            self.lose_name(other)
            self.files[other] = self.files.pop(name)
        self.files[other].changes += 1

    @rule(chosen=pick, to=pick)
    def link(self, chosen: int, to: int) -> None:
        """A symbolic link leads to another file now."""
        name, target = LINKS[chosen % len(LINKS)], NAMES[to % len(NAMES)]
        if name in self.links:
            os.unlink(self.path(name))
        os.symlink(self.path(target), self.path(name))
        self.links[name] = target

    @rule()
    def change_folder(self) -> None:
        self.here = self.path("b") if self.here == self.path("a") else self.path("a")
        os.chdir(self.here)

    @precondition(lambda self: self.files)
    @rule(chosen=pick)
    def open_number(self, chosen: int) -> None:
        if sum(inode is not None for inode in self.numbers.values()) < MOST["numbers"]:
            name = self.existing(chosen)
            self.numbers[os.open(self.path(name), os.O_RDONLY)] = self.files[name]

    @precondition(lambda self: any(inode for inode in self.numbers.values()))
    @rule(chosen=pick)
    def close_number(self, chosen: int) -> None:
        number = self.open_numbers()[chosen % len(self.open_numbers())]
        os.close(number)
        self.numbers[number] = None

    @precondition(lambda self: self.files and any(inode for inode in self.numbers.values()))
    @rule(chosen=pick, to=pick)
    def reuse_number(self, chosen: int, to: int) -> None:
        """A descriptor's number stands for another file now."""
        number = self.open_numbers()[chosen % len(self.open_numbers())]
        name = self.existing(to)
        other = os.open(self.path(name), os.O_RDONLY)
        os.dup2(other, number)
        os.close(other)
        self.numbers[number] = self.files[name]

    def open_numbers(self) -> list[int]:
        return [number for number, inode in self.numbers.items() if inode is not None]

    # Managers

    @precondition(lambda self: len(self.managers) <= MOST["managers"])
    @rule(
        window=st.sampled_from([0, W, W, W, 2 * W]),
        memory=st.sampled_from([0, W, 2 * W, 3 * W, 4 * W, 99]),
        handles=st.sampled_from([1, 2, 3, 4, 6, sys.maxsize]),
        backing=st.sampled_from(["mmap", "read", "auto"]),
    )
    def make_manager(self, window: int, memory: int, handles: int, backing: str) -> None:
        cls = smmap.SlidingWindowMapManager if window else smmap.StaticWindowMapManager
        self.managers.append(Manager(cls(window, memory, handles, backing=backing), handles, backing == "read"))

    def manager(self, chosen: int) -> Manager:
        return self.managers[chosen % len(self.managers)]

    @rule(chosen=pick)
    def collect(self, chosen: int) -> None:
        manager = self.manager(chosen)
        before = manager.obj.stats()
        most = before.idle + (before.pinned if LATE else 0)  # there, it also unloads what only garbage held
        assert before.idle <= manager.obj.collect() <= most
        stats = manager.obj.stats()
        assert (stats.idle, stats.descriptors) == (0, 0)

    @rule(chosen=pick, what=pick)
    def release(self, chosen: int, what: int) -> None:
        self.unsure = True
        manager = self.manager(chosen)
        names = [*NAMES, "a", "b", ".", "a/nothing"]
        path: Any = self.path(names[what % len(names)])
        path = [path, os.fsencode(path), Path(os.fsdecode(path))][what % 3]
        before = manager.obj.stats()
        went = manager.obj.release(path)
        after = manager.obj.stats()
        assert 0 <= went == before.idle - after.idle
        assert after.pinned == before.pinned

    @rule(chosen=pick, really=pick)
    def close_manager(self, chosen: int, really: int) -> None:
        manager = self.manager(chosen)
        if really % 8 and not manager.closed:
            return
        manager.obj.close()
        manager.closed = True
        for cursor in self.cursors:
            if cursor.ref and cursor.ref.manager is manager and cursor.state == "valid":
                cursor.state = "dead"
        if manager is self.managers[0]:  # another one takes its place
            self.managers[0] = self.make_default(manager.window, "read" if manager.reads else "mmap")
            self.managers.append(manager)
            for buffer in self.buffers:
                if buffer.unopened:
                    buffer.ref = buffer.ref.copied_to(self.managers[0])
        if len(self.managers) > MOST["managers"]:  # a closed one may go out of sight: it has nothing mapped
            self.managers.remove(manager)

    # Cursors

    def given(self, name: str, form: int) -> tuple[Any, Any, str]:
        """How a user calls a file: what is passed, where that is, and what an error must name."""
        path = self.path(name)
        label = os.path.basename(name)[:3]
        if form % 4 == 1:
            return os.fsencode(path), os.fsencode(path), label
        if form % 4 == 2:
            return Path(path), path, label
        if form % 4 == 3 and name.startswith(os.path.basename(self.here)):
            return os.path.basename(name), path, label
        return path, path, label

    def associate(self, manager: Manager, make: Callable[[Any], Any], chosen: int, form: int) -> tuple[Any, Ref] | None:
        """A new client of some file, which must see it as it is now."""
        self.unsure = True
        numbers = self.open_numbers()
        if form % 5 == 4 and numbers:
            given: Any = numbers[chosen % len(numbers)]
            where, label = given, f"descriptor {given}"
            inode = self.numbers[given]
        else:
            name = self.any_name(chosen)
            given, where, label = self.given(name, form)
            inode = self.found(name)
        if inode is None or manager.closed:
            try:
                make(given)
            except FileNotFoundError:
                assert inode is None
            except smmap.ClosedError as error:
                assert manager.closed
                assert label in str(error)
            else:
                raise AssertionError(f"a client of {given!r} was made")
            return None
        ref = Ref(manager, inode, where, label)
        client = self.call(ref, lambda: make(given))
        assert client is not FAILED
        return client, ref

    @precondition(lambda self: len(self.cursors) < MOST["cursors"])
    @rule(manager=pick, chosen=pick, form=pick)
    def make_cursor(self, manager: int, chosen: int, form: int) -> None:
        kept = self.manager(manager)
        made = self.associate(kept, kept.obj.make_cursor, chosen, form)
        if made is not None:
            cursor, ref = made
            assert cursor.file_size() == ref.length
            assert not cursor.is_valid()
            self.cursors.append(Cursor(cursor, ref))

    @precondition(lambda self: len(self.cursors) < MOST["cursors"])
    @rule(chosen=pick)
    def make_lone_cursor(self, chosen: int) -> None:
        if not chosen % 8:
            self.cursors.append(Cursor(smmap.WindowCursor(self.manager(chosen).obj), None))

    def cursor(self, chosen: int) -> Cursor:
        return self.cursors[chosen % len(self.cursors)]

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick, offset=place, size=count)
    def use(self, chosen: int, offset: int, size: int) -> None:
        self.move(self.cursor(chosen), offset, size)

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick, offset=place, size=st.sampled_from([1, 9, 100, G]))
    def use_little(self, chosen: int, offset: int, size: int) -> None:
        cursor = self.cursor(chosen)
        self.move(cursor, offset % (cursor.ref.length + 1) if cursor.ref else offset, size)

    def move(self, cursor: Cursor, offset: int, size: int) -> None:
        ref, obj = cursor.ref, cursor.obj
        if ref is None or cursor.state == "closed":
            try:
                obj.use_region(offset, size)
            except smmap.ClosedError as error:
                assert ref is not None
                assert ref.label in str(error)
            except ValueError:
                assert ref is None
            else:
                raise AssertionError("a cursor without a file was used")
            return
        before = obj.ofs_begin(), obj.ofs_end(), obj.is_valid()
        closed = offset >= ref.length
        answer = self.call(ref, lambda: obj.use_region(offset, size), cursor, may_be_closed=closed, zero_copy=True)
        if answer is FAILED:
            assert (obj.ofs_begin(), obj.ofs_end(), obj.is_valid()) == before
            return
        assert answer is obj
        got = expected_size(offset, size, ref.manager.window, ref.length)
        if size and ref.manager.window == 0:
            got = min(size, max(ref.length - offset, 0))
        cursor.state = "valid" if got else "none"
        cursor.start, cursor.end = (offset, offset + got) if got else (0, 0)
        assert obj.is_valid() == bool(got)
        assert (obj.ofs_begin(), obj.ofs_end(), obj.size()) == (cursor.start, cursor.end, got)
        self.look(cursor)

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick, at=st.integers(0, 10), size=count)
    def use_next(self, chosen: int, at: int, size: int) -> None:
        """From a border of windows on."""
        self.move(self.cursor(chosen), at * W // 2, size)

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick)
    def look_again(self, chosen: int) -> None:
        self.look(self.cursor(chosen))

    def look(self, cursor: Cursor) -> None:
        """At all that a cursor gives."""
        obj, ref = cursor.obj, cursor.ref
        for attempt in (obj.buffer, obj.map):
            try:
                data = attempt()
            except smmap.ClosedError as error:
                assert cursor.state in ("dead", "closed")
                assert ref is not None
                assert ref.label in str(error)
                continue
            except ValueError:
                assert cursor.state == "none"
                continue
            assert cursor.state == "valid"
            assert ref is not None
            region = obj.region()
            assert region.ofs_begin() <= cursor.start < cursor.end <= region.ofs_end()
            assert region.ofs_end() <= ref.length, "a region reaches past the end of the file"
            end = ref.readable(cursor.end)
            if end <= cursor.start:
                continue
            if attempt == obj.buffer:
                assert data.readonly
                assert len(data) == cursor.end - cursor.start
                ref.confirm(cursor.start, data[: end - cursor.start])
            else:
                ref.confirm(cursor.start, data[cursor.start - region.ofs_begin() : end - region.ofs_begin()])
        assert obj.is_valid() == (cursor.state == "valid")
        assert obj.is_associated() == (ref is not None and cursor.state != "closed")

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick, closing=st.booleans())
    def let_go(self, chosen: int, closing: bool) -> None:
        cursor = self.cursor(chosen)
        if closing and cursor.owner is None:
            cursor.obj.close()
            cursor.state = "closed" if cursor.ref else "none"
        else:
            cursor.obj.unuse_region()
            if cursor.state != "closed":
                cursor.state = "none"
        cursor.start = cursor.end = 0
        assert not cursor.obj.is_valid()

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick, ring=st.booleans())
    def drop_cursor(self, chosen: int, ring: bool) -> None:
        cursor = self.cursor(chosen)
        if cursor.owner is not None:
            return
        self.cursors.remove(cursor)
        if cursor.state == "valid" and (ring or LATE) and cursor.ref:
            cursor.ref.manager.litter += 1
        if ring:
            things: list[Any] = [cursor.obj]
            things.append(things)

    @precondition(lambda self: self.cursors)
    @rule(chosen=pick, to=pick)
    def copy_cursor(self, chosen: int, to: int) -> None:
        source = self.cursor(chosen)
        if to % 2 and len(self.cursors) < MOST["cursors"]:
            target = Cursor(copy.copy(source.obj), source.ref)
            self.cursors.append(target)
        else:
            target = self.cursor(to // 2)
            if target.owner is not None:
                return
            target.obj.assign(source.obj)
            target.ref = source.ref
        if target is source:
            return
        target.state, target.start, target.end = source.state, source.start, source.end
        if source.state == "dead" or not target.obj.is_valid():
            assert source.state != "valid"
            target.start = target.end = 0
            target.state = "closed" if source.state == "closed" else "none"
        self.look(target)

    @precondition(lambda self: any(cursor.state == "valid" for cursor in self.cursors))
    @rule(chosen=pick, what=pick)
    def handle_region(self, chosen: int, what: int) -> None:
        """What users of the old interface may do by hand to a region."""
        self.unsure = True
        valid = [cursor for cursor in self.cursors if cursor.state == "valid" and cursor.ref]
        cursor = valid[chosen % len(valid)]
        region = cursor.obj.region()
        assert cursor.ref is not None
        manager = cursor.ref.manager
        if what % 4 == 0:
            using = [other for other in valid if other.obj.region() is region]
            region.release()
            manager.counted = [other for other in manager.counted if other is not region]
            for other in using:
                other.state = "dead"
        elif what % 4 == 1 and len(manager.counted) < 2:
            assert not region.increment_client_count()
            manager.counted.append(region)
        elif what % 4 == 2 and manager.counted:
            assert not manager.counted.pop().increment_client_count(-1)
        else:
            holds = sum(other.obj.region() is region for other in self.cursors if other.state == "valid")
            clients = 1 + holds + manager.counted.count(region)
            assert region.client_count() == clients or (manager.litter and region.client_count() > clients)

    # Buffers

    @precondition(lambda self: self.cursors and len(self.buffers) < MOST["buffers"])
    @rule(chosen=pick, offset=place, size=count)
    def make_buffer(self, chosen: int, offset: int, size: int) -> None:
        cursor = self.cursor(chosen)
        if cursor.ref is None or cursor.state == "closed":
            try:
                smmap.SlidingWindowMapBuffer(cursor.obj, offset, size)
            except ValueError:
                return
            raise AssertionError("a buffer over nothing was made")
        buffer = Buffer(smmap.SlidingWindowMapBuffer(), cursor.ref, 0, 0)
        buffer.closed = True
        if self.give_access(buffer, cursor, offset % (cursor.ref.length + 2), size):
            self.buffers.append(buffer)

    def give_access(self, buffer: Buffer, cursor: Cursor | None, offset: int, size: int) -> bool:
        ref = (cursor.ref if cursor is not None else None) or buffer.ref
        lost = buffer.unopened  # it was closed before it was opened, so there is nothing to start again on
        self.stopped(buffer)
        if cursor is not None:
            self.cursors = [mine for mine in self.cursors if mine.owner is not buffer]
        empty = not size or not ref.length
        answer = self.call(
            ref,
            lambda: buffer.obj.begin_access(cursor and cursor.obj, offset, size),
            may_be_closed=empty or offset >= ref.length,
        )
        if answer is FAILED:
            assert buffer.obj.closed
            return False
        buffer.ref = ref
        if cursor is not None or not lost:
            assert answer == (offset < ref.length or offset == ref.length == 0)
        assert buffer.obj.closed != answer
        if answer:
            buffer.offset, buffer.size, buffer.closed = offset, min(size, ref.length - offset), False
            if buffer.size:
                self.used(buffer, 0, 1)
        buffer.unopened = lost and not answer
        return bool(answer)

    def stopped(self, buffer: Buffer) -> None:
        buffer.closed = True
        for cursor in self.cursors:
            if cursor.owner is buffer:
                cursor.state = "none"
                cursor.start = cursor.end = 0

    @precondition(lambda self: len(self.buffers) < MOST["buffers"])
    @rule(manager=pick, chosen=pick, form=pick, offset=place, size=count, access=pick)
    def make_buffer_of_path(self, manager: int, chosen: int, form: int, offset: int, size: int, access: int) -> None:
        kept = self.manager(manager)
        kind = ["normal", "normal", "random", "sequential"][access % 4]
        where = min(offset, 1 if offset % 2 else G) if offset % 3 else 0

        def make(given: Any) -> Any:
            try:
                return kept.obj.buffer(given, where, size, access=kind)
            except smmap.SmmapError:
                raise
            except ValueError:
                return None

        made = self.associate(kept, make, chosen, form)
        if made is not None:
            buffer, ref = made
            assert (buffer is None) == (where > ref.length)
            if buffer is not None:
                self.buffers.append(Buffer(buffer, ref, where, min(size, ref.length - where)))
                assert len(buffer) == self.buffers[-1].size

    def buffer(self, chosen: int) -> Buffer:
        return self.buffers[chosen % len(self.buffers)]

    def read(self, buffer: Buffer, function: Callable[[], Any], nothing: bool = False, zero_copy: bool = False) -> Any:
        """`nothing` to be read: then a manager need not be asked, and may be closed."""
        closed = buffer.closed or nothing
        answer = self.call(buffer.ref, function, may_be_closed=closed, opening=buffer.unopened, zero_copy=zero_copy)
        if answer is not FAILED:
            buffer.unopened = False
        return answer

    @precondition(lambda self: self.buffers)
    @rule(
        chosen=pick,
        start=place,
        size=count,
        step=st.sampled_from([1, 1, 1, 1, 2, 3, 1000, G, W + 1]),
        back=st.booleans(),
    )
    def slice(self, chosen: int, start: int, size: int, step: int, back: bool) -> None:
        buffer = self.buffer(chosen)
        limit = buffer.readable()
        start = min(start, limit) if start % 2 else start % (limit + 1)
        stop = min(start + size, limit)
        if start == stop:
            return
        data = self.read(buffer, lambda: buffer.obj[start:stop])
        if data is not FAILED and not buffer.closed:
            self.used(buffer, start, stop, step == 1 and not back)
        if buffer.closed:
            assert data is FAILED
            return
        if data is FAILED:
            return
        assert type(data) is bytes
        assert len(data) == stop - start
        buffer.ref.confirm(buffer.offset + start, data)
        if step != 1 or back:
            key = slice(stop - 1, start - 1 if start else None, -step) if back else slice(start, stop, step)
            other = self.read(buffer, lambda: buffer.obj[key])
            if other is not FAILED and not buffer.ref.manager.reads:  # windows may be read again at another version
                assert other == buffer.ref.inode.data[buffer.offset :][key]
            elif other is not FAILED:
                for at, byte in zip(range(start, stop)[:: -step if back else step], other):
                    buffer.ref.confirm(buffer.offset + at, bytes([byte]))

    @precondition(lambda self: self.buffers or self.cursors)
    @rule(chosen=pick, windows=st.lists(st.integers(0, 8), min_size=2, max_size=9), cursor=st.booleans())
    def visit(self, chosen: int, windows: list[int], cursor: bool) -> None:
        """Some windows one after the other."""
        for number in windows:
            if (cursor or not self.buffers) and self.cursors:
                self.move(self.cursor(chosen), number * W, 9)
            elif self.buffers:
                buffer = self.buffer(chosen)
                start = min(number * W, buffer.readable())
                if buffer.closed or start == buffer.readable():
                    continue
                view = self.read(buffer, lambda: buffer.obj.view(start, start + 9), zero_copy=True)
                if view is not FAILED:
                    buffer.ref.confirm(buffer.offset + start, view[: buffer.readable() - start])
                    if not isinstance(view.obj, bytes):
                        buffer.ref.manager.uses[key_of(view.obj)] = self.step
                del view
            self.bounds_are_kept()

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, start=place)
    def slice_little(self, chosen: int, start: int) -> None:
        self.slice(chosen, start, 99, 1, False)

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, start=place, many=st.sampled_from([1, 1, 3, 12]))
    def index(self, chosen: int, start: int, many: int) -> None:
        """One byte, and one near it many times: what is read often is mapped."""
        buffer = self.buffer(chosen)
        limit = buffer.readable()
        for at in range(start, start + many):
            at = at % limit if limit else 0
            negative = at - buffer.size if at % 2 and buffer.size else at
            if limit:
                byte = self.read(buffer, lambda: buffer.obj[negative])
                if byte is FAILED:
                    return
                assert not buffer.closed
                buffer.ref.confirm(buffer.offset + at, bytes([byte]))
                self.used(buffer, at, at + 1, many == 1)
        try:
            buffer.obj[buffer.size if many % 2 else -buffer.size - 1]
        except IndexError:
            assert not buffer.closed
        except smmap.ClosedError:
            assert buffer.closed
        except (smmap.SmmapError, OSError):
            assert buffer.unopened
            assert not buffer.closed
        else:
            raise AssertionError("there is no such byte")

    @precondition(lambda self: self.buffers)
    @rule(
        chosen=pick,
        starts=st.lists(place, min_size=1, max_size=20),
        size=st.sampled_from([1, 9, 300, W + 9]),
        announced=st.booleans(),
    )
    def batch(self, chosen: int, starts: list[int], size: int, announced: bool) -> None:
        """Many ranges at once."""
        buffer = self.buffer(chosen)
        limit = buffer.readable()
        if buffer.closed or size > limit:
            return
        self.unsure = True  # of the windows in which more than one range lies, any may be mapped afterwards
        places = [start % (limit - size + 1) for start in starts]
        stops = [place + size for place in places]
        if announced and self.read(buffer, lambda: buffer.obj.prefetch(places, stops)) is FAILED:
            return
        joined = self.read(buffer, lambda: buffer.obj.gather(places, size))
        if joined is FAILED:
            return
        parts = self.read(buffer, lambda: buffer.obj.ranges(places, stops))
        for number, start in enumerate(places):
            buffer.ref.confirm(buffer.offset + start, bytes(joined[number * size : (number + 1) * size]))
            if parts is not FAILED:
                buffer.ref.confirm(buffer.offset + start, parts[number])

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, start=place, size=st.sampled_from([1, 2, 9, 300, W + 9]), low=place)
    def search(self, chosen: int, start: int, size: int, low: int) -> None:
        buffer = self.buffer(chosen)
        limit = buffer.readable()
        ref = buffer.ref
        data = ref.inode.data[buffer.offset : buffer.offset + limit]
        start = start % (limit + 1)
        needle = data[start : start + size]
        low = low % (start + 1)
        for name in ("find", "rfind", "count"):
            found = self.read(buffer, lambda: getattr(buffer.obj, name)(needle, low, limit), not needle)
            if found is FAILED:
                return
            assert not buffer.closed
            if needle:
                self.used(buffer, 0, buffer.size, False)
            if len(ref.inode.versions) - 1 == ref.since or not ref.manager.reads:
                assert found == getattr(data, name)(needle, low, limit), (name, needle, low, limit)

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, offset=place)
    def whole(self, chosen: int, offset: int) -> None:
        """What goes through all of it."""
        buffer = self.buffer(chosen)
        if buffer.closed or buffer.readable() < buffer.size:
            return
        at = offset % (buffer.size + 1)
        self.unsure |= buffer.ref.manager.reads  # views have windows of their own there
        for function in (
            lambda: bytes(buffer.obj),
            lambda: bytes(iter(buffer.obj)),
            lambda: b"".join(map(bytes, buffer.obj.iter_views())),
            lambda: buffer.obj[:],
        ):
            data = self.read(buffer, function, zero_copy=True) if buffer.size else b""
            if data is FAILED:
                return
            assert len(data) == buffer.size
            buffer.ref.confirm(buffer.offset, data)
            self.used(buffer, 0, buffer.size, False)
        if buffer.size and not buffer.ref.manager.reads:
            assert self.read(buffer, lambda: buffer.obj == data) in (True, FAILED)
        if at + 8 <= buffer.size:
            number = self.read(buffer, lambda: buffer.obj.unpack_from("<Q", at))
            if number is not FAILED:
                buffer.ref.confirm(buffer.offset + at, struct.pack("<Q", *number))

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick)
    def end_access(self, chosen: int) -> None:
        buffer = self.buffer(chosen)
        buffer.obj.close()
        self.stopped(buffer)
        assert buffer.obj.closed
        assert len(buffer.obj) == 0

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, to=pick, offset=place, size=count)
    def begin_access(self, chosen: int, to: int, offset: int, size: int) -> None:
        buffer = self.buffer(chosen)
        cursor = self.cursor(to) if self.cursors and to % 2 else None
        if buffer.unopened and not buffer.closed:
            return
        if cursor is not None and (cursor.ref is None or cursor.state == "closed"):
            return
        self.give_access(buffer, cursor, offset, size)

    @precondition(lambda self: self.buffers and len(self.cursors) < MOST["cursors"])
    @rule(chosen=pick)
    def cursor_of_buffer(self, chosen: int) -> None:
        buffer = self.buffer(chosen)
        if buffer.closed or buffer.unopened:
            return
        mine = next((cursor for cursor in self.cursors if cursor.owner is buffer), None)
        before = mine is not None and mine.obj.is_valid()
        closed = before or buffer.offset >= buffer.ref.length
        obj = self.call(buffer.ref, buffer.obj.cursor, mine, may_be_closed=closed, zero_copy=True)
        if obj is FAILED:
            return  # it may be there now; then the next call gives it
        if mine is None:
            mine = Cursor(obj, buffer.ref, buffer)
            self.cursors.append(mine)
        assert obj is mine.obj
        if not before:
            got = expected_size(buffer.offset, 0, buffer.ref.manager.window, buffer.ref.length)
            mine.state, mine.start, mine.end = ("valid", buffer.offset, buffer.offset + got) if got else ("none", 0, 0)
        self.look(mine)

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, ring=st.booleans())
    def drop_buffer(self, chosen: int, ring: bool) -> None:
        buffer = self.buffer(chosen)
        for cursor in [cursor for cursor in self.cursors if cursor.owner is buffer]:
            if (ring or LATE) and cursor.state == "valid":
                buffer.ref.manager.litter += 1
            self.cursors.remove(cursor)
        self.buffers.remove(buffer)
        if ring:
            things: list[Any] = [buffer.obj]
            things.append(things)

    @precondition(lambda self: self.buffers and len(self.buffers) < MOST["buffers"])
    @rule(chosen=pick)
    def pickle(self, chosen: int) -> None:
        """The copy is on the default manager, and opens its file when it is read."""
        buffer = self.buffer(chosen)
        try:
            text = pickle.dumps(buffer.obj)
        except TypeError:
            assert isinstance(buffer.ref.where, int)
            return
        except smmap.ClosedError as error:
            assert buffer.closed
            assert buffer.ref.label in str(error)
            return
        assert not buffer.closed
        assert not isinstance(buffer.ref.where, int)
        assert len(text) < 1000
        ref = buffer.ref.copied_to(self.managers[0])
        other = Buffer(pickle.loads(text), ref, buffer.offset, buffer.size)
        other.unopened = True
        assert len(other.obj) == other.size
        self.buffers.append(other)

    # Views

    def keep(self, obj: Any, ref: Ref, start: int) -> None:
        if obj.nbytes:
            view = View(obj, ref, start)
            view.confirm()
            if view.copied is not None:
                ref.confirm(start, view.copied)
            self.views.append(view)
            if view.region() is not None:
                ref.manager.uses[key_of(obj.obj)] = self.step

    @precondition(lambda self: self.cursors and len(self.views) < MOST["views"])
    @rule(chosen=pick, what=pick)
    def view_of_cursor(self, chosen: int, what: int) -> None:
        cursor = self.cursor(chosen)
        if cursor.state != "valid" or cursor.ref is None:
            return
        region = cursor.obj.region()
        if what % 3 == 0:
            self.keep(cursor.obj.buffer(), cursor.ref, cursor.start)
        elif what % 3 == 1:
            self.keep(region.buffer()[what:], cursor.ref, region.ofs_begin() + what)
        else:
            self.keep(memoryview(cursor.obj.map()).cast("b"), cursor.ref, region.ofs_begin())

    @precondition(lambda self: self.buffers and len(self.views) < MOST["views"])
    @rule(chosen=pick, start=place, size=count)
    def view_of_buffer(self, chosen: int, start: int, size: int) -> None:
        buffer = self.buffer(chosen)
        start = start % (buffer.size + 1)
        if buffer.closed or start == buffer.size or not size:
            return
        view = self.read(buffer, lambda: buffer.obj.view(start, start + size), zero_copy=True)
        if view is not FAILED:
            assert len(view) == min(size, buffer.size - start)
            self.keep(view, buffer.ref, buffer.offset + start)

    @precondition(lambda self: self.views)
    @rule(chosen=pick, release=st.booleans())
    def drop_view(self, chosen: int, release: bool) -> None:
        view = self.views.pop(chosen % len(self.views))
        if release:
            view.obj.release()
        if LATE:
            view.ref.manager.litter += 1

    @precondition(lambda self: len(self.views) > 2)
    @rule()
    def drop_views(self) -> None:
        if LATE:
            for view in self.views:
                view.ref.manager.litter += 1
        self.views.clear()

    # In the middle of a call

    def any_call(
        self, what: str, chosen: int, place: int, size: int
    ) -> tuple[str, Callable[[], Any], Callable[[], None]]:
        """A call of a user's: its kind, itself, and what follows for the model if nobody knows how far it came."""
        manager = self.manager(chosen)
        calls: list[tuple[str, Callable[[], Any], Callable[[], None]]] = [
            ("collect", manager.obj.collect, self.nothing),
            ("make_cursor", lambda: manager.obj.make_cursor(self.path(self.any_name(place))) and None, self.nothing),
            ("glance", lambda: self.glance(manager, self.path(self.any_name(place // G)), place), self.nothing),
        ]
        if self.cursors:
            cursor = self.cursor(chosen)
            if cursor.ref is not None and cursor.state != "closed":
                near = place % cursor.ref.length if cursor.ref.length else 0
                calls += [
                    ("use_region", lambda: cursor.obj.use_region(near, size) and None, lambda: self.reset(cursor)),
                    ("unuse_region", cursor.obj.unuse_region, lambda: self.reset(cursor)),
                    ("copy", lambda: self.copied(cursor.obj), self.nothing),
                ]
                if cursor.owner is None:
                    calls.append(("close", cursor.obj.close, lambda: self.forget(cursor)))
        if self.buffers:
            buffer = self.buffer(chosen)
            limit = buffer.readable()
            if not buffer.closed and not buffer.unopened and limit:
                start = place % limit
                stop = min(start + size, limit)
                calls += [
                    ("slice", lambda: self.checked(buffer, start, stop), self.nothing),
                    ("index", lambda: self.checked(buffer, start, start + 1), self.nothing),
                    ("view", lambda: self.checked(buffer, start, stop, buffer.obj.view), self.nothing),
                ]
        if self.views:
            calls.append(("drop_view", lambda: self.views[:1] and self.views.pop(0) and None, self.nothing))
        return next((call for call in calls if call[0] == what), calls[len(what) % len(calls)])

    def glance(self, manager: Manager, path: str, place: int) -> None:
        """With a cursor and a view that are dropped at once; the next cursor often gets the address of this one."""
        for _ in range(2):
            cursor = manager.obj.make_cursor(path)
            if cursor.file_size():
                cursor.use_region(place % cursor.file_size(), 9).buffer()
            del cursor
            manager.obj.make_cursor(path).unuse_region()

    def nothing(self) -> None:
        """Nothing follows."""

    def reset(self, cursor: Cursor) -> None:
        """A cursor uses nothing now, whatever it used."""
        cursor.obj.unuse_region()
        assert not cursor.obj.is_valid()
        if cursor.state != "closed":
            cursor.state = "none"
        cursor.start = cursor.end = 0

    def forget(self, cursor: Cursor) -> None:
        cursor.obj.close()
        self.cursors.remove(cursor)

    def copied(self, cursor: Any) -> None:
        """By some that are dropped, and some that are closed, often at the addresses of those."""
        for _ in range(3):
            copy.copy(cursor)
            other = copy.copy(cursor)
            other.unuse_region()
            other.close()

    def checked(self, buffer: Buffer, start: int, stop: int, call: Any = None) -> None:
        data = call(start, stop) if call else buffer.obj[start:stop]
        buffer.ref.confirm(buffer.offset + start, data)

    def tried(self, call: Callable[[], Any]) -> Any:
        """A call in or beside which something happens: its answer, or the error, if that was promised."""
        try:
            return call()
        except (smmap.SmmapError, FileNotFoundError) as error:
            return forgetful(error)

    @rule(
        what=kind_of_call,
        chosen=pick,
        at=place,
        size=count,
        moments=st.lists(moment, min_size=1, max_size=6),
        kind=st.sampled_from([Alarm, TimeoutError, KeyboardInterrupt]),
    )
    def alarm(self, what: str, chosen: int, at: int, size: int, moments: list[int], kind: type[BaseException]) -> None:
        """A signal handler raises in the middle of a call: it comes out as it is, and everything goes on as before."""
        self.unsure = True
        for moment in moments:
            self.raise_once(what, chosen, at, size, moment, kind("alarm"))

    def raise_once(self, what: str, chosen: int, at: int, size: int, moment: int, error: BaseException) -> None:
        name, call, after = self.any_call(what, chosen, at, size)

        def ring() -> None:
            raise error

        seen: list[BaseException | None] = []
        before = sys.unraisablehook
        sys.unraisablehook = lambda unraisable: seen.append(unraisable.exc_value)
        moments = Moments([moment], ring)
        try:
            self.tried(lambda: moments(call))
        except (Alarm, TimeoutError, KeyboardInterrupt) as found:
            assert found is error
        else:
            assert error in seen or not moments.came, f"an alarm in {name} was swallowed"
        finally:
            sys.unraisablehook = before
            forgetful(error)
        assert seen in ([], [error])
        seen.clear()
        if moments.came:
            self.alarmed = True
            self.met[f"alarm in {name}"] += 1
        after()

    @rule(
        what=kind_of_call,
        chosen=pick,
        at=place,
        size=count,
        steps=switches,
        what2=kind_of_call,
        other=pick,
        to=place,
    )
    def beside(
        self, what: str, chosen: int, at: int, size: int, steps: list[int], what2: str, other: int, to: int
    ) -> None:
        """Another thread makes calls in the middle of a call; each is answered as if it were alone."""
        self.unsure = True
        for shift in range(0, 60, 7):
            name, call, after = self.any_call(what, chosen, at, size)
            name2, call2, after2 = self.any_call(what2, other, to, size)
            if {name, name2} <= CALLS_OF_CURSORS and self.cursor(chosen) is self.cursor(other):
                return  # a cursor belongs to one thread
            self.at_once([steps[0] + shift, *steps[1:]], call, call2)
            self.met[f"{name2} beside {name}"] += 1
            after()
            if after2 is not after:
                after2()
            if "close" in (name, name2):  # that cursor is gone
                return

    def at_once(self, steps: list[int], first: Callable[[], Any], second: Callable[[], Any]) -> None:
        """One call, and the other one by other threads: once at least."""
        errors: list[BaseException] = []
        threads: list[threading.Thread] = []

        def other() -> None:
            try:
                self.tried(second)
            except BaseException as error:
                errors.append(error)

        def switch() -> None:
            if not threads or not threads[-1].is_alive():
                threads.append(threading.Thread(target=other))
                threads[-1].start()
                threads[-1].join(0.005)  # if it waits for a lock, it goes on when this call is done

        before = sys.unraisablehook
        sys.unraisablehook = lambda unraisable: errors.append(unraisable.exc_value or AssertionError("in a finalizer"))
        try:
            self.tried(lambda: Moments(steps, switch, every_step=True)(first))
        finally:
            switch()
            for thread in threads:
                thread.join()
            sys.unraisablehook = before
        if errors:
            raise errors[0]

    @precondition(lambda self: self.buffers and len(self.files) > 1)
    @rule(chosen=pick, one=pick, two=pick, steps=switches)
    def begin_access_twice(self, chosen: int, one: int, two: int, steps: list[int]) -> None:
        """Two threads start a buffer on two files: then it is on one of them."""
        self.unsure = True
        buffer = self.buffer(chosen)
        manager = buffer.ref.manager
        names = [self.existing(one), self.existing(two)]
        refs = [Ref(manager, self.files[name], self.path(name), os.path.basename(name)[:3]) for name in names]
        if manager.closed or refs[0].inode is refs[1].inode or min(ref.length for ref in refs) < 9:
            return  # else nobody could tell which of them it is on
        first, second = (manager.obj.make_cursor(ref.where) for ref in refs)
        self.stopped(buffer)
        self.cursors = [mine for mine in self.cursors if mine.owner is not buffer]
        buffer.unopened = False
        for shift in range(0, 60, 7):
            again = [steps[0] + shift, *steps[1:]]
            self.at_once(again, lambda: buffer.obj.begin_access(first), lambda: buffer.obj.begin_access(second))
            self.met["begin_access beside begin_access"] += 1
            if not buffer.obj.closed:
                self.one_of(buffer, refs)
        if buffer.obj.closed:
            self.buffers.remove(buffer)

    def one_of(self, buffer: Buffer, refs: list[Ref]) -> None:
        """Which of these files the buffer is on, by all of its bytes."""
        for ref in refs:
            end = min(ref.readable(ref.length), len(buffer.obj))
            if ref.length == len(buffer.obj):
                try:
                    ref.confirm(0, buffer.obj[:end])
                except AssertionError:
                    continue
                buffer.ref, buffer.offset, buffer.size, buffer.closed = ref, 0, ref.length, False
                return
        raise AssertionError(f"{len(buffer.obj)} bytes that are of neither file")

    @precondition(lambda self: self.buffers)
    @rule(chosen=pick, number=st.integers(0, 8), many=st.integers(1, 12))
    def read_without_handles(self, chosen: int, number: int, many: int) -> None:
        """Views export as many regions as the limit allows: copies go on without a handle."""
        self.unsure = True
        buffer = self.buffer(chosen)
        limit = buffer.readable()
        start = min(number * W, limit - 1)
        if buffer.closed or buffer.ref.manager.handles > MOST["views"] or limit <= 0:
            return
        before = len(self.views)
        for place in range(0, limit, W):
            if place // W != start // W:
                view = self.read(buffer, lambda: buffer.obj.view(place, place + 1), zero_copy=True)
                if view is FAILED:
                    self.met["no handle left"] += 1
                    break
                self.keep(view, buffer.ref, buffer.offset + place)
                del view
        for _ in range(many):
            data = self.read(buffer, lambda: buffer.obj[start : min(start + 9, limit)])
            if data is FAILED:
                break
            buffer.ref.confirm(buffer.offset + start, data)
        if LATE:
            buffer.ref.manager.litter += len(self.views) - before
        del self.views[before:]

    # All of it

    @rule(chosen=pick)
    def collect_some_garbage(self, chosen: int) -> None:
        if chosen % 3 == 0:  # it takes longer than all else
            self.collect_garbage()

    def collect_garbage(self) -> None:
        for _ in range(3 if LATE else 1):
            gc.collect()
        for manager in self.managers:
            manager.litter = 0

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(seed=pick)
    def fork(self, seed: int) -> None:
        """A child sees the same, and goes its own way; the parent notices nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a watchdog of the runner counts as a thread
            child = os.fork()
        if not child:
            status = 1
            try:
                signal.alarm(60)  # ends the child; faulthandler's watchdog hangs in a child of a watched process
                self.in_child(seed)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, "the child failed"

    def in_child(self, seed: int) -> None:
        self.bounds_are_kept()
        for cursor in list(self.cursors):
            self.look(cursor)
            self.move(cursor, PLACES[seed % len(PLACES)], COUNTS[seed % 9])
        for number in range(len(self.buffers)):
            self.slice(number, PLACES[seed % len(PLACES)], COUNTS[seed % 9], 1, False)
            self.index(number, PLACES[-seed % len(PLACES)], 12)
        self.unsure = True  # all of this counts as one step
        self.bounds_are_kept()
        for number in range(len(self.managers)):
            self.collect(number)
            self.close_manager(number, 0)
        self.bounds_are_kept()

    def used(self, buffer: Buffer, start: int, stop: int, exactly: bool = True) -> None:
        """[start, stop) of a buffer was read, from its lowest window to its highest if that is known `exactly`."""
        ref, client = buffer.ref, buffer.obj._access.client
        if stop <= start:
            return
        window = ref.manager.window or ref.length
        for number in range((buffer.offset + start) // window, (buffer.offset + stop - 1) // window + 1):
            ref.manager.uses[client.file.serial, number] = self.step + number / 1000 if exactly else self.step

    def order_is_kept(self, manager: Manager) -> None:
        """Idle regions are in the order of their last use, and went in that order."""
        cache = manager.obj._cache
        regions = {key_of(region): region for region in cache.ledger.regions()}
        idle = [key_of(region) for region in cache.idle]
        uses, unsure = manager.uses, self.unsure
        if unsure:
            uses.update((key, -1) for key in [*uses, *idle])
        else:
            uses.update((key, self.step) for key in idle if key in manager.pinned or key not in uses)
        now = [uses[key] for key in idle if uses[key] >= 0]
        assert now == sorted(now), f"not in the order of use: {[(key, uses[key]) for key in idle]}"
        seen = set(idle)
        gone = [key for key in manager.idle if key not in regions]
        left = [key for key in manager.idle if key in seen and 0 <= uses[key] < self.step]
        if gone and left and not (unsure or manager.closed):
            oldest = min(map(manager.idle.index, left))
            late = [key for key in gone if manager.idle.index(key) > oldest and uses.get(key, -1) < self.step]
            assert not late, f"went before {left}, which was used before: {late}"
            self.met["evicted in order"] += 1
        manager.idle = idle
        manager.pinned = {key for key, region in regions.items() if region.pins}

    @invariant()
    def bounds_are_kept(self) -> None:
        Model.steps += 1
        for view in self.views:
            view.confirm()
        for manager in self.managers:
            manager.obj._check()
            stats = manager.obj.stats()
            assert stats.mapped == stats.pinned + stats.idle + stats.detached <= manager.handles
            if manager.closed:
                assert stats.pinned == stats.idle == stats.descriptors == 0
            assert stats.mapped + stats.descriptors <= manager.handles
            assert stats.peak_mapped >= stats.mapped
            assert stats.peak_memory >= stats.mapped_memory
            self.compare(manager, stats)
            self.order_is_kept(manager)
        self.unsure = self.alarmed = False
        self.step += 1

    def compare(self, manager: Manager, stats: Any) -> None:
        """The ledger with what the model holds."""
        regions = {
            cursor.obj.region()
            for cursor in self.cursors
            if cursor.ref and cursor.ref.manager is manager and cursor.state == "valid"
        }
        regions = (regions | set(manager.counted)) - {None}
        pinned = {mapped(region) for region in regions if region.client_count() > 1} - {None}
        exported = {view.region() for view in self.views if view.ref.manager is manager} - {None} - pinned
        assert stats.pinned >= len(pinned), (stats, regions)
        assert stats.mapped >= len(pinned | exported), (stats, regions, [view.obj for view in self.views])
        if not manager.litter and not LATE:
            assert stats.pinned == len(pinned), (stats, regions)
            assert stats.detached <= len(exported), f"kept by no view: {stats}"
        if self.alarmed:  # what was to be evicted may stay until the next region is made
            manager.misses = stats.misses
        # What garbage holds may be what is larger than the limit
        unseen = LATE or manager.litter or manager.misses == stats.misses
        if not unseen and stats.mapped_memory > manager.memory and stats.idle > 1:
            assert any(region.size() > manager.memory for region in regions), "idle regions above the limit"

    def teardown(self) -> None:
        os.chdir(self.home)
        _default._manager = None
        gc.enable()
        self.layers.close()
        for number in self.open_numbers():
            os.close(number)
        try:
            if sys.exc_info()[0] is None:
                self.finish()
        finally:
            self.cursors.clear()
            self.buffers.clear()
            self.views.clear()
            self.managers.clear()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """With every client gone, all ledgers read zero; what is in hand stays right even then."""
        for manager in self.managers:
            while manager.counted:
                manager.counted.pop().increment_client_count(-1)
        views = list(self.views) if len(self.cursors) % 2 else []
        if not views:
            self.views.clear()
        self.cursors.clear()
        self.buffers.clear()
        if LATE or any(manager.litter for manager in self.managers):
            self.collect_garbage()
        for manager in self.managers:
            manager.obj.collect()
            manager.obj._check()
            stats = manager.obj.stats()
            exported = {view.region() for view in views if view.ref.manager is manager} - {None}
            assert stats.mapped == stats.detached == len(exported), stats
            assert stats.descriptors == stats.pinned == 0
            assert bool(stats.mapped_memory) == bool(exported)
        self.managers.clear()
        if LATE:
            self.collect_garbage()
        while views:
            views.pop().confirm()
        self.views.clear()
        if LATE:
            self.collect_garbage()
        if LINUX:
            assert maps(Path(self.folder)) == []
            assert descriptors(Path(self.folder)) == []
