"""A column of widgets that scrolls. Knows nothing of what is in it."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QScrollArea


class Column(QScrollArea):
    """Scrolls up and down, and is never narrower than what it holds (the dock's style changes that)."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Tell the dock when what it holds has got wider."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))

    def minimumSizeHint(self) -> QSize:
        """As wide as what it holds and the scroll bar."""
        inside, bar = self.widget(), self.verticalScrollBar()
        width = (inside.minimumSizeHint().width() if inside else 0) + (bar.sizeHint().width() if bar else 0)
        return QSize(width, super().minimumSizeHint().height())
