"""Which pictures are next: every one as often as it is repeated before any comes again, in a new
random order each time, and only pictures of one size together.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..seeds import generator_for

if TYPE_CHECKING:
    from torch import Tensor


class Order:
    """The order of one run; batch `position` (from 0) is the same whoever asks, and when.

    `groups`: of each size, the numbers of its pictures, each as often as it is repeated. Batches of
    a size follow one another through its pictures; one that reaches their end goes on with their
    next order. An epoch has as many batches of each size as its share of all pictures makes,
    shuffled.
    """

    def __init__(
        self, groups: Sequence[Sequence[int]], batch_size: int, seed: int, what: str
    ) -> None:
        assert all(groups), "a size without pictures is no group"
        self._groups = [array("L", group) for group in groups]
        self._batch_size, self._seed, self._what = batch_size, seed, what
        self._epochs: dict[int, tuple[array[int], array[int]]] = {}
        self._passes: dict[tuple[int, int], Tensor] = {}

    def batch(self, position: int) -> tuple[int, list[int]]:
        """(which group, which pictures) of a batch."""
        epoch = self._epoch_of(position)
        groups, turns = self._plan(epoch)
        place = position - self._batches_before(epoch)
        group, turn = groups[place], turns[place]
        numbers = self._groups[group]
        chosen = []
        for item in range(turn * self._batch_size, (turn + 1) * self._batch_size):
            order = self._pass(group, item // len(numbers))
            chosen.append(numbers[int(order[item % len(numbers)])])
        return group, chosen

    def _batches_before(self, epoch: int) -> int:
        return sum(self._turns_before(group, epoch) for group in range(len(self._groups)))

    def _turns_before(self, group: int, epoch: int) -> int:
        """How many batches of a group there were before an epoch: rounded down, so that what does
        not fill a batch is carried over.
        """
        return epoch * len(self._groups[group]) // self._batch_size

    def _epoch_of(self, position: int) -> int:
        """The last epoch that begins at or before a batch, found by halving."""
        low, high = 0, 1
        while self._batches_before(high) <= position:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            if self._batches_before(middle) <= position:
                low = middle
            else:
                high = middle
        return low

    def _plan(self, epoch: int) -> tuple[array[int], array[int]]:
        """Group and number of its batch, of every batch of an epoch. The current one is kept."""
        if epoch not in self._epochs:
            first = [self._turns_before(group, epoch) for group in range(len(self._groups))]
            after = [self._turns_before(group, epoch + 1) for group in range(len(self._groups))]
            groups = array("L")
            for group, (begin, end) in enumerate(zip(first, after, strict=True)):
                groups.extend([group] * (end - begin))
            if len(self._groups) > 1:
                # A group's batches stay in their order, only the groups are mixed.
                drawn = self._drawn(len(groups), "sizes", epoch)
                groups = array("L", [groups[int(place)] for place in drawn])
            turns = array("L")
            for group in groups:
                turns.append(first[group])
                first[group] += 1
            self._epochs = {epoch: (groups, turns)}
        return self._epochs[epoch]

    def _pass(self, group: int, number: int) -> Tensor:
        """The order of a group's pictures the `number`th time; the last two are kept."""
        key = (group, number)
        if key not in self._passes:
            self._passes = {
                old: kept
                for old, kept in self._passes.items()
                if old[0] != group or abs(old[1] - number) == 1
            }
            self._passes[key] = self._drawn(len(self._groups[group]), group, number)
        return self._passes[key]

    def _drawn(self, count: int, *what: int | str) -> Tensor:
        import torch

        draw = generator_for(self._seed, "order", self._what, *what)
        return torch.randperm(count, generator=draw)
