"""Which layers a pipeline's LoRAs change and by how much: the plan, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .blocks import block_factors
from .changes import Change, Difference

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline
    from ..spec import LoraUse
    from .files import LoraWeights


class Part(NamedTuple):
    """One LoRA's share in one layer. `sha256` of its file, `factor` on its change."""

    sha256: str
    factor: float
    change: Change

    @property
    def leaves_weight(self) -> bool:
        """Whether it changes the bias alone."""
        return isinstance(self.change, Difference) and self.change.weight is None


class Layer(NamedTuple):
    """A layer that LoRAs change. `name`: component and module path. `parts` in the order in which
    they are summed, which does not depend on the order of the uses.
    """

    name: str
    module: torch.nn.Module
    parts: tuple[Part, ...]

    @property
    def component(self) -> str:
        return self.name.partition(".")[0]

    @property
    def weight_parts(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if not part.leaves_weight)

    @property
    def bias_parts(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.change.bias is not None)


def layers_of(
    live: LivePipeline, uses: Sequence[LoraUse], loras: Mapping[str, LoraWeights]
) -> list[Layer]:
    """Every layer that `uses` change, with the shares of all of them. `loras`: SHA-256 of the file
    → what it says.

    Raises:
        ValueError: a use names blocks that the denoiser does not have.
    """
    layers: list[Layer] = []
    for component in (live.family.denoiser, *live.family.text_encoders):
        root = live.component(component.attribute)
        if root is None:  # this variant of the family does without
            continue
        is_text = component is not live.family.denoiser
        touched: dict[str, list[Part]] = {}
        for use in uses:
            scale = use.text_scale if is_text else use.scale
            share = block_factors(() if is_text else use.blocks, live.family, root)
            for path, change in loras[use.lora.sha256].get(component.attribute, {}).items():
                if factor := scale * share(path):
                    part = Part(use.lora.sha256, factor, change)
                    touched.setdefault(path, []).append(part)
        for path, parts in touched.items():
            parts.sort(key=lambda part: part[:2])
            name = f"{component.attribute}.{path}"
            layers.append(Layer(name, root.get_submodule(path), tuple(parts)))
    return layers


def why_not_plain(module: torch.nn.Module) -> str:
    """What stands against computing another weight from that of `module`, as the end of a sentence
    about it; empty if nothing.
    """
    import torch

    weight = module._parameters.get("weight")
    if weight is None:
        return f"({type(module).__name__}) keeps its weight in a form of its own"
    if weight.device.type == "meta":
        return "is offloaded and its weight not in memory"
    data = weight.data
    if type(weight) is not torch.nn.Parameter or type(data) is not torch.Tensor:
        kind = type(data) if type(weight) is torch.nn.Parameter else type(weight)
        return f"is quantised ({kind.__name__})"
    if weight.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return ""
    kind = str(weight.dtype).removeprefix("torch.")
    if weight.is_floating_point() and weight.element_size() == 1:
        return f"rests in {kind}, where most of so small a change would be rounded away"
    return f"holds its weight as {kind}"


def is_readable(module: torch.nn.Module) -> bool:
    """Whether the numbers in the weight of `module` can be had by a conversion to float32."""
    import torch

    weight = module._parameters.get("weight")
    return (
        type(weight) is torch.nn.Parameter
        and type(weight.data) is torch.Tensor
        and weight.is_floating_point()
        and weight.device.type != "meta"
    )
