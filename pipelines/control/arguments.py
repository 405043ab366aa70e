"""What a diffusers pipeline is called with for ControlNets; pipelines differ in their words."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..guidance import ControlUse
from .load import Plan
from .pictures import mask_for, pictures_for
from .views import Limits

_SEED = 0
"""Of the noise with which SD 3's VAE encodes control pictures: every drawing the same."""


@dataclass(frozen=True)
class Net:
    """A ControlNet with what it is used for: once, or a union with several pictures at once.

    `module`: what the pipeline calls. `limits`: what weakens it.
    """

    uses: tuple[ControlUse, ...]
    found: Plan
    module: Any
    limits: Limits | None = None


def arguments_for(
    nets: Sequence[Net], pipeline: Any, size: tuple[int, int], rows: int, count: int
) -> dict[str, Any]:
    """The arguments of `pipeline` for `nets`, which are told the size of the drawing.

    Raises:
        ValueError: as `Controls.arguments`.
    """
    for net in nets:
        if net.limits:
            net.limits.look_through(mask_for(net.uses[0], size))
    known = inspect.signature(type(pipeline).__call__).parameters
    if nets[0].found.class_name == "T2IAdapter":
        return _adapter_arguments(nets, known, size, rows, count)
    uses = [use for net in nets for use in net.uses]
    plans = [net.found for net in nets for _ in net.uses]
    pictures = [
        _tensor(pipeline, found, pictures_for(use, size, rows, count))
        for use, found in zip(uses, plans, strict=True)
    ]
    values: dict[str, list[Any]] = {
        "control_image" if "control_image" in known else "image": pictures,
        "controlnet_conditioning_scale": [float(use.strength) for use in uses],
        "control_guidance_start": [float(use.start) for use in uses],
        "control_guidance_end": [float(use.end) for use in uses],
    }
    listed = len(nets) > 1 or nets[0].found.class_name == "ControlNetUnionModel"
    if any(use.control.modes for use in uses) or (listed and "control_mode" in known):
        values["control_mode"] = [_mode(use) for use in uses]
    arguments = {name: each if listed else each[0] for name, each in values.items()}
    if nets[0].found.class_name == "SD3ControlNetModel":
        _encode_alike(pipeline)
    return arguments | _guess(nets, known)


def _mode(use: ControlUse) -> int:
    return use.control.modes.index(use.mode) if use.mode else -1  # one without modes among unions


def _tensor(pipeline: Any, found: Plan, pictures: list[Any]) -> Any:
    """Pictures as the pipeline itself would read them: it takes lists in one way and tensors in
    another, but not for several ControlNets.
    """
    reader = getattr(pipeline, "control_image_processor", pipeline.image_processor)
    width, height = pictures[0].size
    tensor = reader.preprocess(pictures, height=height, width=width)
    if found.edges:
        return (tensor / 2 + 0.5) * 255 * 0.5 + 0.5  # from 0..1, as Stability's own code does
    return tensor


def _guess(nets: Sequence[Net], known: Any) -> dict[str, bool]:
    uses = [use for net in nets for use in net.uses]
    guess = uses[0].guess or nets[0].found.pools
    if not guess:
        return {}
    if "guess_mode" not in known:
        raise ValueError(
            f"guess mode cannot be used with {uses[0].control.name!r}: diffusers has none for "
            "this kind of model; switch it off"
        )
    several = len(nets) > 1 and nets[0].found.class_name == "ControlNetUnionModel"
    if several and not any(u.strength and u.start == 0 and u.end == 1 for u in uses):
        raise ValueError(
            "guess mode with several ControlNet-Unions needs one of them in every step; set start "
            "0 and end 1 for one, or switch guess mode off"
        )
    return {"guess_mode": True}


def _encode_alike(pipeline: Any) -> None:
    """Let this pipeline's VAE draw the same noise for a control picture each time: diffusers takes
    it from torch's global state, so that a picture would depend on what was drawn before.
    """
    import torch

    prepare, seeded = pipeline.prepare_image, []

    def prepared(*arguments: Any, **options: Any) -> Any:
        picture = prepare(*arguments, **options)
        if not seeded:
            seeded.append(torch.manual_seed(_SEED))
        return picture

    pipeline.prepare_image = prepared


def _adapter_arguments(
    nets: Sequence[Net], known: Any, size: tuple[int, int], rows: int, count: int
) -> dict[str, Any]:
    uses = [net.uses[0] for net in nets]
    _check_adapters(uses, known, nets[0].found.config["downscale_factor"], size)
    pictures = [
        # One for every drawn picture: the pipeline repeats none.
        _channels(pictures_for(net.uses[0], size, rows, count, each=True), net.found)
        for net in nets
    ]
    strengths = [float(use.strength) for use in uses]
    several = len(nets) > 1
    arguments: dict[str, Any] = {
        "image": pictures if several else pictures[0],
        "adapter_conditioning_scale": strengths if several else strengths[0],
    }
    if "adapter_conditioning_factor" in known:
        arguments["adapter_conditioning_factor"] = float(uses[0].end)
    return arguments


def _channels(pictures: list[Any], found: Plan) -> list[Any]:
    grey = found.config["in_channels"] == 1
    return [picture.convert("L") for picture in pictures] if grey else pictures


def _check_adapters(
    uses: Sequence[ControlUse], known: Any, multiple: int, size: tuple[int, int]
) -> None:
    for use in uses:
        name = use.control.name
        if use.guess:
            raise ValueError(
                f"guess mode cannot be used with the T2I-Adapter {name!r}; switch it off"
            )
        if use.end < 1 and "adapter_conditioning_factor" not in known:
            raise ValueError(
                f"end {use.end:g} cannot be used with the T2I-Adapter {name!r}: for this family "
                "it acts in every step; use 1"
            )
    if len({use.end for use in uses}) > 1:
        ends = ", ".join(f"{use.end:g} for {use.control.name!r}" for use in uses)
        raise ValueError(
            f"several T2I-Adapters stop together, and end is {ends}; use the same for all"
        )
    for name, value in zip(("width", "height"), size, strict=True):
        if value % multiple:
            raise ValueError(
                f"{name} {value} cannot be used with the T2I-Adapter {uses[0].control.name!r}; "
                f"use a multiple of {multiple}"
            )
