"""Load a base model: the start of every graph."""

from __future__ import annotations

from ..host import host, io
from . import model_options
from .sockets import Pipeline


class LoadPipeline(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadPipeline",
            display_name="Load Pipeline",
            category="Likeness/load",
            description="Choose the base model, a diffusers folder: Stable Diffusion, SDXL, SD 3, "
            "FLUX or Z-Image. "
            "Nothing is read into memory until something is drawn or trained with it.",
            search_aliases=["diffusers loader", "base model", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=host().model_names("diffusers"),
                    tooltip="A diffusers folder (with model_index.json) in models/diffusers. "
                    "'tiny' comes with Likeness and needs no download.",
                ),
                *model_options.options(),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The base model, described.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model, **options):
        return model_options.versions(host().model_path("diffusers", model), **options)

    @classmethod
    def execute(cls, model, **options):
        from ..pipelines.spec import PipelineSpec

        folder = host().model_path("diffusers", model)
        return io.NodeOutput(PipelineSpec(model_options.describe(folder, **options)))
