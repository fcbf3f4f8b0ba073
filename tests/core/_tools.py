"""What the tests of the core share: data, an oracle for sizes, and looks into the system behind the library's back.

The oracles are written from the promises, never from the code, and use nothing of the library.
"""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import ALLOCATIONGRANULARITY as G
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import smmap
from smmap._engine import chosen as engine

__all__ = [
    "LATE",
    "LINUX",
    "PYPY",
    "TRACKS",
    "File",
    "G",
    "World",
    "agree",
    "assert_zero",
    "before_system_call",
    "borders",
    "by_policy",
    "collecting_always",
    "descriptors",
    "expected_size",
    "lengths",
    "linux",
    "maps",
    "open_to_all",
    "pages",
    "payload",
    "reclaim",
    "run_python",
]

LINUX = sys.platform.startswith("linux")
PYPY = sys.implementation.name == "pypy"
# Whether a dead object may be reclaimed later than its last reference goes.
LATE = sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)()
# Whether each map keeps a descriptor of its own.
TRACKS = engine.MAP_COSTS_DESCRIPTOR

linux = pytest.mark.skipif(not LINUX, reason="looks into /proc")


def before_system_call(patch: pytest.MonkeyPatch, name: str, function: Callable[..., int | None]) -> None:
    """Call `function` before each system call of that name which the engine makes, with the call's arguments.

    The call fails with the code that it returns, if any. "stat" (path), "open" (path, flags), "dup" (descriptor),
    "fstat" (descriptor), "pread" (descriptor, size, offset).
    """
    if hasattr(engine, "seams"):
        patch.setitem(engine.seams, name, lambda *args: function(*args) or 0)
        return
    real = getattr(os, name)
    real_into: Any = getattr(os, "preadv", None)

    def call(*args: Any) -> Any:
        code = function(*args)
        if code:
            raise OSError(code, os.strerror(code))
        return real(*args)

    def call_into(number: int, targets: Any, offset: int, flags: int = 0) -> Any:
        code = 0 if flags else function(number, sum(map(len, targets)), offset)
        if code:
            raise OSError(code, os.strerror(code))
        return real_into(number, targets, offset, flags)

    patch.setattr(os, name, call)
    if name == "pread" and real_into is not None:  # flags: only what is in memory, which never waits
        patch.setattr(os, "preadv", call_into)


def by_policy(manager: Any) -> Any:
    """Let each miss of a manager go through the policy, some calls of which a test replaces."""
    manager._cache.ledger.shortcut = None
    return manager


class File(NamedTuple):
    """A file made for a test, and what is in it."""

    path: Path
    data: bytes

    @property
    def name(self) -> str:
        return self.path.name


class World:
    """A folder of files whose bytes differ at every offset, and the managers that read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._managers: list[Any] = []

    def file(self, size: int, name: str = "data", data: bytes | None = None) -> File:
        """A file of `size` bytes below the folder; each name has other bytes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = payload(size, name) if data is None else data
        path.write_bytes(content)
        return File(path, content)

    def manager(
        self,
        window_size: int = -1,
        max_memory_size: int = 0,
        max_open_handles: int = sys.maxsize,
        *,
        static: bool = False,
        backing: str = "auto",
    ) -> Any:
        """A manager, which is checked when the test ends."""
        cls: Callable[..., Any] = smmap.StaticWindowMapManager if static else smmap.SlidingWindowMapManager
        manager = cls(0 if static else window_size, max_memory_size, max_open_handles, backing=backing)
        self._managers.append(manager)
        return manager

    def maps(self) -> list[str]:
        """The names of the files that the system has mapped now, one a map."""
        return maps(self.folder)

    def pages(self) -> Counter[tuple[str, int]]:
        """The granules that the system has mapped now, as (name, number)."""
        return pages(self.folder)

    def descriptors(self) -> list[str]:
        """The files that the system has open now."""
        return descriptors(self.folder)

    def check_zero(self) -> None:
        """Nothing is mapped or open any more, and every manager says so everywhere."""
        for manager in self._managers:
            manager._check()
            manager.collect()
            if manager.stats()[:7] != (0,) * 7:
                reclaim()
                manager.collect()
                reclaim()
            assert_zero(manager)


def assert_zero(manager: Any) -> None:
    """Nothing is mapped, pinned, detached or open, and the manager says so everywhere."""
    manager._check()
    assert manager.stats()[:7] == (0,) * 7, manager.stats()
    assert manager.num_file_handles() == 0
    assert manager.num_open_files() == 0
    assert manager.mapped_memory_size() == 0


def payload(size: int, seed: object = 0) -> bytes:
    """`size` bytes without a period: any eight of them in a row are found at one offset only."""
    return hashlib.shake_128(repr(seed).encode()).digest(size)


