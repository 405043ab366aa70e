"""The loss of every method that teaches a denoiser: its answers against right ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..families import Conditioning
    from ..pipelines.loading import LivePipeline
    from .data.texts import EncodedTexts
    from .objectives import Batch, Objective

SwitchedOff = Callable[[], AbstractContextManager[None]]


class Captions:
    """Captions → conditioning. Frozen ones are looked up; where the text side learns, each distinct
    one is encoded once per batch, with gradients.

    `encoded`: the conditioning of single captions, as `data.texts` made it (on the CPU, perhaps
    read from disk each time); None: encode here.
    """

    def __init__(self, live: LivePipeline, encoded: EncodedTexts | None = None) -> None:
        self._live = live
        self._encoded = encoded

    def __call__(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of one batch, in the order of `captions`."""
        if self._encoded is not None:
            return joined([self._encoded[caption] for caption in captions], self._live.device)
        distinct = list(dict.fromkeys(captions))
        rows = [distinct.index(caption) for caption in captions]
        return rows_of(self._live.family.encode_text(self._live.pipeline, distinct), rows)


@dataclass(frozen=True)
class Denoising:
    """What a method needs for its loss."""

    live: LivePipeline
    objective: Objective
    captions: Captions

    def loss(self, batch: Batch, switched_off: SwitchedOff) -> tuple[Tensor, dict[str, Tensor]]:
        """Instance loss + λ · class loss (arXiv 2208.12242), and both without λ for the log.

        `switched_off`: the context in which the model is as it was before it learned.
        """
        if batch.predicted:
            batch = self._predicted(batch, switched_off)
        predicted = self.answer(batch).float()
        errors = self.objective.errors(predicted, batch.target)
        errors = _masked_mean(errors, batch.mask) * batch.weights
        loss = errors[: batch.instances].mean()
        parts = {"instance": loss.detach()}
        if batch.instances < len(errors):
            parts["prior"] = errors[batch.instances :].detach().mean()
            shared = errors[batch.instances :] * batch.shares[batch.instances :]
            loss = loss + shared.mean()
        return loss, parts

    def answer(self, batch: Batch) -> Tensor:
        """What the denoiser says to a batch."""
        live = self.live
        denoiser: Any = live.component(live.family.denoiser.attribute)
        conditioning = live.family.sized(live.pipeline, self.captions(batch.captions), batch.sizes)
        noisy = batch.noisy.to(next(denoiser.parameters()).dtype)  # `.dtype` looks at all
        return live.family.predict(live.pipeline, noisy, batch.timesteps, conditioning)

    def _predicted(self, batch: Batch, switched_off: SwitchedOff) -> Batch:
        """With the untouched model's answers as the class rows' target."""
        import torch

        rows = slice(batch.instances, None)
        prior = replace(
            batch,
            noisy=batch.noisy[rows],
            timesteps=batch.timesteps[rows],
            captions=batch.captions[rows],
            sizes=batch.sizes[rows],
        )
        with torch.no_grad(), switched_off():
            answers = self.answer(prior).float()
        return replace(batch, target=torch.cat([batch.target[: batch.instances], answers]))


def _masked_mean(errors: Tensor, mask: Tensor | None) -> Tensor:
    """[rows, channels, height, width] → [rows], each the mean over what its mask lets count."""
    if mask is None:
        return errors.flatten(1).mean(1)
    counted = mask.expand_as(errors)
    return (errors * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1e-6)


def joined(parts: Sequence[Conditioning], device: str) -> Conditioning:
    """The conditionings of single captions as one batch on `device`."""
    import torch

    from ..families import Conditioning

    names = [name for name, _ in parts[0].extra]
    extra = tuple(
        (name, torch.cat([part.extra[index][1] for part in parts]).to(device))
        for index, name in enumerate(names)
    )
    return Conditioning(torch.cat([part.embeddings for part in parts]).to(device), extra)


def rows_of(conditioning: Conditioning, rows: Sequence[int]) -> Conditioning:
    """Some rows of a conditioning, in that order."""
    import torch

    from ..families import Conditioning

    index = torch.tensor(rows, device=conditioning.embeddings.device)
    extra = tuple((name, tensor[index]) for name, tensor in conditioning.extra)
    return Conditioning(conditioning.embeddings[index], extra)
