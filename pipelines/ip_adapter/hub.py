"""An IP-Adapter in a repository of the Hugging Face hub: from the local cache, else downloaded."""

from __future__ import annotations

from pathlib import Path

from ..hub import check_repository, hub_file
from .files import SUFFIXES


def hub_adapter(repository: str, file: str, download: bool = True) -> Path:
    """The local path of an IP-Adapter file, `owner/name` and its name in there.

    The cache is asked first, and alone when `download` is False or HF_HUB_OFFLINE is set.

    Raises:
        ValueError: a name that cannot be, no such file, or not in the cache and no network.
    """
    repository, file = repository.strip(), file.strip()
    check_repository(repository, "h94/IP-Adapter")
    if not file.endswith(SUFFIXES) or file.startswith("/") or ".." in Path(file).parts:
        raise ValueError(
            f"hub_file {file!r} names no IP-Adapter in {repository!r}; write its name as the "
            "repository lists it, such as models/ip-adapter_sd15.safetensors"
        )
    return hub_file(repository, file, download)
