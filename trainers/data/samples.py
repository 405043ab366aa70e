"""Samples out of folders of every kind, and out of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from ...pipelines.images import MIN_SIDE, open_alpha
from .captions import caption_for, words
from .encoded_samples import encoded_pictures
from .folders import Entry, entries_of, mask_beside
from .look import Look, Looks, at_once, look_at, look_of
from .packed import PackedPicture
from .sample import Content, Sample, check_size

if TYPE_CHECKING:
    from PIL.Image import Image

MASKS = ("none", "files", "alpha")
"""Where masks come from: nowhere; files beside the pictures; the pictures' own transparency."""
BROKEN = ("error", "skip")


@dataclass(frozen=True)
class FoundPictures:
    """`looks`: one for each of `samples`. `skipped`: why others were left out, a line for each."""

    samples: tuple[Sample, ...]
    looks: Sequence[Look]
    skipped: tuple[str, ...] = ()


def samples_from_folder(
    folder: str | Path, prompt: str = "", *, caption_files: bool = True
) -> tuple[Sample, ...]:
    """Every picture in `folder`; see `read_folder`."""
    return read_folder(folder, prompt, caption_files=caption_files).samples


def read_folder(
    folder: str | Path,
    prompt: str = "",
    *,
    trigger: str = "",
    caption_files: bool = True,
    masks: str = "none",
    repeats: int = 1,
    broken: str = "error",
) -> FoundPictures:
    """Every picture in `folder`, by name, in any of the layouts of `folders.folder_kind`.

    Its caption is what lies beside it (a caption file, a metadata file), else the name of its
    sub-folder, else `prompt`, which may also be a template (`captions.caption_for`).
    `caption_files`: False for `prompt` alone. `masks`: one of `MASKS`. `repeats`: of all, on top of
    those of `N_name` folders. `broken`: `"skip"` leaves out pictures that cannot be used, with a
    line in `skipped`.

    Raises:
        ValueError: no folder, no pictures, one that is unreadable, too small or too large, or
            one without a caption.
    """

    def looked(entry: Entry) -> tuple[Entry, Look | ValueError]:
        try:
            look = _look(entry)
            check_size(look.size, str(entry.picture))
        except ValueError as error:
            return entry, error
        return entry, look

    samples, looks, skipped = [], Looks(), []
    for entry, look in at_once(looked, entries_of(Path(folder))):
        if isinstance(look, ValueError):
            if broken != "skip":
                raise look
            skipped.append(str(look))
            continue
        own = (entry.caption or entry.words) if caption_files else ""
        caption = caption_for(prompt, own, words(entry.name), trigger)
        if not caption:
            raise ValueError(
                f"the picture {entry.picture} has no caption; write one into {entry.name}.txt "
                "beside it, or give a prompt for all pictures, such as 'a photo of sks dog'"
            )
        samples.append(_sample(entry, look, caption, masks, repeats))
        looks.append(look)
    if not samples:
        raise ValueError(f"no picture in {folder} can be used: {skipped[0]}")
    return FoundPictures(tuple(samples), looks, tuple(skipped))


def samples_from_images(
    images: Sequence[Image],
    captions: str | Sequence[str],
    masks: Sequence[Image] = (),
    *,
    trigger: str = "",
    repeats: int = 1,
) -> tuple[Sample, ...]:
    """Pictures in memory, with one caption for all or one for each, and with a mask each or none.

    Raises:
        ValueError: no pictures, another number of captions or masks, an empty caption, a picture
            too small or too large, or a mask of another shape.
    """
    if not images:
        raise ValueError("there are no pictures to learn from; give at least one")
    texts = [captions] * len(images) if isinstance(captions, str) else list(captions)
    if len(texts) != len(images):
        raise ValueError(
            f"there are {len(images)} pictures but {len(texts)} captions; "
            "give one caption for all, or one for each"
        )
    if masks and len(masks) != len(images):
        raise ValueError(
            f"there are {len(images)} pictures but {len(masks)} masks; give one for each"
        )
    samples = []
    for index, (image, text) in enumerate(zip(images, texts, strict=True), start=1):
        caption = caption_for(text, "", "", trigger)
        if not caption:
            raise ValueError(f"the caption of picture {index} is empty; describe what it shows")
        check_size(image.size, f"picture {index}")
        mask = masks[index - 1] if masks else None
        if mask is not None:
            _check_shape(mask, image, index)
        rgb = image.convert("RGB")
        sample = Sample(f"{index:04d}", caption, image=rgb, mask=mask, repeats=repeats)
        samples.append(sample)
    return tuple(samples)


def samples_from_encoded(
    latents: Sequence[Mapping[str, Any]], conditioning: Sequence[Any], *, repeats: int = 1
) -> tuple[Sample, ...]:
    """ComfyUI's lists of LATENT and CONDITIONING; see `encoded_samples`."""
    return tuple(
        Sample(f"{index:04d}", "", encoded=encoded, repeats=repeats)
        for index, encoded in enumerate(encoded_pictures(latents, conditioning), start=1)
    )


def _look(entry: Entry) -> Look:
    if isinstance(entry.picture, PackedPicture):
        return look_of(Sample("", "", packed=entry.picture).open())
    return look_at(entry.picture)


def _sample(entry: Entry, look: Look, caption: str, masks: str, repeats: int) -> Sample:
    packed = entry.picture if isinstance(entry.picture, PackedPicture) else None
    path = entry.picture if isinstance(entry.picture, Path) else None
    mask = None
    if masks == "files":
        mask = entry.mask or (mask_beside(path) if path is not None else None)
    if masks == "alpha" and path is not None and open_alpha(path) is not None:
        mask = path
    return Sample(
        entry.name,
        caption,
        file=path.name if path else None,
        folder=intern(str(path.parent)) if path else "",
        packed=packed,
        mask=mask,
        repeats=entry.repeats * repeats,
        # a file may change, and is looked at again
        content=None if path else Content(bytes.fromhex(look.digest), b"", look.size),
    )


def _check_shape(mask: Image, image: Image, index: int) -> None:
    """A mask may be smaller or larger than its picture, not of another shape, and not all black."""
    if not mask.getbbox():
        raise ValueError(
            f"the mask of picture {index} is black all over, so nothing could be learned from the "
            "picture; white is what counts: invert it, or leave masks unconnected"
        )
    across = mask.width * image.height - mask.height * image.width
    if abs(across) > max(image.size) * MIN_SIDE:
        raise ValueError(
            f"the mask of picture {index} is {mask.width}x{mask.height} pixels but the picture "
            f"{image.width}x{image.height}; give a mask of the picture's shape"
        )
