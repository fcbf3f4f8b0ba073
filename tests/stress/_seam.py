"""A seam between the library and the system, at which tests count calls and make chosen ones fail.

Two depths: "seam" is what the policy asks of the engine and of `_files` (`open_file`, `map_window`, ...); "system" is
what those call in turn (`os.open`, `mmap.mmap`, ...), seen by the library alone: its modules get stand-ins for `os`,
`fcntl` and `resource`, and regions that check first. "duplicates" is the latter on a system where what a
descriptor refers to cannot be opened anew. The fast engine's own calls are made to fail by its `seams`.
"""

from __future__ import annotations

import errno
import os
import posixpath
import sys
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest

from smmap import _compat, _engine, _files, _growth, _opening, _system

__all__ = ["CODES", "DEPTHS", "OUT_OF_MEMORY", "OWN", "Fault", "Seam", "name_of_code"]

OUT_OF_MEMORY = -1
"""Stands for a `MemoryError`, which is how Python itself says that it got no memory for what was read."""

CODES = [
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.ENODEV,
    errno.EPERM,
    errno.EACCES,
    errno.EIO,
    errno.EINTR,
    OUT_OF_MEMORY,
]
DEPTHS = ["seam", "system", "duplicates"]
OWN = ["os.stat", "os.open", "os.dup", "os.fstat", "os.pread", "mmap.mmap"]
"""System calls that the fast engine makes itself, and looks at how they ended."""

_SEAM = ("open_file", "map_window", "read_window")
_OS = ("stat", "fstat", "open", "dup", "pread", "pwrite", "write", "ftruncate", "memfd_create", "getcwd", "getcwdb")
_PATHS = ("lstat", "readlink")
_TAKES_MEMORY = {"read_at", "map_window", "read_window", "os.pread", "mmap.mmap"}


def name_of_code(code: int) -> str:
    return "MemoryError" if code == OUT_OF_MEMORY else errno.errorcode[code]


class Fault(tuple[str, int, int]):
    """(name of the call, its number, code) of a call that failed."""


