"""IP-Adapters at work, for the length of one drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..guidance import ReferenceUse
from ..spec import LoraUse

if TYPE_CHECKING:
    from ..loading import LivePipeline, Pipelines


class References:
    """IP-Adapters that are on the denoiser right now."""

    def arguments(self, pipeline: Any) -> dict[str, Any]:
        """What `pipeline` is called with besides the rest: embeddings of the pictures, masks."""
        return {}

    def before_step(self, step: int, total: int) -> None:
        """Be told that step `step` of `total`, counted from 0, comes next."""


def reference_loras(uses: Sequence[ReferenceUse]) -> tuple[LoraUse, ...]:
    """The LoRAs that adapters bring along (FaceID)."""
    return ()


@contextmanager
def referenced(
    pipelines: Pipelines,
    live: LivePipeline,
    uses: Sequence[ReferenceUse],
    size: tuple[int, int],
    guidance: float,
) -> Iterator[References]:
    """The adapters of `uses` on the denoiser of `live`, which is as before when the block ends.

    Raises:
        ValueError: an adapter that does not fit the base model.
    """
    yield References()
