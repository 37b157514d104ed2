"""Files of torch.save: what they hold is read exactly, and what they could do is never done."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.errors import ModelError
from napari_xt.model.released.pickle_machine import INERT, STEPS
from napari_xt.model.released.pickle_reader import PICKLE_LIMIT, StoredTensor, read_checkpoint
from napari_xt.model.released.torch_zip import DIRECTORY_LIMIT

PROTO, STOP = b"\x80\x02", b"."
STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def tensor(size: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """Instructions that build a float32 tensor over a storage of ``size`` numbers."""
    identity = tuple_of(text("storage"), STORAGE, text(key), text("cpu"), number(size))
    places = [number(offset), tuple_of(*map(number, shape)), tuple_of(*map(number, stride))]
    return REBUILD + tuple_of(identity + b"Q", *places, b"\x89", b"}") + b"R"


def archive(path: Path, body: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    """A file as torch writes it, whose pickle has the instructions ``body``."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", PROTO + body + STOP)
        for name, data in members.items():
            file.writestr(f"a/{name.replace('__', '/')}", data)
    return path


def saved(path: Path, value: object) -> Any:
    torch.save(value, path)
    return read_checkpoint(path).content


# what a file holds


@pytest.mark.parametrize("name", ["full", "no_optimizer", "bare"])
def test_the_trainers_files_are_read_exactly(shared: Path, name: str) -> None:
    told = json.loads((shared / "reference/sample_checkpoint.json").read_text())
    content: Any = read_checkpoint(shared / f"reference/sample_checkpoint_{name}.ckpt").content
    state = content if name == "bare" else content["state_dict"]
    prefix = "" if name == "bare" else "module."
    assert [key.removeprefix(prefix) for key in state] == [
        row[0] for row in told["state_dict_after_removing_the_prefix"]
    ]
    for key, shape, dtype, total, stride in told["state_dict_after_removing_the_prefix"]:
        found = state[prefix + key]
        assert [list(found.shape), found.dtype, list(found.stride)] == [shape, dtype, stride]
        assert found.read().sum(dtype=np.float64) == pytest.approx(total, rel=1e-6)
    if name != "bare":
        assert (content["epoch"], content["metrics"]) == (told["epoch"], told["metrics"])


def test_the_trainers_weights_give_the_logits(shared: Path) -> None:
    told = json.loads((shared / "reference/sample_checkpoint.json").read_text())
    content: Any = read_checkpoint(shared / "reference/sample_checkpoint_full.ckpt").content
    w = {key.removeprefix("module."): torch.from_numpy(value.read()) for key, value in content["state_dict"].items()}
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(123)).standard_normal((2, 3, 16, 16)).astype(np.float32))
    patches = "encoder.model.patch_embed.proj"
    x = F.conv2d(x, w[f"{patches}.weight"], w[f"{patches}.bias"], stride=4).mean((2, 3))
    x = F.gelu(F.linear(x, w["decoder.layers.0.weight"], w["decoder.layers.0.bias"]))
    x = F.layer_norm(x, (32,), w["decoder.layers.2.weight"], w["decoder.layers.2.bias"])
    logits = F.linear(x, w["decoder.layers.3.weight"], w["decoder.layers.3.bias"])
    torch.testing.assert_close(logits, torch.tensor(told["logits"]), rtol=1e-5, atol=1e-6)


def test_classes_are_left_alone_and_named(shared: Path) -> None:
    told = json.loads((shared / "reference/sample_checkpoint.json").read_text())
    checkpoint = read_checkpoint(shared / "reference/sample_checkpoint_full.ckpt")
    content: Any = checkpoint.content
    assert content["optimizer_state_dict"]["param_groups"][0]["betas"] is INERT
    assert content["optimizer_state_dict"]["param_groups"][0]["weight_decay"] >= 0
    named = {entry.replace(" ", ".") for entry in told["pickle_globals_of_sample_checkpoint_full"]}
    assert checkpoint.strange < named
    assert {name for name in named if name.startswith(("omegaconf", "xt.", "typing"))} <= checkpoint.strange


DTYPES = "float64 float32 float16 bfloat16 complex128 complex64 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64"


