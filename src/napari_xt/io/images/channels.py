"""Which channel of an image is which of a model, by their names.

Knows names alone; must not know images, models or what a user typed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ALIKE = (
    ("red", "r"),
    ("green", "g"),
    ("blue", "b"),
    ("nir", "nearinfrared", "infrared"),
    ("grey", "gray", "grayscale", "greyscale", "panchromatic", "pan"),
    ("nucleus", "nuclei", "nuclear", "dna", "dapi", "hoechst", "draq5", "draq7", "topro3", "sytox", "syto", "h2b"),
    ("membrane", "membranes", "wga", "cellmask", "ecadherin", "cadherin"),
    ("cytoplasm", "cytoplasmic", "cytosol", "cyto"),
    ("actin", "factin", "phalloidin", "lifeact"),
    ("mitochondria", "mitochondrion", "mito", "mitotracker", "tom20", "tomm20"),
    ("tubulin", "microtubules", "microtubule"),
    ("brightfield", "bf", "transmitted", "transmittedlight"),
    ("phase", "phasecontrast"),
)
"""What the field calls one thing: letters and digits only, in lower case."""


def guess(model_names: Sequence[str], image_names: Sequence[str]) -> tuple[int, ...] | None:
    """Find the image channel of each model channel by name.

    Equal names come first, without case and punctuation, then other words for the same thing. A number, as in
    ``"channel 0"``, is no name.

    Returns
    -------
    tuple of int or None
        Indices of ``image_names``, all different; None unless exactly one fits each of ``model_names``.
    """
    found = [_only(name, image_names) for name in model_names]
    known = tuple(index for index in found if index is not None)
    return known if len(set(known)) == len(model_names) else None


def named(name: str) -> bool:
    """Whether a channel's name says more than its number."""
    return re.fullmatch(r"(channel|chan|ch|c)?\d*", _plain(name)) is None


def index_of(name: str, image_names: Sequence[str]) -> int | None:
    """The channel of just this name, else the only one that differs in case or punctuation; None for none."""
    exact = [i for i, other in enumerate(image_names) if other == name]
    near = exact or [i for i, other in enumerate(image_names) if _plain(other) == _plain(name)]
    return near[0] if len(near) == 1 else None


def _only(name: str, image_names: Sequence[str]) -> int | None:
    if not named(name):
        return None
    equal = [i for i, other in enumerate(image_names) if _plain(other) == _plain(name)]
    meant = _things(name)
    fitting = equal or [i for i, other in enumerate(image_names) if meant & _things(other)]
    return fitting[0] if len(fitting) == 1 else None


def _things(name: str) -> set[int]:
    """Numbers of the rows of `ALIKE` that speak of ``name``: as a whole, or one of its words of some length."""
    words = {_plain(name), *(word for word in re.findall(r"[a-z0-9]+", name.lower()) if len(word) > 1)}
    return {i for i, row in enumerate(ALIKE) if words & set(row)}


def _plain(name: str) -> str:
    """Letters and digits in lower case; all of it where it has none."""
    return "".join(c for c in name.lower() if c.isalnum()) or name
