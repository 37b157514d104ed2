"""A small histogram in the colours of the theme. Knows counts; must not know what is counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QPainter, QPaintEvent
from qtpy.QtWidgets import QWidget

HEIGHT_PX = 40
PALE = 0.35  # what lies outside of the range


class Histogram(QWidget):
    """Bars over 0..1; those outside of a range are pale."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.counts: NDArray[np.int64] = np.zeros(1, np.int64)
        self._range = (0.0, 1.0)
        self.setFixedHeight(HEIGHT_PX)
        self.setToolTip("How many rows have which score; the height grows with the square root of the number.")

    def show_counts(self, counts: NDArray[np.int64], scores: tuple[float, float]) -> None:
        """Show counts of equal parts of 0..1, and the range that is kept."""
        self.counts, self._range = counts, scores
        self.update()

    def paintEvent(self, _event: QPaintEvent | None) -> None:
        """Draw the bars; few are seen beside many by their square roots."""
        heights = np.sqrt(self.counts / max(1, self.counts.max())) * self.height()
        width, (low, high) = self.width() / len(heights), self._range
        painter = QPainter(self)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self.palette().text())
        for i, height in enumerate(heights):
            middle = (i + 0.5) / len(heights)
            painter.setOpacity(1.0 if low <= middle <= high else PALE)
            painter.drawRect(QRectF(i * width, self.height() - height, max(1.0, width - 1), height))
        painter.end()
