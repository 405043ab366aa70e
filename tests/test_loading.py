"""Single files, folders and parts: the same weights, whatever they came in."""

# ruff: noqa: F811 - fixtures are imported and then arguments

from __future__ import annotations

import json
import shutil

import pytest
import torch
from likeness.families import family_named
from likeness.pipelines.base_models import base_model
from likeness.pipelines.loading import Pipelines, base_identity, file_versions
from likeness.pipelines.tensor_file import is_mapped
from safetensors.torch import load_file, save_file

from .conftest import TINY
from .loading_files import (  # noqa: F401 (fixtures)
    NAMES,
    TINY_NAMES,
    cast,
    checkpoints,
    comfyui,
    differences,
    parts_of,
    weights,
)
from .tiny_models import family_of


def loaded(base, comfyui_folder=None):
    with Pipelines(comfyui_folder=comfyui_folder).open(base) as live:
        return weights(live.pipeline)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in NAMES]
    + [(name, dtype) for name in TINY_NAMES for dtype in ("bfloat16", "float16")],
)
def test_a_folder_is_loaded_as_diffusers_does(name, dtype, tiny_models):
    import diffusers

    with Pipelines().open(base_model(tiny_models(name), dtype=dtype)) as live:
        assert live.family.name == family_of(name)
        ours, kind = weights(live.pipeline), type(live.pipeline).__name__
        for module in live.modules:
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())
    assert kind == family_named(family_of(name)).pipeline_class
    named = json.loads((tiny_models(name) / "model_index.json").read_text())["_class_name"]
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
    theirs = getattr(diffusers, named).from_pretrained(
        tiny_models(name), dtype=getattr(torch, dtype), **absent
    )
    assert not differences(ours, weights(theirs))
    mapped = {path for path, tensor in ours.items() if is_mapped(tensor)}
    parameters = {name for name, tensor in ours.items() if isinstance(tensor, torch.nn.Parameter)}
    # T5 keeps some weights in float32 beside float16: those alone rest in the float32 file.
    assert (parameters <= mapped) if dtype == "float32" else len(mapped) < len(parameters) / 2


@pytest.mark.parametrize("name", NAMES)
def test_a_single_file_is_the_folder_bit_for_bit(name, tiny_models, checkpoints, comfyui):
    base = base_model(checkpoints(name))
    assert base.family == family_of(name)
    expected = loaded(base_model(tiny_models(name)))
    found = loaded(base, comfyui(name))
    # Rotations are counted from the configuration, and Z-Image's tiny one has another base.
    unlike = differences(found, expected)
    assert not [path for path in unlike if not path.endswith("inv_freq")]
    copied = [path for path, tensor in found.items() if not is_mapped(tensor)]
    # Turned, counted, or with two halves in the other order.
    known = (
        "text_projection.weight",
        "position_ids",
        "inv_freq",
        "norm_out.linear",
        "norm1_context.linear",
    )
    assert not [path for path in copied if not any(name in path for name in known)]


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_every_precision_from_every_precision(stored, wanted, tiny_models, checkpoints, comfyui):
    base = base_model(checkpoints("stable-diffusion", stored), dtype=wanted)
    found = loaded(base, comfyui("stable-diffusion"))
    expected = loaded(base_model(tiny_models("stable-diffusion")))
    stored, wanted = getattr(torch, stored), getattr(torch, wanted)
    assert not differences(
        found, {name: cast(cast(tensor, stored), wanted) for name, tensor in expected.items()}
    )
    weight = found["unet.conv_in.weight"]
    assert is_mapped(weight) == (stored == wanted)


@pytest.mark.parametrize("name", NAMES)
def test_separate_files_make_the_same_model(name, tiny_models, tmp_path):
    denoiser, parts = parts_of(tiny_models(name), family_of(name), tmp_path)
    base = base_model(denoiser, parts=parts, config=str(tiny_models(name)))
    assert base.family == family_of(name)
    assert not differences(loaded(base), loaded(base_model(tiny_models(name))))


