"""Many boxes as pictures: no box is lost at any level, and a cell has the colour of most of its boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_xt.plugin.boxes import density as module
from napari_xt.plugin.boxes.density import FAINTEST, density, score_colors
from napari_xt.plugin.boxes.table import BoxTable

COLORS = [(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)]
NAMES = ["a", "b", "c"]
ONE = np.array([0.0, 1.0, 1.0, 1.0])


def boxes(count: int, shape: tuple[int, int], seed: int = 0) -> BoxTable:
    rng = np.random.default_rng(seed)
    y, x = (rng.uniform(0, side, count) for side in shape)
    columns = {"id": np.arange(count), "y0": y - 3, "x0": x - 4, "y1": y + 3, "x1": x + 4}
    classes = np.array(NAMES, object)[rng.integers(0, 3, count)]
    found = pd.DataFrame(columns | {"class": classes, "score": rng.random(count).astype(np.float32)})
    return BoxTable.of(found, NAMES, COLORS, 0.25, shape)


@settings(max_examples=25)
@given(
    st.integers(0, 400),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.sampled_from(["one", "class", "score"]),
    st.integers(0, 9),
)
def test_every_level_counts_every_box(count: int, shape: tuple[int, int], by: Any, seed: int) -> None:
    found = boxes(count, shape, seed)
    pyramid = density(found, found.kept(), by, ONE)
    for level, (counts, picture) in enumerate(zip(pyramid.counts, pyramid.pictures, strict=True)):
        assert counts.sum() == np.count_nonzero(found.kept())
        side = pyramid.cell_px << level
        assert counts.shape == tuple(-(-size // side) for size in shape)
        assert picture.shape == (*counts.shape, 4)
        np.testing.assert_array_equal(picture[..., 3] >= FAINTEST, counts > 0)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_cells_have_the_colour_of_most_of_their_boxes(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINEST_CELLS", 32)
    monkeypatch.setattr(module, "COARSEST_CELLS", 8)
    found = boxes(900, (320, 250))
    kept = found.kept()
    pyramid = density(found, kept, "class", ONE)
    side = pyramid.cell_px << level
    votes = np.zeros((*pyramid.counts[level].shape, 3), int)
    middles = (found.edges[:2] + found.edges[2:])[:, kept] / 2
    for (y, x), code in zip(middles.T, found.codes[kept], strict=True):
        votes[int(y // side), int(x // side), code] += 1
    np.testing.assert_array_equal(pyramid.counts[level], votes.sum(axis=-1))
    there = votes.any(axis=-1)
    expected = np.array(COLORS)[votes.argmax(axis=-1), :3]
    np.testing.assert_array_equal(pyramid.pictures[level][there, :3], expected[there])


def test_a_score_picture_shows_means() -> None:
    found = boxes(2, (100, 100))
    same_place = BoxTable(found.ids, found.edges[:, [0, 0]], *_rest(found))
    pyramid = density(same_place, same_place.kept(0.0), "score", ONE)
    (y,), (x,) = np.nonzero(pyramid.counts[0])
    expected = np.rint(255 * score_colors(found.scores.mean()))
    np.testing.assert_allclose(pyramid.pictures[0][y, x, :3], expected, atol=1)


def test_more_boxes_are_more_opaque() -> None:
    found = boxes(5000, (300, 300))
    pyramid = density(found, found.kept(), "one", ONE)
    counts, alpha = pyramid.counts[-1], pyramid.pictures[-1][..., 3]
    order = np.argsort(counts, axis=None)
    assert (np.diff(alpha.ravel()[order].astype(int)) >= 0).all()
    assert alpha.max() == 255


def _rest(found: BoxTable) -> tuple[Any, ...]:
    return found.codes, found.scores, found.names, found.colors, found.threshold, found.shape
