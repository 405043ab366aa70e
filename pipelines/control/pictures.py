"""Control pictures and masks brought to the size that is drawn, both in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..guidance import ControlUse
from ..source_pictures import fitted

if TYPE_CHECKING:
    from PIL.Image import Image


def fit_to(picture: Image, size: tuple[int, int], fit: str) -> Image:
    """The picture at `size` (width, height), as `guidance.FITS` says.

    One of that size already comes back as it is.
    """
    from PIL import Image, ImageOps

    if picture.size == size or fit == "crop":
        return fitted(picture, size)
    if fit == "resize":
        return picture.resize(size, Image.Resampling.LANCZOS)
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color=0)


def pictures_for(
    use: ControlUse, size: tuple[int, int], rows: int, count: int, *, each: bool = False
) -> list[Image]:
    """The control pictures of a drawing: one that serves all, or `count` of each for `rows` of
    them. `each`: one for every drawn picture in any case.

    Raises:
        ValueError: another number of control pictures than `rows`.
    """
    fitting = [fit_to(one.image().convert("RGB"), size, use.fit) for one in use.images]
    if len(fitting) == 1:
        return fitting * (rows * count if each else 1)
    if len(fitting) != rows:
        raise ValueError(
            f"{len(fitting)} control pictures for {use.control.name!r} and {rows} to draw from "
            "cannot be used together; give one for all of them, or one for each"
        )
    return [one for one in fitting for _ in range(count)]


def mask_for(use: ControlUse, size: tuple[int, int]) -> Image | None:
    """The mask of a drawing, fitted as the picture is; outside of a padded picture it is black."""
    return fit_to(use.mask.image(), size, use.fit) if use.mask else None


def check_mask(use: ControlUse) -> None:
    """Raises:
    ValueError: the mask has another size than a control picture.
    """
    if use.mask is None:
        return
    for picture in use.images:
        if picture.size != use.mask.size:
            (width, height), (own_width, own_height) = use.mask.size, picture.size
            raise ValueError(
                f"the mask for {use.control.name!r} has {width}x{height} pixels and its control "
                f"picture {own_width}x{own_height}; scale one to the size of the other"
            )
