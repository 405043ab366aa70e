"""Which base model is this? A folder, a file or a hub repository becomes a frozen description.

The family is found out from `model_index.json` or from the tensors, never from a file's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .hub import check_repository
from .spec import BaseModel

_PATIENCE = 20.0
"""Seconds for the hub to answer."""
_SMALL = re.compile(r"[^/]+/[^/]+\.(json|txt|model)")
"""Configurations and tokenizers of the components; indexes of weights end in `.json` as well."""


def base_model(
    path: str | Path,
    family: str = "auto",
    dtype: str = "auto",
    parts: Mapping[str, str | Path] | Iterable[tuple[str, str | Path]] = (),
    **rest: Any,
) -> BaseModel:
    """Describe the diffusers folder or the single file at `path`.

    With `family="auto"` its `model_index.json`, or the tensors of the file, decide. `rest`: further
    fields of `BaseModel`.

    Raises:
        ValueError: the file or folder is missing or broken, or no known family fits.
    """
    path = Path(path)
    found = _file_family(path, family) if path.is_file() else _folder_family(path, family)
    resolved = tuple(sorted((name, str(Path(p).resolve())) for name, p in dict(parts).items()))
    for name, part in resolved:
        if not Path(part).exists():
            raise ValueError(f"the {name} {part} is not there; choose the file again")
    return BaseModel(str(path.resolve()), found, dtype, resolved, **rest)


def from_hub(
    repository: str, revision: str = "", variant: str = "", family: str = "auto", **rest: Any
) -> BaseModel:
    """Describe a model of the Hugging Face hub, `owner/name`; what is not in the local cache is
    downloaded.

    `revision`: branch, tag or commit, empty for the main branch. `variant`: `"fp16"` takes the
    files of half the size where the repository has them. Configurations, tokenizers and safetensors
    alone are fetched.

    Raises:
        ValueError: no such repository, or it is not in the cache and there is no network
            (`HF_HUB_OFFLINE=1` counts as none); says the way out.
    """
    return base_model(hub_folder(repository, revision, variant), family, **rest)


def hub_folder(
    repository: str, revision: str = "", variant: str = "", download: bool = True
) -> Path:
    """The local folder of a hub repository, downloaded when it is not in the cache.

    Raises:
        ValueError: as `from_hub`; also when it is not in the cache and `download` is False.
    """
    check_repository(repository, "stabilityai/stable-diffusion-xl-base-1.0")
    cached = _cached(repository, revision)
    if cached is not None and _is_complete(cached, variant):
        return cached
    if not download:
        raise ValueError(f"{repository} is not in the local hub cache")
    return _download(repository, revision, variant)


def _folder_family(folder: Path, family: str) -> str:
    from ..families import FAMILIES, family_named
    from .sources import read_json

    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise ValueError(
            f"{folder} is not a diffusers model: it has no model_index.json; "
            "choose the folder that holds unet, vae, text_encoder and model_index.json, "
            "or a single .safetensors file"
        )
    index = read_json(index_file)
    if family != "auto":
        return family_named(family).name
    for candidate in FAMILIES:
        if candidate.recognises(index):
            return candidate.name
    kind = index.get("_class_name") or "model of an unknown kind"
    raise ValueError(
        f"{folder} holds a {kind}, which Likeness does not know; families it knows: {_known()}"
    )


def _file_family(path: Path, family: str) -> str:
    import torch

    from ..families import FAMILIES, family_named
    from .scaled_weights import PlainWeights
    from .sources import glimpse, identified, layout_of
    from .tensor_file import open_tensors

    file = PlainWeights(open_tensors(path), torch.float32)
    if family != "auto":
        layout_of(path, family_named(family), file)
        return family_named(family).name
    for candidate in FAMILIES:
        if identified(path, candidate, file) is not None:
            return candidate.name
    raise ValueError(
        f"{path} is no base model that Likeness knows: {glimpse(file)}; families it knows: "
        f"{_known()}"
    )


def _known() -> str:
    from ..families import FAMILIES

    return ", ".join(candidate.name for candidate in FAMILIES)


def _cached(repository: str, revision: str) -> Path | None:
    """The repository's snapshot in the cache, whole or not."""
    from huggingface_hub import constants, try_to_load_from_cache

    # The folder is named here since the library remembers its own from when it was imported.
    index = try_to_load_from_cache(
        repository,
        "model_index.json",
        cache_dir=constants.HF_HUB_CACHE,
        revision=revision or None,
    )
    return Path(index).parent if isinstance(index, str) else None


def _is_complete(folder: Path, variant: str) -> bool:
    """Whether every component is there, and one at least in the wanted variant."""
    from .sources import Plan, is_module, read_json, weight_files

    try:
        index = read_json(folder / "model_index.json")
        if not all((folder / name).is_dir() for name in Plan(folder, index, {}).classes()):
            return False
        files = [weight_files(folder / name, variant) for name in index if is_module(index, name)]
    except ValueError:
        return False
    named = [path.name for group in files for path in group]
    return all(files) and (not variant or any(f".{variant}" in name for name in named))


def _download(repository: str, revision: str, variant: str) -> Path:
    from huggingface_hub import (
        HfApi,
        constants,
        hf_hub_download,
        is_offline_mode,
        snapshot_download,
    )

    named = f"{repository}@{revision}" if revision else repository
    if is_offline_mode():
        raise ValueError(
            f"{named} is not in the local hub cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE "
            f"is set; unset it, or run once with a network: hf download {repository}"
        )
    options: dict[str, Any] = {"revision": revision or None, "cache_dir": constants.HF_HUB_CACHE}
    try:
        told = HfApi().model_info(repository, revision=revision or None, timeout=_PATIENCE)
        names = [file.rfilename for file in told.siblings or ()]
        if "model_index.json" not in names:
            raise ValueError(
                f"{named} is not a diffusers model: it has no model_index.json; download its "
                "single file into ComfyUI's checkpoints and load it from there"
            )
        index = Path(hf_hub_download(repository, "model_index.json", **options))
        wanted = _wanted(names, index, variant)
        return Path(snapshot_download(repository, allow_patterns=wanted, **options))
    except ValueError:
        raise
    except Exception as error:  # whatever network library the hub's own is built on raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{named} cannot be fetched from the hub ({reason}) and is not in the local cache "
            f"({constants.HF_HUB_CACHE}); check the name and the network, log in with "
            "'hf auth login' if it asks for it, or choose a model on this machine"
        ) from error


def _wanted(names: list[str], index_file: Path, variant: str) -> list[str]:
    """The files that a pipeline is made of, of all those in a repository.

    Raises:
        ValueError: a component has no safetensors there.
    """
    from .sources import best_weights, is_module, read_json

    index = read_json(index_file)
    wanted = ["model_index.json"]
    for component in index:
        files = [name for name in names if name.startswith(f"{component}/")]
        wanted += [name for name in files if _SMALL.fullmatch(name)]
        if is_module(index, component):
            weights = best_weights((name.split("/", 1)[1] for name in files), variant)
            if not weights or weights[0].endswith(".bin"):
                raise ValueError(
                    f"the repository has no .safetensors for its {component}, and Likeness "
                    "downloads no pickles; choose another repository or revision"
                )
            wanted += [f"{component}/{name}" for name in weights]
    if variant and not any(f".{variant}" in name for name in wanted):
        raise ValueError(
            f"the repository has no files of the variant {variant!r}; leave variant empty"
        )
    return wanted
