"""Files of tensors: views without copies, and every kind of damage told before anything is read."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.pipelines.tensor_file import is_mapped, open_tensors, release_pages
from safetensors.torch import load_file, save_file

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4),
    "half": torch.linspace(-1, 1, 7).half(),
    "brain": torch.linspace(-1, 1, 5).bfloat16(),
    "eight": torch.linspace(-1, 1, 6).to(torch.float8_e4m3fn),
    "other_eight": torch.linspace(-1, 1, 6).to(torch.float8_e5m2),
    "whole": torch.arange(3),
    "yes": torch.tensor([True, False]),
    "one": torch.tensor(2.5),
    "none": torch.empty(0, 4),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt", "note": "hello"})
    return path


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_every_type_is_read_as_the_library_reads_it(file):
    opened = open_tensors(file)
    assert opened.metadata["note"] == "hello"
    assert opened.shapes() == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    for name, expected in load_file(file).items():
        tensor = opened.tensor(name)
        assert tensor.dtype == expected.dtype
        assert opened.dtypes()[name] == str(expected.dtype).removeprefix("torch.")
        assert torch.equal(tensor.float(), expected.float())


def test_views_cost_nothing_and_never_reach_the_file(file):
    before = file.read_bytes()
    tensor = open_tensors(file).tensor("a")
    assert is_mapped(tensor) and is_mapped(tensor[1:]) and is_mapped(tensor.T)
    assert not is_mapped(tensor.clone())
    assert not is_mapped(torch.zeros(3))
    release_pages(tensor)
    release_pages(torch.zeros(3))
    tensor += 1
    assert file.read_bytes() == before
    file.unlink()
    assert torch.equal(tensor, TENSORS["a"] + 1), "what is mapped lives as long as its tensors"


def test_pages_given_back_are_read_again(tmp_path):
    path = tmp_path / "large.safetensors"
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(3, 1 << 20, generator=generator)
    save_file({"before": torch.ones(5), "large": large, "after": torch.ones(5)}, path)
    opened = open_tensors(path)
    tensor = opened.tensor("large")
    after = opened.tensor("after")
    after += 1  # its page is private now, and not ours to give back
    assert torch.equal(tensor, large)
    resident = _resident(tensor)
    release_pages(tensor)
    if resident is not None:
        assert _resident(tensor) < resident / 10
    release_pages(tensor.T)
    release_pages(tensor[1:, 100:])
    assert torch.equal(tensor, large)
    assert torch.equal(after, torch.full((5,), 2.0))


def _resident(tensor):
    """Kilobytes of the mapping around `tensor` that are in this process's memory (Linux)."""
    try:
        lines = open("/proc/self/smaps").read().splitlines()  # noqa: PTH123, SIM115
    except OSError:
        return None
    inside = False
    for line in lines:
        first = line.split()[0]
        if "-" in first and ":" not in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= tensor.data_ptr() < end
        elif inside and first == "Rss:":
            return int(line.split()[1])
    return None


def test_a_tensor_out_of_step_is_copied(tmp_path):
    header = {
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "word": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    path = write(tmp_path / "odd.safetensors", header, b"\7" + struct.pack("<ff", 1.5, -2))
    word = open_tensors(path).tensor("word")
    assert word.tolist() == [1.5, -2]
    assert word.data_ptr() % 4 == 0
    assert not is_mapped(word)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        ({"a": GOOD}, b"\0" * 8, 10**15, "its header is said to have 1000000000000000 bytes"),
        ({"a": GOOD}, b"\0" * 8, 3, "its header cannot be read"),
        (b"[1]", b"", None, "no list of tensors"),
        (b"\xff\xfe", b"", None, "cannot be read"),
        (b"[" * 100_000, b"", None, "cannot be read"),
        (b'{"a": 1, "a": 2}', b"", None, "a name stands there twice"),
        ({"a": GOOD}, b"\0" * 7, None, "tells of 8 bytes of tensors and 7 follow"),
        ({"a": GOOD}, b"\0" * 9, None, "tells of 8 bytes of tensors and 9 follow"),
        ({"a": {**GOOD, "shape": [3]}}, b"\0" * 8, None, "do not fit its shape"),
        ({"a": {**GOOD, "shape": [-2, -1]}}, b"\0" * 8, None, "impossible sizes"),
        ({"a": {**GOOD, "shape": [2.0]}}, b"\0" * 8, None, "impossible sizes"),
        ({"a": {**GOOD, "data_offsets": [8, 0]}}, b"\0" * 8, None, "do not fit"),
        ({"a": {**GOOD, "data_offsets": [4, 12]}}, b"\0" * 12, None, "leaves a gap"),
        ({"a": GOOD, "b": {**GOOD, "data_offsets": [4, 12]}}, b"\0" * 12, None, "'b' overlaps 'a'"),
        ({"a": {"dtype": "F32"}}, b"", None, "entry for 'a' is incomplete"),
        ({"a": 7}, b"", None, "entry for 'a' is incomplete"),
        ({"a": {**GOOD, "dtype": "F4"}}, b"\0" * 8, None, "stores 'a' as 'F4'"),
        ({"a": GOOD, "__metadata__": [1]}, b"\0" * 8, None, "its metadata is no table"),
    ],
)
def test_a_lying_header_is_refused(tmp_path, header, data, length, message):
    path = write(tmp_path / "bad.safetensors", header, data, length)
    with pytest.raises(ValueError, match=message) as refused:
        open_tensors(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_a_file_cut_short_is_refused(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"file\.safetensors is damaged or cut short.*again"):
        open_tensors(file)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_gets_past_or_crashes(tmp_path_factory, data):
    """One byte of the header changed: refused, or tensors of the shapes that it now says."""
    path = tmp_path_factory.mktemp("damage") / "file.safetensors"
    save_file(TENSORS, path)
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        opened = open_tensors(path)
    except ValueError:
        return
    for name, shape in opened.shapes().items():
        assert tuple(opened.tensor(name).shape) == shape


def test_other_files_are_refused_by_kind(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.safetensors is not there"):
        open_tensors(tmp_path / "nothing.safetensors")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"model\.gguf is no file of tensors that Likeness reads"):
        open_tensors(tmp_path / "model.gguf")


def test_pickles_give_their_tensors_and_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": TENSORS["a"], "step": 3, 5: TENSORS["a"]}, path)
    opened = open_tensors(path)
    assert opened.shapes() == {"a": (3, 4)}
    assert torch.equal(opened.tensor("a"), TENSORS["a"])
    torch.save({"state_dict": {"b": TENSORS["half"]}}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(open_tensors(path).tensor("b"), TENSORS["half"])
    torch.save(TENSORS["a"], path)
    with pytest.raises(ValueError, match="holds a Tensor, not tensors with names"):
        open_tensors(path)
    path.write_bytes(b"no pickle at all")
    with pytest.raises(ValueError, match=r"model\.pt is"):
        open_tensors(path)
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"model\.pt is damaged or cut short"):
        open_tensors(path)
