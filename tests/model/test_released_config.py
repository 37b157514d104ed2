"""Which released variant a file holds, from names and shapes, the YAML beside it and what the caller says."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from napari_xt.errors import ModelError, SettingsError
from napari_xt.model.config import XTConfig
from napari_xt.model.released.reader import _recognise, read_released
from napari_xt.model.released.settings import YAML_LIMIT, read_yaml
from napari_xt.model.released.shapes import BACKBONES, Backbone, Decoder, tensors

BY_NAME = {backbone.name: backbone for backbone in BACKBONES}
TINY = BY_NAME["swinv2_tiny_window16_256"]
DECODERS = {
    "none": Decoder("none", 1, 768, 4, 5),
    "hyper": Decoder("hyper", 2, 128, 4, 5),
    "mamba": Decoder("mamba", 3, 64, 4, 5),
}
State = dict[str, torch.Tensor]
SWIN = {
    "swinv2_tiny_window16_256_timm": "swinv2_tiny_window16_256",
    "swinv2_small_window16_256_timm": "swinv2_small_window16_256",
    "swinv2_base_window16_256_timm": "swinv2_base_window16_256",
    "swinv2_large_window16_256_timm": "swinv2_large_window12to16_192to256",
}


# names and shapes


def published() -> list[dict[str, Any]]:
    folder = Path(__file__).resolve().parents[3] / "shared/reference"
    file = folder / "released_checkpoints.json"
    return json.loads(file.read_text())["checkpoints"] if file.is_file() else []


def variant(entry: dict[str, Any]) -> tuple[Backbone, Decoder]:
    backbone = BY_NAME[SWIN[entry["backbone_class"]]]
    kind = entry["attention_method"] or "none"
    dim = entry["hidden_size"] or backbone.channels
    return backbone, Decoder(kind, entry["context_layers"] or 1, dim, 4, entry["num_classes"])


@pytest.mark.parametrize("entry", published(), ids=lambda entry: Path(entry["file"]).stem)
def test_names_and_shapes_of_all_published_files(entry: dict[str, Any]) -> None:
    expected = tensors(*variant(entry))
    lines = "\n".join(f"{t.theirs} {'x'.join(map(str, t.shape))}" for t in expected)
    assert len(expected) == entry["state_dict_entries"]
    assert sum(math.prod(t.shape) for t in expected) == entry["parameter_count"]
    assert hashlib.sha256(lines.encode()).hexdigest() == entry["sha256_of_names_and_shapes"]
    assert _recognise({t.theirs: t.shape for t in expected}) == variant(entry)


@pytest.mark.parametrize(
    ("name", "backbone", "decoder"),
    [
        ("swin-t_nonxl_256", "swinv2_tiny_window16_256", Decoder("none", 1, 768, 4, 284)),
        ("swin-t_hyper_512_256", "swinv2_tiny_window16_256", Decoder("hyper", 2, 768, 4, 284)),
        ("swin-t_mamba_512_256", "swinv2_tiny_window16_256", Decoder("mamba", 4, 768, 4, 284)),
        ("hiera-base_hyper_448_224", "hiera_base_224", Decoder("hyper", 2, 768, 4, 284)),
    ],
)
def test_names_and_shapes_of_the_reference_runs(shared: Path, name: str, backbone: str, decoder: Decoder) -> None:
    told = json.loads((shared / f"reference/{name}.json").read_text())["state_dict"]
    assert [[t.theirs, list(t.shape)] for t in tensors(BY_NAME[backbone], decoder)] == [row[:2] for row in told]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_names_and_shapes_are_timms(backbone: Backbone) -> None:
    with torch.device("meta"):
        state = timm.create_model(backbone.name, features_only=True).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == backbone.shapes()


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_every_variant_is_recognised(backbone: Backbone, decoder: Decoder) -> None:
    if decoder.kind == "none":
        decoder = Decoder("none", 1, backbone.channels, 4, 5)
    assert _recognise({t.theirs: t.shape for t in tensors(backbone, decoder)}) == (backbone, decoder)


# files


def state_of(kind: str, backbone: Backbone = TINY) -> State:
    rng = np.random.default_rng(0)
    made = {t.theirs: rng.random(t.shape, np.float32) for t in tensors(backbone, DECODERS[kind])}
    return {name: torch.from_numpy(values).half() for name, values in made.items()}


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {kind: state_of(kind) for kind in DECODERS}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files, some 60 MB each, do not outlive the test."""
    yield tmp_path
    for file in tmp_path.glob("*.ckpt"):
        file.unlink()


