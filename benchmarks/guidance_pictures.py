"""Pictures beside one another, for the help pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, HEAD = 112, 4, 26
LARGEST = 120_000  # bytes


def save_grid(
    path: Path, titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], blocks: int = 1
) -> None:
    """One line of pictures for each row, a title above each column; `blocks` of rows side by side.

    Raises:
        ValueError: the file became larger than a help page should load.
    """
    each = -(-len(rows) // blocks)
    columns = len(titles)
    width = blocks * columns * (CELL + GAP) + (blocks - 1) * 4 * GAP + GAP
    grid = Image.new("RGB", (width, HEAD + each * (CELL + GAP)), "white")
    drawing, font = ImageDraw.Draw(grid), ImageFont.load_default(14)
    for block in range(blocks):
        left = GAP + block * (columns * (CELL + GAP) + 4 * GAP)
        for column, title in enumerate(titles):
            middle = left + column * (CELL + GAP) + CELL // 2
            drawing.text((middle, HEAD // 2), title, fill=(20, 20, 20), font=font, anchor="mm")
        for line, row in enumerate(rows[block * each : (block + 1) * each]):
            for column, picture in enumerate(row):
                shown = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
                grid.paste(shown, (left + column * (CELL + GAP), HEAD + line * (CELL + GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path, quality=80)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {LARGEST} are wanted")
