"""Samplers and noise schedules: where a perfect model leads them, and which model takes which.

For data that is normally distributed the perfect denoiser is a formula. A sampler that is told the
right noise levels turns noise into samples of that distribution; one without noise of its own
arrives at the same sample as any other.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.schedulers import NOISE_SCHEDULES, SCHEDULERS, scheduler_for
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

MEAN, SPREAD, STEPS = 0.7, 0.5, 30
# `dpmpp_2m_karras` is another name for two choices that are tested.
DIFFUSION = [
    name for name in SCHEDULERS if "diffusion" in SCHEDULERS[name] and "karras" not in name
]
FLOW = [name for name in SCHEDULERS if "flow" in SCHEDULERS[name]]
NOISY = ("ancestral", "sde", "ddpm", "lcm", "sa_solver")
FLAGGED = ("karras", "exponential", "beta")


def diffusion(**options):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **options,
    )


def zero_snr():
    return diffusion(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


def flow(**options):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, **options)


def perfect(own, timestep, noisy):
    """What a perfect model would answer, told the latents and the time."""
    time = float(timestep)
    if hasattr(own, "alphas_cumprod"):
        signal = np.interp(time, np.arange(1000), own.alphas_cumprod.numpy())
        scale, noise = signal**0.5, (1 - signal) ** 0.5
    else:
        scale, noise = 1 - time / 1000, time / 1000
    variance = (scale * SPREAD) ** 2 + noise**2
    clean = MEAN + scale * SPREAD**2 / variance * (noisy - scale * MEAN)
    amount = (noisy - scale * clean) / max(noise, 1e-8)
    if not hasattr(own, "alphas_cumprod"):
        return amount - clean
    if own.config.prediction_type == "v_prediction":
        return scale * amount - noise * clean
    return amount


def sample(own, scheduler, steps=STEPS):
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = latents * getattr(scheduler, "init_noise_sigma", 1)
    given = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        given["generator"] = torch.Generator().manual_seed(1)
    for timestep in scheduler.timesteps:
        scaled = latents
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(latents, timestep)
        output = perfect(own, timestep, scaled)
        latents = scheduler.step(output, timestep, latents, **given).prev_sample
    return latents


def arrives(own, name, noise_schedule, reference):
    scheduler = scheduler_for(own, name, noise_schedule)
    latents = sample(own, scheduler)
    assert latents.mean() == pytest.approx(MEAN, abs=0.07)
    # diffusers spreads `beta` over sigma, not time: few steps are left where diffusion models draw.
    coarse = noise_schedule == "beta" and hasattr(own, "alphas_cumprod")
    assert 0.3 < latents.std() < (0.9 if coarse else 0.65)
    if not any(part in name for part in NOISY):
        assert (latents - reference).abs().mean() < (0.08 if coarse else 0.05)


@pytest.fixture(scope="module")
def reference():
    """Where many small steps lead, by kind of model."""
    return {make: sample(make(), make(), 999) for make in (diffusion, zero_snr, flow)}


@pytest.mark.parametrize("name", DIFFUSION)
@pytest.mark.parametrize("make", [diffusion, zero_snr])
def test_diffusion_samplers_arrive(reference, make, name):
    taken = []
    for noise_schedule in NOISE_SCHEDULES:
        try:
            arrives(make(), name, noise_schedule, reference[make])
            taken.append(noise_schedule)
        except ValueError as error:
            assert f"noise schedule {noise_schedule!r} cannot be used" in str(error)
    assert {"model", "normal"} <= {*taken}
    if make is zero_snr:
        assert not {*FLAGGED} & {*taken}
    elif name in ("euler", "heun", "lms", "dpmpp_2m", "uni_pc"):
        assert taken == list(NOISE_SCHEDULES)


@pytest.mark.parametrize("name", FLOW)
def test_flow_samplers_arrive(reference, name):
    for noise_schedule in NOISE_SCHEDULES:
        if noise_schedule != "ddim_uniform":
            arrives(flow(), name, noise_schedule, reference[flow])
    with pytest.raises(ValueError, match="'ddim_uniform' cannot be used with a flow-match"):
        scheduler_for(flow(), name, "ddim_uniform")


def test_what_the_model_predicts_is_carried_over():
    own = zero_snr()
    for name in DIFFUSION:
        scheduler = scheduler_for(own, name)
        assert scheduler.config.prediction_type == "v_prediction"
        last, half = (float(scheduler.alphas_cumprod[index]) for index in (-1, 500))
        assert last <= 1e-7, f"{name} ends with a signal of {last}"
        assert half == pytest.approx(float(own.alphas_cumprod[500]), rel=1e-3)
        assert not scheduler.config.get("clip_sample")


def test_latents_are_not_clipped_when_the_model_says_nothing_about_it():
    from diffusers import DPMSolverMultistepScheduler

    own = DPMSolverMultistepScheduler()
    for name in ("ddim", "ddpm", "lcm"):
        assert scheduler_for(own, name).config.clip_sample is False


def test_the_models_own_stays_as_it_is():
    own = flow()
    before = dict(own.config)
    again = scheduler_for(own)
    assert type(again) is type(own)
    assert again is not own
    scheduler_for(own, "dpmpp_2m", "karras", shift=5.0).set_timesteps(4)
    assert dict(own.config) == before


def test_shift_moves_the_levels_towards_noise():
    levels = {}
    for shift in (0, 1, 6):
        for name in ("euler", "dpmpp_2m", "heun"):
            scheduler = scheduler_for(flow(), name, "simple", shift)
            scheduler.set_timesteps(4)
            levels[name, shift] = scheduler.sigmas[1 if name != "heun" else 2].item()
    for name in ("euler", "dpmpp_2m", "heun"):
        assert levels[name, 1] == pytest.approx(0.75)
        assert levels[name, 0] == pytest.approx(3 * 0.75 / (1 + 2 * 0.75)), "the model's own is 3"
        assert levels[name, 6] > levels[name, 0]


def test_solvers_take_the_shift_for_the_size_of_the_picture():
    own = flow(use_dynamic_shifting=True)
    levels = np.linspace(1, 0.25, 4)
    for name in FLOW:
        scheduler = scheduler_for(own, name)
        scheduler.set_timesteps(sigmas=levels, mu=1.0, device="cpu")
        shifted = np.e / (np.e + 1 / levels - 1)
        first = scheduler.sigmas[: 2 if name == "heun" else 4].numpy()
        if "karras" not in name:
            assert first == pytest.approx(shifted[: len(first)], abs=1e-5)


def test_a_model_names_the_samplers_that_fit_it():
    with pytest.raises(ValueError, match=r"'ddim' cannot be .*flow-matching.* euler, heun, dpm"):
        scheduler_for(flow(), "ddim")
    with pytest.raises(ValueError, match=r"'karras' .*'ddim'; use one of model, normal, simple"):
        scheduler_for(diffusion(), "ddim", "karras")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        scheduler_for(zero_snr(), "dpmpp_2m_karras")
    from diffusers import EDMEulerScheduler

    assert type(scheduler_for(EDMEulerScheduler(), "dpmpp_2m")).__name__.startswith("EDMDPM")
    with pytest.raises(ValueError, match=r"EDM noise.* use one of model, euler, dpmpp_2m"):
        scheduler_for(EDMEulerScheduler(), "lms")
    with pytest.raises(ValueError, match=r"'karras' .* use one of model$"):
        scheduler_for(EDMEulerScheduler(), "euler", "karras")


def test_eta_is_ddims_and_reaches_it(pipelines, tiny_base):
    spec = PipelineSpec(tiny_base)
    pictures = {
        eta: generate(pipelines, spec, Sampling("a star", steps=4, scheduler="ddim", eta=eta))[0]
        for eta in (0.0, 1.0)
    }
    assert pictures[0.0].tobytes() != pictures[1.0].tobytes()


@pytest.mark.parametrize("model", ["sd3", "flux", "z-image"])
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "deis", "lcm"])
def test_flow_pipelines_take_every_sampler_in_every_task(tiny_models, cache, model, name):
    spec = PipelineSpec(base_model(tiny_models(model)))
    picture = Image.new("RGB", (64, 64), "teal")
    mask = Image.new("L", (64, 64), "white")
    sampling = Sampling("a star", steps=3, width=64, height=64, scheduler=name, denoise=0.7)
    drawn = set()
    for given in ({}, {"image": picture}, {"image": picture, "mask": mask}):
        pixels = np.asarray(generate(cache, spec, sampling, **given)[0])
        assert pixels.std() > 1, "not a plain surface, which is what NaN becomes"
        drawn.add(pixels.tobytes())
    assert len(drawn) > 1


@pytest.fixture(scope="module")
def cache():
    return Pipelines("cpu")
