"""Faster ways to convolve: what torch and timm give, and their names."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.model.convolution import DepthwiseConv2dSame, PointwiseConv2d, hasten_convolutions
from napari_xt.model.folding import fold_norms
from napari_xt.model.heads import CANDIDATE, box_geometry, decode_boxes


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hastened(plain: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    net = nn.Sequential(plain)
    hasten_convolutions(net)
    return net.eval()


@pytest.mark.parametrize("side", [1, 10, 41])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_of_one_by_one(side: int, stride: int) -> None:
    net = hastened(nn.Conv2d(24, 40, 1, stride))
    assert type(net[0]) is PointwiseConv2d
    for x in (noise(2, 24, side, side), noise(2, 24, side, side).contiguous(memory_format=torch.channels_last)):
        with torch.inference_mode():
            found = net(x)
        torch.testing.assert_close(found, F.conv2d(x, net[0].weight, net[0].bias, stride), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [8, 13, 40], ids=["even", "odd", "large"])
def test_same_padding_to_the_bit(kernel: int, side: int) -> None:
    net = hastened(timm.layers.Conv2dSame(16, 16, kernel, 2, groups=16))
    assert type(net[0]) is DepthwiseConv2dSame
    x = noise(1, 16, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = net(x)
        plain = timm.layers.Conv2dSame.forward(net[0], x)
    assert torch.equal(found, plain)


@pytest.mark.parametrize("plain", [nn.Conv2d(8, 8, 1), timm.layers.Conv2dSame(8, 8, 3, 2, groups=8)], ids=["1", "same"])
def test_training_and_autocast_are_torchs_own(plain: nn.Module) -> None:
    net = hastened(plain)
    net(noise(1, 8, 12, 12)).square().sum().backward()
    assert net[0].weight.grad.abs().min() > 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert net(noise(1, 8, 12, 12)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "plain",
    [nn.Conv2d(8, 8, 1, padding=1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 3), timm.layers.Conv2dSame(8, 8, 3)],
    ids=["padded", "grouped", "3 x 3", "not depthwise"],
)
def test_others_are_left_alone(plain: nn.Module) -> None:
    kind = type(plain)
    assert type(hastened(plain)[0]) is kind


class Ordered(nn.Module):
    """A convolution and a norm that are called in the order they are registered in, or in the other."""

    def __init__(self, as_registered: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, bias=as_registered), nn.BatchNorm2d(6)
        self.as_registered = as_registered
        for value in (*self.norm.parameters(), self.norm.running_mean, self.norm.running_var):
            nn.init.uniform_(value, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if self.as_registered else self.conv(self.norm(x))


@pytest.mark.parametrize("as_registered", [True, False])
def test_norms_are_folded_only_where_they_follow(as_registered: bool) -> None:
    torch.manual_seed(0)
    net, x = Ordered(as_registered).eval(), noise(1, 6, 9, 9)
    before, wanted = dict(net.state_dict()), net(x)
    fold_norms(net, noise(1, 6, 5, 5, seed=1))
    assert isinstance(net.norm, nn.Identity) is as_registered
    torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-4)
    if not as_registered:
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_boxes_are_those_of_a_pooled_heat_map() -> None:
    raw = noise(6, 40, 33) * 3
    raw[:2, 10] = -1.0  # equal neighbours are all peaks, as in a pooled map
    heat = raw[:-4].sigmoid()
    peaks = (heat == F.max_pool2d(heat[None], 3, stride=1, padding=1)[0]) & (heat >= CANDIDATE)
    centres, sizes = box_geometry(raw[None, -4:], 4)
    found = decode_boxes(raw, 4)
    labels, rows, cols = peaks.nonzero(as_tuple=True)
    assert len(found.scores) == len(labels) > 50
    order = heat[labels, rows, cols].argsort(descending=True, stable=True)
    torch.testing.assert_close(found.scores, heat[labels, rows, cols][order])
    wanted = torch.cat([centres[0] - sizes[0] / 2, centres[0] + sizes[0] / 2])[:, rows, cols].T
    assert {tuple(box) for box in found.boxes.round().tolist()} == {tuple(box) for box in wanted.round().tolist()}
