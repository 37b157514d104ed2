"""Released checkpoints, loaded as they are, give the numbers of the released code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.errors import ModelError, SettingsError
from napari_xt.model.config import ContextConfig, XTConfig
from napari_xt.model.xt import XT
from napari_xt.model.zoo import describe
from reference_recipe import distance, features, images, recorded, stage_error, weights

MODELS: dict[str, dict[str, Any]] = {
    "swin-t_nonxl_256": {},
    "swin-t_hyper_256_256": {"window": 1},
    "swin-t_hyper_512_256": {},
    "swin-t_mamba_512_256": {},
    "hiera-base_hyper_448_224": {},
    "swin-t_hyper_512_256_in-context-100": {"in_context_patches": 100},
    "swin-t_naive-attention_512_256": {"attention": "naive"},
}
THEIRS = {
    "decoder.cls_token": "class_token",
    "decoder.input_proj": "region.to_tokens",
    "decoder.layers": "context.layers",
    "decoder.cls.0": "context_norm",
    "decoder.cls.1": "label_head.out",
}


def saved(shared: Path, name: str, folder: Path) -> Path:
    state = weights(recorded(shared, f"{name}.json")["state_dict"])
    path = folder / f"{name}.ckpt"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_stages_are_those_of_the_released_code(name: str, shared: Path, tmp_path: Path) -> None:
    told = recorded(shared, f"{name}.json")
    path = saved(shared, name, tmp_path)
    model = xt.load_model(path, **MODELS[name])
    path.unlink()
    assert sum(p.numel() for p in model.parameters()) - 2 * model.config.context.dim == told["parameter_count"]
    seen = watched(model)
    with torch.inference_mode():
        logits = model(images(told["config"]["image_size"])).label
    for index, image in enumerate(("noise", "ramp")):
        said = told["output"][image]
        assert distance(logits[index], said["logits"]) <= 1e-4
        assert (logits[index].double() - torch.tensor(said["logits"])).abs().max() <= 5e-4
        for stage, summary in said["stages"].items():
            if stage in seen:
                assert stage_error(seen[stage][index], summary) <= 1e-3, stage


def watched(model: XT) -> dict[str, Tensor]:
    """What passes the context layers and the head's norm, filled by the next forward."""
    seen: dict[str, Tensor] = {}
    if model.config.context.in_context_patches or model.config.context.kind == "none":
        return seen
    for i, layer in enumerate(model.context.layers):
        layer.register_forward_hook(lambda _net, _given, out, i=i: seen.__setitem__(f"context_layer{i}", out))
    model.label_head.register_forward_hook(lambda _net, given, _out: seen.__setitem__("head_norm", given[0]))
    return seen


class Given(nn.Module):
    """A region encoder whose last map is the image itself."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.to_tokens = nn.Linear(channels, dim)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.to_tokens(regions[..., ::32, ::32].flatten(2).transpose(1, 2))
        return tokens, regions.new_empty(len(regions), 0, 1, 1)


def test_the_small_context_encoders_give_the_released_numbers(shared: Path) -> None:
    cases = recorded(shared, "context_encoder_small.json")["cases"]
    assert len(cases) == 11
    for name, case in cases.items():
        shape = case["feature_shape"]
        model = small(case["arguments"], shape[1], shape[2])
        state = {ours(key): value for key, value in weights(case["state_dict"]).items()}
        state["class_token"] = state["class_token"].flatten()
        missing, surplus = model.load_state_dict(state, strict=False)
        assert set(missing) == {"background_token", "null_context"}, name
        assert surplus == [], name
        pixels = features(case["feature_seed"], shape).repeat_interleave(32, 2).repeat_interleave(32, 3)
        with torch.inference_mode():
            logits = model(pixels).label
        for index in range(shape[0]):
            assert distance(logits[index], case["logits"][index]) <= 2e-5, name


def ours(key: str) -> str:
    return next(key.replace(theirs, mine, 1) for theirs, mine in THEIRS.items() if key.startswith(theirs))


def small(given: dict[str, Any], channels: int, side: int) -> XT:
    method = given["attention_method"]
    context = ContextConfig(
        kind="mamba" if method == "mamba" else "hyper",
        layers=given["n_layers"],
        dim=given["hidden_size"],
        tokens_per_side=side,
        mlp_ratio=given["mlp_ratio"],
        causal=method == "hyper",
        attention="naive" if method == "naive" else "hyper",
        in_context_patches=max(0, given["in_context_patches"]),
    )
    names = tuple(map(str, range(channels)))
    config = XTConfig(
        region_px=32 * side,
        halo_px=0,
        in_channels=channels,
        channel_names=names,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        label=tuple(map(str, range(given["num_classes"]))),
        context=context,
        stored="float32",
    )
    return XT(config, region_encoder=Given(channels, given["hidden_size"])).eval()


@pytest.fixture(scope="module")
def naive(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(shared, "swin-t_nonxl_256", tmp_path_factory.mktemp("released"))


def test_a_released_checkpoint_becomes_one_of_ours(naive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = naive.with_suffix(".safetensors")
    assert main(["models", "convert", str(naive), str(out)]) == 0
    told = capsys.readouterr().out
    assert "284 classes" in told
    assert "assumed" in told
    model, again = xt.load_model(naive), xt.load_model(out)
    assert describe(naive).digest == describe(out).digest == model.digest == again.digest
    pixels = images(256)[:1]
    assert torch.equal(model(pixels).label, again(pixels).label)


def test_a_run_with_a_released_model_says_what_its_label_means(naive: Path, tmp_path: Path) -> None:
    scene = (images(256)[0].permute(1, 2, 0).clamp(-2, 2) * 60 + 128).byte().numpy()[:200]
    prediction = xt.predict(scene, naive, out=tmp_path / "released.xt.zarr")
    assert len(prediction.label) == 284
    assert sum(prediction.label.values()) == pytest.approx(1, abs=1e-4)
    assert "window" in dict(line.split(maxsplit=1) for line in str(xt.plan(scene, naive)).splitlines())["label"]


@pytest.mark.parametrize("wrong", [{"attention": "naive"}, {"window": -1}], ids=str)
def test_what_a_released_model_can_not_be_is_refused(naive: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises((ModelError, SettingsError)):
        xt.load_model(naive, **wrong)


def test_our_own_files_need_no_such_words() -> None:
    with pytest.raises(SettingsError, match="released checkpoints"):
        xt.load_model("canopy", attention="naive")
