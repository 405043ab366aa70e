"""Image encoders: folders and single files, told apart and matched by the shapes of their tensors.

Single files are those that ComfyUI keeps in `models/clip_vision`, with transformers' names, whole
CLIP models included. What shapes do not tell (heads, activation) is what the published encoder of
that width has, unless a `config.json` lies beside the file.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..files import sha256_of
from ..modules import build_from
from ..sources import read_json, weight_files
from ..tensor_file import PICKLED, SAFETENSORS, open_tensors
from .files import Wanted

if TYPE_CHECKING:
    import torch

    from ...families.family import TensorFile

CLASSES = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
_PROCESSORS = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}
_HEADS = {768: 12, 1024: 16, 1152: 16, 1280: 16, 1664: 16}
"""Width of the published encoders → heads."""
_OPENAI = (768, 1024)
"""Widths of OpenAI's encoders, whose activation is `quick_gelu`; OpenCLIP's is `gelu`."""
_TITLES: Mapping[tuple[str, str, int], str] = {
    ("clip", "projected", 768): "CLIP ViT-L/14",
    ("clip", "projected", 1024): "CLIP ViT-H/14",
    ("clip", "projected", 1280): "CLIP ViT-bigG/14",
    ("clip", "hidden", 1024): "CLIP ViT-L/14",
    ("clip", "hidden", 1280): "CLIP ViT-H/14",
    ("clip", "hidden", 1664): "CLIP ViT-bigG/14",
    ("siglip", "hidden", 1152): "SigLIP SO400M/14",
}
_WRAPPERS = re.compile(r"^(?:(?:vision_model|image_encoder|clip_vision|model)\.)+")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Encoder:
    """An image encoder on disk. `hidden`: width of its states; `projected`: of what it says of a
    whole picture, 0 if it has no projection. `image_size`: side in pixels of what it looks at.
    `names`: bare name of a tensor (without `vision_model.`) → (file, key).
    """

    path: Path
    architecture: str
    hidden: int
    projected: int
    image_size: int
    config: Mapping[str, Any]
    names: Mapping[str, tuple[TensorFile, str]]

    def fits(self, wanted: Wanted) -> bool:
        width = self.projected if wanted.layer == "projected" else self.hidden
        return (self.architecture, width) == (wanted.architecture, wanted.width)

    def __str__(self) -> str:
        projected = f"projected to {self.projected}" if self.projected else "no projection"
        return f"{self.path} ({self.architecture}, {self.hidden} wide, {projected})"


def title_of(wanted: Wanted) -> str:
    """`"a CLIP image encoder with hidden states 1280 wide (CLIP ViT-H/14)"`."""
    known = _TITLES.get((wanted.architecture, wanted.layer, wanted.width), "")
    name = {"clip": "CLIP", "siglip": "SigLIP"}[wanted.architecture]
    layer = {"projected": "embeddings", "hidden": "hidden states"}[wanted.layer]
    text = f"a {name} image encoder with {layer} {wanted.width} wide"
    return f"{text} ({known})" if known else text


def find_encoder(wanted: Wanted, folders: Sequence[Path], whose: object) -> Encoder:
    """The first encoder in `folders` that fits. A folder may be an encoder itself.

    Raises:
        ValueError: none fits; names the width wanted, where it was looked, and what was there.
    """
    seen: list[str] = []
    for path in candidates(folders):
        try:
            encoder = read_encoder(path)
        except ValueError as error:
            seen.append(f"{path} (cannot be used: {error})")
            continue
        if encoder.fits(wanted):
            return encoder
        seen.append(str(encoder))
    where = ", ".join(dict.fromkeys(map(str, folders))) or "no folder at all"
    raise ValueError(
        f"{whose} needs {title_of(wanted)} and none is there. Looked in {where}; found: "
        f"{'; '.join(seen) or 'nothing'}. Put one into models/clip_vision, or choose it yourself"
    )


def candidates(folders: Iterable[Path], depth: int = 4) -> Iterator[Path]:
    """Folders with a `config.json` and files of tensors, in the order of their names. `depth`: how
    far down it is looked; links may go in circles.
    """
    for place in dict.fromkeys(Path(each).absolute() for each in folders):
        if place.is_file():
            if place.suffix.lower() in (*SAFETENSORS, *PICKLED):
                yield place
        elif (place / "config.json").is_file():
            yield place
        elif place.is_dir() and depth:
            inside = sorted(each for each in place.iterdir() if not each.name.startswith("."))
            yield from candidates(inside, depth - 1)


def read_encoder(path: str | Path) -> Encoder:
    """Read an encoder's description; its weights are not read yet.

    Raises:
        ValueError: missing, damaged, or no image encoder.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise ValueError(f"the image encoder {path} is not there; choose it again")
    files = weight_files(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no model.safetensors; copy the image encoder again")
    names = {}
    for file in map(open_tensors, files):
        for key in file.shapes():
            if not key.startswith(("text_model.", "text_encoder.")):
                names[_WRAPPERS.sub("", key)] = (file, key)
    shapes = {name: file.shapes()[key] for name, (file, key) in names.items()}
    if "embeddings.patch_embedding.weight" not in shapes:
        raise ValueError(
            f"{path} holds no image encoder with the names that transformers gives them; use one "
            "such as model.safetensors of laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
        )
    told = _told(shapes, path)
    config = {**_config_beside(path, told["hidden_size"]), **told}
    if "num_attention_heads" not in config:
        heads = _HEADS.get(told["hidden_size"])
        if heads is None:
            raise ValueError(
                f"{path} is {told['hidden_size']} wide, as no published image encoder is, and does "
                "not tell its number of heads; keep its config.json beside it"
            )
        config |= {"num_attention_heads": heads}
        if told["model_type"] == "clip_vision_model":
            plain = told["hidden_size"] not in _OPENAI
            config["hidden_act"] = "gelu" if plain else "quick_gelu"
    architecture = "siglip" if told["model_type"].startswith("siglip") else "clip"
    projected = shapes.get("visual_projection.weight", (0,))[0]
    size = told["image_size"]
    return Encoder(path, architecture, told["hidden_size"], projected, size, config, names)


def _told(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """The entries of a configuration that shapes tell."""
    try:
        width, _, _, patch = shapes["embeddings.patch_embedding.weight"]
        positions = shapes["embeddings.position_embedding.weight"][0]
        inner = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as missing:
        raise ValueError(f"{path} is no whole image encoder: {missing} is missing") from missing
    is_clip = "embeddings.class_embedding" in shapes
    layers = {match[1] for name in shapes if (match := _LAYER.match(name))}
    told: dict[str, Any] = {
        "model_type": "clip_vision_model" if is_clip else "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "patch_size": patch,
        "image_size": math.isqrt(positions - is_clip) * patch,
    }
    if "visual_projection.weight" in shapes:
        told["projection_dim"] = shapes["visual_projection.weight"][0]
    if not is_clip and not any(name.startswith("head.") for name in shapes):
        told["vision_use_head"] = False
    return told


def _config_beside(path: Path, width: int) -> dict[str, Any]:
    """The configuration of the image side in `config.json`, if it speaks of this encoder."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    config = read_json(file)
    config = config.get("vision_config") or config
    # Entries that equal the library's defaults may be left out.
    found = {"hidden_size": 768, "num_attention_heads": 12, **config}
    return found if found["hidden_size"] == width else {}


def preprocessing(encoder: Encoder) -> Any:
    """What makes pictures into pixels for the encoder: as `preprocessor_config.json` says, else as
    CLIP's and SigLIP's own, at the encoder's size.
    """
    import transformers

    kind = getattr(transformers, _PROCESSORS[encoder.architecture])
    file, size = _processor_file(encoder), encoder.image_size
    if file is not None:
        return kind.from_dict(read_json(file))
    if encoder.architecture == "clip":
        return kind(size=size, crop_size=size)
    return kind(size={"height": size, "width": size})


def _processor_file(encoder: Encoder) -> Path | None:
    folder = encoder.path if encoder.path.is_dir() else encoder.path.parent
    for place in (folder, folder.parent / "feature_extractor"):
        file = place / "preprocessor_config.json"
        if file.is_file() and encoder.image_size in _sizes(read_json(file)):
            return file
    return None


def _sizes(config: Mapping[str, Any]) -> set[int]:
    """The sizes that come out of a preprocessing."""
    size = config.get("crop_size") if config.get("do_center_crop", True) else None
    size = config.get("size", 224) if size is None else size
    return set(size.values()) if isinstance(size, dict) else {size}


def identity_of(encoder: Encoder) -> str:
    """SHA-256 over everything that decides what the encoder says of a picture."""
    digest = hashlib.sha256()
    for file in sorted({str(cast(Any, file).path) for file, _ in encoder.names.values()}):
        digest.update(f"{sha256_of(file)}\n".encode())
    digest.update(repr(sorted(encoder.config.items(), key=lambda entry: entry[0])).encode())
    processor = _processor_file(encoder)
    digest.update((sha256_of(processor) if processor else "").encode())
    return digest.hexdigest()


def load_encoder(encoder: Encoder, dtype: torch.dtype) -> torch.nn.Module:
    """The encoder on the CPU, in eval mode and frozen.

    Raises:
        ValueError: its tensors do not fit each other.
    """
    kind = CLASSES[encoder.architecture]
    config = {name: value for name, value in encoder.config.items() if name != "dtype"}
    tensors = {}
    for name in _expected(kind, config):
        if (place := encoder.names.get(_WRAPPERS.sub("", name))) is not None:
            file, key = place
            tensors[name] = file.tensor(key)
    return build_from(("transformers", kind), config, tensors, str(encoder.path), dtype)


def _expected(kind: str, config: Mapping[str, Any]) -> list[str]:
    """The names of the module's tensors; whether `vision_model.` is among them depends on the
    version of transformers.
    """
    import torch
    import transformers

    cls = getattr(transformers, kind)
    with torch.device("meta"):
        return list(cls(cls.config_class.from_dict(dict(config))).state_dict())