@pytest.mark.parametrize("name", ["stable-diffusion", "sd2-v", "sdxl"])
def test_parts_cut_out_of_a_single_file_fit_as_well(
    name, tiny_models, checkpoints, comfyui, tmp_path
):
    """Original names, with the prefixes that they have in the whole file."""
    everything = load_file(checkpoints(name))
    start = "first_stage_model."
    vae = {key: value for key, value in everything.items() if key.startswith(start)}
    save_file(vae, tmp_path / "vae.safetensors")
    bare = {key.removeprefix(start): value for key, value in vae.items()}
    save_file(bare, tmp_path / "bare.safetensors")
    rest = {key: value for key, value in everything.items() if key not in vae}
    save_file(rest, tmp_path / "rest.safetensors")
    folder = tiny_models(name)
    expected = loaded(base_model(folder))
    for file in ("vae", "bare"):
        parts = {"vae": tmp_path / f"{file}.safetensors"}
        base = base_model(tmp_path / "rest.safetensors", parts=parts, config=str(folder))
        assert not differences(loaded(base), expected)


def test_a_checkpoint_without_vae_says_which_input_supplies_it(checkpoints, comfyui, tmp_path):
    tensors = load_file(checkpoints("stable-diffusion"))
    path = tmp_path / "no_vae.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.startswith("first_stage")}, path)
    cache = Pipelines(comfyui_folder=comfyui("stable-diffusion"))
    wanted = pytest.raises(ValueError, match=r"holds no vae for Stable Diffusion.*input `vae`")
    with wanted, cache.open(base_model(path)):
        pass
    assert (cache.loads, cache.bytes_held) == (0, 0)
    with cache.open(base_model(checkpoints("stable-diffusion"))):
        pass
    assert cache.loads == 1, "after a failed load the next one works"


def test_averaged_weights_beside_the_plain_ones_are_left_alone(
    tiny_models, checkpoints, comfyui, tmp_path
):
    """A full training checkpoint holds both; one cut down to the averaged ones has just these."""
    plain = load_file(checkpoints("stable-diffusion"))
    averaged = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value + 1
        for key, value in plain.items()
        if key.startswith("model.diffusion_model.")
    }
    extra = {"model_ema.decay": torch.tensor(0.9999), "betas": torch.zeros(1000)}
    save_file({**plain, **averaged, **extra}, tmp_path / "both.safetensors")
    expected = loaded(base_model(tiny_models("stable-diffusion")))
    place = comfyui("stable-diffusion")
    assert not differences(loaded(base_model(tmp_path / "both.safetensors"), place), expected)
    rest = {k: v for k, v in plain.items() if not k.startswith("model.diffusion_model.")}
    save_file({**rest, **averaged}, tmp_path / "averaged.safetensors")
    found = loaded(base_model(tmp_path / "averaged.safetensors"), place)
    shifted = {k: v + 1 if k.startswith("unet.") else v for k, v in expected.items()}
    assert not differences(found, shifted)


def test_safe_pickles_load_and_others_run_nothing(tiny_models, checkpoints, comfyui, tmp_path):
    tensors = load_file(checkpoints("stable-diffusion"))
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": tensors, "global_step": 7}, path)
    found = loaded(base_model(path), comfyui("stable-diffusion"))
    assert not differences(found, loaded(base_model(tiny_models("stable-diffusion"))))

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": tensors, "callbacks": Evil()}, path)
    with pytest.raises(ValueError, match=r"model\.ckpt is a pickle that holds more than tensors"):
        base_model(path)
    assert not (tmp_path / "executed").exists()


