"""What the denoiser is asked to predict, and how wrong answers are weighed.

Everything random is drawn on the CPU from a generator seeded by what it is for and when, never from
a running state: step 400 draws the same noise in a run that never stopped and in one that went on
from step 399.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..families import Conditioning
    from ..pipelines.loading import LivePipeline

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def seed_for(seed: int, *what: int | str) -> int:
    """A 63-bit seed for one purpose at one moment, such as `seed_for(seed, "noise", step,
    micro_step)`.
    """
    text = "/".join(str(part) for part in (seed, *what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *what: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one moment."""
    import torch

    return torch.Generator("cpu").manual_seed(seed_for(seed, *what))


@dataclass(frozen=True)
class Batch:
    """One micro-step's work. Your pictures come first, class pictures (if any) after them.

    `noisy`, `target`: [batch, channels, height, width] latents, on the training device.
    `timesteps`: [batch] integers. `weights`: [batch], what each picture's error counts (min-SNR).
    `captions`: one per picture. `instances`: how many of the pictures are yours.
    """

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    weights: Tensor
    captions: tuple[str, ...]
    instances: int


@dataclass(frozen=True)
class Objective:
    """Denoising as a DDPM-type scheduler defines it (epsilon, v_prediction or sample).

    `snr_gamma`: min-SNR weighting, arXiv 2303.09556; 0 is off. `prior_weight`: λ of DreamBooth,
    arXiv 2208.12242.
    """

    scheduler: Any
    snr_gamma: float = 0.0
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        if not hasattr(self.scheduler, "add_noise") or not hasattr(self.scheduler, "get_velocity"):
            raise ValueError(
                f"{type(self.scheduler).__name__} is no noise schedule that can be trained with; "
                "use a model whose family gives a DDPM-type scheduler"
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"the model predicts {self.prediction!r}; known: {', '.join(PREDICTIONS)}"
            )

    @property
    def prediction(self) -> str:
        return self.scheduler.config.prediction_type

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] noise levels, each as likely as any other."""
        import torch

        levels = self.scheduler.config.num_train_timesteps
        return torch.randint(0, levels, (count,), generator=generator)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)
        return latents

    def weights(self, timesteps: Tensor) -> Tensor:
        """[batch] factors on the squared error."""
        import torch

        if self.snr_gamma == 0:
            return torch.ones(len(timesteps))
        kept = self.scheduler.alphas_cumprod[timesteps].double()
        return min_snr_weights(kept, self.snr_gamma, self.prediction).float()


def min_snr_weights(kept: Tensor, gamma: float, prediction: str) -> Tensor:
    """Min-SNR-γ (arXiv 2303.09556) as a factor on the squared error of what the model predicts.

    `kept` is ᾱ [batch], the share of the signal's power that is left, so SNR = ᾱ / (1 - ᾱ). The
    paper weighs the error of the clean latents by min(SNR, γ); an epsilon error is SNR times that,
    a velocity error SNR + 1 times. Written with ᾱ instead of SNR, neither SNR 0 (zero terminal SNR)
    nor SNR ∞ divides by zero.
    """
    import torch

    if prediction == "v_prediction":  # min(SNR, γ) / (SNR + 1)
        return torch.minimum(kept, gamma * (1 - kept))
    if prediction == "epsilon":  # min(SNR, γ) / SNR, 1 where SNR ≤ γ
        quiet = gamma * (1 - kept) / kept.clamp(min=1e-12)
        return quiet.clamp(max=1.0)
    return (kept / (1 - kept).clamp(min=1e-12)).clamp(max=gamma)  # min(SNR, γ)


def denoising_loss(
    live: LivePipeline, batch: Batch, conditioning: Conditioning, prior_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Instance loss + λ · prior loss (arXiv 2208.12242), and both parts as numbers for the log."""
    denoiser = getattr(live.pipeline, live.family.denoiser.attribute)
    noisy = batch.noisy.to(denoiser.dtype)
    predicted = live.family.predict(live.pipeline, noisy, batch.timesteps, conditioning)
    errors = (predicted.float() - batch.target).square().flatten(1).mean(1) * batch.weights
    instance = errors[: batch.instances].mean()
    parts = {"instance": float(instance.detach())}
    if batch.instances == len(errors):
        return instance, parts
    prior = errors[batch.instances :].mean()
    parts["prior"] = float(prior.detach())
    return instance + prior_weight * prior, parts


def is_finite(loss: Tensor) -> bool:
    return math.isfinite(float(loss.detach()))
