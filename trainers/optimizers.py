"""The optimisers we know, in one table, and the learning rate's way over a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .method import ParameterGroup
    from .settings import TrainingSettings


def _adamw(groups: list[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, arXiv 1711.05101."""
    import torch

    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainingSettings], Any]] = {"adamw": _adamw}


def make_optimizer(
    groups: Sequence[ParameterGroup], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """The optimiser over `groups`, each with its own learning rate. Empty groups are left out."""
    rates = [
        {"params": list(group.parameters), "lr": group_rate(group, settings)}
        for group in groups
        if group.parameters
    ]
    return OPTIMIZERS[settings.optimizer](rates, settings)


def group_rate(group: ParameterGroup, settings: TrainingSettings) -> float:
    """The text side may have a learning rate of its own."""
    if group.side == "text" and settings.text_learning_rate:
        return settings.text_learning_rate
    return settings.learning_rate


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over the steps; warm-up in front of any of them."""
    from diffusers.optimization import get_scheduler

    name = settings.schedule
    if name == "constant" and settings.warmup_steps:
        name = "constant_with_warmup"
    return get_scheduler(
        name,
        optimizer=optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=settings.steps,
    )
