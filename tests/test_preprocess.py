"""Control pictures without a network: real photographs, sizes, batches; what stays as it was."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.preprocess import DETECTORS, detector_named, preprocess
from likeness.pipelines.preprocess import controlnet_aux as aux
from likeness.pipelines.preprocess.preprocess import MAX_SIDE, _scaled
from likeness.pipelines.setting import describe, from_dict
from PIL import Image

from .preprocess_cases import PHOTOGRAPHS, WITHOUT_WEIGHTS, detector, photograph, pixels

each = pytest.mark.parametrize("name", [one.name for one in WITHOUT_WEIGHTS])


@pytest.fixture
def run(pipelines):
    def run(name, *pictures, resolution=0, **chosen):
        settings = from_dict(detector_named(name).settings, chosen)
        return preprocess(pipelines, pictures, name, settings, resolution=resolution)

    return run


def state():
    """Everything that other people's code might change."""
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        cv2.getNumThreads(),
        dict(os.environ),
        list(sys.path),
        list(warnings.filters),
        torch.backends.cudnn.benchmark,
    )


@each
@pytest.mark.parametrize("photo", PHOTOGRAPHS)
def test_photographs_give_pictures_of_their_size(run, name, photo):
    source = photograph(photo, 200)
    (made,) = run(name, source)
    assert made.mode == "RGB" and made.size == source.size
    assert pixels(made).std() > 5, "something is to be seen"
    assert not np.array_equal(pixels(made), pixels(source))


@each
def test_the_same_again_and_everything_else_as_before(run, name):
    source = photograph("coffee", 150)
    before = state()
    first = run(name, source)[0]
    assert state() == before
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert run(name, source)[0] == first


@each
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (65, 33), (1, 130), (700, 9)])
def test_any_size_works(run, name, size):
    source = photograph("chelsea", 300).resize(size)
    for resolution in (0, 128):
        (made,) = run(name, source, resolution=resolution)
        assert made.size == size and made.mode == "RGB"


@each
def test_a_wide_strip_of_4000_pixels_works(run, name):
    source = photograph("rocket", 400).resize((4001, 30))
    (made,) = run(name, source)
    assert made.size == source.size


@each
def test_a_batch_is_what_its_pictures_are_alone(run, name):
    sources = [photograph(photo, 120) for photo in PHOTOGRAPHS]
    together = run(name, *sources)
    assert together == [run(name, source)[0] for source in sources]


@each
def test_the_source_is_not_changed(run, name):
    source = photograph("astronaut", 100).copy()
    before = source.tobytes()
    run(name, source)
    assert source.tobytes() == before


def test_canny_is_controlnet_auxs():
    own = aux.part("canny").CannyDetector()
    source = photograph("astronaut")

    for resolution in (0, 384, 640):
        (made,) = preprocess(Pipelines("cpu"), [source], "canny", resolution=resolution)
        theirs = own(source, 100, 200, detect_resolution=resolution or 512, image_resolution=512)
        assert np.array_equal(pixels(made), pixels(theirs))


def test_lineart_standard_is_controlnet_auxs(run):
    own = aux.part("lineart_standard").LineartStandardDetector()
    source = photograph("astronaut", 256)
    (made,) = run("lineart_standard", source, sigma=4.0, threshold=5)
    theirs = own(source, guassian_sigma=4.0, intensity_threshold=5, detect_resolution=256)
    assert np.array_equal(pixels(made), pixels(theirs))


def test_shuffle_is_controlnet_auxs_and_has_a_seed(run):
    own = aux.part("shuffle").ContentShuffleDetector()
    source = photograph("astronaut", 256)
    kept = np.random.get_state()
    try:
        np.random.seed(7)
        theirs = own(source, detect_resolution=256, image_resolution=256)
    finally:
        np.random.set_state(kept)
    assert np.array_equal(pixels(run("shuffle", source, seed=7)[0]), pixels(theirs))
    assert run("shuffle", source, seed=8)[0] != run("shuffle", source, seed=7)[0]


def test_what_needs_multiples_of_64_sees_no_distortion(run):
    """The picture is continued at its edges: what is far from them is as in a larger picture."""
    whole = photograph("astronaut", 256)
    part = whole.crop((0, 0, 250, 201))
    made, larger = run("lineart_standard", part)[0], run("lineart_standard", whole)[0]
    inner = (slice(0, 150), slice(0, 200))
    near = np.abs(pixels(made)[inner].astype(int) - pixels(larger)[inner])
    assert np.percentile(near, 99) <= 24, "its brightness follows the whole picture's median"


