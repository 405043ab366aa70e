"""How a training goes, on the node that runs it: bar, text and pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..host import ProgressBar, host
from .training_watch import SHOW, Watched

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..trainers.result import TrainingResult

log = logging.getLogger(__name__)

AUTO = "auto: "
"""How a message begins that tells what "auto" became."""

TELL_EVERY = 0.25
"""Seconds between two texts, at least."""


class NodeReport:
    """A training's `Report` to its node. Moving the bar also carries the host's stop button: it
    raises, and the trainer saves. "Stop and keep" comes through `watched`.
    """

    def __init__(self, bar: ProgressBar, watched: Watched) -> None:
        self._bar, self._watched = bar, watched
        self._auto: list[str] = []
        self._message = ""
        self._told = 0.0
        self._newest: Image | None = None
        self._resumed_at = 0

    def started(self, total: int, resumed_at: int) -> None:
        watched = self._watched
        watched.step, watched.total, self._resumed_at = resumed_at, total, resumed_at
        self._draw_again(resumed_at)
        self._bar.update(resumed_at, total)

    def step(
        self,
        step: int,
        total: int,
        loss: float,
        parts: Mapping[str, float],
        lr: float,
        seconds_left: float,
    ) -> None:
        watched = self._watched
        watched.step, watched.total = step, total
        watched.curve.add(step, loss)
        watched.taken("save")  # the trainer looks at it right after this report
        line = (
            f"step {step}/{total} · loss {watched.curve.smoothed:.4f} · rate {lr:.3g} · "
            f"{in_words(seconds_left)} left"
        )
        self._tell(line, hurry=step in (self._resumed_at + 1, total))
        again = self._newest if watched.taken(SHOW) else None
        self._bar.update(step, total, again)

    def sample(self, step: int, images: Sequence[Image]) -> None:
        if images:
            self._newest = grid(images)
            self._bar.update(step, preview=self._newest)

    def preparing(self, what: str, done: int, total: int) -> None:
        self._tell(f"{what}: {done} of {total}", hurry=done == total)
        self._bar.update(done, total)

    def message(self, text: str) -> None:
        log.info("%s", text)
        if text.startswith(AUTO):
            self._auto.append(text.removeprefix(AUTO))
        else:
            self._message = text
        self._tell("", hurry=True)
        host().throw_if_interrupted()

    def should_stop(self) -> bool:
        return "stop" in self._watched.asked

    def ended(self, result: TrainingResult) -> str:
        """Tell how it ended → the same in words."""
        watched = self._watched
        watched.total = watched.total or result.steps_done
        watched.step = result.steps_done
        if not watched.curve.points:  # found, or stopped before it went on
            self._draw_again(result.steps_done)
        self._message = ""
        self._tell(summary(result, watched, self._resumed_at), hurry=True)
        return watched.text

    def _tell(self, first: str, *, hurry: bool) -> None:
        now = time.monotonic()
        if not hurry and now - self._told < TELL_EVERY:
            return
        self._told = now
        auto = AUTO + ", ".join(self._auto) if self._auto else ""
        lines = [line for line in (first, self._message, auto) if line]
        self._watched.text = "\n· ".join(lines)  # some show a line break as a space
        self._bar.tell(self._watched.text)

    def _draw_again(self, until: int) -> None:
        """The curve as far as it was trained before."""
        from ..trainers.report import read_log

        for line in read_log(self._watched.folder / "log.jsonl"):
            if line["step"] <= until:
                self._watched.curve.add(line["step"], line["loss"])


def summary(result: TrainingResult, watched: Watched, resumed_at: int) -> str:
    """How a training ended, in one line."""
    loss = watched.curve.smoothed
    at_loss = "" if loss is None else f", loss {loss:.4f}"
    if result.found:
        return f"found: trained before, {result.steps_done} steps{at_loss}"
    went_on = f", went on from step {resumed_at}" if resumed_at else ""
    if result.stopped:
        of = f" of {watched.total}" if watched.total > result.steps_done else ""
        return f"stopped at step {result.steps_done}{of}{at_loss}{went_on}"
    return f"trained {result.steps_done} steps{at_loss}{went_on}"


def in_words(seconds: float) -> str:
    """`"8 s"`, `"3 min"`, `"1 h 20 min"`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def grid(images: Sequence[Any]) -> Image:
    """Pictures as one, beside and below each other, each in a field as large as the largest."""
    from PIL import Image

    columns = next(n for n in range(1, len(images) + 1) if n * n >= len(images))
    rows = -(-len(images) // columns)
    width, height = (max(image.size[side] for image in images) for side in (0, 1))
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, image in enumerate(images):
        sheet.paste(image.convert("RGB"), (index % columns * width, index // columns * height))
    return sheet
