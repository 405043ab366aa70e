"""What keeps the class as it was while your subject is learned."""

from __future__ import annotations

from dataclasses import dataclass

from ...pipelines.setting import check, setting

MADE, FOLDER, PREDICTION = "made by the model", "a folder", "prediction"
PRIOR_SOURCES = (MADE, FOLDER, PREDICTION)


@dataclass(frozen=True)
class PriorSettings:
    """Prior preservation (DreamBooth, arXiv 2208.12242), an option of every method.

    `source`: pictures made by the base model itself, or a folder of the user's, learned with
    `class_prompt` as their caption; or no pictures at all: what the untouched model answers to the
    class prompt on your pictures is the target (prior prediction).
    """

    class_prompt: str = setting(
        "", help="Your subject's kind, without its trigger word: 'a photo of a dog'."
    )
    weight: float = setting(
        1.0, low=0.0, high=100.0, step=0.1, help="What the class counts beside your pictures."
    )
    source: str = setting(
        MADE,
        choices=PRIOR_SOURCES,
        help="Where the class is looked at: pictures the model makes, pictures of your own, or "
        "the model's own prediction, which needs no pictures.",
    )
    count: int = setting(64, low=1, high=10_000, help="How many class pictures to make and keep.")
    folder: str = setting("", help="Your own class pictures, all of them used.")
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
        if (self.source == FOLDER) != bool(self.folder):
            raise ValueError(
                f"source is {self.source!r} and folder is {self.folder!r}: give a folder exactly "
                f"when the source is {FOLDER!r}"
            )
