"""Factors for blocks and masks: what is let through is exact, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.pipelines.control.load import loaded, plan
from likeness.pipelines.control.views import Limits
from likeness.pipelines.spec import PipelineSpec
from PIL import Image, ImageOps

from .control_drawing import Drawing
from .control_models import control_bases, tiny_controls  # noqa: F401 - fixtures
from .control_plain import apart, same
from .drawing import half

OUTPUTS = {"sd": 5, "sdxl": 5, "sdxl union": 5, "sd3": 1, "flux": 2, "adapter": 2}
MODE = {"sdxl union": {"mode": "depth"}}
KINDS = pytest.mark.parametrize("name", OUTPUTS)
WHITE, BLACK = (Image.new("L", (64, 64), level) for level in (255, 0))


@pytest.fixture(scope="module")
def drawing(control_bases, tiny_controls):  # noqa: F811
    return Drawing(control_bases, tiny_controls)


def guided(drawing, name, **options):
    return drawing.draw(drawing.spec((name, MODE.get(name, {}) | options)), steps=2)


@KINDS
def test_factors_of_one_and_a_white_mask_change_no_bit(drawing, name):
    plain = guided(drawing, name)
    ones = (1.0,) * OUTPUTS[name]
    assert same(guided(drawing, name, mask=WHITE, blocks=ones), plain)
    assert not same(guided(drawing, name, blocks=(*ones[:-1], 0.0)), plain)


@KINDS
def test_nothing_let_through_is_no_controlnet(drawing, name):
    # Adding zeros changes no bit. FLUX.1 draws noise for the control picture as well, so that its
    # pictures are those of strength 0.
    base = drawing.spec((name, MODE.get(name, {}))).base
    alone = drawing.draw(PipelineSpec(base), steps=2)
    if name == "flux":
        alone = guided(drawing, name, strength=0.0)
    assert same(guided(drawing, name, mask=BLACK), alone)
    assert same(guided(drawing, name, blocks=(0.0,) * OUTPUTS[name]), alone)
    assert not same(guided(drawing, name), alone)


# SD 3 and FLUX.1 draw noise for each control picture: two uses of one are not one use.
@pytest.mark.parametrize("name", ["sd", "sdxl", "sdxl union", "adapter"])
def test_two_halves_are_a_whole(drawing, name):
    """The same ControlNet twice, each with its own mask, the borders of which lie on the grid."""
    options = MODE.get(name, {})
    one, other = half(), ImageOps.invert(half())
    both = [(name, options | {"mask": mask}) for mask in (one, other)]
    uses = [drawing.use(each, 0, **given) for each, given in both]
    whole, sum_of_both = guided(drawing, name)[0], drawing.draw(drawing.spec(*uses), steps=2)[0]
    # Zeros are added in another order of operations: a level of 255 at most.
    assert apart(sum_of_both, whole).max() <= 1


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_mask_moves_the_effect_to_its_side(drawing, name):
    """What it lets through is exact (below); through attention and norms the rest of the picture
    hears of it, in models as small as these more than in large ones.
    """
    wide = (192, 64)
    picture = Image.effect_noise(wide, 90).convert("RGB")
    use = drawing.use(name, images=[picture], strength=3.0, mask=half(wide))
    steered = drawing.draw(drawing.spec(use), width=192, height=64)[0]
    plain = drawing.draw(PipelineSpec(drawing.spec(use).base), width=192, height=64)[0]
    change = apart(steered, plain)
    left, right = change[:, :64].mean(), change[:, 128:].mean()
    assert right > 2 * left, (left, right)


def test_the_limits_of_each_output_in_its_own_shape():
    limits = Limits((1.0, 0.5, 2.0))
    limits.look_through(half((64, 32)))
    outputs = [torch.ones(2, 3, 4, 8), torch.ones(2, 32, 5)], torch.ones(2, 3, 2, 4)
    (first, tokens), last = limits(None, None, outputs)
    assert first[0, 0].tolist() == [[0.0] * 4 + [1.0] * 4] * 4
    assert tokens[1, :, 0].tolist() == [*[0.0] * 4, *[0.5] * 4] * 4
    assert last[1, 2].tolist() == [[0.0, 0.0, 2.0, 2.0]] * 2
    assert limits(None, None, (None, [last]))[0] is None


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
def test_a_mask_is_fitted_as_its_picture_is(drawing, fit):
    """White all over lets everything through but what is padded."""
    tall = Image.effect_noise((40, 90), 90).convert("RGB")
    mask = Image.new("L", tall.size, 255)
    with_mask, without = (
        drawing.draw(drawing.spec(drawing.use("sd", images=[tall], fit=fit, **given)), steps=2)
        for given in ({"mask": mask}, {})
    )
    assert same(with_mask, without) == (fit != "pad")


# -- nothing is left behind ------------------------------------------------------------------------


def stop(done, total):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", [*OUTPUTS, "sd3 large"])
def test_nothing_is_left_behind(drawing, name):
    use = drawing.use(name, **MODE.get(name, {}), mask=half(), strength=2.0)
    spec = drawing.spec(use)
    alone = drawing.draw(PipelineSpec(spec.base), steps=2)
    with (
        drawing.cache.open(spec.base) as live,
        loaded(drawing.cache, plan(drawing.cache, use.control, live)) as net,
    ):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        attributes = dict(net.__dict__)
    state = torch.random.get_rng_state()
    loads = drawing.cache.loads
    first = drawing.draw(spec, steps=2)
    with pytest.raises(KeyboardInterrupt):
        drawing.draw(spec, steps=2, on_step=stop)
    assert same(drawing.draw(spec, steps=2), first)
    assert same(drawing.draw(PipelineSpec(spec.base), steps=2), alone)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drawing.cache.loads == loads
    assert net.__dict__.keys() == attributes.keys()
    assert all(net.__dict__[key] is value for key, value in attributes.items())
    assert not net._forward_hooks
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


def test_the_order_of_nodes_does_not_matter(drawing):
    names = ("sd", "sd other", "sd")
    uses = [drawing.use(each, index, strength=1.5) for index, each in enumerate(names)]
    one, other = (drawing.draw(drawing.spec(*each), steps=2) for each in (uses, uses[::-1]))
    assert same(one, other)


def test_a_fresh_process_state_does_not_matter(drawing):
    """SD 3's own pipeline takes noise from torch's global state."""
    spec = drawing.spec("sd3")
    pictures = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pictures.append(drawing.draw(spec, steps=2))
    assert same(*pictures)


def test_one_picture_for_each_row(drawing):
    """Each control picture is drawn `count` times, as from pictures to start from."""
    images = [drawing.use("sd", index).images[0] for index in range(2)]
    use = drawing.use("sd")
    both = drawing.draw(drawing.spec(replace(use, images=tuple(images))), count=2, steps=2)
    assert len(both) == 4
    alone = drawing.draw(drawing.spec(replace(use, images=(images[1],))), count=2, steps=2, seed=7)
    assert max(apart(a, b).max() for a, b in zip(both[2:], alone, strict=True)) <= 1


@pytest.mark.parametrize("name", ["sd", "sdxl union", "sd3 large"])
def test_a_pipeline_that_offloads_its_models_leaves_it_alone(control_bases, tiny_controls, name):  # noqa: F811
    """As with `offload` on a GPU, where diffusers puts a hook on every part of its pipeline."""
    drawing = Drawing(control_bases, tiny_controls)
    spec = drawing.spec((name, MODE.get(name, {})))
    first = drawing.draw(spec, steps=2)
    with drawing.cache.open(spec.base) as live:
        live.pipeline.enable_model_cpu_offload(device="cpu")
    nets = [kept.module for kept in drawing.cache._live.values() if hasattr(kept, "module")]
    attributes = [dict(net.__dict__) for net in nets]
    assert same(drawing.draw(spec, steps=2), first)
    with pytest.raises(KeyboardInterrupt):
        drawing.draw(spec, steps=2, on_step=stop)
    assert len(nets) == 1
    assert [dict(net.__dict__) for net in nets] == attributes
    assert same(drawing.draw(PipelineSpec(spec.base), steps=2), first) is False
