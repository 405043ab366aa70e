"""Z-Image and Z-Image-Turbo: a Qwen 3 chat model reads the prompt, one stream of picture and text
tokens, flow matching (arXiv 2511.22699).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat_prompts import readable
from .distilled import distilled_message
from .family import (
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
from .single_files import z_image_file
from .transformer_files import (
    DIFFUSERS_PREFIXES,
    ORIGINAL_PREFIXES,
    VAE_ANCHORS,
    VAE_PREFIXES,
    below,
    changed_entries,
    prefix_with_all,
    prefixes_with_any,
)
from .vae_names import convert_vae, original_vae_names, vae_changes
from .z_image_names import (
    CHAT_TEMPLATE,
    QWEN_ANCHORS,
    QWEN_PREFIXES,
    QWEN_TARGETS,
    UNUSED,
    convert_qwen,
    original_qwen_names,
    qwen_changes,
    z_image_changes,
    z_image_names,
)

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

TOKENS = 512
"""The longest prompt in tokens, as diffusers' pipeline has it by default."""

TURBO_SHIFT = 3.0
"""Of Turbo's published scheduler; Z-Image's own is 6."""

# Lumina 2 has the same layers, but a SiLU before each modulation (`.1`) and no padding tokens.
_EVERY_ANCHOR = ("cap_embedder.1.weight", "layers.0.adaLN_modulation.0.weight", "x_pad_token")
_ORIGINAL_ANCHORS = (
    *_EVERY_ANCHOR,
    "layers.0.attention.qkv.weight",
    "x_embedder.weight",
    "final_layer.linear.weight",
)
_DIFFUSERS_ANCHORS = (
    *_EVERY_ANCHOR,
    "layers.0.attention.to_q.weight",
    "all_x_embedder.2-1.weight",
    "all_final_layer.2-1.linear.weight",
)
_OTHER_KINDS = ("siglip_embedder.1.weight", "dec_net.cond_embed.weight")
"""Z-Image-Omni, which also reads pictures, and the one that draws pixels without a VAE."""

_PARTS = {
    "vae": (VAE_PREFIXES, VAE_ANCHORS),
    "text_encoder": (QWEN_PREFIXES, QWEN_ANCHORS),
}
_TOLD = {"transformer": z_image_changes, "vae": vae_changes, "text_encoder": qwen_changes}


