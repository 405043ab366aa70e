"""The bundled tiny base: small, clean, loads like any diffusers folder, and follows its prompts;
beside it a ControlNet that follows edges and an IP-Adapter that takes after a picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TINY = Path(__file__).parent.parent / "assets" / "tiny"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def draw() -> Iterator[ModuleType]:
    """The scripts of assets/tiny import one another by name, as scripts do."""
    before = set(sys.modules)
    sys.path.insert(0, str(TINY))
    try:
        import draw

        yield draw
    finally:
        sys.path.remove(str(TINY))
        for name in set(sys.modules) - before:
            if str(TINY) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def shipped_files() -> list[Path]:
    return [path for path in TINY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_it_stays_small() -> None:
    assert sum(p.stat().st_size for p in (TINY / "base").rglob("*") if p.is_file()) < 12 * MEGABYTE
    assert sum(size_of(TINY / "controlnet")) < 4 * MEGABYTE
    assert sum(size_of(TINY / "ip_adapter")) < MEGABYTE
    assert sum(path.stat().st_size for path in shipped_files()) < 18 * MEGABYTE


def size_of(folder: Path) -> list[int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sizes, f"{folder} is empty"
    return sizes


def test_everyone_may_read_it() -> None:
    closed = [path for path in shipped_files() if path.stat().st_mode & 0o444 != 0o444]
    assert not closed


def test_configs_do_not_tell_where_they_were_made() -> None:
    for path in TINY.rglob("*.json"):
        config = json.loads(path.read_text())
        assert not config.get("_name_or_path"), path


def test_no_training_picture_shows_the_subject(draw: ModuleType) -> None:
    import random

    from monsters import SUBJECT, is_like_subject, traits_shared

    assert is_like_subject(SUBJECT)
    rng = random.Random(0)
    looks = [draw.random_picture(rng, "monster").look for _ in range(3000)]
    assert not any(is_like_subject(look) for look in looks)
    assert max(traits_shared(look) for look in looks) <= 3


def test_pictures_are_those_that_the_script_draws(draw: ModuleType) -> None:
    from PIL import Image

    for folder, pictures in {**draw.subject_folders(), **draw.example_folders()}.items():
        paths = sorted((TINY / folder).glob("*.png"))
        assert [path.name for path in paths] == [
            f"{i:02d}.png" for i in range(1, len(pictures) + 1)
        ]
        for path, picture in zip(paths, pictures, strict=True):
            kept = Image.open(path)
            assert (kept.mode, kept.size) == ("RGB", (64, 64)), path
            assert kept.tobytes() == picture.tobytes(), path


def test_it_follows_prompts() -> None:
    """Middle and corners of the picture have the colours that the prompt names."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "base", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    asked = {
        "a photo of a red circle on a blue background": ("red", "blue"),
        "a photo of a green square on a white background": ("green", "white"),
        "a photo of a yellow circle on a purple background": ("yellow", "purple"),
    }
    pictures = pipeline(
        list(asked),
        num_inference_steps=12,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(i) for i in range(len(asked))],
        output_type="pt",
    ).images  # (3, 3, 64, 64), 0..1
    assert pictures.shape == (3, 3, 64, 64)
    for picture, (thing, ground) in zip(pictures, asked.values(), strict=True):
        assert nearest_color(picture[:, 28:36, 28:36]) == thing
        assert nearest_color(picture[:, :6, :6]) == ground


# -- what steers it --------------------------------------------------------------------------------

PLACES = ("left", "right", "top", "bottom")


