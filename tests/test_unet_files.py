"""Single files of Stable Diffusion and SDXL as they are found in the wild, and what is special to
these families beside the common contract.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .family_table import File, open_tiny
from .tiny_models import original_checkpoint

UNET = "model.diffusion_model."
NAMES = ("stable-diffusion", "sd-inpaint", "sd2-v", "sdxl", "sdxl-refiner")
VARIANT = {
    "stable-diffusion": "sd1",
    "sd-inpaint": "sd1",
    "sd2-v": "sd2-v",
    "sdxl": "sdxl-base",
    "sdxl-refiner": "sdxl-refiner",
}
ARCHITECTURE = {
    "stable-diffusion": "stable-diffusion-v1",
    "sd-inpaint": "stable-diffusion-v1",
    "sd2-v": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
}
PUBLISHED = {  # parameters of the published models
    ("sd1", "unet"): 859_520_964,
    ("sd1", "vae"): 83_653_863,
    ("sd1", "text_encoder"): 123_060_480,
    ("sd2", "unet"): 865_910_724,
    ("sd2", "text_encoder"): 340_387_840,
    ("sd2-v", "unet"): 865_910_724,
    ("sdxl-base", "unet"): 2_567_463_684,
    ("sdxl-base", "vae"): 83_653_863,
    ("sdxl-base", "text_encoder"): 123_060_480,
    ("sdxl-base", "text_encoder_2"): 694_659_840,
    ("sdxl-refiner", "unet"): 2_259_526_660,
}


@pytest.fixture(params=NAMES)
def checkpoint(request, tiny_models):
    """(name, tensors of the original checkpoint, pipeline)."""
    folder = tiny_models(request.param)
    family = _family(request.param).name
    return request.param, original_checkpoint(folder, request.param), open_tiny(str(folder), family)


def _family(name):
    from likeness.families import family_named

    return family_named("sdxl" if name.startswith("sdxl") else "stable-diffusion")


def _identify(name, tensors):
    from likeness.families import FAMILIES

    family = _family(name)
    layout = family.identify(File(tensors))
    others = [other for other in FAMILIES if other.name != family.name]
    assert not any(other.identify(File(tensors)) for other in others)
    return layout


def _converted(name, layout, tensors, attribute):
    prefix = layout.prefixes[attribute]
    inside = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    path = _configs() / layout.variant / attribute / "config.json"
    config = json.loads(path.read_text()) | dict(layout.changes.get(attribute, {}))
    return _family(name).convert(attribute, inside, config)


def _configs():
    import likeness.families

    return Path(likeness.families.__file__).parent / "configs"


def _assert_same(converted, module):
    import torch

    wanted = module.state_dict()
    assert converted.keys() == wanted.keys()
    assert all(torch.equal(converted[key], wanted[key]) for key in wanted)


def test_the_variant_is_told_by_the_tensors(checkpoint):
    name, tensors, pipeline = checkpoint
    assert _identify(name, tensors).variant == VARIANT[name]
    assert _family(name).architecture(pipeline) == ARCHITECTURE[name]


def test_a_file_without_vae_or_text_encoder(checkpoint):
    name, tensors, _ = checkpoint
    without_vae = {k: v for k, v in tensors.items() if not k.startswith("first_stage_model.")}
    layout = _identify(name, without_vae)
    assert set(layout.prefixes) == set(_identify(name, tensors).prefixes) - {"vae"}
    only_unet = {k: v for k, v in tensors.items() if k.startswith(UNET)}
    assert dict(_identify(name, only_unet).prefixes) == {"unet": UNET}


def test_a_bare_unet_by_the_original_names(checkpoint):
    name, tensors, pipeline = checkpoint
    bare = {k.removeprefix(UNET): v for k, v in tensors.items() if k.startswith(UNET)}
    layout = _identify(name, bare)
    assert dict(layout.prefixes) == {"unet": ""} and layout.variant == VARIANT[name]
    _assert_same(_converted(name, layout, bare, "unet"), pipeline.unet)


def test_averaged_weights_alone_are_read_and_plain_ones_win(checkpoint):
    name, tensors, pipeline = checkpoint
    averaged = {
        "model_ema." + k.removeprefix("model.").replace(".", "") if k.startswith(UNET) else k: v
        for k, v in tensors.items()
    }
    layout = _identify(name, averaged)
    assert layout.prefixes["unet"] == "model_ema.diffusion_model"
    assert layout.changes == _identify(name, tensors).changes
    _assert_same(_converted(name, layout, averaged, "unet"), pipeline.unet)
    spoiled = {k: v * 0 if k.startswith("model_ema.") else v for k, v in averaged.items()}
    both = _identify(name, {**spoiled, **tensors})
    assert both.prefixes["unet"] == UNET


def test_text_encoders_in_transformers_names(checkpoint):
    """As separate files and as other programs save them: with and without `text_model.`."""
    name, _, pipeline = checkpoint
    family = _family(name)
    for component in family.text_encoders:
        module = getattr(pipeline, component.attribute)
        if module is None:
            continue
        state = {k.removeprefix("text_model."): v for k, v in module.state_dict().items()}
        wrapped = {k if "projection" in k else f"text_model.{k}": v for k, v in state.items()}
        extra = {"text_model.embeddings.position_ids": state["final_layer_norm.weight"]}
        for spelling in (state, wrapped, {**wrapped, **extra}):
            config = module.config.to_dict()
            _assert_same(family.convert(component.attribute, spelling, config), module)


def test_splitting_open_clip_copies_nothing(tiny_models):
    tensors = original_checkpoint(tiny_models("sdxl"), "sdxl")
    layout = _identify("sdxl", tensors)
    converted = _converted("sdxl", layout, tensors, "text_encoder_2")
    stem = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    rows = tensors[stem].shape[1]
    for at, part in enumerate(("q_proj", "k_proj", "v_proj")):
        piece = converted[f"text_model.encoder.layers.0.self_attn.{part}.weight"]
        assert piece.data_ptr() == tensors[stem][at * rows :].data_ptr()


def test_open_clip_is_converted_as_diffusers_does(tiny_models):
    import torch
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    folder = tiny_models("sdxl")
    tensors = original_checkpoint(folder, "sdxl")
    encoder = open_tiny(str(folder), "sdxl").text_encoder_2
    theirs = convert_open_clip_checkpoint(encoder, tensors, "conditioner.embedders.1.model.")
    ours = _converted("sdxl", _identify("sdxl", tensors), tensors, "text_encoder_2")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_sdxl_files_say_that_they_predict_v(tiny_models, zero_snr):
    import torch

    tensors = original_checkpoint(tiny_models("sdxl"), "sdxl")
    assert "scheduler" not in _identify("sdxl", tensors).changes
    tensors["v_pred"] = torch.empty(0)
    if zero_snr:
        tensors["ztsnr"] = torch.empty(0)
    changes = _identify("sdxl", tensors).changes["scheduler"]
    assert changes["prediction_type"] == "v_prediction"
    assert changes.get("rescale_betas_zero_snr", False) is zero_snr


def test_second_version_predicts_noise_where_its_tensors_say_so(tiny_models):
    tensors = original_checkpoint(tiny_models("sd2-v"), "sd2-v")
    sign = f"{UNET}output_blocks.3.1.transformer_blocks.0.norm1.bias"
    tensors[sign] = tensors[sign] * 0.1
    assert _identify("sd2-v", tensors).variant == "sd2"


def test_the_unused_layer_of_open_clip_may_be_left_out(tiny_models):
    """As in files converted from diffusers folders."""
    from likeness.families.unet_files import unused_layers

    folder = tiny_models("sd2-v")
    full = original_checkpoint(folder, "sd2-v")
    short = {k: v for k, v in full.items() if ".resblocks.3." not in k and "projection" not in k}
    pipeline = open_tiny(str(folder), "stable-diffusion")
    for tensors in (full, short):
        layout = _identify("sd2-v", tensors)
        _assert_same(_converted("sd2-v", layout, tensors, "text_encoder"), pipeline.text_encoder)
    for layers in (23, 24):
        names = [f"transformer.resblocks.{i}.ln_1.weight" for i in range(layers)]
        assert unused_layers("sd2", names) == layers - 23
        assert unused_layers("sdxl-base", names) == 0


def test_other_unets_are_refused(tiny_models):
    import torch
    from likeness.families import FAMILIES

    plain = original_checkpoint(tiny_models("stable-diffusion"), "stable-diffusion")
    first = f"{UNET}input_blocks.0.0.weight"
    strangers = {
        "picture to picture by instructions": {first: torch.zeros(32, 8, 3, 3)},
        "upscaler": {f"{UNET}label_emb.weight": torch.zeros(1000, 128)},
        "variations of a picture": {f"{UNET}label_emb.0.0.weight": torch.zeros(128, 64)},
        "video": {f"{UNET}input_blocks.1.1.time_stack.0.norm1.weight": torch.zeros(32)},
    }
    for changes in strangers.values():
        assert not any(family.identify(File(plain | changes)) for family in FAMILIES)


def test_sdxl_with_another_noise_process_is_refused_in_words(tiny_models):
    import torch

    tensors = original_checkpoint(tiny_models("sdxl"), "sdxl") | {"edm_mean": torch.zeros(4)}
    with pytest.raises(ValueError, match="EDM"):
        _family("sdxl").identify(File(tensors))


def test_a_vae_cut_short_is_refused_in_words(tiny_models):
    tensors = original_checkpoint(tiny_models("sdxl"), "sdxl")
    del tensors["first_stage_model.encoder.conv_in.weight"]
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.weight"):
        _family("sdxl").identify(File(tensors))


def test_blocks_of_unequal_depth_are_read_from_the_tensors():
    """Distilled SDXL models have fewer transformer blocks on the way up, and none in the middle."""
    from diffusers import UNet2DConditionModel
    from likeness.families.unet_names import unet_changes

    config = {
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [[1], [2]],
        "reverse_transformer_layers_per_block": [[2, 1], [1, 1]],
        "cross_attention_dim": 64,
    }
    unet = UNet2DConditionModel(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    found = unet_changes(shapes)
    assert {key: found[key] for key in config} == config


def test_configurations_are_the_published_ones():
    import diffusers
    import torch
    import transformers
    from likeness.families.unet_names import unet_changes

    for (variant, part), wanted in PUBLISHED.items():
        folder = _configs() / variant
        config = json.loads((folder / part / "config.json").read_text())
        _, kind = json.loads((folder / "model_index.json").read_text())[part]
        with torch.device("meta"):
            if part.startswith("text_encoder"):
                cls = getattr(transformers, kind)
                module = cls(cls.config_class(**config))
            else:
                module = getattr(diffusers, kind).from_config(config)
        assert sum(p.numel() for p in module.parameters()) == wanted, (variant, part)
        if part == "unet":
            shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
            found = unet_changes(shapes)
            assert {key: config.get(key) for key in found} == found


def test_averaged_names_get_their_dots_back():
    """All the names of the published UNets, not the tiny ones alone."""
    import torch
    from diffusers import UNet2DConditionModel
    from likeness.families.unet_names import original_unet_names, our_name, with_dots

    for variant in ("sd1", "sdxl-base", "sdxl-refiner"):
        config = json.loads((_configs() / variant / "unet" / "config.json").read_text())
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        keys = list(unet.state_dict())
        names = original_unet_names({key.rpartition(".")[0] for key in keys}, 2)
        theirs = {rows[0].module: name for name, rows in names.items()}
        for key in keys:
            path, _, kind = key.rpartition(".")
            original = f"{theirs[path]}.{kind}"
            assert our_name(original, 2) == key
            assert with_dots(original.replace(".", "")) == original


# -- drawing and learning --------------------------------------------------------------------------


def test_what_each_variant_can_draw(checkpoint):
    name, _, pipeline = checkpoint
    tasks = set(_family(name).tasks(pipeline))
    fewer = {"sd-inpaint": {"inpaint"}, "sdxl-refiner": {"image", "inpaint"}}
    assert tasks == fewer.get(name, {"text", "image", "inpaint"})


def test_an_inpainting_model_does_not_learn(tiny_models):
    import torch

    family = _family("sd-inpaint")
    pipeline = open_tiny(str(tiny_models("sd-inpaint")), family.name)
    conditioning = family.encode_text(pipeline, ["a ball"])
    with pytest.raises(ValueError, match="inpaint"):
        family.predict(pipeline, torch.zeros(1, 4, 8, 8), torch.tensor([5]), conditioning)
