from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import zarr

from napari_xt.engine.machine import Machine
from napari_xt.engine.plan import Plan, plan
from napari_xt.errors import ModelError, SettingsError
from napari_xt.geometry import Box
from napari_xt.model.config import XTConfig
from small_model import SMALL

MACHINE = Machine("cpu", "for a test", 2, 8 << 30)


@dataclass
class Known:
    config: XTConfig
    name: str = "known"
    digest: str = "0"


def levels(shape: tuple[int, int], count: int) -> list[np.ndarray]:
    return [np.zeros((shape[0] >> k, shape[1] >> k, 3), np.uint8) for k in range(count)]


def planned(image: object, config: XTConfig = SMALL, **options: object) -> Plan:
    return plan(image, Known(config), machine=MACHINE, **options)


@pytest.mark.parametrize(
    ("pixel_um", "wanted_um", "level", "shape_run"),
    [
        pytest.param(1.0, 1.0, 0, (512, 256), id="equal"),
        pytest.param(1.0, 2.0, 1, (256, 128), id="a level fits"),
        pytest.param(1.0, 1.9, 1, (256, 128), id="a level up to 1.1 coarser fits"),
        pytest.param(1.0, 1.7, 0, (301, 151), id="coarser by more: the finer level is resampled"),
        pytest.param(1.0, 1.2, 0, (512, 256), id="near enough"),
        pytest.param(1.0, 3.0, 1, (171, 85), id="between levels"),
        pytest.param(1.0, 0.5, 0, (1024, 512), id="finer than there is"),
        pytest.param(None, 0.5, 0, (512, 256), id="the image does not say"),
        pytest.param(1.0, None, 0, (512, 256), id="the model does not mind"),
    ],
)
def test_level_and_resampling_follow_the_pixel_size(
    pixel_um: float | None, wanted_um: float | None, level: int, shape_run: tuple[int, int]
) -> None:
    found = planned(levels((512, 256), 3), replace(SMALL, scale_um=wanted_um), pixel_size=pixel_um)
    assert (found.level, found.frame.shape_run) == (level, shape_run)
    assert len(found.warnings) == (pixel_um is None)


@pytest.mark.parametrize(("wanted_um", "told"), [(4.0, 0), (7.0, 0), (9.0, 1), (0.2, 1)])
def test_a_scale_far_from_the_model_is_warned_of_after_the_best_level(wanted_um: float, told: int) -> None:
    found = planned(levels((512, 256), 2), replace(SMALL, scale_um=wanted_um), pixel_size=1.0)
    assert found.resampled
    assert len([text for text in found.warnings if "times off" in text]) == told


def test_an_absurd_pixel_size_is_said_and_not_followed() -> None:
    found = planned(levels((512, 256), 1), replace(SMALL, scale_um=100_000.0), pixel_size=0.25)
    assert found.frame.shape_run == (512, 256)
    assert "100000" in found.warnings[0]
    assert "warning" in str(found)


def test_the_card_names_everything() -> None:
    text = str(planned(levels((500, 300), 1)))
    for word in ("500 x 300 px", "known: mask, boxes, scores", "40 of 40", "4 x 4 regions", "cpu (for a test)", "GiB"):
        assert word in text


def test_a_region_of_interest_runs_the_regions_it_touches() -> None:
    found = planned(levels((512, 512), 1), roi="100,60,130,70")
    assert found.roi_run == Box(100, 60, 130, 70)
    assert found.regions == 4  # rows 1 and 2, columns 0 and 1


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"roi": "600,0,700,10"}, SettingsError, "outside"),
        ({"level": 4}, SettingsError, "levels 0 to 0"),
        ({"channels": "0"}, SettingsError, "wants 3"),
        ({"channels": "0,1,3"}, SettingsError, "0 to 2"),
        ({"plane": {"z": 1}}, SettingsError, "z"),
    ],
)
def test_settings_that_do_not_fit_the_image(options: dict[str, object], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        planned(levels((512, 512), 1), **options)


def test_models_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match=r"wants 3 channels \(red, green, blue\), image has 1"):
        planned(np.zeros((64, 64), np.uint8))
    with pytest.raises(ModelError, match="has no boxes"):
        planned(levels((64, 64), 1), replace(SMALL, boxes=None), outputs="boxes")


def test_alpha_is_not_looked_at() -> None:
    assert planned(np.zeros((64, 64, 4), np.uint8)).channels == (0, 1, 2)


def test_a_plan_of_a_gigapixel_reads_no_pixel() -> None:
    array = zarr.create_array(store={}, shape=(29_000, 25_000, 3), chunks=(512, 512, 3), dtype="u1")
    found = planned(array, replace(SMALL, region_px=256, window=8))
    assert found.regions == 114 * 98
