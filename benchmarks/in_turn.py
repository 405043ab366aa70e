"""Generate beside a bare call, one after the other in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec


def drawing(pipelines: Pipelines, spec: PipelineSpec, sampling: Sampling) -> Callable[[], Any]:
    """Draws one picture as the node does: every step reported, a preview after each."""

    def draw() -> Any:
        previews: list[Any] = []
        picture = generate(
            pipelines,
            spec,
            sampling,
            on_step=lambda done, total: None,
            on_preview=previews.append,
        )[0]
        assert len(previews) == sampling.steps
        return picture

    return draw


def in_turn(ours: Callable[[], Any], plain: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Both draw, in turn, `rounds` times after one round that does not count."""
    ours(), plain()
    wall: dict[str, list[float]] = {"likeness": [], "diffusers": []}
    busy: dict[str, list[float]] = {"likeness": [], "diffusers": []}
    sides = [("likeness", ours), ("diffusers", plain)]
    for number in range(rounds):
        pictures = {}
        for name, draw in sides if number % 2 == 0 else reversed(sides):
            begun, begun_busy = time.perf_counter(), time.process_time()
            pictures[name] = draw().tobytes()
            wall[name].append(time.perf_counter() - begun)
            busy[name].append(time.process_time() - begun_busy)
        assert pictures["likeness"] == pictures["diffusers"], "the pixels differ"
    medians = {name: statistics.median(values) for name, values in wall.items()}
    processor = {name: statistics.median(values) for name, values in busy.items()}
    pairs = zip(wall["likeness"], wall["diffusers"], strict=True)
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        **medians,
        "ratio": medians["likeness"] / medians["diffusers"],
        "smallest": min(ratios),
        "largest": max(ratios),
        "processor": processor["likeness"] / processor["diffusers"],
    }
