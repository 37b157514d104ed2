"""A folder of training crops of many images, and the COCO file that says what is in them.

Knows names, categories and JSON; must not know pixels, predictions or corrections.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_xt._version import __version__
from napari_xt.errors import SettingsError, StoreError
from napari_xt.io.stores.durable import write_file, writing
from napari_xt.io.stores.layout import MAX_CLASSES, Rgba

FILE = "coco.json"
LISTS = ("images", "annotations", "categories")


class Project:
    """The crops of a folder, as its COCO file has them; `write` brings changes to the disk.

    Parameters
    ----------
    folder
        Made where it is not there.

    Raises
    ------
    SettingsError
        There is a file of another kind in its place.
    StoreError
        Its COCO file is damaged, or the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._bytes = self._read()
        self._said = _checked(self.path, self._bytes)
        self._gone: set[str] = set()

    @property
    def crops(self) -> Sequence[Mapping[str, Any]]:
        """What the file says of each crop."""
        crops: list[Mapping[str, Any]] = self._said["images"]
        return crops

    def value(self, name: str, color: Rgba) -> int:
        """The number of a class in all crops, in labels and as a category; one that is new gets the next.

        Raises
        ------
        SettingsError
            There are more classes than labels can hold.
        """
        known = {one["name"]: int(one["id"]) for one in self._said["categories"]}
        if name not in known:
            number = max(known.values(), default=0) + 1
            if number >= MAX_CLASSES:
                do = "put these crops into a folder of their own"
                raise SettingsError(f"class {name!r}", f"labels hold {MAX_CLASSES - 1} classes", do)
            self._said["categories"].append({"id": number, "name": name, "color": list(color[:3])})
            return number
        return known[name]

    def put(self, crop: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
        """Take a crop, by its ``file_name``, in the place of what was said of it."""
        self._forget({crop["file_name"]})
        number = _next(self._said["images"])
        first = _next(self._said["annotations"])
        self._said["images"].append({"id": number, **crop})
        self._gone.discard(crop["file_name"])
        rows = ({"id": first + i, "image_id": number, **row} for i, row in enumerate(annotations))
        self._said["annotations"].extend(rows)

    def drop(self, names: set[str]) -> None:
        """Let crops go, their files with the next `write`."""
        self._forget(names)
        self._gone |= names

    def write(self) -> Path:
        """Bring the COCO file to the disk, then remove the files of crops that went.

        Raises
        ------
        StoreError
            It can't be written, or somebody else wrote it meanwhile.
        """
        if self._read() != self._bytes:
            raise StoreError(self.path, "somebody else added to it meanwhile", "add these corrections once more")
        data = json.dumps(self._said, allow_nan=False, separators=(",", ":")).encode()
        with writing(self.path):
            write_file(self.path, data)
        self._bytes = data
        for name in self._gone:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            boxes_file(self.folder / name).unlink(missing_ok=True)
        self._gone.clear()
        return self.path

    def _read(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def _forget(self, names: set[str]) -> None:
        numbers = {one["id"] for one in self._said["images"] if one["file_name"] in names}
        if numbers:
            self._said["images"] = [one for one in self._said["images"] if one["id"] not in numbers]
            kept = [row for row in self._said["annotations"] if row["image_id"] not in numbers]
            self._said["annotations"] = kept


def boxes_file(crop: Path) -> Path:
    """The table of boxes beside a crop, where `napari_xt.train.scenes.read_scene` looks for it."""
    return crop.with_suffix(".csv")


def _checked(path: Path, data: bytes | None) -> dict[str, Any]:
    if data is None:
        about = {"description": "napari-xt training set", "software": f"napari-xt {__version__}"}
        return {"info": about, "licenses": [], **{name: [] for name in LISTS}}
    try:
        said = json.loads(data)
        sound = all(isinstance(said[name], list) for name in LISTS) and all(_sound(said))
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise StoreError(path, "is no list of crops that napari-xt wrote", "give another folder")
    found: dict[str, Any] = said
    return found


def _sound(said: Mapping[str, Any]) -> Iterator[bool]:
    """Whether each row has what is looked for later, and no crop lies outside the folder."""
    for image in said["images"]:
        inside = isinstance(image["file_name"], str) and ".." not in Path(image["file_name"]).parts
        yield isinstance(image["id"], int) and inside and not Path(image["file_name"]).is_absolute()
    yield from (isinstance(row["id"], int) and isinstance(row["image_id"], int) for row in said["annotations"])
    yield from (isinstance(row["id"], int) and isinstance(row["name"], str) for row in said["categories"])


def _next(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((int(row["id"]) for row in rows), default=0) + 1
