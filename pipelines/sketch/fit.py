"""How a drawing lies in the picture, and how finely it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from .affine import Point
from .drawing import Box, Drawing, Outline, Shape, Subpath, box_of
from .limits import MAX_MASK_PIXELS, MAX_PIXELS, MAX_SIDE, MIN_SIDE

MARGIN = 0.05
"""Of the shorter side, left free around a drawing that does not say what the picture shows."""
FINEST = 4
"""Sub-pixels along each side of a pixel: 16 grey levels for a slanted edge."""
MAX_CANVAS = 80_000_000
"""Sub-pixels of the picture: 240 MB in colour, and a quarter of a second to scale down."""
MAX_WORK = 500_000_000
"""Sub-pixels painted altogether, one on top of the other; about a second."""
CROSSING, LOOK = 120, 3
"""What it costs, in painted sub-pixels, when an edge crosses a row, and when Pillow looks at one in
a row that it does not cross.
"""


@dataclass(frozen=True)
class Fit:
    """`scale`: pixels for each cm. The point (x, y) lies at (left + scale·x, top - scale·y)."""

    width: int
    height: int
    scale: float
    left: float
    top: float

    def apply(self, point: Point) -> Point:
        return self.left + self.scale * point[0], self.top - self.scale * point[1]


def check_size(width: int, height: int) -> None:
    """Whether a picture of that size is drawn.

    Raises:
        ValueError: it is too small or too large.
    """
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise ValueError(
            f"a sketch of {width}x{height} pixels cannot be drawn; "
            f"use {MIN_SIDE} to {MAX_SIDE} for each side"
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"a sketch of {width}x{height} pixels has more than {MAX_PIXELS:,}; make it smaller"
        )


def fit(drawing: Drawing, width: int, height: int) -> Fit:
    """The whole drawing, or the canvas that it names, as large as it goes, in the middle.

    Raises:
        ValueError: the size is not drawn, or the drawing has no extent.
    """
    check_size(width, height)
    if len(drawing.phrases) * width * height > MAX_MASK_PIXELS:
        raise ValueError(
            f"{len(drawing.phrases)} masks of {width}x{height} pixels do not fit into memory; "
            "make the picture smaller"
        )
    box = drawing.canvas or box_of([shape.outline for shape in drawing.shapes])
    assert box is not None
    margin = 0.0 if drawing.canvas else MARGIN * min(width, height)
    across, up = box.right - box.left, box.top - box.bottom
    if max(across, up) < 1e-6 or (drawing.canvas and min(across, up) < 1e-6):
        what = "the canvas" if drawing.canvas else "everything that the sketch draws"
        raise ValueError(f"{what} has no area; move its corners apart")
    scale = min(
        (side - 2 * margin) / length
        for side, length in ((width, across), (height, up))
        if length >= 1e-6
    )
    left = width / 2 - scale * (box.left + box.right) / 2
    return Fit(width, height, scale, left, height / 2 + scale * (box.bottom + box.top) / 2)


def fineness(drawing: Drawing, fitted: Fit, pen: float) -> int:
    """Sub-pixels along each side of a pixel: as many as memory and time allow.

    Raises:
        ValueError: it would take too long even without any.
    """
    pixels = fitted.width * fitted.height
    area, crossings = float(pixels * (1 + len(drawing.phrases))), 0.0
    for shape in drawing.shapes:
        more = _work(shape, fitted, pen)
        area, crossings = area + more[0], crossings + more[1]
    for fine in (FINEST, 3, 2, 1):
        work = area * fine**2 + crossings * fine
        if pixels * fine**2 <= MAX_CANVAS and work <= MAX_WORK:
            return fine
    raise ValueError(
        f"the sketch has too many large shapes or long outlines for {fitted.width}x"
        f"{fitted.height} pixels; make it simpler, or the picture smaller"
    )


def _work(shape: Shape, fitted: Fit, pen: float) -> tuple[float, float]:
    """About what it costs to paint it and its mask: what grows with the square of the fineness, and
    what grows with the fineness.
    """
    box = box_of([shape.outline])
    if box is None or not shape.visible:
        return 0.0, 0.0
    pen = max(pen, shape.width * fitted.scale)
    shown = visible(box, fitted, pen)
    if shown is None:
        return 0.0, 0.0
    width, rows = shown[2] - shown[0], shown[3] - shown[1]
    pen = min(pen, math.hypot(width, rows))
    count, rise, length = _extent((shape.outline, *shape.clips), fitted.scale, width, rows)
    area = width * rows * (1 + 2 * len(shape.clips)) + length * pen
    crossings = CROSSING * (3 * rise + 4 * count * min(pen, rows)) + LOOK * count * rows
    return 2 * area, 2 * crossings


def _extent(
    outlines: tuple[Outline, ...], scale: float, width: int, rows: int
) -> tuple[int, float, float]:
    """How many edges these have, how many rows they cross and how long they are, in pixels, each
    no larger than what is seen of it.
    """
    count, rise, length = 0, 0.0, 0.0
    for path in (path for outline in outlines for path in outline):
        ring = [*path.points, path.points[0]]
        for (x0, y0), (x1, y1) in pairwise(ring):
            across, up = min(abs(x1 - x0) * scale, width), min(abs(y1 - y0) * scale, rows)
            count, rise, length = count + 1, rise + up, length + across + up
    return count, rise, length


def visible(box: Box, fitted: Fit, pen: float) -> tuple[int, int, int, int] | None:
    """The pixels (left, top, right, bottom) that something in this box may touch."""
    (x0, y0), (x1, y1) = fitted.apply((box.left, box.top)), fitted.apply((box.right, box.bottom))
    reach = pen / 2 + 1
    left, right = max(0.0, x0 - reach), min(float(fitted.width), x1 + reach)
    top, bottom = max(0.0, y0 - reach), min(float(fitted.height), y1 + reach)
    if left >= right or top >= bottom:
        return None
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def inner_edges(outline: Outline, canvas: Box) -> Outline:
    """Without the edges that lie on the rim of the canvas or beyond it: a sky that fills the
    picture has no outline there.
    """
    parts = []
    for path in outline:
        ring = [*path.points, path.points[0]] if path.closed else path.points
        pieces: list[list[Point]] = [[]]
        for start, end in pairwise(ring):
            if _on_rim(start, end, canvas):
                pieces.append([])
            else:
                pieces[-1] += [end] if pieces[-1] else [start, end]
        if len(pieces) == 1:
            parts.append(path)
        else:
            parts += [Subpath(tuple(piece), False) for piece in pieces if piece]
    return tuple(parts)


def _on_rim(start: Point, end: Point, canvas: Box) -> bool:
    slack = 1e-3 * max(canvas.right - canvas.left, canvas.top - canvas.bottom)
    return any(
        max(sign * start[axis], sign * end[axis]) <= sign * limit + slack
        for axis, limit, sign in (
            (0, canvas.left, 1),
            (0, canvas.right, -1),
            (1, canvas.bottom, 1),
            (1, canvas.top, -1),
        )
    )
