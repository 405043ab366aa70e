"""Samplers for flow-matching models (SD 3, FLUX, ...): one row of noise levels, several solvers.

A model's own `FlowMatchEulerDiscreteScheduler` knows its noise levels, shifts included. The solvers
that diffusers has for other models walk along the same levels here: each is a small subclass that
takes them over and answers what the pipelines of flow-matching models ask of their scheduler.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .schedulers import _Solver

_HIGHEST = 1 - 1e-6
"""At a noise level of 1 there is no signal, and its logarithm is infinite: solvers start here."""

_LOWEST = {"DEISMultistepScheduler": 1e-3, "SASolverScheduler": 1e-3}
"""These solvers divide by the last level, so they end just above 0, with noise too weak to see."""


def flow_scheduler(config: Any, solver: _Solver, noise_schedule: str, shift: float) -> Any:
    """See `schedulers.scheduler_for`.

    Raises:
        ValueError: no flow-matching model has this noise schedule.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    options: dict[str, Any] = {}
    if noise_schedule != "model":
        if noise_schedule == "ddim_uniform":
            raise ValueError(
                "noise schedule 'ddim_uniform' cannot be used with a flow-matching model; use one "
                "of model, normal, simple, sgm_uniform, karras, exponential, beta"
            )
        from .schedulers import noise_levels

        options |= {k: v for k, v in noise_levels(noise_schedule).items() if k.startswith("use_")}
    if shift:
        options |= {"shift": shift, "use_dynamic_shifting": False}
    levels = FlowMatchEulerDiscreteScheduler.from_config(config, **options)
    if solver.class_name == "FlowMatchEulerDiscreteScheduler":
        kind, more = _euler(), {}
    elif solver.class_name == "FlowMatchLCMScheduler":
        kind, more = _lcm(), {}
    elif solver.class_name == "FlowMatchHeunDiscreteScheduler":
        kind, more = _heun(), {}
    else:
        kind = _multistep(solver.class_name)
        # The levels are handed over, so the solver must not make its own.
        more = dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas"), False)
        more |= {"use_beta_sigmas": False, "use_flow_sigmas": False, "use_dynamic_shifting": False}
        more |= {"prediction_type": "flow_prediction"}
    scheduler = kind.from_config(config, **{**options, **solver.options, **more})
    scheduler.levels = levels
    scheduler.noise_schedule = noise_schedule
    return scheduler


def _spaced(scheduler: Any, steps: int, sigmas: Any) -> Any:
    """The levels before any shift, [steps], falling from 1; `sigmas` is what the pipeline asks."""
    import numpy as np

    name = scheduler.noise_schedule
    lowest = 1 / scheduler.config.num_train_timesteps
    looks_back = scheduler.looks_back
    if name == "model" and (sigmas is not None or not looks_back):
        return sigmas
    if name in ("model", "simple"):
        return np.linspace(1, 1 / steps, steps)
    # The lowest level is many times lower than the one before it: a solver that looks back would
    # overshoot there, so it leaves that level out, as diffusers' own flow levels for solvers do.
    if name == "sgm_uniform" or (name == "normal" and looks_back):
        return np.linspace(1, lowest, steps + 1)[:-1]
    return np.linspace(1, lowest, steps)


@functools.cache
def _euler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return _with_spacing(FlowMatchEulerDiscreteScheduler)


@functools.cache
def _lcm() -> Any:
    from diffusers import FlowMatchLCMScheduler

    return _with_spacing(FlowMatchLCMScheduler)


def _with_spacing(kind: Any) -> Any:
    class Spaced(kind):
        looks_back = False

        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
        ) -> None:
            steps = num_inference_steps or len(sigmas)
            super().set_timesteps(steps, device=device, sigmas=_spaced(self, steps, sigmas), mu=mu)

    return Spaced


@functools.cache
def _heun() -> Any:
    import torch
    from diffusers import FlowMatchHeunDiscreteScheduler

    class Heun(FlowMatchHeunDiscreteScheduler):
        looks_back = False

        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
        ) -> None:
            steps = num_inference_steps or len(sigmas)
            super().set_timesteps(steps, device=device)
            times, levels = _levels(self, steps, device, sigmas, mu)
            self.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
            self.sigmas = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])

        scale_noise = _scale_noise

    return Heun


@functools.cache
def _multistep(class_name: str) -> Any:
    import diffusers

    class Multistep(getattr(diffusers, class_name)):
        looks_back = True

        def set_timesteps(
            self,
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
        ) -> None:
            steps = num_inference_steps or len(sigmas)
            super().set_timesteps(steps, device=device)
            self.timesteps, levels = _levels(self, steps, device, sigmas, mu)
            self.sigmas = levels.clamp(min=_LOWEST.get(class_name, 0), max=_HIGHEST).cpu()

        def _sigma_to_alpha_sigma_t(self, sigma: Any) -> tuple[Any, Any]:
            return 1 - sigma, sigma

        scale_noise = _scale_noise

    return Multistep


def _levels(
    scheduler: Any, steps: int, device: Any, sigmas: Any, mu: float | None
) -> tuple[Any, Any]:
    """Timesteps [steps] and noise levels [steps + 1], the last one 0."""
    levels = scheduler.levels
    levels.set_timesteps(steps, device=device, sigmas=_spaced(scheduler, steps, sigmas), mu=mu)
    return levels.timesteps, levels.sigmas


def _scale_noise(self: Any, sample: Any, timestep: Any, noise: Any) -> Any:
    """The noisy latents at the step that comes next, as `FlowMatchEulerDiscreteScheduler` does."""
    index = self.step_index if self.step_index is not None else self.begin_index
    if index is None:
        index = self.index_for_timestep(timestep.flatten()[0])
    sigma = self.sigmas[index].to(sample.device, sample.dtype)
    return sigma * noise + (1 - sigma) * sample
