"""What the synthetic slide is pasted together from: small squares of tissue, drawn once from a seed.

Knows pixels alone; knows nothing of where a square comes to lie nor of what it means there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIDE = 32
MARKER = 2 * SIDE
VARIANTS = 48
CELLS = (0, 1, 2, 3)  # in a square, by density
COLOURS = ((205, 133, 40), (34, 139, 134), (196, 44, 104))  # of markers, by class
STROMA = (233, 203, 216)
CYTOPLASM, NUCLEUS = (188, 150, 198), (96, 62, 138)

Picture = NDArray[np.float32]  # (n, side, side, 3), 0..255


@dataclass(frozen=True, slots=True)
class Swatches:
    """Squares of one slide at one level, side ``SIDE >> level``.

    ``base (n, s, s, 3)`` uint8, opaque: ``VARIANTS`` of each density, then spots, then the quarters of markers by
    class; ``over (m, s, s, 3)`` uint8 and ``alpha (m, s, s)`` uint8: the cells of each density alone, multiplied by
    their alpha, to be laid over; ``cells (n, s, s)`` bool: where ``base`` has a cell, every ``2 ** level``-th pixel.
    """

    base: NDArray[np.uint8]
    over: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    cells: NDArray[np.bool_]

    @staticmethod
    def cell(density: NDArray[np.int64], variant: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of a square with ``CELLS[density]`` cells; ``variant`` 0..VARIANTS - 1."""
        return density * VARIANTS + variant

    @staticmethod
    def spot(variant: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of a square with a plain spot in the colour of any class, which means nothing."""
        return len(CELLS) * VARIANTS + variant

    @staticmethod
    def marker(kind: NDArray[np.int64], variant: NDArray[np.int64], quarter: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of a quarter (0..3, row-major) of the marker of class ``kind``."""
        return ((len(CELLS) + 1 + 4 * kind) * VARIANTS) + 4 * variant + quarter


@lru_cache(maxsize=16)
def swatches(seed: int, level: int) -> Swatches:
    """Draw the squares of a slide, or shrink them to a coarser level (means over pixels); level 0..4."""
    if level:
        fine, step = swatches(seed, 0), 2**level
        coarse = [_shrunk(squares, step) for squares in (fine.base, fine.over, fine.alpha)]
        return Swatches(coarse[0], coarse[1], coarse[2], fine.cells[:, ::step, ::step])
    rng = np.random.default_rng((seed, 0x5EED))
    over, alpha = _cells(np.repeat(CELLS, VARIANTS), rng)
    spots = _spots(VARIANTS, rng)
    plain = [_stroma(len(cover), SIDE, rng) * (1 - cover[..., None]) + paint for paint, cover in ((over, alpha), spots)]
    base = np.concatenate([*plain, *(_markers(kind, rng) for kind in range(len(COLOURS)))])
    cells = np.zeros(base.shape[:3], np.bool_)
    cells[: len(alpha)] = alpha > 0.5
    return Swatches(_bytes(base), _bytes(over), _bytes(255 * alpha), cells)


def _bytes(values: Picture) -> NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)


