"""Repositories of the Hugging Face hub: their names, and one file out of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_repository(name: str) -> bool:
    """Whether it can be the name of a repository, `owner/name`."""
    return _REPOSITORY.fullmatch(name) is not None


def check_repository(name: str, example: str) -> None:
    """Raises:
    ValueError: it cannot be the name of a repository; names `example`.
    """
    if not is_repository(name):
        raise ValueError(
            f"{name!r} is no repository of the hub; write owner/name, such as {example!r}"
        )


def hub_file(repository: str, file: str, download: bool = True) -> Path:
    """The local path of a file, `owner/name` and its name in there, both checked already.

    The cache is asked first, and alone when `download` is False or HF_HUB_OFFLINE is set.

    Raises:
        ValueError: no such file, or not in the cache and no network; says the way out.
    """
    from huggingface_hub import constants, hf_hub_download, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

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
        raise ValueError(offline(where, f"{repository} {file}"))
    try:
        return Path(hf_hub_download(**options))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(not_fetched(where, error)) from error


def offline(where: str, wanted: str) -> str:
    """What to say when `where`, which tells what is missing, cannot be mended without a network.
    `wanted`: the words behind `hf download`.
    """
    return (
        f"{where} and HF_HUB_OFFLINE is set; unset it, run once with a network: hf download "
        f"{wanted}, or choose a file on this machine"
    )


def not_fetched(where: str, error: Exception) -> str:
    """What to say when the hub did not give it."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return (
        f"{where} and cannot be fetched ({reason}); check both names and the network, log in "
        "with 'hf auth login' if it asks for it, or choose a file on this machine"
    )
