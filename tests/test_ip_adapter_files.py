"""IP-Adapter files and image encoders: told apart by their tensors, matched by their widths."""

from __future__ import annotations

import shutil

import pytest
import torch
from likeness.pipelines.ip_adapter.describe import about, describe_adapter
from likeness.pipelines.ip_adapter.encoders import (
    identity_of,
    load_encoder,
    preprocessing,
    read_encoder,
)
from likeness.pipelines.ip_adapter.files import Wanted, open_adapter, traits_of
from safetensors.torch import load_file, save_file

from .conftest import TINY
from .ip_adapter_models import (
    ENCODER,
    base_projection,
    clip,
    faceid_plus_projection,
    faceid_projection,
    flux_adapter,
    full_face_projection,
    photo,
    plus_projection,
    save,
    sd3_adapter,
    siglip,
    unet_adapter,
)
from .plain_references import plain_pipeline


def layers(context, count=16, width=8):
    return {
        f"{number}.{role}.weight": torch.zeros(width, context)
        for number in range(1, 2 * count, 2)
        for role in ("to_k_ip", "to_v_ip")
    }


SD, XL = (768, "stable-diffusion"), (2048, "sdxl")
PROJECTIONS = {
    "base": base_projection,
    "plus": plus_projection,
    "full-face": full_face_projection,
    "faceid-plus": faceid_plus_projection,
}
PUBLISHED = {
    "ip-adapter_sd15": (SD, "base", ("projected", 1024)),
    "ip-adapter_sd15_vit-G": (SD, "base", ("projected", 1280)),
    "ip-adapter-plus_sd15": (SD, "plus", ("hidden", 1280)),
    "ip-adapter-full-face_sd15": (SD, "full-face", ("hidden", 1280)),
    "ip-adapter_sdxl": (XL, "base", ("projected", 1280)),
    "ip-adapter-plus_sdxl_vit-h": (XL, "plus", ("hidden", 1280)),
    "ip-adapter-faceid_sd15": (SD, "faceid", None),
    "ip-adapter-faceid-portrait": (SD, "faceid", None),
    "ip-adapter-faceid-plusv2_sd15": (SD, "faceid-plus", ("hidden", 1280)),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(tmp_path, name, suffix):
    (context, family), kind, wanted = PUBLISHED[name]
    if wanted is None:
        projection = faceid_projection(context, 0, 16 if "portrait" in name else 4)
    else:
        projection = PROJECTIONS[kind](context, 0, wanted[1])
    state = {"image_proj": projection, "ip_adapter": layers(context, 2)}
    traits = traits_of(open_adapter(save(state, tmp_path / f"misleading_sdxl_plus{suffix}")))
    assert (traits.layout, traits.kind, traits.family) == ("unet", kind, family)
    assert (traits.wanted and (traits.wanted.layer, traits.wanted.width)) == wanted
    assert traits.context == context


def test_flux_and_sd3_layouts(tmp_path, tiny_models):
    flux = flux_adapter(plain_pipeline(str(tiny_models("flux"))).transformer)
    sd3 = sd3_adapter(plain_pipeline(str(tiny_models("sd3"))).transformer)
    for state, layout, wanted in (
        (flux, "flux", Wanted("clip", "projected", 128)),
        (sd3, "sd3", Wanted("siglip", "hidden", 96)),
    ):
        traits = traits_of(open_adapter(save(state, tmp_path / f"{layout}.bin")))
        assert (traits.layout, traits.family, traits.wanted) == (layout, layout, wanted)
    xlabs = save(flux, tmp_path / "xlabs.safetensors", xlabs=True)
    assert any(name.startswith("double_blocks.") for name in load_file(xlabs))
    ours = open_adapter(xlabs).state()
    for part, tensors in flux.items():
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in tensors.items())


