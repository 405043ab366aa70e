"""The nodes of IP-Adapters: what stands in their widgets becomes the description."""

from __future__ import annotations

import shutil

import pytest
import torch
from likeness.host import use
from likeness.host.standalone import StandaloneHost
from likeness.nodes.apply_ip_adapter import ApplyIPAdapter
from likeness.nodes.generate import Generate
from likeness.nodes.load_image_embeddings import LoadImageEmbeddings
from likeness.nodes.load_ip_adapter import LoadIPAdapter
from likeness.nodes.save_image_embeddings import SaveImageEmbeddings
from likeness.pipelines.guidance import Picture
from likeness.pipelines.images import to_tensor
from likeness.pipelines.ip_adapter.presets import PRESETS, preset_blocks
from likeness.pipelines.spec import PipelineSpec
from PIL import Image

from .conftest import TINY
from .ip_adapter_models import ENCODER, photo, save, unet_adapter
from .plain_references import plain_pipeline


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder as ComfyUI users keep it, and the host that looks there."""
    root = tmp_path_factory.mktemp("root")
    (root / "models" / "ipadapter" / "mine").mkdir(parents=True)
    save(unet_adapter(plain_pipeline(TINY).unet), root / "models/ipadapter/mine/a.safetensors")
    shutil.copytree(ENCODER, root / "models" / "clip_vision" / "my encoder")
    before = use(StandaloneHost(root / "models", root / "output", root / "input", device="cpu"))
    yield root / "models"
    use(before)


@pytest.fixture
def adapter(models):
    return LoadIPAdapter.execute(file="mine/a.safetensors")[0]


def options_of(node, name):
    kind, options = {
        **node.GET_NODE_INFO_V1()["input"]["required"],
        **node.GET_NODE_INFO_V1()["input"].get("optional", {}),
    }[name]
    return options.get("options", kind)


def image(*seeds):
    return to_tensor([photo(seed) for seed in seeds])


def test_loading(models):
    assert "mine/a.safetensors" in options_of(LoadIPAdapter, "file")
    assert options_of(LoadIPAdapter, "encoder")[:2] == ["auto", "none"]
    assert {"my encoder", "tiny"} <= set(options_of(LoadIPAdapter, "encoder"))
    adapter, info = LoadIPAdapter.execute(file="mine/a.safetensors").args
    assert (adapter.name, adapter.kind) == ("a", "base")
    assert adapter.encoder == str(models / "clip_vision" / "my encoder")
    assert "kind: base" in info and "embeddings 128 wide" in info
    bundled = LoadIPAdapter.execute(file="mine/a.safetensors", encoder="tiny")[0]
    assert bundled.encoder == str(ENCODER)
    assert LoadIPAdapter.execute(file="mine/a.safetensors", encoder="none")[0].encoder == ""
    with pytest.raises(ValueError, match=r"no model in 'ipadapter' named 'mine/b.safetensors'"):
        LoadIPAdapter.execute(file="mine/b.safetensors")
    with pytest.raises(ValueError, match="must stay below its folder"):
        LoadIPAdapter.execute(file="../../secret.safetensors")


def test_the_bundled_one_fits_the_bundled_base(models, tiny_base):
    adapter = LoadIPAdapter.execute(file="tiny")[0]
    assert (adapter.name, adapter.kind, adapter.family) == ("tiny", "base", "stable-diffusion")
    guided = ApplyIPAdapter.execute(PipelineSpec(tiny_base), adapter, image(1))[0]
    assert not torch.equal(drawn(guided), drawn(PipelineSpec(tiny_base)))


def test_from_the_hub_without_a_network(models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="names no IP-Adapter in 'h94/IP-Adapter'"):
        LoadIPAdapter.execute(file="x", hub="h94/IP-Adapter")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="is not in the local hub cache"):
        LoadIPAdapter.execute(file="x", hub="h94/none", hub_file="models/a.safetensors")
    fingerprint = LoadIPAdapter.fingerprint_inputs(file="x", hub="h94/none", hub_file="a.bin")
    assert fingerprint == "not here yet"


def test_a_changed_file_is_loaded_again(models):
    first = LoadIPAdapter.fingerprint_inputs(file="mine/a.safetensors")
    path = models / "ipadapter" / "mine" / "b.safetensors"
    save(unet_adapter(plain_pipeline(TINY).unet, seed=1), path)
    assert LoadIPAdapter.fingerprint_inputs(file="mine/b.safetensors") != first
    path.unlink()


def test_applying(adapter, tiny_base):
    before = PipelineSpec(tiny_base)
    after = ApplyIPAdapter.execute(
        before,
        adapter,
        image(1, 2),
        0.6,
        0.1,
        0.9,
        {"blocks": "style only"},
        torch.ones(1, 16, 16),
        image(3),
        combine="average",
    )[0]
    (found,) = after.references
    assert [found.images, found.negatives] == [
        (Picture.of(photo(1)), Picture.of(photo(2))),
        (Picture.of(photo(3)),),
    ]
    assert (found.weight, found.start, found.end, found.combine) == (0.6, 0.1, 0.9, "average")
    assert found.blocks == preset_blocks("style only", "stable-diffusion")
    assert found.mask == Picture.of(Image.new("L", (16, 16), 255))
    assert before.references == ()
    plain = ApplyIPAdapter.execute(after, adapter, image(1))[0].references
    assert plain[0] == found and plain[1].blocks == () and plain[1].weight == 1.0


def test_every_preset_is_offered(adapter, tiny_base):
    offered = [option["key"] for option in options_of(ApplyIPAdapter, "blocks")]
    assert offered == [*PRESETS, "own"]
    own = {"blocks": "own", "factors": "up=0.5, mid_block=0"}
    use = ApplyIPAdapter.execute(PipelineSpec(tiny_base), adapter, image(1), blocks=own)[0]
    assert use.references[0].blocks == (("mid_block", 0.0), ("up", 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "reference picture 0 cannot be used; connect pictures or embeddings"),
        ({"start": 0.5, "end": 0.5}, "start 0.5 is not before end 0.5"),
        ({"weight": float("nan")}, "weight nan cannot be used"),
        ({"image": torch.zeros(1, 1, 1, 3)}, "1x1 pixels is too small to take after"),
        ({"image": torch.full((1, 8, 8, 3), torch.nan)}, "not finite"),
        ({"mask": torch.ones(2, 8, 8)}, "2 masks cannot be used in one node"),
        ({"mask": torch.ones(1, 2, 2)}, "2x2 pixels is too small for a mask"),
        ({"blocks": {"blocks": "own", "factors": "mid"}}, "'mid' cannot be read"),
    ],
)
def test_what_cannot_be_applied(adapter, tiny_base, changes, message):
    given = {"image": image(1), **changes}
    with pytest.raises(ValueError, match=message):
        ApplyIPAdapter.execute(PipelineSpec(tiny_base), adapter, **given)


def test_a_picture_with_alpha_lies_on_white(adapter, tiny_base):
    given = torch.cat([image(1), torch.zeros(1, 56, 72, 1)], dim=-1)
    use = ApplyIPAdapter.execute(PipelineSpec(tiny_base), adapter, given)[0].references[0]
    assert use.images == (Picture.of(Image.new("RGB", (72, 56), "white")),)


def drawn(pipeline):
    settings = {"steps": 2, "guidance": 3.0, "seed": 5, "width": 32, "height": 32}
    return Generate.execute(pipeline, prompt="a red star", negative="", count=1, **settings)[0]


def test_embeddings_saved_loaded_and_used(adapter, tiny_base, models):
    pipeline = PipelineSpec(tiny_base)
    wanted = drawn(ApplyIPAdapter.execute(pipeline, adapter, image(1, 2), 0.8)[0])
    saved, path = SaveImageEmbeddings.execute(adapter, image(1, 2), "people/ada").args
    assert path == str(models.parent / "output/ip_adapter_embeddings/people/ada.safetensors")
    assert "people/ada.safetensors" in options_of(LoadImageEmbeddings, "file")
    loaded = LoadImageEmbeddings.execute("people/ada.safetensors")[0]
    assert loaded == saved
    used = ApplyIPAdapter.execute(pipeline, adapter, None, 0.8, embeddings=loaded)[0]
    assert torch.equal(drawn(used), wanted)
    with pytest.raises(ValueError, match="must stay below its folder"):
        SaveImageEmbeddings.execute(adapter, image(1), "../ada")
    (models / "ip_adapter_embeddings").mkdir()
    torch.save([torch.zeros(2, 1, 128)], models / "ip_adapter_embeddings" / "guide.ipadpt")
    assert "guide.ipadpt" in options_of(LoadImageEmbeddings, "file")
    assert LoadImageEmbeddings.execute("guide.ipadpt")[0].name == "guide"


def test_a_mask_of_another_shape_is_stretched(adapter, tiny_base):
    pipeline = PipelineSpec(tiny_base)
    wide = torch.zeros(1, 8, 64)
    wide[:, :, :32] = 1
    square = torch.zeros(1, 32, 32)
    square[:, :, :16] = 1
    pictures = [
        drawn(ApplyIPAdapter.execute(pipeline, adapter, image(1), mask=mask)[0])
        for mask in (wide, square, 1 - square)
    ]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])
