"""Draws how times grow, a figure for each workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .harness import Result

__all__ = ["draw", "panels_of"]

LABELS = {
    "hits": ("windows, all mapped", "ns a read", 1e9),
    "cold": ("limit of mapped memory, MiB (the file: 256 MiB)", "us a read of 4 KiB", 1e6),
    "files": ("files (256 handles)", "us a read of 4 KiB", 1e6),
    "collect": ("idle regions", "us a region", 1e6),
    "threads": ("threads", "us a read of 4 KiB, over all threads", 1e6),
}
# Ours stand out; what has the same name has the same colour everywhere.
STYLES: dict[str, dict[str, Any]] = {
    "fast": {"color": "#d6273a", "linewidth": 2.4, "zorder": 6},
    "plain": {"color": "#d6273a", "linewidth": 1.6, "linestyle": "--", "zorder": 5},
    "mmap": {"color": "#222222", "linewidth": 1.8},
    "mmap.close": {"color": "#222222", "linewidth": 1.8},
    "os.pread": {"color": "#2a78d6", "linewidth": 1.8},
    "os.pread, LRU": {"color": "#2a78d6", "linewidth": 1.8},
    "lru_cache": {"color": "#222222", "linewidth": 1.8},
    "smmap 5": {"color": "#c98500"},
    "np.memmap kept": {"color": "#4a3aa7"},
    "np.memmap anew": {"color": "#4a3aa7", "linestyle": ":"},
    "cachetools": {"color": "#008a5e"},
    "mmap_ninja": {"color": "#b3478c"},
}


def lines_of(results: Sequence[Result]) -> dict[str, list[tuple[float, float]]]:
    """The points of each contender."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        for name, one in result.contenders.items():
            if result.x is not None and one.rounds and not name.endswith(", one thread"):
                lines.setdefault(name, []).append((result.x, one.least))
    return lines


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
    mpl.rcParams.update({"svg.hashsalt": "smmap", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (across, up, scale) in LABELS.items():
        own = [one for one in results if one.figure == name and one.contenders]
        panels = panels_of(results, name)
        if not panels:
            continue
        columns = min(len(panels), 3 if len(panels) % 3 == 0 else 2)
        down = -(-len(panels) // columns)
        size = (max(3.4 * columns, 5.2), 2.9 * down + 0.6)
        figure, axes = plt.subplots(down, columns, figsize=size, squeeze=False, layout="constrained")
        handles: dict[str, Any] = {}
        for panel, axis in zip(panels, axes.flat):
            places: set[float] = set()
            for label, points in lines_of([one for one in own if one.panel == panel]).items():
                xs, ys = zip(*sorted(points))
                places.update(xs)
                style = {"linewidth": 1.2, "marker": "o", "markersize": 3, **STYLES.get(label, {"color": "#888888"})}
                (handles[label],) = axis.plot(xs, [y * scale for y in ys], label=label, **style)
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(places), [f"{place:,.0f}" for place in sorted(places)])
            axis.minorticks_off()
            if name == "threads":  # which should be level lines
                axis.set_ylim(bottom=0)
            else:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
                axis.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_title(panel, fontsize=9)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel(across, fontsize=9)
        figure.supylabel(up, fontsize=9)
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(len(handles), 4), frameon=False)
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        written.append(path)
    return written
