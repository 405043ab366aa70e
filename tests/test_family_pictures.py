"""The contract of `families/family.py`, for every family on its tiny models: making pictures and
learning.
"""

from __future__ import annotations

import inspect

from .family_table import (  # noqa: F401 (a fixture)
    ALL,
    model_fixture,
    open_tiny,
    over,
)

PROMPT, NEGATIVE = "a red ball", "a blue box"
STEPS = 2
UNGUIDED = {"z-image": 0.0}
"""The guidance that is none where it is not 1: diffusers' pipeline counts from 0 there."""


# -- making pictures -------------------------------------------------------------------------------


def _call(task, family, pipeline, arguments, **more):
    """Pixels [1, height, width, 3] of one call of the diffusers pipeline for `task`."""
    import numpy
    import torch
    from likeness.families.family import IMAGE, INPAINT
    from PIL import Image

    width, height = family.native_size(pipeline)
    sized = "width" in inspect.signature(type(pipeline).__call__).parameters
    extra = {"width": width, "height": height} if sized else {}
    if task in (IMAGE, INPAINT):
        picture = numpy.random.default_rng(0).integers(0, 256, (height, width, 3), "uint8")
        extra |= {"image": Image.fromarray(picture), "strength": 0.9}
    if task == INPAINT:
        mask = numpy.zeros((height, width), "uint8")
        mask[: height // 2] = 255
        extra |= {"mask_image": Image.fromarray(mask)}
    generator = torch.Generator("cpu").manual_seed(7)
    options = {"num_inference_steps": STEPS, "generator": generator, "output_type": "np"}
    with torch.no_grad():
        return pipeline(**arguments, **extra, **options, **more).images


def _tasks(family, folder, pipeline):
    for task, kind in family.tasks(pipeline).items():
        yield task, open_tiny(str(folder), family.name, kind)


@over(ALL)
def test_every_task_draws_what_the_plain_pipeline_draws(model):
    import numpy

    family, folder, pipeline = model
    assert family.tasks(pipeline)
    for task, plain in _tasks(family, folder, pipeline):
        ours = family.call_arguments(plain, [PROMPT], [NEGATIVE], 3.0)
        drawn = _call(task, family, plain, ours)
        takes = inspect.signature(type(plain).__call__).parameters
        negative = {"negative_prompt": NEGATIVE} if "negative_prompt" in takes else {}
        expected = _call(task, family, plain, {"prompt": PROMPT, "guidance_scale": 3.0, **negative})
        assert numpy.isfinite(drawn).all()
        numpy.testing.assert_array_equal(drawn, expected)


@over(ALL)
def test_weights_count_and_weight_one_is_no_weight(model):
    """Where a family knows no weights it must say so."""
    import numpy

    family, folder, pipeline = model
    task, plain = next(_tasks(family, folder, pipeline))

    def draw(prompt, negative):
        arguments = family.call_arguments(plain, [prompt], [negative], 3.0)
        return _call(task, family, plain, arguments)

    try:
        one = draw(f"({PROMPT}:1.0)", NEGATIVE)
    except ValueError as error:
        assert "weight" in str(error)
        return
    as_it_is = draw(PROMPT, NEGATIVE)
    numpy.testing.assert_allclose(one, as_it_is, atol=2e-5)
    assert abs(draw("a (red:1.6) ball", NEGATIVE) - as_it_is).max() > 1e-4


@over(ALL)
def test_sizes(model):
    family, _, pipeline = model
    width, height = family.native_size(pipeline)
    multiple = family.size_multiple(pipeline)
    assert width > 0 and height > 0 and width % multiple == 0 and height % multiple == 0


# -- learning --------------------------------------------------------------------------------------


@over([name for name in ALL if name != "sd-inpaint"])
def test_predict_is_one_step_of_the_pipeline(model, monkeypatch):
    """What the pipeline hands to its scheduler is what `predict` says of the same latents."""
    import torch

    family, folder, pipeline = model
    task, plain = next(_tasks(family, folder, pipeline))
    seen = []
    step = plain.scheduler.step

    def spy(output, timestep, sample, *rest, **options):
        seen.append((output, timestep, sample))
        return step(output, timestep, sample, *rest, **options)

    monkeypatch.setattr(plain.scheduler, "step", spy)
    unguided = UNGUIDED.get(family.name, 1.0)
    _call(task, family, plain, family.call_arguments(plain, [PROMPT], [""], unguided))
    width, height = family.native_size(plain)
    output, timestep, sample = seen[-1]
    latents = family.latent_picture(plain, sample, width, height)
    with torch.no_grad():
        conditioning = family.encode_text(plain, [PROMPT])
        predicted = family.predict(plain, latents, timestep.reshape(1), conditioning)
    assert predicted.shape == latents.shape
    expected = family.latent_picture(plain, output, width, height)
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)


@over(ALL)
def test_encoded_pixels_decode_as_the_vae_has_it(model):
    import torch

    family, _, pipeline = model
    width, height = family.native_size(pipeline)
    pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = pipeline.vae
    with torch.no_grad():
        mean, deviation = family.encode_pixels(pipeline, pixels)
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        decoded = vae.decode(mean / vae.config.scaling_factor + shift).sample
        expected = vae(pixels, sample_posterior=False).sample
    assert mean.shape == deviation.shape and (deviation > 0).all()
    torch.testing.assert_close(decoded, expected, rtol=1e-3, atol=1e-3)


@over(ALL)
def test_the_training_schedule_is_the_models(model):
    family, _, pipeline = model
    scheduler = family.training_scheduler(pipeline)
    assert hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")
    assert scheduler.config.num_train_timesteps == 1000
    wanted = pipeline.scheduler.config
    for entry in ("prediction_type", "rescale_betas_zero_snr", "shift", "beta_schedule"):
        if entry in wanted and entry in scheduler.config:
            assert scheduler.config[entry] == wanted[entry], entry
