"""Getting the bytes of a window: open, verify, map or read; where the system refuses, let go of what is idle.

Knows the ledger, whose regions and descriptors it may let go; nothing of holds or order of use. All methods are called
under the manager's lock.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from . import _system
from ._errors import FileChangedError, LimitError
from ._file import Client, MappedFile, read_store
from ._system import Descriptor, Where, called, named, span_of

if TYPE_CHECKING:
    from ._ledger import Ledger
    from ._region import Store

__all__ = ["CannotMap", "Source"]

T = TypeVar("T")


class CannotMap(Exception):
    """The file system does not map: the file is to be read instead, and has been marked so."""


class Source:
    """Where one manager gets its windows from; `backing` and `window` are the manager's."""

    def __init__(self, ledger: Ledger, window: int, backing: str) -> None:
        self._ledger = ledger
        self._window = window
        self._backing = backing

    def reads(self, client: Client) -> bool:
        """Whether windows of the client's file are read into memory."""
        return self._backing == "read" or (client._file is not None and client._file.reads)

    def store(self, client: Client, begin: int, end: int, flags: int) -> Store:
        """The bytes of [begin, end), mapped or read; `CannotMap` once where they can only be read."""
        file = client._file
        assert file is not None
        reads = self.reads(client)
        descriptor = self.open(client, begin, end, flags)
        number, size, where = descriptor.number, end - begin, client._where
        store: Store
        try:
            if reads:
                store = self.attempt(where, begin, end, read_store, number, size, begin, where)
            else:
                store = self.attempt(where, begin, end, _system.map_at, number, size, begin, client._access)
            if reads or 0 < self._window < file.size:
                self.keep(client, descriptor, flags)
            return store
        except ValueError as error:
            self._verify(client, file, descriptor, begin, end)
            raise FileChangedError(f"truncated while [{begin}, {end}) was mapped: {error}", called(where)) from None
        except OSError as error:
            if reads or self._backing != "auto" or error.errno not in _system.UNMAPPABLE:
                raise
            file.reads = True
            file.price = 0  # another one now
            raise CannotMap from None
        finally:
            self._ledger.check_in(descriptor)

    def keep(self, client: Client, descriptor: Descriptor, flags: int = 0) -> None:
        """Keep a descriptor that `open` gave, for all clients of the file: not one with flags of a client's own."""
        if client._file is not None and not (descriptor.shared or flags or client._flags):
            self._ledger.keep(descriptor, client._file)

    def open(self, client: Client, begin: int, end: int, flags: int) -> Descriptor:
        """A descriptor of the client's file, verified: the kept one, or a new one that holds [begin, end).

        The caller is one of its readers, so that nobody closes it before the caller checks it in. Of a kept one it is
        certain which file it is; whether it holds the range turns out when that is read or mapped.
        """
        file = client._file
        assert file is not None
        ledger, where = self._ledger, client._where
        kept = None if flags else file.ref.descriptor
        if kept is None:
            descriptor = self._open_anew(where, begin, end, flags | client._flags)
        else:
            descriptor = kept
            ledger.kept.move_to_end(descriptor)
        descriptor.readers += 1
        if kept is None or not _system.MAP_LOOKS or self.reads(client):
            try:
                self._verify(client, file, descriptor, begin, end)
            except BaseException:
                ledger.check_in(descriptor)
                raise
        return descriptor

    def _verify(self, client: Client, file: MappedFile, descriptor: Descriptor, begin: int, end: int) -> None:
        where = client._where
        self.attempt(where, begin, end, file.verify, descriptor.number, descriptor.shared, begin, end, where)

    def _open_anew(self, where: Where, begin: int, end: int, flags: int) -> Descriptor:
        try:
            return self.attempt(where, begin, end, _system.open_file, where, flags)
        except OSError as error:
            if error.errno not in _system.GONE or (flags and error.errno in (errno.ELOOP, errno.ENOTDIR)):
                raise
            raise FileChangedError(f"no longer there: {error.strerror}", called(where)) from None

    def attempt(self, where: Where, begin: int, end: int, call: Callable[..., T], *args: Any) -> T:
        """`call(*args)`; where the system has run out, idle regions go one by one until it has not.

        Errors name the file, and the span [begin, end) unless that is empty.
        """
        ledger = self._ledger
        while True:
            try:
                return call(*args)
            except (OSError, MemoryError) as error:
                code = _system.code_of(error)
                if code not in _system.REFUSALS:
                    if isinstance(error, OSError) and error.filename is None:
                        raise named(error, where, begin, end) from None
                    raise
                if not self._relieve(code):
                    raise LimitError(
                        code,
                        f"{span_of(begin, end)}{_system.advice_for(code)}; "
                        f"{len(ledger.held)} regions are held and {len(ledger.lent)} lent",
                        called(where),
                    ) from None

    def _relieve(self, code: int) -> bool:
        """Let go of the one thing that is worth least among what may help; False if there is none."""
        ledger = self._ledger
        short_of_descriptors = code in (errno.EMFILE, errno.ENFILE)
        if short_of_descriptors and ledger.kept:
            ledger.drop_descriptor()
        elif ledger.idle and (_system.TRACKS_DESCRIPTOR or not short_of_descriptors):
            ledger.evict(next(iter(ledger.idle)))
        else:
            return False
        return True
