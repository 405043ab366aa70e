"""LoRA files: describe, read, write and copy them, in the layouts that other programs read."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .files import sha256_of
from .lora_layouts import (
    LAYOUTS,
    TEXT_MODEL,
    file_path,
    looks_like,
    name_tensors,
    split_key,
    to_diffusers,
    to_kohya,
)
from .spec import Lora
from .stable_file import save_tensors

if TYPE_CHECKING:
    import torch

    from ..families import Family
    from .loading import LivePipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoraPair:
    """One layer's change. `down` [rank, in] or [rank, in, kh, kw], `up` [out, rank] or [out, rank,
    1, 1].
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, device: torch.device | str) -> torch.Tensor:
        """ΔW in float32 on `device`, in the shape of the weight."""
        import torch

        up = self.up.to(device, torch.float32).flatten(1)
        down = self.down.to(device, torch.float32).flatten(1)
        return (up @ down).mul_(self.alpha / self.rank).reshape(self.shape)


LoraWeights = dict[str, dict[str, LoraPair]]
"""Pipeline component (`"unet"`, `"text_encoder"`) → module path in it → its pair."""


def describe_lora(path: str | Path, name: str | None = None) -> Lora:
    """Describe a LoRA file by its header and the hash of its bytes; its weights are not read.

    Raises:
        ValueError: missing, truncated, not safetensors, or without any LoRA weight.
    """
    path = Path(path).resolve()
    with _open_safetensors(path) as file:
        metadata = file.metadata() or {}
        if not any(split_key(key) for key in file.keys()):  # noqa: SIM118 - not a dict
            raise ValueError(f"{path} holds no LoRA weights; choose a file made by a LoRA trainer")
    return Lora(
        path=str(path),
        sha256=sha256_of(path),
        name=name or path.stem,
        trigger=metadata.get("modelspec.trigger_phrase", ""),
        metadata=tuple(sorted(metadata.items())),
    )


def read_lora(path: str | Path, live: LivePipeline) -> LoraWeights:
    """The pairs of a LoRA file, matched to the modules of `live`.

    Raises:
        ValueError: the file is unreadable, or its layers do not fit this model; says how many
            and which.
    """
    path = Path(path)
    names = _module_names(live)
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    unmatched: list[str] = []
    with _open_safetensors(path) as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            module, role = split_key(key) or (key, "")
            if module in names:
                found.setdefault(names[module], {})[role] = file.get_tensor(key)
            else:
                unmatched.append(key)
    weights = _pairs(found, live, path)
    if len(unmatched) > 0.1 * (len(unmatched) + sum(map(len, found.values()))):
        raise ValueError(
            f"{path} does not fit {live.base.path}: {len(unmatched)} of its weights match nothing "
            f"in this {live.family.name} model, such as {unmatched[0]!r}; it looks made for "
            f"{looks_like(unmatched)}"
        )
    if unmatched:
        log.warning("%s: %d weights match nothing: %s", path, len(unmatched), unmatched[:10])
    return weights


def write_lora(
    path: str | Path,
    weights: LoraWeights,
    family: Family,
    metadata: dict[str, str],
    layout: str = "kohya",
) -> None:
    """Write a safetensors LoRA that other programs load; the file appears whole or not at all.

    Raises:
        ValueError: unknown `layout`, or nothing to write.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"LoRA layout {layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    tensors: dict[str, torch.Tensor] = {}
    for component in (family.denoiser, *family.text_encoders):
        for module, pair in weights.get(component.attribute, {}).items():
            tensors |= name_tensors(component, module, pair, layout)
    if not tensors:
        raise ValueError(f"nothing to write to {path}: the LoRA has no layers")
    save_tensors(tensors, path, metadata)


def save_copy(
    lora: Lora,
    path: str | Path,
    layout: str = "kohya",
    extra_metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a copy of `lora` to `path` in `layout`, with `extra_metadata` added to its own.

    `path` ends in `.safetensors`. Never overwrites another LoRA: when there is a different file a
    number is added, when there is the same one it is returned. What was written is read again and
    compared before the name appears.

    Raises:
        ValueError: unknown `layout`, the source is gone or broken, or what was written differs.
    """
    from safetensors.torch import load_file

    if layout not in LAYOUTS:
        raise ValueError(f"LoRA layout {layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    path = Path(path)
    with _open_safetensors(Path(lora.path)) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = {**(file.metadata() or {}), **(extra_metadata or {})}
    if any(key.startswith("lora_") for key in tensors) != (layout == "kohya"):
        tensors = to_kohya(tensors) if layout == "kohya" else to_diffusers(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        whole = Path(folder) / path.name
        save_tensors(tensors, whole, metadata)
        written = load_file(whole)
        if written.keys() != tensors.keys() or any(
            not written[key].equal(tensor) for key, tensor in tensors.items()
        ):
            raise ValueError(f"{path} could not be written correctly; check the disk it lies on")
        return _take_free_name(whole, path)


def _take_free_name(whole: Path, path: Path) -> Path:
    """Give `whole` the name `path`, or with a number if another file has it already."""
    number = 1
    while True:
        name = path if number == 1 else path.with_stem(f"{path.stem}_{number:05d}")
        if name.is_file() and sha256_of(name) == sha256_of(whole):
            return name
        try:
            os.link(whole, name)  # fails if the name was taken meanwhile, as a rename would not
            return name
        except FileExistsError:
            number += 1
        except OSError:  # a file system without hard links
            if not name.exists():
                whole.rename(name)
                return name
            number += 1


def _module_names(live: LivePipeline) -> dict[str, tuple[str, str]]:
    """Every name under which files call a module of `live` → (component, module path)."""
    names: dict[str, tuple[str, str]] = {}
    for component in (live.family.denoiser, *live.family.text_encoders):
        attribute = component.attribute
        for path, module in live.component(attribute).named_modules():
            if getattr(module, "weight", None) is None:
                continue
            for alias in {path, path.removeprefix(TEXT_MODEL), file_path(component, path)}:
                names[f"{attribute}.{alias}"] = (attribute, path)
                for prefix in component.kohya_prefixes:
                    names[prefix + alias.replace(".", "_")] = (attribute, path)
    return names


def _pairs(
    found: dict[tuple[str, str], dict[str, torch.Tensor]], live: LivePipeline, path: Path
) -> LoraWeights:
    weights: LoraWeights = {}
    for (attribute, module), parts in found.items():
        if "down" not in parts or "up" not in parts:
            raise ValueError(
                f"{path} is incomplete: {attribute}.{module} lacks its up or down weight"
            )
        rank = parts["down"].shape[0]
        pair = LoraPair(parts["down"], parts["up"], float(parts.get("alpha", rank)))
        weight = cast("torch.Tensor", live.component(attribute).get_submodule(module).weight)
        expected = tuple(weight.shape)
        if pair.shape != expected or pair.up.shape[1] != rank:
            raise ValueError(
                f"{path} does not fit {live.base.path}: {attribute}.{module} has the shape "
                f"{expected} here, the LoRA changes {pair.shape}; it was trained on another model"
            )
        weights.setdefault(attribute, {})[module] = pair
    return weights


@contextmanager
def _open_safetensors(path: Path) -> Iterator:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"the LoRA file {path} does not exist")
    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
    with file:
        yield file
