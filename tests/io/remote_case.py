"""A real server on the loopback that stumbles on request, for tests of images behind URLs."""

from __future__ import annotations

import http.server
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Fault = str | int | None
Rule = Callable[[str, int, int], Fault]
"""From a path, how many requests there were in all and how many for it to a status, a word of `Handler`, or None."""

S3_NOT_FOUND = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>'


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `rule` says which requests go wrong."""

    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.rule: Rule = lambda *_: None
        self.headers: dict[str, str] = {}
        self.ranges = True
        self.asked: Counter[str] = Counter()
        self.faults = 0
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, path: str) -> Fault:
        with self._lock:
            self.asked[path] += 1
            fault = self.rule(path, self.asked.total(), self.asked[path])
            self.faults += fault is not None
            return fault

    def handle_error(self, *args: object) -> None:
        """A client that goes away is no error here."""

    def stop(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self.shutdown()
            self.server_close()
            self._thread.join()


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, so that a client that leaves them open shows
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        fault = self.server.count(self.path) if not self.server.ended.is_set() else "drop"
        if isinstance(fault, int):
            self.answer(fault, b"<html>a page</html>", **self.server.headers)
        elif fault is not None and Path(self.translate_path(self.path)).is_file():
            getattr(self, fault)()
        else:
            self.serve()

    def serve(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            listing: Any = self.list_directory(path)
            self.wfile.write(listing.read())
        elif not path.is_file():
            self.answer(404, S3_NOT_FOUND)
        elif self.server.ranges and (match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))):
            start, end = match.groups()
            data = path.read_bytes()
            part = data[int(start) : int(end) + 1 if end else None] if start else data[-int(end) :]
            self.answer(206, part)
        else:
            self.answer(200, path.read_bytes())

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def drop(self) -> None:
        """No answer, and no connection any more."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def cut(self) -> None:
        self.begin()
        self.close_connection = True

    def hang(self) -> None:
        self.server.ended.wait(30)
        self.close_connection = True

    def stall(self) -> None:
        self.begin()
        self.hang()

    def page(self) -> None:
        """What a portal answers that wants a password first."""
        self.answer(200, b"<html>please log in</html>")

    def trickle(self) -> None:
        body = self.begin()
        for byte in body:
            time.sleep(0.02)
            if self.server.ended.is_set():
                break
            self.wfile.write(bytes([byte]))

    def begin(self) -> bytes:
        """Send the head and the first half; return the second one."""
        body = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        return body[len(body) // 2 :]
