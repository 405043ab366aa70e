"""ControlNets of every family and task: the pixels of plain diffusers with the same arguments."""

from __future__ import annotations

import pytest
from likeness.pipelines.base_models import base_model
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ControlUse, Picture, in_order
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

from .control_models import CONTROLS, control_bases, tiny_controls  # noqa: F401 - fixtures
from .control_plain import GUIDANCE, PROMPT, SEED, STEPS, Plain, lines, same
from .drawing import half

ONE, TWO = lines(seed=0), lines(seed=1)
GREY = ONE.convert("L")
START = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
SD, XL = "StableDiffusion", "StableDiffusionXL"
SCALE = "controlnet_conditioning_scale"
SPANS = {"control_guidance_start": [0.0, 0.25], "control_guidance_end": [0.5, 1.0]}
LATER = {"start": 0.25}, {"control_guidance_start": 0.25}
FROM = {"image": [START] * 2, "strength": 0.75}
INSIDE = {**FROM, "mask_image": [half()] * 2}

CASES = {
    # what is put on (name, settings) | plain class | its arguments
    "one": ([("sd", {})], f"{SD}ControlNetPipeline", {"image": ONE}),
    "strength": (
        [("sd", {"strength": 0.6, **LATER[0]})],
        f"{SD}ControlNetPipeline",
        {"image": ONE, SCALE: 0.6, **LATER[1]},
    ),
    "ends": (
        [("sd", {"end": 0.5})],
        f"{SD}ControlNetPipeline",
        {"image": ONE, "control_guidance_end": 0.5},
    ),
    "guess": (
        [("sd", {"guess": True})],
        f"{SD}ControlNetPipeline",
        {"image": ONE, "guess_mode": True},
    ),
    "pooling": ([("sd pooling", {})], f"{SD}ControlNetPipeline", {"image": ONE}),
    "two": (
        [("sd", {"strength": 0.5, "end": 0.5}), ("sd other", {"strength": 0.8, "start": 0.25})],
        f"{SD}ControlNetPipeline",
        {"image": [ONE, TWO], SCALE: [0.5, 0.8], **SPANS},
    ),
    "two, guessing": (
        [("sd", {"guess": True}), ("sd other", {"guess": True})],
        f"{SD}ControlNetPipeline",
        {"image": [ONE, TWO], "guess_mode": True},
    ),
    "the same twice": (
        [("sd", {}), ("sd", {})],
        f"{SD}ControlNetPipeline",
        {"image": [ONE, TWO]},
    ),
    "2.x": ([("sd2", {})], f"{SD}ControlNetPipeline", {"image": ONE}),
    "image": (
        [("sd", {"strength": 0.6})],
        f"{SD}ControlNetImg2ImgPipeline",
        {"control_image": ONE, SCALE: 0.6, **FROM},
    ),
    "image, two": (
        [("sd", {}), ("sd other", {})],
        f"{SD}ControlNetImg2ImgPipeline",
        {"control_image": [ONE, TWO], SCALE: [1.0, 1.0], **FROM},
    ),
    "inpaint": (
        [("sd", {})],
        f"{SD}ControlNetInpaintPipeline",
        {"control_image": ONE, SCALE: 1.0, **INSIDE},
    ),
    "xl": ([("sdxl", {})], f"{XL}ControlNetPipeline", {"image": ONE}),
    "xl, two, guessing": (
        [("sdxl", {"guess": True}), ("sdxl other", {"guess": True})],
        f"{XL}ControlNetPipeline",
        {"image": [ONE, TWO], "guess_mode": True},
    ),
    "xl, image": (
        [("sdxl", {}), ("sdxl other", {})],
        f"{XL}ControlNetImg2ImgPipeline",
        {"control_image": [ONE, TWO], SCALE: [1.0, 1.0], **FROM},
    ),
    "xl, inpaint": (
        [("sdxl", LATER[0])],
        f"{XL}ControlNetInpaintPipeline",
        {"control_image": ONE, SCALE: 1.0, **LATER[1], **INSIDE},
    ),
    "union": (
        [("sdxl union", {"mode": "canny/lineart", "strength": 0.7})],
        f"{XL}ControlNetUnionPipeline",
        {"control_image": [ONE], "control_mode": [3], SCALE: 0.7},
    ),
    "union, two modes": (
        [
            ("sdxl union", {"mode": "depth", "strength": 0.7, "end": 0.5}),
            ("sdxl union", {"mode": "normal", "start": 0.25}),
        ],
        f"{XL}ControlNetUnionPipeline",
        {"control_image": [ONE, TWO], "control_mode": [1, 4], SCALE: [0.7, 1.0], **SPANS},
    ),
    "two unions": (
        [("sdxl union", {"mode": "depth"}), ("sdxl union other", {"mode": "repaint"})],
        f"{XL}ControlNetUnionPipeline",
        {"control_image": [ONE, TWO], "control_mode": [1, 7], SCALE: [1.0, 1.0]},
    ),
    "union, image": (
        [("sdxl union", {"mode": "openpose"})],
        f"{XL}ControlNetUnionImg2ImgPipeline",
        {"control_image": [ONE], "control_mode": [0], SCALE: 1.0, **FROM},
    ),
    "union, inpaint": (
        [("sdxl union other", {"mode": "tile"})],
        f"{XL}ControlNetUnionInpaintPipeline",
        {"control_image": [ONE], "control_mode": [6], SCALE: 1.0, **INSIDE},
    ),
    "sd3": (
        [("sd3", {"strength": 0.6, **LATER[0]})],
        f"{SD}3ControlNetPipeline",
        {"control_image": ONE, SCALE: 0.6, **LATER[1]},
    ),
    "sd3, two": (
        [("sd3", {}), ("sd3 other", {})],
        f"{SD}3ControlNetPipeline",
        {"control_image": [ONE, TWO], SCALE: [1.0, 1.0]},
    ),
    "sd3, large": ([("sd3 large", {})], f"{SD}3ControlNetPipeline", {"control_image": ONE}),
    "flux": (
        [("flux", {"strength": 0.6, **LATER[0]})],
        "FluxControlNetPipeline",
        {"control_image": ONE, SCALE: 0.6, **LATER[1]},
    ),
    "flux, two": (
        [("flux", {"end": 0.5}), ("flux other", {"start": 0.25})],
        "FluxControlNetPipeline",
        {"control_image": [ONE, TWO], SCALE: [1.0, 1.0], **SPANS},
    ),
    "flux, image": (
        [("flux", {})],
        "FluxControlNetImg2ImgPipeline",
        {"control_image": ONE, **FROM},
    ),
    "flux, inpaint": (
        [("flux", {})],
        "FluxControlNetInpaintPipeline",
        {"control_image": ONE, **INSIDE},
    ),
    "flux, inpaint, two": (
        [("flux", {}), ("flux other", {})],
        "FluxControlNetInpaintPipeline",
        {"control_image": [ONE, TWO], "control_mode": [None] * 2, SCALE: [1.0, 1.0], **INSIDE},
    ),
    "flux union": (
        [("flux union", {"mode": "pose"})],
        "FluxControlNetPipeline",
        {"control_image": ONE, "control_mode": 4},
    ),
    "flux union, two modes": (
        [("flux union", {"mode": "depth"}), ("flux union", {"mode": "gray"})],
        "FluxControlNetPipeline",
        {"control_image": [ONE, TWO], "control_mode": [2, 5], SCALE: [1.0, 1.0]},
    ),
    "flux union and another": (
        [("flux", {}), ("flux union", {"mode": "gray"})],
        "FluxControlNetPipeline",
        {"control_image": [ONE, TWO], "control_mode": [None, 5], SCALE: [1.0, 1.0]},
    ),
    "flux union, image": (
        [("flux union", {"mode": "pose"})],
        "FluxControlNetImg2ImgPipeline",
        {"control_image": ONE, "control_mode": [4, 4], **FROM},
    ),
    "flux hints": ([("flux hints", {})], "FluxControlNetPipeline", {"control_image": ONE}),
    "adapter": (
        [("adapter", {"strength": 0.6})],
        f"{SD}AdapterPipeline",
        {"image": [ONE] * 2, "adapter_conditioning_scale": 0.6},
    ),
    "adapter, grey": ([("adapter grey", {})], f"{SD}AdapterPipeline", {"image": [GREY] * 2}),
    "adapter, light": ([("adapter light", {})], f"{SD}AdapterPipeline", {"image": [ONE] * 2}),
    "adapters": (
        [("adapter", {"strength": 0.6}), ("adapter grey", {})],
        f"{SD}AdapterPipeline",
        {"image": [[ONE] * 2, [TWO.convert("L")] * 2], "adapter_conditioning_scale": [0.6, 1.0]},
    ),
    "adapters xl": (
        [("adapter xl", {"strength": 0.6}), ("adapter xl", {})],
        f"{XL}AdapterPipeline",
        {"image": [[ONE] * 2, [TWO] * 2], "adapter_conditioning_scale": [0.6, 1.0]},
    ),
    "adapter xl": (
        [("adapter xl", {"end": 0.5})],
        f"{XL}AdapterPipeline",
        {"image": [ONE] * 2, "adapter_conditioning_factor": 0.5},
    ),
}


