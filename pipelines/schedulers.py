"""Samplers and noise schedules by the names that ComfyUI users know, for the model at hand.

A sampler is a diffusers scheduler, a noise schedule the choice of the noise levels that it visits.
What a model predicts and how it was noised comes from the scheduler saved with it and is carried
over. Which samplers fit depends on the kind of noise a model was trained with: see `KINDS`.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

KINDS = {
    "diffusion": "a diffusion model",
    "flow": "a flow-matching model",
    "edm": "a model with EDM noise (arXiv 2206.00364)",
}


class _Solver(NamedTuple):
    """A diffusers class and what it is told."""

    class_name: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


_DPM = "DPMSolverMultistepScheduler"
_DPM_2M = _Solver(_DPM, {"algorithm_type": "dpmsolver++", "solver_order": 2})
_DPM_2M_SDE = _Solver(_DPM, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2})
_DPM_3M_SDE = _Solver(_DPM, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3})
_DPM_SDE = _Solver(
    "DPMSolverSinglestepScheduler",
    {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    | {"lower_order_final": True},
)
# Of UniPC's two variants, bh1 divides by zero in diffusers where the last noise level is 0.
_UNI_PC = _Solver("UniPCMultistepScheduler", {"solver_type": "bh2"})
_DEIS = _Solver("DEISMultistepScheduler", {"algorithm_type": "deis", "solver_type": "logrho"})
_SA = _Solver("SASolverScheduler", {"algorithm_type": "data_prediction"})

SCHEDULERS: dict[str, dict[str, _Solver]] = {
    "model": {},
    "ddim": {"diffusion": _Solver("DDIMScheduler")},
    "euler": {
        "diffusion": _Solver("EulerDiscreteScheduler"),
        "flow": _Solver("FlowMatchEulerDiscreteScheduler"),
        "edm": _Solver("EDMEulerScheduler"),
    },
    "euler_ancestral": {"diffusion": _Solver("EulerAncestralDiscreteScheduler")},
    "heun": {
        "diffusion": _Solver("HeunDiscreteScheduler"),
        "flow": _Solver("FlowMatchHeunDiscreteScheduler"),
    },
    "dpm_2": {"diffusion": _Solver("KDPM2DiscreteScheduler")},
    "dpm_2_ancestral": {"diffusion": _Solver("KDPM2AncestralDiscreteScheduler")},
    "lms": {"diffusion": _Solver("LMSDiscreteScheduler")},
    "dpmpp_2m": {
        "diffusion": _DPM_2M,
        "flow": _DPM_2M,
        "edm": _Solver("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    },
    "dpmpp_2m_karras": {"diffusion": _DPM_2M, "flow": _DPM_2M},
    "dpmpp_2m_sde": {
        "diffusion": _DPM_2M_SDE,
        "flow": _DPM_2M_SDE,
        "edm": _Solver("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    },
    "dpmpp_3m_sde": {"diffusion": _DPM_3M_SDE, "flow": _DPM_3M_SDE},
    "dpmpp_sde": {"diffusion": _DPM_SDE, "flow": _DPM_SDE},
    "ddpm": {"diffusion": _Solver("DDPMScheduler")},
    "uni_pc": {"diffusion": _UNI_PC, "flow": _UNI_PC},
    "uni_pc_bh2": {"diffusion": _UNI_PC, "flow": _UNI_PC},
    "deis": {"diffusion": _DEIS, "flow": _DEIS},
    "sa_solver": {"diffusion": _SA, "flow": _SA},
    "pndm": {"diffusion": _Solver("PNDMScheduler", {"skip_prk_steps": True})},
    "lcm": {"diffusion": _Solver("LCMScheduler"), "flow": _Solver("FlowMatchLCMScheduler")},
}
"""Sampler → kind of model → what samples it. `model` is the one saved with the model;
`dpmpp_2m_karras` is `dpmpp_2m` with the noise schedule `karras`, unless another is asked for.
"""

_FLAGS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
}
_SPACINGS = {
    "normal": "linspace",
    "simple": "trailing",
    "sgm_uniform": "trailing",
    "ddim_uniform": "leading",
}

NOISE_SCHEDULES = ("model", "normal", "simple", "sgm_uniform", "ddim_uniform", *_FLAGS)
"""`model`: as the model's own scheduler is configured. The three last follow arXiv 2206.00364
(karras), a geometric row, and arXiv 2407.12173 (beta; diffusers spreads it over sigma, where
ComfyUI and the paper spread it over time, so diffusion models make coarser last steps with it).
"""


def scheduler_for(
    own: Any, sampler: str = "model", noise_schedule: str = "model", shift: float = 0.0
) -> Any:
    """A fresh scheduler for a model whose own is `own`, which stays as it is.

    `shift`: how far a flow-matching model's noise levels are moved towards noise; 0 is the model's
    own.

    Raises:
        ValueError: a sampler or noise schedule that this model cannot use; names those it can.
    """
    if sampler not in SCHEDULERS:
        raise ValueError(
            f"scheduler {sampler!r} cannot be used; use one of {', '.join(SCHEDULERS)}"
        )
    if sampler == "dpmpp_2m_karras" and noise_schedule == "model":
        noise_schedule = "karras"
    kind = _kind(own)
    if shift and kind != "flow":
        raise ValueError(
            f"shift {shift:g} cannot be used: this is {KINDS[kind]} and shift is for flow-matching "
            "models; use 0"
        )
    if sampler == "model" and noise_schedule == "model" and not shift:
        return type(own).from_config(own.config)
    solver = _solver(own, kind, sampler)
    try:
        if kind == "flow":
            from .flow_schedulers import flow_scheduler

            return flow_scheduler(own.config, solver, noise_schedule, shift)
        return _diffusion_scheduler(own.config, solver, sampler, noise_schedule)
    except ImportError as error:
        raise ValueError(
            f"scheduler {sampler!r} with the noise schedule {noise_schedule!r} needs scipy: "
            "install it or choose others"
        ) from error


def takes_eta(scheduler: Any) -> bool:
    """Whether this sampler has DDIM's share of fresh noise (arXiv 2010.02502, equation 16)."""
    return type(scheduler).__name__ == "DDIMScheduler"


