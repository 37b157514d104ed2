from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_xt.errors import ModelError, ModelNotFoundError
from napari_xt.model.checkpoint import load_model, save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.zoo import METADATA_KEY, describe, find_model
from small_model import SMALL, small_model

CARD = ModelCard(name="small", title="A small one", metrics={"f1": 0.5})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_model(small_model(), path, CARD)
    return path


def test_a_model_comes_back_as_it_was_saved(saved: Path) -> None:
    model = load_model(saved)
    original = small_model().half().float()
    assert not model.training
    assert model.config == SMALL
    for name, value in original.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not any(p.requires_grad for p in model.parameters())
    assert describe(saved).card == CARD


def test_the_digest_is_of_configuration_and_tensors_not_of_the_card(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    assert save_model(small_model(), again, ModelCard(name="other")) == load_model(saved).digest
    assert save_model(small_model(seed=1), again, CARD) != load_model(saved).digest


def test_the_digest_is_of_the_tensors_as_they_are_now(saved: Path) -> None:
    model = load_model(saved)
    assert model.digest == describe(saved).digest
    model.null_context += 1
    assert model.digest != describe(saved).digest


def rewrite(
    saved: Path, path: Path, change: dict[str, torch.Tensor | None], metadata: dict[str, str] | None = None
) -> Path:
    tensors = load_file(saved) | change
    told = json.dumps({"config": json.loads(SMALL.to_json()), "card": {"name": "small"}})
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, path, {METADATA_KEY: told} if metadata is None else metadata)
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"null_context": None}, "null_context", id="a tensor is missing"),
        pytest.param({"surplus": torch.zeros(1)}, "surplus", id="a tensor too many"),
        pytest.param({"null_context": torch.zeros(3)}, "null_context", id="another shape"),
        pytest.param({"null_context": torch.full((32,), float("nan"))}, "finite", id="not a number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    saved: Path, tmp_path: Path, change: dict[str, torch.Tensor | None], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        load_model(rewrite(saved, tmp_path / "m.safetensors", change))


@pytest.mark.parametrize("metadata", [{}, {METADATA_KEY: "{"}, {METADATA_KEY: '{"config": {}}'}, {METADATA_KEY: "[]"}])
def test_files_of_others_are_no_models(saved: Path, tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"m\.safetensors"):
        load_model(rewrite(saved, tmp_path / "m.safetensors", {}, metadata))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.999])
def test_a_cut_file_is_a_model_error(saved: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    whole = saved.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"cut\.safetensors"):
        load_model(path)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match="canopy"):
        find_model("no-such-model")
