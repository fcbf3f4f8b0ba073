"""Places: what a trace samples. Pure arithmetic.

A place is 16 MiB of one version of a file. A trace records all reads that start in a place, or none of them: whether it
does is a matter of a hash of both and of the trace's threshold, so that it is the same whenever, and by whatever
client, the place is read (SHARDS: Waldspurger, Park, Garthwaite and Ahmad, "Efficient MRC construction with SHARDS",
2015). The engines decide it by the same arithmetic, and the readers of traces do so again.
"""

from __future__ import annotations

from typing import Any

__all__ = ["COPY", "CURSOR", "FULL", "PLACE_SHIFT", "VIEW", "mark_of", "place_hash"]

COPY, VIEW, CURSOR = range(3)
"""Kinds of reads: of bytes, of a view, a move of a cursor."""

PLACE_SHIFT = 24
FULL = 1 << 24
"""The threshold by which every place is recorded."""
_WORD = (1 << 64) - 1


def mark_of(status: Any) -> int:
    """What stands for the version of a file with this status in hashes: 32 bits, not 0; the same in one process."""
    return hash(status) & 0xFFFFFFFF or 1


def place_hash(mark: int, place: int) -> int:
    """24 well mixed bits that say whether a place of a file is sampled: it is if they are below the threshold."""
    mixed = ((mark << 32) ^ place) * 0x9E3779B97F4A7C15 & _WORD
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _WORD
    return (mixed ^ mixed >> 32) >> 8 & FULL - 1
