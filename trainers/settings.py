"""Every training setting, written once: its default, bounds and help.

Node widgets, `run.json` and the command line's help are all made from these fields (`describe`),
and the trainer is handed the whole object: nothing is copied by hand.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

SettingsType = TypeVar("SettingsType")


@dataclass(frozen=True)
class Setting:
    """One setting as a widget needs it: its Python type, or `choices` for a drop-down."""

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    multiline: bool = False


def setting(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] = (),
    advanced: bool = False,
    multiline: bool = False,
) -> Any:
    """A dataclass field that knows its bounds and its help."""
    facts = {
        "help": help,
        "low": low,
        "high": high,
        "step": step,
        "choices": choices,
        "advanced": advanced,
        "multiline": multiline,
    }
    return field(default=default, metadata=facts)


def describe(settings: Any) -> tuple[Setting, ...]:
    """The settings of a settings class (or object), in order."""
    kinds = get_type_hints(settings if isinstance(settings, type) else type(settings))
    return tuple(
        Setting(name=each.name, kind=kinds[each.name], default=each.default, **each.metadata)
        for each in fields(settings)
        if each.default is not MISSING
    )


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as JSON-ready values."""
    return asdict(settings)


def from_dict(settings_type: type[SettingsType], values: dict[str, Any]) -> SettingsType:
    """The inverse of `to_dict`; settings that are absent take their default.

    Raises:
        ValueError: an unknown setting, or a value out of bounds.
    """
    known = [each.name for each in fields(settings_type)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"unknown {settings_type.__name__} {', '.join(map(repr, unknown))}; "
            f"known: {', '.join(known)}"
        )
    return settings_type(**values)


def check(settings: Any) -> None:
    """Types and bounds of every field. An int given for a float becomes one, so that 1 and 1.0 are
    the same run.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    for each in describe(settings):
        value = getattr(settings, each.name)
        if each.kind is float and type(value) is int:
            value = float(value)
            object.__setattr__(settings, each.name, value)
        if type(value) is not each.kind:
            raise ValueError(
                f"{each.name} is {value!r} ({type(value).__name__}); give it a {each.kind.__name__}"
            )
        if each.choices and value not in each.choices:
            raise ValueError(f"{each.name} is {value!r}; choose one of {', '.join(each.choices)}")
        if each.kind in (int, float):
            _check_bounds(each, value)


def _check_bounds(each: Setting, value: float) -> None:
    low, high = each.low, each.high
    if not math.isfinite(value) or (low is not None and value < low):
        raise ValueError(f"{each.name} is {value}; it must be a number of at least {low}")
    if high is not None and value > high:
        raise ValueError(f"{each.name} is {value}; it may be at most {high}")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train, whatever the method."""

    steps: int = setting(
        500, low=1, high=1_000_000, help="Optimiser steps. Each step looks at batch_size pictures."
    )
    batch_size: int = setting(
        1, low=1, high=1024, help="Your pictures per step; class pictures come on top."
    )
    learning_rate: float = setting(
        1e-4,
        low=0.0,
        high=10.0,
        step=1e-5,
        help="Step size. Too high burns the model, too low learns nothing.",
    )
    text_learning_rate: float = setting(
        0.0,
        low=0.0,
        high=10.0,
        step=1e-5,
        help="Step size of the text side. 0: the same as learning_rate.",
    )
    resolution: int = setting(
        0,
        low=0,
        high=8192,
        step=8,
        help="Side in pixels that pictures are scaled and cropped to. 0: the model's own.",
    )
    seed: int = setting(0, low=0, high=2**63 - 1, help="The same seed gives the same LoRA.")
    flip: bool = setting(
        False, help="Mirror pictures at random. Not for faces, text or anything one-sided."
    )
    optimizer: str = setting("adamw", choices=("adamw",), advanced=True, help="How to step.")
    schedule: str = setting(
        "constant",
        choices=("constant", "cosine", "linear"),
        advanced=True,
        help="How the learning rate moves: it stays, or falls to 0 at the last step.",
    )
    warmup_steps: int = setting(
        0, low=0, high=100_000, advanced=True, help="Steps over which the learning rate rises."
    )
    weight_decay: float = setting(
        0.0, low=0.0, high=1.0, step=0.001, advanced=True, help="Pull of the weights to 0."
    )
    gradient_clip: float = setting(
        1.0,
        low=0.0,
        high=1000.0,
        step=0.1,
        advanced=True,
        help="Longest gradient allowed; longer ones are shortened. 0: no limit.",
    )
    accumulation: int = setting(
        1,
        low=1,
        high=1024,
        advanced=True,
        help="Batches per step: a larger batch in the memory of a small one.",
    )
    precision: str = setting(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        advanced=True,
        help="Numbers used in the forward pass. auto: bfloat16 where the device is fast at it.",
    )
    snr_gamma: float = setting(
        5.0,
        low=0.0,
        high=100.0,
        step=0.5,
        advanced=True,
        help="Min-SNR weighting (arXiv 2303.09556): evens out the noise levels. 0: off.",
    )
    checkpoint_every: int = setting(
        200,
        low=0,
        high=1_000_000,
        advanced=True,
        help="Steps between checkpoints, from which a killed run goes on. 0: only when stopped.",
    )
    sample_every: int = setting(
        0, low=0, high=1_000_000, help="Steps between preview pictures. 0: none."
    )
    sample_prompt: str = setting(
        "", multiline=True, help="Prompt of the preview pictures. Empty: the first caption."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.learning_rate == 0 and self.text_learning_rate == 0:
            raise ValueError("learning_rate is 0, so nothing would be learned; try 0.0001")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} but steps is {self.steps}: "
                "the learning rate would never arrive; warm up for fewer steps"
            )
        if self.resolution % 8:
            raise ValueError(
                f"resolution is {self.resolution}; it must be a multiple of 8, "
                f"such as {self.resolution // 8 * 8 or 8}"
            )


TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "attention + feed-forward": ("attention", "feed-forward"),
    "everything": ("attention", "feed-forward", "convolution"),
}
"""What a LoRA may change, by the name in the drop-down. A group that a family lacks is left out."""


@dataclass(frozen=True)
class LoraSettings:
    """The shape of a LoRA (arXiv 2106.09685): ΔW = alpha / rank * up @ down."""

    rank: int = setting(
        16, low=1, high=1024, help="How much it can remember, and how large its file is."
    )
    alpha: float = setting(
        0.0,
        low=0.0,
        high=4096.0,
        advanced=True,
        help="Strength: the LoRA acts times alpha / rank. 0: the same as rank.",
    )
    dropout: float = setting(
        0.0,
        low=0.0,
        high=0.95,
        step=0.05,
        advanced=True,
        help="Share of the LoRA's inputs that are blanked at random while training.",
    )
    targets: str = setting(
        "everything", choices=tuple(TARGETS), help="Which layers learn. More layers learn faster."
    )
    train_text_encoder: bool = setting(
        True,
        help="Let the text side learn too. Needed to keep your subject and its class apart.",
    )
    start: str = setting(
        "kaiming",
        choices=("kaiming", "gaussian"),
        advanced=True,
        help="Random numbers that the LoRA starts from; it always starts as no change.",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def strength(self) -> float:
        """`alpha` with its default filled in."""
        return self.alpha or float(self.rank)


@dataclass(frozen=True)
class PriorSettings:
    """Class pictures that keep the class as it was (prior preservation, DreamBooth, arXiv
    2208.12242).
    """

    class_prompt: str = setting(
        "", help="Your subject's kind, without its trigger word: 'a photo of a dog'."
    )
    count: int = setting(64, low=1, high=10_000, help="How many class pictures to make and keep.")
    weight: float = setting(
        1.0, low=0.0, high=100.0, step=0.1, help="Weight of the class pictures' loss."
    )
    folder: str = setting(
        "", advanced=True, help="Your own class pictures, all of them used, instead of made ones."
    )
    steps: int = setting(
        25, low=1, high=1000, advanced=True, help="Denoising steps of a made class picture."
    )
    guidance: float = setting(
        5.0, low=0.0, high=100.0, step=0.5, advanced=True, help="Guidance of a made class picture."
    )
    seed: int = setting(
        0, low=0, high=2**31, advanced=True, help="Seed of the first class picture."
    )
    batch_size: int = setting(
        8, low=1, high=256, advanced=True, help="Class pictures made at the same time."
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.class_prompt.strip():
            raise ValueError(
                "class_prompt is empty; name your subject's kind without its trigger word, "
                "such as 'a photo of a dog'"
            )
