"""Reads the checkpoints that ``torch.save`` writes without running anything that they hold.

Such a file is a zip archive of one pickle and one raw member per storage. The pickle goes through `pickle_machine`,
so that tensors become descriptions (`StoredTensor`, read when asked for) and everything else is a plain container or
inert. Sizes are believed only where the file is as large as they say.

Knows files and numpy arrays; knows no torch and no network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ModelError
from napari_xt.model.released.pickle_machine import INERT, Inert, Known, Named, PickleRefused, unpickle
from napari_xt.model.released.torch_zip import Archive

PICKLE_LIMIT = 16 << 20  # bytes of data.pkl; a checkpoint of 500 tensors with its optimizer takes 0.5 MB
EMPTY_LIMIT = 1 << 20  # of the other sizes of a tensor without numbers
MAX_DIMENSIONS = 16
VIEW_LIMIT = 4  # a storage is read whole: it may be so many times larger than the tensor, or ...
VIEW_FLOOR = 64 << 20  # ... so many bytes

# numpy's code of each type; bfloat16 is the upper half of a float32
NUMPY = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "complex128": "c16",
    "complex64": "c8",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
}
STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.ComplexFloatStorage": "complex64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.storage.UntypedStorage": "uint8",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds.

    Parameters
    ----------
    path
        The file.
    content
        Dicts, lists, tuples, sets, numbers, text, None, `StoredTensor`, and `INERT` in place of anything else.
    strange
        Names of the classes and functions in the file that were left alone.
    """

    path: Path
    content: object
    strange: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file; ``stride`` and ``offset`` count numbers, not bytes."""

    archive: Archive
    member: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def read(self) -> NDArray[Any]:
        """Its values, row-major whatever their order in the file; bfloat16 as float32.

        Raises
        ------
        ModelError
            The file is damaged or has changed.
        """
        code = NUMPY[self.dtype]
        limit = max(VIEW_FLOOR, VIEW_LIMIT * self.size * np.dtype(code).itemsize)
        flat = self.archive.read(self.member, code, limit)
        if not self.size:
            flat = np.zeros(self.shape, flat.dtype)
        else:
            steps = [step * flat.itemsize for step in self.stride]
            flat = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps))
        values = flat.reshape(self.shape).astype(flat.dtype.newbyteorder("="), copy=False)
        if self.dtype == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(bool) if self.dtype == "bool" else values


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what a file of ``torch.save`` holds, tensors as descriptions. Nothing in it is imported or called.

    Raises
    ------
    ModelError
        It is no such file, is damaged, or states sizes that it does not have.
    """
    archive = Archive(path)
    tensors = _Tensors(archive)
    data = archive.read("data.pkl", "u1", PICKLE_LIMIT).tobytes()
    try:
        content, strange = unpickle(data, tensors.known, tensors.storage)
    except PickleRefused as error:
        raise ModelError(path, str(error), "get the file again, from whom you trust") from error
    return Checkpoint(path, content, strange)


class _Storage(NamedTuple):
    member: str
    dtype: str
    size: int


class _Tensors:
    """Builds descriptions of tensors from what a pickle says of them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.known: Known = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch.Size": tuple,
            **dict.fromkeys(STORAGES, _inert),
        }

    def storage(self, persistent_id: object) -> object:
        """The storage of ``("storage", type, key, location, number of elements)``."""
        match persistent_id:
            case ("storage", Named(kind), str(key), _, int(size)):
                return self._sized(f"data/{key}", kind, size)
        raise PickleRefused("its pickle refers to something that is no storage")

    def _sized(self, member: str, kind: str, size: int) -> _Storage | Inert:
        if kind not in STORAGES:
            return INERT
        width = np.dtype(NUMPY[STORAGES[kind]]).itemsize
        if not 0 <= size * width <= self._archive.size(member):
            raise PickleRefused(f"{member} is smaller than it is said to be, or missing")
        return _Storage(member, STORAGES[kind], size)

    def _tensor(self, storage: object, offset: object, shape: object, stride: object, *_: object) -> object:
        return self._inside(storage, offset, shape, stride) if isinstance(storage, _Storage) else INERT

    def _typed_tensor(self, storage: object, offset: object, shape: object, stride: object, *rest: object) -> object:
        """A tensor of a type that has no storage class, so that its storage counts bytes."""
        match storage, rest:
            case _Storage(member, _, size), (_, _, Named(name), *_) if name.removeprefix("torch.") in NUMPY:
                dtype = name.removeprefix("torch.")
                typed = _Storage(member, dtype, size // np.dtype(NUMPY[dtype]).itemsize)
                return self._inside(typed, offset, shape, stride)
        return INERT

    def _inside(self, storage: _Storage, offset: object, shape: object, stride: object) -> StoredTensor:
        sizes, steps, (start,) = _whole(shape), _whole(stride), _whole((offset,))
        last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        if math.prod(sizes) > 0 and last >= storage.size:
            raise PickleRefused(f"a tensor of shape {sizes} lies outside {storage.member}")
        if math.prod(sizes) > storage.size or math.prod(max(1, n) for n in sizes) > max(storage.size, EMPTY_LIMIT):
            raise PickleRefused(f"a tensor of shape {sizes} has more numbers than {storage.member}")
        return StoredTensor(self._archive, storage.member, storage.dtype, sizes, steps, start)


def _whole(values: object) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise PickleRefused("a tensor's shape is no short list of numbers")
    if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise PickleRefused("a tensor's shape or place is no positive whole number")
    return tuple(values)


def _first(value: object, *_: object) -> object:
    return value


def _inert(*_: object) -> Inert:
    return INERT
