"""Tensors on disk by key, shared between runs: files of some hundred entries each, whole or absent.

Any number of processes may read and add at the same time: each adds files of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipelines.files import atomic_write
from .keys import Keys

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Record = Mapping[str, "Tensor"]
"""One entry: tensors by name."""

SHARD_BYTES = 64 << 20
SHARD_ENTRIES = 128
SHARD_SECONDS = 60.0
"""A file is written when it is this large or this much time has passed: what a crash costs."""

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Shard:
    """One file. `layout`: name → (dtype, shape of one entry, offset of the first, bytes of one).

    Its keys and checksums are not kept: there may be as many as there are pictures.
    """

    path: Path
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...], int, int]]

    def read(self, row: int) -> dict[str, Tensor]:
        """One entry, with plain reads: its price does not depend on how many there are, and the
        file's pages do not count as this process's memory.

        Raises:
            ValueError: the file is gone or cut short.
        """
        import torch

        record = {}
        try:
            with self.path.open("rb") as stream:
                for name, (dtype, shape, offset, size) in self.layout.items():
                    data = bytearray(size)
                    stream.seek(offset + row * size)
                    if stream.readinto(data) != size:
                        raise ValueError(f"{self.path} is cut short; queue again to make it anew")
                    record[name] = torch.frombuffer(data, dtype=dtype).reshape(shape)
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.path} of the cache is gone; queue again, and what is missing is made anew"
            ) from error
        return record

    def is_whole(self, row: int, expected: int) -> bool:
        """Whether the entry's bytes have this checksum."""
        try:
            return _sum(self.read(row)) == expected
        except ValueError:
            return False


_NOWHERE = -1


class Found:
    """Where the entry of each distinct key lies, by number."""

    def __init__(self, count: int) -> None:
        self._shards: list[Shard] = []
        self._shard = array("l", [_NOWHERE]) * count
        self._row = array("l", [_NOWHERE]) * count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self._shards[self._shard[number]].read(self._row[number])

    @property
    def missing(self) -> array[int]:
        """The numbers of those that lie nowhere."""
        places = enumerate(self._shard)
        return array("l", (number for number, shard in places if shard == _NOWHERE))

    def look_into(self, shard: Shard, numbers: Sequence[int], sums: Sequence[int]) -> None:
        """Note which of the missing ones lie in a file, whole. `numbers`: of its rows, -1 for what
        nobody asks for; `sums`: their checksums.
        """
        for row, (number, expected) in enumerate(zip(numbers, sums, strict=True)):
            wanted = number >= 0 and self._shard[number] == _NOWHERE
            if wanted and shard.is_whole(row, expected):
                if not self._shards or self._shards[-1] is not shard:
                    self._shards.append(shard)
                self._shard[number], self._row[number] = len(self._shards) - 1, row


def find(folder: Path, keys: Keys) -> Found:
    """Those of `keys` that lie in `folder`, whole. Damaged files and entries are passed over; a
    file that nobody could read is removed.
    """
    found = Found(len(keys))
    for path in sorted(folder.glob("*.safetensors")):
        opened = _opened(path)
        if opened is None:
            path.unlink(missing_ok=True)
            continue
        shard, names, sums = opened
        found.look_into(shard, keys.numbers_of(names), sums)
    return found


class ShardWriter:
    """Adds entries to `folder`. Use it in a `with`: what was added last is written at its end,
    also when it ends in an error.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys: list[bytes] = []
        self._sums: list[int] = []
        self._rows: Record = {}  # room for a whole file: tensors of single entries scatter the heap
        self._room = 0
        self._since = time.monotonic()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, key: bytes, record: Record) -> None:
        if not self._room or _signature(record) != _signature(self._entry(0)):
            self.flush()  # entries of one file have one shape
            self._make_room(record)
        entry = self._entry(len(self._keys))
        for name, tensor in record.items():
            entry[name].copy_(tensor)
        self._keys.append(key)
        self._sums.append(_sum(record))
        full = len(self._keys) == self._room
        if full or time.monotonic() - self._since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last time."""
        from safetensors.torch import save_file

        keys, sums = self._keys, self._sums
        self._keys, self._sums = [], []
        self._since = time.monotonic()
        if not keys:
            return
        tensors = {name: rows[: len(keys)] for name, rows in self._rows.items()}
        names = [key.hex() for key in keys]
        metadata = {"keys": json.dumps(names), "sums": json.dumps(sums)}
        # Of a name of its own: an older file with some of these entries may be in use.
        mark = hashlib.sha256("\0".join((*names, str(os.getpid()))).encode()).hexdigest()[:16]
        with atomic_write(self.folder / f"{mark}-{time.time_ns():x}.safetensors") as temporary:
            save_file(tensors, temporary, metadata=metadata)

    def _entry(self, row: int) -> dict[str, Tensor]:
        return {name: rows[row] for name, rows in self._rows.items()}

    def _make_room(self, record: Record) -> None:
        """For entries like this one."""
        self._room = max(1, min(SHARD_ENTRIES, SHARD_BYTES // max(1, bytes_of([record]))))
        self._rows = {
            name: tensor.new_empty((self._room, *tensor.shape), device="cpu")
            for name, tensor in record.items()
        }


def _opened(path: Path) -> tuple[Shard, list[bytes], list[int]] | None:
    """The file, and key and checksum of each entry; None if it is not what it should be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # checks that nothing is cut off
            metadata: dict[str, str] = file.metadata() or {}
        keys = [bytes.fromhex(key) for key in json.loads(metadata["keys"])]
        sums: list[int] = json.loads(metadata["sums"])
        if len(sums) != len(keys):
            return None
        return Shard(path, _layout(path, len(keys))), keys, sums
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, ZeroDivisionError):
        return None


def _layout(path: Path, count: int) -> dict[str, Any]:
    import torch

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    layout = {}
    for name, facts in sorted(header.items()):
        begin, end = facts["data_offsets"]
        each = (end - begin) // count
        shape = tuple(facts["shape"][1:])
        layout[name] = (getattr(torch, _DTYPES[facts["dtype"]]), shape, 8 + length + begin, each)
    return layout


def _signature(record: Record) -> list[tuple[str, torch.dtype, torch.Size]]:
    return [(name, record[name].dtype, record[name].shape) for name in sorted(record)]


def _sum(record: Record) -> int:
    import torch

    total = 0
    for name in sorted(record):
        flat = record[name].contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(flat.numpy().data, total)
    return total


def bytes_of(records: Sequence[Record]) -> int:
    return sum(each.numel() * each.element_size() for record in records for each in record.values())
