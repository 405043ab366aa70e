"""Control pictures without a network: tile, blur, grey, threshold, invert, colours, shuffle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import Detector, DetectorSettings, NoSettings, seed_setting


@dataclass(frozen=True)
class TileSettings(DetectorSettings):
    factor: float = setting(
        4.0, help="How many times smaller it is made, and enlarged again.", low=1.0, high=64.0
    )


@dataclass(frozen=True)
class BlurSettings(DetectorSettings):
    radius: float = setting(
        8.0,
        help="How far each pixel is spread (standard deviation), in pixels.",
        low=0.1,
        high=200.0,
        step=0.1,
    )


@dataclass(frozen=True)
class ThresholdSettings(DetectorSettings):
    level: int = setting(
        0,
        help="What is at least this bright becomes white, the rest black. 0: found by Otsu's "
        "method.",
        low=0,
        high=255,
    )


@dataclass(frozen=True)
class PaletteSettings(DetectorSettings):
    cell: int = setting(64, help="Side of each square of one colour, in pixels.", low=1, high=1024)


@dataclass(frozen=True)
class ShuffleSettings(DetectorSettings):
    size: int = setting(
        256, help="How far waves are apart, in pixels: lower is wilder.", low=8, high=2048
    )
    seed: int = seed_setting("another one shuffles otherwise")


def _tile(live: Any, picture: Any, settings: TileSettings) -> Any:
    import cv2

    height, width = picture.shape[:2]
    size = max(1, round(width / settings.factor)), max(1, round(height / settings.factor))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _blur(live: Any, picture: Any, settings: BlurSettings) -> Any:
    import cv2

    return cv2.GaussianBlur(picture, (0, 0), settings.radius)


def _grey(live: Any, picture: Any, settings: NoSettings) -> Any:
    import cv2

    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _threshold(live: Any, picture: Any, settings: ThresholdSettings) -> Any:
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    kind = cv2.THRESH_BINARY | (0 if settings.level else cv2.THRESH_OTSU)
    return cv2.threshold(grey, settings.level - 1, 255, kind)[1]


def _invert(live: Any, picture: Any, settings: NoSettings) -> Any:
    return 255 - picture


def _palette(live: Any, picture: Any, settings: PaletteSettings) -> Any:
    """The mean colour of each square; those at the right and lower edge may be cut off."""
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    cell = settings.cell
    rest = (0, -height % cell), (0, -width % cell), (0, 0)
    whole = np.pad(picture, rest, mode="edge")
    count = whole.shape[1] // cell, whole.shape[0] // cell
    means = cv2.resize(whole, count, interpolation=cv2.INTER_AREA)
    return means.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _shuffle(live: Any, picture: Any, settings: ShuffleSettings) -> Any:
    """As `ContentShuffleDetector` does it, at any size."""
    import cv2
    import numpy as np

    disk = aux.part("util").make_noise_disk
    height, width = picture.shape[:2]
    far = [
        np.nan_to_num(disk(height, width, 1, settings.size)) * float(side - 1)
        for side in (width, height)
    ]
    x, y = (each[:, :, 0].astype(np.float32) for each in far)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR)


TILE = Detector(
    name="tile",
    title="Tile",
    purpose="the picture without details, for tile ControlNets",
    settings=TileSettings,
    detect=_tile,
)
BLUR = Detector(
    name="blur",
    title="Blur",
    purpose="for blur ControlNets",
    settings=BlurSettings,
    detect=_blur,
)
GREY = Detector(
    name="grey",
    title="Grey",
    purpose="for ControlNets that colour or relight",
    settings=NoSettings,
    detect=_grey,
)
THRESHOLD = Detector(
    name="threshold",
    title="Threshold",
    purpose="black and white",
    settings=ThresholdSettings,
    detect=_threshold,
)
INVERT = Detector(
    name="invert",
    title="Invert",
    purpose="black lines on white made white lines on black",
    settings=NoSettings,
    detect=_invert,
)
PALETTE = Detector(
    name="palette",
    title="Colour palette",
    purpose="squares of one colour, for colour adapters",
    settings=PaletteSettings,
    detect=_palette,
    flat=True,
)
SHUFFLE = Detector(
    name="shuffle",
    title="Content shuffle",
    purpose="colours and textures without shapes",
    settings=ShuffleSettings,
    detect=_shuffle,
)
