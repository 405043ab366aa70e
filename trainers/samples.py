"""A picture and its caption, which never part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..pipelines.images import MAX_PIXELS, MIN_SIDE, image_files, open_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One picture to learn from: a file, or a picture in memory, with its caption.

    `name`: what to call it in messages and in the run folder, without suffix.
    """

    name: str
    caption: str
    path: Path | None = None
    image: Image | None = field(default=None, repr=False, compare=False)

    def open(self) -> Image:
        """The picture, RGB and upright.

        Raises:
            ValueError: unreadable; names the file.
        """
        if self.image is not None:
            return self.image
        assert self.path is not None, "a sample has a path or an image"
        return open_image(self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of size, pixels and caption: the same picture in another file format is the same
        sample.
        """
        image = self.open()
        digest = hashlib.sha256(f"{image.width}x{image.height}\0{self.caption}\0".encode())
        digest.update(image.tobytes())
        return digest.hexdigest()


def samples_from_folder(
    folder: str | Path, prompt: str = "", *, caption_files: bool = True
) -> tuple[Sample, ...]:
    """Every picture in `folder`, by name. The caption is in the .txt file beside the picture, else
    it is `prompt`.

    Raises:
        ValueError: no folder, no pictures, one that is unreadable, too small or too large, or
            one without a caption.
    """
    samples = []
    for path in image_files(folder):
        text = path.with_suffix(".txt")
        caption = prompt
        if caption_files and text.is_file():
            caption = _read_caption(text)
        if not caption.strip():
            raise ValueError(
                f"the picture {path} has no caption; write one into {text.name} beside it, "
                "or give a prompt for all pictures, such as 'a photo of sks dog'"
            )
        check_size(open_image(path), str(path))
        samples.append(Sample(path.stem, caption.strip(), path=path))
    return tuple(samples)


def samples_from_images(
    images: Sequence[Image], captions: str | Sequence[str]
) -> tuple[Sample, ...]:
    """Pictures in memory, with one caption for all or one for each.

    Raises:
        ValueError: no pictures, another number of captions, an empty caption, or a picture too
            small or too large.
    """
    if not images:
        raise ValueError("there are no pictures to learn from; give at least one")
    texts = [captions] * len(images) if isinstance(captions, str) else list(captions)
    if len(texts) != len(images):
        raise ValueError(
            f"there are {len(images)} pictures but {len(texts)} captions; "
            "give one caption for all, or one for each"
        )
    samples = []
    for index, (image, caption) in enumerate(zip(images, texts, strict=True), start=1):
        if not caption.strip():
            raise ValueError(f"the caption of picture {index} is empty; describe what it shows")
        check_size(image, f"picture {index}")
        rgb = image.convert("RGB")
        samples.append(Sample(f"{index:04d}", caption.strip(), image=rgb))
    return tuple(samples)


def check_size(image: Image, name: str) -> None:
    """Refuse a picture that cannot teach anything, or that would fill the memory.

    Raises:
        ValueError: a side below `MIN_SIDE` or more than `MAX_PIXELS` in all.
    """
    if min(image.size) < MIN_SIDE:
        raise ValueError(
            f"{name} is {image.width}x{image.height} pixels; "
            f"give a picture of at least {MIN_SIDE}x{MIN_SIDE}"
        )
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{name} is {image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} "
            "megapixels are read: scale it down first"
        )


def fit(image: Image, width: int, height: int) -> Image:
    """Scaled until it covers `width` x `height`, then cropped to it around the centre."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    return ImageOps.fit(image, (width, height), method=Pillow.Resampling.LANCZOS)


def pixels(image: Image) -> Tensor:
    """RGB picture → float32 [3, height, width] in -1..1."""
    import numpy as np
    import torch

    array = np.array(image, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 127.5 - 1


def _read_caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the caption {path} cannot be read ({error}); save it as UTF-8"
        ) from error
