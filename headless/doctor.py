"""What this installation consists of and what it lacks, for `likeness doctor` and bug reports."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib import metadata
from typing import Any

from ..host import host

REQUIRED = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy")
OPTIONAL = {
    "controlnet_aux": "pose, depth and other preprocessors",
    "bitsandbytes": "8-bit optimizers",
    "prodigyopt": "the Prodigy optimizer",
    "matplotlib": "plots of the loss",
    "xformers": "attention that saves memory on older GPUs",
}
"""Package and what it is good for here."""

KINDS = (
    *("checkpoints", "diffusers", "diffusion_models", "text_encoders", "vae"),
    *("loras", "embeddings", "hypernetworks"),
    *("controlnet", "ipadapter", "clip_vision"),
)


def examine() -> dict[str, Any]:
    """Versions, device, folders and what is in them. Loads torch to ask it for its device."""
    required = {name: _version(name) for name in REQUIRED}
    optional = {name: {"version": _version(name), "for": use} for name, use in OPTIONAL.items()}
    here = host()
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": required,
        "optional": optional,
        "missing": [name for name, version in required.items() if version is None],
        "device": _device() if required["torch"] else None,
        "host": here.name,
        "comfyui": str(comfyui) if (comfyui := here.comfyui_folder()) else None,
        "input": str(here.input_directory()),
        "output": str(here.output_directory()),
        "models": {
            kind: {
                "folders": [str(folder) for folder in here.model_folders(kind)],
                "names": here.model_names(kind),
            }
            for kind in KINDS
        },
    }


def as_lines(found: dict[str, Any]) -> list[str]:
    """The same for people to read."""
    lines = [f"Python    {found['python']}", f"System    {found['system']}"]
    lines += [f"{name:<15} {version or 'MISSING'}" for name, version in found["packages"].items()]
    for name, extra in found["optional"].items():
        lines.append(f"{name:<15} {extra['version'] or 'not installed'} (for {extra['for']})")
    lines.append(f"Device    {found['device'] or 'unknown: torch is missing'}")
    without = "none found; tokenizers of single-file models must then be in the hub cache"
    lines.append(f"ComfyUI   {found['comfyui'] or without}")
    lines += [f"Input     {found['input']}", f"Output    {found['output']}", "Models"]
    for kind, models in found["models"].items():
        lines.append(f"  {kind}: {', '.join(models['names']) or 'none'}")
        lines += [f"    in {folder}" for folder in models["folders"]]
    if found["missing"]:
        lines.append(f"Install what is missing: pip install {' '.join(found['missing'])}")
    return lines


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _device() -> str:
    device = host().device()
    if not device.startswith("cuda"):
        return device
    import torch

    properties = torch.cuda.get_device_properties(device)
    return f"{device}: {properties.name}, {properties.total_memory / 2**30:.1f} GiB"
