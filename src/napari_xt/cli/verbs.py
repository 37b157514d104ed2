"""What each verb of the command line does: call the API, print what came. Knows no tensors, no screens."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import sys
from contextlib import closing
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from napari_xt.cli.printing import progress, table, warn, words
from napari_xt.engine.machine import peak_bytes
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import MissingDependencyError, SettingsError, printable

if TYPE_CHECKING:
    from napari_xt.engine.figures import Figures
    from napari_xt.io.image import Image
    from napari_xt.io.prediction import Prediction

DONE, DAMAGED_REGIONS = 0, 3  # exit codes
LABELS_TOLD = 5


def info(chosen: argparse.Namespace) -> int:
    """Print what an image file holds."""
    from napari_xt.io.image import open_image

    with open_image(chosen.image) as image:
        facts: dict[str, object] = {
            "image": image.name,
            "axes": image.axes,
            "levels": [list(shape) for shape in image.level_shapes],
            "dtype": str(image.dtype),
            "channels": list(image.channel_names),
            "scale": list(image.scale),
            "unit": image.unit,
            "scale_source": image.scale_source,
        }
        if image.georeference is not None:
            facts["georeference"] = image.georeference.to_json()
    if chosen.json:
        print(json.dumps(facts, indent=2))
    else:
        table([(name, words(value)) for name, value in facts.items()])
    return DONE


def convert(chosen: argparse.Namespace) -> int:
    """Write an image as OME-Zarr."""
    from napari_xt.io.convert import convert

    settings = {name: getattr(chosen, name) for name in ("chunks", "shards", "compressor", "pixel_size", "restart")}
    with progress(unit="strip") as show:
        written = convert(chosen.image, chosen.out, version=chosen.ome_zarr, progress=show, **settings)
    table([("written", str(written)), ("memory", f"{peak_bytes() / 2**30:.2f} GiB at most")])
    return DONE


def export(chosen: argparse.Namespace) -> int:
    """Write a prediction to a file of another kind."""
    from napari_xt.io.export import export
    from napari_xt.io.prediction import open_prediction

    prediction = open_prediction(chosen.prediction).at(
        mask_threshold=chosen.mask_threshold, box_threshold=chosen.box_threshold
    )
    settings = {name: getattr(chosen, name) for name in ("format", "source", "flavour", "simplify")}
    with progress(leave=False) as show:
        what = chosen.what.split(",") if chosen.what else None
        written = export(prediction, chosen.out, what=what, progress=show, **settings)
    failed = [("failed", f"{len(prediction.failed)} regions")] if len(prediction.failed) else []
    table([("written", str(written)), ("source", chosen.source), ("coverage", f"{prediction.coverage:.1%}"), *failed])
    return DONE


def pack(chosen: argparse.Namespace) -> int:
    """Write a prediction as one zip file."""
    from napari_xt.io.pack import pack

    with progress(unit="file", leave=False) as show:
        written = pack(chosen.prediction, chosen.out, progress=show)
    table([("written", str(written)), ("size", f"{written.stat().st_size / 2**20:.1f} MiB")])
    return DONE


def compare(chosen: argparse.Namespace) -> int:
    """Print how far two predictions agree."""
    from napari_xt.io.compare import compare

    with progress(unit="row", leave=False) as show:
        found = compare(chosen.a, chosen.b, progress=show)
    if chosen.json:
        print(found.to_json(orient="records", indent=2, double_precision=15))
    else:
        found["class"] = found["class"].map(printable)
        print(found.to_string(index=False, na_rep="", float_format="{:.3f}".format))
    return DONE


def plan(chosen: argparse.Namespace) -> int:
    """Print the pre-flight card, with the time that a probe tells."""
    from napari_xt.engine.card import card
    from napari_xt.engine.plan import plan
    from napari_xt.engine.probe import measure, ready
    from napari_xt.model.checkpoint import load_model
    from napari_xt.model.zoo import describe, find_model

    model, settings = wanted(chosen)
    known = describe(find_model(model))
    made = plan(chosen.image, known, settings, ready(known, settings))
    if made.seconds is None:
        found = measure(load_model(known), settings.device, settings.precision)
        made = plan(chosen.image, known, settings, found)
    table(card(made))
    return DONE


def wanted(chosen: argparse.Namespace) -> tuple[str, RunSettings]:
    """The model and the settings of a run: what was chosen, else what the file of settings says."""
    from napari_xt.engine.script import read_settings

    model, settings = read_settings(chosen.settings) if chosen.settings else ("canopy", None)
    given = {field.name: getattr(chosen, field.name) for field in fields(RunSettings)}
    options = {name: value for name, value in given.items() if value is not None}
    return model if chosen.model is None else chosen.model, RunSettings.merged(settings, options)


def run(chosen: argparse.Namespace) -> int:
    """Run a model over an image."""
    prediction = _reported(chosen.image, *wanted(chosen), chosen.out)
    return DAMAGED_REGIONS if len(prediction.failed) else DONE


def _reported(
    image: str | Image, model: str, settings: RunSettings, out: str | None, *, bar_in_logs: bool = False
) -> Prediction:
    """Run, with the card before, a bar meanwhile (on a terminal, or asked for) and a table after."""
    from tqdm.auto import tqdm

    from napari_xt.engine.card import card
    from napari_xt.engine.events import Notice, RunFinished, RunStarted, StageProgress
    from napari_xt.engine.run import stream
    from napari_xt.io.prediction import open_prediction

    seen = sys.stderr is not None and (sys.stderr.isatty() or bar_in_logs)
    with closing(stream(image, model, settings, out=out)) as events:
        started = next(event for event in events if isinstance(event, RunStarted))
        table([*card(started.plan), ("store", started.out), ("", "")])
        warn(started.plan.warnings)
        with tqdm(total=started.plan.regions, initial=started.done, unit="region", disable=not seen) as bar:
            for event in events:
                if isinstance(event, StageProgress) and event.stage == "encode":
                    bar.update(event.done - bar.n)
                elif isinstance(event, Notice) and sys.stderr is not None:
                    tqdm.write(f"napari-xt: {printable(event.text)}", file=sys.stderr)
                elif isinstance(event, RunFinished):
                    summary = event.summary
    prediction = open_prediction(started.out, threshold=started.plan.threshold)
    taken = f" and {summary.reused} reused" if summary.reused else ""
    speed = f"{summary.regions}, {summary.encoded} now{taken}, {summary.regions_per_second:.1f} a second"
    table([("regions", speed), *_summary(prediction)])
    return prediction


def _summary(prediction: Prediction) -> list[tuple[str, str]]:
    layout = prediction.layout
    lines = [("failed", f"{len(prediction.failed)} regions")] if len(prediction.failed) else []
    if layout.boxes is not None:
        counts = prediction.boxes["class"].value_counts()
        lines.append(("boxes", ", ".join(f"{counts.get(name, 0)} {name}" for name in layout.boxes)))
    if layout.mask is not None:
        (sy, sx), unit = layout.frame.scale, layout.frame.unit
        square = "px" if unit == "pixel" else f"{unit}\N{SUPERSCRIPT TWO}"
        areas = prediction.area()
        share = 100 / max(1, sum(areas.values()))
        lines += [(f"  {name}", f"{px * sy * sx:.0f} {square} ({px * share:.1f} %)") for name, px in areas.items()]
    if layout.scores is not None and prediction.label:
        likely = sorted(prediction.label.items(), key=lambda item: -item[1])[:LABELS_TOLD]
        lines.append(("label", ", ".join(f"{name} {p:.2f}" for name, p in likely)))
    return [*lines, ("memory", f"{peak_bytes() / 2**30:.2f} GiB at most")]


def models(chosen: argparse.Namespace) -> int:
    """List models, check a file or convert it."""
    from napari_xt.model.zoo import describe, find_model, list_models

    if chosen.action is None:
        table([(info.name, f"{info.card.title} ({', '.join(info.config.outputs)})") for info in list_models()])
        return DONE
    if chosen.file is None or (chosen.action == "convert" and chosen.out is None):
        need = "no file is named", "give the path of a model file, and for convert of the file to write"
        raise SettingsError(f"models {chosen.action}", *need)
    from napari_xt.model.checkpoint import convert_model, load_model

    told = {name: getattr(chosen, name) for name in ("attention", "in_context_patches", "window")}
    info = describe(find_model(chosen.file), **told)
    convert = chosen.action == "convert"
    digest = convert_model(info, chosen.out) if convert else load_model(info).digest
    table([("model", info.name), ("title", info.card.title), ("licence", info.card.licence), ("digest", digest)])
    table([(name, f"{value:.3f}") for name, value in info.card.metrics.items()])
    table([("report", line) for line in info.report])
    table([("written", chosen.out)] if convert else [])
    return DONE


def bench(chosen: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    benches = {"engine": _bench_engine, "context-proof": _bench_context_proof}
    if unknown := [name for name in chosen.name if name not in benches]:
        raise SettingsError(f"benchmark {unknown[0]!r}", "is not known", f"choose of {', '.join(benches)}")
    if chosen.seeds < 1:
        raise SettingsError(f"seeds = {chosen.seeds}", "must be at least 1")
    if chosen.json:
        _check_writable(chosen.json)
    from napari_xt.engine.figures import Figures

    figures = Figures(partial(print, flush=True))
    for name in chosen.name or benches:
        benches[name](figures, chosen)
    figures.write(chosen.json)
    return DONE


def _bench_engine(figures: Figures, chosen: argparse.Namespace) -> None:
    from napari_xt.engine.bench import SIDE, measure

    measure(figures, SIDE if chosen.side is None else chosen.side)


def _bench_context_proof(figures: Figures, chosen: argparse.Namespace) -> None:
    from napari_xt.train import context_proof

    rows = context_proof.compare(seeds=range(chosen.seeds))
    print(context_proof.table(rows))
    figures.figures |= context_proof.figures(rows)


def demo(chosen: argparse.Namespace) -> int:
    """Run the bundled model over the bundled scene, and show what came in napari."""
    if chosen.size:
        return _large_demo(chosen.size, chosen.out)
    if chosen.tour:
        return _tour(chosen.out or "tour", chosen.record)
    _check_screen(chosen.screenshot)
    from napari_xt.plugin.demo import SCENE, held_out_quality, show

    out = chosen.out or "demo.xt.zarr"
    prediction = _reported(str(SCENE), "canopy", RunSettings(restart=True), out, bar_in_logs=True)
    quality = held_out_quality(prediction)
    figures = f"precision {quality.precision:.2f}, recall {quality.recall:.2f}, F1 {quality.f1:.2f} at IoU 0.4"
    counts = f"{quality.predicted} boxes, {quality.drawn} drawn by hand"
    table([("strip", f"never trained on: {figures} ({counts})")])
    show(prediction, chosen.screenshot, stay="NAPARI_XT_VIRTUAL_SCREEN" not in os.environ)
    table([("picture", chosen.screenshot)])
    return DONE


def _tour(folder: str, record: str | None) -> int:
    """All that is to be seen, step by step in napari; what comes is written to a folder."""
    _check_screen(record or folder + "/tour.gif")
    from napari_xt.plugin.demo import tour

    for step in tour(folder, record, stay="NAPARI_XT_VIRTUAL_SCREEN" not in os.environ):
        print(f"- {printable(step.text)}", flush=True)
    return DONE


def _large_demo(size: str, out: str | None) -> int:
    """The scene mirrored to any size, run as one window: stopped or killed, the same command goes on."""
    from napari_xt.io.computed.mirrored import mirrored_scene

    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size)
    if found is None:
        raise SettingsError(f"size = {size!r}", "is not understood", "give WIDTHxHEIGHT in pixels, as 29000x25000")
    width, height = map(int, found.groups())
    with mirrored_scene(height, width) as image:
        place = out or f"demo-{size}.xt.zarr"
        prediction = _reported(image, "canopy", RunSettings(window="global"), place, bar_in_logs=True)
    table([("shown by", f"napari {shlex.quote(str(prediction.path))}")])
    return DAMAGED_REGIONS if len(prediction.failed) else DONE


def _check_screen(screenshot: str) -> None:
    """Find before a run what would keep its end from being shown."""
    if importlib.util.find_spec("napari") is None:
        raise MissingDependencyError("napari", "is not installed", "pip install 'napari-xt[all]'")
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))):
        raise SettingsError("napari", "needs a screen and finds none", "run it on a desktop, or with xvfb-run")
    _check_writable(screenshot)


def _check_writable(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or (os.path.exists(folder) and not os.access(folder, os.W_OK | os.X_OK)):
        raise SettingsError(path, "can't be written", "give another path")
