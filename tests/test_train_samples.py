"""Pictures and captions, from folders and from memory, and the class pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.pipelines.spec import PipelineSpec
from likeness.trainers.data.fitting import fit, pixels
from likeness.trainers.data.prior_images import class_folder, class_samples
from likeness.trainers.data.samples import (
    Sample,
    samples_from_folder,
    samples_from_images,
)
from likeness.trainers.settings import FOLDER, PriorSettings
from PIL import Image


def picture(color="red", size=(40, 30)) -> Image.Image:
    return Image.new("RGB", size, color)


def test_a_caption_beside_a_picture_goes_before_the_prompt(tmp_path):
    picture().save(tmp_path / "b.png")
    picture().save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("\ufeffa red field\n", encoding="utf-8")
    captions = [sample.caption for sample in samples_from_folder(tmp_path, "sks")]
    assert captions == ["a red field", "sks"]
    plain = samples_from_folder(tmp_path, "sks", caption_files=False)
    assert [sample.caption for sample in plain] == ["sks", "sks"]


def test_a_picture_without_any_caption_is_named(tmp_path):
    picture().save(tmp_path / "lonely.png")
    with pytest.raises(ValueError, match=r"lonely\.png has no caption"):
        samples_from_folder(tmp_path)


@pytest.mark.parametrize("content", ["missing", "empty", "unreadable", "tiny", "cut"])
def test_bad_folders_are_refused_by_name(tmp_path, content):
    folder = tmp_path / "pictures"
    if content != "missing":
        folder.mkdir()
    if content == "unreadable":
        (folder / "bad.png").write_text("no picture")
    if content == "tiny":
        picture(size=(1, 1)).save(folder / "bad.png")
    if content == "cut":
        picture(size=(400, 300)).save(folder / "bad.png")
        data = (folder / "bad.png").read_bytes()
        (folder / "bad.png").write_bytes(data[: len(data) // 2])
    named = "pictures" if content in ("missing", "empty") else "bad.png"
    with pytest.raises(ValueError, match=named):
        samples_from_folder(folder, "sks")


def test_pictures_in_memory():
    samples = samples_from_images([picture(), picture("blue")], ["one", "two"])
    assert [sample.caption for sample in samples] == ["one", "two"]
    assert samples[1].open().getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(ValueError, match="no pictures"):
        samples_from_images([], "one")
    with pytest.raises(ValueError, match="2 pictures but 3 captions"):
        samples_from_images([picture(), picture()], ["a", "b", "c"])
    with pytest.raises(ValueError, match="picture 2"):
        samples_from_images([picture(), picture(size=(1, 1))], "a")
    with pytest.raises(ValueError, match="caption of picture 1"):
        samples_from_images([picture()], " ")


def test_the_digest_is_of_pixels_and_caption_not_of_the_file(tmp_path):
    picture().save(tmp_path / "a.png")
    picture().save(tmp_path / "a.bmp")
    first, second = samples_from_folder(tmp_path, "sks")
    memory = samples_from_images([picture()], "sks")[0]
    assert first.digest == second.digest == memory.digest
    assert samples_from_images([picture()], "other")[0].digest != memory.digest
    assert samples_from_images([picture("blue")], "sks")[0].digest != memory.digest
    assert samples_from_images([picture(size=(30, 40))], "sks")[0].digest != memory.digest


def test_fit_keeps_the_middle_and_pixels_are_minus_one_to_one():
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    tensor = pixels(fit(wide, 64, 64))
    assert tensor.shape == (3, 64, 64)
    assert float(tensor[:, :, 8:-8].min()) == 1.0
    assert float(pixels(picture("black")).max()) == -1.0


def test_class_pictures_are_made_once_and_counted(tiny_base, pipelines, tmp_path, monkeypatch):
    import likeness.pipelines.generate as drawing

    made = []
    original = drawing.generate

    def counting(pipelines, spec, sampling, on_step=None):
        made.append((sampling.seed, sampling.count))
        return original(pipelines, spec, sampling, on_step)

    monkeypatch.setattr(drawing, "generate", counting)
    spec = PipelineSpec(tiny_base)
    two = PriorSettings(class_prompt="a photo of a cup", count=2, steps=1, batch_size=2)
    five = PriorSettings(class_prompt="a photo of a cup", count=5, steps=1, batch_size=2)

    def ask(prior):
        made.clear()
        return class_samples(pipelines, spec, prior, tmp_path, (32, 32))

    first = ask(two)
    assert made == [(0, 2)]
    more = ask(five)
    assert made == [(2, 2), (4, 2)], (
        "whole batches: a picture does not depend on how many are asked for"
    )
    assert len(more) == 5
    assert [sample.digest for sample in more[:2]] == [sample.digest for sample in first]
    assert {sample.caption for sample in more} == {"a photo of a cup"}
    assert len({sample.digest for sample in more}) == 5
    ask(replace(five, count=6))
    assert made == []
    more[3].path.unlink()
    again = ask(five)
    assert made == [(2, 2)]
    fresh = [Sample(sample.name, sample.caption, file=str(sample.path)).digest for sample in again]
    assert fresh == [sample.digest for sample in more]


def test_making_class_pictures_stops_within_one_step_and_keeps_whole_batches(
    tiny_base, pipelines, tmp_path
):
    class Stop(Exception):
        pass

    told = []

    def on_image(there, wanted):
        told.append((there, wanted))
        if len(told) == 5:
            raise Stop

    prior = PriorSettings(class_prompt="a red star", count=4, batch_size=2, steps=3)
    with pytest.raises(Stop):
        class_samples(
            pipelines, PipelineSpec(tiny_base), prior, tmp_path, (32, 32), on_image=on_image
        )
    assert told == [(0, 4), (0, 4), (0, 4), (2, 4), (2, 4)]
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_class_pictures_of_another_kind_lie_elsewhere(tiny_base, tmp_path):
    spec = PipelineSpec(tiny_base)
    plain = PriorSettings(class_prompt="a photo of a cup")
    others = [
        PriorSettings(class_prompt="a photo of a fish"),
        PriorSettings(class_prompt="a photo of a cup", steps=9),
        PriorSettings(class_prompt="a photo of a cup", guidance=1.0),
        PriorSettings(class_prompt="a photo of a cup", seed=1),
        PriorSettings(class_prompt="a photo of a cup", batch_size=4),
    ]
    folders = {class_folder(spec, prior, tmp_path, (64, 64)) for prior in (plain, *others)}
    folders.add(class_folder(spec, plain, tmp_path, (32, 32)))
    assert len(folders) == 7
    more = PriorSettings(class_prompt="a photo of a cup", count=9, weight=0.5)
    assert class_folder(spec, more, tmp_path, (64, 64)) in folders


def test_own_class_pictures_are_used_as_they_are(tiny_base, pipelines, tmp_path):
    picture().save(tmp_path / "mine.png")
    (tmp_path / "mine.txt").write_text("not this")
    prior = PriorSettings(class_prompt="a cup", source=FOLDER, folder=str(tmp_path))
    samples = class_samples(pipelines, PipelineSpec(tiny_base), prior, tmp_path, (32, 32))
    assert [(sample.path, sample.caption) for sample in samples] == [
        (tmp_path / "mine.png", "a cup")
    ]
    assert torch.equal(pixels(samples[0].open()), pixels(picture()))
