"""Draws every picture of the tiny world: a thing or a monster before a background.

A picture is 64x64. Everything random comes from the `random.Random` that is handed in, so a seed
names a picture. `python assets/tiny/draw.py` writes `subject/` and `subject_held_out/` again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monsters import SUBJECT, Monster, monster, random_monster, random_pose
from palette import COLORS, OVERSAMPLE, SIZE, set_off_from, shaken
from PIL import Image
from scenes import SCENES, background
from things import THINGS, Pen, thing

NOUNS = (*THINGS, "monster")


@dataclass(frozen=True)
class Picture:
    """What a training picture shows; `caption` puts it in words, `paint` into pixels."""

    noun: str
    color: str
    scene: str
    ground: str  # first colour of plain, striped, checkered and gradient backgrounds
    ground2: str  # second colour of striped, checkered and gradient backgrounds
    size: str = ""  # "", small, big
    place: str = ""  # "", left, right, top, bottom
    look: Monster | None = None


def random_picture(rng: random.Random, noun: str | None = None) -> Picture:
    """A random picture; monsters, whose looks vary most, come three times as often as others."""
    noun = noun or rng.choice([*NOUNS, "monster", "monster"])
    color = rng.choice(list(COLORS))
    grounds = set_off_from(color)
    ground, ground2 = rng.sample(grounds, 2)
    size = rng.choices(["small", "", "big"], [0.25, 0.5, 0.25])[0]
    place = rng.choices(["", "left", "right", "top", "bottom"], [0.5, 0.125, 0.125, 0.125, 0.125])[
        0
    ]
    return Picture(
        noun,
        color,
        scene=rng.choice(["plain"] * 5 + list(SCENES[1:])),
        ground=ground,
        ground2=ground2,
        size=size,
        place=place if size != "big" else "",
        look=random_monster(color, rng) if noun == "monster" else None,
    )


def paint(picture: Picture, rng: random.Random) -> Image.Image:
    """The picture, 64x64."""
    radius = {"small": rng.uniform(9, 11.5), "": rng.uniform(15, 19), "big": rng.uniform(23, 26.5)}[
        picture.size
    ]
    room = SIZE / 2 - radius - 2
    x, y = (SIZE / 2 + rng.uniform(-0.15, 0.15) * room for _ in range(2))
    shift = rng.uniform(0.75, 1) * room
    x += {"left": -shift, "right": shift}.get(picture.place, 0)
    y += {"top": -shift, "bottom": shift}.get(picture.place, 0)
    canvas = background(picture.scene, COLORS[picture.ground], COLORS[picture.ground2], rng)
    center, radius = (x * OVERSAMPLE, y * OVERSAMPLE), radius * OVERSAMPLE
    if picture.look:
        monster(canvas, center, radius, picture.look, random_pose(rng), rng)
    else:
        pen = Pen(canvas, center, radius, shaken(COLORS[picture.color], rng))
        thing(pen, picture.noun, rng.uniform(-0.2, 0.2))
    return canvas.reduce(OVERSAMPLE)


# scene, ground, ground2, size: chosen by hand so that no two pictures share a background
SUBJECT_SCENES = (
    ("plain", "white", "red", ""),
    ("plain", "blue", "red", "big"),
    ("grass", "red", "red", ""),
    ("gradient", "pink", "purple", "big"),
    ("beach", "red", "red", ""),
)
HELD_OUT_SCENES = (
    ("plain", "gray", "red", ""),
    ("plain", "purple", "red", "big"),
    ("striped", "green", "white", "big"),
    ("checkered", "gray", "pink", "big"),
    ("sky", "red", "red", ""),
    ("night", "red", "red", "big"),
    ("snow", "red", "red", ""),
    ("plain", "red", "red", ""),
)


def subject_pictures(scenes: Sequence[tuple[str, str, str, str]], seed: int) -> list[Image.Image]:
    """The taught creature, once per scene."""
    rng = random.Random(seed)
    pictures = []
    for scene, ground, ground2, size in scenes:
        place = rng.choice(["", "left", "right"]) if not size else ""
        shown = Picture("monster", "orange", scene, ground, ground2, size, place, SUBJECT)
        pictures.append(paint(shown, rng))
    return pictures


def subject_folders() -> dict[str, list[Image.Image]]:
    """Folder name to pictures: five to learn from, eight to judge by."""
    return {
        "subject": subject_pictures(SUBJECT_SCENES, seed=5),
        "subject_held_out": subject_pictures(HELD_OUT_SCENES, seed=8),
    }


POSE = Monster("blue", "tall", 2, "ears", "smile", None, None)


def example_folders() -> dict[str, list[Image.Image]]:
    """Folder name to the one picture that examples follow or take after."""
    pose = Picture("monster", "blue", "plain", "white", "red", "big", look=POSE)
    style = Picture("moon", "white", "night", "red", "red")
    return {"pose": [paint(pose, random.Random(4))], "style": [paint(style, random.Random(2))]}


if __name__ == "__main__":
    for name, pictures in {**subject_folders(), **example_folders()}.items():
        folder = Path(__file__).parent / name
        folder.mkdir(exist_ok=True)
        for number, picture in enumerate(pictures, 1):
            picture.save(folder / f"{number:02d}.png")
