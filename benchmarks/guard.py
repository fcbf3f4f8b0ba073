"""The cost of guarding reads against truncated files: `guard="copies"`, the default, beside `guard="off"`."""

from __future__ import annotations

from typing import Any, Callable

from .data import file_of
from .engines import sides
from .harness import Aim, Contender, Settings, SkippedError, loop, row
from .hits import LENGTH, SIZE, mapping_all, over, place

LIMIT = 'guard="off"'


def rows(
    name: str, aim: Aim, expression: str, size: int = SIZE, variable: str = "buf", made: Callable[..., Any] = over
) -> None:
    """A row near, and one of many windows, for an expression in which `made(library, window, guard=...)` is read.

    One process has both contenders: a manager decides for its own regions. The plain engine guards nothing.
    """

    def build(settings: Settings, where: str = "", windows: int = 1) -> list[Contender]:
        engine, library = sides()[0]
        if engine == "plain":
            raise SkippedError("the plain engine guards nothing")
        window, positions = place(settings, where, windows, size)
        return [
            loop(contender, expression, positions, role=role, **{variable: made(library, window, guard=guard)})
            for contender, guard, role in ((LIMIT, "off", "limit"), (engine, "copies", engine))
        ]

    row(f"guard: {name} 64 windows", limit=LIMIT, fast=aim, quick=False, windows=64)(build)
    row(f"guard: {name} near", limit=LIMIT, fast=aim, where="near")(build)


def mover(library: Any, window: int, guard: str) -> Any:
    """A cursor over windows that are all mapped."""
    return mapping_all(library, window, guard=guard).make_cursor(file_of(LENGTH))


rows("buf[i]", Aim(5, more=True), "buf[i]", 1)
rows("buf[i:i+4096]", Aim(1.03), "buf[i:i + 4096]")
rows("buf.view", Aim(1.03), "buf.view(i, i + 4096)")
rows("cursor", Aim(1.03), "cursor.use_region(i, 4096).buffer()", variable="cursor", made=mover)
