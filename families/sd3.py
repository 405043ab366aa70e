"""Stable Diffusion 3 and 3.5: CLIP-L, CLIP-G and T5 text encoders, a transformer that reads picture
and text jointly, flow matching (arXiv 2403.03206). The T5 may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import prompts as prompting
from .clip_names import clip_changes, convert_clip, original_clip_names
from .distilled import distilled_message
from .family import (
    CONTROLNET,
    IMAGE,
    INPAINT,
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
from .layer_names import to_ours
from .sd3_names import PARAMETERS, dual_layers, head_channels, sd3_changes, sd3_names
from .single_files import sd3_file
from .t5_names import convert_t5, t5_component, t5_tokenizer
from .transformer_files import (
    CLIP_ANCHORS,
    CLIP_G_PREFIXES,
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
from .unet_parts import CLIP_L_TOKENIZER, OPEN_CLIP_TOKENIZER, all_plain
from .vae_names import convert_vae, original_vae_names, vae_changes

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

T5_TOKENS = 256
"""How many T5 tokens the transformer is given, as diffusers' pipeline does by default."""

# The last layer tells it from a ControlNet.
_ORIGINAL_ANCHORS = (
    "joint_blocks.0.context_block.attn.qkv.weight",
    "x_embedder.proj.weight",
    "y_embedder.mlp.0.weight",
    "final_layer.linear.weight",
)
_DIFFUSERS_ANCHORS = (
    "pos_embed.proj.weight",
    "time_text_embed.text_embedder.linear_1.weight",
    "transformer_blocks.0.attn.add_q_proj.weight",
    "proj_out.weight",
)
_PARTS = {
    "vae": (VAE_PREFIXES, VAE_ANCHORS),
    "text_encoder": (CLIP_L_PREFIXES, CLIP_ANCHORS),
    "text_encoder_2": (CLIP_G_PREFIXES, CLIP_ANCHORS),
    "text_encoder_3": (T5_PREFIXES, T5_ANCHORS),
}
_TOLD = {
    "transformer": sd3_changes,
    "vae": vae_changes,
    "text_encoder": clip_changes,
    "text_encoder_2": clip_changes,
    "text_encoder_3": t5_changes,
}


