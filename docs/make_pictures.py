"""The README's pictures and the workflows' thumbnails, out of what the example workflows drew.

likeness run example_workflows/quickstart.json --output output
likeness run example_workflows/image_to_image.json --output output
python docs/make_pictures.py output

The pictures of a help page that needs no workflow are made by themselves:
python docs/make_pictures.py sketch
python docs/make_pictures.py preprocess
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
    sketch_styles()


def image_to_image(folder: Path) -> None:
    labels = {"words": "from words", "picture": "from a picture", "mask": "inside a mask"}
    content = [(label, newest(folder, name)[:3]) for name, label in labels.items()]
    rows(content, columns=3).save(ROOT / "example_workflows" / "image_to_image.jpg", quality=90)


def sketch_styles() -> None:
    """The Sketch node's own example in each style, and the mask of each object."""
    from likeness.nodes.sketch import EXAMPLE
    from likeness.pipelines.sketch.picture import STYLES, sketch

    side, line = 224, 22
    drawn = [sketch(EXAMPLE, side, side, style, line_width=2.5) for style in STYLES]
    masks = [(one.phrase, one.mask.convert("RGB")) for one in drawn[0].objects]
    styles = [(style, one.image) for style, one in zip(STYLES, drawn, strict=True)]
    sheet = Image.new("RGB", (4 * (side + GAP) + GAP, 2 * (side + line + GAP) + GAP), "#888")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for row, content in enumerate((styles, masks)):
        for column, (label, image) in enumerate(content):
            left, top = GAP + column * (side + GAP), GAP + row * (side + line + GAP)
            draw.text((left + 2, top), label, "white", font)
            sheet.paste(image, (left, top + line))
    folder = ROOT / "web" / "docs" / "LikenessSketch"
    folder.mkdir(exist_ok=True)
    sheet.save(folder / "sketch.jpg", quality=88, optimize=True)


def preprocessors() -> None:
    """Two photographs through every detector that needs no downloaded weights."""
    import skimage.data
    from likeness.pipelines.loading import Pipelines
    from likeness.pipelines.preprocess import DETECTORS, preprocess
    from likeness.pipelines.preprocess.compare import grid

    height = 320
    photographs = [
        Image.fromarray(skimage.data.astronaut()),
        Image.fromarray(skimage.data.coffee()),
    ]
    photographs = [one.resize((one.width * height // one.height, height)) for one in photographs]

    def beside(images: list[Image.Image]) -> Image.Image:
        both = Image.new("RGB", (sum(image.width for image in images), height))
        for index, image in enumerate(images):
            both.paste(image, (index * images[0].width, 0))
        return both

    cells = [("two photographs", beside(photographs))]
    for detector in DETECTORS:
        if detector.load is None and not detector.package:
            made = preprocess(Pipelines("cpu"), photographs, detector.name)
            cells.append((detector.title, beside(made)))
    folder = ROOT / "web" / "docs" / "LikenessPreprocess"
    folder.mkdir(exist_ok=True)
    grid(cells).save(folder / "compare.jpg", quality=52, optimize=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["sketch"]:
        sketch_styles()
        sys.exit()
    if sys.argv[1:] == ["preprocess"]:
        preprocessors()
        sys.exit()
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "output"))
