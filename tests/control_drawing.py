"""Drawing with tiny ControlNets: short words for what `ControlUse` and `Sampling` take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from likeness.pipelines.base_models import base_model
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ControlUse, Picture
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

from .control_models import CONTROLS
from .control_plain import GUIDANCE, PROMPT, SEED, STEPS, lines

PICTURES = (lines(seed=0), lines(seed=1), lines(seed=2))
START = Image.radial_gradient("L").resize((64, 64)).convert("RGB")


@dataclass
class Drawing:
    """`bases`, `controls`: the fixtures `control_bases` and `tiny_controls`."""

    bases: Callable[[str], Path]
    controls: Callable[[str], Path]
    cache: Pipelines = field(default_factory=lambda: Pipelines("cpu"))

    def base(self, model: str) -> Any:
        return base_model(self.bases(model))

    def use(self, name: str, index: int = 0, **options: Any) -> ControlUse:
        """A ControlNet put on, with the picture of that index."""
        images = [Picture.of(image) for image in options.pop("images", [PICTURES[index]])]
        mask = options.pop("mask", None)
        given = {**options, "mask": Picture.of(mask) if mask else None}
        return ControlUse(describe_control(self.controls(name), name), tuple(images), **given)

    def spec(self, *uses: Any, base: str = "") -> PipelineSpec:
        """`uses`: names of ControlNets, names with options, or uses."""
        made = []
        for index, use in enumerate(uses):
            if not isinstance(use, ControlUse):
                name, options = (use, {}) if isinstance(use, str) else use
                use = self.use(name, index, **options)
            made.append(use)
        model = base or next(m for n, (m, _) in CONTROLS.items() if n == made[0].control.name)
        return PipelineSpec(self.base(model), controls=tuple(made))

    def draw(self, spec: PipelineSpec, **settings: Any) -> list[Image.Image]:
        """Pictures with the prompt, seed, steps and guidance of `control_plain`."""
        sources = {n: settings.pop(n) for n in ("image", "mask", "on_step") if n in settings}
        negative = "" if spec.base.family == "flux" else "blue"
        given = {"steps": STEPS, "guidance": GUIDANCE, "seed": SEED, **settings}
        return generate(self.cache, spec, Sampling(PROMPT, negative, **given), **sources)