def test_float8_files_plain_and_scaled(checkpoints, comfyui, tmp_path):
    tensors = load_file(checkpoints("stable-diffusion"))
    plain, scaled, expected = {}, {}, {}
    for name, tensor in tensors.items():
        plain[name] = scaled[name] = tensor
        if name.startswith("model.") and tensor.ndim == 2:
            plain[name] = tensor.to(torch.float8_e4m3fn)
            scale = tensor.abs().max() / 448
            scaled[name] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[name.removesuffix("weight") + "scale_weight"] = scale
            expected[name] = (plain[name].float(), scaled[name].float() * scale)
    scaled["model.diffusion_model.scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    save_file(plain, tmp_path / "plain.safetensors")
    save_file(scaled, tmp_path / "scaled.safetensors")
    place = comfyui("stable-diffusion")
    for index, kind in enumerate(("plain", "scaled")):
        found = loaded(base_model(tmp_path / f"{kind}.safetensors", dtype="float32"), place)
        wanted = expected["model.diffusion_model.time_embed.0.weight"][index]
        assert torch.equal(found["unet.time_embedding.linear_1.weight"], wanted)
    scaled["model.diffusion_model.time_embed.0.weight_scale_2"] = torch.ones(1)
    save_file(scaled, tmp_path / "nvfp4.safetensors")
    with pytest.raises(ValueError, match="compressed form"):
        base_model(tmp_path / "nvfp4.safetensors")


def test_a_wrong_family_is_refused_with_what_the_file_looks_like(checkpoints, tmp_path):
    path = checkpoints("sdxl")
    with pytest.raises(ValueError, match=r"no Stable Diffusion 1.* looks like .*XL"):
        base_model(path, family="stable-diffusion")
    assert base_model(path, family="sdxl").family == "sdxl"
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"no base model that Likeness knows.*lora_unet_x"):
        base_model(tmp_path / "lora.safetensors")
    renamed = shutil.copy(path, tmp_path / "v1-5-pruned-emaonly.safetensors")
    assert base_model(renamed).family == "sdxl", "the name says nothing"


@pytest.mark.parametrize("name", TINY_NAMES)
def test_files_with_the_wrong_tensors_are_refused_in_words(name, checkpoints, comfyui, tmp_path):
    tensors = load_file(checkpoints(name))
    large = sorted(key for key, tensor in tensors.items() if tensor.ndim > 1)
    flat = {key: v.reshape(-1) if key in large[::7] else v for key, v in tensors.items()}
    fewer = {key: v for index, (key, v) in enumerate(tensors.items()) if index % 5}
    for index, damaged in enumerate((flat, fewer)):
        path = tmp_path / f"{index}.safetensors"
        save_file(damaged, path)
        with pytest.raises(ValueError, match=str(path)):
            loaded(base_model(path), comfyui(name))


def test_a_replaced_vae_and_text_encoder(tiny_models, tmp_path):
    folder = tiny_models("stable-diffusion")
    other = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    other = {name: tensor + 1 for name, tensor in other.items()}
    save_file(other, tmp_path / "vae.safetensors")
    shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")
    base = base_model(folder, parts={"vae": tmp_path / "vae.safetensors"})
    expected = loaded(base_model(folder))
    found = loaded(base)
    changed = {k: v + 1 if k.startswith("vae.") else v for k, v in expected.items()}
    assert not differences(found, changed)
    whole = base_model(folder, parts={"text_encoder": tmp_path / "text_encoder"})
    assert not differences(loaded(whole), expected)
    wrong = base_model(folder, parts={"text_encoder": tmp_path / "vae.safetensors"})
    with pytest.raises(ValueError, match=r"text_encoder in .*vae\.safetensors.*tensors are"):
        loaded(wrong)


def test_identity_follows_contents(tiny_models, checkpoints, tmp_path):
    path = checkpoints("stable-diffusion")
    copy = shutil.copy(path, tmp_path / "copy.safetensors")
    one = base_identity(base_model(path))
    assert base_identity(base_model(copy)) == one
    assert base_identity(base_model(checkpoints("stable-diffusion", "float16"))) != one
    assert base_identity(base_model(path, prediction="v_prediction")) != one
    assert base_identity(base_model(path, scheduler="euler")) == one
    folder = tiny_models("stable-diffusion")
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    with_vae = base_model(path, parts={"vae": shutil.copy(vae, tmp_path / "vae.safetensors")})
    assert base_identity(with_vae) not in (one, base_identity(base_model(folder)))
    assert base_identity(base_model(path, config=str(folder))) != one
    versions = file_versions(with_vae)
    assert [version[0] for version in versions] == [str(path), str(tmp_path / "vae.safetensors")]
    (tmp_path / "vae.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the model's vae .* is gone"):
        file_versions(with_vae)


