"""Images behind URLs, from servers that fail, hang and lie: whole pictures, or one clear error in time."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
import zarr.core.sync
from remote_case import Rule, Server

from napari_xt.errors import ImageFormatError, ImageNotFoundError, ImageReadError, XTError
from napari_xt.geometry import Box
from napari_xt.io.image import Image, open_image
from napari_xt.io.images import remote

pytest.importorskip("aiohttp")

PIXELS = np.random.default_rng(0).integers(1, 250, (320, 256)).astype("u2")
WHOLE = Box(0, 0, *PIXELS.shape)
FILL = 7
LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {"zarr_format": 3, "chunks": (64, 64)},
    "v3-sharded": {"zarr_format": 3, "chunks": (32, 32), "shards": (64, 64)},
    "v3-raw": {"zarr_format": 3, "chunks": (64, 64), "compressors": None},
    "v2": {"zarr_format": 2, "chunks": (64, 64)},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """Fail a test that leaves a read waiting in zarr's event loop."""
    yield
    loop, end = zarr.core.sync.loop[0], time.monotonic() + 3
    while loop and (waiting := asyncio.all_tasks(loop)):
        assert time.monotonic() < end, f"still waiting: {waiting}"
        time.sleep(0.01)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Shorten all times to a fifth."""
    monkeypatch.setattr(remote, "PATIENCE_S", 2.0)
    return 2.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten pauses, and leave time to a busy machine before its silence counts."""
    monkeypatch.setattr(remote, "PATIENCE_S", 4.0)


