"""Stable Diffusion XL: two text encoders and picture sizes beside the timestep; and its refiner,
which has the second encoder alone and an aesthetic score (arXiv 2307.01952).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import prompts as texts
from . import unet_parts
from .clip_names import convert_clip
from .distilled import distilled_message, unet_signs
from .family import (
    IMAGE,
    INPAINT,
    T2I_ADAPTER,
    TEXT,
    UNION,
    Conditioning,
    FileLayout,
    PictureSize,
    Rows,
    TensorFile,
    TokenizerSource,
    TrainingDefaults,
    present,
)
from .single_files import sdxl_file
from .unet_files import FoundUnet, changed_entries, find_text_encoder, find_unet, find_vae
from .unet_lora import UNET, clip_component, unet_block
from .unet_names import convert_unet
from .vae_names import convert_vae

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_PENULTIMATE = -2
_SIZE_WIDTH = 256  # numbers that one of the sizes becomes, in every published SDXL
_AESTHETIC_SCORE = 6.0  # what diffusers' refiner pipeline asks for
_EDM_SIGNS = ("edm_mean", "edm_vpred.sigma_max")
_FIRST = ("conditioner.embedders.0.transformer.",)
_SECOND = ("conditioner.embedders.1.model.", "conditioner.embedders.1.transformer.")
_REFINERS = ("conditioner.embedders.0.model.",)


class StableDiffusionXL:
    """See `Family` for the contract."""

    name = "sdxl"
    title = "SDXL"
    denoiser = UNET
    text_encoders = (
        clip_component("text_encoder", ("lora_te1_",), ("clip_l",)),
        clip_component("text_encoder_2", ("lora_te2_",), ("clip_g",)),
    )
    pipeline_class = "StableDiffusionXLPipeline"
    load_options: Mapping[str, Any] = {"add_watermarker": False}
    lora_signs: tuple[str, ...] = (
        "up_blocks.0.attentions.",
        "up_blocks_0_attentions_",
        "output_blocks.0.1.",
        "output_blocks_0_1_",
    )

    # -- which model is it? ------------------------------------------------------------------------

    def recognises(self, model_index: dict[str, Any]) -> bool:
        parts = ("unet", "text_encoder_2", "vae", "tokenizer_2", "scheduler")
        return present(model_index, parts) and not present(model_index, ["transformer"])

    def identify(self, file: TensorFile) -> FileLayout | None:
        shapes = file.shapes()
        unet = find_unet(shapes)
        if unet is None or unet.in_channels not in (4, 9):
            return None
        if not unet.added_width or unet.attends_first:
            return None
        if any(sign in shapes for sign in _EDM_SIGNS):
            raise ValueError(
                "this is an SDXL model that is sampled the EDM way (Playground 2.5, CosXL), which "
                "Likeness cannot do; use another SDXL checkpoint"
            )
        refiner = _is_refiner(unet)
        variant = "sdxl-refiner" if refiner else "sdxl-base"
        encoders = (
            find_text_encoder(shapes, "text_encoder_2", _REFINERS)
            if refiner
            else {
                **find_text_encoder(shapes, "text_encoder", _FIRST),
                **find_text_encoder(shapes, "text_encoder_2", _SECOND),
            }
        )
        prefixes = {"unet": unet.prefix, **find_vae(shapes), **encoders}
        changes = changed_entries(variant, unet, prefixes, shapes)
        if "v_pred" in shapes:  # an empty tensor that says so, as those who train them agreed
            changes["scheduler"] = {"prediction_type": "v_prediction"}
            if "ztsnr" in shapes:
                changes["scheduler"].update(
                    rescale_betas_zero_snr=True, timestep_spacing="trailing"
                )
        return FileLayout(variant, prefixes, changes)

    def convert(
        self, attribute: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        if attribute == "unet":
            return convert_unet(tensors, config)
        if attribute == "vae":
            return convert_vae(tensors, config)
        return convert_clip(tensors, config, projection=attribute == "text_encoder_2")

    single_file = staticmethod(sdxl_file)

    def tokenizers(self, variant: str) -> Mapping[str, TokenizerSource]:
        second = {"tokenizer_2": unet_parts.OPEN_CLIP_TOKENIZER}
        if variant == "sdxl-refiner":
            return second
        return {"tokenizer": unet_parts.CLIP_L_TOKENIZER, **second}

    def architecture(self, pipeline: DiffusionPipeline) -> str:
        refiner = pipeline.text_encoder is None
        return f"stable-diffusion-xl-v1-{'refiner' if refiner else 'base'}"

    # -- making pictures ---------------------------------------------------------------------------

    def tasks(self, pipeline: DiffusionPipeline) -> Mapping[str, str]:
        inpaint = {INPAINT: "StableDiffusionXLInpaintPipeline"}
        if pipeline.unet.config.in_channels == 9:
            return inpaint
        from_image = {IMAGE: "StableDiffusionXLImg2ImgPipeline", **inpaint}
        if pipeline.text_encoder is None:
            return from_image
        return {TEXT: "StableDiffusionXLPipeline", **from_image}

    def guided_tasks(self, pipeline: DiffusionPipeline, kind: str) -> Mapping[str, str]:
        if pipeline.text_encoder is None or pipeline.unet.config.in_channels != 4:
            return {}  # the refiner, and inpainting models: diffusers has no such pipeline
        if kind == T2I_ADAPTER:
            return {TEXT: "StableDiffusionXLAdapterPipeline"}
        middle = "ControlNetUnion" if kind == UNION else "ControlNet"
        return {
            TEXT: f"StableDiffusionXL{middle}Pipeline",
            IMAGE: f"StableDiffusionXL{middle}Img2ImgPipeline",
            INPAINT: f"StableDiffusionXL{middle}InpaintPipeline",
        }

    def call_arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: float,
    ) -> dict[str, Any]:
        # An empty negative prompt is read like any other, here and by the plain pipeline when it
        # is given one; `force_zeros_for_empty_prompt` speaks of a negative prompt left out.
        both = [*prompts, *negatives]
        readers = _readers(pipeline)
        if unet_parts.all_plain([tokenizer for tokenizer, _ in readers], both):
            return {
                "prompt": list(prompts),
                "negative_prompt": list(negatives),
                "guidance_scale": guidance,
            }
        states, pooled = _weighted_states(readers, both)
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
        import torch

        states, pooled = [], None
        for tokenizer, encoder in _readers(pipeline):
            tokens = tokenizer(
                prompts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            read = encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True)
            states.append(read.hidden_states[_PENULTIMATE])
            pooled = read[0]  # of the last encoder, which has a projection
        embeddings = _side_by_side(states)
        assert pooled is not None
        times = _time_ids(pipeline, self.native_size(pipeline))
        sizes = embeddings.new_tensor([times] * len(prompts), dtype=torch.float32)
        return Conditioning(embeddings, (("text_embeds", pooled), ("time_ids", sizes)))

    def encode_pixels(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with unet_parts.in_float32(pipeline.vae):
            return unet_parts.encoded(pipeline.vae, pixels)

    def predict(
        self,
        pipeline: DiffusionPipeline,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        added = dict(conditioning.extra)
        return unet_parts.denoise(pipeline, noisy, timesteps, conditioning, added_cond_kwargs=added)

    def sized(
        self, pipeline: DiffusionPipeline, conditioning: Conditioning, sizes: Sequence[PictureSize]
    ) -> Conditioning:
        import torch

        rows = [_time_ids(pipeline, size.target, size.original, size.crop) for size in sizes]
        extra = dict(conditioning.extra)
        # Half precision has no 1365.
        extra["time_ids"] = extra["time_ids"].new_tensor(rows, dtype=torch.float32)
        return Conditioning(conditioning.embeddings, tuple(extra.items()))

    def training_defaults(self, pipeline: DiffusionPipeline) -> TrainingDefaults:
        return TrainingDefaults(1e-4, 1e-5, 1e-5, rank=32, most_steps=2000, weighting="min-snr")

    def distilled(self, pipeline: DiffusionPipeline, path: str) -> str:
        return distilled_message(path, unet_signs(pipeline), "SDXL base 1.0")

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        return unet_parts.training_scheduler(pipeline)


def _is_refiner(unet: FoundUnet) -> bool:
    """The refiner attends to the encoder whose pooled text it is told, with five sizes; the base to
    one more encoder, with six.
    """
    return unet.added_width == unet.context_width + 5 * _SIZE_WIDTH


def _readers(pipeline: DiffusionPipeline) -> list[tuple[Any, Any]]:
    """Tokenizers with their text encoders, in the order in which their states lie."""
    both = (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    )
    return [(tokenizer, encoder) for tokenizer, encoder in both if encoder is not None]


def _weighted_states(
    readers: list[tuple[Any, Any]], prompts: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    states, pooled = [], None
    for tokenizer, encoder in readers:
        read, pooled = texts.clip_states(tokenizer, encoder, prompts, layer=_PENULTIMATE)
        states.append(read)
    assert pooled is not None
    return _side_by_side(states), pooled


def _side_by_side(states: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(states, dim=-1)


def _time_ids(
    pipeline: DiffusionPipeline,
    size: tuple[int, int],
    original: tuple[int, int] | None = None,
    crop: tuple[int, int] = (0, 0),
) -> list[float]:
    """What the model is told of a picture of `size` (width, height) that was `original` before, cut
    to at the corner `crop` (left, top).
    """
    width, height = original or size
    told = [float(height), float(width), float(crop[1]), float(crop[0])]
    if pipeline.text_encoder is None:
        return [*told, _AESTHETIC_SCORE]
    return [*told, float(size[1]), float(size[0])]
