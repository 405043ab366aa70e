"""Saved image embeddings: what comes out of a file draws as the picture did."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.ip_adapter.embeddings import describe_embeddings, save_encoded
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

from .conftest import TINY
from .ip_adapter_models import ENCODER, photo, picture, save, unet_adapter
from .plain_references import plain_pipeline

SHOWN = (picture(1), picture(2))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder, unet = tmp_path_factory.mktemp("adapters"), plain_pipeline(TINY).unet
    return {
        kind: describe_adapter(save(unet_adapter(unet, kind, 3), folder / f"{kind}.bin"), ENCODER)
        for kind in ("base", "plus")
    }


def draw(cache, base, use):
    spec = PipelineSpec(base, references=(use,))
    sampling = Sampling("a red star", steps=2, guidance=3.0, seed=5, width=32, height=32)
    return generate(cache, spec, sampling)[0].tobytes()


@pytest.mark.parametrize("combine", ["concatenate", "average"])
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_saved_file_draws_as_the_pictures_do(tiny_base, adapters, tmp_path, kind, combine):
    adapter = adapters[kind]
    cache = Pipelines("cpu")
    path = tmp_path / "folder" / "shown.safetensors"
    saved = save_encoded(cache, adapter, SHOWN, path)
    assert saved == describe_embeddings(path)
    wanted = draw(cache, tiny_base, ReferenceUse(adapter, SHOWN, combine=combine))
    without = Pipelines("cpu")
    alone = describe_adapter(adapter.path, "")
    assert (
        draw(without, tiny_base, ReferenceUse(alone, combine=combine, embeddings=saved)) == wanted
    )
    assert without.loads == 2  # base and adapter: no encoder


def others(adapter, kind):
    """What diffusers' guide and IPAdapter plus save: with the other half, and without."""
    pipeline = plain_pipeline(TINY, "text", (adapter.path,))
    said, nothing = pipeline.encode_image([photo(1), photo(2)], "cpu", 1, kind == "plus")
    return {
        "guide.ipadpt": [torch.stack([nothing, said])],
        "without guidance.ipadpt": [said[None]],
        "plus.ipadpt": said,
        "bare.bin": {"image_embeds": said},
    }


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_files_of_other_programs(pipelines, tiny_base, adapters, tmp_path, kind):
    adapter = adapters[kind]
    wanted = draw(pipelines, tiny_base, ReferenceUse(adapter, SHOWN))
    for name, content in others(adapter, kind).items():
        torch.save(content, tmp_path / name)
        use = ReferenceUse(adapter, embeddings=describe_embeddings(tmp_path / name))
        assert draw(pipelines, tiny_base, use) == wanted, name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2, 99), r"shape \[2, 99\], and 'base' \(base\) reads 128 numbers for each"),
        (torch.zeros(3, 2, 128), r"shape \[3, 2, 128\]"),
        (torch.zeros(0, 128), r"shape \[0, 128\]"),
        (torch.full((1, 128), torch.nan), "holds NaN or infinity"),
        ([torch.zeros(1, 128)] * 2, "no embeddings for one adapter .embeddings for 2 adapters"),
        ("text", "holds no embeddings for one adapter"),
    ],
)
def test_embeddings_that_cannot_be_used(pipelines, tiny_base, adapters, tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message):
        said = describe_embeddings(tmp_path / "odd.pt")
        draw(pipelines, tiny_base, ReferenceUse(adapters["base"], embeddings=said))


def test_files_that_are_no_embeddings_or_changed(pipelines, tiny_base, adapters, tmp_path):
    with pytest.raises(ValueError, match="is no file of embeddings"):
        describe_embeddings(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="are not there; choose them again"):
        describe_embeddings(tmp_path / "gone.ipadpt")
    path = tmp_path / "rows.pt"
    torch.save(torch.zeros(1, 128), path)
    use = ReferenceUse(adapters["base"], embeddings=describe_embeddings(path))
    torch.save(torch.ones(1, 128), path)
    with pytest.raises(ValueError, match="gone or changed; load them again"):
        draw(pipelines, tiny_base, use)
