"""Puts what steers the base into its folder: ControlNet and IP-Adapter, fp16, with their names."""

from __future__ import annotations

import shutil
from pathlib import Path

from ship import forget_origin

CONTROL_TITLE = "Likeness tiny ControlNet (edges)"
REFERENCE_TITLE = "Likeness tiny IP-Adapter"
COMMON = {
    "format": "pt",
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.license": "Apache-2.0",
    "modelspec.resolution": "64x64",
    "modelspec.usage_hint": "for the tiny base model that comes with Likeness",
}


def ship_guides(work: Path) -> None:
    """Writes `controlnet` and `ip_adapter` into `<work>/shipped`, those that are finished."""
    shipped = work / "shipped"
    if (work / "controlnet").exists():
        ship_controlnet(work / "controlnet", fresh(shipped / "controlnet"))
    if (work / "ip_adapter.safetensors").exists():
        folder = fresh(shipped / "ip_adapter")
        ship_adapter(work / "ip_adapter.safetensors", folder / "ip_adapter.safetensors")
    for path in shipped.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def ship_controlnet(finished: Path, folder: Path) -> None:
    import torch
    from diffusers import ControlNetModel
    from safetensors.torch import save_file

    controlnet = ControlNetModel.from_pretrained(finished, dtype=torch.float16)
    controlnet.save_config(folder)
    forget_origin(folder / "config.json")
    told = {
        "modelspec.architecture": "stable-diffusion-v1/controlnet",
        "modelspec.title": CONTROL_TITLE,
        "modelspec.description": "Follows the edges of a picture: Canny at 64x64, 100 and 200.",
    }
    tensors = {name: tensor.contiguous() for name, tensor in controlnet.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", COMMON | told)


def ship_adapter(finished: Path, path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.half() for name, tensor in load_file(finished).items()}
    told = {
        "modelspec.architecture": "stable-diffusion-v1/ip-adapter",
        "modelspec.title": REFERENCE_TITLE,
        "modelspec.description": "Takes after a picture seen through the tiny image encoder.",
    }
    save_file(tensors, path, COMMON | told)
