from __future__ import annotations

import json
from dataclasses import fields

import pytest

from napari_xt.engine.settings import RunSettings, parse_roi
from napari_xt.errors import SettingsError
from napari_xt.geometry import Box


def test_every_setting_says_what_it_is_for_and_what_it_affects() -> None:
    for field in fields(RunSettings):
        assert field.metadata["help"].endswith(".")
        assert field.metadata["affects"] in ("result", "reading", "speed")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"roi": "1,2,30,40"}, {"roi": Box(1, 2, 30, 40)}),
        ({"roi": [0.5, 1.5, 9.2, 9.8]}, {"roi": Box(0, 1, 10, 10)}),
        ({"roi": {"y0": 1, "x0": 2, "y1": 3, "x1": 4}}, {"roi": Box(1, 2, 3, 4)}),
        ({"roi": "shapes.geojson"}, {"roi": "shapes.geojson"}),
        ({"channels": "2, 1,0"}, {"channels": (2, 1, 0)}),
        ({"channels": "DAPI, 2"}, {"channels": ("DAPI", 2)}),
        ({"channels": "nucleus=DAPI, membrane=2"}, {"channels": {"nucleus": "DAPI", "membrane": 2}}),
        ({"channels": {"nucleus": 1}}, {"channels": {"nucleus": 1}}),
        ({"intensity": "percentile"}, {"intensity": "percentile"}),
        ({"intensity": "-5:20, 0.5:0.5"}, {"intensity": ((-5.0, 20.0), (0.5, 0.5))}),
        ({"intensity": [[0, 255]]}, {"intensity": ((0.0, 255.0),)}),
        ({"plane": "t=3,z=0"}, {"plane": {"t": 3, "z": 0}}),
        ({"window": "global"}, {"window": "global"}),
        ({"window": "4", "level": "1", "threshold": "0.5"}, {"window": 4, "level": 1, "threshold": 0.5}),
        ({"outputs": ["boxes"]}, {"outputs": ("boxes",)}),
        ({"device": None}, {"device": "auto"}),
    ],
)
def test_loose_options_are_read(options: dict[str, object], expected: dict[str, object]) -> None:
    settings = RunSettings.of(**options)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"unheard_of": 1},
        {"roi": "1,2,3"},
        {"roi": "a,b,c,d"},
        {"roi": "10,10,5,20"},
        {"roi": "0,0,inf,3"},
        {"roi": 7},
        {"roi": "shapes.txt"},
        {"channels": ""},
        {"channels": "red=0,2"},
        {"channels": "=0"},
        {"intensity": "bright"},
        {"intensity": "3"},
        {"intensity": "5:3"},
        {"intensity": "0:inf"},
        {"intensity": [[1, 2, 3]]},
        {"intensity": 7},
        {"channels": "-1"},
        {"channels": 3},
        {"plane": "t"},
        {"window": 0},
        {"window": "wide"},
        {"level": -1},
        {"level": 1.5},
        {"threshold": 2},
        {"threshold": "high"},
        {"outputs": "tree"},
        {"outputs": ()},
        {"workers": 0},
        {"precision": "float8"},
        {"on_error": "shrug"},
    ],
    ids=str,
)
def test_nonsense_is_one_sentence_with_the_value(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        RunSettings.of(**options)
    name, value = next(iter(options.items()))
    assert name in str(caught.value)
    assert name == "unheard_of" or str(value).strip("()") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unheard_of_intensity_is_refused_however_it_is_given() -> None:
    with pytest.raises(SettingsError, match="intensity = 'rgb'"):
        RunSettings(intensity="rgb")  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    settings = RunSettings.of(roi="1,2,30,40", plane="t=1", channels="0,1,2", window=4)
    assert RunSettings.of(**settings.to_json()) == settings
    named = RunSettings.of(channels="nucleus=DAPI", intensity="1:2")
    assert RunSettings.of(**json.loads(json.dumps(named.to_json()))) == named
    assert RunSettings.merged(settings, {"window": 2}).window == 2


def test_a_box_stays_a_box() -> None:
    assert parse_roi(Box(0, 0, 1, 1)) == Box(0, 0, 1, 1)
    assert parse_roi(None) is None
