"""A ControlNet in a repository of the Hugging Face hub: from the local cache, else downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from ..hub import check_repository, not_fetched, offline
from ..sources import best_weights, weight_files
from ..tensor_file import PICKLED, SAFETENSORS

_PATIENCE = 20.0
"""Seconds for the hub to answer."""
_CONFIG = "config.json"


def hub_control(repository: str, file: str = "", download: bool = True) -> Path:
    """The local path of a ControlNet, `owner/name`: the folder of its `config.json` and weights, or
    the one `file` named as the repository lists it.

    The cache is asked first, and alone when `download` is False or HF_HUB_OFFLINE is set.

    Raises:
        ValueError: a name that cannot be, no such ControlNet, or not in the cache and no network;
            says the way out.
    """
    from huggingface_hub import constants, is_offline_mode

    repository, file = repository.strip(), file.strip()
    _check(repository, file)
    cached = _cached(repository, file)
    if cached is not None:
        return cached
    named = f"{repository}/{file}" if file else repository
    where = f"{named} is not in the local hub cache ({constants.HF_HUB_CACHE})"
    if not download:
        raise ValueError(where)
    if is_offline_mode():
        raise ValueError(offline(where, f"{repository} {file}".rstrip()))
    return _told(where, lambda: _fetch(repository, file))


def _cached(repository: str, file: str) -> Path | None:
    from huggingface_hub import constants, try_to_load_from_cache

    # The folder is named here since the library remembers its own from when it was imported.
    options: dict[str, Any] = {"cache_dir": constants.HF_HUB_CACHE}
    found = try_to_load_from_cache(repository, file or _CONFIG, **options)
    if not isinstance(found, str):
        return None
    path = Path(found)
    return path if file else path.parent if weight_files(path.parent) else None


def _fetch(repository: str, file: str) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    options: dict[str, Any] = {"cache_dir": constants.HF_HUB_CACHE}
    told = HfApi().model_info(repository, timeout=_PATIENCE)
    names = [each.rfilename for each in told.siblings or ()]
    if file:
        beside = str(PurePosixPath(file).parent / _CONFIG)
        if best_weights([PurePosixPath(file).name]) and beside in names:
            hf_hub_download(repository, beside, **options)
        return Path(hf_hub_download(repository, file, **options))
    weights = best_weights(name for name in names if "/" not in name)
    if _CONFIG not in names or not weights or weights[0].endswith(".bin"):
        raise ValueError(
            f"{repository} is no diffusers ControlNet with safetensors; write into hub_file which "
            f"of its files to take, such as {next(iter(_models(names)), 'model.safetensors')!r}"
        )
    return Path(snapshot_download(repository, allow_patterns=[_CONFIG, *weights], **options))


def _models(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((*SAFETENSORS, *PICKLED))]


def _told(where: str, fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except ValueError:
        raise
    except Exception as error:  # whatever network library the hub's own is built on raises
        raise ValueError(not_fetched(where, error)) from error


def _check(repository: str, file: str) -> None:
    check_repository(repository, "lllyasviel/control_v11p_sd15_canny")
    path = PurePosixPath(file)
    if file and (path.is_absolute() or ".." in path.parts or not _models([file.lower()])):
        raise ValueError(
            f"{file!r} is no file of weights in a repository; write its name as the repository "
            "lists it, such as 'diffusion_pytorch_model.safetensors'"
        )
