"""From pictures and inside masks, batches, stops, and bad requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.families.family import IMAGE, TEXT
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.source_pictures import read_masks, read_pictures
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

from .drawing import PROMPT, apart, drawer, half, levels


@pytest.fixture(scope="module")
def draw(pipelines, tiny_base):
    """A function from what `Sampling` and `generate` take to pictures of the bundled tiny base."""
    return drawer(pipelines, tiny_base)


@pytest.fixture(scope="module")
def source(draw):
    """A picture to start from: a green house on a beach."""
    return draw("a green house on the beach", seed=3, steps=12)[0]


# -- from a picture --------------------------------------------------------------------------------


def test_less_denoise_stays_closer_to_the_picture(draw, source):
    little, much = (
        draw(image=source, denoise=denoise, count=3, steps=10) for denoise in (0.3, 0.9)
    )
    assert max(apart(image, source) for image in little) < min(
        apart(image, source) for image in much
    )


def test_the_size_is_the_pictures_own_or_the_one_asked_for(draw, source):
    wide = source.resize((101, 70))
    assert draw(image=wide, steps=2, denoise=0.5)[0].size == (104, 72)
    fitted = draw(image=wide, steps=2, denoise=0.5, width=48, height=80)[0]
    assert fitted.size == (48, 80)


def test_another_size_is_scaled_to_cover_and_cut_evenly(draw):
    stripes = Image.new("RGB", (128, 64), "white")
    stripes.paste("black", (0, 0, 32, 64))
    stripes.paste("black", (96, 0, 128, 64))
    image = draw("", image=stripes, width=64, height=64, denoise=0.01, steps=100, guidance=1.0)[0]
    assert levels(image).mean() > 200, "the white middle is left"


def test_each_picture_of_a_batch_is_drawn_count_times(draw, source):
    other = draw("a blue cup", seed=9, steps=6)[0]
    images = draw(image=[source, other], count=2, denoise=0.3, steps=10, seed=5)
    assert len(images) == 4
    assert all(apart(image, source) < apart(image, other) for image in images[:2])
    assert all(apart(image, other) < apart(image, source) for image in images[2:])


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_any_mode_of_picture(draw, source, mode):
    image = source.convert(mode)
    assert draw(image=image, steps=2, denoise=0.5)[0].mode == "RGB"


# -- inside a mask ---------------------------------------------------------------------------------


def test_a_mask_keeps_what_is_black(draw, source, pipelines, tiny_base):
    drawn = draw(image=source, mask=half(), denoise=1.0, steps=10)[0]
    left, right = (levels(drawn)[:, area] for area in (slice(0, 30), slice(34, 64)))
    kept, replaced = (levels(source)[:, area] for area in (slice(0, 30), slice(34, 64)))
    with pipelines.open(tiny_base) as live, torch.no_grad():
        vae, pixels = live.component("vae"), read_tensor(source)
        through = vae.decode(vae.encode(pixels * 2 - 1).latent_dist.mean).sample / 2 + 0.5
    vae_error = (
        (through[0].movedim(0, -1) * 255 - torch.tensor(levels(source))).abs()[:, :30].mean()
    )
    assert np.abs(left - kept).mean() < vae_error + 2
    assert np.abs(right - replaced).mean() > 3 * np.abs(left - kept).mean()


def read_tensor(image):
    return torch.tensor(levels(image) / 255, dtype=torch.float32).movedim(-1, 0)[None]


def test_a_model_for_inpainting_keeps_too_and_refuses_the_rest(tiny_models):
    cache, spec = Pipelines(), PipelineSpec(base_model(tiny_models("sd-inpaint")))
    way_out = "connect a picture and a mask"
    with pytest.raises(ValueError, match=f"nothing from words alone; {way_out}"):
        generate(cache, spec, Sampling("a star", steps=1))
    picture = Image.new("RGB", (64, 64), "teal")
    with pytest.raises(ValueError, match=f"nothing from a picture alone; {way_out}"):
        generate(cache, spec, Sampling("a star", steps=1), image=picture)
    sampling = Sampling("a star", steps=2)
    assert generate(cache, spec, sampling, image=picture, mask=half())[0].size == (64, 64)


def test_the_refiner_needs_a_picture(tiny_models):
    spec = PipelineSpec(base_model(tiny_models("sdxl-refiner")))
    with pytest.raises(ValueError, match="nothing from words alone; connect a picture to start"):
        generate(Pipelines(), spec, Sampling("a star", steps=1))


# -- batches, stops --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [TEXT, IMAGE])
@pytest.mark.parametrize("scheduler", ["model", "euler_ancestral"])
def test_each_picture_of_a_batch_can_be_drawn_alone(draw, source, task, scheduler):
    given = {"image": source, "denoise": 0.6} if task == IMAGE else {}
    batch = draw(count=3, seed=2**64 - 2, scheduler=scheduler, **given)
    seeds = (2**64 - 2, 2**64 - 1, 0)
    for together, seed in zip(batch, seeds, strict=True):
        alone = draw(seed=seed, scheduler=scheduler, **given)[0]
        # A batch multiplies other matrices, which may differ in the last bits.
        assert np.abs(levels(alone) - levels(together)).max() <= 2


def test_a_stop_leaves_nothing_behind(draw, source):
    before = draw(steps=3)[0].tobytes()

    def stop(done, total):
        raise KeyboardInterrupt

    for given in ({}, {"image": source}, {"image": source, "mask": half()}):
        with pytest.raises(KeyboardInterrupt):
            draw(on_step=stop, on_preview=lambda picture: None, **given)
    assert draw(steps=3)[0].tobytes() == before


def test_progress_counts_the_steps_that_are_run(draw, source):
    seen = []
    draw(image=source, denoise=0.5, steps=6, on_step=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    seen.clear()
    draw(steps=3, scheduler="heun", on_step=lambda *step: seen.append(step))
    assert seen == [(index, 5) for index in range(1, 6)], "heun looks twice in all steps but one"


# -- bad requests ----------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denoise": 0.0}, "denoise 0.0 cannot be used; use more than 0"),
        ({"denoise": 1.5}, "denoise 1.5 cannot be used"),
        ({"denoise": NAN}, "denoise nan cannot be used"),
        ({"guidance": NAN}, "guidance nan cannot be used"),
        ({"guidance": float("inf")}, "guidance inf cannot be used"),
        ({"eta": NAN}, "eta nan cannot be used"),
        ({"eta": 0.5, "scheduler": "euler"}, "eta 0.5 cannot be used with this sampler"),
        ({"shift": -1.0}, "shift -1.0 cannot be used"),
        ({"shift": 3.0}, "shift 3 cannot be used: this is a diffusion model"),
        ({"noise_schedule": "magic"}, "noise_schedule 'magic' cannot be used; use one of model"),
        ({"clip_skip": -1}, "clip_skip -1 cannot be used"),
    ],
)
def test_bad_numbers_are_refused(draw, change, message):
    with pytest.raises(ValueError, match=message):
        draw(**change)


def test_bad_pictures_and_masks_are_refused(draw, source):
    cases = [
        ({"image": Image.new("RGB", (1, 1))}, "1x1 pixels is too small.*at least 8x8"),
        ({"mask": half()}, "a mask without a picture"),
        ({"image": source, "mask": half((32, 64))}, "the mask has 32x64 pixels.* 64x64"),
        ({"image": source, "mask": Image.new("L", (64, 64))}, "black everywhere"),
        ({"image": source, "mask": [half()] * 2}, "2 masks for 1 pictures"),
        ({"image": source, "denoise": 0.1, "steps": 5}, "less than one step; use at least 10"),
        ({"image": source, "width": 65}, "width 65 cannot be used; use a multiple of 8"),
        ({"image": source.resize((16000, 8))}, "width 16000 cannot be used; use at most 8192"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            draw(**given)


def test_tensors_of_comfyui_become_pictures_and_masks():
    pictures = read_pictures(torch.full((2, 8, 9, 3), 0.5))
    assert [picture.size for picture in pictures] == [(9, 8)] * 2
    transparent = read_pictures(torch.zeros(1, 8, 8, 4))[0]
    assert transparent.getpixel((0, 0)) == (255, 255, 255)
    (mask,) = read_masks(torch.eye(8))
    assert (mask.mode, mask.getpixel((1, 1)), mask.getpixel((1, 2))) == ("L", 255, 0)
    assert (read_pictures(None), read_masks(None)) == ([], [])
    for tensor, message in (
        (torch.full((1, 8, 8, 3), NAN), "the picture holds numbers that are not finite"),
        (torch.zeros(0, 8, 8, 3), "is empty"),
        (torch.zeros(8), "is not a picture"),
    ):
        with pytest.raises(ValueError, match=message):
            read_pictures(tensor)
    for tensor, message in (
        (torch.full((1, 8, 8), float("inf")), "the mask holds numbers that are not finite"),
        (torch.zeros(1, 1, 8, 8), "is not a mask"),
    ):
        with pytest.raises(ValueError, match=message):
            read_masks(tensor)


def test_the_base_models_sampler_is_used_unless_another_is_asked_for(pipelines, tiny_base):
    from dataclasses import replace

    named = PipelineSpec(replace(tiny_base, scheduler="euler"))
    sampling = Sampling(PROMPT, steps=3)
    by_base = generate(pipelines, named, sampling)[0].tobytes()
    asked = replace(sampling, scheduler="euler")
    assert by_base == generate(pipelines, PipelineSpec(tiny_base), asked)[0].tobytes()
    assert by_base != generate(pipelines, PipelineSpec(tiny_base), sampling)[0].tobytes()
    other = replace(sampling, scheduler="ddim")
    assert by_base != generate(pipelines, named, other)[0].tobytes()


def test_lms_looks_back_no_further_than_to_its_first_step(draw, source):
    lms, heun = (
        draw("a red mushroom in the snow", image=source, denoise=0.75, steps=24, scheduler=name)[0]
        for name in ("lms", "heun")
    )
    assert apart(lms, heun) < 1.5
