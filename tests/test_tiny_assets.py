"""The bundled tiny base: small, clean, loads like any diffusers folder, and follows its prompts."""

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
    assert sum(path.stat().st_size for path in shipped_files()) < 16 * MEGABYTE


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


def test_subject_pictures_are_those_that_the_script_draws(draw: ModuleType) -> None:
    from PIL import Image

    for folder, pictures in draw.subject_folders().items():
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
