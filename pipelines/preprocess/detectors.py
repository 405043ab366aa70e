"""All detectors, in the order in which they are offered: a new one is one line here."""

from __future__ import annotations

import difflib

from . import depth_and_normals, dwpose, edges, lines, plain, poses, segments, whole_models
from .detector import Detector

DETECTORS = (
    edges.CANNY,
    edges.HED,
    edges.PIDINET,
    edges.TEED,
    edges.MLSD,
    edges.XDOG,
    lines.LINEART,
    lines.LINEART_COARSE,
    lines.LINEART_ANIME,
    lines.LINEART_STANDARD,
    lines.ANYLINE,
    whole_models.DEPTH,
    depth_and_normals.MIDAS,
    depth_and_normals.ZOE,
    depth_and_normals.LERES,
    whole_models.NORMALS,
    depth_and_normals.NORMALBAE,
    whole_models.MARIGOLD_NORMALS,
    poses.OPENPOSE,
    dwpose.DWPOSE,
    poses.FACE_MESH,
    whole_models.SEGMENTATION,
    segments.SAM,
    plain.TILE,
    plain.BLUR,
    plain.PALETTE,
    plain.SHUFFLE,
    plain.GREY,
    plain.THRESHOLD,
    plain.INVERT,
)


def detector_named(name: str) -> Detector:
    """The detector of that name.

    Raises:
        ValueError: there is none; lists those that are there.
    """
    for detector in DETECTORS:
        if detector.name == name.strip().lower():
            return detector
    names = [detector.name for detector in DETECTORS]
    close = difflib.get_close_matches(name.strip().lower(), names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"there is no detector {name!r}; {hint}Known: {', '.join(names)}")
