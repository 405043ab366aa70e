"""Fuse a LoRA into a pipeline, at a scale."""

from __future__ import annotations

from ..host import io
from .sockets import Lora, Pipeline


class FuseLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessFuseLora",
            display_name="Fuse LoRA",
            category="Likeness/adapt",
            description="Put a LoRA on the pipeline. The base model itself is never changed: at "
            "scale 0 you get "
            "its pictures exactly, and several LoRAs add up whatever their order.",
            search_aliases=["apply lora", "lora scale", "merge lora"],
            inputs=[
                Pipeline.Input("pipeline", tooltip="The pipeline to put the LoRA on."),
                Lora.Input("lora", tooltip="The LoRA, just trained or loaded from a file."),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Strength: 0 is the base model, 1 the LoRA as it was trained.",
                ),
                io.Float.Input(
                    "text_scale",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Strength on the text encoder, as a share of scale: 1 is the same "
                    "strength. "
                    "0 leaves the text encoder as it was.",
                ),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The pipeline with the LoRA on.")
            ],
        )

    @classmethod
    def execute(cls, pipeline, lora, scale, text_scale=1.0):
        from ..pipelines.spec import LoraUse

        return io.NodeOutput(pipeline.with_lora(LoraUse(lora, scale, scale * text_scale)))
