"""The contract of `families/family.py`, for every family on its tiny models: which model it is, and
how LoRA files name its layers. `test_family_pictures.py` has the rest.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from .family_table import (  # noqa: F401 (a fixture)
    ALL,
    WITH_ORIGINAL,
    File,
    components_of,
    known_families,
    layers_of,
    model_fixture,
    open_tiny,
    over,
)
from .tiny_models import TINY, family_of, original_checkpoint


def test_every_family_has_a_tiny_model_and_an_original_file():
    assert known_families() <= set(TINY)
    assert known_families() <= {family_of(name) for name in WITH_ORIGINAL}


# -- which model is it? ----------------------------------------------------------------------------


@over(ALL)
def test_a_folder_is_recognised_by_its_family_alone(model):
    from likeness.families import FAMILIES

    family, folder, _ = model
    index = json.loads((folder / "model_index.json").read_text())
    assert [other.name for other in FAMILIES if other.recognises(index)] == [family.name]


def _identified(tensors, family):
    from likeness.families import FAMILIES

    file = File(tensors)
    found = {other.name: other.identify(file) for other in FAMILIES}
    assert [name for name, layout in found.items() if layout] == [family.name]
    return found[family.name]


def _config(family, layout, attribute):

    import likeness.families as families

    configs = Path(families.__file__).parent / "configs"
    config = json.loads((configs / layout.variant / attribute / "config.json").read_text())
    return {**config, **layout.changes.get(attribute, {})}


def _same(converted, module):
    import torch

    wanted = module.state_dict()
    assert converted.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(wanted[name], converted[name])]
    assert not different


@over(WITH_ORIGINAL)
def test_an_original_file_is_known_and_converted_bit_for_bit(model, request):
    family, folder, pipeline = model
    name = request.node.callspec.params["model"]
    tensors = original_checkpoint(folder, name)
    layout = _identified(tensors, family)
    assert family.denoiser.attribute in layout.prefixes
    for attribute, prefix in layout.prefixes.items():
        inside = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        converted = family.convert(attribute, inside, _config(family, layout, attribute))
        _same(converted, getattr(pipeline, attribute))


@over(ALL)
def test_the_bare_denoiser_by_its_diffusers_names_is_known(model):
    family, _, pipeline = model
    denoiser = getattr(pipeline, family.denoiser.attribute)
    layout = _identified(denoiser.state_dict(), family)
    assert dict(layout.prefixes) == {family.denoiser.attribute: ""}
    config = _config(family, layout, family.denoiser.attribute)
    _same(family.convert(family.denoiser.attribute, dict(denoiser.state_dict()), config), denoiser)
    built = type(denoiser).from_config(config)
    assert {k: v.shape for k, v in built.state_dict().items()} == {
        k: v.shape for k, v in denoiser.state_dict().items()
    }


@over(ALL)
def test_other_files_are_no_model(model):
    from likeness.families import FAMILIES

    family, _, pipeline = model
    vae = pipeline.vae.state_dict()
    denoiser = getattr(pipeline, family.denoiser.attribute)
    path, layer = next(iter(layers_of(denoiser).items()))
    lora = {f"unet.{path}.lora_A.weight": layer.weight, f"unet.{path}.lora_B.weight": layer.weight}
    for tensors in (vae, lora, {}):
        assert not any(other.identify(File(tensors)) for other in FAMILIES)


@over(ALL)
def test_tokenizers_and_architecture_are_told(model, request):
    family, _, pipeline = model
    tokenizers = {name for name in pipeline.components if name.startswith("tokenizer")}
    there = {name for name in tokenizers if pipeline.components[name] is not None}
    denoiser = getattr(pipeline, family.denoiser.attribute)
    layout = family.identify(File(denoiser.state_dict()))
    if request.node.callspec.params["model"] in TINY:
        assert set(family.tokenizers(layout.variant)) == there
    for source in family.tokenizers(layout.variant).values():
        assert source.hub or source.comfyui
    assert re.fullmatch(r"[a-z][a-z0-9.-]+", family.architecture(pipeline))


# -- LoRA ------------------------------------------------------------------------------------------


@over(ALL)
def test_targets_are_layers(model):
    family, _, pipeline = model
    for component in components_of(family, pipeline):
        layers = layers_of(getattr(pipeline, component.attribute))
        for group, pattern in component.targets:
            assert group in ("attention", "feed-forward", "convolution")
            assert any(re.fullmatch(pattern, path) for path in layers), (group, pattern)


@over(ALL)
def test_original_names_lead_to_layers(model):
    family, _, pipeline = model
    for component in components_of(family, pipeline):
        module = getattr(pipeline, component.attribute)
        weights = module.state_dict()
        for name, rows in family.original_names(pipeline, component.attribute).items():
            for part in rows:
                assert f"{part.module}.weight" in weights or f"{part.module}.bias" in weights, name
                if part.source and part.target:
                    source, target = part.source, part.target
                    assert source[1] - source[0] == target[1] - target[0]


@over(WITH_ORIGINAL)
def test_every_layer_of_the_denoiser_has_its_original_name(model, request):
    family, folder, pipeline = model
    name = request.node.callspec.params["model"]
    tensors = original_checkpoint(folder, name)
    attribute = family.denoiser.attribute
    prefix = family.identify(File(tensors)).prefixes[attribute]
    named = {}
    for original, rows in family.original_names(pipeline, attribute).items():
        for part in rows:
            named.setdefault(part.module, []).append(original)
    for path in layers_of(getattr(pipeline, attribute)):
        candidates = [path, *named.get(path, [])]
        assert any(f"{prefix}{each}.weight" in tensors for each in candidates), path


@over(ALL)
def test_lora_keys_are_unambiguous(model):
    family, _, pipeline = model
    meant: dict[str, tuple] = {}
    for component in components_of(family, pipeline):
        attribute = component.attribute
        names = dict(family.original_names(pipeline, attribute))
        layers = layers_of(getattr(pipeline, attribute))
        meanings = {path: (path,) for path in layers}
        for name, rows in names.items():
            if all(part.module in layers for part in rows):
                meanings[name] = tuple(sorted(part.module for part in rows))
        for name, modules in meanings.items():
            keys = [prefix + name.replace(".", "_") for prefix in component.kohya_prefixes]
            keys += [prefix + name for prefix in component.dotted_prefixes]
            for key in keys:
                assert meant.setdefault(key, (attribute, modules)) == (attribute, modules), key


@over(ALL)
def test_lora_prefixes_are_those_that_others_read(model):
    family, _, pipeline = model
    for component in components_of(family, pipeline):
        assert component.kohya_prefixes and component.dotted_prefixes
        assert component.dotted_prefixes[0] == f"{component.attribute}."
        assert all(prefix.endswith("_") for prefix in component.kohya_prefixes)
        assert all(prefix == "" or prefix.endswith(".") for prefix in component.dotted_prefixes)


def test_lora_signs_tell_families_apart(tiny_models):
    from likeness.families import FAMILIES

    keys = {}
    for family in FAMILIES:
        pipeline = open_tiny(str(tiny_models(family.name)), family.name)
        layers = layers_of(getattr(pipeline, family.denoiser.attribute))
        names = [*layers, *family.original_names(pipeline, family.denoiser.attribute)]
        parts = family.denoiser
        keys[family.name] = [p + name for p in parts.dotted_prefixes for name in names] + [
            p + name.replace(".", "_") for p in parts.kohya_prefixes for name in names
        ]
    for family in FAMILIES:
        signs = family.lora_signs
        assert any(sign in key for sign in signs for key in keys[family.name]), family.name
        for other, foreign in keys.items():
            if other != family.name:
                wrong = [(sign, key) for sign in signs for key in foreign if sign in key]
                assert not wrong, (family.name, other, wrong[:3])


@over(ALL)
def test_blocks_partition_the_denoiser(model):
    family, _, pipeline = model
    numbers: dict[str, set[int]] = {}
    for path in layers_of(getattr(pipeline, family.denoiser.attribute)):
        block = family.block_of(path)
        if any(re.fullmatch(pattern, path) for _, pattern in family.denoiser.targets[:1]):
            assert block, path
        kind, _, number = block.partition(".")
        numbers.setdefault(kind, set()).add(int(number or 0))
    assert len(numbers) > 1
    for kind, found in numbers.items():
        assert found == set(range(len(found))), kind
