"""ComfyUI's own nodes that make masks, for life without it: enough to say where to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host import io

if TYPE_CHECKING:
    import torch

LARGEST_SIDE = 16384
OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")


class SolidMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SolidMask",
            display_name="Create Solid Mask",
            category="image/mask",
            inputs=[
                io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Int.Input("width", default=512, min=1, max=LARGEST_SIDE, step=1),
                io.Int.Input("height", default=512, min=1, max=LARGEST_SIDE, step=1),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> io.NodeOutput:
        import torch

        return io.NodeOutput(torch.full((1, height, width), value))


class MaskComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskComposite",
            display_name="Combine Masks",
            category="image/mask",
            inputs=[
                io.Mask.Input("destination"),
                io.Mask.Input("source"),
                io.Int.Input("x", default=0, min=0, max=LARGEST_SIDE, step=1),
                io.Int.Input("y", default=0, min=0, max=LARGEST_SIDE, step=1),
                io.Combo.Input("operation", options=list(OPERATIONS)),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(
        cls, destination: torch.Tensor, source: torch.Tensor, x: int, y: int, operation: str
    ) -> io.NodeOutput:
        """`source` laid on `destination` with its upper left corner at `x`, `y`."""
        result = destination.reshape(-1, *destination.shape[-2:]).clone()
        under = result[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        over = source.reshape(-1, *source.shape[-2:])[:, : under.shape[1], : under.shape[2]]
        first, second = under.round().bool(), over.round().bool()
        combined = {
            "multiply": lambda: under * over,
            "add": lambda: under + over,
            "subtract": lambda: under - over,
            "and": lambda: first & second,
            "or": lambda: first | second,
            "xor": lambda: first ^ second,
        }[operation]()
        under.copy_(combined.float().clamp(0, 1))
        return io.NodeOutput(result)
