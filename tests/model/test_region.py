"""The region encoder: tokens and local features of any backbone, from regions whole or nested."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from napari_xt.errors import ModelError
from napari_xt.model.config import ContextConfig, LocalConfig, XTConfig
from napari_xt.model.region import LocalPyramid, Queries, RegionEncoder
from napari_xt.model.tokens import cut_regions, from_regions
from small_model import SMALL

NONE = ContextConfig(kind="none", dim=32)
LABEL = {"mask": None, "boxes": None, "scores": None, "label": ("a", "b"), "label_head": "pooled"}


def encoder(config: XTConfig) -> RegionEncoder:
    torch.manual_seed(0)
    built = RegionEncoder(config).eval().requires_grad_(False)
    for module in built.modules():  # Swin V2 begins with norms of zero
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.add_(1)
    return built


def pixels(config: XTConfig, count: int = 1) -> Tensor:
    shape = count, config.in_channels, config.outer_px, config.outer_px
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def of(name: str, region_px: int, halo_px: int = 0, **changes: object) -> XTConfig:
    return replace(SMALL, region_encoder=name, region_px=region_px, halo_px=halo_px, context=NONE, **changes)


@pytest.mark.parametrize(
    "config",
    [
        of("swinv2_tiny_window8_256", 64),
        of("hiera_tiny_224", 64, 32),
        of("convnext_atto", 64, 32),
        of("test_efficientnet", 96),
        of("test_mambaout", 64, 32),
        of("test_vit", 64, 16),
        of("swinv2_tiny_window16_256", 32, patch_px=1),
        of("test_vit", 32, patch_px=1),
        of("eva02_tiny_patch14_224", 56, 28),
        of("efficientvit_m0", 128),
        of("test_resnet", 64, local=LocalConfig(stride=2, hidden=8)),
        of("test_vit", 64, local=LocalConfig(stride=8, hidden=8)),
    ],
    ids=lambda c: f"{c.region_encoder} {c.region_px}+{c.halo_px} patch {c.patch_px} stride {c.local.stride}",
)
def test_tokens_and_local_features_of_the_inner(config: XTConfig) -> None:
    tokens, local = encoder(config)(pixels(config, 2))
    side = config.region_px // config.local.stride
    assert tokens.shape == (2, 4, 32)
    assert local.shape == (2, config.local.channels, side, side)
    assert local.std() > 0


def test_local_features_come_from_maps_at_or_above_their_stride_and_of_one_stride_the_last() -> None:
    def levels(config: XTConfig) -> dict[str, int]:
        pyramid = encoder(config).pyramid
        assert isinstance(pyramid, LocalPyramid)
        return {stride: conv.in_channels for stride, conv in pyramid.lateral.items()}

    assert levels(of("resnet18", 64)) == {"4": 64, "8": 128, "16": 256}
    assert levels(of("resnet18", 64, local=LocalConfig(stride=16))) == {"16": 256}
    assert levels(of("test_vit", 64)) == {"16": 64}
    assert levels(of("efficientvit_m0", 128)) == {"16": 64}
    assert levels(of("test_vit", 32, patch_px=1)) == {"1": 64}


def test_a_finer_grid_than_the_backbones_is_interpolated() -> None:
    config = of("test_vit", 64, local=LocalConfig(stride=4))
    built = encoder(config)
    _, fine = built(pixels(config))
    built.config = replace(config, local=LocalConfig(stride=16))
    _, coarse = built(pixels(config))
    torch.testing.assert_close(torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear"), fine)


def test_no_local_features_where_no_head_decodes_them() -> None:
    config = of("test_resnet", 64, 32, **LABEL)
    built = encoder(config)
    tokens, local = built(pixels(config, 3))
    assert not [name for name, _ in built.named_parameters() if name.startswith("pyramid")]
    assert tokens.shape == (3, 4, 32)
    assert local.shape == (3, 0, 16, 16)


def test_tokens_as_the_backbone_gives_them() -> None:
    config = replace(of("test_resnet", 64), context=ContextConfig(kind="none", dim=96, project=False))
    built = encoder(config)
    tokens, _ = built(pixels(config))
    assert torch.equal(tokens, built.backbone(pixels(config))[-1].flatten(2).transpose(1, 2))
    with pytest.raises(ModelError, match=r"context.dim = 32: must be 96"):
        RegionEncoder(replace(config, context=replace(config.context, dim=32)))


@pytest.mark.parametrize("summary", ["pool", "queries"])
def test_tokens_of_a_region_do_not_depend_on_the_others(summary: str) -> None:
    config = replace(of("test_resnet", 96), context=replace(NONE, summary=summary, dim=36))
    built, x = encoder(config), pixels(config, 3)
    tokens, _ = built(x)
    torch.testing.assert_close(tokens[1:2], built(x[1:2])[0])
    x[0] += 1
    assert torch.equal(built(x)[0][1:], tokens[1:])


def test_a_map_as_large_as_its_tokens_is_pooled_to_itself() -> None:
    config = of("test_resnet", 64)
    built = encoder(config)
    whole = built.to_tokens(built.backbone(pixels(config))[-1].flatten(2).transpose(1, 2))
    assert torch.equal(built(pixels(config))[0], whole)


@pytest.mark.parametrize(("dim", "heads"), [(32, 1), (36, 1), (64, 2), (192, 6), (100, 2), (4, 1)])
def test_queries_tell_places(dim: int, heads: int) -> None:
    torch.manual_seed(0)
    queries = Queries(dim, 2, 8)
    features = torch.randn(1, 64, dim)
    tokens = queries(features)
    assert queries.heads == heads
    assert tokens.shape == (1, 4, dim)
    assert not torch.allclose(queries(features.roll(9, dims=1)), tokens, atol=1e-4)
    tokens.sum().backward()
    assert all(p.grad is not None for p in queries.parameters())


def test_queries_can_learn_to_find_what_a_mean_would_drown() -> None:
    torch.manual_seed(0)
    queries, answer = Queries(16, 1, 8), torch.nn.Linear(16, 2)
    optimiser = torch.optim.Adam([*queries.parameters(), *answer.parameters()], 3e-3)
    losses = []
    for _ in range(200):
        kind = torch.randint(0, 2, (32,))
        scene = torch.randn(32, 64, 16)
        place = torch.randint(0, 64, (32,))
        scene[torch.arange(32), place, kind] += 6
        loss = torch.nn.functional.cross_entropy(answer(queries(scene)[:, 0]), kind)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.45  # chance is 0.69


NESTED = [
    of("test_resnet", 128, 32, sub_regions_px=(64,)),
    of("test_resnet", 128, 0, sub_regions_px=(64, 32)),
    of("test_mambaout", 128, sub_regions_px=(64,)),
    of("test_vit", 96, 16, sub_regions_px=(32,)),
    of("test_resnet", 128, 32, sub_regions_px=(32,), **LABEL),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
@pytest.mark.parametrize("config", NESTED, ids=lambda c: f"{c.region_encoder} {c.region_px} {c.sub_regions_px}")
def test_nested_sub_regions_give_what_the_same_area_cut_directly_gives(
    config: XTConfig, layout: torch.memory_format
) -> None:
    built, x = encoder(config), pixels(config, 2).contiguous(memory_format=layout)
    side = config.sub_regions_px[-1]
    direct = encoder(replace(config, region_px=side, sub_regions_px=(), context=replace(NONE, tokens_per_side=1)))
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), direct.parameters(), strict=True))
    cut = cut_regions(x, side, config.halo_px)
    alone = [direct._encode(part.contiguous(memory_format=layout)) for part in cut.flatten(0, 2).split(1)]
    whole = [from_regions(torch.cat(maps).unflatten(0, cut.shape[:3])) for maps in zip(*alone, strict=True)]
    last, local = built._maps(x, config.sub_regions_px)
    assert torch.equal(last, whole[0])
    assert torch.equal(local, whole[1])
    assert torch.equal(built(x)[1], local)


@pytest.mark.parametrize("summary", ["pool", "queries"])
def test_the_depth_of_nesting_changes_nothing(summary: str) -> None:
    shallow = replace(of("test_resnet", 256, 32, sub_regions_px=(64,)), context=replace(NONE, summary=summary))
    deep = replace(shallow, sub_regions_px=(128, 64))
    x = pixels(shallow)
    for a, b in zip(encoder(shallow)(x), encoder(deep)(x), strict=True):
        assert torch.equal(a, b)


def test_nested_regions_can_be_trained() -> None:
    config = of("test_resnet", 128, 32, sub_regions_px=(64,))
    built = RegionEncoder(config).train()
    tokens, local = built(pixels(config, 2))
    (tokens.sum() + local.sum()).backward()
    assert all(p.grad is not None for p in built.backbone.conv1.parameters())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (of("test_resnet", 64, 16), "region_px = 64, halo_px = 16: must be multiples of 32"),
        (of("test_resnet", 128, 0, sub_regions_px=(16,)), "does not take 16 px.*2, 1, 1 wide; it takes 32"),
        (of("convnext_atto", 48), "does not take 48 px.*12, 6, 3, 1 wide; it takes 32 or 64"),
        (of("test_resnet", 240), "does not take 240 px.*30, 15, 8 wide; it takes 224 or 256"),
        (of("swinv2_tiny_window8_256", 128, 32), "does not take 192 px"),
        (of("eva02_tiny_patch14_224", 84, 28), None),
        (
            replace(of("test_resnet", 64), context=replace(NONE, tokens_per_side=3)),
            "tokens_per_side = 3: a region's last map is 2 x 2; choose at most 2",
        ),
        (of("no_such_net", 64), "no_such_net"),
    ],
)
def test_sizes_that_do_not_go_together(config: XTConfig, said: str | None) -> None:
    if said is None:
        RegionEncoder(config)
    else:
        with pytest.raises(ModelError, match=said):
            RegionEncoder(config)
