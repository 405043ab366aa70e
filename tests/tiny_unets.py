"""Tiny random models of the UNet families, from the real classes, as ordinary diffusers folders.

Channels are multiples of 32 and 64 as in the published models, since files do not tell the number
of groups or heads.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKENIZER = Path(__file__).parent.parent / "assets" / "tiny" / "base" / "tokenizer"


def stable_diffusion(folder: Path) -> Path:
    """1.x: CLIP-L-like text encoder, epsilon."""
    return _save_sd(folder, _sd_unet(), _clip(64, "quick_gelu"), _scheduler())


def stable_diffusion_inpaint(folder: Path) -> Path:
    """1.x inpainting: mask and masked picture beside the latents."""
    unet = _sd_unet(in_channels=9)
    return _save_sd(folder, unet, _clip(64, "quick_gelu"), _scheduler(), "Inpaint")


def stable_diffusion_2_v(folder: Path) -> Path:
    """2.x: OpenCLIP-like text encoder, linear projections, v-prediction, zero terminal SNR."""
    import torch

    unet = _sd_unet(cross_attention_dim=128, use_linear_projection=True, attention_head_dim=[1, 1])
    with _seeded(5):  # what tells that a file predicts v
        norm = unet.up_blocks[1].attentions[1].transformer_blocks[0].norm1
        norm.bias.data = torch.randn_like(norm.bias) * 0.2
    scheduler = _scheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return _save_sd(folder, unet, _clip(128, "gelu"), scheduler)


def sdxl(folder: Path) -> Path:
    """SDXL base: two text encoders, sizes and pooled text beside the timestep."""
    from diffusers import StableDiffusionXLPipeline

    with _seeded():
        unet = _sdxl_unet(context=64 + 128, added=128 + 6 * 256)
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(scaling_factor=0.13025),
            text_encoder=_clip(64, "quick_gelu"),
            text_encoder_2=_clip(128, "gelu", projection=True),
            tokenizer=_tokenizer(),
            tokenizer_2=_tokenizer(pad_token="!"),
            unet=unet,
            scheduler=_scheduler(timestep_spacing="leading"),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def sdxl_refiner(folder: Path) -> Path:
    """The SDXL refiner: the second text encoder alone, an aesthetic score."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    with _seeded():
        unet = _sdxl_unet(context=128, added=128 + 5 * 256)
        pipeline = StableDiffusionXLImg2ImgPipeline(
            vae=_vae(scaling_factor=0.13025),
            text_encoder=None,
            text_encoder_2=_clip(128, "gelu", projection=True),
            tokenizer=None,
            tokenizer_2=_tokenizer(pad_token="!"),
            unet=unet,
            scheduler=_scheduler(timestep_spacing="leading"),
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def _save_sd(folder: Path, unet: Any, text_encoder: Any, scheduler: Any, kind: str = "") -> Path:
    import diffusers

    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline")(
        vae=_vae(),
        text_encoder=text_encoder,
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


@contextmanager
def _seeded(seed: int = 0):
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _sd_unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
    }
    with _seeded(1):
        return UNet2DConditionModel(**{**options, **changes})


def _sdxl_unet(context: int, added: int) -> Any:
    """`context`: width of the text states; `added`: of the pooled text with its sizes."""
    from diffusers import UNet2DConditionModel

    with _seeded(2):
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(1, 1),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            cross_attention_dim=context,
            projection_class_embeddings_input_dim=added,
        )


def _vae(scaling_factor: float = 0.18215) -> Any:
    from diffusers import AutoencoderKL

    with _seeded(3):
        return AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            sample_size=64,
            scaling_factor=scaling_factor,
        )


def _clip(width: int, activation: str, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=840,
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=838,
        eos_token_id=839,
        pad_token_id=839,
    )
    with _seeded(4):
        return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _tokenizer(**options: Any) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(TOKENIZER), **options)


def _scheduler(**changes: Any) -> Any:
    from diffusers import DDIMScheduler

    options: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**options, **changes})


# -- the same tensors as the original code's checkpoint holds them ---------------------------------

PREFIXES = {
    "stable-diffusion": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.text_model.",
    },
    "sd2-v": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.model.",
    },
    "sdxl": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sdxl-refiner": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder_2": "conditioner.embedders.0.model.",
    },
}
PREFIXES["sd-inpaint"] = PREFIXES["stable-diffusion"]


def original_checkpoint(folder: Path, name: str) -> dict[str, Any]:
    """A tiny model's tensors in the layout of the latent-diffusion code, through the family's own
    `original_names`; CLIP-L stays as transformers has it, the others become OpenCLIP.
    """
    import torch
    from diffusers import DiffusionPipeline
    from likeness.families import FAMILIES

    pipeline = DiffusionPipeline.from_pretrained(str(folder))
    second = pipeline.components.get("text_encoder_2") is not None
    family = next(f for f in FAMILIES if f.name == ("sdxl" if second else "stable-diffusion"))
    checkpoint: dict[str, Any] = {}
    for attribute, prefix in PREFIXES[name].items():
        state = {k: v.contiguous() for k, v in getattr(pipeline, attribute).state_dict().items()}
        if not prefix.endswith("text_model."):
            names = family.original_names(pipeline, attribute)
            openclip = attribute.startswith("text_encoder")
            state = _open_clip(state, names) if openclip else _renamed(state, names)
        if attribute == "vae":
            state = {
                k: v[:, :, None, None] if ".attn_1." in k and v.ndim == 2 else v
                for k, v in state.items()
            }
        checkpoint.update({prefix + key: value for key, value in state.items()})
    if name == "sd2-v":  # the original holds one more layer, which is never used
        prefix = "cond_stage_model.model.transformer.resblocks."
        last = {k: v for k, v in checkpoint.items() if k.startswith(f"{prefix}2.")}
        checkpoint.update(
            {k.replace("blocks.2.", "blocks.3."): torch.zeros_like(v) for k, v in last.items()}
        )
        width = pipeline.text_encoder.config.hidden_size
        checkpoint["cond_stage_model.model.text_projection"] = torch.zeros(width, width)
    return checkpoint


def _renamed(state: dict[str, Any], names: Any) -> dict[str, Any]:
    theirs = {rows[0].module: name for name, rows in names.items()}
    renamed = {}
    for key, value in state.items():
        path, _, kind = key.rpartition(".")
        renamed[f"{theirs.get(path, path)}.{kind}"] = value
    return renamed


def _open_clip(state: dict[str, Any], names: Any) -> dict[str, Any]:
    import torch

    renamed: dict[str, Any] = {}
    for name, rows in names.items():
        if name.startswith(("text_model.", "embeddings.", "encoder.", "final_layer_norm")):
            continue  # transformers' other spelling
        for kind in ("weight", "bias"):
            if f"{rows[0].module}.{kind}" in state:
                parts = [state[f"{part.module}.{kind}"] for part in rows]
                key = f"{name}_{kind}" if name.endswith("in_proj") else f"{name}.{kind}"
                renamed[key] = torch.cat(parts)
    wrapper = "text_model." if "text_projection.weight" in state else ""
    renamed["positional_embedding"] = state[f"{wrapper}embeddings.position_embedding.weight"]
    if "text_projection.weight" in state:
        renamed["text_projection"] = state["text_projection.weight"].T.contiguous()
    return renamed
