"""The errors of the package: one sentence each, saying what, why and what to do.

Every class is also a builtin error, so callers may catch either. Knows nothing of the rest of the package.
"""

from __future__ import annotations

import re

__all__ = [
    "AnnotationError",
    "CorrectionsLockedError",
    "ImageFormatError",
    "ImageNotFoundError",
    "ImageReadError",
    "MissingDependencyError",
    "ModelError",
    "ModelNotFoundError",
    "RunError",
    "SettingsError",
    "StoreError",
    "StoreLockedError",
    "StoreMismatchError",
    "XTError",
]

MAX_LENGTH = 280


class XTError(Exception):
    """Base of every error that a user can cause or should read.

    Parameters
    ----------
    what
        The thing that is wrong: a path, a setting with its value, a model name.
    why
        What is wrong with it.
    do
        What the reader can do about it; may be empty.
    """

    def __init__(self, what: object, why: str, do: str = "") -> None:
        super().__init__(what, why, do)
        self.what, self.why, self.do = str(what), why, do

    def __str__(self) -> str:
        tail = f"; {self.do}" if self.do else ""
        text = printable(f"{self.why}{tail}")
        room = max(60, MAX_LENGTH - len(text) - 2)
        return _shorten(f"{_shorten(printable(self.what), room)}: {text}", MAX_LENGTH)

    def __reduce__(self) -> tuple[type[XTError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.do)


class ImageNotFoundError(XTError, FileNotFoundError):
    """There is no image at the given place."""


class ImageFormatError(XTError, ValueError):
    """The file or array is there but is no image that can be read here."""


class ImageReadError(XTError, OSError):
    """An image that opened could not deliver its pixels."""


class AnnotationError(XTError, ValueError):
    """A file of areas that were drawn elsewhere can't be read, or is none."""


class ModelNotFoundError(XTError, LookupError):
    """No model has the given name, or there is no such file."""


class ModelError(XTError, ValueError):
    """A model file is damaged or its configuration makes no sense, or it does not fit the image."""


class SettingsError(XTError, ValueError):
    """A setting has a value that can't be used."""


class StoreError(XTError, OSError):
    """A prediction store can't be read or written."""


class StoreLockedError(StoreError):
    """Another process is writing the store."""


class CorrectionsLockedError(StoreError):
    """Somebody else is correcting the prediction."""


class StoreMismatchError(XTError, ValueError):
    """The store at the output path holds something else than the run that was asked for."""


class MissingDependencyError(XTError, ImportError):
    """An optional package is needed and is not installed."""


class RunError(XTError, RuntimeError):
    """A run could not go on."""


def printable(text: str) -> str:
    """Return ``text`` on one line: control and direction characters and bytes that are no text are escaped.

    Text from files is data.
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", _escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _shorten(text: str, length: int) -> str:
    """Cut the middle out of ``text`` where it is longer than ``length`` characters."""
    if len(text) <= length:
        return text
    head = (length - 3) // 2
    return f"{text[:head]}...{text[len(text) - (length - 3 - head) :]}"
