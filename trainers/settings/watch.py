"""What can be told about watching and keeping a training; none of it changes what is learned, so
none of it is part of a run's fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...pipelines.setting import check, setting

PLACES = ("here", "in a process of its own")
TRACKERS = ("none", "tensorboard", "wandb")


@dataclass(frozen=True)
class WatchSettings:
    """May differ each time the same run is asked for."""

    sample_every: int = setting(
        0, low=0, high=1_000_000, help="Steps between preview pictures. 0: none."
    )
    sample_prompt: str = setting(
        "",
        multiline=True,
        help="Prompts of the preview pictures, one in each line. Empty: the first caption.",
    )
    checkpoint_every: int = setting(
        200,
        low=0,
        high=1_000_000,
        advanced=True,
        help="Steps between checkpoints, from which a killed run goes on. 0: only when stopped.",
    )
    place: str = setting(
        "here",
        choices=PLACES,
        advanced=True,
        help="Where to train. A process of its own may run out of memory or crash, and everything "
        "else goes on.",
    )
    tracker: str = setting(
        "none",
        choices=TRACKERS,
        advanced=True,
        help="Also tell TensorBoard or Weights & Biases, which must be installed.",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The lines of `sample_prompt`."""
        return tuple(line.strip() for line in self.sample_prompt.splitlines() if line.strip())
