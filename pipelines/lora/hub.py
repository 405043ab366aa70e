"""A LoRA file in a repository of the Hugging Face hub: from the local cache, else downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .source import SUFFIXES

USUAL = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file when nobody says otherwise."""

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def hub_lora(repository: str, file: str = "", download: bool = True) -> Path:
    """The local path of a LoRA file, `owner/name` and its name in there (with folders, if any).

    The cache is asked first, and alone when `download` is False or HF_HUB_OFFLINE is set.

    Raises:
        ValueError: a name that cannot be, no such file, or not in the cache and no network; says
            the way out.
    """
    from huggingface_hub import constants, hf_hub_download, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, file = repository.strip(), file.strip() or USUAL
    _check(repository, file)
    # The folder is named here since the library remembers its own from when it was imported.
    options: dict[str, Any] = {"repo_id": repository, "filename": file}
    options["cache_dir"] = constants.HF_HUB_CACHE
    try:
        return Path(hf_hub_download(**options, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        pass
    where = f"{repository}/{file} is not in the local hub cache ({constants.HF_HUB_CACHE})"
    if not download:
        raise ValueError(where)
    if is_offline_mode():
        raise ValueError(
            f"{where} and HF_HUB_OFFLINE is set; unset it, run once with a network: hf download "
            f"{repository} {file}, or choose a file on this machine"
        )
    try:
        return Path(hf_hub_download(**options))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{where} and cannot be fetched ({reason}); check both names and the network, log in "
            "with 'hf auth login' if it asks for it, or choose a file on this machine"
        ) from error


def _check(repository: str, file: str) -> None:
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(
            f"{repository!r} is no repository of the hub; write owner/name, such as "
            "'latent-consistency/lcm-lora-sdv1-5'"
        )
    if not file.endswith(SUFFIXES) or file.startswith("/") or ".." in Path(file).parts:
        raise ValueError(
            f"{file!r} is no LoRA file in a repository; write its name as the repository lists it, "
            f"such as {USUAL!r}"
        )
