"""The nodes that load: what stands in their widgets becomes the description, and nothing else."""

# ruff: noqa: F811 - fixtures are imported and then arguments

from __future__ import annotations

import os
import shutil

import pytest
from likeness.host import use
from likeness.host.standalone import StandaloneHost
from likeness.nodes.from_checkpoint import FromCheckpoint
from likeness.nodes.load_from_hub import LoadFromHub
from likeness.nodes.load_parts import LoadParts
from likeness.nodes.load_pipeline import LoadPipeline
from likeness.nodes.model_options import options
from likeness.pipelines.base_models import base_model
from likeness.pipelines.spec import MemoryOptions, PipelineSpec

from .conftest import TINY
from .loading_files import checkpoints, parts_of  # noqa: F401 (a fixture)


@pytest.fixture
def models(tiny_models, checkpoints, tmp_path):
    """A models folder as ComfyUI users keep it, and the host that looks there."""
    folder = tmp_path / "models"
    for kind in ("checkpoints", "unet", "clip", "vae"):
        (folder / kind).mkdir(parents=True)
    shutil.copy(checkpoints("sdxl"), folder / "checkpoints" / "sdxl.safetensors")
    denoiser, parts = parts_of(tiny_models("flux"), "flux", tmp_path)
    shutil.move(denoiser, folder / "unet" / "flux.safetensors")
    for name, file in parts.items():
        shutil.move(file, folder / ("vae" if name == "vae" else "clip") / f"{name}.safetensors")
    before = use(StandaloneHost(folder, tmp_path / "output", tmp_path / "input"))
    yield folder
    use(before)


def test_a_checkpoint_with_every_choice(models):
    spec = FromCheckpoint.execute(
        file="sdxl.safetensors",
        dtype="bfloat16",
        family="sdxl",
        vae="vae.safetensors",
        text_encoder="none",
        text_encoder_2="text_encoder_2.safetensors",
        text_encoder_3="none",
        scheduler="euler",
        prediction="v_prediction",
        config="tiny",
        memory={"memory": "custom", "offload": "group", "fp8": True, "attention": "sage"},
    )[0]
    assert spec == PipelineSpec(
        base_model(
            models / "checkpoints" / "sdxl.safetensors",
            dtype="bfloat16",
            parts={
                "vae": models / "vae" / "vae.safetensors",
                "text_encoder_2": models / "clip" / "text_encoder_2.safetensors",
            },
            scheduler="euler",
            prediction="v_prediction",
            config=str(TINY),
            memory=MemoryOptions(offload="group", fp8=True, attention="sage"),
        )
    )
    assert PipelineSpec.from_dict(spec.to_dict()) == spec


def test_the_plain_choices_are_the_plain_description(models):
    plain = FromCheckpoint.execute(file="sdxl.safetensors")[0]
    assert plain.base == base_model(models / "checkpoints" / "sdxl.safetensors")
    same = {"memory": {"memory": "automatic"}, "vae": "none", "family": "auto", "config": "none"}
    assert FromCheckpoint.execute(file="sdxl.safetensors", **same)[0] == plain
    assert LoadPipeline.execute(model="tiny")[0].base == base_model(TINY)
    assert LoadPipeline.execute(model="tiny", dtype="float16")[0].base.dtype == "float16"


def test_parts_make_one_model(models):
    chosen = {"text_encoder": "text_encoder.safetensors", "vae": "vae.safetensors"}
    spec = LoadParts.execute(
        denoiser="flux.safetensors", text_encoder_2="text_encoder_2.safetensors", **chosen
    )[0]
    assert spec.base.family == "flux"
    assert [name for name, _ in spec.base.parts] == ["text_encoder", "text_encoder_2", "vae"]
    offered = LoadParts.GET_NODE_INFO_V1()["input"]
    assert offered["required"]["denoiser"][1]["options"] == ["flux.safetensors"]
    clips = ["text_encoder.safetensors", "text_encoder_2.safetensors"]
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        assert offered["optional"][name][1]["options"] == ["none", *clips]
    with pytest.raises(ValueError, match="There is no model in 'vae' named 'other"):
        LoadParts.execute(denoiser="flux.safetensors", vae="other.safetensors")


def test_fingerprints_follow_files_and_choices(models):
    def printed(**choices):
        return FromCheckpoint.fingerprint_inputs(file="sdxl.safetensors", **choices)

    first = printed()
    assert printed() == first
    assert printed(dtype="float16") != first
    with_vae = printed(vae="vae.safetensors")
    assert with_vae != first
    os.utime(models / "vae" / "vae.safetensors", (1, 1))
    assert printed() == first
    assert printed(vae="vae.safetensors") != with_vae


def test_the_hub_is_not_asked_for_a_fingerprint(models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert LoadFromHub.fingerprint_inputs(repository="some/body") == "not here yet"
    home = tmp_path / "hub" / "models--some--body"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    shutil.copytree(TINY, home / "snapshots" / "abc")
    assert LoadFromHub.fingerprint_inputs(repository="some/body") != "not here yet"
    spec = LoadFromHub.execute(repository="some/body", dtype="float32")[0]
    assert spec.base == base_model(home / "snapshots" / "abc", dtype="float32")


def test_old_workflows_still_run():
    """Everything that came later is optional, and comes after what was there first."""
    info = LoadPipeline.GET_NODE_INFO_V1()
    assert list(info["input"]["required"]) == ["model"]
    assert next(iter(info["input"]["optional"])) == "dtype"
    assert [each.id for each in options()][-1] == "memory"


def test_the_standalone_host_finds_comfyui(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    host = StandaloneHost(tmp_path / "ComfyUI" / "models")
    assert host.comfyui_folder() is None
    for place in (tmp_path / "home" / "comfy" / "ComfyUI", tmp_path / "ComfyUI", tmp_path / "told"):
        (place / "comfy").mkdir(parents=True)
        if place.name == "told":
            monkeypatch.setenv("COMFYUI_PATH", str(place))
        assert host.comfyui_folder() == place
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    assert host.comfyui_folder() is None
