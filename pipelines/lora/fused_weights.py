"""Fused weights, kept beside the pristine ones and computed into the same memory again and again.

Putting a LoRA on costs what computing `W = cast(W0 + Σ factor·ΔW)` costs, and for a model of
gigabytes that is memory traffic: new pages for W take longer than the arithmetic. So the tensors of
the last use stay with the live model. The same LoRAs at the same scales again cost nothing but
pointers; another scale is computed into the same tensors, from the pristine weights and never from
what is in there. A weight whose changes are the same is left alone, so a new factor for one block
costs that block.

What a second copy of the weights costs:
- W0 in a mapped file (`tensor_file.is_mapped`): nothing. Its pages are given back as soon as they
  were read; the copy takes the place of the original in memory.
- W0 in memory of its own, on the CPU or on a device with room for both: the size of the layers that
  change, until something else needs the room (`drop`).
- on a device without room: W0 waits in the CPU's memory until the block ends, and goes back then;
  nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .weight_targets import Target, compute, point

if TYPE_CHECKING:
    import torch

    from .files import LoraWeights

_HEADROOM = 2 << 30
"""Bytes left free on a device for making the picture, and a tenth of its memory if that is more."""


class FusedWeights:
    """What is kept of the last use. One per live model."""

    LARGEST_KEPT_FILE = 512 << 20
    """LoRAs in files of more bytes are read again for every use."""

    def __init__(self) -> None:
        self.loras: dict[str, tuple[str, LoraWeights]] = {}
        """SHA-256 of a LoRA file → that of the settings beside it, and what it says for this
        model."""
        self.on = False
        """Whether the model's parameters point into here right now."""
        self._kept: dict[str, tuple[object, torch.Tensor]] = {}  # key -> recipe, result
        self._doomed = False

    @property
    def size_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self._kept.values())

    def drop(self) -> None:
        """Forget all of it, as soon as it is not in use."""
        self._doomed = self.on
        if not self.on:
            self._kept.clear()
            self.loras.clear()

    @contextmanager
    def put_on(
        self, targets: Sequence[Target], components: Sequence[torch.nn.Module]
    ) -> Iterator[None]:
        """Point every target at its fused weight for the length of the block.

        `components`: the modules that hold the targets; whatever moved them meanwhile, they are
        afterwards where they were.
        """
        import torch

        wanted = {target.key for target in targets}
        for key in [key for key in self._kept if key not in wanted]:
            del self._kept[key]
        parked = {
            device
            for device, needed in self._needed(targets).items()
            if not has_room(device, needed)
        }
        undo: list[tuple[Target, torch.Tensor | None]] = []
        homes = [
            (tensor, tensor.device)
            for root in components
            for tensor in (*root.parameters(), *root.buffers())
        ]
        self.on = True
        try:
            with torch.no_grad():
                for target in targets:
                    device = target.weight.device
                    parameter = target.parameter
                    pristine = None if parameter is None else parameter.data
                    if parameter is not None and pristine is not None and device in parked:
                        pristine = parameter.data = pristine.cpu()
                    undo.append((target, pristine))
                    point(target, self._fused(target, pristine, device, keep=device not in parked))
            yield
        finally:
            self.on = False
            for target, pristine in undo:
                point(target, pristine)
            for tensor, home in homes:
                if tensor.device != home:  # parked, or taken along by an offloading hook
                    tensor.data = tensor.data.to(home)
            if self._doomed:
                self.drop()

    def _needed(self, targets: Sequence[Target]) -> dict[torch.device, int]:
        """Bytes that fusing `targets` takes on each device beside what is kept."""
        needed: dict[torch.device, int] = {}
        for target in targets:
            weight, parameter = target.weight, target.parameter
            if target.key not in self._kept and parameter is not None:
                size = parameter.numel() * weight.element_size()
                needed[weight.device] = needed.get(weight.device, 0) + size
        return needed

    def _fused(
        self, target: Target, pristine: torch.Tensor | None, device: torch.device, keep: bool
    ) -> torch.Tensor:
        """The fused tensor: the one kept, if it is still what is wanted, else a new result in its
        memory. `pristine` None: a bias that the layer does not have.
        """
        from ..tensor_file import release_pages

        parameter = target.parameter
        recipe = (
            tuple((part.sha256, part.factor) for part in target.parts),
            *(() if parameter is None else (parameter.data_ptr(), parameter._version)),
        )
        kept, out = self._kept.pop(target.key, (None, None))
        if out is None or not _same_kind(out, target, device):
            kept, out = None, None  # the old memory is free before new is asked for
        if out is None or kept != recipe:
            out = compute(target, pristine, device, out)
        if keep:
            self._kept[target.key] = (recipe, out)
        if pristine is not None:
            release_pages(pristine)
        return out


def has_room(device: torch.device, needed: int) -> bool:
    """Whether `needed` bytes more fit on `device` beside the model and a picture in the making."""
    import torch

    backend: Any = getattr(torch, device.type, None)
    if device.type == "cpu" or not hasattr(backend, "mem_get_info"):
        return True  # the system's own swapping decides
    free, total = backend.mem_get_info(device)
    cached = backend.memory_reserved(device) - backend.memory_allocated(device)
    return needed + max(_HEADROOM, total // 10) <= free + cached


def _same_kind(out: torch.Tensor, target: Target, device: torch.device) -> bool:
    wanted = (target.shape, target.weight.dtype, device)
    return (tuple(out.shape), out.dtype, out.device) == wanted
