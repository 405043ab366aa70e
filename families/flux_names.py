"""What files call the layers of the FLUX.1 transformer: Black Forest Labs' names, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .layer_names import LayerNames, fused, swapped, whole
from .transformer_files import Shapes, count_layers, shape_of

PARAMETERS = {".query_norm.scale": ".query_norm.weight", ".key_norm.scale": ".key_norm.weight"}
"""The original's norms call their weight a scale (ComfyUI of 2026 a weight)."""

_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}

_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}

_SINGLE = {
    "modulation.lin": "norm.linear",
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}

_DOUBLE_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE_FUSED = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
_MLP_RATIO = 4


def flux_names(config: Mapping[str, Any]) -> LayerNames:
    """Original layer path → ours, for a `FluxTransformer2DModel` of this configuration."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    names = {original: whole(ours) for original, ours in _TOP.items()}
    names["final_layer.adaLN_modulation.1"] = swapped("norm_out.linear", width)
    if not config["guidance_embeds"]:
        names = {name: rows for name, rows in names.items() if not name.startswith("guidance_in")}
    for index in range(config["num_layers"]):
        original, ours = f"double_blocks.{index}", f"transformer_blocks.{index}"
        names |= {f"{original}.{a}": whole(f"{ours}.{b}") for a, b in _DOUBLE.items()}
        for name, parts in _DOUBLE_FUSED.items():
            names[f"{original}.{name}"] = fused([f"{ours}.{part}" for part in parts], [width] * 3)
    for index in range(config["num_single_layers"]):
        original, ours = f"single_blocks.{index}", f"single_transformer_blocks.{index}"
        names |= {f"{original}.{a}": whole(f"{ours}.{b}") for a, b in _SINGLE.items()}
        parts = [f"{ours}.{part}" for part in _SINGLE_FUSED]
        names[f"{original}.linear1"] = fused(parts, [width] * 3 + [width * _MLP_RATIO])
    return names


def flux_aliases(config: Mapping[str, Any]) -> LayerNames:
    """Further names that LoRA files use: FLUX.2's for the feed-forward layers, and q, k, v of a
    single block without what is stacked below them.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    names: LayerNames = {}
    for index in range(config["num_layers"]):
        for part in ("ff", "ff_context"):
            layer = f"transformer_blocks.{index}.{part}"
            names[f"{layer}.linear_in"] = whole(f"{layer}.net.0.proj")
            names[f"{layer}.linear_out"] = whole(f"{layer}.net.2")
    for index in range(config["num_single_layers"]):
        parts = [f"single_transformer_blocks.{index}.{part}" for part in _SINGLE_FUSED[:3]]
        names[f"single_blocks.{index}.linear1_qkv"] = fused(parts, [width] * 3)
    return names


def flux_changes(shapes: Shapes) -> dict[str, Any]:
    """The entries of a `FluxTransformer2DModel` configuration that tensor shapes tell.

    `shapes`: names without prefix, the original's or ours. Rotary positions take an eighth of a
    head's channels for the first axis and share the rest, as published.

    Raises:
        ValueError: a tensor that should tell is not there.
    """
    width, channels = shape_of(shapes, "img_in.weight", "x_embedder.weight")
    head = shape_of(
        shapes,
        "double_blocks.0.img_attn.norm.query_norm.scale",
        "double_blocks.0.img_attn.norm.query_norm.weight",
        "transformer_blocks.0.attn.norm_q.weight",
    )[0]
    first, rest = head // 8, (head - head // 8) // 2
    out = shape_of(shapes, "final_layer.linear.weight", "proj_out.weight")[0]
    text = ("vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight")
    return {
        "in_channels": channels,
        "out_channels": None if out == channels else out,
        "num_layers": count_layers(shapes, "double_blocks.", "transformer_blocks."),
        "num_single_layers": count_layers(shapes, "single_blocks.", "single_transformer_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shape_of(shapes, "txt_in.weight", "context_embedder.weight")[1],
        "pooled_projection_dim": shape_of(shapes, *text)[1],
        "axes_dims_rope": [first, rest, rest],
    }
