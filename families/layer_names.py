"""Tensors between the original code's names and ours, by the layer names that a family gives.

Both ways share one table (`Family.original_names`), so what is written is what is read. Nothing is
copied where a slice will do: the parts of a fused weight stay views of the file's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .family import Rows

if TYPE_CHECKING:
    import torch

LayerNames = dict[str, tuple[Rows, ...]]


def whole(module: str) -> tuple[Rows, ...]:
    """One layer that has another name and nothing else."""
    return (Rows(module),)


def fused(modules: Iterable[str], widths: Iterable[int]) -> tuple[Rows, ...]:
    """Several of our layers that are one in the original, stacked along the rows in this order."""
    rows, start = [], 0
    for module, width in zip(modules, widths, strict=True):
        rows.append(Rows(module, source=(start, start + width)))
        start += width
    return tuple(rows)


def swapped(module: str, width: int) -> tuple[Rows, ...]:
    """The original's last modulation gives shift and scale, ours scale and shift."""
    first, second = (0, width), (width, 2 * width)
    return (Rows(module, first, second), Rows(module, second, first))


def to_ours(
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, tuple[Rows, ...]],
    parameters: Mapping[str, str] | None = None,
) -> dict[str, torch.Tensor]:
    """Original names → ours; what is not in `names` keeps its name.

    `parameters`: tensors that are called otherwise than `weight` and `bias`: their name
    (`"pos_embed"`), or with a leading dot its end (`".query_norm.scale"`), → what to read instead.
    """
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, parameter = _renamed(key, parameters or {}).rpartition(".")
        if layer not in names:
            converted[f"{layer}.{parameter}" if layer else parameter] = tensor
            continue
        for rows in names[layer]:
            part = tensor if rows.source is None else tensor[slice(*rows.source)]
            _place(converted, f"{rows.module}.{parameter}", part, rows, names[layer])
    return converted


def to_original(
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, tuple[Rows, ...]],
    parameters: Mapping[str, str] | None = None,
) -> dict[str, torch.Tensor]:
    """Our names → the original's: the inverse of `to_ours` with the same tables."""
    import torch

    ends = {ours: original for original, ours in (parameters or {}).items()}
    layers = {rows.module for entry in names.values() for rows in entry}
    written = {
        _renamed(key, ends): tensor
        for key, tensor in tensors.items()
        if key.rpartition(".")[0] not in layers
    }
    for layer, entry in names.items():
        for parameter in ("weight", "bias"):
            parts = [tensors.get(f"{rows.module}.{parameter}") for rows in entry]
            known = [part for part in parts if part is not None]
            if len(known) != len(parts):
                continue
            slices = [
                part if rows.target is None else part[slice(*rows.target)]
                for part, rows in zip(known, entry, strict=True)
            ]
            whole = slices[0] if len(slices) == 1 else torch.cat(slices)
            written[_renamed(f"{layer}.{parameter}", ends)] = whole
    return written


def _renamed(key: str, ends: Mapping[str, str]) -> str:
    for old, new in ends.items():
        if key == old or (old.startswith(".") and key.endswith(old)):
            return key.removesuffix(old) + new
    return key


def _place(
    tensors: dict[str, torch.Tensor],
    key: str,
    part: torch.Tensor,
    rows: Rows,
    entry: tuple[Rows, ...],
) -> None:
    """Put the rows of one original layer where they belong in ours."""
    if rows.target is None:
        tensors[key] = part
        return
    if key not in tensors:
        ends = [other.target[1] for other in entry if other.target and other.module == rows.module]
        tensors[key] = part.new_empty((max(ends), *part.shape[1:]))
    tensors[key][slice(*rows.target)] = part
