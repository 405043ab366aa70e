"""A base model named by its hub repository: the local cache first, a download where it lacks it."""

from __future__ import annotations

from ..host import io
from . import model_options
from .sockets import Pipeline


class LoadFromHub(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadFromHub",
            display_name="Load From Hub",
            category="Likeness/load",
            description="Take a base model from the Hugging Face hub by its name. It is downloaded "
            "once, when it is not in the local cache; with HF_HUB_OFFLINE=1 never.",
            search_aliases=["huggingface", "hf", "download model", "repo id"],
            inputs=[
                io.String.Input(
                    "repository",
                    default="",
                    tooltip="Owner and name, such as stabilityai/stable-diffusion-xl-base-1.0. "
                    "Downloads several gigabytes when it is not in the cache.",
                ),
                io.String.Input(
                    "revision",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Branch, tag or commit; empty for the main branch. A commit makes sure "
                    "that the model never changes.",
                ),
                io.String.Input(
                    "variant",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="fp16 downloads the files of half the size, where the repository has "
                    "them; empty for the full ones.",
                ),
                *model_options.options(),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The base model, described.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, repository, revision="", variant="", **options):
        from ..pipelines.base_models import hub_folder

        try:
            folder = hub_folder(repository, revision, variant, download=False)
        except ValueError:
            return "not here yet"
        return model_options.versions(folder, **options)

    @classmethod
    def execute(cls, repository, revision="", variant="", **options):
        from ..pipelines.base_models import hub_folder
        from ..pipelines.spec import PipelineSpec

        folder = hub_folder(repository, revision, variant)
        return io.NodeOutput(PipelineSpec(model_options.describe(folder, **options)))
