"""The one training loop of all stages: cosine rate, averaged weights, checkpoints, resume."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CHECKPOINT_EVERY = 200  # steps


def seeded(*numbers: int) -> torch.Generator:
    """A generator for these numbers: a resumed run draws what an unbroken one would."""
    import torch

    return torch.Generator().manual_seed(hash(numbers) % 2**63)


def save_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside `path`, then renames: a reader never sees half a file."""
    beside = path.with_name(path.name + ".part")
    write(beside)
    beside.replace(path)


def note(work: Path, stage: str, **facts: object) -> None:
    """Adds facts (steps, seconds, measurements) to `<stage>.json`, which the README quotes."""
    path = work / f"{stage}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    save_whole(path, lambda p: p.write_text(json.dumps(known | facts, indent=1) + "\n"))


def train(
    work: Path,
    stage: str,
    modules: nn.ModuleDict,
    loss: Callable[[nn.ModuleDict, torch.Generator], Tensor],
    *,
    steps: int,
    rate: float,
    minutes: float | None = None,
    decay: float = 0.01,
    warm_up: int = 100,
    averaging: float = 0.999,
    checkpoint_every: int = CHECKPOINT_EVERY,
) -> nn.ModuleDict:
    """Trains what in `modules` requires a gradient and returns its moving average.

    Stops after `minutes` if given; called again, it goes on from its checkpoint until `steps`.
    """
    import torch

    live = [p for p in modules.parameters() if p.requires_grad]
    average = copy.deepcopy(modules).requires_grad_(False)
    followers = [
        a
        for a, p in zip(average.parameters(), modules.parameters(), strict=True)
        if p.requires_grad
    ]
    groups = [
        {"params": [p for p in live if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in live if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    checkpoint, step, seconds = work / f"{stage}.pt", 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        modules.load_state_dict(saved["modules"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, seconds = saved["step"], saved["seconds"]

    def save() -> None:
        state = {"modules": modules.state_dict(), "average": average.state_dict(), "step": step}
        state |= {"optimizer": optimizer.state_dict(), "seconds": seconds}
        save_whole(checkpoint, lambda p: torch.save(state, p))
        note(work, stage, steps=step, seconds=round(seconds))

    began, before, recent = time.monotonic(), seconds, []
    while step < steps and (minutes is None or seconds - before < minutes * 60):
        for group in optimizer.param_groups:
            group["lr"] = (
                rate
                * min(1, (step + 1) / warm_up)
                * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
            )
        value = loss(modules, seeded(0, step))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        optimizer.step()
        step += 1
        torch._foreach_lerp_(
            followers, [p.detach() for p in live], 1 - min(averaging, (1 + step) / (10 + step))
        )
        seconds = before + time.monotonic() - began
        recent.append(value.item())
        if step % 50 == 0:
            with (work / f"{stage}.log").open("a") as log:
                log.write(f"{step} {seconds:.0f}s loss {sum(recent) / len(recent):.5f}\n")
            recent.clear()
        if step % checkpoint_every == 0:
            save()
    save()
    return average.eval()
