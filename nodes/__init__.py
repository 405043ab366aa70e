"""What the user sees: one file per node. A new node is one new file and one line in `NODES`."""

from __future__ import annotations

from .class_images import ClassImages
from .from_checkpoint import FromCheckpoint
from .fuse_lora import FuseLora
from .generate import Generate
from .image_folder import ImageFolder
from .image_set import ImageSet
from .load_from_hub import LoadFromHub
from .load_lora import LoadLora
from .load_parts import LoadParts
from .load_pipeline import LoadPipeline
from .plot_loss import PlotLoss
from .save_lora import SaveLora
from .train_lora import TrainLora
from .unfuse_lora import UnfuseLora

NODES = (
    LoadPipeline,
    FromCheckpoint,
    LoadParts,
    LoadFromHub,
    LoadLora,
    FuseLora,
    UnfuseLora,
    Generate,
    ImageSet,
    ImageFolder,
    ClassImages,
    TrainLora,
    SaveLora,
    PlotLoss,
)

__all__ = ["NODES"]