class StableDiffusion3:
    """See `Family` for the contract."""

    name = "sd3"
    title = "Stable Diffusion 3/3.5"
    pipeline_class = "StableDiffusion3Pipeline"
    load_options: Mapping[str, Any] = {}
    lora_signs: tuple[str, ...] = ("joint_blocks",)
    denoiser = LoraComponent(
        attribute="transformer",
        kohya_prefixes=("lora_transformer_", "lora_unet_", "lycoris_"),
        targets=(
            (
                "attention",
                r"(.*\.)?attn2?\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)",
            ),
            ("feed-forward", r"(.*\.)?(ff|ff_context)\.net\.(0\.proj|2)"),
        ),
        dotted_prefixes=(
            "transformer.",
            "diffusion_model.",
            "model.diffusion_model.",
            "base_model.model.",
        ),
    )
    text_encoders = (
        clip_component("text_encoder", ("lora_te1_", "lora_te_"), ("clip_l",)),
        clip_component("text_encoder_2", ("lora_te2_",), ("clip_g",)),
        t5_component("text_encoder_3", ("lora_te3_",)),
    )

    # -- which model is it? ------------------------------------------------------------------------

    def recognises(self, model_index: dict[str, Any]) -> bool:
        return model_index.get("transformer") == ["diffusers", "SD3Transformer2DModel"]

    def identify(self, file: TensorFile) -> FileLayout | None:
        shapes = file.shapes()
        prefix = prefix_with_all(shapes, ORIGINAL_PREFIXES, _ORIGINAL_ANCHORS)
        if prefix is None:
            prefix = prefix_with_all(shapes, DIFFUSERS_PREFIXES, _DIFFUSERS_ANCHORS)
        if prefix is None:
            return None
        inside = below(shapes, prefix)
        variant = "sd3-medium"
        if head_channels(inside):
            variant = "sd3.5-medium" if dual_layers(inside, 1) else "sd3.5-large"
        prefixes = {"transformer": prefix, **prefixes_with_any(shapes, _PARTS)}
        changes = changed_entries(variant, shapes, prefixes, _TOLD)
        return FileLayout(variant, prefixes, changes)

    def convert(
        self, attribute: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        if attribute == "vae":
            return convert_vae(tensors, config)
        if attribute == "text_encoder_3":
            return convert_t5(tensors)
        if attribute.startswith("text_encoder"):
            return convert_clip(tensors, config, projection=True)
        return to_ours(tensors, sd3_names(config), PARAMETERS)

    single_file = staticmethod(sd3_file)

    def tokenizers(self, variant: str) -> Mapping[str, TokenizerSource]:
        repositories = (
            "stabilityai/stable-diffusion-3-medium-diffusers",
            "stabilityai/stable-diffusion-3.5-medium",
            "stabilityai/stable-diffusion-3.5-large",
        )
        return {
            "tokenizer": CLIP_L_TOKENIZER,
            "tokenizer_2": OPEN_CLIP_TOKENIZER,
            "tokenizer_3": t5_tokenizer(tuple(f"{name}:tokenizer_3" for name in repositories)),
        }

    def architecture(self, pipeline: DiffusionPipeline) -> str:
        config = pipeline.transformer.config
        if not config.qk_norm:
            return "stable-diffusion-v3-medium"
        return f"stable-diffusion-v3.5-{'medium' if config.dual_attention_layers else 'large'}"

    # -- making pictures ---------------------------------------------------------------------------

    def tasks(self, pipeline: DiffusionPipeline) -> Mapping[str, str]:
        return {
            TEXT: "StableDiffusion3Pipeline",
            IMAGE: "StableDiffusion3Img2ImgPipeline",
            INPAINT: "StableDiffusion3InpaintPipeline",
        }

    def guided_tasks(self, pipeline: DiffusionPipeline, kind: str) -> Mapping[str, str]:
        return {TEXT: "StableDiffusion3ControlNetPipeline"} if kind == CONTROLNET else {}

    def call_arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: float,
    ) -> dict[str, Any]:
        both = [*prompts, *negatives]
        if all_plain([pipeline.tokenizer, pipeline.tokenizer_2], both):
            return {
                "prompt": list(prompts),
                "negative_prompt": list(negatives),
                "guidance_scale": guidance,
            }
        states, pooled = _weighted_states(pipeline, both)
        count = len(prompts)
        return {
            "prompt_embeds": states[:count],
            "negative_prompt_embeds": states[count:],
            "pooled_prompt_embeds": pooled[:count],
            "negative_pooled_prompt_embeds": pooled[count:],
            "guidance_scale": guidance,
        }

    def latent_picture(
        self, pipeline: DiffusionPipeline, latents: torch.Tensor, width: int, height: int
    ) -> torch.Tensor:
        return latents

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        size = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
        return size, size

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.vae_scale_factor * pipeline.transformer.config.patch_size

    # -- LoRA --------------------------------------------------------------------------------------

    def original_names(
        self, pipeline: DiffusionPipeline, attribute: str
    ) -> Mapping[str, tuple[Rows, ...]]:
        if attribute == "transformer":
            return sd3_names(pipeline.transformer.config)
        if attribute == "vae":
            return original_vae_names(names_of(pipeline, "vae"))
        module = getattr(pipeline, attribute)
        if attribute == "text_encoder_3" or module is None:
            return {}
        return original_clip_names(names_of(pipeline, attribute), module.config.hidden_size)

    def block_of(self, module: str) -> str:
        kind, _, rest = module.partition(".")
        return f"double.{rest.partition('.')[0]}" if kind == "transformer_blocks" else ""

    # -- learning ----------------------------------------------------------------------------------

    def encode_text(self, pipeline: DiffusionPipeline, prompts: list[str]) -> Conditioning:
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
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
        return pipeline.transformer(
            hidden_states=noisy,
            timestep=timesteps.expand(len(noisy)),
            encoder_hidden_states=conditioning.embeddings,
            return_dict=False,
            **dict(conditioning.extra),
        )[0]

    def sized(
        self, pipeline: DiffusionPipeline, conditioning: Conditioning, sizes: Sequence[PictureSize]
    ) -> Conditioning:
        return conditioning

    def training_defaults(self, pipeline: DiffusionPipeline) -> TrainingDefaults:
        return TrainingDefaults(1e-4, 5e-6, 5e-6, timesteps="logit-normal")

    def distilled(self, pipeline: DiffusionPipeline, path: str) -> str:
        # Its scheduler and transformer are those of the undistilled model: only the name tells.
        return distilled_message(path, [], "Stable Diffusion 3.5 Large or Medium")

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        return flow_scheduler(pipeline)


def _weighted_states(
    pipeline: DiffusionPipeline, prompts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [n, 77·k + 256, width] and pooled states [n, width] as the transformer wants them.

    CLIP-L and CLIP-G side by side, filled up with zeros to the width of the T5, whose states
    follow; zeros stand for a T5 that was left out.
    """
    import torch

    first, first_pooled = prompting.clip_states(
        pipeline.tokenizer, pipeline.text_encoder, prompts, layer=-2
    )
    second, second_pooled = prompting.clip_states(
        pipeline.tokenizer_2, pipeline.text_encoder_2, prompts, layer=-2
    )
    assert first_pooled is not None and second_pooled is not None
    length = min(first.shape[1], second.shape[1])
    clip = torch.cat([first[:, :length], second[:, :length]], dim=-1)
    width = pipeline.transformer.config.joint_attention_dim
    clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
    if pipeline.text_encoder_3 is None:
        t5 = clip.new_zeros(len(prompts), T5_TOKENS, width)
    else:
        t5 = prompting.t5_states(pipeline.tokenizer_3, pipeline.text_encoder_3, prompts, T5_TOKENS)
    pooled = torch.cat([first_pooled, second_pooled], dim=-1)
    return torch.cat([clip, t5.to(clip.dtype)], dim=1), pooled
