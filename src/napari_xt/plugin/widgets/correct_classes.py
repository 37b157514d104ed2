"""The fold *Classes and tools*: classes that are painted with, brushes, rules, undo.

Knows a `Correcting`; must not know the other folds.
"""

from __future__ import annotations

from qtpy.QtWidgets import QWidget

from napari_xt.plugin.correct.correcting import Correcting


class ClassesPanel(QWidget):
    """A fold of *Correct and refine*.

    Parameters
    ----------
    correcting
        What is corrected.
    """

    def __init__(self, correcting: Correcting) -> None:
        super().__init__()
        self._correcting = correcting
        self.refresh()

    def refresh(self) -> None:
        """Show what is open now."""
