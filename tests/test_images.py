"""Pictures of every common kind arrive as upright RGB; tensors go there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.pipelines.images import from_tensor, image_files, open_image, to_tensor
from PIL import Image

RED, HALF = (200, 30, 40), (228, 142, 148)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("rgb.png", "RGB", RED),
        ("grey.png", "L", (82, 82, 82)),
        ("palette.png", "P", RED),
        ("cmyk.jpg", "CMYK", RED),
        ("bilevel.png", "1", None),
        ("lossless.webp", "RGB", RED),
        ("picture.bmp", "RGB", RED),
        ("picture.tif", "RGB", RED),
    ],
)
def test_common_modes_become_rgb(tmp_path, name, mode, expected):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, Image.new("RGB", (16, 12), RED).convert(mode), **options)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (16, 12))
    if expected:
        assert np.abs(np.asarray(image).reshape(-1, 3).mean(0) - expected).max() < 6


def test_transparency_is_laid_on_white(tmp_path):
    half = save(tmp_path / "half.png", Image.new("RGBA", (9, 9), (*RED, 128)))
    assert np.abs(np.asarray(open_image(half))[0, 0].astype(int) - HALF).max() <= 2
    clear = save(tmp_path / "clear.png", Image.new("LA", (9, 9), (10, 0)))
    assert open_image(clear).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = open_image(save(tmp_path / "deep.png", Image.fromarray(values)))
    grey = np.asarray(image)[..., 0].astype(int)
    assert grey[0, 0] == 0 and grey[-1, -1] == 255
    assert np.abs(grey.ravel() - np.linspace(0, 255, 64)).max() <= 1.5


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), RED)
    exif = image.getexif()
    exif[0x0112] = 6  # a phone held upright
    assert open_image(save(tmp_path / "phone.jpg", image, exif=exif)).size == (10, 20)


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "bad.png"
    if content is None:
        Image.effect_noise((64, 64), 90).save(path)
        content = path.read_bytes()[:700]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.png cannot be read .*replace or remove it"):
        open_image(path)


def test_too_many_pixels_are_refused_before_they_are_read(tmp_path):
    path = save(tmp_path / "wide.png", Image.new("1", (12_000, 9_000)))
    with pytest.raises(ValueError, match=r"12000x9000 pixels; at most 100 megapixels"):
        open_image(path)


def test_folders_without_pictures_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds no pictures; put some in it"):
        image_files(tmp_path)
    with pytest.raises(ValueError, match=r"gone does not exist"):
        image_files(tmp_path / "gone")


def test_tensors_go_there_and_back():
    levels = torch.arange(256).repeat(3, 1).T.reshape(1, 16, 16, 3) / 255
    assert torch.equal(to_tensor(from_tensor(levels)), levels)
    assert from_tensor(torch.zeros(2, 8, 9, 1))[1].size == (9, 8)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 8, 8\) is not a picture"):
        from_tensor(torch.zeros(2, 3, 8, 8))


def test_floating_point_pictures_span_black_to_white(tmp_path):
    values = np.linspace(-3, 7, 64, dtype=np.float32).reshape(8, 8)
    grey = np.asarray(open_image(save(tmp_path / "depth.tif", Image.fromarray(values))))[..., 0]
    assert (grey[0, 0], grey[-1, -1]) == (0, 255)
