"""What a detector is: a name, its settings, what it needs, and how a picture goes through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..setting import check, setting

if TYPE_CHECKING:
    import numpy as np
    import torch

MAX_SEED = 2**32 - 1
"""What numpy's own generator takes."""

ANNOTATORS = "lllyasviel/Annotators"
"""The repository from which controlnet-aux takes most weights."""


@dataclass(frozen=True)
class Weights:
    """Weights that a detector needs: `file` of a repository (with its folder there, if any), or the
    whole repository as a folder of the library that reads it.
    """

    repository: str
    file: str = ""


@dataclass(frozen=True)
class Places:
    """Where weights may be: below `folders`, the first that has them, then in the hub's cache.

    `download`: fetch them from the hub when they are nowhere; never with HF_HUB_OFFLINE=1.
    """

    folders: tuple[Path, ...] = ()
    download: bool = False


@dataclass(frozen=True)
class Detector:
    """Turns a picture into a control picture.

    `settings`: a `DetectorSettings`. `detect`: from what `load` made (None without), an RGB picture
    and the settings to uint8 [height, width] or [height, width, 3]; the picture is uint8 [height,
    width, 3], both at least `least` and multiples of `grid`. `weights`: what it needs with these
    settings. `load`: from the settings and the place of each of `weights` to a module on the CPU,
    in eval mode and frozen, that holds all that `detect` wants. `package`: to install beside what
    Likeness needs, as pip writes it. `flat`: colours mean something and are never mixed when the
    picture is scaled.
    """

    name: str
    title: str
    purpose: str
    settings: type[Any]
    detect: Callable[[Any, np.ndarray, Any], np.ndarray]
    weights: Callable[[Any], Sequence[Weights]] = lambda settings: ()
    load: Callable[[Any, Sequence[Path]], torch.nn.Module] | None = None
    package: str = ""
    grid: int = 1
    least: int = 1
    flat: bool = False


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of one detector, each a field made with `setting`.

    Raises:
        ValueError: one is out of its bounds; names it and what is allowed.
    """

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class NoSettings(DetectorSettings):
    """Of a detector that can be told nothing."""


def own_weights(what: str = "The weights") -> Any:
    """The setting with which a user names weights of his own."""
    return setting(
        "",
        help=f"{what}: a file below models/controlnet_aux or models/annotators, or a folder there "
        "that holds them under their usual names. Empty: those with the usual names.",
        advanced=True,
    )


def own_model(default: str) -> Any:
    """The setting with which a user chooses a whole model."""
    return setting(
        default,
        help="The model: a folder below models/controlnet_aux or models/annotators, or a "
        "repository of the Hugging Face hub (owner/name), from the local cache.",
    )


def seed_setting(what: str) -> Any:
    return setting(0, help=f"The start of all randomness: {what}.", low=0, high=MAX_SEED)
