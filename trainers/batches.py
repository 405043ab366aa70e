"""From samples to batches: latents encoded once, and every random choice drawn for its own step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .objective import Batch, Objective, generator_for
from .samples import Sample, fit, pixels
from .settings import TrainingSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..pipelines.loading import LivePipeline


@dataclass(frozen=True)
class Latents:
    """Samples as the denoiser sees them, float32 [samples, channels, height, width] on the CPU.

    A picture's latents are drawn anew each time it is looked at: `mean + deviation * noise`.
    """

    mean: Tensor
    deviation: Tensor
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)


def encode_samples(
    live: LivePipeline, samples: Sequence[Sample], width: int, height: int, *, mirror: bool = False
) -> Latents:
    """Encode each picture once, scaled and cropped to `width` x `height` pixels, left and right
    swapped if asked.
    """
    import torch

    parts = []
    with torch.no_grad():
        for sample in samples:
            picture = pixels(fit(sample.open(), width, height))
            picture = picture.flip(-1) if mirror else picture
            mean, deviation = live.family.encode_pixels(
                live.pipeline, picture[None].to(live.device)
            )
            parts.append((mean.float().cpu(), deviation.float().cpu()))
    means, deviations = zip(*parts, strict=True)
    captions = tuple(sample.caption for sample in samples)
    return Latents(torch.cat(means), torch.cat(deviations), captions)


@dataclass(frozen=True)
class Batches:
    """All the batches of a run; each depends on its step and the settings alone."""

    yours: Latents
    mirrored: Latents | None
    prior: Latents | None
    objective: Objective
    settings: TrainingSettings
    device: str

    def batch(self, step: int, micro: int) -> Batch:
        """The batch of micro-step `micro` (from 0) of step `step` (from 1)."""
        import torch

        position = (step - 1) * self.settings.accumulation + micro
        latents, captions = self._draw(position)
        draw = generator_for(self.settings.seed, "noise", step, micro)
        noise = torch.randn(latents.shape, generator=draw)
        timesteps = self.objective.timesteps(len(latents), draw)
        return Batch(
            noisy=self.objective.noisy(latents, noise, timesteps).to(self.device),
            target=self.objective.target(latents, noise, timesteps).to(self.device),
            timesteps=timesteps.to(self.device),
            weights=self.objective.weights(timesteps).to(self.device),
            captions=captions,
            instances=self.settings.batch_size,
        )

    def _draw(self, position: int) -> tuple[Tensor, tuple[str, ...]]:
        """Latents [batch, ...] and captions of your pictures, then of as many class pictures."""
        import torch

        draw = generator_for(self.settings.seed, "latents", position)
        mine = self._turn("yours", len(self.yours), position)
        latents = [self._latents(self.yours, self.mirrored, index, draw) for index in mine]
        captions = [self.yours.captions[index] for index in mine]
        if self.prior is not None:
            others = self._turn("prior", len(self.prior), position)
            latents += [self._latents(self.prior, None, index, draw) for index in others]
            captions += [self.prior.captions[index] for index in others]
        return torch.stack(latents), tuple(captions)

    def _latents(
        self, plain: Latents, mirrored: Latents | None, index: int, draw: torch.Generator
    ) -> Tensor:
        import torch

        flipped = mirrored is not None and bool(torch.rand((), generator=draw) < 0.5)
        source = mirrored if flipped and mirrored is not None else plain
        noise = torch.randn(source.mean[index].shape, generator=draw)
        return source.mean[index] + source.deviation[index] * noise

    def _turn(self, what: str, count: int, position: int) -> list[int]:
        """Which samples are next: every one once, in a new random order, before any comes again."""
        import torch

        first = position * self.settings.batch_size
        chosen = []
        for number in range(first, first + self.settings.batch_size):
            draw = generator_for(self.settings.seed, "order", what, number // count)
            chosen.append(int(torch.randperm(count, generator=draw)[number % count]))
        return chosen
