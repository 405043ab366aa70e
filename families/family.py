"""The contract of a model family: everything that differs between Stable Diffusion, SDXL, SD 3,
FLUX, ...

A family is one object in one file, named once in `families/__init__.py`. The rest of Likeness asks
it and never asks `if family == ...`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

TEXT, IMAGE, INPAINT = "text", "image", "inpaint"
"""What can be asked of a model: a picture from words, from another picture, or inside a mask."""


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
    `kohya_prefixes`: how A1111, kohya and ComfyUI begin its keys when a layer's path follows with
    `_` instead of dots, the one we write first (`"lora_unet_"`).
    `targets`: regular expressions over module paths, by target group. Groups are `"attention"`,
    `"feed-forward"`, `"convolution"`; a group that the component lacks is absent.
    `dotted_prefixes`: how files begin its keys when the path follows with its dots, the one that
    diffusers writes first (`"unet."`). `""` for files that name the layer alone.
    """

    attribute: str
    kohya_prefixes: tuple[str, ...]
    targets: tuple[tuple[str, str], ...]
    dotted_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Where a layer of the original code lies in ours: the whole of it, or some of its rows.

    `module`: the path of our layer. `source`: first and one past the last row (dimension 0) of the
    original weight and bias; `target`: where those rows lie in ours. None: all of them.
    """

    module: str
    source: tuple[int, int] | None = None
    target: tuple[int, int] | None = None


class TensorFile(Protocol):
    """A file of tensors, opened but not read: names and shapes cost nothing."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def tensor(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True)
class FileLayout:
    """What a single file holds, found out from its tensors alone.

    `variant`: the folder below `families/configs` whose `model_index.json` and component
    configurations describe the pipeline (`"sdxl-base"`).
    `prefixes`: pipeline component → prefix of its keys (`{"unet": "model.diffusion_model."}`). A
    component that is absent is not in the file. A file of one bare component has the prefix `""`.
    `changes`: component → entries of its configuration that differ from the variant's
    (`{"unet": {"in_channels": 9}}`), read from the tensors' shapes.
    """

    variant: str
    prefixes: Mapping[str, str]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenizerSource:
    """Where the files of a tokenizer come from when the model does not bring them.

    `class_name`: its class in transformers. `hub`: repositories to look for in the local hub cache,
    each as `"owner/name"` or `"owner/name:subfolder"`. `comfyui`: a folder inside ComfyUI that
    holds the same files (`"comfy/sd1_tokenizer"`). `options`: what its constructor is told.
    """

    class_name: str
    hub: tuple[str, ...]
    comfyui: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


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
