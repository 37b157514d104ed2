"""The regions of a prediction under review: in which order, which one is looked at, and what is said of it.

Joins queues of regions, a `Correcting` and what is remembered of it; must not know Qt or widgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from napari_xt.annotate.queue import By, Place, ReviewQueue, review_queue
from napari_xt.annotate.ranking import comparable
from napari_xt.engine.output import SUFFIX
from napari_xt.errors import XTError
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import Header
from napari_xt.io.stores.tree import read_header
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.layers.pointer import Pointer
from napari_xt.plugin.runs.reopen import keep_review, review_of

FRAME: Final = "xT review"
EVERY: Final = 5  # regions, one is drawn at random
LISTED: Final = 12  # other predictions
ALONE: Final = "There is no other prediction of this image with the same regions and classes."
Answer = Literal["accept", "fix", "skip"]


@dataclass(frozen=True, slots=True)
class Order:
    """In which order regions are reviewed.

    Attributes
    ----------
    by
        As `xt.review_queue` takes it.
    class_name, other
        The class that is looked for; the store of the prediction that says something else.
    most
        So many regions; 0 is all.
    mixed
        Whether some are drawn at random, for the estimates.
    """

    by: By = "uncertainty"
    class_name: str = ""
    other: str = ""
    most: int = 0
    mixed: bool = True

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> Order:
        """The order that ``asdict`` told; of what makes no sense the default."""
        plain = cls()
        kept = {name: told[name] for name in asdict(plain) if type(told.get(name)) is type(getattr(plain, name))}
        found = cls(**kept)
        return found if found.by in get_args(By) and found.most >= 0 else plain

    @property
    def line(self) -> str:
        """The same in Python."""
        more = f", class_name={self.class_name!r}" if self.by == "class" else ""
        more += f", other=xt.open_prediction({self.other!r})" if self.by == "disagreement" else ""
        more += f", most={self.most}" if self.most else ""
        more += f", every={self.every}" if self.every else ""
        return f"queue = xt.review_queue(corrections.prediction, {self.by!r}, corrections=corrections{more})"

    @property
    def every(self) -> int | None:
        """How many regions there are to one that is drawn at random."""
        return EVERY if self.mixed and self.by != "random" else None

    def queue(self, prediction: Prediction, corrections: Corrections) -> ReviewQueue:
        """The queue of this order; reads much of the prediction.

        Raises
        ------
        XTError
            There is none such.
        """
        disagrees = self.by == "disagreement" and self.other
        return review_queue(
            prediction,
            self.by,
            corrections=corrections,
            other=open_prediction(self.other) if disagrees else None,
            class_name=self.class_name or None,
            most=self.most or None,
            every=self.every,
        )


class Other(NamedTuple):
    """Another prediction of the same image and grid: its store, and what to call it."""

    store: str
    name: str


def others(prediction: Prediction, more: Iterable[str] = ()) -> list[Other]:
    """The predictions that can disagree with one: the same without context first, then the newest.

    Parameters
    ----------
    prediction
        Those beside it are looked at.
    more
        Stores anywhere.
    """
    beside = sorted(prediction.path.parent.glob(f"*{SUFFIX}"), key=lambda path: -path.stat().st_mtime)
    paths = dict.fromkeys((*(Path(store) for store in more), *beside))
    found = ((path, header) for path, header in _headers(paths) if path != prediction.path)
    fitting = [one for one in found if _over_same(one[1], prediction.header)][:LISTED]
    fitting.sort(key=lambda one: not _other_context(one[1], prediction.header))
    return [Other(str(path), _name(path, header, prediction.header)) for path, header in fitting]


def class_names(prediction: Prediction) -> list[str]:
    """The classes that regions can be put in order by, the background last."""
    layout = prediction.layout
    names = [*(layout.mask or ())[1:], *(layout.scores or ()), *(layout.mask or ())[:1]]
    return list(dict.fromkeys(names))


class Made(NamedTuple):
    """A queue and its order in whole; ``error`` says why there is none. ``others`` can be compared with."""

    queue: ReviewQueue | None
    order: Order
    others: list[Other]
    error: str = ""


def make(prediction: Prediction, known: Corrections, order: Order, stores: Iterable[str] = ()) -> Made:
    """Put the regions of a prediction in order; reads much of it, in any thread.

    Parameters
    ----------
    order
        Where it names no class or other prediction, the first one is taken.
    stores
        Predictions that may be compared with, beside those in the same folder.
    """
    found = others(prediction, stores) if order.by == "disagreement" else []
    if order.by == "class" and not order.class_name:
        order = replace(order, class_name=next(iter(class_names(prediction)), ""))
    if order.by == "disagreement" and not order.other:
        if not found:
            return Made(None, order, found, ALONE)
        order = replace(order, other=found[0].store)
    try:
        return Made(order.queue(prediction, known), order, found)
    except XTError as error:
        return Made(None, order, found, str(error))


class Reviewing:
    """What is reviewed of the prediction that a `Correcting` has open.

    Attributes
    ----------
    order
        The one that was chosen.
    queue
        None until it was made.
    """

    def __init__(self, correcting: Correcting) -> None:
        self.order = Order()
        self.queue: ReviewQueue | None = None
        self._correcting = correcting
        self._pointer = Pointer(correcting.viewer, lambda _y, _x: None, name=FRAME, line=0.0)
        self._header: Header | None = None
        self._last: Place | None = None  # where one was when the prediction was open before
        self._kept: dict[str, Any] = {}
        self._seen: list[Place] = []
        self._answered: list[Place] = []

    def begin(self) -> None:
        """Take the prediction that is open now, or none; the order as it was with it before, else as it is."""
        prediction = self._correcting.prediction
        self.queue, self._header = None, None if prediction is None else prediction.header
        self._seen, self._answered, self._last, self._kept = [], [], None, {}
        self._pointer.follow(self._correcting.store, self._correcting.place)
        told = {} if self._header is None else review_of(self._header)
        if told:
            self.order, at = Order.parse(told), told.get("at")
            self._last = (at[0], at[1]) if isinstance(at, list) and len(at) == 2 else None

    def take(self, queue: ReviewQueue | None) -> None:
        """Review in the order of a queue, from where one was; None: not at all."""
        last, self._last = self._last, None
        self.queue, self._answered = queue, []
        if queue is not None and last in queue.order and self.state(last) is None:
            queue.current = last
        self.show()

    def state(self, place: Place | None) -> str | None:
        """What was said of a region."""
        known = self._correcting.corrections
        found = None if known is None or place is None else known.marks.regions.get(place)
        return None if found is None else found["state"]

    def answer(self, what: Answer) -> None:
        """Say something of the region that is looked at, and go on to the next.

        Raises
        ------
        XTError
            The corrections can't be written.
        """
        if self.queue is None or self.queue.current is None:
            return
        if self._correcting.painting is not None:
            self._correcting.painting.commit()
        place = self.queue.current
        {"accept": self.queue.accept, "fix": self.queue.fix, "skip": self.queue.skip}[what]()
        self._answered.append(place)
        self._seen.append(place)
        self._correcting.did.emit(f"queue.{what}()")
        self.show()

    def next(self) -> None:
        """Go on without an answer."""
        if self.queue is not None:
            if self.queue.current is not None:
                self._seen.append(self.queue.current)
            self.queue.next()
            self._correcting.did.emit("queue.next()")
            self.show()

    def back(self) -> None:
        """Go to the region that was looked at before this one, answered or not."""
        if self.queue is not None and self._seen:
            self.queue.current = self._seen.pop()
            self.show()

    def follow(self) -> None:
        """Go back to the region whose answer was undone, where one was."""
        if self.queue is not None and self._answered and self.state(self._answered[-1]) is None:
            self.queue.current = self._answered.pop()
            self.show()

    def show(self) -> None:
        """Frame the region that is looked at, and centre it."""
        prediction, place = self._correcting.prediction, None if self.queue is None else self.queue.current
        if prediction is None or place is None:
            self._pointer.clear()
            return
        fy, fx = prediction.layout.frame.px_per_run
        inner = prediction.layout.grid.region(*place).inner
        self._pointer.point(np.array([inner.y0 * fy, inner.x0 * fx, inner.y1 * fy, inner.x1 * fx]), move=False)
        self._correcting.go_to(*place)

    def keep(self) -> None:
        """Remember the order and where one is."""
        if self._header is None or self.queue is None:
            return
        now = {**asdict(self.order), "at": self.queue.current}
        if now != self._kept:
            self._kept = now
            keep_review(self._header, now)

    def end(self) -> None:
        """Take the frame away and let the viewer go."""
        self._pointer.clear()
        self._pointer.end()


def _headers(paths: Iterable[Path]) -> Iterator[tuple[Path, Header]]:
    for path in paths:
        try:
            yield path, read_header(path)
        except XTError:
            continue


def _over_same(one: Header, other: Header) -> bool:
    return one.job.get("image") == other.job.get("image") and comparable(one.layout, other.layout)


def _other_context(one: Header, other: Header) -> bool:
    return one.job.get("model") == other.job.get("model") and one.job.get("context") != other.job.get("context")


def _name(path: Path, one: Header, other: Header) -> str:
    name = path.name.removesuffix(SUFFIX)
    if not _other_context(one, other):
        return name
    return f"{'with' if one.job.get('context') else 'without'} context: {name}"
