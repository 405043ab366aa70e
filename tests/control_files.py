"""ControlNets in the names that other programs write them in, made from diffusers folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

State = dict[str, Any]
_HINT = "controlnet_cond_embedding."


def state_of(folder: Path) -> State:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def original(state: State) -> State:
    """lllyasviel's names, through the table for UNets and what ControlNets have besides."""
    from likeness.families.unet_names import original_unet_names

    layers = len({n.split(".")[3] for n in state if n.startswith("down_blocks.0.resnets.")})
    paths = {name.rpartition(".")[0] for name in state}
    names = {rows[0].module: n for n, rows in original_unet_names(paths, layers).items()}
    last = 2 * sum(name.startswith(_HINT) and name.endswith(".bias") for name in state) - 2
    renamed = {}
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        if path.startswith("controlnet_down_blocks."):
            path = f"zero_convs.{path.rpartition('.')[2]}.0"
        elif path == "controlnet_mid_block":
            path = "middle_block_out.0"
        elif path.startswith(_HINT):
            place = path.removeprefix(_HINT)
            index = {"conv_in": 0, "conv_out": last}.get(place)
            number = 2 * (int(place.rpartition(".")[2]) + 1) if index is None else index
            path = f"input_hint_block.{number}"
        renamed[f"{names.get(path, path)}.{leaf}".lstrip(".")] = tensor
    return renamed


def prefixed(state: State) -> State:
    """A whole checkpoint of the original code: with the model that it was trained on."""
    import torch

    others = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.decoder.conv_in.weight",
    )
    inside = {f"control_model.{name}": tensor for name, tensor in original(state).items()}
    return inside | {name: torch.zeros(4, 4, 3, 3) for name in others}


def stability(state: State, control_type: int = 2) -> State:
    """Stability's names for SD 3.5 Large. `control_type`: 1 for edges, 2 for depth."""
    import torch

    parts = {"to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2"}
    renamed: State = {"control_type": torch.tensor([float(control_type)])}
    for name, tensor in state.items():
        block = re.match(r"(transformer_blocks\.\d+\.)(.*)\.(weight|bias)", name)
        if block is None:
            renamed[name] = tensor
            continue
        start, inner, leaf = block.groups()
        if inner == "attn.to_q":
            each = [state[f"{start}attn.to_{part}.{leaf}"] for part in "qkv"]
            renamed[f"{start}attn.qkv.{leaf}"] = torch.cat(each)
        elif inner not in ("attn.to_k", "attn.to_v"):
            inner = parts.get(inner.removeprefix("attn."), inner)
            inner = "adaLN_modulation.1" if inner == "norm1.linear" else inner
            renamed[f"{start}{inner}.{leaf}"] = tensor
    return renamed


def xlabs(state: State) -> State:
    """XLabs' names for FLUX.1."""
    from likeness.families.flux_names import PARAMETERS, flux_names
    from likeness.families.layer_names import to_original

    heads, head = 2, state["transformer_blocks.0.attn.norm_q.weight"].shape[0]
    config = {"num_attention_heads": heads, "attention_head_dim": head, "guidance_embeds": True}
    names = to_original(
        state, flux_names({**config, "num_layers": 1, "num_single_layers": 0}), PARAMETERS
    )
    places = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    renamed = {}
    for name, tensor in names.items():
        for index, place in enumerate(places):
            name = name.replace(f"input_hint_block.{place}.", f"input_hint_block.{2 * index}.")
        renamed[name.replace("controlnet_x_embedder", "pos_embed_input")] = tensor
    return renamed


def tencent(state: State) -> State:
    """TencentARC's names for full and light T2I-Adapters."""
    light = "adapter.conv_in.weight" not in state
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("adapter.")
        inner = re.fullmatch(r"body\.(\d)\.resnets\.(\d)\.(.*)", name)
        if inner and light:
            name = f"body.{inner[1]}.body.{inner[2]}.{inner[3]}"
        elif inner:
            name = f"body.{2 * int(inner[1]) + int(inner[2])}.{inner[3]}"
        elif not light:
            name = re.sub(r"body\.(\d)\.in_conv", lambda m: f"body.{2 * int(m[1])}.in_conv", name)
        renamed[name] = tensor
    return renamed


LAYOUTS: dict[str, tuple[str, Callable[[State], State]]] = {
    "original": ("sd", original),
    "original of three blocks": ("deep", original),
    "original of 2.x": ("sd2", original),
    "original of SDXL": ("sdxl", original),
    "original beside its base model": ("sd", prefixed),
    "original union": ("sdxl union", original),
    "Stability": ("sd3 large", stability),
    "XLabs": ("flux hints", xlabs),
    "TencentARC": ("adapter", tencent),
    "TencentARC, grey": ("adapter grey", tencent),
    "TencentARC, light": ("adapter light", tencent),
    "TencentARC, XL": ("adapter xl", tencent),
}
"""Name → the tiny ControlNet that it is made from, and how."""
