"""Our library, once for each engine, side by side in one process, so that noise affects both alike."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import smmap

__all__ = ["part", "sides"]


@functools.cache
def sides() -> tuple[tuple[str, Any], ...]:
    """The names of the available engines, each with the library that runs on it.

    If `SMMAP_ENGINE` names one, only that one; if the fast one is not built, only the plain one.
    """
    if smmap.engine == "plain":
        return (("plain", smmap),)
    return (("fast", smmap), ("plain", _loaded("plain")))


def part(library: Any, name: str) -> Any:
    """A subpackage of one of them, for example `numpy`."""
    return importlib.import_module(f"{library.__name__}.{name}")


def _loaded(engine: str) -> ModuleType:
    """The library a second time, under another name. (The fast engine could not be: extensions are loaded once.)"""
    name = f"smmap_{engine}"
    folder = Path(str(smmap.__file__)).parent
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    before = os.environ.get("SMMAP_ENGINE")
    os.environ["SMMAP_ENGINE"] = engine
    try:
        spec.loader.exec_module(module)
    finally:
        del os.environ["SMMAP_ENGINE"]
        if before is not None:
            os.environ["SMMAP_ENGINE"] = before
    assert module.engine == engine
    return module