@pytest.fixture(scope="module")
def files(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("released")
    paths = {kind: folder / f"{kind}.ckpt" for kind in states}
    for kind, path in paths.items():
        torch.save(states[kind], path)
    yield paths
    for path in paths.values():
        path.unlink()


def beside(file: Path, folder: Path, name: str, yaml: str, at: str = "") -> Path:
    """The file under a name of its own, with a YAML beside it."""
    (folder / at).parent.mkdir(parents=True, exist_ok=True)
    (folder / at).write_text(yaml) if at else (folder / f"{Path(name).stem}.yaml").write_text(yaml)
    os.link(file, folder / name)
    return folder / name


def test_hyper(files: dict[str, Path], states: dict[str, State]) -> None:
    released = read_released(files["hyper"])
    config, context = released.config, released.config.context
    assert (config.region_encoder, config.region_px, config.halo_px) == (TINY.name, 256, 0)
    assert (config.outputs, config.label_head, config.stored) == (("label",), "token", "float32")
    assert config.label == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert (context.kind, context.layers, context.dim, context.tokens_per_side) == ("hyper", 2, 128, 8)
    assert (context.attention, context.causal, context.head_count, context.mlp_ratio) == ("hyper", True, 1, 4)
    assert sum("is assumed" in line for line in released.report) == 3
    assert released.names["region.to_tokens.weight"] == "decoder.input_proj.weight"
    assert released.names["region.backbone.patch_embed.norm.bias"] == "encoder.model.patch_embed.norm.bias"
    assert set(released.names.values()) == set(states["hyper"])
    for ours, theirs in released.names.items():
        values = released.read(ours)
        assert (values.dtype, values.flags["W"]) == (np.float32, True)
        wanted = states["hyper"][theirs].float().numpy()
        np.testing.assert_array_equal(values, wanted.ravel() if ours == "class_token" else wanted)


def test_none(files: dict[str, Path]) -> None:
    config = read_released(files["none"]).config
    assert (config.window, config.label_head) == (1, "pooled")
    assert (config.context.kind, config.context.dim, config.context.project) == ("none", 768, False)
    assert read_released(files["none"]).names["label_head.out.bias"] == "decoder.layers.3.bias"


def test_mamba(files: dict[str, Path]) -> None:
    released = read_released(files["mamba"])
    context = released.config.context
    assert (released.config.window, context.kind, context.layers, context.dim) == (2, "mamba", 3, 64)
    assert released.names["context.layers.2.mixer.A_log"] == "decoder.layers.2.mixer.A_log"


METRICS = {"accuracy_top1": 0.5, "text": "y", "nan": math.nan, "huge": 10**400, "\x1b[31m" + "red" * 99: 1}


def wrapped(state: State) -> dict[str, object]:
    state = {f"module.{name}": value for name, value in state.items()}
    state["module.encoder.model.layers_0.blocks.1.attn_mask"] = torch.zeros(2)
    state["module.encoder.model.layers_0.blocks.1.attn.k_bias"] = torch.zeros(2)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"betas": XTConfig}]}
    return {
        "epoch": 3,
        "state_dict": state,
        "optimizer_state_dict": optimizer,
        "metrics": METRICS,
    }


def test_wrapped_and_prefixed(states: dict[str, State], folder: Path) -> None:
    path = folder / "a.ckpt"
    torch.save(wrapped(states["none"]), path)
    released = read_released(path)
    assert released.metrics == {"accuracy_top1": 0.5, ("\\x1b[31m" + "red" * 99)[:40]: 1.0}
    told = "\n".join(released.report)
    for words in ("epoch, optimizer_state_dict, metrics", "ignored 2 buffers", "left alone 1 classes"):
        assert words in told


def test_channels_last_gives_the_same_numbers(states: dict[str, State], folder: Path) -> None:
    name = "encoder.model.patch_embed.proj.weight"
    value = states["none"][name]
    torch.save(states["none"] | {name: value.to(memory_format=torch.channels_last)}, folder / "a.ckpt")
    read = read_released(folder / "a.ckpt").read("region.backbone.patch_embed.proj.weight")
    np.testing.assert_array_equal(read, value.float().numpy())


