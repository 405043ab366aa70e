"""The training loop. It knows no family and no method, and reads from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .batches import Batches
from .checkpoint import Checkpoint, Checkpoints
from .method import Method, ParameterGroup
from .objective import is_finite, seed_for
from .optimizers import make_optimizer, make_schedule
from .precision import autocast, resolve_precision
from .report import Log, LogLine, Report
from .settings import TrainingSettings

if TYPE_CHECKING:
    from PIL.Image import Image


class TrainingDiverged(ValueError):
    """The loss or its gradient is no number any more."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended: after which step, and whether before its last one."""

    step: int
    stopped: bool


class Machinery:
    """Optimiser, learning rate and gradient scaler, which step and are saved together."""

    def __init__(
        self, groups: Sequence[ParameterGroup], settings: TrainingSettings, device: str
    ) -> None:
        import torch

        self.groups = [group for group in groups if group.parameters]
        self.dtype = resolve_precision(settings.precision, device)
        self.optimizer = make_optimizer(self.groups, settings)
        self.schedule = make_schedule(self.optimizer, settings)
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each side."""
        rates = self.schedule.get_last_lr()
        return {group.side: float(rate) for group, rate in zip(self.groups, rates, strict=True)}

    def step(self, longest: float) -> float:
        """Shorten the gradient to `longest` (0: do not), take the step → the gradient's length
        before.
        """
        import torch

        self.scaler.unscale_(self.optimizer)
        parameters = [weight for group in self.groups for weight in group.parameters]
        length = float(torch.nn.utils.clip_grad_norm_(parameters, longest or float("inf")))
        if not self.scaler.is_enabled() and not length < float("inf"):
            raise TrainingDiverged(f"the gradient became {length}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return length

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])


def learn(
    method: Method,
    groups: Sequence[ParameterGroup],
    batches: Batches,
    checkpoints: Checkpoints,
    log: Log,
    report: Report,
    draw_samples: Callable[[int], Sequence[Image]],
) -> Outcome:
    """Train to the last step, from the newest checkpoint if there is one.

    Whatever ends it early, a checkpoint of the last whole step is written first: a stop asked for
    by `report.should_stop()` ends it well; an exception out of the report, or a keyboard interrupt,
    is passed on.

    Raises:
        TrainingDiverged: loss or gradient is no number; checkpoints written before are kept.
    """
    settings = batches.settings
    machinery = Machinery(groups, settings, batches.device)
    step = _restore(method, machinery, checkpoints, report)
    log.go_on_from(step)
    began = step
    clock = time.monotonic()
    whole = True  # whether weights, optimiser and `step` belong together

    def save_checkpoint() -> None:
        if step == 0:
            return  # nothing was learned yet
        log.flush_to_disk()
        checkpoints.save(Checkpoint(step, method.state_dict(), machinery.state_dict()))

    try:
        report.started(settings.steps, step)
        while step < settings.steps:
            if report.should_stop():
                save_checkpoint()
                return Outcome(step, stopped=True)

            started = time.monotonic()
            rates = machinery.rates
            loss, parts = _accumulate(method, machinery, batches, step + 1)
            whole = False
            gradient = machinery.step(settings.gradient_clip)
            step += 1
            seconds = time.monotonic() - started
            log.append(LogLine(step, loss, log.smooth(loss), parts, rates, gradient, seconds))
            whole = True

            left = (time.monotonic() - clock) / (step - began) * (settings.steps - step)
            report.step(step, settings.steps, loss, parts, next(iter(rates.values())), left)
            if _due(step, settings.sample_every):
                report.sample(step, draw_samples(step))
            if _due(step, settings.checkpoint_every):
                save_checkpoint()
    except TrainingDiverged as error:  # the weights may be past saving
        raise TrainingDiverged(_way_out(error, step, settings)) from error
    except BaseException:
        if whole:
            save_checkpoint()
        raise
    save_checkpoint()
    return Outcome(step, stopped=False)


def _accumulate(
    method: Method, machinery: Machinery, batches: Batches, step: int
) -> tuple[float, dict[str, float]]:
    """Gradients of one step, averaged over its micro-steps → loss and its parts, averaged too."""
    import torch

    count = batches.settings.accumulation
    total, totals = 0.0, dict[str, float]()
    machinery.optimizer.zero_grad(set_to_none=True)
    for micro in range(count):
        batch = batches.batch(step, micro)
        with torch.random.fork_rng():  # for what a model draws by itself, such as dropout
            torch.manual_seed(seed_for(batches.settings.seed, "inside", step, micro))
            with autocast(machinery.dtype, batches.device):
                loss, parts = method.loss(batch)
        if not is_finite(loss):
            raise TrainingDiverged(f"the loss became {float(loss.detach())}")
        machinery.scaler.scale(loss / count).backward()
        total += float(loss.detach()) / count
        for name, part in parts.items():
            totals[name] = totals.get(name, 0.0) + part / count
    return total, totals


def _restore(method: Method, machinery: Machinery, checkpoints: Checkpoints, report: Report) -> int:
    """Go on from the newest checkpoint → the step that it was written after, 0 without one."""
    checkpoint = checkpoints.newest(report)
    if checkpoint is None:
        return 0
    method.load_state_dict(checkpoint.learned)
    machinery.load_state_dict(checkpoint.machinery)
    return checkpoint.step


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _way_out(error: TrainingDiverged, step: int, settings: TrainingSettings) -> str:
    ways = [f"lower learning_rate (now {settings.learning_rate})"]
    if settings.warmup_steps == 0:
        ways.append("give it warmup_steps")
    if settings.precision in ("float16", "bfloat16"):
        ways.append("set precision to float32")
    if settings.gradient_clip == 0:
        ways.append("set gradient_clip to 1")
    return f"training stopped at step {step + 1}: {error}; {' or '.join(ways)}"
