"""The pre-flight card against runs: memory, disk and time as predicted and as they came, each run in a fresh process.

Memory is the kernel's high-water mark (VmHWM) of a process that plans and runs, disk the sizes of all files of the
complete store, time that of the run. Images are the bundled aerial scene and its mirror images. ``--parts`` tells what
the predictions are made of: change the constants in ``napari_xt.engine.estimate`` by it where the engine has changed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from figures import Figures, apart, options, resident, tell

import napari_xt as xt
from napari_xt.engine import estimate, plan
from napari_xt.engine.events import RunFinished
from napari_xt.engine.probe import measure
from napari_xt.io.computed.mirrored import mirrored_scene

NEW = {"window": 4, "seed": 1}


@dataclass(frozen=True)
class Case:
    """A run: the image's height and width, a bundled model or the region encoder of a new one, settings."""

    height: int
    width: int
    model: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its figures."""
        told = "".join(f".{key}_{value}" for key, value in self.settings.items())
        return f"{self.model}.{self.height}x{self.width}{told}".replace(",", "+")


QUICK = [Case(600, 500, "canopy", {"window": 2})]
CASES = [
    Case(2472, 2299, "canopy", {}),
    Case(4000, 4000, "canopy", {"window": 4}),
    Case(4000, 4000, "canopy", {"window": 8}),
    Case(4000, 4000, "canopy", {"window": 8, "workers": 1}),
    Case(4000, 4000, "canopy", {"window": 8, "precision": "float32"}),
    Case(4000, 4000, "canopy", {"window": 8, "outputs": "scores"}),
    Case(4000, 4000, "canopy", {"window": 8, "outputs": "mask", "keep": "features"}),
    Case(4000, 4000, "canopy", {"window": 16}),
    Case(4000, 4000, "swinv2_tiny_window8_256", {"window": 4}),
    Case(4000, 4000, "convnext_atto", {"window": 8}),
    Case(12_000, 10_000, "canopy", {"window": 8}),
    Case(12_000, 10_000, "canopy", {"window": "global", "keep": "nothing"}),
    Case(12_000, 10_000, "canopy", {"window": "global", "keep": "features"}),
    Case(25_000, 29_000, "canopy", {"window": "global"}),
]


def one(case: Case) -> dict[str, Any]:
    """Plan and run a case in this process."""
    bundled = case.model in {info.name for info in xt.list_models()}
    model = xt.load_model(case.model) if bundled else xt.new_model(["thing"], case.model, **NEW)
    parts: list[estimate.Needs] = []
    plain = plan.needs
    plan.needs = lambda subject: parts.append(plain(subject)) or parts[-1]  # type: ignore[func-returns-value]
    with mirrored_scene(case.height, case.width) as image, TemporaryDirectory() as folder:
        before = plan.plan(image, model, **case.settings)
        out = Path(folder, "out.xt.zarr")
        finished = next(e for e in xt.stream(image, model, out=out, **case.settings) if isinstance(e, RunFinished))
        disk = {part.name: _size(part) for part in out.iterdir()}
    return {
        "memory": [before.memory_bytes, resident("VmHWM")],
        "disk": [before.disk_bytes, sum(disk.values())],
        "seconds": [before.seconds or 0.0, finished.summary.seconds],
        "parts": {"memory": dict(parts[0].memory), "disk": dict(parts[0].disk), "found": disk},
    }


def probe(case: Case) -> dict[str, Any]:
    """Measure the model in this process, so that a later plan knows it."""
    bundled = case.model in {info.name for info in xt.list_models()}
    model = xt.load_model(case.model) if bundled else xt.new_model(["thing"], case.model, **NEW)
    found = measure(model, precision=case.settings.get("precision", "auto"))
    assert found.measured is not None
    return {"seconds": found.measured.seconds}


def compare(figures: Figures, cases: list[Case], *, parts: bool) -> None:
    """Run all cases; the figures are predicted over measured."""
    for case in cases:
        told = json.dumps([case.height, case.width, case.model, case.settings])
        apart(__file__, "--probe", told)
        found = apart(__file__, "--one", told)
        for what, unit, scale in (("memory", "MiB", 2**20), ("disk", "MB", 1e6), ("seconds", "s", 1)):
            said, came = (value / scale for value in found[what])
            figures.add(f"preflight.{what}.{case.name}", said / came, "predicted", **{f"said_{unit}": said, unit: came})
        if parts:
            for what, values in found["parts"].items():
                tell(f"  {what}: " + ", ".join(f"{name} {value / 1e6:.3g}" for name, value in values.items()) + " MB")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--parts", action="store_true", help="what the predictions are made of")
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--one", help="one run, in this process, as JSON")
    parser.add_argument("--probe", help="one probe, in this process, as JSON")
    return parser.parse_args()


def main() -> None:
    """Compare, print, and write what is asked for."""
    given = arguments()
    for call, told in ((one, given.one), (probe, given.probe)):
        if told:
            tell(json.dumps(call(Case(*json.loads(told)))))
            return
    figures = Figures()
    cases = QUICK if given.quick else [case for case in CASES if given.only in case.name]
    compare(figures, cases, parts=given.parts)
    figures.write(given.json)


if __name__ == "__main__":
    main()