def open_to_all(folder: Path) -> None:
    """Let other users come to a folder below the one for temporary files."""
    while folder != Path(tempfile.gettempdir()) and folder != folder.parent:
        folder.chmod(0o755)
        folder = folder.parent


def in_thread(call: Callable[[], Any]) -> Any:
    """What the call gives in another thread."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "hangs"
    return answers[0]


def is_free(manager: Any) -> bool:
    """Whether another thread could take the manager's lock."""
    lock = manager._lock._rlock

    def attempt() -> bool:
        taken: bool = lock.acquire(blocking=False)
        if taken:
            lock.release()
        return taken

    return bool(in_thread(attempt))


def reclaim() -> None:
    """Let everything die that nothing refers to, on any interpreter."""
    for _ in range(3 if LATE else 1):
        gc.collect()


@contextmanager
def collecting_always(threshold: int = 1) -> Iterator[None]:
    """Garbage is looked for at nearly every allocation, where the interpreter lets us say so."""
    before = gc.get_threshold() if hasattr(gc, "get_threshold") else ()
    if before:
        gc.set_threshold(threshold)
    try:
        yield
    finally:
        if before:
            gc.set_threshold(*before)


def borders(size: int, window: int, width: int = 1) -> list[int]:
    """Every offset within `width` of a border: multiples of the granularity and of half a window, 0 and the end."""
    step = min(G, window // 2) if window else G
    near = {base + shift for base in [*range(0, size + 1, step), size] for shift in range(-width, width + 1)}
    return sorted(offset for offset in near if offset >= 0)


def lengths(window: int) -> list[int]:
    """The sizes of a request at which something may change."""
    half = window // 2
    near = {0, 1, 2, G - 1, G, G + 1, half - 1, half, half + 1, window - 1, window, window + 1, 2 * window, sys.maxsize}
    return sorted(length for length in near if length >= 0)


def expected_size(offset: int, size: int, window: int, length: int) -> int:
    """How many bytes a request gets of a file of `length` bytes (promise 2, and the rule for size 0)."""
    if offset >= length:
        return 0
    rest = length - offset
    if size:
        return min(size, window or length, rest)
    if not window:
        return rest
    end = offset // window * window + window  # of the grid window
    if offset + min(window // 2, rest) > end:
        end += window // 2  # of the seam window
    return min(end, length) - offset


def descriptors(folder: Path | None = None) -> list[str]:
    """What the process has open now (below `folder`), by name, sorted."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the listing's own descriptor
            continue
    return sorted(name for name in found if name.startswith(str(folder) if folder else ""))


def _areas(folder: Path) -> list[tuple[str, int, int]]:
    """The process's maps of files below `folder`: (name, offset, size)."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(str(folder)):
                begin, _, end = fields[0].partition("-")
                name = fields[5][len(str(folder)) + 1 :]
                found.append((name, int(fields[2], 16), int(end, 16) - int(begin, 16)))
    return found


def maps(folder: Path) -> list[str]:
    """The names of the files below `folder` that are mapped now, sorted, one a map (neighbours may count as one)."""
    return sorted(name for name, _, _ in _areas(folder))


def pages(folder: Path) -> Counter[tuple[str, int]]:
    """The granules that are mapped now, as (name, number), and how many times each."""
    return Counter(
        (name, page)
        for name, offset, size in _areas(folder)
        for page in range(offset // G, (offset + size - 1) // G + 1)
    )


def agree(ours: Any, theirs: Any, call: Callable[[Any], Any]) -> None:
    """`call` gives the same for both, or fails with the same kind of error for both."""
    try:
        wanted: tuple[Any, Any] = (call(theirs), None)
    except Exception as error:
        wanted = (None, type(error))
    try:
        got: tuple[Any, Any] = (call(ours), None)
    except Exception as error:
        got = (None, type(error))
    assert got[1] is wanted[1] or (got[1] and wanted[1] and issubclass(got[1], wanted[1])), (got, wanted)
    assert type(got[0]) is type(wanted[0])
    assert got[0] == wanted[0]


class Closed:
    """Stands for a map that was evicted and closed by another thread (PyPy) between finding and reading it."""

    def __getitem__(self, *args: Any) -> Any:
        raise ValueError("mmap closed or invalid")

    find = rfind = __getitem__


def run_python(
    script: str,
    *args: object,
    timeout: int = 60,
    options: tuple[str, ...] = ("-X", "dev", "-W", "error"),
    **kwargs: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `script` in a fresh interpreter that must end well and say nothing on standard error.

    If it hangs, it writes the stacks of all threads and dies.
    """
    watchdog = f"import faulthandler; faulthandler.dump_traceback_later({timeout}, exit=True)\n"
    paths = [str(Path(smmap.__file__).parents[1]), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, *options, "-c", watchdog + script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=timeout + 30,
        check=False,
        **kwargs,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
