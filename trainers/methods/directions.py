"""What goes through a layer, as a few directions: where a LoRA starts with `start="eva"`.

EVA (arXiv 2410.07170) with the same rank for every layer (its rho of 1): `down` begins as the
directions in which the layer's inputs vary most, on the pictures that are to be learned, found with
an incremental decomposition; `up` begins as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

PASSES = 32
"""Forward passes at most, one picture each."""
ALIKE = 0.99
"""Cosine between a direction before and after a pass, from which on it counts as found."""
ROWS = 1024
"""Of a layer's inputs in one pass, spread over all of them."""

Forward = Callable[[int, int], None]


def directions(layers: Mapping[Module, int], forward: Forward) -> dict[Module, Tensor]:
    """For each layer the directions in which its inputs vary most, [found, inputs], float32, of
    length 1, the strongest first: as many as asked for, fewer if the inputs have fewer; none for a
    layer that hardly anything goes through.

    `layers`: linear ones and ungrouped convolutions, with the rank of each. `forward`: see
    `Method.study`.
    """
    watched = _Watched(layers)
    try:
        for number in range(PASSES):
            forward(number, PASSES)
            if watched.after_pass():
                break
    finally:
        watched.close()
    return watched.found()


class _Watched:
    """Layers while their inputs are looked at. Layers with one input share what is found."""

    def __init__(self, layers: Mapping[Module, int]) -> None:
        self._layers = layers
        self._inputs: dict[Module, _Inputs] = {}
        self._owners: dict[Module, Module] = {}
        self._last: tuple[Any, Module | None] = (None, None)
        self._handles = [layer.register_forward_pre_hook(self._see) for layer in layers]

    def after_pass(self) -> bool:
        """Whether nothing changes any more."""
        self._last = (None, None)
        return all(inputs.settled for inputs in self._inputs.values())

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = (None, None)

    def found(self) -> dict[Module, Tensor]:
        rows = {layer: self._inputs[owner].directions for layer, owner in self._owners.items()}
        return {layer: found for layer, found in rows.items() if found is not None}

    def _see(self, layer: Module, arguments: tuple[Any, ...]) -> None:
        x: Tensor = arguments[0]
        if layer not in self._owners:
            before = self._before(layer, x)
            self._owners[layer] = layer if before is None else self._owners[before]
            if before is None:
                self._inputs[layer] = _Inputs(self._layers[layer])
        self._last = (x, layer)
        if self._owners[layer] is layer and not self._inputs[layer].settled:
            self._inputs[layer].add(rows_of(layer, x))

    def _before(self, layer: Module, x: Tensor) -> Module | None:
        """The layer before this one, if the same goes through it, as through those of attention."""
        from torch.nn import Linear

        seen, before = self._last
        if not (isinstance(layer, Linear) and isinstance(before, Linear) and seen is x):
            return None
        return before if self._layers[layer] == self._layers[before] else None


class _Inputs:
    """The inputs of one layer."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._waiting: list[Tensor] = []
        self._found: Any = None
        self.settled = False

    @property
    def directions(self) -> Tensor | None:
        return None if self._found is None else self._found.components_.float()

    def add(self, rows: Tensor) -> None:
        """`rows` [any, inputs]; kept until there are enough to begin with."""
        import torch

        self._waiting.append(rows)
        rank = min(self._rank, rows.shape[1])
        if sum(map(len, self._waiting)) < 2 * rank:
            return
        rows = torch.cat(self._waiting)
        self._waiting = []
        if self._found is None:
            self._found = _decomposition(rank, rows.shape[1])
            self._found.partial_fit(rows)
            return
        before = self._found.components_
        self._found.partial_fit(rows)
        cosines = torch.nn.functional.cosine_similarity(before, self._found.components_)
        self.settled = bool((cosines >= ALIKE).all())


def _decomposition(rank: int, width: int) -> Any:
    from peft.utils.incremental_pca import IncrementalPCA

    # Of few numbers the exact one is as fast, and the other cannot take more than there are.
    quick = 4 * rank <= width
    return IncrementalPCA(n_components=rank, lowrank=quick, lowrank_seed=0 if quick else None)


def rows_of(layer: Module, x: Tensor) -> Tensor:
    """What a layer multiplies its weight with, [at most `ROWS`, inputs], float32 on the CPU (some
    devices cannot decompose): the input of a linear layer, the patches of a convolution.
    """
    import torch

    x = x.detach()
    if isinstance(layer, torch.nn.Conv2d):
        assert not isinstance(layer.padding, str), "no model here pads by name"
        x = torch.nn.functional.unfold(
            x, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        ).transpose(1, 2)
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: -(-len(rows) // ROWS)].float().cpu()


def start_from(down: Tensor, found: Tensor) -> None:
    """Put directions into the first rows of `down` [rank, in, ...]; the others stay."""
    down[: len(found)] = found.reshape(len(found), *down.shape[1:]).to(down)
