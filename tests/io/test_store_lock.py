from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import store_case as case

from napari_xt.errors import StoreLockedError
from napari_xt.io.stores.lock import Owner, boot_name, process_start
from napari_xt.io.stores.store import Store

HOLD = """
import sys
sys.path.insert(0, sys.argv[2])
import store_case as case
from pathlib import Path
store = case.Store.open_writer(Path(sys.argv[1]), case.header())
store.commit([case.block_data(case.layout(), 0, 1)])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.xt.zarr"


@pytest.mark.parametrize("restart", [False, True], ids=["plain", "restart"])
def test_a_second_writer_is_refused_until_the_first_is_dead(path: Path, restart: bool) -> None:
    command = [sys.executable, "-c", HOLD, str(path), str(Path(case.__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError) as refused:
            Store.open_writer(path, case.header(), restart=restart)
        assert f"process {child.pid} on {socket.gethostname()} is writing it" in str(refused.value)
        child.kill()
    with Store.open_writer(path, case.header(), restart=restart) as store:
        assert store.committed() == (frozenset() if restart else {(0, 1)})
    assert os.listdir(path.parent) == ["run.xt.zarr"]


def test_a_second_writer_in_this_process_is_refused(path: Path) -> None:
    with (
        Store.open_writer(path, case.header()) as store,
        pytest.raises(StoreLockedError, match=f"process {os.getpid()} "),
    ):
        Store.open_writer(path, case.header())
    assert not (store.path / "journal/run.lock").exists()


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        pytest.param({}, False, id="this process"),
        pytest.param({"start": 1.0}, True, id="pid used again"),
        pytest.param({"pid": 1 << 30}, True, id="no such process"),
        pytest.param({"boot": "another"}, True, id="before the machine was started again"),
        pytest.param({"host": "elsewhere"}, False, id="another host"),
        pytest.param({"host": "elsewhere", "pid": 1 << 30}, False, id="unknown process of another host"),
    ],
)
def test_a_lock_holds_while_its_process_lives(path: Path, changes: dict[str, object], free: bool) -> None:
    case.write(path, limit=1)
    (path / "journal/run.lock").write_text(json.dumps(asdict(replace(Owner.me(), **changes))))
    if free:
        Store.open_writer(path, case.header()).close()
    else:
        with pytest.raises(StoreLockedError, match="is writing it"):
            Store.open_writer(path, case.header())
    assert (path / "journal/run.lock").exists() != free


@pytest.mark.skipif(not boot_name(), reason="a clock that is set moves nothing here")
def test_a_lock_holds_when_the_clock_is_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case.write(path, limit=1)
    mine = Owner.me()
    (path / "journal/run.lock").write_text(json.dumps(asdict(mine)))
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 3600)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + 3600)
    assert mine.alive
    with pytest.raises(StoreLockedError, match="is writing it"):
        Store.open_writer(path, case.header())


def test_a_lock_that_makes_no_sense_is_taken_over(path: Path) -> None:
    case.write(path, limit=1)
    (path / "journal/run.lock").write_bytes(b"")
    Store.open_writer(path, case.header()).close()


def test_a_zombie_holds_nothing(path: Path) -> None:
    case.write(path, limit=1)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    mine = replace(Owner.me(), pid=child.pid, start=process_start(child.pid))
    (path / "journal/run.lock").write_text(json.dumps(asdict(mine)))
    assert mine.alive
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    Store.open_writer(path, case.header()).close()
    child.communicate()


@pytest.mark.parametrize(("pid", "stays"), [(1 << 30, False), (os.getpid(), True)], ids=["dead", "alive"])
def test_what_a_killed_creation_left_is_removed(path: Path, pid: int, stays: bool) -> None:
    aside = path.with_name(f".run.xt.zarr.{pid}-abcd.partial")
    (aside / "journal").mkdir(parents=True)
    Store.open_writer(path, case.header()).close()
    assert aside.exists() == stays
