"""ControlNets beside other things: plain pixels with batches, LoRAs and inpainting models."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ControlUse, Picture
from likeness.pipelines.lora import applied
from likeness.pipelines.spec import LoraUse, PipelineSpec
from safetensors.torch import save_file

from .conftest import TINY
from .control_drawing import PICTURES, START, Drawing
from .control_files import stability, state_of
from .control_models import control_bases, tiny_controls  # noqa: F401 - fixtures
from .control_plain import GUIDANCE, PROMPT, SEED, STEPS, Plain, apart, same
from .drawing import half
from .tiny_transformers import open_folder

ONE, TWO, _ = PICTURES
EACH = [ONE, ONE, TWO, TWO]


@pytest.fixture(scope="module")
def plain(control_bases, tiny_controls):  # noqa: F811
    return Plain(control_bases, tiny_controls)


@pytest.fixture(scope="module")
def drawing(control_bases, tiny_controls):  # noqa: F811
    return Drawing(control_bases, tiny_controls)


def test_a_model_for_inpainting(drawing, plain):
    spec = drawing.spec("sd", base="sd-inpaint")
    ours = drawing.draw(spec, image=START, mask=half(), denoise=0.75)
    theirs = plain.draw(
        "StableDiffusionControlNetInpaintPipeline",
        ["sd"],
        base="sd-inpaint",
        image=[START],
        mask_image=[half()],
        control_image=ONE,
        controlnet_conditioning_scale=1.0,
        strength=0.75,
    )
    assert same(ours, theirs)


ROWS = {
    "sd": ("StableDiffusionControlNetPipeline", "image", {}),
    "adapter": ("StableDiffusionAdapterPipeline", "image", {}),
    "flux union": (
        "FluxControlNetImg2ImgPipeline",
        "control_image",
        {"control_mode": [4] * 4, "image": [START] * 4, "strength": 0.75},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_control_picture_for_each_row(drawing, plain, name):
    kind, word, told = ROWS[name]
    mode = {"mode": "pose"} if name == "flux union" else {}
    sources = {"image": START, "denoise": 0.75} if told else {}
    spec = drawing.spec((name, {"images": [ONE, TWO], **mode}))
    ours = drawing.draw(spec, count=2, **sources)
    assert same(ours, plain.draw(kind, [name], count=4, **{**told, word: EACH}))


def test_stabilitys_for_edges_reads_pictures_in_its_own_way(
    drawing,
    plain,
    tiny_controls,  # noqa: F811
    tmp_path,
):
    """Its own code gives it the levels 0..1 times 255 times a half and a half more."""
    path = tmp_path / "edges.safetensors"
    save_file(stability(state_of(tiny_controls("sd3 large")), 1), path)
    use = ControlUse(describe_control(path), (Picture.of(ONE),))
    levels = torch.from_numpy(np.asarray(ONE, dtype=np.float32) / 255).movedim(-1, 0)[None]
    theirs = plain.draw(
        "StableDiffusion3ControlNetPipeline",
        ["sd3 large"],
        control_image=levels * 255 * 0.5 + 0.5,
    )
    (ours,) = drawing.draw(drawing.spec(use, base="sd3"))
    # The levels come by way of -1..1, which rounds.
    assert apart(ours, theirs[0]).max() <= 1


def test_with_a_fused_lora(pipelines, tiny_base, make_lora):
    """Plain diffusers with the modules that the LoRA was added to."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    control = describe_control(TINY.parent / "controlnet")
    lora = LoraUse(make_lora(3, strength=0.3), 0.8, 0.8)
    use = ControlUse(control, (Picture.of(ONE),), 0.9)
    spec = PipelineSpec(tiny_base, loras=(lora,), controls=(use,))
    sampling = Sampling(PROMPT, "blue", STEPS, GUIDANCE, SEED)
    ours = generate(pipelines, spec, sampling)
    with pipelines.open(tiny_base) as live, applied(live, spec.loras):
        fused = {name: copy.deepcopy(live.component(name)) for name in ("unet", "text_encoder")}
    net = ControlNetModel.from_pretrained(control.path, local_files_only=True)
    parts = {**open_folder(TINY).components, **fused, "controlnet": net}
    plain = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    theirs = plain(
        PROMPT,
        ONE,
        negative_prompt="blue",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator("cpu").manual_seed(SEED)],
        controlnet_conditioning_scale=0.9,
    ).images
    assert same(ours, theirs)
    assert not same(ours, generate(pipelines, replace(spec, loras=()), sampling))
    assert not same(ours, generate(pipelines, replace(spec, controls=()), sampling))
