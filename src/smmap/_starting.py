"""Ctrl-C while the command `smmap` is still being imported ends it with a line, not with a traceback.

Used by the package itself, since importing it is the first thing that the command does, until the command has imported
the rest; does nothing in any other program. Imports nothing that the interpreter has not imported already.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as `typing` has it, which would have to be imported
if TYPE_CHECKING:
    from typing import Any

__all__ = ["quiet", "restore"]

_NAMES = ("smmap", "smmap.exe", "smmap-script.py", "smmap/__main__.py", "smmap/cli/__main__.py")
_MODULES = (["smmap"], ["smmap.cli"])


def _is_command() -> bool:
    """Whether this process is the command: its script, `python -m smmap` or `python -m smmap.cli`."""
    name = sys.argv[0] if getattr(sys, "argv", None) else ""
    if name == "-m":  # Python has not found the module yet, and imports its package to find it
        words = getattr(sys, "orig_argv", ["-m"])  # not before Python 3.10
        at = words.index("-m") + 1 if "-m" in words else 0
        return words[at : at + 1] in _MODULES
    name = name.replace("\\", "/")
    return any(name == one or name.endswith("/" + one) for one in _NAMES)


def _end(number: int, frame: Any) -> None:
    """End the process as the command does when it is interrupted later. Nothing was written yet."""
    try:
        os.write(2, b"smmap: interrupted\n")
    finally:
        os._exit(130)


def quiet() -> None:
    """If this process is the command, let Ctrl-C end it without a traceback until `restore` is called."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, _end)
        except ValueError:  # not in the main thread
            pass


def restore() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again, if `quiet` has changed that."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
