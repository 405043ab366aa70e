"""Tokenizers without a network: from the model, from a folder given for it, from the local hub
cache, from the ComfyUI around us.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .modules import library_class

if TYPE_CHECKING:
    from ..families.family import TokenizerSource

_COMPLETE = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
)
"""Files of which one set makes a tokenizer."""


def tokenizer_in(folder: Path, kind: tuple[str, str]) -> Any:
    """The tokenizer that a model brings in its own folder.

    Raises:
        ValueError: its files are missing or broken.
    """
    if not is_tokenizer(folder):
        raise ValueError(
            f"{folder} lacks the tokenizer's files ({_wanted()}); copy the model again"
        )
    return _load(folder, library_class(kind), {})


def find_tokenizer(
    attribute: str, source: TokenizerSource, config: Path | None, comfyui: Path | None
) -> Any:
    """The tokenizer called `attribute` for a model in a single file.

    `config`: a diffusers folder that describes the model. `comfyui`: ComfyUI's own folder.

    Raises:
        ValueError: it is nowhere on this machine; says what was looked for and how to get it.
    """
    cls = library_class(("transformers", source.class_name))
    if config is not None and is_tokenizer(config / attribute):
        return _load(config / attribute, cls, {})
    for folder in (*_cached(source.hub), *_in_comfyui(source.comfyui, comfyui)):
        if is_tokenizer(folder):
            return _load(folder, cls, source.options)
    raise ValueError(_nowhere(attribute, source, comfyui))


def is_tokenizer(folder: Path) -> bool:
    """Whether the folder holds the files of a tokenizer."""
    return any(all((folder / name).is_file() for name in names) for names in _COMPLETE)


def _load(folder: Path, cls: Any, options: Mapping[str, Any]) -> Any:
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the tokenizer in {folder} cannot be read ({error}); copy it again"
        ) from error


def _cached(repositories: tuple[str, ...]) -> Iterator[Path]:
    """The folders of these repositories in the local hub cache, the revision `main` first."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    for entry in repositories:
        repository, _, below = entry.partition(":")
        home = cache / f"models--{repository.replace('/', '--')}"
        main = home / "refs" / "main"
        revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
        snapshots = sorted((home / "snapshots").glob("*"), key=lambda path: path.name != revision)
        yield from (snapshot / below for snapshot in snapshots)


def _in_comfyui(below: str, comfyui: Path | None) -> Iterator[Path]:
    if below and comfyui is not None:
        yield comfyui / below


def _wanted() -> str:
    return " or ".join(" and ".join(names) for names in _COMPLETE)


def _nowhere(attribute: str, source: TokenizerSource, comfyui: Path | None) -> str:
    repository, _, below = source.hub[0].partition(":") if source.hub else ("", "", "")
    files = f" --include '{below}/*'" if below else ""
    looked = ["the local hub cache"]
    if source.comfyui:
        looked.append(f"{comfyui / source.comfyui}" if comfyui else "ComfyUI (none found)")
    download = f"run: hf download {repository}{files} (once, with a network); or " * bool(
        repository
    )
    return (
        f"the files of the {attribute} ({source.class_name}: {_wanted()}) are not on this machine: "
        f"looked in {' and '.join(looked)}. To get them, {download}"
        "choose a diffusers folder of such a model as `config`; or set COMFYUI_PATH to a ComfyUI"
    )
