"""A file from the web, whole and as it was promised: kept, verified, and gone on with where it was cut or stopped.

Knows addresses, files and checksums; must not know what is in them. (pooch verifies and keeps, but starts anew each
time and can't be stopped.)
"""

from __future__ import annotations

import hashlib
import http
import http.client
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_xt.errors import ImageReadError
from napari_xt.io.stores.durable import writing

PIECE = 1 << 18
PATIENCE_S = 30.0  # without a byte

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on the web: its address, how many bytes it has, their SHA-256 and licence."""

    url: str
    size: int
    sha256: str
    licence: str

    @property
    def name(self) -> str:
        """What it is called."""
        return self.url.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return f"{self.name}, {self.size / 1e6:,.1f} MB from {self.url}, SHA-256 {self.sha256}, {self.licence}"


def kept(remote: Remote, folder: Path) -> Path | None:
    """The file where it was downloaded before, else None."""
    place = folder / remote.name
    return place if place.is_file() and place.stat().st_size == remote.size else None


def download(remote: Remote, folder: Path, tell: Tell | None = None) -> Path:
    """Get a file into ``folder``, unless it is there; what an earlier call has got of it is not got again.

    Parameters
    ----------
    remote
        What to get; a file that is not exactly this is thrown away.
    folder
        Made where it is not there.
    tell
        Called with ``(done, size)`` bytes; what it raises ends the download, and is raised.

    Returns
    -------
    Path
        The file, verified.

    Raises
    ------
    ImageReadError
        It can't be got, or is another file than was promised.
    StoreError
        The folder can't be written.
    """
    if (found := kept(remote, folder)) is not None:
        return found
    part, place = folder / f"{remote.name}.part", folder / remote.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if part.is_file() and part.stat().st_size > remote.size:
            part.unlink()
        _fetch(remote, part, tell or (lambda _done, _size: None))
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != remote.sha256 or part.stat().st_size != remote.size:
            part.unlink()
            why = f"is not the file that was promised: SHA-256 {digest} instead of {remote.sha256}"
            raise ImageReadError(remote.url, why, "it was thrown away; try again later")
        part.replace(place)
    return place


def _fetch(remote: Remote, part: Path, tell: Tell) -> None:
    """Append to ``part`` what it lacks."""
    have = part.stat().st_size if part.is_file() else 0
    tell(have, remote.size)
    if have == remote.size:
        return
    try:
        have = _append(remote, part, have, tell)
    except _LostError as lost:
        have = part.stat().st_size if part.is_file() else 0
        raise _cut(remote, have, str(lost)) from lost.__cause__
    if have < remote.size:
        raise _cut(remote, have, "the connection was cut")


class _LostError(Exception):
    """The server says no, or no more."""


@contextmanager
def _asking() -> Iterator[None]:
    """Tell what goes wrong between here and the server from what goes wrong with the disk."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _LostError(str(getattr(error, "reason", "") or error)) from error


def _append(remote: Remote, part: Path, have: int, tell: Tell) -> int:
    if not remote.url.startswith(("https://", "http://")):
        raise ImageReadError(remote.url, "is no address on the web", "give one that begins with https://")
    asked = urllib.request.Request(remote.url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - see above
    with _asking():
        answer = urllib.request.urlopen(asked, timeout=PATIENCE_S)  # noqa: S310
    with answer:
        have = have if _goes_on(answer, have) else 0
        with part.open("ab" if have else "wb") as file:
            while have <= remote.size and (piece := _piece(answer)):
                file.write(piece)
                have += len(piece)
                tell(min(have, remote.size), remote.size)
    return have


def _piece(answer: Any) -> bytes:
    with _asking():
        found: bytes = answer.read(PIECE)
        return found


def _goes_on(answer: Any, have: int) -> bool:
    """Whether a server sends what comes after the first ``have`` bytes, and not all from the start."""
    span = str(answer.headers.get("Content-Range", ""))
    return answer.status == http.HTTPStatus.PARTIAL_CONTENT and span.startswith(f"bytes {have}-")


def _cut(remote: Remote, have: int, why: str) -> ImageReadError:
    done = f"{have:,} of {remote.size:,} bytes are there"
    return ImageReadError(remote.url, f"{why.rstrip('.')}; {done}", "try again: it goes on from there")
