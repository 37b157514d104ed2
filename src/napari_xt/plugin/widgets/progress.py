"""How far each stage of a run is, a bar for each. Knows states of runs; must not know engine, stores or threads."""

from __future__ import annotations

from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_xt.engine.card import duration
from napari_xt.plugin.session import RunState, Stage

STAGES = {"encode": "seen", "decode": "written"}  # by what a user may call it


class StageBars(QWidget):
    """A bar for the regions that the encoder has seen, and one for those whose outputs are written."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self.bars = {stage: QProgressBar() for stage in STAGES}
        for bar in self.bars.values():
            column.addWidget(bar)
        self.show_run(None)

    def show_run(self, state: RunState | None) -> None:
        """Show how far a run is; None for none."""
        for name, bar in self.bars.items():
            stage = state.stages.get(name) if state else None
            _show(bar, state, stage, STAGES[name])
        self.bars["decode"].setVisible(state is not None and not state.over and "decode" in state.stages)


def _show(bar: QProgressBar, state: RunState | None, stage: Stage | None, word: str) -> None:
    if state is None:
        bar.setRange(0, 1)
        bar.setFormat("")
        return
    # a range of 0 to 0 shows that something goes on
    bar.setRange(0, state.total if state.total or state.over else 0)
    done = state.done if word == STAGES["encode"] else stage.done if stage else 0
    left = f", {stage.rate:.1f}/s, {duration(stage.left_s)} left" if stage and stage.left_s and not state.over else ""
    bar.setFormat(f"%v of %m regions {word}{left}")
    bar.setValue(done)
