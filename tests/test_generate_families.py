"""Every family × task: the pixels of the plain diffusers pipeline with the same arguments."""

from __future__ import annotations

import inspect

import pytest
import torch
from likeness.families import family_named
from likeness.families.family import IMAGE, INPAINT, TEXT
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

from .tiny_models import family_of

PIPELINES = {
    "stable-diffusion": {
        TEXT: "StableDiffusionPipeline",
        IMAGE: "StableDiffusionImg2ImgPipeline",
        INPAINT: "StableDiffusionInpaintPipeline",
    },
    "sd-inpaint": {INPAINT: "StableDiffusionInpaintPipeline"},
    "sd2-v": {
        TEXT: "StableDiffusionPipeline",
        IMAGE: "StableDiffusionImg2ImgPipeline",
        INPAINT: "StableDiffusionInpaintPipeline",
    },
    "sdxl": {
        TEXT: "StableDiffusionXLPipeline",
        IMAGE: "StableDiffusionXLImg2ImgPipeline",
        INPAINT: "StableDiffusionXLInpaintPipeline",
    },
    "sdxl-refiner": {
        IMAGE: "StableDiffusionXLImg2ImgPipeline",
        INPAINT: "StableDiffusionXLInpaintPipeline",
    },
    "sd3": {
        TEXT: "StableDiffusion3Pipeline",
        IMAGE: "StableDiffusion3Img2ImgPipeline",
        INPAINT: "StableDiffusion3InpaintPipeline",
    },
    "flux": {TEXT: "FluxPipeline", IMAGE: "FluxImg2ImgPipeline", INPAINT: "FluxInpaintPipeline"},
    "flux-schnell": {TEXT: "FluxPipeline"},
    "z-image": {
        TEXT: "ZImagePipeline",
        IMAGE: "ZImageImg2ImgPipeline",
        INPAINT: "ZImageInpaintPipeline",
    },
}
CASES = [(model, task) for model, tasks in PIPELINES.items() for task in tasks]
SIZED = (TEXT, INPAINT)


def picture(size=(64, 64)):
    """A red disk on a blue ground."""
    from PIL import ImageDraw

    image = Image.new("RGB", size, (20, 40, 160))
    ImageDraw.Draw(image).ellipse((8, 8, size[0] // 2, size[1] // 2), fill=(220, 30, 30))
    return image


def half_mask(size=(64, 64)):
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


@pytest.fixture(scope="module")
def cache():
    return Pipelines("cpu")


@pytest.fixture(scope="module")
def plain(tiny_models):
    """The plain pipeline of a model and task, and the tiny model's folder."""
    import diffusers

    loaded = {}

    def make(model, task):
        kind = getattr(diffusers, PIPELINES[model][task])
        if model not in loaded:
            options = family_named(family_of(model)).load_options
            folder = tiny_models(model)
            loaded[model] = kind.from_pretrained(folder, dtype=torch.float32, **options)
        given = {**loaded[model].config, **loaded[model].components}
        names = inspect.signature(kind.__init__).parameters
        pipeline = kind(**{name: value for name, value in given.items() if name in names})
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.mark.parametrize(("model", "task"), CASES)
def test_the_pixels_of_plain_diffusers(cache, tiny_models, plain, model, task):
    base = base_model(tiny_models(model))
    assert base.family == family_of(model)
    sampling = Sampling(
        "a red star in the snow",
        "" if model.startswith("flux") else "blue",
        steps=4,
        guidance=3.0,
        seed=5,
        count=2,
        width=64 if task in SIZED else 0,
        height=96 if task in SIZED else 0,
        denoise=1.0 if task == TEXT else 0.75,
    )
    size = (64, 96) if task in SIZED else (64, 64)
    sources, arguments = {}, {}
    if task != TEXT:
        sources["image"] = picture(size)
        arguments |= {"image": [picture(size)] * 2, "strength": 0.75}
    if task == INPAINT:
        sources["mask"] = half_mask(size)
        arguments["mask_image"] = [half_mask(size)] * 2
    ours = generate(cache, PipelineSpec(base), sampling, **sources)
    if not model.startswith("flux"):
        arguments["negative_prompt"] = ["blue"] * 2
    pipeline = plain(model, task)
    if "width" in inspect.signature(pipeline.__call__).parameters:
        arguments |= {"width": size[0], "height": size[1]}
    theirs = pipeline(
        prompt=["a red star in the snow"] * 2,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(5 + index) for index in range(2)],
        **arguments,
    ).images
    assert [image.size for image in ours] == [size] * 2
    assert ours[0].tobytes() != ours[1].tobytes()
    assert [image.tobytes() for image in ours] == [image.tobytes() for image in theirs]
