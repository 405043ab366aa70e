"""The trainings that nodes of this process run or ran, for the browser to look at and to ask.

Whoever asks names a training by an id of its own, never a folder: only what a node trains here can
be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..trainers.machine.control import REQUESTS, Control
from ..trainers.report import SMOOTHING

SHOW = "show"
"""The request of a page that was just loaded: show the newest pictures again."""

MOST_POINTS = 400
MOST_TRAININGS = 20


class Curve:
    """The loss of a training as points (step, loss, smoothed): all of them while they are few, then
    every second, every fourth, ...
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float]] = []
        self.smoothed: float | None = None
        self._stride = 1

    def add(self, step: int, loss: float) -> None:
        old = self.smoothed
        self.smoothed = loss if old is None else SMOOTHING * old + (1 - SMOOTHING) * loss
        if step % self._stride == 0:
            self.points.append((step, loss, self.smoothed))
        if len(self.points) > MOST_POINTS:
            self._stride *= 2
            self.points = [point for point in self.points if point[0] % self._stride == 0]


@dataclass
class Watched:
    """One training as a browser sees it.

    `folder`: the run's. `node`: the id of the node that trains, such as `"1:2"`; `workflow`: of the
    graph on the canvas, "" if there is none. `text`: what is shown below the bar. `asked`: what was
    asked of it since it began.
    """

    folder: Path
    node: str
    workflow: str
    running: bool = True
    step: int = 0
    total: int = 0
    text: str = ""
    curve: Curve = field(default_factory=Curve)
    asked: set[str] = field(default_factory=set)

    def place(self) -> dict[str, Any]:
        """Where it runs, and whether; ready for JSON."""
        return {"node": self.node, "workflow": self.workflow, "running": self.running}

    def status(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **self.place(),
            "step": self.step,
            "total": self.total,
            "text": self.text,
            "points": self.curve.points,
            "asked": sorted(self.asked),
        }

    def ask(self, request: str) -> None:
        """Pass a request on to the training.

        Raises:
            ValueError: there is no such request, or it does not train any more.
        """
        if request not in (*REQUESTS, SHOW):
            raise ValueError(f"a training cannot be asked to {request!r}")
        if not self.running:
            raise ValueError("this training has ended")
        self.asked.add(request)
        if request in REQUESTS:
            Control(self.folder).ask(request)

    def taken(self, request: str) -> bool:
        """Whether it was asked for since this was looked at last."""
        asked = request in self.asked
        self.asked.discard(request)
        return asked


_trainings: dict[str, Watched] = {}
"""By an id of their own; the newest last. Of each node of a graph, the newest alone."""


@contextmanager
def watched(node_id: str, folder: Path, workflow: str) -> Iterator[Watched]:
    """The training of a node, to be found from now on, also when it has ended."""
    training = Watched(folder, node_id, workflow)
    if node_id:
        for id, old in list(_trainings.items()):
            if (old.node, old.workflow) == (node_id, workflow):
                del _trainings[id]
        _trainings[uuid4().hex] = training
        for id in list(_trainings)[:-MOST_TRAININGS]:
            del _trainings[id]
    try:
        yield training
    finally:
        training.running = False


def answer(training_id: str, request: str) -> dict[str, Any]:
    """What the browser is told. No id: which trainings there are, the newest last. No request: how
    that training stands.

    Raises:
        LookupError: there is no such training here.
        ValueError: it cannot be asked that.
    """
    if not training_id:
        return {id: training.place() for id, training in _trainings.items()}
    training = _trainings.get(training_id)
    if training is None:
        raise LookupError(f"there is no training {training_id} here")
    if request:
        training.ask(request)
    return training.status()
