"""The node Preprocess: inputs from settings, batches, caching, the grid, and stopping."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from likeness.headless import workflow
from likeness.headless.core_nodes import CORE_NODES
from likeness.headless.executor import Executor
from likeness.host import Interrupted, StandaloneHost, use
from likeness.nodes import NODES, session
from likeness.nodes.preprocess import Preprocess
from likeness.pipelines.images import to_tensor
from likeness.pipelines.preprocess import DETECTORS, Places, compare, names_in, preprocess
from likeness.pipelines.preprocess.compare import grid
from likeness.pipelines.setting import describe
from PIL import Image

from .comfyui_process import shared_server
from .preprocess_cases import WITHOUT_WEIGHTS, detector, photograph, pixels, write_weights


@pytest.fixture
def program(tmp_path):
    host = StandaloneHost(
        tmp_path / "models", tmp_path / "out", tmp_path / "in", quiet=True, device="cpu"
    )
    previous = use(host)
    yield host
    use(previous)


def chosen(name, **values):
    return {"detector": name, **values}


def levels(tensor):
    return (tensor.numpy() * 255).round().astype(np.uint8)


def test_every_detector_is_offered_with_its_settings():
    info = Preprocess.GET_NODE_INFO_V1()["input"]
    options = info["required"]["detector"][1]["options"]
    assert [option["key"] for option in options] == [one.name for one in DETECTORS]
    for option, one in zip(options, DETECTORS, strict=True):
        inputs = {**option["inputs"].get("required", {}), **option["inputs"].get("optional", {})}
        assert list(inputs) == [setting.name for setting in describe(one.settings)]
        for setting in describe(one.settings):
            told = inputs[setting.name][1]
            assert told["default"] == setting.default and told["tooltip"] == setting.help
            if setting.low is not None:
                assert (told["min"], told["max"]) == (setting.low, setting.high)
    assert set(info["optional"]) == {"resolution", "download", "compare"}
    assert info["optional"]["download"][1]["default"] is False


def test_a_batch_gives_a_batch_and_a_grid(program):
    sources = [photograph(name, 128).resize((128, 96)) for name in ("coffee", "chelsea")]
    output = Preprocess.execute(to_tensor(sources), chosen("canny", low=50, high=150))
    image, sheet = output.args
    assert image.shape == (2, 96, 128, 3) and image.dtype == torch.float32
    expected = preprocess(session.pipelines(), sources, "canny", _canny(50, 150))
    assert np.array_equal(levels(image), np.stack([pixels(one) for one in expected]))
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3
    shown = output.ui.as_dict()["images"][0]
    preview = Image.open(program.temp_directory() / shown["filename"])
    assert np.array_equal(pixels(preview.convert("RGB")), levels(sheet)[0])


def _canny(low, high):
    return detector("canny").settings(low, high)


def test_alpha_and_grey_are_read(program):
    transparent = torch.zeros(1, 20, 20, 4)
    assert levels(Preprocess.execute(transparent, chosen("grey")).args[0]).min() == 255
    assert Preprocess.execute(torch.rand(1, 20, 20, 1), chosen("invert")).args[0].shape[3] == 3


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"detector": chosen("hed")}, "HED needs ControlNetHED.pth of lllyasviel/Annotators"),
        ({"detector": chosen("canny", low=9, high=3)}, "low 9 is above high 3"),
        ({"compare": "canny, blurr"}, "no detector 'blurr'; did you mean blur?"),
        ({"resolution": 9999}, "resolution 9999 cannot be used"),
        ({"detector": chosen("teed", weights="../x")}, "are not allowed"),
    ],
)
def test_what_cannot_be_is_told(program, values, told):
    with pytest.raises(ValueError, match=told):
        Preprocess.execute(torch.zeros(1, 8, 8, 3), **{"detector": chosen("canny"), **values})
    with pytest.raises(ValueError, match="is empty"):
        Preprocess.execute(torch.zeros(0, 8, 8, 3), chosen("canny"))


def test_weights_are_found_in_the_models_folders(program, tmp_path):
    for place in ("models/annotators", "models/controlnet_aux/fal-ai/teed"):
        file = write_weights(tmp_path / place, "teed")
        image = Preprocess.execute(torch.rand(1, 64, 64, 3), chosen("teed")).args[0]
        assert image.shape == (1, 64, 64, 3)
        file.unlink()
    with pytest.raises(ValueError, match=r"TEED needs 5_model\.pth"):
        Preprocess.execute(torch.rand(1, 64, 64, 3), chosen("teed"))


def test_importing_the_nodes_imports_no_library():
    heavy = {"torch", "numpy", "PIL", "cv2", "skimage", "huggingface_hub", "controlnet_aux", "timm"}
    code = f"""
