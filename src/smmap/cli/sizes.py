"""Sizes as people read them; how they write them is in `smmap._sizes`. Knows nothing else of the library."""

from __future__ import annotations

__all__ = ["format_size"]

UNITS = "KMGTP"


def format_size(size: int) -> str:
    """A size in the largest unit that it fills, with one decimal where it is not whole."""
    amount, unit = float(size), "B"
    for larger in UNITS:
        if abs(amount) < 1024:
            break
        amount, unit = amount / 1024, f"{larger}iB"
    return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"