def write(path: Path, zarr_format: Any = 3, **options: Any) -> str:
    """Write an OME-Zarr of two levels; return what follows the server's address."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    for level in range(2):
        data = PIXELS[:: 2**level, :: 2**level]
        array = group.create_array(f"s{level}", shape=data.shape, dtype="u2", fill_value=FILL, **options)
        array[...] = data
    datasets = [{"path": f"s{level}"} for level in range(2)]
    content = {"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": datasets}]}
    group.attrs.update(content if zarr_format == 2 else {"ome": {"version": "0.5", **content}})
    return path.name


def chunk(path: Path, row: int, col: int) -> Path:
    """The file of a chunk of level 0."""
    old = path / "s0" / f"{row}.{col}"
    return old if (path / ".zgroup").exists() else path / "s0" / "c" / str(row) / str(col)


def only(part: str, fault: str | int) -> Rule:
    return lambda path, *_: fault if path.endswith(part) else None


def always(fault: str | int) -> Rule:
    return lambda *_: fault


def check(error: XTError, url: str, *words: str) -> None:
    message = str(error)
    assert url in message
    assert all(word in message for word in words), message
    assert len(message) <= 280
    assert "\n" not in message


def assert_whole(image: Image) -> None:
    np.testing.assert_array_equal(image.read(WHOLE)[0], PIXELS)
    np.testing.assert_array_equal(image.read(Box(0, 0, 160, 128), level=1)[0], PIXELS[::2, ::2])


@pytest.mark.parametrize(
    ("layout", "fault"),
    [("v3-sharded", fault) for fault in (500, 503, 429, 408, "reset", "drop", "cut")]
    + [("v2", 503), ("v3", "reset"), ("v3-raw", "cut")],
)
def test_one_request_in_five_fails(tmp_path: Path, server: Server, quick: None, layout: str, fault: str | int) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS[layout])}"
    server.rule = lambda _, count, __: None if count % 5 else fault
    with open_image(url) as image:
        assert_whole(image)
    assert server.faults >= 5


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_silence_is_asked_again(tmp_path: Path, server: Server, patience: float, fault: str) -> None:
    with open_image(f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3'])}") as image:
        server.rule = lambda path, _, times: fault if times == 1 and path.endswith("2") else None
        assert_whole(image)
    assert server.faults == 5


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_a_read_from_a_server_that_hangs_ends(tmp_path: Path, server: Server, patience: float, fault: str) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3'])}"
    with open_image(url) as image:
        server.rule = always(fault)
        start = time.monotonic()
        with pytest.raises(ImageReadError) as caught:
            image.read(Box(64, 0, 320, 256))
        assert time.monotonic() - start < 1.5 * patience
    check(caught.value, url, "chunk at y=64, x=0 of level 0", "s0/c/1/0 after 2 attempts: no answer for 0.9 s")
    assert max(server.asked.values()) <= 2


def test_opening_from_a_server_that_hangs_ends(server: Server, patience: float, tmp_path: Path) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    server.rule = always("hang")
    start = time.monotonic()
    with pytest.raises(ImageReadError) as caught:
        open_image(url)
    assert time.monotonic() - start < 1.5 * patience
    check(caught.value, url, "after 2 attempts: no answer for 0.9 s", "check the address and the network")


def test_bytes_that_trickle_end(
    tmp_path: Path, server: Server, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3-raw'])}"
    monkeypatch.setattr(remote, "longest_s", lambda: 1.0)
    with open_image(url) as image:
        server.rule = only("s0/c/0/0", "trickle")
        with pytest.raises(ImageReadError) as caught:
            image.read(WHOLE)
    check(caught.value, url, "chunk at y=0, x=0 of level 0", "not complete after 1 s")


def test_a_server_that_is_gone(tmp_path: Path, server: Server, patience: float) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3'])}"
    with open_image(url) as image:
        server.stop()
        start = time.monotonic()
        with pytest.raises(ImageReadError) as caught:
            image.read(WHOLE)
        check(caught.value, url, "chunk at y=0, x=0 of level 0", "s0/c/0/0 after 6 attempts: no connection (")
        with pytest.raises(ImageReadError) as caught:
            open_image(url)
        check(caught.value, url, "after 6 attempts: no connection (Connect call failed")
        assert time.monotonic() - start < 2 * patience


@pytest.mark.parametrize(
    ("layout", "fault"),
    [*((layout, 500) for layout in LAYOUTS), ("v3", 403), ("v3-sharded", "drop"), ("v3-raw", "cut")],
)
def test_a_missing_chunk_is_empty_and_a_failing_one_an_error(
    tmp_path: Path, server: Server, patience: float, layout: str, fault: str | int
) -> None:
    path = tmp_path / "a.zarr"
    url = f"{server.url}/{write(path, **LAYOUTS[layout])}"
    chunk(path, 0, 1).unlink()
    failing = f"/{chunk(path, 2, 3).relative_to(tmp_path)}"
    server.rule = only(failing, fault)
    expected = PIXELS.copy()
    expected[:64, 64:128] = FILL
    with open_image(url) as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, 128, 256))[0], expected[:128])
        np.testing.assert_array_equal(image.read(Box(128, 0, 320, 192))[0], expected[128:, :192])
        for box in (WHOLE, Box(130, 200, 131, 201)):
            with pytest.raises(ImageReadError) as caught:
                image.read(box)
            check(caught.value, url, "of level 0", failing.removeprefix("/a.zarr/"))
    # aiohttp itself asks twice where a connection that it had kept breaks
    assert server.asked[failing] <= {403: 1, "drop": 2 * remote.ATTEMPTS}.get(fault, remote.ATTEMPTS)


def test_a_failing_level_is_an_error_and_a_missing_one_is_ignored(tmp_path: Path, server: Server, quick: None) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    server.rule = only("s1/zarr.json", 500)
    with pytest.raises(ImageReadError) as caught:
        open_image(url)
    check(caught.value, url, "s1/zarr.json after 6 attempts: the server answers 500")
    server.rule = only("s1/zarr.json", 404)
    with open_image(url) as image:
        assert image.level_shapes == (PIXELS.shape,)


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, ImageNotFoundError), (401, ImageReadError), (403, ImageReadError), (410, ImageReadError)],
)
def test_a_clear_no_is_not_asked_again(tmp_path: Path, server: Server, status: int, error: type[XTError]) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    server.rule = always(status)
    with pytest.raises(error) as caught:
        open_image(url)
    check(caught.value, url)
    assert set(server.asked.values()) <= {1, 2}  # zarr looks for a group where there is no array


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_page_in_place_of_a_chunk_is_damage(tmp_path: Path, server: Server, layout: dict[str, Any]) -> None:
    path = tmp_path / "a.zarr"
    url = f"{server.url}/{write(path, **layout)}"
    key = f"/{chunk(path, 1, 1).relative_to(tmp_path)}"
    server.rule = only(key, "page")
    with open_image(url) as image, pytest.raises(ImageReadError) as caught:
        image.read(WHOLE)
    check(caught.value, url, "of level 0")


def test_a_page_in_place_of_metadata_is_damage(tmp_path: Path, server: Server) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    server.rule = only("a.zarr/zarr.json", "page")
    with pytest.raises(ImageFormatError) as caught:
        open_image(url)
    check(caught.value, url)
    assert server.asked["/a.zarr/zarr.json"] <= 2


def test_a_busy_server_is_given_the_time_it_asks_for(tmp_path: Path, server: Server) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    server.headers = {"Retry_After": "1"}
    server.rule = lambda path, _, times: 429 if path.endswith("s0/zarr.json") and times == 1 else None
    start = time.monotonic()
    open_image(url).close()
    assert time.monotonic() - start >= 1
    assert server.asked["/a.zarr/s0/zarr.json"] == 2


def test_a_busy_server_that_asks_for_too_much(tmp_path: Path, server: Server, patience: float) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    server.headers = {"Retry_After": "60"}
    server.rule = only("s0/zarr.json", 429)
    with pytest.raises(ImageReadError) as caught:
        open_image(url)
    check(caught.value, url, "s0/zarr.json: the server answers 429 Too Many Requests")
    assert server.asked["/a.zarr/s0/zarr.json"] == 1


def test_a_server_that_recovers(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    with open_image(f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3'])}") as image:
        server.rule = only("s0/c/0/0", 500)
        with pytest.raises(ImageReadError, match="answers 500"):
            image.read(WHOLE)
        server.rule = always_well
        with pytest.raises(ImageReadError, match="answers 500"):
            image.read(WHOLE)  # at once: nothing is asked
        time.sleep(0.5)
        assert_whole(image)
    assert server.asked["/a.zarr/s0/c/0/0"] == remote.ATTEMPTS + 1


def always_well(*_: object) -> None:
    return None


def test_a_server_that_ignores_ranges(tmp_path: Path, server: Server) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3-sharded'])}"
    server.ranges = False
    with open_image(url) as image, pytest.raises(ImageReadError) as caught:
        image.read(Box(0, 0, 32, 32))
    check(caught.value, url, "ignores which range of bytes")


def test_listing_a_plain_group(tmp_path: Path, server: Server, quick: None) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("s0", data=PIXELS)
    server.rule = lambda path, _, times: 503 if times == 1 else None
    with open_image(f"{server.url}/a.zarr") as image:
        np.testing.assert_array_equal(image.read(WHOLE)[0], PIXELS)
    server.rule = only("/a.zarr/", 500)
    with pytest.raises(ImageReadError, match="answers 500"):
        open_image(f"{server.url}/a.zarr")


def connections(server: Server) -> int:
    return sum(c.raddr[1:] == (server.server_port,) for c in psutil.Process().net_connections("tcp") if c.raddr)


@pytest.mark.parametrize("dropped", [False, True], ids=["closed", "dropped"])
def test_connections_are_closed(tmp_path: Path, server: Server, dropped: bool) -> None:
    image = open_image(f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3'])}")
    assert_whole(image)
    assert connections(server) > 0
    if dropped:
        del image
    else:
        image.close()
    end = time.monotonic() + 3
    while connections(server) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
    assert connections(server) == 0


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_closing_ends_reads_that_wait(tmp_path: Path, server: Server, fault: str) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr', **LAYOUTS['v3'])}"
    image = open_image(url)
    before = server.asked.total()
    server.rule = always(fault)
    errors: list[XTError] = []

    def read() -> None:
        with pytest.raises(ImageReadError) as caught:
            image.read(WHOLE)
        errors.append(caught.value)

    thread = threading.Thread(target=read)
    thread.start()
    while server.faults < 10:
        time.sleep(0.01)
    start = time.monotonic()
    image.close()
    thread.join()
    assert time.monotonic() - start < 2
    check(errors[0], url, "the image is closed")
    assert server.asked.total() == before + 10  # as many as zarr asks for at a time


@pytest.mark.parametrize("last", ["", "; del image"], ids=["kept", "dropped"])
def test_a_process_that_forgets_to_close_ends_in_silence(tmp_path: Path, server: Server, last: str) -> None:
    url = f"{server.url}/{write(tmp_path / 'a.zarr')}"
    code = f"from napari_xt.io.image import open_image; image = open_image({url!r}); print(image.shape){last}"
    call = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "(320, 256)"
    assert done.stderr == ""


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An S3 address that leads to the server on the loopback."""
    pytest.importorskip("s3fs")
    (tmp_path / "bucket").mkdir()
    settings = {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{write(tmp_path / 'bucket' / 'a.zarr', **LAYOUTS['v3'])}"


@pytest.mark.parametrize("fault", [503, "cut"])
def test_one_request_in_five_to_s3_fails(server: Server, bucket: str, quick: None, fault: str | int) -> None:
    server.rule = lambda _, count, __: None if count % 5 else fault
    with open_image(bucket) as image:
        assert_whole(image)
    assert server.faults >= 5


def test_s3_that_fails_and_hangs(server: Server, bucket: str, patience: float, tmp_path: Path) -> None:
    chunk(tmp_path / "bucket" / "a.zarr", 0, 0).unlink()
    with open_image(bucket) as image:
        assert (image.read(Box(0, 0, 64, 64)) == FILL).all()
        server.rule = only("s0/c/1/0", 500)
        with pytest.raises(ImageReadError) as caught:
            image.read(Box(64, 0, 128, 64))
        check(caught.value, bucket, "s0/c/1/0", "after 6 attempts")
        server.rule = only("s0/c/2/0", "hang")
        start = time.monotonic()
        with pytest.raises(ImageReadError) as caught:
            image.read(Box(128, 0, 192, 64))
        assert time.monotonic() - start < 1.5 * patience
        check(caught.value, bucket, "s0/c/2/0 after 2 attempts: no answer for 0.9 s")
    assert server.asked["/bucket/a.zarr/s0/c/1/0"] == remote.ATTEMPTS
