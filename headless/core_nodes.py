"""ComfyUI's own nodes that a workflow of ours needs to load, show and save, for life without it.

Ids, inputs and outputs are those of ComfyUI 0.33; inside ComfyUI these classes are not used.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from typing import TYPE_CHECKING, Any

from ..host import host, io
from . import pictures
from .core_masks import MaskComposite, SolidMask

if TYPE_CHECKING:
    import torch


class LoadImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            inputs=[
                io.Combo.Input("image", options=pictures.input_names(), upload=io.UploadType.image),
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        try:
            pictures.input_path(image)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return hashlib.sha256(pictures.input_path(image).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        return io.NodeOutput(*pictures.load(pictures.input_path(image)))


class SaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            description="Saves the input images to your output folder.",
            inputs=[
                io.Image.Input("images", tooltip="The images to save."),
                io.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="How the file names begin; may hold %date:yyyy-MM-dd% and the like.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        try:
            if filename_prefix is not None:
                pictures.split_prefix(filename_prefix, host().output_directory(), 0, 0)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, images: torch.Tensor, filename_prefix: str = "ComfyUI") -> io.NodeOutput:
        folder = host().output_directory()
        saved = pictures.save(images, folder, filename_prefix, _metadata(cls), compress_level=4)
        return io.NodeOutput(images, ui={"images": _shown(saved, "output")})


class PreviewImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            description="Shows the images without saving them to your output folder.",
            inputs=[io.Image.Input("images")],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        prefix = f"ComfyUI_temp_{secrets.token_hex(3)}"
        folder = host().temp_directory()
        saved = pictures.save(images, folder, prefix, _metadata(cls), compress_level=1)
        return io.NodeOutput(images, ui={"images": _shown(saved, "temp")})


class PreviewAny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewAny",
            display_name="Preview as Text",
            category="utilities",
            description="Preview any input value as text.",
            inputs=[io.AnyType.Input("source")],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any) -> io.NodeOutput:
        text = source if isinstance(source, str) else _as_text(source)
        return io.NodeOutput(text, ui={"text": (text,)})


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def _metadata(cls: type[io.ComfyNode]) -> dict[str, Any]:
    """What ComfyUI writes into pictures: the API format as `prompt`, the canvas as `workflow`."""
    return {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}


def _shown(saved: list[tuple[str, str]], type: str) -> list[dict[str, str]]:
    return [{"filename": name, "subfolder": folder, "type": type} for name, folder in saved]


def _primitive(
    node_id: str, display_name: str, value: io.Input, output: io.Output
) -> type[io.ComfyNode]:
    """A node that hands on the one value that the user sets on it."""

    class Primitive(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=node_id,
                display_name=display_name,
                category="utilities/primitive",
                inputs=[value],
                outputs=[output],
            )

        @classmethod
        def execute(cls, value: Any) -> io.NodeOutput:
            return io.NodeOutput(value)

    Primitive.__name__ = Primitive.__qualname__ = node_id
    return Primitive


CORE_NODES: tuple[type[io.ComfyNode], ...] = (
    LoadImage,
    SaveImage,
    PreviewImage,
    PreviewAny,
    SolidMask,
    MaskComposite,
    _primitive(
        "PrimitiveInt",
        "Int",
        io.Int.Input(
            "value",
            min=-sys.maxsize,
            max=sys.maxsize,
            extra_dict={"control_after_generate": "fixed"},
        ),
        io.Int.Output(),
    ),
    _primitive(
        "PrimitiveFloat",
        "Float",
        io.Float.Input("value", min=-sys.maxsize, max=sys.maxsize, step=0.1),
        io.Float.Output(),
    ),
    _primitive("PrimitiveString", "Text", io.String.Input("value"), io.String.Output()),
    _primitive(
        "PrimitiveStringMultiline",
        "Text (Multiline)",
        io.String.Input("value", multiline=True),
        io.String.Output(),
    ),
    _primitive("PrimitiveBoolean", "Boolean", io.Boolean.Input("value"), io.Boolean.Output()),
)
