"""Pictures to learn from, out of any node that makes images."""

from __future__ import annotations

from ..host import io
from .sockets import Images


class ImageSet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessImageSet",
            display_name="Image Set",
            category="Likeness/train",
            description="A batch of images becomes pictures to learn from. No folders needed.",
            search_aliases=["dataset", "training images", "image batch"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures, as one batch."),
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="a photo of sks",
                    tooltip="What the pictures show. One line: the caption of all. "
                    "As many lines as pictures: one each.",
                ),
            ],
            outputs=[
                Images.Output(
                    display_name="images", tooltip="Pictures and captions, for a training node."
                )
            ],
        )

    @classmethod
    def execute(cls, images, caption):
        from ..pipelines.images import from_tensor
        from ..trainers.samples import samples_from_images

        lines = [line for line in caption.splitlines() if line.strip()]
        captions = lines if len(lines) > 1 else caption
        return io.NodeOutput(samples_from_images(from_tensor(images), captions))
