"""The contract of a model family: everything that differs between Stable Diffusion, SDXL, SD 3,
FLUX, ...

A family is one object in one file, named once in `families/__init__.py`. The rest of Likeness asks
it and never asks `if family == ...`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .files import FileLayout as FileLayout
from .files import Rows as Rows
from .files import TensorFile as TensorFile
from .files import TokenizerSource as TokenizerSource

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

TEXT, IMAGE, INPAINT = "text", "image", "inpaint"
"""What can be asked of a model: a picture from words, from another picture, or inside a mask."""

CONTROLNET, UNION, T2I_ADAPTER = "controlnet", "union", "t2i-adapter"
"""What can steer a model beside its denoiser."""


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
class PictureSize:
    """How a picture that is learned came to its size, in pixels, as (width, height) or (left, top).

    `original`: before anything was done to it. `crop`: the corner that was cut to, after scaling.
    `target`: what the model sees.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True)
class TrainingDefaults:
    """What is usual for a family, where the user left a setting at "auto".

    `adapter_rate`: learning rate of a LoRA. `full_rate`: of all weights. `text_rate`: of a text
    encoder's, if it is lower than the denoiser's. `rank`: of a LoRA. `steps_per_picture`,
    `most_steps`: how long a training is. `timesteps`: one of `Losses.timesteps`. `weighting`: one
    of `Losses.weighting`. `trains_text`: whether the text side usually learns too.
    """

    adapter_rate: float
    full_rate: float
    text_rate: float
    rank: int = 16
    steps_per_picture: int = 100
    most_steps: int = 1500
    timesteps: str = "uniform"
    weighting: str = "none"
    trains_text: bool = False


@dataclass(frozen=True)
class LoraComponent:
    """A part of the pipeline that a LoRA may change.

    `attribute`: its name on the diffusers pipeline (`"unet"`).
    `kohya_prefixes`: how A1111, kohya and ComfyUI begin its keys when a layer's path follows with
    `_` instead of dots, the one we write first (`"lora_unet_"`).
    `targets`: regular expressions over module paths, by target group. Groups are `"attention"`,
    `"feed-forward"`, `"convolution"`; a group that the component lacks is absent.
    `dotted_prefixes`: how files begin its keys when the path follows with its dots, the one that
    diffusers writes first (`"unet."`). `""` for files that name the layer alone.
    `learns`: whether it learns where the text side does; a T5 does not.
    """

    attribute: str
    kohya_prefixes: tuple[str, ...]
    targets: tuple[tuple[str, str], ...]
    dotted_prefixes: tuple[str, ...] = ()
    learns: bool = True


