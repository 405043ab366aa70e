"""ControlNets of FLUX.1: diffusers' names (InstantX, Shakker, their unions) and XLabs' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...families.flux_names import PARAMETERS, flux_names
from ...families.layer_names import to_ours, whole
from ...families.transformer_files import count_layers, shape_of
from .architecture import Found, Shapes, Tensors, prefix_before, require_same
from .modes import FLUX_MODES, numbered

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline


_SIGNS = {
    "diffusers": ("controlnet_x_embedder.weight", "x_embedder.weight", "context_embedder.weight"),
    "xlabs": ("pos_embed_input.weight", "controlnet_blocks.0.weight", "input_hint_block.0.weight"),
}
_NORM = "double_blocks.0.img_attn.norm.query_norm.scale"
_HINTS = 8
"""Convolutions through which XLabs' reads the control picture, every other place in a list."""


class FluxControlNet:
    """See `Architecture` for the contract."""

    inherited: tuple[str, ...] = ()
    alike: tuple[str, ...] = ("guidance_embeds", "conditioning_embedding_channels")

    def find(self, shapes: Shapes) -> Found | None:
        for layout, signs in _SIGNS.items():
            prefix = prefix_before(shapes, *signs)
            if prefix is None:
                continue
            modes = shapes.get(f"{prefix}controlnet_mode_embedder.weight")
            if modes is None:
                return Found("flux", "controlnet", "FluxControlNetModel", prefix, layout)
            names = numbered(FLUX_MODES, modes[0])
            return Found("flux", "union", "FluxControlNetModel", prefix, layout, names)
        return None

    def rename(self, tensors: Tensors, found: Found) -> dict[str, torch.Tensor]:
        if found.layout == "diffusers":
            return dict(tensors)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        head = shape_of(shapes, _NORM, _NORM.replace(".scale", ".weight"))[0]
        names = flux_names(
            {
                "attention_head_dim": head,
                "num_attention_heads": shape_of(shapes, "img_in.weight")[0] // head,
                "guidance_embeds": True,
                "num_layers": count_layers(shapes, "double_blocks."),
                "num_single_layers": count_layers(shapes, "single_blocks."),
            }
        )
        names["pos_embed_input"] = whole("controlnet_x_embedder")
        for index in range(_HINTS):
            place = "conv_in" if index == 0 else f"blocks.{index - 1}"
            place = "conv_out" if index == _HINTS - 1 else place
            names[f"input_hint_block.{2 * index}"] = whole(f"input_hint_block.{place}")
        return to_ours(tensors, names, PARAMETERS)

    def config(self, shapes: Shapes) -> dict[str, Any]:
        width, channels = shape_of(shapes, "x_embedder.weight")
        head = shape_of(
            shapes,
            "transformer_blocks.0.attn.norm_q.weight",
            "single_transformer_blocks.0.attn.norm_q.weight",
        )[0]
        first, rest = head // 8, (head - head // 8) // 2
        modes = shapes.get("controlnet_mode_embedder.weight")
        read = shapes.get("input_hint_block.conv_out.weight")
        pooled = shape_of(shapes, "time_text_embed.text_embedder.linear_1.weight")[1]
        return {
            "patch_size": math.isqrt(channels // read[0]) if read else 1,
            "in_channels": channels,
            "num_layers": count_layers(shapes, "transformer_blocks."),
            "num_single_layers": count_layers(shapes, "single_transformer_blocks."),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shape_of(shapes, "context_embedder.weight")[1],
            "pooled_projection_dim": pooled,
            "guidance_embeds": any("guidance_embedder." in name for name in shapes),
            "axes_dims_rope": [first, rest, rest],
            "num_mode": modes[0] if modes else None,
            "conditioning_embedding_channels": read[0] if read else None,
        }

    def outputs(self, shapes: Shapes) -> int:
        kinds = ("controlnet_blocks.", "controlnet_single_blocks.")
        return sum(count_layers(shapes, kind) for kind in kinds)

    def check(self, name: str, config: Mapping[str, Any], live: LivePipeline) -> None:
        base: Any = live.component("transformer").config
        own_width = config["num_attention_heads"] * config["attention_head_dim"]
        width = base["num_attention_heads"] * base["attention_head_dim"]
        require_same(name, "its width is", own_width, width)
        for key, what in (
            ("in_channels", "its latents have channels"),
            ("pooled_projection_dim", "its pooled text has width"),
            ("joint_attention_dim", "it attends to text of width"),
        ):
            require_same(name, what, config[key], base[key])
