"""A ControlNet's files, opened but not read: which it is, its configuration, its tensors."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...families.transformer_files import below
from ..files import sha256_of
from ..modules import library_class
from ..scaled_weights import PlainWeights
from ..sources import best_weights, glimpse, read_json, weight_files
from ..tensor_file import open_tensors
from .adapter import Adapter
from .architecture import Architecture, Found, Shapes
from .flux import FluxControlNet
from .sd3 import SD3ControlNet
from .unet import UNetControlNet

if TYPE_CHECKING:
    import torch

    from ...families.family import TensorFile

ARCHITECTURES: tuple[Architecture, ...] = (
    UNetControlNet(),
    SD3ControlNet(),
    FluxControlNet(),
    Adapter(),
)

_CONFIG = "config.json"
_FOREIGN = {
    "lora_controlnet": "a Control-LoRA, which is only a part of a ControlNet; use the whole one",
    "lllite_": "a ControlNet-LLLite, which diffusers does not know; use a ControlNet",
    "difference": "only the difference to the base model it was trained on; use the whole one",
    "style_embedding": "a T2I style adapter, which diffusers does not know; use an IP-Adapter",
    "image_proj.": "an IP-Adapter; choose it in Load IP-Adapter",
    "lora_unet_": "a LoRA; choose it in Load LoRA",
    ".lora_A.": "a LoRA; choose it in Load LoRA",
    "control_all_x_embedder.": "a ControlNet for Z-Image, which Likeness cannot use yet",
    "control_layers.": "a ControlNet for Z-Image, which Likeness cannot use yet",
}
"""A piece of a name → what a file with it is."""


@dataclass(frozen=True)
class Source:
    """A ControlNet in a diffusers folder or a single file.

    `told`: its `config.json`, without what diffusers notes for itself; empty for a single file.
    """

    path: Path
    files: tuple[TensorFile, ...]
    architecture: Architecture
    found: Found
    told: Mapping[str, Any]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Under diffusers' names; views of the files wherever possible.

        Raises:
            ValueError: a tensor that every such ControlNet has is missing.
        """
        prefix = self.found.prefix
        inside = {
            name.removeprefix(prefix): file.tensor(name)
            for file in self.files
            for name in file.shapes()
            if name.startswith(prefix)
        }
        return self.architecture.rename(inside, self.found)

    @cached_property
    def shapes(self) -> Shapes:
        """As `tensors`, without reading one."""
        import torch

        inside = below(_shapes(self.files), self.found.prefix)
        hollow = {name: torch.empty(shape, device="meta") for name, shape in inside.items()}
        renamed = self.architecture.rename(hollow, self.found)
        return {name: tuple(tensor.shape) for name, tensor in renamed.items()}

    def config(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The whole diffusers configuration: what its `config.json` tells, else its tensors' shapes
        do, else the `base` model's denoiser, of which a ControlNet is a copy.

        Raises:
            ValueError: the file is cut short.
        """
        cls = library_class(("diffusers", self.found.class_name))
        known = inspect.signature(cls.__init__).parameters
        inherited = {key: base[key] for key in self.architecture.inherited if key in base}
        everything = {**inherited, **self.architecture.config(self.shapes), **self.told}
        return {key: value for key, value in everything.items() if key in known}


def open_control(path: str | Path, dtype: torch.dtype | None = None) -> Source:
    """Open the ControlNet at `path`: a diffusers folder, a file of weights in one, or a single
    file. `dtype`: what scaled float8 weights are read as, float32 by itself.

    Raises:
        ValueError: missing, damaged, or no ControlNet that Likeness knows.
    """
    import torch

    path = _place(Path(path))
    opened = [open_tensors(file) for file in _weights(path)]
    files = tuple(PlainWeights(file, dtype or torch.float32) for file in opened)
    shapes = _shapes(files)
    for piece, what in _FOREIGN.items():
        if any(piece in name for name in shapes):
            raise ValueError(f"{path} is {what}")
    for architecture in ARCHITECTURES:
        found = _found(path, architecture, shapes)
        if found is not None:
            return Source(path, files, architecture, found, _told(path))
    raise ValueError(
        f"{path} holds no ControlNet that Likeness knows: {glimpse(files[0])}; choose a "
        "ControlNet, ControlNet-Union or T2I-Adapter for Stable Diffusion, SDXL, SD 3 or FLUX.1"
    )


def identity_of(path: str | Path) -> str:
    """SHA-256 over the contents of a ControlNet's files: two copies are one, whatever their names.

    Raises:
        ValueError: there are none.
    """
    digest = hashlib.sha256()
    for name, file in _named_files(_place(Path(path))):
        digest.update(f"{name}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _place(path: Path) -> Path:
    """The folder of a diffusers model where one of its files was chosen."""
    if path.is_file() and best_weights([path.name]) and (path.parent / _CONFIG).is_file():
        return path.parent
    if not path.exists():
        raise ValueError(f"the ControlNet {path} is not there; choose it again")
    return path


def _weights(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = weight_files(path)
    if not files:
        raise ValueError(
            f"{path} has no weights (diffusion_pytorch_model.safetensors); choose the folder of a "
            "ControlNet, or a single file"
        )
    return files


def _named_files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield "model", path
        return
    if (path / _CONFIG).is_file():
        yield _CONFIG, path / _CONFIG
    for file in _weights(path):
        yield file.name, file


def _told(path: Path) -> dict[str, Any]:
    if path.is_file() or not (path / _CONFIG).is_file():
        return {}
    entries = read_json(path / _CONFIG)
    return {key: value for key, value in entries.items() if not key.startswith("_")}


def _shapes(files: tuple[TensorFile, ...]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for file in files for name, shape in file.shapes().items()}


def _found(path: Path, architecture: Architecture, shapes: Shapes) -> Found | None:
    try:
        return architecture.find(shapes)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} looks like a ControlNet, but its tensors are not shaped as one's "
            f"({type(error).__name__}: {error}); copy or download it again"
        ) from error
