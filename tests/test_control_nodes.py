"""Load ControlNet and Apply ControlNet: what their inputs become."""

from __future__ import annotations

import pytest
import torch
from likeness.nodes import NODES
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.control.hub import hub_control
from likeness.pipelines.control.uses import soft_weights
from likeness.pipelines.guidance import ControlUse
from likeness.pipelines.spec import PipelineSpec

from .conftest import TINY
from .control_models import control_bases, tiny_controls  # noqa: F401 - fixtures

LOAD, APPLY = (
    next(node for node in NODES if node.GET_SCHEMA().node_id == f"Likeness{name}ControlNet")
    for name in ("Load", "Apply")
)
IMAGE = torch.rand(1, 64, 48, 3)


@pytest.fixture
def control(tiny_controls):  # noqa: F811
    return describe_control(tiny_controls("sd"))


@pytest.fixture
def pipeline(tiny_base):
    return PipelineSpec(tiny_base)


def put_on(*arguments, **options) -> ControlUse:
    (spec,) = APPLY.execute(*arguments, **options).args
    assert isinstance(spec, PipelineSpec)
    return spec.controls[-1]


def test_settings_arrive(pipeline, control):
    mask = torch.zeros(1, 64, 48)
    mask[:, :, 24:] = 1
    use = put_on(
        pipeline,
        control,
        IMAGE,
        strength=0.7,
        start=0.1,
        end=0.9,
        fit="pad",
        guess_mode=True,
        weights={"weights": "own", "factors": "0, 0.25 0.5, 1,2"},
        mask=mask,
    )
    assert (use.strength, use.start, use.end, use.fit, use.guess) == (0.7, 0.1, 0.9, "pad", True)
    assert use.blocks == (0.0, 0.25, 0.5, 1.0, 2.0)
    assert use.images[0].size == use.mask.size == (48, 64)
    assert use.mask.image().getpixel((40, 0)) == 255
    assert pipeline.controls == ()


def test_what_is_left_out_has_no_effect(pipeline, control):
    use = put_on(pipeline, control, IMAGE)
    assert use == ControlUse(control, use.images)
    assert use == put_on(pipeline, control, IMAGE, weights={"weights": "even"})


def test_chained_nodes_add_up(pipeline, control):
    first, second = IMAGE, torch.rand(2, 64, 64, 3)
    (one,) = APPLY.execute(pipeline, control, first).args
    (two,) = APPLY.execute(one, control, second).args
    assert [len(use.images) for use in two.controls] == [1, 2]


def test_soft_weights_are_those_that_are_known_by_that_name(pipeline, control):
    # A1111: 0.825 ** (12 - i) for the thirteen outputs of Stable Diffusion 1.5.
    assert soft_weights(13) == pytest.approx([0.825 ** (12 - i) for i in range(13)])
    use = put_on(pipeline, control, IMAGE, weights={"weights": "soft", "falloff": 0.5})
    assert use.blocks == (0.0625, 0.125, 0.25, 0.5, 1.0)


def test_a_picture_with_transparency_lies_on_white(pipeline, control):
    clear = torch.zeros(1, 16, 16, 4)
    assert put_on(pipeline, control, clear).images[0].image().getpixel((0, 0)) == (255, 255, 255)


def test_a_unions_mode_by_a_word(pipeline, tiny_controls):  # noqa: F811
    union = describe_control(tiny_controls("sdxl union"))
    assert put_on(pipeline, union, IMAGE, mode="scribble").mode == "hed/scribble"


def test_the_bundled_controlnet_is_offered_and_told_about():
    options = LOAD.GET_NODE_INFO_V1()["input"]["required"]["file"][1]["options"]
    assert "tiny" in options
    control, info = LOAD.execute("tiny").args
    assert (control.family, control.kind) == ("stable-diffusion", "controlnet")
    assert info.splitlines() == ["ControlNet for Stable Diffusion 1.x/2.x", "outputs: 7"]
    assert LOAD.fingerprint_inputs("tiny") == control.identity
    assert LOAD.fingerprint_inputs("not there") == "not here yet"


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_controls):  # noqa: F811
    """A local hub cache with one repository in it; nothing may be asked for beyond it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--somebody--canny" / "snapshots" / "abc"
    place.mkdir(parents=True)
    (place.parents[1] / "refs").mkdir()
    (place.parents[1] / "refs" / "main").write_text("abc")
    for file in tiny_controls("sd").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / "one.safetensors").write_bytes(
        (place / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    return place


def test_a_repository_in_the_cache(hub, control):
    assert hub_control("somebody/canny") == hub
    assert hub_control(" somebody/canny ", "one.safetensors") == hub / "one.safetensors"
    loaded, _ = LOAD.execute("none", "somebody/canny").args
    assert (loaded.name, loaded.identity) == ("canny", control.identity)
    assert LOAD.fingerprint_inputs("none", "somebody/canny") == control.identity


BAD_NAMES = {
    ("canny", ""): "is no repository of the hub; write owner/name",
    ("somebody/canny", "../one.safetensors"): "is no file of weights in a repository",
    ("somebody/canny", "readme.md"): "is no file of weights in a repository",
    ("somebody/depth", ""): "somebody/depth is not in the local hub cache .* HF_HUB_OFFLINE is set",
    ("somebody/canny", "two.pth"): "canny/two.pth is not in the local hub cache",
}


@pytest.mark.parametrize(("repository", "file"), BAD_NAMES)
def test_what_the_cache_does_not_have(hub, repository, file):
    with pytest.raises(ValueError, match=BAD_NAMES[repository, file]):
        hub_control(repository, file)


def test_the_bundled_controlnet_lies_beside_its_base():
    assert describe_control(TINY.parent / "controlnet").name == "controlnet"
