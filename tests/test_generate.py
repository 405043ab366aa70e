"""Pictures equal plain diffusers', weights are loaded once, bad requests say what is wrong."""

from __future__ import annotations

import shutil

import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import SCHEDULERS, Sampling, generate
from likeness.pipelines.loading import Pipelines, base_identity
from likeness.pipelines.spec import PipelineSpec

from .conftest import TINY


@pytest.fixture(scope="module")
def plain():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        TINY, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_same_seed_same_pixels_as_plain_diffusers(pipelines, tiny_base, plain):
    sampling = Sampling(
        "a blue house in the snow",
        "red",
        steps=5,
        guidance=4.0,
        seed=11,
        count=2,
        width=72,
        height=64,
    )
    ours = generate(pipelines, PipelineSpec(tiny_base), sampling)
    theirs = plain(
        [sampling.prompt] * 2,
        negative_prompt=[sampling.negative] * 2,
        num_inference_steps=5,
        guidance_scale=4.0,
        width=72,
        height=64,
        generator=[torch.Generator().manual_seed(11 + index) for index in range(2)],
    ).images
    assert [image.size for image in ours] == [(72, 64)] * 2
    assert [image.tobytes() for image in ours] == [image.tobytes() for image in theirs]


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "model"])
def test_every_scheduler_draws_and_leaves_the_shared_one_alone(pipelines, tiny_base, scheduler):
    with pipelines.open(tiny_base) as live:
        before = (live.pipeline.scheduler, dict(live.pipeline.scheduler.config))
    sampling = Sampling("a red star", steps=3, scheduler=scheduler)
    first = generate(pipelines, PipelineSpec(tiny_base), sampling)[0].tobytes()
    assert generate(pipelines, PipelineSpec(tiny_base), sampling)[0].tobytes() == first
    with pipelines.open(tiny_base) as live:
        assert live.pipeline.scheduler is before[0]
        assert dict(live.pipeline.scheduler.config) == before[1]


def test_it_works_under_inference_mode_and_loads_once(tiny_base):
    cache = Pipelines()
    with torch.inference_mode():
        for seed in range(2):
            generate(cache, PipelineSpec(tiny_base), Sampling("a red star", steps=1, seed=seed))
    assert cache.loads == 1
    with cache.open(tiny_base) as live:
        weights = [
            p for name in ("unet", "text_encoder") for p in live.component(name).parameters()
        ]
        assert not any(p.is_inference() for p in weights), "such weights could never be trained"


def test_stopping_between_two_steps_stops(pipelines, tiny_base):
    class Stop(Exception):
        pass

    seen = []

    def on_step(done, total):
        seen.append((done, total))
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        generate(pipelines, PipelineSpec(tiny_base), Sampling("a red star", steps=9), on_step)
    assert seen == [(1, 9), (2, 9)]


def test_free_and_budget_forget_what_is_idle(tiny_base, tmp_path):
    other = base_model(shutil.copytree(TINY, tmp_path / "other"))
    cache = Pipelines(budget_bytes=1)
    with cache.open(tiny_base):
        with cache.open(other):
            one_model = cache.bytes_held / 2
        cache.free()
        assert cache.bytes_held == one_model, "what is in use stays"
    assert cache.bytes_held == one_model, "the one used last stays even over budget"
    with cache.open(tiny_base):
        pass
    assert cache.loads == 2
    with cache.open(other):
        pass
    assert (cache.loads, cache.bytes_held) == (3, one_model), "the budget has room for one"
    cache.free()
    assert cache.bytes_held == 0


def test_a_replaced_model_is_loaded_anew_and_has_another_identity(tmp_path):
    from safetensors.torch import load_file, save_file

    base = base_model(shutil.copytree(TINY, tmp_path / "model"))
    cache = Pipelines()
    identity = base_identity(base)
    assert identity == base_identity(base_model(TINY)), "a copy is the same model"
    with cache.open(base):
        pass
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.bias"][0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    assert base_identity(base) != identity
    with cache.open(base) as live:
        assert live.component("unet").conv_in.bias[0] == tensors["conv_in.bias"][0].float()
    assert cache.loads == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps 0 cannot be used"),
        ({"count": 0}, "count 0 cannot be used"),
        ({"seed": -1}, "seed -1 cannot be used"),
        ({"width": 65}, "width 65 cannot be used; use a multiple of 8, such as 64"),
        ({"height": 100_000}, "height 100000 cannot be used"),
        ({"scheduler": "magic"}, "scheduler 'magic' cannot be used; use one of model, ddim"),
    ],
)
def test_bad_requests_name_the_value_and_the_way_out(pipelines, tiny_base, change, message):
    with pytest.raises(ValueError, match=message):
        generate(pipelines, PipelineSpec(tiny_base), Sampling("a red star", **change))


def test_missing_and_truncated_models_are_refused_clearly(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a diffusers model.*choose the folder"):
        base_model(tmp_path / "nowhere")
    broken = shutil.copytree(TINY, tmp_path / "broken")
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    cache = Pipelines()
    with pytest.raises(ValueError, match=r"broken cannot be loaded .*copy the model again"):
        generate(cache, PipelineSpec(base_model(broken)), Sampling("a red star", steps=1))
    assert cache.bytes_held == 0
    (broken / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json cannot be read"):
        base_model(broken)
    (broken / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(ValueError, match=r"a WanPipeline, which Likeness does not know"):
        base_model(broken)
