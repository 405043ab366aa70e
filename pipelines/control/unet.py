"""ControlNets of Stable Diffusion and SDXL (arXiv 2302.05543) and ControlNet-Union: diffusers'
names, and those of the original code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...families.transformer_files import below, count_layers, shape_of
from ...families.unet_names import layers_in, our_name
from .architecture import Found, Shapes, Tensors, prefix_before, require_same
from .modes import SDXL_MODES, numbered

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline


_SIGNS = {
    "diffusers": ("controlnet_cond_embedding.conv_in.weight", "controlnet_down_blocks.0.weight"),
    "original": ("input_hint_block.0.weight", "zero_convs.0.0.weight"),
}
_TOLD_MORE = ("add_embedding.linear_1.weight", "label_emb.0.0.weight")
"""SDXL is told sizes and pooled text."""
_OTHERS = ("motion_modules", "encoder_hid_proj", "controlnet_cond_embedding.weight")
_VERSIONS = {768: " (1.x)", 1024: " (2.x)"}


class UNetControlNet:
    """See `Architecture` for the contract."""

    inherited: tuple[str, ...] = (
        "act_fn",
        "addition_time_embed_dim",
        "attention_head_dim",
        "downsample_padding",
        "flip_sin_to_cos",
        "freq_shift",
        "mid_block_scale_factor",
        "norm_eps",
        "norm_num_groups",
        "num_attention_heads",
        "only_cross_attention",
        "resnet_time_scale_shift",
        "upcast_attention",
    )
    alike: tuple[str, ...] = ()

    def find(self, shapes: Shapes) -> Found | None:
        for layout, signs in _SIGNS.items():
            prefix = prefix_before(shapes, *signs)
            if prefix is None:
                continue
            inside = below(shapes, prefix)
            if any(piece in name for name in inside for piece in _OTHERS):
                return None
            family = "sdxl" if any(sign in inside for sign in _TOLD_MORE) else "stable-diffusion"
            if "task_embedding" not in inside:
                return Found(family, "controlnet", "ControlNetModel", prefix, layout)
            modes = numbered(SDXL_MODES, inside["task_embedding"][0])
            return Found(family, "union", "ControlNetUnionModel", prefix, layout, modes)
        return None

    def rename(self, tensors: Tensors, found: Found) -> dict[str, torch.Tensor]:
        if found.layout == "diffusers":
            return dict(tensors)
        layers = layers_in(tensors)
        hints = [int(name.split(".")[1]) for name in tensors if name.startswith("input_hint_block")]
        return {_our_name(name, layers, max(hints)): t for name, t in tensors.items()}

    def config(self, shapes: Shapes) -> dict[str, Any]:
        blocks = count_layers(shapes, "down_blocks.")
        attends = [f"down_blocks.{i}.attentions.0.norm.weight" in shapes for i in range(blocks)]
        depths = [_depth(shapes, f"down_blocks.{i}") for i in range(blocks)]
        middle = "mid_block.attentions.0.norm.weight" in shapes
        if middle:  # the middle is as deep as the last block is said to be
            depths[-1] = depths[-1] if attends[-1] else _depth(shapes, "mid_block")
        widths = [s for n, s in shapes.items() if n.endswith("attn2.to_k.weight")]
        projection = next((s for n, s in shapes.items() if n.endswith(".proj_in.weight")), ())
        first = shape_of(shapes, "conv_in.weight")
        config: dict[str, Any] = {
            "in_channels": first[1],
            "block_out_channels": [
                shape_of(shapes, f"down_blocks.{i}.resnets.0.conv1.weight")[0]
                for i in range(blocks)
            ],
            "layers_per_block": count_layers(shapes, "down_blocks.0.resnets."),
            "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
            "transformer_layers_per_block": depths,
            "use_linear_projection": len(projection) == 2,
            **_hint_config(shapes),
            **_added_config(shapes),
        }
        if widths:
            config["cross_attention_dim"] = widths[0][1]
        if "task_embedding" in shapes:
            return config | _union_config(shapes)
        return config | {"mid_block_type": "UNetMidBlock2D" + ("CrossAttn" if middle else "")}

    def outputs(self, shapes: Shapes) -> int:
        return count_layers(shapes, "controlnet_down_blocks.") + 1

    def check(self, name: str, config: Mapping[str, Any], live: LivePipeline) -> None:
        unet: Any = live.component("unet").config
        own, base = config.get("cross_attention_dim"), unet["cross_attention_dim"]
        if own is not None and own != base:
            raise ValueError(
                f"the ControlNet {name!r} attends to text of width {own}{_VERSIONS.get(own, '')}, "
                f"and this base model's text has {base}{_VERSIONS.get(base, '')}; choose one made "
                "for this version"
            )
        channels = "block_out_channels"
        require_same(name, "its blocks have channels", list(config[channels]), list(unet[channels]))
        layers = "layers_per_block"
        require_same(name, "its blocks have layers", config[layers], unet[layers])
        vae: Any = live.component("vae")
        latents = vae.config.latent_channels
        require_same(name, "its latents have channels", config["in_channels"], latents)
        shrunk = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        require_same(name, "it scales pictures down by", shrunk, factor)
        told = "projection_class_embeddings_input_dim"
        require_same(name, "it is told sizes and text of width", config.get(told), unet[told])


def _our_name(name: str, layers: int, last_hint: int) -> str:
    """A tensor of the original code's ControlNet → diffusers' name."""
    part, _, rest = name.partition(".")
    number, _, leaf = rest.partition(".")
    if part == "zero_convs":
        return f"controlnet_down_blocks.{number}.{leaf.removeprefix('0.')}"
    if part == "middle_block_out":
        return f"controlnet_mid_block.{leaf}"
    if part == "input_hint_block":
        index = int(number)
        place = "conv_in" if index == 0 else "conv_out" if index == last_hint else ""
        place = place or f"blocks.{index // 2 - 1}"
        return f"controlnet_cond_embedding.{place}.{leaf}"
    return our_name(name, layers)


def _depth(shapes: Shapes, block: str) -> int:
    return count_layers(shapes, f"{block}.attentions.0.transformer_blocks.")


def _hint_config(shapes: Shapes) -> dict[str, Any]:
    """How the control picture is read: through convolutions, every second of which halves it."""
    path = "controlnet_cond_embedding"
    first = shape_of(shapes, f"{path}.conv_in.weight")
    count = count_layers(shapes, f"{path}.blocks.")
    halving = [shape_of(shapes, f"{path}.blocks.{i}.weight")[0] for i in range(1, count, 2)]
    return {
        "conditioning_channels": first[1],
        "conditioning_embedding_out_channels": [first[0], *halving],
    }


def _added_config(shapes: Shapes) -> dict[str, Any]:
    if "add_embedding.linear_1.weight" not in shapes:
        return {}
    width = shapes["add_embedding.linear_1.weight"][1]
    return {
        "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": width,
    }


def _union_config(shapes: Shapes) -> dict[str, Any]:
    types, width = shapes["task_embedding"]
    return {
        "num_control_type": types,
        "num_trans_channel": width,
        "num_trans_layer": count_layers(shapes, "transformer_layes."),
        "num_proj_channel": shape_of(shapes, "spatial_ch_projs.weight")[0],
        "addition_time_embed_dim": shape_of(shapes, "control_add_embedding.linear_1.weight")[1]
        // types,
    }
