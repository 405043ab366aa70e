"""Pictures in and out: files of every common kind to RGB, and ComfyUI's IMAGE tensors to and from
Pillow.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
"""Of a picture, all frames together; as float32 numbers that is 1.2 GB."""

_TOO_LARGE = f"at most {MAX_PIXELS // 10**6} megapixels are read: scale it down first"
MIN_SIDE = 8
"""Shortest side in pixels that can teach anything: one latent cell of Stable Diffusion."""


def image_files(folder: str | Path) -> list[Path]:
    """The picture files directly in `folder`, by name.

    Raises:
        ValueError: the folder is missing or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"the image folder {folder} does not exist")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise ValueError(
            f"the image folder {folder} holds no pictures; put some in it, "
            f"as {', '.join(IMAGE_SUFFIXES)}"
        )
    return files


def open_image(path: str | Path) -> Image:
    """The picture at `path` as RGB, upright (EXIF), transparency on white.

    Raises:
        ValueError: the file is unreadable, truncated, or larger than `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ValueError(f"{path} is {width}x{height} pixels; {_TOO_LARGE}")
                image.load()
                return to_rgb(image)
    except Image.DecompressionBombError as error:  # Pillow looks at the size before we can
        raise ValueError(f"{path}: {error}; {_TOO_LARGE}") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(
            f"the picture {path} cannot be read ({error}); replace or remove it"
        ) from error


def to_rgb(image: Image) -> Image:
    """Any Pillow mode → RGB: upright, 16-bit scaled to 8, transparency laid on white."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip instead of scale
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode == "F":  # scientific data without a range of its own
        low, high = cast("tuple[float, float]", image.getextrema())
        factor = 255 / (high - low) if high > low else 0.0
        image = image.point(lambda value: value * factor + -low * factor).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(white, image)
    return image.convert("RGB")


def to_tensor(images: Sequence[Image]) -> torch.Tensor:
    """RGB pictures of one size → ComfyUI's IMAGE: float32 [batch, height, width, 3] in 0..1."""
    import numpy as np
    import torch

    pixels = np.stack([np.asarray(to_rgb(image), dtype=np.uint8) for image in images])
    return torch.from_numpy(pixels).float() / 255


def from_tensor(tensor: torch.Tensor) -> list[Image]:
    """ComfyUI's IMAGE [batch, height, width, 1, 3 or 4] in 0..1 → RGB pictures; rounds to the
    nearest of 256 levels.

    Raises:
        ValueError: another number of dimensions or channels.
    """
    from PIL import Image

    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or tensor.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"an IMAGE of shape {tuple(tensor.shape)} is not a picture; "
            "expected [batch, height, width, 3]"
        )
    pixels = (tensor.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, axis=-1)
    return [to_rgb(Image.fromarray(picture)) for picture in pixels]
