"""What can be asked of a sketch, and the errors that say where it asked for too much.

Sketches come out of shared workflows and out of language models. A program within these bounds is
read and drawn in about a second on a slow machine; programs that models write stay far below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from .tokens import Token

STYLES = ("scribble", "lines", "colour", "segments")
"""White lines on black; black lines on white; as the program colours it; each object in one flat
colour on black. In the first two, filled areas and strokes as wide as a limb hide what lies behind
them and show their outlines.
"""
MAX_LINE_WIDTH = 200
"""Pixels that the lines of the control picture may be wide at least."""
MIN_SIDE = 8
"""Of the picture, in pixels: one latent cell of Stable Diffusion."""
MAX_CHARACTERS = 50_000
"""Of a program. GPT-4's sketches have 500 to 5,000."""
MAX_DEPTH = 32
"""Of brackets, scopes, loops and macros in one another; far below Python's own recursion limit."""
MAX_CLIPS = 8
"""Areas in one another that cut the same shape; each costs a sheet of its own."""
MAX_NUMBER = 1e9
"""Of any number on the way: products of a few of them are still exact enough to be drawn."""
MAX_COORDINATE = 1e5
"""In cm. TeX itself ends at 576 cm; programs in pixels without a unit must fit."""
MAX_SIDE = 8192
"""Of the picture, in pixels."""
MAX_PIXELS = 4096 * 4096
"""Of the picture; as an IMAGE they take 200 MB."""
MAX_MASK_PIXELS = 2**28
"""Of all masks together; they take 1 GB."""
MAX_PHRASE = 200
"""Characters of a phrase. A text encoder reads some 77 tokens."""

BUDGETS = {
    "tokens": 150_000,
    "macro expansions": 10_000,
    "loop rounds": 5_000,
    "shapes": 2_000,
    "points": 50_000,
    "objects": 64,
}
"""What is counted over a whole program. Tokens are counted each time that they are read, so that
loops and macros cannot multiply them without end.
"""


class SketchError(ValueError):
    """What is wrong with a sketch, and in which line and column (both from 1)."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"the sketch, line {line}, column {column}: {problem}")
        self.line = line
        self.column = column


def fail(token: Token, problem: str) -> NoReturn:
    """Raise a `SketchError` at `token`."""
    raise SketchError(problem, token.line, token.column)


class Budget:
    """What is left of `BUDGETS` while one program is read."""

    def __init__(self) -> None:
        self._left = dict(BUDGETS)

    def spend(self, what: str, token: Token, amount: int = 1) -> None:
        """Take `amount` off.

        Raises:
            SketchError: there is not so much left.
        """
        self._left[what] -= amount
        if self._left[what] < 0:
            fail(token, f"more than {BUDGETS[what]:,} {what}; make the sketch simpler")
