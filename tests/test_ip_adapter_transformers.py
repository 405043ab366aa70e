"""IP-Adapters on FLUX (XLabs' layout) and SD 3 (InstantX'): the pixels of plain diffusers."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import Picture, ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

from .ip_adapter_models import (
    ENCODER,
    flux_adapter,
    half,
    photo,
    picture,
    save,
    sd3_adapter,
    siglip,
)
from .plain_references import plain_pipeline

SETTINGS = {"steps": 2, "guidance": 3.0, "seed": 5, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def cache():
    return Pipelines("cpu")


@pytest.fixture(scope="module")
def flux(tiny_models, tmp_path_factory):
    """The base model's folder and two adapters, one in XLabs' own names, one pickled."""
    folder, base = tmp_path_factory.mktemp("flux"), str(tiny_models("flux"))
    transformer = plain_pipeline(base).transformer
    one = save(flux_adapter(transformer, 1), folder / "one.safetensors", xlabs=True)
    two = save(flux_adapter(transformer, 2), folder / "two.bin")
    return base, [describe_adapter(path, ENCODER) for path in (one, two)]


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    siglip().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd3(tiny_models, tmp_path_factory, siglip_folder):
    """The base model's folder and an adapter."""
    folder, base = tmp_path_factory.mktemp("sd3"), str(tiny_models("sd3"))
    path = save(sd3_adapter(plain_pipeline(base).transformer), folder / "adapter.bin")
    return base, describe_adapter(path, siglip_folder)


def draw(cache, folder, *uses, negative="", **settings):
    sources = {name: settings.pop(name) for name in ("image", "mask") if name in settings}
    sampling = Sampling("a red cat", negative, **{**SETTINGS, **settings})
    spec = PipelineSpec(base_model(folder), references=uses)
    return [image.tobytes() for image in generate(cache, spec, sampling, **sources)]


def called(pipeline, count=1, **arguments):
    found = pipeline(
        prompt=["a red cat"] * count,
        num_inference_steps=2,
        guidance_scale=3.0,
        width=64,
        height=64,
        generator=[torch.Generator().manual_seed(5 + index) for index in range(count)],
        **arguments,
    ).images
    return [image.tobytes() for image in found]


def plain_flux(base, adapters, images, scale, task="text", **arguments):
    pipeline = plain_pipeline(base, task, tuple(adapter.path for adapter in adapters))
    pipeline.set_ip_adapter_scale(scale)
    return called(pipeline, ip_adapter_image=images, max_sequence_length=512, **arguments)


def test_flux(cache, flux):
    base, (one, two) = flux
    assert (one.family, one.kind) == (two.family, two.kind) == ("flux", "base")
    ours = draw(cache, base, ReferenceUse(one, (picture(1),), 0.7))
    assert ours == plain_flux(base, [one], [photo(1)], 0.7)
    assert ours != draw(cache, base)


def test_flux_with_two_adapters_and_two_pictures(cache, flux):
    base, (one, two) = flux
    uses = [ReferenceUse(one, (picture(1), picture(2)), 0.7), ReferenceUse(two, (picture(3),), 0.4)]
    ours = draw(cache, base, *uses, count=2)
    assert one.path < two.path
    images = [[photo(1), photo(2)], photo(3)]
    # diffusers makes the unseen negative of one picture for each adapter: no say in the result.
    assert ours == plain_flux(base, [one, two], images, [0.7, 0.4], count=2)
    assert ours == draw(cache, base, *reversed(uses), count=2)


def test_flux_weighs_blocks(cache, flux):
    base, (one, _) = flux
    ours = draw(cache, base, ReferenceUse(one, (picture(1),), blocks=(("double.0", 0.25),)))
    assert ours == plain_flux(base, [one], [photo(1)], [[0.25, 1.0]])


def test_flux_inside_a_window(cache, flux):
    base, (one, _) = flux
    nothing = ReferenceUse(one, (picture(1),), start=0.1, end=0.4)
    assert draw(cache, base, nothing) == draw(cache, base)


def test_flux_from_a_picture(cache, flux):
    base, (one, _) = flux
    source = photo(9, (64, 64))
    ours = draw(cache, base, ReferenceUse(one, (picture(1),), 0.7), image=source, denoise=1.0)
    theirs = plain_flux(base, [one], [photo(1)], 0.7, "image", image=source, strength=1.0)
    assert ours == theirs != draw(cache, base, image=source, denoise=1.0)


@pytest.mark.parametrize("task", ["text", "image"])
def test_sd3(cache, sd3, siglip_folder, task):
    from transformers import SiglipImageProcessor, SiglipVisionModel

    base, adapter = sd3
    assert (adapter.family, adapter.kind) == ("sd3", "plus")
    pipeline = plain_pipeline(base, task, (adapter.path,))
    pipeline.image_encoder = SiglipVisionModel.from_pretrained(siglip_folder, dtype=torch.float32)
    pipeline.feature_extractor = SiglipImageProcessor(size={"height": 64, "width": 64})
    pipeline.set_ip_adapter_scale(0.6)
    source = photo(9, (64, 64))
    given = {"image": [source] * 2, "strength": 1.0} if task == "image" else {}
    theirs = called(pipeline, 2, negative_prompt=["blue"] * 2, ip_adapter_image=photo(1), **given)
    given = {"image": source} if task == "image" else {}
    use = ReferenceUse(adapter, (picture(1),), 0.6)
    ours = draw(cache, base, use, negative="blue", count=2, **given)
    assert ours == theirs != draw(cache, base, negative="blue", count=2, **given)


def test_sd3_inside_a_window(cache, sd3):
    base, adapter = sd3
    use = ReferenceUse(adapter, (picture(1),), start=0.1, end=0.4)
    assert draw(cache, base, use) == draw(cache, base)


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_the_denoiser_is_as_before(cache, request, name):
    base, adapter = request.getfixturevalue(name)
    adapter = adapter[0] if isinstance(adapter, list) else adapter
    with cache.open(base_model(base)) as live:
        transformer = live.pipeline.transformer
        layers = [each for each in transformer.modules() if hasattr(each, "processor")]
        processors = [layer.processor for layer in layers]
        told = dict(vars(transformer.config))
    draw(cache, base, ReferenceUse(adapter, (picture(1),)))
    assert all(layer.processor is before for layer, before in zip(layers, processors, strict=True))
    assert not hasattr(transformer, "image_proj")
    assert not hasattr(transformer, "encoder_hid_proj")
    assert vars(transformer.config) == told


def test_what_they_cannot_do_is_refused(cache, flux, sd3):
    base, (one, _) = flux
    with pytest.raises(ValueError, match="masks for IP-Adapters work with Stable Diffusion and"):
        draw(cache, base, ReferenceUse(one, (picture(1),), mask=Picture.of(half())))
    base, adapter = sd3
    with pytest.raises(ValueError, match="one reference picture and gets 2; combine them by av"):
        draw(cache, base, ReferenceUse(adapter, (picture(1), picture(2))))
    with pytest.raises(ValueError, match="SD 3 takes one IP-Adapter at a time"):
        draw(cache, base, *[ReferenceUse(adapter, (picture(seed),)) for seed in (1, 2)])
    average = ReferenceUse(adapter, (picture(1), picture(2)), combine="average")
    assert draw(cache, base, average) != draw(cache, base)


def test_a_model_without_ip_adapters_says_which_have_them(cache, tiny_models, flux):
    use = ReferenceUse(flux[1][0], (picture(1),))
    with pytest.raises(ValueError, match=r"cannot be used with Z-Image.*SD 3 and FLUX"):
        draw(cache, tiny_models("z-image"), use)
