"""The fixture of all tests: a world of files whose bytes differ at every offset, and managers that end at zero."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import smmap
from core._tools import World
from smmap._engine import _sources

_FAILED = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """No test of an extension that is older than its sources."""
    if smmap.engine == "fast":
        from smmap._engine import chosen

        assert chosen.sources == _sources.digest(), "the fast engine is stale: install again (pip install -e .)"


def pytest_collection_finish() -> None:
    """Many tests collect garbage: let them not go through all that was imported, each time."""
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """In the end, when the test's own cursors, buffers and views are gone, the counters of every manager read zero."""
    made = World(tmp_path)
    yield made
    if not request.node.stash.get(_FAILED, True):  # a failure's traceback keeps clients alive, and one is enough
        made.check_zero()
