"""Train a LoRA on a handful of pictures."""

from __future__ import annotations

from typing import Any

from ..host import io
from ..trainers.methods import ADAPTERS, method_named
from ..trainers.settings import from_dict
from .sockets import Lora
from .training import (
    losses_of,
    run_training,
    stops,
    training_inputs,
    training_widgets,
    watch_widgets,
)
from .widgets import widgets


class TrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessTrainLora",
            display_name="Train LoRA",
            category="Likeness/train",
            description="Learn a subject or a style from a handful of pictures as a LoRA "
            "(arXiv 2106.09685) or one of its relatives. With class images it is DreamBooth-LoRA. "
            "The base model is never changed. The same training queued again is found, a stopped "
            "one goes on where it was.",
            search_aliases=["dreambooth", "fine-tune", "lora trainer", "lycoris", "dora", "lokr"],
            is_output_node=True,
            inputs=[
                *training_inputs("LoRA"),
                *training_widgets(),
                _method(),
                *watch_widgets(),
            ],
            outputs=[
                Lora.Output(display_name="lora", tooltip="What was learned, for Fuse LoRA."),
                io.LossMap.Output(display_name="loss", tooltip="The loss of every step."),
                io.String.Output(display_name="run_folder", tooltip="Where everything lies."),
            ],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, **_):
        return stops(name)

    @classmethod
    def execute(cls, pipeline, images, name, method, class_images=None, settings=None, **values):
        from ..pipelines.lora.files import describe_lora

        kind = method["method"]
        own = {key: value for key, value in method.items() if key != "method"}
        wanted = from_dict(method_named(kind).settings_type, own)
        folder, result, shown = run_training(
            cls, kind, wanted, pipeline, images, name, class_images, settings, values
        )
        learned = describe_lora(result.path, folder.name)
        return io.NodeOutput(learned, losses_of(result), str(folder.path), ui=shown)


def _method() -> Any:
    """Every method of the LoRA family, each with its own settings."""
    return io.DynamicCombo.Input(
        "method",
        options=[
            io.DynamicCombo.Option(method.name, widgets(method.settings_type))
            for method in ADAPTERS
        ],
        tooltip="What is learned for each layer. lora: loads everywhere. dora: closer to training "
        "all weights, slower. loha: a high rank in a small file. lokr: the smallest files. oft, "
        "boft: turn what is there, gentle on the model. adalora: ranks go where they are needed. "
        "dylora: can be cut to lower ranks afterwards.",
    )
