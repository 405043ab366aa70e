"""Segment Anything: everything that looks like a thing in a colour of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import Detector, DetectorSettings, Weights, own_weights, seed_setting

_META = "ybelkada/segment-anything"
SAM_FILES = {
    "vit_t": Weights("dhkim2810/MobileSAM", "mobile_sam.pt"),
    "vit_b": Weights(_META, "checkpoints/sam_vit_b_01ec64.pth"),
    "vit_l": Weights(_META, "checkpoints/sam_vit_l_0b3195.pth"),
    "vit_h": Weights(_META, "checkpoints/sam_vit_h_4b8939.pth"),
}


@dataclass(frozen=True)
class SamSettings(DetectorSettings):
    model: str = setting(
        "vit_t",
        help="How large a network: vit_t is MobileSAM (40 MB), then 375 MB, 1.2 GB and 2.6 GB.",
        choices=(*SAM_FILES,),
    )
    points: int = setting(
        32,
        help="It asks at so many points in each direction what is there. Fewer: faster, and small "
        "things are missed.",
        low=1,
        high=128,
    )
    sure: float = setting(
        0.88,
        help="How sure a segment must be (its predicted overlap with the truth).",
        low=0.0,
        high=1.0,
        advanced=True,
    )
    stable: float = setting(
        0.95,
        help="How little a segment may change when it is cut off elsewhere.",
        low=0.0,
        high=1.0,
        advanced=True,
    )
    seed: int = seed_setting("another one gives other colours")
    weights: str = own_weights()


def _sam(settings: SamSettings, files: Sequence[Path]) -> Any:
    build = aux.part("segment_anything.build_sam").sam_model_registry[settings.model]
    network = aux.fill(build(checkpoint=None), aux.state(files[0]), files[0])
    return aux.held(aux.part("segment_anything"), network=network)


def _segments(live: Any, picture: Any, settings: SamSettings) -> Any:
    import numpy as np

    generator = live.detector.SamAutomaticMaskGenerator(
        live["network"],
        points_per_side=settings.points,
        pred_iou_thresh=settings.sure,
        stability_score_thresh=settings.stable,
    )
    found = generator.generate(picture)
    if not found:
        return np.zeros_like(picture)
    return live.detector.SamDetector(generator).show_anns(found)


SAM = Detector(
    name="sam",
    title="Segment Anything",
    purpose="every thing in a colour of its own",
    settings=SamSettings,
    detect=_segments,
    weights=lambda settings: (SAM_FILES[settings.model],),
    load=_sam,
    grid=64,
    flat=True,
)
