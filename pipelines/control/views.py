"""A ControlNet seen through: its answers weakened by block and by place, itself untouched."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_OWN = (
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_modules",
)


def view(module: torch.nn.Module) -> Any:
    """A second module with the same weights: hooks and parts put on it are not on the first."""
    seen = copy.copy(module)
    for name in _OWN:
        table = seen.__dict__[name]
        seen.__dict__[name] = type(table)(table)
    return seen


class Limits:
    """How much of each answer of a ControlNet goes on: a forward hook.

    `factors`: one for each of its outputs, outermost first; empty: 1. `mask`: where it acts, white;
    as large as the drawn picture, set before drawing.
    """

    def __init__(self, factors: tuple[float, ...]) -> None:
        self.factors = factors
        self._mask: torch.Tensor | None = None
        self._sized: dict[tuple[Any, ...], torch.Tensor] = {}

    def look_through(self, mask: Image | None) -> None:
        """Let it act where `mask` (L) is white from now on."""
        import numpy as np
        import torch

        self._sized.clear()
        if mask is None:
            self._mask = None
            return
        levels = np.asarray(mask, dtype=np.float32) / 255
        self._mask = torch.from_numpy(levels)[None, None]

    def __call__(self, module: Any, inputs: Any, output: Any) -> Any:
        """`output` with the same structure: its tensors, in order, are the residuals."""
        places = iter(range(len(self.factors)))

        def weakened(part: Any) -> Any:
            if isinstance(part, (list, tuple)):
                return type(part)([weakened(each) for each in part])
            if part is None:
                return None
            if self.factors:
                part = part * self.factors[next(places)]
            return part if self._mask is None else part * self._mask_for(part)

        return weakened(output)

    def _mask_for(self, residual: torch.Tensor) -> torch.Tensor:
        """The mask in the shape of a residual: [1, 1, h, w], or [1, tokens, 1] of a transformer."""
        import torch

        assert self._mask is not None
        key = (residual.shape[1:], residual.dtype, residual.device)
        if key not in self._sized:
            tokens = residual.ndim == 3
            size = self._grid(residual.shape[1]) if tokens else tuple(residual.shape[-2:])
            sized = torch.nn.functional.interpolate(self._mask, size=size, mode="area")
            sized = sized.flatten(1)[..., None] if tokens else sized
            self._sized[key] = sized.to(residual.device, residual.dtype)
        return self._sized[key]

    def _grid(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of that many square patches of the picture."""
        assert self._mask is not None
        height, width = self._mask.shape[-2:]
        side = math.sqrt(height * width / tokens)
        rows, columns = round(height / side), round(width / side)
        assert rows * columns == tokens, "a picture's patches are square"
        return rows, columns


def for_every_row(module: Any, inputs: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """A pre-hook for FLUX unions: one mode for all rows, where a pipeline gives it for one."""
    mode = arguments.get("controlnet_mode")
    if mode is not None:
        rows = arguments["hidden_states"].shape[0]
        arguments = {**arguments, "controlnet_mode": mode.reshape(-1, 1)[:1].expand(rows, 1)}
    return inputs, arguments
