"""What painting a pyramid needs of napari beyond its public names, in one place, and whether this napari has it.

napari's Labels with levels can't be edited. Its tools end in a few public methods (`paint`, `fill`, `paint_polygon`,
`block_history`, `undo`), which `PyramidLabels` takes over, and in the names here. Must not know stores or viewers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari.layers import Labels

NAMES = ("_reset_editable", "_draw", "_begin_stroke", "_commit_stroke", "_abort_stroke")


class PaintableLabels(Labels):  # type: ignore[misc,unused-ignore]
    """Labels that can be edited though they have levels; what is drawn is handed to public methods."""

    def segment(self, start: Sequence[float], end: Sequence[float], label: int) -> None:
        """Use the tool on the way between two pixels (level 0), one step of a drag."""
        raise NotImplementedError

    def begin_stroke(self) -> None:
        """What is painted from now on is one step that can be undone."""
        raise NotImplementedError

    def end_stroke(self) -> None:
        """It ends here."""
        raise NotImplementedError

    def _reset_editable(self) -> None:
        self.editable = self._slice_input.ndisplay == 2

    def _draw(self, new_label: int, last_cursor_coord: Any, coordinates: Any) -> None:
        if coordinates is not None:
            start = coordinates if last_cursor_coord is None else last_cursor_coord
            self.segment(start, coordinates, new_label)

    def _begin_stroke(self) -> None:
        self.begin_stroke()

    def _commit_stroke(self) -> None:
        self.end_stroke()

    def _abort_stroke(self) -> None:
        self.end_stroke()
        self.undo()


def missing() -> list[str]:
    """The names that this napari's Labels lacks."""
    return [name for name in NAMES if not callable(getattr(Labels, name, None))]
