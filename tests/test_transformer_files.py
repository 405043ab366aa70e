"""Files of the transformer families: original names, published sizes, look-alikes."""

from __future__ import annotations

import json
import types
from functools import cache
from pathlib import Path

import pytest

from .family_table import File
from .test_family_transformers import model_fixture, opened  # noqa: F401 (fixtures)
from .tiny_transformers import TRANSFORMERS, original_transformer

PUBLISHED = {
    ("sd3-medium", "transformer"): 2_028_328_000,
    ("sd3.5-medium", "transformer"): 2_243_171_520,
    ("sd3.5-large", "transformer"): 8_056_627_520,
    ("flux-dev", "transformer"): 11_901_408_320,
    ("flux-schnell", "transformer"): 11_891_178_560,
    ("z-image", "transformer"): 6_154_908_736,
    ("sd3-medium", "text_encoder"): 123_650_304,
    ("sd3-medium", "text_encoder_2"): 694_659_840,
    ("flux-dev", "text_encoder"): 123_060_480,
    ("flux-dev", "text_encoder_2"): 4_762_310_656,
    ("z-image", "text_encoder"): 4_022_468_096,
    ("flux-dev", "vae"): 83_819_683,
}
"""(variant, component) → number of parameters of the published model."""


# -- names -----------------------------------------------------------------------------------------


def converted_by_diffusers(tensors, family, width):
    """The original's tensors as diffusers' own converter names and cuts them."""
    from diffusers.loaders import single_file_utils as converters

    if family == "flux":
        # Written for a width of 3072, which is a constant of its code.
        convert = converters.convert_flux_transformer_checkpoint_to_diffusers
        constants = convert.__code__.co_consts
        assert constants.count(3072) == 1
        code = convert.__code__.replace(
            co_consts=tuple(width if constant == 3072 else constant for constant in constants)
        )
        return types.FunctionType(code, convert.__globals__)(dict(tensors))
    kind = family.replace("-", "_")
    convert = getattr(converters, f"convert_{kind}_transformer_checkpoint_to_diffusers")
    return convert(dict(tensors))


def test_the_original_names_are_those_of_diffusers_own_converter(model):
    import torch

    _, family, pipeline = model
    ours = pipeline.transformer.state_dict()
    config = pipeline.transformer.config
    original = original_transformer(ours, config, family.name)
    assert original.keys() != ours.keys()
    width = getattr(pipeline.transformer, "inner_dim", 0)
    theirs = converted_by_diffusers(original, family.name, width)
    back = family.convert("transformer", dict(original), config)
    for found in (theirs, back):
        assert found.keys() == ours.keys()
        assert [name for name in ours if not torch.equal(ours[name], found[name])] == []


def test_parts_of_a_fused_weight_are_views_of_the_file(model):
    _, family, pipeline = model
    config = pipeline.transformer.config
    original = original_transformer(pipeline.transformer.state_dict(), config, family.name)
    storages = {tensor.untyped_storage().data_ptr() for tensor in original.values()}
    found = family.convert("transformer", dict(original), config)
    copied = [
        name
        for name, tensor in found.items()
        if tensor.untyped_storage().data_ptr() not in storages
    ]
    # Only a modulation whose halves change places cannot be a view.
    assert all("norm_out" in name or "norm1_context" in name for name in copied), copied


def test_flux_files_may_call_a_norms_weight_weight_or_scale(tiny_models):
    import torch

    _, family, pipeline = opened("flux", tiny_models)
    ours = pipeline.transformer.state_dict()
    original = original_transformer(ours, pipeline.transformer.config, "flux")
    assert any(name.endswith("query_norm.scale") for name in original)
    newer = {name.replace("_norm.scale", "_norm.weight"): t for name, t in original.items()}
    found = family.convert("transformer", newer, pipeline.transformer.config)
    assert found.keys() == ours.keys() and all(torch.equal(found[n], ours[n]) for n in ours)
    assert family.identify(File(newer)) == family.identify(File(original))


# -- which model is it? ----------------------------------------------------------------------------


