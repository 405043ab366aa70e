"""From a description to pictures, with the same pixels as the plain diffusers pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .loading import LivePipeline, Pipelines
from .lora import fused
from .spec import PipelineSpec

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "uni_pc": ("UniPCMultistepScheduler", {}),
}
"""Samplers by the names ComfyUI users know → diffusers class and options; `model` is the one saved
with the model.
"""

MAX_SIDE = 8192
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """What to draw. Sizes in pixels, 0 = the model's own; picture i of `count` uses the seed `seed
    + i`.
    """

    prompt: str
    negative: str = ""
    steps: int = 25
    guidance: float = 5.0
    seed: int = 0
    width: int = 0
    height: int = 0
    count: int = 1
    scheduler: str = "model"

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "use at least 1")
        _require(self.count >= 1, "count", self.count, "use at least 1")
        _require(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"use 0 to {MAX_SEED}")
        _require(0 <= self.width <= MAX_SIDE, "width", self.width, f"use 0 to {MAX_SIDE}")
        _require(0 <= self.height <= MAX_SIDE, "height", self.height, f"use 0 to {MAX_SIDE}")
        known = ", ".join(SCHEDULERS)
        _require(self.scheduler in SCHEDULERS, "scheduler", self.scheduler, f"use one of {known}")


def generate(
    pipelines: Pipelines,
    spec: PipelineSpec,
    sampling: Sampling,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Image]:
    """Draw `sampling.count` RGB pictures in one batch.

    `on_step(done, total)` is called after each denoising step; what it raises (a stop) ends the
    drawing, and the weights are restored all the same.

    Raises:
        ValueError: a size that the model cannot make, or a base model or LoRA that cannot be used.
    """
    import torch

    with pipelines.open(spec.base) as live, fused(live, spec.loras), torch.no_grad():
        width, height = _size(live, sampling)
        pipeline: Any = copy.copy(live.pipeline)  # a scheduler has state: never the shared one
        pipeline.scheduler = _scheduler(live, sampling.scheduler)

        def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(min(step + 1, sampling.steps), sampling.steps)
            return tensors

        return pipeline(
            prompt=[sampling.prompt] * sampling.count,
            negative_prompt=[sampling.negative] * sampling.count,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            width=width,
            height=height,
            generator=[_generator(sampling.seed + index) for index in range(sampling.count)],
            callback_on_step_end=after_step,
            output_type="pil",
        ).images


def _generator(seed: int) -> Any:
    import torch

    # Always on the CPU: the same seed draws the same noise on every device.
    return torch.Generator("cpu").manual_seed(seed % (MAX_SEED + 1))


def _size(live: LivePipeline, sampling: Sampling) -> tuple[int, int]:
    native_width, native_height = live.family.native_size(live.pipeline)
    size = (sampling.width or native_width, sampling.height or native_height)
    multiple = live.family.size_multiple(live.pipeline)
    for name, value in zip(("width", "height"), size, strict=True):
        nearest = max(multiple, round(value / multiple) * multiple)
        _require(
            value % multiple == 0, name, value, f"use a multiple of {multiple}, such as {nearest}"
        )
    return size


def _scheduler(live: LivePipeline, name: str) -> Any:
    import diffusers

    class_name, options = SCHEDULERS[name]
    current = live.pipeline.scheduler
    kind = getattr(diffusers, class_name) if class_name else type(current)
    return kind.from_config(current.config, **options)


def _require(condition: bool, name: str, value: object, way_out: str) -> None:
    if not condition:
        raise ValueError(f"{name} {value!r} cannot be used; {way_out}")
