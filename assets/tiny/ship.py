"""Puts the finished parts together: a diffusers folder in fp16, the image encoder beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from denoiser import SCHEDULE


def ship(work: Path) -> None:
    """Writes `base`, `image_encoder` and `feature_extractor` into `<work>/shipped`."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

    finished = work / "vae_final"
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(finished if finished.exists() else work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        scheduler=DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shipped = work / "shipped"
    shutil.rmtree(shipped, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(shipped / "base")
    for name in (
        "vocab.json",
        "merges.txt",
    ):  # transformers 5 leaves these out; older readers need them
        shutil.copy(work / "tokenizer" / name, shipped / "base" / "tokenizer")
    if (work / "image_encoder").exists():
        encoder = CLIPVisionModelWithProjection.from_pretrained(
            work / "image_encoder", dtype=torch.float16
        )
        encoder.save_pretrained(shipped / "image_encoder")
        shutil.copytree(work / "feature_extractor", shipped / "feature_extractor")
    for path in shipped.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.suffix == ".json":
            forget_origin(path)


def forget_origin(path: Path) -> None:
    """Takes the maker's folders out of a config."""
    config = json.loads(path.read_text())
    if config.pop("_name_or_path", None):
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
