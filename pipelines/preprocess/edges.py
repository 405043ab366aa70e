"""Edges: Canny, HED, PidiNet, TEED, straight lines (M-LSD) and XDoG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import ANNOTATORS, Detector, DetectorSettings, Weights, own_weights

SAFE = "Round to a few levels, so that faint edges which give a picture away are gone."
SCRIBBLE = "Only the strongest edges, as thick white strokes, for scribble ControlNets."


@dataclass(frozen=True)
class CannySettings(DetectorSettings):
    low: int = setting(
        100, help="A weaker edge counts only where it touches a stronger one.", low=0, high=1000
    )
    high: int = setting(200, help="An edge this strong always counts.", low=0, high=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}; make low smaller")


@dataclass(frozen=True)
class SoftEdgeSettings(DetectorSettings):
    safe: bool = setting(False, help=SAFE)
    scribble: bool = setting(False, help=SCRIBBLE)
    weights: str = own_weights()


@dataclass(frozen=True)
class PidiNetSettings(DetectorSettings):
    safe: bool = setting(False, help=SAFE)
    scribble: bool = setting(False, help=SCRIBBLE)
    binary: bool = setting(False, help="Black and white only, without grey.")
    weights: str = own_weights()


@dataclass(frozen=True)
class TeedSettings(DetectorSettings):
    levels: int = setting(
        2, help="Round to so many levels of grey above black. 0: all of them.", low=0, high=10
    )
    weights: str = own_weights()


@dataclass(frozen=True)
class MlsdSettings(DetectorSettings):
    score: float = setting(
        0.1, help="How sure a line must be. Higher: fewer lines.", low=0.01, high=1.0, step=0.01
    )
    distance: float = setting(
        0.1, help="How long a line must be at least, in pixels.", low=0.0, high=200.0, step=0.1
    )
    weights: str = own_weights()


@dataclass(frozen=True)
class XdogSettings(DetectorSettings):
    fine: float = setting(
        0.5, help="Finest detail that makes a line, in pixels.", low=0.1, high=10.0, step=0.1
    )
    coarse: float = setting(
        5.0, help="Widest detail that makes a line, in pixels.", low=0.2, high=50.0, step=0.1
    )
    threshold: int = setting(
        32, help="How much darker than around a line must be.", low=1, high=254
    )


def _canny(live: Any, picture: Any, settings: CannySettings) -> Any:
    import cv2

    return cv2.Canny(picture, settings.low, settings.high)


def _hed(settings: SoftEdgeSettings, files: Sequence[Path]) -> Any:
    hed = aux.part("hed")
    network = aux.fill(hed.ControlNetHED_Apache2(), aux.state(files[0]), files[0])
    return aux.held(hed.HEDdetector(network), network=network)


def _soft_edges(live: Any, picture: Any, settings: SoftEdgeSettings) -> Any:
    return aux.call(live.detector, picture, safe=settings.safe, scribble=settings.scribble)


def _pidinet(settings: PidiNetSettings, files: Sequence[Path]) -> Any:
    state = aux.state(files[0], "state_dict", "module.")
    network = aux.fill(aux.part("pidi.model").pidinet(), state, files[0])
    return aux.held(aux.part("pidi").PidiNetDetector(network), network=network)


def _pidinet_edges(live: Any, picture: Any, settings: PidiNetSettings) -> Any:
    options = {"safe": settings.safe, "scribble": settings.scribble}
    return aux.call(live.detector, picture, apply_filter=settings.binary, **options)


def _teed(settings: TeedSettings, files: Sequence[Path]) -> Any:
    network = aux.fill(aux.part("teed.ted").TED(), aux.state(files[0]), files[0])
    return aux.held(aux.part("teed").TEEDdetector(network), network=network)


def _teed_edges(live: Any, picture: Any, settings: TeedSettings) -> Any:
    return aux.call(live.detector, picture, safe_steps=settings.levels)


def _mlsd(settings: MlsdSettings, files: Sequence[Path]) -> Any:
    model = aux.part("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    network = aux.fill(model, aux.state(files[0]), files[0])
    return aux.held(aux.part("mlsd.utils"), network=network)


def _mlsd_lines(live: Any, picture: Any, settings: MlsdSettings) -> Any:
    """As `MLSDdetector` draws them; that one takes any error for a picture without lines."""
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    canvas = np.zeros((height, width), np.uint8)
    try:
        found = live.detector.pred_lines(
            picture, live["network"], [height, width], settings.score, settings.distance
        )
    except IndexError:  # of an empty list of lines
        return canvas
    for start_x, start_y, end_x, end_y in found.astype(int).tolist():
        cv2.line(canvas, (start_x, start_y), (end_x, end_y), 255, 1)
    return canvas


def _xdog(live: Any, picture: Any, settings: XdogSettings) -> Any:
    """Where a fine blur is darker than a coarse one by more than the threshold."""
    import cv2
    import numpy as np

    pixels = picture.astype(np.float32)
    fine = cv2.GaussianBlur(pixels, (0, 0), settings.fine)
    coarse = cv2.GaussianBlur(pixels, (0, 0), settings.coarse)
    return ((coarse - fine).max(axis=2) > settings.threshold).astype(np.uint8) * 255


CANNY = Detector(
    name="canny",
    title="Canny",
    purpose="thin hard edges",
    settings=CannySettings,
    detect=_canny,
)
HED = Detector(
    name="hed",
    title="HED",
    purpose="soft edges, as a charcoal drawing",
    settings=SoftEdgeSettings,
    detect=_soft_edges,
    weights=lambda settings: (Weights(ANNOTATORS, "ControlNetHED.pth"),),
    load=_hed,
    grid=64,
)
PIDINET = Detector(
    name="pidinet",
    title="PidiNet",
    purpose="soft edges, cleaner and faster than HED",
    settings=PidiNetSettings,
    detect=_pidinet_edges,
    weights=lambda settings: (Weights(ANNOTATORS, "table5_pidinet.pth"),),
    load=_pidinet,
    grid=64,
)
TEED = Detector(
    name="teed",
    title="TEED",
    purpose="fine soft edges from a tiny network",
    settings=TeedSettings,
    detect=_teed_edges,
    weights=lambda settings: (Weights("fal-ai/teed", "5_model.pth"),),
    load=_teed,
    grid=64,
)
MLSD = Detector(
    name="mlsd",
    title="M-LSD",
    purpose="straight lines of rooms and buildings",
    settings=MlsdSettings,
    detect=_mlsd_lines,
    weights=lambda settings: (Weights(ANNOTATORS, "mlsd_large_512_fp32.pth"),),
    load=_mlsd,
    grid=64,
)
XDOG = Detector(
    name="xdog",
    title="XDoG",
    purpose="scribbles without a network",
    settings=XdogSettings,
    detect=_xdog,
)
