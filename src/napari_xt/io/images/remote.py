"""Stores behind URLs whose reads end: time limits, more attempts where they can help, one clear sentence where not.

Knows zarr stores and what servers answer; knows no image and looks into no chunk.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import zarr.core.sync
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import FsspecStore

from napari_xt.io.images.source import RemoteError

T = TypeVar("T")

PATIENCE_S = 10.0
"""Seconds that a silent server is waited for before a read fails, all attempts and pauses together.

Every other time here is a share of it.
"""

ATTEMPTS = 6

_TRY_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
# the arguments or the answer are wrong, and will be wrong the next time
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_OURS = (ValueError, TypeError, LookupError, RuntimeError, AttributeError)
_CLOSED = "the image is closed"


def silence_s() -> float:
    """Return the seconds without a byte after which an attempt fails: two of them fit into `PATIENCE_S`."""
    return 0.45 * PATIENCE_S


def longest_s() -> float:
    """Return the seconds that one read may take at most, however steadily its bytes trickle in."""
    return 12 * PATIENCE_S


def open_remote(url: str) -> RemoteStore:
    """Return the store behind a URL; nothing is read yet.

    Raises
    ------
    ImportError
        Where the package for this kind of URL is missing.
    ValueError
        Where no package is known for it.
    """
    store = cast("RemoteStore", RemoteStore.from_url(url, storage_options=_options(url), read_only=True))
    if hasattr(store.fs, "retries"):
        store.fs.retries = 1  # s3fs repeats on its own, and would multiply the attempts here
    return store


def _options(url: str) -> dict[str, Any]:
    """Settings of the file system: no byte for `silence_s` is an error, and connections are the store's own."""
    scheme, own = urlsplit(url).scheme.lower(), {"skip_instance_cache": True}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, connect=silence_s(), sock_read=silence_s())
        return {**own, "client_kwargs": {"timeout": timeout}}
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": silence_s(), "read_timeout": silence_s(), "retries": {"total_max_attempts": 1}}
        # more than one at a time would ask for the size first: twice the requests
        return {**own, "config_kwargs": limits, "max_concurrency": 1}
    return own


