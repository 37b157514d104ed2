"""Fused window attention computes what timm's does, whatever has happened to the weights since."""

from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
from torch import Tensor, nn

from napari_xt.model.swin_attention import FusedWindowAttention, fuse_window_attention

SIZES = {"embed_dim": 32, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "pretrained_window_sizes": (0, 0, 0)}


def swin(side: int, window: int, **options: object) -> nn.Module:
    """A small Swin V2 whose norms are not zero and whose scales are partly beyond the clamp."""
    torch.manual_seed(0)
    net = timm.create_model(
        "swinv2_tiny_window8_256",
        features_only=True,
        out_indices=(0, 1, 2),
        img_size=side,
        window_size=window,
        **SIZES,
        **options,
    )
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name.endswith("logit_scale"):
                parameter.add_(2 * torch.randn_like(parameter))
            if ".norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return net.eval().requires_grad_(False)


def fused(net: nn.Module) -> nn.Module:
    twin = deepcopy(net)
    fuse_window_attention(twin)
    return twin


def images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_same(net: nn.Module, plain: nn.Module, x: Tensor, tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(net(x), plain(x), strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()
        assert (ours - theirs).abs().max() <= 10 * tolerance * theirs.abs().max()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("side", "window"), [(64, 8), (64, 16), (128, 8), (96, 4), (192, 12)], ids=str)
def test_it_computes_what_timm_computes(side: int, window: int, count: int) -> None:
    plain = swin(side, window)
    assert_same(fused(plain), plain, images(count, side))


def test_without_biases_too() -> None:
    plain = swin(64, 8, qkv_bias=False)
    assert_same(fused(plain), plain, images(2, 64))


def test_names_and_values_of_weights_stay() -> None:
    plain = swin(64, 8)
    twin = fused(plain)
    twin(images(1, 64))
    assert list(twin.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(twin.state_dict())
    assert sum(isinstance(m, FusedWindowAttention) for m in twin.modules()) == 6


def test_an_image_has_the_same_bits_alone_and_among_others() -> None:
    net, x = fused(swin(64, 8)), images(4, 64)
    torch.set_num_threads(1)
    for together, alone in zip(net(x), net(x[2:3]), strict=True):
        assert torch.equal(together[2:3], alone)


def change_in_place(net: nn.Module) -> None:
    for name, parameter in net.named_parameters():
        if "cpb_mlp" in name or "logit_scale" in name:
            parameter.mul_(1.5)


def change_behind_autograd(net: nn.Module) -> None:
    for name, parameter in net.named_parameters():
        if "cpb_mlp.2" in name:
            parameter.data.copy_(parameter.flip(1))


def change_by_loading(net: nn.Module) -> None:
    net.load_state_dict({name: value * 1.2 for name, value in net.state_dict().items()})


def change_the_size(net: nn.Module) -> None:
    for block in [m for m in net.modules() if hasattr(m, "attn_mask")]:
        block.set_input_size(block.input_resolution, (4, 4))


@pytest.mark.parametrize("change", [change_in_place, change_behind_autograd, change_by_loading, change_the_size])
def test_what_is_kept_follows_the_weights(change: object) -> None:
    plain = swin(64, 8)
    net, x = fused(plain), images(1, 64)
    before = net(x)[-1]
    change(net)
    change(plain)
    assert_same(net, plain, x)
    assert not torch.allclose(net(x)[-1], before)


def test_a_copy_goes_its_own_way() -> None:
    plain = swin(64, 8)
    net, x = fused(plain), images(1, 64)
    net(x)
    copy = deepcopy(net)
    change_in_place(copy)
    assert_same(net, plain, x)
    change_in_place(plain)
    assert_same(copy, plain, x)


def test_double_precision_and_back() -> None:
    plain = swin(64, 8)
    net, x = fused(plain), images(1, 64)
    net(x)
    assert_same(net.double(), plain.double(), x.double(), 1e-12)
    assert_same(net.float(), plain.float(), x)


def test_gradients_are_timms() -> None:
    plain = swin(64, 8).requires_grad_(True)
    net, x = fused(plain), images(2, 64)
    for module in (plain, net):
        sum(m.square().mean() for m in module(x)).backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_bfloat16_is_as_near_to_the_truth_as_timms() -> None:
    plain = swin(64, 8)
    net, x = fused(plain), images(2, 64)
    truth = deepcopy(plain).double()(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = net(x), plain(x)
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        assert (mine.double() - exact).norm() <= 1.3 * (other.double() - exact).norm()
