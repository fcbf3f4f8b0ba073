"""The files of a manager: which version of a file a client gets, and the descriptor by which it is read.

The part of the policy that opens files, on which _manager.py is built. What a version is, and how it differs from
others, is in _files.py. A client keeps its version: once another file is at its path, its reads have the bytes of the
old one, or raise.
"""

from __future__ import annotations

import errno
import weakref
from typing import Any, Callable, TypeVar

from . import _system
from ._cache import Cache
from ._engine import chosen as engine
from ._errors import ClosedError, FileChangedError
from ._files import Client, File, Files, Status, absolute, examine, verify
from ._lock import Lock
from ._rents import patience, price
from ._system import Where, called, named

__all__ = ["Opener"]

T = TypeVar("T")

_DROPPED_AT_ONCE = 64  # regions of an outdated version of a file; the others go as the least recently used


class Opener:
    """The files and descriptors of one manager. `Manager` extends it."""

    def __init__(self, window: int, max_memory: int, max_handles: int, backing: str) -> None:
        self._window = window
        self._backing = backing
        self._closed = False
        self._lock = Lock(weakref.ref(self))  # not itself: a manager must not have to wait for the garbage collector
        self._files = Files()
        self._cache = Cache(max_memory, max_handles)

    # These need no lock, or take it

    def _settle(self) -> None:
        """Take note of what died since the last operation."""
        self._files.settle()
        self._cache.ledger.settle()

    def _check_open(self, where: Where) -> None:
        """`ClosedError` once the manager was closed."""
        if self._closed:
            name = f"descriptor {where}" if isinstance(where, int) else repr(where)
            raise ClosedError(f"the {type(self).__name__} of {name} is closed")

    def _attempt(self, where: Where, start: int, stop: int, call: Callable[..., T], *args: Any) -> T:
        """Make a system call without the lock; if the system has run out, again under the lock, making room."""
        try:
            return call(*args)
        except (OSError, MemoryError) as error:
            if _system.code_of(error) not in _system.REFUSALS:
                raise named(error, where, start, stop) from None
        found: T = self._lock.run(self._cache.attempt, where, start, stop, call, *args)
        return found

    def _client(self, path_or_fd: Any, advice: str = "normal") -> Client:
        """The record of a new client of a file, as it is now."""
        engine.notice()
        where = absolute(path_or_fd)
        file = None if self._closed else self._files.at(where)
        if file is None or file.gone or not engine.unchanged(where, file.status):
            status = self._examine(where)
            file = self._lock.run(self._file_of, where, status)
        return Client(self, file, path_or_fd, where, file.status.size, file.status.mtime, advice)

    def _examine(self, where: Where) -> Status:
        """The present status of a path or descriptor."""
        try:
            return self._attempt(where, 0, 0, examine, where, engine.open_file)
        except FileNotFoundError:
            self._lock.soon(self._gone_from, where)
            raise

    # Versions (these are called under the lock)

    def _file_of(self, where: Where, status: Status) -> File:
        """The record of the version of a file that has this status."""
        self._check_open(where)
        files, cache = self._files, self._cache
        file = files.version(status)
        if file is None or file.status != status or file.cut:
            if file is not None:  # its descriptor is kept: clients of that version may read by it
                file.gone = True
                cache.evict_file(file, _DROPPED_AT_ONCE)
            file = File(status, engine.Table())
            self._set_price(file)
            files.add(file)
        file.gone = False
        last = files.at(where)
        if last is not file and not isinstance(where, int):
            if last is not None and last.status.key != status.key:
                self._gone_from(where)
            files.call(file, where)
        return file

    def _set_price(self, file: File) -> None:
        """What the reads of a window of this file have to pay before it is mapped: see _rents.py."""
        size = min(self._window or file.status.size, file.status.size) or 1
        file.price = price(size, self._reads(file)) if _system.KEEPS_DESCRIPTORS else 1
        file.patience = patience(min(self._cache.limits.handles, self._cache.max_memory // size))

    def _reads(self, file: File) -> bool:
        """Whether windows of a file are read into memory."""
        return self._backing == "read" or file.reads

    def _gone_from(self, where: Where) -> None:
        """Another file, or none, is at this path now: drop what is idle or cached of the one that was there, and the
        descriptors of its earlier versions. Linear in the cached descriptors."""
        file = self._files.at(where)
        if file is not None:
            file.gone = True
            self._cache.evict_file(file, _DROPPED_AT_ONCE)
            for version in [file, *self._cache.open]:
                if version.status.key == file.status.key:
                    self._cache.uncache(version)

    # Descriptors

    def _open(self, client: Client, start: int, stop: int, flags: int, attempt: Callable[..., Any]) -> Any:
        """A descriptor of the client's file, in use until `_done`: cached, or new and verified.

        `attempt` makes the system calls: `_cache.attempt` if the caller has the lock, otherwise `_attempt`.
        """
        file, where, flags = client.file, client.where, flags | client.flags
        self._check_whole(client)
        descriptor = file.descriptor
        if descriptor is not None and not flags:
            descriptor.use()
            if not descriptor.closed:
                self._cache.open.touch(file)
                return descriptor
            descriptor.done()
        try:
            descriptor, status = attempt(where, start, stop, engine.open_file, where, flags)
        except OSError as error:
            if error.errno not in _system.GONE or (flags and error.errno in (errno.ELOOP, errno.ENOTDIR)):
                raise  # a link, or no folder, which the user's flags do not allow
            raise FileChangedError(f"no longer there: {error.strerror}", called(where)) from None
        descriptor.use()
        try:
            verify(file, status, where, descriptor.number)
        except BaseException:
            self._done(descriptor)
            raise
        if status == file.status and not (file.cut or isinstance(where, int)):
            file.gone = False  # it is gone from another path only
        return descriptor

    def _done(self, descriptor: Any) -> None:
        """A descriptor from `_open` is no longer used."""
        descriptor.done()
        if not descriptor.cached:
            descriptor.close()

    def _keep_open(self, client: Client, descriptor: Any, flags: int = 0) -> None:
        """Cache a descriptor for all clients of the file, unless it has a client's own flags. Under the lock."""
        if not (flags or client.flags or self._closed):
            self._cache.cache(client.file, descriptor)

    def _check_file(self, client: Client, flags: int, start: int = 0, stop: int = 0) -> None:
        """Open the client's file, verify it, and cache the descriptor. Under the lock."""
        self._check_open(client.where)
        descriptor = self._open(client, start, stop, flags, self._cache.attempt)
        try:
            self._keep_open(client, descriptor, flags)
        finally:
            self._done(descriptor)

    def _check_whole(self, client: Client) -> None:
        """`FileChangedError` once a map of the client's file turned out to have lost its bytes."""
        if client.file.cut:
            raise FileChangedError(
                "truncated since the cursor or buffer was made, if only for a moment: make a new one",
                called(client.where),
            )