def _kind(scheduler: Any) -> str:
    config, name = scheduler.config, type(scheduler).__name__
    if name.startswith("EDM"):
        return "edm"
    flow = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    return "flow" if flow or "FlowMatch" in name else "diffusion"


def _solver(own: Any, kind: str, sampler: str) -> _Solver:
    if sampler == "model":
        return _Solver(type(own).__name__)
    if kind not in SCHEDULERS[sampler]:
        fitting = ", ".join(["model", *(name for name in SCHEDULERS if kind in SCHEDULERS[name])])
        raise ValueError(
            f"scheduler {sampler!r} cannot be used with this model, which is {KINDS[kind]}; "
            f"use one of {fitting}"
        )
    return SCHEDULERS[sampler][kind]


def _diffusion_scheduler(config: Any, solver: _Solver, sampler: str, noise_schedule: str) -> Any:
    import diffusers

    kind = getattr(diffusers, solver.class_name)
    if kind is diffusers.LMSDiscreteScheduler:
        kind = _lms()
    known = inspect.signature(kind.__init__).parameters
    options = dict(solver.options)
    if noise_schedule != "model":
        if noise_schedule in _FLAGS and config.get("rescale_betas_zero_snr"):
            raise ValueError(
                f"noise schedule {noise_schedule!r} cannot be used with this model, whose "
                "strongest noise leaves no signal (zero terminal SNR): nearly all its steps would "
                f"be spent there; use one of model, {', '.join(_SPACINGS)}"
            )
        if noise_schedule not in _fitting(known):
            raise ValueError(
                f"noise schedule {noise_schedule!r} cannot be used with the scheduler "
                f"{sampler!r}; use one of {', '.join(_fitting(known))}"
            )
        levels = noise_levels(noise_schedule)
        options |= {name: value for name, value in levels.items() if name in known}
    # Latents are not pixels: clipping them to -1..1, as these classes do unless told, spoils them.
    if "clip_sample" in known and "clip_sample" not in config:
        options["clip_sample"] = False
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        options["trained_betas"] = _zero_snr_betas(config)
    return kind.from_config(config, **options)


@functools.cache
def _lms() -> Any:
    from diffusers import LMSDiscreteScheduler

    class LMS(LMSDiscreteScheduler):
        """Looks back no further than it has steps, also where it starts half way, with a picture:
        diffusers counts the steps that were left out.
        """

        def step(
            self,
            model_output: Any,
            timestep: Any,
            sample: Any,
            order: int = 4,
            return_dict: bool = True,
        ) -> Any:
            order = min(order, len(self.derivatives) + 1)
            return super().step(model_output, timestep, sample, order, return_dict)

    return LMS


def noise_levels(noise_schedule: str) -> dict[str, Any]:
    """The options of a diffusers scheduler that choose this noise schedule, others switched off."""
    flags = {flag: name == noise_schedule for name, flag in _FLAGS.items()}
    return {**flags, "timestep_spacing": _SPACINGS.get(noise_schedule, "linspace")}


def _fitting(known: Any) -> list[str]:
    """The noise schedules of a scheduler class whose constructor knows the names `known`."""
    names = ["model"]
    if "timestep_spacing" in known:
        names += _SPACINGS
    elif "use_karras_sigmas" in known:  # the one-step DPM solver is evenly spaced
        names += ["normal"]
    return [*names, *(name for name, flag in _FLAGS.items() if flag in known)]


def _zero_snr_betas(config: Any) -> Any:
    """The betas of a zero-terminal-SNR model (arXiv 2305.08891), for classes that know only betas.

    As diffusers does where it knows more, the last level keeps a trace of signal: its noise would
    be infinite.
    """
    from diffusers import DDIMScheduler

    rescaled: Any = DDIMScheduler.from_config(config)
    alphas = rescaled.alphas_cumprod.double()
    alphas[-1] = 2**-24
    betas = 1 - alphas[1:] / alphas[:-1]
    return [float(1 - alphas[0]), *betas.tolist()]
