"""Plain diffusers with IP-Adapters, kept for the length of a test session."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path

import torch

from .ip_adapter_models import ENCODER

PLAIN_KINDS = {
    "StableDiffusionPipeline": {
        "image": "StableDiffusionImg2ImgPipeline",
        "inpaint": "StableDiffusionInpaintPipeline",
    },
    "StableDiffusionXLPipeline": {
        "image": "StableDiffusionXLImg2ImgPipeline",
        "inpaint": "StableDiffusionXLInpaintPipeline",
    },
    "StableDiffusion3Pipeline": {"image": "StableDiffusion3Img2ImgPipeline"},
    "FluxPipeline": {"image": "FluxImg2ImgPipeline"},
}


@cache
def plain_pipeline(folder, task="text", adapters=()):
    """A pipeline of its own for each set of adapters."""
    import diffusers
    from likeness.families import FAMILIES

    index = json.loads((Path(folder) / "model_index.json").read_text())
    family = next(each for each in FAMILIES if each.recognises(index))
    kind = getattr(diffusers, family.pipeline_class)
    pipeline = kind.from_pretrained(folder, dtype=torch.float32, **family.load_options)
    if task != "text":
        kind = getattr(diffusers, PLAIN_KINDS[family.pipeline_class][task])
        given = {**pipeline.config, **pipeline.components, **family.load_options}
        names = inspect.signature(kind.__init__).parameters
        pipeline = kind(**{name: value for name, value in given.items() if name in names})
    pipeline.set_progress_bar_config(disable=True)
    if adapters and "sd3" in family.name:
        path = Path(adapters[0])
        pipeline.load_ip_adapter(
            str(path.parent), weight_name=path.name, subfolder="", image_encoder_folder=None
        )
    elif adapters:
        pipeline.register_modules(**clip_parts())
        encoder = "image_encoder_pretrained_model_name_or_path"
        none = {encoder if family.name == "flux" else "image_encoder_folder": None}
        paths = [Path(path) for path in adapters]
        pipeline.load_ip_adapter(
            [str(path.parent) for path in paths],
            subfolder=[""] * len(paths),
            weight_name=[path.name for path in paths],
            **none,
        )
    return pipeline


@cache
def clip_parts():
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection.from_pretrained(ENCODER, dtype=torch.float32)
    processor = CLIPImageProcessor.from_pretrained(ENCODER.parent / "feature_extractor")
    return {"image_encoder": encoder.eval(), "feature_extractor": processor}
