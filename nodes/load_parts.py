"""A base model from a denoiser, text encoders and a VAE that lie in files of their own."""

from __future__ import annotations

from ..host import host, io
from . import model_options
from .sockets import Pipeline


class LoadParts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadParts",
            display_name="Load Model Parts",
            category="Likeness/load",
            description="Put a base model together from separate files, as FLUX, SD 3 and Z-Image "
            "are often kept: the denoiser, its text encoders and the VAE.",
            search_aliases=["unet loader", "diffusion model", "dual clip loader", "vae loader"],
            inputs=[
                io.Combo.Input(
                    "denoiser",
                    options=host().model_names("diffusion_models"),
                    tooltip="The UNet or transformer, a file in models/diffusion_models (or unet).",
                ),
                *model_options.parts(),
                model_options.dtype(),
                model_options.family(),
                model_options.scheduler(),
                model_options.prediction(),
                model_options.memory(),
                model_options.config(),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The base model, described.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, denoiser, **options):
        return model_options.versions(host().model_path("diffusion_models", denoiser), **options)

    @classmethod
    def execute(cls, denoiser, **options):
        from ..pipelines.spec import PipelineSpec

        path = host().model_path("diffusion_models", denoiser)
        return io.NodeOutput(PipelineSpec(model_options.describe(path, **options)))
