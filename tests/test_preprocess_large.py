"""The larger networks of controlnet-aux on random weights of the real classes: people, depth,
normals, segments. ZoE, of 345 million numbers, is built without memory and compared by names.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.preprocess import Places, preprocess
from likeness.pipelines.preprocess import controlnet_aux as aux
from likeness.pipelines.preprocess.depth_and_normals import zoe_network

from .preprocess_cases import detector, photograph, pixels, plain, write
from .test_preprocess import state


@pytest.fixture
def run(tmp_path):
    """Each with a cache of its own, which goes with the test."""
    own = Pipelines("cpu")
    yield lambda name, picture, **chosen: preprocess(
        own, [picture], name, detector(name).settings(**chosen), places=Places((tmp_path,))
    )[0]
    own.free()


def _normalbae():
    chosen = {"mode": "client", "architecture": "BN", "pretrained": "scannet"}
    ratios = {"sampling_ratio": 0.4, "importance_ratio": 0.7}
    return aux.part("normalbae.nets.NNET").NNET(SimpleNamespace(**chosen, **ratios))


def _midas():
    model = aux.part("midas.midas.dpt_depth").DPTDepthModel
    return model(path=None, backbone="vitb_rn50_384", non_negative=True)


def _of_another_timm(network):
    """With what other versions of it have behind the layers that count."""
    state = network.state_dict()
    kept = {name: value for name, value in state.items() if ".model.head." not in name}
    assert len(kept) < len(state)
    return {**kept, "pretrained.model.pre_logits.fc.weight": torch.zeros(2, 2)}


def _leres():
    return aux.part("leres.leres.multi_depth_model_woauxi").RelDepthModel("resnext101")


def _in_modules(key):
    return lambda network: {
        key: {f"module.{name}": tensor for name, tensor in network.state_dict().items()},
        "epoch": 3,
    }


@pytest.mark.parametrize(
    ("name", "file", "build", "layout"),
    [
        ("normalbae", "scannet.pt", _normalbae, _in_modules("model")),
        ("midas", "dpt_hybrid-midas-501f0c75.pt", _midas, _of_another_timm),
        ("leres", "res101.pth", _leres, _in_modules("depth_model")),
    ],
)
def test_depth_and_normals(run, tmp_path, name, file, build, layout):
    write(tmp_path / file, build, layout)
    source = photograph("astronaut", 64)
    before = state()
    made = run(name, source)
    assert state() == before
    assert made.size == source.size and pixels(made).std() > 3
    assert run(name, source) == made
    if name == "midas":
        normals = pixels(run(name, source, show="normals"))
        assert normals[..., 0].min() > 127, "all look at the viewer; blue and red are swapped"
    if name == "leres":
        assert pixels(run(name, source, far=50)).mean() < pixels(made).mean()


def test_zoe_has_a_place_for_every_name_in_its_file():
    """Those names that its published file has, as far as they show how it is built."""
    with torch.device("meta"):
        network = zoe_network()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(345e6, rel=0.01)
    for name in (
        "core.core.pretrained.model.blocks.23.attn.qkv.weight",
        "core.core.scratch.refinenet4.out_conv.weight",
        "conditional_log_binomial.mlp.0.weight",
        "seed_bin_regressor._net.0.weight",
        "attractors.3._net.2.weight",
    ):
        assert name in network.state_dict()


def _without_part(network):
    """Files of OpenPose leave the first part of a name out."""
    return {name.partition(".")[2]: value for name, value in network.state_dict().items()}


def _body():
    return aux.part("open_pose.model").bodypose_model()


def _calm_body(network):
    """Heat maps with a few peaks: with many, putting people together takes minutes."""
    saved = _without_part(network)
    for name in ("Mconv7_stage6_L1.weight", "Mconv7_stage6_L2.weight"):
        saved[name] *= 0.3
    return saved


def test_openpose_loads_only_what_is_wanted(run, tmp_path):
    part = aux.part("open_pose.model")
    write(tmp_path / "body_pose_model.pth", _body, _calm_body)
    source = photograph("astronaut", 64)
    with pytest.raises(ValueError, match=r"OpenPose needs hand_pose_model\.pth of lllyasviel/Ann"):
        run("openpose", source, hand=True)
    write(tmp_path / "hand_pose_model.pth", part.handpose_model, _without_part)
    write(tmp_path / "facenet.pth", aux.part("open_pose.face").FaceNet, plain)
    theirs = aux.part("open_pose").OpenposeDetector.from_pretrained(str(tmp_path))
    made = pixels(run("openpose", source, hand=True, face=True))
    expected = aux.call(theirs, pixels(source), include_hand=True, include_face=True)
    assert np.array_equal(made, expected)
    assert made.any(), "somebody is seen in the random numbers"


def test_mobile_sam_colours_by_seed(run, tmp_path):
    def build():
        return aux.part("segment_anything.build_sam").sam_model_registry["vit_t"]()

    write(tmp_path / "dhkim2810" / "MobileSAM" / "mobile_sam.pt", build, plain, on="cpu")
    source = photograph("astronaut", 64)
    chosen = {"points": 1, "sure": 0.0, "stable": 0.0}
    first, other = (run("sam", source, seed=seed, **chosen) for seed in (0, 1))
    assert first.size == other.size == source.size
    colours = {tuple(colour) for colour in pixels(first).reshape(-1, 3).tolist()}
    assert 1 <= len(colours) < 20, "no mixed colours"
    assert pixels(first).any() and first != other