def test_checkpoints_of_the_original_training_code(tmp_path):
    tensors = {f"image_proj_model.{k}": v for k, v in base_projection(64, 0).items()}
    tensors |= {f"adapter_modules.{k}": v for k, v in layers(64, 2).items()}
    tensors["unet.conv_in.weight"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert describe_adapter(tmp_path / "pytorch_model.bin", ENCODER).kind == "base"


# -- image encoders --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """A folder as ComfyUI's `models/clip_vision`: folders, a single file, what is none of them."""
    folder = tmp_path_factory.mktemp("clip_vision")
    clip(hidden=64, projected=48).save_pretrained(folder / "a" / "small")
    siglip().save_pretrained(folder / "siglip")
    shutil.copytree(ENCODER, folder / "z-tiny")
    (folder / "broken.safetensors").write_bytes(b"\0" * 40)
    (folder / "put_models_here.txt").touch()
    return folder


@pytest.fixture
def base_file(tmp_path):
    state = unet_adapter(plain_pipeline(TINY).unet)
    return save(state, tmp_path / "adapter.safetensors")


def test_the_encoder_is_found_by_its_width(vision, base_file):
    adapter = describe_adapter(base_file, encoder_folders=[vision])
    assert adapter.encoder == str(vision / "z-tiny")
    assert adapter.encoder_identity == identity_of(read_encoder(vision / "z-tiny"))
    assert "image encoder: " + adapter.encoder in about(adapter)
    small = {"image_proj": base_projection(128, 0, 48), "ip_adapter": layers(128, 2)}
    found = describe_adapter(save(small, base_file.with_name("s.bin")), encoder_folders=[vision])
    assert found.encoder == str(vision / "a" / "small")


def test_an_encoder_beside_the_adapter_is_found(base_file):
    shutil.copytree(ENCODER, base_file.parent / "image_encoder")
    assert describe_adapter(base_file).encoder == str(base_file.parent / "image_encoder")
    assert describe_adapter(base_file.parent).path == str(base_file)


def test_when_none_fits_the_message_says_what_is_wanted_and_what_is_there(vision, tmp_path):
    state = {"image_proj": plus_projection(768, 0, 1280), "ip_adapter": layers(768, 2)}
    path = save(state, tmp_path / "plus.safetensors")
    with pytest.raises(ValueError) as told:
        describe_adapter(path, encoder_folders=[vision])
    for part in (
        "a CLIP image encoder with hidden states 1280 wide (CLIP ViT-H/14) and none is there",
        f"Looked in {vision};",
        f"{vision / 'a' / 'small'} (clip, 64 wide, projected to 48)",
        f"{vision / 'siglip'} (siglip, 96 wide, no projection)",
        f"{vision / 'broken.safetensors'} (cannot be used: ",
        "models/clip_vision",
    ):
        assert part in str(told.value)
    with pytest.raises(ValueError, match="Looked in no folder at all; found: nothing"):
        describe_adapter(path)
    with pytest.raises(ValueError, match=r"projected to 128\) is not the image encoder of"):
        describe_adapter(path, ENCODER)


@pytest.mark.parametrize("prefix", ["", "image_encoder."])
def test_single_files_are_the_same_encoder(tmp_path, prefix):
    """Width 768, which a published encoder has: its heads and activation are known."""
    model = clip(hidden=768, projected=32, heads=12)
    tensors = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors["text_model.embeddings.position_embedding.weight"] = torch.zeros(2, 2)
    tensors["logit_scale"] = torch.zeros(1)
    save_file(tensors, tmp_path / "encoder.safetensors")
    encoder = read_encoder(tmp_path / "encoder.safetensors")
    assert (encoder.architecture, encoder.hidden, encoder.projected) == ("clip", 768, 32)
    assert encoder.image_size == 64
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_encoder(encoder, torch.float32)
        # The last bits of a product depend on where in a file its numbers lie.
        near = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(ours(pixels).image_embeds, model(pixels).image_embeds, **near)
    assert ours.config.hidden_act == model.config.hidden_act == "quick_gelu"
    assert all(map(torch.equal, ours.state_dict().values(), model.state_dict().values()))


def test_a_single_siglip_file(tmp_path, vision):
    tensors = load_file(vision / "siglip" / "model.safetensors")
    save_file(tensors, tmp_path / "siglip.safetensors")
    with pytest.raises(ValueError, match="is 96 wide, as no published image encoder is"):
        read_encoder(tmp_path / "siglip.safetensors")
    shutil.copy(vision / "siglip" / "config.json", tmp_path)
    encoder = read_encoder(tmp_path / "siglip.safetensors")
    assert (encoder.architecture, encoder.projected) == ("siglip", 0)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_encoder(encoder, torch.float32)(pixels, output_hidden_states=True)
        theirs = siglip()(pixels, output_hidden_states=True)
    torch.testing.assert_close(ours.hidden_states[-2], theirs.hidden_states[-2])


def test_pictures_are_prepared_as_the_encoder_says(vision):
    tiny = preprocessing(read_encoder(ENCODER))
    assert list(tiny.image_mean) == [0.5, 0.5, 0.5]
    plain = preprocessing(read_encoder(vision / "z-tiny"))
    assert list(plain.image_mean) == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert plain([photo(1)], return_tensors="pt").pixel_values.shape == (1, 3, 64, 64)
    other = preprocessing(read_encoder(vision / "siglip"))
    assert other([photo(1)], return_tensors="pt").pixel_values.shape == (1, 3, 64, 64)
