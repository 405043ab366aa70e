"""The words that layer names are made of: from `_` back to dots without a model at hand.

In the kohya layout `down_blocks_0_attentions_1` does not say which `_` was a dot. Module paths of
the families that we know are made of the words below; tests hold them against the real classes.
"""

from __future__ import annotations

import re

_UNET = """down_blocks up_blocks mid_block resnets attentions downsamplers upsamplers conv conv1
conv2 conv_in conv_out conv_norm_out conv_shortcut time_emb_proj norm norm1 norm2 norm3 proj_in
proj_out transformer_blocks attn1 attn2 to_q to_k to_v to_out ff net proj time_embedding
add_embedding class_embedding linear_1 linear_2"""
_CLIP = """text_model embeddings token_embedding position_embedding encoder layers self_attn q_proj
k_proj v_proj out_proj mlp fc1 fc2 layer_norm1 layer_norm2 final_layer_norm text_projection"""
_T5 = """shared block layer SelfAttention DenseReluDense q k v o wi_0 wi_1 wi wo layer_norm
relative_attention_bias embed_tokens"""
_STREAMS = """single_transformer_blocks attn linear ff_context norm1_context norm_out x_embedder
context_embedder time_text_embed timestep_embedder text_embedder guidance_embedder proj_mlp norm_q
norm_k norm_added_q norm_added_k add_q_proj add_k_proj add_v_proj to_add_out pos_embed"""
_Z_IMAGE = """noise_refiner context_refiner attention feed_forward w1 w2 w3 adaLN_modulation
attention_norm1 attention_norm2 ffn_norm1 ffn_norm2 all_final_layer all_x_embedder cap_embedder
t_embedder mlp layers"""
_QWEN = """o_proj gate_proj up_proj down_proj input_layernorm post_attention_layernorm q_norm k_norm
model lm_head norm"""

_OF_COMPONENT = {
    "unet": frozenset(_UNET.split()),
    "transformer": frozenset(" ".join((_UNET, _STREAMS, _Z_IMAGE)).split()),
    "text_encoder": frozenset(" ".join((_CLIP, _T5, _QWEN)).split()),
}
_INDEX = re.compile(r"\d+(-\d+)*")


def with_dots(joined: str, attribute: str) -> str | None:
    """`"down_blocks_0_resnets_0_conv1"` → `"down_blocks.0.resnets.0.conv1"` for a component of a
    pipeline; None if some word is none of its.
    """
    known = _words(attribute)
    parts = joined.split("_")
    words: list[str] = []
    position = 0
    while position < len(parts):
        for length in range(min(5, len(parts) - position), 0, -1):  # the longest word has five
            word = "_".join(parts[position : position + length])
            if word in known or (length == 1 and _INDEX.fullmatch(word)):
                words.append(word)
                position += length
                break
        else:
            return None
    return ".".join(words)


def module_path(dotted: str, attribute: str) -> str | None:
    """A dotted layer name in any of diffusers' spellings → the module path; None if unknown."""
    path = re.sub(r"\.to_out(_0)?$", ".to_out.0", dotted.replace(".processor.", "."))
    head, _, last = path.rpartition(".")
    if head.endswith("self_attn"):  # as diffusers of 2023 called the layers of a text encoder
        path = f"{head}.{ {'to_q': 'q_proj', 'to_k': 'k_proj', 'to_v': 'v_proj'}.get(last, last) }"
    if path.endswith("self_attn.to_out.0"):
        path = path.removesuffix("to_out.0") + "out_proj"
    known = _words(attribute)
    return path if all(w in known or _INDEX.fullmatch(w) for w in path.split(".")) else None


def _words(attribute: str) -> frozenset[str]:
    kind = "text_encoder" if attribute.startswith("text_encoder") else attribute
    return _OF_COMPONENT.get(kind, frozenset())
