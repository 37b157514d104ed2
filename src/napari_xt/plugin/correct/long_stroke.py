"""One stroke of very many steps, made in portions while the window lives. Knows corrections; must not know layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice

from napari_xt.errors import XTError
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.io.corrections.stroke import Stroke
from napari_xt.plugin._loop import on_viewer_thread

PORTION = 400  # steps: about 10 ms


class LongStroke:
    """Makes the steps of a stroke from now on; what else is corrected meanwhile belongs to it.

    Parameters
    ----------
    corrections, tool
        Whose stroke, and its name in the log.
    steps
        Called with the stroke, one after the other.
    told
        Called after each portion with the number of steps that are done.
    over
        Called at the end with their number, and what a step was refused with.
    """

    def __init__(
        self,
        corrections: Corrections,
        tool: str,
        steps: Iterable[Callable[[Stroke], object]],
        told: Callable[[int], None],
        over: Callable[[int, XTError | None], None],
    ) -> None:
        self._steps, self._told, self._over = iter(steps), told, over
        self._open, self._done, self._wanted = ExitStack(), 0, True
        self._stroke = self._open.enter_context(corrections.stroke(tool=tool))
        self._go_on()

    @property
    def goes_on(self) -> bool:
        """Whether there are steps to be made."""
        return self._wanted

    def stop(self) -> None:
        """Make no more steps; what was done stays, and can be undone."""
        if self._wanted:
            self._end(None)

    def _go_on(self) -> None:
        if not self._wanted:
            return
        before = self._done
        try:
            for step in islice(self._steps, PORTION):
                step(self._stroke)
                self._done += 1
        except XTError as error:
            self._end(error)
            return
        except BaseException:
            self.stop()
            raise
        if self._done - before < PORTION:
            self._end(None)
        else:
            self._told(self._done)
            on_viewer_thread(self._go_on)

    def _end(self, error: XTError | None) -> None:
        self._wanted = False
        self._open.close()
        self._over(self._done, error)
