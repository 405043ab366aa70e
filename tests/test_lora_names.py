"""Every spelling of a layer's name finds that layer, in every family, and diffusers' converters
agree.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from likeness.families import family_named
from likeness.pipelines.loading import LivePipeline
from likeness.pipelines.lora.files import LoraPair, read_lora, write_lora
from likeness.pipelines.lora.keys import LayerNames, components_of, dotted_prefixes, file_path
from likeness.pipelines.lora.parts import change_from
from likeness.pipelines.lora.source import split_key
from likeness.pipelines.lora.words import module_path, with_dots
from likeness.pipelines.spec import BaseModel
from safetensors.torch import load_file, save_file

from . import lora_models
from .lora_models import (
    ALL,
    assert_same,
    deltas,
    diffusers_deltas,
    layers,
    random_lora,
)

live_models = lora_models.live_models
MODELS = (*ALL, "sd2-v", "sdxl-refiner", "sd3.5-medium", "sd3-without-t5")


def place(live, name):
    target = LayerNames(live).find(name)
    return target and (target.attribute, [rows.module for rows in target.rows])


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_found_under_every_prefix(live_models, name):
    live = live_models(name)
    names = LayerNames(live)
    count = 0
    for component, path, _ in layers(live):
        spellings = [prefix + path.replace(".", "_") for prefix in component.kohya_prefixes]
        spellings += [
            prefix + spelling
            for prefix in dotted_prefixes(component)
            for spelling in (path, file_path(component, path))
            if prefix
        ]
        joined = file_path(component, path).replace(".", "_")
        spellings += [prefix + joined for prefix in component.kohya_prefixes]
        for spelling in spellings:
            found = names.find(spelling)
            assert found, spelling
            assert (found.attribute, found.rows[0].module) == (component.attribute, path), spelling
            count += 1
    assert count > 100


@pytest.mark.parametrize("name", MODELS)
def test_words_lead_back_from_underscores_to_paths(live_models, name):
    """Without a model at hand, on every module with weights of the real classes."""
    live = live_models(name)
    for component in components_of(live.family):
        root = getattr(live.pipeline, component.attribute, None)
        for path, module in root.named_modules() if root else ():
            if getattr(module, "weight", None) is None:
                continue
            for spelling in {path, file_path(component, path)}:
                dotted = with_dots(spelling.replace(".", "_"), component.attribute)
                assert dotted == spelling
                assert module_path(spelling, component.attribute) == spelling


@pytest.mark.parametrize("name", MODELS)
def test_names_of_the_original_code_cover_all_layers(live_models, name):
    """A file in the original's names can say every layer that a LoRA may change."""
    live = live_models(name)
    names = LayerNames(live)
    component = live.family.denoiser
    original = live.family.original_names(live.pipeline, component.attribute)
    reached = set()
    for dotted, rows in original.items():
        for spelling in (
            f"diffusion_model.{dotted}",
            f"lora_unet_{dotted.replace('.', '_')}",
        ):
            found = names.find(spelling)
            if found is not None:
                assert found.rows == rows, spelling
                reached |= {row.module for row in found.rows}
    own = {path for part, path, _ in layers(live) if part is component}
    same = {path for path in own if names.find(f"diffusion_model.{path}")}
    assert own <= reached | same


def test_names_of_former_diffusers_versions(live_models):
    live = live_models("sdxl")
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    assert place(live, f"unet.{attention}.processor.to_q") == ("unet", [f"{attention}.to_q"])
    for last in ("to_out.0", "to_out", "to_out_0", "processor.to_out"):
        assert place(live, f"unet.{attention}.{last}") == ("unet", [f"{attention}.to_out.0"])
    text = "text_encoder_2.text_model.encoder.layers.0.self_attn"
    ours = "text_model.encoder.layers.0.self_attn"
    assert place(live, f"{text}.to_q") == ("text_encoder_2", [f"{ours}.q_proj"])
    assert place(live, f"{text}.to_out") == ("text_encoder_2", [f"{ours}.out_proj"])


