"""The digest of the fast engine's sources, to compare those that an extension was built from with the present ones.

Used by setup.py, which runs this file alone, and to notice an extension that is older than its sources.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest"]


def digest() -> str:
    """The digest of the sources in this folder; empty if they are not installed."""
    found = hashlib.sha256()
    paths = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".pyx", ".pxi", ".h"))
    for path in paths:
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16] if paths else ""