import sys
import likeness.nodes, likeness.pipelines.preprocess
print(*sorted({heavy!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.split() == []


# -- comparing -------------------------------------------------------------------------------------


def test_the_grid_has_the_picture_first_and_lines_for_what_cannot_work(pipelines):
    source = photograph("astronaut", 256)
    told = []
    sheet = compare(
        pipelines, source, ("grey", "hed", "invert"), on_picture=lambda *done: told.append(done)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    grey, invert = (preprocess(pipelines, [source], name)[0] for name in ("grey", "invert"))
    cells = grid([("picture", source), ("Grey", grey), ("HED", source), ("Invert", invert)])
    assert sheet.size == cells.size, "two by two"
    differ = (pixels(sheet) != pixels(cells)).any(axis=2)
    rows, columns = np.nonzero(differ)
    assert len(rows), "HED tells what it needs instead"
    assert rows.min() > sheet.height / 2 - 20 and columns.max() < sheet.width / 2


def test_pictures_that_are_known_are_not_made_again(pipelines):
    red = Image.new("RGB", (256, 256), "red")
    sheet = pixels(
        compare(pipelines, photograph("astronaut", 256), ("canny",), known={"canny": red})
    )
    assert (sheet[100:200, -200:-50] == (255, 0, 0)).all()


def test_names():
    assert names_in(" Canny, hed,, canny ") == ("canny", "hed")
    assert names_in("") == ()
    assert names_in(" ALL ") == tuple(one.name for one in DETECTORS)


@pytest.mark.parametrize("size", [(1, 1), (2000, 15), (900, 600)])
def test_a_grid_of_all_works_at_any_size(pipelines, size):
    names = [one.name for one in WITHOUT_WEIGHTS]
    sheet = compare(pipelines, photograph("chelsea", 300).resize(size), names)
    assert sheet.mode == "RGB" and max(sheet.size) < 4000


# -- in a graph ------------------------------------------------------------------------------------


def graph(compare="", low=100):
    return workflow.read_api(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
            "2": {
                "class_type": "LikenessPreprocess",
                "inputs": {
                    "image": ["1", 0],
                    "detector": "canny",
                    "detector.low": low,
                    "detector.high": 200,
                    "compare": compare,
                },
            },
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }
    )


def test_the_same_again_runs_nothing(program, tmp_path):
    (tmp_path / "in").mkdir()
    photograph("coffee", 64).save(tmp_path / "in" / "photo.png")
    runner = Executor([*NODES, *CORE_NODES])
    assert "2" in runner.run(graph()).executed
    assert runner.run(graph()).executed == []
    assert "2" in runner.run(graph(low=50)).executed
    assert "2" in runner.run(graph("teed")).executed
    assert runner.run(graph("teed")).executed == []
    write_weights(tmp_path / "models" / "annotators", "teed")
    assert "2" in runner.run(graph("teed")).executed, "its weights are there now"
    assert json.dumps(Preprocess.fingerprint_inputs(detector=chosen("canny", low=None)))


def test_a_stop_ends_it_between_pictures(program, monkeypatch):
    bars = []
    progress = program.progress

    def stopping(total):
        bar = progress(total)
        update = bar.update

        def told(value, total=None, preview=None):
            bars.append((value, total))
            if value == 2:
                raise Interrupted
            update(value, total, preview)

        bar.update = told
        return bar

    monkeypatch.setattr(program, "progress", stopping)
    with pytest.raises(Interrupted):
        Preprocess.execute(torch.rand(5, 64, 64, 3), chosen("xdog"))
    assert bars == [(1, 6), (2, 6)]


def test_a_real_comfyui_makes_the_same_and_nothing_twice(pipelines, tmp_path):
    server = shared_server()
    source = photograph("astronaut", 128)
    source.save(server.base / "input" / "photo.png")
    write_weights(server.base / "models" / "annotators", "teed")
    prompt = graph().as_api()
    teed = {"image": ["1", 0], "detector": "teed", "compare": "canny"}
    teed |= {"detector.levels": 3, "detector.weights": ""}
    prompt["4"] = {"class_type": "LikenessPreprocess", "inputs": teed}
    prompt["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    shown = server.run(prompt)
    places = Places((server.base / "models" / "annotators",))
    settings = detector("teed").settings(levels=3)
    for node, name, chosen in (("3", "canny", None), ("5", "teed", settings)):
        place = shown[node]["images"][0]
        file = server.base / "temp" / place["subfolder"] / place["filename"]
        (made,) = preprocess(pipelines, [source], name, chosen, places=places)
        with Image.open(file) as image:
            assert np.array_equal(pixels(image.convert("RGB")), pixels(made))
    assert shown["2"]["images"] and shown["4"]["images"], "the grids"
    again = server.wait(server.queue(prompt))
    (cached,) = [data for kind, data in again["status"]["messages"] if kind == "execution_cached"]
    assert set(cached["nodes"]) == {"1", "2", "3", "4", "5"}
