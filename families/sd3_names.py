"""What files call the layers of the Stable Diffusion 3 transformer: Stability's names, and ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .layer_names import LayerNames, fused, swapped, whole
from .transformer_files import Shapes, count_layers, shape_of

PARAMETERS = {"pos_embed": "pos_embed.pos_embed"}
"""A tensor that belongs to no layer."""

HEAD = 64
"""Channels of a head where no norm tells, as in every published model."""

_TOP = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}

_PICTURE = {
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
}
_PICTURE_NORMS = {"x_block.attn.ln_q": "attn.norm_q", "x_block.attn.ln_k": "attn.norm_k"}
_SECOND_ATTENTION = {"x_block.attn2.proj": "attn2.to_out.0"}
_SECOND_NORMS = {"x_block.attn2.ln_q": "attn2.norm_q", "x_block.attn2.ln_k": "attn2.norm_k"}
_TEXT_NORMS = {
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
}
_TEXT = {
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
"""What the last block lacks: after it nobody reads the text."""

_FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SECOND_FUSED = {"x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v")}


def sd3_names(config: Mapping[str, Any]) -> LayerNames:
    """Original layer path → ours, for an `SD3Transformer2DModel` of this configuration."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    dual = tuple(config.get("dual_attention_layers") or ())
    last = config["num_layers"] - 1
    names = {original: whole(ours) for original, ours in _TOP.items()}
    names["final_layer.adaLN_modulation.1"] = swapped("norm_out.linear", width)
    for index in range(config["num_layers"]):
        plain, stacked = dict(_PICTURE), dict(_FUSED)
        if index in dual:
            plain |= _SECOND_ATTENTION
            stacked |= _SECOND_FUSED
        if config.get("qk_norm"):
            plain |= _PICTURE_NORMS | _TEXT_NORMS | (_SECOND_NORMS if index in dual else {})
        if index < last:
            plain |= _TEXT
        original, ours = f"joint_blocks.{index}", f"transformer_blocks.{index}"
        names |= {f"{original}.{a}": whole(f"{ours}.{b}") for a, b in plain.items()}
        for name, parts in stacked.items():
            names[f"{original}.{name}"] = fused([f"{ours}.{part}" for part in parts], [width] * 3)
    names[f"joint_blocks.{last}.context_block.adaLN_modulation.1"] = swapped(
        f"transformer_blocks.{last}.norm1_context.linear", width
    )
    return names


def sd3_changes(shapes: Shapes) -> dict[str, Any]:
    """The entries of an `SD3Transformer2DModel` configuration that tensor shapes tell.

    `shapes`: names without prefix, the original's or ours.

    Raises:
        ValueError: a tensor that should tell is not there.
    """
    width, channels, patch, _ = shape_of(shapes, "x_embedder.proj.weight", "pos_embed.proj.weight")
    text, joint = shape_of(shapes, "context_embedder.weight")
    pooled = ("y_embedder.mlp.0.weight", "time_text_embed.text_embedder.linear_1.weight")
    positions = shape_of(shapes, "pos_embed", "pos_embed.pos_embed")[1]
    out = shape_of(shapes, "final_layer.linear.weight", "proj_out.weight")[0]
    head = head_channels(shapes)
    layers = count_layers(shapes, "joint_blocks.", "transformer_blocks.")
    return {
        "in_channels": channels,
        "out_channels": out // patch**2,
        "patch_size": patch,
        "num_layers": layers,
        "attention_head_dim": head or HEAD,
        "num_attention_heads": width // (head or HEAD),
        "joint_attention_dim": joint,
        "caption_projection_dim": text,
        "pooled_projection_dim": shape_of(shapes, *pooled)[1],
        "pos_embed_max_size": math.isqrt(positions),
        "dual_attention_layers": dual_layers(shapes, layers),
        "qk_norm": "rms_norm" if head else None,
    }


def head_channels(shapes: Shapes) -> int:
    """Channels of a head as the norms of queries tell; 0 in a model without them (SD 3)."""
    norms = ("joint_blocks.0.x_block.attn.ln_q.weight", "transformer_blocks.0.attn.norm_q.weight")
    return next((shapes[name][0] for name in norms if name in shapes), 0)


def dual_layers(shapes: Shapes, layers: int) -> list[int]:
    """The blocks in which the picture attends to itself a second time (SD 3.5 medium)."""
    names = ("joint_blocks.{}.x_block.attn2.qkv.weight", "transformer_blocks.{}.attn2.to_q.weight")
    return [index for index in range(layers) if any(name.format(index) in shapes for name in names)]
