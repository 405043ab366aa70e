"""The control picture of a drawing, and a mask for each of its objects. The same each time."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from .colours import RGB
from .drawing import Box, Drawing, Shape, box_of
from .fit import Fit, check_size, fineness, fit, inner_edges, visible
from .limits import MAX_LINE_WIDTH, STYLES
from .paint import Painter
from .reader import read_sketch

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_GROUND: dict[str, int | RGB] = {
    "scribble": 0,
    "lines": 255,
    "colour": (255, 255, 255),
    "segments": (0, 0, 0),
}
_GOLDEN = 0.618033988749895
"""Hues one golden section apart are told apart however many there are."""


@dataclass(frozen=True)
class SketchedObject:
    """`mask`: grey (L), white where it is, as if nothing lay before it. `box`: left, top, right
    and bottom around what it covers by more than half, in pixels.
    """

    phrase: str
    mask: Image
    box: tuple[int, int, int, int]

    def __str__(self) -> str:
        left, top, right, bottom = self.box
        return f"{self.phrase or 'everything'}: {left},{top} to {right},{bottom}"


@dataclass(frozen=True)
class Sketch:
    image: Image
    """RGB."""
    objects: tuple[SketchedObject, ...]

    def described(self) -> str:
        """One line for each object: its number, its phrase and its box."""
        return "\n".join(f"{number}. {one}" for number, one in enumerate(self.objects, 1))

    def chosen(self, wanted: str) -> tuple[Image, str]:
        """The mask and the phrase of one object, or of all together.

        `wanted`: its number from 1, or words of its phrase, whatever their case; empty: all.

        Raises:
            ValueError: there is no such object.
        """
        from PIL import ImageChops

        words = " ".join(wanted.split()).lower()
        if not words:
            masks = [one.mask for one in self.objects]
            joined = reduce(ImageChops.lighter, masks[1:], masks[0])
            return joined, ", ".join(one.phrase for one in self.objects if one.phrase)
        names = [str(number) for number in range(1, len(self.objects) + 1)]
        for matches in (
            [number == words for number in names],
            [one.phrase.lower() == words for one in self.objects],
            [words in one.phrase.lower() for one in self.objects],
        ):
            if True in matches:
                found = self.objects[matches.index(True)]
                return found.mask, found.phrase
        raise ValueError(
            f"the sketch has no object {wanted.strip()[:80]!r}; it has\n{self.described()}"
        )


def sketch(
    program: str,
    width: int,
    height: int,
    style: str = "scribble",
    line_width: float = 3.0,
    scene: str = "",
) -> Sketch:
    """Read a program and draw it.

    `width`, `height`: of the picture in pixels. `line_width`: pixels that a line is wide at least.
    `scene`: the phrase of the whole where the program names no object.

    Raises:
        ValueError: the program is not understood (a `SketchError` says where), draws nothing, or
            the picture's size or style cannot be.
    """
    check_size(width, height)
    if style not in STYLES:
        raise ValueError(f"the sketch style {style!r} is not known; use {', '.join(STYLES)}")
    if not 1 <= line_width <= MAX_LINE_WIDTH:
        raise ValueError(f"a line width of {line_width:g} pixels; use 1 to {MAX_LINE_WIDTH}")
    drawing = read_sketch(program)
    if not drawing.phrases:
        drawing.phrases = [" ".join(scene.split())]
        drawing.shapes = [replace(shape, object=0) for shape in drawing.shapes]
    fitted = fit(drawing, width, height)
    fine = fineness(drawing, fitted, line_width)
    image = _image(drawing, fitted, fine, style, line_width)
    objects = tuple(_objects(drawing, fitted, fine, line_width))
    if not objects:
        raise ValueError(
            "what the sketch draws cannot be seen: it has no area, or lies outside of its canvas"
        )
    return Sketch(image, objects)


def _image(drawing: Drawing, fitted: Fit, fine: int, style: str, pen: float) -> Image:
    mode = "RGB" if style in ("colour", "segments") else "L"
    area = 0, 0, fitted.width, fitted.height
    painter = Painter(mode, _GROUND[style], fitted, fine, area)
    for shape in drawing.shapes:
        if not shape.visible:
            continue
        if style == "colour":
            painter.paint(shape, shape.fill, shape.stroke, pen)
        elif style == "segments":
            if shape.object is not None:
                _whole(painter, shape, segment_colour(shape.object), pen)
        else:
            inks = (0, 255) if style == "scribble" else (255, 0)
            _lines(painter, shape, drawing.canvas, inks, pen)
    return painter.finished().convert("RGB")


def _lines(
    painter: Painter,
    shape: Shape,
    canvas: Box | None,
    inks: tuple[int, int],
    pen: float,
) -> None:
    """Its outline in the second ink, on a ground of the first where it is an area. A stroke as wide
    as a limb is an area, too.
    """
    ground, line = inks
    if shape.fill is not None:
        painter.paint(shape, ground, None, pen)
    if canvas and shape.fill is not None:
        shape = replace(shape, outline=inner_edges(shape.outline, canvas))
    painter.paint(shape, None, line, pen)
    inner = shape.width - 2 * pen / painter.scale
    if shape.stroke is not None and inner > pen / painter.scale:
        painter.paint(replace(shape, width=inner), None, ground, pen)


def _objects(drawing: Drawing, fitted: Fit, fine: int, pen: float):
    """Those that can be seen, in the order of their phrases."""
    from PIL import Image

    for number, phrase in enumerate(drawing.phrases):
        shapes = [s for s in drawing.shapes if s.object == number and s.visible]
        box = box_of([shape.outline for shape in shapes])
        widest = max(pen, *(shape.width * fitted.scale for shape in shapes))
        area = box and visible(box, fitted, widest)
        if not area:
            continue
        painter = Painter("L", 0, fitted, fine, area)
        for shape in shapes:
            _whole(painter, shape, 255, pen)
        mask = Image.new("L", (fitted.width, fitted.height), 0)
        mask.paste(painter.finished(), area[:2])
        # Pixels that it only grazes do not count, unless there are no others.
        seen = mask.point([255 * (level > 128) for level in range(256)]).getbbox()
        if (seen := seen or mask.getbbox()) is not None:
            yield SketchedObject(phrase, mask, seen)


def _whole(painter: Painter, shape: Shape, ink: int | RGB, pen: float) -> None:
    """All that belongs to the object: the inside of what is closed or filled, and the strokes."""
    open_part = tuple(path for path in shape.outline if not path.closed)
    closed_part = tuple(path for path in shape.outline if path.closed)
    if shape.fill is not None:
        painter.paint(shape, ink, None, pen)
    elif closed_part:
        painter.paint(replace(shape, outline=closed_part), ink, None, pen)
    if shape.stroke is not None:
        painter.paint(replace(shape, outline=(*closed_part, *open_part)), None, ink, pen)


def mask_tensor(mask: Image) -> torch.Tensor:
    """Grey (L) → ComfyUI's MASK: float32 [1, height, width] in 0..1."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(mask)).float()[None] / 255


def segment_colour(number: int) -> RGB:
    """Of object `number` (from 0) in the style "segments"."""
    hue = (number * _GOLDEN) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if number % 2 else 0.9, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
