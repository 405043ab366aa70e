"""Which numbers the forward pass computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def resolve_precision(precision: str, device: str) -> torch.dtype:
    """The dtype behind `TrainingSettings.precision`; `"auto"` takes bfloat16 where the device is
    fast at it.

    Raises:
        ValueError: the device cannot train in it.
    """
    import torch

    kind = device.partition(":")[0]
    if precision == "auto":
        return torch.bfloat16 if _fast_bfloat16(kind) else torch.float32
    if precision == "float16" and kind != "cuda":
        raise ValueError(
            f"precision is 'float16' but the device is {device!r}, which cannot train in it; "
            "choose 'auto', 'bfloat16' or 'float32'"
        )
    return getattr(torch, precision)


def autocast(dtype: torch.dtype, device: str) -> Any:
    """The context in which the loss is computed."""
    import torch

    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=dtype)


@contextmanager
def training_mode(device: str) -> Iterator[None]:
    """Gradients on, also under a host that runs us in `inference_mode`; on the CPU with attention
    as plain matrix products, summed in float32.

    ComfyUI switches that to the products' own precision for the whole process: the same training
    in bfloat16 would end with other bits there.

    On some CPUs the backward pass of the fused attention takes more than half of a step; where it
    does not, plain matrix products cost about a tenth.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attention = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()
    reduced = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # the CPU's switch as well
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), attention:
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)


def _fast_bfloat16(kind: str) -> bool:
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
