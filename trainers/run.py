"""Train a run folder: what a node starts, a child process starts, and a user can start by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipelines.files import atomic_write
from ..pipelines.loading import LivePipeline, Pipelines
from ..pipelines.lora import applied
from .batches import Batches, encode_samples
from .checkpoint import Checkpoints
from .job import TrainingJob
from .loop import Outcome, learn
from .method import Method
from .methods import method_named
from .objective import Objective
from .precision import training_mode
from .prior_images import class_samples
from .report import Log, QuietReport, Report
from .run_folder import RunFolder, open_run_folder
from .samples import Sample

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_STEPS = 25
PREVIEW_GUIDANCE = 5.0


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    `lora_path`: the (first) file that was learned. `found`: it had been trained before, nothing was
    done now.
    `class_images`: the class pictures that were used, none without prior preservation.
    """

    lora_path: Path
    steps_done: int
    stopped: bool
    found: bool
    log: Path
    samples: tuple[Path, ...]
    class_images: tuple[Path, ...]


def train(folder: RunFolder, pipelines: Pipelines, report: Report | None = None) -> TrainingResult:
    """Train the run to its end, going on from where it was stopped; a finished one is looked up.

    When `report.should_stop()` says so, what was learned until then is the result. Exceptions
    out of the report are passed on after everything was saved.

    Raises:
        ValueError: the folder is in use, or its model, pictures or settings cannot be used.
        TrainingDiverged: the loss became no number.
    """
    report = report or QuietReport()
    if folder.is_finished:
        return _result(folder, found=True)
    job = folder.job()
    with folder.locked(), pipelines.open(job.spec.base) as live:
        if folder.is_finished:  # by another process, since we looked
            return _result(folder, found=True)
        size = training_size(live, job.training.resolution)
        prior = _class_samples(job, pipelines, folder, size, report)
        with applied(live, job.spec.loras), training_mode(live.device):
            _train(folder, job, pipelines, live, prior, size, report)
    return _result(folder, found=False)


def train_folder(
    path: str | Path,
    device: str = "",
    report: Report | None = None,
    comfyui_folder: Path | None = None,
) -> TrainingResult:
    """Train the run folder at `path` in this process, as `likeness train` does. `device` "": the
    best there is. `comfyui_folder`: where tokenizers are found that a base model does not bring.
    """
    import torch

    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    pipelines = Pipelines(device or str(best), comfyui_folder=comfyui_folder)
    return train(open_run_folder(path), pipelines, report)


def training_size(live: LivePipeline, resolution: int) -> tuple[int, int]:
    """Width and height in pixels to train at; `resolution` 0 is the model's own.

    Raises:
        ValueError: a size that the model cannot make.
    """
    if resolution == 0:
        return live.family.native_size(live.pipeline)
    multiple = live.family.size_multiple(live.pipeline)
    if resolution % multiple:
        nearest = max(multiple, round(resolution / multiple) * multiple)
        raise ValueError(
            f"resolution is {resolution}, but this model needs a multiple of {multiple}, "
            f"such as {nearest}"
        )
    return resolution, resolution


def _train(
    folder: RunFolder,
    job: TrainingJob,
    pipelines: Pipelines,
    live: LivePipeline,
    prior: Sequence[Sample],
    size: tuple[int, int],
    report: Report,
) -> None:
    settings = job.training
    scheduler = live.family.training_scheduler(live.pipeline)
    prior_weight = job.prior.weight if job.prior else 0.0
    objective = Objective(scheduler, settings.snr_gamma, prior_weight)
    batches = Batches(
        yours=encode_samples(live, job.samples, *size),
        mirrored=encode_samples(live, job.samples, *size, mirror=True) if settings.flip else None,
        prior=encode_samples(live, prior, *size) if prior else None,
        objective=objective,
        settings=settings,
        device=live.device,
    )
    checkpoints = Checkpoints(folder.checkpoints, folder.fingerprint)
    method = method_named(job.method)(job.method_settings)

    def draw_samples(step: int) -> Sequence[Image]:
        return _draw_samples(folder, job, pipelines, live, size, step)

    try:
        groups = method.attach(live, objective, settings.seed)
        try:
            outcome = learn(
                method, groups, batches, checkpoints, Log(folder.log), report, draw_samples
            )
        except BaseException:
            newest = checkpoints.newest(report)
            if newest is not None:
                method.load_state_dict(newest.learned)
                outcome = Outcome(newest.step, stopped=True)
                _save(folder, job, method, live, prior, size, outcome)
            raise
        _save(folder, job, method, live, prior, size, outcome)
    finally:
        method.detach()


