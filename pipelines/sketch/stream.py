"""Tokens in the order in which they count: macros replaced, loops gone round.

A macro is replaced at the moment in which it is read, so what is read ahead is never stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from .limits import BUDGETS, MAX_DEPTH, Budget, fail
from .tokens import Token, shown

INVISIBLE = frozenset({"comment", "blank", "open", "close"})
"""Kinds that count only between commands."""
_OPENING = {"(": ")", "[": "]", "{": "}"}


class Macro(NamedTuple):
    parameters: int
    body: list[Token]


@dataclass
class _Frame:
    """Tokens on their way; a loop's are read once for each of its `rounds`."""

    tokens: Sequence[Token]
    rounds: Iterator[dict[str, Macro]] | None = None
    index: int = 0


class Stream:
    def __init__(self, tokens: Sequence[Token], budget: Budget) -> None:
        self.budget = budget
        self._frames = [_Frame(tokens)]
        self._macros: list[dict[str, Macro | None]] = [{}]
        self._ahead: list[Token] = []
        self._end = tokens[-1]

    def define(self, name: str, macro: Macro) -> None:
        """Until the round of the loop ends in which it is defined."""
        self._macros[-1][name] = macro

    def next(self) -> Token:
        """The next visible token, macros replaced."""
        token = self.statement()
        while token.kind in INVISIBLE:
            token = self.statement()
        return token

    def statement(self) -> Token:
        """The next token, with comments, empty lines and the ends of rounds."""
        if self._ahead:
            return self._ahead.pop(0)
        while True:
            token = self._pull()
            macro = self._macro(token)
            if macro is None:
                return token
            self._expand(token, macro)

    def peek(self) -> Token:
        """The next visible token, left where it is."""
        for token in self._ahead:
            if token.kind not in INVISIBLE:
                return token
        seen = self._ahead
        self._ahead = []
        while True:
            token = self.statement()
            seen.append(token)
            if token.kind not in INVISIBLE:
                self._ahead = seen
                return token

    def at(self, *texts: str) -> bool:
        """Whether the next visible token is one of these words or symbols."""
        token = self.peek()
        return token.kind in ("symbol", "word") and token.text in texts

    def expect(self, *texts: str) -> Token:
        """Take the next token, which has to be one of these.

        Raises:
            SketchError: it is another.
        """
        token = self.next()
        if token.kind not in ("symbol", "word") or token.text not in texts:
            fail(token, f"{' or '.join(texts)} is expected, not {shown(token)}")
        return token

    def raw(self) -> Token:
        """The next visible token as written, no macro replaced."""
        while True:
            token = self._ahead.pop(0) if self._ahead else self._pull()
            if token.kind not in INVISIBLE:
                return token

    def group(self) -> list[Token]:
        """What stands in the braces that follow, as written.

        Raises:
            SketchError: no brace, or one that is never closed.
        """
        first = self.raw()
        if first.text != "{" or first.kind != "symbol":
            fail(first, f"{{ is expected, not {shown(first)}")
        depth, found = 1, []
        while True:
            token = self._ahead.pop(0) if self._ahead else self._pull()
            if token.kind == "end":
                fail(first, "{ is never closed")
            if token.kind == "symbol" and token.text in "{}":
                depth += 1 if token.text == "{" else -1
                if depth == 0:
                    return found
            found.append(token)

    def inside(self, opening: str) -> list[Token]:
        """What stands in the brackets that follow, macros replaced.

        Raises:
            SketchError: no such bracket, one that is never closed, or too many in one another.
        """
        first = self.expect(opening)
        expected, found = [_OPENING[opening]], []
        while True:
            token = self.next()
            ended = token.text == ";" and "}" not in expected  # colours have ; in braces
            if token.kind == "end" or ended:
                fail(first, f"{opening} is never closed")
            if token.kind == "symbol" and token.text in _OPENING:
                expected.append(_OPENING[token.text])
                if len(expected) > MAX_DEPTH:
                    fail(token, f"more than {MAX_DEPTH} brackets in one another")
            elif token.kind == "symbol" and token.text == expected[-1]:
                expected.pop()
                if not expected:
                    return found
            found.append(token)

    def loop(self, body: list[Token], rounds: Iterator[dict[str, Macro]], at: Token) -> None:
        """Read `body` once for each of `rounds`, which say what its variables stand for."""
        marks = Token("open", "", at.line, at.column), Token("close", "", at.line, at.column)
        frame = _Frame([marks[0], *body, marks[1]], rounds)
        frame.index = len(frame.tokens)  # so that its first round begins when it is read
        self._push(frame, at)
        self._macros.append({})

    def back(self, token: Token) -> None:
        """Put a token back that was just taken."""
        self._ahead.insert(0, token)

    @contextmanager
    def hiding(self, name: str) -> Iterator[None]:
        """Leave this macro as it is written; nothing may be read beyond a bracket meanwhile."""
        self._macros.append({name: None})
        try:
            yield
        finally:
            self._macros.pop()

    def filled(self, tokens: Sequence[Token], macros: dict[str, Macro]) -> list[Token]:
        """Tokens with these macros and all that are defined replaced."""
        inner = Stream([*tokens, self._end], self.budget)
        inner._macros = [*self._macros, dict(macros)]
        found = []
        while (token := inner.next()).kind != "end":
            found.append(token)
        return found

    def _push(self, frame: _Frame, at: Token) -> None:
        self._drop_finished()
        if len(self._frames) > MAX_DEPTH:
            fail(at, f"more than {MAX_DEPTH} loops and macros in one another")
        self._frames.append(frame)

    def _drop_finished(self) -> None:
        """So that a macro that ends with itself does not grow; its expansions are counted."""
        while self._frames[1:] and self._frames[-1].rounds is None:
            if self._frames[-1].index < len(self._frames[-1].tokens):
                return
            self._frames.pop()

    def _pull(self) -> Token:
        while True:
            frame = self._frames[-1]
            if frame.index < len(frame.tokens):
                token = frame.tokens[frame.index]
                frame.index += 1
                self.budget.spend("tokens", token)
                return token
            if not self._next_round(frame):
                if len(self._frames) == 1:
                    return self._end
                self._frames.pop()

    def _next_round(self, frame: _Frame) -> bool:
        if frame.rounds is None:
            return False
        variables = next(frame.rounds, None)
        if variables is None:
            self._macros.pop()
            return False
        self.budget.spend("loop rounds", frame.tokens[0])
        self._macros[-1] = dict(variables)
        frame.index = 0
        return True

    def _macro(self, token: Token) -> Macro | None:
        if token.kind != "command":
            return None
        for defined in reversed(self._macros):
            if token.text in defined:
                return defined[token.text]
        return None

    def _expand(self, token: Token, macro: Macro) -> None:
        self.budget.spend("macro expansions", token)
        body = macro.body
        if macro.parameters:
            body = self._filled(token, macro)
        if body and body[0].space != token.space:  # as if it had been written here: (n\\x) is (n2)
            body = [body[0]._replace(space=token.space), *body[1:]]
        self._push(_Frame(body), token)

    def _filled(self, token: Token, macro: Macro) -> list[Token]:
        """The body with its parameters replaced by the arguments that follow."""
        arguments = [self._argument() for _ in range(macro.parameters)]
        parts = []
        for part in macro.body:
            number = int(part.text[1]) if part.kind == "parameter" else 0
            if number > len(arguments):
                fail(part, f"\\{token.text} has {len(arguments)} parameters, and no {part.text}")
            parts.append(arguments[number - 1] if number else [part])
        size = sum(len(part) for part in parts)
        if size > BUDGETS["tokens"]:  # before the memory for it is taken
            fail(token, f"\\{token.text} stands for {size:,} tokens; make the sketch simpler")
        return [one for part in parts for one in part]

    def _argument(self) -> list[Token]:
        token = self.raw()
        if token.kind == "end":
            fail(token, "an argument is missing")
        if token.kind == "symbol" and token.text == "{":
            self.back(token)
            return self.group()
        return [token]
