"""Shows a run on standard output: as tables, or as one JSON object."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from typing import Any

from .. import __version__, engine
from .._report import format_size
from .bench import Outcome, Result
from .files import Found
from .table import print_rows

__all__ = ["draw", "print_json", "print_table", "skipped"]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _ratio(number: float) -> str:
    return f"{number:.2f}"


Column = tuple[str, str, Callable[[Any], str]]  # title in a table, name in JSON, format

SPEED: list[Column] = [
    ("reads/s", "reads_per_second", _count),
    ("ns a read", "ns_per_read", _count),
    ("ratio to best", "ratio_to_best", _ratio),
    ("wrong reads", "wrong_reads", _count),
]
PEAKS: list[Column] = [
    ("peak maps", "peak_maps", _count),
    ("peak descriptors", "peak_descriptors", _count),
    ("peak mapped", "peak_mapped_bytes", format_size),
    ("resident growth", "resident_growth_bytes", format_size),
]
WORK: list[Column] = [
    ("hits", "hits", _count),
    ("misses", "misses", _count),
    ("cold reads", "cold_reads", _count),
    ("mapped for later", "mapped_for_later", _count),
    ("evictions", "evictions", _count),
]


def print_table(outcome: Outcome) -> None:
    """The figures, with a line for each contender, and notes."""
    figures = _figures(outcome)
    stats = _stats(outcome)
    limits = ["limit", _count(stats.max_open_handles), _count(outcome.descriptors), format_size(stats.max_memory_size)]
    print(*_head(outcome), "", sep="\n")
    print_rows(_rows("speed", SPEED, figures))
    print()
    print_rows([*_rows("as the system counts", PEAKS, figures), [*limits, "-"]])
    print()
    print_rows(_rows("as smmap counts", WORK, [one for one in figures if one["hits"] is not None]))
    print("", *_notes(outcome), sep="\n")


def _rows(title: str, columns: list[Column], figures: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [title, *(column for column, _, _ in columns)],
        *(
            [one["name"], *("-" if one[name] is None else write(one[name]) for _, name, write in columns)]
            for one in figures
        ),
    ]


def draw(outcome: Outcome, path: str) -> None:
    """Write an SVG or PNG file with a bar for each contender. `ImportError` without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = _figures(outcome)[::-1]
    names = [one["name"] for one in figures]
    times = [(one["ns_per_read"] or 0) / 1000 for one in figures]
    colours = ["#0072b2" if name.startswith("smmap") else "#999999" for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(names) + 1.6), layout="constrained")
    axes.barh(names, times, color=colours)
    most = max(times) or 1
    for at, (one, time) in enumerate(zip(figures, times)):
        text = f"{time:.1f} us" if one["ns_per_read"] else ""
        if one["stopped"]:
            text += f"  stopped after {one['reads']:,} reads"
        elif one["peak_maps"] is not None:
            text += f"  {one['peak_maps']:,} maps, {one['peak_descriptors']:,} descriptors"
        inside = time > most / 2
        place, align, colour = (time - most / 100, "right", "white") if inside else (time + most / 100, "left", "black")
        axes.text(place, at, text.strip(), va="center", ha=align, color=colour, fontsize=9)
    axes.set_xlabel("microseconds a read")
    settings = outcome.settings
    title = (
        f"{settings.reads:,} reads of {format_size(settings.size)} in {outcome.files_read:,} files, {settings.pattern}"
    )
    axes.set_title(title, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def print_json(outcome: Outcome) -> None:
    """Everything as one object; figures that are unknown or do not apply are null."""
    found = outcome.found
    stats = _stats(outcome)
    print(
        json.dumps(
            {
                "smmap": __version__,
                "engine": engine,
                "python": f"{platform.python_implementation()} {platform.python_version()}",
                "system": f"{platform.system()} {platform.machine()}",
                "settings": outcome.settings._asdict(),
                "limits": {
                    "window_size": stats.window_size,
                    "max_memory_size": stats.max_memory_size,
                    "max_open_handles": stats.max_open_handles,
                    "descriptors": outcome.descriptors,
                },
                "files": {
                    "found": len(found.files),
                    "found_bytes": sum(file.size for file in found.files),
                    "empty": found.empty,
                    "unreadable": found.unreadable,
                    "read": outcome.files_read,
                    "changed": outcome.changed,
                },
                "bytes_per_contender": outcome.bytes_read,
                "contenders": _figures(outcome),
                "wrong_reads": outcome.wrong,
            },
            indent=2,
        )
    )


def skipped(found: Found) -> str:
    """How many files were left out, and why."""
    return f"{found.empty:,} empty and {found.unreadable:,} unreadable skipped"


def _figures(outcome: Outcome) -> list[dict[str, Any]]:
    finished = [result.ns_per_read for result in outcome.results if result.ns_per_read and not result.stopped]
    return [_figures_of(result, min(finished, default=None)) for result in outcome.results]


def _figures_of(result: Result, best: float | None) -> dict[str, Any]:
    cost = result.ns_per_read
    stats = result.stats
    # A batch maps windows after it has read, for later reads: none of its own reads missed for that.
    later = max(0, stats.hits + stats.misses + stats.cold_reads - result.reads) if stats and result.batched else 0
    return {
        "name": result.name,
        "reads": result.reads,
        "reads_per_second": 1e9 / cost if cost else None,
        "ns_per_read": cost,
        "ratio_to_best": cost / best if cost and best else None,
        "peak_maps": result.peak.maps,
        "peak_descriptors": result.peak.descriptors,
        "peak_mapped_bytes": result.peak.mapped,
        "resident_growth_bytes": result.peak.resident,
        "hits": stats.hits if stats else None,
        "misses": stats.misses - later if stats else None,
        "cold_reads": stats.cold_reads if stats else None,
        "mapped_for_later": later if stats else None,
        "evictions": stats.evictions if stats else None,
        "wrong_reads": result.wrong,
        "stopped": result.stopped or None,
    }


def _head(outcome: Outcome) -> list[str]:
    settings, found = outcome.settings, outcome.found
    python = f"{platform.python_implementation()} {platform.python_version()}"
    total = format_size(sum(file.size for file in found.files))
    reads = f"{settings.reads:,} reads of up to {format_size(settings.size)} in {outcome.files_read:,} files"
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    stats = _stats(outcome)
    window = format_size(stats.window_size) if stats.window_size else "whole files"
    return [
        f"smmap {__version__}, {engine} engine, {python}, {platform.system()}",
        f"{len(found.files):,} files of {total}; {skipped(found)}",
        f"{reads}, {settings.pattern}, seed {settings.seed}, {threads}",
        f"limits: window {window}, memory {format_size(stats.max_memory_size)}, handles {stats.max_open_handles:,}",
    ]


def _stats(outcome: Outcome) -> Any:
    """The figures of any manager, for its limits: all have the same."""
    return next(result.stats for result in outcome.results if result.stats)


def _notes(outcome: Outcome) -> list[str]:
    lines = [f"{result.name} stopped {result.stopped}" for result in outcome.results if result.stopped]
    if outcome.changed:
        lines.append(f"changed meanwhile, reads not counted: {', '.join(outcome.changed)}")
    return [*lines, f"{outcome.wrong:,} wrong reads; every byte was compared with a plain read of the file"]
