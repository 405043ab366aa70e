"""Nothing of an IP-Adapter stays behind, and nothing is loaded or encoded twice."""

from __future__ import annotations

import copy

import pytest
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import Picture, ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

from .ip_adapter_models import ENCODER, half, picture, save, unet_adapter

SMALL = {"steps": 2, "guidance": 3.0, "seed": 5, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def adapter(pipelines, tiny_base, tmp_path_factory):
    with pipelines.open(tiny_base) as live:
        state = unet_adapter(live.pipeline.unet, "plus", 1)
    path = save(state, tmp_path_factory.mktemp("adapter") / "plus.bin")
    return describe_adapter(path, ENCODER)


def draw(cache, base, *uses, prompt="a red star", on_step=None, **settings):
    spec = PipelineSpec(base, references=uses)
    found = generate(cache, spec, Sampling(prompt, **{**SMALL, **settings}), on_step)
    return [image.tobytes() for image in found]


def state_of(live):
    """Everything of the denoiser that an adapter touches."""
    unet = live.pipeline.unet
    layers = {name: each for name, each in unet.named_modules() if hasattr(each, "processor")}
    return {
        "processors": {name: id(layer.processor) for name, layer in layers.items()},
        "modules": [name for name, _ in unet.named_modules()],
        "where": {name: "processor" in vars(layer) for name, layer in layers.items()},
        "projection": (unet.encoder_hid_proj, "encoder_hid_proj" in vars(unet)),
        "told": copy.copy(vars(unet.config)),
        "entries": dict(unet.config),
        "weights": {name: tensor.data_ptr() for name, tensor in unet.state_dict().items()},
        "pipeline": {name: id(part) for name, part in live.pipeline.components.items()},
    }


class Stopped(Exception):
    pass


def test_nothing_stays_also_after_a_stop(pipelines, tiny_base, adapter):
    use = ReferenceUse(adapter, (picture(1),), mask=Picture.of(half()), start=0.5)
    before = draw(pipelines, tiny_base)
    with pipelines.open(tiny_base) as live:
        state = state_of(live)
    guided = draw(pipelines, tiny_base, use)
    with pipelines.open(tiny_base) as live:
        assert state_of(live) == state

    def stop(done, total):
        with pipelines.open(tiny_base) as live:
            assert state_of(live) != state
        raise Stopped

    with pytest.raises(Stopped):
        draw(pipelines, tiny_base, use, on_step=stop)
    with pipelines.open(tiny_base) as live:
        assert state_of(live) == state
    assert draw(pipelines, tiny_base) == before != guided
    assert draw(pipelines, tiny_base, use) == guided


def test_another_prompt_loads_and_encodes_nothing(tiny_base, adapter):
    cache = Pipelines("cpu")
    use = ReferenceUse(adapter, (picture(1),), 0.7, negatives=(picture(2),))
    first = draw(cache, tiny_base, use)
    assert (cache.loads, cache.remembered.computed) == (3, 2)  # base, encoder, adapter
    assert draw(cache, tiny_base, use, prompt="a blue cat") != first
    again = ReferenceUse(adapter, (picture(1),), 0.3, start=0.5, negatives=(picture(2),))
    draw(cache, tiny_base, again)
    assert (cache.loads, cache.remembered.computed) == (3, 2)
    draw(cache, tiny_base, ReferenceUse(adapter, (picture(3),)))
    assert (cache.loads, cache.remembered.computed) == (3, 3)
    assert draw(cache, tiny_base, use) == first


def test_a_known_picture_needs_no_encoder(tiny_base, adapter, monkeypatch):
    from likeness.pipelines.ip_adapter import encode

    cache = Pipelines("cpu")
    use = ReferenceUse(adapter, (picture(1),))
    first = draw(cache, tiny_base, use)
    monkeypatch.setattr(encode, "load_encoder", None)
    monkeypatch.setattr(encode, "read_encoder", None)
    assert draw(cache, tiny_base, use) == first
    cache.free()
    with pytest.raises(TypeError):
        draw(cache, tiny_base, use)


def test_a_small_budget_draws_the_same(tiny_base, adapter):
    use = ReferenceUse(adapter, (picture(1),))
    wanted = draw(Pipelines("cpu"), tiny_base, use)
    tight = Pipelines("cpu", budget_bytes=1)
    assert draw(tight, tiny_base, use) == wanted
    assert draw(tight, tiny_base, use) == wanted


def test_an_adapter_used_twice_has_its_weights_once(tiny_base, adapter):
    cache = Pipelines("cpu")
    with cache.open(tiny_base):
        base = cache.bytes_held
        draw(cache, tiny_base, ReferenceUse(adapter, (picture(1),)))
        one = cache.bytes_held - base
    cache = Pipelines("cpu")
    draw(cache, tiny_base, *[ReferenceUse(adapter, (picture(seed),)) for seed in (1, 2)])
    assert cache.bytes_held - base < 1.6 * one


def test_without_weight_nothing_is_touched(tiny_base, adapter):
    cache = Pipelines("cpu")
    plain = draw(cache, tiny_base)
    assert draw(cache, tiny_base, ReferenceUse(adapter, (picture(1),), 0.0)) == plain
    assert (cache.loads, cache.remembered.computed) == (1, 0)


def test_rests_in_half_precision_with_the_base(tiny_base, adapter):
    from dataclasses import replace

    cache = Pipelines("cpu")
    base = replace(tiny_base, dtype="bfloat16")
    use = ReferenceUse(adapter, (picture(1),))
    assert draw(cache, base, use) != draw(cache, base)
    assert all(
        tensor.dtype.itemsize == 2
        for live in cache._live.values()
        for module in live.modules
        for tensor in module.parameters()
    )


def test_rests_in_float8_with_the_base(tiny_base, adapter):
    """The base rests in 8 bits; what hears pictures computes as the base does."""
    from dataclasses import replace

    from likeness.pipelines.spec import MemoryOptions

    cache = Pipelines("cpu")
    base = replace(tiny_base, dtype="bfloat16", memory=MemoryOptions(fp8=True))
    plain = draw(cache, base)
    assert draw(cache, base, ReferenceUse(adapter, (picture(1),))) != plain
    assert draw(cache, base) == plain
