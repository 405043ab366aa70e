"""How well a drawing follows edges, and how much it takes after another picture.

The pictures are those of the tiny world (`assets/tiny`), drawn from seeds of their own: nothing was
ever trained on them.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from likeness_metrics import TINY, embeddings
from PIL import Image

sys.path.insert(0, str(TINY))  # its scripts import one another by name

import control
from draw import NOUNS, Picture, paint, random_picture
from judge import QUESTIONS, answers, load_judge, split
from palette import COLORS
from pictures import signed

TOLERANCE = 1
"""Pixels by which an edge may lie beside the one that it is compared with."""
JUDGED = ("noun", "color", "scene")


@dataclass(frozen=True)
class Sample:
    """A picture of the tiny world and what it shows."""

    shown: Picture
    image: Image.Image


def samples(count: int, seed: int, noun: str = "") -> list[Sample]:
    """`count` pictures, every noun equally often unless one is named."""
    rng = random.Random(seed)
    found = [random_picture(rng, noun or NOUNS[i % len(NOUNS)]) for i in range(count)]
    return [Sample(shown, paint(shown, rng)) for shown in found]


def other_color(sample: Sample, rng: random.Random) -> str:
    """Any colour but that of the thing itself."""
    return rng.choice([color for color in COLORS if color != sample.shown.color])


# -- edges -----------------------------------------------------------------------------------------


def edges(image: Image.Image) -> np.ndarray:
    """[height, width] whether there is an edge; the detector that the ControlNet was trained with,
    `LikenessPreprocess`'s canny at the picture's own size.
    """
    return control.edges(pixels([image]))[0].numpy() > 0


def edge_picture(image: Image.Image) -> Image.Image:
    """White edges on black, RGB."""
    return Image.fromarray((edges(image) * 255).astype(np.uint8)).convert("RGB")


def edge_f1(wanted: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> np.ndarray:
    """[pictures] harmonic mean of the share of drawn edges that are wanted and of wanted edges
    that are drawn, each within `TOLERANCE` pixels.
    """
    pairs = zip(map(edges, wanted), map(edges, drawn), strict=True)
    return np.array([_f1(one, other) for one, other in pairs])


def _f1(wanted: np.ndarray, drawn: np.ndarray) -> float:
    if not wanted.any() or not drawn.any():
        return float(wanted.any() == drawn.any())
    precision = (drawn & _near(wanted)).sum() / drawn.sum()
    recall = (wanted & _near(drawn)).sum() / wanted.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _near(lines: np.ndarray) -> np.ndarray:
    import cv2

    size = 2 * TOLERANCE + 1
    return cv2.dilate(lines.astype(np.uint8), np.ones((size, size), np.uint8)) > 0


# -- likeness --------------------------------------------------------------------------------------


def cosine(drawn: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
    """[pictures] of each with its reference, as the bundled image encoder sees them. The bundled
    IP-Adapter was trained on this very encoder: it flatters.
    """
    return (embeddings(drawn) * embeddings(references)).sum(1).numpy()


def found_again(drawn: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
    """[pictures] whether the own reference is the nearest of all, to the same encoder."""
    nearest = (embeddings(drawn) @ embeddings(references).T).argmax(1)
    return (nearest == torch.arange(len(drawn))).numpy()


def palette(drawn: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
    """[pictures] what a picture and its reference have in common of the shares of the twelve
    colours, 0..1; each pixel counts for the colour that it is nearest to. Nothing is learned here.
    """
    pairs = zip(map(_shares, drawn), map(_shares, references), strict=True)
    return np.array([np.minimum(one, other).sum() for one, other in pairs])


def _shares(image: Image.Image) -> np.ndarray:
    near = np.asarray(image.convert("RGB"), float)[:, :, None] - np.array(list(COLORS.values()))
    nearest = (near**2).sum(-1).argmin(-1)
    return np.bincount(nearest.ravel(), minlength=len(COLORS)) / nearest.size


class Judge:
    """A small CNN that reads noun, colour and background off a picture; it was trained on drawings
    alone, and neither ControlNet nor IP-Adapter ever saw it.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        """`folder`: work folder of `assets/tiny/make.py`; the judge is trained there if it is
        not there yet.
        """
        if not (folder / "judge_weights.pt").is_file():
            make = [sys.executable, str(TINY / "make.py"), "--work", str(folder)]
            subprocess.run([*make, "pictures", "judge", "--steps", str(steps)], check=True)
        self._judge = load_judge(folder)

    def agrees(self, drawn: Sequence[Image.Image], shown: Sequence[Picture]) -> dict[str, Any]:
        """Question → [pictures] whether the picture shows what `shown` says."""
        with torch.no_grad():
            scores = split(self._judge(signed(pixels(drawn))))
        found = {}
        for question in JUDGED:
            seen = [QUESTIONS[question][i] for i in scores[question].argmax(1).tolist()]
            right = [answers(one)[question] for one in shown]
            found[question] = np.array([a == b for a, b in zip(seen, right, strict=True)])
        return found


def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """uint8 [pictures, 3, height, width]"""
    rows = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def through_vae(images: Sequence[Image.Image]) -> list[Image.Image]:
    """What is left of pictures after a trip into latents and back: no drawing can do better."""
    vae = _vae()
    with torch.no_grad():
        latents = vae.encode(signed(pixels(images))).latent_dist.mode()
        made = vae.decode(latents).sample.clamp(-1, 1)
    rows = ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(row) for row in rows]


@cache
def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(TINY / "base" / "vae", dtype=torch.float32)
