"""Everything that decides what a run learns, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from ..pipelines.loading import base_identity
from ..pipelines.spec import PipelineSpec
from .data.samples import Sample, samples_from_folder
from .methods import method_named
from .settings import PriorSettings, TrainingSettings, WatchSettings, describe, to_dict

FORMAT = 2
"""Version of the run folder, raised when the same folder would train differently; part of the
fingerprint.
"""


@dataclass(frozen=True)
class TrainingJob:
    """A run to be: which model learns which samples, how.

    `method_settings`: of the method's `settings_type`. `prior`: what keeps each class as it was.
    `watch`: how it is watched and kept; not part of the fingerprint.
    `trigger`: the words that call the subject; empty: the caption, if all pictures share one.
    `workflow`: the graph that asked for the run (JSON), carried along in the result; not part of
    the fingerprint.
    """

    spec: PipelineSpec
    samples: tuple[Sample, ...]
    method: str
    method_settings: Any
    training: TrainingSettings
    prior: tuple[PriorSettings, ...] = ()
    trigger: str = ""
    watch: WatchSettings = field(default_factory=WatchSettings, compare=False)
    workflow: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("there are no pictures to learn from; give at least one")
        method = method_named(self.method)
        spec = self.spec.unguided()  # ControlNets and IP-Adapters steer drawings, not learning
        if method.fuses_loras:  # what is fused is part of what learns
            spec = replace(spec, loras=tuple(replace(use, mode="fuse") for use in spec.loras))
        object.__setattr__(self, "spec", spec)
        expected = method.settings_type
        if type(self.method_settings) is not expected:
            raise ValueError(
                f"the method {self.method!r} was given {type(self.method_settings).__name__}; "
                f"it needs {expected.__name__}"
            )
        memory = self.spec.base.memory
        for option in ("fp8", "compile", "offload"):
            if getattr(memory, option) not in (False, "none"):
                raise ValueError(
                    f"the base model is loaded with the memory option {option}, which is for "
                    "drawing only; set memory to automatic in the node that loads it for training"
                )

    @property
    def trigger_phrase(self) -> str:
        captions = {sample.caption for sample in self.samples}
        return self.trigger or (captions.pop() if len(captions) == 1 else "")


def describe_job(job: TrainingJob) -> dict[str, Any]:
    """The job as `run.json` tells it, without its samples."""
    return {
        "spec": job.spec.to_dict(),
        "method": job.method,
        "method_settings": to_dict(job.method_settings),
        "training": to_dict(job.training),
        "prior": [to_dict(prior) for prior in job.prior],
        "trigger": job.trigger,
    }


def fingerprint(job: TrainingJob) -> str:
    """SHA-256 over all that decides the outcome: two jobs with one fingerprint learn the same.

    Covers the base's weights and the fused LoRAs by content, pictures by their pixels, captions and
    every setting that decides anything; not where files lie, nor the run's name, under which
    `create_or_find` looks.
    """
    facts = describe_job(job)
    for each in describe(job.training):
        if not each.decides:
            del facts["training"][each.name]
    facts["format"] = FORMAT
    facts["spec"] = model_identity(job.spec)
    facts["samples"] = [sample.digest for sample in job.samples]
    for prior, told in zip(job.prior, facts["prior"], strict=True):
        if prior.folder:
            own = samples_from_folder(prior.folder, prior.class_prompt, caption_files=False)
            told["folder"] = [sample.digest for sample in own]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def model_identity(spec: PipelineSpec) -> dict[str, Any]:
    """What makes a pipeline draw as it does, by content instead of by path."""
    return {
        "base": base_identity(spec.base),
        "family": spec.base.family,
        "dtype": spec.base.dtype,
        "loras": [
            [use.lora.sha256, use.scale, use.text_scale, use.mode, list(use.blocks)]
            for use in spec.loras
        ],
    }
