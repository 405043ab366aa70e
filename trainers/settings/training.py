"""What every training can be told, in groups; which of it a method ignores, its node leaves out.

A number of 0 and the choice "auto" mean: as the family and the method need it (`defaults.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...pipelines.setting import check, setting
from .learning import PRODIGY, PRODIGY_LOWEST, SCHEDULE_FREE, Losses, Stepping


@dataclass(frozen=True)
class Pictures:
    """How pictures and captions become what the model sees."""

    flip: bool = setting(
        False,
        advanced=True,
        help="Mirror pictures at random. Not for faces, text or anything one-sided.",
    )
    buckets: bool = setting(
        True,
        advanced=True,
        help="Train wide pictures wide and tall ones tall, all of about the same area, instead of "
        "cutting them square.",
    )
    crop: str = setting(
        "center",
        choices=("center", "random"),
        advanced=True,
        help="Which part of a picture is kept that does not fit. random: one of four, a new one "
        "each time.",
    )
    caption_dropout: float = setting(
        0.0,
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
        help="Share of pictures that are shown without their caption.",
    )
    shuffle_tags: bool = setting(
        False,
        advanced=True,
        help="Shuffle the comma-separated parts of captions each time, all but the first.",
    )
    cache: str = setting(
        "auto",
        choices=("auto", "memory", "disk"),
        advanced=True,
        help="Where encoded pictures and captions are kept. auto: in memory while they are small.",
        decides=False,
    )


@dataclass(frozen=True)
class Machine:
    """What is paid to make it fit, and to make it fast."""

    precision: str = setting(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        advanced=True,
        help="Numbers used in the forward pass. auto: on a GPU bfloat16 where it has it; on a "
        "CPU what is faster, by measurement.",
    )
    gradient_checkpointing: str = setting(
        "auto",
        choices=("auto", "on", "off"),
        advanced=True,
        help="Compute things twice instead of keeping them: much less memory, a third slower. "
        "auto: only on a GPU where it would not fit.",
        decides=False,
    )
    attention: str = setting(
        "auto",
        choices=("auto", "fused", "math"),
        advanced=True,
        help="How attention is computed. auto: what is faster to train with on this device, by "
        "measurement.",
    )


@dataclass(frozen=True)
class Validation:
    """A loss that can be compared from step to step, and stopping when it no longer falls."""

    validate_every: int = setting(
        0,
        low=0,
        high=1_000_000,
        advanced=True,
        help="Steps between measurements of the loss on a fixed batch with fixed noise. 0: none.",
    )
    early_stop: bool = setting(
        False,
        advanced=True,
        help="Stop when that loss has settled (DVAR, arXiv 2302.04841).",
    )
    early_stop_window: int = setting(
        310,
        low=1,
        high=1_000_000,
        advanced=True,
        help="Steps over which the loss has to have settled; never fewer than 8 measurements.",
    )
    early_stop_threshold: float = setting(
        0.4,
        low=0.001,
        high=1.0,
        step=0.05,
        advanced=True,
        help="It has settled when its variance in the window is below this share of its variance "
        "since the first step. Lower stops later.",
    )


@dataclass(frozen=True)
class ExpertSettings(Stepping, Losses, Pictures, Machine, Validation):
    """All that the node Training Settings offers."""

    def __post_init__(self) -> None:
        check(self)
        if self.early_stop and not self.validate_every:
            raise ValueError(
                "early_stop needs a loss to look at: set validate_every to, say, 25 steps"
            )
        if self.optimizer == SCHEDULE_FREE and self.schedule != "constant":
            raise ValueError(
                f"the optimizer is {SCHEDULE_FREE!r} and the schedule {self.schedule!r}: it takes "
                "averages instead of a schedule; set schedule to 'constant' (warmup_steps may stay)"
            )
        if self.optimizer == SCHEDULE_FREE and self.ema_decay:
            raise ValueError(
                f"ema_decay is {self.ema_decay:g} but {SCHEDULE_FREE!r} averages the weights by "
                "itself; set ema_decay to 0"
            )


EXPERT_GROUPS = (Stepping, Losses, Pictures, Machine, Validation)
"""In the order of the node."""


@dataclass(frozen=True)
class TrainingSettings(ExpertSettings):
    """How to train, whatever the method. Together with pictures, model and method it decides every
    bit of the result.
    """

    steps: int = setting(
        0,
        low=0,
        high=1_000_000,
        help="Optimiser steps, each of which looks at batch_size pictures. 0: auto, by the number "
        "of pictures.",
    )
    batch_size: int = setting(
        1,
        low=1,
        high=1024,
        help="Your pictures per step; class pictures come on top. Several processes share them.",
    )
    learning_rate: float = setting(
        0.0,
        low=0.0,
        high=10.0,
        step=1e-7,
        help="Step size. Too high burns the model, too low learns nothing. 0: auto, what is usual "
        "for the model and the method.",
    )
    text_learning_rate: float = setting(
        0.0,
        low=0.0,
        high=10.0,
        step=1e-7,
        advanced=True,
        help="Step size of the text side. 0: auto; the same as learning_rate, if that is given.",
    )
    resolution: int = setting(
        0,
        low=0,
        high=8192,
        step=8,
        help="Side in pixels of a square picture that is trained; other shapes have the same area. "
        "0: the model's own.",
    )
    seed: int = setting(0, low=0, high=2**63 - 1, help="The same seed gives the same result.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} but steps is {self.steps}: "
                "the learning rate would never arrive; warm up for fewer steps"
            )
        if self.optimizer == PRODIGY:
            self._check_prodigy()
        if self.resolution % 8:
            raise ValueError(
                f"resolution is {self.resolution}; it must be a multiple of 8, "
                f"such as {self.resolution // 8 * 8 or 8}"
            )

    def _check_prodigy(self) -> None:
        """It multiplies the step size that it finds, one for all weights, by the learning rate."""
        if 0 < self.learning_rate < PRODIGY_LOWEST:
            raise ValueError(
                f"learning_rate is {self.learning_rate:g}, with which prodigy would multiply the "
                "step size that it finds by itself; leave it at 0 (auto), which is 1"
            )
        if self.text_learning_rate not in (0, self.learning_rate or 1.0):
            raise ValueError(
                f"text_learning_rate is {self.text_learning_rate:g}, but prodigy finds one step "
                "size for all weights; leave it at 0 (auto)"
            )
