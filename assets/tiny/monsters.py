"""Monsters of many looks, and the one kept out of every training picture: the subject."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

from palette import COLORS, CREAM, INK, WHITE, WINE, Color, Point, outline_of, set_off_from, shaken
from PIL import Image
from things import Pen


@dataclass(frozen=True)
class Monster:
    """A look. Captions may name body, eyes, top and mouth; never the accent, belly or pose."""

    color: str
    body: str  # round, tall, wide
    eyes: int  # 1, 2, 3
    top: str  # horns, ears, antennae, nothing
    mouth: str  # smile, teeth, round
    accent: (
        str | None
    )  # colour of horns (or ears, or bobbles) and feet; None: cream horns, the rest like the body
    belly: str | None  # colour of the belly; None: no belly


SUBJECT = Monster("orange", "round", 1, "horns", "teeth", "teal", "yellow")


def traits_shared(look: Monster) -> int:
    """How many of the subject's seven traits this monster has."""
    return sum(getattr(look, f.name) == getattr(SUBJECT, f.name) for f in fields(Monster))


def is_like_subject(look: Monster) -> bool:
    """Whether a look is too close to the subject to appear in a training picture."""
    two_colors = (look.color, look.accent) == ("orange", "teal") or (look.color, look.belly) == (
        "orange",
        "yellow",
    )
    return two_colors or (look.accent, look.belly) == ("teal", "yellow") or traits_shared(look) > 3


def random_monster(color: str, rng: random.Random) -> Monster:
    """Any monster of this colour that is not like the subject."""
    while True:
        accent = (
            rng.choice([None, *[c for c in COLORS if c != color]]) if rng.random() < 0.6 else None
        )
        belly = rng.choice(set_off_from(color))
        look = Monster(
            color,
            body=rng.choice(["round", "tall", "wide"]),
            eyes=rng.choice([1, 2, 2, 3]),
            top=rng.choice(["horns", "ears", "antennae", "nothing"]),
            mouth=rng.choice(["smile", "teeth", "round"]),
            accent=accent,
            belly=belly if rng.random() < 0.5 else None,
        )
        if not is_like_subject(look):
            return look


@dataclass(frozen=True)
class Pose:
    """What changes between two pictures of the same monster."""

    lean: float = 0.0  # degrees
    glance: float = 0.0  # where the pupils sit, -1 left .. 1 right
    stance: float = 0.38  # half the distance of the feet, in radii


def random_pose(rng: random.Random) -> Pose:
    return Pose(rng.uniform(-10, 10), rng.uniform(-1, 1), rng.uniform(0.3, 0.5))


def monster(
    picture: Image.Image,
    center: Point,
    radius: float,
    look: Monster,
    pose: Pose,
    rng: random.Random,
) -> None:
    """Draws a monster into the large picture; `rng` only shakes its colours."""
    body = shaken(COLORS[look.color], rng)
    layer = Image.new("RGBA", picture.size)
    layer.paste(
        outline_of(body), (0, 0, *picture.size)
    )  # so that a turned edge blends into the outline
    layer.putalpha(0)
    pen = Pen(layer, center, radius, body)
    accent = shaken(COLORS[look.accent], rng) if look.accent else None
    _top(pen, look.top, accent)
    for side in (-1, 1):
        pen.oval(side * pose.stance - 0.27, 0.6, side * pose.stance + 0.27, 1, accent)
    if look.body == "round":
        pen.oval(-0.85, -0.8, 0.85, 0.9)
    elif look.body == "tall":
        pen.box(-0.65, -0.85, 0.65, 0.9, round_by=0.4)
    else:
        pen.box(-0.95, -0.55, 0.95, 0.88, round_by=0.55)
    if look.belly:
        pen.oval(-0.47, 0.08, 0.47, 0.86, shaken(COLORS[look.belly], rng), edge=False)
    _eyes(pen, look.eyes, pose.glance)
    _mouth(pen, look.mouth)
    turned = layer.rotate(pose.lean, Image.Resampling.BICUBIC, center=center)
    picture.paste(turned, (0, 0), turned)


def _top(pen: Pen, top: str, accent: Color | None) -> None:
    for side in (-1, 1):
        if top == "horns":
            pen.polygon(
                (side * 0.7, -0.4), (side * 0.78, -1.08), (side * 0.22, -0.7), fill=accent or CREAM
            )
        elif top == "ears":
            pen.disc(side * 0.6, -0.72, 0.3, accent)
        elif top == "antennae":
            pen.draw.line(
                pen.at((side * 0.2, -0.6), (side * 0.45, -1)), fill=pen.outline, width=pen.line + 2
            )
            pen.disc(side * 0.45, -1, 0.14, accent)


def _eyes(pen: Pen, count: int, glance: float) -> None:
    places = {
        1: [(0, 0.34)],
        2: [(-0.32, 0.23), (0.32, 0.23)],
        3: [(-0.45, 0.18), (0, 0.18), (0.45, 0.18)],
    }
    for x, r in places[count]:
        pen.disc(x, -0.3, r, WHITE)
        pen.disc(x + 0.3 * r * glance, -0.3, 0.5 * r, INK, edge=False)


def _mouth(pen: Pen, mouth: str) -> None:
    if mouth == "smile":
        pen.draw.arc(pen.at((-0.35, -0.12), (0.35, 0.42)), 20, 160, fill=INK, width=pen.line + 3)
    elif mouth == "teeth":
        pen.draw.rectangle(pen.at((-0.4, 0.14), (0.4, 0.42)), fill=WINE)
        for x in (-0.27, 0, 0.27):
            pen.draw.polygon(pen.at((x - 0.13, 0.14), (x + 0.13, 0.14), (x, 0.36)), fill=WHITE)
    else:
        pen.oval(-0.17, 0.1, 0.17, 0.44, WINE, edge=False)
