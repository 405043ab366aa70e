"""Control pictures from pictures: edges, lines, depth, normals, poses, segments."""

from __future__ import annotations

from .compare import compare, names_in
from .detector import Detector, Places, Weights
from .detectors import DETECTORS, detector_named
from .preprocess import preprocess, weights_versions

__all__ = [
    "DETECTORS",
    "Detector",
    "Places",
    "Weights",
    "compare",
    "detector_named",
    "names_in",
    "preprocess",
    "weights_versions",
]
