"""Areas and strokes put onto a Pillow image, finer than the picture and cut to its edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from .affine import Point
from .drawing import Outline, Shape, box_of
from .fit import Fit, visible

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Ink = int | tuple[int, int, int]
BEYOND = 4.0
"""Sub-pixels around the image in which outlines go on, so that cut edges are not seen."""
GAP = 0.5
"""Sub-pixels: a corner that would leave a wider gap on the outer side of a stroke is made round."""


class Painter:
    """One image that shows a part of the picture.

    `area`: left, top, right and bottom of that part in pixels of the picture.
    """

    def __init__(
        self, mode: str, ground: Ink, fitted: Fit, fine: int, area: tuple[int, int, int, int]
    ) -> None:
        from PIL import Image, ImageDraw

        left, top, right, bottom = area
        self.area = area
        self.scale = fitted.scale  # pixels of the picture for each cm
        self._fine = fine
        self._fit = replace(
            fitted,
            scale=fitted.scale * fine,
            left=(fitted.left - left) * fine,
            top=(fitted.top - top) * fine,
        )
        size = (right - left) * fine, (bottom - top) * fine
        self.image = Image.new(mode, size, ground)
        self._draw: ImageDraw = ImageDraw.Draw(self.image)
        self._bounds = -BEYOND, -BEYOND, size[0] + BEYOND, size[1] + BEYOND

    def finished(self) -> Image:
        """At the picture's resolution."""
        return self.image.reduce(self._fine) if self._fine > 1 else self.image

    def paint(self, shape: Shape, fill: Ink | None, stroke: Ink | None, pen: float) -> None:
        """One shape. `pen`: the least width of its stroke, in pixels."""
        width = max(pen * self._fine, shape.width * self._fit.scale)
        if not shape.clips:
            self._both(shape, fill, stroke, width)
            return
        for ink, layer in ((fill, (255, None)), (stroke, (None, 255))):
            if ink is not None:
                self._clipped(shape, ink, layer, width)

    def _both(self, shape: Shape, fill: Ink | None, stroke: Ink | None, width: float) -> None:
        if fill is not None:
            self._area(shape.outline, fill, shape.even_odd)
        if stroke is not None:
            for path in shape.outline:
                self._stroke(self._points(path.points), path.closed, stroke, width)

    def _clipped(
        self, shape: Shape, ink: Ink, layer: tuple[Ink | None, Ink | None], width: float
    ) -> None:
        """Painted on a sheet of its own, which is then cut."""
        from PIL import ImageChops

        box = box_of([shape.outline])
        area = box and visible(box, self._whole(), width / self._fine)
        if not area:
            return
        sheet = self._sheet(area)
        sheet._both(shape, *layer, width)
        mask = sheet.image
        for clip in shape.clips:
            hole = self._sheet(area)
            hole._area(clip, 255, even_odd=False)
            mask = ImageChops.darker(mask, hole.image)
        self.image.paste(ink, (area[0] * self._fine, area[1] * self._fine), mask)

    def _whole(self) -> Fit:
        """This image's own part as if it were the picture, in pixels."""
        left, top, right, bottom = self.area
        return replace(
            self._fit,
            width=right - left,
            height=bottom - top,
            scale=self._fit.scale / self._fine,
            left=self._fit.left / self._fine,
            top=self._fit.top / self._fine,
        )

    def _sheet(self, area: tuple[int, int, int, int]) -> Painter:
        return Painter("L", 0, self._whole(), self._fine, area)

    def _points(self, points: Sequence[Point]) -> list[Point]:
        return [self._fit.apply(point) for point in points]

    def _area(self, outline: Outline, ink: Ink, even_odd: bool) -> None:
        parts = [self._points(path.points) for path in outline]
        if even_odd and len(parts) > 1:
            # One polygon that goes to each part and back on the same way: Pillow counts crossings.
            bridge = parts[0][0]
            parts = [[point for part in parts for point in (*part, part[0], bridge)]]
        for part in parts:
            self._polygon(part, ink)

    def _polygon(self, points: list[Point], ink: Ink) -> None:
        inside = cut(points, self._bounds)
        if len(inside) > 2:
            self._draw.polygon([(round(x - 0.5), round(y - 0.5)) for x, y in inside], fill=ink)

    def _stroke(self, points: list[Point], closed: bool, ink: Ink, width: float) -> None:
        points = [p for i, p in enumerate(points) if i == 0 or math.dist(p, points[i - 1]) > 1e-9]
        ring = [*points, points[0]] if closed else points
        thickness = max(1, round(width))
        left, top, right, bottom = self._bounds
        if all(left <= x <= right and top <= y <= bottom for x, y in ring):
            self._draw.line([(x - 0.5, y - 0.5) for x, y in ring], fill=ink, width=thickness)
        else:
            for start, end in pairwise(ring):
                self._line(start, end, ink, thickness)
        if width >= 2:
            for corner in _corners(ring, closed, thickness):
                self._dot(corner, ink, thickness)

    def _line(self, start: Point, end: Point, ink: Ink, width: float) -> None:
        (x0, y0), (x1, y1) = start, end
        distance = math.dist(start, end)
        if not distance:
            return
        x, y = -(y1 - y0) / distance * width / 2, (x1 - x0) / distance * width / 2
        self._polygon([(x0 + x, y0 + y), (x1 + x, y1 + y), (x1 - x, y1 - y), (x0 - x, y0 - y)], ink)

    def _dot(self, center: Point, ink: Ink, width: float) -> None:
        radius = width / 2
        left, top, right, bottom = self._bounds
        x, y = center
        outside = x + radius < left or x - radius > right
        if outside or y + radius < top or y - radius > bottom:
            return
        count = min(64, max(8, int(radius)))
        angles = (2 * math.pi * i / count for i in range(count))
        self._polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], ink)


def _corners(ring: Sequence[Point], closed: bool, width: float) -> list[Point]:
    """Where a stroke ends or turns so far that its segments leave a gap."""
    angles = [math.atan2(y1 - y0, x1 - x0) for (x0, y0), (x1, y1) in pairwise(ring)]
    found = [] if closed else [ring[0], ring[-1]]
    for i, angle in enumerate(angles):
        if i or closed:
            turn = abs((angle - angles[i - 1] + math.pi) % (2 * math.pi) - math.pi)
            if turn * width / 2 > GAP:
                found.append(ring[i])
    return found


def cut(points: list[Point], bounds: tuple[float, float, float, float]) -> list[Point]:
    """The part of a polygon inside of (left, top, right, bottom), so that far-away corners reach
    neither Pillow's integers nor its running time.
    """
    left, top, right, bottom = bounds
    if all(left <= x <= right and top <= y <= bottom for x, y in points):
        return points
    for axis, limit, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        points = _half(points, axis, limit, sign)
    return points


def _half(points: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    """One side of a line (Sutherland and Hodgman)."""
    found = []
    for i, point in enumerate(points):
        before = points[i - 1]
        inside, was = (sign * (p[axis] - limit) >= 0 for p in (point, before))
        if inside != was:
            share = (limit - before[axis]) / (point[axis] - before[axis])
            other = before[1 - axis] + share * (point[1 - axis] - before[1 - axis])
            found.append((limit, other) if axis == 0 else (other, limit))
        if inside:
            found.append(point)
    return found
