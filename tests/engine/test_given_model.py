"""The line of Python in a store runs the model that was run: by its path where it comes from a file."""

from __future__ import annotations

from pathlib import Path

from napari_xt.engine.plan import plan
from napari_xt.engine.run import predict
from napari_xt.model.checkpoint import load_model, save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.zoo import describe, find_model
from small_model import small_model, squares


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_model(small_model(), path, ModelCard("mine"))
    from_file = predict(squares((100, 100)), path, out=tmp_path / "a.xt.zarr")
    assert f", {str(path)!r}" in str(from_file.header.notes["python"])
    in_memory = predict(squares((100, 100)), small_model(), out=tmp_path / "b.xt.zarr")
    assert ", 'small'" in str(in_memory.header.notes["python"])


def test_a_bundled_model_by_its_name() -> None:
    info = describe(find_model("context-proof"))
    assert load_model(info).given == info.given == "context-proof"
    assert plan(squares((100, 100)), info).model == "context-proof"
