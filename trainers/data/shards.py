"""Tensors on disk by key, shared between runs: files of some hundred entries each, whole or absent.

Any number of processes may read and add at the same time: each adds files of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipelines.files import atomic_write

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


def find(folder: Path, keys: Iterable[str]) -> dict[str, tuple[Shard, int]]:
    """Those of `keys` that lie in `folder`, whole, with file and row. Damaged files and entries are
    passed over; a file that nobody could read is removed.
    """
    wanted = set(keys)
    found: dict[str, tuple[Shard, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        opened = _opened(path)
        if opened is None:
            path.unlink(missing_ok=True)
            continue
        shard, entries = opened
        for row, (key, expected) in enumerate(entries):
            if key in wanted and key not in found and shard.is_whole(row, expected):
                found[key] = (shard, row)
    return found


class ShardWriter:
    """Adds entries to `folder`. Use it in a `with`: what was added last is written at its end,
    also when it ends in an error.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys: list[str] = []
        self._records: list[Record] = []
        self._bytes = 0
        self._since = time.monotonic()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, key: str, record: Record) -> None:
        if self._records and _signature(record) != _signature(self._records[0]):
            self.flush()  # entries of one file have one shape
        self._keys.append(key)
        self._records.append(record)
        self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in record.values())
        full = self._bytes >= SHARD_BYTES or len(self._keys) >= SHARD_ENTRIES
        if full or time.monotonic() - self._since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last time."""
        import torch
        from safetensors.torch import save_file

        keys, records = self._keys, self._records
        self._keys, self._records, self._bytes = [], [], 0
        self._since = time.monotonic()
        if not keys:
            return
        tensors = {name: torch.stack([record[name] for record in records]) for name in records[0]}
        sums = [_sum(record) for record in records]
        records.clear()  # not twice in memory while it is written
        metadata = {"keys": json.dumps(keys), "sums": json.dumps(sums)}
        # Of a name of its own: an older file with some of these entries may be in use.
        mark = hashlib.sha256("\0".join((*keys, str(os.getpid()))).encode()).hexdigest()[:16]
        with atomic_write(self.folder / f"{mark}-{time.time_ns():x}.safetensors") as temporary:
            save_file(tensors, temporary, metadata=metadata)


def _opened(path: Path) -> tuple[Shard, list[tuple[str, int]]] | None:
    """The file, and key and checksum of each entry; None if it is not what it should be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # checks that nothing is cut off
            metadata: dict[str, str] = file.metadata() or {}
        keys, sums = json.loads(metadata["keys"]), json.loads(metadata["sums"])
        return Shard(path, _layout(path, len(keys))), list(zip(keys, sums, strict=True))
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
