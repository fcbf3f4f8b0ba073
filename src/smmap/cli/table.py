"""Tables and progress: drawn by rich if it is installed and the output is a terminal, otherwise plain text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["drawn", "live", "print_rows", "progress", "text_of"]


def drawn(stream: TextIO) -> bool:
    """Whether to draw with rich: the stream is a terminal, and rich is installed."""
    if not stream.isatty():
        return False
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


def text_of(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Aligned lines: the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = [
        [cell.ljust(width) if at < left else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))]
        for row in rows
    ]
    return ["  ".join(row) for row in aligned]


def print_rows(rows: Sequence[Sequence[str]], left: int = 1, stream: TextIO | None = None) -> None:
    """Print rows; the first one has the columns' names."""
    stream = stream or sys.stdout
    if not drawn(stream):
        print(*text_of(rows, left), sep="\n", file=stream)
        return
    from rich.console import Console

    Console(file=stream).print(_table(rows, left))


def _table(rows: Sequence[Sequence[str]], left: int) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(*rows[0], box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for column in table.columns[left:]:
        column.justify = "right"
    for row in rows[1:]:
        table.add_row(*map(Text, row))  # as it is: rich would take [...] in a file name as markup
    return table


@contextmanager
def live() -> Iterator[Callable[[Sequence[str], Sequence[Sequence[str]]], None]]:
    """Yields a function that shows lines and a table in place of the previous ones; without a terminal, below them."""
    if drawn(sys.stdout):
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as screen:
            yield lambda lines, rows: screen.update(Group(Text("\n".join(lines)), _table(rows, 1)), refresh=True)
    else:
        yield lambda lines, rows: print(*lines, "", *text_of(rows), "", sep="\n", flush=True)


@contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Yields a function to call after each step, with the step's name."""
    if drawn(sys.stderr):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=steps)
            yield lambda name: bar.update(task, advance=1, description=f"{name:12}")
    else:
        seen = set()

        def say(name: str) -> None:
            if name not in seen:
                seen.add(name)
                print(f"{name} ...", file=sys.stderr, flush=True)

        yield say
