"""LoRAs on live weights for the length of a block, and off again bit for bit.

Mode `"fuse"` (`fused_weights.py`): `W = cast(W0 + Σ scale·ΔW)`, computed in float32 from the
pristine W0, with ΔW = alpha/rank · up @ down for LoRA itself (arXiv 2106.09685). W0 is never
written: for the length of the `with` the parameter points at another tensor, and afterwards it
points at W0 again. So nothing depends on order or history, and unfusing cannot be inexact.

Mode `"attach"` (`attach.py`): the change is computed beside the layer in every forward, and no
weight is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import sha256_of
from ..spec import LoraUse
from .attach import attached
from .files import read_lora
from .fused_weights import FusedWeights, has_room
from .layers import Layer, layers_of, why_not_plain
from .weight_targets import targets_of

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline
    from .files import LoraWeights


@contextmanager
def applied(live: LivePipeline, uses: Sequence[LoraUse]) -> Iterator[None]:
    """Put `uses` on `live` for the length of the block, each in its mode. Afterwards every weight
    is the very tensor it was before, and every module behaves as before.

    Fused weights stay in memory for the next use (`live.fused`), which is then a matter of
    pointers, or of computing into them again when a scale changed.

    Raises:
        ValueError: a LoRA file changed since it was described, does not fit this model, names
            blocks that it does not have, or cannot be put on weights of this kind in this mode.
    """
    import torch

    if live.fused is None:
        live.fused = FusedWeights()
    kept = FusedWeights() if live.fused.on else live.fused  # inside another block: on top of it
    ordered = sorted((use for use in uses if use.scale or use.text_scale), key=_place)
    if not ordered:
        if not has_room(torch.device(live.device), 0):
            kept.drop()
        yield
        return
    loras = _read(live, ordered, kept)
    to_fuse = layers_of(live, [use for use in ordered if use.mode == "fuse"], loras)
    to_attach = layers_of(live, [use for use in ordered if use.mode == "attach"], loras)
    components = _check_fusable(live, to_fuse)
    with kept.put_on(targets_of(to_fuse), components), attached(to_attach):
        yield


def _place(use: LoraUse) -> tuple[Any, ...]:
    return (use.lora.sha256, use.scale, use.text_scale, use.blocks, use.mode)


def _read(
    live: LivePipeline, uses: Sequence[LoraUse], kept: FusedWeights
) -> dict[str, LoraWeights]:
    """SHA-256 → LoRA, for every use. Files that are as they were are not read again; that costs one
    look at their sizes and times.
    """
    loras: dict[str, LoraWeights] = {}
    small: dict[str, tuple[str, LoraWeights]] = {}
    for use in uses:
        path, sha256 = Path(use.lora.path), use.lora.sha256
        if not path.is_file():
            raise ValueError(f"the LoRA file {path} is gone; choose the LoRA again")
        if sha256_of(path) != sha256:
            raise ValueError(f"the LoRA file {path} changed since it was loaded; queue again")
        beside = path.with_name("adapter_config.json")  # where PEFT keeps alpha
        settings = sha256_of(beside) if beside.is_file() else ""
        before, lora = kept.loras.get(sha256, ("", None))
        if lora is not None and before != settings:
            kept.drop()
            lora = None
        loras[sha256] = lora or loras.get(sha256) or read_lora(path, live)
        if path.stat().st_size <= FusedWeights.LARGEST_KEPT_FILE:
            small[sha256] = (settings, loras[sha256])
    kept.loras = small
    return loras


def _check_fusable(live: LivePipeline, layers: Sequence[Layer]) -> list[torch.nn.Module]:
    """The components that hold `layers`.

    Raises:
        ValueError: a layer's weight cannot be fused into; nothing was changed.
    """
    components = {layer.component: live.component(layer.component) for layer in layers}
    in_groups = {name for name, root in components.items() if _is_group_offloaded(root)}
    for layer in layers:
        why = why_not_plain(layer.module)
        if layer.component in in_groups:
            why = "is offloaded in groups of layers, which bring their own copies of the weights"
        if why:
            raise ValueError(
                f"{layer.name} {why}: a LoRA cannot be fused into it exactly; "
                "put the LoRA on in attach mode"
            )
    return list(components.values())


def _is_group_offloaded(root: torch.nn.Module) -> bool:
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    return _is_group_offload_enabled(root)
