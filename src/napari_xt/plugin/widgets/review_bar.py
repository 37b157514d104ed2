"""The fold *Review*: the queue of regions, and what is said of them.

Knows a `Correcting`; must not know the other folds or how regions are put in order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_xt.annotate.estimate import Estimate
from napari_xt.annotate.queue import By
from napari_xt.errors import XTError
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.plugin.correct.correcting import Correcting, predictions_in
from napari_xt.plugin.correct.review import EVERY, Made, Order, Other, Reviewing, class_names, make
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.task import Task

ORDERS: Final[dict[By, str]] = {
    "uncertainty": "Least certain first",
    "disagreement": "Where another prediction differs",
    "class": "Most of a class first",
    "random": "At random",
}
KEYS: Final = {
    "Next": ("N", "Go on to the next region without a word on this one."),
    "Accept": ("Y", "This region is right as it is; go on."),
    "Fixed": ("G", "This region is right since I corrected it; go on."),
    "Skip": ("U", "I can't say what is right here; go on."),
    "Back": ("Shift-U", "Go back to the region before."),
}
MIXED_TIP = f"One region in {EVERY} is drawn at random: how wrong the whole is, is estimated from these alone."
WORDS: Final = {
    "Next": "the next region of the review",
    "Accept": "this region is right as it is; the next",
    "Fixed": "this region is right since it was corrected; the next",
    "Skip": "leave this region out; the next",
    "Back": "the region of the review before this one",
}
ORDERING, OVER = "Putting the regions in order...", "Every region of this queue was answered; Next looks for more."
ESTIMATED = (
    "Estimated, with its interval of 95 %, from the regions drawn at random that were reviewed, "
    "up to the first of them that was left open: Skip, not Next, passes over one."
)
SOON_MS, MOST = 400, 10**6


class ReviewBar(QWidget):
    """A fold of *Correct and refine*.

    Parameters
    ----------
    correcting
        What is corrected.

    Attributes
    ----------
    reviewing
        What is reviewed.
    ordering, estimating
        What is being worked at.
    """

    def __init__(self, correcting: Correcting) -> None:
        super().__init__()
        self._correcting = correcting
        self._known: Corrections | None = None
        self._others: list[Other] = []
        self.reviewing = Reviewing(correcting)
        self.ordering, self.estimating = Task(correcting.viewer, self), Task(correcting.viewer, self)
        self.by, self.detail, self.most = QComboBox(), QComboBox(), QSpinBox()
        self.mixed, self.progress, self.told = QCheckBox(f"every {EVERY}th at random"), QProgressBar(), QLabel()
        self.faulty, self.wrong = QLabel(), QLabel()
        self.buttons = {name: QPushButton() for name in KEYS}
        self._soon = QTimer(self)
        self._arrange()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show what is open now."""
        known = self._correcting.corrections
        if known is not self._known:
            self._known = known
            self._begin()
        else:
            self.reviewing.follow()
            self._show()
        self._soon.start()

    def start(self) -> None:
        """Put the regions in order, in a thread, and go to the first of them that nobody answered."""
        prediction, known, order = self._correcting.prediction, self._known, self.reviewing.order
        if prediction is None or known is None:
            return
        stores = [store for store, _ in predictions_in(self._correcting.viewer)]
        self.told.setText(ORDERING)
        work = lambda _tell: make(prediction, known, order, stores)  # noqa: E731 - it would read no better
        self.ordering.do(work, partial(self._take, order), self.told.setText)

    def showEvent(self, event: Any) -> None:
        """Begin when the fold is opened."""
        super().showEvent(event)
        if self.reviewing.queue is None and not self.ordering.busy:
            self.start()

    def _arrange(self) -> None:
        for by, text in ORDERS.items():
            self.by.addItem(text, by)
        for combo in (self.by, self.detail):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(12)
        self.most.setRange(0, MOST)
        self.most.setSpecialValueText("all")
        self.most.setToolTip("How many regions are reviewed, the first of this order; 0 is all.")
        self.mixed.setToolTip(MIXED_TIP)
        amount, buttons = QHBoxLayout(), QHBoxLayout()
        amount.addWidget(self.most)
        amount.addWidget(self.mixed, 1)
        buttons.setSpacing(2)
        for name, (key, tip) in KEYS.items():
            button = self.buttons[name]
            button.setText(f"{name} ({key})" if name != "Back" else "<")
            button.setToolTip(f"{tip} ({key})")
            button.setMinimumWidth(10)
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # the keys stay with the canvas
            buttons.addWidget(button, int(name != "Back"))
        form, whole = QFormLayout(), QVBoxLayout(self)
        form.addRow("Order", self.by)
        form.addRow("", self.detail)
        form.addRow("Regions", amount)
        for text, label in (("Faulty regions", self.faulty), ("Wrong pixels", self.wrong)):
            form.addRow(text, label)
        whole.setContentsMargins(0, 0, 0, 0)
        for layout in (form, buttons):
            whole.addLayout(layout)
        whole.addWidget(self.progress)
        whole.addWidget(self.told)
        for label in (self.told, self.faulty, self.wrong):
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)

    def _connect(self) -> None:
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self._later)
        for combo in (self.by, self.detail):
            combo.activated.connect(self._choose)
        self.most.editingFinished.connect(self._choose)
        self.mixed.clicked.connect(self._choose)
        reviewing = self.reviewing
        answers = {"Accept": "accept", "Fixed": "fix", "Skip": "skip"}
        calls: dict[str, Callable[[], None]] = {name: partial(reviewing.answer, a) for name, a in answers.items()}  # type: ignore[arg-type]
        calls |= {"Next": self._next, "Back": reviewing.back}
        for name, (key, _tip) in KEYS.items():
            do = partial(self._do, calls[name])
            self._correcting.bind(key, WORDS[name], do)
            self.buttons[name].clicked.connect(lambda _on=False, do=do: do())
        self.destroyed.connect(reviewing.end)

    def _begin(self) -> None:
        self.ordering.stop()
        self.estimating.stop()
        self._others = []
        self.reviewing.begin()
        self._offer()
        self.told.clear()
        self._show()
        if self.isVisible():
            self.start()

    def _do(self, call: Callable[[], None]) -> None:
        """Do what a key or a button does; the first one begins."""
        if not alive(self):
            return
        if self.reviewing.queue is None:
            self.start()
            return
        try:
            call()
        except XTError as error:
            show_error(str(error))
        self._show()
        self._soon.start()

    def _next(self) -> None:
        """Go on; from the end in an order that knows what a run has finished meanwhile."""
        if self.reviewing.queue is not None and self.reviewing.queue.current is None:
            self.start()
        else:
            self.reviewing.next()

    def _choose(self, _value: Any = None) -> None:
        """Take the order that the widgets say."""
        by, detail = self.by.currentData(), self.detail.currentData() or ""
        same = by == self.reviewing.order.by
        wanted = Order(
            by,
            class_name=detail if by == "class" and same else "",
            other=detail if by == "disagreement" and same else "",
            most=self.most.value(),
            mixed=self.mixed.isChecked(),
        )
        if wanted != self.reviewing.order:
            self.reviewing.order = wanted
            self._offer()
            self.start()

    def _offer(self) -> None:
        """Show the order, and what it can choose of; where it says nothing, the first."""
        order, prediction = self.reviewing.order, self._correcting.prediction
        names = class_names(prediction) if prediction is not None and order.by == "class" else []
        offers = [Other(name, name) for name in names] if order.by == "class" else self._others
        chosen = order.class_name or order.other
        self.by.setCurrentIndex(self.by.findData(order.by))
        self.detail.clear()
        for data, text in offers:
            self.detail.addItem(text, data)
            self.detail.setItemData(self.detail.count() - 1, data, Qt.ItemDataRole.ToolTipRole)
        self.detail.setCurrentIndex(max(self.detail.findData(chosen), 0) if offers else -1)
        self.detail.setVisible(order.by in ("class", "disagreement"))
        self.most.setValue(order.most)
        self.mixed.setChecked(order.mixed)
        self.mixed.setEnabled(order.by != "random")

    def _take(self, order: Order, made: Made) -> None:
        """Review what was put in order, unless another order is wanted by now."""
        if order != self.reviewing.order:
            return
        self._others = made.others
        self.reviewing.order = made.order
        self.reviewing.take(made.queue)
        self._offer()
        self._show()
        if made.queue is None:
            self.told.setText(made.error)
        else:
            self._correcting.did.emit(made.order.line)
        self._soon.start()

    def _show(self) -> None:
        """Say how far the review is, and where."""
        queue, free = self.reviewing.queue, not self._correcting.read_only
        reviewed, total = (0, 0) if queue is None else (queue.reviewed, len(queue))
        self.progress.setRange(0, max(total, 1))
        self.progress.setValue(reviewed)
        self.progress.setFormat("" if queue is None else str(queue))
        for name, button in self.buttons.items():
            answers = name in ("Accept", "Fixed", "Skip")
            button.setEnabled(self._known is not None and (free or not answers))
        if queue is not None and not self.ordering.busy:
            self.told.setText(OVER if queue.current is None else self._where(*queue.current))

    def _where(self, row: int, col: int) -> str:
        state = self.reviewing.state((row, col))
        return f"Region {row}, {col}{f': {state}' if state else ''}"

    def _later(self) -> None:
        """Remember where one is, and estimate how wrong the whole is."""
        queue = self.reviewing.queue
        if queue is None:
            self._estimated((None, None))
            return
        self.reviewing.keep()
        self.estimating.do(lambda _tell: (queue.faulty_regions(), queue.wrong_pixels()), self._estimated, _nothing)

    def _estimated(self, found: tuple[Estimate | None, Estimate | None]) -> None:
        for label, estimate in zip((self.faulty, self.wrong), found, strict=True):
            label.setText("" if estimate is None else str(estimate))
            label.setToolTip(ESTIMATED)


def _nothing(_why: str) -> None:
    """Leave estimates as they are: what is damaged was said elsewhere."""
