"""The digest of the fast engine's sources: what an extension was built from, and what lies beside it now.

Used by setup.py, which runs this file by itself, and to notice an extension that is older than its sources.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest"]


def digest() -> str:
    """Of the sources in this folder; empty where they are not installed."""
    found = hashlib.sha256()
    paths = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".pyx", ".pxi", ".h"))
    for path in paths:
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16] if paths else ""
