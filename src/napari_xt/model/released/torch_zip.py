"""The zip archive that ``torch.save`` writes: one folder of uncompressed members. Sizes are checked against the file.

Knows files and numbers; knows no pickles, no tensors and no torch.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ModelError

DIRECTORY_LIMIT = 4 << 20  # bytes of the table of contents: some 50,000 members
ZIP, LEGACY, POINTER = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"version https://git-lfs"
BAD_ZIP = (zipfile.BadZipFile, ValueError, NotImplementedError, LookupError, OverflowError, EOFError, struct.error)


class Archive:
    """A zip file as torch writes it: one folder of uncompressed members. Keeps no file open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file():
                self._refuse("is no file")
            self._length = path.stat().st_size
            with _Bounded(path) as file:
                self._check_kind(file.read(64))
                with zipfile.ZipFile(file) as archive:
                    members = archive.infolist()
        except OSError as error:
            self._refuse(f"can't be read: {error.strerror or error}")
        except BAD_ZIP as error:
            self._refuse(f"is damaged: {error}", error)
        self._check_members(members)
        self._members = self._below_root(members)
        self._order = self._byte_order()

    def _check_kind(self, start: bytes) -> None:
        if start.startswith(LEGACY):
            why = "was written by a torch before 1.6"
            raise ModelError(self.path, why, "load it with torch and save it again, from whom you trust")
        if start.startswith(POINTER):
            raise ModelError(self.path, "is a pointer of Git LFS, not the file itself", "run git lfs pull")
        if not start.startswith(ZIP):
            raise ModelError(self.path, "is no checkpoint of torch", "choose another file")

    def _check_members(self, members: list[zipfile.ZipInfo]) -> None:
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                self._refuse(f"{member.filename} is compressed or encrypted, which torch does not do")
            if member.file_size != member.compress_size or not 0 <= member.header_offset < self._length:
                self._refuse(f"{member.filename} does not lie where it is said to")
        if sum(member.file_size for member in members) > self._length:
            self._refuse("its members are larger than the file")

    def _below_root(self, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        """The members by name, without the folder that all lie in."""
        by_name = {member.filename: member for member in members}
        roots = [
            name.removesuffix("data.pkl") for name in by_name if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(roots) != 1:
            raise ModelError(self.path, "is a zip file but no checkpoint of torch", "choose another file")
        return {name[len(roots[0]) :]: member for name, member in by_name.items() if name.startswith(roots[0])}

    def _byte_order(self) -> str:
        if "byteorder" not in self._members:
            return "<"
        order = self.read("byteorder", "u1", 16).tobytes()
        if order not in (b"little", b"big"):
            self._refuse(f"its byte order is {order!r}")
        return "<" if order == b"little" else ">"

    def size(self, name: str) -> int:
        """Bytes of a member; -1: there is none."""
        return self._members[name].file_size if name in self._members else -1

    def read(self, name: str, code: str, limit: int | None = None) -> NDArray[Any]:
        """All numbers of a member, of numpy's type ``code``, in the file's byte order.

        Raises
        ------
        ModelError
            The member is larger than ``limit`` bytes, or the file is damaged.
        """
        member = self._members[name]
        if limit is not None and member.file_size > limit:
            self._refuse(f"{name} has {member.file_size} bytes, more than the {limit} allowed")
        dtype = np.dtype(("<" if code == "u1" else self._order) + code)
        try:
            with self.path.open("rb") as file:
                self._seek(file, member)
                values = np.fromfile(file, dtype, member.file_size // dtype.itemsize)
        except OSError as error:
            self._refuse(f"can't be read: {error.strerror or error}")
        if values.nbytes != member.file_size or zlib.crc32(values.view(np.uint8).data) != member.CRC:
            self._refuse(f"{name} is damaged")
        return values

    def _seek(self, file: BinaryIO, member: zipfile.ZipInfo) -> None:
        """Go to a member's first byte, which lies behind a header of its own."""
        file.seek(member.header_offset)
        header = file.read(30)
        if len(header) < 30 or not header.startswith(ZIP):
            self._refuse(f"{member.filename} is damaged")
        file.seek(sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28)), 1)

    def _refuse(self, why: str, cause: BaseException | None = None) -> NoReturn:
        raise ModelError(self.path, why, "get the file again") from cause


class _Bounded(FileIO):
    """A file of which only small pieces are read at a time: a forged table of contents can't fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > DIRECTORY_LIMIT:
            raise zipfile.BadZipFile("its table of contents is too large")
        return super().read(size) or b""
