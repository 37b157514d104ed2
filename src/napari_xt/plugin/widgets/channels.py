"""One row for each channel of a model: which of the image's it is. Knows names; must not know images or layers."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

UNSET = "choose"


class ChannelRows(QWidget):
    """Chooses a channel of the image for each channel of a model.

    Attributes
    ----------
    changed
        Another choice stands, whoever made it.
    picked
        The user has made one.
    """

    changed = Signal()
    picked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[QComboBox] = []
        self._offered: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 0, 0, 0)
        self.setToolTip("Which channel of the image each channel of the model is; remembered for the model.")

    def offer(self, wanted: Sequence[str], names: Sequence[str], chosen: Sequence[int] | None) -> None:
        """Show a row for each of ``wanted`` with the image's channels, at first those ``chosen``; none for no names."""
        offered = tuple(wanted) if names else (), tuple(names)
        if offered != self._offered:
            self._offered = offered
            self._build(*offered)
        for row, combo in enumerate(self.rows):
            combo.setCurrentIndex(-1 if chosen is None else chosen[row])
        self.changed.emit()

    @property
    def chosen(self) -> tuple[int, ...] | None:
        """The image's channels in the model's order, None where one is not chosen or there is nothing to choose."""
        found = tuple(combo.currentIndex() for combo in self.rows)
        return found if found and min(found) >= 0 else None

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._offered[1][index] for index in self.chosen or ())

    def _build(self, wanted: Sequence[str], names: Sequence[str]) -> None:
        while self._form.rowCount():
            self._form.removeRow(0)
        self.rows = []
        for name in wanted:
            combo = QComboBox()
            combo.addItems(list(names))
            combo.setPlaceholderText(UNSET)
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.activated.connect(self._pick)
            self._form.addRow(name, combo)
            self.rows.append(combo)

    def _pick(self) -> None:
        self.changed.emit()
        self.picked.emit()
