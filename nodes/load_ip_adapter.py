"""Load an IP-Adapter from ComfyUI's ipadapter folder, or from the hub, with its image encoder."""

from __future__ import annotations

from pathlib import Path

from ..host import host, io
from ..host.folders import bundled_models
from ..pipelines.ip_adapter.describe import FACEID_PLUS
from .hub_inputs import hub_inputs
from .sockets import IPAdapter

AUTO, NONE = "auto", "none"


class LoadIPAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessLoadIPAdapter",
            display_name="Load IP-Adapter",
            category="Likeness/load",
            description="Choose an IP-Adapter, which lets a drawing take after a picture. What it "
            "is made for is read from its tensors, and the image encoder that it needs is found by "
            "its shape: file names do not matter.",
            search_aliases=["ipadapter", "image prompt", "clip vision", "faceid", "reference"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=host().model_names("ipadapter") or [NONE],
                    tooltip="An IP-Adapter in models/ipadapter: SD 1.5 and SDXL (base, plus, face, "
                    "FaceID), XLabs' for FLUX, InstantX's for SD 3.5. 'tiny' comes with Likeness.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[AUTO, NONE, *host().model_names("clip_vision")],
                    default=AUTO,
                    tooltip="The image encoder. auto: the first in models/clip_vision, or beside "
                    "the adapter, that has the widths which it needs. none: saved embeddings will "
                    "be used.",
                ),
                io.Combo.Input(
                    "faceid_plus",
                    options=list(FACEID_PLUS),
                    default=FACEID_PLUS[0],
                    optional=True,
                    advanced=True,
                    tooltip="For FaceID Plus alone, whose two versions hold the same tensors: v2, "
                    "or v1 for the first ones.",
                ),
                *hub_inputs("the adapter", ", such as models/ip-adapter_sd15.safetensors."),
            ],
            outputs=[
                IPAdapter.Output(display_name="adapter", tooltip="The IP-Adapter, described."),
                io.String.Output(
                    display_name="info",
                    tooltip="Its kind, the models it is made for, and the image encoder found.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, encoder=AUTO, faceid_plus="v2", hub="", hub_file=""):
        from ..pipelines.files import sha256_of
        from ..pipelines.ip_adapter.files import open_adapter

        try:
            path = open_adapter(_find(file, hub, hub_file, download=False)).path
        except ValueError:
            return "not here yet"
        return f"{sha256_of(path)} {host().model_names('clip_vision')}"

    @classmethod
    def execute(cls, file, encoder=AUTO, faceid_plus="v2", hub="", hub_file=""):
        from ..pipelines.ip_adapter.describe import about, describe_adapter

        path = _find(file, hub, hub_file)
        name = None if hub.strip() else file.rpartition("/")[2].partition(".")[0]
        chosen = {AUTO: None, NONE: ""}.get(encoder, encoder)
        chosen = host().model_path("clip_vision", chosen) if chosen else chosen
        adapter = describe_adapter(path, chosen, _encoder_folders(), name, faceid_plus)
        info = about(adapter)
        return io.NodeOutput(adapter, info, ui={"text": [info]})


def _find(file: str, hub: str, hub_file: str, download: bool = True) -> Path:
    from ..pipelines.ip_adapter.hub import hub_adapter

    if hub.strip():
        return hub_adapter(hub, hub_file, download)
    return host().model_path("ipadapter", file)


def _encoder_folders() -> list[Path]:
    return [*host().model_folders("clip_vision"), *bundled_models("clip_vision").values()]
