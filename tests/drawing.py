"""Drawing with the bundled tiny base, and looking at what was drawn."""

from __future__ import annotations

import numpy as np
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

PROMPT = "a red star in the snow"


def drawer(pipelines, base):
    """A function from what `Sampling` and `generate` take to pictures of `base`."""
    given = ("on_step", "image", "mask", "on_preview")

    def draw(prompt=PROMPT, **settings):
        sources = {name: settings.pop(name) for name in given if name in settings}
        sampling = Sampling(prompt, **{"steps": 8, "guidance": 3.0, **settings})
        return generate(pipelines, PipelineSpec(base), sampling, **sources)

    return draw


def levels(image):
    return np.asarray(image.convert("RGB"), dtype=float)


def apart(first, second):
    """Mean distance of two pictures in levels of 255."""
    return np.abs(levels(first) - levels(second)).mean()


def red_share(images):
    pixels = np.stack([levels(image) for image in images])
    return (pixels[..., 0] - pixels[..., 1:].max(axis=-1) > 60).mean()


def half(size=(64, 64)):
    """Black on the left, white on the right."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask
