"""How the weights are moved, and what is asked of the model."""

from __future__ import annotations

from dataclasses import dataclass

from ...pipelines.setting import setting

OPTIMIZER_NAMES = ("adamw", "adamw 8-bit", "adafactor", "prodigy", "schedule-free adamw", "lion")
PRODIGY, SCHEDULE_FREE, LION = OPTIMIZER_NAMES[3:]
PRODIGY_LOWEST = 0.1
SCHEDULE_NAMES = (
    "constant",
    "cosine",
    "linear",
    "cosine with restarts",
    "polynomial",
    "inverse square root",
)
WEIGHTINGS = ("auto", "none", "min-snr", "debiased")
ERRORS = ("mse", "huber", "smooth l1", "l1")
TIMESTEPS = ("auto", "uniform", "logit-normal", "mode", "cosmap", "shifted")


@dataclass(frozen=True)
class Stepping:
    """How the weights are moved."""

    optimizer: str = setting(
        "adamw",
        choices=OPTIMIZER_NAMES,
        advanced=True,
        help="How to step. 8-bit needs less memory, adafactor least; prodigy finds the learning "
        "rate by itself; schedule-free adamw averages the weights instead of a schedule.",
    )
    schedule: str = setting(
        "constant",
        choices=SCHEDULE_NAMES,
        advanced=True,
        help="How the learning rate moves over the steps. Cosine, linear and polynomial end at 0, "
        "cosine with restarts does so three times, inverse square root ends at a third.",
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
    ema_decay: float = setting(
        0.0,
        low=0.0,
        high=0.99999,
        step=0.0001,
        advanced=True,
        help="Keep a running average of the weights, and save that: 0.99 averages the last 100 "
        "steps. 0: off. It rises to this value over the first steps.",
    )


@dataclass(frozen=True)
class Losses:
    """What is asked of the model, and how wrong answers are weighed."""

    timesteps: str = setting(
        "auto",
        choices=TIMESTEPS,
        advanced=True,
        help="Which noise levels are trained how often (arXiv 2403.03206). auto: as the model was "
        "trained. Flow matching: all but uniform are then moved by timestep_shift; shifted is "
        "uniform with that.",
    )
    timestep_shift: float = setting(
        0.0,
        low=0.0,
        high=20.0,
        step=0.1,
        advanced=True,
        help="Flow matching: moves the noise levels up (above 1). 0: as the model's own schedule, "
        "for FLUX dev by the size of the pictures.",
    )
    weighting: str = setting(
        "auto",
        choices=WEIGHTINGS,
        advanced=True,
        help="What each noise level counts: min-snr (arXiv 2303.09556) or debiased (arXiv "
        "2310.08442). auto: min-snr where there is a signal-to-noise ratio; flow matching has none "
        "and takes no other weighting.",
    )
    snr_gamma: float = setting(
        5.0,
        low=0.1,
        high=100.0,
        step=0.5,
        advanced=True,
        help="The γ of min-snr: noise levels above this signal-to-noise ratio count alike.",
    )
    error: str = setting(
        "mse",
        choices=ERRORS,
        advanced=True,
        help="How the distance d (without its sign) from the right answer is measured: mse d², l1 "
        "d, huber d² until huber_delta δ and then 2δd - δ², smooth l1 d²/2δ and then d - δ/2. All "
        "but mse mind outliers less.",
    )
    huber_delta: float = setting(
        0.1,
        low=0.0001,
        high=10.0,
        step=0.001,
        advanced=True,
        help="Where huber and smooth l1 turn from square to straight.",
    )
    noise_offset: float = setting(
        0.0,
        low=0.0,
        high=1.0,
        step=0.01,
        advanced=True,
        help="Lets Stable Diffusion and SDXL learn very dark and very bright pictures; 0.03 to "
        "0.1. 0: off. Flow matching needs none.",
    )
    masked_floor: float = setting(
        0.0,
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
        help="Where pictures have masks: what the outside of the mask counts. 0: nothing.",
    )
