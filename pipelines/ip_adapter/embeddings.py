"""Image embeddings in files: ours, diffusers' lists and IPAdapter_plus' tensors (`.ipadpt`).

Ours is a safetensors file with `rows`, `nothing` and, of FaceID Plus, `clip.rows` and
`clip.nothing`, as `encode.Encoded` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write, sha256_of
from ..guidance import ImageEmbeddings, IPAdapter, Picture
from ..tensor_file import PICKLED, SAFETENSORS, open_tensors, unpickle
from .encode import Encoded, encode_pictures
from .files import Traits

if TYPE_CHECKING:
    import torch

    from ..loading import Pipelines

SUFFIXES = (*SAFETENSORS, *PICKLED, ".ipadpt")


def save_embeddings(path: str | Path, encoded: Encoded, adapter: IPAdapter) -> ImageEmbeddings:
    """Write what was said of pictures; an older file of that name is replaced."""
    from safetensors.torch import save_file

    parts = {"rows": encoded.rows, "nothing": encoded.nothing}
    if encoded.clip is not None:
        parts |= {"clip.rows": encoded.clip.rows, "clip.nothing": encoded.clip.nothing}
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in parts.items()
        if tensor is not None
    }
    told = {"format": "likeness image embeddings", "kind": adapter.kind, "family": adapter.family}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {**told, "image_encoder": adapter.encoder_identity})
    return describe_embeddings(path)


def save_encoded(
    pipelines: Pipelines, adapter: IPAdapter, pictures: Sequence[Picture], path: str | Path
) -> ImageEmbeddings:
    """Look at `pictures` with the adapter's encoder, in the precision that the device prefers.

    Raises:
        ValueError: as `encode_pictures`.
    """
    from ..loading import resolve_dtype

    dtype = resolve_dtype("auto", pipelines.device)
    return save_embeddings(path, encode_pictures(pipelines, adapter, pictures, dtype), adapter)


def describe_embeddings(path: str | Path, name: str | None = None) -> ImageEmbeddings:
    """Describe a file of embeddings. Whether they fit an adapter is seen when they are used.

    Raises:
        ValueError: missing, damaged, or no embeddings.
    """
    path = Path(path).absolute()
    _tensors(path)
    return ImageEmbeddings(str(path), sha256_of(path), name or path.stem)


def read_embeddings(
    embeddings: ImageEmbeddings, adapter: IPAdapter, traits: Traits, dtype: torch.dtype, device: str
) -> Encoded:
    """The embeddings as the adapter is told of them.

    A tensor of another program is [pictures, ...] or [2, pictures, ...], the first half said of no
    picture; `...` is what the adapter reads of one.

    Raises:
        ValueError: the file changed, or holds what this adapter does not read.
    """
    path = Path(embeddings.path)
    if not path.is_file() or sha256_of(path) != embeddings.sha256:
        raise ValueError(f"the embeddings {path} are gone or changed; load them again")
    found = _tensors(path)
    wanted = traits.wanted
    if traits.face_width:
        width, dimensions = traits.face_width, 1
    else:
        assert wanted is not None
        width, dimensions = wanted.width, 1 if wanted.layer == "projected" else 2
    encoded = _halves(found["rows"], found.get("nothing"), dimensions, width, path, adapter)
    if adapter.kind.startswith("faceid-plus"):
        if "clip.rows" not in found or wanted is None:
            raise ValueError(
                f"{path} holds no more than faces, and {adapter.name!r} (FaceID Plus) wants what "
                "CLIP says of them as well; save embeddings with this adapter"
            )
        clip = _halves(
            found["clip.rows"], found.get("clip.nothing"), 2, wanted.width, path, adapter
        )
        encoded = Encoded(encoded.rows, encoded.nothing, clip)
    return encoded.to(device, dtype)


def _halves(
    rows: torch.Tensor,
    nothing: torch.Tensor | None,
    dimensions: int,
    width: int,
    path: Path,
    adapter: IPAdapter,
) -> Encoded:
    shape = tuple(rows.shape)
    if dimensions == 1 and rows.ndim == 4 and shape[2] == 1:  # diffusers' guide for FaceID
        rows = rows[:, :, 0]
    extra = rows.ndim - dimensions
    if extra == 2 and len(rows) in (1, 2):
        nothing, rows = (rows[0], rows[1]) if len(rows) == 2 else (None, rows[0])
        extra = 1
    if extra == 0:
        rows, extra = rows[None], 1
    if extra != 1 or rows.shape[-1] != width or not len(rows):
        per = f"{width} numbers" if dimensions == 1 else f"rows of {width} numbers"
        raise ValueError(
            f"{path} holds embeddings of shape {list(shape)}, and {adapter.name!r} "
            f"({adapter.kind}) reads {per} for each picture; use embeddings saved for it"
        )
    return Encoded(rows, nothing)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no file of embeddings; Likeness reads {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"the embeddings {path} are not there; choose them again")
    if path.suffix.lower() in SAFETENSORS:
        file = open_tensors(path)
        found: Any = {name: file.tensor(name) for name in file.shapes()}
    else:
        found = unpickle(path)
    return _checked(path, found)


def _checked(path: Path, found: Any) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if isinstance(found, torch.Tensor):
        found = {"rows": found}
    elif isinstance(found, dict) and len(found) == 1:
        found = {"rows": next(iter(found.values()))}
    if not isinstance(found, dict) or not isinstance(found.get("rows"), torch.Tensor):
        many = f"embeddings for {len(found)} adapters" if isinstance(found, list) else "others"
        raise ValueError(
            f"{path} holds no embeddings for one adapter ({many}); save those of each adapter in "
            "a file of their own"
        )
    tensors = {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} holds NaN or infinity in {name!r}; save the embeddings again")
    return tensors
