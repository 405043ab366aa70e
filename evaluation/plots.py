"""Pictures of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def smooth(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Exponential moving average without the pull towards zero at the start; `weight` in 0..1,
    higher is smoother.
    """
    smoothed, average = [], 0.0
    for index, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**index))
    return smoothed


def plot_loss(
    losses: Sequence[float], title: str = "Training loss", smoothing: float = 0.95
) -> Image:
    """The loss of each optimizer step, raw and smoothed, as an RGB picture of 800x500 pixels.

    Raises:
        ValueError: there is no loss to plot.
    """
    if not losses:
        raise ValueError("there is no loss to plot; connect the loss output of a training node")
    # The object interface: pyplot would keep every figure alive and pick a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    marker = "o" if len(losses) == 1 else None
    axes.plot(steps, losses, color="#9db8d2", linewidth=0.8, marker=marker, label="each step")
    axes.plot(steps, smooth(losses, smoothing), color="#1f5fa8", linewidth=2, label="smoothed")
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert(
        "RGB"
    )
