"""Fixtures for all tests: files whose bytes differ at every offset, managers whose ledger is checked in the end."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Callable, Protocol

import pytest

import smmap
from core._tools import File, payload, reclaim

_FAILED = pytest.StashKey[bool]()


class MakeFile(Protocol):
    def __call__(self, size: int, name: str = ..., data: bytes | None = ...) -> File: ...


class MakeManager(Protocol):
    def __call__(
        self,
        window_size: int = ...,
        max_memory_size: int = ...,
        max_open_handles: int = ...,
        *,
        static: bool = ...,
        backing: str = ...,
    ) -> Any: ...


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
def make_file(tmp_path: Path) -> MakeFile:
    """Makes a file of `size` bytes below `tmp_path`; each name has other bytes."""

    def make(size: int, name: str = "data", data: bytes | None = None) -> File:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = payload(size, name) if data is None else data
        path.write_bytes(content)
        return File(path, content)

    return make


@pytest.fixture
def make_manager(request: pytest.FixtureRequest) -> Iterator[MakeManager]:
    """Makes managers. In the end, when the test's own cursors, buffers and views are gone, their ledgers read zero."""
    made: list[Any] = []

    def make(
        window_size: int = -1,
        max_memory_size: int = 0,
        max_open_handles: int = sys.maxsize,
        *,
        static: bool = False,
        backing: str = "auto",
    ) -> Any:
        cls: Callable[..., Any] = smmap.StaticWindowMapManager if static else smmap.SlidingWindowMapManager
        manager = cls(0 if static else window_size, max_memory_size, max_open_handles, backing=backing)
        made.append(manager)
        return manager

    yield make
    if request.node.stash.get(_FAILED, True):
        return  # the traceback keeps clients alive, and one failure is enough
    for manager in made:
        manager._check()
        manager.collect()
        if manager.stats()[:7] != (0,) * 7:
            reclaim()
            manager.collect()
            reclaim()
        assert_zero(manager)


def assert_zero(manager: Any) -> None:
    """Nothing is mapped, held, lent or open, and the manager says so everywhere."""
    manager._check()
    assert manager.stats()[:7] == (0,) * 7, manager.stats()
    assert manager.num_file_handles() == 0
    assert manager.num_open_files() == 0
    assert manager.mapped_memory_size() == 0
