"""Turn pictures into control pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..host import host, io, ui
from ..pipelines.preprocess import DETECTORS
from ..pipelines.preprocess.preprocess import MAX_RESOLUTION
from . import session
from .widgets import widgets

if TYPE_CHECKING:
    from pathlib import Path

    from ..pipelines.preprocess import Places

KINDS = ("controlnet_aux", "annotators")
"""Kinds of models below which weights are looked for."""


class Preprocess(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessPreprocess",
            display_name="Preprocess",
            category="Likeness/guide",
            description="Turn pictures into control pictures for a ControlNet: edges, lines, "
            "depth, normals, poses, segments and more. A detector whose package or weights are "
            "missing says in one line what to install or where to put it; all others work.",
            search_aliases=[
                "preprocessor",
                "annotator",
                "controlnet aux",
                *(detector.title.lower() for detector in DETECTORS),
            ],
            inputs=[
                io.Image.Input("image", tooltip="The pictures; a batch gives a batch."),
                io.DynamicCombo.Input(
                    "detector",
                    options=[
                        io.DynamicCombo.Option(detector.name, widgets(detector.settings))
                        for detector in DETECTORS
                    ],
                    tooltip="What is looked for. The help page has a picture of each and tells "
                    "what needs weights.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=MAX_RESOLUTION,
                    step=64,
                    optional=True,
                    advanced=True,
                    tooltip="Shorter side in pixels at which the detector works: lower is faster "
                    "and coarser. 0: the picture's own size. The control picture always has the "
                    "picture's size.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Fetch weights from the Hugging Face hub when they are nowhere on this "
                    "machine. Off: nothing is ever downloaded.",
                ),
                io.String.Input(
                    "compare",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Detectors to show beside the chosen one on the first picture, with "
                    "their defaults: names with commas between, or 'all'. Empty: none.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The control pictures, as large as the pictures."
                ),
                io.Image.Output(
                    display_name="compare",
                    tooltip="The first picture and what the detectors make of it, with names.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, detector=None, compare="", **_):
        from ..pipelines.preprocess import names_in, weights_versions

        chosen = [_choice(detector)] if detector else []
        others = [(name, None) for name in names_in(compare or "")]
        return [weights_versions(*each, _places()) for each in (*chosen, *others)]

    @classmethod
    def execute(cls, image, detector, resolution=0, download=False, compare=""):
        from ..pipelines.images import to_tensor
        from ..pipelines.preprocess import compare as compared
        from ..pipelines.preprocess import names_in, preprocess
        from ..pipelines.source_pictures import read_pictures

        pictures, (name, settings) = read_pictures(image), _choice(detector)
        names = tuple(dict.fromkeys((name, *names_in(compare))))
        first, total = len(pictures), len(pictures) + len(names)
        bar, live = host().progress(total), session.pipelines()
        how: Any = {"resolution": resolution, "places": _places(download)}
        how["on_picture"] = lambda done, of: bar.update(done, total)
        made = preprocess(live, pictures, name, settings, **how)
        how["on_picture"] = lambda done, of: bar.update(first + done, total)
        sheet = to_tensor([compared(live, pictures[0], names, known={name: made[0]}, **how)])
        return io.NodeOutput(to_tensor(made), sheet, ui=ui.PreviewImage(sheet, cls=cls))


def _choice(detector: dict[str, Any]) -> tuple[str, Any]:
    """The name and the settings of what was chosen. What comes through a link is None before the
    graph runs.
    """
    from ..pipelines.preprocess import detector_named
    from ..pipelines.setting import from_dict

    name = detector["detector"]
    given = {key: value for key, value in detector.items() if value is not None}
    given.pop("detector")
    return name, from_dict(detector_named(name).settings, given)


def _places(download: bool = False) -> Places:
    from ..pipelines.preprocess import Places

    folders: list[Path] = [folder for kind in KINDS for folder in host().model_folders(kind)]
    comfyui = host().comfyui_folder()
    if comfyui is not None:  # what another pack has downloaded already
        folders.append(comfyui / "custom_nodes" / "comfyui_controlnet_aux" / "ckpts")
    return Places(tuple(folders), download)
