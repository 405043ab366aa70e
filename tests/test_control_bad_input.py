"""What cannot work is refused before anything is computed, with the way out."""

from __future__ import annotations

import json

import pytest
import torch
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.control.uses import control_use
from likeness.pipelines.guidance import ControlUse, Picture
from PIL import Image
from safetensors.torch import save_file

from .control_drawing import START, Drawing
from .control_files import state_of
from .control_models import control_bases, tiny_controls  # noqa: F401 - fixtures
from .drawing import half

GUESS, DEPTH = {"guess": True}, {"mode": "depth"}
REFUSED = {
    # what is put on | base model, "" for its own | settings of the drawing | what the message says
    "another family": (["sdxl"], "sd3", {}, "is for SDXL and the base model is Stable Diffusion 3"),
    "an adapter of another family": (
        ["adapter"],
        "sdxl",
        {},
        "'adapter' is for Stable Diff",
    ),
    "1.x on 2.x": (["sd"], "sd2-v", {}, r"text of width 64, and this base model's text has 128"),
    "other blocks": (["deep"], "stable-diffusion", {}, r"blocks have channels \[32, 64, 64\] and"),
    "another width": (["flux"], "flux-dev-wide", {}, "its width is 64 and the base model's"),
    "the refiner": (
        ["sdxl"],
        "sdxl-refiner",
        {},
        "cannot be steered by a ControlNet; leave",
    ),
    "kinds that do not mix": (
        ["sd", "adapter"],
        "",
        {},
        "together: .* either kind alone",
    ),
    "a union and another": (["sdxl", ("sdxl union", DEPTH)], "", {}, "cannot work together"),
    "reading pictures in two ways": (
        ["flux", "flux hints"],
        "",
        {},
        "asks the first one for conditioning_embedding_channels",
    ),
    "guided and unguided": (["flux", "flux unguided"], "", {}, "the first one for guidance_embeds"),
    "SD 3 and 3.5": (["sd3", "sd3 large"], "", {}, "first one for force_zeros_for_pooled"),
    "guess mode for one": ([("sd", GUESS), "sd other"], "", {}, "guess mode is (on|off) for 'sd"),
    "guess mode beside shuffle": (["sd pooling", "sd"], "", {}, "set all alike"),
    "guess mode of FLUX.1": ([("flux", GUESS)], "", {}, "guess mode cannot be used with 'flux'"),
    "guess mode of an adapter": ([("adapter", GUESS)], "", {}, "guess mode cannot be used with"),
    "guess mode of unions in turns": (
        [
            ("sdxl union", {**GUESS, **DEPTH, "end": 0.5}),
            ("sdxl union other", {**GUESS, **DEPTH, "start": 0.5}),
        ],
        "",
        {},
        "needs one of them in every step",
    ),
    "a late adapter": ([("adapter xl", {"start": 0.5})], "", {}, "start 0.5 cannot be used with"),
    "an adapter that ends": ([("adapter", {"end": 0.5})], "", {}, "end 0.5 cannot be used with"),
    "adapters that end apart": (
        [("adapter xl", {"end": 0.5}), "adapter xl"],
        "",
        {},
        "several T2I-Adapters stop together",
    ),
    "an adapter's sizes": (["adapter xl"], "", {"width": 72}, "width 72 .* use a multiple of 16"),
    "an adapter from a picture": (["adapter"], "", {"image": START}, "with a T2I-Adapter; leave"),
    "SD 3 from a picture": (["sd3"], "", {"image": START}, "with a ControlNet; leave picture"),
    "too few factors": ([("sd", {"blocks": (1.0, 0.5)})], "", {}, "2 factors .* has 5 outputs"),
    "a mask of another size": ([("sd", {"mask": half((32, 32))})], "", {}, "the mask .* 32x32 pix"),
    "pictures to draw from and others": (
        [("sd", {"images": [START] * 3})],
        "",
        {"image": [START] * 2},
        "2 pictures to start from and 3 control pictures",
    ),
    "control pictures of other numbers": (
        [("sd", {"images": [START] * 2}), ("sd other", {"images": [START] * 3})],
        "",
        {},
        "2 control pictures for 'sd' and 3 to draw from",
    ),
}


@pytest.fixture(scope="module")
def drawing(control_bases, tiny_controls):  # noqa: F811
    return Drawing(control_bases, tiny_controls)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(drawing, case):
    uses, base, settings, message = REFUSED[case]

    def step(done, total):
        raise AssertionError("something was computed")

    with pytest.raises(ValueError, match=message):
        drawing.draw(drawing.spec(*uses, base=base), on_step=step, **settings)


