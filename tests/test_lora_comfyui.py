"""ComfyUI core as the judge: what its loader makes of a file is what we make of it, and it knows
every name that we write.
"""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import torch
from likeness.families import family_named
from likeness.pipelines.lora.dora import OUTPUT, Dora
from likeness.pipelines.lora.keys import components_of
from likeness.pipelines.lora.layouts import Inexpressible, layer_name, name_tensors
from likeness.pipelines.lora.parts import change_from
from likeness.pipelines.lora.source import split_key
from safetensors import safe_open
from safetensors.torch import save_file

from .comfyui_process import ROOT, comfyui_path, comfyui_python
from .lora_cases import CASES, tensors_of
from .lora_models import off

UNET = family_named("stable-diffusion").denoiser
TOLERANCE = 1e-6
"""Per tensor, in float32: the largest difference of ΔW as a share of W's largest number."""


STRENGTHS = (1.0, 0.6)


def change_of(case):
    weight, parts = tensors_of(case)
    roles = {split_key(f"x.{name}")[1]: tensor for name, tensor in parts.items()}
    return weight, parts, change_from(roles).shaped(case.shape)


def layer_of(case, prefix="given"):
    return f"{prefix}_{case.name}".replace(" ", "_")


def paper_dora():
    """A DoRA as PEFT trains it, from the numbers of one of the cases."""
    case = next(case for case in CASES if case.name == "dora output")
    weight, parts, change = change_of(case)
    return weight, parts, Dora(change.inner, parts["dora_scale"], OUTPUT)


@pytest.fixture(scope="session")
def core(tmp_path_factory):
    """One run of ComfyUI's Python: every case as given and as we write it, and what core says."""
    path = comfyui_path()
    if path is None:
        pytest.skip("no ComfyUI here: set COMFYUI_PATH to a checkout")
    folder = tmp_path_factory.mktemp("core")
    tensors = {}
    for number, case in enumerate(CASES):
        weight, parts, change = change_of(case)
        given, ours = layer_of(case), layer_name(UNET, f"down_blocks.{number}", "kohya")
        tensors |= {f"{given}.{name}": tensor for name, tensor in parts.items()}
        tensors |= name_tensors(UNET, f"down_blocks.{number}", change, "kohya")
        tensors |= {f"{layer}.W0": weight.clone() for layer in (given, ours)}
    weight, parts, paper = paper_dora()
    tensors |= {f"naive.{name}": tensor.clone() for name, tensor in parts.items()}
    tensors |= name_tensors(UNET, "mid_block", paper, "kohya", weight)
    tensors |= {"naive.W0": weight.clone(), "lora_unet_mid_block.W0": weight.clone()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "in.safetensors", metadata={"strengths": json.dumps(STRENGTHS)})
    command = [comfyui_python(path), ROOT / "tests" / "comfyui_lora.py"]
    command += [folder / "in.safetensors", folder / "out.safetensors"]
    asked = subprocess.run(command, cwd=path, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr[-2000:]
    return safe_open(folder / "out.safetensors", "pt")


def said(core, what):
    return json.loads(core.metadata()[what])


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("written", [False, True], ids=["given", "as we write it"])
def test_core_patches_weights_as_we_do(core, written, strength):
    worst = {}
    for number, case in enumerate(CASES):
        if not written and not case.comfyui:
            continue
        weight, _, change = change_of(case)
        # Core replaces a weight at any strength, and applies the strength of an OFT twice.
        share = 1 if "set" in case.name else strength ** (2 if "oft" in case.name else 1)
        layer = layer_name(UNET, f"down_blocks.{number}", "kohya") if written else layer_of(case)
        theirs = core.get_tensor(f"{layer}@{strength}")
        worst[case.name] = off(weight + share * change.delta(weight), theirs)
    assert max(worst.values()) <= TOLERANCE, worst


def full_size(family):
    """The denoiser and the CLIP encoders at full size, without memory: component → module."""
    from diffusers import (
        FluxTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        ZImageTransformer2DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    clip_l = CLIPTextConfig(num_hidden_layers=12)
    clip_g = CLIPTextConfig(num_hidden_layers=32, hidden_size=1280, num_attention_heads=20)
    xl = {
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
        "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
    }
    with torch.device("meta"):
        if family == "stable-diffusion":
            return {
                "unet": UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
                "text_encoder": CLIPTextModel(clip_l),
            }
        if family == "sdxl":
            return {
                "unet": UNet2DConditionModel(**xl),
                "text_encoder": CLIPTextModel(clip_l),
                "text_encoder_2": CLIPTextModelWithProjection(clip_g),
            }
        if family == "sd3":
            return {
                "transformer": SD3Transformer2DModel(num_layers=24),
                "text_encoder": CLIPTextModelWithProjection(clip_l),
                "text_encoder_2": CLIPTextModelWithProjection(clip_g),
            }
        if family == "flux":
            return {
                "transformer": FluxTransformer2DModel(guidance_embeds=True),
                "text_encoder": CLIPTextModel(clip_l),
            }
        return {"transformer": ZImageTransformer2DModel()}


def test_core_loads_every_weight_and_computes_every_layer_that_we_write(core):
    known = [layer_of(case) for case in CASES if not case.comfyui]
    messages = [
        text
        for text in said(core, "messages")
        if ("not loaded" in text or "ERROR" in text) and not any(layer in text for layer in known)
    ]
    assert not messages


def targets_of(component, module):
    paths = [path for path, _ in module.named_modules()]
    return [p for p in paths if any(re.fullmatch(t, p) for _, t in component.targets)]


@pytest.mark.parametrize("family", ["stable-diffusion", "sdxl", "sd3", "flux", "z-image"])
def test_core_knows_every_name_that_we_write(core, family):
    known = set(said(core, "names")[family])
    modules = full_size(family)
    written = {
        layer_name(component, path, "kohya")
        for component in components_of(family_named(family))
        if component.attribute in modules
        for path in targets_of(component, modules[component.attribute])
    }
    assert len(written) > 200
    assert not written - known


@pytest.mark.parametrize("family", ["sd3", "flux", "z-image"])
def test_core_reads_the_diffusers_layout_of_transformers_too(core, family):
    component = family_named(family).denoiser
    paths = targets_of(component, full_size(family)["transformer"])
    known = set(said(core, "names")[family])
    assert not {layer_name(component, path, "diffusers") for path in paths} - known


def test_core_computes_doras_of_peft_otherwise_so_their_difference_is_written(core):
    """The reason for asking for the base: as `dora_scale`, core makes another weight of it."""
    weight, _, paper = paper_dora()
    ours = weight + paper.delta(weight)
    assert off(ours, core.get_tensor("naive@1.0")) > 0.01
    with pytest.raises(Inexpressible, match="connect the pipeline"):
        name_tensors(UNET, "mid_block", paper, "kohya")
    assert off(ours, core.get_tensor("lora_unet_mid_block@1.0")) <= TOLERANCE


def test_what_cores_own_trainer_writes_has_names_that_we_know(core):
    """TrainLoraNode writes a layer's path and the name of the adapter's parameter."""
    names = said(core, "trainer")
    assert set(names) >= {"LoRA", "LoHa", "LoKr", "OFT"}
    for parameters in names.values():
        assert parameters
        assert all(split_key(f"diffusion_model.input_blocks.1.1.{name}") for name in parameters)
