"""The processes that train one run together, as `accelerate launch` or `torchrun` start them.

Each computes its share of every batch; gradients are averaged, so that all of them take the same
steps, and the same steps as one process with the whole batch, but for the order in which float32
numbers are added: 5e-7 of the loss and 6e-7 of the weights after six steps of the bundled tiny
model, more where the processes have other numbers of threads. Only the first writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_WAIT = timedelta(hours=1)
"""For processes that still live but do not come; one that died is noticed at once. The first may
draw pictures meanwhile.
"""


@dataclass(frozen=True)
class Team:
    """This process, number `rank` of `size`."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` rows of a batch this process computes.

        Raises:
            ValueError: they cannot be shared out evenly.
        """
        if count % self.size:
            raise ValueError(
                f"batch_size is {count}, which {self.size} processes cannot share evenly; "
                f"use a multiple of {self.size}, or another number of processes"
            )
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """The mean over all processes, in place, of tensors that every one of them has."""
        if self.size == 1 or not tensors:
            return
        import torch
        import torch.distributed as distributed

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def hand_on(self, tensors: Sequence[Tensor]) -> None:
        """The first process's numbers for all, in place, of tensors that every one of them has."""
        if self.size == 1:
            return
        import torch.distributed as distributed

        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)

    def mean(self, *numbers: float) -> list[float]:
        """Each number averaged over all processes."""
        if self.size == 1:
            return list(numbers)
        import torch

        # float32 is all that every device has
        summed = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        self.average([summed])
        return [float(number) for number in summed]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return (self.size > 1 and self.mean(float(flag))[0] > 0) or flag

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            import torch.distributed as distributed

            distributed.barrier()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process goes through the block before all others, which find what it made."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def join_team(device: str = "") -> Team:
    """The team that the environment describes, joined once per process; alone without one.

    `device`: "" for the best one; of several processes on one machine each takes its own GPU.
    """
    import torch

    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team(device=device or str(best))
    from accelerate import PartialState

    state = PartialState(cpu=(device or str(best)) == "cpu", timeout=LONGEST_WAIT)
    return Team(state.process_index, state.num_processes, str(state.device))
