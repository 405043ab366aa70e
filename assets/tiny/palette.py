"""Colours and measures that all drawings share."""

from __future__ import annotations

import random
from collections.abc import Iterable

Color = tuple[int, int, int]
Point = tuple[float, float]

SIZE = 64
OVERSAMPLE = 4  # drawn this much larger, then reduced
CANVAS = SIZE * OVERSAMPLE

COLORS: dict[str, Color] = {
    "red": (220, 35, 35),
    "orange": (245, 140, 25),
    "yellow": (248, 222, 50),
    "green": (45, 165, 60),
    "teal": (25, 165, 165),
    "blue": (40, 80, 215),
    "purple": (130, 50, 175),
    "pink": (248, 140, 185),
    "brown": (130, 80, 40),
    "white": (245, 245, 245),
    "black": (28, 28, 30),
    "gray": (140, 142, 146),
}
ALIKE = (
    {"white", "gray"},
    {"black", "brown"},
    {"red", "orange"},
    {"orange", "yellow"},
    {"purple", "blue"},
    {"teal", "green"},
    {"pink", "purple"},
    {"teal", "blue"},
    {"red", "brown"},
    {"orange", "brown"},
    {"red", "pink"},
    {"black", "gray"},
)
WHITE, INK, WINE = (252, 252, 252), (15, 15, 20), (60, 10, 20)
CREAM, WOOD, PAPER = (245, 235, 205), (112, 70, 40), (250, 250, 250)


def set_off_from(color: str) -> list[str]:
    """The colours that can be told from this one at a glance."""
    return [c for c in COLORS if c != color and {c, color} not in ALIKE]


def shaken(color: Color, rng: random.Random, amount: float = 10) -> Color:
    """The same colour, a little different each time."""
    return _clamped(v + rng.uniform(-amount, amount) for v in color)


def darker(color: Color, factor: float) -> Color:
    return _clamped(v * factor for v in color)


def mixed(a: Color, b: Color, share_of_b: float) -> Color:
    return _clamped(x * (1 - share_of_b) + y * share_of_b for x, y in zip(a, b, strict=True))


def outline_of(color: Color) -> Color:
    return darker(color, 0.45) if sum(color) > 150 else (95, 95, 100)


def _clamped(values: Iterable[float]) -> Color:
    r, g, b = (int(min(255, max(0, v))) for v in values)
    return r, g, b
