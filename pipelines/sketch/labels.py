"""Nodes and named coordinates along a path. Their text is not drawn: letters in a control picture
become letters in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from .affine import Affine, Point
from .arithmetic import POINT, length
from .coordinates import Target, bounded, option_point
from .curves import ellipse, rounded
from .drawing import Shape, Subpath
from .limits import fail
from .options import Option, read_options
from .state import Context, State, applied
from .stream import Stream
from .tokens import Token, text_of

LETTER, LINE = 0.18, 0.42
"""Width of a letter and height of a line in cm, of a 10 pt font: enough to size a frame."""
INNER = 3.33 * POINT
"""Between text and frame."""
_SIDES = {"above": (0, 1), "below": (0, -1), "left": (-1, 0), "right": (1, 0)}
_PLACES = {
    **_SIDES,
    **{
        f"{one} {other}": (_SIDES[other][0], _SIDES[one][1])
        for one in ("above", "below")
        for other in ("left", "right")
    },
}
_ANCHORS = {
    "center": (0, 0),
    "north": (0, 1),
    "south": (0, -1),
    "west": (-1, 0),
    "east": (1, 0),
    "north west": (-1, 1),
    "north east": (1, 1),
    "south west": (-1, -1),
    "south east": (1, -1),
}


@dataclass(frozen=True)
class Label:
    """`state`: its own options, their transformation about its middle. `base`: the path's."""

    state: State
    base: State
    name: str
    text: str
    at: Point | None
    """In the coordinates of the path."""

    def share(self, default: float) -> float:
        """Where on a line it sits: 0 its beginning, 1 its end."""
        kept = self.state.kept
        if "pos" in kept:
            return min(1.0, max(0.0, kept["pos"].number()))
        words = {"near start": 0.25, "midway": 0.5, "near end": 0.75}
        return next((share for word, share in words.items() if word in kept), default)

    def placed(self, at: Point, context: Context, token: Token) -> Shape | None:
        """Its frame, if it has one to be seen; from now on its name is known.

        `at`: where it sits if it does not say so itself.
        """
        state = self.state
        visible = state.draws or state.fills
        if not visible and not self.name:
            return None
        half = self._half(token)
        middle = self._middle(self.base.matrix.apply(self.at or at), half, context, token)
        middle = bounded(_moved(state.matrix.apply((0.0, 0.0)), middle), token)
        if self.name:
            self._remember(middle, half, context)
        if not visible:
            return None
        points = self._points(half)
        context.budget.spend("points", token, len(points))
        turned = _unshifted(state.matrix)
        outline = Subpath(
            tuple(bounded(_moved(turned.apply(p), middle), token) for p in points), True
        )
        return Shape(
            (outline,),
            fill=state.fill if state.fills else None,
            stroke=state.stroke if state.draws else None,
            width=state.width,
            clips=self.base.clips,
        )

    @property
    def _kind(self) -> str:
        kept = self.state.kept
        if "shape" in kept:
            return kept["shape"].text
        return next((kind for kind in ("circle", "ellipse") if kind in kept), "rectangle")

    def _half(self, token: Token) -> Point:
        """Half its width and height in cm, at least what its text needs."""
        if self._kind not in ("circle", "ellipse", "rectangle"):
            fail(token, f"the shape {self._kind[:40]} is not known; use rectangle, circle, ellipse")
        lines = self.text.split("\\\\")
        inner = self._length("inner sep", INNER)
        width = max(len(line.strip()) for line in lines) * LETTER / 2 + inner
        height = (LINE * len(lines) if self.text.strip() else 0.0) / 2 + inner
        if self._kind == "circle":
            width = height = math.hypot(width, height)
        elif self._kind == "ellipse":
            width, height = width * math.sqrt(2), height * math.sqrt(2)
        size = self._length("minimum size", 0.0)
        width = max(width, self._length("minimum width", size) / 2)
        height = max(height, self._length("minimum height", size) / 2)
        if self._kind == "circle":
            width = height = max(width, height)
        return width, height

    def _length(self, key: str, default: float) -> float:
        option = self.state.kept.get(key)
        return option.length(POINT) if option else default

    def _middle(self, at: Point, half: Point, context: Context, token: Token) -> Point:
        """`above=1cm of a`, `above`, ...; else `at` itself. On the canvas."""
        place = next((key for key in _PLACES if key in self.state.kept), None)
        if place is None:
            return at
        option = self.state.kept[place]
        distance, other = _apart(option, token)
        if other:
            if other not in context.coordinates:
                fail(token, f"the node ({other[:40]}) is not defined")
            at = context.coordinates[other]
            beyond = context.coordinates.get(f"{other}.north east", at)
            half = half[0] + beyond[0] - at[0], half[1] + beyond[1] - at[1]
        x, y = _PLACES[place]
        return at[0] + x * (half[0] + distance), at[1] + y * (half[1] + distance)

    def _points(self, half: Point) -> list[Point]:
        if self._kind != "rectangle":
            return ellipse((0.0, 0.0), *half)
        x, y = half
        corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
        if not self.state.rounded:
            return corners
        return rounded(corners, {0, 1, 2, 3}, self.state.rounded, closed=True)

    def _remember(self, middle: Point, half: Point, context: Context) -> None:
        round_corner = math.sqrt(0.5) if self._kind != "rectangle" else 1.0
        context.coordinates[self.name] = middle
        for anchor, (x, y) in _ANCHORS.items():
            reach = round_corner if x and y else 1.0
            offset = x * half[0] * reach, y * half[1] * reach
            context.coordinates[f"{self.name}.{anchor}"] = _moved(offset, middle)


def read_label(
    stream: Stream,
    context: Context,
    state: State,
    read_point: Callable[[], Target],
    token: Token,
) -> Label:
    """What stands behind `node` or `coordinate`, in any order; a node ends with its text.

    Raises:
        SketchError: a node has no text in braces.
    """
    name, text, at = "", "", None
    options: list[Option] = []
    is_node = token.text == "node"
    while True:
        if stream.at("["):
            options += read_options(stream)
        elif stream.at("(") and not name:
            name = text_of(stream.inside("(")).strip()
        elif stream.at("at"):
            stream.next()
            at = read_point().point
        elif is_node and stream.at("{"):
            text = text_of(stream.inside("{"))
            break
        elif is_node:
            fail(token, "a node without its text in braces; write {} for none")
        else:
            break
    own = applied(replace(state.path(), matrix=Affine(), kept={}), options, context)
    if "at" in own.kept:
        at = option_point(context, own.kept["at"].value or [], token, state)
    if "name" in own.kept:
        name = own.kept["name"].text
    return Label(own, state, name, text, at)


def _apart(option: Option, token: Token) -> tuple[float, str]:
    """The distance in cm and the node of `above=1cm of a`."""
    value = option.value or []
    index = next((i for i, part in enumerate(value) if part.text == "of"), None)
    if index is None:
        return (length(value, token, POINT) if value else 0.0), ""
    other = text_of(value[index + 1 :]).strip()
    return (length(value[:index], token) if index else 1.0), other


def _unshifted(matrix: Affine) -> Affine:
    """The same map without its shift."""
    return matrix._replace(e=0.0, f=0.0)


def _moved(point: Point, by: Point) -> Point:
    return point[0] + by[0], point[1] + by[1]
