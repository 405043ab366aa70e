"""The contract of an architecture: how ControlNets of one kind of base model are told apart, named
and checked. Each is one file, listed in `source.ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Found:
    """A ControlNet in a file.

    `family`: of the base models that it fits. `kind`: one of `guidance.CONTROL_KINDS`.
    `class_name`: its class in diffusers. `prefix`: what stands before its tensors' names. `layout`:
    whose names these are, `"diffusers"` or as the architecture calls it. `modes`: of a union.
    """

    family: str
    kind: str
    class_name: str
    prefix: str = ""
    layout: str = "diffusers"
    modes: tuple[str, ...] = ()


class Architecture(Protocol):
    """What an architecture answers. Implementations hold no state."""

    inherited: tuple[str, ...]
    """Entries of the configuration that shapes do not tell and that are the base model's own."""

    alike: tuple[str, ...]
    """Entries of the configuration that must agree between ControlNets used together, since the
    diffusers pipeline asks the first of them for all.
    """

    def find(self, shapes: Shapes) -> Found | None:
        """Which ControlNet of this architecture lies in a file of these shapes, if one does."""
        ...

    def rename(self, tensors: Tensors, found: Found) -> dict[str, torch.Tensor]:
        """Tensors, without prefix, under the names of the diffusers class.

        Raises:
            ValueError: a tensor that every such ControlNet has is missing.
        """
        ...

    def config(self, shapes: Shapes) -> dict[str, Any]:
        """The entries of the diffusers configuration that shapes, under its names, tell.

        Raises:
            ValueError: a tensor that should tell is missing.
        """
        ...

    def outputs(self, shapes: Shapes) -> int:
        """How many residuals it gives, from the shapes under diffusers' names."""
        ...

    def check(self, name: str, config: Mapping[str, Any], live: LivePipeline) -> None:
        """That a ControlNet of this configuration works beside this base model.

        Raises:
            ValueError: it does not; says what differs and the way out. `name`: what to call it.
        """
        ...


def prefix_before(shapes: Shapes, *signs: str) -> str | None:
    """What stands before `signs` in a file that has all of them below one prefix, the shortest."""
    first, *others = signs
    prefixes = (name[: -len(first)] for name in shapes if name.endswith(first))
    found = [
        prefix
        for prefix in prefixes
        if (not prefix or prefix.endswith(".")) and all(prefix + o in shapes for o in others)
    ]
    return min(found, key=len, default=None)


def require_same(name: str, what: str, own: Any, base: Any) -> None:
    """Raises:
    ValueError: `own` and `base` differ.
    """
    if own != base:
        raise ValueError(
            f"the ControlNet {name!r} does not fit this base model: {what} {own} and the base "
            f"model's {base}; choose one made for this model"
        )
