"""What a model is fed: channels by name, values between limits, and both said on the card and kept in the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import plan as planning
from napari_xt.engine.machine import Machine
from napari_xt.engine.plan import Plan, plan
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import ModelError, SettingsError, StoreMismatchError
from napari_xt.io.images.intensity import measured_limits
from napari_xt.model.config import ModelCard, XTConfig
from napari_xt.model.intensity import between
from napari_xt.model.xt import XT
from small_model import SMALL, small_model, squares

MACHINE = Machine("cpu", "for a test", 2, 8 << 30)
CELLS = replace(
    SMALL, in_channels=2, channel_names=("nucleus", "membrane"), mean=(0.3, 0.3), std=(0.2, 0.2), scale_um=None
)
SHAPE = (500, 430)  # 8 x 7 regions in windows of 4 x 4


@dataclass
class Known:
    config: XTConfig
    name: str = "known"
    digest: str = "0"


def ome_zarr(path: Path, pixels: np.ndarray, names: list[str], axes: str = "cyx") -> Path:
    """Write an OME-Zarr of one level, with names of channels."""
    group = zarr.open_group(path, mode="w")
    kinds = {"c": "channel", "t": "time"}
    scale = [{"type": "scale", "scale": [1.0] * len(axes)}]
    multiscale = {
        "axes": [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes],
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    channels = [{"label": name, "color": "FFFFFF"} for name in names]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": channels}}  # type: ignore[dict-item]
    group.create_array("0", data=pixels, chunks=(1,) * (pixels.ndim - 2) + (128, 128))
    return path


def dyes(count: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.stack(
        [rng.gamma(2, 100 * (i + 1), SHAPE).astype(np.uint16) + squares(SHAPE)[..., i % 3] for i in range(count)]
    )


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ome_zarr(tmp_path_factory.mktemp("fed") / "cells.zarr", dyes(3), ["WGA", "DAPI", "GFP"])


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model(CELLS)


def planned(image: object, config: XTConfig = CELLS, **options: object) -> Plan:
    return plan(image, Known(config), machine=MACHINE, **options)


def card(found: Plan) -> dict[str, str]:
    return {line[:10].strip(): line[10:] for line in str(found).splitlines()}


# -- channels


@pytest.mark.parametrize(
    ("options", "channels", "told"),
    [
        pytest.param({}, (1, 0), "nucleus: DAPI, membrane: WGA", id="guessed"),
        pytest.param({"channels": "nucleus=GFP,membrane=0"}, (2, 0), "nucleus: GFP, membrane: WGA", id="mapped"),
        pytest.param({"channels": {"membrane": "gfp", "Nucleus": 1}}, (1, 2), "membrane: GFP", id="any order, no case"),
        pytest.param({"channels": "DAPI,GFP"}, (1, 2), "nucleus: DAPI, membrane: GFP", id="names in order"),
        pytest.param({"channels": "0,1"}, (0, 1), "nucleus: WGA, membrane: DAPI", id="indices"),
        pytest.param({"channels": (2, 2)}, (2, 2), "nucleus: GFP, membrane: GFP", id="one for both"),
    ],
)
def test_channels_by_name(options: dict[str, Any], channels: tuple[int, ...], told: str, cells: Path) -> None:
    found = planned(cells, **options)
    assert found.channels == channels
    assert told in card(found)["channels"]


def test_what_is_plain_is_not_told() -> None:
    assert "channels" not in card(planned(np.zeros((64, 64, 3), np.uint8), SMALL))
    assert "channels" not in card(planned(np.zeros((2, 64, 64), np.uint8)))  # channel 0 and channel 1, as they come


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["red", "green", "blue", "NIR"], (0, 1, 2)),
        (["NIR", "Blue", "Green", "Red"], (3, 2, 1)),
        (["red", "green", "blue", "alpha"], (0, 1, 2)),
    ],
    ids=str,
)
def test_extra_channels_are_left_out(names: list[str], channels: tuple[int, ...], tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", np.zeros((4, 64, 64), np.uint8), names)
    assert planned(path, SMALL).channels == channels


def test_alpha_is_fed_only_if_it_is_named(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    assert (planned(rgba, SMALL).channels, planned(rgba, SMALL).alpha) == ((0, 1, 2), 3)
    named = planned(rgba, SMALL, channels="red,green,alpha")
    assert (named.channels, named.alpha) == ((0, 1, 3), None)


@pytest.mark.parametrize(
    ("options", "config", "error", "named"),
    [
        ({}, SMALL, ModelError, r"red, green, blue\), cells has 3 \(WGA, DAPI, GFP\).*channels=red=WGA,green=DAPI"),
        ({"channels": "DAPI"}, CELLS, SettingsError, r"wants 2 \(nucleus, membrane\)"),
        ({"channels": "DAPI,Cy5"}, CELLS, SettingsError, "'Cy5'.* 0 to 2: WGA, DAPI, GFP"),
        ({"channels": "nucleus=DAPI"}, CELLS, SettingsError, "each of the model's channels once: nucleus, membrane"),
        ({"channels": "nucleus=0,nuclei=1"}, CELLS, SettingsError, "nucleus=..."),
        ({"channels": "nucleus=3,membrane=0"}, CELLS, SettingsError, "0 to 2"),
        ({"settings": RunSettings(channels=(0, -1))}, CELLS, SettingsError, "0 to 2"),
        ({"intensity": "0:5"}, CELLS, SettingsError, "wants 2 pairs, one for each of nucleus, membrane"),
    ],
)
def test_what_does_not_fit_is_said_with_what_there_is(
    options: dict[str, Any], config: XTConfig, error: type[Exception], named: str, cells: Path, tmp_path: Path
) -> None:
    if config is SMALL:
        cells = ome_zarr(tmp_path / "cells.zarr", dyes(4), ["WGA", "DAPI", "GFP", "Cy5"])
        named = named.replace("has 3", "has 4").replace("GFP", "GFP, Cy5", 1)
    with pytest.raises(error, match=named) as caught:
        planned(cells, config, **options)
    assert len(str(caught.value)) <= 300


def test_names_from_files_are_data(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", np.zeros((2, 64, 64), np.uint8), ["DAPI\x1b[31m\nwarning   none", "n" * 5000])
    found = planned(path, intensity="3:3,0:1")
    assert len(str(found).splitlines()) == len(str(planned(np.zeros((2, 64, 64), np.uint8))).splitlines()) + 3
    assert "\x1b" not in str(found)
    assert max(map(len, str(found).splitlines())) < 250


# -- intensity


def test_the_card_tells_limits_and_plane(cells: Path, tmp_path: Path) -> None:
    with xt.open_image(cells) as image:
        limits = measured_limits(image, (1, 0), (0.1, 99.9))
    found = planned(cells, intensity="percentile")
    assert found.limits == limits
    pairs = ", ".join(f"{low:.5g} to {high:.5g}" for low, high in limits)
    assert card(found)["intensity"] == f"0.1 to 99.9 %: {pairs}"
    assert card(planned(cells, intensity="5:10,0:1.5"))["intensity"] == "as set: 5 to 10, 0 to 1.5"
    assert planned(cells, replace(CELLS, normalisation="percentile")).limits == limits
    assert planned(cells, replace(CELLS, normalisation="percentile"), intensity="range").limits == ()
    assert "intensity" not in card(planned(cells))
    stack = ome_zarr(tmp_path / "stack.zarr", np.zeros((1, 2, 30, 8, 8), np.uint8), ["DAPI", "WGA"], "tczyx")
    assert card(planned(stack, plane="z=12"))["image"].endswith("level 0, t = 0, z = 12 of 30")


@pytest.mark.parametrize("value", [7.0, np.nan], ids=["constant", "nothing recorded"])
def test_a_channel_without_contrast_is_warned_of_and_harmless(value: float, model: XT, tmp_path: Path) -> None:
    pixels = dyes(2).astype(np.float32)
    pixels[1] = value
    found = xt.predict(pixels, model, out=tmp_path / "a.xt.zarr", intensity="percentile")
    warnings = found.header.plan["warnings"]
    assert isinstance(warnings, list)
    assert [text for text in warnings if text.startswith("channel 1: from") and "no contrast" in text]
    assert not found.failed.size
    assert np.isfinite(found.scores[["p:open"]].to_numpy()).all()


@pytest.mark.parametrize("window", [4, "global"])
def test_a_run_with_limits_is_a_run_over_scaled_pixels(
    window: object, cells: Path, model: XT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    found = xt.predict(cells, model, out=tmp_path / "a.xt.zarr", window=window, intensity="percentile")
    limits = planned(cells, intensity="percentile").limits
    scaled = np.stack([between(dyes(3)[i], pair) for i, pair in zip((1, 0), limits, strict=True)])
    whole = xt.predict(scaled, model, out=tmp_path / "b.xt.zarr", window=window)
    np.testing.assert_array_equal(found.probability[...], whole.probability[...])
    assert (found.probability[...] != xt.predict(cells, model, out=tmp_path / "c.xt.zarr").probability[...]).any()


def test_one_rule_from_the_model_a_setting_or_the_command_line(cells: Path, model: XT, tmp_path: Path) -> None:
    percentile = XT(replace(model.config, normalisation="percentile")).eval()
    percentile.load_state_dict(model.state_dict())
    one = xt.predict(cells, percentile, out=tmp_path / "one.xt.zarr")
    other = xt.predict(cells, model, out=tmp_path / "other.xt.zarr", intensity="percentile")
    np.testing.assert_array_equal(one.probability[...], other.probability[...])
    assert one.header.notes["intensity"] == other.header.notes["intensity"]
    file, out = str(tmp_path / "cells.safetensors"), str(tmp_path / "cli.xt.zarr")
    xt.save_model(model, file, ModelCard(name="cells"))
    typed = ["run", str(cells), "--model", file, "--out", out]
    assert main([*typed, "--intensity", "percentile", "--channels", "nucleus=DAPI,membrane=WGA"]) == 0
    again = xt.predict(cells, file, out=out, intensity="percentile", channels={"membrane": 0, "nucleus": 1})
    assert again.header.job["limits"] == other.header.job["limits"]


def test_limits_belong_to_the_job(cells: Path, model: XT, tmp_path: Path) -> None:
    out = tmp_path / "a.xt.zarr"
    done = xt.predict(cells, model, out=out, intensity="percentile")
    limits = planned(cells, intensity="percentile").limits
    noted = {"percentiles": [0.1, 99.9], "limits": [list(pair) for pair in limits]}
    assert done.header.notes["intensity"] == noted
    assert xt.predict(cells, model, out=out, intensity=limits).header.notes["intensity"] == noted  # the same job
    for other in ("range", "0:1,0:1"):
        with pytest.raises(StoreMismatchError, match="limits"):
            xt.predict(cells, model, out=out, intensity=other)
        with pytest.raises(StoreMismatchError, match="limits"):
            plan(cells, model, reuse=str(out), intensity=other)
    assert plan(cells, model, reuse=str(out), intensity="percentile", outputs="scores").reused
    plain = xt.predict(cells, model, out=tmp_path / "b.xt.zarr")
    assert "limits" not in plain.header.job
    assert plan(cells, model, reuse=str(plain.path), outputs="scores").reused
