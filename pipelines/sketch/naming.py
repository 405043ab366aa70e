"""Which object a command belongs to: comments and scopes give the phrases.

`% a red cup` on a line of its own names the object that the following commands draw. In a program
with any `% object: a red cup`, only such lines name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .limits import MAX_PHRASE, Budget
from .tokens import Token

_EXPLICIT = re.compile(r"\s*object\s*\d*\s*:\s*(?P<phrase>.*)", re.IGNORECASE)
_DECORATION = " \t\r-=*#_~%.:;,"
_VERB = re.compile(r"(?:now\s+)?(?:draw|drawing|add|adding|sketch)\s+(?=\w)", re.IGNORECASE)


@dataclass
class _Scope:
    object: int | None
    fixed: bool = False
    """Named by the scope itself: comments in it are remarks on its parts."""


class Naming:
    def __init__(self, tokens: Sequence[Token], budget: Budget) -> None:
        comments = (token for token in tokens if token.kind == "comment")
        self.phrases: list[str] = []
        self._explicit = any(_EXPLICIT.match(token.text) for token in comments)
        self._budget = budget
        self._scopes = [_Scope(None)]
        self._pending: list[str] = []
        self._follows = False  # whether the last thing read was a comment that names

    def comment(self, token: Token) -> None:
        """A comment on a line of its own. Those that follow one another are one phrase."""
        phrase = self._phrase(token)
        if self._explicit and not phrase and _EXPLICIT.match(token.text):
            self._scopes[-1].object = None  # "% object:" alone: what follows belongs to none
        if not phrase or (self._scopes[-1].fixed and not self._explicit):
            return
        if not self._follows or self._explicit:
            self._pending = []
        self._pending.append(phrase)
        self._follows = True

    def blank(self) -> None:
        """An empty line ends an object that a plain comment named."""
        self._follows = False
        if not self._explicit and not self._scopes[-1].fixed:
            self._scopes[-1].object = None

    def command(self) -> None:
        """Any command: a comment behind it begins a new phrase."""
        self._follows = False

    def drawn(self, token: Token) -> int | None:
        """Something visible is drawn: the object that it belongs to."""
        self._begin(token)
        return self._scopes[-1].object

    def open(self, token: Token, name: str = "") -> None:
        """A scope, a group or a round of a loop begins."""
        self._follows = False
        self._begin(token)  # what was named before it goes on behind it
        outer = self._scopes[-1]
        self._scopes.append(_Scope(outer.object, outer.fixed))
        if name:
            self._pending = [name]
            self._begin(token)
            self._scopes[-1].fixed = True

    def close(self) -> None:
        """It ends; what it was in goes on."""
        self._follows = False
        self._pending = []
        self._scopes.pop()

    def _begin(self, token: Token) -> None:
        if self._pending:
            phrase, self._pending = " ".join(self._pending)[:MAX_PHRASE].strip(), []
            self._budget.spend("objects", token)
            self._scopes[-1].object = len(self.phrases)
            self.phrases.append(phrase)

    def _phrase(self, token: Token) -> str:
        """What the comment says, without rulers and without `Draw`; "" where it names nothing."""
        text = token.text
        if self._explicit:
            match = _EXPLICIT.match(text)
            text = match["phrase"] if match else ""
        elif "\\" in text:  # code that was taken out
            return ""
        text = " ".join(text.strip(_DECORATION).split())
        return _VERB.sub("", text, count=1) if _VERB.match(text) else text
