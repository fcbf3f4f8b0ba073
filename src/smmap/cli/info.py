"""`smmap info`: which files a process has mapped, and how close it is to its limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, TextIO

from .._report import format_size

__all__ = ["ORDERS", "run"]

ORDERS = ("maps", "virtual", "resident", "proportional")
_LONGEST_WAIT = 0.25  # seconds between two looks at a running command


def run(options: Any) -> int:
    """Show a process, once or repeatedly, or run a command and show it; return the exit status."""
    ways = bool(options.pid) + options.self + bool(options.arguments)
    if ways != 1:
        options.error("give one of PID, --self, or -- COMMAND ...")
    if options.arguments and options.watch:
        options.error("--watch is for a running process: with a command there is one report at its end")
    from .maps import Unsupported

    try:
        if options.arguments:
            return _run_command(options)
        return _show(options, options.pid or os.getpid())
    except ProcessLookupError as error:
        print(f"smmap info: {error}", file=sys.stderr)
        return 2
    except (PermissionError, Unsupported) as error:
        print(f"smmap info: {error}", file=sys.stderr)
        return 3


def _show(options: Any, pid: int) -> int:
    from .maps import look
    from .table import live

    process = look(pid)
    if not options.watch:
        _print(options, process, sys.stdout)
        return 0
    try:
        with live() as show:
            while True:
                if options.json:
                    _print(options, process, sys.stdout)
                    sys.stdout.flush()
                else:
                    show(_head(process), _rows(options, process))
                time.sleep(options.watch)
                process = look(pid)
    except ProcessLookupError:
        return 0  # it has ended
    except KeyboardInterrupt:
        return 0  # the normal way to stop


def _run_command(options: Any) -> int:
    """Run a command, and show the moment when it had the most maps; return its exit status, whatever could be seen."""
    from .maps import Unsupported, look

    try:
        child = subprocess.Popen(options.arguments)
    except OSError as error:
        print(f"smmap info: cannot run {options.arguments[0]!r}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    peak = None
    obstacle: Exception | str = "the command ended before it could be looked at"
    wait = 0.01
    while True:
        start = time.monotonic()
        try:
            now = look(child.pid)
            if (now.maps or 0, now.resident or 0) > ((peak.maps or 0, peak.resident or 0) if peak else (0, 0)):
                peak = now
        except ProcessLookupError:
            pass
        except (PermissionError, Unsupported) as error:
            obstacle = error
        wait = max(min(2 * wait, _LONGEST_WAIT), 10 * (time.monotonic() - start))  # looking slows a process down
        try:
            child.wait(wait)
            break
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:  # the command gets it as well, and decides
            pass
    if peak is None or not peak.maps:
        print(f"smmap info: {obstacle}", file=sys.stderr)
    else:
        _print(options, peak, sys.stderr)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _print(options: Any, process: Any, stream: TextIO) -> None:
    if options.json:
        every = _sorted(options, process)
        shown = asdict(process)
        shown["files"] = [asdict(one) for one in every[: options.top]]
        shown["mapped_files"] = len(process.files)
        print(json.dumps(shown, indent=None if options.watch else 2), file=stream)
        return
    from .table import print_rows

    print(*_head(process), "", sep="\n", file=stream)
    print_rows(_rows(options, process), stream=stream)


def _sorted(options: Any, process: Any) -> list[Any]:
    """The files, or their folders, those with the most first."""
    every = process.files
    if options.by == "folder":
        from .maps import by_folder

        every = by_folder(every)
    return sorted(every, key=lambda one: _rank(one, options.sort), reverse=True)


def _rows(options: Any, process: Any) -> list[list[str]]:
    files = _sorted(options, process)
    rest = files[options.top :]
    rows = [[options.by, *ORDERS]]
    rows += [_row(f"{one.path}{' (deleted)' * one.deleted}", [one]) for one in files[: options.top]]
    if rest:
        rows.append(_row(f"({len(rest):,} more {options.by}s)", rest))
    if process.other is not None:
        rows.append(_row("(no file: heap, stacks, anonymous memory)", [process.other]))
    return rows


def _rank(one: Any, order: str) -> tuple[int, ...]:
    return tuple(getattr(one, name) or 0 for name in (order, *ORDERS))


def _row(name: str, files: list[Any]) -> list[str]:
    row = [name.encode("unicode_escape").decode() if not name.isprintable() else name]
    for order in ORDERS:
        known = [value for value in (getattr(one, order) for one in files) if value is not None]
        row.append("-" if not known else f"{sum(known):,}" if order == "maps" else format_size(sum(known)))
    return row


def _head(process: Any) -> list[str]:
    name = process.name if len(process.name) <= 100 else f"{process.name[:99]}…"
    lines = [f"process {process.pid}: {name if name.isprintable() else ascii(name)}"]
    deleted = sum(one.deleted for one in process.files)
    lines.append(f"{len(process.files):,} files mapped" + (f", {deleted:,} of them deleted" if deleted else ""))
    lines.append(f"maps         {_of(process.maps, process.max_maps, 'vm.max_map_count', str_of=_count)}")
    lines.append(f"descriptors  {_of(process.descriptors, process.max_descriptors, 'RLIMIT_NOFILE', str_of=_count)}")
    lines.append(f"virtual      {_of(process.virtual, process.max_virtual, 'RLIMIT_AS', str_of=format_size)}")
    resident = "unknown" if process.resident is None else format_size(process.resident)
    if process.proportional is not None:
        resident += f", proportional {format_size(process.proportional)}"
    return [*lines, f"resident     {resident}"]


def _count(number: int) -> str:
    return f"{number:,}"


def _of(used: int | None, limit: int | None, name: str, str_of: Any) -> str:
    text = "unknown" if used is None else str(str_of(used))
    if limit is None:
        return text
    share = f", {used / limit:.1%}" if used is not None and limit else ""
    return f"{text} of {str_of(limit)} ({name}{share})"
