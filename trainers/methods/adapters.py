"""What all methods have in common that learn a small change for each of many layers.

While attached, a layer's `forward` is ours: it calls the one before, whatever that is, and adds
what was learned so far. No module is replaced and no weight of the base is written, so taking it
off leaves no trace. Every method says what one layer learns (`Learner`), with the same classes of
`pipelines/lora` that fuse and save it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..seeds import generator_for
from .method import ParameterGroup
from .targets import Targets, chosen_layers

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module, Parameter

    from ...families import LoraComponent, TrainingDefaults
    from ...pipelines.loading import LivePipeline
    from ...pipelines.lora.changes import Change
    from ...pipelines.lora.files import LoraWeights
    from ..denoising import Denoising
    from ..objectives import Batch

Forward = Callable[..., "Tensor"]


class Learner(Protocol):
    """What one layer learns.

    `parameters`: by name, float32, on the layer's device. `kept`: further tensors that belong to
    the state, such as running averages; changed in place alone.
    """

    parameters: dict[str, Parameter]
    kept: dict[str, Tensor]

    def forward(self, before: Forward, x: Tensor) -> Tensor:
        """The layer's output for `x`; `before`: the layer as it was. The very output of that as
        long as nothing was learned.
        """
        ...

    def change(self) -> Change | None:
        """What was learned, of the live tensors; None: nothing that would have to be saved."""
        ...


class Adapters:
    """The `Method` contract for methods that learn layer by layer; they say `learner`, and what
    else is their own.
    """

    name: str
    title: str
    settings_type: type
    fuses_loras = False

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._live: LivePipeline | None = None
        self._attached: dict[str, dict[str, Attached]] = {}  # component -> module path
        self._flags: list[tuple[Any, str, bool]] = []  # object, attribute, value before

    def learner(self, module: Module, rank: int, draw: torch.Generator) -> Learner:
        """What a linear layer or convolution learns. `rank`: as the settings say, or the family's
        own. `draw`: where all its random numbers come from.

        Raises:
            ValueError: the layer is of a shape that the method cannot change; the caller says
                which layer it is.
        """
        raise NotImplementedError

    # -- the contract of a method ------------------------------------------------------------------

    def learning_rate(self, defaults: TrainingDefaults) -> float:
        return defaults.adapter_rate

    def trains_text(self, defaults: TrainingDefaults) -> bool:
        wishes: Targets = self.settings
        return wishes.trains_text(defaults)

    def attach(self, live: LivePipeline, seed: int) -> Sequence[ParameterGroup]:
        assert not self._attached, "attached already"
        self._live = live
        defaults = live.family.training_defaults(live.pipeline)
        rank = getattr(self.settings, "rank", 0) or defaults.rank
        text = self._text_components(live) if self.trains_text(defaults) else []
        try:
            self._freeze(live)
            for component in (live.family.denoiser, *text):
                self._attach_to(live, component, rank, seed)
        except BaseException:
            self.detach()
            raise
        return [
            ParameterGroup("denoiser", self._parameters([live.family.denoiser])),
            ParameterGroup("text", self._parameters(text)),
        ]

    def study(self, forward: Callable[[int, int], None]) -> Sequence[Tensor]:
        return ()

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        layers = list(self.layers().values())
        before = [layer.off for layer in layers]
        for layer in layers:
            layer.off = True
        try:
            yield
        finally:
            for layer, off in zip(layers, before, strict=True):
                layer.off = off

    def drawing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, step: int, micro: int, seed: int) -> None:
        pass

    def loss(self, denoising: Denoising, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return denoising.loss(batch, self.switched_off)

    def end(self, step: int, steps: int) -> None:
        pass

    def save(self, folder: Path, name: str, metadata: Mapping[str, str]) -> list[Path]:
        """One safetensors file in the kohya layout, which ComfyUI, A1111 and diffusers read."""
        import torch

        from ...pipelines.lora.files import write_lora

        assert self._live, "attach first"
        path = folder / f"{name}.safetensors"
        with torch.no_grad():
            write_lora(path, self.weights(), self._live.family, dict(metadata))
        return [path]

    def weights(self) -> LoraWeights:
        """What was learned, as `pipelines.lora.files` describes a LoRA, of the live tensors."""
        changes = {
            component: {path: layer.learner.change() for path, layer in layers.items()}
            for component, layers in self._attached.items()
        }
        return {
            component: {path: change for path, change in found.items() if change is not None}
            for component, found in changes.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        import torch

        here = self._state()
        if {name: tensor.shape for name, tensor in here.items()} != {
            name: tensor.shape for name, tensor in state.items()
        }:
            raise ValueError(
                f"the checkpoint is of a {self.title} with other layers or another rank; "
                "delete the checkpoints folder to start over"
            )
        with torch.no_grad():
            for name, tensor in here.items():
                tensor.copy_(state[name])

    def detach(self) -> None:
        for layer in self.layers().values():
            layer.take_off()
        for owner, flag, value in self._flags:
            setattr(owner, flag, value)
        self._attached, self._flags = {}, []
        self._live = None

    # -- for the methods ---------------------------------------------------------------------------

    def layers(self) -> dict[str, Attached]:
        """Component and module path, joined by a dot → layer, in a fixed order."""
        return {
            f"{component}.{path}": layer
            for component, layers in self._attached.items()
            for path, layer in layers.items()
        }

    def _text_components(self, live: LivePipeline) -> list[LoraComponent]:
        parts = [part for part in live.family.text_encoders if part.learns]
        there = [part for part in parts if live.component(part.attribute) is not None]
        if not there:
            raise ValueError(
                f"train_text_encoder is {self.settings.train_text_encoder!r}, but this "
                f"{live.family.title} model has no text encoder that could learn; set it to off"
            )
        return there

    def _freeze(self, live: LivePipeline) -> None:
        """No gradients for the base, nor for text encoders that do not learn."""
        for component in (live.family.denoiser, *live.family.text_encoders):
            root = live.component(component.attribute)
            if root is not None:
                self._flags += [
                    (each, "requires_grad", each.requires_grad) for each in root.parameters()
                ]
                root.requires_grad_(False)

    def _attach_to(
        self, live: LivePipeline, component: LoraComponent, rank: int, seed: int
    ) -> None:
        root = live.component(component.attribute)
        attached = self._attached[component.attribute] = {}
        chosen = chosen_layers(self.settings, live.family, component, root)
        for path, module in chosen.items():
            name = f"{component.attribute}.{path}"
            try:
                learner = self.learner(module, rank, generator_for(seed, self.name, name))
            except ValueError as error:
                raise ValueError(f"{name} cannot learn a {self.title}: {error}") from error
            attached[path] = Attached(module, learner)

    def _parameters(self, components: Sequence[LoraComponent]) -> tuple[Parameter, ...]:
        return tuple(
            parameter
            for component in components
            for layer in self._attached[component.attribute].values()
            for parameter in layer.learner.parameters.values()
        )

    def _state(self) -> dict[str, Tensor]:
        """Every tensor that a checkpoint holds, by name; the live ones."""
        return {
            f"{name}.{part}": tensor
            for name, layer in self.layers().items()
            for part, tensor in (layer.learner.parameters | layer.learner.kept).items()
        }


class Attached:
    """A layer's `forward` while it learns. `off`: it answers as before."""

    def __init__(self, module: Module, learner: Learner) -> None:
        self.module, self.learner = module, learner
        self.off = False
        self._own = vars(module).get("forward")
        self._before: Forward = module.forward
        module.forward = self

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.off:
            return self._before(x, *args, **kwargs)
        return self.learner.forward(self._before, x)

    def take_off(self) -> None:
        if self._own is None:
            del self.module.forward
        else:
            self.module.forward = self._own


def parameter(tensor: Tensor, module: Module) -> Parameter:
    """Something to learn, in float32 where `module`'s weight is."""
    import torch

    weight: Any = module.weight
    copied = tensor.to(weight.device, torch.float32, copy=True)
    return torch.nn.Parameter(copied.contiguous())


def computed(x: Tensor) -> Tensor:
    """`x` as the change of a layer is computed with it: autocast chooses where it is on, else in
    the float32 of the parameters.
    """
    import torch

    return x if torch.is_autocast_enabled(x.device.type) else x.float()


def dropped(x: Tensor, share: float) -> Tensor:
    """`x` with that share of its numbers blanked, while gradients are recorded: what is looked at
    or measured in between is not disturbed.
    """
    import torch

    if not share or not torch.is_grad_enabled():
        return x
    return torch.nn.functional.dropout(x, share, training=True)
