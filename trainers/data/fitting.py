"""Which part of a picture is shown, and the picture and its mask cut to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ...families import PictureSize
from .buckets import Size

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CROPS = 4
"""How many ways there are to cut with `crop="random"`: few enough to encode each of them once."""
_GAP = 3.0  # a picture this many times too large is shrunk in two passes, which looks the same


@dataclass(frozen=True)
class View:
    """One way of showing a picture: scaled to `scaled` pixels, then cut to `target` from the
    corner `corner` (left, top) on, then perhaps mirrored.
    """

    original: Size
    scaled: Size
    corner: tuple[int, int]
    target: Size
    mirrored: bool = False

    @property
    def size(self) -> PictureSize:
        """As the model is told; of a mirrored picture the corner in the mirrored one."""
        left, top = self.corner
        if self.mirrored:
            left = self.scaled[0] - self.target[0] - left
        return PictureSize(self.original, (left, top), self.target)


@lru_cache(maxsize=4096)  # pictures of the same size share theirs
def views_of(
    picture: Size, target: Size, *, crop: str = "center", flip: bool = False
) -> tuple[View, ...]:
    """All the ways of showing a picture of that size at `target`: scaled until it covers it, and
    cut in the middle or (`crop="random"`) in `CROPS` places from one end to the other; each also
    mirrored with `flip`. The one in the middle, or the first, comes first.
    """
    factor = max(target[0] / picture[0], target[1] / picture[1])
    wide, high = (max(side, round(picture[i] * factor)) for i, side in enumerate(target))
    slack = (wide - target[0], high - target[1])
    if crop == "center":
        corners = [(slack[0] // 2, slack[1] // 2)]
    else:
        steps = [index / (CROPS - 1) for index in range(CROPS)]
        corners = [(round(slack[0] * step), round(slack[1] * step)) for step in steps]
    return tuple(
        View(picture, (wide, high), corner, target, mirrored)
        for corner in dict.fromkeys(corners)
        for mirrored in ((False, True) if flip else (False,))
    )


def shown(image: Image, view: View) -> Image:
    """The part of the picture that `view` shows, at its size."""
    from PIL import Image as Pillow

    return _cut(image, view, view.target, Pillow.Resampling.LANCZOS)


def shown_mask(mask: Image, view: View, latent_size: Size) -> Tensor:
    """The same part of its mask (L) → float32 [1, height, width] in 0..1 at `latent_size`: each
    number is the share of its pixels that count.
    """
    import numpy as np
    import torch
    from PIL import Image as Pillow

    cut = _cut(mask, view, latent_size, Pillow.Resampling.BOX)
    return torch.from_numpy(np.array(cut, dtype=np.float32))[None] / 255


def fit(image: Image, width: int, height: int) -> Image:
    """Scaled until it covers `width` x `height`, then cropped to it around the centre."""
    return shown(image, views_of(image.size, (width, height))[0])


def pixels(image: Image) -> Tensor:
    """RGB picture → float32 [3, height, width] in -1..1."""
    import numpy as np
    import torch

    array = np.array(image, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 127.5 - 1


def _cut(image: Image, view: View, size: Size, method) -> Image:
    """Scaling and cutting at once; `image` may have been read smaller than it is."""
    from PIL import ImageOps

    across, down = image.width / view.scaled[0], image.height / view.scaled[1]
    left, top = view.corner
    box = (
        left * across,
        top * down,
        min(image.width, (left + view.target[0]) * across),
        min(image.height, (top + view.target[1]) * down),
    )
    cut = image.resize(size, method, box=box, reducing_gap=_GAP)
    return ImageOps.mirror(cut) if view.mirrored else cut
