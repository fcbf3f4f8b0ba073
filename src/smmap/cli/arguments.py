"""The command line: its subcommands and options. What a subcommand does is in the module of its name."""

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
Read real files under the manager's limits, check every byte, and compare the cost with plain mmap and pread.

Each contender makes the same reads, chosen by the seed, from a warm page cache: by default a few files, and a few
places in each, are read often, and most are read seldom (Zipf's law). The process limits itself to 1,024 descriptors,
as most systems do, so contenders that keep one map per file reach that limit. Sizes are bytes, or like 64K, 64M, 1G.
"""

BENCH_EXIT = """\
Do not use files that others may truncate during the run: reading the missing part through a plain map, or through a
view of smmap's cursors, kills the process (SIGBUS), without a table. Copies from smmap's buffers would raise errors.

exit status: 0 all reads right, 1 a wrong read or smmap failed, 2 nothing to read or wrong usage,
3 the system failed, for example because the result could not be written
"""

INFO = """\
Show which files a process has mapped, how much of them is resident, and how close the process is to its limits.

This works for any process that you may read, with or without smmap. With a command after `--`, run it, watch it, and
show the moment when it had the most maps; the report goes to standard error, and the exit status is the command's.
"""

INFO_EXIT = """\
virtual: address space; resident: pages in memory now; proportional: the same, but a page that n processes share counts
as 1/n. A file is "(deleted)" if it no longer has a name: its space is freed once the last map goes.

exit status: 0 shown, 2 no such process or wrong usage, 3 the process may not be read
"""


REPLAY = """\
Show what other limits would have done with the reads of a trace, and which limits to choose.

`manager.trace(path)` or SMMAP_TRACE=path records a trace. Needs the extra `numpy`; --plot needs the extra `plot`.
"""

REPLAY_EXIT = """\
The curves show how many windows were not found mapped, for several window sizes and each memory limit, if all windows
were mapped at once, as for cursors and views. The table shows what the manager's whole policy does, which reads seldom
needed windows without mapping them. Times are estimates from costs that were measured on this machine.

--synthetic zipf:files=1000000,accesses=50000000,size=1M,read=4096,seed=0 (all optional) generates reads by Zipf's law
instead, and takes the same memory however many there are. With --measure, a real manager reads 20,000 files.

exit status: 0 done, 2 no trace, a damaged trace or wrong usage, 3 a library is missing
"""


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
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
            file.write(message)  # argparse would hide a failure to write --help or --version
        else:
            super()._print_message(message, file)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    new = _Parser(prog="smmap", description="A read-only, sliding-window memory map manager.")
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
    command.add_argument("--window", type=_size(0), default=-1, metavar="SIZE", help="window size; 0: whole files")
    command.add_argument("--memory", type=_size(1), default=0, metavar="SIZE", help="limit of mapped memory")
    command.add_argument(
        "--handles", type=_number, default=sys.maxsize, metavar="N", help="limit of maps and cached descriptors"
    )
    command.add_argument("--reads", type=_number, default=50_000, metavar="N", help="reads for each contender (50000)")
    command.add_argument("--size", type=_size(1), default=4096, metavar="BYTES", help="bytes per read (4096)")
    command.add_argument("--files", type=_number, default=2000, metavar="N", help="the most files to read (2000)")
    command.add_argument("--pattern", choices=PATTERNS, default="zipf", help="pattern of the reads (zipf)")
    command.add_argument("--threads", type=_number, default=1, metavar="N", help="threads, all on one manager (1)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random reads (0)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    command.add_argument("--plot", metavar="FILE", help="draw the times into an .svg or .png file")


def _add_info(commands: Any) -> None:
    short = "show which files a process has mapped, and how close it is to its limits"
    command = _add(commands, "info", short, INFO, INFO_EXIT, info.run)
    command.usage = "smmap info [options] (PID | --self | -- COMMAND ...)"
    command.add_argument("pid", nargs="?", type=_number, metavar="PID", help="a process id")
    command.add_argument("--self", action="store_true", help="the process that runs this command")
    command.add_argument("--top", type=_number, default=20, metavar="N", help="show the first N files (20)")
    command.add_argument("--by", choices=("file", "folder"), default="file", help="one line per file or folder (file)")
    command.add_argument(
        "--sort", choices=info.ORDERS, default="maps", help="the figure to sort by, largest first (maps)"
    )
    command.add_argument("--watch", type=_seconds, metavar="SECONDS", help="show it again after so many seconds")
    command.add_argument("--json", action="store_true", help="print JSON: one object; with --watch, one per line")


def _add_replay(commands: Any) -> None:
    short = "show which limits suit the reads of a trace"
    command = _add(commands, "replay", short, REPLAY, REPLAY_EXIT, replay.run)
    command.add_argument("trace", nargs="?", metavar="TRACE", help="a recorded trace file")
    command.add_argument("--partial", action="store_true", help="use the complete part of a trace without an end")
    command.add_argument("--window", type=_size(0), metavar="SIZE", help="present window size (default: as recorded)")
    command.add_argument("--memory", type=_size(1), metavar="SIZE", help="present memory limit (default: as recorded)")
    command.add_argument("--handles", type=_number, metavar="N", help="present handle limit (default: as recorded)")
    command.add_argument("--budget", type=_size(1), metavar="SIZE", help="recommend no more memory than this")
    command.add_argument("--plot", metavar="FILE", help="draw the curves into an .svg or .png file")
    command.add_argument("--policies", action="store_true", help="compare LRU with the optimum, SIEVE and 2Q")
    command.add_argument("--measure", action="store_true", help="make the reads for real under the recommended limits")
    command.add_argument("--synthetic", metavar="SPEC", help="generate reads: see below")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _size(least: int) -> Callable[[str], int]:
    def size(text: str) -> int:
        try:
            number = parse_size(text)
        except ValueError as error:  # argparse would not show its text
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