BAD_USES = {
    "start after end": ({"start": 0.6, "end": 0.5}, r"start 0.6 is not before end 0.5"),
    "start at end": ({"start": 1.0}, "start 1 is not before end 1"),
    "a negative strength": ({"strength": -1.0}, "strength -1.0 cannot be used; use 0 to 10"),
    "a strength that is no number": ({"strength": float("nan")}, "strength nan cannot be used"),
    "an unknown fit": ({"fit": "tile"}, "fit 'tile' cannot be used; use one of crop"),
    "several masks": ({"masks": [half(), half()]}, "2 masks for one ControlNet"),
    "a mask of another size": ({"masks": [half((64, 32))]}, "64x32 pixels and its control picture"),
    "a single pixel": ({"pictures": [Image.new("RGB", (1, 1))]}, "1x1 pixels is too small to cont"),
    "no picture": ({"pictures": []}, "control picture 'none' cannot be used; connect one"),
    "words for factors": ({"weights": {"weights": "own", "factors": "1, x"}}, "the factor 'x'"),
    "endless factors": ({"weights": {"weights": "own", "factors": "inf"}}, "the factor 'inf'"),
    "too many factors": (
        {"weights": {"weights": "own", "factors": "1 " * 6}},
        "6 factors are given and the ControlNet has 5 outputs; write 5 numbers",
    ),
}


@pytest.mark.parametrize("case", BAD_USES)
def test_refused_by_the_node(tiny_controls, case):  # noqa: F811
    given, message = BAD_USES[case]
    given = {"pictures": [START], **given}
    with pytest.raises(ValueError, match=message):
        control_use(describe_control(tiny_controls("sd")), **given)


def test_a_union_must_be_told(tiny_controls):  # noqa: F811
    control = describe_control(tiny_controls("sdxl union"))
    with pytest.raises(ValueError, match="set mode to one of openpose, depth"):
        control_use(control, [START])
    with pytest.raises(ValueError, match="'blur' is none of its modes"):
        control_use(control, [START], mode="blur")
    with pytest.raises(ValueError, match="mode '' cannot be used"):
        ControlUse(control, (Picture.of(START),))


# -- files -----------------------------------------------------------------------------------------

FOREIGN = {
    "nothing like it": ({"some.weight": (4, 4)}, r"no ControlNet that Likeness knows: it holds 1"),
    "a Control-LoRA": ({"lora_controlnet": (1,), "zero_convs.0.0.weight": (4, 4)}, "Control-LoRA"),
    "a LoRA": ({"unet.down.lora_A.weight": (4, 4)}, "is a LoRA; choose it in Load LoRA"),
    "an IP-Adapter": ({"image_proj.proj.weight": (4, 4)}, "choose it in Load IP-Adapter"),
    "Z-Image": ({"control_all_x_embedder.2-1.weight": (4, 4)}, "for Z-Image, which Likeness"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_files_that_are_something_else(tmp_path, case):
    shapes, message = FOREIGN[case]
    path = tmp_path / "control_canny.safetensors"  # names tell nothing
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ValueError, match=message):
        describe_control(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="is not there; choose it again"):
        describe_control(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="has no weights"):
        describe_control(tmp_path)


def test_a_file_cut_short(tiny_controls, tmp_path):  # noqa: F811
    whole = (tiny_controls("sd") / "diffusion_pytorch_model.safetensors").read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or cut short"):
        describe_control(path)


def test_a_kind_that_was_asked_for(tiny_controls):  # noqa: F811
    with pytest.raises(ValueError, match="is a T2I-Adapter and no ControlNet"):
        describe_control(tiny_controls("adapter"), kind="controlnet")


def drawn_from(drawing, path):
    use = ControlUse(describe_control(path), (Picture.of(START),))
    return drawing.draw(drawing.spec(use, base="stable-diffusion"), steps=1)


def test_missing_tensors_are_counted_and_named(drawing, tiny_controls, tmp_path):  # noqa: F811
    state = state_of(tiny_controls("sd"))
    state.pop("controlnet_mid_block.weight")
    path = tmp_path / "part.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=r"1 tensors are missing \(controlnet_mid_block.weight\)"):
        drawn_from(drawing, path)


def test_a_configuration_that_does_not_fit(drawing, tiny_controls, tmp_path):  # noqa: F811
    save_file(state_of(tiny_controls("sd")), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {"cross_attention_dim": 64, "layers_per_block": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its blocks have layers 2 and the base model's 1"):
        drawn_from(drawing, tmp_path)


def test_a_file_that_was_replaced_since(drawing, tiny_controls, tmp_path):  # noqa: F811
    path = tmp_path / "control.safetensors"
    save_file(state_of(tiny_controls("sd")), path)
    use = ControlUse(describe_control(path), (Picture.of(START),))
    save_file(state_of(tiny_controls("sd other")), path)
    with pytest.raises(ValueError, match="have changed since it was chosen"):
        drawing.draw(drawing.spec(use, base="stable-diffusion"), steps=1)
