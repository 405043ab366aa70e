"""What options set: colours, pen, transformation. Scopes hand it on to what is inside of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from . import affine
from .affine import Affine, Point
from .arithmetic import POINT
from .colours import RGB, colour
from .drawing import Outline
from .limits import MAX_DEPTH, Budget, SketchError, fail
from .options import Option, listed, options_of, split
from .tokens import Token

PENS = {
    "ultra thin": 0.1,
    "very thin": 0.2,
    "thin": 0.4,
    "semithick": 0.6,
    "thick": 0.8,
    "very thick": 1.2,
    "ultra thick": 1.6,
}
"""Widths in pt, as TikZ has them."""
MAX_PEN = 500.0
"""In pt, wider than any limb that is drawn as one stroke."""
ROUNDED = 4 * POINT
"""Radius of rounded corners where none is given."""


@dataclass(frozen=True)
class State:
    matrix: Affine = field(default_factory=Affine)
    unit: tuple[float, float] = (1.0, 1.0)
    """What a number without a unit means along x and y, in cm."""
    stroke: RGB = (0, 0, 0)
    fill: RGB = (0, 0, 0)
    draws: bool = False
    fills: bool = False
    width: float = 0.4 * POINT
    """Of the pen, in cm."""
    rounded: float = 0.0
    """Radius of the corners, in cm."""
    even_odd: bool = False
    clips: tuple[Outline, ...] = ()
    kept: Mapping[str, Option] = field(default_factory=dict)
    """Options that parts of a path look up by name: radius, bend left, samples, ..."""

    def path(self, *, draws: bool = False, fills: bool = False) -> State:
        """What a path begins with: colours are handed on, that it is drawn or filled is not."""
        kept = {key: option for key, option in self.kept.items() if key in _HANDED_ON}
        return replace(self, draws=draws, fills=fills, kept=kept)


@dataclass
class Context:
    """What a program has defined so far, known everywhere in it."""

    budget: Budget = field(default_factory=Budget)
    colours: dict[str, RGB] = field(default_factory=dict)
    styles: dict[str, list[Option]] = field(default_factory=dict)
    coordinates: dict[str, Point] = field(default_factory=dict)
    """Named points, on the canvas: no transformation applies to them any more."""
    point: Callable[[list[Token], Token, State], Point] | None = None
    """Reads a coordinate out of an option such as `shift={(1,2)}`."""


def applied(state: State, options: list[Option], context: Context, depth: int = 0) -> State:
    """`state` with options put on, in their order.

    Raises:
        SketchError: one is not known, or its value is none.
    """
    if options and depth > MAX_DEPTH:
        fail(options[0].token, f"styles more than {MAX_DEPTH} deep; does one contain itself?")
    for option in options:
        context.budget.spend("tokens", option.token)
        state = _applied(state, option, context, depth)
    return state


def _applied(state: State, option: Option, context: Context, depth: int) -> State:
    key = option.key
    if key in context.styles:
        return applied(state, context.styles[key], context, depth + 1)
    if key.endswith("/.style") or key.endswith("/.append style"):
        define_style(option, context)
        return state
    if key in _LOOK:
        return _LOOK[key](state, option, context)
    if key in _MAPS:
        return _transformed(state, option, _MAPS[key](state, option, context))
    if key in KEPT:
        return replace(state, kept={**state.kept, key: option})
    if key in IGNORED or _is_arrow(key):
        return state
    if option.value is None:
        found = _colour(option, key, context, "the option")
        return replace(state, stroke=found, fill=found)
    fail(option.token, f"the option {key[:40]!r} is not known; {_KNOWN}")


def define_style(option: Option, context: Context) -> None:
    """`name/.style={...}`. Styles for every node or path are left alone."""
    name = option.key.rpartition("/")[0].strip()
    if not name.startswith("every "):
        context.styles[name] = options_of(option.value or [])


def _is_arrow(key: str) -> bool:
    """`->`, `-stealth`, `-{Latex[length=2mm]}`: tips are not drawn."""
    return "-" in key and (key[0] in "-<>|" or key[-1] in "-<>|")


def _colour(option: Option, text: str, context: Context, what: str = "") -> RGB:
    try:
        return colour(text.strip(), context.colours)
    except ValueError as problem:
        hint = f"{what} {text[:40]!r} is not known; {_KNOWN}; and as a colour: " if what else ""
        raise SketchError(hint + str(problem), option.token.line, option.token.column) from None


def _transformed(state: State, option: Option, inner: Affine) -> State:
    matrix = state.matrix.then(inner)
    if not 1e-12 < matrix.area < 1e12:
        fail(option.token, f"{option.key} makes everything vanish or without end")
    return replace(state, matrix=matrix)


def _draw(state: State, option: Option, context: Context) -> State:
    if option.value is None:
        return replace(state, draws=True)
    if option.text == "none":
        return replace(state, draws=False)
    return replace(state, draws=True, stroke=_colour(option, option.text, context))


def _fill(state: State, option: Option, context: Context) -> State:
    if option.value is None:
        return replace(state, fills=True)
    if option.text == "none":
        return replace(state, fills=False)
    return replace(state, fills=True, fill=_colour(option, option.text, context))


def _both(state: State, option: Option, context: Context) -> State:
    found = _colour(option, option.text, context)
    return replace(state, stroke=found, fill=found)


def _pattern(state: State, option: Option, context: Context) -> State:
    return replace(state, fills=True)


def _pen(state: State, option: Option, context: Context) -> State:
    width = PENS[option.key] * POINT if option.key in PENS else option.length(POINT)
    if not 0 <= width <= MAX_PEN * POINT:
        fail(option.token, f"a line width of {width / POINT:g}pt; use 0 to {MAX_PEN:g}pt")
    return replace(state, width=width)


def _unit(state: State, option: Option, context: Context) -> State:
    size = option.length(1.0)
    if not 1e-6 <= abs(size) <= 1e6:
        fail(option.token, f"{option.key}={size:g}cm is no unit to draw in")
    x, y = state.unit
    return replace(state, unit=(size, y) if option.key == "x" else (x, size))


def _rounded(state: State, option: Option, context: Context) -> State:
    if option.key == "sharp corners":
        return replace(state, rounded=0.0)
    radius = ROUNDED if option.value is None else option.length(POINT)
    return replace(state, rounded=max(0.0, radius))


def _even_odd(state: State, option: Option, context: Context) -> State:
    return replace(state, even_odd=option.key == "even odd rule")


def _shift(state: State, option: Option, context: Context) -> Affine:
    assert context.point is not None
    return affine.shift(*context.point(option.value or [], option.token, state))


def _rotate_around(state: State, option: Option, context: Context) -> Affine:
    angle, *center = split(option.value or [], ":", at_most=1)
    if not center or context.point is None:
        fail(option.token, "rotate around needs an angle and a point: {30:(1,2)}")
    turn = Option(option.key, angle, option.token).number()
    return affine.rotation(turn, context.point(center[0], option.token, state))


_Look = Callable[[State, Option, Context], State]
_Map = Callable[[State, Option, Context], Affine]

_LOOK: dict[str, _Look] = {
    "draw": _draw,
    "fill": _fill,
    **dict.fromkeys(("color", "colour"), _both),
    **dict.fromkeys(("ball color", "top color", "left color", "inner color"), _fill),
    "pattern": _pattern,
    "pattern color": _fill,
    **dict.fromkeys((*PENS, "line width"), _pen),
    **dict.fromkeys(("x", "y"), _unit),
    **dict.fromkeys(("rounded corners", "sharp corners"), _rounded),
    **dict.fromkeys(("even odd rule", "nonzero rule"), _even_odd),
}
_MAPS: dict[str, _Map] = {
    "scale": lambda s, o, c: affine.scale(o.number(), o.number()),
    "xscale": lambda s, o, c: affine.scale(o.number(), 1),
    "yscale": lambda s, o, c: affine.scale(1, o.number()),
    "rotate": lambda s, o, c: affine.rotation(o.number()),
    "rotate around": _rotate_around,
    "shift": _shift,
    "xshift": lambda s, o, c: affine.shift(o.length(POINT), 0),
    "yshift": lambda s, o, c: affine.shift(0, o.length(POINT)),
    "xslant": lambda s, o, c: affine.slant(o.number(), 0),
    "yslant": lambda s, o, c: affine.slant(0, o.number()),
}
KEPT = listed(
    "radius,x radius,y radius,start angle,end angle,delta angle,step,xstep,ystep,samples,domain,"
    "variable,smooth,smooth cycle,tension,bend left,bend right,out,in,looseness,minimum size,"
    "minimum width,minimum height,inner sep,shape,circle,rectangle,ellipse,pos,midway,near start,"
    "near end,at,name,above,below,left,right,above left,above right,below left,below right"
)
_HANDED_ON = frozenset({"radius", "step", "samples", "domain", "variable", "tension"})
"""Those that a scope or the picture may set for all paths in it."""
IGNORED = listed(
    "dashed,densely dashed,loosely dashed,dotted,densely dotted,loosely dotted,dash dot,solid,"
    "dash pattern,dash phase,double,double distance,opacity,fill opacity,draw opacity,text opacity,"
    "transparent,semitransparent,nearly transparent,nearly opaque,opaque,blend mode,line cap,"
    "line join,miter limit,shading,shading angle,bottom color,right color,middle color,"
    "outer color,>,<,arrows,font,text,text width,text height,text depth,align,anchor,outer sep,"
    "inner xsep,inner ysep,sloped,transform shape,baseline,remember picture,overlay,"
    "local bounding box,node distance,scale only axis,help lines,drop shadow,decorate,decoration,"
    "every node,rounded corners on,on layer,pin,label,samples at,alt,tips,color name"
)
"""Read and left alone: they are of no use to a control picture. Dashed lines are drawn whole."""
_KNOWN = (
    "known are colours, draw, fill, line width and its words (thin, thick, ...), rounded corners, "
    "scale, xscale, yscale, rotate, rotate around, shift, xshift, yshift, x, y, even odd rule, "
    "styles that the program defines, and those of the help page that are left out of the picture"
)
