"""Ready-made configurations by name. Imports no torch."""

from __future__ import annotations

from napari_xt.model.config import XTConfig

LITE0_MEAN = 127 / 255  # the ImageNet weights of tf_efficientnet_lite0 were trained on (x - 127) / 128
LITE0_STD = 128 / 255

CANOPY = XTConfig(
    region_encoder="tf_efficientnet_lite0",
    mean=(LITE0_MEAN,) * 3,
    std=(LITE0_STD,) * 3,
    scale_um=100_000.0,
    mask=("background", "crown"),
    boxes=("tree",),
    scores=("open", "sparse", "dense"),
    threshold=0.25,
)
"""Tree crowns in 10 cm aerial RGB: the bundled model ``canopy``."""
