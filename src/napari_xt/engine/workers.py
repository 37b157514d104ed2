"""The threads of a run: some read, some compute, one conducts, one writes.

Knows threads; knows no images, no stores and of networks only that they can be interrupted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from torch import nn

READERS = 2
P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """The threads of one run.

    Each kind does what is handed in one after the other. Once the run ends, by itself or not, what was not begun is
    dropped, and what is at work stops where it looks up.

    Parameters
    ----------
    count
        Threads that compute.
    modules
        Networks or parts of them that look up each time that they are called.

    Attributes
    ----------
    reading, computing
        Read pixels; encode and decode.
    conducting
        One thread for what waits for those that compute.
    writing
        The one thread that uses the store.
    """

    def __init__(self, count: int, modules: Iterable[nn.Module] = ()) -> None:
        self._ended = threading.Event()
        self._hooks = [module.register_forward_pre_hook(lambda *_: self.check()) for module in modules]
        self.reading = _Crew(READERS, "read", self.check)
        self.computing = _Crew(count, "compute", self.check)
        self.conducting = _Crew(1, "conduct", self.check)
        self.writing = _Crew(1, "write", self.check)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        crews = (self.reading, self.computing, self.conducting, self.writing)
        for crew in crews:
            crew.shutdown(wait=False, cancel_futures=True)
        for crew in crews:
            crew.shutdown(wait=True)
        for hook in self._hooks:
            hook.remove()

    def check(self) -> None:
        """Look up in the midst of work.

        Raises
        ------
        CancelledError
            The run has ended.
        """
        if self._ended.is_set():
            raise CancelledError


class _Crew(ThreadPoolExecutor):
    """Threads that begin nothing once the run has ended."""

    def __init__(self, count: int, name: str, check: Callable[[], None]) -> None:
        super().__init__(count, thread_name_prefix=f"napari-xt-{name}")
        self._check = check
        self._first: deque[Callable[[], None]] = deque()

    def submit_first(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Hand in work that is begun before what was handed in earlier."""
        future = Future[T]()

        def begun() -> None:
            try:
                self._check()
                future.set_result(work(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - as an executor does: raised where it is waited for
                future.set_exception(error)

        self._first.append(begun)
        super().submit(self._begin_first)
        return future

    def _begin_first(self) -> None:
        with suppress(IndexError):
            while True:
                self._first.popleft()()

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Hand in work."""

        def begun() -> T:
            self._check()
            self._begin_first()
            return work(*args, **kwargs)

        return super().submit(begun)
