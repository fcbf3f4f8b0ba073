"""Clients of files that others are writing: making one, and letting one see what was appended.

Part of the policy, built on `_manager.py`. `_files.py` explains what a version of a file is.
"""

from __future__ import annotations

import errno
from typing import Any

from . import _system
from ._engine import chosen as engine
from ._errors import FileChangedError
from ._files import Client, File, examine, note_growth, verify, verify_grown
from ._manager import Manager
from ._system import called

__all__ = ["grown", "opened"]

_OTHER_KINDS = {errno.EISDIR, errno.ENODEV}  # a folder, or another thing that is not a file, is there now
_ATTEMPTS = 10  # with a file that is replaced, each time, between `stat` and opening it


def opened(manager: Manager, path_or_fd: Any, advice: str) -> Client:
    """The record of a new client of a file as it is now. Opens the file, so that an unreadable one is an error."""
    attempts = _ATTEMPTS
    while True:
        client = manager._client(path_or_fd, advice)
        try:
            if attempts == _ATTEMPTS:
                manager._check_readable(client, 0)
                return client
            return _version(manager, client, client.file, True)
        except FileChangedError:  # it was written, or replaced, since the first look
            attempts -= 1
            if not attempts:
                raise


def grown(manager: Manager, client: Client) -> Client:
    """The record of a client of the same file as it is now; the same record if nothing changed.

    `FileChangedError`, which changes nothing, if another file is there, or a shorter one.
    """
    then, where = client.file, client.where
    manager._check_open(where)
    manager._check_whole(client)
    kept, regions = then.descriptor, then.table.regions()
    if kept is not None:
        kept.use()
    try:
        pins = (kept is not None and not kept.closed) or any(not region.reads for region in regions)
        status = manager._attempt(where, 0, 0, examine, where, engine.open_file)
        if status == then.status:
            return client
        verify_grown(then, status, where)
        now = _version(manager, client, then, pins)
        if now.file is not then:
            manager._lock.run(_note, manager, then, now.file)
        return now
    except OSError as error:
        if error.errno not in _system.GONE | _OTHER_KINDS:
            raise
        raise FileChangedError(f"no longer there: {error.strerror}", called(where)) from None
    finally:
        if kept is not None:
            manager._done(kept)


def _note(manager: Manager, then: File, now: File) -> None:
    """A refresh led from one version to another. Other clients of the first one may open the file again, if necessary:
    otherwise, each refresh would leave a descriptor."""
    note_growth(then, now)
    manager._cache.uncache(then)


def _version(manager: Manager, client: Client, then: File, pins: bool) -> Client:
    """The record of a client of the version that opening its file finds: consistent, however fast it is written.

    `FileChangedError` unless that is a later version of the same file as `then`; see `verify_grown`.
    """
    where = client.where
    descriptor, status = manager._attempt(where, 0, 0, engine.open_file, where, client.flags)
    descriptor.use()
    try:
        verify_grown(then, status, where, descriptor.number, pins)
        file = manager._lock.run(manager._file_of, where, status)
        verify(file, status, where, descriptor.number)
        now = client._replace(file=file, size=status.size, mtime=status.mtime)
        manager._lock.run(manager._keep_open, now, descriptor)
        return now
    finally:
        manager._done(descriptor)
