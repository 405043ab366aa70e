"""Depth and normals by the networks of controlnet-aux: MiDaS, ZoE, LeReS, NormalBae."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import ANNOTATORS, Detector, DetectorSettings, Weights, own_weights
from .undisturbed import quiet_import

CLASSIFIER = r"(core\.core\.)?pretrained\.model\.(norm|fc_norm|pre_logits|head)\b"
"""What follows the layers that are looked at; versions of timm have it in different ways."""


@dataclass(frozen=True)
class MidasSettings(DetectorSettings):
    show: str = setting(
        "depth",
        help="The depth, near is white; or normals made of it, with red and blue swapped as the "
        "first normal ControlNet of SD 1.5 was trained.",
        choices=("depth", "normals"),
    )
    strength: float = setting(
        6.28,
        help="Of normals: how flat they are. Higher: flatter.",
        low=0.1,
        high=50.0,
        step=0.01,
        advanced=True,
    )
    background: float = setting(
        0.1,
        help="Of normals: what is farther than this share of the depth is flat.",
        low=0.0,
        high=1.0,
        step=0.01,
        advanced=True,
    )
    weights: str = own_weights()


@dataclass(frozen=True)
class ZoeSettings(DetectorSettings):
    gamma: bool = setting(
        False, help="Darken the middle (gamma 2.2), for ControlNets trained that way."
    )
    weights: str = own_weights()


@dataclass(frozen=True)
class LeresSettings(DetectorSettings):
    near: int = setting(
        0, help="Percent of the depth that is cut off near by.", low=0, high=100, advanced=True
    )
    far: int = setting(
        0, help="Percent of the depth that is cut off far away.", low=0, high=100, advanced=True
    )
    weights: str = own_weights()


@dataclass(frozen=True)
class NormalBaeSettings(DetectorSettings):
    weights: str = own_weights()


def _midas(settings: MidasSettings, files: Sequence[Path]) -> Any:
    model = aux.part("midas.midas.dpt_depth").DPTDepthModel
    with quiet_import():
        empty = model(path=None, backbone="vitb_rn50_384", non_negative=True)
    network = aux.fill(empty, aux.state(files[0], "model"), files[0], CLASSIFIER)
    return aux.held(aux.part("midas").MidasDetector(network), network=network)


def _midas_depth(live: Any, picture: Any, settings: MidasSettings) -> Any:
    if settings.show == "depth":
        return aux.call(live.detector, picture)
    options = {"a": settings.strength, "bg_th": settings.background, "depth_and_normal": True}
    return aux.call(live.detector, picture, **options)[1]


def zoe_network() -> Any:
    """The network of ZoeD_M12_N, with random weights."""
    config = aux.part("zoe.zoedepth.utils.config").get_config("zoedepth", "infer")
    model = aux.part("zoe.zoedepth.models.zoedepth.zoedepth_v1").ZoeDepth
    with quiet_import():
        return model.build_from_config(config)


def _zoe(settings: ZoeSettings, files: Sequence[Path]) -> Any:
    found = aux.state(files[0], "model")
    # Newer versions of timm compute this table and have no place for it.
    found = {name: t for name, t in found.items() if "relative_position_index" not in name}
    network = aux.fill(zoe_network(), found, files[0], CLASSIFIER)
    return aux.held(aux.part("zoe").ZoeDetector(network), network=network)


def _zoe_depth(live: Any, picture: Any, settings: ZoeSettings) -> Any:
    return aux.call(live.detector, picture, gamma_corrected=settings.gamma)


def _leres(settings: LeresSettings, files: Sequence[Path]) -> Any:
    empty = aux.part("leres.leres.multi_depth_model_woauxi").RelDepthModel(backbone="resnext101")
    network = aux.fill(empty, aux.state(files[0], "depth_model", "module."), files[0])
    return aux.held(aux.part("leres").LeresDetector(network, None), network=network)


def _leres_depth(live: Any, picture: Any, settings: LeresSettings) -> Any:
    return aux.call(live.detector, picture, thr_a=settings.near, thr_b=settings.far)


def _normalbae(settings: NormalBaeSettings, files: Sequence[Path]) -> Any:
    chosen = SimpleNamespace(
        mode="client",
        architecture="BN",
        pretrained="scannet",
        sampling_ratio=0.4,
        importance_ratio=0.7,
    )
    model = aux.part("normalbae.nets.NNET").NNET
    with quiet_import():
        empty = model(chosen)
    network = aux.fill(empty, aux.state(files[0], "model", "module."), files[0])
    return aux.held(aux.part("normalbae").NormalBaeDetector(network), network=network)


def _normalbae_normals(live: Any, picture: Any, settings: NormalBaeSettings) -> Any:
    return aux.call(live.detector, picture)


MIDAS = Detector(
    name="midas",
    title="MiDaS",
    purpose="depth, the ControlNets' first teacher",
    settings=MidasSettings,
    detect=_midas_depth,
    weights=lambda settings: (Weights(ANNOTATORS, "dpt_hybrid-midas-501f0c75.pt"),),
    load=_midas,
    grid=64,
)
ZOE = Detector(
    name="zoe",
    title="ZoE",
    purpose="depth with even steps",
    settings=ZoeSettings,
    detect=_zoe_depth,
    weights=lambda settings: (Weights(ANNOTATORS, "ZoeD_M12_N.pt"),),
    load=_zoe,
    grid=64,
)
LERES = Detector(
    name="leres",
    title="LeReS",
    purpose="depth with details far away",
    settings=LeresSettings,
    detect=_leres_depth,
    weights=lambda settings: (Weights(ANNOTATORS, "res101.pth"),),
    load=_leres,
    grid=64,
)
NORMALBAE = Detector(
    name="normalbae",
    title="NormalBae",
    purpose="normals, for the normal ControlNets of SD 1.5",
    settings=NormalBaeSettings,
    detect=_normalbae_normals,
    weights=lambda settings: (Weights(ANNOTATORS, "scannet.pt"),),
    load=_normalbae,
    grid=64,
)
