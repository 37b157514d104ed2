"""The OME-Zarr 0.5 description of a store: what its image and its mask are, with true scale and unit.

Knows the metadata standard; must not know files, runs or the journal.
"""

from __future__ import annotations

from collections.abc import Sequence

from napari_xt.io.stores.layout import Layout

VERSION = "0.5"
LENGTHS = frozenset(
    "angstrom attometer centimeter decimeter exameter femtometer foot gigameter hectometer inch kilometer megameter "
    "meter micrometer mile millimeter nanometer parsec petameter picometer terameter yard yoctometer yottameter "
    "zeptometer zettameter".split()
)  # the units that the standard knows


def image_metadata(name: str, layout: Layout) -> dict[str, object]:
    """The value of the root's ``ome`` attribute: the overview, one level, ``(c, y, x)`` or ``(y, x)``."""
    axes = _axes(layout, channel=layout.overview_channels > 1)
    factor = layout.overview_factor
    datasets = [_dataset("0", layout, factor, len(axes), middle=(factor - 1) / 2)]
    multiscale = {"name": name, "axes": axes, "datasets": datasets, "type": "mean"}
    described: dict[str, object] = {"version": VERSION, "multiscales": [multiscale]}
    if layout.overview_channels == 3 and layout.overview_dtype == "uint8":
        described["omero"] = {"channels": [_channel(*pair) for pair in zip("RGB", _primaries(), strict=True)]}
    return described


def labels_metadata(names: Sequence[str]) -> dict[str, object]:
    """The value of the ``ome`` attribute of ``labels/``."""
    return {"version": VERSION, "labels": list(names)}


def mask_metadata(layout: Layout) -> dict[str, object]:
    """The value of the ``ome`` attribute of ``labels/mask/``, whose levels are every ``2**k``-th run pixel."""
    levels = range(len(layout.mask_shapes))
    datasets = [_dataset(str(k), layout, 2**k, 2, middle=0.0) for k in levels]
    multiscale = {"name": "mask", "axes": _axes(layout, channel=False), "datasets": datasets, "type": "nearest"}
    names = layout.mask or ()
    label = {
        "version": VERSION,
        "colors": [{"label-value": value, "rgba": list(layout.rgba(value))} for value in range(len(names))],
        "properties": [{"label-value": value, "class": name} for value, name in enumerate(names)],
        "source": {"image": "../../"},
    }
    return {"version": VERSION, "multiscales": [multiscale], "image-label": label}


def axis_names(count: int) -> tuple[str, ...]:
    """The names of the last ``count`` axes of ``(c, y, x)``."""
    return ("c", "y", "x")[3 - count :]


def _axes(layout: Layout, *, channel: bool) -> list[dict[str, str]]:
    unit = {"unit": layout.frame.unit} if layout.frame.unit in LENGTHS else {}
    space = [{"name": name, "type": "space", **unit} for name in "yx"]
    return [{"name": "c", "type": "channel"}, *space] if channel else space


def _dataset(path: str, layout: Layout, factor: int, ndim: int, *, middle: float) -> dict[str, object]:
    """A level whose cells are ``factor`` run pixels wide, the first one centred ``middle`` run pixels from (0, 0)."""
    scale = layout.frame.scale_run
    lead = [1.0] * (ndim - 2)
    steps: list[dict[str, object]] = [{"type": "scale", "scale": [*lead, *(step * factor for step in scale)]}]
    if middle:
        shift = [*(0.0 for _ in lead), *(step * middle for step in scale)]
        steps.append({"type": "translation", "translation": shift})
    return {"path": path, "coordinateTransformations": steps}


def _primaries() -> tuple[str, str, str]:
    return "FF0000", "00FF00", "0000FF"


def _channel(label: str, color: str) -> dict[str, object]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": label, "color": color, "active": True, "window": window}
