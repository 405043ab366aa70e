"""Maps of the plane as six numbers: (x, y) → (a·x + c·y + e, b·x + d·y + f)."""

from __future__ import annotations

import math
from typing import NamedTuple

Point = tuple[float, float]


class Affine(NamedTuple):
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 1.0
    e: float = 0.0
    f: float = 0.0

    def then(self, inner: Affine) -> Affine:
        """This map after `inner`: what a further option of a path adds."""
        a, b, c, d, e, f = inner
        return Affine(
            self.a * a + self.c * b,
            self.b * a + self.d * b,
            self.a * c + self.c * d,
            self.b * c + self.d * d,
            self.a * e + self.c * f + self.e,
            self.b * e + self.d * f + self.f,
        )

    def apply(self, point: Point) -> Point:
        x, y = point
        return self.a * x + self.c * y + self.e, self.b * x + self.d * y + self.f

    @property
    def area(self) -> float:
        """By how much it enlarges areas."""
        return abs(self.a * self.d - self.b * self.c)

    def inverse(self) -> Affine:
        """`area` must not be 0."""
        determinant = self.a * self.d - self.b * self.c
        a, b = self.d / determinant, -self.b / determinant
        c, d = -self.c / determinant, self.a / determinant
        return Affine(a, b, c, d, -(a * self.e + c * self.f), -(b * self.e + d * self.f))


def shift(x: float, y: float) -> Affine:
    return Affine(e=x, f=y)


def scale(x: float, y: float) -> Affine:
    return Affine(a=x, d=y)


def slant(x: float, y: float) -> Affine:
    return Affine(b=y, c=x)


def rotation(degrees: float, center: Point = (0.0, 0.0)) -> Affine:
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = Affine(cos, sin, -sin, cos)
    return shift(*center).then(turned).then(shift(-center[0], -center[1]))
