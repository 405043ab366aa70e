"""DreamBooth (arXiv 2208.12242): the denoiser's own weights learn and, if asked, the text
encoders'.

The base is shared, so it is a copy that learns: every parameter that changes is pointed at a
float32 clone, and pointed back when the training ends. The tensors it pointed at before, which may
be a file's own memory, are never written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import check, setting
from .method import ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

    from ...families import Conditioning, LoraComponent, TrainingDefaults
    from ...pipelines.loading import LivePipeline
    from ...pipelines.spec import PipelineSpec
    from ..denoising import Captions, Denoising
    from ..objectives import Batch

EVERYTHING, ATTENTION = "everything", "attention"


@dataclass(frozen=True)
class DreamBoothSettings:
    """What learns."""

    layers: str = setting(
        EVERYTHING,
        choices=(EVERYTHING, ATTENTION),
        help="Which weights learn. attention needs a fraction of the memory and keeps more of what "
        "the model knew, but learns a likeness less exactly.",
    )
    train_text_encoder: str = setting(
        "auto",
        choices=("auto", "on", "off"),
        help="Let the text encoders learn too. It helps to keep your subject and its class apart, "
        "and takes 16 bytes of memory for each of their weights. auto: what is usual for the "
        "model.",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Copied:
    """A parameter that holds a float32 copy, and what it was before: the tensor it held, whether it
    could learn. `learns`: whether it does now.
    """

    name: str
    parameter: Parameter
    pristine: Tensor
    could: bool
    learns: bool


class DreamBoothMethod:
    """See `Method` for the contract."""

    name = "dreambooth"
    title = "DreamBooth"
    settings_type = DreamBoothSettings

    fuses_loras = True
    """LoRAs on the pipeline become part of the weights that learn."""

    def __init__(self, settings: DreamBoothSettings) -> None:
        self.settings = settings
        self._live: LivePipeline | None = None
        self._copied: dict[str, list[Copied]] = {}  # by component

    def learning_rate(self, defaults: TrainingDefaults) -> float:
        return defaults.full_rate

    def trains_text(self, defaults: TrainingDefaults) -> bool:
        wish = self.settings.train_text_encoder
        return defaults.trains_text if wish == "auto" else wish == "on"

    def attach(self, live: LivePipeline, seed: int) -> Sequence[ParameterGroup]:
        """Point what learns at float32 clones. Nothing is drawn at random."""
        assert not self._copied, "attached already"
        self._live = live
        trains_text = self.trains_text(live.family.training_defaults(live.pipeline))
        text = [part for part in live.family.text_encoders if trains_text]
        try:
            for component in (live.family.denoiser, *text):
                root = live.component(component.attribute)
                if root is not None:  # some models do without one of their text encoders
                    self._copy(component, root)
        except BaseException:
            self.detach()
            raise
        denoiser, *others = self._copied.values()
        return [
            ParameterGroup("denoiser", _learning(denoiser)),
            ParameterGroup("text", _learning([each for part in others for each in part])),
        ]

    def study(self, forward: Callable[[int, int], None]) -> Sequence[Tensor]:
        return ()

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """See `Method`. Nothing inside is recorded for a backward pass."""
        import torch

        with torch.no_grad(), _holding([(each, each.pristine) for each in self._all]):
            yield

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """For the length of the block the model draws as it will when its result is loaded: in the
        base's own precision.
        """
        import torch

        rounded = [
            (each, each.parameter.data.to(each.pristine.dtype))
            for each in self._all
            if each.pristine.dtype != each.parameter.dtype
        ]
        with torch.no_grad(), _holding(rounded):
            yield

    def begin(self, step: int, micro: int, seed: int) -> None:
        pass

    def loss(self, denoising: Denoising, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        live = denoising.live
        if any(each.pristine.dtype != each.parameter.dtype for each in self._all):
            captions: Any = _Fitting(denoising.captions, live)
            denoising = replace(denoising, captions=captions)
        with self._one_precision(live.device):
            return denoising.loss(batch, self.switched_off)

    def end(self, step: int, steps: int) -> None:
        pass

    def save(self, folder: Path, name: str, metadata: Mapping[str, str]) -> list[Path]:
        """A folder for each component that learned, as diffusers and transformers read them, what
        learned in float32. `trained_pipeline` makes a pipeline of them.
        """
        from ...pipelines.saving_parts import save_component

        assert self._live, "attach first"
        for attribute in self._copied:
            root = self._live.component(attribute)
            save_component(attribute, root, folder / attribute, metadata)
        return [folder / attribute for attribute in self._copied]

    def state_dict(self) -> dict[str, Tensor]:
        return {
            each.name: each.parameter.detach().to("cpu", copy=True)
            for each in self._all
            if each.learns
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        import torch

        expected = {each.name: each.parameter for each in self._all if each.learns}
        if {name: weight.shape for name, weight in expected.items()} != {
            name: tensor.shape for name, tensor in state.items()
        }:
            raise ValueError(
                "the checkpoint is of a training that changed other weights; "
                "delete the checkpoints folder to start over"
            )
        with torch.no_grad():
            for name, weight in expected.items():
                weight.copy_(state[name])

    def detach(self) -> None:
        """Point every parameter back at the very tensor that it held before."""
        for each in self._all:
            each.parameter.grad = None
            each.parameter.data = each.pristine
            each.parameter.requires_grad_(each.could)
        self._copied = {}
        self._live = None

    @property
    def _all(self) -> list[Copied]:
        return [each for part in self._copied.values() for each in part]

    def _copy(self, component: LoraComponent, root: Module) -> None:
        """Have one component's parameters hold copies, those that learn and those that must."""
        import torch

        from ...pipelines.saving_parts import tensors_of
        from ...pipelines.tensor_file import release_pages

        tensors_of(component.attribute, root)  # what could not be saved is refused now
        wanted = self._wanted(component, root)
        seen = {id(each.parameter) for each in self._all}  # two components may share one
        copied = self._copied[component.attribute] = []
        for path, parameter in root.named_parameters():
            learns = path in wanted
            if id(parameter) in seen or not (learns or _hinders(parameter)):
                continue
            pristine = parameter.data
            name = f"{component.attribute}.{path}"
            copied.append(Copied(name, parameter, pristine, parameter.requires_grad, learns))
            parameter.data = pristine.to(torch.float32, copy=True)
            parameter.requires_grad_(learns)
            release_pages(pristine)

    def _wanted(self, component: LoraComponent, root: Module) -> set[str]:
        """The paths of what learns."""
        paths = {path for path, weight in root.named_parameters() if weight.is_floating_point()}
        if self.settings.layers == EVERYTHING:
            return paths
        pattern = dict(component.targets)[ATTENTION]
        wanted = {path for path in paths if re.fullmatch(pattern, path.rpartition(".")[0])}
        if not wanted:
            raise ValueError(
                f"this model's {component.attribute} has no attention layers that Likeness knows; "
                f"set layers to {EVERYTHING!r}"
            )
        return wanted

    def _one_precision(self, device: str) -> Any:
        """Where weights in 16 bits stand beside those that learn in 32, the forward pass needs one
        precision for both, also if none was asked for.
        """
        import torch

        assert self._live, "attach first"
        kind = device.partition(":")[0]
        roots = [self._live.component(attribute) for attribute in self._copied]
        mixed = any(len({weight.dtype for weight in root.parameters()}) > 1 for root in roots)
        if not mixed or torch.is_autocast_enabled(kind):
            return nullcontext()
        return torch.autocast(kind, dtype=torch.bfloat16)


