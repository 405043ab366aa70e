"""FLUX.1: CLIP-L and T5 text encoders, a transformer of double and single blocks, flow matching.

dev has its guidance as an input of the transformer; schnell knows no guidance at all. Neither looks
at a negative prompt unless every step is computed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import prompts as prompting
from .clip_names import clip_changes, convert_clip, original_clip_names
from .distilled import distilled_message
from .family import (
    IMAGE,
    INPAINT,
    T2I_ADAPTER,
    TEXT,
    Conditioning,
    FileLayout,
    LoraComponent,
    PictureSize,
    Rows,
    TensorFile,
    TokenizerSource,
    TrainingDefaults,
)
from .flow import encode_shifted, flow_scheduler, names_of
from .flux_names import PARAMETERS, flux_aliases, flux_changes, flux_names
from .layer_names import to_ours
from .single_files import flux_file
from .t5_names import convert_t5, t5_component, t5_tokenizer
from .transformer_files import (
    CLIP_ANCHORS,
    CLIP_L_PREFIXES,
    DIFFUSERS_PREFIXES,
    ORIGINAL_PREFIXES,
    T5_ANCHORS,
    T5_PREFIXES,
    VAE_ANCHORS,
    VAE_PREFIXES,
    below,
    changed_entries,
    prefix_with_all,
    prefixes_with_any,
    t5_changes,
)
from .unet_lora import clip_component
from .unet_parts import CLIP_L_TOKENIZER
from .vae_names import convert_vae, original_vae_names, vae_changes

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

TOKENS = 512
"""How many T5 tokens the transformer is given, as diffusers' pipeline does by default."""

TRAINING_GUIDANCE = 1.0
"""What dev is told while it learns: 1 means to follow the caption as it is."""

# `vector_in` tells it from Chroma, the modulation in each block from FLUX.2, the last layer from a
# ControlNet.
_ORIGINAL_ANCHORS = (
    "img_in.weight",
    "vector_in.in_layer.weight",
    "double_blocks.0.img_mod.lin.weight",
    "double_blocks.0.img_attn.qkv.weight",
    "single_blocks.0.linear1.weight",
    "final_layer.linear.weight",
)
_DIFFUSERS_ANCHORS = (
    "x_embedder.weight",
    "time_text_embed.text_embedder.linear_1.weight",
    "transformer_blocks.0.norm1_context.linear.weight",
    "single_transformer_blocks.0.proj_mlp.weight",
    "proj_out.weight",
)
_PARTS = {
    "vae": (VAE_PREFIXES, VAE_ANCHORS),
    "text_encoder": (CLIP_L_PREFIXES, CLIP_ANCHORS),
    "text_encoder_2": (T5_PREFIXES, T5_ANCHORS),
}
_TOLD = {
    "transformer": flux_changes,
    "vae": vae_changes,
    "text_encoder": clip_changes,
    "text_encoder_2": t5_changes,
}
_FILL_CHANNELS = 384
"""Latents, masked picture and mask, packed: FLUX.1 Fill."""

_log = logging.getLogger(__name__)


