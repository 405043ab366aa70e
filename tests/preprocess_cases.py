"""Photographs, and random weights of the real networks in the files that detectors read."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from likeness.pipelines.preprocess import DETECTORS, Detector
from likeness.pipelines.preprocess import controlnet_aux as aux
from likeness.pipelines.preprocess.undisturbed import quiet_import
from PIL import Image

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
"""Those that come with scikit-image itself."""

WITHOUT_WEIGHTS = [
    detector for detector in DETECTORS if detector.load is None and not detector.package
]


@cache
def photograph(name: str, longest: int = 0) -> Image.Image:
    """One of `PHOTOGRAPHS`, at most `longest` pixels wide or high."""
    import skimage.data

    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    if longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


def detector(name: str) -> Detector:
    return next(each for each in DETECTORS if each.name == name)


def plain(network: torch.nn.Module) -> Any:
    return network.state_dict()


def _pidinet(network: torch.nn.Module) -> Any:
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    return {"epoch": 3, "state_dict": state}


def _in_modules(network: torch.nn.Module) -> Any:
    return {f"module.{name}": value for name, value in network.state_dict().items()}


def _anime() -> torch.nn.Module:
    import functools

    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    part = aux.part("lineart_anime")
    return part.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False)


NETWORKS: dict[str, tuple[str, Callable[[], torch.nn.Module], Callable[[Any], Any]]] = {
    "hed": ("ControlNetHED.pth", lambda: aux.part("hed").ControlNetHED_Apache2(), plain),
    "pidinet": ("table5_pidinet.pth", lambda: aux.part("pidi.model").pidinet(), _pidinet),
    "teed": ("5_model.pth", lambda: aux.part("teed.ted").TED(), plain),
    "mlsd": (
        "mlsd_large_512_fp32.pth",
        lambda: aux.part("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large(),
        plain,
    ),
    "lineart": ("sk_model.pth", lambda: aux.part("lineart").Generator(3, 1, 3), plain),
    "lineart_coarse": ("sk_model2.pth", lambda: aux.part("lineart").Generator(3, 1, 3), plain),
    "lineart_anime": ("netG.pth", _anime, _in_modules),
    "anyline": ("MTEED.pth", lambda: aux.part("teed.ted").TED(), plain),
}
"""Detector → its usual file, its network, and what that file holds of a network."""


def write(
    path: Path,
    build: Callable[[], torch.nn.Module],
    layout: Callable[[Any], Any],
    on: str = "meta",
) -> Path:
    """Weights of a network drawn at random, the same each time for a name, as its file has them.

    Saved in half precision, which networks in single precision read. `on`: the network is made
    without memory first, since what its class draws takes longer than ours; some cannot.
    """
    with torch.random.fork_rng([]), quiet_import():
        with torch.device(on):
            network = build()
        if on == "meta":
            network.to_empty(device="cpu")
        torch.manual_seed(zlib.crc32(path.name.encode()))
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
        for tensor in network.parameters():
            # Large enough that something is to be seen.
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
            tensor.data = torch.randn(tensor.shape) * scale
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(layout(network.half()), path)
    return path


def write_weights(folder: Path, name: str) -> Path:
    file, build, layout = NETWORKS[name]
    return write(folder / file, build, layout)
