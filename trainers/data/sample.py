"""A picture and its caption, which never part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...pipelines.images import (
    MAX_PIXELS,
    MIN_SIDE,
    open_alpha,
    open_image,
    open_mask,
    picture_size,
)
from .look import look_at, look_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from .encoded_samples import EncodedPicture
    from .packed import PackedPicture


class Content(NamedTuple):
    """What is known of a picture without reading it again. `picture`, `mask`: the bytes of their
    digests, none without a mask. `size`: width and height in pixels, (0, 0) of one that was encoded
    already.
    """

    picture: bytes
    mask: bytes
    size: tuple[int, int]

    @staticmethod
    def of(facts: dict[str, Any]) -> Content:
        """The inverse of `facts`, also after a trip through JSON."""
        picture, mask = bytes.fromhex(facts["picture"]), bytes.fromhex(facts["mask"])
        return Content(picture, mask, _size(*facts["size"]))

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"picture": self.picture.hex(), "mask": self.mask.hex(), "size": self.size}


@lru_cache(maxsize=4096)
def _size(width: int, height: int) -> tuple[int, int]:
    """One tuple for all pictures of a size: there may be many thousand."""
    return width, height


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture to learn from, with its caption: a file, a picture in memory, one packed in a
    table of many, or one that was encoded already (then `caption` only tells what it shows).

    `name`: what to call it in messages and in the run folder, without suffix. `mask`: where the
    picture counts (white) and where not (black), a file or a picture in memory; the picture's own
    file: where that is opaque.
    `repeats`: how often it is looked at before every picture was looked at once.
    `weight`: what a class picture counts beside yours.
    `file`: below `folder`, if that is given. `content`: what is known already. There may be many
    thousand samples, so that nothing else is kept in them, and no `Path`, which is large.
    """

    name: str
    caption: str
    file: str | None = None
    image: Image | None = field(default=None, repr=False, compare=False)
    mask: Path | Image | None = field(default=None, repr=False, compare=False)
    repeats: int = 1
    weight: float = 1.0
    packed: PackedPicture | None = field(default=None, repr=False)
    encoded: EncodedPicture | None = field(default=None, repr=False, compare=False)
    content: Content | None = field(default=None, repr=False, compare=False)
    folder: str = ""

    @property
    def path(self) -> Path | None:
        """The picture's file."""
        if self.file is None:
            return None
        # One string: parts given to a `Path` are kept in a table for as long as they live.
        return Path(f"{self.folder}/{self.file}" if self.folder else self.file)

    def open(self, at_least: int = 0) -> Image:
        """The picture, RGB and upright. `at_least`: see `open_image`.

        Raises:
            ValueError: unreadable; names the file.
        """
        if self.image is not None:
            return self.image
        if self.packed is not None:
            return open_image(self.packed.stream(), name=str(self.packed), at_least=at_least)
        assert self.path is not None, "a sample has a picture, or is encoded"
        return open_image(self.path, at_least=at_least)

    def open_mask(self) -> Image | None:
        """The mask, grey (L) and upright, None without one.

        Raises:
            ValueError: unreadable; names the file.
        """
        if self.mask is None:
            return None
        if not isinstance(self.mask, Path):
            return self.mask.convert("L")
        return open_alpha(self.mask) if self.mask == self.path else open_mask(self.mask)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture in pixels, without reading all of a file."""
        if self.content is not None:
            return self.content.size
        if self.image is not None:
            return self.image.size
        if self.packed is not None:
            return picture_size(self.packed.stream(), name=str(self.packed))
        assert self.path is not None, "an encoded sample has no size of its own"
        return picture_size(self.path)

    @property
    def picture_digest(self) -> str:
        """SHA-256 of size and pixels: the same picture in another file format is the same."""
        if self.content is not None:
            return self.content.picture.hex()
        if self.encoded is not None:
            return self.encoded.digest
        return look_at(self.path).digest if self.path else look_of(self.open()).digest

    @property
    def mask_digest(self) -> str:
        """SHA-256 of the mask, "" without one."""
        if self.content is not None:
            return self.content.mask.hex()
        mask = self.open_mask()
        if mask is None:
            return ""
        head = f"{mask.width}x{mask.height}\0".encode()
        return hashlib.sha256(head + mask.tobytes()).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 of all that is learned from it: picture, caption, mask and repeats."""
        facts = [self.picture_digest, self.caption, self.mask_digest, self.repeats]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def known(self) -> Content:
        """What `content` can hold."""
        size = (0, 0) if self.encoded is not None else self.size
        picture, mask = bytes.fromhex(self.picture_digest), bytes.fromhex(self.mask_digest)
        return Content(picture, mask, size)

    @property
    def lookup(self) -> str:
        """The name of its conditioning: its caption, unless that was encoded already."""
        return self.caption if self.encoded is None else f"encoded {self.picture_digest}"


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a picture that cannot teach anything, or that would fill the memory.

    Raises:
        ValueError: a side below `MIN_SIDE` or more than `MAX_PIXELS` in all.
    """
    width, height = size
    if min(size) < MIN_SIDE:
        raise ValueError(
            f"{name} is {width}x{height} pixels; give a picture of at least {MIN_SIDE}x{MIN_SIDE}"
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} is {width}x{height} pixels; at most {MAX_PIXELS // 10**6} "
            "megapixels are read: scale it down first"
        )
