"""A journal that is read when its writer is done: the writer waits for the reader."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from napari_xt.io.stores.ledger import Ledger


def test_writer_waits_for_a_reader_after_settling(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path)
    reading, ended = threading.Event(), []

    def read() -> None:
        with Ledger(path, read_only=True) as reader, reader.snapshot():
            assert reader.revision == 0
            reading.set()
            time.sleep(0.3)
        ended.append(time.monotonic())

    writer = Ledger(path)
    writer.settle()
    thread = threading.Thread(target=read)
    thread.start()
    reading.wait()
    with writer.exclusive():
        writer._db.execute("INSERT INTO meta VALUES ('a', 'b')")
    assert ended
    thread.join()
    writer.close()
