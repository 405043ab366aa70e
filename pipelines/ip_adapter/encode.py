"""What an image encoder says of pictures, remembered for the next drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..guidance import IPAdapter, Picture
from .encoders import Encoder, identity_of, load_encoder, preprocessing, read_encoder
from .faces import face_model_homes, find_faces

if TYPE_CHECKING:
    import torch

    from ..loading import Pipelines

_BLACK = Picture("RGB", (8, 8), bytes(3 * 64))


@dataclass(frozen=True, eq=False)
class Encoded:
    """What was said of n pictures.

    `rows`: [n, width] or, hidden states, [n, patches, width]. `nothing`: the same of no picture,
    for the other half of classifier-free guidance; None where a file does not say. `clip`: what
    CLIP says of the faces, for FaceID Plus, whose `rows` are face embeddings.
    """

    rows: torch.Tensor
    nothing: torch.Tensor | None
    clip: Encoded | None = None

    def averaged(self) -> Encoded:
        """Of all pictures as if they were one."""
        nothing = self.nothing[:1] if self.nothing is not None else None
        clip = self.clip.averaged() if self.clip else None
        return Encoded(self.rows.mean(dim=0, keepdim=True), nothing, clip)

    def away_from(self, other: Encoded) -> Encoded:
        """With `other` in the place of nothing: picture by picture where there are as many, else
        its average for each.
        """
        clip = self.clip.away_from(other.clip) if self.clip and other.clip else self.clip
        rows = other.rows
        if len(rows) != len(self.rows):
            rows = rows.mean(dim=0, keepdim=True).expand(len(self.rows), *rows.shape[1:])
        return Encoded(self.rows, rows, clip)

    def to(self, device: str, dtype: torch.dtype) -> Encoded:
        nothing = self.nothing.to(device, dtype) if self.nothing is not None else None
        clip = self.clip.to(device, dtype) if self.clip else None
        return Encoded(self.rows.to(device, dtype), nothing, clip)


def encode_pictures(
    pipelines: Pipelines, adapter: IPAdapter, pictures: Sequence[Picture], dtype: torch.dtype
) -> Encoded:
    """What the adapter is told of `pictures`, on the device of `pipelines`.

    All go through the encoder in one batch, as diffusers sends them. It is loaded only for
    pictures that it has not seen lately.

    Raises:
        ValueError: the encoder is gone or changed, a picture shows no face where one is wanted, or
            insightface is not installed.
    """
    if not adapter.kind.startswith("faceid"):
        return _seen(pipelines, adapter, pictures, dtype)
    import torch

    key = ("faces", *(picture.sha256 for picture in pictures))
    homes = face_model_homes(pipelines.comfyui_folder)
    faces = pipelines.remembered.get(key, lambda: find_faces(pictures, homes))
    rows = torch.stack([face.embedding for face in faces]).to(pipelines.device, dtype)
    clip = None
    if adapter.kind.startswith("faceid-plus"):
        clip = _seen(pipelines, adapter, [face.crop for face in faces], dtype)
    return Encoded(rows, torch.zeros_like(rows), clip)


def nothing_to_see(pipelines: Pipelines, adapter: IPAdapter, like: Encoded) -> Encoded:
    """`like` with what the encoder says of no picture, where its file does not."""
    clip = nothing_to_see(pipelines, adapter, like.clip) if like.clip else None
    nothing = like.nothing
    if nothing is None and like.rows.ndim == 3 and adapter.encoder and adapter.family != "sd3":
        said = _seen(pipelines, adapter, [_BLACK], like.rows.dtype).nothing
        nothing = said.expand(*like.rows.shape) if said is not None else None
    return replace(like, nothing=like.rows * 0 if nothing is None else nothing, clip=clip)


def is_projected(adapter: IPAdapter) -> bool:
    """Whether the adapter reads one row for each picture, not one for each patch."""
    return adapter.kind == "base"


def _seen(
    pipelines: Pipelines, adapter: IPAdapter, pictures: Sequence[Picture], dtype: torch.dtype
) -> Encoded:
    layer = (is_projected(adapter), adapter.family == "sd3")
    shown = tuple(picture.sha256 for picture in pictures)
    key = ("seen", shown, adapter.encoder_identity, str(dtype), pipelines.device, layer)
    return pipelines.remembered.get(key, lambda: _look(pipelines, adapter, pictures, dtype))


def _look(
    pipelines: Pipelines, adapter: IPAdapter, pictures: Sequence[Picture], dtype: torch.dtype
) -> Encoded:
    import torch

    encoder = _encoder_of(adapter)
    images = [picture.image().convert("RGB") for picture in pictures]
    pixels = preprocessing(encoder)(images, return_tensors="pt").pixel_values
    key = ("image encoder", str(encoder.path), adapter.encoder_identity, str(dtype))
    with (
        pipelines.open_helper(key, lambda: load_encoder(encoder, dtype)) as module,
        torch.no_grad(),
    ):
        pixels = pixels.to(pipelines.device, dtype)
        if is_projected(adapter):
            rows = module(pixels).image_embeds
            return Encoded(rows, torch.zeros_like(rows))
        rows = _hidden(module, pixels)
        if adapter.family == "sd3":
            return Encoded(rows, torch.zeros_like(rows))
        return Encoded(rows, _hidden(module, torch.zeros_like(pixels)))


def _hidden(module: Any, pixels: torch.Tensor) -> torch.Tensor:
    return module(pixels, output_hidden_states=True).hidden_states[-2]


def _encoder_of(adapter: IPAdapter) -> Encoder:
    if not adapter.encoder:
        raise ValueError(
            f"the IP-Adapter {adapter.name!r} was loaded without an image encoder, for saved "
            "embeddings alone; connect those, or choose an encoder where it is loaded"
        )
    if not Path(adapter.encoder).exists():
        raise ValueError(f"the image encoder {adapter.encoder} is gone; load the IP-Adapter again")
    encoder = read_encoder(adapter.encoder)
    if identity_of(encoder) != adapter.encoder_identity:
        raise ValueError(
            f"the image encoder {adapter.encoder} changed since the IP-Adapter was loaded; queue "
            "again"
        )
    return encoder
