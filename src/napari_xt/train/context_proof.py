"""Does context help? Each context encoder and none at all, trained alike on a slide where nothing else can help.

    python -m napari_xt.train.context_proof --save context-proof.safetensors

Classes of the synthetic slide are decided at least two regions away (`io.synthetic`). For each seed the region encoder
learns first, from single regions and without any context, to see cells, markers and spots; then it is frozen, and each
context encoder learns with its heads from the same windows in the same order at the same rates. Figures are of a slide
that was never trained on: the one that napari offers as a sample. Knows how to compare; the recipe is in
`context_recipe`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from napari_xt.engine.figures import Figure, Figures
from napari_xt.io.computed.synthetic import SyntheticSlide
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ContextKind, ModelCard
from napari_xt.train.context_recipe import CONFIG, CONTEXT, REGIONS, encode, train_context, train_regions
from napari_xt.train.synthetic_windows import Quality, draw_windows, quality

ENCODERS: tuple[ContextKind, ...] = ("mamba", "transformer_xl", "hyper", "longformer", "none")
SEEDS = (0, 1, 2)
TRAINED_ON, HELD_OUT = SyntheticSlide(seed=1), SyntheticSlide()
WINDOWS, HELD_OUT_WINDOWS = 512, 32
FIGURES = {"mask_f1": "pixels of cells", "score_f1": "regions with cells"}

CARD = ModelCard(
    name="context-proof",
    title="Synthetic proof that context helps",
    licence="BSD-3-Clause; made of random numbers, no data of anybody's",
    provenance=(
        "Trained by napari_xt.train.context_proof on windows of a synthetic slide, computed from a seed; figures "
        "are of another seed's slide. All weights began at random."
    ),
    use="synthetic: only for the synthetic slide, never for real images",
    synthetic=True,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One training: encoder and seed, how good the model is with context and with it switched off, seconds it took."""

    encoder: str
    seed: int
    context: Quality
    switched_off: Quality
    seconds: float


def compare(
    encoders: Sequence[ContextKind] = ENCODERS,
    seeds: Sequence[int] = SEEDS,
    steps: int = CONTEXT.steps,
    save: Path | None = None,
    workers: int | None = None,
) -> list[Row]:
    """Train each encoder with each seed; return a row for each, seed by seed.

    Parameters
    ----------
    encoders, seeds
        What to compare, and how often.
    steps
        Of each context encoder's training.
    save
        Where to write the model of the first encoder and seed.
    workers
        Processes side by side, each with one thread and one seed at a time; default: one for each core.
    """
    workers = min(workers or os.cpu_count() or 1, len(seeds))
    jobs = [(tuple(encoders), seed, steps, save if seed == seeds[0] else None) for seed in seeds]
    if workers == 1:
        with _one_thread():
            return [row for job in jobs for row in _train_all(*job)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        return [row for rows in pool.map(_train_all, *zip(*jobs, strict=True)) for row in rows]


def _train_all(encoders: Sequence[ContextKind], seed: int, steps: int, save: Path | None) -> list[Row]:
    """One seed: the region encoder once, then each context encoder on what it sees."""
    windows = draw_windows(TRAINED_ON, WINDOWS, 0, step=CONFIG.local.stride)
    held_out = draw_windows(HELD_OUT, HELD_OUT_WINDOWS, 0)
    base = train_regions(windows, replace(REGIONS, seed=seed))
    encoded = encode(base, windows)
    rows, models = [], []
    for kind in encoders:
        started = time.monotonic()
        model = train_context(base, kind, encoded, windows, replace(CONTEXT, steps=steps, seed=seed))
        seconds = time.monotonic() - started
        model = model.half().float()  # as it is stored
        rows.append(Row(kind, seed, *quality(model, held_out), seconds))
        models.append(model)
    if save is not None:
        save_model(models[0], save, replace(CARD, metrics=metrics(rows)))
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure by seed, 0..1, and what it gains over that of no context with the same seed."""

    seeds: Mapping[int, float]
    gains: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(list(self.seeds.values())))

    @property
    def sd(self) -> float:
        """Standard deviation of the sample; 0 of a single seed."""
        return float(np.std(list(self.seeds.values()), ddof=1)) if len(self.seeds) > 1 else 0.0

    @property
    def gain(self) -> float | None:
        """Mean gain; None where no context was not trained."""
        return float(np.mean(self.gains)) if self.gains else None


def metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Figures of the first row's model: with context, with context switched off, and of a model trained without."""
    found = {"": rows[0].context, "_switched_off": rows[0].switched_off}
    if none := [row.context for row in rows if row.encoder == "none"]:
        found["_none"] = none[0]
    return {f"{figure}{name}": getattr(q, figure) for name, q in found.items() for figure in FIGURES}


def spreads(rows: Sequence[Row], figure: str) -> dict[str, Spread]:
    """A figure of each encoder over its seeds, in the order of ``rows``."""
    encoders = dict.fromkeys(row.encoder for row in rows)
    values = {e: {r.seed: float(getattr(r.context, figure)) for r in rows if r.encoder == e} for e in encoders}
    none = values.get("none", {})
    return {e: Spread(seeds, tuple(v - none[s] for s, v in seeds.items() if s in none)) for e, seeds in values.items()}


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """The comparison by name: ``value`` is the mean over seeds, 0..1."""
    seconds = {e: float(np.mean([r.seconds for r in rows if r.encoder == e])) for e in {r.encoder for r in rows}}
    return {
        f"context_proof.{figure}.{encoder}": {
            "value": spread.mean,
            "unit": "F1",
            "detail": {
                "seeds": {str(seed): value for seed, value in spread.seeds.items()},
                "sd": spread.sd,
                "gain_over_none": spread.gain,
                "training_seconds": seconds[encoder],
            },
        }
        for figure in FIGURES
        for encoder, spread in spreads(rows, figure).items()
    }


def write_figures(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write the comparison and what machine it ran on as JSON."""
    told = Figures(lambda _: None)
    told.figures |= figures(rows)
    told.write(path)


def table(rows: Sequence[Row]) -> str:
    """The comparison as text: a line for each encoder, F1 in points (0..100)."""
    lines = []
    for figure, title in FIGURES.items():
        found = spreads(rows, figure)
        seeds = next(iter(found.values())).seeds
        head = "".join(f"seed {seed}".rjust(9) for seed in seeds)
        lines += [f"{title}, macro-F1", f"{'':16}{head}{'mean':>9}{'sd':>7}{'gain over none':>17}"]
        for encoder, spread in found.items():
            each = "".join(f"{100 * value:9.1f}" for value in spread.seeds.values())
            gain = "" if spread.gain is None or encoder == "none" else f"{100 * spread.gain:+17.1f}"
            lines.append(f"{encoder:16}{each}{100 * spread.mean:9.1f}{100 * spread.sd:7.1f}{gain}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Compare, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description="Train each context encoder and none at all on a synthetic slide.")
    parser.add_argument("--encoders", nargs="+", choices=get_args(ContextKind), default=ENCODERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=CONTEXT.steps, help="of each context encoder's training")
    parser.add_argument("--workers", type=int, help="seeds trained side by side (default: one for each core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the model of the first encoder and seed")
    chosen = parser.parse_args()
    rows = compare(chosen.encoders, chosen.seeds, chosen.steps, chosen.save, chosen.workers)
    print(table(rows))  # noqa: T201
    if chosen.json:
        write_figures(rows, chosen.json)


if __name__ == "__main__":
    main()
