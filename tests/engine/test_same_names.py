"""Both engines have the same names: what the policy may call of one, it may call of the other."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from smmap._engine import plain

try:
    fast: Any = importlib.import_module("smmap._engine.fast")
except ImportError:
    pytest.skip("the fast engine is not built", allow_module_level=True)

# How the plain engine does it, told by a name that only its own modules use.
INSIDE = {
    "Batch": {"total", "wrong", "failed"},  # which its instances have
    "Ledger": {"enter", "leave", "threshold"},
    "Descriptor": {"is_resident"},
    "Region": {"become", "clear", "doomed", "ended", "pinned_by", "unmap", "watched"},
    "Table": {"add", "remove"},
}
# What bases of the plain engine bring along: a `dict`, and of `mmap` what moves a position that nobody has asked for.
INHERITED = {
    "Region": {"flush", "move", "read", "read_byte", "readline", "seek", "seekable", "tell", "write_byte"},
    "Table": set(dir(dict)) - {"values"},
}
CLASSES = sorted(name for name in plain.__all__ if isinstance(getattr(plain, name), type))
# What `BufferBase` and `CursorBase` share with the public classes.
SHARED = {
    *("_access", "_copy", "_found", "_read_into", "_ready", "_slice", "_unpack"),
    *("_use", "_let_go", "_lost", "_move", "_pin", "_revoke"),
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") or name in SHARED}


def test_modules_export_the_same() -> None:
    assert sorted(fast.__all__) == sorted(plain.__all__)
    assert CLASSES == [
        "Access",
        "Batch",
        "BufferBase",
        "CursorBase",
        "Descriptor",
        "Ledger",
        "Order",
        "Region",
        "Table",
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_the_same_names(name: str) -> None:
    more = INSIDE.get(name, set()) | INHERITED.get(name, set())
    assert public(getattr(fast, name)) - more == public(getattr(plain, name)) - more


@pytest.mark.parametrize("name", CLASSES)
def test_methods_and_attributes_are_the_same(name: str) -> None:
    """What is called of one is called of the other."""
    ours, theirs = getattr(plain, name), getattr(fast, name)
    for each in public(theirs) - INSIDE.get(name, set()):
        assert callable(getattr(ours, each)) == callable(getattr(theirs, each)), each


def test_entry_and_rents_have_the_same_names() -> None:
    ours, theirs = plain.Ledger(), fast.Ledger()
    for name in ("idle", "open", "rents"):
        assert public(type(getattr(theirs, name))) == public(type(getattr(ours, name)))
