"""Whole sketches: what language models write, who is named, how it comes to the picture."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.pipelines.sketch.limits import STYLES
from likeness.pipelines.sketch.picture import mask_tensor, segment_colour, sketch
from likeness.pipelines.sketch.prompt import SYSTEM
from PIL import ImageChops

from .sketch_programs import PROGRAMS

FRAME = r"\useasboundingbox (0,0) rectangle (8,8);" + "\n"
SQUARES = [rf"\fill[red] ({i},{i}) rectangle ({i + 1},{i + 1});" for i in range(5)]
A, B, C, D, E = SQUARES


def phrases(program):
    return [one.phrase for one in sketch(program, 64, 64).objects]


@pytest.mark.parametrize(("program", "named"), PROGRAMS.values(), ids=PROGRAMS)
def test_programs_of_language_models(program, named):
    drawn = sketch(program, 192, 128, "segments")
    assert [one.phrase for one in drawn.objects] == named
    pixels = np.asarray(drawn.image)
    for number, one in enumerate(drawn.objects):
        mask = np.asarray(one.mask) > 127
        assert mask.sum() > 15
        seen = (pixels == segment_colour(number)).all(axis=-1)
        assert seen.any(), "somewhere nothing lies before it"
        assert not (seen & ~(np.asarray(one.mask) > 0)).any(), "its colour is inside of its mask"


def test_objects_lie_where_their_program_says():
    dog, bicycle = sketch(PROGRAMS["dog"][0], 100, 100).objects
    assert dog.box[2] < bicycle.box[0], "left of it"
    table, cup = sketch(PROGRAMS["cup"][0], 100, 100).objects
    assert cup.box[1] < table.box[1] < cup.box[3], "its foot on the table, its rim above"


def test_the_example_of_the_prompt_is_read():
    example = SYSTEM[SYSTEM.index("\\begin{tikzpicture}") :]
    table, cup, bottle = sketch(example, 100, 100).objects
    assert (cup.phrase, bottle.phrase) == ("a red cup", "a green bottle")
    assert cup.box[2] < bottle.box[0] and table.box[3] > bottle.box[3]


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "```\n{}\n```",
        "Sure (see \\draw):\n\n```tikz\n{}\n```\nThe cup is red.\n```text\nbye\n```",
        "Here it is.\n\\begin{{tikzpicture}}[thick]\n{}\n\\end{{tikzpicture}}\nHave fun!",
        "<think>\n\\begin{{tikzpicture}}\n{}\n\\end{{tikzpicture}}?\n</think>\n\n{}",
        "\\documentclass[tikz]{{standalone}}\n\\usetikzlibrary{{calc}}\n\\begin{{document}}\n"
        "\\begin{{tikzpicture}}\n{}\n\\end{{tikzpicture}}\n\\end{{document}}",
        "\\begin{{figure}}[h]\n\\centering\n\\begin{{tikzpicture}}\n{}\n\\end{{tikzpicture}}\n"
        "\\caption{{A cup}}\n\\end{{figure}}",
        "```latex\n{}",
    ],
)
def test_what_stands_around_a_program_is_skipped(answer):
    program = f"{FRAME}% a cup\n{A}"
    drawn = sketch(answer.format(program, program), 80, 80)
    assert [(one.phrase, one.box) for one in drawn.objects] == [("a cup", (0, 70, 10, 80))]


NAMED = {
    "a comment": (f"% a cup\n{A}\n% a table\n{B}", ["a cup", "a table"]),
    "an empty line ends": (f"% a cup\n{A}\n\n{B}", ["a cup"]),
    "an empty line before": (f"% a cup\n\n{A}\n{B}", ["a cup"]),
    "several lines": (f"% a cup\n% of tea\n{A}", ["a cup of tea"]),
    "heading, then name": (f"% The scene\n\n% a cup\n{A}", ["a cup"]),
    "decorated": (f"% ==== a cup: ====\n{A}", ["a cup"]),
    "verbs": (f"% Draw the cup\n{A}\n% Now add a table\n{B}", ["the cup", "a table"]),
    "drawers": (f"% Drawers of a desk\n{A}", ["Drawers of a desk"]),
    "remarks behind": (f"{A} % a cup\n% a table\n{B} % its top", ["a table"]),
    "code taken out": (f"% a cup\n% \\fill (0,0) circle (1);\n{A}", ["a cup"]),
    "ruler": (f"% a cup\n%-----\n{A}", ["a cup"]),
    "nothing drawn": (f"% size\n\\def\\r{{1}}\n% a cup\n{A}", ["a cup"]),
    "definition between": (f"% a cup\n\\def\\r{{1}}\n{A}", ["a cup"]),
    "twice": (f"% tree\n{A}\n% tree\n{B}", ["tree", "tree"]),
    "explicit": (f"% a remark\n{A}\n% object: cup\n{B}\n% its foot\n\n{C}\n% OBJECT 2: jug\n{D}",
                 ["cup", "jug"]),
    "explicit end": (f"% object: cup\n{A}\n% object:\n{B}", ["cup"]),
    "scope": (f"\\begin{{scope}}[name=a cup]\n% foot\n{A}\n\n{B}\\end{{scope}}\n{C}", ["a cup"]),
    "scope in braces": (f"\\begin{{scope}}[name={{a cup, red}}]{A}\\end{{scope}}", ["a cup, red"]),
    "scope ends": (f"\\begin{{scope}}\n% a cup\n{A}\n\\end{{scope}}\n{B}", ["a cup"]),
    "scope inside": (f"% a cup\n\\begin{{scope}}\n{A}\n% a lid\n{B}\n\\end{{scope}}\n{C}",
                     ["a cup", "a lid"]),
    "loop": (f"% dots\n\\foreach \\x in {{1,2}} {{{A}}}", ["dots"]),
    "loop inside": (f"\\foreach \\x in {{1,2}} {{\n% a tree\n{A}\n}}", ["a tree", "a tree"]),
    "nothing": (A, [""]),
}  # fmt: skip


@pytest.mark.parametrize(("program", "expected"), NAMED.values(), ids=NAMED)
def test_who_is_named(program, expected):
    assert phrases(FRAME + program) == expected


@pytest.mark.parametrize(
    ("program", "squares"),
    [
        (f"% a cup\n{A}\n{B}\n\n{C}", [[0, 1]]),
        (f"% object: cup\n{A}\n\n{B}\n% object: jug\n{C}", [[0, 1], [2]]),
        (f"\\begin{{scope}}[name=a cup]\n% foot\n{A}\n\n{B}\\end{{scope}}\n{C}", [[0, 1]]),
        (f"% a cup\n\\begin{{scope}}\n{A}\n% a lid\n{B}\n\\end{{scope}}\n{C}", [[0, 2], [1]]),
        (f"{A}\n% a cup\n{{ {B} }}\n{C}\n\n{D}", [[1, 2]]),
        ("".join(SQUARES), [[0, 1, 2, 3, 4]]),
    ],
)
def test_what_belongs_to_whom(program, squares):
    drawn = sketch(FRAME + program, 80, 80)
    for one, expected in zip(drawn.objects, squares, strict=True):
        inside = [one.mask.getpixel((10 * i + 5, 75 - 10 * i)) for i in range(5)]
        assert inside == [255 if i in expected else 0 for i in range(5)]
        first, last = expected[0], expected[-1]
        assert one.box == (10 * first, 70 - 10 * last, 10 * last + 10, 80 - 10 * first)


def test_a_scene_is_the_phrase_of_what_names_nothing():
    (one,) = sketch(FRAME + A, 64, 64, scene=" a  red square ").objects
    assert one.phrase == "a red square"
    assert phrases(FRAME + f"% cup\n{A}") == ["cup"]


def test_styles():
    program = FRAME + r"% a" + "\n" + r"\draw[fill=red,draw=blue] (2,2) rectangle (6,6);"
    middle, edge, outside = (40, 40), (20, 40), (5, 5)
    expected = {
        "scribble": [(0, 0, 0), (255, 255, 255), (0, 0, 0)],
        "lines": [(255, 255, 255), (0, 0, 0), (255, 255, 255)],
        "colour": [(255, 0, 0), (0, 0, 255), (255, 255, 255)],
        "segments": [segment_colour(0), segment_colour(0), (0, 0, 0)],
    }
    assert set(expected) == set(STYLES)
    for style, colours in expected.items():
        image = sketch(program, 80, 80, style, 3).image
        assert [image.getpixel(place) for place in (middle, edge, outside)] == colours, style
        assert image.mode == "RGB" and image.size == (80, 80)


def test_what_is_filled_hides_what_lies_behind():
    program = FRAME + r"\draw (0,4) -- (8,4); \fill (4,4) circle (2);"
    image = sketch(program, 80, 80, line_width=3).image
    assert image.getpixel((10, 40)) == (255, 255, 255)
    assert image.getpixel((40, 40)) == (0, 0, 0)
    assert image.getpixel((20, 40)) == (255, 255, 255), "its own outline"


def test_a_limb_is_an_outline():
    program = FRAME + r"\draw[line width=28.45pt] (4,-1) -- (4,6); \draw (0,2) -- (8,2);"
    image = sketch(program, 80, 80, line_width=2).image.convert("L")
    assert [image.getpixel((x, 40)) > 127 for x in (33, 36, 40, 43, 47)] == [False, True] * 2 + [
        False
    ]
    assert image.getpixel((40, 60)) > 127, "what is drawn later lies before it"
    (one,) = sketch(program, 80, 80, line_width=2).objects
    assert one.mask.getpixel((40, 40)) == 255


def test_wide_curves_have_no_gaps():
    program = FRAME + r"\draw[line width=60pt] (7,4) arc (0:360:3);"
    seen = np.asarray(sketch(program, 160, 160, "colour").image.convert("L"))
    y, x = np.mgrid[:160, :160]
    distance = np.hypot(x - 79.5, y - 79.5)
    assert not seen[(distance < 60 + 18) & (distance > 60 - 18)].any()
    assert (seen[(distance > 60 + 24) | (distance < 60 - 24)] == 255).all()


@pytest.mark.parametrize("command", ["fill[blue]", "filldraw[fill=blue]"])
def test_a_background_has_no_outline_at_the_rim(command):
    program = FRAME + rf"\{command} (-1,-1) rectangle (9,4) (0,0) rectangle (8,4);"
    image = sketch(program, 80, 80, line_width=4).image
    columns = np.asarray(image.convert("L"))
    assert (columns[39:41] == 255).all(), "the horizon"
    assert not columns[:36].any() and not columns[44:].any(), "and nothing else"


def test_lines_are_smooth_and_have_their_width():
    image = sketch(FRAME + r"\draw (0,0) -- (8,6);", 80, 80, line_width=3).image.convert("L")
    levels = set(np.asarray(image).flat)
    assert len(levels) > 8, "anti-aliased"
    ink = np.asarray(image, float).sum() / 255
    assert ink == pytest.approx(100 * 3, rel=0.06), "a hundred pixels long"


def test_it_is_the_same_each_time():
    one, two = (sketch(PROGRAMS["house"][0], 96, 64, "colour") for _ in range(2))
    assert one.image.tobytes() == two.image.tobytes()
    assert [o.mask.tobytes() for o in one.objects] == [o.mask.tobytes() for o in two.objects]


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 200)])
def test_all_of_it_fits_in_the_middle_and_keeps_its_shape(size):
    (one,) = sketch(r"\fill (3,100) rectangle (7,102);", *size).objects
    left, top, right, bottom = one.box
    assert (right - left) / (bottom - top) == pytest.approx(2, rel=0.06)
    assert left + right == pytest.approx(size[0], abs=2)
    assert top + bottom == pytest.approx(size[1], abs=2)
    assert min(left, top) > 0 and (left < 5 or top < 5)


def test_a_canvas_is_shown_whole_and_nothing_else():
    square = r"\fill (4,4) rectangle (40,40);"
    for canvas in (r"\clip (0,0) rectangle (8,8);", FRAME):
        (one,) = sketch(canvas + square, 80, 80).objects
        assert one.box == (40, 0, 80, 40)
    (one,) = sketch(r"\clip (0,0) rectangle (8,8);" + square, 160, 80).objects
    assert one.box == (80, 0, 120, 40), "clipped, in the middle of a wider picture"
    hidden = sketch(FRAME + f"% far\n\\fill (20,20) circle (1);\n% near\n{A}", 80, 80)
    assert [one.phrase for one in hidden.objects] == ["near"], "what cannot be seen grounds nothing"


def test_a_larger_picture_is_the_same_picture():
    small = sketch(PROGRAMS["house"][0], 120, 90, line_width=2)
    large = sketch(PROGRAMS["house"][0], 480, 360, line_width=8)
    for one, other in zip(small.objects, large.objects, strict=True):
        difference = ImageChops.difference(one.mask, other.mask.reduce(4))
        assert np.asarray(difference).mean() < 3


def test_one_object_is_chosen_by_number_or_words():
    drawn = sketch(FRAME + f"% a red cup\n{A}\n% a cup\n{B}\n% 7 apples\n{C}", 80, 80)
    cup, other, apples = drawn.objects
    for wanted, one in (("1", cup), ("a CUP", other), ("red", cup), ("apples", apples)):
        assert drawn.chosen(wanted) == (one.mask, one.phrase), wanted
    mask, phrase = drawn.chosen(" ")
    assert phrase == "a red cup, a cup, 7 apples"
    assert [mask.getpixel((10 * i + 5, 75 - 10 * i)) for i in range(4)] == [255, 255, 255, 0]
    with pytest.raises(ValueError, match=r"no object 'dog'; it has\n1\. a red cup: 0,70 to 10,80"):
        drawn.chosen("dog")


def test_a_mask_tensor():
    import torch

    (one,) = sketch(FRAME + A, 80, 40).objects
    tensor = mask_tensor(one.mask)
    assert tensor.dtype == torch.float32 and tuple(tensor.shape) == (1, 40, 80)
    assert tensor.min() == 0 and tensor.max() == 1
