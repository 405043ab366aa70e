"""An IP-Adapter in a repository of the Hugging Face hub: from the local cache, else downloaded."""

from __future__ import annotations

from pathlib import Path

from ..lora.hub import hub_lora
from .files import SUFFIXES


def hub_adapter(repository: str, file: str, download: bool = True) -> Path:
    """The local path of an IP-Adapter file, `owner/name` and its name in there.

    The cache is asked first, and alone when `download` is False or HF_HUB_OFFLINE is set.

    Raises:
        ValueError: a name that cannot be, no such file, or not in the cache and no network.
    """
    if not file.strip().endswith(SUFFIXES):
        raise ValueError(
            f"hub_file {file!r} names no IP-Adapter in {repository.strip()!r}; write its name as "
            "the repository lists it, such as models/ip-adapter_sd15.safetensors"
        )
    return hub_lora(repository, file, download)
