"""Every option, command and path word with every kind of value that it may be given."""

from __future__ import annotations

import itertools

import pytest
from likeness.pipelines.sketch.path import _OPERATIONS
from likeness.pipelines.sketch.reader import _COMMANDS, PATHS, read_sketch
from likeness.pipelines.sketch.state import _LOOK, _MAPS, IGNORED, KEPT
from likeness.pipelines.sketch.surroundings import SKIPPED

VALUES = [
    "",
    "=",
    "=2",
    "=-1",
    "=0",
    "=2cm",
    "=red",
    "={(1,2)}",
    "={1:2}",
    "={30:(1,1)}",
    "=circle",
    "=\\t",
    "=1cm of a",
]
PLACES = [
    r"\filldraw[%s] (0,0) -- (1,1) -- (2,0);",
    r"\draw (0,0) circle [radius=1,%s];",
    r"\draw (1,0) arc [start angle=0, end angle=90, radius=1,%s];",
    r"\draw (0,0) to[%s] (1,1);",
    r"\draw (0,0) grid[%s] (2,2);",
    r"\draw plot[samples=3,%s] (\x,{\x^2});",
    r"\node[draw,%s] at (1,1) {text};\draw (0,0) -- (3,3);",
    r"\begin{scope}[%s]\draw (0,0) -- (1,1);\end{scope}",
]
TAILS = [
    "",
    "{",
    "{}",
    "{a}",
    "{\\a}",
    "{\\a}{}",
    "{\\a}{1}",
    "\\a",
    "\\a{1}",
    "[",
    "[]",
    "[1]",
    "(",
    "()",
    "(1,2)",
    "(1,2) ;",
    ";",
    "=",
    "#1",
    "\\a in {1,2} ;",
    "{a}{rgb}{1}",
    "{a}{red}",
    "{a}=[red]",
    "{scope}",
    "{a/.style={red}}",
    "coordinates {}",
    "coordinates {(1,1) +}",
    "controls",
    "+",
    "(1:2:3)",
    "[radius=1]",
    "node {} (1,1)",
    "cycle",
    "and",
    "(a)",
    "(1,1) {a}",
]


def outcome(program):
    """Whether it is read; a message that refuses it is as good."""
    try:
        read_sketch("\\coordinate (a) at (1,1);" + program)
        return True
    except ValueError as problem:
        assert str(problem)
        return False


@pytest.mark.parametrize("place", PLACES)
def test_options(place):
    keys = {*_LOOK, *_MAPS, *KEPT, *(IGNORED if place == PLACES[0] else ())}
    drawn = {key: [outcome(place % (key + value)) for value in VALUES] for key in sorted(keys)}
    useless = [key for key, outcomes in drawn.items() if not any(outcomes)]
    assert not useless, "known, and yet refused with each of the values"


@pytest.mark.parametrize("command", sorted({*PATHS, *_COMMANDS, *SKIPPED, "node", "coordinate"}))
def test_commands(command):
    for tail, more in itertools.product(TAILS, ["", ";\\draw (0,0) -- (1,1);"]):
        outcome(f"\\{command}{tail}{more}")


@pytest.mark.parametrize("word", sorted(_OPERATIONS))
def test_path_words(word):
    for before, tail in itertools.product(["", "(0,0) ", "(0,0) -- (1,1) "], TAILS):
        outcome(f"\\draw {before}{word} {tail};")
