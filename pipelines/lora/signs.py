"""Which kind of model a LoRA file looks made for, from its names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...families import FAMILIES
from ...families.family import Family

OTHERS: Mapping[str, tuple[str, ...]] = {
    "FLUX.2": ("double_stream_modulation", "attn.to_qkv_mlp_proj"),
    "Chroma": ("distilled_guidance_layer",),
    "Qwen-Image": ("txt_mlp.net", "img_mlp.net", "img_mlp_net", "img_mod.1", "img_mod_1"),
    "Wan": ("self_attn.o.", "self_attn_o.", "cross_attn.k", "cross_attn_k"),
    "HunyuanVideo": (".img_attn_qkv", "individual_token_refiner"),
    "HunyuanDiT": ("attn1.Wqkv", "attn2.kv_proj"),
    "AuraFlow": ("joint_transformer_blocks", "w1q", "w2q"),
    "HiDream": ("double_stream_blocks", "single_stream_blocks"),
    "PixArt": ("adaln_single", "scale_shift_table"),
    "Stable Cascade": ("lora_prior_unet_",),
    "Kandinsky": ("visual_transformer_blocks", "text_transformer_blocks"),
}
"""Families that we do not know, and pieces of keys that only their files contain."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "another UNet model": ("lora_unet_", "unet.", "down_blocks", "input_blocks"),
    "a transformer model (SD 3, FLUX or newer)": ("transformer", "blocks.", "layers."),
}
"""Wider kinds, for files without any surer sign."""

_WIDTHS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    2048: "SDXL",
    1280: "SDXL (refiner)",
}
"""Width of the text that a UNet attends to."""


def looks_like(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What users call the kind of model that a file with these tensors was probably made for."""
    families = likely_families(shapes)
    unet = any(family.denoiser.attribute == "unet" for family in families)
    width = _text_width(shapes)
    if width in _WIDTHS and (unet or not families):
        return _WIDTHS[width]
    others = {title: _hits(shapes, signs) for title, signs in OTHERS.items()}
    if most := max(others.values()):
        return next(title for title, count in others.items() if count == most)
    if families:
        return " or ".join(family.title for family in families)
    return next((kind for kind, signs in KINDS.items() if _hits(shapes, signs)), "an unknown model")


def likely_families(shapes: Mapping[str, tuple[int, ...]]) -> list[Family]:
    """The families whose signs are in most keys; several when they tie, none without any sign."""
    counts = [(family, _hits(shapes, family.lora_signs)) for family in FAMILIES]
    most = max((count for _, count in counts), default=0)
    found = [family for family, count in counts if count == most > 0]
    if len(found) < 2:
        return found
    wanted = _WIDTHS.get(_text_width(shapes) or 0)
    narrowed = [family for family in found if wanted and _is_of(family, wanted)]
    return narrowed or found


def _is_of(family: Family, title: str) -> bool:
    return (family.name == "sdxl") == title.startswith("SDXL")


def _hits(keys: Iterable[str], signs: Iterable[str]) -> int:
    signs = tuple(signs)
    return sum(any(sign in key for sign in signs) for key in keys)


def _text_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The width that the keys and values of cross-attention take in, if the file has any."""
    for key, shape in shapes.items():
        is_text = any(
            sign in key for sign in ("attn2_to_k", "attn2_to_v", "attn2.to_k", "attn2.to_v")
        )
        down = key.endswith((".lora_down.weight", ".lora_A.weight", ".down.weight", "hada_w1_b"))
        if is_text and down and len(shape) >= 2:
            return shape[1]
    return None
