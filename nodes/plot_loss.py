"""Show how the training went."""

from __future__ import annotations

from ..host import io


class PlotLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessPlotLoss",
            display_name="Plot Loss",
            category="Likeness/judge",
            description="Draw the loss of every training step, raw and smoothed.",
            search_aliases=["loss graph", "training curve"],
            inputs=[
                io.LossMap.Input(
                    "loss",
                    tooltip="The loss output of a training node; ComfyUI's own is read as well.",
                ),
                io.String.Input(
                    "title", default="Training loss", tooltip="Written above the curve."
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.95,
                    min=0.0,
                    max=0.999,
                    step=0.01,
                    advanced=True,
                    tooltip="Weight of the past in the smoothed curve: 0 draws the raw loss, 0.99 "
                    "is very smooth.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The curve, 800x500 pixels.")],
        )

    @classmethod
    def execute(cls, loss, title="Training loss", smoothing=0.95):
        from ..evaluation.plots import plot_loss
        from ..pipelines.images import to_tensor

        return io.NodeOutput(to_tensor([plot_loss(loss["loss"], title, smoothing)]))
