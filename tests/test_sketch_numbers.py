"""Numbers and colours of the sketch language."""

from __future__ import annotations

import pytest
from likeness.pipelines.sketch.arithmetic import evaluate
from likeness.pipelines.sketch.colours import colour, defined
from likeness.pipelines.sketch.limits import SketchError
from likeness.pipelines.sketch.tokens import tokenize

from .test_sketch_grammar import drawn, pixel

COLOURS = {
    r"\fill[red] (0,0) rectangle (10,10);": (255, 0, 0),
    r"\fill[fill=green!50!black] (0,0) rectangle (10,10);": (0, 128, 0),
    r"\fill[blue!25] (0,0) rectangle (10,10);": (191, 191, 255),
    r"\fill[ForestGreen] (0,0) rectangle (10,10);": (34, 139, 34),
    r"\definecolor{skin}{RGB}{255,220,180}\fill[skin] (0,0) rectangle (10,10);": (255, 220, 180),
    r"\definecolor{c}{HTML}{12ABff}\fill[c] (0,0) rectangle (10,10);": (18, 171, 255),
    r"\definecolor{c}{rgb}{1,0.5,0}\fill[c] (0,0) rectangle (10,10);": (255, 128, 0),
    r"\definecolor{c}{gray}{0.2}\fill[c!50] (0,0) rectangle (10,10);": (153, 153, 153),
    r"\colorlet{c}{red!50!blue}\fill[color=c] (0,0) rectangle (10,10);": (128, 0, 128),
    r"\fill[fill={rgb,255:red,200;green,100;blue,50}] (0,0) rectangle (10,10);": (200, 100, 50),
    r"\begin{scope}[red]\fill (0,0) rectangle (10,10);\end{scope}": (255, 0, 0),
    r"\draw[fill=red,draw=none] (0,0) rectangle (10,10);": (255, 0, 0),
    r"\filldraw[fill=red,draw=blue] (0,0) rectangle (10,10);": (255, 0, 0),
    r"\draw[blue,line width=300pt] (0,5) -- (10,5);": (0, 0, 255),
    r"\filldraw[fill=none,draw=blue] (0,0) rectangle (10,10);": (255, 255, 255),
}


@pytest.mark.parametrize(("program", "expected"), COLOURS.items())
def test_colours(program, expected):
    assert pixel(drawn(program, "colour").image, 5, 5) == expected


def value(text):
    tokens = tokenize(text)[:-1]
    return evaluate(tokens, tokens[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "1+2*3": 7, "(1+2)*3": 9, "2^3": 8, "(-2)^2": 4, "1--1": 2, "1++1": 2, "-(-3)": 3,
        "10/4": 2.5, ".5": 0.5, "1e2": 100, "sin(30)": 0.5, "cos 60": 0.5, "sin(pi/2 r)": 1,
        "sqrt(16)": 4, "atan2(1,1)": 45, "min(3,1,2)": 1, "max(3,1)": 3, "mod(7,4)": 3,
        "abs(-2)": 2, "round(2.5)": 3, "{1+1}*2": 4, "pow(2,5)": 32, "deg(pi)": 180,
        "int(-2.7)": -2, "sin(30)*2 + 1": 2, "2*sin(1/2*pi r)": 2,
    }.items(),
)  # fmt: skip
def test_arithmetic(text, expected):
    assert value(text).value == pytest.approx(expected)
    assert not value(text).length


def test_lengths_are_in_centimetres():
    assert value("2cm+5mm") == (pytest.approx(2.5), True)
    assert value("72.27pt") == (pytest.approx(2.54), True)
    assert value("2*3cm") == (pytest.approx(6), True)
    assert value("6cm/2cm") == (pytest.approx(3), False)
    assert value("1cm+28.4528") == (pytest.approx(2, abs=1e-4), True), "beside a length: pt"


@pytest.mark.parametrize(
    "text",
    [
        "1+",
        "(1",
        "1)",
        "foo(2)",
        "1/0",
        "sqrt(-1)",
        "1 2",
        "2parsec",
        "sin",
        "min()",
        "rnd",
        "9^999",
        "asin(3)",
        "1cm cm",
        "{1)",
    ],
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(SketchError):
        value(text)


@pytest.mark.parametrize(
    "text",
    ["reddish", "red!x", "red!120", "", "rgb:red,1", "red!50!nope", "rgb,255:pink,3", "red!nan"],
)
def test_what_is_no_colour_is_refused(text):
    if text == "rgb:red,1":  # a level of 0 to 1
        assert colour(text, {}) == (255, 0, 0)
        return
    with pytest.raises(ValueError, match=r"not known|not 0 to 100|no share"):
        colour(text, {})
    with pytest.raises(ValueError):
        defined("RGB", text)
