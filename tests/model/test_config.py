from __future__ import annotations

from dataclasses import replace

import pytest

from napari_xt.errors import ModelError
from napari_xt.model.config import ContextConfig, LocalConfig, XTConfig
from napari_xt.model.presets import CANOPY


def test_json_round_trip_is_exact_and_canonical() -> None:
    again = XTConfig.from_json(CANOPY.to_json())
    assert again == CANOPY
    assert again.to_json() == CANOPY.to_json()


def test_normalisation_is_told_only_where_it_says_something() -> None:
    assert "normalisation" not in CANOPY.to_json()
    changed = replace(CANOPY, normalisation="percentile", percentiles=(1.0, 99.0))
    assert XTConfig.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"region_px": 10}, "region_px", id="region too small"),
        pytest.param({"halo_px": -1}, "halo_px", id="negative halo"),
        pytest.param({"halo_px": 3}, "halo_px", id="halo off the stride"),
        pytest.param({"mean": (0.5,)}, "mean", id="one mean for three channels"),
        pytest.param({"std": (0.0, 1.0, 1.0)}, "std", id="zero deviation"),
        pytest.param({"mask": ("crown",)}, "background", id="mask without background"),
        pytest.param({"mask": None, "boxes": None, "scores": None}, "head", id="no head"),
        pytest.param({"threshold": 1.5}, "threshold", id="threshold above one"),
        pytest.param({"version": 2}, "newer", id="newer version"),
        pytest.param({"normalisation": "z-score"}, "normalisation", id="unheard-of normalisation"),
        pytest.param({"percentiles": (50.0, 50.0)}, "percentiles", id="equal percentiles"),
        pytest.param({"percentiles": (0.1, 101.0)}, "percentiles", id="more than all"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        replace(CANOPY, **change)


@pytest.mark.parametrize("change", [{"kind": "lstm"}, {"layers": 0}, {"dim": 6}, {"scan": "spiral"}])
def test_nonsensical_contexts_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=next(iter(change))):
        ContextConfig(**change)  # type: ignore[arg-type]


def test_nonsensical_local_features_are_refused() -> None:
    with pytest.raises(ModelError, match=r"local\.stride"):
        LocalConfig(stride=3)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"unheard_of": 1}', '{"context": {"unheard_of": 1}}', "null", "3"])
def test_damaged_json_is_a_model_error(text: str) -> None:
    with pytest.raises(ModelError):
        XTConfig.from_json(text)
