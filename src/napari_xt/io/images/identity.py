"""What tells an image from another: words drawn from its pixels at fixed places. Knows no image and no file."""

from __future__ import annotations

import hashlib

WORD = 8  # letters drawn from a place
DAMAGED = "-" * WORD


def word(facts: bytes, pixels: bytes) -> str:
    """The word of a place: drawn from what is known of the whole image, and the place's pixels."""
    return hashlib.sha256(facts + pixels).hexdigest()[:WORD]


def same_image(one: str, other: str) -> bool:
    """Whether two identities may be of the same image: what is damaged in one may be anything in the other."""
    pairs = zip(_words(one), _words(other), strict=False)
    return len(one) == len(other) and all(a == b or DAMAGED in (a, b) for a, b in pairs)


def _words(identity: str) -> list[str]:
    return [identity[i : i + WORD] for i in range(0, len(identity), WORD)]
