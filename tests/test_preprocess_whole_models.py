"""Depth, normals and segments by whole models: tiny random ones of the real classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.pipelines.preprocess import Places, preprocess, weights_versions
from likeness.pipelines.preprocess import controlnet_aux as aux
from likeness.pipelines.preprocess.whole_models import normals_of

from . import preprocess_models as models
from .conftest import TINY
from .preprocess_cases import detector, photograph, pixels
from .test_preprocess import state

DEPTHS = {"depth_anything": False, "dpt": False, "zoedepth": True}
"""Model → whether it tells how far away things are, and not how near."""
SEGMENTS = ("segformer", "upernet", "mask2former", "oneformer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of models, each a folder of its name."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def made(folder):
    """Writes a model when it is first asked for; says its name below the folder."""

    def made(name):
        if not (folder / name).exists():
            with torch.random.fork_rng([]):
                torch.manual_seed(0)
                extra = (TINY,) if name in ("marigold", "oneformer") else ()
                getattr(models, name)(folder / name, *extra)
        return name

    return made


@pytest.fixture
def run(pipelines, folder):
    def run(name, picture=None, resolution=0, **chosen):
        settings = detector(name).settings(**chosen)
        sources = [picture or photograph("astronaut", 96)]
        places = Places((folder / "nothing", folder))
        return preprocess(pipelines, sources, name, settings, resolution=resolution, places=places)[
            0
        ]

    return run


@pytest.mark.parametrize("model", DEPTHS)
def test_depth_is_transformers_own_and_near_is_white(run, folder, made, model):
    from transformers import pipeline

    source = photograph("coffee", 90)
    name = made(model)
    before = state()
    shown = run("depth", source, model=name)
    assert state() == before
    own = pipeline("depth-estimation", model=str(folder / name), device="cpu")(source)
    far = own["predicted_depth"].squeeze().numpy()
    expected = (far - far.min()) / (far.max() - far.min())
    expected = 1 - expected if DEPTHS[model] else expected
    assert shown.size == source.size and pixels(shown).std() > 5
    assert np.abs(pixels(shown)[..., 0] - expected * 255).max() <= 0.51
    told = pixels(run("depth", source, model=name, near="as the model tells")).astype(int)
    turned = pixels(run("depth", source, model=name, near="the reverse")).astype(int)
    assert np.abs(told + turned - 255).max() <= 1
    assert np.array_equal(told, pixels(shown)) is not DEPTHS[model]


def test_metric_depth_anything_is_turned(run, folder):
    with torch.random.fork_rng([]):
        models.depth_anything(folder / "metric", "metric")
    near = pixels(run("depth", model="metric")).astype(int)
    told = pixels(run("depth", model="metric", near="as the model tells")).astype(int)
    assert np.abs(near + told - 255).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (31, 70), (90, 8)])
def test_any_size(run, made, size):
    source = photograph("chelsea", 100).resize(size)
    assert run("depth", source, model=made("dpt")).size == size
    assert run("segmentation", source, model=made("segformer")).size == size
    assert run("normals", source, model=made("dpt")).size == size
    assert run("depth", source, model=made("dpt"), resolution=64).size == size


@pytest.mark.parametrize("model", SEGMENTS)
def test_segments_have_the_colours_of_ade20k(run, folder, made, model):
    source = photograph("coffee", 90)
    shown = pixels(run("segmentation", source, model=made(model)))
    palette = {tuple(colour) for colour in aux.part("util").ade_palette()}
    assert len(palette) > 140
    for resolution in (0, 64):
        shown = run("segmentation", source, model=made(model), resolution=resolution)
        assert shown.size == source.size
        assert {tuple(c) for c in pixels(shown).reshape(-1, 3).tolist()} <= palette
    if model == "oneformer":
        saved = [file.read_text() for file in (folder / model).glob("*process*.json")]
        assert any("ade20k_panoptic.json" in text for text in saved), "which is not here"
    if model == "segformer":
        from transformers import pipeline

        own = pipeline("image-segmentation", model=str(folder / model), device="cpu")(source)
        expected = np.zeros((*pixels(shown).shape[:2], 3), np.uint8)
        for one in own:
            label = int(one["label"].removeprefix("LABEL_"))
            expected[np.asarray(one["mask"]) > 0] = aux.part("util").ade_palette()[label]
        assert np.array_equal(pixels(run("segmentation", source, model=model)), expected)


def test_normals_of_a_plane_are_its_own():
    """One that comes nearer to the right, by 1 in a picture, looks to the left: (-1, 0, 1)."""
    slope = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    normals = normals_of(slope)[16:48, 16:48]
    half = 0.5**0.5
    np.testing.assert_allclose(normals, np.full((32, 32, 3), [-half, 0, half]), atol=0.02)
    down = normals_of(slope.T)[16:48, 16:48]
    np.testing.assert_allclose(down, np.full((32, 32, 3), [0, half, half]), atol=0.02)
    steep = normals_of(slope, 10)[16:48, 16:48]
    assert steep[..., 2].max() < 0.15
    large = normals_of(np.tile(np.linspace(0, 1, 256, dtype=np.float32), (256, 1)))[
        100:150, 100:150
    ]
    np.testing.assert_allclose(large, np.full((50, 50, 3), [-half, 0, half]), atol=0.02)
    flat = normals_of(np.full((64, 64), 0.3, np.float32))
    np.testing.assert_allclose(flat, np.full((64, 64, 3), [0, 0, 1]), atol=1e-6)


def test_depth_and_normals_share_their_model(run, pipelines, made):
    run("depth", model=made("dpt"))
    before = pipelines.loads
    run("normals", model="dpt")
    assert pipelines.loads == before


def test_normals_from_depth_look_at_the_viewer_and_may_be_turned(run, made):
    right = pixels(run("normals", model=made("dpt"))).astype(int)
    left = pixels(run("normals", model="dpt", red="left")).astype(int)
    assert right[..., 2].min() >= 127
    assert np.abs(right[..., 0] + left[..., 0] - 255).max() <= 1
    assert np.array_equal(right[..., 1:], left[..., 1:])
    steep = pixels(run("normals", model="dpt", strength=50.0))
    assert steep[..., 2].mean() < right[..., 2].mean()


def test_marigold_normals_have_a_seed(run, folder, made):
    source = photograph("astronaut", 64)
    made("marigold")
    before = state()
    first = run("marigold_normals", source, model="marigold")
    assert state() == before
    assert first.size == source.size and pixels(first).std() > 1
    assert run("marigold_normals", source, model="marigold") == first
    assert run("marigold_normals", source, model="marigold", seed=1) != first
    from diffusers import MarigoldNormalsPipeline

    own = MarigoldNormalsPipeline.from_pretrained(folder / "marigold", torch_dtype=torch.float32)
    own.set_progress_bar_config(disable=True)
    answer = own(source, generator=torch.Generator().manual_seed(0)).prediction[0]
    assert np.array_equal(pixels(first), ((answer + 1) * 127.5).round().astype(np.uint8))


def test_a_replaced_model_is_read_again(run, folder):
    for seed in (0, 1):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            models.dpt(folder / "changing")
        shown = run("depth", model="changing")
        versions = weights_versions(
            "depth", detector("depth").settings(model="changing"), Places((folder,))
        )
        if seed == 0:
            before = shown, versions
    assert shown != before[0] and versions != before[1]


@pytest.mark.parametrize("name", ["depth", "normals", "segmentation", "marigold_normals"])
def test_a_missing_model_is_one_line(run, tmp_path, monkeypatch, name):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    usual = detector(name).settings().model
    with pytest.raises(ValueError) as caught:
        run(name)
    assert usual in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="are not allowed"):
        run(name, model="../mine")
    with pytest.raises(ValueError, match=r"there is no model 'mine' in .*nothing"):
        run(name, model="mine")


def test_a_model_of_another_kind_is_refused(run, folder, made):
    with pytest.raises(ValueError, match=r"Depth cannot be loaded from .*segformer"):
        run("depth", model=made("segformer"))
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"Segmentation cannot be loaded from .*broken"):
        run("segmentation", model="broken")
