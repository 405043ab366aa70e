"""Where the weights of a detector lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..hub import is_repository
from .detector import Detector, Places, Weights

_MARKERS = ("config.json", "model_index.json")
"""One of them is in every folder that a library reads as a model."""
_PATTERNS = ["*.json", "*.txt", "*.safetensors", "*.bin"]
"""What such a folder is read from."""


def locate(detector: Detector, own: str, needed: Sequence[Weights], places: Places) -> list[Path]:
    """The file or folder of each of `needed`.

    `own`: a name below the places' folders that the user gave instead, of a file, or of a folder
    with the usual names in it.

    Raises:
        ValueError: one is nowhere; one line that names it, where it was looked for, and where to
            get it. Or `own` leaves the folders.
    """
    if own and needed and needed[0].file:
        return _own(detector, own, needed, places)
    return [_found(detector, one, places) for one in needed]


def _own(detector: Detector, own: str, needed: Sequence[Weights], places: Places) -> list[Path]:
    name = _inside(own)
    for folder in places.folders:
        path = folder / name
        if path.is_file() and len(needed) == 1:
            return [path]
        files = [path / PurePosixPath(one.file).name for one in needed]
        if all(file.is_file() for file in files):
            return files
    names = " and ".join(PurePosixPath(one.file).name for one in needed)
    what = "a file, or " if len(needed) == 1 else ""
    raise ValueError(
        f"{detector.title}: weights {own!r} are not there; {what}a folder with {names} is looked "
        f"for in {_listed(places)}"
    )


def _found(detector: Detector, one: Weights, places: Places) -> Path:
    for path in _candidates(one, places):
        if path.is_file() if one.file else any((path / each).is_file() for each in _MARKERS):
            return path
    if not is_repository(one.repository):
        raise ValueError(
            f"{detector.title}: there is no model {one.repository!r} in {_listed(places)}; choose "
            "a folder there, or a repository of the hub (owner/name)"
        )
    return _from_hub(detector, one, places)


def _candidates(one: Weights, places: Places) -> Iterator[Path]:
    """By itself, or as the folders of comfyui_controlnet_aux lie: repository and file."""
    repository = _inside(one.repository)
    for folder in places.folders:
        if not one.file:
            yield folder / repository
            yield folder / repository.name
            continue
        yield folder / repository / one.file
        yield folder / one.file
        yield folder / PurePosixPath(one.file).name


def _from_hub(detector: Detector, one: Weights, places: Places) -> Path:
    from huggingface_hub import constants, hf_hub_download, is_offline_mode, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cache = constants.HF_HUB_CACHE

    def fetch(local: bool) -> Path:
        if one.file:
            return Path(
                hf_hub_download(one.repository, one.file, cache_dir=cache, local_files_only=local)
            )
        found = snapshot_download(
            one.repository, cache_dir=cache, local_files_only=local, allow_patterns=_PATTERNS
        )
        return Path(found)

    try:
        return fetch(local=True)
    except (LocalEntryNotFoundError, OSError):
        pass
    what = f"{one.file} of {one.repository}" if one.file else one.repository
    missing = f"{detector.title} needs {what}; it is not in {_listed(places)}, nor in {cache}"
    if not places.download or is_offline_mode():
        how = "put it there" if one.file else "put the folder there"
        offline = " (HF_HUB_OFFLINE is set: nothing is downloaded)" if is_offline_mode() else ""
        raise ValueError(f"{missing}; {how}, or switch 'download' on once{offline}")
    try:
        return fetch(local=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{missing}, and it cannot be fetched ({reason})") from error


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name.strip().replace("\\", "/"))
    drive = re.match(r"[A-Za-z]:", str(path))
    if drive or path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise ValueError(
            f"weights {name!r} are not allowed: write a name below models/controlnet_aux or "
            "models/annotators, without '..', a leading slash or a drive letter"
        )
    return path


def _listed(places: Places) -> str:
    return ", ".join(map(str, places.folders)) or "(no folders given)"
