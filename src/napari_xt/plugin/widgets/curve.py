"""A small curve in the colours of the theme. Knows numbers; must not know what they are."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QPointF
from qtpy.QtGui import QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

HEIGHT_PX, LINE_PX, EDGE_PX = 56, 1.5, 3
PALE = 0.35


class Curve(QWidget):
    """Values over steps, from 0 to the largest, as far as they are known of all that come.

    Parameters
    ----------
    name
        What they are, in the tool tip.
    """

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.values: list[float] = []
        self._name, self._share = name, 1.0
        self.setFixedHeight(HEIGHT_PX)

    def show_values(self, values: Sequence[float], share: float = 1.0) -> None:
        """Show values, which are ``share`` of those that will come."""
        self.values, self._share = list(values), min(1.0, max(share, 1e-3))
        self.setToolTip(f"{self._name}: {self.values[0]:.3g}, now {self.values[-1]:.3g}" if self.values else self._name)
        self.update()

    def paintEvent(self, _event: QPaintEvent | None) -> None:
        """Draw the line above a pale one at 0."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width, height = self.width() - 2 * EDGE_PX, self.height() - 2 * EDGE_PX
        pen = QPen(self.palette().text().color())
        pen.setWidthF(LINE_PX)
        painter.setPen(pen)
        painter.setOpacity(PALE)
        painter.drawLine(QPointF(EDGE_PX, EDGE_PX + height), QPointF(EDGE_PX + width, EDGE_PX + height))
        painter.setOpacity(1.0)
        if self.values:
            most, last = max(*self.values, 1e-9), max(1, len(self.values) - 1)
            places = [
                QPointF(EDGE_PX + width * self._share * i / last, EDGE_PX + height * (1 - max(0.0, value) / most))
                for i, value in enumerate(self.values)
            ]
            painter.drawPolyline(QPolygonF(places))
        painter.end()
