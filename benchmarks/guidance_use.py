"""The bundled ControlNet, IP-Adapter and a LoRA of the bundled creature, ready to be put on."""

from __future__ import annotations

from pathlib import Path

from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.guidance import ControlUse, Picture, ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.ip_adapter.presets import preset_blocks
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.lora.files import describe_lora
from likeness.pipelines.spec import LoraUse, PipelineSpec
from likeness.trainers.data.samples import samples_from_folder
from likeness.trainers.job import TrainingJob
from likeness.trainers.methods import method_named
from likeness.trainers.run import train
from likeness.trainers.run_folder import create_or_find
from likeness.trainers.settings import PriorSettings, TrainingSettings, WatchSettings
from likeness_metrics import TINY
from likeness_of_subject import (
    SUBJECT_PROMPT,
    PrintingReport,
    quickstart_settings,
    settings_from,
)
from PIL import Image


class Guides:
    """What comes with Likeness, described once."""

    def __init__(self, controlnet: Path | None = None, adapter: Path | None = None) -> None:
        self.controlnet = describe_control(controlnet or TINY / "controlnet")
        file = adapter or TINY / "ip_adapter" / "ip_adapter.safetensors"
        self.adapter = describe_adapter(file, TINY / "image_encoder")

    def control(self, edges: Image.Image, strength: float) -> ControlUse:
        return ControlUse(self.controlnet, (Picture.of(edges),), strength)

    def reference(self, image: Image.Image, weight: float, preset: str = "all") -> ReferenceUse:
        blocks = preset_blocks(preset, self.adapter.family)
        return ReferenceUse(self.adapter, (Picture.of(image),), weight, blocks=blocks)


def creature_lora(pipelines: Pipelines, spec: PipelineSpec, work: Path) -> LoraUse:
    """A LoRA of the five bundled pictures, with the shipped quickstart's settings, found where it
    was trained before.
    """
    values = quickstart_settings()
    job = TrainingJob(
        spec=spec,
        samples=samples_from_folder(TINY / "subject", SUBJECT_PROMPT),
        method="lora",
        method_settings=settings_from(method_named("lora").settings_type, values),
        training=settings_from(TrainingSettings, values),
        prior=(settings_from(PriorSettings, values["prior"]),),
        watch=WatchSettings(checkpoint_every=50),
        trigger="sks",
    )
    result = train(create_or_find(work, "lora", job), pipelines, PrintingReport("LoRA"))
    return LoraUse(describe_lora(result.path))
