"""A ControlNet for the base that follows edges (arXiv 2302.05543); the base stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from frozen_base import FrozenBase
from pictures import pixels
from training import note, train
from vae import ENCODED

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel
    from torch import Tensor, nn

BATCH = 32
EMPTY_SHARE = 0.3  # of captions dropped: then the edges alone tell what is there
THRESHOLDS = (100, 200)  # low and high, of the Canny detector
EMBEDDING = (16, 32, 64)  # two halvings: 64x64 edges to 16x16 latents, as the VAE does
CHECKPOINT_EVERY = 100  # steps: about a minute


def edges(pictures: Tensor) -> Tensor:
    """uint8 (N, 3, 64, 64) to white edges on black, uint8 (N, 64, 64)."""
    import cv2
    import numpy as np
    import torch

    rows = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.from_numpy(np.stack([cv2.Canny(row, *THRESHOLDS) for row in rows]))


def new_controlnet(base: FrozenBase) -> ControlNetModel:
    """The base's own encoder, whose answers begin as zero."""
    import torch
    from diffusers import ControlNetModel
    from diffusers.models.attention_processor import AttnProcessor

    controlnet = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=EMBEDDING)
    controlnet.set_attn_processor(AttnProcessor())
    return controlnet.to(memory_format=torch.channels_last).requires_grad_(True).train()


def train_control(
    work: Path, base: Path, *, steps: int = 520, minutes: float | None = None
) -> None:
    """Writes `<work>/controlnet`, float32."""
    import torch

    frozen = FrozenBase(work, base)
    drawn = edges(pixels(work)[:ENCODED])

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        batch = frozen.batch(BATCH, EMPTY_SHARE, generator)
        shown = (drawn[batch.chosen, None] / 255.0).repeat(1, 3, 1, 1)
        down, middle = modules["controlnet"](
            batch.noisy,
            batch.times,
            encoder_hidden_states=batch.states,
            controlnet_cond=shown.contiguous(memory_format=torch.channels_last),
            return_dict=False,
        )
        guess = frozen.unet(
            batch.noisy,
            batch.times,
            batch.states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return frozen.error(guess, batch)

    modules = torch.nn.ModuleDict({"controlnet": new_controlnet(frozen)})
    made = train(
        work,
        "control",
        modules,
        loss,
        steps=steps,
        rate=8e-4,
        minutes=minutes,
        warm_up=50,
        averaging=0.995,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    made["controlnet"].save_pretrained(work / "controlnet")
    note(work, "control", batch=BATCH, thresholds=THRESHOLDS)
