"""The tiny VAE: 64x64 pictures to 16x16 latents with 4 channels, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pictures import HELD_OUT, pixels, signed
from training import note, train

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL
    from torch import Tensor, nn

BATCH = 8
ENCODED = 10_000  # pictures whose latents are kept for the stages that follow
KL_WEIGHT = 1e-4  # per latent element
NOISE = 1.5  # the decoder's own stage sees latents this much noisier than the encoder leaves them


def new_vae() -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,
    )


def grown_from(folder: Path) -> AutoencoderKL:
    """A VAE that computes what the smaller one in `folder` does: new blocks begin as identity."""
    import torch
    from diffusers import AutoencoderKL

    vae, old = new_vae(), AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
    lacking = vae.load_state_dict(old.state_dict(), strict=False).missing_keys
    for name in lacking:
        if ".conv2." in name:
            torch.nn.init.zeros_(vae.get_parameter(name))
    return vae


def difference(made: Tensor, real: Tensor) -> Tensor:
    """Absolute, squared and edge error together: edges are what eyes and teeth are made of."""
    error = made - real
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return (
        error.abs().mean()
        + 0.5 * (across.abs().mean() + down.abs().mean())
        + 4 * error.pow(2).mean()
    )


def varied(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Some pictures mirrored, some with their colour channels swapped, some shifted."""
    import torch

    draw = torch.rand(3, len(batch), generator=generator).tolist()
    order = torch.randperm(3, generator=generator)
    shift = tuple(torch.randint(-8, 9, (2,), generator=generator).tolist())
    for i, (mirror, swap, move) in enumerate(zip(*draw, strict=True)):
        picture = batch[i]
        picture = picture.flip(-1) if mirror < 0.5 else picture
        picture = picture[order] if swap < 0.15 else picture
        batch[i] = picture.roll(shift, (1, 2)) if move < 0.2 else picture
    return batch


def train_vae(
    work: Path, *, steps: int = 5000, minutes: float | None = None, start: Path | None = None
) -> None:
    """Encoder and decoder together; afterwards the encoder, so the latent space, stays."""
    import torch

    data = pixels(work)
    vae = grown_from(start / "base" / "vae") if start else new_vae()

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data) - HELD_OUT, (BATCH,), generator=generator)
        real = varied(signed(data[chosen]), generator).contiguous(memory_format=torch.channels_last)
        latents = modules["vae"].encode(real).latent_dist
        made = modules["vae"].decode(latents.sample(generator)).sample
        return difference(made, real) + KL_WEIGHT * latents.kl().mean() / latents.mean[0].numel()

    modules = torch.nn.ModuleDict({"vae": vae.to(memory_format=torch.channels_last)})
    vae = train(work, "vae", modules, loss, steps=steps, rate=1e-3, minutes=minutes, decay=1e-4)[
        "vae"
    ]
    with torch.no_grad():
        spread = torch.cat(
            [vae.encode(signed(part)).latent_dist.mode() for part in data[:1000].split(100)]
        ).std()
    vae.register_to_config(scaling_factor=round(1 / spread.item(), 5))
    vae.save_pretrained(work / "vae")
    note(work, "vae", decibels=decibels(vae, data))


def train_decoder(work: Path, *, steps: int = 4000, minutes: float | None = None) -> None:
    """The decoder alone, on slightly noisy latents: the denoiser can learn meanwhile."""
    import torch
    from diffusers import AutoencoderKL

    data = pixels(work)
    vae = AutoencoderKL.from_pretrained(work / "vae")
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    means, deviations = latents_of(work, vae)

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(ENCODED, (BATCH,), generator=generator)
        noise = torch.randn(means[chosen].shape, generator=generator)
        latents = means[chosen] + NOISE * deviations[chosen] * noise
        made = modules["vae"].decode(latents.contiguous(memory_format=torch.channels_last)).sample
        return difference(made, signed(data[chosen]))

    modules = torch.nn.ModuleDict({"vae": vae.to(memory_format=torch.channels_last)})
    vae = train(
        work, "decoder", modules, loss, steps=steps, rate=8e-4, minutes=minutes, decay=1e-4
    )["vae"]
    vae.save_pretrained(work / "vae_final")
    note(work, "decoder", decibels=decibels(vae, data))


def latents_of(work: Path, vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Unscaled means and deviations of the first ENCODED pictures, (N, 4, 16, 16); kept on disk."""
    import torch

    path = work / "latents.pt"
    if not path.exists():
        with torch.no_grad():
            found = [
                vae.encode(signed(part)).latent_dist for part in pixels(work)[:ENCODED].split(100)
            ]
        torch.save((torch.cat([f.mean for f in found]), torch.cat([f.std for f in found])), path)
    return torch.load(path, weights_only=True)


def decibels(vae: AutoencoderKL, data: Tensor) -> float:
    """Mean PSNR of 256 held-out pictures after a round trip."""
    import torch

    total = 0.0
    for real in signed(data[-256:]).split(64):
        with torch.no_grad():
            made = vae.decode(vae.encode(real).latent_dist.mode()).sample.clamp(-1, 1)
        total += (10 * torch.log10(4 / (made - real).pow(2).mean((1, 2, 3)))).sum().item()
    return round(total / 256, 2)
