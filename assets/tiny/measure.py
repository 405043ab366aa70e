"""How well a base follows prompts: it draws, the judge looks."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from draw import NOUNS, Picture, random_picture
from judge import QUESTIONS, answers, load_judge, split
from pictures import signed
from training import note
from words import caption

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

GUIDANCE = (3.0, 5.0)
STEPS = 20
PROMPTS = 208  # 13 of each noun


def prompts(count: int, seed: int = 3) -> list[Picture]:
    """Pictures to ask for: every noun equally often, no size, no place."""
    rng = random.Random(seed)
    asked = [random_picture(rng, NOUNS[i % len(NOUNS)]) for i in range(count)]
    return [dataclasses.replace(p, size="", place="") for p in asked]


def load(folder: Path) -> StableDiffusionPipeline:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(
    pipeline: StableDiffusionPipeline,
    texts: Sequence[str],
    guidance: float,
    seed: int,
    batch: int = 16,
) -> Tensor:
    """One picture per text, uint8 (N, 3, 64, 64); picture i depends on `seed` and i only."""
    import torch

    made = []
    for first in range(0, len(texts), batch):
        part = list(texts[first : first + batch])
        noise = [
            torch.Generator().manual_seed(seed * 100_000 + first + i) for i in range(len(part))
        ]
        made.append(
            pipeline(
                part,
                num_inference_steps=STEPS,
                guidance_scale=guidance,
                generator=noise,
                output_type="pt",
            ).images
        )
    return (torch.cat(made) * 255).round().to(torch.uint8)


def verdicts(work: Path, pictures: Tensor, asked: Sequence[Picture]) -> dict[str, float]:
    """Share of pictures that show what was asked; `joint`: noun, colour and background together."""
    import torch

    with torch.no_grad():
        scores = split(load_judge(work)(signed(pictures)))
    seen = {q: [QUESTIONS[q][i] for i in part.argmax(1).tolist()] for q, part in scores.items()}
    wanted = [answers(p) for p in asked]
    shares = {}
    for question in ("noun", "color", "scene", "ground"):
        hits = [seen[question][i] == w[question] for i, w in enumerate(wanted) if question in w]
        shares[question] = sum(hits) / max(1, len(hits))
    joint = [
        all(seen[q][i] == w[q] for q in ("noun", "color", "scene")) for i, w in enumerate(wanted)
    ]
    return {
        q: round(share, 3) for q, share in (shares | {"joint": sum(joint) / len(joint)}).items()
    }


def measure(work: Path, base: Path) -> None:
    """Draws PROMPTS pictures at each guidance, keeps them, notes what the judge says of them."""
    import numpy as np
    import torch

    asked = prompts(PROMPTS)
    texts = [caption(p, random.Random(i), full=True) for i, p in enumerate(asked)]
    for guidance in GUIDANCE:
        kept = work / f"drawn_{base.name}_{guidance:g}.npy"
        if not kept.exists():
            np.save(kept, drawn(load(base), texts, guidance, seed=2).numpy())
        found = verdicts(work, torch.from_numpy(np.load(kept)), asked)
        note(work, f"measure_{base.name}", **{f"guidance_{guidance:g}": found})
