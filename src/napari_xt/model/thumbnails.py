"""Small pictures of what a model was trained on, kept in its file beside the weights; no digest depends on them.

Knows files of tensors by their header and pictures as arrays; must not know torch, images or training.
"""

from __future__ import annotations

import base64
import io
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ModelError
from napari_xt.model.config import ModelCard
from napari_xt.model.zoo import METADATA_KEY, read_header

SHOWN = 3  # pictures, the first ones
SIDE_PX = 96  # of a picture that is kept
LARGEST_PX, LARGEST_BYTES = 1024, 1 << 20  # of one that is shown, and of its file

Picture = NDArray[np.uint8]


def thumbnails(card: ModelCard) -> list[Picture]:
    """The pictures of a card, ``(Y, X, 3)`` uint8; what is damaged or too large is left out."""
    texts = card.thumbnails if isinstance(card.thumbnails, (list, tuple)) else ()
    return [picture for text in texts[:SHOWN] if (picture := _decoded(text)) is not None]


def as_text(picture: Picture) -> str:
    """A picture ``(Y, X, 3)`` as a PNG file of at most `SIDE_PX` each way, in base64: for `ModelCard.thumbnails`."""
    from PIL import Image

    drawn = Image.fromarray(picture)
    drawn.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def put_thumbnails(path: str | os.PathLike[str], pictures: Sequence[Picture]) -> None:
    """Keep pictures in a ``.safetensors`` file of this project, in the place of others; its digest stays the same.

    Raises
    ------
    ModelError
        It is no such file.
    """
    path = Path(path)
    header = read_header(path)
    metadata = _metadata(path)
    try:
        stored = json.loads(metadata[METADATA_KEY])
        stored["card"]["thumbnails"] = [as_text(picture) for picture in pictures]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(path, "is not a napari-xt model", "choose a file that napari-xt has written") from error
    told = json.dumps(header | {"__metadata__": metadata | {METADATA_KEY: json.dumps(stored)}}).encode()
    told += b" " * (-len(told) % 8)  # tensors begin at whole words
    whole = path.read_bytes()
    tensors = whole[8 + int.from_bytes(whole[:8], "little") :]
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told + tensors)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _metadata(path: Path) -> dict[str, Any]:
    found = read_header(path).get("__metadata__")
    return found if isinstance(found, dict) else {}


def _decoded(text: object) -> Picture | None:
    """The picture, None where it is none or a hostile one."""
    from PIL import Image

    if not isinstance(text, str) or len(text) > LARGEST_BYTES:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
        if max(struct.unpack(">II", raw[16:24])) > LARGEST_PX:  # width and height of a PNG
            return None
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as drawn:
            return np.asarray(drawn.convert("RGB"))
    except (ValueError, OSError, SyntaxError, struct.error):
        return None