def load(**parts):
    import torch
    from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

    kind = StableDiffusionControlNetPipeline if "controlnet" in parts else StableDiffusionPipeline
    pipeline = kind.from_pretrained(
        TINY / "base", dtype=torch.float32, requires_safety_checker=False, **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeds(count: int):
    import torch

    return [torch.Generator().manual_seed(i) for i in range(count)]


def edges(picture):
    """White on black, as Preprocess finds them."""
    import cv2
    import numpy as np
    from PIL import Image

    return Image.fromarray(cv2.Canny(np.asarray(picture), 100, 200)).convert("RGB")


def is_red(picture):
    """(3, 64, 64) in 0..1 → (64, 64)"""
    red, green, blue = picture
    return (red > 0.5) & (green < 0.45) & (blue < 0.45)


def overlap(drawn, wanted) -> float:
    """Of what is red in two pictures: intersection over union."""
    both, either = is_red(drawn) & is_red(wanted), is_red(drawn) | is_red(wanted)
    return (both.sum() / either.sum().clamp(min=1)).item()


def test_the_controlnet_says_where_things_are(draw: ModuleType) -> None:
    """The prompt does not say it: what is red lies where it lies in the picture with the edges."""
    import random

    import torch
    from diffusers import ControlNetModel
    from torchvision.transforms.functional import to_tensor

    controlnet = ControlNetModel.from_pretrained(TINY / "controlnet", dtype=torch.float32)
    pipeline = load(controlnet=controlnet)
    embedding = controlnet.config.conditioning_embedding_out_channels
    assert 2 ** (len(embedding) - 1) == pipeline.vae_scale_factor, "as many halvings as the VAE"

    rng = random.Random(1)
    shown = [draw.Picture("circle", "red", "plain", "white", "red", place=p) for p in PLACES]
    pictures = [draw.paint(one, rng) for one in shown]

    def overlaps(strength: float) -> list[float]:
        drawn = pipeline(
            ["a photo of a red circle on a white background"] * len(PLACES),
            image=[edges(picture) for picture in pictures],
            controlnet_conditioning_scale=strength,
            num_inference_steps=10,
            guidance_scale=4.0,
            generator=seeds(len(PLACES)),
            output_type="pt",
        ).images
        return [overlap(one, to_tensor(p)) for one, p in zip(drawn, pictures, strict=True)]

    with_it, without = overlaps(1.0), overlaps(0.0)
    assert sum(with_it) / len(PLACES) > 0.7, with_it
    assert sum(without) / len(PLACES) < 0.6, without


def test_the_ip_adapter_is_laid_out_as_published_ones_are() -> None:
    import torch
    from safetensors import safe_open

    with safe_open(TINY / "ip_adapter" / "ip_adapter.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert "IP-Adapter" in metadata["modelspec.title"]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    names = [f"proj.{kind}" for kind in ("weight", "bias")] + ["norm.weight", "norm.bias"]
    numbers = range(1, 1 + 2 * number_of_cross_attentions(), 2)
    layers = [f"ip_adapter.{n}.to_{kv}_ip.weight" for n in numbers for kv in "kv"]
    assert set(tensors) == {*(f"image_proj.{name}" for name in names), *layers}
    encoder = json.loads((TINY / "image_encoder" / "config.json").read_text())
    assert tensors["image_proj.proj.weight"].shape == (4 * 128, encoder["projection_dim"])


def number_of_cross_attentions() -> int:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(TINY / "base/unet"))
    return sum(name.endswith("attn2.processor") for name in unet.attn_processors)


def test_the_ip_adapter_takes_after_its_picture(draw: ModuleType) -> None:
    """Without a word, middle and corners come out in the picture's colours."""
    import random

    import torch
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    pairs = [("red", "blue"), ("green", "white"), ("yellow", "purple"), ("black", "yellow")]
    rng = random.Random(0)
    shown = [draw.Picture("circle", color, "plain", ground, "red") for color, ground in pairs]
    pipeline = load(
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(TINY / "image_encoder"),
        feature_extractor=CLIPImageProcessor.from_pretrained(TINY / "feature_extractor"),
    )
    pipeline.load_ip_adapter(
        TINY / "ip_adapter", "", "ip_adapter.safetensors", image_encoder_folder=None
    )

    def agreeing(weight: float) -> int:
        pipeline.set_ip_adapter_scale(weight)
        found = 0
        for i, (picture, pair) in enumerate(zip(shown, pairs, strict=True)):
            (drawn,) = pipeline(
                "",
                ip_adapter_image=draw.paint(picture, rng),
                num_inference_steps=10,
                guidance_scale=4.0,
                generator=torch.Generator().manual_seed(i),
                output_type="pt",
            ).images
            patches = (drawn[:, 28:36, 28:36], drawn[:, :6, :6])
            found += sum(nearest_color(p) == c for p, c in zip(patches, pair, strict=True))
        return found

    assert agreeing(1.0) >= 6, "of eight"
    assert agreeing(0.0) <= 3


def nearest_color(patch) -> str:
    colors = {
        "red": (220, 35, 35),
        "green": (45, 165, 60),
        "blue": (40, 80, 215),
        "yellow": (248, 222, 50),
        "purple": (130, 50, 175),
        "white": (245, 245, 245),
        "black": (28, 28, 30),
    }
    mean = [255 * value for value in patch.mean((1, 2)).tolist()]
    return min(
        colors, key=lambda c: sum((a - b) ** 2 for a, b in zip(colors[c], mean, strict=True))
    )
