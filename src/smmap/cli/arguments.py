"""The command line: which subcommands and options there are. What a subcommand does is in the module of its name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__
from .._sizes import parse_size
from . import bench_command, info, replay
from .plan import PATTERNS

__all__ = ["parser", "run"]

BENCH = """\
Read real files under the manager's limits, check every byte, and show what it costs beside plain mmap and pread.

Each contender makes the same reads, chosen by the seed, from a warm page cache: by default few files, and few places in
each, are read often, and most seldom (Zipf's law). The process gives itself no more than 1,024 descriptors, as most
systems do, so those who keep a map for each file meet that limit. Sizes are bytes, or as 64K, 64M, 1G.
"""

BENCH_EXIT = """\
Files that others may truncate meanwhile are not for this: to read what was cut off from a plain map, or through a view
of smmap's cursors, ends the process (SIGBUS), without a table. Copies from smmap's buffers would be errors.

exit status: 0 all reads right, 1 a wrong read or smmap failed, 2 nothing to read or wrong usage,
3 the system failed, as when the result cannot be written
"""

INFO = """\
Show which files a process has mapped, how much of them is resident, and how near the process is to its limits.

Any process that you may read, with or without smmap. With a command after `--`, run it, watch it, and show the moment
at which it had the most maps; the report goes to standard error, the exit status is the command's.
"""

INFO_EXIT = """\
virtual: address space; resident: pages in memory now; proportional: the same, pages that n processes share counted
as 1/n. A file is "(deleted)" if it has no name any more: its space is free once the last map goes.

exit status: 0 shown, 2 no such process or wrong usage, 3 the process may not be read
"""


REPLAY = """\
Say what other limits would have done with the reads of a trace, and which limits to choose.

A trace is what `manager.trace(path)` or SMMAP_TRACE=path recorded. Needs the extra `numpy`; --plot the extra `plot`.
"""

REPLAY_EXIT = """\
The curves say how many windows were not found mapped, for windows of several sizes and each limit of memory, if all
were mapped at once, as cursors and views do. The table says what the manager's whole policy does, which reads what it
seldom needs without mapping it. Times are estimates from the prices that were measured here.

--synthetic zipf:files=1000000,accesses=50000000,size=1M,read=4096,seed=0 (all optional) makes reads up instead,
by Zipf's law, and takes the same memory however many there are. With --measure, a real manager reads 20,000 files.

exit status: 0 done, 2 no trace, a damaged one or wrong usage, 3 a library is missing
"""


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit status."""
    words, command = list(arguments), []
    if words[:1] == ["info"] and "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    options = parser().parse_args(words)
    options.arguments = command
    status: int = options.run(options)
    return status


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            file.write(message)  # argparse would hide that --help or --version could not be written
        else:
            super()._print_message(message, file)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    new = _Parser(prog="smmap", description="A read-only, sliding window memory map manager.")
    new.add_argument("--version", action="version", version=f"smmap {__version__}")
    commands = new.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_bench(commands)
    _add_info(commands)
    _add_replay(commands)
    return new


def _add(commands: Any, name: str, short: str, text: str, end: str, run: Callable[[Any], int]) -> Any:
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=short, description=text, epilog=end, formatter_class=raw)
    command.set_defaults(run=run, error=command.error)
    return command


def _add_bench(commands: Any) -> None:
    short = "read real files under limits, check every byte, compare with mmap and pread"
    command = _add(commands, "bench", short, BENCH, BENCH_EXIT, bench_command.run)
    command.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: the Python library)")
    command.add_argument("--window", type=_size(0), default=-1, metavar="SIZE", help="window size, 0 for whole files")
    command.add_argument("--memory", type=_size(1), default=0, metavar="SIZE", help="limit of mapped memory")
    command.add_argument("--handles", type=_number, default=sys.maxsize, metavar="N", help="limit of maps")
    command.add_argument("--reads", type=_number, default=50_000, metavar="N", help="reads for each contender (50000)")
    command.add_argument("--size", type=_size(1), default=4096, metavar="BYTES", help="bytes a read (4096)")
    command.add_argument("--files", type=_number, default=2000, metavar="N", help="read so many of the files (2000)")
    command.add_argument("--pattern", choices=PATTERNS, default="zipf", help="where to read (zipf)")
    command.add_argument("--threads", type=_number, default=1, metavar="N", help="threads, on one manager (1)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="what the reads are chosen by (0)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    command.add_argument("--plot", metavar="FILE", help="draw the times into an .svg or .png file")


def _add_info(commands: Any) -> None:
    short = "show which files a process has mapped, and how near it is to its limits"
    command = _add(commands, "info", short, INFO, INFO_EXIT, info.run)
    command.usage = "smmap info [options] (PID | --self | -- COMMAND ...)"
    command.add_argument("pid", nargs="?", type=_number, metavar="PID", help="a process, by its number")
    command.add_argument("--self", action="store_true", help="the process that runs this command")
    command.add_argument("--top", type=_number, default=20, metavar="N", help="show the first N files (20)")
    command.add_argument("--by", choices=("file", "folder"), default="file", help="a line for each of what (file)")
    command.add_argument(
        "--sort", choices=info.ORDERS, default="maps", help="what comes first: the most of what (maps)"
    )
    command.add_argument("--watch", type=_seconds, metavar="SECONDS", help="show it again every so often")
    command.add_argument("--json", action="store_true", help="print JSON: one object, with --watch one a line")


def _add_replay(commands: Any) -> None:
    short = "say which limits suit the reads of a trace"
    command = _add(commands, "replay", short, REPLAY, REPLAY_EXIT, replay.run)
    command.add_argument("trace", nargs="?", metavar="TRACE", help="a file that was recorded")
    command.add_argument("--partial", action="store_true", help="use what is whole of a trace without an end")
    command.add_argument("--window", type=_size(0), metavar="SIZE", help="present window size, instead of the recorded")
    command.add_argument("--memory", type=_size(1), metavar="SIZE", help="present limit of memory, likewise")
    command.add_argument("--handles", type=_number, metavar="N", help="present limit of handles, likewise")
    command.add_argument("--budget", type=_size(1), metavar="SIZE", help="recommend no more memory than this")
    command.add_argument("--plot", metavar="FILE", help="draw the curves into an .svg or .png file")
    command.add_argument("--policies", action="store_true", help="compare LRU with the optimum, SIEVE and 2Q")
    command.add_argument("--measure", action="store_true", help="make the reads for real under the recommended limits")
    command.add_argument("--synthetic", metavar="SPEC", help="make reads up: see below")
    command.add_argument("--json", action="store_true", help="print one JSON object")


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


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0.05 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds of 0.05 or more, not {text!r}")
    return number
