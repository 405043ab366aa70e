"""What steers a pipeline beside its prompt, described: ControlNets and IP-Adapters with their
pictures. Frozen like everything else on a wire; `control/` and `ip_adapter/` bring it to life.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .images import MIN_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

CONTROL_KINDS = ("controlnet", "union", "t2i-adapter")
FITS = ("crop", "resize", "pad")
"""How a control picture comes to the size that is drawn: scaled to cover it and cut evenly,
stretched, or scaled to lie inside it with black around.
"""
COMBINE = ("concatenate", "average")


@dataclass(frozen=True)
class Picture:
    """A picture that travels in a description: equal when its pixels are.

    `mode`: `"RGB"`, or `"L"` for a mask. `size`: width and height in pixels. `pixels`: 8 bit each,
    row by row, as Pillow's `tobytes` gives them.
    """

    mode: str
    size: tuple[int, int]
    pixels: bytes = field(repr=False)

    @staticmethod
    def of(image: Image) -> Picture:
        return Picture(image.mode, image.size, image.tobytes())

    def image(self) -> Image:
        """A copy as Pillow's image."""
        from PIL import Image

        return Image.frombytes(self.mode, self.size, self.pixels)

    @cached_property
    def sha256(self) -> str:
        head = f"{self.mode} {self.size[0]}x{self.size[1]}\0".encode()
        return hashlib.sha256(head + self.pixels).hexdigest()


def described(images: Iterable[Image], purpose: str) -> tuple[Picture, ...]:
    """Pictures as they travel.

    Raises:
        ValueError: one is smaller than `MIN_SIDE` in one direction.
    """
    found = tuple(Picture.of(image) for image in images)
    for picture in found:
        if min(picture.size) < MIN_SIDE:
            width, height = picture.size
            raise ValueError(
                f"a picture of {width}x{height} pixels is too small {purpose}; use one of at "
                f"least {MIN_SIDE}x{MIN_SIDE}"
            )
    return found


@dataclass(frozen=True)
class ControlNet:
    """A ControlNet, ControlNet-Union or T2I-Adapter.

    `path`: a diffusers folder or a single file. `family`: of the base models that it fits.
    `kind`: one of `CONTROL_KINDS`. `identity`: SHA-256 over its contents. `modes`: of a union, the
    names of what it can be told that the picture shows, in its order.
    """

    path: str
    family: str
    kind: str
    identity: str
    name: str
    modes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.kind in CONTROL_KINDS, "kind", self.kind, _one_of(CONTROL_KINDS))


@dataclass(frozen=True)
class ControlUse:
    """A ControlNet put on.

    `images`: the control pictures, one for all that is drawn or one for each source picture.
    `strength`: 0 nothing, 1 as trained. `start`, `end`: shares of the steps, 0 to 1, between which
    it acts. `fit`: one of `FITS`. `mode`: of a union, one of its `modes`. `guess`: guess mode: it
    acts on the prompted half of classifier-free guidance alone, weaker in the outer blocks.
    `mask`: where it acts (white), fitted as the picture is; none: everywhere. `blocks`: a factor on
    `strength` for each of its outputs, outermost first and the middle last; empty: 1 everywhere.
    """

    control: ControlNet
    images: tuple[Picture, ...]
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    fit: str = "crop"
    mode: str = ""
    guess: bool = False
    mask: Picture | None = None
    blocks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.images), "control picture", "none", "connect one")
        _require(0 <= self.strength <= 10, "strength", self.strength, "use 0 to 10")
        _require(self.fit in FITS, "fit", self.fit, _one_of(FITS))
        _span(self.start, self.end)
        if self.control.kind == "union":
            known = self.control.modes
            _require(self.mode in known, "mode", self.mode, _one_of(known))


@dataclass(frozen=True)
class ImageEmbeddings:
    """What an image encoder said about pictures, saved in a file."""

    path: str
    sha256: str
    name: str


@dataclass(frozen=True)
class IPAdapter:
    """An IP-Adapter file and the image encoder that fits it.

    `family`: of the base models that it fits. `kind`: `"base"`, `"plus"`, `"full-face"`,
    `"faceid"`, ... as its tensors tell. `encoder`: folder or file of the image encoder; empty where
    the adapter reads face embeddings. `encoder_identity`: SHA-256 over its contents.
    """

    path: str
    family: str
    kind: str
    sha256: str
    name: str
    encoder: str = ""
    encoder_identity: str = ""


@dataclass(frozen=True)
class ReferenceUse:
    """An IP-Adapter put on, with the pictures that it looks at.

    `weight`: 0 nothing, 1 as trained. `start`, `end`: shares of the steps, 0 to 1, between which it
    acts. `blocks`: block of the denoiser (`families.Family.block_of`) → factor on `weight`, or ()
    for all alike. `combine`: one of `COMBINE`, of several pictures. `negatives`: what to stay away
    from, on the other half of classifier-free guidance. `embeddings`: instead of `images`.
    `mask`: where in the drawn picture it acts (white), stretched to its size.
    """

    adapter: IPAdapter
    images: tuple[Picture, ...] = ()
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    blocks: tuple[tuple[str, float], ...] = ()
    combine: str = "concatenate"
    negatives: tuple[Picture, ...] = ()
    embeddings: ImageEmbeddings | None = None
    mask: Picture | None = None

    def __post_init__(self) -> None:
        given = bool(self.images) != (self.embeddings is not None)
        _require(given, "reference picture", len(self.images), "connect pictures or embeddings")
        _require(-10 <= self.weight <= 10, "weight", self.weight, "use -10 to 10")
        _require(self.combine in COMBINE, "combine", self.combine, _one_of(COMBINE))
        _span(self.start, self.end)


def in_order(uses: Sequence[Any]) -> list[Any]:
    """Uses in an order of their own, so that it does not matter in which order nodes are chained:
    sums of rounded numbers depend on it.
    """
    return sorted(uses, key=_sort_key)


def _sort_key(use: Any) -> str:
    parts = []
    for name, value in vars(use).items():
        pictures = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, Picture) for one in pictures):
            value = [one.sha256 for one in pictures]
        parts.append(f"{name}={value!r}")
    return ";".join(parts)


def _span(start: float, end: float) -> None:
    for name, value in (("start", start), ("end", end)):
        _require(0 <= value <= 1, name, value, "use 0 (the first step) to 1 (the last)")
    if start >= end:
        raise ValueError(
            f"start {start:g} is not before end {end:g}; make start smaller, or leave the node out"
        )


def _require(condition: bool, name: str, value: object, way_out: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        condition = False
    if not condition:
        raise ValueError(f"{name} {value!r} cannot be used; {way_out}")


def _one_of(known: Sequence[str]) -> str:
    return f"use one of {', '.join(known)}"
