"""A seam between the library and the system, at which tests count calls and make chosen ones fail.

Two depths: the functions of `smmap._system` that all other modules call, or what those call in turn (`os.open`,
`mmap.mmap`, ...), seen by the library alone: it gets stand-ins for the modules `os`, `mmap`, `fcntl` and `resource`.
"duplicates" is the latter on a system where what a descriptor refers to cannot be opened anew.
"""

from __future__ import annotations

import errno
import mmap
import os
import posixpath
import sys
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest

from smmap import _system

__all__ = ["CODES", "DEPTHS", "OUT_OF_MEMORY", "Fault", "Seam", "name_of_code"]

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

_SEAM = ("status", "status_of", "open_file", "read_at", "map_at")
_OS = ("stat", "fstat", "open", "dup", "pread", "getcwd", "getcwdb")
_PATHS = ("lstat", "readlink")
_TAKES_MEMORY = {"read_at", "map_at", "os.pread", "mmap.mmap"}


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
        self.turns = 0
        """How often it was armed."""
        self._armed = 0
        if depth == "seam":
            for name in _SEAM:
                patch.setattr(_system, name, self._guard(name, getattr(_system, name)))
        else:
            self._go_below(patch)
        if depth == "duplicates":
            patch.setattr(_system, "_REOPENS", False)

    def _go_below(self, patch: pytest.MonkeyPatch) -> None:
        guarded = {name: self._guard(f"os.{name}", getattr(os, name)) for name in _OS if hasattr(os, name)}
        patch.setattr(_system, "os", _StandIn(os, guarded))
        patch.setattr(_system.Descriptor.close, "__defaults__", (self._guard("os.close", os.close, after=True),))
        guarded = {name: self._guard(f"os.{name}", getattr(os, name)) for name in _PATHS}
        patch.setattr(posixpath, "os", _StandIn(os, guarded))
        seam = self

        class Map(mmap.mmap):
            """A map whose advice can be refused."""

            def madvise(self, *args: Any) -> None:
                seam.check("mmap.madvise")
                super().madvise(*args)

        def make(*args: Any, **kwargs: Any) -> mmap.mmap:
            self.check("mmap.mmap")
            return Map(*args, **kwargs)

        patch.setattr(_system, "mmap", _StandIn(mmap, {"mmap": make}))
        patch.setattr(_system, "open", self._guard("open", open), raising=False)
        for module, name in (("fcntl", "fcntl"), ("resource", "getrlimit")):
            real = __import__(module)
            stand_in = _StandIn(real, {name: self._guard(f"{module}.{name}", getattr(real, name))})
            patch.setitem(sys.modules, module, stand_in)

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


class _StandIn(types.ModuleType):
    """A module of which some functions are replaced."""

    def __init__(self, real: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(replaced)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
