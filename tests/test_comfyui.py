"""Inside the real ComfyUI: the pack loads, its host answers, stop and "free memory" reach us."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.error import HTTPError

import pytest

from .comfyui_process import ComfyUIError, shared_server

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def comfyui():
    return shared_server()


@pytest.fixture(scope="module")
def ask(comfyui):
    """Calls a function of `comfyui_probe.py` inside ComfyUI."""

    def ask(action, *arguments):
        inputs = {"action": action, "arguments": json.dumps(arguments)}
        shown = comfyui.run({"1": {"class_type": "LikenessProbe", "inputs": inputs}})
        return json.loads(shown["1"]["text"][0])

    return ask


def test_loads_quickly_and_without_complaint(comfyui):
    # A tenth of a second, a quarter while Python compiles it; diffusers alone takes several.
    assert comfyui.import_seconds() <= 1.5
    complaints = ("IMPORT FAILED", "Cannot import", "Error while calling comfy_entrypoint")
    assert not [line for line in comfyui.log().splitlines() if any(c in line for c in complaints)]


def test_all_nodes_are_there(comfyui):
    from likeness.nodes import NODES

    offered = comfyui.object_info()
    assert {node.GET_SCHEMA().node_id for node in NODES} <= set(offered)


def test_folders_and_device(comfyui, ask):
    told = ask("describe")
    assert told["name"] == "comfyui"
    assert told["device"] == "cpu"
    for which in ("input", "output", "temp"):
        assert Path(told[which]).resolve() == (comfyui.base / which).resolve()
    assert "tiny" in told["names"]["diffusers"]
    assert str(comfyui.base / "output" / "loras") in told["folders"]["loras"]
    assert {"tiny/subject", "tiny/subject_held_out"} <= set(told["image_folders"])


def test_finds_what_is_added_while_it_runs(comfyui, ask):
    """ComfyUI remembers its listings: a LoRA that was just saved must be on the next one."""
    ask("describe")
    for folder in ("models/loras/sub", "output/loras"):
        (comfyui.base / folder).mkdir(parents=True, exist_ok=True)
    (comfyui.base / "models/loras/sub/a.safetensors").touch()
    (comfyui.base / "output/loras/b.safetensors").touch()
    assert ask("describe")["names"]["loras"] == ["b.safetensors", "sub/a.safetensors"]
    assert ask("find", "loras", "sub\\a.safetensors").endswith("models/loras/sub/a.safetensors")
    assert ask("find", "loras", "b.safetensors").endswith("output/loras/b.safetensors")
    assert ask("find", "diffusers", "tiny").endswith("assets/tiny/base")
    assert "ValueError" in ask("find", "loras", "../../input/x.png")
    assert "'sub/a.safetensors'" in ask("find", "loras", "a.safetensors")


def test_uploaded_pictures_become_a_folder(comfyui, ask):
    picture = next((ROOT / "assets" / "tiny" / "subject").glob("*.png"))
    assert comfyui.upload(picture, subfolder="mine")["subfolder"] == "mine"
    assert "mine" in ask("describe")["image_folders"]
    assert Path(ask("find", "images", "mine")).name == "mine"


def test_free_reaches_us(comfyui, ask, tmp_path):
    seen = tmp_path / "free.txt"
    ask("keep", str(seen))
    assert seen.read_text() == "bring\n"
    comfyui.free()
    until = time.monotonic() + 20
    while "evict" not in seen.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert seen.read_text() == "bring\nevict\n"
    assert ask("describe"), "ComfyUI still executes nodes"
    ask("use", str(seen))
    assert seen.read_text() == "bring\nevict\nbring\n", "it can come back"
    ask("forget", str(seen))


def test_progress_and_stop(comfyui, ask):
    assert ask("progress", 3, 0.0) == "done"
    inputs = {"action": "progress", "arguments": "[200, 0.05]"}
    queued = comfyui.queue({"1": {"class_type": "LikenessProbe", "inputs": inputs}})
    time.sleep(1.0)
    comfyui.interrupt()
    entry = comfyui.wait(queued, seconds=20)
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    stopped_at = json.loads((comfyui.base / "output" / "stopped.json").read_text())
    assert 1 < stopped_at < 200
    assert ask("progress", 2, 0.0) == "done", "the stop button holds for one run only"


def test_progress_and_previews_reach_the_browser(comfyui):
    inputs = {"action": "progress", "arguments": "[4, 0.0]"}
    told = comfyui.watch({"7": {"class_type": "LikenessProbe", "inputs": inputs}})
    steps = [data for kind, data in told if kind == "progress"]
    assert [(step["value"], step["max"], step["node"]) for step in steps] == [
        (value, 4, "7") for value in (1, 2, 3, 4)
    ]
    previews = [data for kind, data in told if kind == "preview"]
    assert len(previews) == 4
    assert all(preview.startswith(b"\xff\xd8") for preview in previews), "not JPEG"
    texts = [data for kind, data in told if kind == "text"]
    assert texts == [("7", f"{step} of 4") for step in (1, 2, 3, 4)]


def test_the_bar_of_a_training_moves_after_that_of_a_longer_preparation(comfyui):
    """ComfyUI's own bar leaves out everything below what it showed last."""
    inputs = {"action": "stretches", "arguments": "[[48, 6]]"}
    told = comfyui.watch({"7": {"class_type": "LikenessProbe", "inputs": inputs}})
    steps = [(data["value"], data["max"]) for kind, data in told if kind == "progress"]
    assert steps[0] == (1, 48) and steps[-1] == (6, 6)
    assert steps[steps.index((48, 48)) + 1] == (1, 6)


def test_trainings_can_be_asked_about_and_nothing_else(comfyui):
    assert all("/" not in id for id in comfyui.get("/likeness/training"))
    for path in ("999", "999/stop", "999/save", "..%2F..%2Finput/stop", "999/delete"):
        with pytest.raises((ComfyUIError, HTTPError), match=r"there is no training|404"):
            if "/" in path:
                comfyui.post(f"/likeness/training/{path}", {})
            else:
                comfyui.get(f"/likeness/training/{path}")


def test_memory_pressure_reaches_us(ask, tmp_path):
    """ComfyUI needs memory for a model of its own: ours goes if it does not suffice, only then."""
    seen = tmp_path / "pressure.txt"
    ask("keep", str(seen))
    ask("use", str(seen))
    ask("need", 0)
    assert seen.read_text() == "bring\n", "it is there already, and nobody needs its memory"
    ask("need", 10**6)
    assert seen.read_text() == "bring\nevict\n"
    ask("need", 10**6)
    assert seen.read_text() == "bring\nevict\n", "it is gone already"
    ask("use", str(seen))
    before = ask("forget", str(seen))
    ask("need", 10**6)
    assert seen.read_text() == "bring\nevict\nbring\n", "whoever is forgotten hears nothing"
    ask("keep", str(seen))
    assert ask("forget", str(seen)) == before, "nothing of it stays in ComfyUI's list"


def test_errors_come_back_as_text(comfyui):
    prompt = {"1": {"class_type": "LikenessProbe", "inputs": {"action": "no such"}}}
    with pytest.raises(ComfyUIError, match="arguments"):
        comfyui.run(prompt)
