"""How a manager is displayed: in one line, and in a notebook. Knows only figures."""

from __future__ import annotations

import os
from typing import NamedTuple, Union

from ._cache import Stats

__all__ = ["RegionInfo", "format_size", "html", "line"]

_MOST_ROWS = 20


class RegionInfo(NamedTuple):
    """One region of a manager, as it was when `manager.regions()` was called."""

    file: Union[str, bytes]  # noqa: UP007  # may be evaluated, on Python 3.9 too
    """The absolute path under which the file was last opened; its inode if no path is known."""
    start: int
    """Where the region starts in the file, in bytes."""
    stop: int
    """Where it stops."""
    pins: int
    """How many cursors use it."""
    state: str
    """"pinned": a cursor uses it; "idle": may be evicted; "detached": evicted, but a view keeps it mapped."""
    age: float
    """Seconds since it was mapped."""


def format_size(size: int) -> str:
    """A size in the largest unit that it fills, with one decimal if it is not whole."""
    amount, unit = float(size), "B"
    for larger in "KMGTP":
        if abs(amount) < 1024:
            break
        amount, unit = amount / 1024, f"{larger}iB"
    return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"


def line(name: str, stats: Stats, closed: bool) -> str:
    """A manager in one line."""
    parts = ", ".join(f"{getattr(stats, state)} {state}" for state in ("pinned", "idle", "detached"))
    window = format_size(stats.window_size) if stats.window_size else "whole files"
    return (
        f"{name}{' closed,' if closed else ''} {stats.mapped} regions of {stats.files} files ({parts}), "
        f"{format_size(stats.mapped_memory)} of {format_size(stats.max_memory_size)} mapped, window {window}, "
        f"{stats.hits} hits, {stats.misses} misses, {stats.cold_reads} cold reads, {stats.evictions} evictions"
    )


def html(name: str, stats: Stats, regions: list[RegionInfo], closed: bool) -> str:
    """A manager for a notebook: its line, and a table of its largest regions."""
    from html import escape

    largest = sorted(regions, key=lambda one: one.start - one.stop)[:_MOST_ROWS]
    rows = [
        (
            os.fsdecode(one.file),
            f"{one.start:,}",
            format_size(one.stop - one.start),
            str(one.pins),
            one.state,
            f"{one.age:.1f} s",
        )
        for one in largest
    ]
    head = "".join(f"<th>{title}</th>" for title in ("file", "start", "size", "pins", "state", "age"))
    body = "".join(f"<tr>{''.join(f'<td>{_printable(escape(cell))}</td>' for cell in row)}</tr>" for row in rows)
    more = f"<p>and {len(regions) - len(largest):,} more regions</p>" if len(regions) > len(largest) else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}" if rows else ""
    return f"<div><p>{escape(line(name, stats, closed))}</p>{table}</div>"


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
