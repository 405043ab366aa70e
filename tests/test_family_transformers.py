"""What is special to the transformer families; `test_families.py` has what all families share."""

from __future__ import annotations

import logging

import pytest

from .family_table import open_tiny
from .tiny_models import family_of
from .tiny_transformers import TRANSFORMER_VARIANTS, TRANSFORMERS

NAMES = [*TRANSFORMERS, *TRANSFORMER_VARIANTS]
PROMPT = "a red cat"


@pytest.fixture(name="model", params=NAMES)
def model_fixture(request, tiny_models):
    """(name, family, plain pipeline) of every tiny transformer model."""
    return opened(request.param, tiny_models)


def opened(name, tiny_models):
    from likeness.families import family_named

    family = family_named(family_of(name))
    return name, family, open_tiny(str(tiny_models(name)), family.name)


def draw(family, pipeline, prompt=PROMPT, negative="", guidance=3.0, **options):
    import torch

    width, height = family.native_size(pipeline)
    arguments = family.call_arguments(pipeline, [prompt], [negative], guidance)
    generator = torch.Generator().manual_seed(3)
    return pipeline(
        **arguments,
        width=width,
        height=height,
        num_inference_steps=2,
        generator=generator,
        output_type="np",
        **options,
    ).images


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "sd3-without-t5", "flux", "flux-schnell"])
def test_weight_one_gives_the_pipelines_own_states(name, tiny_models):
    import torch

    _, family, pipeline = opened(name, tiny_models)
    with torch.no_grad():
        found = family.call_arguments(pipeline, [f"({PROMPT}:1.0)"], ["bad"], 3.0)
        conditioning = family.encode_text(pipeline, [PROMPT])
        heavier = family.call_arguments(pipeline, ["a (red:1.5) cat"], ["bad"], 3.0)
    states, pooled = conditioning.embeddings, dict(conditioning.extra)["pooled_projections"]
    torch.testing.assert_close(found["prompt_embeds"], states, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["pooled_prompt_embeds"], pooled, rtol=0, atol=1e-6)
    moved = (heavier["prompt_embeds"] - states).abs().amax(dim=(0, 2)) > 1e-5
    assert moved.any() and not moved.all()


def test_a_long_prompt_is_read_to_its_end_by_sd3(tiny_models):
    import torch

    _, family, pipeline = opened("sd3", tiny_models)
    long = "red cat on the mat, " * 16
    with torch.no_grad():
        one, other = (
            family.call_arguments(pipeline, [long + end], ["bad"], 3.0) for end in ("dog", "ship")
        )
    assert one["prompt_embeds"].shape == one["negative_prompt_embeds"].shape
    assert one["prompt_embeds"].shape[1] > 77 + 256
    assert not torch.equal(one["prompt_embeds"][:, 77:], other["prompt_embeds"][:, 77:])


def test_flux_says_that_it_leaves_a_negative_prompt_out(tiny_models, caplog):
    import numpy

    _, family, pipeline = opened("flux", tiny_models)
    passes = []
    hook = pipeline.transformer.register_forward_hook(lambda *_: passes.append(1))
    with caplog.at_level(logging.WARNING), hook:
        plain = draw(family, pipeline)
        assert not caplog.records and len(passes) == 2
        told = draw(family, pipeline, negative="ugly hands")
    assert "ugly hands" in caplog.text and len(passes) == 4
    numpy.testing.assert_array_equal(plain, told)


@pytest.mark.parametrize(("name", "heeds"), [("flux", True), ("flux-schnell", False)])
def test_dev_heeds_guidance_and_schnell_has_none(name, heeds, tiny_models):
    import torch

    _, family, pipeline = opened(name, tiny_models)
    difference = abs(draw(family, pipeline, guidance=1.0) - draw(family, pipeline, guidance=9.0))
    assert (difference.max() > 1e-4) == heeds
    seen = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["guidance"]), with_kwargs=True
    )
    with hook, torch.no_grad():
        conditioning = family.encode_text(pipeline, [PROMPT] * 2)
        family.predict(
            pipeline, torch.randn(2, 16, 8, 8), torch.tensor([10.0, 500.0]), conditioning
        )
    assert seen[0].tolist() == [1.0, 1.0] if heeds else seen == [None]


