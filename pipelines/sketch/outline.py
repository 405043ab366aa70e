"""A path while it is read: a pen that goes from point to point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .affine import Point
from .coordinates import Target, bounded
from .curves import rounded
from .drawing import Outline, Subpath
from .limits import Budget
from .state import State
from .tokens import Token

SAME = 1e-6
"""In cm: points no further apart are one."""


@dataclass
class _Part:
    points: list[Point]
    corners: set[int] = field(default_factory=set)
    """Indices of points that straight lines lead to: these can be rounded."""
    closed: bool = False


class Pen:
    """Draws in the coordinates of the path; `outline` maps them to the canvas."""

    def __init__(self, budget: Budget) -> None:
        self.at: Point = (0.0, 0.0)
        self.reference: Point = (0.0, 0.0)
        """Where relative coordinates start."""
        self._budget = budget
        self._parts: list[_Part] = []
        self._open: _Part | None = None

    @property
    def begin(self) -> Point:
        """Where `cycle` would go."""
        return self._open.points[0] if self._open else self.at

    def move(self, target: Target) -> None:
        self._open = None
        self._go(target)

    def line(self, target: Target, token: Token) -> None:
        self.curve([target.point], target, token)
        assert self._open is not None
        self._open.corners.add(len(self._open.points) - 1)

    def curve(self, points: Sequence[Point], target: Target, token: Token) -> None:
        """Through `points`, the last of which is the target's."""
        if self._open is None:
            self._open = _Part([self.at])
            self._parts.append(self._open)
        self._budget.spend("points", token, len(points))
        self._open.points += points
        self._go(target)

    def close(self, token: Token) -> None:
        """`cycle`: back to where this part began."""
        if self._open is None:
            return
        part, self._open = self._open, None
        part.closed = True
        self._go(Target(part.points[0], True))
        if len(part.points) > 1 and math.dist(part.points[0], part.points[-1]) <= SAME:
            part.points.pop()
        part.corners.add(0)

    def closed(self, points: Sequence[Point], token: Token, *, corners: bool = False) -> None:
        """A part of its own, such as a circle; the pen stays where it is."""
        self._budget.spend("points", token, len(points))
        numbers = set(range(len(points))) if corners else set()
        self._parts.append(_Part(list(points), numbers, True))
        self._open = None

    def apart(self, points: Sequence[Point], token: Token) -> None:
        """An open part of its own, such as a line of a grid."""
        self._budget.spend("points", token, len(points))
        self._parts.append(_Part(list(points)))
        self._open = None

    def outline(self, state: State, token: Token) -> Outline:
        """On the canvas, corners rounded; parts of a single point are left out."""
        return tuple(
            self._subpath(part, state, token) for part in self._parts if len(part.points) > 1
        )

    def _subpath(self, part: _Part, state: State, token: Token) -> Subpath:
        points = [bounded(state.matrix.apply(point), token) for point in part.points]
        closed = part.closed
        if not closed and len(points) > 3 and math.dist(points[0], points[-1]) <= SAME:
            points.pop()
            part.corners.add(0)
            closed = True
        if state.rounded and part.corners:
            self._budget.spend("points", token, 9 * len(part.corners))
            points = rounded(points, part.corners, state.rounded, closed=closed)
        return Subpath(tuple(points), closed)

    def _go(self, target: Target) -> None:
        self.at = target.point
        if target.moves:
            self.reference = target.point