@pytest.fixture(scope="module")
def plain(control_bases, tiny_controls):  # noqa: F811
    return Plain(control_bases, tiny_controls)


@pytest.fixture(scope="module")
def draw(control_bases, tiny_controls):  # noqa: F811
    """A function from uses (name of a ControlNet and what `ControlUse` takes) to two pictures."""
    cache = Pipelines("cpu")

    def drawn(uses, sources, base="", count=2, **rest):
        model = base or CONTROLS[uses[0][0]][0]
        spec = PipelineSpec(base_model(control_bases(model)), **rest)
        for index, (name, options) in enumerate(uses):
            given = {"images": (Picture.of((ONE, TWO)[index]),), **options}
            spec = spec.with_control(
                ControlUse(describe_control(tiny_controls(name), name), **given)
            )
        denoise = 0.75 if sources else 1.0
        negative = "" if model.startswith("flux") else "blue"
        sampling = Sampling(PROMPT, negative, STEPS, GUIDANCE, SEED, count=count, denoise=denoise)
        return generate(cache, spec, sampling, **sources), order_of(spec)

    return drawn


def sources_of(arguments):
    given = {"image": START} if "strength" in arguments else {}
    return given | ({"mask": half()} if "mask_image" in arguments else {})


def order_of(spec):
    """Where ControlNets stand in their own order, in which they are passed on: the last bits of a
    union, and noise, depend on it.
    """
    return [spec.controls.index(use) for use in in_order(spec.controls)]


def in_order_of(order, arguments):
    sources = INSIDE if "strength" in arguments else {}
    lists = {n: v for n, v in arguments.items() if isinstance(v, list) and n not in sources}
    lists = {n: v for n, v in lists.items() if len(v) == len(order) > 1}
    return arguments | {name: [values[i] for i in order] for name, values in lists.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_pixels_of_plain_diffusers(draw, plain, case):
    uses, kind, arguments = CASES[case]
    ours, order = draw(uses, sources_of(arguments))
    names = [uses[index][0] for index in order]
    if "Union" in kind and len(set(names)) == 1:
        names = names[:1]  # several pictures through one model
    theirs = plain.draw(kind, names, count=2, **in_order_of(order, arguments))
    assert same(ours, theirs)
    assert not same(ours[:1], ours[1:])
