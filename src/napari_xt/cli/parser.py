"""The verbs of the command line and their options. Knows what each verb calls, and nothing of what that does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import NoReturn, TypeAlias, get_args, get_type_hints

from napari_xt._version import __version__
from napari_xt.cli import corrected
from napari_xt.cli import verbs as call
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(self.prog, message, f"see {self.prog} --help")


Verbs: TypeAlias = "argparse._SubParsersAction[_Parser]"  # noqa: SLF001 - argparse gives it no other name


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``verb`` of what it returns is to be called with it."""
    whole = _Parser(prog="napari-xt", description="xT over images far larger than memory.", allow_abbrev=False)
    whole.add_argument("--version", action="version", version=__version__)
    verbs = whole.add_subparsers(required=True, metavar="VERB")
    for add in (
        _add_info,
        _add_plan_and_run,
        _add_convert,
        _add_export,
        _add_pack,
        _add_compare,
        _add_corrected,
        _add_models,
        _add_bench,
        _add_demo,
    ):
        add(verbs)
    return whole


def _add_info(verbs: Verbs) -> None:
    info = _verb(verbs, "info", call.info, "what an image file holds")
    info.add_argument("image")
    info.add_argument("--json", action="store_true", help="as JSON")


def _add_plan_and_run(verbs: Verbs) -> None:
    plan = _verb(verbs, "plan", call.plan, "what a run would do")
    run = _verb(verbs, "run", call.run, "run a model over an image", keeps=True)
    for verb in (plan, run):
        verb.add_argument("image")
        verb.add_argument("--model", help="a bundled model's name or a file (default: canopy)")
        verb.add_argument("--settings", metavar="FILE", help="model and settings as the widget saved them")
        _add_settings(verb)
    run.add_argument("--out", help="the store, NAME.xt.zarr (default: beside the image)")


def _add_convert(verbs: Verbs) -> None:
    convert = _verb(verbs, "convert", call.convert, "write an image as OME-Zarr, with a pyramid", keeps=True)
    convert.add_argument("image")
    convert.add_argument("out", help="the folder to make, as NAME.ome.zarr")
    convert.add_argument("--ome-zarr", default="0.5", metavar="VERSION", help="0.5 or 0.4 (default: 0.5)")
    convert.add_argument("--chunks", type=int, default=512, help="pixels along a chunk (default: 512)")
    convert.add_argument("--shards", type=int, help="pixels along a shard, a file of several chunks (default: none)")
    convert.add_argument("--compressor", default="zstd", help="zstd, blosc, gzip or none (default: zstd)")
    convert.add_argument("--pixel-size", help='of level 0, as "0.5 um", where the file does not say it or lies')
    convert.add_argument("--restart", action="store_true", help="begin anew, and replace what lies at OUT")


def _add_export(verbs: Verbs) -> None:
    export = _verb(verbs, "export", call.export, "write a prediction to a file that other tools read")
    export.add_argument("prediction", help="the store, NAME.xt.zarr")
    export.add_argument("out", help="the file; its name's end says the format, as .geojson, .csv or .ome.tif")
    export.add_argument("--format", help="where the name does not say it")
    export.add_argument("--what", help="of boxes, mask, regions, probability, with commas (default: what there is)")
    export.add_argument("--source", default="final", help="final (with corrections) or prediction (default: final)")
    mask = "what a class needs against the background, 0 to 1, to be in the mask (default: the run's, 0.5)"
    export.add_argument("--mask-threshold", type=float, metavar="SHARE", help=mask)
    boxes = "lowest score of a box, 0 to 1 (default: the run's)"
    export.add_argument("--box-threshold", "--threshold", type=float, metavar="SCORE", help=boxes)
    export.add_argument("--flavour", default="qupath", help="of GeoJSON: qupath or map (default: qupath)")
    export.add_argument("--simplify", type=float, default=0.0, help="polygons' tolerance, pixels (default: 0, exact)")


def _add_pack(verbs: Verbs) -> None:
    pack = _verb(verbs, "pack", call.pack, "write a prediction as one zip file, for who has neither image nor model")
    pack.add_argument("prediction", help="the store, NAME.xt.zarr")
    pack.add_argument("out", nargs="?", help="the file, NAME.xt.zarr.zip (default: beside the store)")


def _add_compare(verbs: Verbs) -> None:
    compare = _verb(verbs, "compare", call.compare, "say by class how far two predictions of one grid agree")
    compare.add_argument("a", help="a store, NAME.xt.zarr; the truth, as far as precision and recall go")
    compare.add_argument("b", help="the other store")
    compare.add_argument("--json", action="store_true", help="as JSON")


