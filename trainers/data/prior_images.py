"""Class pictures for prior preservation (DreamBooth, arXiv 2208.12242): made by the base itself,
kept and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...pipelines.files import atomic_write
from ..job import model_identity
from ..settings import PREDICTION, PriorSettings
from .sample import Sample
from .samples import samples_from_folder

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...pipelines.loading import Pipelines
    from ...pipelines.spec import PipelineSpec


def class_samples(
    pipelines: Pipelines,
    spec: PipelineSpec,
    prior: PriorSettings,
    root: Path,
    size: tuple[int, int],
    on_image: Callable[[int, int], None] | None = None,
) -> tuple[Sample, ...]:
    """The class pictures of `prior`, all with its class prompt as caption: the user's own, or made
    by `spec`.

    Made ones lie in `root/class_images/` and are shared by all runs that ask for the same; only
    missing ones are made.
    `spec`: whose LoRAs are on already. `size`: width and height in pixels.
    `on_image(there, wanted)` is called while they are made,
    after every denoising step, and may raise to stop.

    Raises:
        ValueError: the user's own folder is empty or holds a picture that cannot be used.
    """
    if prior.source == PREDICTION:
        return ()
    if prior.folder:
        own = samples_from_folder(prior.folder, prior.class_prompt, caption_files=False)
        return tuple(replace(sample, weight=prior.weight) for sample in own)
    folder = class_folder(spec, prior, root, size)
    _make_missing(pipelines, spec, prior, folder, size, on_image)
    files = [_file(folder, index) for index in range(prior.count)]
    return tuple(
        Sample(file.stem, prior.class_prompt, file=str(file), weight=prior.weight) for file in files
    )


def check_priors(priors: Sequence[PriorSettings]) -> None:
    """Refuse what cannot share a batch.

    Raises:
        ValueError: some classes by their pictures, others by prediction.
    """
    kinds = {prior.source == PREDICTION for prior in priors}
    if len(kinds) > 1:
        predicted = [prior.class_prompt for prior in priors if prior.source == PREDICTION]
        raise ValueError(
            f"the class {predicted[0]!r} is kept by {PREDICTION!r} and others by pictures, which "
            "cannot be mixed in one training; choose the same source for all classes"
        )


def class_folder(
    spec: PipelineSpec, prior: PriorSettings, root: Path, size: tuple[int, int]
) -> Path:
    """Where the class pictures of `spec` lie: a folder per model, prompt and way of drawing."""
    facts = {
        "model": model_identity(spec),
        "prompt": prior.class_prompt,
        "steps": prior.steps,
        "guidance": prior.guidance,
        "seed": prior.seed,
        "size": list(size),
        "batch_size": prior.batch_size,
    }
    text = json.dumps(facts, sort_keys=True)
    folder = root / "class_images" / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (folder / "class_images.json").is_file():
        with atomic_write(folder / "class_images.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return folder


def _make_missing(
    pipelines: Pipelines,
    spec: PipelineSpec,
    prior: PriorSettings,
    folder: Path,
    size: tuple[int, int],
    on_image: Callable[[int, int], None] | None,
) -> None:
    """Always whole batches, since the last bits of a picture depend on the size of its batch."""

    def tell(done: int) -> None:
        if on_image is not None:
            on_image(min(done, prior.count), prior.count)

    for first in range(0, prior.count, prior.batch_size):
        files = [_file(folder, first + index) for index in range(prior.batch_size)]
        if all(file.is_file() for file in files[: prior.count - first]):
            continue
        images = _draw(pipelines, spec, prior, size, first, tell)
        for file, image in zip(files, images, strict=True):
            with atomic_write(file) as temporary:
                image.save(temporary, format="PNG")
        tell(first + prior.batch_size)


def _draw(
    pipelines: Pipelines,
    spec: PipelineSpec,
    prior: PriorSettings,
    size: tuple[int, int],
    first: int,
    tell: Callable[[int], None],
) -> list[Image]:
    """One batch, from picture number `first` on. Telling after every step is the chance to stop."""
    from ...pipelines.generate import Sampling, generate

    sampling = Sampling(
        prompt=prior.class_prompt,
        steps=prior.steps,
        guidance=prior.guidance,
        seed=prior.seed + first,
        width=size[0],
        height=size[1],
        count=prior.batch_size,
    )
    bare = replace(spec, loras=())  # its LoRAs are on already
    return generate(pipelines, bare, sampling, on_step=lambda *_: tell(first))


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.png"
