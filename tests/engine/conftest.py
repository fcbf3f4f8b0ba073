"""Each test of an engine's contract runs for every engine that is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core._tools import World

from ._tools import Bench, Steps, needs_python


@pytest.fixture(params=["plain", "fast"])
def engine(request: pytest.FixtureRequest) -> Any:
    """The module of an engine."""
    name = f"smmap._engine.{request.param}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        pytest.skip(f"{name} is not built")


@pytest.fixture
def bench(engine: Any, world: World) -> Iterator[Callable[..., Bench]]:
    """Makes a `Bench` over a new file of so many bytes; all are closed in the end."""
    made: list[Bench] = []

    def make(size: int, name: str = "data", **options: Any) -> Bench:
        made.append(Bench(engine, world.file(size, name), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def steps(engine: Any) -> Iterator[Steps]:
    """The steps of an engine written in Python."""
    needs_python(engine)
    made = Steps(engine)
    yield made
    made.close()
