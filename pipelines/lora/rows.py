"""One layer of a file that is part of ours, or several of ours: changes by output rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .changes import Change, LoraPair, part_of, same_size

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class RowsOf:
    """Some rows of a change that can only be computed whole, and that does not look at W0."""

    whole: Change
    start: int
    stop: int
    like: tuple[int, ...] = ()
    needs_weight = False

    @property
    def bias(self) -> torch.Tensor | None:
        return part_of(self.whole.bias, self.start, self.stop)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.like or (self.stop - self.start, *self.whole.shape[1:])

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        rows = self.whole.delta(weight)[self.start : self.stop]
        return rows.reshape(self.shape).clone()

    def low_rank(self) -> None:
        return None

    def rows(self, start: int, stop: int) -> RowsOf:
        return RowsOf(self.whole, self.start + start, self.start + stop)

    def shaped(self, shape: tuple[int, ...]) -> RowsOf | None:
        return replace(self, like=shape) if same_size(shape, self.shape) else None


@dataclass(frozen=True, eq=False)
class Assembled:
    """Several changes, each of some rows of our layer; rows without one stay as they are.

    `parts`: change, first row, one past the last row.
    """

    parts: tuple[tuple[Change, int, int], ...]
    shape: tuple[int, ...]

    @property
    def needs_weight(self) -> bool:
        return any(change.needs_weight for change, _, _ in self.parts)

    @property
    def bias(self) -> torch.Tensor | None:
        import torch

        if all(change.bias is None for change, _, _ in self.parts):
            return None
        bias = torch.zeros(self.shape[0])
        for change, start, stop in self.parts:
            if change.bias is not None:
                bias[start:stop] = change.bias.float().cpu()
        return bias

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        delta = torch.zeros(self.shape, dtype=torch.float32, device=weight.device)
        for change, start, stop in self.parts:
            delta[start:stop] = change.delta(weight[start:stop])
        return delta

    def low_rank(self) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        pair = _one_pair(self.parts, self.shape)
        return pair.low_rank() if pair else None

    def rows(self, start: int, stop: int) -> Change:
        raise ValueError("a layer put together from parts is not taken apart again")

    def shaped(self, shape: tuple[int, ...]) -> Assembled | None:
        return self if shape == self.shape else None


def assemble(parts: Sequence[tuple[Change, int, int]], shape: tuple[int, ...]) -> Change:
    """One change of a weight of `shape` from changes of its rows; a plain LoRA if all are."""
    if len(parts) == 1 and parts[0][1:] == (0, shape[0]):
        return parts[0][0]
    return _one_pair(parts, shape) or Assembled(tuple(parts), shape)


def _one_pair(parts: Sequence[tuple[Change, int, int]], shape: tuple[int, ...]) -> LoraPair | None:
    """LoRAs of some rows as one LoRA of all: their ranks side by side, unless they share `down`."""
    import torch

    pairs = [(change, start, stop) for change, start, stop in parts if isinstance(change, LoraPair)]
    if len(pairs) < len(parts) or any(pair.mid is not None for pair, _, _ in pairs):
        return None
    first = pairs[0][0]
    bias = Assembled(tuple(parts), shape).bias
    kernel = [1] * (len(shape) - 2)
    if all(pair.down is first.down and pair.alpha == first.alpha for pair, _, _ in pairs):
        up = torch.zeros(shape[0], first.rank, *kernel, dtype=first.up.dtype)
        for pair, start, stop in pairs:
            up[start:stop] = pair.up
        return LoraPair(first.down, up, first.alpha, bias=bias)
    rank = sum(pair.rank for pair, _, _ in pairs)
    up = torch.zeros(shape[0], rank, *kernel)
    done = 0
    for pair, start, stop in pairs:
        up[start:stop, done : done + pair.rank] = pair.up.float() * pair.factor
        done += pair.rank
    down = torch.cat([pair.down.float() for pair, _, _ in pairs])
    return LoraPair(down, up, float(rank), bias=bias)
