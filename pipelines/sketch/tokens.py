"""A program cut into tokens that know where they stand.

White space is no token, but `Token.space` remembers it. Comments on a line of their own and empty
lines are tokens, because they name objects and end them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .limits import SketchError


class Token(NamedTuple):
    kind: str
    """word, number, command, symbol, parameter; comment and blank (a line); open and close (a round
    of a loop); end.
    """
    text: str
    """As written, a command without its backslash, a comment without its per cent sign."""
    line: int
    column: int
    space: bool = False
    """Whether white space stands before it."""


_PATTERN = re.compile(
    r"""
      (?P<comment>%[^\n]*)
    | (?P<blank>\n[ \t\r]*(?=\n))
    | (?P<space>\s+)
    | (?P<command>\\(?:[A-Za-z@]+|.))
    | (?P<number>(?:[0-9]+(?:\.(?!\.)[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z]+)
    | (?P<parameter>\#[1-9])
    | (?P<symbol>\.\.\.|\.\.|--|\+\+|-\||\|-|[^\\])
    """,
    re.VERBOSE,
)
# "..." is part of a list of numbers, so a number never ends with two full stops.


def tokenize(program: str) -> list[Token]:
    """The tokens of a program, with one of kind `end` behind them.

    Raises:
        SketchError: it ends with a backslash.
        ValueError: it is empty.
    """
    if not program.strip():
        raise ValueError("the sketch is empty; write a program, or name a scene and an endpoint")
    return list(_tokens(program))


def _tokens(program: str) -> Iterator[Token]:
    line, line_start, position, space, busy = 1, 0, 0, False, 0
    while position < len(program):
        match = _PATTERN.match(program, position)
        if match is None:  # a lone backslash at the end
            raise SketchError("a backslash without a command", line, position - line_start + 1)
        kind, text = str(match.lastgroup), match.group()
        column = position - line_start + 1
        position = match.end()
        if kind in ("space", "blank"):
            if kind == "blank":
                yield Token("blank", "", line + 1, 1)
            if "\n" in text:
                line += text.count("\n")
                line_start = match.start() + text.rindex("\n") + 1
            space = True
            continue
        # A comment behind a command is a remark on it; only one alone on its line names.
        if kind != "comment" or busy != line:
            text = text[1:] if kind in ("comment", "command") else text
            yield Token(kind, text, line, column, space)
        busy, space = line, False
    yield Token("end", "", line, position - line_start + 1)


def text_of(tokens: Sequence[Token]) -> str:
    """Tokens as one text, with one space where there was white space."""
    parts = []
    for token in tokens:
        written = "\\" + token.text if token.kind == "command" else token.text
        parts.append(" " + written if token.space and parts else written)
    return "".join(parts)


def shown(token: Token) -> str:
    """A token as messages name it."""
    if token.kind == "end":
        return "the end of the program"
    return text_of([token])[:40]
