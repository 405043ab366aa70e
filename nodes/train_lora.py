"""Train a LoRA on a handful of pictures."""

from __future__ import annotations

import json
import logging
from typing import Any

from ..host import host, io
from ..trainers.report import QuietReport
from ..trainers.settings import LoraSettings, TrainingSettings
from . import session
from .sockets import ClassImages, Images, Lora, Pipeline
from .widgets import pick, widgets

log = logging.getLogger(__name__)


class TrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessTrainLora",
            display_name="Train LoRA",
            category="Likeness/train",
            description="Learn a subject or a style from a handful of pictures as a LoRA "
            "(arXiv 2106.09685). With class images it is DreamBooth-LoRA. The base model is never "
            "changed. The same training queued again is found, a stopped one goes on where it was.",
            search_aliases=["dreambooth", "fine-tune", "lora trainer"],
            is_output_node=True,
            inputs=[
                Pipeline.Input(
                    "pipeline",
                    tooltip="The model that learns. LoRAs that are on it stay on while it does.",
                ),
                Images.Input("images", tooltip="Your pictures with their captions."),
                ClassImages.Input(
                    "class_images",
                    optional=True,
                    tooltip="Keeps your subject's kind as it was. Without it every 'dog' turns "
                    "into yours.",
                ),
                io.String.Input(
                    "name",
                    default="my subject",
                    tooltip="What to call the LoRA: its file and its run folder.",
                ),
                *widgets(TrainingSettings, skip=("sample_prompt", "sample_every")),
                *widgets(LoraSettings),
                *widgets(TrainingSettings, only=("sample_every", "sample_prompt")),
            ],
            outputs=[
                Lora.Output(display_name="lora", tooltip="What was learned, for Fuse LoRA."),
                io.LossMap.Output(display_name="loss", tooltip="The loss of every step."),
                io.String.Output(display_name="run_folder", tooltip="Where everything lies."),
            ],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, pipeline, images, name, class_images=None, **settings):
        from ..pipelines.lora.files import describe_lora
        from ..trainers.job import TrainingJob
        from ..trainers.report import read_log
        from ..trainers.run import train
        from ..trainers.run_folder import create_or_find

        job = TrainingJob(
            spec=pipeline,
            samples=images,
            method="lora",
            method_settings=LoraSettings(**pick(LoraSettings, settings)),
            training=TrainingSettings(**pick(TrainingSettings, settings)),
            prior=class_images,
            workflow=workflow_of(cls),
        )
        folder = create_or_find(session.runs_folder(), name, job)
        result = train(folder, session.pipelines(), NodeReport(job.training.steps))
        losses = [line["loss"] for line in read_log(result.log)]
        lora = describe_lora(result.lora_path, folder.name)
        return io.NodeOutput(lora, {"loss": losses}, str(folder.path))


class NodeReport(QuietReport):
    """The node's progress bar. Moving it also carries the stop button: it raises, and the trainer
    saves.
    """

    def __init__(self, steps: int) -> None:
        self._bar = host().progress(steps)

    def started(self, total: int, resumed_at: int) -> None:
        self._bar.update(resumed_at, total)

    def step(self, step: int, total: int, *facts: Any, **more: Any) -> None:
        self._bar.update(step, total)

    def sample(self, step: int, images: Any) -> None:
        self._bar.update(step, preview=images[0])

    def preparing(self, what: str, done: int, total: int) -> None:
        self._bar.update(done, total)

    def message(self, text: str) -> None:
        log.info("%s", text)
        host().throw_if_interrupted()


def workflow_of(node: Any) -> str:
    """The graph on the canvas as JSON, or "" where there is none (a bare API call)."""
    workflow = (node.hidden.extra_pnginfo or {}).get("workflow")
    return json.dumps(workflow) if workflow else ""
