"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, epsilon or v-prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .family import Conditioning, LoraComponent, present

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class StableDiffusion:
    """See `Family` for the contract."""

    name = "stable-diffusion"
    architecture = "stable-diffusion-v1"
    denoiser = LoraComponent(
        attribute="unet",
        kohya_prefixes=("lora_unet_",),
        targets=(
            ("attention", r"(.*\.)?(to_q|to_k|to_v|to_out\.0)"),
            ("feed-forward", r"(.*\.)?(ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"),
            ("convolution", r"(.*\.)?(conv1|conv2|conv_shortcut|(up|down)samplers\.0\.conv)"),
        ),
    )
    text_encoders = (
        LoraComponent(
            attribute="text_encoder",
            kohya_prefixes=("lora_te_", "lora_te1_"),
            targets=(
                ("attention", r"(.*\.)?(q_proj|k_proj|v_proj|out_proj)"),
                ("feed-forward", r"(.*\.)?(fc1|fc2)"),
            ),
        ),
    )

    def recognises(self, model_index: dict[str, Any]) -> bool:
        parts = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
        return present(model_index, parts) and not (
            present(model_index, ["text_encoder_2"]) or present(model_index, ["transformer"])
        )

    def load(self, folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
        from diffusers import StableDiffusionPipeline

        # `dtype` must be explicit: otherwise the text encoder keeps the file's fp16 beside a
        # float32 UNet.
        pipeline = StableDiffusionPipeline.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.eval().requires_grad_(False)
        return pipeline

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        size = pipeline.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        # The UNet itself copes with latents of any size; diffusers' pipeline asks for 8.
        return max(8, pipeline.vae_scale_factor)

    def encode_text(self, pipeline: DiffusionPipeline, prompts: list[str]) -> Conditioning:
        tokens = pipeline.tokenizer(
            prompts,
            padding="max_length",
            max_length=pipeline.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = pipeline.text_encoder.device
        # Some 2.x encoders ask for the mask; diffusers' own pipeline decides the same way.
        wants_mask = getattr(pipeline.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if wants_mask else None
        states = pipeline.text_encoder(tokens.input_ids.to(device), attention_mask=mask)
        return Conditioning(states.last_hidden_state)

    def encode_pixels(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vae = pipeline.vae
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    def predict(
        self,
        pipeline: DiffusionPipeline,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        return pipeline.unet(noisy, timesteps, conditioning.embeddings).sample

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(pipeline.scheduler.config)

