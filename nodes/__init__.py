"""What the user sees: one file per node. A new node is one new file and one line in `NODES`."""

from __future__ import annotations

from .apply_controlnet import ApplyControlNet
from .apply_ip_adapter import ApplyIPAdapter
from .class_images import ClassImages
from .encoded_set import EncodedSet
from .from_checkpoint import FromCheckpoint
from .fuse_lora import FuseLora
from .generate import Generate
from .image_folder import ImageFolder
from .image_set import ImageSet
from .load_controlnet import LoadControlNet
from .load_from_hub import LoadFromHub
from .load_image_embeddings import LoadImageEmbeddings
from .load_ip_adapter import LoadIPAdapter
from .load_lora import LoadLora
from .load_parts import LoadParts
from .load_pipeline import LoadPipeline
from .plot_loss import PlotLoss
from .preprocess import Preprocess
from .save_image_embeddings import SaveImageEmbeddings
from .save_lora import SaveLora
from .save_pipeline import SavePipeline
from .sketch import Sketch
from .train_dreambooth import TrainDreamBooth
from .train_lora import TrainLora
from .training_settings import TrainingSettings
from .unfuse_lora import UnfuseLora

NODES = (
    LoadPipeline,
    FromCheckpoint,
    LoadParts,
    LoadFromHub,
    LoadLora,
    LoadControlNet,
    LoadIPAdapter,
    LoadImageEmbeddings,
    FuseLora,
    UnfuseLora,
    ApplyControlNet,
    ApplyIPAdapter,
    Preprocess,
    Sketch,
    Generate,
    ImageSet,
    ImageFolder,
    EncodedSet,
    ClassImages,
    TrainingSettings,
    TrainLora,
    TrainDreamBooth,
    SaveLora,
    SaveImageEmbeddings,
    SavePipeline,
    PlotLoss,
)

__all__ = ["NODES"]
