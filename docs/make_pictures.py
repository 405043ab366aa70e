"""The README's pictures and the workflows' thumbnails, out of what the example workflows drew.

likeness run example_workflows/quickstart.json --output output
likeness run example_workflows/image_to_image.json --output output
python docs/make_pictures.py output
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
SIDE, GAP, LABEL = 128, 8, 190


def newest(folder: Path, name: str) -> list[Image.Image]:
    """The pictures `name_00001_.png`, ... in `folder`.

    Raises:
        SystemExit: there are none.
    """
    files = sorted(folder.glob(f"{name}_*_.png"))
    if not files:
        raise SystemExit(f"{folder} holds no {name} pictures; run its workflow into it first")
    return [Image.open(file).convert("RGB") for file in files]


def rows(content: list[tuple[str, list[Image.Image]]], columns: int) -> Image.Image:
    """A labelled row for each entry, pixels enlarged without smoothing."""
    width = LABEL + columns * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, len(content) * (SIDE + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for row, (label, images) in enumerate(content):
        top = GAP + row * (SIDE + GAP)
        draw.multiline_text((GAP * 2, top + SIDE // 2), label, "#222", font, anchor="lm")
        for column, image in enumerate(images[:columns]):
            left = LABEL + GAP + column * (SIDE + GAP)
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
    return sheet


def main(output: Path) -> None:
    folder = output / "likeness" / "quickstart"
    subject = [Image.open(path) for path in sorted((ROOT / "assets/tiny/subject").glob("*.png"))]
    before, after = newest(folder, "before")[:4], newest(folder, "after")[:4]
    sheet = rows(
        [
            ("learned from\nthese five", subject),
            ("before\n(base model)", before),
            ("after\n(same seeds)", after),
        ],
        columns=5,
    )
    sheet.save(ROOT / "docs" / "before_after.png", optimize=True)
    loss = newest(folder, "loss")[0]
    loss.resize((560, 350), Image.Resampling.LANCZOS).save(
        ROOT / "docs" / "loss.png", optimize=True
    )
    thumbnail = rows([("before", before[:2]), ("after", after[:2])], columns=2)
    thumbnail.save(ROOT / "example_workflows" / "quickstart.jpg", quality=90)
    image_to_image(output / "likeness" / "image_to_image")


def image_to_image(folder: Path) -> None:
    labels = {"words": "from words", "picture": "from a picture", "mask": "inside a mask"}
    content = [(label, newest(folder, name)[:3]) for name, label in labels.items()]
    rows(content, columns=3).save(ROOT / "example_workflows" / "image_to_image.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "output"))