def test_sd3_draws_without_its_t5(tiny_models):
    import torch

    _, family, pipeline = opened("sd3-without-t5", tiny_models)
    assert pipeline.text_encoder_3 is None
    with torch.no_grad():
        states = family.encode_text(pipeline, [PROMPT]).embeddings
    assert states[:, :77].any() and not states[:, 77:].any()
    plain = draw(family, pipeline, negative="bad")
    heavier = draw(family, pipeline, prompt="a (red:1.5) cat", negative="bad")
    assert abs(plain - heavier).max() > 1e-4
    names = family.original_names(pipeline, "text_encoder_3")
    assert names == {}


# -- Z-Image: brackets, lengths, signs -------------------------------------------------------------


def test_z_image_takes_brackets_as_text(tiny_models):
    _, family, pipeline = opened("z-image", tiny_models)

    def read(prompt):
        return family.call_arguments(pipeline, [prompt], [""], 0.0)["prompt"]

    assert read("a cat (red) [one]") == ["a cat (red) [one]"]
    assert read(r"a cat \(red:1.3\)") == ["a cat (red:1.3)"]
    with pytest.raises(ValueError, match=r"weights.*a \(red:1\.3\) cat"):
        read("a (red:1.3) cat")
    with pytest.raises(ValueError, match="512 tokens"):
        read("cat and dog " * 60)


def test_z_image_tokenizer_speaks_as_qwen_3_does(tiny_models):
    """Whatever template the files bring: ComfyUI's come with that of an older Qwen."""
    _, family, pipeline = opened("z-image", tiny_models)
    options = family.tokenizers("z-image")["tokenizer"].options
    tokenizer = type(pipeline.tokenizer).from_pretrained(
        str(tiny_models("z-image") / "tokenizer"), **options
    )
    chat = [{"role": "user", "content": PROMPT}]
    said = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert said == f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"


def test_z_image_counts_time_and_sign_the_other_way_inside(tiny_models):
    import torch

    _, family, pipeline = opened("z-image", tiny_models)
    seen = []
    hook = pipeline.transformer.register_forward_hook(
        lambda _, inputs, answer: seen.append((inputs[1], answer[0]))
    )
    noisy = torch.randn(2, 16, 8, 4)
    with hook, torch.no_grad():
        conditioning = family.encode_text(pipeline, ["a cat", "a red dog on the mat"])
        both = family.predict(pipeline, noisy, torch.tensor([250.0, 900.0]), conditioning)
    time, answers = seen[0]
    torch.testing.assert_close(time, torch.tensor([0.75, 0.1]))
    torch.testing.assert_close(both, -torch.stack(answers).squeeze(2))
    assert both.shape == noisy.shape


def test_z_image_captions_of_any_length_share_a_batch(tiny_models):
    import torch
    from likeness.families.family import Conditioning

    _, family, pipeline = opened("z-image", tiny_models)
    noisy, times = torch.randn(2, 16, 8, 8), torch.tensor([250.0, 900.0])
    with torch.no_grad():
        parts = [family.encode_text(pipeline, [text]) for text in ("a cat", "a red dog " * 9)]
        extra = tuple(
            (name, torch.cat([dict(part.extra)[name] for part in parts]))
            for name, _ in parts[0].extra
        )
        stacked = Conditioning(torch.cat([part.embeddings for part in parts]), extra)
        both = family.predict(pipeline, noisy, times, stacked)
        for index, part in enumerate(parts):
            rows = slice(index, index + 1)
            alone = family.predict(pipeline, noisy[rows], times[rows], part)
            torch.testing.assert_close(both[rows], alone, rtol=1e-4, atol=1e-5)


# -- latents ---------------------------------------------------------------------------------------


def test_flux_latents_are_packed_and_unpacked_alike(tiny_models):
    import torch
    from diffusers import FluxPipeline

    _, family, pipeline = opened("flux", tiny_models)
    latents = torch.randn(2, 16, 6, 10)
    packed = FluxPipeline._pack_latents(latents, 2, 16, 6, 10)
    assert packed.shape == (2, 15, 64)
    assert torch.equal(family.latent_picture(pipeline, packed, 80, 48), latents)


def test_latents_are_shifted_before_they_are_scaled(model):
    import torch

    _, family, pipeline = model
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        mean, deviation = family.encode_pixels(pipeline, pixels)
        posterior = pipeline.vae.encode(pixels).latent_dist
    config = pipeline.vae.config
    restored = mean / config.scaling_factor + config.shift_factor
    torch.testing.assert_close(restored, posterior.mean)
    torch.testing.assert_close(deviation / config.scaling_factor, posterior.std)