def _add_corrected(verbs: Verbs) -> None:
    take = _verb(verbs, "import", corrected.take_in, "take areas that were drawn elsewhere as corrections")
    take.add_argument("prediction", help="the store, NAME.xt.zarr")
    take.add_argument("file", help="GeoJSON of polygons with classes, as QuPath or GIS write it")
    take.add_argument("--check", action="store_true", help="only say what it holds, and whether it can be taken")
    take.add_argument("--author", help="who the log says it was (default: the user)")
    refine = _verb(verbs, "refine", corrected.refine, "have a model learn from what was corrected of a prediction")
    refine.add_argument("prediction", help="the store, NAME.xt.zarr, of a run with --keep features")
    refine.add_argument("--model", help="that learns (default: the prediction's)")
    refine.add_argument("--out", help="the file to write, NAME.safetensors (default: NAME+1 beside the prediction)")
    refine.add_argument("--steps", type=int, help="of learning (default: as the model needs)")
    refine.add_argument("--seed", type=int, help="of everything random (default: 0)")
    again = "run the refined model over the image, into NAME+1.xt.zarr with the corrections (default: yes)"
    refine.add_argument("--predict", action=argparse.BooleanOptionalAction, default=True, help=again)
    crops = _verb(verbs, "training-set", corrected.training_set, "add corrected regions to a folder of training crops")
    crops.add_argument("prediction", help="the store, NAME.xt.zarr")
    crops.add_argument("folder", help="of this or other predictions, or new")


def _add_models(verbs: Verbs) -> None:
    models = _verb(
        verbs, "models", call.models, "list the bundled models, check a model file, or convert a released one"
    )
    models.add_argument("action", nargs="?", choices=["check", "convert"])
    models.add_argument("file", nargs="?", help="a .safetensors or released .ckpt file, or hf:owner/name/file")
    models.add_argument("out", nargs="?", help="convert: the .safetensors file to write")
    models.add_argument("--attention", choices=["hyper", "naive"], help="of a released checkpoint that does not say")
    models.add_argument("--in-context-patches", type=int, help="of a released checkpoint that does not say")
    models.add_argument("--window", type=int, help="regions along a window of a released checkpoint")


def _add_bench(verbs: Verbs) -> None:
    bench = _verb(verbs, "bench", call.bench, "measure what the documentation claims, on this machine")
    bench.add_argument("name", nargs="*", metavar="NAME", help="of engine, context-proof (default: both)")
    bench.add_argument("--side", type=int, help="engine: of the image, px (default: 12288)")
    bench.add_argument("--seeds", type=int, default=3, help="context-proof: how often each is trained (default: 3)")
    bench.add_argument("--json", help="write the figures to this file, too")


def _add_demo(verbs: Verbs) -> None:
    demo = _verb(
        verbs, "demo", call.demo, "find tree crowns in the bundled aerial image and show them in napari", keeps=True
    )
    demo.add_argument("--size", help="of the image mirrored to WIDTHxHEIGHT pixels, as one window, and no picture")
    demo.add_argument("--tour", action="store_true", help="all there is to see, step by step in napari, some minutes")
    demo.add_argument("--record", metavar="FILE", help="of the tour: a GIF of the window")
    demo.add_argument("--out", help="the store (default: demo.xt.zarr, or demo-WIDTHxHEIGHT.xt.zarr; tour: a folder)")
    demo.add_argument("--screenshot", default="demo.png", help="the picture of napari (default: demo.png)")


def _verb(
    verbs: Verbs, name: str, does: Callable[[argparse.Namespace], int], text: str, *, keeps: bool = False
) -> _Parser:
    """``keeps`` says that what it has done when it is stopped is gone on with by the same command."""
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    verb.set_defaults(verb=does, keeps=keeps)
    return verb


def _add_settings(verb: _Parser) -> None:
    """One option for each field of `RunSettings`; they are read by `RunSettings.of`."""
    group, kinds = verb.add_argument_group("settings"), get_type_hints(RunSettings)
    for field in fields(RunSettings):
        flag = f"--{field.name.replace('_', '-')}"
        action = (
            argparse.BooleanOptionalAction if bool in (kinds[field.name], *get_args(kinds[field.name])) else "store"
        )
        group.add_argument(flag, action=action, default=None, help=field.metadata["help"])
