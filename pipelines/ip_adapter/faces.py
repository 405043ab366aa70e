"""Faces for FaceID adapters: who is in a picture, by insightface where it is installed, and the
LoRA that these adapters bring along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write, sha256_of
from ..guidance import IPAdapter, Picture
from ..spec import Lora
from .files import LAYERS, open_adapter

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline

MODEL = "buffalo_l"
"""The face model that FaceID adapters were trained with."""
CROP = 224
"""Side in pixels of what FaceID Plus shows CLIP of a face."""

_LORA = "_lora."
_LAYERS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}


@dataclass(frozen=True, eq=False)
class Face:
    """`embedding`: [512], of length 1. `crop`: the face upright, `CROP` pixels wide."""

    embedding: torch.Tensor
    crop: Picture


def face_model_homes(comfyui: Path | None) -> tuple[Path, ...]:
    """Where insightface's models may be: its own folder, and that of ComfyUI's users."""
    homes = [Path("~/.insightface").expanduser()]
    return (*homes, comfyui / "models" / "insightface") if comfyui else tuple(homes)


def find_faces(pictures: Sequence[Picture], homes: tuple[Path, ...]) -> list[Face]:
    """The largest face of each picture. `homes`: folders in whose `models` the face model may be.

    Raises:
        ValueError: insightface or its model is not there, or a picture shows no face.
    """
    import numpy as np
    import torch
    from PIL import Image

    finder, align = _finder(homes)
    found = []
    for number, picture in enumerate(pictures, start=1):
        blue_first = np.asarray(picture.image().convert("RGB"))[:, :, ::-1]
        faces = finder.get(blue_first)
        if not faces:
            raise ValueError(
                f"reference picture {number} of {len(pictures)} shows no face that insightface "
                "finds; use a larger or more frontal one"
            )
        face = max(faces, key=lambda face: np.prod(face.bbox[2:] - face.bbox[:2]))
        crop = align.norm_crop(blue_first, landmark=face.kps, image_size=CROP)
        picture = Picture.of(Image.fromarray(np.ascontiguousarray(crop[:, :, ::-1])))
        found.append(Face(torch.from_numpy(face.normed_embedding).float(), picture))
    return found


@cache
def _finder(homes: tuple[Path, ...]) -> tuple[Any, Any]:
    try:
        from insightface.app import FaceAnalysis  # type: ignore[import-not-found]
        from insightface.utils import face_align  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(
            "a FaceID adapter looks at faces through the package insightface, which is not "
            f"installed ({error}); pip install insightface onnxruntime, or connect saved face "
            "embeddings"
        ) from error
    home = face_model(homes)  # a folder without it would make insightface download it
    finder = FaceAnalysis(name=MODEL, root=str(home))
    finder.prepare(ctx_id=0, det_size=(640, 640))
    return finder, face_align


def face_model(homes: tuple[Path, ...]) -> Path:
    """The first of `homes` that has the face model.

    Raises:
        ValueError: none has; says where to put it.
    """
    for home in homes:
        if (home / "models" / MODEL).is_dir():
            return home
    places = " or ".join(str(home / "models") for home in homes)
    raise ValueError(
        f"insightface has no model {MODEL!r} in {places}; unpack its {MODEL}.zip there, or connect "
        "saved face embeddings"
    )


def face_lora(live: LivePipeline, adapter: IPAdapter) -> Lora | None:
    """The LoRA inside of a FaceID file as one that `pipelines.lora` reads; None if it has none.

    The file numbers the denoiser's attention layers, which LoRA files name: it is written anew with
    names, into a folder that goes when the program ends.
    """
    from safetensors.torch import save_file

    file = open_adapter(adapter.path)
    if not any(_LORA in name for name in file.shapes(LAYERS)):
        return None
    names = [name.removesuffix(".processor") for name in _denoiser(live).attn_processors]
    path = Path(_folder().name) / f"{adapter.sha256}-{len(names)}.safetensors"
    if not path.is_file():
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in file.tensors(LAYERS).items():
            if _LORA not in name:
                continue
            number, layer, role, _ = name.split(".")  # 0.to_q_lora.down.weight
            if int(number) >= len(names):
                raise ValueError(
                    f"the LoRA in {adapter.path} does not fit: it changes attention layer "
                    f"{number} where this {live.family.title} model has {len(names)}"
                )
            ours = f"{names[int(number)]}.{_LAYERS[layer.removesuffix('_lora')]}"
            place = f"{live.family.denoiser.attribute}.{ours}.lora.{role}.weight"
            tensors[place] = tensor.contiguous()
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)
    return Lora(str(path), sha256_of(path), f"{adapter.name} (FaceID)")


def _denoiser(live: LivePipeline) -> Any:
    return live.component(live.family.denoiser.attribute)


@cache
def _folder() -> Any:
    import tempfile

    return tempfile.TemporaryDirectory(prefix="likeness-faceid-")
