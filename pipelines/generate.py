"""From a description to pictures, with the same pixels as the plain diffusers pipeline.

Three tasks: from words alone, from a picture (img2img), and inside a mask (inpainting).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..families.family import IMAGE, INPAINT, TEXT
from ..families.prompts import skipping_layers
from .loading import LivePipeline, Pipelines
from .lora import applied
from .previews import Previews
from .schedulers import NOISE_SCHEDULES, SCHEDULERS, scheduler_for, takes_eta
from .source_pictures import as_masks, as_sources, fitted
from .spec import PipelineSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from .control.live import Controls

MAX_SIDE = 8192
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """What to draw. Sizes in pixels, 0 = the model's own, or that of the picture to start from,
    rounded; picture i of `count` uses the seed `seed + i`.

    `prompt`, `negative`: of any length, with A1111's weights (`families/prompts.py`).
    `scheduler`: the sampler, one of `SCHEDULERS`; `"model"` is the one that the pipeline's
    description names, else the one saved with the model.
    `denoise`: how much of a given picture is drawn anew, above 0 to 1; of `steps`, the last
    `steps * denoise` are run. Without a picture it has no effect.
    `noise_schedule`: one of `NOISE_SCHEDULES`.
    `eta`: DDIM's share of fresh noise, 0 to 1. `shift`: of a flow-matching model's noise levels, 0
    = the model's own. `clip_skip`: layers of CLIP left out at its end, counted from the last that
    the model uses, for both prompts.
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
    denoise: float = 1.0
    noise_schedule: str = "model"
    eta: float = 0.0
    shift: float = 0.0
    clip_skip: int = 0

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "use at least 1")
        _require(self.count >= 1, "count", self.count, "use at least 1")
        _require(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"use 0 to {MAX_SEED}")
        _require(0 <= self.width <= MAX_SIDE, "width", self.width, f"use 0 to {MAX_SIDE}")
        _require(0 <= self.height <= MAX_SIDE, "height", self.height, f"use 0 to {MAX_SIDE}")
        _require(math.isfinite(self.guidance), "guidance", self.guidance, "use a number, such as 5")
        _require(0 < self.denoise <= 1, "denoise", self.denoise, "use more than 0 and at most 1")
        _require(0 <= self.eta <= 1, "eta", self.eta, "use 0 to 1")
        _require(0 <= self.shift <= 100, "shift", self.shift, "use 0 to 100")
        _require(self.clip_skip >= 0, "clip_skip", self.clip_skip, "use 0 or more")
        for name, value, known in (
            ("scheduler", self.scheduler, SCHEDULERS),
            ("noise_schedule", self.noise_schedule, NOISE_SCHEDULES),
        ):
            _require(value in known, name, value, f"use one of {', '.join(known)}")


