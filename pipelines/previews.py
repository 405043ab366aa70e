"""What a picture will look like, seen after each step without decoding it.

A linear map from latent channels to red, green and blue, fitted once per VAE: a small colourful
picture is encoded, and least squares find the map that gives its pixels back. The preview shows the
picture that the model expects to arrive at, not the noise that is still in it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .loading import LivePipeline

_SIDE = 128
"""Of the picture that is encoded, in pixels."""

_maps: WeakKeyDictionary[Any, torch.Tensor] = WeakKeyDictionary()
"""VAE → map [channels + 1, 3], the last row added to every pixel. Forgotten with the VAE."""


class Previews:
    """Previews of one run of a pipeline.

    `scheduler`: the run's own; what passes through its `step` is looked at from now on.
    """

    def __init__(self, live: LivePipeline, scheduler: Any, width: int, height: int) -> None:
        self._live = live
        self._scheduler = scheduler
        self._size = (width, height)
        self._map = latent_colours(live)
        self._clean: torch.Tensor | None = None
        step = scheduler.step

        @functools.wraps(step)  # pipelines look at the names of its arguments
        def watched(model_output: Any, timestep: Any, sample: Any, *args: Any, **named: Any) -> Any:
            self._clean = clean_latents(scheduler, model_output[:1], timestep, sample[:1])
            return step(model_output, timestep, sample, *args, **named)

        scheduler.step = watched

    def picture(self, latents: torch.Tensor) -> Image:
        """The first picture of the batch, one pixel for each latent cell, after a step that ended
        with `latents`.
        """
        first = latents[:1] if self._clean is None else self._clean
        cells = self._live.family.latent_picture(self._live.pipeline, first, *self._size)
        return coloured(cells[0], self._map)


def latent_colours(live: LivePipeline) -> torch.Tensor:
    """The map [channels + 1, 3] from scaled latents to red, green and blue in 0..1."""
    import torch

    vae = live.component("vae")
    if vae not in _maps:
        hook = getattr(vae, "_hf_hook", None)
        if hook is not None:  # an offloaded VAE must be on its device before its input is put there
            hook.pre_forward(vae)
        pixels = colourful_picture()
        with torch.no_grad():
            latents, _ = live.family.encode_pixels(live.pipeline, pixels * 2 - 1)
        _maps[vae] = _least_squares(latents.double().cpu(), pixels.double())
    return _maps[vae]


def colourful_picture() -> torch.Tensor:
    """Blots of all colours from coarse to fine, [1, 3, 128, 128] in 0..1; always the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    layers = []
    for cells in (3, 6, 12):
        blots = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
        layers.append(torch.nn.functional.interpolate(blots, (_SIDE, _SIDE), mode="bilinear"))
    return (0.5 + sum(layers[1:], start=layers[0])).clamp(0, 1)


def _least_squares(latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    import torch

    height, width = latents.shape[-2:]
    wanted = torch.nn.functional.adaptive_avg_pool2d(pixels, (height, width))
    given = latents[0].flatten(1).T
    given = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
    square = given.T @ given
    # A trace of damping: channels that say nothing must not get weights without bounds.
    square += torch.eye(len(square), dtype=square.dtype) * square.trace() * 1e-8
    return torch.linalg.solve(square, given.T @ wanted[0].flatten(1).T).float()


def coloured(cells: torch.Tensor, colours: torch.Tensor) -> Image:
    """Latents [channels, h, w] → an RGB picture of h x w pixels."""
    from PIL import Image

    colours = colours.to(cells.device)
    pixels = cells.float().movedim(0, -1) @ colours[:-1] + colours[-1]
    levels = (pixels.nan_to_num(0).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.cpu().numpy())


def clean_latents(
    scheduler: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> torch.Tensor | None:
    """The latents without noise that the model expects, from what goes into `scheduler.step`.

    None where the scheduler's kind of noise is not known here.
    """
    time = float(timestep)
    if "FlowMatch" in type(scheduler).__name__ or hasattr(scheduler, "noise_schedule"):
        return sample - time / scheduler.config.num_train_timesteps * model_output
    kept = getattr(scheduler, "alphas_cumprod", None)
    kind = scheduler.config.get("prediction_type")
    if kept is None or kind not in ("epsilon", "v_prediction", "sample"):
        return None
    signal = max(float(kept[min(round(time), len(kept) - 1)]), 1e-4)
    noise = 1 - signal
    # Schedulers of Euler's kind let the noise grow on the signal; others keep the sum at 1.
    grown = float(scheduler.init_noise_sigma) > 1
    noisy = sample * signal**0.5 if grown else sample
    if kind == "sample":
        return model_output
    if kind == "v_prediction":
        return noisy * signal**0.5 - model_output * noise**0.5
    return (noisy - model_output * noise**0.5) / signal**0.5
