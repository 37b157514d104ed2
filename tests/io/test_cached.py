"""Large pictures that can't be read in parts: the same pixels as decoded whole, kept, stopped, killed, cut short."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from napari_xt.cli import main
from napari_xt.errors import ImageFormatError, ImageReadError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.conversion import work
from napari_xt.io.image import Image, open_image
from napari_xt.io.images import cache, cached, pictures, tiff

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SHAPE = (1400, 700)


class Enough(Exception):
    """Raised by a listener."""


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (pictures, tiff):
        monkeypatch.setattr(module, "LARGE_PX", 10)
    monkeypatch.setattr(tiff, "_HUGE_STRIP", 10)


def scene(channels: int = 3, dtype: str = "u1") -> NDArray[Any]:
    small = np.random.default_rng(0).integers(0, 250, (SHAPE[0] // 7, SHAPE[1] // 7, channels))
    pixels = small.repeat(7, 0).repeat(7, 1) * (1 if dtype == "u1" else 250)
    return pixels.astype(dtype)[..., 0] if channels == 1 else pixels.astype(dtype)


def whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[Any]:
    """What the picture is when it is decoded in memory."""
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "LARGE_PX", 2**40)
        patch.setattr(tiff, "LARGE_PX", 2**40)
        return pixels_of(open_image(path))


def pixels_of(image: Image) -> NDArray[Any]:
    with image:
        return image.read(Box(0, 0, *image.shape))


def entries() -> list[Path]:
    return sorted(path for path in cache.folder().glob("*") if path.is_dir())


def png(path: Path, mode: str, **options: Any) -> Path:
    Picture.fromarray(scene()).convert(mode).save(path, **options)
    return path


def deep_png(path: Path, channels: int) -> Path:
    path.write_bytes(imagecodecs.png_encode(scene(channels, "u2")))
    return path


def on_its_side(path: Path) -> Path:
    exif = Picture.Exif()
    exif[274] = 6
    Picture.fromarray(scene()).save(path, exif=exif, quality=80)
    return path


def late_exif(path: Path) -> Path:
    """A PNG that says behind its pixels that it lies on its side."""
    data = on_its_side(path).read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
    path.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    return path


def strip_tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, rowsperstrip=len(pixels), **options)
    return path


MADE: dict[str, Callable[[Path], Path]] = {
    **{f"png-{mode}": lambda p, m=mode: png(p / "a.png", m) for mode in ("L", "RGB", "RGBA", "LA", "P", "1")},  # type: ignore[misc]
    "png-transparent": lambda p: png(p / "a.png", "P", transparency=3),
    **{f"png-16-{n}": lambda p, n=n: deep_png(p / "a.png", n) for n in (1, 2, 3, 4)},  # type: ignore[misc]
    **{f"jpeg-{mode}": lambda p, m=mode: png(p / "a.jpg", m, quality=80) for mode in ("L", "RGB", "CMYK")},  # type: ignore[misc]
    "jpeg-on-its-side": lambda p: on_its_side(p / "a.jpg"),
    "png-exif-behind": lambda p: late_exif(p / "a.png"),
    "tiff-lzw": lambda p: strip_tiff(p / "a.tif", scene(), photometric="rgb", compression="lzw"),
    "tiff-rgba": lambda p: strip_tiff(p / "a.tif", scene(4), photometric="rgb", compression="zlib", predictor=2),
    "tiff-16": lambda p: strip_tiff(p / "a.tif", scene(1, "u2"), compression="zlib", byteorder=">"),
    "tiff-float": lambda p: strip_tiff(p / "a.tif", scene(1, "f4") / 7, compression="zlib", predictor=3),
    "tiff-jpeg": lambda p: strip_tiff(p / "a.tif", scene(), photometric="ycbcr", compression="jpeg"),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_same_pixels_as_decoded_whole(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    wanted = whole(path, monkeypatch)
    assert not entries()
    image = open_image(path)
    assert image.source == str(path)
    assert (image.name, image.dtype) == ("a", wanted.dtype)
    np.testing.assert_array_equal(pixels_of(image), wanted)
    assert len(entries()) == 1


def test_a_pyramid_is_kept_and_decoded_once(tmp_path: Path) -> None:
    height, width = 4200, 700
    Picture.fromarray(scene().repeat(3, 0)).save(tmp_path / "a.png")
    told: list[tuple[int, int]] = []
    with open_image(tmp_path / "a.png", progress=lambda *done: told.append(done)) as image:
        assert image.level_shapes == ((height, width), (2100, 350), (1050, 175))
        assert image.axes == "yxc"
        assert image.rgb
        first = image.identity()
        pixels = image.read(Box(0, 0, 2100, 350), 1)
    expected = scene().repeat(3, 0).reshape(2100, 2, 350, 2, 3).astype(int).sum((1, 3))
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1), (expected + 2) >> 2)
    assert told[-1] == (9, 9)
    with open_image(tmp_path / "a.png", progress=lambda *done: told.append(done)) as image:
        assert image.identity() == first
    assert len(told) == 9, "nothing is decoded a second time"


def test_a_changed_file_is_another_picture(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", "RGB")
    open_image(path).close()
    Picture.fromarray(255 - scene()).save(path)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(np.moveaxis(pixels_of(open_image(path)), 0, -1), 255 - scene())


def test_stopped_it_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "NOTE_S", 0.0)
    path = png(tmp_path / "a.png", "RGB")

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise Enough

    with pytest.raises(Enough):
        open_image(path, progress=stop)
    told: list[int] = []
    image = open_image(path, progress=lambda done, _: told.append(done))
    np.testing.assert_array_equal(np.moveaxis(pixels_of(image), 0, -1), scene())
    assert told == [3]


KILLED = """
import os, signal, sys
from napari_xt.io.images import pictures
from napari_xt.io.conversion import work
from napari_xt.io.image import open_image
pictures.LARGE_PX, work.NOTE_S = 10, 0.0
open_image(sys.argv[1], progress=lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done == 2 else None)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_it_goes_on_from_there(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", "RGB")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -signal.SIGKILL
    told: list[int] = []
    image = open_image(path, progress=lambda done, _: told.append(done))
    np.testing.assert_array_equal(np.moveaxis(pixels_of(image), 0, -1), scene())
    assert told == [3]


def test_two_at_once_share_the_work(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", "RGB")
    begun, told = threading.Event(), list[tuple[int, int]]()
    found: list[NDArray[Any]] = []

    def wait(_done: int, _total: int) -> None:
        begun.set()
        if not found:
            threading.Event().wait(0.3)

    other = threading.Thread(target=lambda: found.append(pixels_of(open_image(path, progress=wait))))
    other.start()
    begun.wait(30)
    mine = pixels_of(open_image(path, progress=lambda *done: told.append(done)))
    other.join()
    np.testing.assert_array_equal(mine, found[0])
    assert set(told) == {(0, 0)}, "it waits for the other"


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


DAMAGED: dict[str, Callable[[Path], Path]] = {
    "png-cut": lambda p: cut(png(p / "a.png", "RGB")),
    "jpeg-cut": lambda p: cut(png(p / "a.jpg", "RGB")),
    "png-bomb": lambda p: bomb(p / "a.png"),
    "png-interlaced": lambda p: bomb(p / "a.png", interlaced=1),
}


def bomb(path: Path, interlaced: int = 0) -> Path:
    """A PNG that declares many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 40_000
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, interlaced)
    rest = chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"tEXt", b"a\0" + b"b" * (2**21 if interlaced else 1))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rest + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_leaves_nothing_behind(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match=r"a\.(png|jpg)"):
        open_image(make(tmp_path))
    assert not entries()


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", "RGB")
    with pytest.raises(ImageReadError, match="changed"):
        open_image(path, progress=lambda *_: os.utime(path, ns=(5, 5)))
    assert not entries()


def test_those_used_longest_ago_go_and_none_in_use(tmp_path: Path) -> None:
    paths = [png(tmp_path / f"{name}.png", "L") for name in "abc"]
    held = open_image(paths[0])
    for path in paths[1:]:
        open_image(path).close()
    cache.tidy(limit=0)
    assert len(entries()) == 1
    np.testing.assert_array_equal(pixels_of(held)[0], np.asarray(Picture.open(paths[0])))
    cache.tidy(limit=0)
    assert not entries()


def test_where_the_cache_cannot_be_written_the_memory_does_or_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = png(tmp_path / "a.png", "RGB")
    np.testing.assert_array_equal(np.moveaxis(pixels_of(open_image(path)), 0, -1), scene())
    monkeypatch.setattr(pictures, "MAX_DECODED_BYTES", 10)
    with pytest.raises(StoreError, match="can't be written"):
        open_image(path)


def test_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = png(tmp_path / "a.png", "RGB")
    assert main(["info", str(path)]) == 0
    assert "decoding once into a pyramid" in capsys.readouterr().err
    assert main(["info", str(path)]) == 0
    assert not capsys.readouterr().err


def test_channels_last_reads_as_numpy_does(tmp_path: Path) -> None:
    with open_image(png(tmp_path / "a.png", "RGB")) as image:
        level = image.levels[0]
        assert isinstance(level, cached.ChannelsLast)
        for key in (np.s_[3:9, 5:7], np.s_[..., 1], np.s_[4, :, 1:], np.s_[-1, 2], np.s_[::3, 4]):
            np.testing.assert_array_equal(level[key], scene()[key])
