"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, epsilon or v-prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import prompts as texts
from . import unet_parts
from .clip_names import convert_clip
from .distilled import distilled_message, unet_signs
from .family import (
    CONTROLNET,
    IMAGE,
    INPAINT,
    T2I_ADAPTER,
    TEXT,
    Conditioning,
    FileLayout,
    PictureSize,
    Rows,
    TensorFile,
    TokenizerSource,
    TrainingDefaults,
    present,
)
from .single_files import stable_diffusion_file
from .unet_files import FoundUnet, changed_entries, find_text_encoder, find_unet, find_vae
from .unet_lora import UNET, clip_component, unet_block
from .unet_names import convert_unet
from .vae_names import convert_vae

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_TEXT_PREFIXES = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
)

V_PREDICTION_SPREAD = 0.09
"""2.x: the last attention's first norm has biases of this standard deviation or more only where
the model predicts v.
"""


class StableDiffusion:
    """See `Family` for the contract."""

    name = "stable-diffusion"
    title = "Stable Diffusion 1.x/2.x"
    denoiser = UNET
    text_encoders = (
        clip_component("text_encoder", ("lora_te_", "lora_te1_"), ("clip_l", "clip_h")),
    )
    pipeline_class = "StableDiffusionPipeline"
    load_options: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    lora_signs: tuple[str, ...] = (
        "lora_te_text_model_",
        "down_blocks.0.attentions.",
        "down_blocks_0_attentions_",
        "up_blocks.3.attentions.",
        "up_blocks_3_attentions_",
        "input_blocks.1.1.",
        "input_blocks_1_1_",
    )

    # -- which model is it? ------------------------------------------------------------------------

    def recognises(self, model_index: dict[str, Any]) -> bool:
        parts = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
        return present(model_index, parts) and not (
            present(model_index, ["text_encoder_2"]) or present(model_index, ["transformer"])
        )

    def identify(self, file: TensorFile) -> FileLayout | None:
        shapes = file.shapes()
        unet = find_unet(shapes)
        if unet is None or unet.in_channels not in (4, 9):
            return None
        if unet.added_width or not unet.attends_first:
            return None
        variant = _variant(unet, file)
        prefixes = {
            "unet": unet.prefix,
            **find_vae(shapes),
            **find_text_encoder(shapes, "text_encoder", _TEXT_PREFIXES),
        }
        return FileLayout(variant, prefixes, changed_entries(variant, unet, prefixes, shapes))

    def convert(
        self, attribute: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        if attribute == "unet":
            return convert_unet(tensors, config)
        if attribute == "vae":
            return convert_vae(tensors, config)
        return convert_clip(tensors, config, projection=False)

    single_file = staticmethod(stable_diffusion_file)

    def tokenizers(self, variant: str) -> Mapping[str, TokenizerSource]:
        first = variant == "sd1"
        source = unet_parts.CLIP_L_TOKENIZER if first else unet_parts.OPEN_CLIP_TOKENIZER
        return {"tokenizer": source}

    def architecture(self, pipeline: DiffusionPipeline) -> str:
        second = pipeline.text_encoder.config.hidden_act == "gelu"  # OpenCLIP's
        if not second:
            return "stable-diffusion-v1"
        predicts_v = pipeline.scheduler.config.get("prediction_type") == "v_prediction"
        return "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512"

    # -- making pictures ---------------------------------------------------------------------------

    def tasks(self, pipeline: DiffusionPipeline) -> Mapping[str, str]:
        inpaint = {INPAINT: "StableDiffusionInpaintPipeline"}
        if pipeline.unet.config.in_channels == 9:
            return inpaint
        return {
            TEXT: "StableDiffusionPipeline",
            IMAGE: "StableDiffusionImg2ImgPipeline",
            **inpaint,
        }

    def guided_tasks(self, pipeline: DiffusionPipeline, kind: str) -> Mapping[str, str]:
        inpaints = pipeline.unet.config.in_channels == 9
        if kind == CONTROLNET:
            inpaint = {INPAINT: "StableDiffusionControlNetInpaintPipeline"}
            return (
                inpaint
                if inpaints
                else {
                    TEXT: "StableDiffusionControlNetPipeline",
                    IMAGE: "StableDiffusionControlNetImg2ImgPipeline",
                    **inpaint,
                }
            )
        if kind == T2I_ADAPTER and not inpaints:
            return {TEXT: "StableDiffusionAdapterPipeline"}
        return {}

    def call_arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: float,
    ) -> dict[str, Any]:
        both = [*prompts, *negatives]
        if unet_parts.all_plain([pipeline.tokenizer], both):
            return {
                "prompt": list(prompts),
                "negative_prompt": list(negatives),
                "guidance_scale": guidance,
            }
        states, _ = texts.clip_states(pipeline.tokenizer, pipeline.text_encoder, both)
        return {
            "prompt_embeds": states[: len(prompts)],
            "negative_prompt_embeds": states[len(prompts) :],
            "guidance_scale": guidance,
        }

    def latent_picture(
        self, pipeline: DiffusionPipeline, latents: torch.Tensor, width: int, height: int
    ) -> torch.Tensor:
        return latents

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        return unet_parts.native_size(pipeline)

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        return unet_parts.size_multiple(pipeline)

    # -- LoRA --------------------------------------------------------------------------------------

    def original_names(
        self, pipeline: DiffusionPipeline, attribute: str
    ) -> Mapping[str, tuple[Rows, ...]]:
        return unet_parts.original_names(pipeline, attribute)

    def block_of(self, module: str) -> str:
        return unet_block(module)

    # -- learning ----------------------------------------------------------------------------------

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
        return unet_parts.encoded(pipeline.vae, pixels)

    def predict(
        self,
        pipeline: DiffusionPipeline,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        return unet_parts.denoise(pipeline, noisy, timesteps, conditioning)

    def sized(
        self, pipeline: DiffusionPipeline, conditioning: Conditioning, sizes: Sequence[PictureSize]
    ) -> Conditioning:
        return conditioning

    def training_defaults(self, pipeline: DiffusionPipeline) -> TrainingDefaults:
        return TrainingDefaults(1e-4, 5e-6, 5e-6, weighting="min-snr", trains_text=True)

    def distilled(self, pipeline: DiffusionPipeline, path: str) -> str:
        base = "Stable Diffusion 1.5 or 2.1 itself"
        return distilled_message(path, unet_signs(pipeline), base)

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        return unet_parts.training_scheduler(pipeline)


def _variant(unet: FoundUnet, file: TensorFile) -> str:
    linear = len(unet.shapes["down_blocks.0.attentions.0.proj_in.weight"]) == 2
    second = unet.context_width == 1024 or (unet.context_width != 768 and linear)
    if not second:
        return "sd1"
    last = max(name for name in unet.names if name.endswith(".transformer_blocks.0.norm1.bias"))
    # Inpainting models of the second version predict the noise.
    if unet.in_channels == 4:
        biases = file.tensor(unet.names[last]).float()
        if biases.std(correction=0).item() > V_PREDICTION_SPREAD:
            return "sd2-v"
    return "sd2"
