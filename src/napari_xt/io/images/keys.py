"""What may stand in brackets behind an array, made complete. Knows numpy's rules for slices; knows no arrays."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any


def full_key(key: Any, shape: Sequence[int]) -> tuple[slice | int, ...]:
    """Return one slice or whole number for each axis of an array of ``shape``.

    Parameters
    ----------
    key
        Slices, whole numbers (negative ones count from the end) and at most one ``...``; fewer than there are axes
        stand for the rest.
    shape
        Length of each axis.

    Raises
    ------
    IndexError
        Where there are too many, or a number lies outside.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [place for place, part in enumerate(keys) if part is Ellipsis]
    spare = [slice(None)] * (len(shape) - len(keys) + len(dots[:1]))
    place = dots[0] if dots else len(keys)
    keys[place : place + len(dots[:1])] = spare
    if len(keys) != len(shape):
        raise IndexError(f"{len(keys)} indices for {len(shape)} axes")
    return tuple(
        part if isinstance(part, slice) else _number(part, size) for part, size in zip(keys, shape, strict=True)
    )


def _number(part: Any, size: int) -> int:
    number = index(part)
    if not -size <= number < size:
        raise IndexError(f"index {number} is outside an axis of length {size}")
    return number % size
