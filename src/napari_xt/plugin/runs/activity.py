"""The runs of a viewer in napari's activity dock. Knows states of runs; must not know Qt, layers or stores."""

from __future__ import annotations

import io
from time import monotonic

from napari.utils import progress

from napari_xt.plugin.session import RunState, Session

EVERY_S = 0.2


class Activity:
    """A bar in the activity dock for the run that goes on; it is told on the viewer's thread.

    napari handles events whenever it moves a bar: what tells of the run must not mind that.

    Parameters
    ----------
    session
        Whose runs are shown, for as long as it lives.
    """

    def __init__(self, session: Session) -> None:
        self._bar: progress | None = None
        self._state: RunState | None = None
        self._next = 0.0
        session.changed.connect(self._take)

    def _take(self, state: RunState) -> None:
        if state.over:
            self._end(state)
        elif state.total and monotonic() >= self._next:
            self._next = monotonic() + EVERY_S
            self._show(state)

    def _show(self, state: RunState) -> None:
        if self._bar is None:
            self._state = state
            self._bar = progress(total=state.total, desc=f"xT: {state.name}", initial=state.done, file=io.StringIO())
        self._bar.update(state.done - self._bar.n)

    def _end(self, state: RunState) -> None:
        if self._bar is not None and state is self._state:
            bar, self._bar, self._state = self._bar, None, None
            self._next = 0.0
            bar.close()
