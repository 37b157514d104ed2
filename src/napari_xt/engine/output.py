"""Where a prediction goes when nobody said. Knows paths and stores; knows no network."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import platformdirs

from napari_xt.io.image import Image
from napari_xt.io.stores.layout import Header
from napari_xt.io.stores.place import same_job

SUFFIX = ".xt.zarr"
PACKAGE = Path(__file__).parents[1]  # bundled samples lie in it, results should not


def default_out(image: Image, model: str, header: Header) -> Path:
    """``IMAGE.MODEL.xt.zarr`` beside the image, or among the user's results where that can't be.

    The path of a store of the same job is returned, so that running again goes on with it; where another job has the
    name, ``IMAGE.MODEL-2.xt.zarr`` and so on. Nothing is created.

    Parameters
    ----------
    image
        Results go beside its file; a URL, an array or a read-only folder has no such place.
    model
        Name of the model.
    header
        What the run is.
    """
    folder = _folder(image)
    for number in count(1):
        path = folder / f"{image.name}.{model}{'' if number == 1 else f'-{number}'}{SUFFIX}"
        if not os.path.lexists(path) or same_job(path, header):
            return path
    raise AssertionError("count() does not end")


def results_folder() -> Path:
    """The folder for results that have no place beside their image."""
    return platformdirs.user_data_path("napari-xt") / "results"


def _folder(image: Image) -> Path:
    if image.source is not None and "://" not in image.source:
        beside = Path(image.source).parent
        if os.access(beside, os.W_OK) and not beside.is_relative_to(PACKAGE):
            return beside
    return results_folder()