def generate(
    pipelines: Pipelines,
    spec: PipelineSpec,
    sampling: Sampling,
    on_step: Callable[[int, int], None] | None = None,
    image: Image | Sequence[Image] | None = None,
    mask: Image | Sequence[Image] | None = None,
    on_preview: Callable[[Image], None] | None = None,
) -> list[Image]:
    """Draw `sampling.count` RGB pictures in one batch, `sampling.count` from each given picture.

    `image`: pictures to start from, of any mode and size. With another size asked for they are
    scaled to cover it and what hangs over is cut off evenly; all are fitted to one size, that of
    the first where none is asked for.
    `mask`: where to draw (white) and what to keep (black), as large as the picture; from half grey
    on it counts as white. What is kept goes through the VAE once, as in diffusers.
    `on_step(done, total)` is called after each denoising step; what it raises (a stop) ends the
    drawing, and the weights are restored all the same.
    `on_preview(picture)` is called just before it, with a small picture of how the first of the
    batch will look.

    Raises:
        ValueError: a size that the model cannot make, something that it cannot do, or a base model,
            LoRA, picture or mask that cannot be used.
    """
    import torch

    from .control.live import controlled
    from .ip_adapter.live import reference_loras, referenced

    pictures = as_sources(image)
    masks = as_masks(mask, pictures)
    task = INPAINT if masks else IMAGE if pictures else TEXT
    with (
        pipelines.open(spec.base) as live,
        torch.no_grad(),
        controlled(pipelines, live, spec.controls) as controls,
    ):
        width, height = size = _size(live, sampling, pictures)
        pipeline = _pipeline(live, task, controls)
        name = sampling.scheduler if sampling.scheduler != "model" else spec.base.scheduler
        scheduler = scheduler_for(
            live.pipeline.scheduler, name, sampling.noise_schedule, sampling.shift
        )
        pipeline.scheduler = scheduler
        _check_clip_skip(pipeline, sampling.clip_skip)
        rows = max(1, len(pictures), *(len(use.images) for use in spec.controls))
        count = sampling.count * rows
        arguments: dict[str, Any] = {
            "num_inference_steps": sampling.steps,
            "generator": [_generator(sampling.seed + index) for index in range(count)],
            "output_type": "pil",
            **_sources(sampling, _for_rows(pictures, rows), _for_rows(masks, rows), size),
            **_options(pipeline, sampling),
            **controls.arguments(pipeline, size, rows, sampling.count),
        }
        if "width" in _parameters(pipeline):
            arguments |= {"width": width, "height": height}
        with (
            applied(live, (*spec.loras, *reference_loras(live, spec.references))),
            referenced(pipelines, live, spec.references, size, sampling.guidance) as references,
        ):
            arguments |= references.arguments(pipeline)
            references.before_step(0, _planned(sampling, pictures))
            previews = Previews(live, scheduler, width, height) if on_preview else None
            with skipping_layers(sampling.clip_skip):
                arguments |= live.family.call_arguments(
                    live.pipeline,
                    [sampling.prompt] * count,
                    [sampling.negative] * count,
                    sampling.guidance,
                )

            def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                if on_preview is not None and previews is not None:
                    on_preview(previews.picture(tensors["latents"]))
                # T2I-Adapter's pipelines do not say it themselves.
                total = getattr(pipeline, "num_timesteps", 0) or len(scheduler.timesteps)
                if on_step is not None:
                    on_step(step + 1, total)
                references.before_step(step + 1, total)
                return tensors

            try:
                return pipeline(**arguments, **_each_step(pipeline, after_step)).images
            except BaseException:
                pipeline.maybe_free_model_hooks()  # as at the end of a run that was not stopped
                raise


def _generator(seed: int) -> Any:
    import torch

    # Always on the CPU: the same seed draws the same noise on every device.
    return torch.Generator("cpu").manual_seed(seed % (MAX_SEED + 1))


def _size(live: LivePipeline, sampling: Sampling, pictures: Sequence[Image]) -> tuple[int, int]:
    multiple = live.family.size_multiple(live.pipeline)
    if pictures:
        own = [max(multiple, round(side / multiple) * multiple) for side in pictures[0].size]
    else:
        own = live.family.native_size(live.pipeline)
    size = (sampling.width or own[0], sampling.height or own[1])
    for name, value in zip(("width", "height"), size, strict=True):
        _require(value <= MAX_SIDE, name, value, f"use at most {MAX_SIDE}")
        nearest = max(multiple, round(value / multiple) * multiple)
        _require(
            value % multiple == 0, name, value, f"use a multiple of {multiple}, such as {nearest}"
        )
    return size


def _planned(sampling: Sampling, pictures: Sequence[Image]) -> int:
    return int(sampling.steps * sampling.denoise) if pictures else sampling.steps


