"""Every name under which files call a layer of a live model, and which rows of it they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...families.family import LoraComponent, Rows

if TYPE_CHECKING:
    import torch

    from ...families import Family
    from ..loading import LivePipeline

TEXT_MODEL = "text_model."
"""transformers dropped this prefix from CLIPTextModel in 5.6; files everywhere still carry it."""

PEFT = "base_model.model."
"""How PEFT begins the names in its own files."""

_OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
"""diffusers of 2023 called the layers of a text encoder as those of a UNet."""


@dataclass(frozen=True)
class Target:
    """Where a file's layer lies: in which component, in which of its modules, in which rows."""

    attribute: str
    rows: tuple[Rows, ...]


class LayerNames:
    """The names of all layers of a live model."""

    def __init__(self, live: LivePipeline) -> None:
        self._tables: list[tuple[LoraComponent, dict[str, Target], dict[str, Target]]] = []
        self.absent: list[LoraComponent] = []
        for component in components_of(live.family):
            root: torch.nn.Module | None = getattr(live.pipeline, component.attribute, None)
            if root is None:
                self.absent.append(component)
                continue
            dotted = _dotted_names(live, component, root)
            joined = {name.replace(".", "_"): target for name, target in dotted.items()}
            self._tables.append((component, dotted, joined))

    def find(self, layer: str, component: str = "") -> Target | None:
        """The place of a file's layer; None if it is none of ours.

        `component`: where to look for names that say no component, as PEFT's files do.

        Raises:
            ValueError: the name alone does not tell which of two text encoders it means.
        """
        for owner, dotted, joined in self._tables:
            for prefix in owner.kohya_prefixes:
                if layer.startswith(prefix) and (hit := joined.get(layer[len(prefix) :])):
                    return hit
            for prefix in dotted_prefixes(owner):
                if prefix and layer.startswith(prefix):
                    rest = layer[len(prefix) :].removeprefix(PEFT)
                    if hit := dotted.get(rest):
                        return hit
        return self._bare(layer, component)

    def is_absent(self, layer: str) -> bool:
        """Whether the name belongs to a component that the family has and this model lacks."""
        return any(layer.startswith(_prefixes(component)) for component in self.absent)

    def _bare(self, layer: str, component: str) -> Target | None:
        """A name without component: PEFT's own files, and some of the denoiser."""
        rest = layer.removeprefix(PEFT)
        if rest == layer and not component and not self._allows_bare():
            return None
        hits = {
            owner.attribute: target
            for owner, dotted, _ in self._tables
            if (target := dotted.get(rest)) is not None
        }
        if component in hits:
            return hits[component]
        if len(hits) > 1:
            raise ValueError(
                f"the name {layer!r} may mean {' or '.join(hits)}; keep the file in a folder that "
                "is called as the one that it is for"
            )
        return next(iter(hits.values()), None) if not component else None

    def _allows_bare(self) -> bool:
        return any("" in owner.dotted_prefixes for owner, _, _ in self._tables)


def components_of(family: Family) -> tuple[LoraComponent, ...]:
    return (family.denoiser, *family.text_encoders)


def dotted_prefixes(component: LoraComponent) -> tuple[str, ...]:
    """How files with dotted names begin those of a component, the one that we write first."""
    own = f"{component.attribute}."
    return tuple(dict.fromkeys((*component.dotted_prefixes, own))) or (own,)


def file_path(component: LoraComponent, module: str) -> str:
    """A module's path as files spell it."""
    if component.attribute.startswith("text_encoder") and module.startswith("encoder.layers."):
        return TEXT_MODEL + module
    return module


def _prefixes(component: LoraComponent) -> tuple[str, ...]:
    return tuple(p for p in (*component.kohya_prefixes, *dotted_prefixes(component)) if p)


def _dotted_names(
    live: LivePipeline, component: LoraComponent, root: torch.nn.Module
) -> dict[str, Target]:
    """Layer name with dots, without prefix → its place. Our own paths win over other spellings."""
    attribute = component.attribute
    modules = {
        path for path, module in root.named_modules() if getattr(module, "weight", None) is not None
    }
    original: Mapping[str, tuple[Rows, ...]] = live.family.original_names(live.pipeline, attribute)
    names = {path: Target(attribute, (Rows(path),)) for path in modules}
    others = {
        name: Target(attribute, rows)
        for name, rows in original.items()
        if all(row.module in modules for row in rows)
    }
    for known in (dict(names), others):
        for name, target in known.items():
            for alias in (name, *_aliases(component, name)):
                names.setdefault(alias, target)
    return names


def _aliases(component: LoraComponent, path: str) -> Iterable[str]:
    """Other spellings of one dotted path."""
    spellings = [path]
    if path.endswith(".to_out.0"):
        spellings += [path.removesuffix(".0"), path.removesuffix(".0") + "_0"]
    if component.attribute.startswith("text_encoder"):
        head, _, last = path.rpartition(".")
        if last in _OLD_TEXT and head.endswith("self_attn"):
            spellings.append(f"{head}.{_OLD_TEXT[last]}")
        swapped = [
            s.removeprefix(TEXT_MODEL) if s.startswith(TEXT_MODEL) else TEXT_MODEL + s
            for s in spellings
        ]
        return spellings + swapped
    return spellings + [s.replace(".to_", ".processor.to_") for s in spellings if ".to_" in s]
