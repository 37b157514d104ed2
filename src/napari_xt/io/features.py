"""A GeoJSON file feature by feature, however large it is.

Knows JSON and files; must not know what a feature means. Of the text a piece is in memory at a time, as long as the
longest feature needs and never longer than a limit: it may say anything.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from napari_xt.errors import AnnotationError

MOST_CHARS = 2**25  # of one feature: those of a million corners
MOST_BYTES = 2**31  # of the unpacked text
PIECE = 2**18  # bytes that are read at a time, at least
DO = "give a GeoJSON file of areas"
_DECODE = json.JSONDecoder().raw_decode
_BLANK = re.compile(r"[ \t\n\r]*")


def features(path: Path, head: dict[str, Any]) -> Iterator[Any]:
    """The features of a file: those of a ``FeatureCollection``, of a list, or itself.

    Parameters
    ----------
    path
        Of a regular file, perhaps gzipped.
    head
        Gets what stands beside the features, as it comes.

    Raises
    ------
    AnnotationError
        The file can't be read, is no JSON, or one part of it is too long.
    """
    if not path.is_file():
        raise AnnotationError(path, "there is no such file" if not path.exists() else "it is no file", DO)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with closing(gzip.open(path) if packed else path.open("rb")) as opened:
            yield from _of(_Text(opened), head)
    except RecursionError as error:
        raise AnnotationError(path, "it nests too deep", DO) from error
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(path, f"it can't be read: {error}", "check the file") from error
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(path, f"it is no GeoJSON that is understood: {error}", DO) from error


def _of(text: _Text, head: dict[str, Any]) -> Iterator[Any]:
    if text.peek() == "[":
        yield from text.elements()
        return
    for key in text.members():
        if key == "features" and text.peek() == "[":
            yield from text.elements()
        else:
            head[key] = text.value()
    if head.get("type") == "Feature":
        yield head


class _Text:
    """JSON that is read piece by piece."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._bytes, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = self._at if blank is None else blank.end()
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                found, end = _DECODE(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._read():
                    raise ValueError(f"it is cut or damaged: {error.msg}") from None
                continue
            if end < len(self._text) or not self._read():  # a number may go on
                self._at = end
                return found

    def elements(self) -> Iterator[Any]:
        """The elements of the list that is next."""
        self._take("[")
        while self.peek() != "]":
            yield self.value()
            self._between("]")
        self._take("]")

    def members(self) -> Iterator[str]:
        """The keys of the object that is next, each when its value is next."""
        self._take("{")
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise TypeError("a member has no name")
            self._take(":")
            yield key
            self._between("}")
        self._take("}")

    def _between(self, close: str) -> None:
        if self.peek() == ",":
            self._take(",")
        elif self.peek() != close:
            raise ValueError("it is cut or damaged")

    def _take(self, wanted: str) -> None:
        if self.peek() != wanted:
            raise ValueError(f"{wanted} is missing in it")
        self._at += 1

    def _read(self) -> bool:
        """Have as much again in memory; False at the end of the text."""
        rest = len(self._text) - self._at
        if rest > MOST_CHARS or self._bytes > MOST_BYTES:
            raise ValueError(f"one part of it is longer than {MOST_CHARS >> 20} million characters, or all of it")
        data = b"" if self._ended else self._file.read(max(PIECE, rest))
        fresh = self._decoder.decode(data, final=not data)
        self._ended, self._bytes = not data, self._bytes + len(data)
        self._text, self._at = self._text[self._at :] + fresh, 0
        return bool(data)
