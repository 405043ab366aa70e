"""The contract of a training method: attach, loss, save. See methods.py for those there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from ..families import Conditioning
    from ..pipelines.loading import LivePipeline
    from .objective import Batch, Objective


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate. `side` is `"denoiser"` or `"text"`."""

    side: str
    parameters: tuple[Parameter, ...]


class Method(Protocol):
    """One way of learning, for one run; made with its own settings."""

    name: str
    """Stable id, written into run folders."""

    settings_type: type
    """The dataclass of its settings (see settings.py)."""

    def __init__(self, settings: Any) -> None: ...

    def attach(
        self, live: LivePipeline, objective: Objective, seed: int
    ) -> Sequence[ParameterGroup]:
        """Put what learns onto the shared live models; its randomness comes from `seed` alone.

        Raises:
            ValueError: the models have nothing for it to hold on to. Nothing is left attached then.
        """
        ...

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss to learn from, and its parts by name for the log."""
        ...

    def save(self, folder: Path, name: str, metadata: Mapping[str, str]) -> list[Path]:
        """Write what was learned to `folder`, called `name`, as other programs read it."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned so far, for a checkpoint."""
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


class PromptEncoder:
    """Captions → conditioning; each distinct one is encoded once per batch, if frozen once ever."""

    def __init__(self, live: LivePipeline, *, trains: bool) -> None:
        self._live = live
        self._trains = trains
        self._cache: dict[str, Conditioning] = {}

    def __call__(self, captions: Sequence[str]) -> Conditioning:
        """The conditioning of one batch, in the order of `captions`."""
        import torch

        distinct = list(dict.fromkeys(captions))
        rows = torch.tensor([distinct.index(caption) for caption in captions])
        if self._trains:
            return _pick(self._live.family.encode_text(self._live.pipeline, distinct), rows)
        for caption in distinct:
            if caption not in self._cache:
                with torch.no_grad():
                    self._cache[caption] = self._live.family.encode_text(
                        self._live.pipeline, [caption]
                    )
        return _join([self._cache[caption] for caption in captions])


def _pick(conditioning: Conditioning, rows: Tensor) -> Conditioning:
    from ..families import Conditioning

    rows = rows.to(conditioning.embeddings.device)
    extra = tuple((name, tensor[rows]) for name, tensor in conditioning.extra)
    return Conditioning(conditioning.embeddings[rows], extra)


def _join(parts: Sequence[Conditioning]) -> Conditioning:
    import torch

    from ..families import Conditioning

    names = [name for name, _ in parts[0].extra]
    extra = tuple(
        (name, torch.cat([part.extra[index][1] for part in parts]))
        for index, name in enumerate(names)
    )
    return Conditioning(torch.cat([part.embeddings for part in parts]), extra)
