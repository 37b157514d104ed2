"""The fold *Refine*: what is known of each class, learning from it with its costs, and what that brought.

Knows a `Correcting` and a `Refining`; must not know the other folds, stores or networks.
"""

from __future__ import annotations

from html import escape
from typing import Final

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_xt.annotate.truth import Truths
from napari_xt.errors import XTError
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.correct.models_at_hand import is_new
from napari_xt.plugin.correct.refining import Learned, Refining, labelled
from napari_xt.plugin.widgets.curve import Curve
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.task import Task

REFINE: Final = (
    "<p>Train the model's heads on what was corrected: all of the regions that were accepted or fixed, elsewhere what "
    "was painted and the boxes that were edited. The new model is a new file, and so is its prediction; the old ones "
    "stay.</p>"
)
TOLD: Final = {
    "idle": "",
    "waiting": "Learns as soon as the image is encoded. Go on correcting.",
    "learning": "Learning. Go on correcting: what comes from now on counts next time.",
    "predicting": "The new model runs, what is in view first. Your corrections come back when it is through.",
    "carrying": "Carrying the corrections over.",
}
FIGURES: Final = {"mask_f1": "mask F1", "box_f1": "box F1", "score_accuracy": "region classes right"}


class RefineBar(QWidget):
    """A fold of *Correct and refine*.

    Parameters
    ----------
    correcting
        What is corrected.

    Attributes
    ----------
    refining
        What *Refine* does.
    """

    def __init__(self, correcting: Correcting) -> None:
        super().__init__()
        self._correcting = correcting
        self._counting = Task(correcting.viewer, self)
        self._working = Task(correcting.viewer, self)
        self.refining = Refining(correcting, self._working)
        self.known, self.told, self.figures = QLabel(), QLabel(), QLabel()
        self.curve = Curve("Mean cost of the last steps")
        self.refine_button, self.stop_button = QPushButton("Refine"), QPushButton("Stop")
        self._arrange()
        self.refine_button.clicked.connect(self._start)
        self.stop_button.clicked.connect(self.refining.stop)
        self._working.progress.connect(self._take)
        self.refining.changed.connect(self._show)
        self.refining.failed.connect(self._tell)
        self.destroyed.connect(self.refining.end)
        self.refresh()

    def refresh(self) -> None:
        """Show what is open now."""
        self._show()
        if self.isVisible():
            self._count()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Count what is known, which nobody saw before."""
        super().showEvent(event)
        self._count()

    def _arrange(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.refine_button, 2)
        buttons.addWidget(self.stop_button, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.known)
        column.addLayout(buttons)
        for view in (self.told, self.curve, self.figures):
            column.addWidget(view)
        for label in (self.known, self.told, self.figures):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.told.setTextFormat(Qt.TextFormat.PlainText)
        self.refine_button.setToolTip(REFINE)
        self.stop_button.setToolTip("Stop what goes on; the old model and its prediction stay as they are.")

    def _start(self) -> None:
        try:
            self.refining.start()
        except XTError as error:
            self._tell(str(error))

    def _take(self, _done: int, _total: int) -> None:
        if alive(self):
            self.refining.take()

    def _tell(self, why: str) -> None:
        if alive(self):
            show_error(why)
            self.told.setText(why)
            self.told.show()

    def _show(self) -> None:
        if not alive(self):
            return
        refining, prediction = self.refining, self._correcting.prediction
        self.refine_button.setText("Learn" if prediction is not None and is_new(prediction) else "Refine")
        self.refine_button.setEnabled(prediction is not None and not refining.busy)
        self.stop_button.setEnabled(refining.phase in ("waiting", "learning", "predicting"))
        if refining.busy:
            self.told.setText(TOLD[refining.phase])
        elif self.told.text() in TOLD.values():
            self.told.clear()
        self.told.setVisible(bool(self.told.text()))
        done, total = refining.steps
        self.curve.show_values(refining.costs, done / total if total else 1.0)
        self.curve.setVisible(bool(refining.costs))
        self.figures.setText(_learned_text(refining.learned) if refining.learned else "")
        self.figures.setVisible(refining.learned is not None)

    def _count(self) -> None:
        """Count in a thread what is known."""
        prediction, known = self._correcting.prediction, self._correcting.corrections
        if prediction is None or known is None:
            self._counting.stop()
            self._show_known(None)
            return
        self._counting.do(lambda _tell: labelled(prediction, known), self._show_known, lambda _: None)

    def _show_known(self, truths: Truths | None) -> None:
        self.known.setText("" if truths is None else _known_text(truths))


def _known_text(truths: Truths) -> str:
    """How much of each class is known, and what is lacking."""
    counts = truths.labelled()
    if not any(True for _ in truths):
        return "Nothing is corrected yet: paint, edit boxes or accept regions."
    most = sum(counts.values()) or 1
    rows = [
        f"<tr><td>{escape(name)}&nbsp;&nbsp;</td><td align='right'>{count:,} px</td>"
        f"<td align='right'>&nbsp;&nbsp;{100 * count / most:.0f} %</td></tr>"
        for name, count in counts.items()
    ]
    whole = sum(region.complete for region in truths)
    about = f"Known: {len(truths.regions)} regions, {whole} of them whole"
    return f"{about}<table>{''.join(rows)}</table>{'<br>'.join(map(escape, truths.warnings()))}"


def _learned_text(learned: Learned) -> str:
    """What it brought, on regions that were held out, and where it is."""
    assert learned.path is not None
    names = [name for name in FIGURES if name in learned.before and name in learned.after]
    lines = [f"{FIGURES[name]} {learned.before[name]:.2f} &rarr; <b>{learned.after[name]:.2f}</b>" for name in names]
    held = f"On regions held out: {', '.join(lines)}." if lines else "Too few regions to hold any out."
    place = f"<b>{escape(learned.path.name)}</b> in {learned.seconds:.0f} s."
    return "<br>".join([place, held, *map(escape, learned.warnings)])
