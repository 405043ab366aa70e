"""Depth, normals and segments by whole models of transformers and diffusers: Depth Anything, DPT,
ZoeDepth, UperNet, SegFormer, OneFormer, Marigold, ... whatever these libraries read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..quiet import quiet_loading
from ..setting import setting
from . import controlnet_aux as aux
from .detector import Detector, DetectorSettings, Weights, own_model, seed_setting

METRIC = ("zoedepth", "glpn", "depth_pro")
"""Kinds of models that tell how far away things are; all others tell how near."""

LEAST = 8
"""Shortest side in pixels: these libraries take a smaller one for something else."""


@dataclass(frozen=True)
class DepthSettings(DetectorSettings):
    model: str = own_model("depth-anything/Depth-Anything-V2-Small-hf")
    near: str = setting(
        "auto",
        help="What is near becomes white or black. auto: white, as depth ControlNets want it, "
        "whatever the model tells.",
        choices=("auto", "as the model tells", "the reverse"),
        advanced=True,
    )


@dataclass(frozen=True)
class DepthNormalsSettings(DetectorSettings):
    model: str = own_model("depth-anything/Depth-Anything-V2-Small-hf")
    strength: float = setting(
        1.0, help="How strongly surfaces are turned. Higher: steeper.", low=0.01, high=100.0
    )
    red: str = setting(
        "right",
        help="Which way a red surface looks. Try the other way when light falls from the wrong "
        "side.",
        choices=("right", "left"),
        advanced=True,
    )


@dataclass(frozen=True)
class MarigoldSettings(DetectorSettings):
    model: str = own_model("prs-eth/marigold-normals-v1-1")
    steps: int = setting(
        0, help="Denoising steps. 0: as many as the model recommends.", low=0, high=100
    )
    red: str = setting(
        "right",
        help="Which way a red surface looks. Try the other way when light falls from the wrong "
        "side.",
        choices=("right", "left"),
        advanced=True,
    )
    seed: int = seed_setting("another one gives slightly other normals")


@dataclass(frozen=True)
class SegmentationSettings(DetectorSettings):
    model: str = own_model("openmmlab/upernet-convnext-small")


def _read(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        with quiet_loading():
            return kind.from_pretrained(folder, local_files_only=True, **options)
    except ValueError as error:  # told to the user as all that goes wrong with files
        raise TypeError(str(error)) from error


def _depth_model(settings: Any, folders: Sequence[Path]) -> Any:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    model = _read(AutoModelForDepthEstimation, folders[0])
    return aux.held(_read(AutoImageProcessor, folders[0]), model=model.float())


def _segmentation_model(settings: Any, folders: Sequence[Path]) -> Any:
    import transformers as library

    config = _read(library.AutoConfig, folders[0])
    semantic = type(config) in library.AutoModelForSemanticSegmentation._model_mapping
    universal = library.AutoModelForUniversalSegmentation
    auto = library.AutoModelForSemanticSegmentation if semantic else universal
    if config.model_type == "oneformer":
        # Names of classes, which it would fetch from the hub, are for other tasks.
        reader = _read(library.OneFormerImageProcessor, folders[0], class_info_file=None)
        words = _read(library.AutoTokenizer, folders[0])
        processor = library.OneFormerProcessor(reader, words)
    else:
        processor = _read(library.AutoImageProcessor, folders[0])
    return aux.held(processor, model=_read(auto, folders[0]).float())


def _marigold_model(settings: Any, folders: Sequence[Path]) -> Any:
    import torch
    from diffusers import MarigoldNormalsPipeline

    pipeline = _read(MarigoldNormalsPipeline, folders[0], torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    parts = pipeline.components.items()
    return aux.held(pipeline, **{k: v for k, v in parts if isinstance(v, torch.nn.Module)})


def told_depth(live: Any, picture: Any) -> Any:
    """What the model tells about depth, from 0 to 1: float32 [height, width].

    Through transformers' own depth-estimation pipeline, which scales to the picture's size.
    """
    from PIL import Image
    from transformers import pipeline

    model, processor = live["model"], live.detector
    estimate = pipeline(
        "depth-estimation", model=model, image_processor=processor, device=model.device
    )
    told = estimate(Image.fromarray(picture))["predicted_depth"].float().squeeze().cpu().numpy()
    told = told - told.min()
    return told / max(float(told.max()), 1e-12)


def nearness(live: Any, picture: Any) -> Any:
    """How near everything is: float32 [height, width], 0 the farthest and 1 the nearest point."""
    config = live["model"].config
    metric = getattr(config, "depth_estimation_type", "") == "metric"
    told = told_depth(live, picture)
    return 1 - told if metric or config.model_type in METRIC else told


def _depth(live: Any, picture: Any, settings: DepthSettings) -> Any:
    if settings.near == "auto":
        shown = nearness(live, picture)
    else:
        told = told_depth(live, picture)
        shown = told if settings.near == "as the model tells" else 1 - told
    return (shown * 255).round().astype("uint8")


def normals_of(near: Any, strength: float = 1.0) -> Any:
    """Surface normals from nearness z (float [height, width], 0 to 1): n = (-k dz/dx, k dz/dy, 1),
    scaled to length 1, float32 [height, width, 3] with x to the right, y up and z to the viewer.

    Derivatives are Sobel's (arXiv 2302.05543's reference code makes normals so too), for one whole
    picture (the shorter side), so that they do not depend on its size. k: `strength`.
    """
    import cv2
    import numpy as np

    whole = min(near.shape) * strength
    smooth = cv2.GaussianBlur(near.astype(np.float32), (0, 0), max(0.5, min(near.shape) / 512))
    right = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3) / 8 * whole
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3) / 8 * whole
    normals = np.stack([-right, down, np.ones_like(right)], axis=2)
    return normals / np.linalg.norm(normals, axis=2, keepdims=True)


def _coloured(normals: Any, red: str) -> Any:
    """(n + 1) / 2 as colours."""
    import numpy as np

    turned = normals * np.array([-1 if red == "left" else 1, 1, 1], np.float32)
    return ((turned + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def _depth_normals(live: Any, picture: Any, settings: DepthNormalsSettings) -> Any:
    return _coloured(normals_of(nearness(live, picture), settings.strength), settings.red)


def _marigold_normals(live: Any, picture: Any, settings: MarigoldSettings) -> Any:
    import torch
    from PIL import Image

    generator = torch.Generator().manual_seed(settings.seed)
    answer = live.detector(
        Image.fromarray(picture), num_inference_steps=settings.steps or None, generator=generator
    )
    return _coloured(answer.prediction[0], settings.red)


def _segments(live: Any, picture: Any, settings: SegmentationSettings) -> Any:
    """Each class in its colour of ADE20K, as segmentation ControlNets were trained with."""
    import numpy as np
    from PIL import Image

    model, processor = live["model"], live.detector
    task = {"task_inputs": ["semantic"]} if model.config.model_type == "oneformer" else {}
    inputs = processor(images=Image.fromarray(picture), return_tensors="pt", **task)
    answer = model(**inputs.to(model.device))
    reader = getattr(processor, "image_processor", processor)
    sizes = [picture.shape[:2]]
    (classes,) = reader.post_process_semantic_segmentation(answer, target_sizes=sizes)
    palette = np.array(aux.part("util").ade_palette(), np.uint8)
    classes = classes.cpu().numpy()
    return np.where((classes >= 0)[..., None], palette[classes % len(palette)], 0).astype(np.uint8)


def _chosen(settings: Any) -> Sequence[Weights]:
    return (Weights(settings.model),)


DEPTH = Detector(
    name="depth",
    title="Depth",
    purpose="depth by Depth Anything V2, DPT, ZoeDepth, ...",
    settings=DepthSettings,
    detect=_depth,
    weights=_chosen,
    load=_depth_model,
    least=LEAST,
)
NORMALS = Detector(
    name="normals",
    title="Normals from depth",
    purpose="normals computed from the depth's slope",
    settings=DepthNormalsSettings,
    detect=_depth_normals,
    weights=_chosen,
    load=_depth_model,
    least=LEAST,
)
MARIGOLD_NORMALS = Detector(
    name="marigold_normals",
    title="Marigold normals",
    purpose="fine normals by a diffusion model",
    settings=MarigoldSettings,
    detect=_marigold_normals,
    weights=_chosen,
    load=_marigold_model,
    least=LEAST,
)
SEGMENTATION = Detector(
    name="segmentation",
    title="Segmentation",
    purpose="what is what, in the colours of ADE20K, by UperNet, SegFormer, OneFormer, ...",
    settings=SegmentationSettings,
    detect=_segments,
    weights=_chosen,
    load=_segmentation_model,
    least=LEAST,
    flat=True,
)
