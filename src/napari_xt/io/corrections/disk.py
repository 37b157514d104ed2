"""Where corrections lie: a journal, a lock, and arrays that spare the next one reading it all.

Knows files, edits and records; must not know strokes in the making, viewers or models.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from napari_xt.errors import StoreError
from napari_xt.io.corrections import holding, replay
from napari_xt.io.corrections.journal import Journal
from napari_xt.io.corrections.marks import Marks
from napari_xt.io.corrections.sparse import Edits
from napari_xt.io.corrections.writer import Job, Writer
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores import lock
from napari_xt.io.stores.place import CORRECTIONS

FOLDER = "corrections"


class Disk:
    """The corrections of one prediction on disk, and what is in memory of them.

    Parameters
    ----------
    prediction
        What is corrected.
    tick
        Called from the writing thread while a stroke is made.

    Attributes
    ----------
    edits, marks
        Corrected pixels and records; the same objects whatever is read into them.
    journal
        None where nobody corrected anything.
    """

    def __init__(self, prediction: Prediction, tick: Callable[[], None]) -> None:
        self._store, self._layout, self._tick = prediction.path, prediction.layout, tick
        self._folder = prediction.journal
        self._arrays = self._folder.parent / FOLDER
        self._lock = self._folder / holding.LOCK
        self._owner: lock.Owner | None = None
        self._writer: Writer | None = None
        self._revision, self._from_arrays = 0, False
        self.journal: Journal | None = None
        self.edits, self.marks = Edits(self._layout.mask_shapes), Marks()
        self.load()

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes."""
        return self._writer is not None

    @property
    def holder(self) -> str | None:
        """Who else writes."""
        return None if self._owner is not None else holding.holder(self._lock)

    @property
    def outdated(self) -> bool:
        """Whether somebody else wrote since this was read."""
        if self.writes or not (self._folder / CORRECTIONS).exists():
            return False
        return self.journal is None or self.journal.get("revision") != self._revision

    def load(self) -> None:
        """Read what is there."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None
        if (self._folder / CORRECTIONS).exists():
            journal = Journal(self._folder / CORRECTIONS, read_only=True)
            try:
                self._read(journal)
            except BaseException:
                journal.close()
                raise
            self.journal = journal

    def become_writer(self) -> bool:
        """Take the lock; whether somebody else wrote before, so that all was read again.

        Raises
        ------
        CorrectionsLockedError
            Somebody else has it.
        """
        if not (self._folder / CORRECTIONS).exists():
            Journal.create(self._folder / CORRECTIONS)
        journal = Journal(self._folder / CORRECTIONS)
        try:
            with journal.exclusive():
                self._owner = holding.take(self._lock, self._store)
                news = journal.get("revision") != self._revision
                journal.set("clean", 0)
            if news:
                self._read(journal)
        except BaseException:
            journal.close()
            self._release()
            raise
        if self.journal is not None:
            self.journal.close()
        if not self._from_arrays:
            shutil.rmtree(self._arrays, ignore_errors=True)
        self.journal, self._writer = journal, Writer(journal, self._tick)
        return news

    def submit(self, job: Job) -> None:
        """Have something written."""
        if self._writer is not None:
            self._writer.submit(job)

    def tick(self, ticking: bool) -> None:
        """Begin to tick, or stop."""
        if self._writer is not None:
            self._writer.tick(ticking)

    def drain(self) -> None:
        """Return when all is written."""
        if self._writer is not None:
            self._writer.drain()

    def close(self) -> None:
        """Bring all to the disk and let others write."""
        journal, self.journal = self.journal, None
        writer, self._writer = self._writer, None
        if journal is None:
            return
        if writer is None:
            journal.close()
            return
        try:
            writer.drain()
            self.edits.save(self._arrays)
            with journal.exclusive():
                journal.set("clean", journal.get("revision") + 1)
        finally:
            writer.close()
            journal.settle()
            self._release()

    def _read(self, journal: Journal) -> None:
        edits, marks = Edits(self._layout.mask_shapes), Marks()
        revision = journal.get("revision")
        from_arrays = journal.get("clean") == revision and (self._arrays / "zarr.json").exists()
        if from_arrays:
            try:
                edits.load(self._arrays)
            except StoreError:
                from_arrays = False  # the journal has it all
        replay.read(journal, edits, marks, self._layout, pixels_too=not from_arrays)
        self._revision, self._from_arrays = revision, from_arrays
        self.edits.become(edits)
        self.marks.become(marks)

    def _release(self) -> None:
        if self._owner is not None:
            lock.release(self._lock, self._owner)
        self._owner = None
