"""What a file already speaks, and its layers by their words when no model is at hand to ask."""

from __future__ import annotations

from collections.abc import Mapping

from ...families import FAMILIES
from ...families.family import Family, LoraComponent
from .keys import PEFT, components_of, dotted_prefixes
from .layouts import Inexpressible, layer_name
from .parts import Broken, change_from
from .read import LoraWeights
from .signs import likely_families
from .source import METADATA_KEY, LoraFile
from .words import module_path, with_dots

NEEDS_PIPELINE = "connect the pipeline that this LoRA belongs to"

_ABOUT_BYTES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
"""Metadata that is true of the very tensors only."""

_KOHYA = (".lora_down.weight", ".lora_up.weight", ".lora_mid.weight")
_DIFFUSERS = (".lora_A.weight", ".lora_B.weight")


def speaks(file: LoraFile, layout: str) -> bool:
    """Whether the file has this layout already, so that its tensors are copied as they are."""
    if file.unknown:
        return False
    keys = {role: list(roles.values()) for role, roles in _by_role(file).items()}
    matrices = [key for role in ("down", "up", "mid") for key in keys.get(role, [])]
    if layout == "kohya":
        joined = all("." not in layer for layer in file.layers)
        ours = joined and "magnitude" not in keys and METADATA_KEY not in file.metadata
        return ours and all(key.endswith(_KOHYA) for key in matrices)
    if layout == "diffusers":
        prefixes = tuple(
            f"{component.attribute}." for family in FAMILIES for component in components_of(family)
        )
        named = all(
            layer.startswith(prefixes) and ".processor." not in layer and PEFT not in layer
            for layer in file.layers
        )
        return (
            named
            and keys.keys() == {"down", "up"}
            and all(key.endswith(_DIFFUSERS) for key in matrices)
        )
    return False


def metadata_for(file: LoraFile, extra: Mapping[str, str], same_tensors: bool) -> dict[str, str]:
    """The file's own metadata and `extra`. Of other tensors, what is true of these is left out: a
    PEFT configuration beside weights that have the factor in them would be applied twice.
    """
    about = () if same_tensors else (METADATA_KEY, *_ABOUT_BYTES)
    return {k: v for k, v in file.metadata.items() if k not in about} | dict(extra)


def named_by_words(file: LoraFile, layout: str) -> tuple[LoraWeights, Family]:
    """The file's changes under module paths, as far as the names alone tell them.

    Raises:
        ValueError: they do not tell; says the way out.
    """
    families = dict.fromkeys((*likely_families(file.file.shapes()), *FAMILIES))
    found = [(family, places) for family in families if (places := _places(file, family))]
    # Two families may differ in how they call their first text encoder; readers know both names.
    names = [
        {
            layer_name(component, path, layout)
            for component, path in places.values()
            if component is family.denoiser
        }
        for family, places in found
    ]
    if not found or any(other != names[0] for other in names[1:]):
        raise Inexpressible(
            f"the names in {file.path} do not tell which layers of a diffusers model they are, as "
            f"the layout {layout!r} needs; {NEEDS_PIPELINE}, or keep the layout that it has"
        )
    family, places = found[0]
    weights: LoraWeights = {}
    for layer, (component, path) in places.items():
        scaling = file.scaling(component.attribute)
        try:
            change = change_from(file.parts(layer), scaling.of(layer) if scaling else None)
        except Broken as error:
            raise ValueError(f"{file.path} is incomplete: {layer} {error}") from error
        weights.setdefault(component.attribute, {})[path] = change
    return weights, family


def _places(file: LoraFile, family: Family) -> dict[str, tuple[LoraComponent, str]]:
    """Layer → component and module path; empty if some layer cannot be told."""
    places: dict[str, tuple[LoraComponent, str]] = {}
    for layer in file.layers:
        place = _place(layer, family)
        if place is None or place in places.values():
            return {}
        places[layer] = place
    own = [path for component, path in places.values() if component is family.denoiser]
    return places if not own or any(family.block_of(path) for path in own) else {}


def _place(layer: str, family: Family) -> tuple[LoraComponent, str] | None:
    for component in components_of(family):
        for prefix in component.kohya_prefixes:
            if layer.startswith(prefix):
                path = with_dots(layer[len(prefix) :], component.attribute)
                path = path and module_path(path, component.attribute)
                if path:
                    return component, path
        for prefix in sorted(dotted_prefixes(component), key=len, reverse=True):
            if layer.startswith(prefix) and (prefix or component is family.denoiser):
                path = module_path(layer[len(prefix) :].removeprefix(PEFT), component.attribute)
                if path:
                    return component, path
    return None


def _by_role(file: LoraFile) -> dict[str, dict[str, str]]:
    roles: dict[str, dict[str, str]] = {}
    for layer, parts in file.layers.items():
        for role, key in parts.items():
            roles.setdefault(role, {})[layer] = key
    return roles
