"""Load what an image encoder once said of pictures."""

from __future__ import annotations

from ..host import host, io
from ..host.folders import model_names
from .save_image_embeddings import KIND
from .sockets import ImageEmbeddings

NONE = "none"


class LoadImageEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadImageEmbeddings",
            display_name="Load Image Embeddings",
            category="Likeness/load",
            description="Choose saved image embeddings for an IP-Adapter: ours, diffusers' .ipadpt "
            "lists, or those of IPAdapter plus. They take the place of the reference picture.",
            search_aliases=["ipadapter embeds", "ipadpt", "faceid embeds"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_names() or [NONE],
                    tooltip="A file in models/ip_adapter_embeddings or in the output folder's. "
                    "Whether it fits the adapter is checked when both are used.",
                )
            ],
            outputs=[
                ImageEmbeddings.Output(
                    display_name="embeddings", tooltip="For Apply IP-Adapter, without a picture."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        from ..pipelines.files import sha256_of

        try:
            return sha256_of(host().model_path(KIND, file))
        except ValueError:
            return "not here yet"

    @classmethod
    def execute(cls, file):
        from ..pipelines.ip_adapter.embeddings import describe_embeddings

        return io.NodeOutput(describe_embeddings(host().model_path(KIND, file)))


def _names() -> list[str]:
    diffusers = model_names(host().model_folders(KIND), {".ipadpt"})
    return sorted({*host().model_names(KIND), *diffusers})
