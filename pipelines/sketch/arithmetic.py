"""Numbers and lengths in coordinates and options: a small calculator with pgfmath's rules.

Angles are in degrees. A length is kept in cm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .limits import MAX_DEPTH, MAX_NUMBER, fail
from .tokens import Token, shown

POINT = 2.54 / 72.27
"""TeX's pt in cm."""
UNITS = {
    "cm": 1.0,
    "mm": 0.1,
    "pt": POINT,
    "bp": 2.54 / 72,
    "in": 2.54,
    "em": 10 * POINT,
    "ex": 4.3 * POINT,
}
"""In cm; em and ex are those of a 10 pt font."""
CONSTANTS = {"pi": math.pi, "e": math.e}

FUNCTIONS: dict[str, tuple[int, Callable[..., float]]] = {
    "sin": (1, lambda x: math.sin(math.radians(x))),
    "cos": (1, lambda x: math.cos(math.radians(x))),
    "tan": (1, lambda x: math.tan(math.radians(x))),
    "asin": (1, lambda x: math.degrees(math.asin(x))),
    "acos": (1, lambda x: math.degrees(math.acos(x))),
    "atan": (1, lambda x: math.degrees(math.atan(x))),
    "atan2": (2, lambda y, x: math.degrees(math.atan2(y, x))),
    "sqrt": (1, math.sqrt),
    "abs": (1, math.fabs),
    "exp": (1, math.exp),
    "ln": (1, math.log),
    "deg": (1, math.degrees),
    "rad": (1, math.radians),
    "floor": (1, math.floor),
    "ceil": (1, math.ceil),
    "int": (1, lambda x: float(math.trunc(x))),
    "round": (1, lambda x: math.floor(x + 0.5)),
    "mod": (2, math.fmod),
    "pow": (2, lambda x, y: _power(x, y)),
    "min": (2, min),
    "max": (2, max),
}
"""By how many numbers each takes. Nothing here is random: a sketch comes out the same each time."""


class Quantity(NamedTuple):
    value: float
    """In cm if it is a length."""
    length: bool


def evaluate(tokens: Sequence[Token], at: Token) -> Quantity:
    """What an expression is; `at`: where to point if it is empty.

    Raises:
        SketchError: it is no expression, divides by zero or leaves the numbers that are drawn.
    """
    if not tokens:
        fail(at, "a number is missing")
    reader = _Expression(tokens)
    found = reader.sum()
    if (left := reader.left()) is not None:
        fail(left, f"{shown(left)} is not understood in a number")
    return found


def number(tokens: Sequence[Token], at: Token) -> float:
    """A plain number, or a length in cm.

    Raises:
        SketchError: as `evaluate`.
    """
    return evaluate(tokens, at).value


def length(tokens: Sequence[Token], at: Token, unit: float = 1.0) -> float:
    """A length in cm; a number without a unit counts in `unit` cm.

    Raises:
        SketchError: as `evaluate`.
    """
    found = evaluate(tokens, at)
    return found.value if found.length else found.value * unit


