"""ControlNets at work, for the length of one drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..guidance import ControlUse

if TYPE_CHECKING:
    from ..loading import LivePipeline, Pipelines

TITLES: Mapping[str, str] = {
    "controlnet": "ControlNet",
    "union": "ControlNet-Union",
    "t2i-adapter": "T2I-Adapter",
}


@dataclass(frozen=True)
class Controls:
    """What is beside the denoiser.

    `kind`: one of `guidance.CONTROL_KINDS`, "" for nothing. `components`: what the diffusers
    pipeline is built with besides the base model (`{"controlnet": module}`).
    """

    kind: str = ""
    components: Mapping[str, Any] = field(default_factory=dict)
    uses: tuple[ControlUse, ...] = ()

    def arguments(
        self, pipeline: Any, size: tuple[int, int], rows: int, count: int
    ) -> dict[str, Any]:
        """What `pipeline` is called with besides the rest: control pictures fitted to `size`
        (width, height), one for each of `rows * count` drawn pictures, and how strong they are.
        """
        return {}


@contextmanager
def controlled(
    pipelines: Pipelines, live: LivePipeline, uses: Sequence[ControlUse]
) -> Iterator[Controls]:
    """The ControlNets of `uses` in memory; `live` and what is kept of them stay as they are.

    Raises:
        ValueError: one that does not fit the base model, or kinds that cannot work together.
    """
    yield Controls()
