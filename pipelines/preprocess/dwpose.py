"""DWPose (arXiv 2307.15880): people's bodies, hands and faces, by its two ONNX files.

controlnet-aux runs DWPose by mmpose and mmdet, which hardly install anywhere; its drawing is used
here, and the networks run in onnxruntime. YOLOX finds people, then a pose network looks at each.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import Detector, DetectorSettings, Weights, own_weights

if TYPE_CHECKING:
    import numpy as np

REPOSITORY = "yzd-v/DWPose"
PEOPLE = Weights(REPOSITORY, "yolox_l.onnx")
POSES = Weights(REPOSITORY, "dw-ll_ucoco_384.onnx")

PADDING = 1.25
"""How much more than the box around a person the pose network sees, in each direction."""
MEAN, SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of RGB, as the pose network was trained."""

BODY, FACE, HANDS = slice(0, 18), slice(24, 92), slice(92, 134)
"""Rows of the 134 points: body with neck, then feet, face and hands."""


@dataclass(frozen=True)
class DWPoseSettings(DetectorSettings):
    body: bool = setting(True, help="Draw bodies.")
    hand: bool = setting(True, help="Draw hands.")
    face: bool = setting(True, help="Draw faces.")
    sure: float = setting(
        0.3, help="How sure a person must be.", low=0.01, high=1.0, step=0.01, advanced=True
    )
    weights: str = own_weights("Both weights")


def people(output: np.ndarray, side: int, sure: float) -> np.ndarray:
    """The boxes of people that YOLOX found, float32 [people, 4]: left, top, right, bottom in pixels
    of what it saw.

    `output`: [cells, 85] for a picture of `side` by `side` pixels, in cells of 8, 16 and 32: centre
    and size in cells (the size as a logarithm), sureness of a thing, and of 80 kinds of things, the
    first of which is people.
    """
    import numpy as np
    import torch
    from torchvision.ops import nms

    grids, strides = [], []
    for stride in (8, 16, 32):
        count = side // stride
        y, x = np.mgrid[:count, :count]
        grids.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full((count * count, 1), stride))
    grid, stride = np.concatenate(grids), np.concatenate(strides)
    centre = (output[:, :2] + grid) * stride
    half = np.exp(output[:, 2:4]) * stride / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    scores = output[:, 4] * output[:, 5]
    kept = scores > sure
    boxes, scores = boxes[kept], scores[kept].astype(np.float32)
    return boxes[nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.45).numpy()]


def window(box: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size, in pixels, of what the pose network sees of a person: the box and something
    around, in the shape of `width` by `height`.
    """
    import numpy as np

    left, top, right, bottom = box
    wide, high = (right - left) * PADDING, (bottom - top) * PADDING
    wide, high = max(wide, high * width / height), max(high, wide * height / width)
    return np.array([left + right, top + bottom]) / 2, np.array([wide, high])


def points(along_x: np.ndarray, along_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point at the peaks of its two curves (half a pixel for each number): float [points, 2]
    in pixels of what was seen, and how sure it is, [points].
    """
    import numpy as np

    places = np.stack([along_x.argmax(axis=-1), along_y.argmax(axis=-1)], axis=-1) / 2
    return places, np.minimum(along_x.max(axis=-1), along_y.max(axis=-1))


def _find_people(session: Any, picture: np.ndarray, sure: float) -> np.ndarray:
    """Boxes in pixels of the picture (BGR); all of it where there is nobody."""
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    entry = session.get_inputs()[0]
    side = int(entry.shape[-1])
    ratio = min(side / height, side / width)
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    seen = np.full((side, side, 3), 114, np.uint8)
    seen[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    (output,) = session.run(None, {entry.name: seen.transpose(2, 0, 1)[None].astype(np.float32)})
    found = people(output[0], side, sure) / ratio
    return found if len(found) else np.array([[0, 0, width, height]], np.float32)


def _find_points(session: Any, picture: np.ndarray, box: np.ndarray) -> tuple[Any, Any]:
    """The 133 points of the person in a box, in pixels of the picture (BGR), and how sure each."""
    import cv2
    import numpy as np

    entry = session.get_inputs()[0]
    height, width = int(entry.shape[-2]), int(entry.shape[-1])
    centre, size = window(box, width, height)
    scale = width / size[0]
    corner = centre - size / 2
    move = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
    seen = cv2.warpAffine(picture, move, (width, height), flags=cv2.INTER_LINEAR)[:, :, ::-1]
    seen = ((seen - np.array(MEAN)) / np.array(SPREAD)).transpose(2, 0, 1)[None]
    along_x, along_y = session.run(None, {entry.name: seen.astype(np.float32)})
    places, sure = points(along_x[0], along_y[0])
    return places / scale + corner, sure


def with_neck(places: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO's 133 points of each person as OpenPose orders them, with a neck between the shoulders:
    [people, 134, 2] and [people, 134].
    """
    import numpy as np

    neck = places[:, 5:7].mean(axis=1, keepdims=True)
    both = (sure[:, 5:7] > 0.3).all(axis=1, keepdims=True)
    places = np.concatenate([places[:, :17], neck, places[:, 17:]], axis=1)
    sure = np.concatenate([sure[:, :17], both.astype(sure.dtype), sure[:, 17:]], axis=1)
    order = np.arange(134)
    order[[1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17]] = [
        *(17, 6, 8, 10, 7, 9, 12, 14, 16, 13, 15, 2, 1, 4, 3)
    ]
    return places[:, order], sure[:, order]


def _estimate(live: Any, settings: DWPoseSettings, picture: np.ndarray) -> tuple[Any, Any]:
    """As controlnet-aux's `Wholebody`: points and sureness, which is 0 for what is not wanted."""
    import numpy as np

    finder, looker = live.detector
    found = [
        _find_points(looker, picture, box) for box in _find_people(finder, picture, settings.sure)
    ]
    places, sure = with_neck(*(np.stack(each) for each in zip(*found, strict=True)))
    for rows, wanted in ((BODY, settings.body), (FACE, settings.face), (HANDS, settings.hand)):
        if not wanted:
            sure[:, rows] = 0
    return places, sure


def _sessions(settings: DWPoseSettings, files: Sequence[Path]) -> Any:
    """Both networks. onnxruntime keeps their memory by itself, beside what torch counts."""
    runtime = importlib.import_module("onnxruntime")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in runtime.get_available_providers()]
    sessions = [runtime.InferenceSession(str(file), providers=providers) for file in files]
    return aux.held(sessions)


def _drawn(live: Any, picture: Any, settings: DWPoseSettings) -> Any:
    cls = aux.part("dwpose").DWposeDetector
    detector = object.__new__(cls)  # made the usual way it would load mmpose
    detector.pose_estimation = functools.partial(_estimate, live, settings)
    return aux.call(detector, picture)


DWPOSE = Detector(
    name="dwpose",
    title="DWPose",
    purpose="poses with hands and faces, surer than OpenPose",
    settings=DWPoseSettings,
    detect=_drawn,
    weights=lambda settings: (PEOPLE, POSES),
    load=_sessions,
    package="onnxruntime",
    grid=64,
)
