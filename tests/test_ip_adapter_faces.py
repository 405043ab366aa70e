"""FaceID adapters, told of faces by embeddings: plain diffusers' pixels, and their LoRA acts."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.ip_adapter.embeddings import describe_embeddings, save_embeddings
from likeness.pipelines.ip_adapter.encode import Encoded
from likeness.pipelines.ip_adapter.faces import face_model, face_model_homes
from likeness.pipelines.ip_adapter.live import reference_loras
from likeness.pipelines.spec import PipelineSpec

from .conftest import TINY
from .ip_adapter_models import ENCODER, FACE, generator, photo, picture, save, unet_adapter
from .plain_references import plain_pipeline

SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


def faces(count=1, seed=0):
    """Face embeddings as insightface gives them: of length 1."""
    rows = torch.randn(count, FACE, generator=generator(seed))
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="module")
def make(folder):
    """A function from kind and version to a FaceID adapter."""

    def adapter(kind, lora=False, version="v2"):
        path = folder / f"{kind}-{lora}.bin"
        save(unet_adapter(plain_pipeline(TINY).unet, kind, 7, lora), path)
        return describe_adapter(path, ENCODER, faceid_plus=version)

    return adapter


def draw(pipelines, *uses, count=1):
    sampling = Sampling("a red star", "blue", steps=2, guidance=3.0, seed=5, count=count)
    spec = PipelineSpec(base_model(TINY), references=uses)
    return [image.tobytes() for image in generate(pipelines, spec, sampling)]


def called(pipeline, embeds, count=1):
    found = pipeline(
        prompt=["a red star"] * count,
        negative_prompt=["blue"] * count,
        ip_adapter_image_embeds=[embeds],
        generator=[generator(5 + index) for index in range(count)],
        **SETTINGS,
    ).images
    return [image.tobytes() for image in found]


def plain(adapter, scale=1.0):
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    pipeline.set_ip_adapter_scale(scale)
    return pipeline


def test_faces_from_the_file_that_diffusers_guide_saves(pipelines, make, folder):
    adapter = make("faceid")
    assert (adapter.kind, adapter.encoder) == ("faceid", "")
    rows = faces(2)
    embeds = torch.stack([torch.zeros_like(rows), rows])[:, :, None]  # [2, faces, 1, 512]
    torch.save([embeds], folder / "guide.ipadpt")
    use = ReferenceUse(adapter, (), 0.8, embeddings=describe_embeddings(folder / "guide.ipadpt"))
    theirs = called(plain(adapter, 0.8), embeds, count=2)
    assert draw(pipelines, use, count=2) == theirs != draw(pipelines, count=2)
    torch.save(rows, folder / "bare.pt")  # faces alone: nothing is zeros
    use = ReferenceUse(adapter, (), 0.8, embeddings=describe_embeddings(folder / "bare.pt"))
    assert draw(pipelines, use, count=2) == theirs


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("count", [1, 2])
def test_faces_with_what_clip_sees(pipelines, make, folder, version, count):
    adapter = make("faceid-plus", version=version)
    assert adapter.kind == {"v1": "faceid-plus", "v2": "faceid-plus-v2"}[version]
    rows, crops = faces(2, 3), [photo(1), photo(2)]
    pipeline = plain(adapter)
    said, nothing = pipeline.encode_image(crops, "cpu", 1, True)
    encoded = Encoded(rows, torch.zeros_like(rows), Encoded(said, nothing))
    saved = save_embeddings(folder / "plus.safetensors", encoded, adapter)
    projection = pipeline.unet.encoder_hid_proj.image_projection_layers[0]
    projection.clip_embeds = pipeline.prepare_ip_adapter_image_embeds(
        [crops], None, "cpu", count, True
    )[0]
    projection.shortcut = version == "v2"
    theirs = called(pipeline, torch.stack([torch.zeros_like(rows), rows]), count)
    ours = draw(pipelines, ReferenceUse(adapter, (), embeddings=saved), count=count)
    assert ours == theirs
    held = [live for key, live in pipelines._live.items() if "ip-adapter" in key]
    layers = [layer for live in held for layer in live.module[1]]
    assert all(getattr(layer, "clip_embeds", None) is None for layer in layers)


def without_lora(adapter, folder):
    state = torch.load(adapter.path, weights_only=True)
    layers = {name: each for name, each in state["ip_adapter"].items() if "_lora" not in name}
    path = save({**state, "ip_adapter": layers}, folder / "bare.bin")
    return describe_adapter(path), state["ip_adapter"]


@contextmanager
def fused(unet, names, lora):
    """W + up @ down in every attention layer of a plain UNet."""
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with torch.no_grad():
        for number, name in enumerate(names):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for role in ("to_q", "to_k", "to_v", "to_out"):
                linear = attention.to_out[0] if role == "to_out" else getattr(attention, role)
                down, up = (lora[f"{number}.{role}_lora.{part}.weight"] for part in ("down", "up"))
                linear.weight += up @ down
    try:
        yield
    finally:
        unet.load_state_dict(before)


def test_the_lora_inside_acts(pipelines, make, folder):
    adapter, rows = make("faceid", lora=True), faces()
    bare, lora = without_lora(adapter, folder)
    torch.save(rows, folder / "one.pt")
    said = describe_embeddings(folder / "one.pt")
    ours = draw(pipelines, ReferenceUse(adapter, (), 0.8, embeddings=said))
    assert ours != draw(pipelines, ReferenceUse(bare, (), 0.8, embeddings=said))
    pipeline, names = plain(bare, 0.8), plain_pipeline(TINY).unet.attn_processors
    with fused(pipeline.unet, names, lora):
        assert called(pipeline, torch.stack([torch.zeros_like(rows), rows])) == ours


def test_diffusers_own_way_with_that_lora_is_near(pipelines, make, folder):
    """It computes the LoRA beside the layers, through peft: the same up to rounding."""
    import numpy as np

    adapter, rows = make("faceid", lora=True), faces()
    torch.save(rows, folder / "one.pt")
    use = ReferenceUse(adapter, (), embeddings=describe_embeddings(folder / "one.pt"))
    theirs = called(plain(adapter), torch.stack([torch.zeros_like(rows), rows]))
    pairs = zip(draw(pipelines, use), theirs, strict=True)
    for ours, wanted in pairs:
        ours, wanted = (np.frombuffer(each, dtype=np.uint8).astype(int) for each in (ours, wanted))
        assert np.abs(ours - wanted).max() <= 2


def test_the_lora_comes_once_and_with_its_adapter(pipelines, make, tiny_base, folder):
    torch.save(faces(), folder / "one.pt")
    said = describe_embeddings(folder / "one.pt")
    uses = [
        ReferenceUse(make("faceid", lora=True), (), weight, embeddings=said)
        for weight in (0.2, 0.8)
    ]
    with pipelines.open(tiny_base) as live:
        (use,) = reference_loras(live, uses)
        assert (use.scale, use.lora.name) == (1.0, "faceid-True (FaceID)")
        silent = ReferenceUse(uses[0].adapter, (), 0.0, embeddings=said)
        assert reference_loras(live, [silent]) == ()
        assert reference_loras(live, [ReferenceUse(make("faceid"), (), embeddings=said)]) == ()


@pytest.mark.skipif(find_spec("insightface") is not None, reason="insightface is installed")
def test_without_insightface_the_message_names_it(pipelines, make):
    with pytest.raises(ValueError, match="pip install insightface onnxruntime, or connect saved"):
        draw(pipelines, ReferenceUse(make("faceid"), (picture(1),)))


def test_where_the_face_model_is_looked_for(tmp_path):
    own, comfyui = face_model_homes(tmp_path)
    assert own.name == ".insightface" and comfyui == tmp_path / "models" / "insightface"
    assert face_model_homes(None) == (own,)
    homes = (tmp_path / "nothing", comfyui)
    with pytest.raises(ValueError, match=f"no model 'buffalo_l' in {tmp_path}/nothing/models or "):
        face_model(homes)
    (comfyui / "models" / "buffalo_l").mkdir(parents=True)
    assert face_model(homes) == comfyui


def test_faces_alone_are_not_enough_for_plus(pipelines, make, folder):
    torch.save(faces(), folder / "one.pt")
    use = ReferenceUse(make("faceid-plus"), (), embeddings=describe_embeddings(folder / "one.pt"))
    with pytest.raises(ValueError, match="holds no more than faces"):
        draw(pipelines, use)
