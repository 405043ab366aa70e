"""LoRA (arXiv 2106.09685) on the denoiser and, if asked, on the text encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...pipelines.lora.changes import LoraPair
from ...pipelines.lora.operation import Operation
from ..settings import setting
from .adapters import Adapters, Forward, computed, dropped, parameter
from .directions import directions, start_from
from .starts import EVA, FROM_WEIGHT, STARTS, from_weight, random_down
from .targets import TARGETS, Targets

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

__all__ = ["TARGETS", "LoraLearner", "LoraMethod", "LoraSettings"]


@dataclass(frozen=True)
class LoraShape:
    """The shape of a LoRA (arXiv 2106.09685): ΔW = alpha / rank * up @ down."""

    rank: int = setting(
        0,
        low=0,
        high=1024,
        help="How much it can remember, and how large its file is. 0: what is usual for the model.",
    )
    alpha: float = setting(
        0.0,
        low=0.0,
        high=4096.0,
        advanced=True,
        help="Strength: the LoRA acts times alpha / rank. 0: the same as rank.",
    )
    dropout: float = setting(
        0.0,
        low=0.0,
        high=0.95,
        step=0.05,
        advanced=True,
        help="Share of the LoRA's inputs that are blanked at random while training.",
    )


@dataclass(frozen=True)
class LoraFreedom:
    """What only a plain LoRA can be told."""

    rank_stabilised: bool = setting(
        False,
        advanced=True,
        help="rsLoRA (arXiv 2312.03732): alpha / √rank instead of alpha / rank, so that high ranks "
        "learn as fast as low ones.",
    )
    start: str = setting(
        "kaiming",
        choices=STARTS,
        advanced=True,
        help="What the LoRA starts from: random numbers; the strongest (pissa, arXiv 2404.02948) "
        "or first (olora, arXiv 2406.01775) directions of the weights, which learns faster and "
        "saves twice the rank; or the directions in which your pictures vary inside the model "
        "(eva, arXiv 2410.07170). It always starts as no change.",
    )


@dataclass(frozen=True)
class LoraSettings(Targets, LoraFreedom, LoraShape):
    """What a LoRA can be told."""

    def factor(self, rank: int) -> float:
        """What up @ down is multiplied by."""
        alpha = self.alpha or float(rank)
        return alpha / (rank**0.5 if self.rank_stabilised else rank)


class LoraMethod(Adapters):
    """See `Method` for the contract."""

    name = "lora"
    title = "LoRA"
    settings_type = LoraSettings
    settings: LoraSettings

    def learner(self, module: Module, rank: int, draw: torch.Generator) -> LoraLearner:
        return LoraLearner(module, self.settings, rank, draw)

    def study(self, forward: Callable[[int, int], None]) -> Sequence[Tensor]:
        import torch

        if self.settings.start != EVA:
            return ()
        downs = {layer.module: layer.learner.parameters["down"] for layer in self.layers().values()}
        with torch.no_grad(), self.switched_off():
            found = directions({module: len(down) for module, down in downs.items()}, forward)
            for module, rows in found.items():
                start_from(downs[module], rows)
        return list(downs.values())


class LoraLearner:
    """ΔW = factor · (up @ down - up0 @ down0), where up0 and down0 are what a start from the
    weight began with, so that it begins as no change without touching the weight.
    """

    def __init__(
        self, module: Module, settings: LoraSettings, rank: int, draw: torch.Generator
    ) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.operation = Operation(module)
        self.dropout = settings.dropout
        self.factor = settings.factor(rank)
        self.kept: dict[str, Tensor] = {}
        if settings.start in FROM_WEIGHT:
            rank = min(rank, *weight.flatten(1).shape)
            down, up = from_weight(settings.start, weight, rank, draw)
            down, up = down, up / self.factor
            self.kept = {
                "down0": parameter(down, module).detach(),
                "up0": parameter(_upright(up, weight), module).detach(),
            }
        else:
            down = random_down(settings.start, (rank, *weight.shape[1:]), draw)
            up = weight.new_zeros(weight.shape[0], rank)
        self.parameters = {
            "down": parameter(down, module),
            "up": parameter(_upright(up, weight), module),
        }

    def forward(self, before: Forward, x: Tensor) -> Tensor:
        y = before(x)
        x = dropped(computed(x), self.dropout)
        added = self._pair("down", "up").beside(self.operation, x)
        if self.kept:
            added = added - self._pair("down0", "up0").beside(self.operation, x)
        return y + added.to(y.dtype)

    def change(self) -> LoraPair:
        import torch

        if not self.kept:
            return self._pair("down", "up")
        parts = self.parameters | self.kept
        down = torch.cat([parts["down"].detach(), parts["down0"]])
        up = torch.cat([parts["up"].detach(), -parts["up0"]], dim=1)
        return LoraPair(down, up, self.factor * len(down))

    def _pair(self, down: str, up: str) -> LoraPair:
        parts = self.parameters | self.kept
        return LoraPair(parts[down], parts[up], self.factor * len(parts[down]))


def _upright(up: Tensor, weight: Tensor) -> Tensor:
    """`up` [out, rank] as files have it beside a weight of that shape."""
    return up.reshape(*up.shape, *[1] * (weight.dim() - 2))
