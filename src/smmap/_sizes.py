"""Sizes as people write them: `64M`. Pure; the command line, the environment, managers and file systems share it."""

from __future__ import annotations

from operator import index

__all__ = ["parse_size", "size_of"]

_UNITS = {"": 0, "B": 0, **{name + end: 10 * at for at, name in enumerate("KMGTP", 1) for end in ("", "B", "IB")}}


def parse_size(text: str) -> int:
    """The bytes that a size like `4096`, `64K`, `64M`, `1G` or `1GiB` stands for; `ValueError` for anything else."""
    body = text.strip().upper()
    digits = body.rstrip("KMGTPIB")
    unit = body[len(digits) :]
    if not (digits.isascii() and digits.isdigit()) or unit not in _UNITS:
        raise ValueError(f"{text!r} is not a size: write 4096, 64K, 64M, 1G")
    return int(digits) << _UNITS[unit]


def size_of(name: str, value: int | str) -> int:
    """The size that an argument of this name stands for, given as a number or as text; `TypeError`, `ValueError`."""
    if not isinstance(value, str):
        try:
            return index(value)
        except TypeError:
            kind = type(value).__name__
            raise TypeError(f'{name} must be a number or a size like "64M", not {kind}') from None
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
