"""Reads a program of the TikZ subset into a drawing. No TeX, and nothing in it is executed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from .arithmetic import number
from .colours import colour, defined
from .coordinates import option_point
from .drawing import Drawing, Shape, box_of
from .limits import MAX_CHARACTERS, MAX_CLIPS, MAX_DEPTH, SketchError, fail
from .loops import number_tokens, read_loop
from .naming import Naming
from .options import Option, options_of, read_options
from .path import PathReader
from .state import Context, State, applied, define_style
from .stream import Macro, Stream
from .surroundings import SKIPPED, SURROUNDINGS, without_prose
from .tokens import Token, shown, text_of, tokenize

PATHS = {
    "draw": (True, False),
    "fill": (False, True),
    "filldraw": (True, True),
    "shade": (False, True),
    "shadedraw": (True, True),
    "path": (False, False),
    "pattern": (False, True),
}
"""Whether each draws and fills."""


def read_sketch(program: str) -> Drawing:
    """The drawing that a program describes.

    Raises:
        SketchError: something in it is not known or is more than is read; says where.
        ValueError: the program is empty or draws nothing.
    """
    if len(program) > MAX_CHARACTERS:
        raise ValueError(
            f"the sketch has {len(program):,} characters; at most {MAX_CHARACTERS:,} are read"
        )
    program = program.encode(errors="replace").decode()  # half characters cannot be shown
    return _Reader(without_prose(program)).read()


@dataclass
class _Scope:
    state: State
    ends: str
    """`scope`, `tikzpicture` or `}`; empty for a round of a loop."""
    token: Token


class _Reader:
    def __init__(self, program: str) -> None:
        tokens = tokenize(program)
        self._context = Context(point=None)
        self._context.point = partial(option_point, self._context)
        self._stream = Stream(tokens, self._context.budget)
        self._naming = Naming(tokens, self._context.budget)
        self._scopes = [_Scope(State(), "the program", tokens[0])]
        self._drawing = Drawing()

    def read(self) -> Drawing:
        token = self._stream.statement()
        while token.kind != "end":
            self._statement(token)
            token = self._stream.statement()
        if len(self._scopes) > 1:
            begun = self._scopes[-1]
            what = f"\\end{{{begun.ends}}}" if begun.ends != "}" else "}"
            fail(begun.token, f"what begins here is never ended; {what} is missing")
        return self._finished()

    def _finished(self) -> Drawing:
        """Objects that drew nothing are left out."""
        drawing = self._drawing
        if not any(shape.visible for shape in drawing.shapes):
            raise ValueError("the sketch draws nothing; it needs a \\draw or a \\fill")
        used = sorted({s.object for s in drawing.shapes if s.object is not None and s.visible})
        numbers = {old: new for new, old in enumerate(used)}
        drawing.phrases = [self._naming.phrases[old] for old in used]
        drawing.shapes = [
            replace(s, object=None if s.object is None else numbers.get(s.object))
            for s in drawing.shapes
        ]
        return drawing

    def _statement(self, token: Token) -> None:
        if token.kind == "comment":
            self._naming.comment(token)
        elif token.kind == "blank":
            self._naming.blank()
        elif token.kind == "open" or (token.kind == "symbol" and token.text == "{"):
            self._open(token, "}" if token.text else "", [])
        elif token.kind == "close" or (token.kind == "symbol" and token.text == "}"):
            self._close(token, "}" if token.text else "")
        elif token.kind == "command":
            self._command(token)
        elif token.text != ";":
            fail(token, f"a command is expected, not {shown(token)}")

    def _command(self, token: Token) -> None:
        name = token.text
        self._naming.command()
        if name in PATHS:
            self._path(token, *PATHS[name])
        elif name in ("node", "coordinate"):
            self._path(token, False, False, token._replace(kind="word"))
        elif name in SKIPPED:
            self._skip()
        elif name in _COMMANDS:
            _COMMANDS[name](self, token)
        else:
            fail(token, f"\\{name[:40]} is not known; known are {_KNOWN}")

    @property
    def _state(self) -> State:
        return self._scopes[-1].state

    def _path(self, token: Token, draws: bool, fills: bool, first: Token | None = None) -> None:
        state = self._state.path(draws=draws, fills=fills)
        if first is None:
            state = applied(state, read_options(self._stream), self._context)
        path = PathReader(self._stream, self._context, state)
        outline = path.read(first)
        state = path.state
        if outline:
            shape = Shape(
                outline,
                fill=state.fill if state.fills else None,
                stroke=state.stroke if state.draws else None,
                width=state.width,
                even_odd=state.even_odd,
                clips=state.clips,
            )
            self._add(shape, token)
        for shape in path.shapes:
            self._add(shape, token)

    def _add(self, shape: Shape, token: Token) -> None:
        self._context.budget.spend("shapes", token)
        if shape.visible:
            shape = replace(shape, object=self._naming.drawn(token))
        self._drawing.shapes.append(shape)

    def _canvas(self, token: Token) -> None:
        """`\\useasboundingbox`, and `\\clip`, which hides what lies outside as well."""
        state = applied(self._state.path(), read_options(self._stream), self._context)
        outline = PathReader(self._stream, self._context, state).read()
        box = box_of([outline])
        if box is None:
            fail(token, f"\\{token.text} needs an area, such as (0,0) rectangle (10,10)")
        if token.text == "clip":
            self._context.budget.spend("shapes", token)
            if len(self._state.clips) == MAX_CLIPS:
                fail(token, f"more than {MAX_CLIPS} \\clip in one another")
            self._scopes[-1].state = replace(self._state, clips=(*self._state.clips, outline))
        inside_scope = any(scope.ends in ("scope", "}") for scope in self._scopes[1:])
        if self._drawing.canvas is None and not (token.text == "clip" and inside_scope):
            self._drawing.canvas = box

    def _begin(self, token: Token) -> None:
        name = text_of(self._stream.group()).strip()
        if name in SURROUNDINGS:
            self._skip()
        elif name in ("tikzpicture", "scope"):
            self._open(token, name, read_options(self._stream))
        else:
            fail(token, f"\\begin{{{name[:40]}}} is not known; known are tikzpicture and scope")

    def _end(self, token: Token) -> None:
        name = text_of(self._stream.group()).strip()
        if name not in SURROUNDINGS:
            self._close(token, name)

    def _open(self, token: Token, ends: str, options: list[Option]) -> None:
        if len(self._scopes) > MAX_DEPTH:
            fail(token, f"more than {MAX_DEPTH} scopes in one another")
        named = next((option for option in options if option.key == "name"), None)
        state = applied(self._state, options, self._context)
        self._naming.open(token, named.text.strip() if named else "")
        self._scopes.append(_Scope(state, ends, token))

    def _close(self, token: Token, ends: str) -> None:
        begun = self._scopes[-1]
        if len(self._scopes) == 1 or begun.ends != ends:
            what = {"": "the end of a loop", "}": "}"}.get(ends, f"\\end{{{ends[:40]}}}")
            fail(token, f"{what} without its beginning")
        self._scopes.pop()
        self._naming.close()

    def _skip(self) -> None:
        while self._stream.at("[", "{"):
            if self._stream.at("["):
                self._stream.inside("[")
            else:
                self._stream.group()

    def _define(self, token: Token) -> None:
        """`\\def\\r{2}`, `\\newcommand{\\tree}[2]{...}`."""
        name = self._macro_name(token)
        count = 0
        if token.text == "def":
            while (part := self._stream.raw()).kind == "parameter":
                count += 1
            self._stream.back(part)
        elif self._stream.at("["):
            count = round(number(self._stream.inside("["), token))
        if not 0 <= count <= 9:
            fail(token, f"{count} parameters; use 0 to 9")
        if self._stream.at("["):
            fail(token, f"\\{token.text} with an optional argument is not known")
        self._stream.define(name, Macro(count, self._stream.group()))

    def _macro_name(self, token: Token) -> str:
        first = self._stream.raw()
        if first.text == "{" and first.kind == "symbol":
            self._stream.back(first)
            first, *rest = self._stream.group() or [first]
            if rest:
                first = rest[0]
        if first.kind != "command":
            fail(first, f"a name such as \\r is expected behind \\{token.text}")
        if first.text in _TAKEN:
            fail(first, f"\\{first.text} cannot be given another meaning; use another name")
        return first.text

    def _compute(self, token: Token) -> None:
        """`\\pgfmathsetmacro{\\r}{2*3}`."""
        name = self._macro_name(token)
        value = number(self._stream.inside("{"), token)
        if token.text == "pgfmathtruncatemacro":
            value = float(int(value))
        self._stream.define(name, Macro(0, number_tokens(value, token)))

    def _define_colour(self, token: Token) -> None:
        parts = 3 if token.text == "definecolor" else 2
        name, *rest = (text_of(self._stream.inside("{")).strip() for _ in range(parts))
        known = self._context.colours
        try:
            known[name] = defined(*rest) if parts == 3 else colour(rest[0], known)
        except ValueError as problem:
            raise SketchError(str(problem), token.line, token.column) from None

    def _styles(self, token: Token) -> None:
        """`\\tikzset{leaf/.style={fill=green}, thick}`, `\\tikzstyle{leaf}=[fill=green]`."""
        if token.text == "tikzstyle":
            name = text_of(self._stream.inside("{")).strip()
            self._stream.expect("=")
            self._context.styles[name] = read_options(self._stream)
            return
        for option in options_of(self._stream.inside("{")):
            if option.key.endswith("style"):
                define_style(option, self._context)
            else:
                self._scopes[-1].state = applied(self._state, [option], self._context)


_COMMANDS: dict[str, Callable[[_Reader, Token], None]] = {
    "begin": _Reader._begin,
    "end": _Reader._end,
    "foreach": lambda reader, token: read_loop(reader._stream, token),
    **dict.fromkeys(("clip", "useasboundingbox"), _Reader._canvas),
    **dict.fromkeys(("def", "newcommand", "renewcommand"), _Reader._define),
    **dict.fromkeys(("pgfmathsetmacro", "pgfmathtruncatemacro"), _Reader._compute),
    **dict.fromkeys(("definecolor", "colorlet"), _Reader._define_colour),
    **dict.fromkeys(("tikzset", "tikzstyle"), _Reader._styles),
}
_TAKEN = {*PATHS, *_COMMANDS, "node", "coordinate"}
_KNOWN = ", ".join(f"\\{name}" for name in (*PATHS, "node", "coordinate", *_COMMANDS))
