"""Finding models and pictures by name, and keeping every name inside its folder.

A name is what stands in a drop-down and in a shared workflow: a path below one of the folders of
its kind, always with forward slashes, so that a workflow made on Windows runs on Linux. Both hosts
use these functions.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

TINY = Path(__file__).parent.parent / "assets" / "tiny"
"""The bundled tiny model and its pictures."""

_BUNDLED_MODELS: Mapping[str, Mapping[str, Path]] = {
    "diffusers": {"tiny": TINY / "base"},
    "clip_vision": {"tiny": TINY / "image_encoder"},
    "controlnet": {"tiny": TINY / "controlnet"},
    "ipadapter": {"tiny": TINY / "ip_adapter"},
}
_BUNDLED_IMAGES: Mapping[str, Path] = {
    "tiny/subject": TINY / "subject",
    "tiny/subject_held_out": TINY / "subject_held_out",
    "tiny/pose": TINY / "pose",
    "tiny/style": TINY / "style",
}

MODEL_SUFFIXES = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"})
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".parquet", ".arrow"}
)
"""Of pictures, and of tables that may hold some."""

MARKED_BY: Mapping[str, str] = {
    "diffusers": "model_index.json",
    "controlnet": "config.json",
    "clip_vision": "config.json",
}
"""Kinds whose models may be folders, and the file that tells such a folder from an ordinary one."""


def safe_name(name: str) -> PurePosixPath:
    """The name as a relative path.

    Raises:
        ValueError: it is empty, absolute, starts with a drive letter, or climbs out with `..`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if "\0" in name or re.match(r"[A-Za-z]:", name) or path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"The name {name!r} is not allowed: it must stay below its folder, without "
            "'..', a leading slash or a drive letter."
        )
    if not path.parts:
        raise ValueError(f"The name {name!r} is empty. Choose one from the list.")
    return path


def bundled_models(kind: str) -> dict[str, Path]:
    """The bundled models of a kind; those that this copy of the pack really holds."""
    return _present(_BUNDLED_MODELS.get(kind, {}))


def find_model(kind: str, name: str, folders: Sequence[Path], known: Collection[str]) -> Path:
    """The model behind `name`: below the first of `folders` that has it, else a bundled one.

    Links below a folder are followed wherever they lead, as ComfyUI does for models.

    Args:
        known: the names to suggest from when nothing is found.

    Raises:
        ValueError: the name is not allowed or nothing is there; says where it looked.
    """
    relative = safe_name(name)
    for folder in folders:
        if _is_there(folder / relative, may_be_folder=kind in MARKED_BY):
            return folder / relative
    if str(relative) in bundled_models(kind):
        return bundled_models(kind)[str(relative)]
    raise ValueError(_not_found(f"model in {kind!r}", name, folders, known))


def _is_there(path: Path, *, may_be_folder: bool) -> bool:
    try:
        return path.is_file() or (may_be_folder and path.is_dir())
    except OSError:  # longer than a file name may be
        return False


def _not_found(what: str, name: str, folders: Iterable[Path], known: Collection[str]) -> str:
    """The message for a name behind which there is nothing."""
    elsewhere = [k for k in known if PurePosixPath(k).name == PurePosixPath(name).name]
    close = dict.fromkeys(elsewhere + difflib.get_close_matches(name, known, n=3, cutoff=0.5))
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Found: {len(known)}."
    return f"There is no {what} named {name!r}. Looked in {', '.join(map(str, folders))}. {hint}"


def model_names(
    folders: Iterable[Path], suffixes: Collection[str], marker: str | None = None
) -> set[str]:
    """Names of the model files, and of the folders that hold `marker`, below `folders`.

    A folder with the marker is one model: what it contains is not listed.
    """
    names: set[str] = set()
    for folder in folders:
        for place, below, files in _walk(folder):
            if marker in files and place != folder:
                names.add(place.relative_to(folder).as_posix())
                below.clear()
                continue
            found = (place / f for f in files if Path(f).suffix.lower() in suffixes)
            names |= {f.relative_to(folder).as_posix() for f in found}
    return names


def image_folder_names(folder: Path) -> list[str]:
    """The folders with pictures below `folder`, those around such folders (a picture collection may
    be sorted into sub-folders), and the bundled ones, sorted.

    Links that lead out of `folder` are left out, as ComfyUI does for its input directory.
    """
    inside = folder.resolve()
    found = {
        place.relative_to(folder).as_posix()
        for place, _, files in _walk(folder)
        if place != folder
        and any(Path(f).suffix.lower() in IMAGE_SUFFIXES for f in files)
        and place.resolve().is_relative_to(inside)
    }
    around = {PurePosixPath(name).parent.as_posix() for name in found} - {"."}
    return sorted(found | around | set(_present(_BUNDLED_IMAGES)))


def image_folder(name: str, folder: Path) -> Path:
    """The picture folder behind a name: below `folder`, else one of the bundled ones.

    Raises:
        ValueError: the name is not allowed, leads out of the input folder through a link, or
            nothing is there.
    """
    relative = safe_name(name)
    path = folder / relative
    if not _is_there(path, may_be_folder=True):
        bundled = _present(_BUNDLED_IMAGES)
        if str(relative) in bundled:
            return bundled[str(relative)]
        known = image_folder_names(folder)
        raise ValueError(_not_found("folder of pictures", name, [folder], known))
    if not path.is_dir():
        raise ValueError(f"{name!r} is a file; a folder with pictures is needed.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"The folder of pictures {name!r} is a link that leads out of {folder}. "
            "Copy the pictures there instead."
        )
    return path


def _present(table: Mapping[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in table.items() if path.exists()}


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` that follows links once and leaves hidden folders out; edit the second item to stay
    out of folders.
    """
    seen: set[str] = set()
    for place, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(b for b in below if not b.startswith("."))
        yield Path(place), below, files