def test_pefts_names_say_their_component_by_their_folder(live_models, tmp_path):
    live = live_models("sdxl")
    weights = random_lora(live, parts=("text_encoder", "text_encoder_2"))
    folder = write_lora(tmp_path / "x.safetensors", weights, live.family, {}, "peft")
    for attribute, changes in weights.items():
        read = read_lora(folder / attribute / "adapter_model.safetensors", live)
        assert {attribute: set(changes)} == {name: set(found) for name, found in read.items()}
    lost = tmp_path / "adapter_model.safetensors"
    lost.write_bytes((folder / "text_encoder_2" / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="text_encoder or text_encoder_2"):
        read_lora(lost, live)


def spelled(weights, live, spell, down, up, alpha=True):
    """The tensors of a file in which `spell(component, module)` names the layers."""
    tensors = {}
    by_name = {component.attribute: component for component in components_of(live.family)}
    for attribute, changes in weights.items():
        for path, pair in changes.items():
            name = spell(by_name[attribute], path)
            tensors[name + down], tensors[name + up] = pair.down, pair.up
            if alpha:
                tensors[f"{name}.alpha"] = torch.tensor(pair.alpha)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


KOHYA = (".lora_down.weight", ".lora_up.weight")


def in_original_names(live, seed=0, prefix="lora_unet_", suffixes=KOHYA, wanted=None):
    """A LoRA on the denoiser's layers as the original code divides them."""
    generator = torch.Generator().manual_seed(seed)
    component = live.family.denoiser
    root = live.component(component.attribute)
    trained = {path for part, path, _ in layers(live) if part is component}
    tensors = {}
    for dotted, rows in live.family.original_names(live.pipeline, component.attribute).items():
        if not {row.module for row in rows} <= trained or (wanted and not wanted(dotted)):
            continue
        shape = root.get_submodule(rows[0].module).weight.shape
        out = sum(row.source[1] - row.source[0] for row in rows) if rows[0].source else shape[0]
        name = prefix + (dotted if prefix.endswith(".") else dotted.replace(".", "_"))
        tensors[name + suffixes[0]] = torch.randn(4, *shape[1:], generator=generator)
        tensors[name + suffixes[1]] = 0.1 * torch.randn(
            out, 4, *[1] * (len(shape) - 2), generator=generator
        )
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    return tensors


def test_kohyas_sdxl_blocks_read_as_diffusers_reads_them(live_models, tmp_path):
    live = live_models("sdxl")
    tensors = in_original_names(live)
    assert any("input_blocks" in key for key in tensors)
    assert any("output_blocks" in key for key in tensors)
    save_file(tensors, tmp_path / "sgm.safetensors")
    ours = deltas(read_lora(tmp_path / "sgm.safetensors", live), live)
    theirs = diffusers_deltas(live, tmp_path / "sgm.safetensors", ("unet",))
    assert_same(ours, {name: delta for name, delta in theirs.items() if delta.any()}, 1e-5)
    assert len(ours) == len(tensors) / 3


def test_fused_layers_of_z_image_read_as_diffusers_reads_them(live_models, tmp_path):
    live = live_models("z-image")
    tensors = in_original_names(live, wanted=lambda name: name.endswith(("qkv", "attention.out")))
    assert any(key.endswith("qkv.lora_up.weight") for key in tensors)
    save_file(tensors, tmp_path / "z.safetensors")
    ours = deltas(read_lora(tmp_path / "z.safetensors", live), live)
    theirs = diffusers_deltas(live, tmp_path / "z.safetensors", ("transformer",))
    assert_same(ours, {name: delta for name, delta in theirs.items() if delta.any()}, 1e-5)
    assert len(ours) == len(tensors) / 3 * 2  # qkv is three of ours, out is one


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
def test_fused_layers_of_flux_read_as_diffusers_converts_them(tmp_path, prefix):
    """With the widths of the real model, which diffusers' converter takes for granted."""
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    pipeline = SimpleNamespace(transformer=transformer, text_encoder=None, text_encoder_2=None)
    live = LivePipeline(BaseModel("flux", "flux"), family_named("flux"), pipeline, "cpu", 0)
    blocks = ("double_blocks.", "single_blocks.")
    tensors = in_original_names(
        live, prefix=prefix, wanted=lambda name: name.startswith(blocks) and "_qkv" not in name
    )
    assert len(tensors) == 3 * 10
    save_file(tensors, tmp_path / "flux.safetensors")
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    ours = read_lora(tmp_path / "flux.safetensors", live)["transformer"]
    assert {f"transformer.{path}" for path in ours} == {
        key.rpartition(".lora_")[0] for key in theirs
    }
    for path, change in ours.items():
        down, up, factor = change.low_rank()
        probe = torch.linspace(-1, 1, down.shape[1])
        a, b = (theirs[f"transformer.{path}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(
            factor * (up @ (down @ probe)), b @ (a @ probe), rtol=1e-4, atol=1e-5
        )


def test_the_last_modulation_of_flux_changes_places(live_models, tmp_path):
    """The original gives shift and scale, diffusers scale and shift: rows swap."""
    live = live_models("flux")
    weight = live.component("transformer").norm_out.linear.weight
    up, down = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
    name = "lora_unet_final_layer_adaLN_modulation_1"
    save_file(
        {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, tmp_path / "x.safetensors"
    )
    change = read_lora(tmp_path / "x.safetensors", live)["transformer"]["norm_out.linear"]
    shift, scale = (up @ down).chunk(2)
    torch.testing.assert_close(change.delta(weight), torch.cat([scale, shift]))


def test_old_diffusers_files_read_as_diffusers_reads_them(live_models, tmp_path):
    live = live_models("stable-diffusion")
    weights = random_lora(live)
    attention = {
        part: {path: pair for path, pair in changes.items() if "attn" in path}
        for part, changes in weights.items()
    }
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}

    def spell(component, path):
        path = file_path(component, path)
        head, _, last = path.removesuffix(".0").rpartition(".")
        middle = "" if component.attribute == "text_encoder" else ".processor"
        return f"{component.attribute}.{head}{middle}.{old.get(last, last)}_lora"

    tensors = spelled(attention, live, spell, ".down.weight", ".up.weight", alpha=False)
    assert (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight"
        in tensors
    )
    save_file(tensors, tmp_path / "old.safetensors")
    ours = deltas(read_lora(tmp_path / "old.safetensors", live), live)
    theirs = diffusers_deltas(live, tmp_path / "old.safetensors")
    assert_same(ours, {name: delta for name, delta in theirs.items() if delta.any()}, 1e-5)


def test_xlabs_files_are_read_through_diffusers_own_converter(live_models, tmp_path):
    live = live_models("flux")
    width = live.component("transformer").inner_dim
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in ("double_blocks.0.processor.qkv_lora1", "double_blocks.0.processor.qkv_lora2"):
        tensors[f"{block}.down.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{block}.up.weight"] = torch.randn(3 * width, 4, generator=generator)
    for block in ("double_blocks.0.processor.proj_lora1", "double_blocks.0.processor.proj_lora2"):
        tensors[f"{block}.down.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{block}.up.weight"] = torch.randn(width, 4, generator=generator)
    save_file(tensors, tmp_path / "xlabs.safetensors")
    ours = deltas(read_lora(tmp_path / "xlabs.safetensors", live), live)
    theirs = diffusers_deltas(live, tmp_path / "xlabs.safetensors", ("transformer",))
    assert_same(ours, {name: delta for name, delta in theirs.items() if delta.any()}, 1e-5)
    assert len(ours) == 8


def test_a_file_from_comfyuis_own_trainer_changes_norms_and_biases_too(live_models, tmp_path):
    """`diffusion_model.` and the original's paths; norms as `.diff`, biases as `.diff_b`."""
    live = live_models("stable-diffusion")
    unet = live.component("unet")
    tensors = in_original_names(live, prefix="diffusion_model.")
    block = "diffusion_model.input_blocks.1.1"
    ours = "down_blocks.0.attentions.0"
    norm = unet.get_submodule(f"{ours}.transformer_blocks.0.norm1")
    tensors[f"{block}.transformer_blocks.0.norm1.diff"] = torch.full_like(norm.weight, 0.5)
    tensors[f"{block}.transformer_blocks.0.norm1.diff_b"] = torch.full_like(norm.bias, 0.25)
    tensors[f"{block}.proj_in.diff_b"] = torch.full_like(
        unet.get_submodule(f"{ours}.proj_in").bias, 2.0
    )
    save_file(tensors, tmp_path / "trained.safetensors")
    changes = read_lora(tmp_path / "trained.safetensors", live)["unet"]
    change = changes[f"{ours}.transformer_blocks.0.norm1"]
    assert torch.equal(change.delta(norm.weight), torch.full_like(norm.weight, 0.5))
    assert (change.bias == 0.25).all()
    assert (changes[f"{ours}.proj_in"].bias == 2.0).all()
    assert changes[f"{ours}.proj_in"].low_rank() is not None


def test_layers_for_an_absent_text_encoder_are_left_out_not_refused(live_models, tmp_path, caplog):
    with_t5, without = live_models("sd3"), live_models("sd3-without-t5")
    weights = random_lora(with_t5)
    path = write_lora(tmp_path / "x.safetensors", weights, with_t5.family, {})
    read = read_lora(path, without)
    assert set(read) == set(weights) - {"text_encoder_3"}
    assert "for a part that this model lacks" in caplog.text


def test_an_embedding_inside_is_listed_not_an_error(live_models, tmp_path, caplog):
    live = live_models("stable-diffusion")
    path = write_lora(tmp_path / "x.safetensors", random_lora(live), live.family, {})
    tensors = load_file(path) | {"bundle_emb.dog.string_to_param.*": torch.ones(2, 768)}
    save_file(tensors, path)
    assert set(read_lora(path, live)) == {"unet", "text_encoder"}
    assert "bundle_emb.dog" in caplog.text


def test_one_layer_under_two_names_is_taken_once_or_refused(live_models, tmp_path):
    live = live_models("stable-diffusion")
    name, dotted = "lora_unet_conv_in", "unet.conv_in"
    shape = live.component("unet").conv_in.weight.shape
    down, up = torch.randn(2, *shape[1:]), torch.randn(shape[0], 2, 1, 1)
    twice = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{dotted}.lora_A.weight": down.clone(),
        f"{dotted}.lora_B.weight": up.clone(),
    }
    save_file(twice, tmp_path / "twice.safetensors")
    (change,) = read_lora(tmp_path / "twice.safetensors", live)["unet"].values()
    torch.testing.assert_close(
        change.delta(torch.zeros(shape)), LoraPair(down, up, 2.0).delta(torch.zeros(shape))
    )
    save_file(twice | {f"{dotted}.lora_B.weight": up * 2}, tmp_path / "twice.safetensors")
    with pytest.raises(ValueError, match=r"changes unet\.conv_in twice"):
        read_lora(tmp_path / "twice.safetensors", live)


def test_alpha_of_a_peft_configuration_counts(live_models, tmp_path):
    """Neither the file's weights nor its names say it: only the configuration does."""
    live = live_models("stable-diffusion")
    weights = random_lora(live, alpha=4.0, parts=("unet",))  # as if alpha were the rank
    path = write_lora(tmp_path / "plain.safetensors", weights, live.family, {}, "diffusers")
    plain = deltas(read_lora(path, live), live)
    config = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"conv_in": 2}}
    config["unet.use_rslora"] = False
    for rslora, factor in ((False, 2.0), (True, 4.0)):
        config["unet.use_rslora"] = rslora
        save_file(
            load_file(path),
            tmp_path / "x.safetensors",
            {"lora_adapter_metadata": json.dumps(config)},
        )
        scaled = deltas(read_lora(tmp_path / "x.safetensors", live), live)
        assert_same(scaled, {name: delta * factor for name, delta in plain.items()})


