"""A LoRA file as it lies on disk: which layers it names, with which parts, at which scale."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tensor_file import PICKLED, open_tensors
from .parts import METHODS, Configured

if TYPE_CHECKING:
    import torch

    from ...families.family import TensorFile

SUFFIXES = (".safetensors", *PICKLED)
"""File names that LoRAs end in. Pickled ones are read as tensors alone; code in them never runs."""

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the PEFT configuration, as JSON, in a file's metadata."""

_ADAPTER = r"(?:\.(?!lora_)[\w-]+)?"  # PEFT's name of the adapter, left in by some programs
_ROLES: tuple[tuple[str, str], ...] = (
    (r"(?:_lora|\.lora|\.lora_linear_layer)\.(down|up)\.weight", r"\1"),
    (r"(?<=_lora[12])\.(down|up)\.weight", r"\1"),  # XLabs: one for the picture, one for the text
    (r"\.lora_(down|up|mid)\.weight", r"\1"),
    (rf"\.lora_A{_ADAPTER}\.weight|\.lora_A", "down"),
    (rf"\.lora_B{_ADAPTER}\.weight|\.lora_B", "up"),
    (rf"\.lora_B{_ADAPTER}\.bias", "up_bias"),
    (rf"\.(?:lora_down|lora\.down|lora_A{_ADAPTER})\.bias", "down_bias"),
    (r"\.(?:lora_up|lora\.up)\.bias", "up_bias"),
    (r"(?:\.lora)?\.lora_magnitude_vector(?:\.[\w-]+)*", "magnitude"),
    (r"(?:_lora)?\.alpha", "alpha"),
    (r"\.dora_scale", "dora_scale"),
    (r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.default)?", r"\1"),
    (r"\.(a1|a2|b1|b2)\.weight", r"\1"),
    (r"\.(oft_blocks|rescale|diff|diff_b|set_weight|w_norm|b_norm|reshape_weight)", r"\1"),
    (rf"\.(oft_R){_ADAPTER}(?:\.weight)?", r"\1"),
)
_PATTERNS = tuple((re.compile(rf"(?:{pattern})$"), role) for pattern, role in _ROLES)
_ASIDE = ("bundle_emb.",)  # an embedding that travels inside of a LoRA


def split_key(key: str) -> tuple[str, str] | None:
    """A file's key → (layer name, role such as "down", "up", "alpha", "hada_w1_a"), or None if it
    is no part of an adapter.
    """
    for pattern, role in _PATTERNS:
        if match := pattern.search(key):
            return key[: match.start()], match.expand(role)
    return None


@dataclass(frozen=True)
class PeftScaling:
    """What a PEFT configuration says about alpha: its files hold none themselves."""

    config: Mapping[str, Any]

    def of(self, layer: str) -> Configured | None:
        """What it says about a layer; the first pattern that fits counts, as in PEFT."""
        alpha = self._find("alpha_pattern", layer, self.config.get("lora_alpha"))
        alpha = self.config.get("alpha") if alpha is None else alpha
        if alpha is None:
            return None
        rank = self._find("rank_pattern", layer, self.config.get("r"))
        return Configured(float(alpha), int(rank or 0), bool(self.config.get("use_rslora")))

    def _find(self, table: str, layer: str, default: Any) -> Any:
        patterns: Mapping[str, Any] = self.config.get(table) or {}
        fits = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer))
        return next(fits, default)


@dataclass(frozen=True, eq=False)
class LoraFile:
    """`layers`: layer name → role → key. `aside`: keys that are no weights of the model and do no
    harm (`bundle_emb.*`). `unknown`: keys that no adapter method has.
    """

    path: Path
    file: TensorFile
    metadata: Mapping[str, str]
    layers: Mapping[str, Mapping[str, str]]
    aside: Sequence[str]
    unknown: Sequence[str]
    configs: Mapping[str, PeftScaling] = field(default_factory=dict)

    def parts(self, layer: str) -> dict[str, torch.Tensor]:
        """A layer's tensors by role.

        Raises:
            ValueError: one of them holds NaN or infinity.
        """
        return {role: self.tensor(key) for role, key in self.layers[layer].items()}

    def tensor(self, key: str) -> torch.Tensor:
        tensor = self.file.tensor(key)
        if not _is_finite(tensor):
            raise ValueError(
                f"{self.path} holds NaN or infinity in {key!r}: its training failed, and it would "
                "turn pictures black; use an earlier checkpoint of it"
            )
        return tensor

    def scaling(self, attribute: str) -> PeftScaling | None:
        """The PEFT configuration for a component, or for all of them."""
        return self.configs.get(attribute, self.configs.get(""))

    def methods(self) -> dict[str, int]:
        """Method → number of layers, the most frequent first."""
        counts: dict[str, int] = {}
        for roles in self.layers.values():
            for sign, name in METHODS:
                if sign in roles:
                    counts[name] = counts.get(name, 0) + 1
                    break
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


def open_lora(path: str | Path) -> LoraFile:
    """Open a LoRA file; its weights are not read yet.

    Raises:
        ValueError: missing, cut short, of another kind, or without any adapter weight.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the LoRA file {path} does not exist")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no LoRA file; Likeness reads {', '.join(SUFFIXES)}")
    try:
        file = open_tensors(path)
    except ValueError as error:
        if path.suffix.lower() != ".safetensors":
            raise
        reason = str(error).removeprefix(f"{path} is damaged or cut short: ")
        raise ValueError(f"{path} is not a whole safetensors file: {reason}") from error
    lora = sort_keys(path, file, file.metadata)
    if not lora.layers:
        raise ValueError(f"{path} holds no LoRA weights; choose a file made by a LoRA trainer")
    return lora


def sort_keys(path: Path, file: TensorFile, metadata: Mapping[str, str]) -> LoraFile:
    """The keys of `file` by layer and role."""
    layers: dict[str, dict[str, str]] = {}
    aside, unknown = [], []
    for key in file.shapes():
        split = split_key(key)
        if key.startswith(_ASIDE):
            aside.append(key)
        elif split is None:
            unknown.append(key)
        elif split[1] in layers.setdefault(split[0], {}):
            raise ValueError(
                f"{path} holds {layers[split[0]][split[1]]!r} and {key!r}, which are the same part "
                "of one layer; it was put together from two files"
            )
        else:
            layers[split[0]][split[1]] = key
    for layer in [name for name, roles in layers.items() if roles.keys() == {"alpha"}]:
        aside.append(layers.pop(layer)["alpha"])  # an alpha of nothing changes nothing
    return LoraFile(path, file, metadata, layers, aside, unknown, _configs(path, metadata))


def _configs(path: Path, metadata: Mapping[str, str]) -> dict[str, PeftScaling]:
    """Component (`""` for all) → PEFT's configuration, from the metadata or the file beside it."""
    beside = path.with_name("adapter_config.json")
    try:
        if text := metadata.get(METADATA_KEY):
            return _by_component(json.loads(text))
        if path.stem == "adapter_model" and beside.is_file():
            return _by_component(json.loads(beside.read_text("utf-8")))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"the PEFT configuration of {path} cannot be read ({error})") from error
    return {}


def _by_component(config: Mapping[str, Any]) -> dict[str, PeftScaling]:
    """diffusers packs all components into one table: `unet.r`, `text_encoder.lora_alpha`."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in config.items():
        component, _, entry = name.rpartition(".")
        tables.setdefault(component, {})[entry] = value
    return {component: PeftScaling(table) for component, table in tables.items()}


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch

    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 cannot say
    return bool(torch.isfinite(wide).all())