class Seam:
    """Counts the calls that the library makes to the system. `wants(name, number)` gives the code of a fault, or None.

    Armed only inside `with seam:`; what a test does to look at the state goes around it.
    """

    def __init__(self, patch: pytest.MonkeyPatch, depth: str) -> None:
        self.counted: Counter[str] = Counter()
        self.log: list[str] = []
        self.faults: list[Fault] = []
        self.wants: Callable[[str, int], int | None] = lambda name, number: None
        self.own: Counter[tuple[str, int]] = Counter()
        """Of the faults, those of system calls that the fast engine makes itself: how often which failed how."""
        self.turns = 0
        """How often it was armed."""
        self._armed = 0
        if depth == "seam":
            self._go_between(patch)
        else:
            self._go_below(patch, can_open_anew=depth != "duplicates")

    def _go_between(self, patch: pytest.MonkeyPatch) -> None:
        engine = _engine.chosen
        for name in _SEAM:
            patch.setattr(engine, name, self._guard(name, getattr(engine, name)))
        if _engine.engine == "plain":
            patch.setattr(engine, "read_at", self._guard("read_at", engine.read_at))

        def examine(where: Any, open_file: Any) -> Any:
            try:
                self.check("examine")
            except OSError as error:
                raise _system.named(error, where) from None
            return _files.examine(where, open_file)

        for module in (_opening, _growth, _compat):
            patch.setattr(module, "examine", examine)

    def _go_below(self, patch: pytest.MonkeyPatch, can_open_anew: bool) -> None:
        guarded = {name: self._guard(f"os.{name}", getattr(os, name)) for name in _OS if hasattr(os, name)}
        guarded["close"] = self._guard("os.close", os.close, after=True)
        for module in (_files, _system):
            patch.setattr(module, "os", _StandIn(os, guarded))
        if _engine.engine == "fast":
            self._go_below_fast(patch, can_open_anew)
        else:
            self._go_below_plain(patch, can_open_anew, guarded)
        patch.setattr(
            posixpath, "os", _StandIn(os, {name: self._guard(f"os.{name}", getattr(os, name)) for name in _PATHS})
        )

        patch.setattr(_files, "ioctl", self._guard("fcntl.ioctl", _files.ioctl))
        patch.setattr(_system, "open", self._guard("open", open), raising=False)
        for module, name in (("fcntl", "fcntl"), ("resource", "getrlimit")):
            real = __import__(module)
            stand_in = _StandIn(real, {name: self._guard(f"{module}.{name}", getattr(real, name))})
            patch.setitem(sys.modules, module, stand_in)

    def _go_below_fast(self, patch: pytest.MonkeyPatch, can_open_anew: bool) -> None:
        def guarded(name: str) -> Callable[..., int]:
            again = False

            def code_of(path: Any, *_: Any) -> int:
                nonlocal again
                try:
                    self.check(name)
                except MemoryError:
                    self.own[name, OUT_OF_MEMORY] += 1
                    return errno.ENOMEM  # nothing of Python's is allocated there
                except OSError as error:
                    self.own[name, error.errno or 0] += 1
                    again = error.errno == errno.EINTR and not again  # such a call is made again until it ends
                    if again or error.errno != errno.EINTR:
                        return error.errno or 0
                opens_anew = name == "os.open" and str(path).startswith("/proc/self/fd/")
                return errno.ENOENT if opens_anew and not can_open_anew else 0

            return code_of

        for name in OWN:
            patch.setitem(_engine.chosen.seams, name.partition(".")[2], guarded(name))

    def _go_below_plain(self, patch: pytest.MonkeyPatch, can_open_anew: bool, guarded: dict[str, Any]) -> None:
        plain, seam = _engine.chosen, self
        if not can_open_anew:
            guarded = {**guarded, "open": _opens_no_descriptor(guarded["open"])}
        patch.setattr(plain, "os", _StandIn(os, guarded))

        class Region(plain.Region):
            """A region that may not be made, and whose advice can be refused."""

            __slots__ = ()

            def __new__(cls, *args: Any, **kwargs: Any) -> Region:
                seam.check("mmap.mmap")
                return super().__new__(cls, *args, **kwargs)

            def madvise(self, *args: Any) -> None:
                seam.check("mmap.madvise")
                super().madvise(*args)

        patch.setattr(plain, "Region", Region)

    def _guard(self, name: str, real: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if after:  # Linux closes the number also where it reports an error
                real(*args, **kwargs)
                self.check(name)
                return None
            self.check(name)
            return real(*args, **kwargs)

        return guarded

    def check(self, name: str) -> None:
        """Count a call; fail if that is wanted."""
        if not self._armed:
            return
        number = len(self.log)
        self.log.append(name)
        self.counted[name] += 1
        code = self.wants(name, number)
        if code is not None and (code != OUT_OF_MEMORY or name in _TAKES_MEMORY):
            self.faults.append(Fault((name, number, code)))
            if code == OUT_OF_MEMORY:
                raise MemoryError
            raise OSError(code, os.strerror(code))

    def __enter__(self) -> Seam:
        self._armed += 1
        self.turns += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._armed -= 1

    @contextmanager
    def off(self) -> Iterator[None]:
        """Nothing fails and nothing is counted in here."""
        armed, self._armed = self._armed, 0
        try:
            yield
        finally:
            self._armed = armed


def _opens_no_descriptor(real: Callable[..., int]) -> Callable[..., int]:
    """`os.open` of a system that has no names for what its descriptors refer to."""

    def opens(path: Any, *args: Any) -> int:
        if str(path).startswith("/proc/self/fd/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return real(path, *args)

    return opens


class _StandIn(types.ModuleType):
    """A module of which some functions are replaced."""

    def __init__(self, real: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(replaced)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
