"""What travels on the wires: frozen descriptions of a pipeline, never live weights.

ComfyUI caches every node's output and hands the same object to every consumer, so a node that
changed what it was given would corrupt the cache. A node here returns a new description; weights
come to life for the length of one
`with` in `loading.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .guidance import ControlUse, ReferenceUse

DTYPES = ("auto", "float32", "bfloat16", "float16")
PREDICTIONS = ("auto", "epsilon", "v_prediction", "v_prediction_zero_snr")
OFFLOADS = ("none", "model", "group")
LORA_MODES = ("fuse", "attach")


@dataclass(frozen=True)
class MemoryOptions:
    """What is paid to make a model fit.

    `offload`: one of `OFFLOADS`. `"model"` keeps one component at a time on the device, `"group"`
    one group of layers. `fp8`: weights rest in float8 and are cast for each layer. `vae_tiling`,
    `vae_slicing`: decode in tiles, or picture by picture. `attention`: `"auto"` or the name of a
    diffusers attention backend. `compile`: the denoiser's repeated blocks through torch.compile.
    """

    offload: str = "none"
    fp8: bool = False
    vae_tiling: bool = False
    vae_slicing: bool = False
    attention: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        _choose("offload", self.offload, OFFLOADS)


@dataclass(frozen=True)
class BaseModel:
    """Which base model, and how it lives in memory.

    `path`: a diffusers folder, a single file with everything in it, or the denoiser's file.
    `parts`: pipeline component (`"vae"`, `"text_encoder_2"`) → file or folder that supplies it or
    takes the place of the one in `path`, sorted by component.
    `dtype`: one of `DTYPES`; `"auto"` is bfloat16 on a GPU that has it, else float16 on a GPU,
    float32 on the CPU.
    `prediction`: one of `PREDICTIONS`; for single files, whose tensors may not tell.
    `scheduler`: the sampler used where none is asked for; `"model"` is the one saved with it.
    `config`: a diffusers folder whose configurations and tokenizers describe a single file of
    unusual shape; empty: those that come with Likeness.
    """

    path: str
    family: str
    dtype: str = "auto"
    parts: tuple[tuple[str, str], ...] = ()
    prediction: str = "auto"
    scheduler: str = "model"
    config: str = ""
    memory: MemoryOptions = field(default_factory=MemoryOptions)

    def __post_init__(self) -> None:
        _choose("dtype", self.dtype, DTYPES)
        _choose("prediction", self.prediction, PREDICTIONS)


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
    """A LoRA put on at `scale` (denoiser) and `text_scale` (text side): 0 nothing, 1 as trained.

    `mode`: `"fuse"` adds it to the weights (fastest sampling), `"attach"` computes it beside them
    (no copy of any weight). `blocks`: block of the denoiser → factor on `scale`, as
    `lora.blocks.parse_blocks` reads them.
    """

    lora: Lora
    scale: float = 1.0
    text_scale: float = 1.0
    mode: str = "fuse"
    blocks: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        _choose("mode", self.mode, LORA_MODES)


@dataclass(frozen=True)
class PipelineSpec:
    """A base model and everything put on it, in the order in which the nodes were chained.

    `controls`, `references`: what steers a drawing; training knows nothing of it (`unguided`).
    """

    base: BaseModel
    loras: tuple[LoraUse, ...] = field(default=())
    controls: tuple[ControlUse, ...] = field(default=())
    references: tuple[ReferenceUse, ...] = field(default=())

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

    def with_control(self, use: ControlUse) -> PipelineSpec:
        return replace(self, controls=(*self.controls, use))

    def with_reference(self, use: ReferenceUse) -> PipelineSpec:
        return replace(self, references=(*self.references, use))

    def unguided(self) -> PipelineSpec:
        """Without ControlNets and IP-Adapters: the weights alone."""
        return replace(self, controls=(), references=())

    def to_dict(self) -> dict[str, Any]:
        """The weights, ready for JSON: `base` and `loras`, nothing that steers a drawing."""
        return {"base": asdict(self.base), "loras": [asdict(use) for use in self.loras]}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> PipelineSpec:
        """The inverse of `to_dict`, also after a trip through JSON."""
        loras = tuple(
            LoraUse(
                **{
                    **use,
                    "lora": Lora(**{**use["lora"], "metadata": _pairs(use["lora"]["metadata"])}),
                    "blocks": _pairs(use.get("blocks", ())),
                }
            )
            for use in data.get("loras", ())
        )
        base = dict(data["base"])
        base["parts"] = _pairs(base.get("parts", ()))
        base["memory"] = MemoryOptions(**base.get("memory", {}))
        return PipelineSpec(BaseModel(**base), loras)


def _pairs(items: Any) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in items)


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