class _Fitting:
    """Captions whose conditioning is in the precision that the denoiser has right now, which is
    another one when the method is switched off. Those that are looked up are in the base's own.
    """

    def __init__(self, captions: Captions, live: LivePipeline) -> None:
        self._captions = captions
        self._denoiser: Any = live.component(live.family.denoiser.attribute)

    def __call__(self, captions: Sequence[str]) -> Conditioning:
        found, dtype = self._captions(captions), next(self._denoiser.parameters()).dtype
        extra = tuple(
            (name, value.to(dtype) if value.is_floating_point() else value)
            for name, value in found.extra
        )
        return replace(found, embeddings=found.embeddings.to(dtype), extra=extra)


@contextmanager
def _holding(held: Sequence[tuple[Copied, Tensor]]) -> Iterator[None]:
    """Each parameter holds another tensor for the length of the block.

    Only pointers move, so what a backward pass has recorded stays as it is. Autocast remembers the
    casts of parameters, not of what they hold, and has to forget them.
    """
    import torch

    before = [each.parameter.data for each, _ in held]
    torch.clear_autocast_cache()
    try:
        for each, tensor in held:
            each.parameter.data = tensor
        yield
    finally:
        for (each, _), tensor in zip(held, before, strict=True):
            each.parameter.data = tensor
        torch.clear_autocast_cache()


def _learning(copied: Sequence[Copied]) -> tuple[Parameter, ...]:
    return tuple(each.parameter for each in copied if each.learns)


def _hinders(weight: Parameter) -> bool:
    """Whether a weight that does not learn must be in float32 beside those that do: GPUs mix
    float16 with float32, other devices do not.
    """
    import torch

    return weight.dtype == torch.float16 and weight.device.type != "cuda"


def trained_pipeline(spec: PipelineSpec, files: Sequence[Path]) -> PipelineSpec:
    """The pipeline that was trained: the base of `spec` with what `DreamBoothMethod.save` left in
    the folders `files`. LoRAs that were on it are in those weights.
    """
    parts = {**dict(spec.base.parts), **{path.name: str(path.resolve()) for path in files}}
    return replace(spec, base=replace(spec.base, parts=tuple(sorted(parts.items()))), loras=())
