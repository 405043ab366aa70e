"""Tiny random ControlNets for the tiny models, of the real classes, with answers that are not zero.

Each is made from the base model's own denoiser, as such networks are, and written as an ordinary
diffusers folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from . import tiny_unets
from .tiny_transformers import open_folder
from .tiny_unets import _seeded as seeded

HINTS = (16, 16, 32, 32)
"""Channels of the convolutions that read a control picture; three halvings, as the tiny VAEs do."""
_SILENT = ("controlnet_", "input_hint_block", "spatial_ch_projs", "pos_embed_input")
"""What begins as zero in training, so that these would have no effect at all."""


def loud(module: Any, seed: int, strength: float = 0.05) -> Any:
    """The module with random numbers where a new one has zeros."""
    import torch

    with seeded(seed), torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(_SILENT):
                parameter.normal_(std=strength)
    return module.eval()


def unet_control(base: Path, seed: int, hints: tuple[int, ...] = HINTS, **options: Any) -> Any:
    from diffusers import ControlNetModel

    unet = open_folder(base).unet
    with seeded(seed):
        made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hints)
        made.register_to_config(**options)
    return loud(made, seed)


def union_control(base: Path, seed: int, modes: int = 6) -> Any:
    from diffusers import ControlNetUnionModel

    unet = open_folder(base).unet
    with seeded(seed):
        config = dict(
            ControlNetUnionModel.from_unet(
                unet, conditioning_embedding_out_channels=HINTS, load_weights_from_unet=False
            ).config
        )
        sizes = {"num_control_type": modes, "num_trans_channel": 32, "num_proj_channel": 32}
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        made = ControlNetUnionModel(**{**config, **sizes})
        for part in ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block"):
            getattr(made, part).load_state_dict(getattr(unet, part).state_dict())
    return loud(made, seed)


def sd3_control(base: Path, seed: int, **options: Any) -> Any:
    from diffusers import SD3ControlNetModel

    transformer = open_folder(base).transformer
    with seeded(seed):
        made = SD3ControlNetModel.from_transformer(
            transformer, num_layers=1, num_extra_conditioning_channels=0
        )
        made.register_to_config(**options)
    return loud(made, seed)


def sd3_large_control(base: Path, seed: int) -> Any:
    """As Stability made them for 3.5 Large: without text, positions from the base model."""
    from diffusers import SD3ControlNetModel

    config = open_folder(base).transformer.config
    known = ("in_channels", "num_attention_heads", "attention_head_dim", "pooled_projection_dim")
    with seeded(seed):
        made = SD3ControlNetModel(
            **{name: config[name] for name in known},
            num_layers=2,
            joint_attention_dim=None,
            pos_embed_max_size=None,
            pos_embed_type=None,
            use_pos_embed=False,
            force_zeros_for_pooled_projection=False,
        )
    return loud(made, seed)


def flux_control(base: Path, seed: int, modes: int | None = None, **options: Any) -> Any:
    from diffusers import FluxControlNetModel

    transformer = open_folder(base).transformer
    known = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim")
    known += ("pooled_projection_dim", "guidance_embeds", "axes_dims_rope")
    with seeded(seed):
        config = {name: transformer.config[name] for name in known}
        made = FluxControlNetModel(
            **{**config, "num_layers": 1, "num_single_layers": 1, "num_mode": modes, **options}
        )
    return loud(made, seed)


def adapter(base: Path, seed: int, **options: Any) -> Any:
    from diffusers import T2IAdapter

    channels = list(open_folder(base).unet.config.block_out_channels)
    with seeded(seed):
        return T2IAdapter(**{"channels": channels, "num_res_blocks": 2, **options}).eval()


DEEP = "deep"
"""A third block, as wide as the second: what a light T2I-Adapter fits."""

CONTROLS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "sd": ("stable-diffusion", lambda base: unet_control(base, 31)),
    "sd other": ("stable-diffusion", lambda base: unet_control(base, 32)),
    "deep": (DEEP, lambda base: unet_control(base, 51)),
    "sd pooling": (
        "stable-diffusion",
        lambda base: unet_control(base, 33, global_pool_conditions=True),
    ),
    "sd2": ("sd2-v", lambda base: unet_control(base, 34)),
    "sdxl": ("sdxl", lambda base: unet_control(base, 35)),
    "sdxl other": ("sdxl", lambda base: unet_control(base, 36)),
    "sdxl union": ("sdxl", lambda base: union_control(base, 37)),
    "sdxl union other": ("sdxl", lambda base: union_control(base, 38, modes=8)),
    "sd3": ("sd3", lambda base: sd3_control(base, 39)),
    "sd3 other": ("sd3", lambda base: sd3_control(base, 40)),
    "sd3 large": ("sd3", lambda base: sd3_large_control(base, 50)),
    "flux": ("flux", lambda base: flux_control(base, 41)),
    "flux other": ("flux", lambda base: flux_control(base, 42)),
    "flux union": ("flux", lambda base: flux_control(base, 43, modes=10)),
    "flux hints": (
        "flux",
        lambda base: flux_control(
            base, 44, patch_size=2, conditioning_embedding_channels=16, num_single_layers=0
        ),
    ),
    "flux unguided": ("flux", lambda base: flux_control(base, 45, guidance_embeds=False)),
    "adapter": ("stable-diffusion", lambda base: adapter(base, 46)),
    "adapter grey": ("stable-diffusion", lambda base: adapter(base, 47, in_channels=1)),
    "adapter light": (
        DEEP,
        lambda base: adapter(base, 48, channels=[32, 64], adapter_type="light_adapter"),
    ),
    "adapter xl": (
        "sdxl",
        lambda base: adapter(base, 49, downscale_factor=16, adapter_type="full_adapter_xl"),
    ),
}
"""Name → the tiny model that it is for, and what makes it from that model's folder."""


def deep(folder: Path) -> Path:
    kinds = ("CrossAttn{}Block2D", "CrossAttn{}Block2D", "{}Block2D")
    unet = tiny_unets._sd_unet(
        block_out_channels=(32, 64, 64),
        down_block_types=tuple(kind.format("Down") for kind in kinds),
        up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)),
    )
    reader = tiny_unets._clip(64, "quick_gelu")
    return tiny_unets._save_sd(folder, unet, reader, tiny_unets._scheduler())


@pytest.fixture(scope="session")
def control_bases(tiny_models, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from the name of a tiny model, or `DEEP`, to its folder."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name != DEEP:
            return tiny_models(name)
        if name not in made:
            made[name] = deep(tmp_path_factory.mktemp("deep"))
        return made[name]

    return folder


@pytest.fixture(scope="session")
def tiny_controls(control_bases, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in `CONTROLS` to its folder, written when first asked."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            base, build = CONTROLS[name]
            made[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
            build(control_bases(base)).save_pretrained(made[name])
        return made[name]

    return folder


def describe_all(controls: Callable[[str], Path], names: Iterable[str]) -> list[Any]:
    from likeness.pipelines.control.describe import describe_control

    return [describe_control(controls(name), name) for name in names]
