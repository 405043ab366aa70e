"""The files that a base model is made of: what ties a description to their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .files import sha256_of
from .sources import UNUSED, is_module, read_json, weight_files
from .spec import BaseModel

_DESCRIPTIONS = (".json", ".txt", ".model")
"""Configurations and tokenizers."""


def base_identity(base: BaseModel) -> str:
    """SHA-256 over the contents of every file that makes up the model: two copies are one model,
    the same weights in another precision are another.

    Reads all weights once (about a second per GB), then remembers until a file changes.
    """
    digest = hashlib.sha256()
    for name, path in _model_files(base):
        digest.update(f"{name}\0{sha256_of(path)}\n".encode())
    if base.prediction != "auto":
        digest.update(f"prediction\0{base.prediction}\n".encode())
    return digest.hexdigest()


def file_versions(base: BaseModel) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of every file of the model: cheap to ask, different when a file
    was replaced.
    """
    stats = [(str(path), path.stat()) for _, path in _model_files(base)]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _model_files(base: BaseModel) -> list[tuple[str, Path]]:
    """(name that is the same for every copy, path) of every file that is read.

    Raises:
        ValueError: one of the files or folders that the description names is gone.
    """
    replaced = {component for component, _ in base.parts}
    named = [("", base.path), *base.parts, *([("config", base.config)] if base.config else [])]
    files: list[tuple[str, Path]] = []
    for name, place in named:
        path = Path(place)
        if path.is_file():
            files.append((name or "model", path))
        elif not path.is_dir():
            what = f"the model's {name}" if name else "the model"
            raise ValueError(f"{what} {path} is gone; choose the base model again")
        elif name == "config":
            files += _in_model(path, f"{name}/", weights=False)
        elif name:
            files += [(f"{name}/{file.name}", file) for file in _in_component(path, weights=True)]
        else:
            files += _in_model(path, "", weights=True, without=replaced)
    return files


def _in_model(
    folder: Path, prefix: str, *, weights: bool, without: set[str] | None = None
) -> Iterator[tuple[str, Path]]:
    index = read_json(folder / "model_index.json")
    yield f"{prefix}model_index.json", folder / "model_index.json"
    for component in sorted(name for name in index if (folder / name).is_dir()):
        if component in UNUSED or component in (without or ()):
            continue
        read = weights and is_module(index, component)
        for file in _in_component(folder / component, weights=read):
            yield f"{prefix}{component}/{file.name}", file


def _in_component(folder: Path, *, weights: bool) -> list[Path]:
    described = [path for path in folder.iterdir() if path.suffix in _DESCRIPTIONS]
    return sorted(described + (weight_files(folder) if weights else []))
