"""Runs over images of a viewer with and without context: which there are, which is shown, and how to show the other.

Knows run handles; must not know widgets, events or threads.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.engine.output import SUFFIX
from napari_xt.plugin.run import Job, RunHandle, start


class Contexts:
    """What was run over each image of a viewer, as far as it is or may be shown again."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._runs: dict[Layer, list[RunHandle]] = {}
        viewer.layers.events.removed.connect(self._forget)

    def take(self, handle: RunHandle) -> None:
        """Remember a run that has begun; of earlier ones over its image only what the switch can still show."""
        shown = self._shown(handle.image)
        wanted = [h for h in (shown, handle) if h is not None]
        others = [h for h in self._of(handle.image) if h not in wanted and any(_other(h, w) for w in wanted)]
        self._runs[handle.image] = [*others[-1:], *wanted]

    def current(self, layer: Layer) -> RunHandle | None:
        """The run over ``layer`` that is going on, else the one that is shown, None where there is neither."""
        going_on = [handle for handle in self._of(layer) if not handle.state.over]
        return going_on[-1] if going_on else self._shown(layer)

    def of_store(self, store: Path) -> RunHandle | None:
        """The run that is writing or has written ``store``, where it can still be shown."""
        every = [handle for runs in self._runs.values() for handle in runs if handle.state.out == str(store)]
        return next((handle for handle in reversed(every) if handle.whole or not handle.state.over), None)

    def show(self, handle: RunHandle, context: bool) -> RunHandle:
        """Show what ``handle`` ran with or without context, in the place of what is shown over its image.

        It is run, or gone on with, where it is not there yet.

        Raises
        ------
        XTError
            It can't be run, or another run is going on in the viewer.
        """
        job = handle.job.with_context(context)
        alike = [h for h in self._of(handle.image) if h.layers_run == handle.layers_run]
        known = [h for h in alike if _same(h.job, job)]
        if known and known[-1].whole:
            known[-1].show()
            return known[-1]
        if known:
            job = known[-1].job.with_context(context)
        elif context != handle.job.settings.context:
            job = replace(job, out=beside(job.out, context))
        return start(self._viewer, handle.layers_run, job)

    def place(self, layer: Layer | None, out: str | None, context: bool) -> str | os.PathLike[str] | None:
        """Where a run goes that is to go to ``out``: beside it where its other half lies there."""
        runs = self._of(layer) if layer is not None else []
        taken = any(h.job.out == out and h.job.settings.context != context for h in runs)
        return beside(out, context) if taken else out

    def _of(self, layer: Layer) -> list[RunHandle]:
        return self._runs.get(layer, [])

    def _shown(self, layer: Layer) -> RunHandle | None:
        return next((handle for handle in reversed(self._of(layer)) if handle.shown), None)

    def _forget(self, event: Any) -> None:
        self._runs.pop(event.value, None)


def beside(out: str | os.PathLike[str] | None, context: bool) -> Path | None:
    """The store of the other half of what lies at ``out``; None leaves the choice to the run."""
    if out is None:
        return None
    path = Path(out)
    return path.with_name(f"{path.name.removesuffix(SUFFIX)}-{'with' if context else 'without'}-context{SUFFIX}")


def _same(one: Job, other: Job) -> bool:
    """Whether two jobs give the same, wherever it goes."""
    plain = [replace(job.settings, restart=False) for job in (one, other)]
    return one.model == other.model and plain[0] == plain[1]


def _other(one: RunHandle, other: RunHandle) -> bool:
    """Whether two runs are the same but for the context."""
    over_same = one.layers_run == other.layers_run
    return over_same and _same(one.job, other.job.with_context(not other.job.settings.context))
