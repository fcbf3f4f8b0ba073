"""What guarding reads against truncated files costs: `guard="copies"`, the default, beside `guard="off"`."""

from __future__ import annotations

from typing import Any, Callable

from .data import file_of
from .engines import sides
from .harness import Aim, Build, Contender, Settings, SkippedError, loop, row
from .hits import LENGTH, SIZE, mapping_all, over, place

LIMIT = 'guard="off"'


def rows(name: str, aim: Aim) -> Callable[[Build], Build]:
    """A row near, and one of many windows. The plain engine guards nothing."""

    def enter(build: Build) -> Build:
        build = row(f"guard: {name} 64 windows", limit=LIMIT, fast=aim, quick=False, windows=64)(build)
        return row(f"guard: {name} near", limit=LIMIT, fast=aim, where="near")(build)

    return enter


def both(contender: Callable[[Any, str, str, str], Contender]) -> list[Contender]:
    """The same with and without the guard. (One process can have both: a manager decides for its own regions.)"""
    name, library = sides()[0]
    if name == "plain":
        raise SkippedError("the plain engine guards nothing")
    return [contender(library, "off", LIMIT, "limit"), contender(library, "copies", name, name)]


@rows("buf[i]", Aim(5, more=True))
def index(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """One byte."""
    window, positions = place(settings, where, windows, 1)
    return both(
        lambda library, guard, name, role: loop(
            name, "buf[i]", positions, role=role, buf=over(library, window, guard=guard)
        )
    )


@rows("buf[i:i+4096]", Aim(1.03))
def copies(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """4 KiB as bytes."""
    window, positions = place(settings, where, windows, SIZE)
    return both(
        lambda library, guard, name, role: loop(
            name, "buf[i:i + 4096]", positions, role=role, buf=over(library, window, guard=guard)
        )
    )


@rows("buf.view", Aim(1.03))
def views(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """4 KiB without a copy."""
    window, positions = place(settings, where, windows, SIZE)
    return both(
        lambda library, guard, name, role: loop(
            name, "buf.view(i, i + 4096)", positions, role=role, buf=over(library, window, guard=guard)
        )
    )


@rows("cursor", Aim(1.03))
def cursor(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
    """`use_region` and the view that it gives."""
    window, positions = place(settings, where, windows, SIZE)
    expression = "cursor.use_region(i, 4096).buffer()"

    def contender(library: Any, guard: str, name: str, role: str) -> Contender:
        mover = mapping_all(library, window, guard=guard).make_cursor(file_of(LENGTH))
        return loop(name, expression, positions, role=role, cursor=mover)

    return both(contender)
