"""Where it is told that what is shown has moved, a threshold or by hand, for whoever counts it.

Must not know layers, what is counted, or who listens: these come and go as they like.
"""

from __future__ import annotations

from psygnal import Signal


class _Moved:
    thresholds = Signal()  # some layers' are other ones now; on the viewer's thread
    tables = Signal(str)  # boxes or regions of this store were corrected; on the viewer's thread


moved = _Moved()
