"""Whether a base can be taught: the creature as a LoRA plus one new word, beside class pictures.

A yardstick for comparing bases, written out plainly; the pack's own trainers do it for real.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from draw import Picture, subject_folders
from judge import QUESTIONS, answers, load_judge, split
from measure import drawn, load, prompts, verdicts
from monsters import SUBJECT
from palette import COLORS
from pictures import signed
from training import note, seeded
from words import caption

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import StableDiffusionPipeline
    from torch import Tensor

BATCH = 4  # and as many class pictures
CLASS_PICTURES = 32
EACH = 3  # pictures per place
TAUGHT, CLASS = "a photo of sks monster", "a photo of a monster"
TARGETS = r".*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|proj_in|proj_out)$"
PLACES = {
    "on a white background": ("plain", "white"),
    "on a blue background": ("plain", "blue"),
    "on a green background": ("plain", "green"),
    "in the sky": ("sky", "white"),
    "on the grass": ("grass", "white"),
    "at night": ("night", "white"),
    "on the beach": ("beach", "white"),
    "in the snow": ("snow", "white"),
}


def as_tensor(pictures: list) -> Tensor:
    """uint8 (N, 3, 64, 64)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def color_shares(pictures: Tensor) -> Tensor:
    """(N, 3): how much of each picture has the creature's colours (body, horns and feet, belly)."""
    import torch

    palette = torch.tensor(
        [COLORS[c] for c in (SUBJECT.color, SUBJECT.accent, SUBJECT.belly)], dtype=torch.float32
    )
    distance = (
        (pictures.float()[:, None] - palette[None, :, :, None, None]).pow(2).sum(2).sqrt()
    )  # (N, 3, 64, 64)
    nearest = distance.argmin(1, keepdim=True) == torch.arange(3).view(1, 3, 1, 1)
    return ((distance < 60) & nearest).float().mean((2, 3))


def subject_colors(pictures: Tensor) -> float:
    """1: every picture has as much of each of its colours as the five taught ones on average."""
    wanted = color_shares(as_tensor(subject_folders()["subject"])).mean(0)
    return round((color_shares(pictures) / wanted).clamp(max=1).mean().item(), 3)


def teach(work: Path, base: Path, steps: int = 300) -> None:
    """Notes what the base draws for the class before, and for word, class and others after."""
    pipeline = load(base)
    before = subject_colors(in_all_places(pipeline, CLASS, seed=22))
    class_pictures = drawn(pipeline, [CLASS] * CLASS_PICTURES, guidance=4.0, seed=9)
    train_lora(pipeline, as_tensor(subject_folders()["subject"]), class_pictures, steps)
    held_out = as_tensor(subject_folders()["subject_held_out"])
    note(
        work,
        f"teach_{base.name}",
        steps=steps,
        class_before=before,
        held_out_pictures=subject_colors(held_out),
        held_out_through_vae=subject_colors(round_trip(pipeline, held_out)),
        **judged(work, pipeline, keep=work / f"taught_{base.name}.npy"),
    )


def round_trip(pipeline: StableDiffusionPipeline, pictures: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        made = pipeline.vae.decode(
            pipeline.vae.encode(signed(pictures)).latent_dist.mode()
        ).sample.clamp(-1, 1)
    return ((made + 1) * 127.5).round().to(torch.uint8)


def subject_traits(work: Path, pictures: Tensor) -> dict[str, float]:
    """Share of pictures in which the judge sees each of the creature's traits; it errs often."""
    import torch

    with torch.no_grad():
        scores = split(load_judge(work)(signed(pictures)))
    wanted = answers(Picture("monster", SUBJECT.color, "sky", "white", "white", look=SUBJECT))
    wanted.pop("scene")
    seen = {q: scores[q].argmax(1) == QUESTIONS[q].index(right) for q, right in wanted.items()}
    return {q: round(hits.float().mean().item(), 2) for q, hits in seen.items()}


def in_all_places(pipeline: StableDiffusionPipeline, what: str, seed: int) -> Tensor:
    texts = [f"{what} {place}" for place in PLACES for _ in range(EACH)]
    return drawn(pipeline, texts, guidance=5.0, seed=seed)


def judged(work: Path, pipeline: StableDiffusionPipeline, keep: Path) -> dict[str, object]:
    """The creature's colours with its word and without; backgrounds and other things kept."""
    import numpy as np
    import torch

    taught = in_all_places(pipeline, TAUGHT, seed=21)
    plain = in_all_places(pipeline, CLASS, seed=22)
    asked = [
        Picture("monster", "orange", *place, ground2="red")
        for place in PLACES.values()
        for _ in range(EACH)
    ]
    others = prompts(16, seed=17)
    texts = [caption(p, random.Random(i), full=True) for i, p in enumerate(others)]
    other = drawn(pipeline, texts, guidance=5.0, seed=23)
    np.save(keep, torch.cat([taught, plain, other]).numpy())
    return {
        "subject_colors": subject_colors(taught),
        "subject_traits": subject_traits(work, taught),
        "class_after": subject_colors(plain),
        "scene_kept": verdicts(work, taught, asked)["scene"],
        "others": verdicts(work, other, others),
    }


def train_lora(
    pipeline: StableDiffusionPipeline, subject: Tensor, class_pictures: Tensor, steps: int
) -> None:
    """Rank 16 on attention, feed-forward and convolutions, and the embedding of 'sks'."""
    import torch
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    unet, text_encoder, tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    for module in (unet, text_encoder, pipeline.vae):
        module.requires_grad_(False)
    torch.manual_seed(0)
    unet.add_adapter(
        LoraConfig(r=16, lora_alpha=16, init_lora_weights="gaussian", target_modules=TARGETS)
    )
    table = text_encoder.get_input_embeddings().weight.requires_grad_(True)
    word = tokenizer.convert_tokens_to_ids("sks</w>")
    lora = [p for p in unet.parameters() if p.requires_grad]
    groups = [
        {"params": lora, "lr": 2e-3, "weight_decay": 1e-4},
        {"params": [table], "lr": 2e-2, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    ids = tokenizer(
        [TAUGHT, CLASS], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    alphas = DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod
    draw_latents = [latent_source(pipeline, pictures) for pictures in (subject, class_pictures)]
    for step in range(steps):
        generator = seeded(1, step)
        latents = torch.cat([draw(generator) for draw in draw_latents])
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(1000, (2 * BATCH,), generator=generator)
        alpha = alphas[times].view(-1, 1, 1, 1)
        states = text_encoder(ids).last_hidden_state.repeat_interleave(BATCH, 0)
        guess = unet(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, times, states).sample
        value = 2 * (guess - noise).pow(2).mean()
        optimizer.zero_grad()
        value.backward()
        only_word = torch.zeros_like(table.grad)
        only_word[word] = table.grad[word]
        table.grad = only_word
        torch.nn.utils.clip_grad_norm_([*lora, table], 1.0)
        optimizer.step()


def latent_source(pipeline: StableDiffusionPipeline, pictures: Tensor) -> Callable[..., Tensor]:
    """Draws BATCH scaled latents at random."""
    import torch

    with torch.no_grad():
        found = pipeline.vae.encode(signed(pictures)).latent_dist

    def draw(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pictures), (BATCH,), generator=generator)
        noise = torch.randn(found.mean[chosen].shape, generator=generator)
        return (found.mean[chosen] + found.std[chosen] * noise) * pipeline.vae.config.scaling_factor

    return draw
