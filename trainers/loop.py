"""The training loop. It knows no family and no method, and reads from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint, Checkpoints
from .data.batches import Batches
from .denoising import Denoising
from .errors import TrainingDiverged
from .failures import explained, is_out_of_memory
from .machine.control import Control
from .machine.estimate import duration, estimate, gigabytes, peak_bytes
from .machine.precision import autocast
from .machine.team import Team
from .methods import Method
from .objectives import Batch
from .objectives.validation import Validation
from .report import Log, LogLine, Report
from .seeds import seed_for, seeded
from .settings import TrainingSettings, WatchSettings
from .stepping.machinery import Machinery

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """How a training ended: after which step, and whether before it was done."""

    step: int
    stopped: bool


@dataclass(frozen=True)
class Training:
    """All that takes part. `settings` without "auto". `save`: write the result as it is after a
    step. `draw_samples`: preview pictures of the model as it is after a step.
    """

    method: Method
    denoising: Denoising
    machinery: Machinery
    batches: Batches
    validation: Validation
    checkpoints: Checkpoints
    settings: TrainingSettings
    watch: WatchSettings
    log: Log
    report: Report
    control: Control
    team: Team
    save: Callable[[Outcome], None]
    draw_samples: Callable[[int], Sequence[Image]]


def learn(training: Training) -> Outcome:
    """Train to the last step, from the newest checkpoint if there is one.

    Whatever ends it early, a checkpoint of the last whole step is written first: a stop asked for
    by `report.should_stop()` or in the run folder ends it well; an exception out of the report, or
    a keyboard interrupt, is passed on.

    Raises:
        TrainingFailed: loss or gradient is no number, memory or disk is full. What was saved
            before is kept.
    """
    settings, watch, report = training.settings, training.watch, training.report
    machinery, team = training.machinery, training.team
    step = began = _restore(training)
    clock = time.monotonic()
    whole = True  # whether weights, optimiser and `step` belong together

    try:
        report.started(settings.steps, step)
        while step < settings.steps and not training.validation.settled:
            if team.any(report.should_stop() or training.control.taken("stop")):
                _keep(training, step)
                return Outcome(step, stopped=True)

            started = time.monotonic()
            rates = machinery.rates
            loss, parts = _accumulate(training, step + 1)
            whole = False
            gradient = machinery.step()
            training.method.end(step + 1, settings.steps)
            machinery.clear()
            step += 1
            seconds = time.monotonic() - started
            validated = None
            if _due(step, settings.validate_every):
                validated = _validate(training)
            smoothed = training.log.smooth(loss)
            line = LogLine(step, loss, smoothed, parts, rates, gradient, validated, seconds)
            training.log.append(line)
            whole = True

            left = (time.monotonic() - clock) / (step - began) * (settings.steps - step)
            if step == began + 2:
                _tell_measured(training, left)
            report.step(step, settings.steps, loss, parts, next(iter(rates.values())), left)
            if _due(step, watch.sample_every):
                with machinery.evaluating():
                    images = training.draw_samples(step)
                if images:
                    report.sample(step, images)
            wished = team.any(training.control.taken("save"))
            if wished or _due(step, watch.checkpoint_every):
                _keep(training, step)
            if wished:
                with machinery.evaluating():
                    training.save(Outcome(step, stopped=True))
        _keep(training, step)
    except BaseException as error:
        if whole and not isinstance(error, TrainingDiverged):  # those weights may be past saving
            _try_to_keep(training, step)
        needs = _needs(training) if is_out_of_memory(error) else ""
        failure = explained(error, step, settings, needs)
        if failure is None:
            raise
        raise failure from error
    return Outcome(step, stopped=False)


def probe(training: Training) -> None:
    """The forward and backward passes of one step, which leave nothing behind."""
    _accumulate(training, 1)
    training.machinery.clear()


def _accumulate(training: Training, step: int) -> tuple[float, dict[str, float]]:
    """Gradients of one step, averaged over its micro-steps → loss and its parts, averaged too."""
    import torch

    count = training.settings.accumulation
    found: list[Tensor] = []
    names: list[str] = []
    for micro in range(count):
        batch = training.batches.batch(step, micro)
        training.method.begin(step, micro, training.settings.seed)
        loss, parts = _loss(training, batch, "inside", step, micro)
        training.machinery.backward(loss / count)
        found += [loss.detach(), *parts.values()]
        names = list(parts)
    # read all at once, when the device is done: each reading waits for it
    numbers = torch.stack(found).view(count, -1).mean(0).tolist()
    total, *means = training.team.mean(*numbers)
    if not math.isfinite(total):  # in all processes alike, so that all of them end
        raise TrainingDiverged(f"the loss became {total}")
    return total, dict(zip(names, means, strict=True))


def _validate(training: Training) -> float:
    """The loss of the fixed batches, with the weights that would be saved."""
    import torch

    losses = []
    with torch.no_grad(), training.machinery.evaluating():
        for index, batch in enumerate(training.batches.validation()):
            loss, parts = _loss(training, batch, "validation", index)
            losses.append(float(parts.get("instance", loss)))
    return training.validation.add(training.team.mean(*losses))


def _loss(training: Training, batch: Batch, *when: int | str) -> tuple[Tensor, dict[str, Tensor]]:
    """With its own seed for what a model draws by itself, such as dropout."""
    device = training.team.device
    seed = seed_for(training.settings.seed, *when, training.team.rank)
    with seeded(device, seed), autocast(training.machinery.dtype, device):
        return training.method.loss(training.denoising, batch)


def _keep(training: Training, step: int) -> None:
    """Write a checkpoint, unless nothing was learned yet."""
    _write(training, step)
    training.team.wait()


def _write(training: Training, step: int) -> None:
    if step and training.team.is_first:
        training.log.flush_to_disk()
        state = {
            "machinery": training.machinery.state_dict(),
            "validation": training.validation.state_dict(),
        }
        training.checkpoints.save(Checkpoint(step, training.method.state_dict(), state))


def _try_to_keep(training: Training, step: int) -> None:
    """The same on the way out of an error, which must not be lost over another one."""
    try:
        _write(training, step)  # without waiting: the others may be gone
    except Exception as error:
        training.report.message(f"step {step} could not be saved on the way out: {error}")


def _restore(training: Training) -> int:
    """Go on from the newest checkpoint → the step that it was written after, 0 without one."""
    with training.team.first_goes_first():  # which removes damaged ones
        checkpoint = training.checkpoints.newest(training.report)
    step = 0
    if checkpoint is not None:
        training.method.load_state_dict(checkpoint.learned)
        training.machinery.load_state_dict(checkpoint.state["machinery"])
        training.validation.load_state_dict(checkpoint.state["validation"])
        step = checkpoint.step
    training.team.wait()  # before anything is written
    if training.team.is_first:
        training.log.go_on_from(step)
    return step


def _needs(training: Training) -> str:
    """The estimate of its memory; "" if there is not even room for that."""
    try:
        live, groups = training.denoising.live, training.machinery.groups
        return str(estimate(live, groups, training.settings))
    except Exception:
        return ""


def _tell_measured(training: Training, left: float) -> None:
    """What the first two steps showed."""
    peak = gigabytes(peak_bytes(training.team.device))
    training.report.message(f"measured: {duration(left)} left; {peak} at most so far")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
