"""Our wires. Names of our own, so that nothing foreign can be plugged in."""

from __future__ import annotations

from ..host import io

Pipeline = io.Custom("LIKENESS_PIPELINE")
"""A `pipelines.spec.PipelineSpec`."""

Lora = io.Custom("LIKENESS_LORA")
"""A `pipelines.spec.Lora`."""

Images = io.Custom("LIKENESS_IMAGES")
"""A tuple of `trainers.data.sample.Sample`: pictures with their captions."""

ClassImages = io.Custom("LIKENESS_CLASS_IMAGES")
"""A tuple of `trainers.settings.PriorSettings`: what keeps each class from drifting."""

Settings = io.Custom("LIKENESS_TRAINING_SETTINGS")
"""A `trainers.settings.ExpertSettings`."""

ControlNet = io.Custom("LIKENESS_CONTROLNET")
"""A `pipelines.guidance.ControlNet`."""

IPAdapter = io.Custom("LIKENESS_IP_ADAPTER")
"""A `pipelines.guidance.IPAdapter`."""

ImageEmbeddings = io.Custom("LIKENESS_IMAGE_EMBEDDINGS")
"""A `pipelines.guidance.ImageEmbeddings`."""
