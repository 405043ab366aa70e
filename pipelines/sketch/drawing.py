"""What a program draws, described: areas and strokes in cm, y upwards, in the order of painting."""

from __future__ import annotations

from dataclasses import dataclass, field

from .affine import Point
from .colours import RGB


@dataclass(frozen=True)
class Subpath:
    points: tuple[Point, ...]
    closed: bool
    """Closed by the program, or ending where it began."""


Outline = tuple[Subpath, ...]


@dataclass(frozen=True)
class Shape:
    """One path. Neither filled nor drawn, it only takes part in the size of the picture.

    `width`: of the pen, in cm. `even_odd`: where subpaths overlap twice is a hole. `clips`: it
    shows only inside of all of these. `object`: index into `Drawing.phrases`.
    """

    outline: Outline
    fill: RGB | None = None
    stroke: RGB | None = None
    width: float = 0.0
    even_odd: bool = False
    clips: tuple[Outline, ...] = ()
    object: int | None = None

    @property
    def visible(self) -> bool:
        return self.fill is not None or self.stroke is not None


@dataclass(frozen=True)
class Box:
    """Left, bottom, right and top, in cm."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass
class Drawing:
    shapes: list[Shape] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    """Of the objects, in the order in which they are first drawn."""
    canvas: Box | None = None
    """What the picture shows, where the program says so."""


def box_of(outlines: list[Outline]) -> Box | None:
    """Around all points; None if there are none."""
    points = [point for outline in outlines for path in outline for point in path.points]
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Box(min(xs), min(ys), max(xs), max(ys))
