"""Pictures to start from and masks: brought to RGB and L, checked, and fitted to a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .images import MIN_SIDE, from_tensor, to_rgb

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def read_pictures(tensor: torch.Tensor | None) -> list[Image]:
    """ComfyUI's IMAGE [batch, height, width, 1, 3 or 4] in 0..1 → RGB pictures, transparency on
    white; none without a tensor.

    Raises:
        ValueError: an empty batch, another shape, or numbers that are not finite.
    """
    if tensor is None:
        return []
    _finite("picture", tensor)
    return from_tensor(tensor)


def read_masks(tensor: torch.Tensor | None) -> list[Image]:
    """ComfyUI's MASK [batch, height, width] or [height, width] in 0..1 → L pictures; 1 is white and
    says where to draw. None without a tensor.

    Raises:
        ValueError: an empty batch, another number of dimensions, or numbers that are not finite.
    """
    from PIL import Image

    if tensor is None:
        return []
    _finite("mask", tensor)
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3:
        raise ValueError(
            f"a MASK of shape {tuple(tensor.shape)} is not a mask; expected [batch, height, width]"
        )
    levels = (tensor.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return [Image.fromarray(level) for level in levels]


def as_sources(image: Image | Sequence[Image] | None) -> list[Image]:
    """One picture, several or none → RGB pictures.

    Raises:
        ValueError: a picture smaller than `MIN_SIDE` in one direction.
    """
    pictures = _listed(image)
    for picture in pictures:
        if min(picture.size) < MIN_SIDE:
            raise ValueError(
                f"a picture of {picture.width}x{picture.height} pixels is too small to start "
                f"from; use one of at least {MIN_SIDE}x{MIN_SIDE}"
            )
    return [to_rgb(picture) for picture in pictures]


def as_masks(mask: Image | Sequence[Image] | None, pictures: Sequence[Image]) -> list[Image]:
    """The mask of each picture, as L: white is where to draw, black what to keep.

    One mask serves all pictures.

    Raises:
        ValueError: a mask without a picture, of another size than its picture, or all black;
            another number of masks than pictures.
    """
    masks = [one.convert("L") for one in _listed(mask)]
    if not masks:
        return []
    if not pictures:
        raise ValueError("a mask without a picture cannot be used; connect the picture as well")
    if len(masks) not in (1, len(pictures)):
        raise ValueError(
            f"{len(masks)} masks for {len(pictures)} pictures cannot be used; give one mask for "
            "all of them, or one for each"
        )
    masks = masks * (len(pictures) // len(masks))
    for one, picture in zip(masks, pictures, strict=True):
        if one.getextrema()[1] == 0:
            raise ValueError(
                "the mask is black everywhere, which keeps the whole picture; paint white what is "
                "to be drawn anew, or leave the mask out"
            )
        if one.size != picture.size:
            raise ValueError(
                f"the mask has {one.width}x{one.height} pixels and its picture "
                f"{picture.width}x{picture.height}; scale one to the size of the other"
            )
    return masks


def fitted(picture: Image, size: tuple[int, int]) -> Image:
    """The picture scaled to cover `size` (width, height), what hangs over cut off evenly.

    One of that size already comes back as it is.
    """
    from PIL import Image, ImageOps

    if picture.size == size:
        return picture
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def _listed(image: Image | Sequence[Image] | None) -> list[Image]:
    if image is None:
        return []
    return list(image) if isinstance(image, Sequence) else [image]


def _finite(name: str, tensor: torch.Tensor) -> None:
    if not tensor.numel():
        raise ValueError(f"the {name} of shape {tuple(tensor.shape)} is empty; connect another")
    if not bool(tensor.isfinite().all()):
        raise ValueError(
            f"the {name} holds numbers that are not finite (NaN or infinite); look at the node "
            "that made it"
        )
