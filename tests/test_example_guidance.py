"""The examples that steer a drawing, end to end without ComfyUI, with fewer steps."""

from __future__ import annotations

import numpy as np
import pytest

from .conftest import ROOT
from .test_quickstart import Session

EXAMPLES = ROOT / "example_workflows"
CONTROL, BOTH = EXAMPLES / "control.json", EXAMPLES / "pose_and_style.json"
FEW_STEPS = {"Generate: edges.steps": 8, "Generate: words alone.steps": 8}
FEW_STEPS |= {"Generate: edges.count": 2, "Generate: words alone.count": 2}
SHORT = {"Generate: all together.steps": 4, "Generate: LoRA alone.steps": 4}
SHORT |= {"Generate: all together.count": 1, "Generate: LoRA alone.count": 1}
SHORT |= {"LikenessTrainLora.steps": 2}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from likeness.host import use

    yield Session(tmp_path_factory.mktemp("guidance"))
    use(None)


@pytest.fixture(scope="module")
def both(session):
    return session.queue(BOTH, SHORT)


def edges_of(picture):
    import cv2

    return cv2.Canny(np.ascontiguousarray(picture), 100, 200) > 0


def followed(wanted, drawn):
    """Share of wanted edges with a drawn one within a pixel."""
    import cv2

    near = cv2.dilate(edges_of(drawn).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return near[wanted].mean()


def pictures(session, shown, title):
    from PIL import Image

    paths = [session.output / e["subfolder"] / e["filename"] for e in shown[title]["images"]]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def test_control_follows_the_edges(session):
    _, shown = session.queue(CONTROL, FEW_STEPS)
    wanted = edges_of(np.asarray(pose()))
    with_it, without = (
        [followed(wanted, one) for one in pictures(session, shown, title)]
        for title in ("With edges", "Words alone")
    )
    assert len(with_it) == len(without) == 2
    assert np.mean(with_it) > np.mean(without) + 0.2, (with_it, without)


def pose():
    from PIL import Image

    with Image.open(ROOT / "assets" / "tiny" / "pose" / "01.png") as image:
        return image.convert("RGB")


def test_lora_pose_and_style_work_together(session, both):
    _, shown = both
    together, alone = (session.picture(shown, title) for title in ("All together", "LoRA alone"))
    assert together.shape == alone.shape == (64, 64, 3)
    assert np.abs(together.astype(int) - alone).mean() > 10
    (text,) = shown["Train LoRA"]["text"]
    assert text.startswith("trained 2 steps")


def test_another_prompt_trains_detects_and_encodes_nothing_anew(session, both):
    from likeness.nodes import session as live

    before = live.pipelines().loads, live.pipelines().remembered.computed
    executed, _ = session.queue(
        BOTH, SHORT, **{"Generate: all together.prompt": "a photo of sks monster at night"}
    )
    assert executed == {"Generate: all together", "All together"}
    assert (live.pipelines().loads, live.pipelines().remembered.computed) == before


def test_strength_and_weight_0_leave_the_lora_alone(session, both):
    off = {"LikenessApplyControlNet.strength": 0.0, "LikenessApplyIPAdapter.weight": 0.0}
    _, shown = session.queue(BOTH, SHORT, **off)
    together, alone = (session.picture(shown, title) for title in ("All together", "LoRA alone"))
    assert (together == alone).all()
