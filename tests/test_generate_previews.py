"""Previews show the picture to come, cost no pixel and fit each VAE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.previews import coloured, colourful_picture, latent_colours
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

from .drawing import drawer, levels


@pytest.fixture(scope="module")
def draw(pipelines, tiny_base):
    """A function from what `Sampling` and `generate` take to pictures of the bundled tiny base."""
    return drawer(pipelines, tiny_base)


def alike(preview, picture):
    """Correlation of two pictures, at the preview's size."""
    small = picture.resize(preview.size, Image.Resampling.BOX)
    return np.corrcoef(levels(preview).ravel(), levels(small).ravel())[0, 1]


def test_previews_show_the_picture_to_come_and_change_nothing(draw):
    previews = []
    image = draw("a red star on the beach", steps=10, seed=4, on_preview=previews.append)[0]
    assert image.tobytes() == draw("a red star on the beach", steps=10, seed=4)[0].tobytes()
    assert len(previews) == 10
    assert {preview.size for preview in previews} == {(16, 16)}
    assert alike(previews[-1], image) > 0.9
    assert alike(previews[4], image) > 0.6, "half way the noise is left out"


def test_the_map_is_that_of_this_vae(pipelines, tiny_base):
    with pipelines.open(tiny_base) as live:
        colours = latent_colours(live)
        assert latent_colours(live) is colours, "fitted once"
        pixels = colourful_picture()
        latents, _ = live.family.encode_pixels(live.pipeline, pixels * 2 - 1)
    picture = Image.fromarray((pixels[0].movedim(0, -1) * 255).byte().numpy())
    wrong = torch.cat([colours[[1, 2, 3, 0]], colours[4:]])
    assert alike(coloured(latents[0], colours), picture) > 0.95
    assert alike(coloured(latents[0], wrong), picture) < 0.7


def test_the_map_is_forgotten_with_its_model(tiny_base):
    import gc
    import weakref

    from likeness.pipelines import previews

    cache = Pipelines()
    with cache.open(tiny_base) as live:
        latent_colours(live)
        vae = weakref.ref(live.component("vae"))
    del live
    count = len(previews._maps)
    cache.free()
    gc.collect()
    assert vae() is None
    assert len(previews._maps) == count - 1


@pytest.mark.parametrize("model", ["sdxl", "sd3", "flux", "z-image", "sd2-v"])
def test_every_family_has_previews(tiny_models, model):
    spec = PipelineSpec(base_model(tiny_models(model)))
    previews = []
    cache, sampling = Pipelines(), Sampling("a star", steps=2, width=64, height=96)
    image = generate(cache, spec, sampling, on_preview=previews.append)[0]
    assert len(previews) == 2
    assert all(preview.width / preview.height == 64 / 96 for preview in previews)
    assert image.tobytes() == generate(cache, spec, sampling)[0].tobytes()
