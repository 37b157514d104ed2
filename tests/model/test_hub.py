"""Files of the Hugging Face Hub: from a server, from the cache, and what is said where neither has them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from napari_xt.errors import ModelNotFoundError
from napari_xt.model.hub import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"the file"
NOWHERE = "http://127.0.0.1:9"
ERRORS = {
    "/lab/gated/": (403, "GatedRepo"),
    "/lab/private/": (401, "RepoNotFound"),
    "/lab/model/resolve/later/": (404, "RevisionNotFound"),
    "/lab/model/resolve/main/absent": (404, "EntryNotFound"),
    "/lab/broken/": (500, ""),
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        code, error = next((told for start, told in ERRORS.items() if self.path.startswith(start)), (200, ""))
        self.send_response(code)
        self.send_header("Content-Length", str(len(CONTENT) if code == 200 else 0))
        if error:
            self.send_header("X-Error-Code", error)
        if code == 200:
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{hub.server_port}"
        hub.shutdown()
        thread.join()


def elsewhere(name: str, home: Path, **settings: str) -> str:
    """What `fetch` says in a process of its own, for huggingface_hub reads its settings when it is imported."""
    code = """
import sys
from napari_xt.errors import ModelNotFoundError
from napari_xt.model.hub import fetch
try:
    print(fetch(sys.argv[1]))
except ModelNotFoundError as error:
    print(error)
"""
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        env=os.environ | proxies | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"} | settings,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def cached(home: Path, repository: str, file: str) -> Path:
    """A file as huggingface_hub keeps it."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    return path


@pytest.mark.parametrize("name", ["hf:lab/model/swin-t/weights/a.ckpt", f"hf:lab/model@{COMMIT}/a.safetensors"])
def test_a_file_is_fetched_once_and_kept(name: str, server: str, tmp_path: Path) -> None:
    path = elsewhere(name, tmp_path, HF_ENDPOINT=server)
    assert Path(path).read_bytes() == CONTENT
    assert path.endswith(name.split("/", 2)[2])
    assert elsewhere(name, tmp_path, HF_HUB_OFFLINE="1") == path


SAID = {
    "hf:lab/gated/a.ckpt": "lab/gated is gated: it needs access and HF_TOKEN",
    "hf:lab/private/a.ckpt": "there is no lab/private, or it is private",
    "hf:lab/model@later/a.ckpt": "lab/model has no revision later",
    "hf:lab/model/absent/a.ckpt": "lab/model has no file absent/a.ckpt",
}


@pytest.mark.parametrize(("name", "why"), SAID.items(), ids=SAID)
def test_what_the_hub_refuses_is_told(name: str, why: str, server: str, tmp_path: Path) -> None:
    told = elsewhere(name, tmp_path, HF_ENDPOINT=server)
    assert told.startswith(f"{name}: {why}; ")


def test_without_a_connection_the_cache_serves(tmp_path: Path) -> None:
    path = cached(tmp_path, "lab/model", "weights/a.ckpt")
    assert elsewhere("hf:lab/model/weights/a.ckpt", tmp_path, HF_ENDPOINT=NOWHERE) == str(path)


@pytest.mark.slow  # huggingface_hub tries for some 20 s
@pytest.mark.parametrize("broken", [True, False])
def test_without_a_connection_and_a_cache_it_is_told(broken: bool, server: str, tmp_path: Path) -> None:
    told = elsewhere("hf:lab/broken/b.ckpt", tmp_path, HF_ENDPOINT=server if broken else NOWHERE)
    assert "is not in the cache, and the Hub can't be reached" in told


def test_offline_the_cache_serves_or_it_is_told(tmp_path: Path) -> None:
    path = cached(tmp_path, "lab/model", "weights/a.ckpt")
    assert elsewhere("hf:lab/model/weights/a.ckpt", tmp_path, HF_HUB_OFFLINE="1") == str(path)
    told = elsewhere("hf:lab/model/weights/b.ckpt", tmp_path, HF_HUB_OFFLINE="1")
    assert "is not in the cache, and HF_HUB_OFFLINE is set; fetch it once without it" in told


@pytest.mark.parametrize(
    "name",
    [
        *(
            "hf:",
            "hf:lab",
            "hf:lab/model",
            "hf:lab/model/",
            "hf:lab//a.ckpt",
            "lab/model/a.ckpt",
            "hf:lab/model@/a.ckpt",
        ),
        *("hf:lab/model/../a.ckpt", "hf:lab/model/a//b.ckpt", "hf:../model/a.ckpt", "hf:lab/model/..\\a", "hf:l b/m/a"),
        *("hf:lab/mo--del/a.ckpt", "hf:.lab/model/a.ckpt", "hf:lab/model/\x00"),
    ],
)
def test_other_forms_of_name_are_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        fetch(name)


def test_importing_it_imports_no_hub() -> None:
    code = "import sys, napari_xt.model.hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