@pytest.mark.parametrize("name", DTYPES.split())
def test_every_type_comes_back(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    values = (torch.arange(60).reshape(3, 4, 5) % 7).to(dtype)
    found = saved(tmp_path / "a.pt", {"x": values})["x"]
    wanted = (values.float() if name == "bfloat16" else values).numpy()
    assert found.dtype == name
    read = found.read()
    assert read.dtype == wanted.dtype
    assert read.flags.c_contiguous
    assert read.flags["W"]
    np.testing.assert_array_equal(read, wanted)


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(3, 1, 0, 2),
    "a slice": lambda x: x[1:, :, ::2, 1:3],
    "one number": lambda x: x[1, 2, 3, 1],
    "empty": lambda x: x[:0],
    "a parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_comes_back(change: Any, tmp_path: Path) -> None:
    values = change(torch.randn(2, 3, 4, 5))
    found = saved(tmp_path / "a.pt", {"x": values})["x"]
    assert found.shape == tuple(values.shape)
    np.testing.assert_array_equal(found.read(), values.detach().numpy())


def test_other_byte_order(tmp_path: Path) -> None:
    values = np.arange(6, dtype=">f4")
    path = archive(tmp_path / "a.pt", tensor(6, 0, (2, 3), (3, 1)), byteorder=b"big", data__0=values.tobytes())
    found = read_checkpoint(path).content
    assert isinstance(found, StoredTensor)
    np.testing.assert_array_equal(found.read(), values.reshape(2, 3))
    assert found.read().dtype == np.dtype("=f4")


PLAIN = {
    "numbers": [0, -1, 2**40, 2**70, 1.5, True, None, "ü\n", b"bytes"],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": {1, "a"},
    "dicts": {"a": {1: [2]}, None: 3},
    "ordered": OrderedDict(a=1, b=OrderedDict(c=2)),
    "default": defaultdict(list, a=[1]),
    "size": torch.Size([2, 3]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
def test_plain_containers_come_back(value: object, protocol: int, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt", pickle_protocol=protocol)
    assert read_checkpoint(tmp_path / "a.pt").content == value


def test_torch_is_not_imported(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(3)}, tmp_path / "a.pt")
    code = """
import sys
from pathlib import Path
from napari_xt.model.released.pickle_reader import read_checkpoint
print(read_checkpoint(Path(sys.argv[1])).content["x"].read().sum(), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.pt"], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["3.0", "False"]


# what a file could do


class Runs:
    """Unpickled by Python it would write a file."""

    def __init__(self, how: Any, *args: object) -> None:
        self.how, self.args = how, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how, self.args


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickles that leave a file ``marker`` where they are believed."""
    command = f"touch {marker}"
    system = b"cos\nsystem\n"
    nested = Runs(eval, f"open({str(marker)!r}, 'w')")
    return {
        "os.system": pickle.dumps(Runs(os.system, command), 2),
        "eval": pickle.dumps({"state_dict": {"a": nested}}, 2),
        "stack global": pickle.dumps(nested, 4),
        "exec": pickle.dumps(Runs(exec, f"import os; os.system({command!r})"), 5),
        "nested": pickle.dumps(Runs(list, Runs(map, os.system, [command])), 4),
        "new object": PROTO + system + tuple_of(text(command)) + b"\x81" + STOP,
        "new object with names": PROTO + system + tuple_of(text(command)) + b"}\x92" + STOP,
        "state": PROTO + b"cbuiltins\nobject\n)\x81" + system + tuple_of(text(command)) + b"Rb" + STOP,
        "state of a class": PROTO + system + b"}" + text("__setstate__") + system + b"sb" + text(command) + b"b" + STOP,
        "key": PROTO + b"}" + system + tuple_of(text(command)) + b"RNs" + STOP,
        "persistent id": PROTO + system + tuple_of(text(command)) + b"RQ" + STOP,
        "through a known name": PROTO
        + b"ccollections\ndefaultdict\n"
        + tuple_of(system)
        + b"R"
        + text(command)
        + b"Ns"
        + STOP,
        "through a tensor": PROTO + REBUILD + tuple_of(system, text(command), b")", b")", b"\x89", b"}") + b"R" + STOP,
        "protocol 0": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "instance": f"(S'{command}'\nios\nsystem\n.".encode(),
        "object": b"(" + system + text(command) + b"o" + STOP,
        "extension": PROTO + b"\x82\x01" + STOP,
        "import alone": PROTO + b"cantigravity\nfly\n" + STOP,
    }


@pytest.mark.parametrize("name", list(attacks(Path("marker"))))
def test_nothing_is_imported_or_called(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", attacks(marker)[name])
    with suppress(ModelError):
        assert not callable(read_checkpoint(path).content)
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def test_the_attacks_are_real(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(attacks(marker)["os.system"])
    assert marker.exists()


# what a file could cost


def deep(turns: int) -> bytes:
    """A tuple of tuples that stands for 2 ** turns items and is that deep."""
    return b")" + b"2\x86" * turns


BOMBS = {
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 2**62),
    "an array that is not there": b"\x96" + struct.pack("<Q", 2**40),
    "text that is not there": b"X" + struct.pack("<I", 2**32 - 1),
    "a number that is not there": b"\x8b" + struct.pack("<I", 2**31 - 1),
    "deep keys": b"}" + deep(200_000) + b"Ns",
    "deep items of a set": b"\x8f(" + deep(200_000) + b"\x90",
    "deep names": deep(60) + text("a") + b"\x93",
    "a list in itself": b"]q\x00h\x00a" * 50_000,
    "sets of one list": b"](" + b"N" * 100_000 + b"eq\x00" + b"cbuiltins\nset\nq\x01" + b"h\x01h\x00\x85R" * 100_000,
    "long names": text("a" * 2**20) + b"q\x00" + b"h\x00h\x00\x93" * 1000,
    "too many steps": b"N0" * STEPS,
    "marks": b"(" * (STEPS + 1),
    "a size of gigabytes": tensor(2**40, 0, (2**40,), (1,)),
    "one number many times": tensor(4, 0, (2**40,), (0,)),
    "a shape that overflows": tensor(4, 0, (2**61, 2**61, 2**61), (0, 0, 0)),
    "an empty shape that overflows": tensor(4, 0, (0, 2**61, 2**61), (1, 1, 1)),
    "outside": tensor(4, 2, (3,), (1,)),
    "far outside": tensor(4, 0, (2,), (2**61,)),
    "before": tensor(4, -1, (2,), (1,)),
    "a negative stride": tensor(4, 3, (2,), (-1,)),
    "many dimensions": tensor(4, 0, (1,) * 40, (1,) * 40),
    "missing storage": tensor(4, 0, (4,), (1,), key="../../etc/passwd"),
    "lengths differ": tensor(4, 0, (2, 2), (1,)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_costs_are_bounded(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", BOMBS[name], data__0=bytes(16))
    watch = len(BOMBS[name]) < 50_000  # watching memory makes a million steps slow
    if watch:
        tracemalloc.start()
    begin = time.process_time()
    with suppress(ModelError):
        read_checkpoint(path)
    spent = time.process_time() - begin
    if watch:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30 << 20
    assert spent < 6


def test_an_index_of_the_memo_costs_nothing(tmp_path: Path) -> None:
    # Python's own unpickler would make room for every index below it
    path = archive(tmp_path / "a.ckpt", b"]r\xff\xff\xff\xff0j\xff\xff\xff\xff")
    tracemalloc.start()
    content = read_checkpoint(path).content
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (content, peak < 1 << 20) == ([], True)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", b"N", zipfile.ZIP_DEFLATED, data__0=bytes(100_000_000))
    assert path.stat().st_size < 200_000
    with pytest.raises(ModelError, match="compressed"):
        read_checkpoint(path)


def test_a_large_pickle_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", bytes(PICKLE_LIMIT))
    with pytest.raises(ModelError, match="more than"):
        read_checkpoint(path)


def test_a_large_table_of_contents_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", b"N")
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    (start,) = struct.unpack_from("<I", data, end + 16)
    entry = bytes(data[start:end])
    table = entry * (DIRECTORY_LIMIT // len(entry) + 1)
    tail = bytearray(data[end:])
    struct.pack_into("<II", tail, 12, len(table), start)
    path.write_bytes(data[:start] + table + tail)
    with pytest.raises(ModelError, match="table of contents"):
        read_checkpoint(path)


def forge(path: Path, name: bytes, at: int, form: str, *values: int) -> Path:
    """Overwrite fields of a member in the table of contents."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    struct.pack_into(form, data, entry + at, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [2**31, 2**32 - 2, 20, 0])
def test_forged_sizes_are_refused(size: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", tensor(4, 0, (4,), (1,)), data__0=bytes(16), data__1=bytes(64))
    forge(path, b"data/0", 20, "<II", size, size)
    tracemalloc.start()
    with pytest.raises(ModelError):
        read_checkpoint(path).content.read()  # type: ignore[attr-defined]
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_forged_place_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", tensor(4, 0, (4,), (1,)), data__0=bytes(16))
    forge(path, b"data/0", 42, "<I", 2**31)
    with pytest.raises(ModelError, match="does not lie where"):
        read_checkpoint(path).content.read()  # type: ignore[attr-defined]


def test_a_small_part_of_a_large_storage_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"x": torch.zeros(20 << 20)[:2]}, path)
    content: Any = read_checkpoint(path).content
    with pytest.raises(ModelError, match="more than the"):
        content["x"].read()


def test_changed_numbers_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"x": torch.ones(1000)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x00\x00\x80\x3f" * 9) + 1] ^= 1
    path.write_bytes(data)
    content: Any = read_checkpoint(path).content
    with pytest.raises(ModelError, match="is damaged"):
        content["x"].read()


# what is no checkpoint


def old_torch() -> bytes:
    file = io.BytesIO()
    torch.save({"x": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return file.getvalue()


OTHER = {
    "old torch": (old_torch(), "before 1.6"),
    "a pickle": (pickle.dumps({"a": 1}), "no checkpoint"),
    "nothing": (b"", "no checkpoint"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
    "another zip": (other_zip(), "no checkpoint"),
    "the start of a zip": (other_zip()[:40], "damaged"),
}


@pytest.mark.parametrize(("data", "why"), OTHER.values(), ids=OTHER)
def test_other_files_are_told_apart(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=why):
        read_checkpoint(path)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.ckpt"):
        with pytest.raises(ModelError):
            read_checkpoint(path)


def tried(path: Path) -> None:
    """Read all that a file says it has; only a ModelError may come of it."""
    with suppress(ModelError):
        content = read_checkpoint(path).content
        for value in content.values() if isinstance(content, dict) else [content]:
            if isinstance(value, StoredTensor):
                assert value.read().shape == value.shape


SAMPLE = io.BytesIO()
torch.save({"a": torch.arange(12.0).reshape(3, 4).T, "b": torch.nn.Parameter(torch.ones(2)), "c": {1: "x"}}, SAMPLE)


def changed(data: bytes, changes: list[tuple[int, int]], end: int) -> bytes:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(data)] = value
    return bytes(damaged[: end % (len(data) + 1)])


CHANGES = st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 255)), max_size=6)


@given(CHANGES, st.just(len(SAMPLE.getvalue())) | st.integers(0, 9999))
def test_damaged_files_end_in_a_sentence(changes: list[tuple[int, int]], end: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.pt")
        path.write_bytes(changed(SAMPLE.getvalue(), changes, end))
        tried(path)


@given(CHANGES, st.integers(0, 9999))
def test_damaged_pickles_end_in_a_sentence(changes: list[tuple[int, int]], end: int) -> None:
    with TemporaryDirectory() as folder, zipfile.ZipFile(SAMPLE) as sample:
        names = {name.partition("/")[2].replace("/", "__"): sample.read(name) for name in sample.namelist()}
        data = names.pop("data.pkl")
        tried(archive(Path(folder, "a.pt"), changed(data, changes, max(end, len(data))), **names))


PIECES = [bytes([code]) for code in range(256)] + [
    *(b"h\x00", b"q\x00", b"q\x01", b"h\x01", b"K\x01", text("a"), text("0"), text("storage"), STORAGE, REBUILD),
    *(b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n", b"ctorch\nSize\n", b"c_codecs\nencode\n"),
    *(tensor(4, 0, (2, 2), (2, 1)), *(bytes([code]) for code in b"(tRQ]})\x85\x86\x81bsu")),
]


@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_random_instructions_end_in_a_sentence(pieces: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        tried(archive(Path(folder, "a.pt"), b"".join(pieces), data__0=bytes(16)))
