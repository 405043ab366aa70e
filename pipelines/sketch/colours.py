"""Colours by xcolor's names and mixtures: `red`, `red!50`, `red!50!black`."""

from __future__ import annotations

from collections.abc import Mapping

RGB = tuple[int, int, int]

BASE: dict[str, RGB] = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (191, 128, 64),
    "cyan": (0, 255, 255),
    "darkgray": (64, 64, 64),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "lightgray": (191, 191, 191),
    "lime": (191, 255, 0),
    "magenta": (255, 0, 255),
    "olive": (128, 128, 0),
    "orange": (255, 128, 0),
    "pink": (255, 191, 191),
    "purple": (191, 0, 64),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "violet": (128, 0, 128),
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
}
"""xcolor's base colours. The names of CSS (ForestGreen, skyblue, ...) are known beside them."""

_MODELS = "known are rgb, RGB, HTML and gray"


def colour(text: str, named: Mapping[str, RGB]) -> RGB:
    """The colour that a name or a mixture means.

    `named`: those that the program itself has defined.

    Raises:
        ValueError: a name or a share that is not known.
    """
    first, *rest = (part.strip() for part in text.split("!"))
    mixed = _single(first, named)
    for index in range(0, len(rest), 2):
        share = _share(rest[index], text)
        other = _single(rest[index + 1], named) if index + 1 < len(rest) else (255, 255, 255)
        mixed = tuple(a * share + b * (1 - share) for a, b in zip(mixed, other, strict=True))
    red, green, blue = (min(255, max(0, round(value))) for value in mixed)
    return red, green, blue


def _single(name: str, named: Mapping[str, RGB]) -> tuple[float, ...]:
    if name in named:
        return named[name]
    if name in BASE:
        return BASE[name]
    if ":" in name:
        return _written_out(name)
    if name.isascii() and name.isalpha():
        from PIL import ImageColor

        if (known := ImageColor.colormap.get(name.lower())) is not None:
            return ImageColor.getrgb(known)[:3]
    raise ValueError(
        f"the colour {name[:40]!r} is not known; known are {', '.join(BASE)}, CSS's names, "
        "mixtures such as red!50!black and what \\definecolor defines"
    )


def _written_out(text: str) -> tuple[float, ...]:
    """`rgb,255:red,200;green,100;blue,0`."""
    model, _, values = text.partition(":")
    name, _, whole = model.partition(",")
    pairs = (pair.partition(",") for pair in values.replace(" ", "").split(";"))
    found = {name: value for name, _, value in pairs}
    if name.strip() != "rgb" or not set(found) <= {"red", "green", "blue"}:
        raise ValueError(f"the colour {text[:40]!r} is not known; write {{rgb,255:red,200;...}}")
    scale = 255 / max(1.0, _number(whole or "1", text))
    return tuple(_number(found.get(c, "0"), text) * scale for c in ("red", "green", "blue"))


def defined(model: str, values: str) -> RGB:
    """What `\\definecolor{name}{model}{values}` means.

    Raises:
        ValueError: another model, or no numbers.
    """
    values = values.replace(" ", "")
    if model == "HTML":
        try:
            bits = int(values, 16) if len(values) == 6 and values.isalnum() else -1
        except ValueError:
            bits = -1
        if bits < 0:
            raise ValueError(f"the colour {values[:40]!r} is not HTML; write six digits 0 to F")
        return bits >> 16, bits >> 8 & 255, bits & 255
    if model not in ("rgb", "RGB", "gray"):
        raise ValueError(f"the colour model {model[:20]!r} is not known; {_MODELS}")
    parts = [_number(part, values) for part in values.split(",")]
    parts = parts * 3 if model == "gray" else parts
    if len(parts) != 3:
        raise ValueError(f"the colour {values[:40]!r} has {len(parts)} parts; {model} has 3")
    factor = 1 if model == "RGB" else 255
    red, green, blue = (min(255, max(0, round(part * factor))) for part in parts)
    return red, green, blue


def _share(text: str, whole: str) -> float:
    value = _number(text, whole)
    if not 0 <= value <= 100:
        raise ValueError(f"the share {text[:20]} in the colour {whole[:40]!r} is not 0 to 100")
    return value / 100


def _number(text: str, whole: str) -> float:
    try:
        value = float(text[:60])
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1000:
        raise ValueError(f"{text[:20]!r} in the colour {whole[:40]!r} is no share or level")
    return value
