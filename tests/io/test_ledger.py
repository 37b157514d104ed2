from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_xt.errors import StoreError
from napari_xt.io.stores.ledger import BlockRow, Ledger, NewRegion


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Ledger.create(tmp_path / "ledger.sqlite")
    return tmp_path / "ledger.sqlite"


def region(idx: int, status: int = 2) -> NewRegion:
    return NewRegion(idx, 0, idx, 0, 0, status, "", None, b"box")


def test_what_is_recorded_is_read(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record([BlockRow(1, 2, 99)], [region(7), region(3, status=4)])
        assert ledger.blocks() == {(1, 2): 99}
        assert [(row.idx, row.status, row.attempts, row.boxes) for row in ledger.regions()] == [
            (3, 4, 1, b"box"),
            (7, 2, 1, b"box"),
        ]
        assert ledger.counts() == {2: 1, 4: 1}


def test_a_second_attempt_is_counted(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record([BlockRow(0, 0, 1)], [region(3, status=4)])
        ledger.record([BlockRow(0, 0, 2)], [region(3)])
        assert [(row.status, row.attempts) for row in ledger.regions()] == [(2, 2)]
        assert ledger.blocks() == {(0, 0): 2}


def test_a_commit_is_whole_or_not_at_all(path: Path) -> None:
    broken = region(5)._replace(boxes=None)  # type: ignore[arg-type]
    with Ledger(path) as ledger:
        with pytest.raises(StoreError, match="journal can't be read or written"):
            ledger.record([BlockRow(0, 0, 1)], [region(4), broken])
        assert ledger.blocks() == {}
        assert ledger.regions() == []
        assert ledger.revision == 0


def test_new_blocks_undo_a_finish(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record([BlockRow(0, 0, 1)], [region(0)])
        ledger.finish({0: b"\x01"})
        assert ledger.complete
        assert ledger.regions()[0].kept == b"\x01"
        ledger.record([BlockRow(0, 1, 1)], [region(1)])
        assert not ledger.complete
        assert ledger.regions()[0].kept is None


def test_a_reader_sees_the_last_commit_beside_a_writer(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record([BlockRow(0, 0, 1)], [])
        with Ledger(path, read_only=True) as reader, reader.snapshot():
            before = reader.blocks()
            ledger.record([BlockRow(0, 1, 2)], [])
            assert reader.blocks() == before == {(0, 0): 1}
        with Ledger(path, read_only=True) as reader:
            assert len(reader.blocks()) == 2


def test_a_settled_journal_is_one_file(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record([BlockRow(0, 0, 1)], [])
        ledger.settle()
    assert os.listdir(path.parent) == ["ledger.sqlite"]
    with Ledger(path, read_only=True) as reader:
        assert reader.blocks() == {(0, 0): 1}
    assert os.listdir(path.parent) == ["ledger.sqlite"]


@pytest.mark.parametrize("read_only", [True, False], ids=["read", "write"])
@pytest.mark.parametrize("data", [None, b"", b"no database" * 99], ids=["missing", "empty", "text"])
def test_what_is_no_journal_is_an_error(tmp_path: Path, data: bytes | None, read_only: bool) -> None:
    path = tmp_path / "other.sqlite"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StoreError, match=r"other\.sqlite: the journal can't be read or written"):
        Ledger(path, read_only=read_only)
    assert path.exists() == (data is not None)
