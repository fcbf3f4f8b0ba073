"""Draws how times grow, a figure for each workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .harness import Result

__all__ = ["STYLES", "draw", "panels_of", "plain_ticks"]

LABELS = {
    "hits": ("windows, all mapped", "ns a read", 1e9),
    "cold": ("limit of mapped memory, MiB (the file: 256 MiB)", "us a read of 4 KiB", 1e6),
    "files": ("files (256 handles)", "us a read of 4 KiB", 1e6),
    "collect": ("idle regions", "us a region", 1e6),
    "threads": ("threads", "us a read of 4 KiB, over all threads", 1e6),
}
# Ours stands out. One name has one colour and one marker everywhere; no two lines of a figure share them.
STYLES: dict[str, dict[str, Any]] = {
    "fast": {"color": "#d6273a", "linewidth": 2.4, "zorder": 6, "marker": "o"},
    "plain": {"color": "#d6273a", "linewidth": 1.6, "linestyle": "--", "zorder": 5, "marker": "o"},
    "mmap": {"color": "#222222", "linewidth": 1.8, "marker": "s"},
    "mmap.close": {"color": "#222222", "linewidth": 1.8, "marker": "s"},
    "os.pread": {"color": "#2a78d6", "linewidth": 1.8, "marker": "^"},
    "os.pread, LRU": {"color": "#2a78d6", "linewidth": 1.8, "marker": "^"},
    "lru_cache": {"color": "#7a5230", "linewidth": 1.8, "marker": "D"},
    "smmap 5": {"color": "#e08a00", "marker": "v"},
    "np.memmap kept": {"color": "#6a3fb5", "marker": "P"},
    "np.memmap anew": {"color": "#b59be0", "marker": "X"},
    "cachetools": {"color": "#008a5e", "marker": "<"},
    "mmap_ninja": {"color": "#d052a5", "marker": ">"},
}


def lines_of(results: Sequence[Result]) -> dict[str, list[tuple[float, float]]]:
    """The points of each contender."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        for name, one in result.contenders.items():
            if result.x is not None and one.rounds and not name.endswith(", one thread"):
                lines.setdefault(name, []).append((result.x, one.least))
    return lines


def plain_ticks(axis: Any) -> None:
    """Write 1, 2, 5, 10, ... on a logarithmic axis, instead of powers; every tick has its number, and no other tick."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,), numticks=20))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, place: f"{value:,.10g}"))
    axis.set_minor_locator(ticker.NullLocator())


def panels_of(results: Sequence[Result], figure: str) -> list[str]:
    """The panels of a figure for which there is more than one point."""
    points: dict[str, set[float | None]] = {}
    for one in results:
        if one.figure == figure and one.contenders:
            points.setdefault(one.panel, set()).add(one.x)
    return [panel for panel, places in points.items() if len(places) > 1]


def draw(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write an SVG for each figure that has curves."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "smmap", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10.5}
    )
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (across, up, scale) in LABELS.items():
        own = [one for one in results if one.figure == name and one.contenders]
        panels = panels_of(results, name)
        if not panels:
            continue
        columns = min(len(panels), 2)  # more would be too small to read on a phone
        down = -(-len(panels) // columns)
        size = (3.2 * columns if columns > 1 else 5.6, 2.8 * down + 0.9)
        figure, axes = plt.subplots(down, columns, figsize=size, squeeze=False, layout="constrained")
        handles: dict[str, Any] = {}
        for panel, axis in zip(panels, axes.flat):
            places: set[float] = set()
            for label, points in lines_of([one for one in own if one.panel == panel]).items():
                xs, ys = zip(*sorted(points))
                places.update(xs)
                style = {"linewidth": 1.3, "marker": ".", "markersize": 4, **STYLES.get(label, {"color": "#888888"})}
                (handles[label],) = axis.plot(xs, [y * scale for y in ys], label=label, **style)
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(places), [f"{place:,.0f}" for place in sorted(places)])
            axis.minorticks_off()
            if name == "threads":  # which should be level lines
                axis.set_ylim(bottom=0)
            else:
                axis.set_yscale("log")
                plain_ticks(axis.yaxis)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_title(panel if len(panels) > 1 else "", fontsize=10.5)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel(across, fontsize=10.5)
        figure.supylabel(up, fontsize=10.5)
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(len(handles), 3), frameon=False)
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        written.append(path)
    return written
