"""Class pictures for prior preservation (DreamBooth, arXiv 2208.12242): made by the base itself,
kept and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..pipelines.files import atomic_write
from .job import model_identity
from .samples import Sample, samples_from_folder
from .settings import PriorSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..pipelines.loading import Pipelines
    from ..pipelines.spec import PipelineSpec


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
    `size`: width and height in pixels. `on_image(there, wanted)` is called while they are made,
    after every denoising step, and may raise to stop.

    Raises:
        ValueError: the user's own folder is empty or holds a picture that cannot be used.
    """
    if prior.folder:
        return samples_from_folder(prior.folder, prior.class_prompt, caption_files=False)
    folder = class_folder(spec, prior, root, size)
    _make_missing(pipelines, spec, prior, folder, size, on_image)
    files = [_file(folder, index) for index in range(prior.count)]
    return tuple(Sample(file.stem, prior.class_prompt, path=file) for file in files)


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
    from ..pipelines.generate import Sampling, generate

    sampling = Sampling(
        prompt=prior.class_prompt,
        steps=prior.steps,
        guidance=prior.guidance,
        seed=prior.seed + first,
        width=size[0],
        height=size[1],
        count=prior.batch_size,
    )
    return generate(pipelines, spec, sampling, on_step=lambda *_: tell(first))


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.png"
