"""Coordinates: `(1,2)`, `(30:2)`, `(name)`, `++(1,0)`, `+(1,0)`, `(a |- b)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .affine import Point
from .arithmetic import evaluate, length, number
from .curves import polar
from .limits import MAX_COORDINATE, fail
from .options import split
from .state import Context, State
from .stream import Stream
from .tokens import Token, shown, text_of


class Target(NamedTuple):
    """A point to go to, in the coordinates of the path (before its transformation).

    `moves`: whether coordinates relative to the last one start here from now on (`+` leaves that).
    """

    point: Point
    moves: bool


def read_coordinate(stream: Stream, context: Context, state: State, last: Point) -> Target:
    """The coordinate that follows; `last`: where relative ones start.

    Raises:
        SketchError: none follows, or it is out of bounds.
    """
    sign = stream.expect("+", "++") if stream.at("+", "++") else None
    at = stream.peek()
    if not stream.at("("):
        fail(at, f"a coordinate such as (1,2) is expected, not {shown(at)}")
    x, y = point_of(stream.inside("("), at, context, state)
    if sign is not None:
        x, y = last[0] + x, last[1] + y
    return Target(bounded((x, y), at), sign is None or sign.text == "++")


def point_of(tokens: Sequence[Token], at: Token, context: Context, state: State) -> Point:
    """The point that stands in a pair of brackets."""
    if not tokens:
        fail(at, "a coordinate without numbers")
    if tokens[0].text in ("$", "["):
        fail(tokens[0], f"coordinates with {tokens[0].text} are not known; write numbers")
    for corner in ("|-", "-|"):
        if len(pair := split(tokens, corner)) == 2:
            one, other = (point_of(_without_brackets(p), at, context, state) for p in pair)
            return (one[0], other[1]) if corner == "|-" else (other[0], one[1])
    if len(parts := split(tokens, ",")) > 1:
        if len(parts) != 2:
            fail(at, f"a coordinate of {len(parts)} numbers; sketches are flat, use 2")
        x, y = (length(part, at, unit) for part, unit in zip(parts, state.unit, strict=True))
        return bounded((x, y), at)
    if len(parts := split(tokens, ":")) == 2:
        rx, ry = radii(parts[1], at, state)
        return bounded(polar(number(parts[0], at), rx, ry), at)
    return _named(tokens, at, context, state)


def option_point(context: Context, tokens: list[Token], at: Token, state: State) -> Point:
    """The point that an option such as `shift={(1,2)}` names."""
    return point_of(_without_brackets(tokens), at, context, state)


def _without_brackets(tokens: list[Token]) -> list[Token]:
    if len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")":
        return tokens[1:-1]
    return tokens


def _named(tokens: Sequence[Token], at: Token, context: Context, state: State) -> Point:
    name = text_of(tokens).strip()
    if name not in context.coordinates:
        known = ", ".join(sorted(context.coordinates)[:12]) or "none so far"
        fail(at, f"the coordinate ({name[:40]}) is not defined; known are {known}")
    return state.matrix.inverse().apply(context.coordinates[name])


def radii(tokens: Sequence[Token], at: Token, state: State) -> Point:
    """Two radii in cm out of `2`, `2cm` or `2 and 1`."""
    index = next((i for i, token in enumerate(tokens) if token.text == "and"), None)
    if index is not None:
        x = length(tokens[:index], at, state.unit[0])
        return bounded((x, length(tokens[index + 1 :], at, state.unit[1])), at)
    found = evaluate(tokens, at)
    x, y = (1.0, 1.0) if found.length else state.unit
    return bounded((found.value * x, found.value * y), at)


def bounded(point: Point, at: Token) -> Point:
    """`point`, if it lies where sketches are drawn."""
    if not all(abs(value) <= MAX_COORDINATE for value in point):
        fail(at, f"({point[0]:g},{point[1]:g}) is more than {MAX_COORDINATE:g} cm away")
    return point
