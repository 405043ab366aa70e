"""Same content, same bytes: safetensors files with their metadata sorted, not in random order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all, and is the same for the same
    content.
    """
    import safetensors.torch

    with atomic_write(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        _sort_header(temporary)


def _sort_header(path: Path) -> None:
    """Write the file anew with its metadata sorted; tensors and their order stay.

    A file is: length of the header (8 bytes, little-endian), header (JSON), tensors at offsets
    counted from the header's end. The header is padded with spaces to a multiple of 8 bytes.
    """
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    first = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))}
    text = json.dumps(first | header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
