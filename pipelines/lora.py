"""LoRA files and live weights: read, write, fuse and take off again, bit for bit.

A fused weight is `W = cast(W0 + Σ scale·ΔW)`, computed in float32 from the pristine W0, with ΔW =
alpha/rank · up @ down (arXiv 2106.09685). W0 itself is never written: for the length of the `with`
the parameter points at another tensor, and afterwards it points at W0 again. So nothing depends on
order or history, and unfusing cannot be inexact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from .files import sha256_of
from .lora_files import LoraPair, LoraWeights, read_lora
from .spec import LoraUse

if TYPE_CHECKING:
    import torch

    from .loading import LivePipeline


@contextmanager
def fused(live: LivePipeline, uses: Sequence[LoraUse]) -> Iterator[None]:
    """Fuse `uses` into `live` for the length of the block. Afterwards every weight is the very
    tensor it was before.

    Raises:
        ValueError: a LoRA file changed since it was described, or does not fit this model.
    """
    import torch

    originals: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for parameter, change in _changes(live, uses):
                originals.append((parameter, parameter.data))
                parameter.data = (parameter.data.float() + change).to(parameter.dtype)
        yield
    finally:
        for parameter, pristine in originals:
            parameter.data = pristine


def _changes(
    live: LivePipeline, uses: Sequence[LoraUse]
) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Each touched parameter with the sum of all changes to it, in float32 on its device.

    One parameter at a time, so that the changes never lie in memory all at once. The sum runs in an
    order of its own, so that chaining the same nodes differently gives the same bits.
    """
    ordered = sorted(uses, key=lambda use: (use.lora.sha256, use.scale, use.text_scale))
    loaded: dict[str, LoraWeights] = {}
    for use in ordered:
        if use.scale == 0 and use.text_scale == 0:
            continue
        if sha256_of(use.lora.path) != use.lora.sha256:
            raise ValueError(
                f"the LoRA file {use.lora.path} changed since it was loaded; queue again"
            )
        if use.lora.sha256 not in loaded:
            loaded[use.lora.sha256] = read_lora(use.lora.path, live)
    for component in (live.family.denoiser, *live.family.text_encoders):
        root = live.component(component.attribute)
        is_text = component is not live.family.denoiser
        touched: dict[str, list[tuple[float, LoraPair]]] = {}
        for use in ordered:
            scale = use.text_scale if is_text else use.scale
            if scale == 0:
                continue
            for module, pair in loaded[use.lora.sha256].get(component.attribute, {}).items():
                touched.setdefault(module, []).append((scale, pair))
        for module, parts in touched.items():
            parameter = cast("torch.nn.Parameter", root.get_submodule(module).weight)
            deltas = [scale * pair.delta(parameter.device) for scale, pair in parts]
            yield parameter, sum(deltas[1:], start=deltas[0])
