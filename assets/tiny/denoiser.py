"""Text encoder and UNet, trained together: the UNet gets the words that it needs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from draw import NOUNS
from pictures import shown
from text_tower import WIDTH, earlier_weights, text_shape
from training import note, train
from vae import ENCODED, latents_of
from words import RARE_WORDS, caption

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel
    from torch import Tensor, nn
    from transformers import CLIPTextModel, CLIPTokenizer

BATCH = 32
CAPTIONS = 4  # per picture, drawn once
EMPTY_SHARE = 0.1  # of captions dropped, for classifier-free guidance
RARE_SHARE = 0.1  # of captions with a rare word in them
SNR_LIMIT = 5.0  # min-SNR weighting
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}

# What the text states must tell besides helping the UNet: which of these words the caption has.
# A rare word, which no picture explains, so keeps a state of its own and can be given a meaning.
TOLD: dict[str, tuple[str, ...]] = {
    "noun": NOUNS,
    "rare": RARE_WORDS,
    "eyes": ("one eye", "two eyes", "three eyes"),
    "top": ("horns", "ears", "antennae"),
    "mouth": ("smile", "teeth", "round mouth"),
}
TOLD_WEIGHT = 0.1


def new_unet() -> UNet2DConditionModel:
    """SD 1.x in small: its 32 groups and 8 heads; attention at 8x8 and 4x4 only."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=32,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(**text_shape(tokenizer))
    config._attn_implementation = "eager"  # its backward pass is faster on a CPU
    return CLIPTextModel(config)


def go_on_from(
    base: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Takes the weights of an earlier base, whatever its number of groups and heads."""
    import torch
    from diffusers import UNet2DConditionModel

    old = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.float32)
    unet.load_state_dict(old.state_dict())
    text_encoder.load_state_dict(earlier_weights(base, tokenizer, text_encoder.state_dict()))


def all_captions(work: Path, tokenizer: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Token ids (ENCODED, CAPTIONS, 77); what each caption tells (ENCODED, CAPTIONS, len(TOLD))."""
    import torch

    rng = random.Random(7)
    texts = [
        caption(
            p, rng, full=i == 0, rare=rng.choice(RARE_WORDS) if rng.random() < RARE_SHARE else None
        )
        for p in shown(work)[:ENCODED]
        for i in range(CAPTIONS)
    ]
    ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    told = torch.tensor([[told_by(text, options) for options in TOLD.values()] for text in texts])
    return ids.to(torch.int16).view(-1, CAPTIONS, 77), told.view(-1, CAPTIONS, len(TOLD))


def told_by(text: str, options: tuple[str, ...]) -> int:
    """Which option the caption names; len(options) if none."""
    padded = f" {text},".replace(" and ", ", and ").replace(" with", ",")
    found = [
        i for i, option in enumerate(options) if f" {option} " in f"{padded} ".replace(",", " ")
    ]
    return found[0] if found else len(options)


def train_denoiser(
    work: Path, *, steps: int = 1500, minutes: float | None = None, start: Path | None = None
) -> None:
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler
    from diffusers.models.attention_processor import AttnProcessor
    from torch.nn import functional
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    if start:
        go_on_from(start / "base", unet, text_encoder, tokenizer)
    unet.set_attn_processor(AttnProcessor())
    ids, told = all_captions(work, tokenizer)
    nothing = (
        tokenizer("", padding="max_length", max_length=77, return_tensors="pt")
        .input_ids[0]
        .to(torch.int16)
    )
    vae = AutoencoderKL.from_pretrained(work / "vae")
    means, deviations = (part * vae.config.scaling_factor for part in latents_of(work, vae))
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    signal_to_noise = alphas / (1 - alphas)
    weights = 2 * signal_to_noise.clamp(max=SNR_LIMIT) / signal_to_noise

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(ENCODED, (BATCH,), generator=generator)
        which = torch.randint(CAPTIONS, (BATCH,), generator=generator)
        words = ids[chosen, which]
        silent = torch.rand(BATCH, generator=generator) < EMPTY_SHARE
        words[silent] = nothing
        states = modules["text_encoder"](words.long()).last_hidden_state
        latents = means[chosen] + deviations[chosen] * torch.randn(
            means[chosen].shape, generator=generator
        )
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(1000, (BATCH,), generator=generator)
        alpha = alphas[times].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        guess = modules["unet"](noisy, times, states).sample
        value = ((guess - noise).pow(2).mean((1, 2, 3)) * weights[times]).mean()

        end = (words == tokenizer.eos_token_id).int().argmax(1)
        later = (end + torch.randint(1, 40, (BATCH,), generator=generator)).clamp(max=76)
        for place in (end, later):
            scores = modules["told"](states[torch.arange(BATCH), place][~silent])
            for part, right in zip(
                scores.split([len(o) + 1 for o in TOLD.values()], 1),
                told[chosen, which][~silent].T,
                strict=True,
            ):
                value = value + TOLD_WEIGHT / 2 * functional.cross_entropy(part, right)
        return value

    heads = torch.nn.Linear(WIDTH, sum(len(options) + 1 for options in TOLD.values()))
    unet = unet.to(memory_format=torch.channels_last)
    modules = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "told": heads})
    modules.train()
    made = train(
        work, "denoiser", modules, loss, steps=steps, rate=7e-4, minutes=minutes, warm_up=100
    )
    made["unet"].save_pretrained(work / "unet")
    made["text_encoder"].save_pretrained(work / "text_encoder")
    note(work, "denoiser", batch=BATCH, started_from_earlier_base=start is not None)
