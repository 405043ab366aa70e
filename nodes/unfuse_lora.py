"""Take LoRAs off a pipeline again."""

from __future__ import annotations

from ..host import io
from .sockets import Pipeline


class UnfuseLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessUnfuseLora",
            display_name="Unfuse LoRA",
            category="Likeness/adapt",
            description="Take one LoRA, or all of them, off the pipeline. What remains is exact, "
            "as if they had never been on.",
            search_aliases=["remove lora"],
            inputs=[
                Pipeline.Input("pipeline", tooltip="A pipeline with LoRAs on."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="The name of the LoRA to take off. Empty: all of them.",
                ),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The pipeline without them.")
            ],
        )

    @classmethod
    def execute(cls, pipeline, name=""):
        return io.NodeOutput(pipeline.without_lora(name.strip() or None))
