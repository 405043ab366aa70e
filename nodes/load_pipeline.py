"""Load a base model: the start of every graph."""

from __future__ import annotations

from ..host import host, io
from ..pipelines.spec import DTYPES
from .sockets import Pipeline


class LoadPipeline(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadPipeline",
            display_name="Load Pipeline",
            category="Likeness/load",
            description="Choose the base model, a Stable Diffusion 1.x or 2.x in diffusers layout. "
            "Nothing is read into memory until something is drawn or trained with it.",
            search_aliases=["diffusers loader", "base model", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=host().model_names("diffusers"),
                    tooltip="A diffusers folder (with model_index.json) in models/diffusers. "
                    "'tiny' comes with Likeness and needs no download.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    advanced=True,
                    tooltip="Precision of the weights. auto: bfloat16 on a GPU that has it, else "
                    "float16; "
                    "float32 on the CPU.",
                ),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The base model, described.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model, dtype="auto"):
        from ..pipelines.loading import file_versions
        from ..pipelines.spec import base_model

        return file_versions(base_model(host().model_path("diffusers", model), dtype=dtype))

    @classmethod
    def execute(cls, model, dtype="auto"):
        from ..pipelines.spec import PipelineSpec, base_model

        return io.NodeOutput(
            PipelineSpec(base_model(host().model_path("diffusers", model), dtype=dtype))
        )
