"""What cannot be used as an IP-Adapter, or not with this model: messages that name the way out."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from likeness.pipelines.guidance import ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.ip_adapter.encode import encode_pictures
from safetensors.torch import load_file, save_file

from .conftest import TINY
from .ip_adapter_models import ENCODER, photo, picture, save, unet_adapter
from .plain_references import plain_pipeline


@pytest.fixture
def base_file(tmp_path):
    state = unet_adapter(plain_pipeline(TINY).unet)
    return save(state, tmp_path / "adapter.safetensors")


def spoiled(path, **changes):
    """A copy with tensors changed or, where None, left out."""
    tensors = load_file(path)
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    target = path.with_name("spoiled.safetensors")
    save_file(tensors, target)
    return target


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.with_name("none.bin"), "is not there; choose it again"),
        (lambda path: cut(path), "damaged or cut short"),
        (lambda path: ENCODER / "model.safetensors", "is no IP-Adapter: it holds .* tensors such"),
        (
            lambda path: spoiled(path, image_proj__proj__weight=None),
            "of a layout that is not known",
        ),
        (lambda path: spoiled(path, image_proj__norm__weight=torch.zeros(9)), "words of width 9"),
        (lambda path: empty(path), "should hold one IP-Adapter file; it holds none"),
    ],
)
def test_files_that_cannot_be_described(base_file, spoil, message):
    with pytest.raises(ValueError, match=message):
        describe_adapter(spoil(base_file), ENCODER)


def cut(path):
    target = path.with_name("cut.safetensors")
    target.write_bytes(path.read_bytes()[:-7])
    return target


def empty(path):
    folder = path.parent / "empty"
    folder.mkdir()
    return folder


def drawn(pipelines, base, adapter):
    from likeness.pipelines.generate import Sampling, generate
    from likeness.pipelines.spec import PipelineSpec

    spec = PipelineSpec(base, references=(ReferenceUse(adapter, (picture(1),)),))
    return generate(pipelines, spec, Sampling("", steps=1, width=32, height=32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            {"ip_adapter__1__to_k_ip__weight": torch.zeros(96, 64)},
            "words of width 128 to layers that hear 64",
        ),
        (
            {"ip_adapter__3__to_v_ip__weight": torch.zeros(9, 128)},
            re.escape("wants to_v_ip of shape [96, 128] and gets [9, 128]"),
        ),
        ({"ip_adapter__3__to_v_ip__weight": None}, re.escape("[96, 128] and gets []; choose")),
        ({"image_proj__norm__bias": None}, "lack 1 tensors|cannot be put on"),
        ({"image_proj__proj__bias": torch.full((512,), torch.nan)}, "holds NaN or infinity"),
    ],
)
def test_files_that_cannot_be_put_on(pipelines, tiny_base, base_file, spoil, message):
    with pytest.raises(ValueError, match=message):
        drawn(pipelines, tiny_base, describe_adapter(spoiled(base_file, **spoil), ENCODER))


def test_an_adapter_for_another_model_says_for_which(pipelines, tiny_models, tiny_base, tmp_path):
    from likeness.pipelines.base_models import base_model

    sdxl = plain_pipeline(str(tiny_models("sdxl"))).unet
    adapter = describe_adapter(save(unet_adapter(sdxl), tmp_path / "a.bin"), ENCODER)
    with pytest.raises(ValueError, match=r"made for .*192 wide.* and this model is Stable Diff"):
        drawn(pipelines, tiny_base, adapter)
    with pytest.raises(ValueError, match="and this model is FLUX"):
        drawn(pipelines, base_model(tiny_models("flux")), adapter)


def test_files_that_changed_or_went_since(pipelines, tiny_base, base_file, tmp_path):
    encoder = tmp_path / "encoder"
    shutil.copytree(ENCODER, encoder)
    adapter = describe_adapter(base_file, encoder)
    weights = encoder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"\1")
    with pytest.raises(ValueError, match="changed since the IP-Adapter was loaded"):
        encode_pictures(pipelines, adapter, [picture(77)], torch.float32)
    shutil.rmtree(encoder)
    with pytest.raises(ValueError, match="is gone; load the IP-Adapter again"):
        encode_pictures(pipelines, adapter, [picture(77)], torch.float32)
    base_file.unlink()
    with pytest.raises(ValueError, match="is gone or changed since it was loaded"):
        drawn(pipelines, tiny_base, adapter)


def test_without_an_encoder_pictures_are_refused(pipelines, tiny_base, base_file):
    adapter = describe_adapter(base_file, "")
    with pytest.raises(ValueError, match="loaded without an image encoder"):
        drawn(pipelines, tiny_base, adapter)


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path):
    torch.save({"image_proj": {"a": photo(1)}}, tmp_path / "evil.bin")
    with pytest.raises(ValueError, match="holds more than tensors"):
        describe_adapter(tmp_path / "evil.bin", ENCODER)
