"""How LoRA files name the parts of the UNet families."""

from __future__ import annotations

import re

from .family import LoraComponent

UNET = LoraComponent(
    attribute="unet",
    kohya_prefixes=("lora_unet_", "lycoris_"),
    targets=(
        ("attention", r"(.*\.)?(to_q|to_k|to_v|to_out\.0)"),
        ("feed-forward", r"(.*\.)?(ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"),
        ("convolution", r"(.*\.)?(conv1|conv2|conv_shortcut|(up|down)samplers\.0\.conv)"),
    ),
    dotted_prefixes=(
        "unet.",
        "diffusion_model.",
        "model.diffusion_model.",
        "unet.base_model.model.",
        "base_model.model.unet.",
        "base_model.model.",
        "",
    ),
)


def clip_component(
    attribute: str, kohya_prefixes: tuple[str, ...], wrappers: tuple[str, ...]
) -> LoraComponent:
    """A CLIP text encoder, `wrappers` being how ComfyUI calls what is around its `transformer`."""
    return LoraComponent(
        attribute=attribute,
        kohya_prefixes=kohya_prefixes,
        targets=(
            ("attention", r"(.*\.)?(q_proj|k_proj|v_proj|out_proj)"),
            ("feed-forward", r"(.*\.)?(fc1|fc2)"),
        ),
        dotted_prefixes=(
            f"{attribute}.",
            *(f"text_encoders.{wrapper}.transformer." for wrapper in wrappers),
            *(f"{wrapper}.transformer." for wrapper in wrappers),
            f"{attribute}.base_model.model.",
            f"base_model.model.{attribute}.",
        ),
    )


def unet_block(module: str) -> str:
    """`"down.1"`, `"mid"`, `"up.2"`, or `""` outside of the blocks."""
    block = re.match(r"(down|up)_blocks\.(\d+)\.", module)
    if block:
        return f"{block[1]}.{block[2]}"
    return "mid" if module.startswith("mid_block.") else ""
