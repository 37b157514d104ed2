"""What comes back with a prediction that is opened again: its image wherever that went, and how it was looked at.

Knows paths, identities and one small file of the user's; must not know layers, viewers or Qt.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import platformdirs

from napari_xt.errors import XTError
from napari_xt.io.image import Image
from napari_xt.io.images.identity import same_image
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.durable import write_file
from napari_xt.io.stores.layout import Header

REMEMBERED = 200  # images, and views
MAX_BYTES = 1 << 20
IMAGES: Final = "images"  # by identity: where each is, empty where the user was asked and did not say
VIEWS: Final = "views"  # by run
REVIEWS: Final = "reviews"  # by run
NOWHERE: Final = ""
PATIENCE_S = 3.0  # the squares that tell an image from another must come within this time

Open = Callable[[str], Image | None]
Ask = Callable[[str], str | None]


def find_image(prediction: Prediction, opened: Open, ask: Ask | None = None) -> Image | None:
    """The image that a prediction is of: beside its store as at the run, else where it was, was found, or is said.

    Parameters
    ----------
    prediction
        Whose notes say where the image was.
    opened
        Opens one; None where the user stopped that.
    ask
        Asks the user for the path of an image of the name given, None where they don't know; they are asked once.

    Returns
    -------
    Image or None
        None where it is in none of these places: another image of that name is not taken.
    """
    for path in _places(prediction):
        image = _fitting(path, prediction, opened)
        if image is not None:
            return image
    return _asked(prediction, opened, ask) if ask is not None else None


def view_of(header: Header) -> Mapping[str, Any]:
    """How a run was looked at when it was last seen, empty where it was not; as `keep_view` got it."""
    found = _read()[VIEWS].get(_run_key(header))
    return found if isinstance(found, dict) else {}


def keep_view(header: Header, view: Mapping[str, Any]) -> None:
    """Let `view_of` tell ``view``, JSON values, from now on; nothing where that can't be."""
    _remember(VIEWS, _run_key(header), dict(view))


def review_of(header: Header) -> Mapping[str, Any]:
    """How the regions of a run were reviewed last, empty where they were not; as `keep_review` got it."""
    found = _read()[REVIEWS].get(_run_key(header))
    return found if isinstance(found, dict) else {}


def keep_review(header: Header, review: Mapping[str, Any]) -> None:
    """Let `review_of` tell ``review``, JSON values, from now on; nothing where that can't be."""
    _remember(REVIEWS, _run_key(header), dict(review))


def _places(prediction: Prediction) -> Iterator[str]:
    """Paths that are there, the likeliest first."""
    notes, known = prediction.header.notes, _read()[IMAGES].get(_identity(prediction.header))
    beside, absolute = notes.get("image_relative"), notes.get("image")
    paths = [str(prediction.path.parent / beside)] if isinstance(beside, str) and beside else []
    paths += [path for path in (absolute, known) if isinstance(path, str) and os.path.isabs(path)]
    yield from dict.fromkeys(os.path.normpath(path) for path in paths if os.path.exists(path))


def _fitting(path: str, prediction: Prediction, opened: Open) -> Image | None:
    """The image at ``path`` where it is the one that was run."""
    try:
        image = opened(path)
    except XTError:
        return None
    if image is None or _is_of(image, prediction):
        return image
    image.close()
    return None


def _is_of(image: Image, prediction: Prediction) -> bool:
    """Whether a prediction is of this image; one whose pixels take long to come is taken by its size alone."""
    if image.shape != prediction.layout.frame.shape_px:
        return False
    identity, plane = _identity(prediction.header), prediction.header.job.get("plane")
    found: list[bool] = []

    def look() -> None:
        with suppress(XTError):
            seen = image.with_plane(plane) if isinstance(plane, dict) else image
            found.append(same_image(seen.identity(), identity))

    thread = threading.Thread(target=look, name="napari-xt-identity", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return all(found) if found or thread.is_alive() else False


def _asked(prediction: Prediction, opened: Open, ask: Ask) -> Image | None:
    """The image where the user says it is; they are asked once for each."""
    identity = _identity(prediction.header)
    if identity in _read()[IMAGES]:
        return None
    path = ask(os.path.basename(str(prediction.header.notes.get("image", ""))) or prediction.path.name)
    image = _fitting(path, prediction, opened) if path else None
    _remember(IMAGES, identity, os.path.abspath(path) if path and image is not None else NOWHERE)
    return image


def _identity(header: Header) -> str:
    return str(header.job.get("image", ""))


def _run_key(header: Header) -> str:
    return hashlib.sha256(json.dumps(header.job, sort_keys=True).encode()).hexdigest()[:16]


def _place() -> Path:
    return platformdirs.user_config_path("napari-xt") / "reopened.json"


def _remember(part: str, key: str, value: object) -> None:
    found = _read()
    kept = {name: there for name, there in found[part].items() if name != key}
    found[part] = dict(list(kept.items())[-REMEMBERED + 1 :]) | {key: value}
    with suppress(OSError):
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_file(_place(), json.dumps(found, indent=1).encode(), late=True)


def _read() -> dict[str, dict[str, Any]]:
    """What is remembered; of a damaged file what makes sense."""
    try:
        found = json.loads(_place().read_bytes()) if _place().stat().st_size <= MAX_BYTES else {}
    except (OSError, ValueError, RecursionError):
        found = {}
    parts = found if isinstance(found, dict) else {}
    return {name: part if isinstance(part := parts.get(name), dict) else {} for name in (IMAGES, VIEWS, REVIEWS)}
