"""Where each component of a pipeline lies: found and described, but not read.

A base model is a diffusers folder, one file with everything in it, or a denoiser's file; `parts`
supply or replace components. Which is which is found out here, so that `assemble.py` need not ask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families.family import present
from .scaled_weights import PlainWeights
from .tensor_file import open_tensors

if TYPE_CHECKING:
    import torch

    from ..families import Family
    from ..families.family import FileLayout, TensorFile
    from .spec import BaseModel

CONFIGS = Path(__file__).parent.parent / "families" / "configs"
"""One folder per variant: `model_index.json` and the configurations of its components."""

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that a folder may name and nothing here needs."""

OPTIONAL = ("text_encoder_3",)
"""What diffusers draws without: SD 3's T5, the largest part of the model."""

_WEIGHTS = re.compile(
    r"(?P<name>diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z]\w*))?(?:-(?P<part>\d{5})-of-(?P<parts>\d{5}))?"
    r"(?:\.(?P<old_variant>[A-Za-z]\w*))?(?P<suffix>\.safetensors|\.bin)"
)
"""Names of weight files as diffusers and transformers write them, variants and shards included."""

_WRAPPINGS: Mapping[str, tuple[str, ...]] = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.transformer.",
        "text_encoders.qwen3_4b.transformer.",
        "text_encoder.",
    ),
    "text_encoder_2": (
        "conditioner.embedders.1.model.",
        "conditioner.embedders.0.model.",
        "text_encoders.clip_g.transformer.",
        "text_encoders.t5xxl.transformer.",
        "text_encoder_2.",
    ),
    "text_encoder_3": ("text_encoders.t5xxl.transformer.", "text_encoder_3."),
}
"""What stands before a component's names in files that hold more than that component."""


@dataclass(frozen=True)
class Weights:
    """One component's tensors: those below `prefix` in `files`.

    `config`: its own configuration, when it came from a component folder.
    """

    files: tuple[TensorFile, ...]
    where: str
    prefix: str = ""
    config: Mapping[str, Any] | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(self.prefix): file.tensor(name)
            for file in self.files
            for name in file.shapes()
            if name.startswith(self.prefix)
        }


@dataclass(frozen=True)
class Plan:
    """What a pipeline will be made of.

    `description`: the folder of configurations. `index`: its `model_index.json`, `[library, class]`
    by component. `variant`: which of `CONFIGS`, `""` for a diffusers folder. `changes`: component →
    entries that differ from the configuration.
    """

    description: Path
    index: Mapping[str, Any]
    weights: Mapping[str, Weights]
    variant: str = ""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def classes(self) -> dict[str, tuple[str, str]]:
        """Component → (library, class) of everything that the pipeline is made of."""
        return {
            name: (entry[0], entry[1])
            for name, entry in self.index.items()
            if present(self.index, [name]) and name not in UNUSED
        }

    def config(self, component: str) -> dict[str, Any]:
        """The component's configuration.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        own = self.weights[component].config if component in self.weights else None
        if own is not None:
            return dict(own)
        return {**read_json(self._config_file(component)), **self.changes.get(component, {})}

    def tokenizers_not_needed(self) -> set[str]:
        """Tokenizers of text encoders that this model draws without."""
        absent = {name for name in OPTIONAL if name not in self.weights}
        return {name.replace("text_encoder", "tokenizer") for name in absent}

    def _config_file(self, component: str) -> Path:
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return self.description / component / name


def plan(base: BaseModel, family: Family, dtype: torch.dtype) -> Plan:
    """Find everything that `base` is made of. `dtype`: what scaled float8 weights are read as.

    Raises:
        ValueError: a file or component is missing, damaged, or not of this family.
    """
    path = Path(base.path)
    found = _folder_plan(path) if path.is_dir() else _file_plan(base, family, dtype)
    weights = dict(found.weights)
    index = dict(found.index)
    for component, part in base.parts:
        weights[component] = _part(component, Path(part), family, dtype)
        if component not in found.classes():
            index[component] = _class_of(component, weights[component], base)
    result = Plan(found.description, index, weights, found.variant, found.changes)
    _require_all(result, base, family)
    return result


def layout_of(path: Path, family: Family, file: TensorFile) -> FileLayout:
    """What the file holds, as this family reads it.

    Raises:
        ValueError: it is not of this family; says what it looks like.
    """
    layout = identified(path, family, file)
    if layout is not None:
        return layout
    from ..families import FAMILIES

    other = next((each for each in FAMILIES if identified(path, each, file) is not None), None)
    looks = f"it looks like {other.title}" if other else glimpse(file)
    raise ValueError(
        f"{path} holds no {family.title} model: {looks}; choose the family 'auto' or another file"
    )


def identified(path: Path, family: Family, file: TensorFile) -> FileLayout | None:
    """What `family.identify` says, in a user's words where it stumbles.

    Raises:
        ValueError: the file has the names of this family's models and not their shapes.
    """
    try:
        return family.identify(file)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} looks like {family.title}, but its tensors are not shaped as such a model's "
            f"({type(error).__name__}: {error}); copy or download the file again"
        ) from error


def is_module(index: Mapping[str, Any], component: str) -> bool:
    """Whether a `model_index.json` says that this component has weights which are needed."""
    other = component == "scheduler" or component.startswith("tokenizer") or component in UNUSED
    return not other and present(index, [component])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model.

    Raises:
        ValueError: the file is missing or is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy the model again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no table of settings; copy the model again")
    return content


def weight_files(folder: Path, variant: str = "") -> list[Path]:
    """The files with the weights of a component's folder, in order; [] when there are none.

    Raises:
        ValueError: a part of several is missing.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    best = best_weights(names, variant)
    if best and len(best) != (parts := int(_WEIGHTS.fullmatch(best[0])["parts"] or 1)):  # type: ignore[index]
        raise ValueError(
            f"{folder} has {len(best)} of {parts} parts of its weights; copy the model again"
        )
    return [folder / name for name in best]


