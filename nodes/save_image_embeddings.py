"""Keep what an image encoder says of pictures, to use it without the encoder."""

from __future__ import annotations

from ..host import host, io
from ..host.folders import safe_name
from .session import pipelines
from .sockets import ImageEmbeddings, IPAdapter

KIND = "ip_adapter_embeddings"
"""The folder below `models` and `output` where embeddings lie."""


class SaveImageEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessSaveImageEmbeddings",
            display_name="Save Image Embeddings",
            category="Likeness/save",
            description="Write what the adapter's image encoder says of pictures into the output "
            "folder's ip_adapter_embeddings. Drawings that use the file need no image encoder, and "
            "for FaceID no insightface.",
            search_aliases=["ipadapter embeds", "faceid embeds"],
            is_output_node=True,
            inputs=[
                IPAdapter.Input(
                    "adapter", tooltip="The IP-Adapter whose encoder looks at the pictures."
                ),
                io.Image.Input("image", tooltip="The picture; a batch is several, kept apart."),
                io.String.Input(
                    "name",
                    default="likeness",
                    tooltip="Name of the file, without suffix; a folder before it is allowed. "
                    "Embeddings of that name are replaced.",
                ),
            ],
            outputs=[
                ImageEmbeddings.Output(
                    display_name="embeddings", tooltip="For Apply IP-Adapter, without the picture."
                ),
                io.String.Output(display_name="path", tooltip="Where the file lies."),
            ],
        )

    @classmethod
    def execute(cls, adapter, image, name):
        from ..pipelines.guidance import described
        from ..pipelines.ip_adapter.embeddings import save_encoded
        from ..pipelines.source_pictures import read_pictures

        name = safe_name(name.removesuffix(".safetensors"))
        path = host().output_directory() / KIND / f"{name}.safetensors"
        shown = described(read_pictures(image), "to take after")
        saved = save_encoded(pipelines(), adapter, shown, path)
        return io.NodeOutput(saved, str(path), ui={"text": [str(path)]})
