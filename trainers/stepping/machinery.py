"""Optimiser, learning rate, gradient scaler and averaged weights, which step and are saved
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import TrainingDiverged
from ..machine.precision import resolve_precision
from ..machine.team import Team
from ..methods import ParameterGroup
from .averages import RunningAverage, averaged_by
from .optimizers import make_optimizer, make_schedule

if TYPE_CHECKING:
    from torch import Tensor

    from ..settings import TrainingSettings


class Machinery:
    """What moves the parameters of `groups` as `settings` say, in step with the whole `team`."""

    def __init__(
        self, groups: Sequence[ParameterGroup], settings: TrainingSettings, team: Team
    ) -> None:
        import torch

        self.groups = [group for group in groups if group.parameters]
        self.parameters = [weight for group in self.groups for weight in group.parameters]
        self.settings = settings
        self.team = team
        self.dtype = resolve_precision(settings.precision, team.device)
        self.optimizer = make_optimizer(self.groups, settings)
        self.schedule = make_schedule(self.optimizer, settings)
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)
        decay = settings.ema_decay
        self.average = RunningAverage(self.parameters, decay) if decay else None

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each side, for Prodigy times the step size that it found."""
        rates = self.schedule.get_last_lr()
        found = [group.get("d", 1.0) for group in self.optimizer.param_groups]
        return {
            group.side: float(rate * times)
            for group, rate, times in zip(self.groups, rates, found, strict=True)
        }

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self) -> float:
        """Take the step → the gradient's length before it was shortened. Gradients stay.

        Raises:
            TrainingDiverged: the gradient is no number.
        """
        from torch.nn.utils import clip_grads_with_norm_, get_total_norm

        gradients = [each.grad for each in self.parameters if each.grad is not None]
        self.team.average(gradients)
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm(gradients)
        length = float(norm)
        if not self.scaler.is_enabled() and not length < float("inf"):
            raise TrainingDiverged(f"the gradient became {length}")
        if length > (self.settings.gradient_clip or float("inf")):  # else nothing to multiply
            clip_grads_with_norm_(self.parameters, self.settings.gradient_clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        return length

    def clear(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """For the length of the block the parameters are what is to be saved and looked at: the
        average, where one is kept. Afterwards they are their very bits again.
        """
        average = self.average.in_place() if self.average is not None else nullcontext()
        with averaged_by(self.optimizer, self.parameters), average:
            yield

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
