"""Telling how a training goes: to whoever watches (`Report`), and to `log.jsonl` for later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import NothingLearned

if TYPE_CHECKING:
    from PIL.Image import Image

SMOOTHING = 0.95
"""Share of the old value in the smoothed loss: an average over about the last 20 steps."""


class Report(Protocol):
    """Whoever watches a training. What any of these raises stops it, with everything saved."""

    def started(self, total: int, resumed_at: int) -> None:
        """Training begins, or goes on, at step `resumed_at` of `total`."""
        ...

    def step(
        self,
        step: int,
        total: int,
        loss: float,
        parts: Mapping[str, float],
        lr: float,
        seconds_left: float,
    ) -> None:
        """Step number `step` (the first is 1) is done."""
        ...

    def sample(self, step: int, images: Sequence[Image]) -> None:
        """Preview pictures of the model as it is after `step`."""
        ...

    def preparing(self, what: str, done: int, total: int) -> None:
        """Work before the first step, such as class pictures: `done` of `total` are there."""
        ...

    def message(self, text: str) -> None:
        """Something worth a line."""
        ...

    def should_stop(self) -> bool:
        """Whether to stop before the next step, with everything saved."""
        ...


class QuietReport:
    """Watches without a word."""

    def started(self, total: int, resumed_at: int) -> None:
        pass

    def step(
        self,
        step: int,
        total: int,
        loss: float,
        parts: Mapping[str, float],
        lr: float,
        seconds_left: float,
    ) -> None:
        pass

    def sample(self, step: int, images: Sequence[Image]) -> None:
        pass

    def preparing(self, what: str, done: int, total: int) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def should_stop(self) -> bool:
        return False


class Muted(QuietReport):
    """Says nothing, but asks to stop when `report` does: for all but the first of several
    processes.
    """

    def __init__(self, report: Report) -> None:
        self.should_stop = report.should_stop


class Attentive(QuietReport):
    """Passes everything on to `report`, and lets a stop that is asked for end the work before the
    first step as well.

    `stop_asked`: whether somebody else asks to stop.
    """

    def __init__(self, report: Report, stop_asked: Callable[[], bool]) -> None:
        self._report, self._stop_asked = report, stop_asked
        self.started, self.step, self.sample = report.started, report.step, report.sample
        self.message, self.should_stop = report.message, report.should_stop

    def preparing(self, what: str, done: int, total: int) -> None:
        """Raises:
        NothingLearned: a stop was asked for.
        """
        self._report.preparing(what, done, total)
        if self.should_stop() or self._stop_asked():
            raise nothing_learned()


def nothing_learned() -> NothingLearned:
    """What to raise where a stop was asked for too early."""
    return NothingLearned(
        "stopped before the first step, so there is nothing yet that was learned; what was "
        "prepared is kept. Start it again and it goes on from there"
    )


@dataclass(frozen=True)
class LogLine:
    """One step in `log.jsonl`. All but `seconds` (wall-clock) repeats bit for bit. `validation`:
    the loss on the fixed batch, None where it was not measured.
    """

    step: int
    loss: float
    smoothed: float
    parts: dict[str, float]
    lr: dict[str, float]
    gradient: float
    validation: float | None
    seconds: float


class Follower(Protocol):
    """Who keeps what `log.jsonl` keeps somewhere else."""

    def started(self, step: int) -> None:
        """Lines after `step` come next; those that came before for the same steps do not count."""
        ...

    def log(self, line: LogLine) -> None: ...


class Log:
    """`log.jsonl`: one line per step, appended as it happens. `path` None: not written.

    `follower`: is told each line too, once it is written.
    """

    def __init__(self, path: Path | None, follower: Follower | None = None) -> None:
        self.path = path
        self._follower = follower
        self._smoothed: float | None = None

    def go_on_from(self, step: int) -> None:
        """Drop the lines after `step`, which are about to be trained again, and a last line cut
        short by a crash.
        """
        from ..pipelines.files import atomic_write

        if self.path is None:
            return
        lines = [line for line in read_log(self.path) if line["step"] <= step]
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(b"".join(_encode(line) for line in lines))
        self._smoothed = lines[-1]["smoothed"] if lines else None
        if self._follower is not None:
            self._follower.started(step)

    def smooth(self, loss: float) -> float:
        """The running average of the loss, this one included."""
        old = self._smoothed
        self._smoothed = loss if old is None else SMOOTHING * old + (1 - SMOOTHING) * loss
        return self._smoothed

    def append(self, line: LogLine) -> None:
        if self.path is None:
            return
        with self.path.open("ab") as stream:
            stream.write(_encode(vars(line)))
        if self._follower is not None:
            self._follower.log(line)

    def flush_to_disk(self) -> None:
        """Before a checkpoint, so that the log is never behind it."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            os.fsync(stream.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`; none if there is no log yet. A line cut short is left out."""
    lines: list[dict[str, Any]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
