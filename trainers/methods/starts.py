"""What the matrices of a LoRA start as."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RANDOM = ("kaiming", "gaussian")
FROM_WEIGHT = ("pissa", "olora")
EVA = "eva"
"""From what goes through the layers; see `directions`."""
STARTS = (*RANDOM, *FROM_WEIGHT, EVA)

_MORE, _ROUNDS = 8, 6
"""Directions beyond the rank, and rounds, of the search for a weight's largest singular values
(arXiv 0909.4061): with so many the subspace is that of the exact decomposition to about 1e-3.
"""


def random_down(start: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """`down` [rank, in, ...] that goes with an `up` of zeros."""
    import torch

    down = torch.empty(shape, dtype=torch.float32)
    if start == "gaussian":
        return torch.nn.init.normal_(down, std=1 / shape[0], generator=draw)
    return torch.nn.init.kaiming_uniform_(down, a=5**0.5, generator=draw)


def from_weight(start: str, weight: Tensor, rank: int, draw: torch.Generator) -> list[Tensor]:
    """`down` [rank, in, ...] and `up` [out, rank] whose product is the part of `weight` that is to
    be learned: of the largest singular values (PiSSA, arXiv 2404.02948), or spanned by its first
    columns (OLoRA, arXiv 2406.01775). `rank` is at most what the weight has.

    Computed on the CPU in float64, signs fixed: the same bits every time on one machine.
    """
    import torch

    matrix = weight.detach().cpu().double().flatten(1)
    with torch.no_grad():
        down, up = _pissa(matrix, rank, draw) if start == "pissa" else _olora(matrix, rank)
    return [down.float().reshape(rank, *weight.shape[1:]), up.float()]


def _pissa(matrix: Tensor, rank: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    import torch

    size = min(rank + _MORE, *matrix.shape)
    sketch = torch.randn(matrix.shape[1], size, generator=draw, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.t() @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    up, down, roots = (basis @ left)[:, :rank], right[:rank], values[:rank].sqrt()
    signs = _signs(up.gather(0, up.abs().argmax(0, keepdim=True)))
    return down * (roots[:, None] * signs.t()), up * roots * signs


def _olora(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    import torch

    up = torch.linalg.qr(matrix[:, :rank]).Q
    down = up.t() @ matrix
    signs = _signs(down.diagonal())
    return down * signs[:, None], up * signs


def _signs(numbers: Tensor) -> Tensor:
    """1 or -1."""
    return 1 - 2 * (numbers < 0).to(numbers.dtype)