class Flux:
    """See `Family` for the contract."""

    name = "flux"
    title = "FLUX.1"
    pipeline_class = "FluxPipeline"
    load_options: Mapping[str, Any] = {}
    lora_signs: tuple[str, ...] = ("double_blocks", "single_blocks", "single_transformer_blocks")
    denoiser = LoraComponent(
        attribute="transformer",
        kohya_prefixes=("lora_transformer_", "lora_unet_", "lycoris_"),
        targets=(
            (
                "attention",
                r"(.*\.)?attn\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)",
            ),
            (
                "feed-forward",
                r"(.*\.)?(ff|ff_context)\.net\.(0\.proj|2)"
                r"|(.*\.)?single_transformer_blocks\.\d+\.(proj_mlp|proj_out)",
            ),
        ),
        dotted_prefixes=(
            "transformer.",
            "diffusion_model.",
            "model.diffusion_model.",
            "base_model.model.",
            "",
        ),
    )
    text_encoders = (
        clip_component("text_encoder", ("lora_te1_", "lora_te_"), ("clip_l",)),
        # kohya counts CLIP-G even though FLUX has none; OneTrainer does not.
        t5_component("text_encoder_2", ("lora_te3_", "lora_te2_")),
    )

    # -- which model is it? ------------------------------------------------------------------------

    def recognises(self, model_index: dict[str, Any]) -> bool:
        return model_index.get("transformer") == ["diffusers", "FluxTransformer2DModel"]

    def identify(self, file: TensorFile) -> FileLayout | None:
        shapes = file.shapes()
        prefix = prefix_with_all(shapes, ORIGINAL_PREFIXES, _ORIGINAL_ANCHORS)
        if prefix is None:
            prefix = prefix_with_all(shapes, DIFFUSERS_PREFIXES, _DIFFUSERS_ANCHORS)
        if prefix is None:
            return None
        inside = below(shapes, prefix)
        guided = any("guidance_in." in name or "guidance_embedder." in name for name in inside)
        variant = "flux-dev" if guided else "flux-schnell"
        prefixes = {"transformer": prefix, **prefixes_with_any(shapes, _PARTS)}
        changes = changed_entries(variant, shapes, prefixes, _TOLD)
        return FileLayout(variant, prefixes, changes)

    def convert(
        self, attribute: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        if attribute == "vae":
            return convert_vae(tensors, config)
        if attribute == "text_encoder":
            return convert_clip(tensors, config, projection=False)
        if attribute == "text_encoder_2":
            return convert_t5(tensors)
        # diffusers' own converter is written for the published width alone.
        return to_ours(tensors, flux_names(config), PARAMETERS)

    single_file = staticmethod(flux_file)

    def tokenizers(self, variant: str) -> Mapping[str, TokenizerSource]:
        repositories = ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell")
        return {
            "tokenizer": CLIP_L_TOKENIZER,
            "tokenizer_2": t5_tokenizer(tuple(f"{name}:tokenizer_2" for name in repositories)),
        }

    def architecture(self, pipeline: DiffusionPipeline) -> str:
        return "flux-1-dev" if pipeline.transformer.config.guidance_embeds else "flux-1-schnell"

    # -- making pictures ---------------------------------------------------------------------------

    def tasks(self, pipeline: DiffusionPipeline) -> Mapping[str, str]:
        channels = pipeline.transformer.config.in_channels
        if channels == _FILL_CHANNELS:
            return {INPAINT: "FluxFillPipeline"}
        if channels != 4 * pipeline.vae.config.latent_channels:
            return {}  # guided by a second picture (Depth, Canny)
        return {
            TEXT: "FluxPipeline",
            IMAGE: "FluxImg2ImgPipeline",
            INPAINT: "FluxInpaintPipeline",
        }

    def guided_tasks(self, pipeline: DiffusionPipeline, kind: str) -> Mapping[str, str]:
        if kind == T2I_ADAPTER or TEXT not in self.tasks(pipeline):
            return {}
        return {
            TEXT: "FluxControlNetPipeline",
            IMAGE: "FluxControlNetImg2ImgPipeline",
            INPAINT: "FluxControlNetInpaintPipeline",
        }

    def call_arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: float,
    ) -> dict[str, Any]:
        """As the contract says. `guidance` is what dev is told (3.5 as published); schnell ignores
        it.

        A negative prompt would need a second pass through the transformer in every step and is left
        out, with a line in the log: the plain pipeline ignores it in the same way.
        """
        if any(negative.strip() for negative in negatives):
            _log.warning("FLUX.1 takes no negative prompt; %r is left out", negatives[0][:60])
        arguments: dict[str, Any] = {"guidance_scale": guidance, "max_sequence_length": TOKENS}
        # CLIP gives one pooled state, for which its first 77 tokens count: T5 alone must fit.
        if all(prompting.is_plain(pipeline.tokenizer_2, prompt) for prompt in prompts):
            return {"prompt": list(prompts), **arguments}
        _, pooled = prompting.clip_states(pipeline.tokenizer, pipeline.text_encoder, prompts)
        states = prompting.t5_states(pipeline.tokenizer_2, pipeline.text_encoder_2, prompts, TOKENS)
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled, **arguments}

    def latent_picture(
        self, pipeline: DiffusionPipeline, latents: torch.Tensor, width: int, height: int
    ) -> torch.Tensor:
        from diffusers import FluxPipeline

        return FluxPipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        size = pipeline.vae.config.sample_size
        return size, size

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.vae_scale_factor * 2

    # -- LoRA --------------------------------------------------------------------------------------

    def original_names(
        self, pipeline: DiffusionPipeline, attribute: str
    ) -> Mapping[str, tuple[Rows, ...]]:
        if attribute == "vae":
            return original_vae_names(names_of(pipeline, "vae"))
        if attribute == "text_encoder":
            width = pipeline.text_encoder.config.hidden_size
            return original_clip_names(names_of(pipeline, attribute), width)
        if attribute != "transformer":
            return {}
        config = pipeline.transformer.config
        return {**flux_aliases(config), **flux_names(config)}

    def block_of(self, module: str) -> str:
        kind, _, rest = module.partition(".")
        blocks = {"transformer_blocks": "double", "single_transformer_blocks": "single"}
        return f"{blocks[kind]}.{rest.partition('.')[0]}" if kind in blocks else ""

    # -- learning ----------------------------------------------------------------------------------

    def encode_text(self, pipeline: DiffusionPipeline, prompts: list[str]) -> Conditioning:
        states, pooled, _ = pipeline.encode_prompt(
            prompt=list(prompts),
            max_sequence_length=TOKENS,
        )
        return Conditioning(states, (("pooled_projections", pooled),))

    def encode_pixels(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return encode_shifted(pipeline, pixels)

    def predict(
        self,
        pipeline: DiffusionPipeline,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        import torch
        from diffusers import FluxPipeline

        batch, channels, height, width = noisy.shape
        transformer = pipeline.transformer
        embeddings = conditioning.embeddings
        place = {"device": noisy.device, "dtype": embeddings.dtype}
        guidance = torch.full((batch,), TRAINING_GUIDANCE, device=noisy.device)
        packed = transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=timesteps.expand(batch).to(noisy.dtype) / 1000,
            guidance=guidance if transformer.config.guidance_embeds else None,
            encoder_hidden_states=embeddings,
            txt_ids=torch.zeros(embeddings.shape[1], 3, **place),
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, **place),
            return_dict=False,
            **dict(conditioning.extra),
        )[0]
        scale = pipeline.vae_scale_factor
        return FluxPipeline._unpack_latents(packed, height * scale, width * scale, scale)

    def sized(
        self, pipeline: DiffusionPipeline, conditioning: Conditioning, sizes: Sequence[PictureSize]
    ) -> Conditioning:
        return conditioning

    def training_defaults(self, pipeline: DiffusionPipeline) -> TrainingDefaults:
        return TrainingDefaults(1e-4, 1e-5, 5e-6, most_steps=3000, timesteps="logit-normal")

    def distilled(self, pipeline: DiffusionPipeline, path: str) -> str:
        signs = []
        shifts = pipeline.scheduler.config.get("use_dynamic_shifting")
        if not pipeline.transformer.config.guidance_embeds and not shifts:
            signs = ["it takes no guidance (guidance_embeds), as schnell does not"]
        return distilled_message(path, signs, "FLUX.1 dev")

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        return flow_scheduler(pipeline)
