"""What travels on the wires: frozen descriptions of a pipeline, never live weights.

ComfyUI caches every node's output and hands the same object to every consumer, so a node that
changed what it was given would corrupt the cache. A node here returns a new description; weights
come to life for the length of one
`with` in `loading.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BaseModel:
    """Which base model: a diffusers folder, the family it belongs to and the precision of its
    weights.

    `dtype`: one of `DTYPES`; `"auto"` is bfloat16 on a GPU that has it, else float16 on a GPU,
    float32 on the CPU.
    """

    path: str
    family: str
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Lora:
    """A LoRA file. `sha256` ties the description to its bytes: a replaced file is another LoRA."""

    path: str
    sha256: str
    name: str
    trigger: str = ""
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def metadata_dict(self) -> dict[str, str]:
        return dict(self.metadata)


@dataclass(frozen=True)
class LoraUse:
    """A LoRA fused at `scale` (denoiser) and `text_scale` (text side): 0 nothing, 1 as trained."""

    lora: Lora
    scale: float = 1.0
    text_scale: float = 1.0


@dataclass(frozen=True)
class PipelineSpec:
    """A base model and everything put on it, in the order in which the nodes were chained."""

    base: BaseModel
    loras: tuple[LoraUse, ...] = field(default=())

    def with_lora(self, use: LoraUse) -> PipelineSpec:
        return replace(self, loras=(*self.loras, use))

    def without_lora(self, name: str | None = None) -> PipelineSpec:
        """Without the LoRAs called `name`, or without any when `name` is None.

        Raises:
            ValueError: no fused LoRA has that name; lists those that are there.
        """
        if name is None:
            return replace(self, loras=())
        kept = tuple(use for use in self.loras if use.lora.name != name)
        if len(kept) == len(self.loras):
            names = ", ".join(repr(use.lora.name) for use in self.loras) or "none"
            raise ValueError(f"no LoRA named {name!r} is fused here; fused: {names}")
        return replace(self, loras=kept)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> PipelineSpec:
        """The inverse of `to_dict`, also after a trip through JSON."""
        loras = tuple(
            LoraUse(
                lora=Lora(
                    **{
                        **use["lora"],
                        "metadata": tuple((key, value) for key, value in use["lora"]["metadata"]),
                    }
                ),
                scale=use["scale"],
                text_scale=use["text_scale"],
            )
            for use in data.get("loras", ())
        )
        return PipelineSpec(BaseModel(**data["base"]), loras)


def base_model(folder: str | Path, family: str = "auto", dtype: str = "auto") -> BaseModel:
    """Describe the diffusers folder at `folder`; with `family="auto"` its `model_index.json`
    decides.

    Raises:
        ValueError: the folder or its `model_index.json` is missing or broken, or no known
            family fits.
    """
    from ..families import FAMILIES, family_named

    folder = Path(folder)
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise ValueError(
            f"{folder} is not a diffusers model: it has no model_index.json; "
            "choose the folder that holds unet, vae, text_encoder and model_index.json"
        )
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{index_file} cannot be read ({error}); copy the model again") from error
    if family != "auto":
        return BaseModel(str(folder.resolve()), family_named(family).name, dtype)
    for candidate in FAMILIES:
        if isinstance(index, dict) and candidate.recognises(index):
            return BaseModel(str(folder.resolve()), candidate.name, dtype)
    known = ", ".join(candidate.name for candidate in FAMILIES)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    raise ValueError(
        f"{folder} holds a {kind or 'model of an unknown kind'}, which Likeness does not know; "
        f"families it knows: {known}"
    )
