"""LoRA (arXiv 2106.09685) on the denoiser and, if asked, on the text encoders, through PEFT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .method import ParameterGroup, PromptEncoder
from .objective import denoising_loss, generator_for
from .settings import TARGETS, LoraSettings

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..families import LoraComponent
    from ..pipelines.loading import LivePipeline
    from ..pipelines.lora.files import LoraPair, LoraWeights
    from .objective import Batch, Objective

ADAPTER = "likeness"


class LoraMethod:
    """See `Method` for the contract."""

    name = "lora"
    settings_type = LoraSettings

    def __init__(self, settings: LoraSettings) -> None:
        self.settings = settings
        self._live: LivePipeline | None = None
        self._objective: Objective | None = None
        self._encode: PromptEncoder | None = None
        self._layers: dict[str, dict[str, Any]] = {}  # component -> module path -> PEFT layer
        self._flags: list[tuple[Any, str, bool]] = []  # object, attribute, value before

    def attach(
        self, live: LivePipeline, objective: Objective, seed: int
    ) -> Sequence[ParameterGroup]:
        """LoRA layers in float32 around the targets; the base's own modules stay untouched."""
        assert not self._layers, "attached already"
        self._live, self._objective = live, objective
        self._encode = PromptEncoder(live, trains=self.settings.train_text_encoder)
        text = live.family.text_encoders if self.settings.train_text_encoder else ()
        try:
            for component in (live.family.denoiser, *text):
                root = live.component(component.attribute)
                self._flags += _flags(root)
                pattern = _target_pattern(component, root, TARGETS[self.settings.targets])
                self._layers[component.attribute] = {}
                self._layers[component.attribute] = _wrap(root, pattern, self.settings)
                for path, layer in self._layers[component.attribute].items():
                    _start(layer, self.settings, seed, f"{component.attribute}.{path}")
        except BaseException:
            self.detach()
            raise
        return [
            ParameterGroup("denoiser", self._parameters([live.family.denoiser])),
            ParameterGroup("text", self._parameters(text)),
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert self._live and self._objective and self._encode, "attach first"
        conditioning = self._encode(batch.captions)
        return denoising_loss(self._live, batch, conditioning, self._objective.prior_weight)

    def save(self, folder: Path, name: str, metadata: Mapping[str, str]) -> list[Path]:
        """One safetensors file in the kohya layout, which ComfyUI, A1111 and diffusers read."""
        from ..pipelines.lora.files import write_lora

        assert self._live, "attach first"
        path = folder / f"{name}.safetensors"
        write_lora(path, self.weights(), self._live.family, dict(metadata))
        return [path]

    def weights(self) -> LoraWeights:
        """Copies of what was learned, on the CPU, as `pipelines.lora.files` describes a LoRA."""
        return {
            component: {path: _pair(layer, self.settings) for path, layer in layers.items()}
            for component, layers in self._layers.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        state = {}
        for component, layers in self._layers.items():
            for path, layer in layers.items():
                for part, weight in _matrices(layer).items():
                    state[f"{component}.{path}.{part}"] = weight.detach().cpu().clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        import torch

        expected = self.state_dict()
        if {name: tensor.shape for name, tensor in expected.items()} != {
            name: tensor.shape for name, tensor in state.items()
        }:
            raise ValueError(
                "the checkpoint is of a LoRA with other layers or another rank; "
                "delete the checkpoints folder to start over"
            )
        with torch.no_grad():
            for component, layers in self._layers.items():
                for path, layer in layers.items():
                    for part, weight in _matrices(layer).items():
                        weight.copy_(state[f"{component}.{path}.{part}"])

    def detach(self) -> None:
        """Put the very module objects back that sat there before."""
        if self._live is None:
            return
        for attribute in self._layers:
            _unwrap(self._live.component(attribute))
        for owner, flag, value in self._flags:
            setattr(owner, flag, value)
        self._layers, self._flags = {}, []
        self._live = self._objective = self._encode = None

    def _parameters(self, components: Sequence[LoraComponent]) -> tuple[Any, ...]:
        return tuple(
            weight
            for component in components
            for layer in self._layers[component.attribute].values()
            for weight in _matrices(layer).values()
        )


def _target_pattern(component: LoraComponent, root: Module, wanted: Sequence[str]) -> str:
    """One regular expression over all wanted target groups, each of which must match something.

    Raises:
        ValueError: a group matches no layer of this model; names those that do.
    """
    patterns = dict(component.targets)
    paths = [path for path, _ in root.named_modules()]
    hits = {
        group: sum(re.fullmatch(pattern, path) is not None for path in paths)
        for group, pattern in patterns.items()
    }
    groups = [group for group in wanted if group in patterns]
    empty = [group for group in groups if not hits[group]]
    if empty or not groups:
        there = ", ".join(f"{group} ({count} layers)" for group, count in hits.items() if count)
        raise ValueError(
            f"the LoRA target {', '.join(empty or wanted)} matches no layer of this model's "
            f"{component.attribute}; it has: {there or 'none that a LoRA could change'}"
        )
    return "|".join(f"(?:{patterns[group]})" for group in groups)


def _wrap(root: Module, pattern: str, settings: LoraSettings) -> dict[str, Any]:
    """Put PEFT layers around the matching modules of `root` → module path → layer."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.strength,  # type: ignore[arg-type] - PEFT only divides by it
        lora_dropout=settings.dropout,
        target_modules=pattern,
    )
    with torch.random.fork_rng():  # PEFT draws numbers that `_start` replaces
        inject_adapter_in_model(config, root, adapter_name=ADAPTER)
    return {path: part for path, part in root.named_modules() if isinstance(part, LoraLayer)}


def _start(layer: Any, settings: LoraSettings, seed: int, path: str) -> None:
    """`down` from seed and layer name, `up` zero: at first the LoRA changes nothing."""
    import torch

    generator = generator_for(seed, "lora", path)
    parts = _matrices(layer)
    down = torch.empty(parts["down"].shape, dtype=torch.float32)
    if settings.start == "gaussian":
        torch.nn.init.normal_(down, std=1 / settings.rank, generator=generator)
    else:
        torch.nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
    parts["down"].data = down.to(parts["down"].device)
    parts["up"].data = torch.zeros_like(parts["up"].data, dtype=torch.float32)
    for weight in parts.values():
        weight.requires_grad_(True)
    layer.lora_dropout.train()  # only the LoRA's own dropout; the base stays in eval mode


def _flags(root: Module) -> list[tuple[Any, str, bool]]:
    """What PEFT may switch on its way, as object, attribute and value before."""
    return [
        *((module, "training", module.training) for module in root.modules()),
        *((weight, "requires_grad", weight.requires_grad) for weight in root.parameters()),
    ]


def _unwrap(root: Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, part in list(root.named_modules()):
        if isinstance(part, BaseTunerLayer):
            parent, _, name = path.rpartition(".")
            setattr(root.get_submodule(parent), name, part.get_base_layer())
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in vars(root):
            delattr(root, attribute)


def _matrices(layer: Any) -> dict[str, Any]:
    return {"down": layer.lora_A[ADAPTER].weight, "up": layer.lora_B[ADAPTER].weight}


def _pair(layer: Any, settings: LoraSettings) -> LoraPair:
    from ..pipelines.lora.files import LoraPair

    parts = {name: weight.detach().cpu().clone() for name, weight in _matrices(layer).items()}
    return LoraPair(parts["down"], parts["up"], settings.strength)
