"""Plots of miss-ratio curves: by matplotlib into a file, or as text."""

from __future__ import annotations

import math
from typing import Any

from .._report import format_size
from .advice import Advice, Curve, short_size

__all__ = ["draw", "text"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # also for colour-blind eyes
_MARKS = "osD^vPX"
_WIDTH, _HEIGHT = 64, 14


def _name(curve: Curve) -> str:
    return f"window {short_size(curve.window)}" if curve.window else "whole files"


def draw(advice: Advice, path: str) -> None:
    """Write an SVG or PNG file, depending on the end of its name. `ImportError` without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for at, curve in enumerate(advice.curves):
        style: dict[str, Any] = {"color": _COLOURS[at % 7], "marker": _MARKS[at % 7], "markersize": 4, "linewidth": 1.6}
        axes.plot(curve.memories, curve.misses, label=_name(curve), **style)
    low = min(curve.memories[0] for curve in advice.curves)
    high = max(curve.memories[-1] for curve in advice.curves)
    points = [("present limits", advice.present, "x"), ("recommended", advice.recommended, "*")]
    for name, choice, mark in points:
        where = min(max(choice.memory, low), high)
        label = f"{name}, cold reads counted: {choice.outcome.miss_ratio:.1%}"
        axes.plot(
            [where], [choice.outcome.miss_ratio], mark, color="black", markersize=12, label=label, linestyle="none"
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_size(int(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(bottom=0)
    axes.set_xlim(low / 1.2, high * 1.2)
    axes.set_xlabel("limit of mapped memory")
    axes.set_ylabel("windows not found mapped")
    axes.set_title("Misses by memory and window size", loc="left")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def text(advice: Advice) -> list[str]:
    """The curves as lines of text, with a letter for each window size; `*` where two meet."""
    low = math.log2(min(curve.memories[0] for curve in advice.curves))
    high = math.log2(max(curve.memories[-1] for curve in advice.curves))
    top = max(max(curve.misses) for curve in advice.curves) or 1.0
    rows = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for letter, curve in zip("abcdefghij", advice.curves):
        for column in range(_WIDTH):
            memory = 2 ** (low + (high - low) * column / (_WIDTH - 1))
            share = _at(curve, memory)
            if share is not None:
                height = rows[_HEIGHT - 1 - round(share / top * (_HEIGHT - 1))]
                height[column] = letter if height[column] == " " else "*"
    lines = []
    for number, row in enumerate(rows):
        label = f"{top * (_HEIGHT - 1 - number) / (_HEIGHT - 1):6.1%}" if number % 3 == 1 or number == 0 else ""
        lines.append(f"{label:>7} |{''.join(row).rstrip()}")
    lines.append(f"{'':>7} +{'-' * _WIDTH}")
    left, right = format_size(round(2**low)), format_size(round(2**high))
    lines.append(f"{'':>9}{left}{'limit of mapped memory'.center(_WIDTH - len(left) - len(right))}{right}")
    lines.append(
        f"{'':>9}{', '.join(f'{letter} {_name(curve)}' for letter, curve in zip('abcdefghij', advice.curves))}"
    )
    return lines


def _at(curve: Curve, memory: float) -> float | None:
    """The curve at a memory limit: it is a staircase; None before its first step."""
    found = [share for limit, share in zip(curve.memories, curve.misses) if limit <= memory * 1.0001]
    return found[-1] if found else None
