"""From level-0 pixels to the image's reference system, and to longitude and latitude.

Knows georeferences and pyproj; must not know formats.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from napari_xt.errors import MissingDependencyError, SettingsError
from napari_xt.io.exports.things import Points
from napari_xt.io.images.geo import Georeference
from napari_xt.io.prediction import Prediction

if TYPE_CHECKING:
    from pyproj import Transformer

WGS84 = 4326
INSTALL = 'pip install "napari-xt[geo]"'


class Projection:
    """Where the pixels of a prediction lie on the Earth.

    Raises
    ------
    SettingsError
        Where the image does not say.
    """

    def __init__(self, prediction: Prediction) -> None:
        found = Georeference.from_json(prediction.header.notes.get("georeference"))
        if found is None or found.epsg is None:
            why = "its image has no coordinate reference system" if found is None else "its image's has no EPSG code"
            do = "export it in pixels, as GeoJSON for QuPath"
            raise SettingsError(prediction.path, f"{why}, which a map needs", do)
        self._transform, self.epsg = found.transform, found.epsg

    def place(self, points: Points) -> Points:
        """``(n, 2)`` of the reference system (X, Y) of level-0 px ``(n, 2)``, x and y."""
        a, b, c, d, e, f = self._transform
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    def degrees(self, points: Points) -> Points:
        """Longitude and latitude, WGS 84, of level-0 px ``(n, 2)``, x and y.

        Raises
        ------
        MissingDependencyError
            Without pyproj, of the extra ``geo``.
        SettingsError
            Where a point has none.
        """
        found = np.stack(self._to_degrees.transform(*self.place(points).T), axis=1)
        if not np.isfinite(found).all():
            raise SettingsError(f"EPSG:{self.epsg}", "does not reach all of the image", "export it in pixels")
        return found

    @cached_property
    def _to_degrees(self) -> Transformer:
        try:
            from pyproj import Transformer
            from pyproj.exceptions import CRSError
        except ImportError as error:
            raise MissingDependencyError("maps", "pyproj is not installed", INSTALL) from error
        try:
            return Transformer.from_crs(self.epsg, WGS84, always_xy=True)
        except CRSError as error:
            raise SettingsError(f"EPSG:{self.epsg}", "is no known reference system", "export it in pixels") from error


def counter_clockwise(ring: Points) -> bool:
    """Whether a closed ring ``(n, 2)`` of x and y runs counter-clockwise, as seen with y up."""
    x, y = (ring - ring[0]).T
    return bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0)
