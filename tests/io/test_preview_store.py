"""Previews in a store: seen by readers, taken up by the run that goes on, gone when it ends, and never in its way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from store_case import block_data, blocks, contents, header, layout, write

from napari_xt.geometry import Region
from napari_xt.io.stores.preview import NONE, open_previews
from napari_xt.io.stores.store import Status, Store

LAYOUT = layout()


def previews(*cells: tuple[int, int]) -> list[tuple[Region, np.ndarray]]:
    regions = [LAYOUT.grid.region(*cell) for cell in cells]
    return [(r, np.full(LAYOUT.cells(r.inner).shape, r.index % 2, np.uint8)) for r in regions]


GROUPS = {
    "one": [(0, 0)],
    "whole blocks": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "at the image's end": [(16, 1), (16, 2)],
    "scattered": [(0, 2), (3, 0), (15, 1)],
    "none": [],
}


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_what_is_put_is_seen_and_nothing_else(group: list[tuple[int, int]], tmp_path: Path) -> None:
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.put_previews(previews(*group))
        shown = open_previews(store.path, LAYOUT)[...]
        status = zarr.open_array(store.path / "status", mode="r")[...]
    expected = np.full(LAYOUT.probability_shape, NONE, np.uint8)
    for region, classes in previews(*group):
        expected[LAYOUT.cells(region.inner).slices] = classes
    np.testing.assert_array_equal(shown, expected)
    assert {(int(r), int(c)) for r, c in np.argwhere(status == Status.PREVIEW)} == set(group)


def test_what_is_settled_stays_settled(tmp_path: Path) -> None:
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.commit([block_data(LAYOUT, 0, 0), block_data(LAYOUT, 0, 1)])
        before = zarr.open_array(store.path / "status", mode="r")[...]
        store.put_previews(previews((0, 0), (1, 1), (0, 2), (1, 2), (2, 0), (3, 2)))
        after = zarr.open_array(store.path / "status", mode="r")[...]
    settled = before != Status.NOT_YET
    assert Status.FAILED in before
    np.testing.assert_array_equal(after[settled], before[settled])
    assert (after == Status.PREVIEW).sum() == 2


def test_they_change_no_byte_of_the_end(tmp_path: Path) -> None:
    plain, shown = tmp_path / "plain" / "run.xt.zarr", tmp_path / "shown" / "run.xt.zarr"
    write(plain)
    with Store.open_writer(shown, header()) as store:
        store.put_previews(previews(*((r, c) for r in range(17) for c in range(3))))
        for key in blocks(LAYOUT):
            store.commit([block_data(LAYOUT, *key)])
        store.finish(0.5)
    assert contents(shown) == contents(plain)


def test_a_run_that_goes_on_shows_what_was_left(tmp_path: Path) -> None:
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.put_previews(previews((0, 0), (5, 1)))
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.commit([block_data(LAYOUT, 0, 0)])
        store.put_previews(previews((9, 1)))
        status = zarr.open_array(store.path / "status", mode="r")[...]
        shown = open_previews(store.path, LAYOUT)[...]
    assert set(map(tuple, np.argwhere(status == Status.PREVIEW).tolist())) == {(5, 1), (9, 1)}
    for region, classes in previews((0, 0), (5, 1), (9, 1)):
        np.testing.assert_array_equal(shown[LAYOUT.cells(region.inner).slices], classes)


@pytest.mark.parametrize("damage", ["chunk cut short", "no description", "another shape"])
def test_what_a_loss_of_power_left_is_thrown_away(damage: str, tmp_path: Path) -> None:
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.put_previews(previews((0, 0), (5, 1)))
        folder = store.path / "preview"
    if damage == "chunk cut short":
        chunk = folder / "c" / "2" / "0"
        chunk.write_bytes(chunk.read_bytes()[:5])
    elif damage == "no description":
        (folder / "zarr.json").unlink()
    else:
        zarr.create_array(folder, shape=(3, 3), dtype="uint8", overwrite=True)
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.put_previews(previews((9, 1)))
        shown = open_previews(store.path, LAYOUT)[...]
    (region, classes), *_ = previews((9, 1))
    assert (shown != NONE).sum() == classes.size
    np.testing.assert_array_equal(shown[LAYOUT.cells(region.inner).slices], classes)


def test_other_readers_do_not_mind(tmp_path: Path) -> None:
    with Store.open_writer(tmp_path / "a.xt.zarr", header()) as store:
        store.put_previews(previews((0, 0)))
    yaozarrs.validate_zarr_store(str(tmp_path / "a.xt.zarr"))
    assert "preview" in set(zarr.open_group(tmp_path / "a.xt.zarr", mode="r").array_keys())
