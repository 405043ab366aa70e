"""`plot coordinates {...}` and `plot (\\x, {sin(\\x r)})`."""

from __future__ import annotations

from collections.abc import Mapping

from .affine import Point
from .coordinates import point_of, read_coordinate
from .curves import smooth
from .limits import fail
from .loops import number_tokens
from .options import Option, split
from .state import Context, State
from .stream import Stream
from .tokens import Token, shown

SAMPLES = 25
"""TikZ's own number."""
MAX_SAMPLES = 500


def read_plot(
    stream: Stream, context: Context, state: State, kept: Mapping[str, Option], token: Token
) -> tuple[list[Point], bool]:
    """The points that follow, made smooth where the options say so; whether they close a circle.

    Raises:
        SketchError: neither coordinates nor a function follow.
    """
    if stream.at("coordinates"):
        stream.next()
        points = _written(stream, context, state)
    elif stream.at("("):
        points = _computed(stream, context, state, kept, token)
    else:
        found = shown(stream.peek())
        fail(token, f"plot needs coordinates {{...}} or a function (\\x,{{...}}), not {found}")
    if not points:
        fail(token, "a plot of no points")
    closed = "smooth cycle" in kept
    if closed or "smooth" in kept:
        tension = kept["tension"].number() if "tension" in kept else 0.5
        context.budget.spend("points", token, 32 * len(points))  # before they are made
        points = smooth(points, tension, closed=closed)
    return points, closed


def _written(stream: Stream, context: Context, state: State) -> list[Point]:
    tokens = stream.inside("{")
    end = stream.peek()._replace(kind="end", text="")
    inner = Stream([*tokens, end], context.budget)
    points: list[Point] = []
    while inner.peek().kind != "end":
        last = points[-1] if points else (0.0, 0.0)
        points.append(read_coordinate(inner, context, state, last).point)
    return points


def _computed(
    stream: Stream, context: Context, state: State, kept: Mapping[str, Option], token: Token
) -> list[Point]:
    """A function of one variable at evenly spaced places."""
    variable = next((t.text for t in _value(kept, "variable") if t.kind == "command"), "x")
    with stream.hiding(variable):
        expression = stream.inside("(")
    first, last = _domain(kept, token)
    count = int(kept["samples"].number()) if "samples" in kept else SAMPLES
    if not 2 <= count <= MAX_SAMPLES:
        fail(token, f"samples={count}; use 2 to {MAX_SAMPLES}")
    context.budget.spend("tokens", token, count * (len(expression) + 1))
    points = []
    for index in range(count):
        value = _bracketed(first + (last - first) * index / (count - 1), token)
        filled: list[Token] = []
        for part in expression:
            is_variable = part.kind == "command" and part.text == variable
            filled += value if is_variable else [part]
        points.append(point_of(filled, token, context, state))
    return points


def _domain(kept: Mapping[str, Option], token: Token) -> tuple[float, float]:
    if "domain" not in kept:
        return -5.0, 5.0
    option = kept["domain"]
    ends = split(option.value or [], ":")
    if len(ends) != 2:
        fail(option.token, "domain needs two numbers, such as domain=0:4")
    first, last = (Option("domain", end, option.token).number() for end in ends)
    return first, last


def _bracketed(value: float, at: Token) -> list[Token]:
    """So that the square of -2 is 4."""
    symbol = at._replace(kind="symbol", text="(")
    return [symbol, *number_tokens(value, at), symbol._replace(text=")")]


def _value(kept: Mapping[str, Option], key: str) -> list[Token]:
    return (kept[key].value or []) if key in kept else []
