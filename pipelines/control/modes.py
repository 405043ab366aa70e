"""What ControlNet-Unions can be told that a control picture shows."""

from __future__ import annotations

from ..guidance import ControlNet

SDXL_MODES = (
    "openpose",
    "depth",
    "hed/scribble",
    "canny/lineart",
    "normal",
    "segment",
    "tile",
    "repaint",
)
"""What ControlNet-Union for SDXL was taught, in the order of its task embedding; the last two in
its "promax" edition alone.
"""

FLUX_MODES = ("canny", "tile", "depth", "blur", "pose", "gray", "low quality")
"""What InstantX' union for FLUX.1 was taught, in the order of its mode embedding."""

WORDS = tuple(
    dict.fromkeys(
        word for mode in (*SDXL_MODES, *FLUX_MODES) for word in mode.split("/") if word != "pose"
    )
)
"""A word for each of them, as the node offers them."""

_ALIASES = {"openpose": "pose", "grey": "gray"}


def numbered(known: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Names for `count` modes: those that are known, then `"mode 8"` and so on, from 0."""
    return known[:count] + tuple(f"mode {number}" for number in range(len(known), count))


def mode_named(control: ControlNet, word: str) -> str:
    """A union's mode by one word of its name (`"canny"` for `"canny/lineart"`); `""` for a
    ControlNet without modes.

    Raises:
        ValueError: a union that has no such mode; lists those it has. `"auto"` is none: only its
            user knows what the picture shows.
    """
    if control.kind != "union":
        return ""
    for mode in control.modes:
        if _plain(word) in {_plain(each) for each in (mode, *mode.split("/"))}:
            return mode
    asked = "" if word == "auto" else f", and {word!r} is none of its modes"
    raise ValueError(
        f"the ControlNet-Union {control.name!r} must be told what its picture shows{asked}; set "
        f"mode to one of {', '.join(control.modes)}"
    )


def _plain(word: str) -> str:
    return _ALIASES.get(word, word)