def _class_samples(
    job: TrainingJob,
    pipelines: Pipelines,
    folder: RunFolder,
    size: tuple[int, int],
    report: Report,
) -> tuple[Sample, ...]:
    if job.prior is None:
        return ()

    def on_image(there: int, wanted: int) -> None:
        report.preparing("class pictures", there, wanted)

    return class_samples(pipelines, job.spec, job.prior, folder.root, size, on_image)


def _draw_samples(
    folder: RunFolder,
    job: TrainingJob,
    pipelines: Pipelines,
    live: LivePipeline,
    size: tuple[int, int],
    step: int,
) -> list[Image]:
    """Preview pictures of the model as it stands, also kept in `samples/`; always from the run's
    own seed.
    """
    from ..pipelines.generate import Sampling, generate

    sampling = Sampling(
        prompt=job.training.sample_prompt or job.samples[0].caption,
        steps=PREVIEW_STEPS,
        guidance=PREVIEW_GUIDANCE,
        seed=job.training.seed,
        width=size[0],
        height=size[1],
    )
    with _evaluating(live):
        images = generate(
            pipelines, replace(job.spec, loras=()), sampling
        )  # its LoRAs are on already
    for index, image in enumerate(images):
        with atomic_write(folder.samples / f"step-{step:06d}-{index}.png") as temporary:
            image.save(temporary, format="PNG")
    return images


@contextmanager
def _evaluating(live: LivePipeline) -> Iterator[None]:
    """Every module in eval mode for the length of the block, as a trained LoRA's dropout is not."""
    parts = [part for part in live.pipeline.components.values() if hasattr(part, "modules")]
    training = [module for part in parts for module in part.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _save(
    folder: RunFolder,
    job: TrainingJob,
    method: Method,
    live: LivePipeline,
    prior: Sequence[Sample],
    size: tuple[int, int],
    outcome: Outcome,
) -> None:
    metadata = result_metadata(folder, job, live, size, outcome)
    files = method.save(folder.result, folder.name, metadata)
    class_images = [sample.path for sample in prior if sample.path is not None]
    folder.write_outcome(outcome.step, outcome.stopped, files, class_images)


def result_metadata(
    folder: RunFolder,
    job: TrainingJob,
    live: LivePipeline,
    size: tuple[int, int],
    outcome: Outcome,
) -> dict[str, str]:
    """What a result file says about itself (modelspec.* is Stability AI's specification 1.0.0).

    `modelspec.date` is left out on purpose: the same run gives the same bytes.
    """
    facts = folder.facts
    settings = {key: facts[key] for key in ("method_settings", "training", "prior")}
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{live.family.architecture(live.pipeline)}/{job.method}",
        "modelspec.implementation": "diffusers",
        "modelspec.title": folder.name,
        "modelspec.resolution": f"{size[0]}x{size[1]}",
        "modelspec.prediction_type": _prediction(live),
        "modelspec.trigger_phrase": job.trigger_phrase,
        "likeness.base": facts["model_identity"]["base"],
        "likeness.method": job.method,
        "likeness.steps": str(outcome.step),
        "likeness.pictures": str(len(job.samples)),
        "likeness.settings": json.dumps(settings, sort_keys=True),
        "likeness.fingerprint": folder.fingerprint,
    }
    if job.workflow:
        metadata["workflow"] = job.workflow
    return metadata


def _prediction(live: LivePipeline) -> str:
    name: Any = live.family.training_scheduler(live.pipeline).config.prediction_type
    return "v" if name == "v_prediction" else str(name)


def _result(folder: RunFolder, *, found: bool) -> TrainingResult:
    outcome = folder.outcome
    assert outcome is not None, "only a run with a result has one"
    return TrainingResult(
        lora_path=folder.path / outcome["files"][0],
        steps_done=outcome["steps"],
        stopped=outcome["stopped"],
        found=found,
        log=folder.log,
        samples=tuple(sorted(folder.samples.glob("*.png"))) if folder.samples.is_dir() else (),
        class_images=tuple(folder.path / file for file in outcome["class_images"]),
    )
