"""Detectors of controlnet-aux on random weights of the real classes: what its own loader and call
give, and where weights are looked for.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.preprocess import Places, preprocess, weights_versions
from likeness.pipelines.preprocess import controlnet_aux as aux
from likeness.pipelines.preprocess.preprocess import _require_package

from .preprocess_cases import (
    NETWORKS,
    detector,
    photograph,
    pixels,
    write,
    write_weights,
)
from .test_preprocess import state

CLASSES = {
    "hed": ("hed", "HEDdetector"),
    "pidinet": ("pidi", "PidiNetDetector"),
    "teed": ("teed", "TEEDdetector"),
    "mlsd": ("mlsd", "MLSDdetector"),
    "lineart_anime": ("lineart_anime", "LineartAnimeDetector"),
    "anyline": ("anyline", "AnylineDetector"),
}
"""Detector → where controlnet-aux has it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("annotators")


@pytest.fixture(scope="module")
def weights(folder):
    """Writes a detector's weights once; says the places where they are."""

    def weights(name):
        if not (folder / NETWORKS[name][0]).exists():
            write_weights(folder, name)
        return Places((folder,))

    return weights


def run(pipelines, name, places, picture=None, resolution=0, **chosen):
    settings = detector(name).settings(**chosen)
    source = picture or photograph("astronaut", 128)
    return preprocess(pipelines, [source], name, settings, places=places, resolution=resolution)[0]


def theirs(name, folder, picture, **options):
    """Loaded and called by controlnet-aux itself."""
    module, cls = CLASSES[name]
    file = NETWORKS[name][0]
    loaded = getattr(aux.part(module), cls).from_pretrained(str(folder), filename=file)
    getattr(loaded, "model", getattr(loaded, "netNetwork", None)).eval()
    return pixels(aux.call(loaded, pixels(picture), **options))


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_what_controlnet_aux_makes_of_the_same_weights(pipelines, folder, weights, name):
    places = weights(name)
    before = state()
    made = run(pipelines, name, places)
    assert state() == before
    assert made.size == (128, 128) and made.mode == "RGB"
    assert np.array_equal(pixels(made), theirs(name, folder, photograph("astronaut", 128)))
    assert run(pipelines, name, places) == made, "the same again"


@pytest.mark.parametrize(
    ("name", "chosen", "options"),
    [
        ("hed", {"safe": True}, {"safe": True}),
        ("hed", {"scribble": True}, {"scribble": True}),
        ("pidinet", {"binary": True}, {"apply_filter": True}),
        ("teed", {"levels": 0}, {"safe_steps": 0}),
        ("mlsd", {"score": 0.02, "distance": 1.0}, {"thr_v": 0.02, "thr_d": 1.0}),
        ("anyline", {"sigma": 5.0}, {"guassian_sigma": 5.0}),
    ],
)
def test_settings_arrive(pipelines, folder, weights, name, chosen, options):
    made = pixels(run(pipelines, name, weights(name), **chosen))
    source = photograph("astronaut", 128)
    assert np.array_equal(made, theirs(name, folder, source, **options))


def test_lineart_fine_and_coarse_read_their_own_files(pipelines, folder, weights):
    for name in ("lineart", "lineart_coarse"):
        weights(name)
    whole = aux.part("lineart").LineartDetector.from_pretrained(str(folder))
    source = photograph("astronaut", 128)
    for name in ("lineart", "lineart_coarse"):
        made = run(pipelines, name, Places((folder,)))
        expected = aux.call(whole, pixels(source), coarse=name == "lineart_coarse")
        assert np.array_equal(pixels(made), expected)
        assert pixels(made).std() > 1


@pytest.mark.parametrize("name", ["hed", "mlsd", "lineart_anime"])
def test_any_size_gives_its_own_size_back(pipelines, weights, name):
    for size in ((1, 1), (67, 20), (20, 130)):
        made = run(pipelines, name, weights(name), photograph("coffee", 200).resize(size))
        assert made.size == size
    made = run(pipelines, name, weights(name), photograph("coffee", 200), resolution=64)
    assert made.size == photograph("coffee", 200).size


def test_loaded_once_under_the_budget_and_gone_together(weights, folder):
    own = Pipelines("cpu")
    places = weights("hed")
    run(own, "hed", places)
    run(own, "hed", places, safe=True)
    assert own.loads == 1
    assert own.bytes_held >= sum(
        p.nbytes for p in aux.part("hed").ControlNetHED_Apache2().parameters()
    )
    (live,) = own._live.values()
    assert live.module.detector.netNetwork is live.module["network"]
    assert not any(p.requires_grad for p in live.module.parameters())
    assert not live.module.training
    own.free()
    assert own.bytes_held == 0
    write_weights(folder, "hed")  # the file is another one now
    run(own, "hed", places)
    assert own.loads == 2


