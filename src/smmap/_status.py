"""What is to be read, looked at before it is opened: where it is, and whether it can be read at random."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from . import _system
from ._system import Where, named

__all__ = ["examine", "where_is"]


def where_is(path_or_fd: Any) -> Where:
    """The absolute path, or the descriptor. `TypeError` says what is accepted."""
    if isinstance(path_or_fd, int):
        return path_or_fd
    try:
        return _system.name_of(path_or_fd)
    except OSError as error:  # the current folder is gone
        raise named(error, os.fspath(path_or_fd)) from None
    except TypeError:
        kind = type(path_or_fd).__name__
        raise TypeError(f"path_or_fd must be str, bytes, os.PathLike or int (a descriptor), not {kind}") from None


def examine(where: Where) -> os.stat_result:
    """The status of what is to be read, which is refused before it is opened unless it is a regular, sized file."""
    try:
        status = _system.status(where)
        if isinstance(where, int) and not _system.is_readable(where):
            raise PermissionError(errno.EACCES, "not open for reading")
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENODEV, "not a regular file: only those can be read at random; use open()")
        if not status.st_size:
            descriptor = _system.open_file(where, 0)
            try:
                if _system.read_at(descriptor.number, 1, 0):
                    raise OSError(errno.ENODEV, "has data although its size is 0 (as in /proc); use open()")
            finally:
                descriptor.close()
    except OSError as error:
        raise named(error, where) from None
    return status
