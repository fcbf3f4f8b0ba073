"""Fixtures of the compatibility tests: the cache of published packages, and real repositories made by git."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import _wheels


@pytest.fixture(scope="session")
def peers(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for downloaded packages that outlives the run where pytest has a cache."""
    cache = getattr(pytestconfig, "cache", None)
    return Path(cache.mkdir("published")) if cache is not None else tmp_path_factory.mktemp("published")


@pytest.fixture(scope="session")
def smmap5_wheel(peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published smmap 5, unpacked: a folder to look for modules in."""
    return _wheels.unpack(_wheels.fetch(_wheels.SMMAP5, peers), tmp_path_factory.mktemp("smmap5") / "wheel")


@pytest.fixture(scope="session")
def gitdb_source(peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gitdb's published source archive with its tests, unpacked."""
    return _wheels.unpack(_wheels.fetch(_wheels.GITDB, peers), tmp_path_factory.mktemp("gitdb") / "source")