class _Expression:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._index = 0
        self._depth = 0

    def left(self) -> Token | None:
        return self._tokens[self._index] if self._index < len(self._tokens) else None

    def sum(self) -> Quantity:
        total = self.product()
        while sign := self._take("+", "-", "--", "++"):
            one, other = _same_kind(total, self.product())
            factor = -1 if sign.text == "-" else 1  # a -- b is a - (-b)
            result = one.value + factor * other.value
            total = self._checked(sign, lambda value=result: value, one.length)
        return total

    def product(self) -> Quantity:
        found = self._radians(self.power())
        while sign := self._take("*", "/"):
            found = self._radians(self._times(sign, found, self.power()))
        return found

    def _times(self, sign: Token, one: Quantity, other: Quantity) -> Quantity:
        if sign.text == "*":
            either = one.length or other.length
            return self._checked(sign, lambda: one.value * other.value, either)
        if other.value == 0:
            fail(sign, "a division by zero")
        return self._checked(sign, lambda: one.value / other.value, one.length != other.length)

    def _radians(self, found: Quantity) -> Quantity:
        """`r` behind a product says that it is an angle in radians."""
        token = self.left()
        if token is None or token.kind != "word" or token.text != "r":
            return found
        self._index += 1
        return Quantity(math.degrees(found.value), False)

    def power(self) -> Quantity:
        found = self.signed()
        while sign := self._take("^"):
            other = self.signed()
            found = self._checked(
                sign, lambda a=found.value, b=other.value: _power(a, b), found.length
            )
        return found

    def signed(self) -> Quantity:
        factor = 1
        while sign := self._take("-", "+", "--", "++"):
            factor *= -1 if sign.text == "-" else 1
        found = self.unit()
        return Quantity(factor * found.value, found.length)

    def unit(self) -> Quantity:
        """A value and the unit behind it."""
        found = self.value()
        token = self.left()
        if token is None or token.kind != "word":
            return found
        if token.text == "r":
            return found
        if token.text in UNITS and not found.length:
            self._index += 1
            return Quantity(found.value * UNITS[token.text], True)
        fail(token, f"the unit {shown(token)} is not known; known are {', '.join(UNITS)}")

    def value(self) -> Quantity:
        token = self.left()
        if token is None:
            fail(self._tokens[-1], "a number is missing behind this")
        self._index += 1
        if token.kind == "number":
            # So many digits say nothing, and a number of a megabyte takes time to read.
            return self._checked(token, lambda: float(token.text[:60]), False)
        if token.kind == "symbol" and token.text in "({":
            return self._bracket(token)
        if token.kind == "word":
            return self._named(token)
        fail(token, f"a number is expected, not {shown(token)}")

    def _bracket(self, opening: Token) -> Quantity:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            fail(opening, f"more than {MAX_DEPTH} brackets in one another")
        found = self.sum()
        self._depth -= 1
        if not self._take(")" if opening.text == "(" else "}"):
            fail(opening, f"{opening.text} is never closed")
        return found

    def _named(self, token: Token) -> Quantity:
        name = token.text
        following = self.left()
        if name == "atan" and following is not None and following.text == "2":
            self._index += 1
            name = "atan2"
        if name in CONSTANTS:
            return Quantity(CONSTANTS[name], False)
        if name not in FUNCTIONS:
            known = ", ".join([*FUNCTIONS, *CONSTANTS])
            fail(token, f"the function {name} is not known; known are {known}")
        count, function = FUNCTIONS[name]
        given = self._arguments(token)
        many = name in ("min", "max") and len(given) > 2
        if len(given) != count and not many:
            fail(token, f"{name} takes {count} numbers, not {len(given)}")
        return self._checked(token, lambda: function(*given), False)

    def _arguments(self, token: Token) -> list[float]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            fail(token, f"more than {MAX_DEPTH} brackets in one another")
        if not self._take("("):  # pgfmath: "sin 30"
            found = [self._radians(self.unit()).value]
        else:
            found = [self.sum().value]
            while self._take(","):
                found.append(self.sum().value)
            if not self._take(")"):
                fail(token, "( is never closed")
        self._depth -= 1
        return found

    def _take(self, *texts: str) -> Token | None:
        token = self.left()
        if token is None or token.kind != "symbol" or token.text not in texts:
            return None
        self._index += 1
        return token

    def _checked(self, at: Token, compute: Callable[[], float], is_length: bool) -> Quantity:
        try:
            value = float(compute())
        except (ArithmeticError, ValueError):
            fail(at, f"{shown(at)} has no result here")
        if not abs(value) <= MAX_NUMBER:  # not a number, too
            fail(at, f"{value:g} is not between -{MAX_NUMBER:g} and {MAX_NUMBER:g}")
        return Quantity(value, is_length)


def _same_kind(one: Quantity, other: Quantity) -> tuple[Quantity, Quantity]:
    """Beside a length a plain number counts in pt, as in pgfmath."""
    if one.length == other.length:
        return one, other
    return tuple(q if q.length else Quantity(q.value * POINT, True) for q in (one, other))  # type: ignore[return-value]


def _power(base: float, exponent: float) -> float:
    found = base**exponent
    if isinstance(found, complex):
        raise ValueError
    return found
