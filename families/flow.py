"""What the flow-matching families (SD 3, FLUX, Z-Image) have in common: latents with a shift, a
Euler schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def encode_shifted(
    pipeline: DiffusionPipeline, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of `(latents - shift_factor) · scaling_factor`."""
    vae: Any = pipeline.vae
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    scale = vae.config.scaling_factor
    shift = vae.config.shift_factor or 0.0
    return (posterior.mean - shift) * scale, posterior.std * scale


def flow_scheduler(pipeline: DiffusionPipeline) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)


def names_of(pipeline: DiffusionPipeline, attribute: str) -> list[str]:
    """Module paths of a component that have a weight."""
    module: Any = getattr(pipeline, attribute)
    return [
        path for path, part in module.named_modules() if getattr(part, "weight", None) is not None
    ]
