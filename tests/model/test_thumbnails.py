"""Pictures of training data in model files: they come back, change no digest, and hostile ones are left out."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_xt.errors import ModelError
from napari_xt.model.checkpoint import load_model
from napari_xt.model.config import ModelCard
from napari_xt.model.thumbnails import SIDE_PX, as_text, put_thumbnails, thumbnails
from napari_xt.model.zoo import describe, list_models


def squares(*values: int) -> list[np.ndarray]:
    return [np.full((60, 80, 3), value, np.uint8) for value in values]


@pytest.mark.parametrize("info", list_models(), ids=lambda info: info.name)
def test_bundled_models_show_what_they_were_trained_on(info: object) -> None:
    shown = thumbnails(info.card)
    assert len(shown) == 3
    assert all(max(picture.shape) <= SIDE_PX and picture.std() > 5 for picture in shown)


def test_pictures_change_no_digest_and_no_weight(tmp_path: Path) -> None:
    bundled = describe(next(info.path for info in list_models() if info.name == "context-proof"))
    path = Path(shutil.copy(bundled.path, tmp_path / "a.safetensors"))
    put_thumbnails(path, squares(10, 200))
    found = describe(path)
    assert found.digest == bundled.digest
    assert [int(picture.mean()) for picture in thumbnails(found.card)] == [10, 200]
    assert replace(found.card, thumbnails=()) == replace(bundled.card, thumbnails=())
    for one, other in zip(load_model(found).parameters(), load_model(bundled).parameters(), strict=True):
        assert (one == other).all()
    assert list(tmp_path.iterdir()) == [path]


def test_large_pictures_are_made_small() -> None:
    card = ModelCard("a", thumbnails=[as_text(np.zeros((500, 1000, 3), np.uint8))])
    assert thumbnails(card)[0].shape == (SIDE_PX // 2, SIDE_PX, 3)
    assert "thumbnails" not in repr(card)


def png(size: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


HOSTILE = {
    "no text": 7,
    "no base64": "<script>",
    "no picture": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(50)).decode(),
    "cut": png((50, 50))[:60],
    "huge": png((20_000, 20_000)),
    "long": "A" * 5_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_small_picture_is_left_out(text: object) -> None:
    assert len(thumbnails(ModelCard("a", thumbnails=[text, png((5, 5))]))) == 1


@pytest.mark.parametrize("stored", [None, 3, "abc", {"a": 1}])
def test_what_is_no_list_is_no_pictures(stored: object) -> None:
    assert thumbnails(ModelCard("a", thumbnails=stored)) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="not a napari-xt model"):
        put_thumbnails(path, squares(1))
    assert path.read_bytes().endswith(b"{}")
