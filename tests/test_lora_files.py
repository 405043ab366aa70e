"""LoRA files go in and out whole, in every layout, or are refused with a reason."""

from __future__ import annotations

import json

import pytest
import torch
from likeness.pipelines.lora.files import describe_lora, read_lora, save_copy, write_lora
from safetensors.torch import load_file, save_file


def deltas(lora, pipelines, base):
    with pipelines.open(base) as live:
        weights = read_lora(lora.path, live)
        return {
            f"{part}.{module}": pair.delta(torch.empty(pair.shape))
            for part, pairs in weights.items()
            for module, pair in pairs.items()
        }


@pytest.mark.parametrize("source", ["kohya", "diffusers"])
@pytest.mark.parametrize("target", ["kohya", "diffusers"])
def test_a_copy_in_any_layout_changes_the_model_by_the_same_numbers(
    pipelines, tiny_base, make_lora, tmp_path, source, target
):
    lora = make_lora(4, layout=source, title="A title")
    path = save_copy(lora, tmp_path / "copy.safetensors", target, {"workflow": "{}"})
    copy = describe_lora(path)
    before = deltas(lora, pipelines, tiny_base)
    after = deltas(copy, pipelines, tiny_base)
    assert before.keys() == after.keys()
    for name, delta in before.items():
        torch.testing.assert_close(after[name], delta, rtol=1e-6, atol=1e-7)
    assert copy.metadata_dict["title"] == "A title"
    assert copy.metadata_dict["workflow"] == "{}"
    assert path.stat().st_mode & 0o044, "others may read it"


def test_another_lora_is_never_overwritten_and_the_same_one_is_not_written_twice(
    make_lora, tmp_path
):
    many = {f"key {number}": str(number) for number in range(20)}
    first = save_copy(make_lora(1), tmp_path / "mine.safetensors", extra_metadata=many)
    again = save_copy(make_lora(1), tmp_path / "mine.safetensors", extra_metadata=many)
    other = save_copy(make_lora(2), tmp_path / "mine.safetensors")
    assert (first.name, again.name, other.name) == (
        "mine.safetensors",
        "mine.safetensors",
        "mine_00002.safetensors",
    )
    assert {path.name for path in tmp_path.iterdir()} == {first.name, other.name}


def test_every_key_is_one_that_comfyui_reads(make_lora):
    keys = set(load_file(make_lora(1).path))
    expected = {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
    }
    assert expected <= keys
    assert all(key.startswith(("lora_unet_", "lora_te_text_model_")) for key in keys)


def test_truncated_foreign_and_empty_files_are_refused(make_lora, tmp_path, pipelines, tiny_base):
    whole = make_lora(1).path
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(open(whole, "rb").read()[:5000])  # noqa: PTH123, SIM115
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a whole safetensors file"):
        describe_lora(cut)
    with pytest.raises(ValueError, match=r"gone\.safetensors does not exist"):
        describe_lora(tmp_path / "gone.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"empty\.safetensors holds no LoRA weights"):
        describe_lora(tmp_path / "empty.safetensors")
    flux = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{flux}.lora_down.weight": torch.zeros(4, 8),
        f"{flux}.lora_up.weight": torch.zeros(8, 4),
    }
    save_file(tensors, tmp_path / "flux.safetensors")
    with (
        pipelines.open(tiny_base) as live,
        pytest.raises(ValueError, match=r"flux\.safetensors does not fit.*looks made for FLUX"),
    ):
        read_lora(tmp_path / "flux.safetensors", live)


def test_a_failed_write_leaves_nothing_and_keeps_the_older_file(make_lora, tmp_path, monkeypatch):
    import safetensors.torch

    path = save_copy(make_lora(1), tmp_path / "mine.safetensors")
    before = path.read_bytes()

    def full_disk(tensors, target, metadata):  # as a real one fails: half-way
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_copy(make_lora(2), tmp_path / "mine.safetensors")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.safetensors"]


def test_metadata_survives_as_text(make_lora, tmp_path):
    graph = json.dumps({"nodes": [{"title": 'Überschrift "zitiert"'}]})
    path = save_copy(
        make_lora(1), tmp_path / "mine.safetensors", extra_metadata={"workflow": graph}
    )
    assert json.loads(describe_lora(path).metadata_dict["workflow"]) == json.loads(graph)


def test_nothing_to_write_and_unknown_layouts_are_errors(pipelines, tiny_base, make_lora, tmp_path):
    with pipelines.open(tiny_base) as live:
        with pytest.raises(ValueError, match="has no layers"):
            write_lora(tmp_path / "x.safetensors", {}, live.family, {})
        with pytest.raises(ValueError, match="layout 'odd' is unknown"):
            write_lora(tmp_path / "x.safetensors", {}, live.family, {}, "odd")
    with pytest.raises(ValueError, match="layout 'odd' is unknown"):
        save_copy(make_lora(1), tmp_path / "x.safetensors", "odd")
    assert not list(tmp_path.iterdir())
