"""Line drawings: lineart and its variants, anyline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import ANNOTATORS, Detector, DetectorSettings, Weights, own_weights


@dataclass(frozen=True)
class LineartSettings(DetectorSettings):
    weights: str = own_weights()


@dataclass(frozen=True)
class LineartStandardSettings(DetectorSettings):
    sigma: float = setting(
        6.0, help="How wide a line may be, in pixels.", low=0.1, high=100.0, step=0.1
    )
    threshold: int = setting(
        8, help="How strong a line must be to count for the brightness.", low=0, high=255
    )


@dataclass(frozen=True)
class AnylineSettings(DetectorSettings):
    sigma: float = setting(
        2.0, help="How wide the fine lines may be, in pixels.", low=0.1, high=100.0, step=0.1
    )
    threshold: int = setting(
        3, help="How strong a fine line must be to count for the brightness.", low=0, high=255
    )
    weights: str = own_weights()


def _lineart(settings: LineartSettings, files: Sequence[Path]) -> Any:
    """Fine or coarse is a matter of the file: the network is the same."""
    lineart = aux.part("lineart")
    network = aux.fill(lineart.Generator(3, 1, 3), aux.state(files[0]), files[0])
    return aux.held(lineart.LineartDetector(network, network), network=network)


def _lineart_anime(settings: LineartSettings, files: Sequence[Path]) -> Any:
    import functools

    import torch

    anime = aux.part("lineart_anime")
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    empty = anime.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False)
    network = aux.fill(empty, aux.state(files[0], prefix="module."), files[0])
    return aux.held(anime.LineartAnimeDetector(network), network=network)


def _drawn(live: Any, picture: Any, settings: LineartSettings) -> Any:
    return aux.call(live.detector, picture)


def _lineart_standard(live: Any, picture: Any, settings: LineartStandardSettings) -> Any:
    """White lines on black where it is darker than around."""
    detector = aux.part("lineart_standard").LineartStandardDetector()
    chosen = {"guassian_sigma": settings.sigma, "intensity_threshold": settings.threshold}
    return aux.call(detector, picture, **chosen)


def _anyline(settings: AnylineSettings, files: Sequence[Path]) -> Any:
    network = aux.fill(aux.part("teed.ted").TED(), aux.state(files[0]), files[0])
    return aux.held(aux.part("anyline").AnylineDetector(network), network=network)


def _anyline_lines(live: Any, picture: Any, settings: AnylineSettings) -> Any:
    chosen = {"guassian_sigma": settings.sigma, "intensity_threshold": settings.threshold}
    return aux.call(live.detector, picture, **chosen)


LINEART = Detector(
    name="lineart",
    title="Lineart",
    purpose="fine line drawing",
    settings=LineartSettings,
    detect=_drawn,
    weights=lambda settings: (Weights(ANNOTATORS, "sk_model.pth"),),
    load=_lineart,
    grid=64,
)
LINEART_COARSE = Detector(
    name="lineart_coarse",
    title="Lineart coarse",
    purpose="line drawing with broad strokes",
    settings=LineartSettings,
    detect=_drawn,
    weights=lambda settings: (Weights(ANNOTATORS, "sk_model2.pth"),),
    load=_lineart,
    grid=64,
)
LINEART_ANIME = Detector(
    name="lineart_anime",
    title="Lineart anime",
    purpose="line drawing of anime pictures",
    settings=LineartSettings,
    detect=_drawn,
    weights=lambda settings: (Weights(ANNOTATORS, "netG.pth"),),
    load=_lineart_anime,
    grid=64,
)
LINEART_STANDARD = Detector(
    name="lineart_standard",
    title="Lineart standard",
    purpose="line drawing without a network",
    settings=LineartStandardSettings,
    detect=_lineart_standard,
    grid=64,
)
ANYLINE = Detector(
    name="anyline",
    title="Anyline",
    purpose="fine lines and soft edges together",
    settings=AnylineSettings,
    detect=_anyline_lines,
    weights=lambda settings: (Weights("TheMistoAI/MistoLine", "Anyline/MTEED.pth"),),
    load=_anyline,
    grid=64,
)
