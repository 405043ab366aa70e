"""Plain diffusers pipelines with ControlNets: what our pictures have to equal."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from likeness.families import family_named
from PIL import Image, ImageDraw

from .control_models import CONTROLS, DEEP
from .tiny_models import family_of
from .tiny_transformers import open_folder

PROMPT = "a red star in the snow"
STEPS, GUIDANCE, SEED = 4, 3.0, 5
SIZE = (64, 64)


def lines(size: tuple[int, int] = (64, 64), seed: int = 0) -> Image.Image:
    """A control picture: white lines on black."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    random = np.random.default_rng(seed)
    for _ in range(4):
        x, y = random.integers(0, size[0], 2), random.integers(0, size[1], 2)
        draw.line((int(x[0]), int(y[0]), int(x[1]), int(y[1])), fill="white", width=2)
    return image


class Plain:
    """Plain pipelines around one set of loaded modules per tiny model.

    `folder`, `controls`: the fixtures `control_bases` and `tiny_controls`.
    """

    def __init__(self, folder: Callable[[str], Path], controls: Callable[[str], Path]) -> None:
        self._folder, self._controls = folder, controls
        self._bases: dict[str, Any] = {}
        self._modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """A ControlNet as diffusers itself loads it."""
        import diffusers
        from likeness.pipelines.sources import read_json

        if name not in self._modules:
            folder = self._controls(name)
            cls = getattr(diffusers, read_json(folder / "config.json")["_class_name"])
            self._modules[name] = cls.from_pretrained(folder, local_files_only=True).eval()
        return self._modules[name]

    def base(self, model: str) -> Any:
        if model not in self._bases:
            self._bases[model] = open_folder(self._folder(model))
        return self._bases[model]

    def pipeline(self, kind: str, model: str, names: list[str]) -> Any:
        """A pipeline of class `kind` with one ControlNet, or several as a list."""
        import diffusers

        cls = getattr(diffusers, kind)
        base = self.base(model)
        modules = [self.module(name) for name in names]
        given = {**base.config, **base.components, **family_named(_family(model)).load_options}
        part = "adapter" if "Adapter" in kind else "controlnet"
        given[part] = modules if len(modules) > 1 else modules[0]
        if part == "adapter" and len(modules) > 1:
            given[part] = diffusers.MultiAdapter(modules)
        known = inspect.signature(cls.__init__).parameters
        pipeline = cls(**{name: value for name, value in given.items() if name in known})
        pipeline.scheduler = type(base.scheduler).from_config(base.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def draw(
        self, kind: str, names: list[str], count: int = 1, base: str = "", **arguments: Any
    ) -> list[Image.Image]:
        """Pictures with the prompt, seeds and guidance that ours are drawn with."""
        model = base or CONTROLS[names[0]][0]
        pipeline = self.pipeline(kind, model, names)
        size = dict(zip(("width", "height"), SIZE, strict=True))
        size = {} if "Img2Img" in kind and model == "stable-diffusion" else size
        negative = {} if model.startswith("flux") else {"negative_prompt": ["blue"] * count}
        generators = [torch.Generator("cpu").manual_seed(SEED + index) for index in range(count)]
        torch.manual_seed(0)  # SD 3's draws noise from torch's global state
        with torch.no_grad():
            return pipeline(
                **{
                    "prompt": [PROMPT] * count,
                    "num_inference_steps": STEPS,
                    "guidance_scale": GUIDANCE,
                    "generator": generators,
                    **negative,
                    **size,
                    **arguments,
                }
            ).images


def _family(model: str) -> str:
    return "stable-diffusion" if model == DEEP else family_of(model)


def same(ours: list[Image.Image], theirs: list[Image.Image]) -> bool:
    """Whether all pictures are equal, bit for bit."""
    pairs = zip(ours, theirs, strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def apart(first: Image.Image, second: Image.Image) -> np.ndarray:
    """Distance in levels of 255 for each pixel."""
    both = (np.asarray(image.convert("RGB"), dtype=float) for image in (first, second))
    return np.abs(np.subtract(*both)).mean(axis=-1)
