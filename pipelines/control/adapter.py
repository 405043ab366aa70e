"""T2I-Adapters of Stable Diffusion and SDXL (arXiv 2302.08453): diffusers' names and TencentARC's
own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...families.transformer_files import count_layers, shape_of
from .architecture import Found, Shapes, Tensors, prefix_before, require_same

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline

_SIGNS = {
    "diffusers": ("adapter.body.0.resnets.0.block1.weight",),
    "full": ("body.0.block1.weight", "conv_in.weight"),
    "light": ("body.0.body.0.block1.weight", "body.0.out_conv.weight"),
}
_LAYERS_EACH = 2
"""Resnets per feature in every published full adapter."""


class Adapter:
    """See `Architecture` for the contract."""

    inherited: tuple[str, ...] = ()
    alike: tuple[str, ...] = ("downscale_factor",)

    def find(self, shapes: Shapes) -> Found | None:
        for layout, signs in _SIGNS.items():
            prefix = prefix_before(shapes, *signs)
            if prefix is not None:
                start = prefix + ("adapter." if layout == "diffusers" else "")
                family = "sdxl" if _unshuffled(shapes, start) == 16 else "stable-diffusion"
                return Found(family, "t2i-adapter", "T2IAdapter", prefix, layout)
        return None

    def rename(self, tensors: Tensors, found: Found) -> dict[str, torch.Tensor]:
        if found.layout == "diffusers":
            return dict(tensors)
        each = _layers_each(tensors)
        return {f"adapter.{_our_name(name, each)}": tensor for name, tensor in tensors.items()}

    def config(self, shapes: Shapes) -> dict[str, Any]:
        factor = _unshuffled(shapes, "adapter.")
        light = "adapter.conv_in.weight" not in shapes
        read = "body.0.in_conv" if light else "conv_in"
        given = "out_conv" if light else "resnets.0.block1"
        blocks = count_layers(shapes, "adapter.body.")
        channels = [shape_of(shapes, f"adapter.body.{i}.{given}.weight")[0] for i in range(blocks)]
        kinds = {8: "full_adapter", 16: "full_adapter_xl"}
        return {
            "in_channels": shape_of(shapes, f"adapter.{read}.weight")[1] // factor**2,
            "channels": channels[:-1] if light else channels,  # the last is there twice
            "num_res_blocks": count_layers(shapes, "adapter.body.0.resnets."),
            "downscale_factor": factor,
            "adapter_type": "light_adapter" if light else kinds[factor],
        }

    def outputs(self, shapes: Shapes) -> int:
        return count_layers(shapes, "adapter.body.")

    def check(self, name: str, config: Mapping[str, Any], live: LivePipeline) -> None:
        channels = list(config["channels"])
        if config["adapter_type"] == "light_adapter":
            channels.append(channels[-1])
        unet: Any = live.component("unet").config
        require_same(name, "its features have channels", channels, list(unet["block_out_channels"]))


def _smaller(config: Mapping[str, Any], count: int) -> list[int]:
    """By how much each feature is smaller than the folded picture."""
    if config["adapter_type"] == "full_adapter_xl":
        return [1 if index < 2 else 2 for index in range(count)]
    return [2**index for index in range(count)]


def _wanted(blocks: Sequence[str]) -> list[int]:
    """By how much each block of the UNet is smaller than latents where features are added: before
    it is halved in a block with attention, after it in another.
    """
    last = len(blocks) - 1
    return [
        2 ** (index + (not block.startswith("CrossAttn") and index < last))
        for index, block in enumerate(blocks)
    ]


def _unshuffled(shapes: Shapes, prefix: str) -> int:
    """By how much the picture is folded into channels first: a grey or coloured one by 16, else by
    8.
    """
    read = shapes.get(f"{prefix}conv_in.weight") or shapes.get(f"{prefix}body.0.in_conv.weight")
    return 16 if read and read[1] % 256 == 0 else 8


def _layers_each(tensors: Tensors) -> int:
    """Resnets per feature: the second feature begins where the channels change for the first
    time.
    """
    changes = [
        int(match[1])
        for name in tensors
        if (match := re.fullmatch(r"body\.(\d+)\.in_conv\.weight", name)) and match[1] != "0"
    ]
    return min(changes, default=_LAYERS_EACH)


def _our_name(name: str, each: int) -> str:
    full = re.fullmatch(r"body\.(\d+)\.(in_conv|block1|block2)\.(\w+)", name)
    light = re.fullmatch(r"body\.(\d+)\.body\.(\d+)\.(.+)", name)
    if light:
        return f"body.{light[1]}.resnets.{light[2]}.{light[3]}"
    if full is None:
        return name
    block, layer = divmod(int(full[1]), each)
    if full[2] == "in_conv":
        return f"body.{block}.in_conv.{full[3]}"
    return f"body.{block}.resnets.{layer}.{full[2]}.{full[3]}"