def test_prediction_is_told_to_the_scheduler(checkpoints, comfyui):
    path, place = checkpoints("stable-diffusion"), comfyui("stable-diffusion")
    for told, predicted, rescaled in (
        ("auto", "epsilon", False),
        ("v_prediction", "v_prediction", False),
        ("v_prediction_zero_snr", "v_prediction", True),
    ):
        with Pipelines(comfyui_folder=place).open(base_model(path, prediction=told)) as live:
            config = live.pipeline.scheduler.config
            assert config.prediction_type == predicted
            assert config.get("rescale_betas_zero_snr", False) == rescaled
    with Pipelines(comfyui_folder=comfyui("sd2-v")).open(base_model(checkpoints("sd2-v"))) as live:
        assert live.pipeline.scheduler.config.prediction_type == "v_prediction"


def test_a_flow_model_has_no_prediction_to_choose(tiny_models):
    base = base_model(tiny_models("flux"), prediction="epsilon")
    with pytest.raises(ValueError, match=r"its scheduler .* knows no such choice"):
        loaded(base)


def test_folders_in_variants_and_in_parts(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models("stable-diffusion"), tmp_path / "model")
    expected = loaded(base_model(folder, dtype="float16"))
    for component, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        file = folder / component / f"{name}.safetensors"
        tensors = {key: value.half() for key, value in load_file(file).items()}
        file.unlink()
        keys = sorted(tensors)
        halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
        for part, half in enumerate(halves, 1):
            shard = file.with_name(f"{name}.fp16-0000{part}-of-00002.safetensors")
            save_file({key: tensors[key] for key in half}, shard, metadata={"format": "pt"})
    base = base_model(folder, dtype="float16")
    assert not differences(loaded(base), expected)
    shard.unlink()
    with pytest.raises(ValueError, match="1 of 2 parts of its weights; copy the model again"):
        loaded(base)


def test_tokenizers_are_found_or_missed_by_name(
    tiny_models, checkpoints, comfyui, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    base = base_model(checkpoints("stable-diffusion"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match=r"tokenizer.*vocab\.json.*hf download.*COMFYUI_PATH"):
        loaded(base)
    repository = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    shutil.copytree(TINY / "tokenizer", repository / "snapshots" / "abc")
    with Pipelines().open(base) as live:
        assert len(live.pipeline.tokenizer) == 840
        assert live.pipeline.tokenizer.model_max_length == 77
    shutil.rmtree(tmp_path / "hub")
    loaded(base, comfyui("stable-diffusion"))
    loaded(base_model(base.path, config=str(tiny_models("stable-diffusion"))))
    another = base_model(base.path, config=str(TINY))
    with pytest.raises(ValueError, match=r"does not fit CLIPTextModel: 52 tensors are of another"):
        loaded(another)


def test_what_rests_in_the_file_never_reaches_it(checkpoints, comfyui):
    from likeness.pipelines.generate import Sampling, generate
    from likeness.pipelines.spec import PipelineSpec

    path = checkpoints("stable-diffusion")
    before = path.read_bytes()
    cache = Pipelines(comfyui_folder=comfyui("stable-diffusion"))
    base = base_model(path)
    generate(cache, PipelineSpec(base), Sampling("a cat", steps=2, width=64, height=64))
    with cache.open(base) as live:
        weight = live.component("unet").conv_in.weight
        assert is_mapped(weight)
        with torch.no_grad():
            weight += 1
    assert path.read_bytes() == before
