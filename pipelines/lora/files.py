"""LoRA files: describe, read, write and copy them, in the layouts that other programs read."""

from __future__ import annotations

from pathlib import Path

from ..files import sha256_of
from ..spec import Lora
from .changes import LoraPair
from .metadata import facts_of
from .read import LoraWeights, read_lora
from .source import open_lora
from .write import save_copy, write_lora

__all__ = ["LoraPair", "LoraWeights", "describe_lora", "read_lora", "save_copy", "write_lora"]


def describe_lora(path: str | Path, name: str | None = None) -> Lora:
    """Describe a LoRA file by its header and the hash of its bytes; its weights are not read.

    Raises:
        ValueError: missing, truncated, of another kind, or without any LoRA weight.
    """
    path = Path(path).absolute()  # not resolved: the hub's cache links to files without suffix
    file = open_lora(path)
    return Lora(
        path=str(path),
        sha256=sha256_of(path),
        name=name or path.stem,
        trigger=facts_of(file).trigger,
        metadata=tuple(sorted(file.metadata.items())),
    )
