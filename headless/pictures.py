"""Reading and writing pictures as ComfyUI's own LoadImage and SaveImage do."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..host import host
from ..host.folders import safe_name
from ..pipelines.images import MAX_PIXELS

if TYPE_CHECKING:
    import torch
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def input_names() -> list[str]:
    """Pictures that lie directly in the input folder, sorted."""
    folder = host().input_directory()
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())


def input_path(name: str) -> Path:
    """The file behind a name; `name [output]` and `name [temp]` look in those folders.

    Raises:
        ValueError: the name leaves its folder or nothing is there.
    """
    folder = host().input_directory()
    places = {"output": host().output_directory, "temp": host().temp_directory}
    marked = re.fullmatch(r"(.*?) ?\[(input|output|temp)\]", name, re.DOTALL)
    if marked:
        name = marked[1]
        folder = places.get(marked[2], host().input_directory)()
    path = folder / safe_name(name)
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        there = path.is_file()
    except (OSError, ValueError):
        inside, there = True, False
    if not inside:
        raise ValueError(f"The name {name!r} is a link that leads out of {folder}.")
    if not there:
        raise ValueError(f"There is no picture {name!r} in {folder}. Put it there, or use --input.")
    return path


def load(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture and its mask.

    Returns:
        image [frames, height, width, 3] from 0 to 1, turned as the camera was held; mask
        [frames, height, width], 1 where the picture is transparent, or [frames, 64, 64] of zeros.

    Raises:
        ValueError: not a picture, damaged, or absurdly large.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps, ImageSequence

    images, masks = [], []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                _refuse_absurd(file, path)
                for frame in ImageSequence.Iterator(file):
                    picture = ImageOps.exif_transpose(frame)
                    pixels, alpha = _pixels(picture)
                    if images and pixels.shape != images[0].shape:
                        continue
                    images.append(pixels)
                    masks.append(np.zeros((64, 64), np.float32) if alpha is None else 1 - alpha)
    except (Image.DecompressionBombError, OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def _refuse_absurd(file: Image.Image, path: Path) -> None:
    frames = getattr(file, "n_frames", 1)
    if file.width * file.height * frames > MAX_PIXELS:
        times = f" x {frames} frames" if frames > 1 else ""
        raise ValueError(
            f"{path.name} has {file.width} x {file.height}{times} pixels; at most "
            f"{MAX_PIXELS // 1_000_000} million can be loaded. Make it smaller first."
        )


def _pixels(picture: Image.Image) -> tuple[Any, Any]:
    """Colours [height, width, 3] and opacity [height, width] or None, from 0 to 1."""
    import numpy as np

    if picture.mode.startswith("I"):  # 16 bits per pixel
        grey = np.asarray(picture, dtype=np.float32) / 65535
        return np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=2), None
    alpha = None
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32) / 255
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255, alpha


def save(
    images: torch.Tensor,
    folder: Path,
    prefix: str,
    metadata: Mapping[str, Any],
    *,
    compress_level: int,
) -> list[tuple[str, str]]:
    """Write a batch as `prefix_00001_.png` and so on, counting on from what is there.

    Args:
        images: [batch, height, width, channels], 0 to 1.
        prefix: may name a subfolder and hold `%year%`, `%width%`, `%batch_num%`, ...
        metadata: written into each picture as JSON; None values are left out.

    Returns:
        file name and subfolder of each picture.

    Raises:
        ValueError: the prefix leaves `folder`.
    """
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in metadata.items():
        if value is not None:
            info.add_text(key, json.dumps(value))
    height, width = images[0].shape[:2]
    place, stem = split_prefix(prefix, folder, width, height)
    place.mkdir(parents=True, exist_ok=True)
    subfolder = place.relative_to(folder).as_posix()
    subfolder = "" if subfolder == "." else subfolder
    number = _next_number(place, stem)
    saved = []
    for index, image in enumerate(images):
        pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
        name = f"{stem.replace('%batch_num%', str(index))}_{number + index:05}_.png"
        picture = Image.fromarray(pixels)
        unfinished = place / f".{name}.part"
        picture.save(unfinished, format="PNG", pnginfo=info, compress_level=compress_level)
        unfinished.replace(place / name)
        saved.append((name, subfolder))
    return saved


def split_prefix(prefix: str, folder: Path, width: int, height: int) -> tuple[Path, str]:
    """The folder and the beginning of the file name that a prefix stands for.

    Raises:
        ValueError: it leaves `folder`.
    """
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    values |= {"month": f"{now.tm_mon:02}", "day": f"{now.tm_mday:02}"}
    values |= {"hour": f"{now.tm_hour:02}", "minute": f"{now.tm_min:02}"}
    values |= {"second": f"{now.tm_sec:02}"}
    for key, value in values.items():
        prefix = prefix.replace(f"%{key}%", value)
    relative = safe_name(prefix)
    place = folder / relative.parent
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"The prefix {prefix!r} leads out of {folder} through a link.")
    return place, relative.name


def _next_number(place: Path, stem: str) -> int:
    """One more than the highest number of the files that begin with `stem`."""
    pattern = re.compile(re.escape(os.path.normcase(stem)) + r"_(\d+)")
    matches = (pattern.match(os.path.normcase(f.name)) for f in place.iterdir())
    return max((int(m[1]) for m in matches if m), default=0) + 1