HEAD, BODY = "decoder.layers.3.weight", "encoder.model.layers_2.blocks.5.mlp.fc2.bias"
WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "one is missing": (lambda s: {n: v for n, v in s.items() if n != BODY}, f"lacks 1 .*{BODY}"),
    "the head is missing": (
        lambda s: {n: v for n, v in s.items() if n.startswith("encoder")},
        r"lacks 6 .*decoder.layers.0.weight",
    ),
    "one is misshapen": (lambda s: s | {BODY: torch.zeros(385)}, rf"{BODY} has the shape \(385,\) instead of \(384,\)"),
    "the head is misshapen": (lambda s: s | {HEAD: torch.zeros(5, 9)}, HEAD),
    "one is surplus": (lambda s: s | {"encoder.upsample.weight": torch.zeros(1)}, "has 1 .*encoder.upsample.weight"),
    "one is a number": (lambda s: s | {BODY: 3}, f"{BODY} is no tensor"),
    "one is of integers": (lambda s: s | {BODY: torch.zeros(384, dtype=torch.int64)}, f"{BODY} is no tensor"),
    "names twice": (lambda s: s | {f"module.{BODY}": torch.zeros(384)}, "both with and without"),
    "numbers are shared": (lambda s: dict.fromkeys(s, 0) | shared_numbers(s), "share their numbers"),
    "a layer of a billion": (lambda s: s | {"decoder.layers.999999999.attn.qkv.bias": torch.zeros(1)}, "lacks"),
    "no state dict": (lambda _: {"weights": [1, 2]}, "no state dict"),
    "a list": (lambda s: list(s.values())[:1], "no state dict"),
}


