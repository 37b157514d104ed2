"""Whom to tell that a large picture is being decoded, wherever it is opened.

Knows nothing but who listens in this thread; must not know pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

DECODING = "decoding once into a pyramid"

Progress = Callable[[int, int], object]
"""Called with how many strips are done, and of how many; (0, 0) while another process does it."""

_listener: ContextVar[Progress | None] = ContextVar("napari_xt_decoding", default=None)


@contextmanager
def telling(progress: Progress | None) -> Iterator[None]:
    """Tell ``progress`` of what is decoded inside, in this thread.

    What it raises stops the decoding; what is done is gone on with the next time. None: whoever was told is told on.
    """
    token = _listener.set(progress or _listener.get())
    try:
        yield
    except _Raised as raised:
        raise raised.error from None
    finally:
        _listener.reset(token)


def tell(done: int, total: int) -> None:
    """Tell whoever listens, if anybody."""
    listener = _listener.get()
    if listener is not None:
        try:
            listener(done, total)
        except Exception as error:
            raise _Raised(error) from error


class _Raised(BaseException):
    """What a listener raised: on its way up it must not be taken for damage of the picture."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
