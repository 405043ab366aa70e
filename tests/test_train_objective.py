"""What is predicted, how it is weighed, and where the randomness comes from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from likeness.families import Conditioning
from likeness.trainers.objective import (
    Batch,
    Objective,
    denoising_loss,
    generator_for,
    min_snr_weights,
)


def schedule(prediction: str, **options) -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        **options,
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_target_leads_back_to_the_clean_latents(prediction):
    """A perfect prediction, put through the scheduler's own step, gives the clean latents back."""
    scheduler = schedule(prediction, clip_sample=False)
    objective = Objective(scheduler)
    latents, noise = torch.randn(2, 3, 4, 4, 4, generator=generator_for(0, "test")).unbind()
    for timestep in (3, 400, 950):
        timesteps = torch.full((3,), timestep)
        noisy = objective.noisy(latents, noise, timesteps)
        target = objective.target(latents, noise, timesteps)
        clean = scheduler.step(target, timestep, noisy).pred_original_sample
        torch.testing.assert_close(clean, latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_the_paper_s_formula(prediction):
    scheduler = schedule(prediction)
    timesteps = torch.arange(1000)
    snr = compute_snr(scheduler, timesteps).double()
    divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction]
    expected = snr.clamp(max=5.0) / divisor
    found = Objective(scheduler, snr_gamma=5.0).weights(timesteps)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_at_no_signal_and_no_noise_is_finite(prediction):
    weights = min_snr_weights(torch.tensor([0.0, 1.0], dtype=torch.double), 5.0, prediction)
    assert torch.isfinite(weights).all()


def test_min_snr_off_weighs_all_the_same():
    assert Objective(schedule("epsilon")).weights(torch.arange(5)).tolist() == [1.0] * 5


def test_a_schedule_that_is_none_is_refused():
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        Objective(FlowMatchEulerDiscreteScheduler())


def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match=r"'x'.*epsilon"):
        Objective(
            SimpleNamespace(
                config=SimpleNamespace(prediction_type="x"), add_noise=1, get_velocity=1
            )
        )


def test_randomness_is_told_apart_by_purpose_and_moment_only():
    first = torch.randn(8, generator=generator_for(1, "noise", 5, 0))
    torch.manual_seed(99)
    torch.randn(100)
    assert torch.equal(first, torch.randn(8, generator=generator_for(1, "noise", 5, 0)))
    others = [(2, "noise", 5, 0), (1, "latents", 5, 0), (1, "noise", 6, 0), (1, "noise", 5, 1)]
    for other in others:
        assert not torch.equal(first, torch.randn(8, generator=generator_for(*other)))


def test_prior_loss_counts_times_its_weight_and_parts_are_told():
    prediction = torch.zeros(4, 1, 1, 1)
    target = torch.tensor([1.0, 3.0, 2.0, 4.0]).reshape(4, 1, 1, 1)
    live = SimpleNamespace(
        pipeline=SimpleNamespace(unet=SimpleNamespace(dtype=torch.float32)),
        family=SimpleNamespace(
            denoiser=SimpleNamespace(attribute="unet"), predict=lambda *_: prediction
        ),
    )
    weights = torch.tensor([1.0, 0.5, 1.0, 1.0])
    batch = Batch(prediction, target, torch.zeros(4), weights, ("",) * 4, instances=2)
    loss, parts = denoising_loss(live, batch, Conditioning(prediction), prior_weight=0.5)
    assert parts == {"instance": (1 + 9 / 2) / 2, "prior": (4 + 16) / 2}
    assert float(loss) == parts["instance"] + 0.5 * parts["prior"]
