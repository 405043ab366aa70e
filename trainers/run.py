"""Train a run folder: what a node starts, a child process starts, and a user can start by hand."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..pipelines.loading import LivePipeline, Pipelines
from ..pipelines.lora import applied
from .checkpoint import Checkpoints
from .data.batches import Batches
from .data.prepare import Preparation
from .data.prior_images import class_samples
from .data.samples import Sample
from .defaults import chosen, filled_in
from .denoising import Captions, Denoising
from .errors import NothingLearned
from .failures import explaining
from .fitting import find_fit, tell_estimate
from .job import TrainingJob
from .loop import Outcome, Training, learn, probe
from .machine.control import Control
from .machine.precision import autocast, resolve_precision, training_mode
from .machine.resting import IDLE_AFTER_PICTURES, Resting, idle_after_captions
from .machine.team import Team, join_team
from .methods import Method, method_named
from .objectives import Objective, objective_for
from .objectives.validation import Validation
from .previews import draw_previews, keep_previews
from .report import Attentive, Log, Muted, QuietReport, Report, nothing_learned
from .result import TrainingResult, result_metadata, result_of
from .run_folder import RunFolder, open_run_folder
from .seeds import seed_for, seeded
from .stepping.machinery import Machinery
from .trackers import tracker_for

if TYPE_CHECKING:
    from PIL.Image import Image


def train(
    folder: RunFolder,
    pipelines: Pipelines,
    report: Report | None = None,
    team: Team | None = None,
) -> TrainingResult:
    """Train the run to its end, going on from where it was stopped; a finished one is looked up.

    When `report.should_stop()` or the run folder (`machine.control`) says so, what was learned
    until then is the result, also if that was before it went on. Exceptions out of the report are
    passed on after everything was saved.
    `team`: the processes that train it together; None: this one alone.

    Raises:
        ValueError: the folder is in use, or its model, pictures or settings cannot be used.
        TrainingFailed: the loss became no number, or memory or disk ran out.
    """
    report = report or QuietReport()
    team = team or Team(device=pipelines.device)
    if folder.is_finished:
        return result_of(folder, found=True)
    job = folder.job()
    lock = folder.locked() if team.is_first else nullcontext()
    careful = explaining("preparing the training, or writing its result", job.training)
    with lock, careful, pipelines.open(job.spec.base) as live:
        if folder.is_finished:  # by another process, since we looked
            return result_of(folder, found=True)
        with applied(live, job.spec.loras), training_mode():
            try:
                Run(folder, job, pipelines, live, team, report).train()
            except NothingLearned:  # while it was prepared again: what it learned before is there
                if team.size > 1 or not folder.has_result:
                    raise
    team.wait()
    return result_of(folder, found=False)


def train_folder(
    path: str | Path,
    device: str = "",
    report: Report | None = None,
    comfyui_folder: Path | None = None,
) -> TrainingResult:
    """Train the run folder at `path` in this process, as `likeness train` does, or together with
    the other processes that `accelerate launch` started. `device` "": the best there is.
    `comfyui_folder`: where tokenizers are found that a base model does not bring.
    """
    team = join_team(device)
    pipelines = Pipelines(team.device, comfyui_folder=comfyui_folder)
    report = report or QuietReport()
    report = report if team.is_first else Muted(report)
    return train(open_run_folder(path), pipelines, report, team)


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


class Run:
    """One training, from what was asked for to what is left behind."""

    def __init__(
        self,
        folder: RunFolder,
        job: TrainingJob,
        pipelines: Pipelines,
        live: LivePipeline,
        team: Team,
        report: Report,
    ) -> None:
        self.folder, self.job, self.pipelines, self.live = folder, job, pipelines, live
        self.control = Control(folder.path)
        self.team = team
        self.report: Report = Attentive(report, lambda: self.control.taken("stop"))
        wish = job.watch.tracker if team.is_first else "none"
        self.tracker = tracker_for(wish, folder, self.report.message)
        self.defaults = live.family.training_defaults(live.pipeline)
        self.method: Method = method_named(job.method)(job.method_settings)
        self.settings = filled_in(job.training, self.defaults, self.method, len(job.samples))
        self.size = training_size(live, job.training.resolution)
        self.prior: tuple[Sample, ...] = ()
        self.resting = Resting(live, folder.root / "cache")

    def train(self) -> None:
        """Leave a result in the folder, whatever ends it, unless nothing was learned."""
        if self.team.is_first:
            self.control.forget()
        self._tell()
        objective = objective_for(self.live, self.settings)  # first: it may refuse a setting
        self.prior = self._class_samples()
        with self.resting:
            self._train(objective)

    def _train(self, objective: Objective) -> None:
        trains_text = self.method.trains_text(self.defaults)
        denoising = Denoising(self.live, objective, self._captions())
        self.resting.send(idle_after_captions(self.live, trains_text=trains_text))
        batches = self._batches(denoising)
        self.resting.send(IDLE_AFTER_PICTURES)
        checkpoints = Checkpoints(self.folder.checkpoints, self.folder.fingerprint)
        try:
            groups = self.method.attach(self.live, self.settings.seed)
            self._study(denoising, batches)
            training = Training(
                method=self.method,
                denoising=denoising,
                machinery=Machinery(groups, self.settings, self.team),
                batches=batches,
                validation=Validation(batches.validation(), self.settings),
                checkpoints=checkpoints,
                settings=self.settings,
                watch=self.job.watch,
                log=Log(self.folder.log if self.team.is_first else None, self.tracker),
                report=self.report,
                control=self.control,
                team=self.team,
                save=self._save,
                draw_samples=self._draw_samples,
            )
            tell_estimate(training, self.live)
            fit = find_fit(training, self.live, self.folder, lambda: probe(training))
            with fit.applied(self.live):
                self._learn(training)
        finally:
            self.method.detach()
            if self.tracker is not None:
                self.tracker.finish()

    def _study(self, denoising: Denoising, batches: Batches) -> None:
        """Before every start, also one that goes on, since its checkpoints may be damaged."""
        import torch

        settings, device = self.settings, self.team.device
        # One picture at a time and all of them here: alike however many processes there are.
        one = replace(settings, batch_size=1, accumulation=1)
        pictures = replace(batches, classes={}, prompts=(), settings=one, team=Team(device=device))
        dtype = resolve_precision(settings.precision, device)

        def forward(number: int, most: int) -> None:
            self.report.preparing("passes through the model", number, most)
            seed = seed_for(settings.seed, "study", number)
            with seeded(device, seed), autocast(dtype, device):
                denoising.answer(pictures.batch(number + 1, 0))

        with torch.no_grad():
            self.team.hand_on(self.method.study(forward))

    def _tell(self) -> None:
        """What the user should know before it begins."""
        if self.team.size > 1:
            self.report.message(f"{self.team.size} processes share every batch")
        family, base = self.live.family, self.job.spec.base
        before, pictures = self.job.training, len(self.job.samples)
        for line in chosen(before, self.settings, family, self.method, self.defaults, pictures):
            self.report.message(f"auto: {line}")
        if distilled := family.distilled(self.live.pipeline, base.path):
            self.report.message(f"warning: {distilled}")

    def _learn(self, training: Training) -> None:
        try:
            outcome = learn(training)
        except BaseException:
            self._try_to_save_newest(training)
            raise
        if not outcome.step:
            raise nothing_learned()
        with training.machinery.evaluating():
            self._save(outcome)

    def _try_to_save_newest(self, training: Training) -> None:
        """The last good state as the result, on the way out of an error, which must not be lost
        over another one.
        """
        if not self.team.is_first:
            return
        try:
            newest = training.checkpoints.newest(self.report)
            if newest is not None:
                training.method.load_state_dict(newest.learned)
                training.machinery.load_state_dict(newest.state["machinery"])
                with training.machinery.evaluating():
                    self._save(Outcome(newest.step, stopped=True))
        except Exception as error:
            self.report.message(f"no result could be written on the way out: {error}")

    @cached_property
    def _preparation(self) -> Preparation:
        return Preparation(
            live=self.live,
            job=self.job,
            settings=self.settings,
            classes=self.prior,
            size=self.size,
            root=self.folder.root,
            team=self.team,
            report=self.report,
        )

    def _captions(self) -> Captions:
        return self._preparation.captions(trains_text=self.method.trains_text(self.defaults))

    def _batches(self, denoising: Denoising) -> Batches:
        return self._preparation.batches(denoising.objective)

    def _class_samples(self) -> tuple[Sample, ...]:
        def on_image(there: int, wanted: int) -> None:
            self.report.preparing("class pictures", there, wanted)

        with self.team.first_goes_first():
            return tuple(
                sample
                for prior in self.job.prior
                for sample in class_samples(
                    self.pipelines, self.job.spec, prior, self.folder.root, self.size, on_image
                )
            )

    def _draw_samples(self, step: int) -> list[Image]:
        """Preview pictures of the model as it stands, also kept in `samples/`; always from the
        run's own seed.
        """
        if not self.team.is_first:
            return []
        prompts = self.job.watch.prompts or (self.job.samples[0].caption,)
        try:
            # A method may draw otherwise than it learns: in the precision of its result.
            with self.resting.awake(), self.method.drawing():
                images = draw_previews(
                    self.pipelines, self.live, self.job.spec, prompts, self.size, self.settings.seed
                )
            keep_previews(images, self.folder.samples, step)
            if self.tracker is not None:
                self.tracker.images(step, images)
        except Exception as error:  # a picture is not worth a training
            self.report.message(f"no preview pictures after step {step}: {error}")
            return []
        return images

    def _save(self, outcome: Outcome) -> None:
        if not self.team.is_first:
            return
        metadata = result_metadata(self, outcome)
        files = self.method.save(self.folder.result, self.folder.name, metadata)
        class_images = [sample.path for sample in self.prior if sample.path is not None]
        self.folder.write_outcome(outcome.step, outcome.stopped, files, class_images)