def _shrunk(squares: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    n, side = len(squares), squares.shape[1] // step
    blocks = squares.reshape(n, side, step, side, step, *squares.shape[3:])
    return _bytes(blocks.mean(axis=(2, 4), dtype=np.float32))


def _stroma(count: int, side: int, rng: np.random.Generator) -> Picture:
    """Pale tissue with a fine grain and short fibres."""
    grain = rng.normal(0, 3.5, (count, side, side, 1)).astype(np.float32)
    ys, xs = np.mgrid[:side, :side].astype(np.float32)
    angle, shift = rng.uniform(0, np.pi, (2, count, 1, 1))
    wave = np.sin((ys * np.sin(angle) + xs * np.cos(angle)) * 0.9 + 2 * shift)
    fibres = 4 * np.maximum(0, wave)[..., None] * np.array([0.6, 1.5, 0.9])
    picture: Picture = (np.array(STROMA) + grain - fibres).astype(np.float32)
    return picture


def _cells(counts: NDArray[np.int64], rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Cells alone, multiplied by their alpha ``(n, side, side)`` 0..1."""
    picture = np.zeros((len(counts), SIDE, SIDE, 3), np.float32)
    alpha = np.zeros((len(counts), SIDE, SIDE), np.float32)
    for square, count in enumerate(counts):
        for centre in _apart(count, rng):
            radii = rng.uniform(5.2, 7.0, 2)
            angle = rng.uniform(0, np.pi)
            body = _ellipse(centre, radii, angle)
            inner = _ellipse(centre + rng.uniform(-0.8, 0.8, 2), radii * rng.uniform(0.45, 0.6), angle)
            shade = rng.normal(0, 7, 3)
            colour = np.array(CYTOPLASM) + shade + (np.array(NUCLEUS) - CYTOPLASM) * inner[..., None]
            picture[square] = picture[square] * (1 - body[..., None]) + colour * body[..., None]
            alpha[square] = np.maximum(alpha[square], body)
    return picture, alpha


def _apart(count: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Up to ``count`` centres in a square, far enough from each other and from the border."""
    centres: list[NDArray[np.float64]] = []
    for _ in range(30 * count):
        centre = rng.uniform(7.5, SIDE - 7.5, 2)
        if len(centres) < count and all(np.hypot(*(centre - other)) > 12.5 for other in centres):
            centres.append(centre)
    return centres


def _ellipse(centre: NDArray[np.float64], radii: NDArray[np.float64], angle: float, side: int = SIDE) -> Picture:
    """How much of each pixel ``(side, side)`` a filled ellipse covers, 0..1."""
    ys, xs = np.mgrid[:side, :side] + 0.5
    dy, dx = ys - centre[0], xs - centre[1]
    along, across = dy * np.cos(angle) + dx * np.sin(angle), dx * np.cos(angle) - dy * np.sin(angle)
    reach = np.hypot(along / radii[0], across / radii[1])
    covered: Picture = (0.5 + (1 - reach) * radii.mean()).clip(0, 1).astype(np.float32)
    return covered


def _spots(count: int, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Plain spots in the colours of all classes in turn, multiplied by their alpha."""
    middle = np.array([SIDE / 2, SIDE / 2])
    alpha = np.stack([_ellipse(middle + rng.uniform(-3, 3, 2), rng.uniform(7, 11, 2), 0.0) for _ in range(count)])
    colours = np.array(COLOURS, np.float32)[np.arange(count) % len(COLOURS)]
    return (colours[:, None, None] * alpha[..., None]).astype(np.float32), alpha


def _markers(kind: int, rng: np.random.Generator) -> Picture:
    """Wide rings in the colour of a class around a pale middle, in quarters: ``(4 * VARIANTS, SIDE, SIDE, 3)``.

    Only the colour is of the class: place, size and grain are drawn anew for each class, from the same distributions.
    """
    picture = _stroma(VARIANTS, MARKER, rng)
    for square in picture:
        centre, radius = MARKER / 2 + rng.uniform(-3, 3, 2), rng.uniform(22, 27, 2)
        ring = _ellipse(centre, radius, 0.0, MARKER)
        middle = _ellipse(centre, radius * rng.uniform(0.4, 0.55), 0.0, MARKER)
        colour = np.array(COLOURS[kind]) + rng.normal(0, 6, 3)
        for share, paint in ((ring, colour), (middle, np.array([248, 240, 236]))):
            square[:] = square * (1 - share[..., None]) + paint * share[..., None]
    quarters = picture.reshape(VARIANTS, 2, SIDE, 2, SIDE, 3).transpose(0, 1, 3, 2, 4, 5)
    return quarters.reshape(-1, SIDE, SIDE, 3)
