"""What an adapter does to one layer, whatever its method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Change(Protocol):
    """One layer's change, as a file holds it: LoRA, LoHa, LoKr, DoRA, full difference, ...

    `bias`: what is added to the layer's bias at scale 1, [out], or None.
    """

    bias: torch.Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that it changes."""
        ...

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """ΔW at scale 1, float32, on `weight`'s device, in its shape.

        `weight` is the pristine W0 in any dtype; most methods look at its device alone.
        """
        ...

    def low_rank(self) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """(down [rank, in, ...], up [out, rank, ...], factor) with ΔW = factor · up @ down, when
        that is all it does; None otherwise.
        """
        ...
