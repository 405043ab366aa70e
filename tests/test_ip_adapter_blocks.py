"""Block weights and presets of IP-Adapters touch exactly the layers that they name."""

from __future__ import annotations

import pytest
import torch
from likeness.families import family_named
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ReferenceUse
from likeness.pipelines.ip_adapter.attention import hearing_layers
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.ip_adapter.live import referenced
from likeness.pipelines.ip_adapter.presets import PRESETS, layer_factors, own_blocks, preset_blocks
from likeness.pipelines.spec import PipelineSpec

from .conftest import TINY
from .ip_adapter_models import ENCODER, photo, picture, save, unet_adapter
from .plain_references import plain_pipeline


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "adapter.safetensors"
    save(unet_adapter(plain_pipeline(TINY).unet, "base", 4), path)
    return describe_adapter(path, ENCODER)


@pytest.fixture(scope="module")
def published():
    """Denoisers laid out as the published ones, without weights."""
    from diffusers import UNet2DConditionModel
    from likeness.pipelines.sources import CONFIGS, read_json

    def make(variant):
        with torch.device("meta"):
            config = read_json(CONFIGS / variant / "unet" / "config.json")
            return UNet2DConditionModel.from_config(config)

    return {"sdxl": make("sdxl-base"), "stable-diffusion": make("sd1")}


TOUCHED = {
    ("sdxl", "style only"): ({"up_blocks.0.attentions.1"}, 10),
    ("sdxl", "layout only"): ({"down_blocks.2.attentions.1"}, 10),
    ("sdxl", "style and layout"): ({"up_blocks.0.attentions.1", "down_blocks.2.attentions.1"}, 20),
    ("stable-diffusion", "style only"): ({f"up_blocks.1.attentions.{i}" for i in range(3)}, 3),
    ("stable-diffusion", "layout only"): (
        {"down_blocks.2.attentions.0", "down_blocks.2.attentions.1", "mid_block.attentions.0"},
        3,
    ),
}


@pytest.mark.parametrize(("family", "preset"), TOUCHED)
def test_presets_touch_the_layers_that_they_name(published, family, preset):
    unet = published[family]
    layers = hearing_layers(unet)
    assert len(layers) == {"sdxl": 70, "stable-diffusion": 16}[family]
    factor = layer_factors(preset_blocks(preset, family), family_named(family), unet, layers)
    touched = [layer for layer in layers if factor(layer)]
    places, count = TOUCHED[family, preset]
    assert {layer.partition(".transformer_blocks")[0] for layer in touched} == places
    assert len(touched) == count
    assert {factor(layer) for layer in touched} == {1.0}


@pytest.mark.parametrize("family", ["sdxl", "stable-diffusion", "sd3", "flux"])
def test_all_is_everywhere(family):
    assert preset_blocks("all", family) == ()


def test_the_pixels_of_plain_diffusers_with_a_preset(pipelines, adapter):
    blocks = preset_blocks("style only", "stable-diffusion")
    ours = drawn(pipelines, ReferenceUse(adapter, (picture(1),), 0.9, blocks=blocks))
    theirs = plain(adapter, {"up": {"block_1": [0.9, 0.9]}})
    assert ours == theirs != plain(adapter, 0.9)


def test_the_pixels_of_plain_diffusers_with_factors(pipelines, adapter):
    blocks = own_blocks("down.1=0.5, mid=2, *=0.25")
    ours = drawn(pipelines, ReferenceUse(adapter, (picture(1),), 1.0, blocks=blocks))
    scale = {"down": {"block_1": 0.5, "block_2": 0.25}, "mid": 2.0, "up": 0.25}
    assert ours == plain(adapter, scale)


def drawn(pipelines, use):
    sampling = Sampling("a red star", steps=2, guidance=3.0, seed=5)
    spec = PipelineSpec(base_model(TINY), references=(use,))
    return generate(pipelines, spec, sampling)[0].tobytes()


def plain(adapter, scale):
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    pipeline.set_ip_adapter_scale(scale)
    generator = torch.Generator().manual_seed(5)
    return (
        pipeline(
            prompt=["a red star"],
            negative_prompt=[""],
            ip_adapter_image=[photo(1)],
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=generator,
        )
        .images[0]
        .tobytes()
    )


def test_layers_outside_hear_nothing(pipelines, tiny_base, adapter):
    blocks = own_blocks("up_blocks.0.attentions.1=0.5, *=0")
    use = ReferenceUse(adapter, (picture(1),), 0.8, blocks=blocks)
    with (
        pipelines.open(tiny_base) as live,
        referenced(pipelines, live, [use], (64, 64), 3.0) as references,
    ):
        references.before_step(0, 4)
        unet = live.pipeline.unet
        scales = {
            layer: unet.get_submodule(layer).processor.scale[0] for layer in hearing_layers(unet)
        }
    assert {layer for layer, scale in scales.items() if scale} == {
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2"
    }
    assert max(scales.values()) == 0.4


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (own_blocks("double.0=1"), "'double.0' matches no block of this Stable Diffusion"),
        (preset_blocks("layout only", "sdxl"), "no attention to pictures in 'down_blocks.2.att"),
        (own_blocks("up_blocks.2=1, *=0"), "no attention to pictures in 'up_blocks.2'"),
    ],
)
def test_blocks_that_a_model_lacks(pipelines, adapter, blocks, message):
    with pytest.raises(ValueError, match=message):
        drawn(pipelines, ReferenceUse(adapter, (picture(1),), blocks=blocks))


def test_presets_that_say_nothing_about_a_family():
    with pytest.raises(ValueError, match="'style only': which layers of flux carry style"):
        preset_blocks("style only", "flux")
    with pytest.raises(ValueError, match=f"use one of {', '.join(PRESETS)}"):
        preset_blocks("styel", "sdxl")


def test_own_factors_are_patterns_or_paths():
    text = "down=0.5, up_blocks.0.attentions.1 = 0.25; double.0-9=1\n*=0"
    assert own_blocks(text) == (
        ("up_blocks.0.attentions.1", 0.25),
        ("down", 0.5),
        ("double.0-9", 1.0),
        ("*", 0.0),
    )
    with pytest.raises(ValueError, match=r"'up_blocks.0.attentions=x' cannot be read"):
        own_blocks("up_blocks.0.attentions=x")
    with pytest.raises(ValueError, match="'mid_block' stands there twice"):
        own_blocks("mid_block=1, mid_block=0")
