"""The path of a command, from behind its options up to the semicolon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .affine import Point
from .coordinates import Target, radii, read_coordinate
from .curves import arc, bend, bezier, direction, ellipse, quarter
from .drawing import Outline, Shape
from .labels import Label, read_label
from .limits import fail
from .loops import read_loop
from .options import Option, read_options, split
from .outline import Pen
from .plots import read_plot
from .state import Context, State, applied
from .stream import Stream
from .tokens import Token, shown

MAX_LINES = 1000
"""Of one grid, in each direction."""
_TRANSFORMS = "a transformation in the middle of a path is not known; put it behind the command"


@dataclass
class PathReader:
    stream: Stream
    context: Context
    state: State
    pen: Pen = field(init=False)
    shapes: list[Shape] = field(default_factory=list)
    """Of the labels along it."""

    def __post_init__(self) -> None:
        self.pen = Pen(self.context.budget)

    def read(self, first: Token | None = None) -> Outline:
        """What the path goes along, on the canvas.

        `first`: the operation that it begins with, where the command is one (`\\node`).

        Raises:
            SketchError: something in it is not known.
        """
        token = first or self.stream.next()
        begin = token
        while token.kind != "symbol" or token.text != ";":
            if token.kind == "end":
                fail(begin, "; is missing at the end of the path that begins here")
            self._operation(token)
            token = self.stream.next()
        return self.pen.outline(self.state, begin)

    def _operation(self, token: Token) -> None:
        if token.kind == "command" and token.text == "foreach":
            read_loop(self.stream, token)
        elif token.kind in ("symbol", "word") and token.text in _OPERATIONS:
            _OPERATIONS[token.text](self, token)
        elif token.kind == "command":
            fail(token, f"{shown(token)} does not belong into a path; is ; missing before it?")
        else:
            known = ", ".join(_OPERATIONS)
            fail(token, f"{shown(token)} is not known in a path; known are {known} and ;")

    def _move(self, token: Token) -> None:
        self.stream.back(token)
        self.pen.move(self._coordinate())

    def _options(self, token: Token) -> None:
        self.stream.back(token)
        matrix = self.state.matrix
        self.state = applied(self.state, read_options(self.stream), self.context)
        if self.state.matrix != matrix:
            fail(token, _TRANSFORMS)

    def _coordinate(self) -> Target:
        return read_coordinate(self.stream, self.context, self.state, self.pen.reference)

    def _target(self) -> Target | None:
        """Where a line goes; None for `cycle`. Labels before it sit in its middle."""
        start = self.pen.at
        labels = []
        while self.stream.at("node", "coordinate"):
            word = self.stream.next()
            labels.append((word, self._label(word)))
        if self.stream.at("cycle"):
            self.stream.next()
            target = None
        else:
            target = self._coordinate()
        end = target.point if target else start
        for token, label in labels:
            share = label.share(0.5)
            middle = tuple(a + share * (b - a) for a, b in zip(start, end, strict=True))
            self._place(label, (middle[0], middle[1]), token)
        return target

    def _line(self, token: Token) -> None:
        if token.text == "--" and self.stream.at("plot"):
            self._plot(self.stream.next(), joined=True)
            return
        target = self._target()
        if target is None:
            self.pen.close(token)
            return
        x, y = self.pen.at
        if token.text == "-|":
            self.pen.line(Target((target.point[0], y), False), token)
        elif token.text == "|-":
            self.pen.line(Target((x, target.point[1]), False), token)
        self.pen.line(target, token)

    def _rectangle(self, token: Token) -> None:
        (x0, y0), target = self.pen.at, self._coordinate()
        x1, y1 = target.point
        self.pen.closed([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], token, corners=True)
        self.pen.move(target)

    def _ellipse(self, token: Token) -> None:
        kept, turned = self._own_options(token)
        rx, ry = self._radii(kept, token)
        self.pen.closed(ellipse(self.pen.at, rx, ry, turned), token)

    def _radii(self, kept: dict[str, Option], token: Token) -> Point:
        if self.stream.at("("):
            return radii(self.stream.inside("("), token, self.state)
        x, y = (kept.get(name, kept.get("radius")) for name in ("x radius", "y radius"))
        if x is None or y is None:
            fail(token, f"{token.text} needs a radius: {token.text} (1) or [radius=1]")
        return (
            radii(x.value or [], x.token, self.state)[0],
            radii(y.value or [], y.token, self.state)[1],
        )

    def _arc(self, token: Token) -> None:
        kept, turned = self._own_options(token)
        if self.stream.at("("):
            parts = split(self.stream.inside("("), ":")
            if len(parts) != 3:
                fail(token, "arc is (start angle:end angle:radius)")
            first, last = (Option("", part, token).number() for part in parts[:2])
            rx, ry = radii(parts[2], token, self.state)
        else:
            first, last = _angles(kept, token)
            rx, ry = self._radii(kept, token)
        if turned:
            fail(token, "rotate on an arc is not known; put it behind the command")
        points = arc(self.pen.at, first, last, rx, ry)
        self.pen.curve(points, Target(points[-1], True), token)

    def _own_options(self, token: Token) -> tuple[dict[str, Option], float]:
        """Options of one circle or arc, over those of the path; how far they turn it."""
        kept, turned = dict(self.state.kept), 0.0
        for option in read_options(self.stream):
            if option.key == "rotate":
                turned = option.number()
            else:
                state = applied(replace(self.state, kept={}), [option], self.context)
                kept |= state.kept
        return kept, turned

    def _curve(self, token: Token) -> None:
        self.stream.expect("controls")
        start = self.pen.at
        one = self._coordinate()
        # `+(..)` counts from the start for the first control point, from the end for the second.
        sign = two = None
        if self.stream.at("and"):
            self.stream.next()
            sign = self.stream.next() if self.stream.at("+", "++") else None
            two = read_coordinate(self.stream, self.context, self.state, (0.0, 0.0)).point
        self.stream.expect("..")
        end = self._target()
        goal = end.point if end else self.pen.begin
        two = one.point if two is None else two
        if sign is not None:
            two = goal[0] + two[0], goal[1] + two[1]
        self.pen.curve(bezier(start, one.point, two, goal), Target(goal, True), token)
        if end is None:
            self.pen.close(token)

    def _to(self, token: Token) -> None:
        options = applied(replace(self.state, kept={}), read_options(self.stream), self.context)
        kept = {**self.state.kept, **options.kept}
        start, end = self.pen.at, self._target()
        goal = end.point if end else self.pen.begin
        towards = direction(start, goal)
        out, into = towards, towards + 180
        for name, sign in (("bend left", 1), ("bend right", -1)):
            if name in kept:
                angle = kept[name].number() if kept[name].value else 30.0
                out, into = towards + sign * angle, towards + 180 - sign * angle
        out = kept["out"].number() if "out" in kept else out
        into = kept["in"].number() if "in" in kept else into
        if (out, into) == (towards, towards + 180):
            self.pen.line(Target(goal, True), token)
        else:
            loose = kept["looseness"].number() if "looseness" in kept else 1.0
            points = bend(start, goal, out, into, loose)
            self.pen.curve(points, Target(goal, True), token)
        if end is None:
            self.pen.close(token)

    def _wave(self, token: Token) -> None:
        target = self._coordinate()
        points = quarter(self.pen.at, target.point, sine=token.text == "sin")
        self.pen.curve(points, target, token)

    def _grid(self, token: Token) -> None:
        kept, _ = self._own_options(token)
        start, target = self.pen.at, self._coordinate()
        (x0, y0), (x1, y1) = (tuple(map(pick, start, target.point)) for pick in (min, max))
        for x in self._steps("xstep", kept, x0, x1, token):
            self.pen.apart([(x, y0), (x, y1)], token)
        for y in self._steps("ystep", kept, y0, y1, token):
            self.pen.apart([(x0, y), (x1, y)], token)
        self.pen.move(target)

    def _steps(
        self, name: str, kept: dict[str, Option], low: float, high: float, token: Token
    ) -> list[float]:
        """The multiples of the step from `low` to `high`."""
        option = kept.get(name, kept.get("step"))
        unit = self.state.unit[name == "ystep"]
        step = abs(option.length(unit) if option else unit)
        if step * MAX_LINES < high - low or not step:
            fail(token, f"a grid of more than {MAX_LINES} lines; make its step larger")
        first, last = -(-(low - 1e-9) // step), (high + 1e-9) // step
        return [step * (first + i) for i in range(int(last - first) + 1)]

    def _plot(self, token: Token, joined: bool = False) -> None:
        kept, _ = self._own_options(token)
        points, closed = read_plot(self.stream, self.context, self.state, kept, token)
        if closed:
            self.pen.closed(points, token)
            return
        if not joined:
            self.pen.move(Target(points[0], True))
        if "smooth" in kept:
            self.pen.curve(points, Target(points[-1], True), token)
            return
        for point in points:
            self.pen.line(Target(point, True), token)

    def _label(self, token: Token) -> Label:
        return read_label(self.stream, self.context, self.state, self._coordinate, token)

    def _node(self, token: Token) -> None:
        self._place(self._label(token), self.pen.at, token)

    def _place(self, label: Label, at: Point, token: Token) -> None:
        shape = label.placed(at, self.context, token)
        if shape is not None:
            self.shapes.append(shape)


def _angles(kept: dict[str, Option], token: Token) -> tuple[float, float]:
    first, last, delta = (kept.get(f"{n} angle") for n in ("start", "end", "delta"))
    if first is None or (last is None and delta is None):
        fail(token, "arc needs (start:end:radius) or [start angle=0, end angle=90, radius=1]")
    begin = first.number()
    if last is not None:
        return begin, last.number()
    assert delta is not None
    return begin, begin + delta.number()


_OPERATIONS: dict[str, Callable[[PathReader, Token], None]] = {
    **dict.fromkeys(("(", "+", "++"), PathReader._move),
    **dict.fromkeys(("--", "-|", "|-"), PathReader._line),
    "rectangle": PathReader._rectangle,
    **dict.fromkeys(("circle", "ellipse"), PathReader._ellipse),
    "arc": PathReader._arc,
    "..": PathReader._curve,
    "to": PathReader._to,
    **dict.fromkeys(("sin", "cos"), PathReader._wave),
    "grid": PathReader._grid,
    "plot": PathReader._plot,
    **dict.fromkeys(("node", "coordinate"), PathReader._node),
    "[": PathReader._options,
}
