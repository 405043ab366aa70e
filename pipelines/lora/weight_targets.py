"""The weights and biases that LoRAs change: the sum that each becomes, and pointing them at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .layers import Layer, Part

if TYPE_CHECKING:
    import torch

_ROWS_AT_A_TIME = 4 << 20
"""Bytes in float32: the sum is made while a piece is in the processor's cache."""
_ROWS_ON_DEVICE = 256 << 20


@dataclass(frozen=True, eq=False)
class Target:
    """A weight or bias that changes. `kind` is `"weight"` or `"bias"`; `parts` in the order in
    which they are summed.
    """

    name: str
    module: torch.nn.Module
    kind: str
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        return f"{self.name}.{self.kind}"

    @property
    def parameter(self) -> torch.nn.Parameter | None:
        """None: a bias that the layer does not have."""
        return self.module._parameters[self.kind]

    @property
    def shape(self) -> tuple[int, ...]:
        parameter = self.parameter
        return (self.weight.shape[0],) if parameter is None else tuple(parameter.shape)

    @property
    def weight(self) -> torch.nn.Parameter:
        weight = self.module._parameters["weight"]
        assert weight is not None
        return weight


def targets_of(layers: Sequence[Layer]) -> list[Target]:
    """The parameters behind `layers`; layers that share one become one target."""
    found: dict[object, Target] = {}
    for layer in layers:
        for kind, parts in (("weight", layer.weight_parts), ("bias", layer.bias_parts)):
            if not parts:
                continue
            target = Target(layer.name, layer.module, kind, parts)
            parameter = target.parameter
            key = target.key if parameter is None else id(parameter)
            if earlier := found.get(key):
                both = sorted((*earlier.parts, *parts), key=lambda part: part[:2])
                target = Target(earlier.name, earlier.module, kind, tuple(both))
            found[key] = target
    return list(found.values())


def compute(
    target: Target,
    pristine: torch.Tensor | None,
    device: torch.device | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """cast(pristine + Σ factor·ΔW), summed in float32, as a new tensor or in `out`.

    `pristine` None: a bias that the layer does not have. `device`: the weight's, unless said.

    Everything of low rank is one product: its factors are put side by side.
    """
    import torch

    device = device or target.weight.device
    if out is None:
        out = torch.empty(target.shape, dtype=target.weight.dtype, device=device)
    whole: torch.Tensor | None = None
    downs, ups = [], []
    for part in target.parts:
        pair = part.change.low_rank() if target.kind == "weight" else None
        if pair is not None:
            down, up, factor = pair
            downs.append(down.to(device, torch.float32).flatten(1))
            ups.append(up.to(device, torch.float32).flatten(1) * (factor * part.factor))
            continue
        delta = _delta(part, target.kind, pristine, device)
        if whole is None:
            whole = delta * part.factor  # not in place: it may be the file's own tensor
        else:
            whole.add_(delta, alpha=part.factor)
    down = torch.cat(downs) if downs else None
    up = torch.cat(ups, dim=1) if ups else None
    _sum_rows(out, pristine, whole, down, up)
    return out


def point(target: Target, tensor: torch.Tensor | None) -> None:
    """Have the target's parameter hold `tensor`; None: it has none."""
    import torch

    parameter = target.parameter
    if tensor is None:
        target.module._parameters[target.kind] = None
    elif parameter is None:
        added = torch.nn.Parameter(tensor, requires_grad=False)
        target.module._parameters[target.kind] = added
    else:
        parameter.data = tensor


def _delta(
    part: Part, kind: str, pristine: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """ΔW, or what is added to the bias, at scale 1 in float32."""
    import torch

    if kind == "bias":
        assert part.change.bias is not None
        return part.change.bias.to(device, torch.float32)
    assert pristine is not None
    return part.change.delta(pristine.to(device))


def _sum_rows(
    out: torch.Tensor,
    pristine: torch.Tensor | None,
    whole: torch.Tensor | None,
    down: torch.Tensor | None,
    up: torch.Tensor | None,
) -> None:
    """`out` = cast(pristine + whole + up @ down), some rows at a time.

    `out`, `pristine`, `whole` [out, ...]; `down` [rank, in·...], `up` [out, rank].
    """
    import torch

    count = out.shape[0]
    results = out.view(count, -1)
    room = _ROWS_AT_A_TIME if out.device.type == "cpu" else _ROWS_ON_DEVICE
    step = max(1, room // (4 * max(1, results.shape[1])))
    scratch = None
    if out.dtype != torch.float32:
        size = (min(step, count), results.shape[1])
        scratch = torch.empty(size, dtype=torch.float32, device=out.device)
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        result = results[rows]
        part = result if scratch is None else scratch[: len(result)]
        shaped = part.view(-1, *out.shape[1:])
        if pristine is None:
            shaped.zero_()
        else:
            shaped.copy_(pristine[rows])
        if whole is not None:
            shaped.add_(whole[rows])
        if up is not None and down is not None:
            part.addmm_(up[rows], down)
        if scratch is not None:
            result.copy_(part)
