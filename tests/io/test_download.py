"""Downloads from a server on this machine: whole or not at all, gone on with, stopped, verified."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_xt.errors import ImageReadError, StoreError
from napari_xt.io.download import PIECE, Remote, download, kept

CONTENT = np.random.default_rng(0).bytes(4 * PIECE + 1234)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Sends `CONTENT`; ``cut`` bytes of it at a time, whole where ``ranges`` are not its thing."""

    daemon_threads = True
    cut: int | None = None
    ranges = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def remote(self) -> Remote:
        return Remote(f"http://127.0.0.1:{self.server_port}/slide.svs", len(CONTENT), SHA, "CC0")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.server.asked.append(span)
        first = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.server.ranges else 0
        self.send_response(self.server.status if not first else 206)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        end = len(CONTENT) if self.server.cut is None else first + self.server.cut
        self.wfile.write(CONTENT[first:end])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_file_is_got_once(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = download(server.remote, tmp_path / "new", lambda *state: told.append(state))
    assert path == tmp_path / "new/slide.svs"
    assert path.read_bytes() == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert download(server.remote, tmp_path / "new") == kept(server.remote, tmp_path / "new") == path
    assert server.asked == [None]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_connection_is_gone_on_with(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut, server.ranges = 2 * PIECE, ranges
    with pytest.raises(ImageReadError, match=f"{2 * PIECE:,} of .* it goes on from there"):
        download(server.remote, tmp_path)
    assert kept(server.remote, tmp_path) is None
    server.cut = None
    assert download(server.remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={2 * PIECE}-"]


def test_stop_keeps_what_is_there(server: Server, tmp_path: Path) -> None:
    def stop(done: int, _size: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.remote, tmp_path, stop)
    have = (tmp_path / "slide.svs.part").stat().st_size
    assert 0 < have < len(CONTENT)
    assert download(server.remote, tmp_path).read_bytes() == CONTENT
    assert server.asked[1] == f"bytes={have}-"


@pytest.mark.parametrize("damage", ["other bytes", "longer than promised"])
def test_another_file_is_thrown_away(server: Server, tmp_path: Path, damage: str) -> None:
    there = server.remote
    wrong = {"other bytes": (there.size, "0" * 64), "longer than promised": (there.size - PIECE, SHA)}[damage]
    with pytest.raises(ImageReadError, match="is not the file that was promised"):
        download(Remote(there.url, *wrong, "CC0"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_part_costs_one_try(server: Server, tmp_path: Path) -> None:
    (tmp_path / "slide.svs.part").write_bytes(bytes(1000))
    with pytest.raises(ImageReadError, match="thrown away"):
        download(server.remote, tmp_path)
    (tmp_path / "slide.svs.part").write_bytes(bytes(len(CONTENT) + 1))
    assert download(server.remote, tmp_path).read_bytes() == CONTENT


def test_server_that_has_it_not(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ImageReadError, match="Not Found"):
        download(server.remote, tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="no address on the web"):
        download(Remote(url, 10, SHA, ""), tmp_path)


def test_nobody_answers(tmp_path: Path) -> None:
    with Server() as gone:
        remote = gone.remote
    with pytest.raises(ImageReadError, match="0 of"):
        download(remote, tmp_path)


def test_folder_that_can_not_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        download(server.remote, tmp_path / "file" / "samples")
