"""Descriptions of what steers a drawing, and the cache of the models beside the base model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from likeness.pipelines.guidance import (
    ControlNet,
    ControlUse,
    ImageEmbeddings,
    IPAdapter,
    Picture,
    ReferenceUse,
    described,
    in_order,
)
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.remembered import Remembered
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

CONTROL = ControlNet("/models/edges", "stable-diffusion", "controlnet", "ab", "edges")
UNION = replace(CONTROL, kind="union", modes=("depth", "pose"))
ADAPTER = IPAdapter("/models/style.safetensors", "stable-diffusion", "base", "cd", "style")
EMBEDDINGS = ImageEmbeddings("/out/me.safetensors", "ef", "me")


def picture(colour="red", size=(16, 8)):
    return Picture.of(Image.new("RGB", size, colour))


def test_a_picture_is_its_pixels():
    image = Image.effect_noise((16, 8), 50).convert("RGB")
    one = Picture.of(image)
    assert one == Picture.of(image.copy())
    assert one.image().tobytes() == image.tobytes()
    assert one.sha256 == Picture.of(image.copy()).sha256
    # The same bytes in another shape are another picture.
    turned = Image.frombytes("RGB", (8, 16), image.tobytes())
    assert one != Picture.of(turned)
    assert one.sha256 != Picture.of(turned).sha256
    assert str(one.pixels[:4]) not in repr(one)


def test_too_small_pictures_are_named():
    with pytest.raises(ValueError, match="1x1 pixels is too small to follow"):
        described([Image.new("RGB", (1, 1))], "to follow")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 0.5, "end": 0.5}, "start 0.5 is not before end 0.5"),
        ({"start": 0.8, "end": 0.2}, "start 0.8 is not before end 0.2"),
        ({"start": -0.1}, "start -0.1 cannot be used"),
        ({"end": 1.5}, "end 1.5 cannot be used"),
        ({"end": float("nan")}, "end nan cannot be used"),
        ({"strength": -1.0}, "strength -1.0 cannot be used"),
        ({"strength": float("inf")}, "strength inf cannot be used"),
        ({"fit": "squeeze"}, "fit 'squeeze' cannot be used; use one of crop, resize, pad"),
        ({"images": ()}, "control picture 'none' cannot be used; connect one"),
        ({"control": UNION, "mode": "fish"}, "mode 'fish' cannot be used; use one of depth, pose"),
    ],
)
def test_what_a_control_cannot_be_told(change, message):
    use = ControlUse(CONTROL, (picture(),))
    with pytest.raises(ValueError) as raised:
        replace(use, **change)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1.0}, "start 1 is not before end 1"),
        ({"weight": 11.0}, "weight 11.0 cannot be used"),
        ({"weight": float("nan")}, "weight nan cannot be used"),
        ({"combine": "multiply"}, "combine 'multiply' cannot be used"),
        ({"images": ()}, "connect pictures or embeddings"),
        ({"embeddings": EMBEDDINGS}, "connect pictures or embeddings"),
    ],
)
def test_what_a_reference_cannot_be_told(change, message):
    use = ReferenceUse(ADAPTER, (picture(),))
    with pytest.raises(ValueError) as raised:
        replace(use, **change)
    assert message in str(raised.value)


def test_the_order_of_nodes_is_no_part_of_the_order_of_uses():
    uses = [
        ControlUse(CONTROL, (picture(),)),
        ControlUse(CONTROL, (picture("blue"),)),
        ControlUse(CONTROL, (picture(),), strength=0.5),
        ControlUse(CONTROL, (picture(),), mask=picture("white")),
    ]
    assert in_order(uses) == in_order(uses[::-1])
    assert in_order(uses) == in_order([uses[2], uses[0], uses[3], uses[1]])
    assert all(use in uses for use in in_order(uses))


def test_pixels_never_enter_a_run_folder(tiny_base):
    plain = PipelineSpec(tiny_base)
    guided = plain.with_control(ControlUse(CONTROL, (picture(),))).with_reference(
        ReferenceUse(ADAPTER, (picture(),))
    )
    assert guided != plain
    assert guided.unguided() == plain
    assert json.loads(json.dumps(guided.to_dict())) == json.loads(json.dumps(plain.to_dict()))
    assert PipelineSpec.from_dict(json.loads(json.dumps(guided.to_dict()))) == plain


def linear(numbers):
    return torch.nn.Linear(numbers, 1, bias=False)


def test_a_helper_is_loaded_once_and_freed_when_asked():
    cache = Pipelines("cpu", budget_bytes=4000)
    made = []

    def load():
        made.append(linear(10))
        return made[-1]

    for _ in range(2):
        with cache.open_helper(("a",), load) as module:
            assert module is made[0]
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
    assert cache.loads == 1
    assert cache.bytes_held == 40
    cache.free()
    assert cache.bytes_held == 0
    with cache.open_helper(("a",), load) as module:
        assert module is made[1]


def test_helpers_share_the_budget_and_none_goes_while_it_is_used():
    cache = Pipelines("cpu", budget_bytes=100)
    with cache.open_helper(("a",), lambda: linear(20)) as first:
        with cache.open_helper(("b",), lambda: linear(20)):
            assert cache.bytes_held == 160  # over budget, but both are needed
            cache.free()
            assert cache.bytes_held == 160
        with cache.open_helper(("a",), lambda: linear(1)) as again:
            assert again is first
    assert cache.bytes_held == 80  # the one that was used last stayed


def test_what_fails_to_load_leaves_nothing_behind():
    cache = Pipelines("cpu")

    def broken():
        raise ValueError("cut short")

    with pytest.raises(ValueError, match="cut short"), cache.open_helper(("a",), broken):
        pass
    assert cache.bytes_held == 0
    with cache.open_helper(("a",), lambda: linear(3)) as module:
        assert module.in_features == 3


def test_the_host_is_asked_before_each_use_and_may_evict():
    asked = []

    class Kept:
        def __init__(self, modules, bring, evict):
            self.bring, self.evict = bring, evict
            asked.append(("keep", [type(module).__name__ for module in modules]))

        def use(self):
            self.bring()
            asked.append("use")

        def forget(self):
            asked.append("forget")

    kept = []

    def keep(modules, bring, evict):
        kept.append(Kept(modules, bring, evict))
        return kept[-1]

    cache = Pipelines("cpu", keep=keep)
    for _ in range(2):
        with cache.open_helper(("a",), lambda: linear(3)):
            kept[0].evict()  # in use: it stays
            assert cache.bytes_held
    kept[0].evict()
    assert cache.bytes_held == 0
    assert asked == [("keep", ["Linear"]), "use", "use", "forget"]


def test_what_was_computed_is_remembered_up_to_a_number():
    memory = Remembered(entries=2)
    for key in ("a", "b", "a", "c", "a"):
        assert memory.get((key,), lambda key=key: key.upper()) == key.upper()
    assert memory.computed == 3
    memory.get(("b",), lambda: "anew")
    assert memory.computed == 4
    memory.clear()
    assert memory.get(("a",), lambda: "anew") == "anew"
