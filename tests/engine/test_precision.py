"""Precision of a run: the caller's model stays as it is, every encoder can do it, and bits stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import napari_xt as xt
from napari_xt.engine.device import placed, uploaded
from napari_xt.engine.machine import Machine
from napari_xt.errors import ModelError, RunError, StoreMismatchError
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import ContextConfig
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

PRECISIONS = ("float32", "bfloat16")
SCENE = np.random.default_rng(3).integers(0, 256, (40, 36, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)


def assert_same(a: Prediction, b: Prediction) -> None:
    np.testing.assert_array_equal(a.probability[...], b.probability[...])
    np.testing.assert_array_equal(a.mask[0][...], b.mask[0][...])
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    pd.testing.assert_frame_equal(a.scores, b.scores)


def state(model: XT) -> dict[str, tuple[Tensor, int, tuple[int, ...], bool]]:
    """Each tensor's values, place in memory, layout, and whether it is trained."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: (v.detach().clone(), v.data_ptr(), v.stride(), v.requires_grad) for name, v in named}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_callers_model_is_only_read(precision: str) -> None:
    model = XT(SMALL).train()
    before, modules = state(model), [(type(m), m.training) for m in model.modules()]

    def fail() -> None:
        with placed(model, "cpu", precision) as net:
            assert net.region_dtype == getattr(torch, precision)
            assert not any(m.training for m in net.modules())
            net.encode(torch.zeros(1, 3, 128, 128))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    after = state(model)
    assert before.keys() == after.keys()
    for name, (values, *told) in before.items():
        assert torch.equal(values, after[name][0])
        assert told == list(after[name][1:])
    assert modules == [(type(m), m.training) for m in model.modules()]


def test_two_runs_share_a_model(tmp_path: Path) -> None:
    model = small_model()
    alone = {p: xt.predict(SCENE, model, out=tmp_path / f"{p}.xt.zarr", precision=p) for p in PRECISIONS}
    both = threading.Barrier(len(PRECISIONS))

    def run(precision: str) -> Prediction:
        both.wait()
        return xt.predict(SCENE, model, out=tmp_path / f"{precision}.again.xt.zarr", precision=precision)

    with ThreadPoolExecutor(len(PRECISIONS)) as pool:
        for precision, found in zip(PRECISIONS, pool.map(run, PRECISIONS), strict=True):
            assert_same(found, alone[precision])
    difference = np.abs(alone["float32"].probability[...].astype(int) - alone["bfloat16"].probability[...])
    assert 0 < difference.mean() < 8


@pytest.mark.parametrize("options", [{"workers": 3, "batch": 5}, {"workers": 1, "batch": 2}], ids=str)
def test_the_layout_of_the_work_changes_no_bit_in_bfloat16(options: dict[str, int], tmp_path: Path) -> None:
    model = small_model()
    plain = xt.predict(SCENE, model, out=tmp_path / "plain.xt.zarr", precision="bfloat16")
    assert plain.header.plan["precision"] == "bfloat16"
    assert_same(xt.predict(SCENE, model, out=tmp_path / "other.xt.zarr", precision="bfloat16", **options), plain)


@pytest.mark.parametrize(
    ("encoder", "region_px"),
    [
        ("tf_efficientnet_lite0", 64),
        ("convnext_atto", 64),
        ("hiera_tiny_224", 64),
        ("swinv2_tiny_window8_256", 192),
        ("vit_tiny_patch16_224", 64),
    ],
)
def test_every_kind_of_encoder_computes_in_bfloat16(encoder: str, region_px: int) -> None:
    config = replace(SMALL, region_encoder=encoder, region_px=region_px, context=ContextConfig(layers=1, dim=32))
    model = small_model(config)
    x = torch.randn(2, 3, region_px + 64, region_px + 64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), placed(model, "cpu") as net:
        wanted = net.encode(x[:1])
    with torch.inference_mode(), placed(model, "cpu", "bfloat16") as net:
        together = net.encode(x)
        with ThreadPoolExecutor(2) as pool:
            alone = list(pool.map(torch.inference_mode()(net.encode), x.split(1)))
    for found, whole in zip(together, wanted, strict=True):
        assert found.dtype == torch.float32
        error = (found[:1] - whole).norm() / whole.norm()
        assert 0 < error < 0.05
    for i, parts in enumerate(alone):
        assert all(torch.equal(part[0], whole[i]) for part, whole in zip(parts, together, strict=True))


def test_another_precision_is_another_job(tmp_path: Path) -> None:
    model, out = small_model(), tmp_path / "out.xt.zarr"
    xt.predict(SCENE[:64, :64], model, out=out, precision="float32")
    with pytest.raises(StoreMismatchError, match="precision"):
        xt.predict(SCENE[:64, :64], model, out=out, precision="bfloat16")


class Own(nn.Module):
    """A region encoder of the user's own, which calls ``seen`` with its input."""

    def __init__(self, seen: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.mix, self.seen = nn.Conv2d(3, 16, 4, 4), seen

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        self.seen(regions)
        local = self.mix(regions)[..., 8:-8, 8:-8]
        return local.mean((2, 3))[:, None, :].repeat(1, 4, 2), local


def wants_float32(regions: Tensor) -> None:
    if regions.dtype != torch.float32:
        raise RuntimeError(f"no {regions.dtype} here")


def test_a_module_of_ones_own_computes_in_float32_unless_asked(tmp_path: Path) -> None:
    model = XT(SMALL, region_encoder=Own(wants_float32))
    assert xt.plan(SCENE, model, machine=Machine(bfloat16=True)).precision == "float32"
    assert xt.plan(SCENE, small_model(), machine=Machine(bfloat16=True)).precision == "bfloat16"
    assert len(xt.predict(SCENE, model, out=tmp_path / "own.xt.zarr").failed) == 0
    with pytest.raises(RunError, match=r"no torch\.bfloat16 here"):
        xt.predict(SCENE, model, out=tmp_path / "asked.xt.zarr", precision="bfloat16")


def test_a_module_that_cannot_be_copied_is_used_as_it_is(tmp_path: Path) -> None:
    lock, seen = threading.Lock(), list[int]()

    def count(regions: Tensor) -> None:
        with lock:
            seen.append(len(regions))

    own = Own(count)
    own.lock = lock
    model = XT(SMALL, region_encoder=own)
    before = state(model)
    xt.predict(SCENE, model, out=tmp_path / "own.xt.zarr")
    assert len(seen) == 25
    assert all(torch.equal(values, before[name][0]) for name, (values, *_) in state(model).items())
    with pytest.raises(ModelError, match="can't be copied"):
        xt.predict(SCENE, model, out=tmp_path / "asked.xt.zarr", precision="bfloat16")


@pytest.mark.gpu
def test_uploads_on_a_stream_of_their_own_arrive_whole() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    place, total = torch.device("cuda"), torch.zeros(64, 3, 320, 320, device="cuda")
    batches = [torch.full((64, 3, 320, 320), float(n)).pin_memory() for n in range(20)]
    for batch in batches:
        total += uploaded(batch, place)
    assert (total == sum(range(20))).all()
