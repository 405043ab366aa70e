"""Curves as points on them. All in one coordinate system; where a curve begins is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

from .affine import Point

DEGREES = 4.0
"""Between two points of an arc: a radius of 1000 pixels is missed by 0.6."""
MOST = 180
"""Points of one arc, however often it goes round."""
STEPS = 32
"""Points of one Bézier curve."""
CIRCLE = 0.5522847498
"""How far, in radii, the control points of a quarter of a circle lie from its ends."""
BEND = 0.3915
"""How far those of TikZ's `bend` lie from its ends, in its length."""


def polar(degrees: float, rx: float, ry: float | None = None) -> Point:
    angle = math.radians(degrees)
    return rx * math.cos(angle), (rx if ry is None else ry) * math.sin(angle)


def arc(start: Point, first: float, last: float, rx: float, ry: float) -> list[Point]:
    """From `start`, which lies at `first` degrees on an ellipse, to `last` degrees on it."""
    x, y = polar(first, rx, ry)
    center = start[0] - x, start[1] - y
    count = min(MOST, max(4, math.ceil(abs(last - first) / DEGREES)))
    angles = [first + (last - first) * i / count for i in range(1, count + 1)]
    return [_moved(polar(angle, rx, ry), center) for angle in angles]


def ellipse(center: Point, rx: float, ry: float, turned: float = 0.0) -> list[Point]:
    """All the way round, counter-clockwise; `turned` in degrees."""
    cos, sin = polar(turned, 1.0)
    count = int(360 / DEGREES)
    flat = [polar(360 * i / count, rx, ry) for i in range(count)]
    return [_moved((x * cos - y * sin, x * sin + y * cos), center) for x, y in flat]


def bezier(start: Point, one: Point, two: Point, end: Point, steps: int = STEPS) -> list[Point]:
    found = []
    for step in range(1, steps + 1):
        t = step / steps
        s = 1 - t
        weights = s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t
        points = (start, one, two, end)
        found.append(
            (
                sum(w * p[0] for w, p in zip(weights, points, strict=True)),
                sum(w * p[1] for w, p in zip(weights, points, strict=True)),
            )
        )
    return found


def bend(start: Point, end: Point, out: float, into: float, looseness: float) -> list[Point]:
    """Leaves `start` at `out` degrees and comes to `end` from the side of `into` degrees."""
    reach = BEND * looseness * math.dist(start, end)
    return bezier(start, _moved(polar(out, reach), start), _moved(polar(into, reach), end), end)


def direction(start: Point, end: Point) -> float:
    """In degrees."""
    return math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))


def quarter(start: Point, end: Point, *, sine: bool) -> list[Point]:
    """A quarter of a wave: a sine begins steep and ends flat, a cosine the other way round."""
    found = []
    for step in range(1, 9):
        t = step / 8
        height = math.sin(t * math.pi / 2) if sine else 1 - math.cos(t * math.pi / 2)
        found.append((start[0] + t * (end[0] - start[0]), start[1] + height * (end[1] - start[1])))
    return found


def smooth(points: Sequence[Point], tension: float, *, closed: bool) -> list[Point]:
    """A curve through all of `points`, the first one included."""
    if len(points) < 3:
        return list(points)
    reach = 0.555 * tension
    count = len(points)
    found = [points[0]]
    for i in range(count if closed else count - 1):
        start, end = points[i], points[(i + 1) % count]
        before = points[i - 1] if closed or i else start
        after = points[(i + 2) % count] if closed or i + 2 < count else end
        one = _along(start, before, end, reach)
        two = _along(end, after, start, reach)
        found += bezier(start, one, two, end)
    return found


def _along(point: Point, origin: Point, goal: Point, reach: float) -> Point:
    return point[0] + reach * (goal[0] - origin[0]), point[1] + reach * (goal[1] - origin[1])


def rounded(
    points: Sequence[Point], corners: Set[int], radius: float, *, closed: bool
) -> list[Point]:
    """Corners cut by curves that begin `radius` before them, less where a side is short.

    `corners`: indices of the points that are some; the others are passed through.
    """
    count = len(points)
    if count < 3:
        return list(points)
    found = []
    for i, corner in enumerate(points):
        if i not in corners or (not closed and i in (0, count - 1)):
            found.append(corner)
            continue
        before, after = points[i - 1], points[(i + 1) % count]
        start, end = _toward(corner, before, radius), _toward(corner, after, radius)
        reach = 1 - CIRCLE
        one, two = _along(start, start, corner, 1 - reach), _along(end, end, corner, 1 - reach)
        found += [start, *bezier(start, one, two, end, 8)]
    return found


def _toward(corner: Point, other: Point, radius: float) -> Point:
    distance = math.dist(corner, other)
    share = min(0.5, radius / distance) if distance else 0.0
    return _along(corner, corner, other, share)


def _moved(point: Point, by: Point) -> Point:
    return point[0] + by[0], point[1] + by[1]
