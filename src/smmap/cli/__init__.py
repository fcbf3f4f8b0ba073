"""The command `smmap`: its exit status, and how it handles interrupts and errors of the system.

An interrupt during the imports ends the command as quietly as a later one: see `_starting.py`.
"""

from __future__ import annotations

from .. import _starting

_starting.quiet()

import os
import sys

TYPE_CHECKING = False  # without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if sys.stderr is None:  # closed, for example by `2>&-`: print() would then write to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        _tell("standard output is closed")
        return 3
    try:
        import io

        from . import arguments as command_line

        _starting.restore()
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # file names may be any bytes
        try:
            return command_line.run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, where a failure can be reported; also the output of --help, which exits
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except BrokenPipeError:  # as in `smmap bench | head -3`: a reader that stopped needs no message
        _write_nothing_more()
        return 141
    except OSError as error:  # no space left, most likely
        _tell(error)
        _write_nothing_more()
        return 3


def _tell(what: object) -> None:
    try:
        print(f"smmap: {what}", file=sys.stderr)
    except OSError:  # if standard error is full as well, only the exit status is left
        pass


def _write_nothing_more() -> None:
    """Discard unwritten output: at exit, the interpreter would try again to write it, and report another error."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())
    os.close(null)
