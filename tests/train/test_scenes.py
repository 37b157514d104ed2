from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_xt.errors import ImageFormatError
from napari_xt.geometry import Box
from napari_xt.train.scenes import draw_sample, read_scene
from spotted_scene import spots


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shape", [(128, 128), (64, 192)])
def test_boxes_stay_on_what_they_name_whatever_is_done_to_the_pixels(seed: int, shape: tuple[int, int]) -> None:
    sample = draw_sample(spots(), shape, 32, np.random.default_rng(seed))
    assert sample.pixels.shape == (3, shape[0] + 64, shape[1] + 64)
    inner = sample.pixels[:, 32:-32, 32:-32].mean(0).numpy()
    middle = (inner.min() + inner.max()) / 2
    for box in sample.boxes:
        y0, x0, y1, x1 = (round(v) for v in box)
        if y0 > 2 and x0 > 2 and y1 < shape[0] - 2 and x1 < shape[1] - 2:
            assert inner[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].mean() > middle
            assert inner[max(0, y0 - 4), x0:x1].mean() < middle


def test_the_same_chance_gives_the_same_sample() -> None:
    a, b = (draw_sample(spots(), (64, 64), 32, np.random.default_rng(3)) for _ in range(2))
    assert (a.pixels == b.pixels).all()
    np.testing.assert_array_equal(a.boxes, b.boxes)


def test_what_lies_outside_a_small_scene_is_not_valid() -> None:
    sample = draw_sample(spots((100, 100)), (512, 512), 32, np.random.default_rng(0))
    assert sample.valid.height < 512
    assert sample.valid.width < 512


def test_a_part_keeps_the_boxes_with_their_centre_in_it() -> None:
    part = spots().part(Box(100, 0, 200, 260), "part")
    centres = (part.boxes[:, :2] + part.boxes[:, 2:]) / 2
    assert len(part.boxes)
    assert (centres[:, 0] >= 0).all()
    assert (centres[:, 0] < 100).all()
    assert part.pixels.shape == (3, 100, 260)


def test_scenes_are_read_from_an_image_and_its_table(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("x0,y0,x1,y1,class\n1,2,30,40,tree\n")
    assert read_scene(tmp_path / "a.png").boxes.tolist() == [[2, 1, 40, 30]]
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ImageFormatError, match=r"a\.csv"):
        read_scene(tmp_path / "a.png")
