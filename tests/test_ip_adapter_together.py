"""IP-Adapters beside ControlNets and T2I-Adapters: the pixels of plain diffusers with both."""

from __future__ import annotations

import inspect

import pytest
from likeness.pipelines.base_models import base_model
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ControlUse, Picture, ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

from .control_models import adapter as t2i_adapter
from .control_models import unet_control
from .ip_adapter_models import ENCODER, generator, photo, picture, save, unet_adapter
from .plain_references import clip_parts, plain_pipeline

LINES = photo(11, (64, 64)).convert("L").point(lambda level: 255 * (level > 128)).convert("RGB")
SETTINGS = {"steps": 3, "guidance": 3.0, "seed": 5, "width": 64, "height": 64}
XL_SIZES = {"downscale_factor": 16, "adapter_type": "full_adapter_xl"}
CASES = {
    "StableDiffusionControlNetPipeline": ("stable-diffusion", unet_control, {}),
    "StableDiffusionXLControlNetPipeline": ("sdxl", unet_control, {}),
    "StableDiffusionXLAdapterPipeline": ("sdxl", t2i_adapter, XL_SIZES),
    "StableDiffusionAdapterPipeline": ("stable-diffusion", t2i_adapter, {}),
}


@pytest.fixture(scope="module")
def cache():
    return Pipelines("cpu")


@pytest.fixture(scope="module")
def parts(tiny_models, tmp_path_factory):
    """A function from a pipeline to the base's folder, the control's and an IP-Adapter for it."""

    def make(kind):
        model, build, options = CASES[kind]
        folder, base = tmp_path_factory.mktemp(kind), tiny_models(model)
        build(base, 31, **options).save_pretrained(folder / "control")
        unet = plain_pipeline(str(base)).unet
        path = save(unet_adapter(unet, "plus", 6), folder / "adapter.safetensors")
        return base, folder / "control", describe_adapter(path, ENCODER)

    return make


def draw(cache, base, control, *uses):
    put_on = ControlUse(describe_control(control), (Picture.of(LINES),), 0.8)
    spec = PipelineSpec(base_model(base), controls=(put_on,), references=uses)
    sampling = Sampling("a red star", "blue", count=2, **SETTINGS)
    return [image.tobytes() for image in generate(cache, spec, sampling)]


def plain(kind, base, control, adapter):
    import diffusers

    cls, bare = getattr(diffusers, kind), plain_pipeline(str(base))
    is_net = "ControlNet" in kind
    beside = (diffusers.ControlNetModel if is_net else diffusers.T2IAdapter).from_pretrained
    part = {"controlnet" if is_net else "adapter": beside(control).eval()}
    given = {**bare.config, **bare.components, **part, "requires_safety_checker": False}
    names = inspect.signature(cls.__init__).parameters
    pipeline = cls(**{name: value for name, value in given.items() if name in names})
    pipeline.set_progress_bar_config(disable=True)
    pipeline.register_modules(**clip_parts())
    folder, _, name = adapter.path.rpartition("/")
    pipeline.load_ip_adapter(folder, "", name, image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.7)
    scale = "controlnet_conditioning_scale" if is_net else "adapter_conditioning_scale"
    try:
        found = pipeline(
            prompt=["a red star"] * 2,
            negative_prompt=["blue"] * 2,
            image=LINES if is_net else [LINES] * 2,
            ip_adapter_image=[photo(1)],
            num_inference_steps=3,
            guidance_scale=3.0,
            width=64,
            height=64,
            generator=[generator(5), generator(6)],
            **{scale: 0.8},
        ).images
    finally:
        pipeline.unload_ip_adapter()  # other tests draw with the same UNet
    return [image.tobytes() for image in found]


@pytest.mark.parametrize("kind", list(CASES)[:3])
def test_both_at_once(cache, parts, kind):
    base, control, adapter = parts(kind)
    both = draw(cache, base, control, ReferenceUse(adapter, (picture(1),), 0.7))
    assert both == plain(kind, base, control, adapter)
    assert both != draw(cache, base, control)


def test_what_diffusers_has_no_pipeline_for(cache, parts):
    base, control, adapter = parts("StableDiffusionAdapterPipeline")
    with pytest.raises(ValueError, match=r"StableDiffusionAdapterPipeline, .* takes no IP-Adapter"):
        draw(cache, base, control, ReferenceUse(adapter, (picture(1),)))
