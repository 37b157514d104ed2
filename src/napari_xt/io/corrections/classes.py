"""The classes that people paint with: the mask's own, and those that were added; names, colours, what is hidden.

Knows records and strokes; must not know arrays, files or layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.io.corrections.pixels import DONT_KNOW
from napari_xt.io.corrections.sparse import NONE
from napari_xt.io.stores.layout import MAX_CLASSES, Layout, Rgba

if TYPE_CHECKING:
    from napari_xt.io.corrections.corrections import Corrections

LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class CorrectedClass:
    """A class of the mask: ``value`` there, ``color`` in 0..255, ``added`` by hand or the model's own."""

    value: int
    name: str
    color: Rgba
    hidden: bool = False
    locked: bool = False
    added: bool = False


class Classes:
    """The classes of corrections; every change is a stroke that can be undone.

    Iterating gives `CorrectedClass`, by value; the mask's own keep their numbers, value 0 is the background.
    """

    def __init__(self, corrections: Corrections, layout: Layout) -> None:
        self._corrections, self._layout = corrections, layout

    def __iter__(self) -> Iterator[CorrectedClass]:
        own, records = self._layout.mask or (), self._corrections.marks.classes
        for value in range(max([len(own) - 1, *records], default=-1) + 1):
            added = value >= len(own)
            if value in records:
                record = records[value]
                color: Rgba = tuple(record["color"])
                yield CorrectedClass(value, record["name"], color, record["hidden"], record["locked"], added)
            elif not added:
                yield CorrectedClass(value, own[value], self._layout.rgba(value))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, value: int | str) -> CorrectedClass:
        for one in self:
            if value in (one.value, one.name):
                return one
        raise SettingsError(f"class {value!r}", "there is none", f"choose of {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, by value."""
        return tuple(one.name for one in self)

    def add(self, name: str, color: Sequence[int] | None = None) -> int:
        """Add a class and return its value in the mask.

        Raises
        ------
        SettingsError
            The name is taken or empty, or there are too many classes.
        """
        if not self._layout.mask:
            raise SettingsError(f"class {name!r}", "the model has no mask to paint in", "take another model")
        value = max(one.value for one in self) + 1
        if value >= MAX_CLASSES:
            raise SettingsError(f"class {name!r}", f"a mask holds {MAX_CLASSES} classes", "rename one that is there")
        chosen = self._layout.rgba(value) if color is None else _rgba(color)
        self._put(CorrectedClass(value, self._free(name), chosen))
        return value

    def rename(self, value: int | str, name: str) -> None:
        """Give a class another name."""
        if name != self[value].name:
            self._change(value, name=self._free(name))

    def recolour(self, value: int | str, color: Sequence[int]) -> None:
        """Give a class another colour: red, green, blue and perhaps alpha, 0..255."""
        self._change(value, color=_rgba(color))

    def hide(self, value: int | str, hidden: bool = True) -> None:
        """Hide a class, or show it."""
        self._change(value, hidden=bool(hidden))

    def lock(self, value: int | str, locked: bool = True) -> None:
        """Lock a class against being painted over, or unlock it."""
        self._change(value, locked=bool(locked))

    def checked(self, values: Any) -> NDArray[np.uint8]:
        """Values of the mask as uint8.

        Raises
        ------
        SettingsError
            One is neither a class, nor 254, nor 255.
        """
        found = np.asarray(values)
        if found.dtype == bool or not np.issubdtype(found.dtype, np.integer):
            raise SettingsError(f"values of {found.dtype}", "are no classes", "give whole numbers")
        known = self.known()
        if found.size and (found.min() < 0 or found.max() > NONE or not known[found].all()):
            wrong = next(int(v) for v in np.unique(found) if not 0 <= v <= NONE or not known[v])
            raise SettingsError(f"value {wrong}", "is no class", f"give 0..{len(self) - 1}, 254 or 255")
        return found.astype(np.uint8, copy=False)

    def known(self) -> NDArray[np.bool_]:
        """Which values a corrected mask may have; 256."""
        known = np.zeros(256, np.bool_)
        known[[DONT_KNOW, NONE]] = True
        known[[one.value for one in self]] = True
        return known

    def checked_name(self, name: str) -> str:
        """A name that boxes and regions can have.

        Raises
        ------
        SettingsError
            There is no such class.
        """
        names = dict.fromkeys((*(self._layout.boxes or ()), *(self._layout.scores or ()), *self.names))
        if name not in names:
            raise SettingsError(f"class {name!r}", "there is none", f"choose of {', '.join(names)}, or add it")
        return name

    def _change(self, value: int | str, **changes: object) -> None:
        old = self[value]
        self._put(CorrectedClass(**{**asdict(old), **changes}))

    def _put(self, one: CorrectedClass) -> None:
        record = {name: asdict(one)[name] for name in ("name", "hidden", "locked")} | {"color": list(one.color)}
        with self._corrections.stroke(tool="classes") as stroke:
            stroke.mark("class", str(one.value), record)

    def _free(self, name: str) -> str:
        plain = name.strip()
        if not plain or len(plain) > LONGEST_NAME:
            raise SettingsError(f"class {name!r}", f"a name has 1 to {LONGEST_NAME} characters", "give another")
        if plain in self.names:
            raise SettingsError(f"class {name!r}", "there is one of this name", "give another")
        return plain


def _rgba(color: Sequence[int]) -> Rgba:
    parts = [int(part) for part in color]
    if len(parts) not in (3, 4) or not all(0 <= part <= 255 for part in parts):
        raise SettingsError(f"color {list(color)}", "is none", "give red, green, blue in 0..255")
    r, g, b, a = (*parts, 255)[:4]
    return r, g, b, a