class RemoteStore(FsspecStore):
    """A zarr store behind a URL.

    What is missing (404) is None, as zarr wants it: the fill value. What can't be had raises `RemoteError`, never
    None. A key that failed fails again at once for half of `PATIENCE_S`, without a request, so that looking for
    the chunk to blame costs no second wait.

    Parameters
    ----------
    args, kwargs
        As of `zarr.storage.FsspecStore`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed: dict[str, tuple[float, str]] = {}
        self._limits: set[asyncio.Timeout] = set()
        self._connected = self._closed = False
        _stores[id(self)] = self
        _close_at_exit()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of a key, None where there is no such key."""
        value = await self._ask(key, partial(super().get, key, prototype, byte_range))
        if value is not None and len(value) > _most(byte_range):
            raise RemoteError(f"{key}: the server ignores which range of bytes it is asked for")
        return value

    async def exists(self, key: str) -> bool:
        """Whether there is such a key; fsspec would take an error for a no."""
        return await self.get(key, default_buffer_prototype()) is not None

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for name in await self._ask(f"{prefix}/", partial(_all, super().list_dir, prefix)):
            yield name

    def close(self) -> None:
        """Close the connections for good; what is being read fails at once."""
        super().close()
        self._disconnect(wait_s=PATIENCE_S / 10)

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self._disconnect(wait_s=0)

    def _disconnect(self, wait_s: float) -> None:
        if not self._closed:
            self._closed = True
            if self._connected:
                _disconnect(self.fs, self._limits, wait_s)

    async def _ask(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        until, why = self._failed.get(key, (0.0, ""))
        if self._closed or time.monotonic() < until:
            raise RemoteError(f"{key}: {_CLOSED}" if self._closed else why)
        self._connected = True
        try:
            return await self._within_limits(key, ask)
        except RemoteError as error:
            self._remember(key, str(error))
            if not self._closed:
                # what was asked for at the same time fails now too, and is remembered before anyone asks again
                await asyncio.sleep(PATIENCE_S / 100)
            raise

    async def _within_limits(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        limit = asyncio.timeout(longest_s())
        try:
            async with limit:
                self._limits.add(limit)
                return await _persistently(key, ask)
        except TimeoutError as error:
            why = _CLOSED if self._closed else f"not complete after {longest_s():g} s"
            raise RemoteError(f"{key}: {why}") from error
        finally:
            self._limits.discard(limit)

    def _remember(self, key: str, why: str) -> None:
        now = time.monotonic()
        recent = {key: entry for key, entry in self._failed.items() if entry[0] > now}
        self._failed = {**recent, key: (now + PATIENCE_S / 2, why)}


async def _persistently(key: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer, with growing pauses; stop when `PATIENCE_S` could be exceeded by one more."""
    lost, attempt = 0.0, 1
    while True:
        start = time.monotonic()
        try:
            return await ask()
        except Exception as error:  # file systems raise almost anything
            lost += min(time.monotonic() - start, silence_s())  # bytes that came in vain are no silence
            pause = max(_pause_s(attempt), _wish_s(error))
            hopeless = _is_final(error) or attempt == ATTEMPTS or lost + pause + silence_s() > PATIENCE_S
            if hopeless:
                raise RemoteError(_sentence(key, error, attempt)) from error
        await asyncio.sleep(pause)
        lost, attempt = lost + pause, attempt + 1


def _pause_s(attempt: int) -> float:
    """1, 2, 4, ... hundredths of the patience."""
    return PATIENCE_S / 200 * (1 << attempt)


def _wish_s(error: Exception) -> float:
    """The seconds that a busy server asks to wait (RFC 9110, 10.2.3), 0 where it asks for none or for a date."""
    headers = getattr(error, "headers", None)
    text = str(headers.get("Retry-After")) if isinstance(headers, Mapping) else ""
    return float(int(text)) if text.isdecimal() else 0.0


def _is_final(error: Exception) -> bool:
    """Whether another attempt can only fail alike."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _TRY_LATER
    return isinstance(error, (*_FINAL, *_OURS))


def _sentence(key: str, error: Exception, attempts: int) -> str:
    count = f" after {attempts} attempts" if attempts > 1 else ""
    return f"{key}{count}: {_reason(error)}"


def _reason(error: Exception) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()[:60]
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"no answer for {silence_s():g} s"
    refused = getattr(error, "os_error", None)  # what aiohttp keeps of why there is no connection
    if isinstance(refused, OSError):
        return f"no connection ({refused.strerror or refused})"[:80]
    return ((str(error).splitlines() or [""])[0] or type(error).__name__)[:80]


def _most(byte_range: ByteRequest | None) -> float:
    """The most bytes that a range may give."""
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.end - byte_range.start
    return byte_range.suffix if isinstance(byte_range, SuffixByteRequest) else float("inf")


async def _all(listing: Callable[[str], AsyncIterator[str]], prefix: str) -> list[str]:
    return [name async for name in listing(prefix)]


_stores: weakref.WeakValueDictionary[int, RemoteStore] = weakref.WeakValueDictionary()
_closings: set[Future[None]] = set()


@functools.cache
def _close_at_exit() -> None:
    """Close what is open before zarr's event loop ends, which it does at exit too: the last to register is first."""
    atexit.register(_close_all)


def _close_all() -> None:
    for store in list(_stores.values()):
        store.close()
    wait(list(_closings), PATIENCE_S / 10)


def _disconnect(fs: Any, limits: set[asyncio.Timeout], wait_s: float) -> None:
    """Close the connections of a file system in zarr's event loop, where they live; 0 s: some time soon."""
    loop = zarr.core.sync.loop[0]
    if loop is None or not loop.is_running() or not hasattr(fs, "set_session"):
        return
    closing = asyncio.run_coroutine_threadsafe(_closed(fs, limits), loop)
    _closings.add(closing)
    closing.add_done_callback(_closings.discard)
    wait([closing], wait_s)


async def _closed(fs: Any, limits: set[asyncio.Timeout]) -> None:
    """End what is being read first: aiohttp lets a reader wait for ever whose connection is closed here."""
    for limit in limits:
        if not limit.expired():
            limit.reschedule(0)  # long ago
    if limits:
        await asyncio.sleep(PATIENCE_S / 1000)
    session = await fs.set_session()
    await session.close()
