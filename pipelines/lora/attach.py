"""LoRAs beside the layers: the change is computed in every forward, and no weight is copied.

For the length of the block a layer's `forward` is ours and calls the one before, whatever that is:
quantised, cast from float8, brought by an offloading hook. To what comes out it adds

- for changes of low rank: up(down(x)), all LoRAs of the layer side by side in one product;
- for other changes of linear layers and convolutions (LoHa, LoKr, DoRA, full differences): the
  layer's operation with ΔW, which is made and dropped again in every forward. That costs another
  product as large as the layer's own and building ΔW; fusing is much faster there.

Layers of other kinds (norms, embeddings) get their changed weight for the length of their forward.
Blocks that torch.compile made are compiled anew with what is attached, and soon run uncompiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .layers import Layer, Part, is_readable, why_not_plain
from .weight_targets import Target, compute, point, targets_of

if TYPE_CHECKING:
    import torch


@contextmanager
def attached(layers: Sequence[Layer]) -> Iterator[None]:
    """Have the changes of `layers` computed beside them for the length of the block. Afterwards no
    module has a trace of it.

    Raises:
        ValueError: a change needs the numbers of a weight that cannot be read.
    """
    import torch

    undo: list[tuple[torch.nn.Module, Any]] = []
    try:
        for layer in layers:
            module = layer.module
            splits = isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
            forward = _Beside(layer) if splits else _Changed(layer)
            undo.append((module, vars(module).get("forward")))
            module.forward = forward
        yield
    finally:
        for module, earlier in reversed(undo):
            if earlier is None:
                del module.forward
            else:
                module.forward = earlier


class _Beside:
    """The forward of a linear layer or 2-D convolution, with changes beside it."""

    def __init__(self, layer: Layer) -> None:
        import torch

        module = layer.module
        self._module: Any = module
        self._before = module.forward
        self._convolves = isinstance(module, torch.nn.Conv2d)
        # Inputs of a grouped convolution meet only the outputs of their group: no two steps.
        in_steps = getattr(module, "groups", 1) == 1
        pairs = [
            (part, part.change.low_rank() if in_steps else None) for part in layer.weight_parts
        ]
        self._low = [(part, pair) for part, pair in pairs if pair is not None]
        self._whole = [part for part, pair in pairs if pair is None]
        self._biases = layer.bias_parts
        self._needs_weight = any(part.change.needs_weight for part in self._whole)
        self._ready: tuple[Any, ...] = (None, None, (None, None, None))
        if self._needs_weight and not is_readable(module):
            raise ValueError(
                f"{layer.name} {why_not_plain(module)}, and this kind of LoRA depends on the "
                "weight itself; load the base model unquantised and without offloading"
            )

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y = self._before(x, *args, **kwargs)
        x = x.to(y.device, y.dtype)
        down, up, bias = self._factors(y.device, y.dtype)
        if up is not None:
            y = y + self._apply_pair(x, down, up)
        if self._whole:
            y = y + self._apply(x, self._delta(y.device).to(y.dtype))
        return y if bias is None else y + bias

    def _factors(self, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
        """`down`, `up` and bias of all LoRAs together, where and as the layer computes."""
        import torch

        if self._ready[:2] != (device, dtype):
            down = up = bias = None
            if self._low:
                down = torch.cat([self._down(part, pair[0]).float() for part, pair in self._low])
                up = torch.cat([self._up(part, *pair[1:]) for part, pair in self._low], dim=1)
                down, up = down.to(device, dtype), up.to(device, dtype)
            if self._biases:
                bias = _sum([_bias(part) * part.factor for part in self._biases])
                bias = bias.to(device, dtype).view(-1, *[1, 1] * self._convolves)
            self._ready = (device, dtype, (down, up, bias))
        return self._ready[2]

    def _down(self, part: Part, down: torch.Tensor) -> torch.Tensor:
        return down.reshape(len(down), *part.change.shape[1:])

    def _up(self, part: Part, up: torch.Tensor, factor: float) -> torch.Tensor:
        shape = (up.shape[0], -1, *[1, 1] * self._convolves)
        return up.float().reshape(shape) * (factor * part.factor)

    def _apply(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The layer's operation with another weight and no bias."""
        from torch.nn import functional

        if self._convolves:
            return self._module._conv_forward(x, weight, None)
        return functional.linear(x, weight)

    def _apply_pair(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        step = functional.conv2d if self._convolves else functional.linear
        return step(self._apply(x, down), up)

    def _delta(self, device: torch.device) -> torch.Tensor:
        """Σ factor·ΔW of the changes that are not of low rank, in float32."""
        import torch

        if self._needs_weight:
            weight = self._module.weight.detach().to(device)
        else:  # it is looked at for its shape and device, and may be packed
            shape = self._whole[0].change.shape
            weight = torch.zeros((), device=device).expand(shape)
        return _sum([part.change.delta(weight) * part.factor for part in self._whole])


class _Changed:
    """The forward of any other layer, which has changed weights for that long."""

    def __init__(self, layer: Layer) -> None:
        self._before = layer.module.forward
        self._targets: list[Target] = []
        why = why_not_plain(layer.module)
        if hasattr(layer.module, "_diffusers_hook"):
            why = why or "is brought by an offloading hook"
        if why:
            raise ValueError(
                f"{layer.name} {why}, and this LoRA changes it in a way that needs its weight in "
                "memory; choose other memory options for the base model"
            )
        self._targets = targets_of([layer])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        undo = []
        try:
            for target in self._targets:
                parameter = target.parameter
                pristine = None if parameter is None else parameter.data
                with torch.no_grad():
                    changed = compute(target, pristine)
                undo.append((target, pristine))
                point(target, changed)
            return self._before(*args, **kwargs)
        finally:
            for target, pristine in undo:
                point(target, pristine)


def _bias(part: Part) -> torch.Tensor:
    assert part.change.bias is not None
    return part.change.bias.float()


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
