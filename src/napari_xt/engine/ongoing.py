"""A run that is going on: its plan and the parts that work for it.

Knows which parts there are; knows nothing of the order in which they work.
"""

from __future__ import annotations

from dataclasses import dataclass

from napari_xt.engine.encoder import Encoder
from napari_xt.engine.focus import Focus
from napari_xt.engine.plan import Plan
from napari_xt.engine.telling import Teller
from napari_xt.engine.workers import Workers
from napari_xt.engine.writer import Writer
from napari_xt.model.xt import XT


@dataclass(frozen=True, slots=True)
class Ongoing:
    """The parts of a run.

    ``sound`` says that earlier calls had regions that did not fail.
    """

    plan: Plan
    model: XT
    encoder: Encoder
    workers: Workers
    writer: Writer
    teller: Teller
    focus: Focus
    sound: bool = False
