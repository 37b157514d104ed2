"""Where it is told that a threshold of some layers has moved, for whoever counts what is shown.

Must not know layers, what is counted, or who listens: these come and go as they like.
"""

from __future__ import annotations

from psygnal import Signal


class _Moved:
    thresholds = Signal()  # some layers' are other ones now; on the viewer's thread


moved = _Moved()
