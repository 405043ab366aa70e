"""What files call the layers of Z-Image: the transformer's and those of the Qwen 3 that reads the
prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .family import Rows
from .layer_names import LayerNames, fused, whole
from .transformer_files import Shapes, count_layers, shape_of

if TYPE_CHECKING:
    import torch

QWEN_TARGETS = (
    ("attention", r"(.*\.)?self_attn\.(q_proj|k_proj|v_proj|o_proj)"),
    ("feed-forward", r"(.*\.)?mlp\.(gate_proj|up_proj|down_proj)"),
)
QWEN_PREFIXES = ("text_encoders.qwen3_4b.transformer.", "text_encoder.")
QWEN_ANCHORS = ("model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight")

# Qwen 3's own, as far as one question of a user goes. Qwen 2.5's, which ComfyUI brings along with
# the same words, would begin with a system prompt that the model has never seen.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)

UNUSED = ("norm_final.",)
"""A norm that the published file holds and the model does not use."""

_TOP = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}
"""Ours are listed by size of patch; every published model has one of 2 × 2."""

_LAYER = {
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
}
_FUSED = ("attention.to_q", "attention.to_k", "attention.to_v")

_FIRST = "layers.0.attention"


def z_image_names(config: Mapping[str, Any]) -> LayerNames:
    """Original layer path → ours, for a `ZImageTransformer2DModel` of this configuration.

    Layers that are called alike are left out.
    """
    width, refiners = config["dim"], config["n_refiner_layers"]
    names = {original: whole(ours) for original, ours in _TOP.items()}
    stacks = {"layers": config["n_layers"], "noise_refiner": refiners, "context_refiner": refiners}
    for stack, count in stacks.items():
        for index in range(count):
            layer = f"{stack}.{index}"
            names |= {f"{layer}.{a}": whole(f"{layer}.{b}") for a, b in _LAYER.items()}
            parts = [f"{layer}.{part}" for part in _FUSED]
            names[f"{layer}.attention.qkv"] = fused(parts, [width] * 3)
    return names


def z_image_changes(shapes: Shapes) -> dict[str, Any]:
    """The entries of a `ZImageTransformer2DModel` configuration that tensor shapes tell.

    `shapes`: names without prefix, the original's or ours. Rotary positions take a quarter of a
    head's channels for the first axis and share the rest, as published.

    Raises:
        ValueError: a tensor that should tell is not there.
    """
    width, channels = shape_of(shapes, "x_embedder.weight", "all_x_embedder.2-1.weight")
    head = shape_of(shapes, f"{_FIRST}.q_norm.weight", f"{_FIRST}.norm_q.weight")[0]
    first, rest = head // 4, (head - head // 4) // 2
    return {
        "in_channels": channels // 4,
        "dim": width,
        "n_layers": count_layers(shapes, "layers."),
        "n_refiner_layers": count_layers(shapes, "noise_refiner."),
        "n_heads": width // head,
        "n_kv_heads": width // head,
        "cap_feat_dim": shape_of(shapes, "cap_embedder.1.weight")[1],
        "axes_dims": [first, rest, rest],
    }


def qwen_changes(shapes: Shapes) -> dict[str, Any]:
    """The entries of a `Qwen3Config` that tensor shapes tell; `shapes` without prefix.

    Raises:
        ValueError: these are not the tensors of such a model.
    """
    ours = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    tokens = shape_of(ours, "embed_tokens.weight")
    head = shape_of(ours, "layers.0.self_attn.q_norm.weight")[0]
    return {
        "vocab_size": tokens[0],
        "hidden_size": tokens[1],
        "intermediate_size": shape_of(ours, "layers.0.mlp.gate_proj.weight")[0],
        "num_hidden_layers": count_layers(ours, "layers."),
        "num_attention_heads": shape_of(ours, "layers.0.self_attn.q_proj.weight")[0] // head,
        "num_key_value_heads": shape_of(ours, "layers.0.self_attn.k_proj.weight")[0] // head,
        "head_dim": head,
    }


def convert_qwen(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A Qwen 3 model's tensors under the names of `Qwen3Model`, the head of a chat model left
    out.
    """
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    kept = ("embed_tokens.", "layers.", "norm.")
    return {name: tensor for name, tensor in bare.items() if name.startswith(kept)}


def original_qwen_names(modules: Iterable[str]) -> dict[str, tuple[Rows, ...]]:
    """Qwen's layers with the wrapper `model.` that files carry, or without it."""
    return {
        path.removeprefix("model.") if path.startswith("model.") else f"model.{path}": (Rows(path),)
        for path in modules
    }
