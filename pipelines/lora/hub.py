"""A LoRA file in a repository of the Hugging Face hub: from the local cache, else downloaded."""

from __future__ import annotations

from pathlib import Path

from ..hub import check_repository, hub_file
from .source import SUFFIXES

USUAL = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file when nobody says otherwise."""


def hub_lora(repository: str, file: str = "", download: bool = True) -> Path:
    """The local path of a LoRA file, `owner/name` and its name in there (with folders, if any).

    The cache is asked first, and alone when `download` is False or HF_HUB_OFFLINE is set.

    Raises:
        ValueError: a name that cannot be, no such file, or not in the cache and no network; says
            the way out.
    """
    repository, file = repository.strip(), file.strip() or USUAL
    check_repository(repository, "latent-consistency/lcm-lora-sdv1-5")
    if not file.endswith(SUFFIXES) or file.startswith("/") or ".." in Path(file).parts:
        raise ValueError(
            f"{file!r} is no LoRA file in a repository; write its name as the repository lists it, "
            f"such as {USUAL!r}"
        )
    return hub_file(repository, file, download)
