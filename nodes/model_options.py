"""The widgets that every node which loads a base model has, and what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import FAMILIES
from ..host import host, io
from ..pipelines.memory import ATTENTIONS
from ..pipelines.schedulers import SCHEDULERS
from ..pipelines.spec import DTYPES, OFFLOADS, PREDICTIONS

if TYPE_CHECKING:
    from ..pipelines.spec import BaseModel, MemoryOptions

NONE = "none"
"""The choice that leaves a part as it is."""

PARTS = {
    "text_encoder": "text_encoders",
    "text_encoder_2": "text_encoders",
    "text_encoder_3": "text_encoders",
    "vae": "vae",
}
"""Input and component → kind of model that is offered for it."""


def options() -> list[Any]:
    """Precision, family, replaced parts, scheduler, prediction and memory, in this order."""
    return [dtype(), family(), *parts(advanced=True), scheduler(), prediction(), memory()]


def describe(path: Path, **values: Any) -> BaseModel:
    """The description of the model at `path` with the values of these widgets."""
    from ..pipelines.base_models import base_model

    return base_model(path, **fields(**values))


def versions(path: Path, **values: Any) -> Any:
    """Differs when a file of the model, or a choice, differs."""
    from ..pipelines.loading import file_versions

    base = describe(path, **values)
    return repr(base), file_versions(base)


def fields(memory: dict[str, Any] | None = None, config: str = NONE, **values: Any) -> dict:
    """What the widgets say as arguments of `base_model`."""
    chosen = {name: values.pop(name) for name in PARTS if values.get(name, NONE) != NONE}
    places = {name: host().model_path(PARTS[name], file) for name, file in chosen.items()}
    kept = {name: value for name, value in values.items() if name not in PARTS}
    if config != NONE:
        kept["config"] = str(host().model_path("diffusers", config))
    return {**kept, "parts": places, "memory": _memory(memory or {})}


def dtype() -> Any:
    return io.Combo.Input(
        "dtype",
        options=list(DTYPES),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="Precision of the weights. auto: bfloat16 on a GPU that has it, else float16; "
        "float32 on the CPU.",
    )


def family() -> Any:
    return io.Combo.Input(
        "family",
        options=["auto", *(each.name for each in FAMILIES)],
        default="auto",
        optional=True,
        advanced=True,
        tooltip="Which kind of model it is. auto finds out from the weights, never from the name; "
        "choose one when it guesses wrong.",
    )


def parts(advanced: bool | None = None) -> list[Any]:
    """One drop-down for each component that can come from a file of its own."""
    what = {
        "text_encoder": "The first text encoder (CLIP-L; Qwen for Z-Image)",
        "text_encoder_2": "The second text encoder (CLIP-G for SDXL and SD 3, T5 for FLUX)",
        "text_encoder_3": "The third text encoder (T5 for SD 3, which also draws without it)",
        "vae": "The VAE, which turns latents into pixels",
    }
    return [
        io.Combo.Input(
            name,
            options=[NONE, *host().model_names(kind)],
            default=NONE,
            optional=True,
            advanced=advanced,
            tooltip=f"{what[name]}, from a file in models/{kind}. "
            "none: the one in the model, if it has one.",
        )
        for name, kind in PARTS.items()
    ]


def config() -> Any:
    return io.Combo.Input(
        "config",
        options=[NONE, *host().model_names("diffusers")],
        default=NONE,
        optional=True,
        advanced=True,
        tooltip="A diffusers folder whose configurations and tokenizers describe a file of unusual "
        "shape; its weights are not read. none: Likeness's own configurations, and tokenizers from "
        "the hub cache or ComfyUI.",
    )


def scheduler() -> Any:
    return io.Combo.Input(
        "scheduler",
        options=list(SCHEDULERS),
        default="model",
        optional=True,
        advanced=True,
        tooltip="The sampler where a node does not ask for another. model: the one saved with it.",
    )


def prediction() -> Any:
    return io.Combo.Input(
        "prediction",
        options=list(PREDICTIONS),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="What the model was trained to predict. A single file may not tell: choose "
        "v_prediction when pictures of a 2.x or v-prediction model are noise, "
        "v_prediction_zero_snr for models trained with zero terminal SNR.",
    )


def memory() -> Any:
    """One choice, so that the options which few need take no room."""
    return io.DynamicCombo.Input(
        "memory",
        options=[
            io.DynamicCombo.Option("automatic", []),
            io.DynamicCombo.Option("custom", _memory_widgets()),
        ],
        optional=True,
        tooltip="automatic: the whole model on the device. custom: pay time or exactness for less "
        "memory, or the reverse.",
    )


def _memory_widgets() -> list[Any]:
    return [
        io.Combo.Input(
            "offload",
            options=list(OFFLOADS),
            default="none",
            tooltip="Where weights wait. model: one component at a time on the GPU; a few seconds "
            "per picture, a third to half less memory. group: layer by layer; far less memory, "
            "slower steps. No effect on the CPU.",
        ),
        io.Boolean.Input(
            "fp8",
            default=False,
            tooltip="The denoiser's weights rest in 8 bits and are cast for each layer: half the "
            "memory of 16 bits for slightly different pictures and slower steps. Not for training.",
        ),
        io.Boolean.Input(
            "vae_tiling",
            default=False,
            tooltip="Decode pictures in tiles: large ones need far less memory, seams may show "
            "faintly, and decoding is slower.",
        ),
        io.Boolean.Input(
            "vae_slicing",
            default=False,
            tooltip="Decode a batch picture by picture: less memory for batches, hardly slower.",
        ),
        io.Combo.Input(
            "attention",
            options=list(ATTENTIONS),
            default="auto",
            tooltip="How attention is computed, for models that let diffusers choose (SD 3, FLUX, "
            "Z-Image). The fast ones need their package; sage is a little less exact.",
        ),
        io.Boolean.Input(
            "compile",
            default=False,
            tooltip="Compile the denoiser's blocks with torch.compile: the first picture of each "
            "size takes minutes, later steps are faster. Needs a compiler (triton on a GPU).",
        ),
    ]


def _memory(values: dict[str, Any]) -> MemoryOptions:
    from ..pipelines.spec import MemoryOptions

    return MemoryOptions(**{name: value for name, value in values.items() if name != "memory"})
