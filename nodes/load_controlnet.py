"""Load a ControlNet, ControlNet-Union or T2I-Adapter from ComfyUI's folders, or from the hub."""

from __future__ import annotations

from pathlib import Path

from ..host import host, io
from .hub_inputs import hub_inputs
from .sockets import ControlNet

NONE = "none"


class LoadControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadControlNet",
            display_name="Load ControlNet",
            category="Likeness/load",
            description="Choose a ControlNet, a ControlNet-Union or a T2I-Adapter. What it is and "
            "which base models it fits is read from its tensors, never from its name.",
            search_aliases=["controlnet loader", "union", "t2i adapter", "canny", "openpose"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=host().model_names("controlnet") or [NONE],
                    tooltip="A file in models/controlnet, or a diffusers folder there: for Stable "
                    "Diffusion, SDXL, SD 3 or FLUX.1, under the names of diffusers or of the "
                    "original code.",
                ),
                *hub_inputs(
                    "it",
                    ". Empty: its config.json and the weights beside it, as diffusers saves a "
                    "ControlNet.",
                ),
            ],
            outputs=[
                ControlNet.Output(display_name="controlnet", tooltip="The ControlNet, described."),
                io.String.Output(
                    display_name="info",
                    tooltip="What it is: its kind, the base models it fits, a union's modes, and "
                    "how many outputs it has.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, hub="", hub_file=""):
        from ..pipelines.control.source import identity_of

        try:
            return identity_of(_find(file, hub, hub_file, download=False))
        except ValueError:
            return "not here yet"

    @classmethod
    def execute(cls, file, hub="", hub_file=""):
        from ..pipelines.control.describe import control_facts, describe_control

        name = hub.strip().rpartition("/")[2] or None
        control = describe_control(_find(file, hub, hub_file), name)
        info = control_facts(control)
        return io.NodeOutput(control, info, ui={"text": [info]})


def _find(file: str, hub: str, hub_file: str, download: bool = True) -> Path:
    from ..pipelines.control.hub import hub_control

    if hub.strip():
        return hub_control(hub, hub_file, download)
    return host().model_path("controlnet", file)
