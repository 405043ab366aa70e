"""The contract of a training method: attach, loss, save. See `__init__.py` for those there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from ...families import TrainingDefaults
    from ...pipelines.loading import LivePipeline
    from ..denoising import Denoising
    from ..objectives import Batch


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate. `side` is `"denoiser"` or `"text"`."""

    side: str
    parameters: tuple[Parameter, ...]


class Method(Protocol):
    """One way of learning, for one run; made with its own settings."""

    name: str
    """Stable id, written into run folders: `"lora"`."""

    title: str
    """What users call it."""

    settings_type: type
    """The dataclass of its settings, all made with `settings.setting`."""

    fuses_loras: bool
    """Whether LoRAs that are on the pipeline become part of what learns: then they are fused into
    the weights, whatever their mode.
    """

    def __init__(self, settings: Any) -> None: ...

    def learning_rate(self, defaults: TrainingDefaults) -> float:
        """What is usual for this method on a family with these defaults."""
        ...

    def trains_text(self, defaults: TrainingDefaults) -> bool:
        """Whether text encoders learn too: then captions are encoded anew in every step."""
        ...

    def attach(self, live: LivePipeline, seed: int) -> Sequence[ParameterGroup]:
        """Put what learns onto the shared live models; its randomness comes from `seed` alone.
        Pristine weights are never written.

        Raises:
            ValueError: the models have nothing for it to hold on to. Nothing is left attached then.
        """
        ...

    def study(self, forward: Callable[[int, int], None]) -> Sequence[Tensor]:
        """Right after `attach`: start from what goes through the layers. `forward(number, most)`
        lets batch `number` (from 0) of at most `most` through the model. → the tensors that were
        changed; none for most methods.
        """
        ...

    def switched_off(self) -> AbstractContextManager[None]:
        """The models answer as they did before `attach`, for the length of the block."""
        ...

    def drawing(self) -> AbstractContextManager[None]:
        """For the length of the block the model draws as it will when the result is loaded. The
        same as it is for most.
        """
        ...

    def begin(self, step: int, micro: int, seed: int) -> None:
        """Before the forward pass of micro-step `micro` (from 0) of `step` (from 1), for what
        changes from step to step. Nothing to do for most.
        """
        ...

    def loss(self, denoising: Denoising, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to learn from, and its parts by name for the log, without gradient (numbers are
        read only once per step: each reading waits for the device). Most answer
        `denoising.loss(batch, self.switched_off)`.
        """
        ...

    def end(self, step: int, steps: int) -> None:
        """After the optimiser took `step` of `steps`, while the gradients are still there. Nothing
        to do for most.
        """
        ...

    def save(self, folder: Path, name: str, metadata: Mapping[str, str]) -> list[Path]:
        """Write what was learned to `folder`, called `name`, as other programs read it. The first
        path is the one to hand on.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `attach` would not bring back, for a checkpoint: copies, on the CPU."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: the checkpoint is of something else.
        """
        ...

    def detach(self) -> None:
        """Take everything off, bit for bit. Safe to call at any time."""
        ...
