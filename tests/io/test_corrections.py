"""What people correct: seen at once on every level, undone and reverted, kept apart from the prediction, on disk."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import store_case
from export_case import FAILED, SHAPE, block, layout, mask, prediction

import napari_xt as xt
from napari_xt.errors import CorrectionsLockedError, SettingsError, StoreError
from napari_xt.geometry import Box, Frame, Grid
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.store import Store

CROWN, ROCK, DONT_KNOW, NONE = 1, 2, 254, 255
ROWS, COLS = (some.ravel() for some in np.mgrid[490:540, 480:560])  # over the corner of four chunks


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prediction(tmp_path_factory.mktemp("said") / "scene.xt.zarr").path


@pytest.fixture
def found(said: Path, tmp_path: Path) -> Prediction:
    return xt.open_prediction(shutil.copytree(said, tmp_path / "scene.xt.zarr"))


@pytest.fixture
def corrections(found: Prediction) -> Iterator[Corrections]:
    with xt.corrections(found, author="Ada") as known:
        yield known


def expected(values: int | np.ndarray = ROCK) -> np.ndarray:
    pixels = mask()
    pixels[ROWS, COLS] = values
    return pixels


def assert_levels(levels: list, finest: np.ndarray) -> None:
    for k, level in enumerate(levels):
        np.testing.assert_array_equal(level[:], finest[:: 2**k, :: 2**k])


def large(folder: Path) -> Prediction:
    """A prediction of three levels."""
    shape = (600, 5000)
    return prediction(folder / "large.xt.zarr", found=layout_of(shape))


def layout_of(shape: tuple[int, int], region_px: int = 64, **parts: object) -> Layout:
    found = layout()
    frame = Frame(parts.pop("shape_px", shape), shape, found.frame.scale, found.frame.unit)
    values = {name: getattr(found, name) for name in ("stride", "mask", "boxes", "scores")} | parts
    return type(found)(frame, Grid(*shape, region_px=region_px), overview_channels=3, overview_dtype="uint8", **values)


def test_pixels_are_seen_on_every_level(tmp_path: Path) -> None:
    found = large(tmp_path)
    before = found.mask[0][:]
    told: list[Box] = []
    with xt.corrections(found) as known:
        known.changed.append(told.append)
        levels = known.mask
        rng = np.random.default_rng(0)
        rows, cols = rng.integers(0, 600, 9000), rng.integers(0, 5000, 9000)
        pairs = np.unique(rows * 5000 + cols)
        values = rng.integers(0, 3, len(pairs)).astype(np.uint8)
        with known.stroke() as stroke:
            stroke.put(pairs // 5000, pairs % 5000, values)
        before[pairs // 5000, pairs % 5000] = values
        assert len(levels) == 3
        assert_levels(levels, before)
        assert_levels(known.final.mask, before)
        dense = rng.choice(np.array([0, 1, 2, NONE], np.uint8), (300, 1200))
        with known.stroke(tool="polygon") as stroke:
            stroke.fill(Box(101, 203, 401, 1403), dense)
        before[101:401, 203:1403] = np.where(dense == NONE, before[101:401, 203:1403], dense)
        assert_levels(levels, before)
        assert told == [Box(0, 0, 600, 5000), Box(101, 203, 401, 1403)]
        np.testing.assert_array_equal(known.mask[0][rows, cols], before[rows, cols])
        np.testing.assert_array_equal(known.mask[1][5], before[10, ::2])
        assert known.mask[0][3, 4] == before[3, 4]
        np.testing.assert_array_equal(known.mask[0][np.array([3, 700 % 600]), 5:9], before[[3, 100], 5:9])
        assert (np.asarray(found.mask[0]) == large_mask(found)).all()
    with xt.corrections(found.path, read_only=True) as again:
        assert_levels(again.mask, before)


def large_mask(found: Prediction) -> np.ndarray:
    return xt.open_prediction(found.path).mask[0][:]


def test_undo_and_redo_whole_strokes(corrections: Corrections) -> None:
    with corrections.stroke() as stroke:
        for row in range(490, 540):
            stroke.put(np.full(80, row), np.arange(480, 560), ROCK)
        with corrections.stroke(tool="inner") as same:
            same.put([0], [0], DONT_KNOW)
            box = same.box_add(1, 2, 30, 40, "crown")
    with corrections.stroke(tool="eraser") as other:
        other.put(ROWS, COLS, NONE)
    pixels = expected()
    pixels[0, 0] = DONT_KNOW
    assert corrections.undo() == other.id
    assert_levels(corrections.mask, pixels)
    assert corrections.undo() == stroke.id == same.id
    assert_levels(corrections.mask, mask())
    assert box not in set(corrections.final.boxes["id"])
    assert corrections.undo() is None
    assert corrections.redo() == stroke.id
    assert box in set(corrections.final.boxes["id"])
    assert_levels(corrections.mask, pixels)
    with corrections.stroke() as new:
        new.put([5], [5], DONT_KNOW)
    assert corrections.redo() is None
    assert corrections.log()["undone"].tolist() == [False, True, False]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_and_undone_is_what_is_there(found: Prediction, seed: int) -> None:
    rng = np.random.default_rng(seed)
    done: list[np.ndarray] = [mask()]
    undone: list[np.ndarray] = []
    known = xt.corrections(found)
    for _ in range(40):
        move = rng.choice(["put", "fill", "undo", "redo", "close"], p=[0.3, 0.3, 0.2, 0.15, 0.05])
        if move == "undo":
            assert (known.undo() is not None) == (len(done) > 1)
            undone += [done.pop()] if len(done) > 1 else []
        elif move == "redo":
            assert (known.redo() is not None) == bool(undone)
            done += [undone.pop()] if undone else []
        elif move == "close":
            known.close()
            known = xt.corrections(found)
        else:
            pixels = done[-1].copy()
            y, x = int(rng.integers(-20, SHAPE[0])), int(rng.integers(-20, SHAPE[1]))
            box = Box(y, x, y + int(rng.integers(1, 200)), x + int(rng.integers(1, 700)))
            inside = box.clip(Box(0, 0, *SHAPE))
            value = int(rng.choice([0, 1, 2, 254]))
            with known.stroke() as stroke:
                if move == "put":
                    rows, cols = (some.ravel() for some in np.mgrid[box.slices])
                    stroke.put(rows, cols, value)
                else:
                    stroke.fill(box, np.full(box.shape, value, np.uint8))
                stroke.region(0, 0, "fixed" if known.regions.empty else None)
            pixels[inside.slices] = value
            done, undone = [*done, pixels], []
        assert_levels(known.mask, done[-1])
    known.close()


def test_undo_works_after_opening_again(found: Prediction) -> None:
    with xt.corrections(found) as known, known.stroke() as stroke:
        stroke.put(ROWS, COLS, ROCK)
    with xt.corrections(found) as known:
        assert known.undo() == stroke.id
        assert_levels(known.mask, mask())
    with xt.corrections(found) as known:
        assert known.redo() == stroke.id
        assert_levels(known.mask, expected())


def test_agreeing_is_no_correction_where_the_run_is_done(corrections: Corrections) -> None:
    with corrections.stroke() as stroke:
        stroke.put(ROWS, COLS, mask()[ROWS, COLS])
    assert (corrections.diff[0][:] == NONE).all()
    failed = corrections.layout.grid.region(0, FAILED).inner
    with corrections.stroke() as stroke:
        stroke.fill(failed, mask()[failed.slices])
    np.testing.assert_array_equal(corrections.diff[0][failed.slices], mask()[failed.slices])


def test_a_correction_wins_over_what_arrives_later(tmp_path: Path) -> None:
    pixels, found = mask(), layout()
    header = store_case.header(found)
    path = tmp_path / "a.xt.zarr"
    with Store.open_writer(path, header) as store, xt.corrections(path) as known:
        with known.stroke() as stroke:
            stroke.put(ROWS, COLS, 0)
        store.commit([block(found, pixels, *key) for key in store_case.blocks(found)])
        store.finish(0.5)
        assert_levels(known.mask, expected(0))
        with known.stroke() as stroke:
            stroke.put(ROWS, COLS, 0)
        agreed = pixels[ROWS, COLS] == 0
        assert (known.diff[0][ROWS, COLS] == np.where(agreed, NONE, 0)).all()


def test_the_log_tells_who_what_and_when(corrections: Corrections, tmp_path: Path) -> None:
    with corrections.stroke(tool="brush") as stroke:
        stroke.put([10, 11], [20, 21], DONT_KNOW)
    with corrections.stroke(tool="key") as stroke:
        stroke.region(2, 3, "accepted", "dense")
    corrections.classes.add("weed")
    table = corrections.log()
    assert table["author"].unique().tolist() == ["Ada"]
    assert table["tool"].tolist() == ["brush", "key", "classes"]
    assert table["pixels"].tolist() == [2, 0, 0]
    assert table.loc[0, ["y0", "x0", "y1", "x1"]].tolist() == [10, 20, 12, 22]
    assert table.loc[0, "after"] == "don't know 2 px"
    assert table.loc[1, "after"] == "region 2,3: accepted dense"
    assert abs(table["time"].max() - pd.Timestamp.now("UTC")) < pd.Timedelta(minutes=1)
    table.to_parquet(tmp_path / "log.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "log.parquet"), table)


def test_boxes(corrections: Corrections, found: Prediction) -> None:
    first, second, third, fourth = found.boxes["id"].head(4).tolist()
    told: list[Box] = []
    corrections.changed.append(told.append)
    with corrections.stroke(tool="boxes") as stroke:
        added = stroke.box_add(10, 20, 30, 45, "bush")
        stroke.box_move(first, 1, 2, 3, 4)
        stroke.box_delete(second)
        stroke.box_class(third, "rock")
        stroke.box_accept(fourth)
    assert len(told) == 1
    table = corrections.final.boxes.set_index("id")
    assert second not in table.index
    assert table.loc[added, ["y0", "x0", "y1", "x1", "class"]].tolist() == [10, 20, 30, 45, "bush"]
    assert table.loc[first, ["y0", "x0", "y1", "x1"]].tolist() == [1, 2, 3, 4]
    assert table.loc[third, "class"] == "rock"
    assert "rock" in corrections.final.layout.boxes
    assert {added, first, third, fourth} <= set(corrections.final.at(box_threshold=1.0).boxes["id"])
    assert corrections.boxes.set_index("id")["state"].to_dict() == {
        added: "added",
        first: "changed",
        second: "deleted",
        third: "changed",
        fourth: "accepted",
    }
    rest = set(found.boxes["id"]) - {first, second, third, fourth}
    assert rest <= set(table.index)
    with corrections.stroke() as stroke:
        stroke.box_delete(added)
    assert added not in set(corrections.final.boxes["id"])


def test_regions_and_classes(corrections: Corrections, found: Prediction) -> None:
    with corrections.stroke() as stroke:
        stroke.region(0, 1, "fixed", "open")
    weed = corrections.classes.add("weed", (1, 2, 3))
    corrections.classes.rename("rock", "stone")
    corrections.classes.lock("crown")
    with corrections.stroke() as stroke:
        stroke.put(ROWS, COLS, weed)
    final = corrections.final
    assert weed == 3
    assert final.layout.mask == ("background", "crown", "stone", "weed")
    assert corrections.classes["weed"].color == (1, 2, 3, 255)
    assert corrections.classes["crown"].locked
    assert final.area()["weed"] == len(ROWS)
    row = final.scores.set_index(["region_row", "region_col"]).loc[(0, 1)]
    assert (row["class"], row["score"], row["p:open"], row["p:dense"]) == ("open", 1, 1, 0)
    assert corrections.regions.values.tolist() == [[0, 1, "fixed", "open"]]
    corrections.undo()
    corrections.undo()
    assert not corrections.classes["crown"].locked


@pytest.mark.parametrize("what", ["one", "region", "all"])
def test_revert(corrections: Corrections, what: str) -> None:
    with corrections.stroke() as first:
        first.put(ROWS, COLS, ROCK)
        box = first.box_add(500, 130, 510, 135, "crown")
    with corrections.stroke() as second:
        second.put(ROWS[:80], COLS[:80], DONT_KNOW)
    pixels = mask()
    if what == "one":
        corrections.revert(first.id)
        pixels[ROWS[:80], COLS[:80]] = DONT_KNOW
    elif what == "region":
        corrections.revert(region=(7, 7))
        pixels = expected()
        pixels[ROWS[:80], COLS[:80]] = DONT_KNOW
        pixels[448:512, 448:512] = mask()[448:512, 448:512]
    else:
        corrections.revert()
    assert_levels(corrections.mask, pixels)
    assert (box in set(corrections.final.boxes["id"])) == (what == "region")
    corrections.undo()
    pixels = expected()
    pixels[ROWS[:80], COLS[:80]] = DONT_KNOW
    assert_levels(corrections.mask, pixels)
    assert box in set(corrections.final.boxes["id"])


def test_one_writes_and_others_are_told_who(found: Prediction, corrections: Corrections) -> None:
    with xt.corrections(found) as other:
        with corrections.stroke() as stroke:
            stroke.put(ROWS, COLS, ROCK)
        corrections.flush()
        with pytest.raises(CorrectionsLockedError, match=r"process .* is correcting it"), other.stroke():
            pass
        assert "process" in str(other.holder)
        assert other.refresh()
        assert_levels(other.mask, expected())
        corrections.close()
        assert other.holder is None
        with other.stroke() as stroke:
            stroke.put(ROWS, COLS, NONE)
        assert_levels(other.mask, mask())
    with xt.corrections(found, read_only=True) as reader:
        assert_levels(reader.mask, mask())
        with pytest.raises(StoreError, match="read-only"), reader.stroke():
            pass


def test_who_wrote_between_opening_and_the_first_stroke_is_heard(found: Prediction) -> None:
    with xt.corrections(found) as late:
        levels = late.mask
        with xt.corrections(found) as early, early.stroke() as stroke:
            stroke.put(ROWS, COLS, ROCK)
        with late.stroke() as stroke:
            stroke.put([0], [0], DONT_KNOW)
        pixels = expected()
        pixels[0, 0] = DONT_KNOW
        assert_levels(levels, pixels)
        assert late.log()["id"].tolist() == [1, 2]


def test_measure_objects_and_export_take_the_final(corrections: Corrections, found: Prediction, tmp_path: Path) -> None:
    whole = Box(0, 0, *SHAPE)
    with corrections.stroke() as stroke:
        stroke.fill(whole, np.where(mask() == CROWN, ROCK, NONE).astype(np.uint8))
    table = xt.measure(corrections.final).set_index("class")
    assert table.loc["rock", "area_px"].sum() == (mask() > 0).sum()
    assert set(xt.objects(corrections.final)["class"]) == {"rock"}
    corrections.flush()
    told = json.loads(xt.export(found, tmp_path / "final.geojson", what="mask").read_text())
    assert next(part["corrections"] for part in told.values() if isinstance(part, dict)) == 1
    assert "rock" in (tmp_path / "final.geojson").read_text()
    assert "crown" not in (tmp_path / "final.geojson").read_text().replace("crown.", "")
    xt.export(found, tmp_path / "said.geojson", what="mask", source="prediction")
    assert "crown" in (tmp_path / "said.geojson").read_text()


def test_packed_predictions_show_corrections(corrections: Corrections, found: Prediction) -> None:
    with corrections.stroke() as stroke:
        stroke.put(ROWS, COLS, ROCK)
        stroke.box_add(1, 2, 30, 40, "crown")
    corrections.flush()
    with xt.corrections(xt.pack(found)) as packed:
        assert packed.read_only
        assert_levels(packed.mask, expected())
        assert len(packed.boxes) == 1


def test_a_long_stroke_is_on_the_disk_before_it_ends(found: Prediction, corrections: Corrections) -> None:
    with corrections.stroke() as stroke:
        stroke.put(ROWS, COLS, ROCK)
        end = time.monotonic() + 20
        with xt.corrections(found, read_only=True) as reader:
            while (reader.diff[0][ROWS, COLS] == NONE).all():
                assert time.monotonic() < end
                time.sleep(0.05)
                reader.refresh()
            assert_levels(reader.mask, expected())
        stroke.put([0], [0], DONT_KNOW)
    assert len(corrections.log()) == 1


def test_what_the_disk_does_not_take_is_tried_again(found: Prediction, corrections: Corrections) -> None:
    with corrections.stroke() as stroke:
        stroke.put([0], [0], DONT_KNOW)
    corrections.flush()
    assert corrections.journal is not None
    noise = np.random.default_rng(0).choice(np.array([0, 1, 2, 254], np.uint8), SHAPE)
    disk = corrections.journal._db
    disk.execute("PRAGMA max_page_count = 12")
    with corrections.stroke() as stroke:
        stroke.fill(Box(0, 0, *SHAPE), noise)
    with pytest.raises(StoreError, match="bytes are free"):
        corrections.flush()
    assert_levels(corrections.mask, noise)
    with pytest.raises(StoreError, match="bytes are free"), corrections.stroke():
        pass
    disk.execute("PRAGMA max_page_count = 100000")
    corrections.close()
    with xt.corrections(found) as again:
        assert_levels(again.mask, noise)


def test_a_run_that_starts_anew_leaves_corrections_alone(found: Prediction, corrections: Corrections) -> None:
    with corrections.stroke() as stroke:
        stroke.put([0], [0], DONT_KNOW)
    with pytest.raises(StoreError, match="holds corrections"):
        Store.open_writer(found.path, found.header, restart=True)


BAD_CALLS: dict[str, Callable[..., object]] = {
    "class 9": lambda stroke: stroke.put([1], [1], 9),
    "value -1": lambda stroke: stroke.put([1], [1], -1),
    "value 300": lambda stroke: stroke.put([1], [1], np.array([300])),
    "float values": lambda stroke: stroke.put([1], [1], 1.0),
    "float places": lambda stroke: stroke.put([1.5], [1], 1),
    "wrong shape": lambda stroke: stroke.fill(Box(0, 0, 2, 2), np.zeros((3, 2), np.uint8)),
    "no box": lambda stroke: stroke.box_add(5, 5, 5, 9, "crown"),
    "box outside": lambda stroke: stroke.box_add(9000, 5, 9005, 9, "crown"),
    "NaN": lambda stroke: stroke.box_add(float("nan"), 5, 5, 9, "crown"),
    "unknown class": lambda stroke: stroke.box_add(1, 1, 5, 9, "house"),
    "unknown id": lambda stroke: stroke.box_delete(12345678),
    "no region": lambda stroke: stroke.region(99, 0, "accepted"),
    "no state": lambda stroke: stroke.region(0, 0, "fine"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_hostile_values_are_refused(corrections: Corrections, name: str) -> None:
    with pytest.raises(SettingsError), corrections.stroke() as stroke:
        BAD_CALLS[name](stroke)
    assert corrections.undo() is None


def test_places_outside_the_image_are_left_out(corrections: Corrections) -> None:
    with corrections.stroke() as stroke:
        stroke.put([-1, 5, 600, 5], [5, -1, 5, 1100], DONT_KNOW)
        stroke.fill(Box(-5, -5, 2, 2), np.full((7, 7), DONT_KNOW, np.uint8))
    assert (corrections.diff[0][:] != NONE).sum() == 4


DAMAGE = {
    "no journal": b"not a database at all" * 100,
    "pixels": "UPDATE parts SET after = x'00'",
    "bomb": "UPDATE parts SET after = zeroblob(100000)",
    "place": "UPDATE parts SET y1 = 90000",
    "class": "UPDATE parts SET kind = 'class', key = '900', after = '{}'",
    "kind": "UPDATE parts SET kind = 'magic'",
    "box": """UPDATE parts SET kind = 'box', key = '5', after = '{"y0": 1e999}'""",
    "newer": "UPDATE meta SET value = 9 WHERE key = 'format'",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told(found: Prediction, name: str) -> None:
    with xt.corrections(found) as known, known.stroke() as stroke:
        stroke.put(ROWS, COLS, ROCK)
    path, how = found.journal / "corrections.sqlite", DAMAGE[name]
    if isinstance(how, bytes):
        path.write_bytes(how)
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute(how)
            db.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
            db.commit()
    with pytest.raises(StoreError, match=r"corrections|journal"):
        xt.corrections(found)


def test_damaged_arrays_are_told_or_made_again(found: Prediction) -> None:
    with xt.corrections(found) as known, known.stroke() as stroke:
        stroke.put(ROWS, COLS, ROCK)
    (found.path / "corrections" / "0" / "zarr.json").unlink()
    with xt.corrections(found) as known:
        assert_levels(known.mask, expected())


def test_a_prediction_of_another_size_takes_them_by_place(corrections: Corrections, tmp_path: Path) -> None:
    ids = corrections.prediction.boxes["id"].head(3).tolist()
    with corrections.stroke() as stroke:
        stroke.fill(Box(100, 200, 164, 328), np.full((64, 128), ROCK, np.uint8))
        stroke.box_delete(ids[0])
        stroke.box_class(ids[1], "rock")
        stroke.box_add(300, 400, 310, 410, "crown")
        for col in range(2):
            stroke.region(0, col, "accepted")
    half = layout_of((300, 550), 32, shape_px=SHAPE, mask=("background", "rock", "crown"))
    other = prediction(tmp_path / "half.xt.zarr", np.zeros((300, 550), np.uint8), half)
    corrections.carry(other)
    with xt.corrections(other) as carried:
        want = np.full((300, 550), NONE, np.uint8)
        said = corrections.diff[0][:][1::2, 1::2]
        want[said != NONE] = 1  # rock has another value there
        np.testing.assert_array_equal(carried.diff[0][:], want)
        assert carried.regions[["region_row", "region_col"]].values.tolist() == [[0, 0], [0, 1]]
        assert carried.log()["tool"].tolist() == ["brush", "carry"]
        assert carried.undo() is None


def test_a_refined_prediction_takes_them_with_their_log(corrections: Corrections, said: Path, tmp_path: Path) -> None:
    gone, named = corrections.prediction.boxes["id"].head(2).tolist()
    corrections.classes.add("weed")
    with corrections.stroke() as brush:
        brush.put(ROWS, COLS, 3)
    with corrections.stroke() as stroke:
        stroke.box_delete(gone)
        stroke.box_class(named, "rock")
        stroke.box_add(300, 400, 310, 410, "crown")
        stroke.region(0, 0, "accepted")
    other = xt.open_prediction(shutil.copytree(said, tmp_path / "scene+1.xt.zarr"))
    corrections.carry(other.path)
    with xt.corrections(other, author="Bo") as carried:
        np.testing.assert_array_equal(carried.diff[0][:], corrections.diff[0][:])
        assert carried.classes.names[3] == "weed"
        pd.testing.assert_frame_equal(carried.log().iloc[:-1], corrections.log())
        assert sorted(carried.boxes["state"]) == ["added", "changed", "deleted"]
        assert gone not in set(carried.final.boxes["id"])
        assert carried.revert(brush.id)
        assert (carried.diff[0][:] == NONE).all()
    with pytest.raises(SettingsError, match="corrections of its own"):
        corrections.carry(other)
