"""A finished base that stays as it is while something beside it learns: noisy latents and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from denoiser import CAPTIONS, SCHEDULE, SNR_LIMIT, all_captions
from vae import ENCODED, latents_of

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel
    from torch import Tensor
    from transformers import CLIPTextModel

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Batch:
    """`chosen`: which pictures (N,). `noisy`, `noise`: (N, 4, 16, 16). `times`: (N,), 0 to 999.
    `states`: of the captions, (N, 77, 128).
    """

    chosen: Tensor
    noisy: Tensor
    noise: Tensor
    times: Tensor
    states: Tensor


class FrozenBase:
    """The base in `folder` with the latents and captions of the pictures in `work`, float32."""

    def __init__(self, work: Path, folder: Path) -> None:
        import torch
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
            folder / "unet", dtype=torch.float32
        )
        self.unet.set_attn_processor(AttnProcessor())  # its backward pass is faster on a CPU
        self.unet.to(memory_format=torch.channels_last)
        self.text_encoder: CLIPTextModel = CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        )
        for module in (self.unet, self.text_encoder):
            module.requires_grad_(False).eval()
        vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)
        self.means, self.deviations = (
            part * vae.config.scaling_factor for part in latents_of(work, vae)
        )
        self.words = all_captions(work, tokenizer)[0]  # (ENCODED, CAPTIONS, 77)
        padded = tokenizer("", padding="max_length", max_length=77, return_tensors="pt")
        self.nothing = padded.input_ids[0].to(torch.int16)
        self.alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
        signal_to_noise = self.alphas / (1 - self.alphas)
        self.weights = 2 * signal_to_noise.clamp(max=SNR_LIMIT) / signal_to_noise

    def batch(self, size: int, empty: float, generator: torch.Generator) -> Batch:
        """`size` pictures at random; `empty`: the share of them without their caption."""
        import torch

        chosen = torch.randint(ENCODED, (size,), generator=generator)
        which = torch.randint(CAPTIONS, (size,), generator=generator)
        words = self.words[chosen, which]
        words[torch.rand(size, generator=generator) < empty] = self.nothing
        with torch.no_grad():
            states = self.text_encoder(words.long()).last_hidden_state
        shape = self.means[chosen].shape
        drawn = torch.randn(shape, generator=generator)
        latents = self.means[chosen] + self.deviations[chosen] * drawn
        noise = torch.randn(shape, generator=generator)
        times = torch.randint(1000, (size,), generator=generator)
        alpha = self.alphas[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return Batch(chosen, noisy, noise, times, states)

    def error(self, guess: Tensor, batch: Batch) -> Tensor:
        """Mean squared error, weighted as the denoiser's own (min-SNR, arXiv 2303.09556)."""
        wrong = (guess - batch.noise).pow(2).mean((1, 2, 3))
        return (wrong * self.weights[batch.times]).mean()
