"""Load a LoRA file from ComfyUI's loras folders."""

from __future__ import annotations

from ..host import host, io
from .sockets import Lora


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadLora",
            display_name="Load LoRA",
            category="Likeness/load",
            description="Choose a LoRA file. It is checked against the base model when it is used.",
            search_aliases=["lora loader"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[
                        name
                        for name in host().model_names("loras")
                        if name.endswith(".safetensors")
                    ],
                    tooltip="A .safetensors file in models/loras or in the output folder's loras.",
                ),
            ],
            outputs=[
                Lora.Output(display_name="lora", tooltip="The LoRA, described."),
                io.String.Output(
                    display_name="trigger",
                    tooltip="The caption it was trained with, if the file says: put it into the "
                    "prompt.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        from ..pipelines.files import sha256_of

        return sha256_of(host().model_path("loras", file))

    @classmethod
    def execute(cls, file):
        from ..pipelines.lora_files import describe_lora

        lora = describe_lora(host().model_path("loras", file))
        return io.NodeOutput(lora, lora.trigger)
