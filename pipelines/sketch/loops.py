"""`\\foreach \\x in {0,1,...,5} {...}`: what its variables stand for in each round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .arithmetic import number
from .limits import BUDGETS, fail
from .options import Option, split, unbraced
from .stream import Macro, Stream
from .tokens import Token, shown, text_of

Round = dict[str, Macro]


@dataclass
class _Loop:
    token: Token
    variables: list[str]
    items: list[list[Token]]
    counter: str = ""
    first: int = 1
    computed: tuple[str, list[Token]] | None = None
    """`evaluate=\\x as \\y using ...`: the name and what it is computed from."""


def read_loop(stream: Stream, token: Token) -> None:
    """Read a loop's head and body; from then on `stream` gives its rounds.

    Raises:
        SketchError: it has no list or body, or too many rounds.
    """
    variables = [_variable(stream)]
    while stream.at("/"):
        stream.next()
        variables.append(_variable(stream))
    options = _raw_options(stream)
    stream.expect("in")
    if not stream.at("{"):
        fail(stream.peek(), f"a list in braces is expected, not {shown(stream.peek())}")
    loop = _Loop(token, variables, _items(stream.inside("{"), token))
    for option in options:
        _set_up(loop, option)
    stream.loop(_body(stream), _rounds(stream, loop), token)


def _variable(stream: Stream) -> str:
    token = stream.raw()
    if token.kind != "command":
        fail(token, f"a variable such as \\x is expected, not {shown(token)}")
    return token.text


def _raw_options(stream: Stream) -> list[Option]:
    """Their variables may have a value from a loop around this one, so nothing is replaced."""
    first = stream.raw()
    stream.back(first)
    if first.text != "[":
        return []
    stream.raw()
    tokens, depth = [], 1
    while True:
        token = stream.raw()
        if token.kind == "end":
            fail(first, "[ is never closed")
        depth += {"[": 1, "]": -1}.get(token.text, 0) if token.kind == "symbol" else 0
        if depth == 0:
            break
        tokens.append(token)
    return [
        Option(text_of(key), rest[0] if rest else None, part[0])
        for part in split(tokens, ",")
        if part
        for key, *rest in [split(part, "=", at_most=1)]
    ]


def _set_up(loop: _Loop, option: Option) -> None:
    value = unbraced(option.value or [])
    words = {token.text: i for i, token in enumerate(value)}
    if option.key == "count" and value and value[0].kind == "command":
        loop.counter = value[0].text
        if "from" in words:
            loop.first = round(number(value[words["from"] + 1 :], option.token))
    elif option.key == "evaluate" and value and value[0].kind == "command":
        using = words.get("using", len(value))
        target = value[words["as"] + 1] if "as" in words and words["as"] + 1 < using else value[0]
        loop.computed = target.text, value[using + 1 :] or value[:1]
    else:
        fail(
            option.token,
            f"the loop option {option.key[:40]!r} is not known; known are count, evaluate",
        )


def _items(tokens: list[Token], at: Token) -> list[list[Token]]:
    """The items of a list, `...` written out."""
    parts = list(split(tokens, ","))
    found: list[list[Token]] = []
    for index, part in enumerate(parts):
        if [token.text for token in part] == ["..."]:
            found += _between(found, parts[index + 1 : index + 2], part[0])
        elif part:
            found.append(unbraced(part))
    if len(found) > BUDGETS["loop rounds"]:
        fail(at, f"a list of {len(found):,} items; at most {BUDGETS['loop rounds']:,} are read")
    return found


def _between(before: list[list[Token]], after: list[list[Token]], at: Token) -> list[list[Token]]:
    """The numbers that `...` stands for, between those written before and behind it."""
    if not before or not after or not after[0]:
        fail(at, "... needs a number before and behind it")
    last, end = number(before[-1], at), number(after[0], at)
    step = last - number(before[-2], at) if len(before) > 1 else (1.0 if end >= last else -1.0)
    count = (end - last) / step if step else float("inf")
    if count > BUDGETS["loop rounds"]:
        fail(at, f"a list of too many numbers; at most {BUDGETS['loop rounds']:,} are read")
    inner = range(1, int(count + 1e-6) + 1)
    values = [last + step * i for i in inner]
    if values and abs(values[-1] - end) < abs(step) * 1e-6:
        values.pop()  # the last one is written out
    return [number_tokens(value, at) for value in values]


def number_tokens(value: float, at: Token) -> list[Token]:
    """A number as it could have been written, rounded to ten digits."""
    text = f"{value:.10g}"
    sign = [at._replace(kind="symbol", text="-")] if text.startswith("-") else []
    return [*sign, at._replace(kind="number", text=text.removeprefix("-"))]


def _body(stream: Stream) -> list[Token]:
    """In braces, or one command up to its semicolon."""
    first = stream.raw()
    if first.text == "{" and first.kind == "symbol":
        stream.back(first)
        return stream.group()
    found = [first]
    while not (found[-1].kind == "symbol" and found[-1].text == ";"):
        token = stream.raw()
        if token.kind == "end":
            fail(first, "the loop's body is missing; put it in braces")
        found.append(token)
        if token.text == "{" and token.kind == "symbol":
            found.pop()
            stream.back(token)
            inner = stream.group()
            found += [token, *inner, token._replace(text="}")]
            if _ends_a_loop(found, inner):
                return found
    return found


def _ends_a_loop(found: list[Token], inner: list[Token]) -> bool:
    """Whether the body is a further loop whose own body was just read."""
    is_loop = found[0].kind == "command" and found[0].text == "foreach"
    return is_loop and any(token.text == ";" for token in inner)


def _rounds(stream: Stream, loop: _Loop) -> Iterator[Round]:
    for index, item in enumerate(loop.items):
        parts = split(item, "/") if len(loop.variables) > 1 else [item]
        parts += [parts[-1]] * (len(loop.variables) - len(parts))  # TikZ repeats the last
        found = {
            name: Macro(0, unbraced(part))
            for name, part in zip(loop.variables, parts, strict=False)
        }
        if loop.counter:
            found[loop.counter] = Macro(0, number_tokens(loop.first + index, loop.token))
        if loop.computed:
            name, expression = loop.computed
            filled = stream.filled(expression, found)
            found[name] = Macro(0, number_tokens(number(filled, loop.token), loop.token))
        yield found
