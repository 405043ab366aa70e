"""The nine backgrounds."""

from __future__ import annotations

import random

from palette import CANVAS, Color, Point, mixed, shaken
from PIL import Image, ImageDraw

SCENES = ("plain", "striped", "checkered", "gradient", "sky", "grass", "night", "beach", "snow")


def background(scene: str, color: Color, color2: Color, rng: random.Random) -> Image.Image:
    """CANVAS x CANVAS; the first four scenes use the colours, the others have their own."""
    if scene == "plain":
        return Image.new("RGB", (CANVAS, CANVAS), shaken(color, rng, 8))
    if scene in ("striped", "checkered"):
        return _pattern(scene, shaken(color, rng, 6), shaken(color2, rng, 6), rng)
    if scene == "gradient":
        return _vertical_gradient(shaken(color, rng, 8), shaken(color2, rng, 8))
    return {"sky": _sky, "grass": _grass, "night": _night, "beach": _beach, "snow": _snow}[scene](
        rng
    )


def _vertical_gradient(top: Color, bottom: Color) -> Image.Image:
    column = Image.new("RGB", (1, CANVAS))
    column.putdata([mixed(top, bottom, y / (CANVAS - 1)) for y in range(CANVAS)])
    return column.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


def _pattern(scene: str, color: Color, color2: Color, rng: random.Random) -> Image.Image:
    picture = Image.new("RGB", (CANVAS, CANVAS), color)
    draw = ImageDraw.Draw(picture)
    if scene == "striped":
        count = rng.choice([4, 5])
        width = CANVAS / count / 2
        for i in range(count + 1):
            draw.rectangle(
                [int((2 * i + 0.5) * width), 0, int((2 * i + 1.5) * width), CANVAS], fill=color2
            )
    else:
        count = rng.choice([4, 6])
        width = CANVAS / count
        for i in range(count):
            for j in range((i + 1) % 2, count, 2):
                corner = [
                    int(i * width),
                    int(j * width),
                    int((i + 1) * width),
                    int((j + 1) * width),
                ]
                draw.rectangle(corner, fill=color2)
    return picture


def _dots(
    draw: ImageDraw.ImageDraw,
    count: int,
    radius: Point,
    bottom: float,
    fill: Color,
    rng: random.Random,
):
    for _ in range(count):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, bottom), rng.uniform(*radius)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _sky(rng: random.Random) -> Image.Image:
    picture = _vertical_gradient(shaken((95, 170, 240), rng, 8), shaken((190, 225, 250), rng, 6))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(2, 3)):
        x, y = rng.uniform(0, CANVAS), rng.uniform(0.05 * CANVAS, 0.9 * CANVAS)
        s = rng.uniform(0.05, 0.08) * CANVAS
        for dx, dy, k in ((-1, 0, 1), (0, -0.4, 1.3), (1.2, 0, 1)):
            box = [
                x + dx * s - k * s,
                y + dy * s - k * s * 0.8,
                x + dx * s + k * s,
                y + dy * s + k * s * 0.8,
            ]
            draw.ellipse(box, fill=(250, 252, 255))
    return picture


def _grass(rng: random.Random) -> Image.Image:
    picture = _vertical_gradient((150, 205, 245), (205, 232, 250))
    draw = ImageDraw.Draw(picture)
    horizon = rng.uniform(0.55, 0.65) * CANVAS
    draw.rectangle([0, horizon, CANVAS, CANVAS], fill=shaken((95, 175, 65), rng, 8))
    blade = shaken((70, 145, 50), rng, 6)
    for _ in range(14):
        x, y = rng.uniform(0, CANVAS), rng.uniform(horizon, CANVAS)
        draw.line([x, y, x + rng.uniform(-4, 4), y - 12], fill=blade, width=5)
    return picture


def _night(rng: random.Random) -> Image.Image:
    picture = _vertical_gradient((12, 14, 50), (35, 35, 90))
    _dots(ImageDraw.Draw(picture), 14, (2.5, 4.5), CANVAS, (255, 250, 200), rng)
    return picture


def _beach(rng: random.Random) -> Image.Image:
    picture = _vertical_gradient((165, 215, 248), (215, 238, 252))
    draw = ImageDraw.Draw(picture)
    sea = rng.uniform(0.38, 0.46) * CANVAS
    sand = sea + rng.uniform(0.16, 0.22) * CANVAS
    draw.rectangle([0, sea, CANVAS, sand], fill=shaken((35, 120, 200), rng, 8))
    draw.rectangle([0, sand, CANVAS, CANVAS], fill=shaken((238, 214, 150), rng, 6))
    return picture


def _snow(rng: random.Random) -> Image.Image:
    picture = _vertical_gradient((175, 195, 215), (215, 226, 238))
    draw = ImageDraw.Draw(picture)
    horizon = rng.uniform(0.6, 0.7) * CANVAS
    draw.rectangle([0, horizon, CANVAS, CANVAS], fill=(248, 250, 254))
    _dots(draw, 14, (3, 5), horizon, (255, 255, 255), rng)
    return picture