# -- where weights are -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("teed", "5_model.pth"),
        ("teed", "fal-ai/teed/5_model.pth"),
        ("anyline", "TheMistoAI/MistoLine/Anyline/MTEED.pth"),
        ("anyline", "Anyline/MTEED.pth"),
        ("anyline", "MTEED.pth"),
        ("mlsd", "lllyasviel/Annotators/mlsd_large_512_fp32.pth"),
    ],
)
def test_layouts_that_others_use_are_found(pipelines, tmp_path, name, place):
    _, build, layout = NETWORKS[name]
    write(tmp_path / "second" / place, build, layout)
    places = Places((tmp_path / "first", tmp_path / "second"))
    assert weights_versions(name, None, places)[0][0] == str(tmp_path / "second" / place)
    run(pipelines, name, places)


def test_the_hub_cache_is_looked_into_without_a_network(pipelines, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    at = tmp_path / "models--fal-ai--teed"
    commit = "0123456789abcdef0123456789abcdef01234567"
    _, build, layout = NETWORKS["teed"]
    write(at / "snapshots" / commit / "5_model.pth", build, layout)
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(commit)
    run(pipelines, "teed", Places())


def test_own_weights_by_file_and_by_folder(pipelines, tmp_path):
    from safetensors.torch import save_file

    _, build, layout = NETWORKS["teed"]
    write(tmp_path / "mine" / "5_model.pth", build, layout)
    save_file(build().state_dict(), tmp_path / "other.safetensors")
    for own in ("mine", "mine/5_model.pth", "mine\\5_model.pth", "other.safetensors"):
        run(pipelines, "teed", Places((tmp_path,)), weights=own)
    with pytest.raises(
        ValueError, match="TEED: weights 'yours' are not there; a file, or a folder"
    ):
        run(pipelines, "teed", Places((tmp_path,)), weights="yours")


@pytest.mark.parametrize("name", ["../mine", "/etc/passwd", "C:\\mine", "a/../../b", "."])
def test_own_weights_stay_inside(pipelines, tmp_path, name):
    with pytest.raises(ValueError, match="are not allowed: write a name below"):
        run(pipelines, "teed", Places((tmp_path / "in",)), weights=name)


def test_missing_weights_are_one_line_with_the_way_out(pipelines, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError) as caught:
        run(pipelines, "hed", Places((tmp_path / "one", tmp_path / "two")))
    told = str(caught.value)
    assert "\n" not in told
    for part in ("HED", "ControlNetHED.pth", "lllyasviel/Annotators", "one", "two", "cache"):
        assert part in told
    assert "'download'" in told


def test_offline_nothing_is_downloaded(pipelines, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    def fetch(*args, local_files_only=False, **options):
        asked.append(local_files_only)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set: nothing is downloaded"):
        run(pipelines, "hed", Places((), download=True))
    assert asked == [True]
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    with pytest.raises(ValueError, match=r"switch 'download' on once$"):
        run(pipelines, "hed", Places())
    assert asked == [True, True], "off: never"
    with pytest.raises(ValueError, match=r"cannot be fetched \(not here\)"):
        run(pipelines, "hed", Places((), download=True))
    assert asked == [True, True, True, False]


def test_files_that_are_something_else_are_refused(pipelines, tmp_path, weights, folder):
    weights("hed")
    with pytest.raises(ValueError, match=r"does not hold the weights of TED: .* missing"):
        run(pipelines, "teed", Places((folder,)), weights="ControlNetHED.pth")
    (tmp_path / "5_model.pth").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"5_model\.pth"):
        run(pipelines, "teed", Places((tmp_path,)))


class Hostile:
    def __reduce__(self):
        return (print, ("code from a file runs",))


def test_code_in_files_never_runs(pipelines, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"weights": Hostile()}, tmp_path / "5_model.pth")
    with pytest.raises(ValueError, match="holds more than tensors"):
        run(pipelines, "teed", Places((tmp_path,)))
    assert "runs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "package"), [("face_mesh", "mediapipe"), ("dwpose", "onnxruntime")]
)
def test_a_missing_package_disables_one_detector(pipelines, monkeypatch, name, package):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ValueError, match=f"needs the package {package}, .*pip install '{package}"):
        run(pipelines, name, Places())
    _require_package(detector("canny"))


def test_a_mediapipe_without_face_mesh_says_which_one_has_it(pipelines, monkeypatch):
    module = ModuleType("mediapipe")
    module.__spec__, module.__version__ = ModuleSpec("mediapipe", None), "1.0.1"
    monkeypatch.setitem(sys.modules, "mediapipe", module)
    with pytest.raises(ValueError, match=r"1\.0\.1 has not: pip install 'mediapipe<0\.10\.31'"):
        run(pipelines, "face_mesh", Places())
