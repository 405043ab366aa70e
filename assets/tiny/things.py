"""The nouns: fifteen simple things (the sixteenth, the monster, has a file of its own)."""

from __future__ import annotations

import math

from palette import INK, PAPER, WOOD, Color, Point, darker, mixed, outline_of
from PIL import Image, ImageDraw

THINGS = (
    *("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"),
    *("house", "tree", "fish", "cup", "mushroom", "flower", "boat"),
)


class Pen:
    """Draws in units of the object's radius around its centre, every part with the same outline."""

    def __init__(
        self,
        picture: Image.Image,
        center: Point,
        radius: float,
        color: Color,
        outline: Color | None = None,
    ):
        """`center` and `radius` are pixels of the large canvas."""
        self.draw = ImageDraw.Draw(picture)
        self.center, self.radius, self.color = center, radius, color
        self.outline = outline or outline_of(color)
        self.line = int(max(3, radius * 0.07))

    def at(self, *points: Point) -> list[Point]:
        return [
            (self.center[0] + x * self.radius, self.center[1] + y * self.radius) for x, y in points
        ]

    def polygon(self, *points: Point, fill: Color | None = None) -> None:
        corners = self.at(*points)
        self.draw.polygon(corners, fill=fill or self.color)
        self.draw.line(
            [*corners, corners[0], corners[1]], fill=self.outline, width=self.line, joint="curve"
        )

    def oval(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Color | None = None,
        edge: bool = True,
    ) -> None:
        outline, width = (self.outline, self.line) if edge else (None, 0)
        self.draw.ellipse(
            self.at((x0, y0), (x1, y1)), fill=fill or self.color, outline=outline, width=width
        )

    def disc(
        self, x: float, y: float, r: float, fill: Color | None = None, edge: bool = True
    ) -> None:
        self.oval(x - r, y - r, x + r, y + r, fill, edge)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Color | None = None,
        round_by: float = 0,
    ) -> None:
        self.draw.rounded_rectangle(
            self.at((x0, y0), (x1, y1)),
            round_by * self.radius,
            fill or self.color,
            self.outline,
            self.line,
        )


def regular_polygon(corners: int, radius: float, turn: float) -> list[Point]:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def thing(pen: Pen, noun: str, turn: float) -> None:
    """Draws one of THINGS. `turn` (radians, about -0.2..0.2) tilts those that have a tilt."""
    c, dark = pen.color, sum(pen.color) <= 150
    if noun == "circle":
        pen.disc(0, 0, 0.9)
    elif noun == "square":
        pen.polygon(*regular_polygon(4, 1.15, math.pi / 4 + turn * 0.6))
    elif noun == "triangle":
        pen.polygon(*[(x, y + 0.15) for x, y in regular_polygon(3, 1.1, turn - math.pi / 2)])
    elif noun == "star":
        outer = regular_polygon(5, 1.08, turn - math.pi / 2)
        inner = regular_polygon(5, 0.46, turn - math.pi / 2 + math.pi / 5)
        pen.polygon(*[p for pair in zip(outer, inner, strict=True) for p in pair])
    elif noun == "heart":
        pen.polygon(*[_heart(2 * math.pi * i / 40) for i in range(40)])
    elif noun == "cross":
        a, s, k = 0.34, math.sin(turn), math.cos(turn)
        arms = [
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        ]
        pen.polygon(*[(x * k - y * s, x * s + y * k) for x, y in arms])
    elif noun == "ring":
        width, edge = int(0.4 * pen.radius), pen.line / pen.radius
        pen.draw.ellipse(
            pen.at((-0.95, -0.95), (0.95, 0.95)), outline=pen.outline, width=width + 2 * pen.line
        )
        pen.draw.ellipse(pen.at((edge - 0.95,) * 2, (0.95 - edge,) * 2), outline=c, width=width)
    elif noun == "moon":
        outer = [math.radians(60 + 240 * i / 24) for i in range(25)]
        inner = [math.radians(290 - 220 * i / 24) for i in range(25)]
        pen.polygon(
            *[(math.cos(a) + 0.2, math.sin(a)) for a in outer],
            *[(0.62 + 0.78 * math.cos(a), 0.92 * math.sin(a)) for a in inner],
        )
    elif noun == "house":
        pen.box(-0.75, -0.15, 0.75, 0.95)
        pen.polygon((-1, -0.1), (0, -1), (1, -0.1), fill=(70, 70, 75) if dark else darker(c, 0.65))
        pen.box(-0.18, 0.35, 0.18, 0.95, WOOD)
        for x in (-0.6, 0.32):
            pen.box(x, 0.1, x + 0.28, 0.38, (250, 240, 150))
    elif noun == "tree":
        pen.box(-0.17, 0.3, 0.17, 1, (120, 75, 40))
        pen.oval(-0.8, -1, 0.8, 0.5)
    elif noun == "fish":
        pen.polygon((0.35, 0), (1.05, -0.6), (1.05, 0.6), fill=c if dark else darker(c, 0.8))
        pen.oval(-1, -0.58, 0.6, 0.58)
        pen.disc(-0.57, -0.15, 0.16, PAPER)
        pen.disc(-0.56, -0.14, 0.07, INK, edge=False)
    elif noun == "cup":
        pen.draw.ellipse(
            pen.at((0.25, -0.45), (1.08, 0.5)), outline=pen.outline, width=int(0.3 * pen.radius)
        )
        pen.draw.ellipse(
            pen.at((0.31, -0.39), (1.02, 0.44)), outline=c, width=int(0.18 * pen.radius)
        )
        pen.polygon((-0.8, -0.75), (0.62, -0.75), (0.5, 0.8), (-0.68, 0.8))
        pen.oval(-0.8, -0.95, 0.62, -0.55, mixed(c, (255, 255, 255), 0.45))
    elif noun == "mushroom":
        pen.polygon((-0.3, 0), (0.3, 0), (0.38, 0.95), (-0.38, 0.95), fill=(245, 232, 205))
        pen.draw.pieslice(
            pen.at((-1, -0.95), (1, 1.05)), 180, 360, fill=c, outline=pen.outline, width=pen.line
        )
        for x, y, r in ((-0.5, -0.3, 0.16), (0.05, -0.58, 0.18), (0.52, -0.25, 0.15)):
            pen.disc(x, y, r, PAPER if sum(c) < 690 else (150, 150, 155), edge=False)
    elif noun == "flower":
        for i in range(6):
            angle = turn + math.pi * i / 3
            pen.disc(0.58 * math.cos(angle), 0.58 * math.sin(angle), 0.42)
        yellowish = c[2] <= 100 and c[0] >= 200 and c[1] >= 120
        pen.disc(0, 0, 0.36, (140, 80, 30) if yellowish else (250, 205, 40))
    elif noun == "boat":
        pen.box(-0.05, -1, 0.05, 0.35, WOOD)
        pen.polygon((0.1, -0.95), (0.85, 0.15), (0.1, 0.15), fill=PAPER)
        pen.polygon((-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9))
    else:
        raise ValueError(f"no drawing for {noun!r}; known: {', '.join(THINGS)}")


def _heart(t: float) -> Point:
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 0.062 * 16 * math.sin(t) ** 3, -0.062 * y
