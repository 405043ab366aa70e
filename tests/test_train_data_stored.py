"""The pictures of a run in its folder: the files as they came, and the same samples again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.trainers.data import sample as sample_file
from likeness.trainers.data.encoded_samples import EncodedPicture
from likeness.trainers.data.sample import Sample
from likeness.trainers.data.samples import read_folder, samples_from_images
from likeness.trainers.data.stored import store_samples, stored_samples
from PIL import Image


def save(path, color="red", size=(24, 16), mode="RGB", **options):
    Image.new(mode, size, color).save(path, **options)
    return path


@pytest.fixture
def samples(tmp_path):
    """One of every kind."""
    place = tmp_path / "set"
    place.mkdir()
    exif = Image.new("RGB", (8, 8)).getexif()
    exif[0x0112] = 6
    save(place / "photo.jpg", "blue", exif=exif)
    save(place / "photo-mask.png", "white", mode="L")
    save(place / "anim.gif")
    files = read_folder(place, "sks", masks="files", repeats=2).samples
    save(place / "cut.png", (0, 255, 0, 40), mode="RGBA")
    cut = Sample("cut", "cut out", file=str(place / "cut.png"), mask=place / "cut.png")
    mask = Image.new("L", (24, 16), 200)
    memory = samples_from_images([Image.new("RGB", (24, 16), "gray")], "gray", [mask])
    encoded = EncodedPicture({"latents": torch.rand(4, 2, 3), "embeddings": torch.rand(5, 6)})
    return (*files, cut, *memory, Sample("0001", "", encoded=encoded))


def test_stored_samples_are_the_same_again(samples, tmp_path):
    entries = list(store_samples(tmp_path / "images", samples))
    again = stored_samples(tmp_path / "images", entries)
    assert [s.digest for s in again] == [s.digest for s in samples]
    fresh = [replace(s, content=None) for s in again]
    assert [s.digest for s in fresh] == [s.digest for s in samples], "by what is in the files"
    for old, new in zip(samples, again, strict=True):
        assert (new.name, new.caption, new.repeats) == (old.name, old.caption, old.repeats)
        if old.encoded is None:
            assert new.open().tobytes() == old.open().tobytes()
            assert new.size == old.size
            one, other = old.open_mask(), new.open_mask()
            assert (one and one.tobytes()) == (other and other.tobytes())
        else:
            assert torch.equal(new.encoded.tensors()["latents"], old.encoded.held["latents"])


def test_files_keep_their_bytes_and_are_copies(samples, tmp_path):
    entries = list(store_samples(tmp_path / "images", samples))
    names = [entry["file"] for entry in entries]
    assert names == ["0001.gif", "0002.jpg", "0003.png", "0004.png", "0005.safetensors"]
    for sample, name in zip(samples[:3], names, strict=False):
        stored = tmp_path / "images" / name
        assert stored.read_bytes() == sample.path.read_bytes()
        assert stored.stat().st_ino != sample.path.stat().st_ino
    assert [entry["mask"] for entry in entries] == [
        "",
        "0002-mask.png",
        "0003.png",
        "0004-mask.png",
        "",
    ]


def test_the_digest_covers_caption_mask_and_repeats(samples):
    photo = samples[1]
    others = [
        replace(photo, caption="other"),
        replace(photo, repeats=3),
        replace(photo, mask=None),
        replace(photo, mask=Image.new("L", (24, 16), 254)),
        replace(photo, name="other"),
    ]
    digests = [each.digest for each in others]
    assert len({photo.digest, *digests[:4]}) == 5
    assert digests[4] == photo.digest, "what it is called teaches nothing"


@pytest.mark.parametrize("file", ["0001.gif", "0002-mask.png", "0005.safetensors"])
@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_picture_that_changed_is_named(samples, tmp_path, file, what):
    entries = list(store_samples(tmp_path / "images", samples))
    path = tmp_path / "images" / file
    path.unlink() if what == "gone" else path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=rf"{file}.* {what}"):
        stored_samples(tmp_path / "images", entries)


def test_opening_a_run_decodes_no_picture(samples, tmp_path, monkeypatch):
    """However many pictures there are, each is only hashed."""
    entries = list(store_samples(tmp_path / "images", samples))
    digests = [sample.digest for sample in samples]

    def refuse(*args, **options):
        raise AssertionError("a picture was read")

    for name in ("open_image", "open_mask", "open_alpha", "look_at", "look_of"):
        monkeypatch.setattr(sample_file, name, refuse)
    assert [s.digest for s in stored_samples(tmp_path / "images", entries)] == digests
