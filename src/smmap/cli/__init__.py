"""The command `smmap`: its exit status, and what becomes of interrupts and of errors of the system.

An interrupt while the rest is imported ends the command as quietly as a later one: see `_starting.py`.
"""

from __future__ import annotations

from .. import _starting

_starting.quiet()

import os
import sys

TYPE_CHECKING = False  # as `typing` has it, which would have to be imported
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if sys.stderr is None:  # closed, as by `2>&-`: print() would then write to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        _tell("standard output is closed")
        return 3
    try:
        import io

        from . import arguments as command_line

        _starting.restore()
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
        try:
            return command_line.run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, where a failure can be reported; also what --help wrote, which exits
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except BrokenPipeError:  # as in `smmap bench | head -3`: a reader that has stopped needs no message
        _write_nothing_more()
        return 141
    except OSError as error:  # no space left, most likely
        _write_nothing_more()
        _tell(error)
        return 3


def _tell(what: object) -> None:
    try:
        print(f"smmap: {what}", file=sys.stderr)
    except OSError:  # if standard error is full as well, there is the exit status
        pass


def _write_nothing_more() -> None:
    """Let what is left in the buffer go nowhere: the interpreter would try again at exit, and complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
