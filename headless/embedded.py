"""Texts inside pictures and models: PNG text chunks and the metadata of safetensors files.

Read directly, without decoding the picture or the weights.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import WorkflowError

KEYS = ("prompt", "workflow")


def png_texts(path: Path, limit: int) -> dict[str, str]:
    """`prompt` and `workflow`, as far as the picture has them.

    Args:
        limit: the most bytes that one text may have.

    Raises:
        WorkflowError: it is not a PNG, it is cut off, or a text is too large.
    """
    texts: dict[str, str] = {}
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            raise WorkflowError(f"{path} is not a PNG picture.")
        for kind, chunk in _text_chunks(file, path, limit):
            key, text = _text(kind, chunk, limit)
            if key in KEYS:
                texts[key] = text
    return texts


def safetensors_texts(path: Path, limit: int) -> dict[str, str]:
    """`prompt` and `workflow` from the file's `__metadata__`.

    Raises:
        WorkflowError: the header is missing, damaged or too large.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= limit:
            raise WorkflowError(f"{path} is not a safetensors file, or is cut off.")
        header = file.read(length)
    try:
        metadata = json.loads(header).get("__metadata__") or {}
        return {key: metadata[key] for key in KEYS if isinstance(metadata.get(key), str)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise WorkflowError(f"{path} has a damaged safetensors header: {error}.") from error


def _text_chunks(file: BinaryIO, path: Path, limit: int) -> Iterator[tuple[bytes, bytes]]:
    """The text chunks; everything else, above all the pixels, is skipped over."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, 1)
            continue
        if length > limit:
            raise WorkflowError(f"{path} holds a text of {length:,} bytes, which is no workflow.")
        chunk = file.read(length)
        if len(chunk) < length:
            break
        file.seek(4, 1)
        yield kind, chunk
    raise WorkflowError(f"{path} is cut off. Download or save it again.")


def _text(kind: bytes, chunk: bytes, limit: int) -> tuple[str, str]:
    """Key and text of one chunk; an unreadable text is empty."""
    key, _, rest = chunk.partition(b"\0")
    name = key.decode("latin-1")
    encoding = "latin-1"
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]
    if kind == b"iTXt":
        encoding = "utf-8"
        packed, rest = rest[:1] == b"\1", rest[2:]
        rest = rest.split(b"\0", 2)[-1]
    if packed and name in KEYS:
        rest = _unpack(rest, limit)
    return name, rest.decode(encoding, errors="replace")


def _unpack(packed: bytes, limit: int) -> bytes:
    """Decompress, but no more than `limit` bytes: a few kilobytes can unfold into gigabytes."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, limit)
    except zlib.error as error:
        raise WorkflowError(f"A compressed text is damaged: {error}.") from error
    if unpacker.unconsumed_tail:
        raise WorkflowError(f"A compressed text unfolds to more than {limit:,} bytes.")
    return text
