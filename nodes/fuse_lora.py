"""Fuse a LoRA into a pipeline, at a scale.

`scale` is a number and no slider: ComfyUI's slider lets nothing be typed beyond its ends, and
between -10 and 10 nobody hits 0.8.
"""

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
                    tooltip="Strength: 0 is the base model, 1 the LoRA as it was trained. Drag, or "
                    "click and type any number from -10 to 10.",
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
                # Workflows from before these two existed do not send them.
                io.Combo.Input(
                    "mode",
                    options=["fuse", "attach"],
                    default="fuse",
                    optional=True,
                    advanced=True,
                    tooltip="fuse: add the LoRA to the weights, for the fastest sampling. attach: "
                    "compute it beside them, slower at each step, without a copy of any weight; "
                    "needed for float8, quantised and group-offloaded models. Pictures differ by "
                    "rounding.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="How much of the scale each block of the denoiser gets, such as "
                    "'down=0.5, mid=1, up.0-1=0'. Empty: all of it everywhere.",
                ),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The pipeline with the LoRA on.")
            ],
        )

    @classmethod
    def execute(cls, pipeline, lora, scale, text_scale=1.0, mode="fuse", blocks=""):
        from ..pipelines.lora.blocks import parse_blocks
        from ..pipelines.spec import LoraUse

        use = LoraUse(lora, scale, scale * text_scale, mode, parse_blocks(blocks))
        return io.NodeOutput(pipeline.with_lora(use))
