"""The command `smmap`. Knows the command line; what a subcommand does is in the module of its name."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .. import __version__
from .._sizes import parse_size
from . import bench, report
from .files import default_paths, find_files
from .plan import PATTERNS

__all__ = ["main"]

BENCH = """\
Read real files under the manager's limits, check every byte, and show what it costs beside plain mmap and pread.

Each contender makes the same reads, chosen by the seed, from a warm page cache. Sizes are bytes, or as 64K, 64M, 1G.
"""

BENCH_EXIT = """\
Files that others may truncate meanwhile are not for this: a read from a map of what was cut off ends the process
(SIGBUS), without a table. So it is with mmap, and with smmap unless backing="read" is set, which is not compared here.

exit status: 0 all reads right, 1 a wrong read or smmap failed, 2 nothing to read or wrong usage,
3 the system failed, as when the result cannot be written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if sys.stderr is None:  # closed, as by `2>&-`: print() would then write to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        _tell("standard output is closed")
        return 3
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        try:
            return _bench(_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()  # here, where it can be told that it failed; also what --help wrote, which exits
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except BrokenPipeError:  # as in `smmap bench | head -3`: who does not read any more need not be told
        _write_nothing_more()
        return 141
    except OSError as error:  # no space left, most likely
        _write_nothing_more()
        _tell(error)
        return 3


def _tell(what: object) -> None:
    with suppress(OSError):  # if standard error is full as well, there is the exit status
        print(f"smmap: {what}", file=sys.stderr)


def _write_nothing_more() -> None:
    """Let what is left in the buffer go nowhere: the interpreter would try again at exit, and complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            file.write(message)  # argparse would hide that --help or --version could not be written
        else:
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="smmap", description="A read-only, sliding window memory map manager.")
    parser.add_argument("--version", action="version", version=f"smmap {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "bench",
        help="read real files under limits, check every byte, compare with mmap and pread",
        description=BENCH,
        epilog=BENCH_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: the Python library)")
    command.add_argument("--window", type=_size(0), default=-1, metavar="SIZE", help="window size, 0 for whole files")
    command.add_argument("--memory", type=_size(1), default=0, metavar="SIZE", help="limit of mapped memory")
    command.add_argument("--handles", type=_number, default=sys.maxsize, metavar="N", help="limit of maps")
    command.add_argument("--reads", type=_number, default=50_000, metavar="N", help="reads for each contender (50000)")
    command.add_argument("--size", type=_size(1), default=4096, metavar="BYTES", help="bytes a read (4096)")
    command.add_argument("--pattern", choices=PATTERNS, default="random", help="where to read (random)")
    command.add_argument("--threads", type=_number, default=1, metavar="N", help="threads, on one manager (1)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="what the reads are chosen by (0)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def _size(least: int) -> Callable[[str], int]:
    def size(text: str) -> int:
        try:
            number = parse_size(text)
        except ValueError as error:  # of which argparse would show nothing
            raise argparse.ArgumentTypeError(str(error)) from None
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        return number

    return size


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return int(text)


def _bench(options: argparse.Namespace) -> int:
    try:
        found = find_files(options.paths or default_paths())
    except OSError as error:
        print(f"smmap bench: {error}", file=sys.stderr)
        return 2
    if not found.files:
        print(f"smmap bench: no files to read ({report.skipped(found)})", file=sys.stderr)
        return 2
    settings = bench.Settings(
        window=options.window,
        memory=options.memory,
        handles=options.handles,
        reads=options.reads,
        size=options.size,
        pattern=options.pattern,
        threads=options.threads,
        seed=options.seed,
    )
    with report.progress(bench.steps(settings)) as step:
        outcome = bench.run(found, settings, step)
    if not outcome.results:
        print("smmap bench: none of the files could be read", file=sys.stderr)
        return 2
    report.print_json(outcome) if options.json else report.print_table(outcome)
    return 0 if outcome.good else 1