class ZImage:
    """See `Family` for the contract."""

    name = "z-image"
    title = "Z-Image"
    pipeline_class = "ZImagePipeline"
    load_options: Mapping[str, Any] = {}
    lora_signs: tuple[str, ...] = (
        "layers.0.feed_forward",
        "layers_0_feed_forward",
        "layers.0.attention.",
        "layers_0_attention_",
        "noise_refiner",
        "context_refiner",
    )
    denoiser = LoraComponent(
        attribute="transformer",
        # ComfyUI reads our layers after `lycoris_`, after `lora_unet_` the original's alone.
        kohya_prefixes=("lycoris_", "lora_unet_", "lora_transformer_"),
        targets=(
            ("attention", r"(.*\.)?attention\.(to_q|to_k|to_v|to_out\.0)"),
            ("feed-forward", r"(.*\.)?feed_forward\.(w1|w2|w3)"),
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
        LoraComponent(
            attribute="text_encoder",
            kohya_prefixes=("lora_te_", "lora_te1_"),
            targets=QWEN_TARGETS,
            dotted_prefixes=(
                "text_encoder.",
                "text_encoders.qwen3_4b.transformer.",
                "qwen3_4b.transformer.",
            ),
        ),
    )

    # -- which model is it? ------------------------------------------------------------------------

    def recognises(self, model_index: dict[str, Any]) -> bool:
        return model_index.get("transformer") == ["diffusers", "ZImageTransformer2DModel"]

    def identify(self, file: TensorFile) -> FileLayout | None:
        shapes = file.shapes()
        prefix = prefix_with_all(shapes, ORIGINAL_PREFIXES, _ORIGINAL_ANCHORS)
        if prefix is None:
            prefix = prefix_with_all(shapes, DIFFUSERS_PREFIXES, _DIFFUSERS_ANCHORS)
        if prefix is None:
            return None
        inside = below(shapes, prefix)
        if any(name in inside for name in _OTHER_KINDS):
            return None
        prefixes = {"transformer": prefix, **prefixes_with_any(shapes, _PARTS)}
        changes = changed_entries("z-image", shapes, prefixes, _TOLD)
        return FileLayout("z-image", prefixes, changes)

    def convert(
        self, attribute: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        if attribute == "vae":
            return convert_vae(tensors, config)
        if attribute == "text_encoder":
            return convert_qwen(tensors)
        used = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
        return to_ours(used, z_image_names(config))

    single_file = staticmethod(z_image_file)

    def tokenizers(self, variant: str) -> Mapping[str, TokenizerSource]:
        return {
            "tokenizer": TokenizerSource(
                "Qwen2Tokenizer",
                (
                    "Tongyi-MAI/Z-Image-Turbo:tokenizer",
                    "Tongyi-MAI/Z-Image:tokenizer",
                    "Qwen/Qwen3-4B",
                ),
                "comfy/text_encoders/qwen25_tokenizer",
                {"chat_template": CHAT_TEMPLATE},
            )
        }

    def architecture(self, pipeline: DiffusionPipeline) -> str:
        return "z-image"

    # -- making pictures ---------------------------------------------------------------------------

    def tasks(self, pipeline: DiffusionPipeline) -> Mapping[str, str]:
        return {
            TEXT: "ZImagePipeline",
            IMAGE: "ZImageImg2ImgPipeline",
            INPAINT: "ZImageInpaintPipeline",
        }

    def guided_tasks(self, pipeline: DiffusionPipeline, kind: str) -> Mapping[str, str]:
        return {}

    def call_arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: float,
    ) -> dict[str, Any]:
        """As the contract says. `guidance` counts from 0 here, as diffusers' pipeline does: 0 is
        none (Turbo), and one less than ComfyUI's cfg gives the same picture.

        Raises:
            ValueError: a prompt gives a word a weight, or has more than 512 tokens.
        """
        both = [*prompts, *negatives]
        texts = {
            prompt: readable(pipeline.tokenizer, prompt, TOKENS) for prompt in dict.fromkeys(both)
        }
        return {
            "prompt": [texts[prompt] for prompt in prompts],
            "negative_prompt": [texts[negative] for negative in negatives],
            "guidance_scale": guidance,
            "max_sequence_length": TOKENS,
        }

    def latent_picture(
        self, pipeline: DiffusionPipeline, latents: torch.Tensor, width: int, height: int
    ) -> torch.Tensor:
        return latents

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        size = pipeline.vae.config.sample_size
        return size, size

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.vae_scale_factor * 2

    # -- LoRA --------------------------------------------------------------------------------------

    def original_names(
        self, pipeline: DiffusionPipeline, attribute: str
    ) -> Mapping[str, tuple[Rows, ...]]:
        if attribute == "transformer":
            return z_image_names(pipeline.transformer.config)
        paths = names_of(pipeline, attribute)
        return original_vae_names(paths) if attribute == "vae" else original_qwen_names(paths)

    def block_of(self, module: str) -> str:
        """`"layer.7"`; `"noise.0"` and `"context.1"` in the refiners before the layers."""
        stack, _, rest = module.partition(".")
        blocks = {"layers": "layer", "noise_refiner": "noise", "context_refiner": "context"}
        return f"{blocks[stack]}.{rest.partition('.')[0]}" if stack in blocks else ""

    # -- learning ----------------------------------------------------------------------------------

    def encode_text(self, pipeline: DiffusionPipeline, prompts: list[str]) -> Conditioning:
        """Prompts → states filled up to 512 tokens, so that any may share a batch, and which of
        them count.
        """
        import torch

        found, _ = pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=TOKENS,
        )
        states = torch.stack(
            [torch.nn.functional.pad(part, (0, 0, 0, TOKENS - len(part))) for part in found]
        )
        lengths = torch.tensor([len(part) for part in found], device=states.device)
        return Conditioning(states, (("lengths", lengths),))

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

        lengths = dict(conditioning.extra)["lengths"].tolist()
        states = [
            part[:length] for part, length in zip(conditioning.embeddings, lengths, strict=True)
        ]
        # The transformer counts time from noise to picture and answers `latents - noise`.
        answers = pipeline.transformer(
            list(noisy.unsqueeze(2).unbind(0)),
            (1000 - timesteps.expand(len(noisy))) / 1000,
            states,
            return_dict=False,
        )[0]
        return -torch.stack(list(answers)).squeeze(2)

    def sized(
        self, pipeline: DiffusionPipeline, conditioning: Conditioning, sizes: Sequence[PictureSize]
    ) -> Conditioning:
        return conditioning

    def training_defaults(self, pipeline: DiffusionPipeline) -> TrainingDefaults:
        return TrainingDefaults(1e-4, 1e-5, 5e-6, most_steps=3000, timesteps="logit-normal")

    def distilled(self, pipeline: DiffusionPipeline, path: str) -> str:
        # A single file brings no scheduler: what it is given says nothing about it.
        published = Path(path).is_dir() and pipeline.scheduler.config.get("shift") == TURBO_SHIFT
        signs = [f"its schedule is Turbo's (shift {TURBO_SHIFT:g})"] if published else []
        return distilled_message(path, signs, "Z-Image without Turbo")

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        return flow_scheduler(pipeline)
