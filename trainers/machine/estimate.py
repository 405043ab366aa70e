"""How much memory and time a training will take: told early, refusing nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ...pipelines.loading import LivePipeline
    from ..methods import ParameterGroup

STATE_BYTES = {
    "adamw": 8.0,
    "adamw 8-bit": 2.1,
    "adafactor": 0.1,
    "prodigy": 16.0,
    "schedule-free adamw": 8.0,
    "lion": 4.0,
}
"""Bytes that an optimiser keeps for each float32 parameter."""


@dataclass(frozen=True)
class Estimate:
    """Bytes, by what they are for; what forward and backward keep in between comes on top."""

    weights: int
    learned: int
    gradients: int
    optimizer: int
    average: int

    @property
    def total(self) -> int:
        return self.weights + self.learned + self.gradients + self.optimizer + self.average

    def __str__(self) -> str:
        parts = [
            f"{gigabytes(self.weights)} model",
            f"{gigabytes(self.learned)} learned",
            f"{gigabytes(self.gradients + self.optimizer + self.average)} optimiser",
        ]
        return f"{gigabytes(self.total)} before the first picture ({', '.join(parts)})"


def estimate(
    live: LivePipeline, groups: Iterable[ParameterGroup], settings: TrainingSettings
) -> Estimate:
    """From shapes alone, once a method is attached. What rests (`live.at_rest`) does not count."""
    weights = [weight for group in groups for weight in group.parameters]
    learned = sum(map(_bytes, weights))
    count = sum(weight.numel() for weight in weights)
    mine = {weight.data_ptr() for weight in weights}
    frozen = {
        weight.data_ptr(): _bytes(weight)
        for name, module in live.pipeline.components.items()
        if hasattr(module, "parameters") and name not in live.at_rest
        for weight in module.parameters()
        if weight.data_ptr() not in mine
    }
    return Estimate(
        weights=sum(frozen.values()),
        learned=learned,
        gradients=learned,
        optimizer=round(count * STATE_BYTES.get(settings.optimizer, 8.0)),
        average=count * 4 if settings.ema_decay else 0,
    )


def free_bytes(device: str) -> int:
    """What is left on the device, besides what this process has taken already."""
    import torch

    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return psutil.virtual_memory().available


def peak_bytes(device: str) -> int:
    """The most that this process has held so far."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", 0) or _high_water_mark() or memory.rss)


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """`"3:20"` or `"1:03:20"`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _high_water_mark() -> int:
    """Linux: the process's largest resident size."""
    from pathlib import Path

    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
