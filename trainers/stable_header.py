"""Same run, same bytes: safetensors writes metadata in a random order, here it is sorted."""

from __future__ import annotations

import json
from pathlib import Path

from ..pipelines.files import atomic_write


def sort_header(path: Path) -> None:
    """Write the safetensors file anew with its metadata sorted; tensors and their order stay.

    A file is: length of the header (8 bytes, little-endian), header (JSON), tensors at offsets
    counted from the header's end. The header is padded with spaces to a multiple of 8 bytes.
    """
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    first = {"__metadata__": header.pop("__metadata__")}
    text = json.dumps(first | header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
