"""What Stable Diffusion and SDXL have in common beside their UNet: sizes, latents, names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import prompts as texts
from .clip_names import original_clip_names
from .family import Conditioning, Rows, TokenizerSource
from .unet_names import original_unet_names
from .vae_names import original_vae_names

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

CLIP_L_TOKENIZER = TokenizerSource(
    class_name="CLIPTokenizer",
    hub=(
        "openai/clip-vit-large-patch14",
        "stable-diffusion-v1-5/stable-diffusion-v1-5:tokenizer",
        "stabilityai/stable-diffusion-xl-base-1.0:tokenizer",
    ),
    comfyui="comfy/sd1_tokenizer",
    options={"pad_token": "<|endoftext|>", "model_max_length": 77},
)

OPEN_CLIP_TOKENIZER = TokenizerSource(
    class_name="CLIPTokenizer",
    hub=(
        "stabilityai/stable-diffusion-2-1:tokenizer",
        "stabilityai/stable-diffusion-2-1-base:tokenizer",
        "stabilityai/stable-diffusion-xl-base-1.0:tokenizer_2",
        "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        *CLIP_L_TOKENIZER.hub,
    ),
    comfyui="comfy/sd1_tokenizer",
    options={"pad_token": "!", "model_max_length": 77},
)
"""The same words as CLIP-L's, filled up with token 0."""


def native_size(pipeline: DiffusionPipeline) -> tuple[int, int]:
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


def size_multiple(pipeline: DiffusionPipeline) -> int:
    # The UNet itself copes with latents of any size; diffusers' pipeline asks for 8.
    return max(8, pipeline.vae_scale_factor)


def original_names(pipeline: DiffusionPipeline, attribute: str) -> Mapping[str, tuple[Rows, ...]]:
    """Every layer with weights of a component by its other names; see `Family.original_names`."""
    module = getattr(pipeline, attribute)
    if module is None:
        return {}
    paths = [path for path, layer in module.named_modules() if _has_weights(layer)]
    if attribute == "vae":
        return original_vae_names(paths)
    if attribute.startswith("text_encoder"):
        return original_clip_names(paths, module.config.hidden_size)
    layers = module.config.layers_per_block
    per_block = {layers} if isinstance(layers, int) else set(layers)
    # The original code has no UNet whose blocks differ in length.
    return original_unet_names(paths, per_block.pop()) if len(per_block) == 1 else {}


def _has_weights(layer: torch.nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None


def encoded(vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the scaled latents; see `Family.encode_pixels`."""
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    mean, deviation = posterior.mean, posterior.std
    scale = vae.config.scaling_factor
    latents_mean, latents_std = vae.config.latents_mean, vae.config.latents_std
    if latents_mean is None or latents_std is None:
        return mean * scale, deviation * scale
    middle = mean.new_tensor(latents_mean).view(1, -1, 1, 1)
    spread = mean.new_tensor(latents_std).view(1, -1, 1, 1)
    return (mean - middle) * scale / spread, deviation * scale / spread


@contextmanager
def in_float32(vae: Any) -> Iterator[None]:
    """A float16 VAE that says it overflows in float16, in float32 for the length of the block."""
    import torch

    if vae.dtype != torch.float16 or not vae.config.force_upcast:
        yield
        return
    tensors = [*vae.parameters(), *vae.buffers()]
    before = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, pristine in zip(tensors, before, strict=True):
            tensor.data = pristine


def all_plain(tokenizers: Sequence[Any], prompts: Sequence[str]) -> bool:
    """Whether the pipeline itself reads these prompts as they are meant."""
    return all(
        texts.is_plain(tokenizer, prompt)
        for tokenizer in tokenizers
        for prompt in dict.fromkeys(prompts)
    )


def denoise(
    pipeline: DiffusionPipeline,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    **arguments: Any,
) -> torch.Tensor:
    """The UNet's answer; see `Family.predict`.

    Raises:
        ValueError: the UNet also wants a mask and a masked picture, which learning has not.
    """
    wanted = pipeline.unet.config.in_channels
    if noisy.shape[1] != wanted:
        raise ValueError(
            f"this UNet takes {wanted} channels, as inpainting models do, and latents have "
            f"{noisy.shape[1]}; train on the ordinary model and put the LoRA on this one"
        )
    return pipeline.unet(noisy, timesteps, conditioning.embeddings, **arguments).sample


def training_scheduler(pipeline: DiffusionPipeline) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(pipeline.scheduler.config)
