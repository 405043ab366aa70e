"""ControlNet files: told apart by their tensors alone, and the same module from every layout."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.control.describe import control_facts, count_outputs, describe_control
from likeness.pipelines.control.load import loaded, plan
from likeness.pipelines.control.modes import FLUX_MODES, SDXL_MODES, WORDS, mode_named
from likeness.pipelines.loading import Pipelines
from safetensors.torch import save_file

from .control_files import LAYOUTS, original, prefixed, state_of
from .control_models import CONTROLS, control_bases, tiny_controls  # noqa: F401 - fixtures
from .control_plain import Plain

NAMES = pytest.mark.parametrize("name", CONTROLS)
MODES = {
    "sdxl union": SDXL_MODES[:6],
    "sdxl union other": SDXL_MODES,
    "flux union": (*FLUX_MODES, "mode 7", "mode 8", "mode 9"),
}
KEPT_APART = ("sample_size", "caption_projection_dim", "_")
"""Entries that have no effect on a ControlNet."""


@pytest.fixture(scope="module")
def plain(control_bases, tiny_controls):  # noqa: F811
    return Plain(control_bases, tiny_controls)


@pytest.fixture(scope="module")
def cache():
    return Pipelines("cpu")


@pytest.fixture
def load(cache, control_bases):  # noqa: F811
    """The module of a file, as it is loaded beside the base model of a tiny ControlNet."""

    def module(path, name, dtype="float32"):
        base = base_model(control_bases(CONTROLS[name][0]), dtype=dtype)
        with (
            cache.open(base) as live,
            loaded(cache, plan(cache, describe_control(path), live)) as found,
        ):
            return found

    return module


def single(folder, path):
    save_file(state_of(folder), path)
    return path


def equal(first, second):
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


def entries(module):
    """A configuration in one spelling."""
    config = {k: v for k, v in module.config.items() if not k.startswith(KEPT_APART)}
    config = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in config.items()}
    for key in ("transformer_layers_per_block", "attention_head_dim", "num_attention_heads"):
        if key in config and not isinstance(config[key], list) and "down_block_types" in config:
            config[key] = [config[key]] * len(config["down_block_types"])
    for block, kind in enumerate(config.get("down_block_types", [])[:-1]):
        if not kind.startswith("CrossAttn"):  # a number that nobody reads
            config["transformer_layers_per_block"][block] = 0
    return config


@NAMES
def test_a_folder_is_known_by_its_tensors(tiny_controls, control_bases, name):  # noqa: F811
    control = describe_control(tiny_controls(name))
    base = base_model(control_bases(CONTROLS[name][0]))
    assert control.family == base.family
    kind = "union" if "union" in name else "controlnet"
    assert control.kind == ("t2i-adapter" if name.startswith("adapter") else kind)
    assert control.modes == MODES.get(name, ())


@NAMES
def test_a_folder_is_what_diffusers_loads(load, tiny_controls, plain, name):  # noqa: F811
    ours, theirs = load(tiny_controls(name), name), plain.module(name)
    assert equal(ours, theirs)
    assert entries(ours) == entries(theirs)
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@NAMES
def test_a_file_without_configuration_is_the_same(load, tiny_controls, plain, tmp_path, name):  # noqa: F811
    ours = load(single(tiny_controls(name), tmp_path / "any.safetensors"), name)
    theirs = plain.module(name)
    assert equal(ours, theirs)
    alike, told = entries(ours), entries(theirs)
    if name == "sd pooling":  # nothing in its tensors tells
        assert (alike.pop("global_pool_conditions"), told.pop("global_pool_conditions")) == (0, 1)
    assert alike == told


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_every_layout_holds_the_same_module(load, tiny_controls, plain, tmp_path, layout, suffix):  # noqa: F811
    name, write = LAYOUTS[layout]
    state = {key: value.contiguous() for key, value in write(state_of(tiny_controls(name))).items()}
    path = tmp_path / f"any{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    assert equal(load(path, name), plain.module(name))


def test_the_original_names_are_those_that_diffusers_converts(tiny_controls):  # noqa: F811
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    state = state_of(tiny_controls("deep"))
    for written in (original(state), prefixed(state)):
        converted = convert_controlnet_checkpoint(written, {"layers_per_block": 1})
        assert converted.keys() == state.keys()
        assert all(torch.equal(converted[name], state[name]) for name in state)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_has_the_base_models_precision(load, tiny_controls, dtype):  # noqa: F811
    module = load(tiny_controls("sd"), "sd", dtype)
    assert {p.dtype for p in module.parameters()} == {getattr(torch, dtype)}


def test_two_copies_are_one_and_loaded_once(tiny_controls, tmp_path):  # noqa: F811
    first = describe_control(single(tiny_controls("sd"), tmp_path / "a.safetensors"))
    second = describe_control(single(tiny_controls("sd"), tmp_path / "b.safetensors"))
    assert first.identity == second.identity
    assert (first.name, second.name) == ("a", "b")


def test_weights_chosen_inside_a_folder_are_the_folder(tiny_controls):  # noqa: F811
    folder = tiny_controls("sd pooling")
    inside = describe_control(folder / "diffusion_pytorch_model.safetensors")
    whole = describe_control(folder)
    assert (inside.identity, inside.name) == (whole.identity, whole.name)


def test_the_facts(tiny_controls):  # noqa: F811
    union = describe_control(tiny_controls("sdxl union"))
    assert control_facts(union).splitlines() == [
        "ControlNet-Union for SDXL",
        "outputs: 5",
        "modes: openpose, depth, hed/scribble, canny/lineart, normal, segment",
    ]
    counts = {"sd": 5, "deep": 7, "sd3": 1, "flux": 2, "adapter": 2, "adapter light": 3}
    for name, count in counts.items():
        assert count_outputs(describe_control(tiny_controls(name))) == count


def test_modes_by_a_word(tiny_controls):  # noqa: F811
    controls = [
        describe_control(tiny_controls(name)) for name in ("sdxl union other", "flux union")
    ]
    words = {
        mode_named(control, word) for control in controls for word in WORDS if fits(control, word)
    }
    assert words == {*SDXL_MODES, *FLUX_MODES}
    assert mode_named(controls[0], "lineart") == "canny/lineart"
    assert mode_named(controls[1], "openpose") == "pose"
    assert mode_named(describe_control(tiny_controls("sd")), "canny") == ""
    for word in ("auto", "normal"):
        with pytest.raises(ValueError, match="set mode to one of canny, tile, depth"):
            mode_named(controls[1], word)


def fits(control, word):
    try:
        return bool(mode_named(control, word))
    except ValueError:
        return False
