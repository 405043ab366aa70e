"""A single-file checkpoint, as ComfyUI users keep them, becomes a pipeline."""

from __future__ import annotations

from ..host import host, io
from . import model_options
from .sockets import Pipeline


class FromCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessFromCheckpoint",
            display_name="Load Checkpoint (Likeness)",
            category="Likeness/load",
            description="Choose a base model in a single file. Its kind is found out from the "
            "weights. Nothing is downloaded, and nothing is read into memory until something is "
            "drawn or trained with it.",
            search_aliases=["checkpoint loader", "single file", "safetensors", "ckpt"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=host().model_names("checkpoints"),
                    tooltip="A file in models/checkpoints. A .ckpt is only read if it holds "
                    "nothing but tensors: code in it never runs.",
                ),
                *model_options.options(),
                model_options.config(),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The base model, described.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, **options):
        return model_options.versions(host().model_path("checkpoints", file), **options)

    @classmethod
    def execute(cls, file, **options):
        from ..pipelines.spec import PipelineSpec

        path = host().model_path("checkpoints", file)
        return io.NodeOutput(PipelineSpec(model_options.describe(path, **options)))
