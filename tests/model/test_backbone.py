"""Any timm backbone behind one wrapper: sizes, strides, channel order, patches, and what is said where it can't be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
import timm
import torch
from safetensors.torch import save

from napari_xt.errors import ModelError
from napari_xt.model.backbone import backbone, encoder_info

# channels in, side, strides and channels of the maps
SMALL = {
    "swinv2_tiny_window8_256": (4, 64, (4, 8, 16, 32), (96, 192, 384, 768)),
    "swin_s3_tiny_224": (2, 224, (4, 8, 16, 32), (96, 192, 384, 768)),
    "hiera_tiny_224": (13, 64, (4, 8, 16, 32), (96, 192, 384, 768)),
    "convnext_atto": (1, 96, (4, 8, 16, 32), (40, 80, 160, 320)),
    "convnextv2_atto": (13, 64, (4, 8, 16, 32), (40, 80, 160, 320)),
    "tf_efficientnet_lite0": (2, 96, (2, 4, 8, 16, 32), (16, 24, 40, 112, 320)),
    "test_efficientnet": (13, 64, (2, 4, 8, 16, 32), (16, 24, 32, 48, 64)),
    "resnet18": (1, 64, (2, 4, 8, 16, 32), (64, 64, 128, 256, 512)),
    "test_mambaout": (4, 96, (4, 8, 16, 32), (16, 32, 48, 64)),
    "test_vit": (13, 96, (16, 16, 16), (64, 64, 64)),
    "eva02_tiny_patch14_224": (1, 56, (14, 14, 14), (192, 192, 192)),
    "efficientvit_m0": (3, 128, (16, 32, 64), (64, 128, 192)),
}
# the last stride and width at the size that they were published with
LARGE = {
    "swinv2_base_window16_256": (256, 32, 1024),
    "swinv2_large_window12to16_192to256": (256, 32, 1536),
    "hiera_base_224": (224, 32, 768),
    "hiera_base_plus_224": (224, 32, 896),
    "hiera_large_224": (224, 32, 1152),
    "convnext_base": (224, 32, 1024),
    "convnextv2_large": (224, 32, 1536),
    "tf_efficientnetv2_l": (384, 32, 640),
    "vit_large_patch16_224": (224, 16, 1024),
}


def pixels(channels: int, side: int) -> torch.Tensor:
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_what_was_measured_without_weights(name: str) -> None:
    given, side, strides, channels = SMALL[name]
    info = encoder_info(name, given, side)
    assert (info.side, info.strides, info.channels) == (side, strides, channels)
    with torch.inference_mode():
        maps = backbone(name, given, side).eval()(pixels(given, side))
    expected = [(1, c, side // s, side // s) for c, s in zip(channels, strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if LARGE[n][2] > 900 else n for n in LARGE])
def test_large_ones_are_measured_at_the_side_they_were_published_with(name: str) -> None:
    side, stride, width = LARGE[name]
    info = encoder_info(name)
    assert (info.side, info.strides[-1], info.channels[-1]) == (side, stride, width)
    assert info.fixed is name.startswith(("swin", "hiera", "vit"))


def test_measuring_allocates_no_weights() -> None:
    encoder_info("test_vit")
    before = psutil.Process().memory_info().rss
    assert encoder_info("vit_giant_patch14_dinov2").parameters > 1.1e9
    assert psutil.Process().memory_info().rss - before < 100e6


def test_measuring_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    encoder_info("resnet34", 3, 64)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "side", "order"),
    [
        ("swinv2_tiny_window8_256", 64, (0, 3, 1, 2)),
        ("test_mambaout", 64, (0, 3, 1, 2)),  # 16 channels on a map of 16 x 16
        ("hiera_tiny_224", 64, (0, 1, 2, 3)),
        ("test_resnet", 64, (0, 1, 2, 3)),
    ],
)
def test_channels_come_first_and_the_names_of_the_weights_are_timms(
    name: str, side: int, order: tuple[int, ...]
) -> None:
    ours = backbone(name, 3, side).eval()
    sizes = {"img_size": side} if encoder_info(name, 3, side).fixed else {}
    theirs = timm.create_model(name, features_only=True, **sizes).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        for mine, plain in zip(ours(pixels(3, side)), theirs(pixels(3, side)), strict=True):
            torch.testing.assert_close(mine, plain.permute(order), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "patch", "strides"),
    [
        ("swinv2_tiny_window16_256", 64, 1, (1, 2, 4, 8)),
        ("swinv2_tiny_window16_256", 256, 8, (8, 16, 32, 64)),
        ("swinv2_tiny_window16_256", 192, 3, (3, 6, 12, 24)),
        ("hiera_tiny_224", 32, 1, (1, 2, 4, 8)),
        ("hiera_tiny_224", 128, 8, (8, 16, 32, 64)),
        ("convnext_atto", 64, 1, (1, 2, 4, 8)),
        ("convnext_atto", 64, 2, (4, 8, 16, 32)),  # its first stage halves a stem of 2
        ("test_vit", 32, 1, (1, 1, 1)),
        ("test_vit", 64, 8, (8, 8, 8)),
        ("test_vit", 64, 16, (16, 16, 16)),
    ],
)
def test_patches_of_another_size(name: str, side: int, patch: int, strides: tuple[int, ...]) -> None:
    assert encoder_info(name, 3, side, patch).strides == strides
    if side <= 64:
        with torch.inference_mode():
            maps = backbone(name, 3, side, patch).eval()(pixels(3, side))
        assert tuple(side // m.shape[-1] for m in maps) == strides


@pytest.mark.parametrize(
    ("name", "side", "patch", "said"),
    [
        ("no_such_net", 64, None, "region_encoder = 'no_such_net'.*Unknown model"),
        ("swinv2_tiny_window8_256", 192, None, "windows of 8 x 8 do not tile a map of 12 x 12; it takes 128 or 256"),
        ("hiera_tiny_224", 240, None, "does not take 240 px.*it takes 224 or 256"),
        ("hiera_tiny_224", 224, 8, "in patches of 8; it takes 192 or 256"),
        ("resnet18", 100, None, "does not take 100 px.*it takes 96 or 128"),
        ("test_vit", 90, None, "it takes 80 or 96"),
        ("resnet18", 64, 1, "patch_px = 1: resnet18 has no patches whose size can be set; leave it None"),
        ("tf_efficientnet_lite0", 64, 2, "tf_efficientnet_lite0 has no patches"),
        ("convnext_atto_ols", 64, 2, "convnext_atto_ols has no patches"),  # takes the option and ignores it
        ("efficientvit_m0", 224, None, "its maps would be 14, 7, 4 wide; it takes 192 or 256"),
        pytest.param("inception_v3", 299, None, "no whole fraction of 299; choose another", marks=pytest.mark.slow),
    ],
)
def test_what_can_not_be_is_refused_before_anything_runs(name: str, side: int, patch: int | None, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        backbone(name, 4, side, patch)


def test_without_a_connection_it_says_so() -> None:
    with pytest.raises(ModelError, match=r"offline.*not in the cache"):
        backbone("test_resnet", 3, 64, pretrained=True)
    with pytest.raises(ModelError, match=r"hf-hub:nobody/nothing.*offline"):
        encoder_info("hf-hub:nobody/nothing")


def test_what_was_never_published_can_not_be_had() -> None:
    with pytest.raises(ModelError, match="its weights can't be had: No pretrained weights exist"):
        backbone("ghostnet_050", 3, 64, pretrained=True)


HUB = {"net": ("test_resnet", "conv1.0", "fc"), "patches": ("test_convnext", "stem.0", "head.fc")}
REFUSED = {"/lab/gated/": (403, "GatedRepo"), "/lab/private/": (401, "RepoNotFound")}


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does."""

    files: dict[str, bytes]

    def do_HEAD(self) -> bytes:
        code, error = next((told for start, told in REFUSED.items() if self.path.startswith(start)), (200, ""))
        content = self.files.get(self.path, b"")
        if code == 200 and not content:
            code, error = 404, "EntryNotFound"
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Error-Code", error)
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.end_headers()
        return content

    def do_GET(self) -> None:
        self.wfile.write(self.do_HEAD())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files = {}
    for name, (architecture, first, classifier) in HUB.items():
        weights = {
            key: torch.full_like(value, 0.5) for key, value in timm.create_model(architecture).state_dict().items()
        }
        told = {"input_size": [3, 96, 96], "first_conv": first, "classifier": classifier, "num_classes": 1000}
        config = {"architecture": architecture, "pretrained_cfg": told}
        Hub.files[f"/lab/{name}/resolve/main/config.json"] = json.dumps(config).encode()
        Hub.files[f"/lab/{name}/resolve/main/model.safetensors"] = save(weights)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow  # starts Python again
def test_weights_come_from_the_hub_and_then_from_the_cache(hub: str) -> None:
    code = """
    from napari_xt.errors import ModelError
    from napari_xt.model.backbone import backbone
    for name, patch in {"net": None, "gated": None, "private": None, "patches": 2}.items():
        try:
            backbone(f"hf-hub:lab/{name}", 6, 64, patch, pretrained=True)
            print("built")
        except ModelError as error:
            print(error)
    """
    online = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(run, env=online, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "built"
    assert "needs access and HF_TOKEN" in said[1]
    assert "no such repository" in said[2]
    assert "its weights are for 96 px and patches of their own size" in said[3]
    name = "hf-hub:lab/net"  # this process has no connection
    net = backbone(name, 6, 64, pretrained=True)
    torch.testing.assert_close(net.state_dict()["conv1.0.weight"], torch.full((16, 6, 3, 3), 0.25))
    assert encoder_info(name).name == "test_resnet"
    with pytest.raises(ModelError, match="this machine is offline"):
        backbone("hf-hub:lab/gated", 6, 64)
