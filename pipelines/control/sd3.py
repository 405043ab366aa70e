"""ControlNets of Stable Diffusion 3 and 3.5: diffusers' names (InstantX and others), and those of
Stability's own files for 3.5 Large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...families.layer_names import LayerNames, fused, to_ours, whole
from ...families.sd3_names import HEAD, dual_layers
from ...families.transformer_files import count_layers, shape_of
from .architecture import Found, Shapes, Tensors, prefix_before, require_same

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline

_SIGNS = ("controlnet_blocks.0.weight", "pos_embed_input.proj.weight")
_STABILITY = "transformer_blocks.0.attn.qkv.weight"
_POOLED = ("time_text_embed.text_embedder.linear_1.weight", "y_embedder.mlp.0.weight")
_TOP = {
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
}
_BLOCK = {
    "attn.proj": "attn.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
CONTROL_TYPE = "control_type"
"""A number in Stability's files: 1 for edges, whose pictures are scaled in a way of their own."""


class SD3ControlNet:
    """See `Architecture` for the contract."""

    inherited: tuple[str, ...] = ("sample_size",)
    alike: tuple[str, ...] = ("force_zeros_for_pooled_projection", "joint_attention_dim")

    def find(self, shapes: Shapes) -> Found | None:
        prefix = prefix_before(shapes, *_SIGNS)
        if prefix is None or not any(prefix + sign in shapes for sign in _POOLED):
            return None
        layout = "stability" if prefix + _STABILITY in shapes else "diffusers"
        return Found("sd3", "controlnet", "SD3ControlNetModel", prefix, layout)

    def rename(self, tensors: Tensors, found: Found) -> dict[str, torch.Tensor]:
        if found.layout == "diffusers":
            return dict(tensors)
        kept = {name: tensor for name, tensor in tensors.items() if name != CONTROL_TYPE}
        names: LayerNames = {original: whole(ours) for original, ours in _TOP.items()}
        for index in range(count_layers(_shapes(kept), "transformer_blocks.")):
            block = f"transformer_blocks.{index}"
            names |= {f"{block}.{a}": whole(f"{block}.{b}") for a, b in _BLOCK.items()}
            width = kept[_STABILITY].shape[0] // 3
            names[f"{block}.attn.qkv"] = fused([f"{block}.{part}" for part in _QKV], [width] * 3)
        return to_ours(kept, names)

    def config(self, shapes: Shapes) -> dict[str, Any]:
        width, channels, patch, _ = shape_of(shapes, "pos_embed_input.proj.weight")
        own = shapes.get("pos_embed.proj.weight")
        head = shapes.get("transformer_blocks.0.attn.norm_q.weight", (0,))[0]
        layers = count_layers(shapes, "transformer_blocks.")
        pooled = shape_of(shapes, "time_text_embed.text_embedder.linear_1.weight")[1]
        config: dict[str, Any] = {
            "patch_size": patch,
            "in_channels": own[1] if own else channels,
            "extra_conditioning_channels": channels - own[1] if own else 0,
            "num_layers": layers,
            "pooled_projection_dim": pooled,
            "joint_attention_dim": None,
            "qk_norm": "rms_norm" if head else None,
            "dual_attention_layers": dual_layers(shapes, layers),
            # Stability's read the base model's own positions, and its pooled text.
            "use_pos_embed": bool(own),
            "force_zeros_for_pooled_projection": bool(own),
            "num_attention_heads": width // (head or HEAD),
            "attention_head_dim": head or HEAD,
        }
        if "context_embedder.weight" in shapes:
            text, joint = shapes["context_embedder.weight"]
            config |= {"joint_attention_dim": joint, "caption_projection_dim": text}
        positions = shapes.get("pos_embed.pos_embed")
        config["pos_embed_max_size"] = math.isqrt(positions[1]) if positions else None
        config["pos_embed_type"] = "sincos" if positions else None
        return config

    def outputs(self, shapes: Shapes) -> int:
        return count_layers(shapes, "controlnet_blocks.")

    def check(self, name: str, config: Mapping[str, Any], live: LivePipeline) -> None:
        base: Any = live.component("transformer").config
        extra = config.get("extra_conditioning_channels") or 0
        if extra:
            raise ValueError(
                f"the ControlNet {name!r} also wants a mask ({extra} more channels), as those for "
                "inpainting do, which diffusers cannot give it here; choose another ControlNet"
            )
        own_width = config["num_attention_heads"] * config["attention_head_dim"]
        width = base["num_attention_heads"] * base["attention_head_dim"]
        require_same(name, "its width is", own_width, width)
        for key, what in (
            ("in_channels", "its latents have channels"),
            ("pooled_projection_dim", "its pooled text has width"),
            ("joint_attention_dim", "it attends to text of width"),
        ):
            if config[key] is not None:
                require_same(name, what, config[key], base[key])


def _shapes(tensors: Tensors) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
