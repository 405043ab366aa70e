"""One tiny random model per family (and per further variant), made once per test session.

Use the fixture `tiny_models` (every test file has it): `tiny_models("sdxl")` is the path of
an ordinary diffusers folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import tiny_transformers, tiny_unets

if TYPE_CHECKING:
    import torch

TINY: dict[str, Callable[[Path], Path]] = {
    "stable-diffusion": tiny_unets.stable_diffusion,
    "sdxl": tiny_unets.sdxl,
    "sd3": tiny_transformers.sd3,
    "flux": tiny_transformers.flux_dev,
    "z-image": tiny_transformers.z_image,
}
"""Family name → writes its tiny model into the given folder and returns that folder."""

VARIANTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "sd-inpaint": ("stable-diffusion", tiny_unets.stable_diffusion_inpaint),
    "sd2-v": ("stable-diffusion", tiny_unets.stable_diffusion_2_v),
    "sdxl-refiner": ("sdxl", tiny_unets.sdxl_refiner),
    "sd3-without-t5": ("sd3", tiny_transformers.sd3_without_t5),
    "sd3.5-medium": ("sd3", tiny_transformers.sd35),
    "sd3.5-large": ("sd3", tiny_transformers.sd35_large),
    "flux-schnell": ("flux", tiny_transformers.flux_schnell),
    "flux-dev-wide": ("flux", tiny_transformers.flux_dev_wide),
}
"""Further models of a family: name → (family name, builder)."""


def family_of(name: str) -> str:
    """The family's name of a tiny model."""
    return VARIANTS[name][0] if name in VARIANTS else name


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in `TINY` or `VARIANTS` to its folder, written when first asked."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            build = VARIANTS[name][1] if name in VARIANTS else TINY[name]
            made[name] = build(tmp_path_factory.mktemp(f"tiny-{name}"))
        return made[name]

    return folder


ORIGINAL: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    name: partial(tiny_transformers.original_checkpoint, family=family_of(name))
    for name in (*TINY, *VARIANTS)
    if family_of(name) in tiny_transformers.ORIGINAL_PREFIXES
}
"""Family name → its own writer of the original layout."""


def original_checkpoint(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a tiny model as its original code's single checkpoint file holds them.

    `name`: as in `TINY` and `VARIANTS`. For the UNet families; the others bring their own in
    `ORIGINAL`.
    """
    if name in ORIGINAL:
        return ORIGINAL[name](folder)
    return tiny_unets.original_checkpoint(folder, name)
