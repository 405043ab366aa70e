"""Pictures to learn from, out of a folder."""

from __future__ import annotations

from ..host import host, io
from . import session
from .sockets import Images


class ImageFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessImageFolder",
            display_name="Image Folder",
            category="Likeness/train",
            description="The pictures of one folder, with their captions. 3 to 30 pictures of one "
            "subject are enough.",
            search_aliases=["dataset", "training images"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=host().image_folder_names(),
                    tooltip="A folder with pictures, inside ComfyUI's input folder. "
                    "'tiny/subject' comes with Likeness.",
                ),
                io.String.Input(
                    "caption",
                    default="a photo of sks",
                    tooltip="What the pictures show: a rare trigger word and the kind of thing, "
                    "'a photo of sks dog'. "
                    "A picture with a .txt file of the same name uses that text instead.",
                ),
            ],
            outputs=[
                Images.Output(
                    display_name="images", tooltip="Pictures and captions, for a training node."
                ),
                io.Image.Output(
                    display_name="preview", tooltip="The pictures, scaled to one size."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder, caption):
        return session.folder_state(host().image_folder(folder))

    @classmethod
    def execute(cls, folder, caption):
        from ..pipelines.images import to_tensor
        from ..trainers.samples import fit, samples_from_folder

        samples = samples_from_folder(host().image_folder(folder), caption)
        images = [sample.open() for sample in samples]
        return io.NodeOutput(samples, to_tensor([fit(image, *images[0].size) for image in images]))
