"""The contract of a model family: everything that differs between Stable Diffusion, SDXL, SD 3,
FLUX, ...

A family is one object in one file, named once in `families/__init__.py`. The rest of Likeness asks
it and never asks `if family == ...`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told about one batch of prompts.

    `embeddings`: [batch, tokens, width], the text encoder's hidden states.
    `extra`: further tensors by the name of the denoiser's argument (pooled embeddings, time ids),
    batch first.
    """

    embeddings: torch.Tensor
    extra: tuple[tuple[str, torch.Tensor], ...] = ()


@dataclass(frozen=True)
class LoraComponent:
    """A part of the pipeline that a LoRA may change.

    `attribute`: its name on the diffusers pipeline (`"unet"`).
    `kohya_prefixes`: how A1111 and ComfyUI begin its keys, the one we write first (`"lora_unet_"`).
    `targets`: regular expressions over module paths, by target group. Groups are `"attention"`,
    `"feed-forward"`,
    `"convolution"`; a group that the component lacks is absent.
    """

    attribute: str
    kohya_prefixes: tuple[str, ...]
    targets: tuple[tuple[str, str], ...]


class Family(Protocol):
    """What a family answers. Implementations hold no state."""

    name: str
    """Stable id, written into run folders and LoRA metadata, such as `"stable-diffusion"`."""

    architecture: str
    """The `modelspec.architecture` value that other programs know, such as `"stable-diffusion-v1"`.
    """

    denoiser: LoraComponent
    text_encoders: tuple[LoraComponent, ...]

    def recognises(self, model_index: dict[str, Any]) -> bool:
        """Whether a diffusers folder with this `model_index.json` is of this family."""
        ...

    def load(self, folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
        """The pipeline with every weight in `dtype`, on the CPU, in eval mode and frozen. No
        network.
        """
        ...

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        """Width and height in pixels that the model was trained at."""
        ...

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        """Width and height in pixels must be multiples of this."""
        ...

    def encode_text(self, pipeline: DiffusionPipeline, prompts: list[str]) -> Conditioning:
        """Prompts → conditioning; differentiable when the text encoder trains."""
        ...

    def encode_pixels(
        self, pipeline: DiffusionPipeline, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels [batch, 3, height, width] in -1..1 → mean and standard deviation of the scaled
        latents.

        Both [batch, channels, height / f, width / f]; a sample is `mean + std * noise`.
        """
        ...

    def predict(
        self,
        pipeline: DiffusionPipeline,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """The denoiser's output for `noisy` latents at `timesteps` [batch]; shaped as `noisy`."""
        ...

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        """The noise schedule to train with, made from the pipeline's own scheduler configuration.

        A `DDPMScheduler` (`add_noise`, `get_velocity`, `config.prediction_type`) for diffusion
        models.
        """
        ...