def best_weights(names: Iterable[str], variant: str = "") -> list[str]:
    """The names of one set of weights, in order; [] when there are none.

    Safetensors before pickles, `variant` (`"fp16"`, ...) before those without, these before others.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in sorted(names):
        if match := _WEIGHTS.fullmatch(name):
            kind = match["variant"] or match["old_variant"] or ""
            rank = (match["suffix"] == ".bin", kind != variant, kind, match["parts"] or "")
            groups.setdefault((*rank, match["name"]), []).append(name)
    return groups[min(groups)] if groups else []


def _folder_plan(folder: Path) -> Plan:
    index = read_json(folder / "model_index.json")
    weights = {name: _component_folder(folder / name) for name in index if is_module(index, name)}
    return Plan(folder, index, weights)


def _file_plan(base: BaseModel, family: Family, dtype: torch.dtype) -> Plan:
    path = Path(base.path)
    file = PlainWeights(open_tensors(path), dtype)
    layout = layout_of(path, family, file)
    description = Path(base.config) if base.config else CONFIGS / layout.variant
    weights = {
        component: Weights((file,), str(path), prefix)
        for component, prefix in layout.prefixes.items()
    }
    changes = {} if base.config else layout.changes
    index = read_json(description / "model_index.json")
    return Plan(description, index, weights, layout.variant, changes)


def _part(component: str, path: Path, family: Family, dtype: torch.dtype) -> Weights:
    if path.is_file() and path.name in best_weights([path.name]):
        path = path.parent if (path.parent / "config.json").is_file() else path
    if path.is_dir():
        return _component_folder(path)
    file = PlainWeights(open_tensors(path), dtype)
    layout = identified(path, family, file)
    if layout is not None and layout.prefixes.get(component):
        return Weights((file,), str(path), layout.prefixes[component])
    names = file.shapes()
    for prefix in _WRAPPINGS.get(component, ()):
        if any(name.startswith(prefix) for name in names):
            return Weights((file,), str(path), prefix)
    return Weights((file,), str(path))


def _component_folder(folder: Path) -> Weights:
    files = weight_files(folder)
    if not files:
        raise ValueError(
            f"{folder} has no weights (diffusion_pytorch_model.safetensors or model.safetensors); "
            "copy the model again"
        )
    opened = tuple(open_tensors(path) for path in files)
    return Weights(opened, str(folder), config=read_json(folder / "config.json"))


def _class_of(component: str, weights: Weights, base: BaseModel) -> list[str]:
    """[library, class] of a component that the model itself does not name."""
    config = weights.config or {}
    if base.config:
        entry = read_json(Path(base.config) / "model_index.json").get(component)
        if isinstance(entry, list) and entry[1]:
            return entry
    if "_class_name" in config:
        return ["diffusers", config["_class_name"]]
    if config.get("architectures"):
        return ["transformers", config["architectures"][0]]
    raise ValueError(
        f"{base.path} is a model without {component}, so {weights.where} has no place in it; "
        f"leave {component} out, or choose the {component} folder of a diffusers model"
    )


def _require_all(found: Plan, base: BaseModel, family: Family) -> None:
    for name in found.index:
        if not is_module(found.index, name) or name in found.weights or name in OPTIONAL:
            continue
        raise ValueError(
            f"{base.path} holds no {name} for {family.title}: choose a file for the input "
            f"`{_input_for(name, family)}` of the node that loads it"
        )


def _input_for(component: str, family: Family) -> str:
    return "denoiser" if component == family.denoiser.attribute else component


def glimpse(file: TensorFile) -> str:
    """A few names of what a file holds, for messages."""
    names = sorted(file.shapes())
    if not names:
        return "it holds no tensors at all"
    shown = ", ".join(map(repr, _spread(names)))
    return f"it holds {len(names)} tensors such as {shown}"


def _spread(names: list[str], count: int = 3) -> Iterable[str]:
    return dict.fromkeys(names[index * (len(names) - 1) // (count - 1)] for index in range(count))