def _for_rows(pictures: Sequence[Image], rows: int) -> list[Image]:
    """One picture for each row of the batch."""
    if len(pictures) not in (0, 1, rows):
        raise ValueError(
            f"{len(pictures)} pictures to start from and {rows} control pictures cannot be used "
            "together; give as many of one as of the other, or one of either"
        )
    return [*pictures] * (rows // len(pictures)) if pictures else []


def _each_step(pipeline: Any, after_step: Callable[..., Any]) -> dict[str, Any]:
    if "callback_on_step_end" in _parameters(pipeline):
        return {"callback_on_step_end": after_step}

    def older(step: int, timestep: Any, latents: Any) -> None:  # what T2I-Adapter pipelines know
        after_step(pipeline, step, timestep, {"latents": latents})

    return {"callback": older, "callback_steps": 1}


def _pipeline(live: LivePipeline, task: str, controls: Controls) -> Any:
    """A new pipeline object for the task around the live components; costs next to nothing."""
    import diffusers

    if controls.kind:
        known = live.family.guided_tasks(live.pipeline, controls.kind)
    else:
        known = live.family.tasks(live.pipeline)
    if task not in known:
        raise ValueError(_cannot(live, task, list(known), controls.kind))
    kind = getattr(diffusers, known[task])
    if type(live.pipeline) is kind:
        return copy.copy(live.pipeline)
    # What its own class does not know (the refiner's aesthetic score) is kept behind a `_`.
    config = {name.removeprefix("_"): value for name, value in live.pipeline.config.items()}
    parts = {**live.pipeline.components, **controls.components}
    given = {**config, **live.family.load_options, **parts}
    names = inspect.signature(kind.__init__).parameters
    pipeline = kind(**{name: value for name, value in given.items() if name in names})
    for name, value in vars(live.pipeline).items():
        if name.startswith(("_all_hooks", "_offload", "_progress_bar")):
            setattr(pipeline, name, value)
    return pipeline


def _cannot(live: LivePipeline, task: str, known: Sequence[str], control: str) -> str:
    from .control.describe import TITLES

    asked = {
        TEXT: "draws nothing from words alone",
        IMAGE: "draws nothing from a picture alone",
        INPAINT: "draws nothing inside a mask",
    }
    ways = {
        TEXT: "leave picture and mask out",
        IMAGE: "connect a picture to start from",
        INPAINT: "connect a picture and a mask",
    }
    way_out = ", or ".join(ways[one] for one in known)
    if control:
        way_out = way_out or f"leave the {TITLES[control]} out"
        asked = {one: f"{words} with a {TITLES[control]}" for one, words in asked.items()}
    return f"this {live.family.title} model {asked[task]}; {way_out or 'choose another model'}"


def _sources(
    sampling: Sampling,
    pictures: Sequence[Image],
    masks: Sequence[Image],
    size: tuple[int, int],
) -> dict[str, Any]:
    if not pictures:
        return {}
    if int(sampling.steps * sampling.denoise) < 1:
        least = math.ceil(1 / sampling.denoise)
        raise ValueError(
            f"denoise {sampling.denoise:g} of {sampling.steps} steps is less than one step; use at "
            f"least {least} steps or a denoise of {1 / sampling.steps:.2g}"
        )

    def each(sources: Sequence[Image]) -> list[Image]:
        return [fitted(one, size) for one in sources for _ in range(sampling.count)]

    masked = {"mask_image": each(masks)} if masks else {}
    return {"image": each(pictures), "strength": sampling.denoise, **masked}


def _options(pipeline: Any, sampling: Sampling) -> dict[str, Any]:
    """The arguments that only some pipelines and samplers know."""
    options: dict[str, Any] = {}
    if sampling.eta:
        if "eta" not in _parameters(pipeline) or not takes_eta(pipeline.scheduler):
            raise ValueError(
                f"eta {sampling.eta:g} cannot be used with this sampler; use 0, or scheduler 'ddim'"
            )
        options["eta"] = sampling.eta
    return options


def _check_clip_skip(pipeline: Any, skipped: int) -> None:
    if skipped and "clip_skip" not in _parameters(pipeline):
        raise ValueError(f"clip_skip {skipped} cannot be used with this model; use 0")
    layers = [
        part.config.num_hidden_layers
        for part in pipeline.components.values()
        if type(part).__name__.startswith("CLIPText")
    ]
    most = min(layers, default=1) - 1
    _require(skipped <= most, "clip_skip", skipped, f"use 0 to {most}")


def _parameters(pipeline: Any) -> Any:
    return inspect.signature(type(pipeline).__call__).parameters


def _require(condition: bool, name: str, value: object, way_out: str) -> None:
    if not condition:
        raise ValueError(f"{name} {value!r} cannot be used; {way_out}")