def shared_numbers(state: State) -> State:
    largest = torch.zeros(max(value.numel() for value in state.values()), dtype=torch.float16)
    return {name: largest[: value.numel()].reshape(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(("change", "why"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(change: Any, why: str, states: dict[str, State], folder: Path) -> None:
    torch.save(change(states["none"]), folder / "a.ckpt")
    with pytest.raises(ModelError, match=why):
        read_released(folder / "a.ckpt")


@pytest.mark.parametrize("name", ["full", "no_optimizer", "bare"])
def test_the_tiny_samples_are_no_released_variant(shared: Path, name: str) -> None:
    path = shared / f"reference/sample_checkpoint_{name}.ckpt"
    with pytest.raises(ModelError, match=r"lacks 215 of the 223 tensors of xT with swinv2_tiny.*patch_embed\.norm"):
        read_released(path)


def test_numbers_that_are_not_finite(states: dict[str, State], folder: Path) -> None:
    torch.save(states["none"] | {BODY: torch.full((384,), torch.nan)}, folder / "a.ckpt")
    released = read_released(folder / "a.ckpt")
    with pytest.raises(ModelError, match=f"{BODY} holds numbers that are not finite"):
        released.read("region.backbone.layers_2.blocks.5.mlp.fc2.bias")


# what tensors can't tell

FULL = """
base_configs: [config/base.yaml]
data: {num_classes: 5, crop_size: 1024, val_crop_size: 768, aug: {mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3]}}
model:
  num_classes: ${data.num_classes}
  mlp_ratio: 4
  backbone_class: swinv2_tiny_window16_256_timm
  backbone: {input_size: 256, input_dim: 3}
  cls_head: xl
  context: {hidden_size: 128, attention_method: naive, n_layer: 2, in_context_patches: 100, classification_mode: on}
optimizer: {lr: 1e-4}
"""


@pytest.mark.parametrize(
    "at", ["a.yaml", "a.yml", "config/a.yaml", "configs/other.yaml", "../config/a.yaml", "other.yml"]
)
def test_the_yaml_beside_tells(files: dict[str, Path], tmp_path: Path, at: str) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    released = read_released(beside(files["hyper"], folder, "a.ckpt", FULL, at))
    (folder / "a.ckpt").unlink()
    config, context = released.config, released.config.context
    assert (context.attention, context.causal, context.in_context_patches, config.window) == ("naive", False, 100, 3)
    assert (config.mean, config.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert f"attention = naive, from {Path(at).name}" in released.report
    assert not any("assumed" in line for line in released.report)


def test_the_caller_tells_first(files: dict[str, Path], folder: Path) -> None:
    path = beside(files["hyper"], folder, "a.ckpt", FULL)
    released = read_released(path, attention="hyper", in_context_patches=0, window=4)
    context = released.config.context
    assert (context.attention, context.in_context_patches, released.config.window) == ("hyper", 0, 4)
    assert "attention = hyper, as asked" in released.report


def test_a_yaml_that_says_little_leaves_the_defaults(files: dict[str, Path], folder: Path) -> None:
    path = beside(files["hyper"], folder, "a.ckpt", "model: {context: {n_layer: 2}}\n")
    released = read_released(path)
    assert "attention = hyper is assumed, the released default: a.yaml does not say" in released.report


def test_naive_attention_may_have_any_width(folder: Path) -> None:
    decoder = Decoder("hyper", 1, 64, 4, 5)
    torch.save({t.theirs: torch.zeros(t.shape) for t in tensors(TINY, decoder)}, folder / "a.ckpt")
    assert read_released(folder / "a.ckpt", attention="naive").config.context.attention == "naive"
    with pytest.raises(ModelError, match="width 64"):
        read_released(folder / "a.ckpt")


def test_class_names_come_from_the_yaml(files: dict[str, Path], folder: Path) -> None:
    path = beside(files["none"], folder, "a.ckpt", "data: {class_names: [a, b, c, d, e]}\n")
    assert read_released(path).config.label == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("stem", "window"),
    [("swin-t-hyper-256-256-top1", 1), ("swin-t-hyper-512-256-top1", 2), ("mine", 2), ("a-700-256", 2)],
)
def test_names_as_published_tell_the_window(files: dict[str, Path], folder: Path, stem: str, window: int) -> None:
    os.link(files["hyper"], folder / f"{stem}.ckpt")
    assert read_released(folder / f"{stem}.ckpt").config.window == window


def test_of_several_yamls_the_one_of_the_same_ending_counts(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "swin-t" / "weights"
    configs = tmp_path / "swin-t" / "config"
    folder.mkdir(parents=True)
    configs.mkdir()
    for ending, size in {"hyper_256_256": 256, "hyper_512_256": 512, "hyper-1layer_512_256": 1024}.items():
        (configs / f"swin_v2_tiny_1e-4_{ending}.yaml").write_text(f"data: {{crop_size: {size}}}")
    path = folder / "swin-t-hyper-512-256-top1.ckpt"
    os.link(files["hyper"], path)
    released = read_released(path)
    path.unlink()
    assert "window = 2, from swin_v2_tiny_1e-4_hyper_512_256.yaml" in released.report


CONTRADICTIONS = [
    *("model: {context: {n_layer: 4}}", "model: {context: {hidden_size: 768}}", "data: {num_classes: 284}"),
    *("model: {cls_head: naive}", "model: {backbone_class: hiera_base}", "model: {backbone: {input_size: 224}}"),
    *("data: {crop_size: 300}", "data: {crop_size: 0}", "model: {context: {attention_method: mamba}}"),
]


@pytest.mark.parametrize("yaml", CONTRADICTIONS)
def test_a_yaml_that_contradicts_the_tensors_is_refused(files: dict[str, Path], folder: Path, yaml: str) -> None:
    with pytest.raises(ModelError, match="not what the tensors are"):
        read_released(beside(files["hyper"], folder, "a.ckpt", yaml))


def test_a_stranger_that_contradicts_is_left_out(files: dict[str, Path], folder: Path) -> None:
    path = beside(files["hyper"], folder, "a.ckpt", "model: {context: {n_layer: 4}}", "stranger.yaml")
    assert "stranger.yaml was left out: it says n_layer = 4" in "\n".join(read_released(path).report)


def test_the_yaml_of_another_checkpoint_is_left_alone(files: dict[str, Path], folder: Path) -> None:
    beside(files["hyper"], folder, "other.ckpt", FULL)
    os.link(files["hyper"], folder / "a.ckpt")
    assert read_released(folder / "a.ckpt").config.context.attention == "hyper"
    assert read_released(folder / "other.ckpt").config.context.attention == "naive"


@pytest.mark.parametrize(
    ("kind", "asked"),
    [("hyper", {"attention": "exact"}), ("mamba", {"attention": "naive"}), ("none", {"attention": "hyper"})],
)
def test_attention_that_is_not_there_is_refused(files: dict[str, Path], kind: str, asked: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="attention"):
        read_released(files[kind], **asked)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("hyper", {"in_context_patches": 1}),
        ("mamba", {"in_context_patches": 8}),
        ("none", {"in_context_patches": 8}),
        ("hyper", {"window": -1}),
    ],
)
def test_values_that_make_no_sense_are_refused(files: dict[str, Path], kind: str, asked: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        read_released(files[kind], **asked)


BAD_YAML = {
    "laughs": "a: &a [x]\n"
    + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "merged": "a: &a {x: 1}\nb: {<<: *a}\n",
    "a circle": "a: &a [*a]\n",
    "deep": "[" * 20_000,
    "deep keys": "? " * 10_000,
    "deep lists": "- " * 10_000,
    "large": "a: 1\n" * YAML_LIMIT,
    "a class": "a: !!python/object/apply:os.system [echo]\n",
    "no YAML": "a: [1\nb: }",
    "binary": "\x00\x01",
    "odd tags": "a: !!int ''\nb: !!bool x\nc: !!timestamp x\n",
    "a list as key": "? [a]\n: 1\n",
    "a long number": f"a: {'9' * 5000}\n",
}


@pytest.mark.parametrize("text", BAD_YAML.values(), ids=BAD_YAML)
def test_odd_yaml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ModelError):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "text", "3"])
def test_yaml_without_keys_tells_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == {}


def test_torch_is_not_imported(files: dict[str, Path]) -> None:
    code = "import sys; from napari_xt.model.released.reader import read_released; read_released(sys.argv[1])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, files["none"]], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
