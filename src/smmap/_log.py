"""The messages of a manager to the logger `smmap`.

DEBUG: each window that is mapped, evicted or refused. WARNING, once per manager: views keep more mapped than the memory
limit.

Handlers of a logger are user code, and loggers have locks. So notes are taken under the manager's lock, but logged only
when it is free; whether anyone listens is also checked without it. `logging` is not imported before there is a warning:
as long as nobody else imports it, nobody listens to DEBUG.
"""

from __future__ import annotations

import sys
from collections import deque
from os import fsdecode
from typing import Any

__all__ = ["Log", "debugging"]

_DEBUG, _WARNING = 10, 30  # as `logging` has them
_MOST = 1000  # waiting notes: those of finalizers, which do not log themselves
_logger: Any = None


def debugging() -> bool:
    """Whether anyone listens to DEBUG now. Not under a manager's lock."""
    global _logger
    if _logger is None:
        logging: Any = sys.modules.get("logging")
        if not hasattr(logging, "getLogger"):  # nobody imported it, or somebody is importing it now
            return False
        _logger = logging.getLogger("smmap")
    # Not `isEnabledFor`, which would swallow a KeyError that a signal handler raises in it
    return bool(_logger.manager.disable < _DEBUG >= _logger.getEffectiveLevel() and not _logger.disabled)


class Log:
    """The notes of one manager."""

    __slots__ = ("debugging", "notes")

    def __init__(self) -> None:
        self.notes: deque[tuple[int, str, tuple[Any, ...]]] = deque(maxlen=_MOST)
        self.debugging = False
        """Whether anyone listened to DEBUG a moment ago."""

    def listen(self) -> None:
        """Check whether anyone listens now. Not under the manager's lock."""
        self.debugging = debugging()

    def debug(self, text: str, *args: Any) -> None:
        """Note a message, if anyone listens."""
        if self.debugging:
            self.notes.append((_DEBUG, text, args))

    def warn(self, text: str, *args: Any) -> None:
        """Note a warning."""
        self.notes.append((_WARNING, text, args))

    def tell(self) -> None:
        """Log the notes. Not under the manager's lock, nor in a finalizer; any thread may call it."""
        import logging

        if not hasattr(logging, "getLogger"):  # the import was interrupted by this signal handler: told later
            return
        while self.notes:
            try:
                level, text, args = self.notes.popleft()
            except IndexError as error:
                if error.args != ("pop from an empty deque",):  # the handler of a signal raised it
                    raise
                return  # another thread was faster
            logging.getLogger("smmap").log(level, text, *(fsdecode(a) if type(a) is bytes else a for a in args))
