"""A diffusers pipeline from a folder, from a single file, or from parts, without a network."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import modules, sources, tokenizers
from .modules import library_class
from .sources import Plan

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from ..families import Family
    from .spec import BaseModel

_PREDICTIONS: dict[str, dict[str, Any]] = {
    "epsilon": {"prediction_type": "epsilon"},
    "v_prediction": {"prediction_type": "v_prediction"},
    "v_prediction_zero_snr": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}
"""`BaseModel.prediction` → what it changes in the scheduler (zero terminal SNR: 2305.08891)."""


def assemble(
    base: BaseModel, family: Family, dtype: torch.dtype, comfyui: Path | None = None
) -> DiffusionPipeline:
    """The pipeline that `base` describes, on the CPU, in eval mode and frozen, weights in `dtype`.

    `comfyui`: ComfyUI's own folder, where tokenizers may be.

    Raises:
        ValueError: something is missing, damaged or does not fit; says what, and the way out.
    """
    import diffusers

    plan = sources.plan(base, family, dtype)
    parts: dict[str, Any] = {}
    # The small things first: a missing tokenizer is told before gigabytes are read.
    for name, kind in sorted(plan.classes().items(), key=lambda item: item[0] in plan.weights):
        if name == "scheduler":
            parts[name] = _scheduler(plan, kind, base)
        elif name.startswith("tokenizer"):
            parts[name] = _tokenizer(plan, name, kind, base, family, comfyui)
        elif name in plan.weights:
            fp8 = base.memory.fp8 and name == family.denoiser.attribute
            config = plan.config(name)
            weights = plan.weights[name]
            parts[name] = modules.build(name, kind, config, weights, family, dtype, fp8)
    return _pipeline(getattr(diffusers, family.pipeline_class), plan, parts, family)


def _pipeline(cls: Any, plan: Plan, parts: dict[str, Any], family: Family) -> DiffusionPipeline:
    """The pipeline object.

    What its constructor does not know (the refiner's aesthetic score) stays in its configuration
    behind a `_`, where diffusers' `from_pipe` looks for what another task's pipeline wants.
    """
    parameters = inspect.signature(cls.__init__).parameters
    entries = {
        name: value
        for name, value in plan.index.items()
        if not name.startswith("_") and not isinstance(value, list)
    }
    options = {name: value for name, value in entries.items() if name in parameters}
    absent = {
        name: None
        for name, parameter in parameters.items()
        if name != "self"
        and (parameter.default is inspect.Parameter.empty or name in cls._optional_components)
    }
    pipeline = cls(**{**absent, **options, **family.load_options, **parts})
    pipeline.register_to_config(
        **{f"_{name}": value for name, value in entries.items() if name not in parameters}
    )
    return pipeline


def _scheduler(plan: Plan, kind: tuple[str, str], base: BaseModel) -> Any:
    cls = library_class(kind)
    config = plan.config("scheduler")
    if base.prediction != "auto":
        known = inspect.signature(cls.__init__).parameters
        if "prediction_type" not in known:
            raise ValueError(
                f"prediction {base.prediction!r} cannot be used with {base.path}: its scheduler "
                f"({kind[1]}) knows no such choice; use 'auto'"
            )
        wanted = _PREDICTIONS[base.prediction]
        config |= wanted
        if not wanted.keys() <= known.keys():  # PNDM has no zero terminal SNR
            cls = library_class(("diffusers", "DDIMScheduler"))
    return cls.from_config(config)


def _tokenizer(
    plan: Plan,
    name: str,
    kind: tuple[str, str],
    base: BaseModel,
    family: Family,
    comfyui: Path | None,
) -> Any:
    if name in plan.tokenizers_not_needed():
        return None
    if not plan.variant:
        return tokenizers.tokenizer_in(plan.description / name, kind)
    source = family.tokenizers(plan.variant).get(name)
    if source is None:
        raise ValueError(
            f"{family.title} does not say where the {name} of {plan.variant!r} comes from; choose "
            "a diffusers folder of such a model as `config`"
        )
    config = Path(base.config) if base.config else None
    return tokenizers.find_tokenizer(name, source, config, comfyui)
