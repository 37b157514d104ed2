"""Tables as columns: order, filters, places and text agree with what pandas says, and a million rows are quick."""

from __future__ import annotations

from io import StringIO
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from export_case import FAILED, prediction

from napari_xt.io.measure import measure
from napari_xt.io.objects import objects
from napari_xt.io.prediction import Prediction
from napari_xt.plugin.tables.table_source import BINS, Column, Rows, boxes_of, head, objects_of, regions_of, summary_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return prediction(tmp_path_factory.mktemp("tables") / "a.xt.zarr")


def index(rows: Rows, name: str) -> int:
    return [column.name for column in rows.columns].index(name)


def test_regions_are_those_of_the_prediction(made: Prediction) -> None:
    rows, table = regions_of(made), made.scores
    assert [column.name for column in rows.columns] == [
        *("row", "column", "class", "score", "status", "entropy", "p:open", "p:dense")
    ]
    score, name, status = (rows.columns[index(rows, one)] for one in ("score", "class", "status"))
    assert [name.text(i) for i in range(3)] == list(table["class"][:3])
    assert (name.text(FAILED), score.text(FAILED), status.text(FAILED)) == ("", "", "failed")
    assert rows.cells is not None
    np.testing.assert_array_equal(rows.cells, table[["region_row", "region_col"]])


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", ["class", "score", "row"])
def test_order_is_that_of_pandas(made: Prediction, name: str, descending: bool) -> None:
    rows, table = regions_of(made), made.scores
    rows.sort(index(rows, name), descending=descending)
    by = {"row": "region_row"}.get(name, name)
    expected = table.sort_values(by, ascending=not descending, kind="stable", na_position="last").index
    np.testing.assert_array_equal(rows.shown, expected)
    rows.sort(-1)
    np.testing.assert_array_equal(rows.shown, table.index)


def test_filters_keep_the_order(made: Prediction) -> None:
    rows, table = boxes_of(made), made.boxes
    rows.sort(index(rows, "score"))
    rows.keep({"class": ["bush"]}, (0.4, 0.8))
    kept = table[(table["class"] == "bush") & table["score"].between(0.4, 0.8)]
    np.testing.assert_array_equal(rows.shown, kept.sort_values("score", kind="stable").index)
    assert rows.position(int(kept.index[0])) == list(rows.shown).index(kept.index[0])
    assert rows.position(int(table.index[table["class"] == "crown"][0])) is None
    assert rows.histogram({"class": ["bush"]}).sum() == (table["class"] == "bush").sum()
    rows.keep({})
    assert len(rows.shown) == len(table)


def test_whole_range_of_scores_shows_what_has_none(made: Prediction) -> None:
    rows = regions_of(made)
    rows.keep({}, (0.0, 0.99))
    assert FAILED not in rows.shown
    rows.keep({"status": ["failed"]}, (0.0, 1.0))
    assert list(rows.shown) == [FAILED]


def test_smallest_thing_around_a_point() -> None:
    edges = np.array([[0, 0, 100, 100], [10, 10, 20, 20], [12, 12, 18, 18]], float)
    rows = Rows((), edges)
    assert [rows.at(*point) for point in [(15, 15), (11, 11), (50, 50), (100, 50)]] == [2, 1, 0, None]


def test_copied_text_is_what_is_shown(made: Prediction) -> None:
    rows = regions_of(made)
    rows.sort(index(rows, "score"), descending=True)
    text = pd.read_csv(StringIO(rows.tsv(np.array([0, 3]))), sep="\t")
    expected = made.scores.iloc[rows.shown[[0, 3]]].reset_index(drop=True)
    assert list(text["class"]) == list(expected["class"])
    np.testing.assert_allclose(text["p:open"], expected["p:open"])


def test_measured_tables_have_their_units_in_the_head(made: Prediction) -> None:
    found = objects(made)
    rows = objects_of(made, found)
    names = [column.name for column in rows.columns]
    assert "area (µm²)" in names
    assert "area (px)" not in names
    np.testing.assert_array_equal(rows.columns[index(rows, "area (µm²)")].values, found["area_um2"])
    summary = summary_of(measure(made, found=found))
    assert {"area (mm²)", "per mm²", "area (px)"} <= {column.name for column in summary.columns}
    assert summary.columns[0].text(0) == "whole image"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("area_um2", "area (µm²)"),
        ("perimeter_nm", "perimeter (nm)"),
        ("area_px", "area (px)"),
        ("mean:a_b", "mean:a_b"),
    ],
)
def test_heads(name: str, expected: str) -> None:
    assert head(name) == expected


def test_a_million_rows_are_quick() -> None:
    rng, n = np.random.default_rng(0), 1_000_000
    score = Column("score", rng.random(n))
    rows = Rows((Column("class", rng.integers(0, 3, n), ("a", "b", "c")), score), rng.random((n, 4)))
    began = perf_counter()
    rows.sort(1, descending=True)
    rows.keep({"class": ["a", "b"]}, (0.2, 0.7))
    counts = rows.histogram({"class": ["a", "b"]})
    assert perf_counter() - began < 2, "0.15 s on an idle machine"
    assert len(counts) == BINS
    assert np.all(np.diff(np.asarray(score.values)[rows.shown]) <= 0)