class Family(Protocol):
    """What a family answers. Implementations hold no state."""

    name: str
    """Stable id, written into run folders and LoRA metadata, such as `"stable-diffusion"`."""

    title: str
    """What users call it, for messages: `"Stable Diffusion 1.x/2.x"`."""

    denoiser: LoraComponent
    text_encoders: tuple[LoraComponent, ...]

    pipeline_class: str
    """The diffusers pipeline that makes pictures from words (and that `model_index.json` names)."""

    load_options: Mapping[str, Any]
    """What `from_pretrained` and the constructor of `pipeline_class` are told besides weights and
    dtype.
    """

    lora_signs: tuple[str, ...]
    """Pieces of keys that only LoRA files for this family contain, for saying what a file that
    does not fit looks made for.
    """

    # -- which model is it? ------------------------------------------------------------------------

    def recognises(self, model_index: dict[str, Any]) -> bool:
        """Whether a diffusers folder with this `model_index.json` is of this family."""
        ...

    def identify(self, file: TensorFile) -> FileLayout | None:
        """What this single file holds, if it is a model (or the bare denoiser) of this family.

        From names, shapes and, where these do not tell, values of tensors; never the file's name.
        """
        ...

    def convert(
        self, attribute: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """One component's tensors, without prefix and in any spelling that files use (the original
        code's, diffusers', transformers'), under the names of our module with that `config`.
        """
        ...

    def single_file(
        self, pipeline: DiffusionPipeline, attribute: str, tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The inverse of `convert`: one component's tensors under the names, prefix included, that
        they have in a single file which ComfyUI, A1111 and diffusers read. `"scheduler"`, without
        tensors: the empty ones that tell how the model is sampled, where files tell it.

        Tensors may be on the meta device: only names and shapes are wanted then.

        Raises:
            ValueError: single files have no words for this component as it is.
        """
        ...

    def tokenizers(self, variant: str) -> Mapping[str, TokenizerSource]:
        """Tokenizer attribute (`"tokenizer"`) → where its files come from, for a `variant`."""
        ...

    def architecture(self, pipeline: DiffusionPipeline) -> str:
        """The `modelspec.architecture` value that other programs know this model by, such as
        `"stable-diffusion-v1"`.
        """
        ...

    # -- making pictures ---------------------------------------------------------------------------

    def tasks(self, pipeline: DiffusionPipeline) -> Mapping[str, str]:
        """`TEXT`, `IMAGE`, `INPAINT` → the diffusers pipeline class that does it with the
        components of this very model; what it cannot do is absent.
        """
        ...

    def guided_tasks(self, pipeline: DiffusionPipeline, kind: str) -> Mapping[str, str]:
        """As `tasks`, with something beside the denoiser: `kind` is `CONTROLNET`, `UNION` (a
        ControlNet that is told what its picture shows) or `T2I_ADAPTER`.
        """
        ...

    def call_arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: float,
    ) -> dict[str, Any]:
        """The arguments of the diffusers call that say what to draw, and how closely to follow it.

        A prompt without weights that fits the text encoder is passed on as it is, so that pictures
        equal the plain pipeline's; otherwise embeddings are (`prompts.py`).
        """
        ...

    def latent_picture(
        self, pipeline: DiffusionPipeline, latents: torch.Tensor, width: int, height: int
    ) -> torch.Tensor:
        """Latents as the pipeline's step callback sees them → [batch, channels, h, w] as
        `encode_pixels` gives them, for previews. `width` and `height` in pixels.
        """
        ...

    def native_size(self, pipeline: DiffusionPipeline) -> tuple[int, int]:
        """Width and height in pixels that the model was trained at."""
        ...

    def size_multiple(self, pipeline: DiffusionPipeline) -> int:
        """Width and height in pixels must be multiples of this."""
        ...

    # -- LoRA --------------------------------------------------------------------------------------

    def original_names(
        self, pipeline: DiffusionPipeline, attribute: str
    ) -> Mapping[str, tuple[Rows, ...]]:
        """How the original code and other programs call the layers of a component where that
        differs from our module paths: dotted layer path (`"double_blocks.0.img_attn.qkv"`) → ours.

        Files name layers this way after a prefix. Our own paths need not be listed.
        """
        ...

    def block_of(self, module: str) -> str:
        """The block of the denoiser that a module path belongs to, for block weights: `"down.1"`,
        `"mid"`, `"up.2"` in a UNet; `"double.3"`, `"single.12"`, `"layer.7"` in a transformer; `""`
        outside of all blocks.
        """
        ...

    # -- learning ----------------------------------------------------------------------------------

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
        """The denoiser's output for `noisy` latents at `timesteps` [batch]; shaped as `noisy`.

        `timesteps` as the family's scheduler counts them (0..1000). A flow-matching family answers
        the velocity `noise - latents`, whatever sign its denoiser uses inside.
        """
        ...

    def sized(
        self,
        pipeline: DiffusionPipeline,
        conditioning: Conditioning,
        sizes: Sequence[PictureSize],
    ) -> Conditioning:
        """`conditioning` that also tells the model the sizes of the pictures, one for each row;
        the same for models that are not told.
        """
        ...

    def training_defaults(self, pipeline: DiffusionPipeline) -> TrainingDefaults:
        """What to train this very model with where the user does not say."""
        ...

    def distilled(self, pipeline: DiffusionPipeline, path: str) -> str:
        """Why this model looks distilled to few steps (turbo, schnell, lightning, ...), which a
        training would undo, and the way out; "" if it does not. `path`: where it was loaded from.
        """
        ...

    def training_scheduler(self, pipeline: DiffusionPipeline) -> Any:
        """The noise schedule to train with, made from the pipeline's own scheduler configuration.

        A `DDPMScheduler` (`add_noise`, `get_velocity`, `config.prediction_type`) for diffusion
        models, a `FlowMatchEulerDiscreteScheduler` for flow matching.
        """
        ...


def present(model_index: Mapping[str, Any], parts: Iterable[str]) -> bool:
    """Whether a `model_index.json` names a class for every one of these components."""
    return all(
        isinstance(entry := model_index.get(part), (list, tuple))
        and len(entry) == 2
        and entry[1] is not None
        for part in parts
    )
