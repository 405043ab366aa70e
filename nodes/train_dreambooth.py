"""Teach a model your subject by changing its own weights."""

from __future__ import annotations

from ..host import io
from ..trainers.methods.dreambooth import DreamBoothSettings
from .sockets import Pipeline
from .training import (
    losses_of,
    run_training,
    stops,
    training_inputs,
    training_widgets,
    watch_widgets,
)
from .widgets import pick, widgets


class TrainDreamBooth(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessTrainDreamBooth",
            display_name="Train DreamBooth",
            category="Likeness/train",
            description="Learn a subject from a handful of pictures by training the model's own "
            "weights (arXiv 2208.12242): the closest likeness, at the price of memory and of a "
            "file as large as the model. The base model is never changed: what comes out is a new "
            "pipeline. The same training queued again is found, a stopped one goes on where it "
            "was.",
            search_aliases=["full fine-tune", "finetune", "checkpoint trainer"],
            is_output_node=True,
            inputs=[
                *training_inputs("model"),
                *training_widgets(),
                *widgets(DreamBoothSettings),
                *watch_widgets(),
            ],
            outputs=[
                Pipeline.Output(
                    display_name="pipeline",
                    tooltip="The model that has learned, for Generate and Save Pipeline.",
                ),
                io.LossMap.Output(display_name="loss", tooltip="The loss of every step."),
                io.String.Output(display_name="run_folder", tooltip="Where everything lies."),
            ],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, **_):
        return stops(name)

    @classmethod
    def execute(cls, pipeline, images, name, class_images=None, settings=None, **values):
        from ..trainers.methods.dreambooth import trained_pipeline

        chosen = DreamBoothSettings(**pick(DreamBoothSettings, values))
        folder, result, shown = run_training(
            cls, "dreambooth", chosen, pipeline, images, name, class_images, settings, values
        )
        learned = trained_pipeline(pipeline, result.files)
        return io.NodeOutput(learned, losses_of(result), str(folder.path), ui=shown)
