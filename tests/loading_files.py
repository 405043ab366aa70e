"""What the loading tests share: single files of the tiny models, a ComfyUI with tokenizers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .tiny_models import TINY, VARIANTS, family_of, original_checkpoint

TINY_NAMES = tuple(TINY)
NAMES = (*TINY, *VARIANTS)


@pytest.fixture(scope="session")
def checkpoints(tiny_models, tmp_path_factory) -> Callable[..., Path]:
    """A function from a tiny model's name (and a dtype) to a single file with all its weights."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("checkpoints")

    def file(name: str, dtype: str = "float32") -> Path:
        path = folder / f"{name}-{dtype}.safetensors"
        if not path.exists():
            tensors = original_checkpoint(tiny_models(name), name)
            save_file({k: cast(v, getattr(torch, dtype)) for k, v in tensors.items()}, path)
        return path

    return file


@pytest.fixture(scope="session")
def comfyui(tiny_models, tmp_path_factory) -> Callable[[str], Path]:
    """A function from a tiny model's name to a ComfyUI folder with just its tokenizers in it."""
    from likeness.families import family_named

    def folder(name: str) -> Path:
        place = tmp_path_factory.mktemp("comfyui")
        sources = family_named(family_of(name)).tokenizers(variant_of(tiny_models(name), name))
        for attribute, source in sources.items():
            own = tiny_models(name) / attribute
            if own.is_dir():
                shutil.copytree(own, place / source.comfyui, dirs_exist_ok=True)
        return place

    return folder


def parts_of(folder: Path, family: str, target: Path) -> tuple[Path, dict[str, Path]]:
    """The weights of a diffusers folder as files of their own, without their configurations."""
    from likeness.families import family_named

    files = {}
    for file in folder.glob("*/*.safetensors"):
        files[file.parent.name] = shutil.copy(file, target / f"my {file.parent.name}.safetensors")
    return files.pop(family_named(family).denoiser.attribute), files


def variant_of(folder: Path, name: str) -> str:
    from likeness.families import family_named
    from likeness.pipelines.tensor_file import open_tensors

    family = family_named(family_of(name))
    denoiser = folder / family.denoiser.attribute / "diffusion_pytorch_model.safetensors"
    layout = family.identify(open_tensors(denoiser))
    assert layout is not None, f"{name} is not recognised"
    return layout.variant


def cast(tensor: Any, dtype: Any) -> Any:
    return tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor.contiguous()


def weights(pipeline: Any) -> dict[str, Any]:
    """Every parameter and buffer of a pipeline, by `component.path`."""
    found: dict[str, Any] = {}
    for component, module in pipeline.components.items():
        if hasattr(module, "named_parameters"):
            named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
            found |= {f"{component}.{path}": tensor for path, tensor in named}
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names that are on one side only, or whose tensors differ in type or in any bit."""
    import torch

    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours
        or name not in theirs
        or ours[name].dtype != theirs[name].dtype
        or not torch.equal(ours[name], theirs[name])
    )
