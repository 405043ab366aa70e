"""People: OpenPose, and MediaPipe's face mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..setting import setting
from . import controlnet_aux as aux
from .detector import ANNOTATORS, Detector, DetectorSettings, Weights, own_weights

BODY = Weights(ANNOTATORS, "body_pose_model.pth")
HAND = Weights(ANNOTATORS, "hand_pose_model.pth")
FACE = Weights(ANNOTATORS, "facenet.pth")


@dataclass(frozen=True)
class OpenposeSettings(DetectorSettings):
    body: bool = setting(True, help="Draw the body.")
    hand: bool = setting(False, help="Find and draw hands.")
    face: bool = setting(False, help="Find and draw faces.")
    weights: str = own_weights()


@dataclass(frozen=True)
class FaceMeshSettings(DetectorSettings):
    faces: int = setting(1, help="How many faces at most.", low=1, high=50)
    confidence: float = setting(0.5, help="How sure a face must be.", low=0.01, high=1.0, step=0.01)


def _wanted(settings: OpenposeSettings) -> Sequence[Weights]:
    """The body is looked for in any case: hands and faces are found by it."""
    return (BODY, *((HAND,) if settings.hand else ()), *((FACE,) if settings.face else ()))


def _openpose(settings: OpenposeSettings, files: Sequence[Path]) -> Any:
    """Its classes read their files as they are made: made without that, they get ours."""
    found = dict(zip(_wanted(settings), files, strict=True))
    model = aux.part("open_pose.model")
    body = _without_file(aux.part("open_pose.body").Body)
    body.model = _shortened(model.bodypose_model(), found[BODY])
    hand = face = None
    if HAND in found:
        hand = _without_file(aux.part("open_pose.hand").Hand)
        hand.model = _shortened(model.handpose_model(), found[HAND])
    if FACE in found:
        module = aux.part("open_pose.face")
        face = _without_file(module.Face)
        face.inference_size = module.params["inference_img_size"]
        face.sigma = module.params["gaussian_sigma"]
        face.threshold = module.params["heatmap_peak_thresh"]
        face.model = aux.fill(module.FaceNet(), aux.state(found[FACE]), found[FACE])
    networks = {
        name: part.model for name, part in (("body", body), ("hand", hand), ("face", face)) if part
    }
    return aux.held(aux.part("open_pose").OpenposeDetector(body, hand, face), **networks)


def _without_file(cls: type) -> Any:
    return object.__new__(cls)


def _shortened(network: Any, path: Path) -> Any:
    """These files name a tensor without the part of the network that it is in."""
    state = aux.state(path)
    return aux.fill(network, _renamed(network.state_dict(), state), path)


def _renamed(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    longer = {name.partition(".")[2]: name for name in own}
    return {longer.get(name, name): value for name, value in state.items()}


def _openpose_drawn(live: Any, picture: Any, settings: OpenposeSettings) -> Any:
    parts = {name: getattr(settings, name) for name in ("body", "hand", "face")}
    options = {f"include_{name}": wanted for name, wanted in parts.items()}
    return aux.call(live.detector, picture, **options)


def _face_mesh(live: Any, picture: Any, settings: FaceMeshSettings) -> Any:
    import mediapipe  # pyright: ignore[reportMissingImports]

    if not hasattr(mediapipe, "solutions"):
        raise ValueError(
            f"MediaPipe face mesh needs a mediapipe that still has 'solutions'; "
            f"{getattr(mediapipe, '__version__', 'the installed one')} has not: "
            "pip install 'mediapipe<0.10.31'"
        )
    detector = aux.part("mediapipe_face").MediapipeFaceDetector()
    chosen = {"max_faces": settings.faces, "min_confidence": settings.confidence}
    return aux.call(detector, picture, **chosen)


OPENPOSE = Detector(
    name="openpose",
    title="OpenPose",
    purpose="poses of people, with hands and faces if wanted",
    settings=OpenposeSettings,
    detect=_openpose_drawn,
    weights=_wanted,
    load=_openpose,
    grid=64,
)
FACE_MESH = Detector(
    name="face_mesh",
    title="MediaPipe face mesh",
    purpose="expressions of faces",
    settings=FaceMeshSettings,
    detect=_face_mesh,
    package="mediapipe<0.10.31",
    grid=64,
)
