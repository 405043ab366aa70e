"""What weights, long prompts and skipped layers do to the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

from .drawing import PROMPT, apart, drawer, levels, red_share


@pytest.fixture(scope="module")
def draw(pipelines, tiny_base):
    """A function from what `Sampling` and `generate` take to pictures of the bundled tiny base."""
    return drawer(pipelines, tiny_base)


def test_a_weight_draws_more_or_less_of_a_word(draw):
    prompt = "a {} star and a blue house"
    shares = [
        red_share(draw(prompt.format(word), count=6)) for word in ("(red:0.4)", "red", "(red:1.6)")
    ]
    assert shares[0] < shares[1] - 0.02
    assert shares[1] < shares[2] - 0.02


def test_weight_one_draws_the_same(draw):
    plain, weighted = draw("a red star"), draw("a (red:1.0) star")
    assert apart(plain[0], weighted[0]) < 0.1, "states may differ in the last bits"


def test_a_word_in_the_second_chunk_matters(draw):
    filler = ", ".join(["a star in the snow"] * 25)
    long = [f"{filler}, {word}" for word in ("a red star", "a blue star")]
    with_red, with_blue = (draw(prompt, count=4, steps=5) for prompt in long)
    assert red_share(with_red) > red_share(with_blue) + 0.02


def test_clip_skip_leaves_layers_out_with_and_without_weights(draw, tiny_base):
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(
        tiny_base.path, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    tokens = plain.tokenizer([PROMPT, ""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = plain.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        states = plain.text_encoder.final_layer_norm(states)
    theirs = plain(
        prompt_embeds=states[:1],
        negative_prompt_embeds=states[1:],
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert draw(steps=3, clip_skip=1)[0].tobytes() == theirs.tobytes()
    weighted = draw("a (red:1.0) star in the snow", steps=3, clip_skip=1)[0]
    assert apart(weighted, theirs) < 0.1
    assert apart(draw(steps=3)[0], theirs) > 1
    with pytest.raises(ValueError, match="clip_skip 3 cannot be used; use 0 to 2"):
        draw(clip_skip=3)


def test_clip_skip_counts_from_the_layer_that_the_model_uses(tiny_models):
    """As diffusers does for the prompt; here, as in ComfyUI, for the negative prompt as well."""
    from diffusers import StableDiffusionXLPipeline

    folder = tiny_models("sdxl")
    plain = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    read = {"do_classifier_free_guidance": False, "clip_skip": 1}
    states, _, pooled, _ = plain.encode_prompt(PROMPT, **read)
    negative, _, negative_pooled, _ = plain.encode_prompt("blue", **read)
    theirs = plain(
        prompt_embeds=states,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=negative,
        negative_pooled_prompt_embeds=negative_pooled,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    spec = PipelineSpec(base_model(folder))
    sampling = Sampling(PROMPT, "blue", steps=3, guidance=3.0, clip_skip=1)
    assert np.abs(levels(generate(Pipelines(), spec, sampling)[0]) - levels(theirs)).max() <= 2
    spec = PipelineSpec(base_model(tiny_models("flux")))
    with pytest.raises(ValueError, match="clip_skip 1 cannot be used with this model; use 0"):
        generate(Pipelines(), spec, sampling)


@pytest.mark.parametrize("model", ["sd2-v", "sdxl", "sd3", "sd3-without-t5", "flux"])
def test_every_family_reads_weights_and_long_prompts(tiny_models, model):
    cache, spec = Pipelines(), PipelineSpec(base_model(tiny_models(model)))

    def picture(prompt):
        sampling = Sampling(prompt, "(blue:1.0)", steps=3, width=64, height=64)
        return generate(cache, spec, sampling)[0]

    plain = picture("a red star")
    assert apart(picture("a (red:1.0) star"), plain) < 0.5
    assert picture("a (red:1.9) star").tobytes() != plain.tobytes()
    words = ["a", "red", "star"] * 33
    assert picture(" ".join(words)).tobytes() != picture(" ".join([*words, "snow"])).tobytes()
