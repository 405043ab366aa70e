"""What is special to SDXL: sizes beside the timestep, a VAE that overflows in float16."""

from __future__ import annotations

import pytest

from .family_table import open_tiny


@pytest.fixture
def sdxl(tiny_models):
    from likeness.families import family_named

    return family_named("sdxl"), open_tiny(str(tiny_models("sdxl")), "sdxl")


def test_conditioning_says_the_native_size(sdxl, tiny_models):
    import torch

    family, pipeline = sdxl
    told = dict(family.encode_text(pipeline, ["a ball", "a box"]).extra)
    assert told["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2
    width = pipeline.text_encoder_2.config.projection_dim
    assert told["text_embeds"].shape == (2, width)
    refiner = open_tiny(str(tiny_models("sdxl-refiner")), "sdxl")
    told = dict(family.encode_text(refiner, ["a ball"]).extra)
    torch.testing.assert_close(told["time_ids"], torch.tensor([[64.0, 64.0, 0.0, 0.0, 6.0]]))


def test_an_empty_negative_prompt_is_read_like_any_other(sdxl):
    """Whether or not a prompt beside it has weights: the picture must not depend on that."""
    import torch

    family, pipeline = sdxl
    weighted = family.call_arguments(pipeline, ["(a ball:1.2)"], [""], 5.0)
    _, expected, _, pooled = pipeline.encode_prompt("a ball", negative_prompt="")
    torch.testing.assert_close(weighted["negative_prompt_embeds"], expected)
    torch.testing.assert_close(weighted["negative_pooled_prompt_embeds"], pooled)


def test_long_prompts_and_negatives_have_one_length(sdxl):
    family, pipeline = sdxl
    long = " ".join(["a red ball beside a blue box"] * 20)
    arguments = family.call_arguments(pipeline, [long, "a ball"], ["", "a box"], 5.0)
    shapes = {arguments[f"{kind}prompt_embeds"].shape for kind in ("", "negative_")}
    assert len(shapes) == 1 and shapes.pop()[1] > 77


def test_a_float16_vae_encodes_in_float32_and_stays_as_it_was(tiny_models):
    import torch
    from diffusers import StableDiffusionXLPipeline
    from likeness.families import family_named

    folder = str(tiny_models("sdxl"))
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float16)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = {name: tensor.data_ptr() for name, tensor in pipeline.vae.state_dict().items()}
    with torch.no_grad():
        mean, deviation = family_named("sdxl").encode_pixels(pipeline, pixels)
        after = {name: tensor.data_ptr() for name, tensor in pipeline.vae.state_dict().items()}
        plain = pipeline.vae.float().encode(pixels).latent_dist
    assert mean.dtype == deviation.dtype == torch.float32
    torch.testing.assert_close(mean, plain.mean * 0.13025)
    assert after == before, "its very tensors are back"


def test_latents_are_centred_as_the_vae_says(sdxl):
    import torch

    family, pipeline = sdxl
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        mean, deviation = family.encode_pixels(pipeline, pixels)
        config = dict(pipeline.vae.config)
        changes = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [2.0, 1.0, 0.5, 4.0]}
        pipeline.vae.register_to_config(**changes)
        try:
            centred, spread = family.encode_pixels(pipeline, pixels)
        finally:
            pipeline.vae.register_to_config(**{key: config[key] for key in changes})
    middle = torch.tensor(changes["latents_mean"]).view(1, 4, 1, 1)
    width = torch.tensor(changes["latents_std"]).view(1, 4, 1, 1)
    torch.testing.assert_close(centred, (mean - middle * 0.13025) / width)
    torch.testing.assert_close(spread, deviation / width)
