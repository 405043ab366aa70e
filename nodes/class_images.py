"""Class pictures: they keep 'a dog' a dog while the model learns your dog."""

from __future__ import annotations

from ..host import host, io
from ..trainers.settings import PriorSettings
from . import session
from .sockets import ClassImages as ClassImagesSocket
from .widgets import widgets

MADE = "(made by the base model)"


class ClassImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessClassImages",
            display_name="Class Images",
            category="Likeness/train",
            description="Prior preservation (DreamBooth, arXiv 2208.12242): pictures of your "
            "subject's kind, made by "
            "the base model itself, are learned along with yours, so that the kind keeps its "
            "look. They are made once "
            "and kept.",
            search_aliases=["prior preservation", "regularisation images", "regularization images"],
            inputs=[
                *widgets(PriorSettings, skip=("folder",)),
                io.Combo.Input(
                    "folder",
                    options=[MADE, *host().image_folder_names()],
                    default=MADE,
                    advanced=True,
                    tooltip="Your own class pictures, a folder inside the input folder, instead "
                    "of made ones.",
                ),
            ],
            outputs=[
                ClassImagesSocket.Output(
                    display_name="class_images", tooltip="For a training node."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder=MADE, **settings):
        return "" if folder == MADE else session.folder_state(host().image_folder(folder))

    @classmethod
    def execute(cls, folder=MADE, **settings):
        own = "" if folder == MADE else str(host().image_folder(folder))
        return io.NodeOutput(PriorSettings(folder=own, **settings))