def test_resolution_is_the_shorter_side_but_never_beyond_all_bounds():
    assert _scaled(np.zeros((100, 300, 3), np.uint8), 50).shape == (50, 150, 3)
    assert _scaled(np.zeros((100, 300, 3), np.uint8), 200).shape == (200, 600, 3)
    assert max(_scaled(np.zeros((1, 4000, 3), np.uint8), 512).shape) == MAX_SIDE
    assert max(_scaled(np.zeros((2, 9000, 3), np.uint8), 512).shape) == 9000


def test_cheap_ones_do_what_they_say(run):
    source = photograph("chelsea", 128)
    grey = pixels(run("grey", source)[0])
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    assert np.array_equal(pixels(run("invert", source)[0]), 255 - pixels(source))
    assert set(np.unique(pixels(run("threshold", source, level=90)[0]))) == {0, 255}
    assert (
        (grey[..., 0] >= 90) * 255 == pixels(run("threshold", source, level=90)[0])[..., 0]
    ).all()
    squares = pixels(run("palette", source, cell=16)[0])
    assert len(np.unique(squares[:16, :16].reshape(-1, 3), axis=0)) == 1
    mean = pixels(source)[:16, :16].mean(axis=(0, 1))
    assert np.abs(squares[0, 0] - mean).max() <= 1
    fine, rough = (
        cv2.Laplacian(pixels(made), cv2.CV_64F).std()
        for made in (run("tile", source, factor=2.0)[0], run("tile", source, factor=8.0)[0])
    )
    assert rough < fine / 2
    assert run("tile", source, factor=1.0)[0] == source
    assert pixels(run("blur", source, radius=20.0)[0]).std() < pixels(source).std()


def test_a_transparent_picture_lies_on_white(run):
    from likeness.pipelines.source_pictures import read_pictures

    tensor = torch.zeros(1, 32, 32, 4)
    tensor[:, :, 16:, 3] = 1  # the right half is black, the left one transparent
    (made,) = run("threshold", *read_pictures(tensor), level=128)
    assert pixels(made)[:, :16].min() == 255 and pixels(made)[:, 16:].max() == 0


def test_every_detector_is_described():
    for one in DETECTORS:
        assert one.name == one.name.lower() and one.name.replace("_", "").isalnum()
        assert one.title and one.purpose
        assert one.settings() == one.settings()
        for setting in describe(one.settings):
            assert len(setting.help) > 10, f"{one.name}.{setting.name}"
            bounded = setting.kind in (int, float)
            assert not bounded or None not in (setting.low, setting.high), setting.name
    assert len({one.name for one in DETECTORS}) == len(DETECTORS) >= 30


@pytest.mark.parametrize(
    ("name", "chosen", "told"),
    [
        ("canny", {"low": -1}, "low is -1"),
        ("canny", {"low": 300}, "low 300 is above high 200"),
        ("xdog", {"fine": float("nan")}, "fine is nan"),
        ("midas", {"show": "colours"}, "show is 'colours'; choose one of depth, normals"),
        ("canny", {"strength": 1}, "unknown CannySettings 'strength'; known: low, high"),
        ("cany", {}, "no detector 'cany'; did you mean canny?"),
        ("canny", {"low": "100"}, "low is '100' \\(str\\); give it a int"),
    ],
)
def test_wrong_settings_are_refused_by_name(run, name, chosen, told):
    with pytest.raises(ValueError, match=told):
        run(name, photograph("coffee", 64), **chosen)


def test_wrong_calls_are_refused(pipelines, run):
    source = photograph("coffee", 64)
    with pytest.raises(ValueError, match="TileSettings are not the settings of Canny"):
        preprocess(pipelines, [source], "canny", detector("tile").settings())
    with pytest.raises(ValueError, match="no picture for Canny"):
        run("canny")
    with pytest.raises(ValueError, match="resolution 5000 cannot be used"):
        run("canny", source, resolution=5000)


def test_what_on_picture_raises_ends_the_work(pipelines):
    class Stopped(BaseException):
        pass

    told = []

    def stop(done, total):
        told.append((done, total))
        if done == 2:
            raise Stopped

    before = state()
    with pytest.raises(Stopped):
        preprocess(pipelines, [photograph("coffee", 64)] * 4, "shuffle", on_picture=stop)
    assert told == [(1, 4), (2, 4)] and state() == before


def test_one_detector_imports_no_other():
    code = """
import sys
from PIL import Image
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.preprocess import preprocess
preprocess(Pipelines("cpu"), [Image.new("RGB", (64, 64))], "lineart_standard")
print(*sorted({"controlnet_aux", "timm", "mediapipe", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "imported without need"
    assert not done.stderr


def test_pictures_that_are_all_one_colour_work(run):
    for one in WITHOUT_WEIGHTS:
        (made,) = run(one.name, Image.new("RGB", (70, 50), "white"))
        assert made.size == (70, 50)
