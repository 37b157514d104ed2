"""What people corrected of a prediction: strokes that are undone and reverted, on disk within half a second.

Knows predictions and journals; must not know viewers, models or runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, get_args

import pandas as pd

from napari_xt.errors import SettingsError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.corrections import holding, replay
from napari_xt.io.corrections.classes import Classes
from napari_xt.io.corrections.disk import Disk
from napari_xt.io.corrections.final import PredictedBoxes, final
from napari_xt.io.corrections.journal import Journal, StrokeRow
from napari_xt.io.corrections.levels import EditedLevel, edited
from napari_xt.io.corrections.log import log_table
from napari_xt.io.corrections.marks import DELETED, Record
from napari_xt.io.corrections.predicted import Predicted
from napari_xt.io.corrections.stroke import Stroke
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.place import CORRECTIONS

if TYPE_CHECKING:
    import os

Source = Literal["final", "prediction"]


def corrections(
    prediction: Prediction | str | os.PathLike[str], author: str | None = None, *, read_only: bool = False
) -> Corrections:
    """The corrections of a prediction, to read and to add to; a context manager.

    They lie in the prediction's folder and never change it. One process at a time writes; it begins with its first
    stroke and ends with ``close``.

    Parameters
    ----------
    prediction
        A prediction, complete or growing, or its path.
    author
        Who corrects, as the log says it; default: the user of this process.
    read_only
        Refuse to write. So are those of a packed prediction.

    Raises
    ------
    StoreError
        There are corrections and they are damaged, or of a newer format.
    """
    known = prediction if isinstance(prediction, Prediction) else open_prediction(prediction)
    return Corrections(known, author or holding.user() or "unknown", read_only or known.path.is_file())


def with_corrections(prediction: Prediction) -> tuple[Prediction, int]:
    """``prediction`` with what was corrected of it until now, as the disk has it, and how many strokes that is.

    One that is seen with corrections already stays as it is.
    """
    if not (prediction.journal / CORRECTIONS).exists():
        return prediction, 0
    with corrections(prediction, read_only=True) as known:
        seen = any(isinstance(level, EditedLevel) for level in prediction.mask)
        return prediction if seen else known.final, int((~known.log()["undone"]).sum())


def of_source(prediction: Prediction, source: Source) -> Prediction:
    """``prediction`` with its corrections, where the final one is wanted.

    Raises
    ------
    SettingsError
        There is no such source.
    """
    if source not in get_args(Source):
        raise SettingsError(f"source = {source!r}", "is not known", f"choose of {', '.join(get_args(Source))}")
    return with_corrections(prediction)[0] if source == "final" else prediction


class Corrections:
    """What was corrected of one prediction; see `corrections`.

    Attributes
    ----------
    prediction
        What is corrected, as it is seen: at its thresholds.
    author
        Who corrects.
    read_only
        Whether strokes are refused.
    changed
        Functions that are called with a `Box`, run pixels of the finest level, where something changed.
    classes
        The mask's classes, see `Classes`.
    marks
        The records of boxes, regions and classes that stand.
    """

    def __init__(self, prediction: Prediction, author: str, read_only: bool) -> None:
        self.prediction, self.author, self.read_only = prediction, author, read_only
        self.layout: Layout = prediction.layout
        self.changed: list[Callable[[Box], None]] = []
        self.lock = RLock()
        self._open: Stroke | None = None
        self._disk = Disk(prediction, self._tick)
        self.edits, self.marks = self._disk.edits, self._disk.marks
        self.classes = Classes(self, prediction.layout)
        self.predicted = Predicted(prediction)
        self._predicted_boxes = PredictedBoxes(prediction)
        self._newest = 0
        replay.check_values(self.edits, self.classes.known(), prediction.journal / CORRECTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Corrections({str(self.prediction.path)!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` in run pixels."""
        return self.layout.shape

    @property
    def mask(self) -> list[EditedLevel]:
        """The corrected mask: uint8 levels ``(y, x)``, finest first; 254 is "don't know"."""
        return edited(self.edits, self.prediction.mask) if self.prediction.mask else []

    @property
    def diff(self) -> list[EditedLevel]:
        """The corrections alone: uint8 levels ``(y, x)``, 255 where there is none."""
        return edited(self.edits)

    @property
    def final(self) -> Prediction:
        """The prediction with the corrections on top; boxes that somebody touched have no score and are always in."""
        return self.over(self.prediction)

    def over(self, prediction: Prediction) -> Prediction:
        """The same of ``prediction`` as it is seen otherwise, as at another threshold."""
        return final(prediction, self.edits, self.marks, self.classes)

    @property
    def boxes(self) -> pd.DataFrame:
        """The boxes that were corrected: ``id, y0, x0, y1, x1, class, state``; level-0 px.

        ``state`` is ``added``, ``changed``, ``accepted`` or ``deleted``.
        """
        return self.marks.box_table()

    @property
    def regions(self) -> pd.DataFrame:
        """The regions of which something was said: ``region_row, region_col, state, class``."""
        return self.marks.region_table()

    @property
    def journal(self) -> Journal | None:
        """What is written; None where nobody corrected anything."""
        return self._disk.journal

    @property
    def holder(self) -> str | None:
        """Who else writes these corrections now: process, user and host in words; None: nobody."""
        return self._disk.holder

    @contextmanager
    def stroke(self, tool: str = "brush") -> Iterator[Stroke]:
        """One step that can be undone, and one row of the log; a stroke within a stroke is the same one.

        What was done until an error stays, and can be undone.

        Raises
        ------
        CorrectionsLockedError
            Somebody else writes these corrections.
        StoreError
            They are read-only, or the disk took none of the last ones.
        """
        with self.lock:
            stroke = self._open or self._begin(tool)
            stroke.depth += 1
        try:
            yield stroke
        finally:
            with self.lock:
                stroke.depth -= 1
                if ended := not stroke.depth:
                    self._end()
            if ended and stroke.marked is not None:
                self.tell(stroke.marked)

    def undo(self) -> int | None:
        """Take the last stroke back and return its number; None where there is none, or one is being made."""
        return self._step(undone=True)

    def redo(self) -> int | None:
        """Make the stroke again that was undone last and return its number; None where there is none."""
        return self._step(undone=False)

    def revert(self, stroke_id: int | None = None, *, region: tuple[int, int] | None = None) -> int | None:
        """Take back one stroke where nothing came after it, all corrections of a region, or all; itself a stroke.

        Returns
        -------
        int or None
            The number of the stroke that does it; None where there was nothing.
        """
        with self.stroke(tool="revert") as stroke:
            if stroke_id is not None:
                self._take_back(stroke, stroke_id)
            else:
                replay.clear(stroke, self.edits, self.marks, self.layout, region)
        return None if stroke.empty else stroke.id

    def log(self) -> pd.DataFrame:
        """Who corrected what and when, a row a stroke; it can be written as Parquet.

        Columns ``id, time`` (UTC), ``author, tool, y0, x0, y1, x1`` (level-0 px), ``pixels, before, after`` (in words)
        and ``undone``.
        """
        self.flush()
        journal = self.journal
        names = {one.value: one.name for one in self.classes}
        strokes, summaries = ([], []) if journal is None else (journal.strokes(), journal.summaries())
        return log_table(strokes, summaries, self.layout, names)

    def carry(self, other: Prediction | str | os.PathLike[str]) -> None:
        """Give these corrections, with their log, to another prediction of the same image that has none yet.

        Pixels go by place. A box goes to the nearest one of the other prediction with an IoU of at least 0.5; one that
        has no such partner stays as an added box.

        Raises
        ------
        SettingsError
            The other is of an image of another size, or has corrections.
        """
        from napari_xt.io.corrections.carry import carry

        self.flush()
        carry(self, other if isinstance(other, Prediction) else open_prediction(other))

    def refresh(self) -> bool:
        """See what somebody else wrote, and which regions a run has finished; whether there was something to see."""
        self.predicted.refresh()
        if not self._disk.outdated:
            return False
        self._disk.load()
        self.tell(self.layout.grid.bounds)
        return True

    def flush(self) -> None:
        """Return when every stroke is on the disk.

        Raises
        ------
        StoreError
            The disk does not take them; they are kept, and tried again.
        """
        with self.lock:
            self._write_part()
        self._disk.drain()

    def close(self) -> None:
        """Bring all to the disk and let others write; a second time does nothing.

        Raises
        ------
        StoreError
            The disk does not take it all.
        """
        with self.lock:
            self._write_part()
            self._open = None
            self.read_only = True
        self._disk.close()

    def box(self, id: int) -> Record:
        """The record of a box as it stands, of a predicted one too.

        Raises
        ------
        SettingsError
            There is none, or it was deleted.
        """
        record = self.marks.boxes.get(int(id)) or self._predicted_boxes.get(int(id))
        if record is None or record["state"] == DELETED:
            raise SettingsError(f"box {id}", "there is none", "give the id of a box of the final prediction")
        return record

    def tell(self, box: Box) -> None:
        """Call those who want to know what changed."""
        for told in list(self.changed):
            told(box)

    def _begin(self, tool: str) -> Stroke:
        self._become_writer()
        self._disk.drain()  # so that a crash never takes two
        self.predicted.refresh()
        self._newest += 1
        self._open = Stroke(self, StrokeRow(self._newest, time.time(), self.author, tool))
        self._disk.tick(True)
        return self._open

    def _end(self) -> None:
        self._write_part()
        self._open = None
        self._disk.tick(False)

    def _write_part(self) -> None:
        """Hand over what the open stroke changed since the last time."""
        if self._open is not None:
            row, changes, parts = self._open.row, self.edits.freeze(), self._open.take_parts()
            if changes or parts:
                self._disk.submit(lambda journal: journal.add(row, replay.parts_of(changes, parts)))

    def _tick(self) -> None:
        if self.lock.acquire(blocking=False):  # who holds it may be waiting for this thread
            try:
                self._write_part()
            finally:
                self.lock.release()

    def _step(self, *, undone: bool) -> int | None:
        with self.lock:
            if self._open is not None:
                return None
            if self._disk.journal is None:
                return None
            journal = self._become_writer()
            self.flush()
            number = journal.last() if undone else journal.next()
            if number is None:
                return None
            self._disk.submit(lambda journal: journal.mark_undone(number, undone))
            parts = journal.parts_of(number)
            boxes = replay.apply(parts, self.edits, self.marks, self.shape, journal.path, back=undone)
            self.edits.forget()
        for box in boxes:
            self.tell(box)
        return number

    def _take_back(self, stroke: Stroke, number: int) -> None:
        self.flush()
        journal = self._journal()
        if number not in {row.id for row in journal.strokes() if not row.undone}:
            raise SettingsError(f"stroke {number}", "there is none that stands", "take an id of the log")
        replay.take_back(stroke, journal.parts_of(number), self.edits, self.marks, journal.path)

    def _become_writer(self) -> Journal:
        """Take the lock, with the first stroke."""
        if self.read_only:
            raise StoreError(self.prediction.path, "its corrections are open read-only", "open them again to write")
        if not self._disk.writes:
            if self._disk.become_writer():
                self.tell(self.layout.grid.bounds)
            self._newest = self._journal().newest()
        return self._journal()

    def _journal(self) -> Journal:
        assert self._disk.journal is not None
        return self._disk.journal
