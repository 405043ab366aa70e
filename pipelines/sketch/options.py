"""Options in brackets, `[thick, fill=red!50, shift={(1,2)}]`, cut into keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .arithmetic import length, number
from .stream import Stream
from .tokens import Token, text_of

_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


class Option(NamedTuple):
    key: str
    value: list[Token] | None
    """None where no `=` stands; outer braces are taken off."""
    token: Token
    """Where it begins."""

    @property
    def text(self) -> str:
        return text_of(self.value or [])

    def number(self) -> float:
        """Raises: SketchError: the value is no number."""
        return number(self.value or [], self.token)

    def length(self, unit: float) -> float:
        """In cm. Raises: SketchError: the value is no length."""
        return length(self.value or [], self.token, unit)


def read_options(stream: Stream) -> list[Option]:
    """The options that follow in brackets; none where no bracket follows."""
    found = []
    while stream.at("["):
        found += options_of(stream.inside("["))
    return found


def options_of(tokens: Sequence[Token]) -> list[Option]:
    """The options that these tokens are."""
    found = []
    for part in split(tokens, ","):
        if not part:
            continue
        key, *rest = split(part, "=", at_most=1)
        name = text_of(key).strip()
        found.append(Option(name, unbraced(rest[0]) if rest else None, part[0]))
    return found


def split(tokens: Sequence[Token], symbol: str, at_most: int = -1) -> list[list[Token]]:
    """Cut at a symbol wherever it stands in no bracket."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind == "symbol":
            if token.text == symbol and depth == 0 and at_most != 0:
                parts.append([])
                at_most -= 1
                continue
            depth += _BRACKETS.get(token.text, 0)
        parts[-1].append(token)
    return parts


def unbraced(tokens: list[Token]) -> list[Token]:
    """Without the pair of braces around all of it."""
    if len(tokens) < 2 or tokens[0].text != "{" or tokens[-1].text != "}":
        return tokens
    depth = 0
    for token in tokens[:-1]:
        depth += {"{": 1, "}": -1}.get(token.text, 0)
        if depth == 0:  # {a}{b}: not one pair
            return tokens
    return tokens[1:-1]


def listed(text: str) -> frozenset[str]:
    """Keys out of a text with commas between them."""
    return frozenset(key.strip() for key in text.split(","))
