"""Keep a LoRA as a file that loads everywhere."""

from __future__ import annotations

from ..host import host, io
from ..host.folders import safe_name
from ..pipelines.lora_layouts import LAYOUTS
from .sockets import Lora
from .train_lora import workflow_of


class SaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessSaveLora",
            display_name="Save LoRA",
            category="Likeness/save",
            description="Write the LoRA into the output folder's loras, where ComfyUI's own "
            "LoraLoader finds it. The file carries this workflow: drop it on the canvas to open "
            "it.",
            search_aliases=["export lora"],
            is_output_node=True,
            inputs=[
                Lora.Input(
                    "lora",
                    tooltip="The LoRA to keep. Its file carries this workflow, prompts included.",
                ),
                io.String.Input(
                    "filename",
                    default="likeness",
                    tooltip="Name of the file, without suffix; a folder before it is allowed. "
                    "If another LoRA has that name, a number is added.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="kohya",
                    advanced=True,
                    tooltip="Names of the weights in the file. kohya: for ComfyUI, A1111 and "
                    "diffusers. diffusers: for diffusers and PEFT.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file lies.")],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, lora, filename, layout="kohya"):
        from ..pipelines.lora_files import save_copy

        name = safe_name(filename.removesuffix(".safetensors"))
        path = host().output_directory() / "loras" / f"{name}.safetensors"
        workflow = workflow_of(cls)
        path = save_copy(lora, path, layout, {"workflow": workflow} if workflow else {})
        return io.NodeOutput(str(path), ui={"text": [str(path)], "files": [str(path)]})