@pytest.mark.parametrize("name", ["flux", "sd3", "z-image"])
@pytest.mark.parametrize("method", ["loha", "lokr", "dora", "diff"])
def test_every_method_on_a_fused_layer_of_the_original(live_models, name, method, tmp_path):
    """Computed on the whole original weight, its rows are what our parts get."""
    live = live_models(name)
    component = live.family.denoiser
    root = live.component(component.attribute)
    dotted, rows = next(
        (dotted, rows)
        for dotted, rows in live.family.original_names(live.pipeline, component.attribute).items()
        if dotted.endswith("qkv") and len(rows) == 3
    )
    whole = torch.cat([root.get_submodule(row.module).weight for row in rows]).detach()
    out, inner = whole.shape
    g = torch.Generator().manual_seed(0)
    halves = {"a": (out, 3), "b": (3, inner)}
    low = {"lora_down.weight": (3, inner), "lora_up.weight": (out, 3)}
    sizes = {
        "loha": {f"hada_w{n}_{s}": size for n in (1, 2) for s, size in halves.items()},
        "lokr": {"lokr_w1": (3, 4), "lokr_w2": (out // 3, inner // 4)},
        "dora": low | {"dora_scale": (out, 1)},
        "diff": {"diff": (out, inner)},
    }[method]
    tensors = {part: torch.randn(size, generator=g) for part, size in sizes.items()}
    roles = {split_key(f"x.{part}")[1]: tensor for part, tensor in tensors.items()}
    want = change_from(roles).delta(whole).split([row.source[1] - row.source[0] for row in rows])
    file = tmp_path / "x.safetensors"
    save_file({f"diffusion_model.{dotted}.{part}": t for part, t in tensors.items()}, file)
    read = deltas(read_lora(file, live), live)
    modules = [f"{component.attribute}.{row.module}" for row in rows]
    assert_same(read, dict(zip(modules, want, strict=True)), 2e-6)

    if method == "dora":
        tensors["dora_scale"] = torch.ones(1, inner)
        save_file({f"diffusion_model.{dotted}.{part}": t for part, t in tensors.items()}, file)
        with pytest.raises(ValueError, match="norms run over a layer that the model here keeps"):
            read_lora(file, live)
