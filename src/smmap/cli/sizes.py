"""Sizes as people write them. Knows nothing else of the library."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

__all__ = ["format_size", "parse_size"]

UNITS = "KMGTP"


def parse_size(text: str) -> int:
    """`"4096"`, `"64K"`, `"64M"`, `"64MiB"` or `"1g"` in bytes; units are powers of 1024."""
    match = re.fullmatch(rf"([0-9]+)(?:([{UNITS}])(?:i?B)?)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ArgumentTypeError(f"not a size: {text!r} (write 4096, 64K, 64M or 1G)")
    number, unit = match.groups()
    return int(number) << (10 * (UNITS.index(unit.upper()) + 1) if unit else 0)


def format_size(size: int) -> str:
    """A size in the largest unit that it fills, with one decimal where it is not whole."""
    amount, unit = float(size), "B"
    for larger in UNITS:
        if abs(amount) < 1024:
            break
        amount, unit = amount / 1024, f"{larger}iB"
    return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"