@cache
def on_meta(variant, part):
    """A component of a published model without its weights."""
    import diffusers
    import likeness.families as families
    import torch
    import transformers

    folder = Path(families.__file__).parent / "configs" / variant
    library, kind = json.loads((folder / "model_index.json").read_text())[part]
    config = json.loads((folder / part / "config.json").read_text())
    cls = getattr({"diffusers": diffusers, "transformers": transformers}[library], kind)
    with torch.device("meta"):
        if library == "diffusers":
            return cls.from_config(config)
        return cls(cls.config_class.from_dict(config))


@pytest.mark.parametrize(("variant", "part"), PUBLISHED)
def test_the_configurations_make_the_published_models(variant, part):
    module = on_meta(variant, part)
    assert sum(p.numel() for p in module.parameters()) == PUBLISHED[variant, part]


@pytest.mark.parametrize("variant", [v for v, part in PUBLISHED if part == "transformer"])
def test_a_published_file_differs_in_nothing_from_its_configuration(variant):
    from likeness.families import FAMILIES

    transformer = on_meta(variant, "transformer")
    family = {"flux": "flux", "z": "z-image"}.get(variant.partition("-")[0], "sd3")
    bare = original_transformer(transformer.state_dict(), transformer.config, family)
    whole = {f"model.diffusion_model.{name}": tensor for name, tensor in bare.items()}
    for tensors, prefix in ((bare, ""), (whole, "model.diffusion_model.")):
        layouts = {other.name: other.identify(File(tensors)) for other in FAMILIES}
        layout = layouts.pop(family)
        assert layout is not None and not any(layouts.values())
        assert layout.variant == variant
        assert dict(layout.prefixes) == {"transformer": prefix}
        assert layout.changes == {}


def relatives(name, original):
    """Files of other models that share most names with this one."""
    if name == "flux":
        without = {k: v for k, v in original.items() if not k.startswith("vector_in.")}
        yield (
            "chroma",
            {**without, "distilled_guidance_layer.norms.0.scale": original["txt_in.bias"]},
        )
        shared = {k: v for k, v in without.items() if "_mod.lin" not in k}
        modulation = original["double_blocks.0.img_mod.lin.weight"]
        yield "flux.2", {**shared, "double_stream_modulation_img.lin.weight": modulation}
    if name == "z-image":
        renamed = {
            k.replace("adaLN_modulation.0", "adaLN_modulation.1"): v for k, v in original.items()
        }
        yield "lumina 2", {k: v for k, v in renamed.items() if "pad_token" not in k}
        siglip = {"siglip_embedder.1.weight": original["cap_embedder.1.weight"]}
        yield "z-image omni", {**original, **siglip}
    yield "controlnet", {k: v for k, v in original.items() if not k.startswith("final_layer.")}


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_relatives_are_not_taken_for_the_family(name, tiny_models):
    from likeness.families import FAMILIES

    _, family, pipeline = opened(name, tiny_models)
    config = pipeline.transformer.config
    original = original_transformer(pipeline.transformer.state_dict(), config, name)
    assert family.identify(File(original)) is not None
    for relative, tensors in relatives(name, original):
        found = [other.name for other in FAMILIES if other.identify(File(tensors))]
        assert found == [], relative


def test_a_flux_model_that_fills_masks_says_so(tiny_models):
    import torch
    from likeness.families.family import INPAINT

    _, family, pipeline = opened("flux", tiny_models)
    config = pipeline.transformer.config
    original = original_transformer(pipeline.transformer.state_dict(), config, "flux")
    layout = family.identify(File({**original, "img_in.weight": torch.zeros(64, 384)}))
    assert layout is not None
    assert layout.changes["transformer"]["in_channels"] == 384
    assert layout.changes["transformer"]["out_channels"] == 64
    fill = types.SimpleNamespace(
        transformer=types.SimpleNamespace(config=types.SimpleNamespace(in_channels=384)),
        vae=pipeline.vae,
    )
    assert dict(family.tasks(fill)) == {INPAINT: "FluxFillPipeline"}
