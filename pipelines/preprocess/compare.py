"""Several detectors on one picture, side by side with their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .detector import Places
from .detectors import DETECTORS, detector_named
from .preprocess import preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..loading import Pipelines

ALL = "all"
LONGEST, SHORTEST = 512, 256
"""Of the longer side of each picture in the grid, in pixels: larger ones are made smaller, smaller
ones are enlarged without smoothing.
"""
GAP, LABEL, TEXT = 8, 30, 19
"""Between pictures, height of a label, size of its letters, in pixels."""


def names_in(text: str) -> tuple[str, ...]:
    """The detectors named in a text: separated by commas, or `all`.

    Raises:
        ValueError: there is no such detector.
    """
    if text.strip().lower() == ALL:
        return tuple(detector.name for detector in DETECTORS)
    named = [detector_named(part.strip()).name for part in text.split(",") if part.strip()]
    return tuple(dict.fromkeys(named))


def compare(
    pipelines: Pipelines,
    picture: Image,
    names: Sequence[str],
    *,
    resolution: int = 0,
    places: Places | None = None,
    known: Mapping[str, Image] | None = None,
    on_picture: Callable[[int, int], None] | None = None,
) -> Image:
    """The picture and what each detector makes of it, with their names, as one RGB picture.

    Detectors have their defaults. One that cannot work here (a package or weights are missing) has
    its one line of explanation instead. `known`: pictures that were made already, by detector.
    `on_picture`: told after each detector how many are done of how many.

    Raises:
        ValueError: there is no detector of that name.
    """
    known = known or {}
    cells: list[tuple[str, Image | str]] = [("picture", picture)]
    for index, name in enumerate(names):
        shown = known.get(name) or _made(pipelines, picture, name, resolution, places)
        cells.append((detector_named(name).title, shown))
        if on_picture is not None:
            on_picture(index + 1, len(names))
    return grid(cells)


def _made(
    pipelines: Pipelines, picture: Image, name: str, resolution: int, places: Places | None
) -> Image | str:
    detector_named(name)
    try:
        return preprocess(pipelines, [picture], name, resolution=resolution, places=places)[0]
    except ValueError as error:
        return str(error)


def grid(cells: Sequence[tuple[str, Image | str]]) -> Image:
    """Labelled pictures of one shape (the first one's) in rows; a text stands where a picture is
    not.
    """
    from PIL import Image, ImageDraw, ImageFont

    first = cells[0][1]
    assert not isinstance(first, str)
    width, height = _cell(first.size)
    columns = min(len(cells), max(2, math.ceil(math.sqrt(len(cells) * height / width))))
    rows = math.ceil(len(cells) / columns)
    size = columns * (width + GAP) + GAP, rows * (height + LABEL + GAP) + GAP
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=TEXT)
    for index, (label, shown) in enumerate(cells):
        left = GAP + index % columns * (width + GAP)
        top = GAP + index // columns * (height + LABEL + GAP)
        draw.text((left + width // 2, top + LABEL // 2), label, "#222", font, anchor="mm")
        if isinstance(shown, str):
            shown = _explained(shown, (width, height))
        fitted = _fitted(shown, (width, height))
        sheet.paste(fitted, (left + (width - fitted.width) // 2, top + LABEL))
    return sheet


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    """Large enough to read in, and not larger than it has to be."""
    factor = min(LONGEST, max(SHORTEST, *size)) / max(size)
    width, height = (round(side * factor) for side in size)
    return max(width, SHORTEST * 3 // 4), max(height, SHORTEST // 2)


def _fitted(picture: Image, size: tuple[int, int]) -> Image:
    from PIL import Image

    factor = min(size[0] / picture.width, size[1] / picture.height)
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    fitted = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture if fitted == picture.size else picture.resize(fitted, how)


def _explained(text: str, size: tuple[int, int]) -> Image:
    """A text, broken to the width, in as large letters as it fits with."""
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", size, "#eee")
    draw = ImageDraw.Draw(sheet)
    for letters in (TEXT, 16, 14, 12, 10, 8):
        font = ImageFont.load_default(size=letters)
        lines = _broken(text, lambda line, font=font: draw.textlength(line, font), size[0] - 16)
        if len(lines) * (letters + 4) <= size[1] - 16:
            break
    draw.multiline_text((8, 8), "\n".join(lines), "#555", font, spacing=4)
    return sheet


def _broken(text: str, length: Callable[[str], float], width: int) -> list[str]:
    """Lines of at most that length: broken at spaces, and within words that are longer."""
    lines = [""]
    for word in text.split():
        line = f"{lines[-1]} {word}".strip()
        if length(line) <= width:
            lines[-1] = line
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if length(lines[-1] + letter) > width and lines[-1]:
                lines.append("")
            lines[-1] += letter
    return lines
