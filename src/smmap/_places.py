"""Places: the units that a trace samples. Pure arithmetic.

A place is 16 MiB of one version of a file. A trace records all reads that start in a place, or none of them. A hash of
file and place and the trace's threshold decide that, so the decision is the same whenever, and by whatever
client, the place is read (SHARDS: Waldspurger, Park, Garthwaite and Ahmad, "Efficient MRC construction with SHARDS",
2015). Engines and readers of traces use the same arithmetic.
"""

from __future__ import annotations

from typing import Any

__all__ = ["COPY", "CURSOR", "FULL", "PLACE_SHIFT", "VIEW", "mark_of", "place_hash"]

COPY, VIEW, CURSOR = range(3)
"""Kinds of reads: a copy, a view, a move of a cursor."""

PLACE_SHIFT = 24
FULL = 1 << 24
"""The threshold at which every place is recorded."""
_WORD = (1 << 64) - 1


def mark_of(status: Any) -> int:
    """The number that stands for this version of a file in hashes: 32 bits, not 0, constant in one process."""
    return hash(status) & 0xFFFFFFFF or 1


def place_hash(mark: int, place: int) -> int:
    """24 well-mixed bits. A place of a file is sampled if they are below the threshold."""
    mixed = ((mark << 32) ^ place) * 0x9E3779B97F4A7C15 & _WORD
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _WORD
    return (mixed ^ mixed >> 32) >> 8 & FULL - 1
