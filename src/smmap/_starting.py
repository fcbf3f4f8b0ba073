"""Makes Ctrl-C end the command `smmap` with one line, not with a traceback, while it is still being imported.

The package itself uses this module, since the command first imports the package; it is in effect until the command has
imported the rest. It does nothing in any other program, and imports only modules that the interpreter has already
imported.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # without importing `typing`
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
    """End the process as the command does when it is interrupted later. Nothing has been written yet."""
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
