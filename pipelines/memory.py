"""What is paid to make a model fit: `MemoryOptions` put on one live pipeline and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from .spec import MemoryOptions

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..families import Family

ATTENTIONS = (
    "auto",
    "native",
    "_native_math",
    "_native_efficient",
    "_native_flash",
    "_native_cudnn",
    "flex",
    "flash",
    "_flash_3",
    "sage",
    "xformers",
)
"""Attention backends that diffusers knows and that run what is installed; its `_hub` ones download
code.
"""

_PACKAGES = {
    "flash": "flash-attn",
    "_flash_3": "flash-attn 3 (built from source)",
    "sage": "sageattention",
    "xformers": "xformers",
}


def check(options: MemoryOptions, device: str) -> None:
    """Refuse what cannot work here before any weight is read.

    Raises:
        ValueError: an unknown attention backend, or no compiler for `compile`.
    """
    if options.attention not in ATTENTIONS:
        raise ValueError(
            f"attention {options.attention!r} is unknown; choose one of {', '.join(ATTENTIONS)}"
        )
    if options.compile and not _compiler(device):
        wanted = "the package triton" if device.startswith("cuda") else "a C++ compiler such as g++"
        raise ValueError(f"compile needs {wanted}, which is not here; install it or switch it off")


def prepare(pipeline: DiffusionPipeline, family: Family, options: MemoryOptions) -> None:
    """Put on everything that does not depend on where the modules are. `fp8` is `modules.py`'s: the
    weights are never there in full.

    Raises:
        ValueError: this model cannot do it, or a package is missing.
    """
    denoiser: Any = getattr(pipeline, family.denoiser.attribute)
    vae: Any = getattr(pipeline, "vae", None)
    if options.vae_tiling:
        _method(vae, "enable_tiling", "vae_tiling")()
    if options.vae_slicing:
        _method(vae, "enable_slicing", "vae_slicing")()
    if options.attention != "auto":
        _attend(denoiser, options.attention)
    if options.compile:
        # Blocks that repeat compile once; a model that does not name its blocks compiles whole.
        blocks = getattr(denoiser, "_repeated_blocks", None)
        denoiser.compile_repeated_blocks() if blocks else denoiser.compile()


def place(pipeline: DiffusionPipeline, options: MemoryOptions, device: str) -> None:
    """Bring the modules to `device`, or have them brought when they are needed.

    On the CPU weights are where an offload would put them: it changes nothing there.
    """
    import torch

    if device == "cpu":
        return
    if options.offload == "none":
        pipeline.to(device)
    elif options.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(
            onload_device=torch.device(device),
            offload_type="leaf_level",
            use_stream=device.startswith("cuda"),
        )


def _attend(denoiser: Any, name: str) -> None:
    """Let one denoiser's attention run through a backend; diffusers would switch all models."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    processors = [module.processor for module in denoiser.modules() if hasattr(module, "processor")]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"attention {name!r} cannot be used: diffusers has no choice of backends for "
            f"{type(denoiser).__name__}; use 'auto'"
        )
    before, _ = registry.get_active_backend()
    try:
        denoiser.set_attention_backend(name)
    except (RuntimeError, ImportError, ValueError) as error:
        package = _PACKAGES.get(name)
        way_out = f"install {package} or use 'auto'" if package else "use 'auto'"
        raise ValueError(f"attention {name!r} cannot be used here ({error}); {way_out}") from error
    finally:
        registry.set_active_backend(before)


def _method(module: Any, name: str, option: str) -> Any:
    method = getattr(module, name, None)
    if method is None:
        raise ValueError(f"{option}: this model's VAE cannot do it; switch it off")
    return method


def _compiler(device: str) -> bool:
    from importlib.util import find_spec

    if device.startswith("cuda"):
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "cl", "c++"))
