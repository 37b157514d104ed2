"""The command line: parse, call the API, print. Knows no tensors, no stores and no screens of its own."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, get_args, get_type_hints

from napari_xt._version import __version__
from napari_xt.engine.machine import peak_bytes
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import MissingDependencyError, SettingsError, XTError, printable

if TYPE_CHECKING:
    from napari_xt.engine.figures import Figures
    from napari_xt.io.image import Image
    from napari_xt.io.prediction import Prediction

DONE, WRONG_INPUT, DAMAGED_REGIONS = 0, 2, 3  # exit codes; stopped by a signal: 128 + its number
CLOSED_PIPE = 128 + 13  # SIGPIPE, which Windows does not have
LABELS_TOLD = 5
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(self.prog, message, f"see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    SIGINT, SIGTERM and, but for ``nohup``, SIGHUP end it in order while it runs on the main thread.

    Parameters
    ----------
    arguments
        Default: those of the process.
    """
    with _signals():
        try:
            code = _called(arguments)
            print(end="", flush=True)  # a pipe that nobody reads is noticed here, not when Python ends
        except XTError as error:
            return _fail(str(error), WRONG_INPUT)
        except _Stopped as stopped:
            why = f"stopped by {signal.Signals(stopped.number).name}"
            return _fail(f"{why}: what is done is kept; run the same command again to go on", 128 + stopped.number)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE
        except OSError as error:
            return _fail(str(XTError(error.filename or "the system", error.strerror or str(error))), WRONG_INPUT)
        return code


@contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    hung_up = getattr(signal, "SIGHUP", None)
    heard = [number for number in SIGNALS if number != hung_up or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _stop:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for later in SIGNALS:
        if signal.getsignal(later) is _stop:
            signal.signal(later, signal.SIG_DFL)  # a second time ends at once, to the very end
    raise _Stopped(number)


def _called(arguments: Sequence[str] | None) -> int:
    try:
        chosen = _parser().parse_args(arguments)
    except SystemExit as end:  # --help and --version have printed
        return int(end.code or DONE)
    verb: Callable[[argparse.Namespace], int] = chosen.verb
    return verb(chosen)


def _fail(sentence: str, code: int) -> int:
    print(f"napari-xt: error: {printable(sentence)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="napari-xt", description="xT over images far larger than memory.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    info = _verb(verbs, "info", _info, "what an image file holds")
    info.add_argument("image")
    info.add_argument("--json", action="store_true", help="as JSON")
    for name, call, text in (("plan", _plan, "what a run would do"), ("run", _run, "run a model over an image")):
        verb = _verb(verbs, name, call, text)
        verb.add_argument("image")
        verb.add_argument("--model", default="canopy", help="a bundled model's name or a file (default: canopy)")
        _add_settings(verb)
    verb.add_argument("--out", help="the store, NAME.xt.zarr (default: beside the image)")
    models = _verb(verbs, "models", _models, "list the bundled models, check a model file, or convert a released one")
    models.add_argument("action", nargs="?", choices=["check", "convert"])
    models.add_argument("file", nargs="?", help="a .safetensors or released .ckpt file, or hf:owner/name/file")
    models.add_argument("out", nargs="?", help="convert: the .safetensors file to write")
    models.add_argument("--attention", choices=["hyper", "naive"], help="of a released checkpoint that does not say")
    models.add_argument("--in-context-patches", type=int, help="of a released checkpoint that does not say")
    models.add_argument("--window", type=int, help="regions along a window of a released checkpoint")
    bench = _verb(verbs, "bench", _bench, "measure what the documentation claims, on this machine")
    bench.add_argument("name", nargs="*", metavar="NAME", help="of engine, context-proof (default: both)")
    bench.add_argument("--side", type=int, help="engine: of the image, px (default: 6144)")
    bench.add_argument("--seeds", type=int, default=3, help="context-proof: how often each is trained (default: 3)")
    bench.add_argument("--json", help="write the figures to this file, too")
    demo = _verb(verbs, "demo", _demo, "find tree crowns in the bundled aerial image and show them in napari")
    demo.add_argument("--size", help="of the image mirrored to WIDTHxHEIGHT pixels, as one window, and no picture")
    demo.add_argument("--out", help="the store (default: demo.xt.zarr, or demo-WIDTHxHEIGHT.xt.zarr)")
    demo.add_argument("--screenshot", default="demo.png", help="the picture of napari (default: demo.png)")
    return parser


def _verb(
    verbs: argparse._SubParsersAction[_Parser], name: str, call: Callable[[argparse.Namespace], int], text: str
) -> _Parser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    verb.set_defaults(verb=call)
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


def _settings(chosen: argparse.Namespace) -> RunSettings:
    return RunSettings.of(**{field.name: getattr(chosen, field.name) for field in fields(RunSettings)})


def _info(chosen: argparse.Namespace) -> int:
    from napari_xt.io.image import open_image

    with open_image(chosen.image) as image:
        facts = {
            "image": image.name,
            "axes": image.axes,
            "levels": [list(shape) for shape in image.level_shapes],
            "dtype": str(image.dtype),
            "channels": list(image.channel_names),
            "scale": list(image.scale),
            "unit": image.unit,
        }
    if chosen.json:
        print(json.dumps(facts, indent=2))
    else:
        _table([(name, _words(value)) for name, value in facts.items()])
    return DONE


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(" x ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return str(value)


def _plan(chosen: argparse.Namespace) -> int:
    from napari_xt.engine.card import card
    from napari_xt.engine.plan import plan
    from napari_xt.engine.probe import measure, ready
    from napari_xt.model.checkpoint import load_model
    from napari_xt.model.zoo import describe, find_model

    settings, known = _settings(chosen), describe(find_model(chosen.model))
    made = plan(chosen.image, known, settings, ready(known, settings))
    if made.seconds is None:
        found = measure(load_model(known), settings.device, settings.precision)
        made = plan(chosen.image, known, settings, found)
    _table(card(made))
    return DONE


def _run(chosen: argparse.Namespace) -> int:
    prediction = _reported(chosen.image, chosen.model, _settings(chosen), chosen.out)
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
        _table([*card(started.plan), ("store", started.out), ("", "")])
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
    _table([("regions", speed), *_summary(prediction)])
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


def _models(chosen: argparse.Namespace) -> int:
    from napari_xt.model.zoo import describe, find_model, list_models

    if chosen.action is None:
        _table([(info.name, f"{info.card.title} ({', '.join(info.config.outputs)})") for info in list_models()])
        return DONE
    if chosen.file is None or (chosen.action == "convert" and chosen.out is None):
        need = "no file is named", "give the path of a model file, and for convert of the file to write"
        raise SettingsError(f"models {chosen.action}", *need)
    from napari_xt.model.checkpoint import convert_model, load_model

    told = {name: getattr(chosen, name) for name in ("attention", "in_context_patches", "window")}
    info = describe(find_model(chosen.file), **told)
    convert = chosen.action == "convert"
    digest = convert_model(info, chosen.out) if convert else load_model(info).digest
    _table([("model", info.name), ("title", info.card.title), ("licence", info.card.licence), ("digest", digest)])
    _table([(name, f"{value:.3f}") for name, value in info.card.metrics.items()])
    _table([("report", line) for line in info.report])
    _table([("written", chosen.out)] if convert else [])
    return DONE


def _bench(chosen: argparse.Namespace) -> int:
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


def _demo(chosen: argparse.Namespace) -> int:
    if chosen.size:
        return _large_demo(chosen.size, chosen.out)
    from napari_xt.plugin.demo import SCENE, held_out_quality, show

    _check_screen(chosen.screenshot)
    out = chosen.out or "demo.xt.zarr"
    prediction = _reported(str(SCENE), "canopy", RunSettings(restart=True), out, bar_in_logs=True)
    quality = held_out_quality(prediction)
    figures = f"precision {quality.precision:.2f}, recall {quality.recall:.2f}, F1 {quality.f1:.2f} at IoU 0.4"
    counts = f"{quality.predicted} boxes, {quality.drawn} drawn by hand"
    _table([("strip", f"never trained on: {figures} ({counts})")])
    show(prediction, chosen.screenshot, stay="NAPARI_XT_VIRTUAL_SCREEN" not in os.environ)
    _table([("picture", chosen.screenshot)])
    return DONE


def _large_demo(size: str, out: str | None) -> int:
    """The scene mirrored to any size, run as one window: stopped or killed, the same command goes on."""
    from napari_xt.io.mirrored import mirrored_scene

    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size)
    if found is None:
        raise SettingsError(f"size = {size!r}", "is not understood", "give WIDTHxHEIGHT in pixels, as 29000x25000")
    width, height = map(int, found.groups())
    with mirrored_scene(height, width) as image:
        place = out or f"demo-{size}.xt.zarr"
        prediction = _reported(image, "canopy", RunSettings(window="global"), place, bar_in_logs=True)
    _table([("shown by", f"napari {shlex.quote(str(prediction.path))}")])
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


def _table(lines: Sequence[tuple[str, str]]) -> None:
    """Print names and texts in two columns, whatever they hold and whatever standard output can show."""
    width = max((len(name) for name, _ in lines), default=0) + 2
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for name, text in lines:
        line = printable(f"{name:<{width}}{text}".rstrip())
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
