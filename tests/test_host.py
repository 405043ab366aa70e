"""The host without ComfyUI: names stay in their folders, messages help, importing is cheap."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from likeness.host import Interrupted, StandaloneHost, folders, host, io, ui, use

BAD_NAMES = [
    "../secret.safetensors",
    "sub/../../secret.safetensors",
    "..\\secret.safetensors",
    "sub\\..\\..\\secret.safetensors",
    "..",
    "/etc/passwd",
    "\\\\server\\share\\x.safetensors",
    "C:\\models\\x.safetensors",
    "C:x.safetensors",
    "z:/x.safetensors",
    "a\0b.safetensors",
    "",
    ".",
]
BUNDLED = ["tiny/pose", "tiny/style", "tiny/subject", "tiny/subject_held_out"]


@pytest.fixture
def place(tmp_path):
    """A models folder, an output folder, an input folder, and a secret beside them."""
    for file in (
        "secret.safetensors",
        "models/loras/dog.safetensors",
        "models/loras/people/anna.safetensors",
        "models/loras/readme.txt",
        "models/loras/.hidden/x.safetensors",
        "models/diffusers/sd15/model_index.json",
        "models/diffusers/sd15/unet/config.json",
        "models/diffusers/deep/sdxl/model_index.json",
        "models/diffusers/not_a_model/x.txt",
        "models/controlnet/canny.safetensors",
        "models/controlnet/depth/config.json",
        "models/controlnet/depth/diffusion_pytorch_model.safetensors",
        "models/t2i_adapter/sketch.pth",
        "models/unet/flux.safetensors",
        "output/loras/mine.safetensors",
        "output/ipadapter/mine.safetensors",
        "input/dog/1.PNG",
        "input/dog/more/2.jpg",
        "input/notes/x.txt",
        "input/loose.png",
        "elsewhere/private.png",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def here(place):
    return StandaloneHost(place / "models", place / "output", place / "input", quiet=True)


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["loras", "diffusers", "images"])
def test_names_stay_inside(here, kind, name):
    look_up = here.image_folder if kind == "images" else lambda n: here.model_path(kind, n)
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))} is (not allowed|empty)"):
        look_up(name)


def test_a_name_that_no_file_can_have(here):
    for look_up in (here.image_folder, lambda name: here.model_path("loras", name)):
        with pytest.raises(ValueError, match="There is no"):
            look_up("x" * 5000)


def test_model_names(here):
    assert here.model_names("loras") == [
        "dog.safetensors",
        "mine.safetensors",
        "people/anna.safetensors",
    ]
    assert here.model_names("diffusers") == ["deep/sdxl", "sd15", "tiny"]
    assert here.model_names("diffusion_models") == ["flux.safetensors"]
    assert "mine.safetensors" in here.model_names("ipadapter")
    assert {"canny.safetensors", "depth", "sketch.pth"} <= set(here.model_names("controlnet"))
    assert "depth/diffusion_pytorch_model.safetensors" not in here.model_names("controlnet")
    assert here.model_names("embeddings") == []


@pytest.mark.parametrize("kind", ["loras", "diffusers", "controlnet", "diffusion_models"])
def test_every_name_offered_is_found(here, kind):
    for name in here.model_names(kind):
        assert here.model_path(kind, name).exists()


def test_names_from_windows_work(here, place):
    wanted = place / "models" / "loras" / "people" / "anna.safetensors"
    assert here.model_path("loras", "people\\anna.safetensors") == wanted


def test_own_results_are_found(here, place):
    wanted = place / "output" / "loras" / "mine.safetensors"
    assert here.model_path("loras", "mine.safetensors") == wanted


def test_first_folder_wins(here, place):
    (place / "output" / "loras" / "dog.safetensors").write_bytes(b"newer")
    assert here.model_path("loras", "dog.safetensors").read_bytes() == b"x"
    assert here.model_names("loras").count("dog.safetensors") == 1


def test_a_folder_is_no_lora(here):
    with pytest.raises(ValueError, match="no model in 'loras' named 'people'"):
        here.model_path("loras", "people")


def test_missing_names_get_help(here, place):
    with pytest.raises(ValueError) as missing:
        here.model_path("loras", "anna.safetensors")
    message = str(missing.value)
    assert "'anna.safetensors'" in message
    assert str(place / "models" / "loras") in message
    assert str(place / "output" / "loras") in message
    assert "Did you mean 'people/anna.safetensors'" in message
    with pytest.raises(ValueError, match=r"Did you mean .*'sd15'"):
        here.model_path("diffusers", "sd1.5")


def test_links_between_models_are_followed_once(here, place):
    (place / "models" / "loras" / "linked").symlink_to(place / "output" / "loras")
    (place / "models" / "loras" / "circle").symlink_to(place / "models")
    names = here.model_names("loras")
    assert "linked/mine.safetensors" in names
    assert len(names) < 20
    assert here.model_path("loras", "linked/mine.safetensors").exists()


def test_image_folders(here, place):
    assert here.image_folder_names() == ["dog", "dog/more", *BUNDLED]
    assert here.image_folder("dog/more") == place / "input" / "dog" / "more"
    assert any(here.image_folder("tiny/subject").glob("*.png"))
    with pytest.raises(ValueError, match="file"):
        here.image_folder("loose.png")
    with pytest.raises(ValueError, match="Did you mean 'dog'"):
        here.image_folder("dogs")


def test_an_own_folder_beats_the_bundled_one(here, place):
    (place / "input" / "tiny" / "subject").mkdir(parents=True)
    assert here.image_folder("tiny/subject") == place / "input" / "tiny" / "subject"


def test_links_out_of_the_input_folder_are_refused(here, place):
    """As in ComfyUI: pictures come from an upload, models from whoever owns the machine."""
    (place / "input" / "out").symlink_to(place / "elsewhere")
    assert "out" not in here.image_folder_names()
    with pytest.raises(ValueError, match="leads out"):
        here.image_folder("out")


def test_missing_folders_are_just_empty(tmp_path):
    empty = StandaloneHost(tmp_path / "none", tmp_path / "nothing", tmp_path / "nowhere")
    assert empty.model_names("loras") == []
    assert empty.image_folder_names() == BUNDLED
    assert not list(tmp_path.iterdir()), "looking must not make folders"


def test_models_folder_from_the_environment(place, monkeypatch):
    monkeypatch.setenv("LIKENESS_MODELS", str(place / "models"))
    assert "dog.safetensors" in StandaloneHost().model_names("loras")


def test_temp_directory_is_made_when_asked_for(here):
    assert here.temp_directory().is_dir()
    assert here.temp_directory() == here.temp_directory()


def test_device(here):
    import torch

    torch.empty(1, device=here.device())
    assert StandaloneHost(device="cpu").device() == "cpu"


def test_stop_is_raised_once_and_recognised(here):
    bar = here.progress(10)
    bar.update(1)
    here.request_stop()
    with pytest.raises(Interrupted) as stopped:
        bar.update(2, total=12)
    assert here.is_interruption(stopped.value)
    assert here.is_interruption(KeyboardInterrupt())
    assert not here.is_interruption(ValueError())
    bar.update(3)
    here.throw_if_interrupted()


def test_nobody_asks_where_there_is_no_browser(here):
    assert here.progress(1).node_id == ""
    here.progress(1).tell("text")
    here.on_request("training", lambda node_id, request: pytest.fail("nobody is there to ask"))


def test_free_lets_every_model_go_once(here):
    calls = []
    kept = here.keep([], lambda: calls.append("bring"), lambda: calls.append("evict"))
    here.free()
    assert calls == [], "it was not there yet"
    kept.use()
    kept.use()
    here.free()
    here.free()
    assert calls == ["bring", "evict"]
    kept.use()
    kept.forget()
    here.free()
    assert calls == ["bring", "evict", "bring"]


def test_bar_is_drawn_on_a_terminal(place, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = StandaloneHost(place / "models", place / "output").progress(2)
    bar.tell("step 1\nmore")
    bar.update(1)
    bar.update(2)
    drawn = capsys.readouterr().err
    assert "2/2" in drawn and "step 1" in drawn and "more" not in drawn


def test_every_stretch_of_the_work_has_a_bar_of_its_own(place, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = StandaloneHost(place / "models", place / "output").progress(1)
    for done in (1, 2):
        bar.update(done, 2)  # preparing, to its end
    for step in (0, 1, 2, 3):
        bar.tell(f"step {step}")
        bar.update(step, 3)
    bar.update(1, 3)  # and another one, as long
    drawn = capsys.readouterr().err
    assert "0/1" not in drawn, "the bar's first total was a guess"
    seen = [drawn.index(f"{done}/{total}") for done, total in ((1, 2), (2, 2), (1, 3), (3, 3))]
    assert seen == sorted(seen)
    assert "2/3" in drawn and "step 2" in drawn
    assert drawn.rindex("1/3") > drawn.index("3/3")


def test_the_one_host_can_be_replaced(here):
    before = use(here)
    try:
        assert host() is here
    finally:
        use(before)
    assert host() is not here
    assert host() is host()
    assert host().name == "standalone"


def test_bundled_models_exist():
    assert folders.bundled_models("diffusers")["tiny"].joinpath("model_index.json").is_file()


def node(schema):
    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return schema

        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput(cls.hidden.unique_id, inputs)

    return Node


def test_ids_must_be_unique():
    same = [io.Int.Input("a"), io.Float.Input("a")]
    with pytest.raises(ValueError, match=r"Two: input ids must be unique, but \['a'\]"):
        node(io.Schema("Two", inputs=same)).GET_SCHEMA()
    choice = io.DynamicCombo.Input("m", [io.DynamicCombo.Option("x", same)])
    with pytest.raises(ValueError, match=r"m\.x"):
        node(io.Schema("Two", inputs=[choice])).GET_SCHEMA()


def test_a_run_knows_its_node_and_leaves_the_class_alone():
    probe = node(io.Schema("Probe"))
    output = probe.run(io.HiddenHolder(unique_id="1:2"), amount=3)
    assert output.result == ("1:2", {"amount": 3})
    assert probe.hidden.unique_id is None
    assert not probe.overrides("validate_inputs")
    assert probe.overrides("execute")


def test_preview_is_a_picture_with_its_workflow(here):
    import numpy as np
    from PIL import Image

    probe = node(io.Schema("Probe"))
    told = probe.with_hidden(
        io.HiddenHolder(prompt={"1": {}}, extra_pnginfo={"workflow": {"v": 1}})
    )
    before = use(here)
    try:
        shown = ui.PreviewImage(np.full((2, 4, 6, 3), 0.5), cls=told).as_dict()
    finally:
        use(before)
    assert [saved["type"] for saved in shown["images"]] == ["temp", "temp"]
    with Image.open(here.temp_directory() / shown["images"][0]["filename"]) as image:
        assert image.size == (6, 4)
        assert image.info["workflow"] == '{"v": 1}'
        assert image.getpixel((0, 0)) == (127, 127, 127)
    assert ui.PreviewText("hello").as_dict() == {"text": ("hello",)}


IMPORTS = [
    "likeness",
    "likeness.host",
    "likeness.host.comfyui",
    "likeness.host.contract",
    "likeness.host.dynamic",
    "likeness.host.folders",
    "likeness.host.inputs",
    "likeness.host.results",
    "likeness.host.schema",
    "likeness.host.standalone",
]


def test_importing_is_cheap():
    """No torch, no numpy, no ComfyUI, nothing of ours but the host itself."""
    code = (
        f"import sys\nfor name in {IMPORTS!r}: __import__(name)\n"
        "heavy = {'torch', 'numpy', 'PIL', 'tqdm', 'comfy', 'folder_paths', 'comfy_api'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "ours = {n.split('.')[1] for n in sys.modules if n.startswith('likeness.')}\n"
        "assert ours == {'host', 'version'}, ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
