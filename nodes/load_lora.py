"""Load a LoRA file from ComfyUI's loras folders, or from the hub."""

from __future__ import annotations

from pathlib import Path

from ..host import host, io
from ..pipelines.lora.source import SUFFIXES
from .hub_inputs import hub_inputs
from .sockets import Lora

NONE = "none"


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = [name for name in host().model_names("loras") if name.endswith(SUFFIXES)]
        return io.Schema(
            node_id="LikenessLoadLora",
            display_name="Load LoRA",
            category="Likeness/load",
            description="Choose a LoRA file. It is checked against the base model when it is used.",
            search_aliases=["lora loader", "lycoris", "loha", "lokr", "dora"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=names or [NONE],
                    tooltip="A LoRA file in models/loras or in the output folder's loras: LoRA, "
                    "LoHa, LoKr, DoRA and full differences, from any trainer.",
                ),
                *hub_inputs(
                    "the LoRA",
                    ". Empty: pytorch_lora_weights.safetensors, as diffusers names it.",
                ),
            ],
            outputs=[
                Lora.Output(display_name="lora", tooltip="The LoRA, described."),
                io.String.Output(
                    display_name="trigger",
                    tooltip="The caption it was trained with, if the file says: put it into the "
                    "prompt.",
                ),
                io.String.Output(
                    display_name="info",
                    tooltip="What the file tells about itself: trigger words, base model, steps, "
                    "method and rank.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, hub="", hub_file=""):
        from ..pipelines.files import sha256_of

        try:
            return sha256_of(_find(file, hub, hub_file, download=False))
        except ValueError:
            return "not here yet"

    @classmethod
    def execute(cls, file, hub="", hub_file=""):
        from ..pipelines.lora.files import describe_lora
        from ..pipelines.lora.metadata import lora_facts

        name = hub.strip().rpartition("/")[2] or None
        lora = describe_lora(_find(file, hub, hub_file), name)
        info = str(lora_facts(lora.path))
        return io.NodeOutput(lora, lora.trigger, info, ui={"text": [info]})


def _find(file: str, hub: str, hub_file: str, download: bool = True) -> Path:
    from ..pipelines.lora.hub import hub_lora

    if hub.strip():
        return hub_lora(hub, hub_file, download)
    return host().model_path("loras", file)
