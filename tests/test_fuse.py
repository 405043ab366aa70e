"""Whatever is put on comes off, bit for bit."""

from __future__ import annotations

import random

import pytest
import torch
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.lora import applied
from likeness.pipelines.spec import LoraUse, PipelineSpec


def snapshot(live):
    """Every weight's bytes and the tensor that holds them."""
    modules = {name: live.component(name) for name in ("unet", "vae", "text_encoder")}
    return {
        f"{name}.{key}": (value.data_ptr(), value.clone())
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, (pointer, value) in before.items():
        assert after[key][0] == pointer, f"{key} is another tensor"
        assert torch.equal(after[key][1], value), f"{key} changed"


def test_fusing_changes_the_pictures_and_unfusing_restores_every_bit(
    pipelines, tiny_base, make_lora
):
    sampling = Sampling("a photo of a red star", steps=2, seed=7)
    spec = PipelineSpec(tiny_base)
    with pipelines.open(tiny_base) as live:
        before = snapshot(live)
    plain = generate(pipelines, spec, sampling)[0].tobytes()
    changed = generate(pipelines, spec.with_lora(LoraUse(make_lora(1))), sampling)[0].tobytes()
    again = generate(pipelines, spec, sampling)[0].tobytes()
    with pipelines.open(tiny_base) as live:
        assert_same(before, snapshot(live))
    assert changed != plain
    assert again == plain


def test_scale_0_is_the_base_model_exactly(pipelines, tiny_base, make_lora):
    sampling = Sampling("a photo of a red star", steps=2, seed=7)
    spec = PipelineSpec(tiny_base)
    at_zero = spec.with_lora(LoraUse(make_lora(1), 0.0, 0.0))
    plain = generate(pipelines, spec, sampling)[0].tobytes()
    assert generate(pipelines, at_zero, sampling)[0].tobytes() == plain


def test_twenty_random_steps_end_bit_identical_to_a_fresh_load(pipelines, tiny_base, make_lora):
    from likeness.pipelines.loading import Pipelines

    loras = [make_lora(seed) for seed in range(3)]
    rng = random.Random(3)
    spec = PipelineSpec(tiny_base)
    for _ in range(20):
        action = rng.choice(["fuse", "fuse", "unfuse", "all off", "scale"])
        if action == "fuse":
            spec = spec.with_lora(
                LoraUse(rng.choice(loras), rng.uniform(-2, 2), rng.uniform(-2, 2))
            )
        elif action == "unfuse" and spec.loras:
            spec = spec.without_lora(rng.choice(spec.loras).lora.name)
        elif action == "scale" and spec.loras:
            use = rng.choice(spec.loras)
            spec = spec.without_lora(use.lora.name).with_lora(LoraUse(use.lora, rng.uniform(-2, 2)))
        elif action == "all off":
            spec = spec.without_lora()
        with pipelines.open(tiny_base) as live, applied(live, spec.loras):
            pass
    with pipelines.open(tiny_base) as live, Pipelines().open(tiny_base) as fresh:
        expected = {key: value for key, (_, value) in snapshot(fresh).items()}
        for key, (_, value) in snapshot(live).items():
            assert torch.equal(value, expected[key]), key


def test_the_order_of_fusing_does_not_matter_to_the_last_bit(pipelines, tiny_base, make_lora):
    uses = [LoraUse(make_lora(seed), 0.3 + seed, 0.7 * seed) for seed in range(3)]
    with pipelines.open(tiny_base) as live:
        with applied(live, uses):
            first = {key: value for key, (_, value) in snapshot(live).items()}
        with applied(live, uses[::-1]):
            second = snapshot(live)
    assert all(torch.equal(first[key], value) for key, (_, value) in second.items())


def test_an_exception_inside_restores_everything(pipelines, tiny_base, make_lora):
    with pipelines.open(tiny_base) as live:
        before = snapshot(live)
        with pytest.raises(KeyError), applied(live, [LoraUse(make_lora(1))]):
            raise KeyError("stop")
        assert_same(before, snapshot(live))


def test_a_lora_that_does_not_fit_changes_nothing(pipelines, tiny_base, make_lora, tmp_path):
    from likeness.pipelines.lora.files import describe_lora
    from safetensors.torch import load_file, save_file

    good = make_lora(1)
    tensors = load_file(good.path)
    last = sorted(key for key in tensors if key.endswith("lora_down.weight"))[-1]
    tensors[last] = torch.zeros(4, 5)
    save_file(tensors, tmp_path / "bad.safetensors")
    bad = describe_lora(tmp_path / "bad.safetensors")
    with pipelines.open(tiny_base) as live:
        before = snapshot(live)
        with (
            pytest.raises(ValueError, match=r"bad\.safetensors does not fit.*trained on another"),
            applied(live, [LoraUse(good), LoraUse(bad)]),
        ):
            raise AssertionError("must not get here")
        assert_same(before, snapshot(live))


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_plain_diffusers_gives_the_same_pixels_with_the_same_file(
    pipelines, tiny_base, make_lora, layout
):
    import numpy as np
    from diffusers import StableDiffusionPipeline

    lora = make_lora(5, layout=layout, strength=0.02)
    prompt = "a photo of a red star"
    spec = PipelineSpec(tiny_base).with_lora(LoraUse(lora))
    ours = generate(pipelines, spec, Sampling(prompt, steps=4, seed=3))[0]
    base = generate(pipelines, PipelineSpec(tiny_base), Sampling(prompt, steps=4, seed=3))[0]
    plain = StableDiffusionPipeline.from_pretrained(
        tiny_base.path, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(lora.path)
    theirs = plain(
        prompt,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    difference = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    # They add the LoRA's output to the layer's, we add its weight: equal but for float32 rounding.
    assert difference.max() <= 2
    assert np.abs(np.asarray(ours, int) - np.asarray(base, int)).mean() > 5
