"""The errors of smmap. Knows nothing else of the library.

Each is a `SmmapError` and also the built-in kind that users of `open` and `mmap` already catch. Refusals of the
operating system itself (a missing file, a folder, no permission) are raised as its own `OSError`.
"""

from __future__ import annotations

import errno
from typing import NoReturn

__all__ = ["ClosedError", "FileChangedError", "LimitError", "ReentryError", "SmmapError", "refuse_state"]


class SmmapError(Exception):
    """The base of smmap's own errors."""


class ClosedError(SmmapError, ValueError):
    """A cursor, buffer or manager was used after it was closed (as a closed file raises `ValueError`)."""


class FileChangedError(SmmapError, OSError):
    """The file is another one, or shorter, than when the cursor or buffer was made; `errno` is ESTALE.

    Make a new cursor or buffer to see the file as it is now.
    """

    def __init__(self, message: str, filename: object = None) -> None:
        super().__init__(errno.ESTALE, message, filename)

    def __reduce__(self) -> tuple[type[FileChangedError], tuple[object, object]]:
        return type(self), (self.strerror, self.filename)


class LimitError(SmmapError, OSError):
    """A limit of the manager or of the system leaves no room for another window; `errno` says which kind."""


class ReentryError(SmmapError, RuntimeError):
    """A finalizer or signal handler asked for a window that it would have had to wait for, perhaps forever.

    It interrupted its own thread in the middle of a call on a manager. A read through that manager is refused, and so
    is a read through another manager while that one is busy. Closing and releasing (`close`, `unuse_region`, `collect`)
    are never refused: they take effect once the busy manager is free.
    """


def refuse_state(thing: object, _state: object) -> NoReturn:
    """For `__setstate__`: a pickle says how an object is made, not what it becomes afterwards."""
    raise TypeError(f"{type(thing).__name__} takes no state: what it refers to is checked when it is made")
