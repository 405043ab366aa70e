"""Files that are broken or made for another model: a clear message, and not one weight changed."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from likeness.families import family_named
from likeness.pipelines.lora.files import describe_lora, read_lora, write_lora
from likeness.pipelines.lora.signs import looks_like
from safetensors.torch import load_file, save_file

from . import lora_models
from .lora_models import ALL, deltas, random_lora, weights_of

live_models = lora_models.live_models


@pytest.fixture()
def untouched(live_models):
    """A model whose weights must be the same bits afterwards."""
    live = live_models("stable-diffusion")
    before = weights_of(live)
    yield live
    after = weights_of(live)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.fixture()
def tensors(live_models, tmp_path):
    live = live_models("stable-diffusion")
    return load_file(write_lora(tmp_path / "good.safetensors", random_lora(live), live.family, {}))


UP = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_infinity(untouched, tensors, tmp_path, value, dtype):
    bad = tensors[UP].to(dtype)
    bad.flatten()[3] = value
    save_file(tensors | {UP: bad}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"bad\.safetensors holds NaN or infinity in 'lora_unet"):
        read_lora(tmp_path / "bad.safetensors", untouched)


def test_a_pair_without_its_half(untouched, tensors, tmp_path):
    del tensors[UP]
    save_file(tensors, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"incomplete: lora_unet_.*_proj_in lacks its up or down"):
        read_lora(tmp_path / "half.safetensors", untouched)


def test_a_layer_of_another_width(untouched, tensors, tmp_path):
    shape = tensors[UP].shape
    save_file(tensors | {UP: torch.zeros(shape[0] * 2, *shape[1:])}, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"has the shape .* the LoRA changes .*another model"):
        read_lora(tmp_path / "wide.safetensors", untouched)


def test_a_file_without_layers_and_empty_files(untouched, tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, message in (
        ("none.safetensors", "holds no LoRA weights"),
        ("empty.safetensors", "is not a whole safetensors file: it has 0 bytes"),
        ("empty.pt", "damaged or cut short"),
        ("gone.safetensors", "does not exist"),
    ):
        for act in (describe_lora, lambda path: read_lora(path, untouched)):
            with pytest.raises(ValueError, match=message):
                act(tmp_path / name)


def lying(tensors, change):
    """A safetensors file whose header was changed after the fact."""
    body = b"".join(t.numpy().tobytes() for t in tensors.values())
    offset, header = 0, {}
    for name, tensor in tensors.items():
        size = tensor.numel() * 4
        entry = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        header[name] = entry
        offset += size
    length = change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", length or len(text)) + text + body


def outside(header):
    next(iter(header.values()))["data_offsets"][1] += 4096


def larger(header):
    next(iter(header.values()))["shape"] = [4096, 4096]


def longer(header):
    return 1 << 40


def overlapping(header):
    first, second = list(header.values())[:2]
    second["data_offsets"] = first["data_offsets"]
    second["shape"] = first["shape"]


@pytest.mark.parametrize("lie", [outside, larger, longer, overlapping])
def test_a_header_that_lies(untouched, tensors, tmp_path, lie):
    file = tmp_path / "lying.safetensors"
    file.write_bytes(lying(tensors, lie))
    with pytest.raises(ValueError, match=r"lying\.safetensors is not a whole safetensors file"):
        read_lora(file, untouched)


def test_a_file_cut_short(untouched, tmp_path, tensors):
    whole = (tmp_path / "good.safetensors").read_bytes()
    for end in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.safetensors is not a whole safetensors file"):
            read_lora(tmp_path / "cut.safetensors", untouched)


class Bomb:
    def __reduce__(self):
        return (print, ("ran code",))


def test_pickles_are_tensors_or_refused(untouched, tensors, tmp_path, capsys):
    torch.save(tensors, tmp_path / "old.pt")
    good = deltas(read_lora(tmp_path / "good.safetensors", untouched), untouched)
    old = deltas(read_lora(tmp_path / "old.pt", untouched), untouched)
    assert all(torch.equal(old[name], delta) for name, delta in good.items())
    assert describe_lora(tmp_path / "old.pt").name == "old"
    torch.save(tensors | {"bomb": Bomb()}, tmp_path / "bomb.ckpt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"bomb": Bomb()}))
    for name in ("bomb.ckpt", "plain.bin"):
        with pytest.raises(ValueError, match="runs no code"):
            read_lora(tmp_path / name, untouched)
    assert "ran code" not in capsys.readouterr().out
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(ValueError, match=r"is no LoRA file; Likeness reads \.safetensors"):
        read_lora(tmp_path / "notes.txt", untouched)


@pytest.mark.parametrize("mine", ALL)
def test_a_lora_of_another_family_is_refused_with_the_family_it_looks_made_for(
    live_models, mine, tmp_path
):
    live = live_models(mine)
    before = weights_of(live)
    for other in ALL:
        if other == mine:
            continue
        stranger = live_models(other)
        for layout in ("kohya", "diffusers"):
            path = tmp_path / f"{other}-{layout}.safetensors"
            write_lora(path, random_lora(stranger), stranger.family, {}, layout)
            with pytest.raises(ValueError, match=r"does not fit .*looks made for") as refused:
                read_lora(path, live)
            assert live.family.title not in str(refused.value).rpartition("looks made for")[2]
    after = weights_of(live)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def shapes_of(family):
    attention = "lora_unet_{}_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    sgm = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"
    dotted = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight"
    return {
        "sd1": {attention.format("down_blocks_0"): (4, 768)},
        "sd2": {attention.format("down_blocks_0"): (4, 1024)},
        "sdxl": {attention.format("down_blocks_1"): (4, 2048)},
        "sgm": {sgm: (4, 2048)},
        "dotted": {dotted: (4, 768)},
        "flux": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (16, 3072)},
        "sd3": {"diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight": (16, 1536)},
        "z": {"diffusion_model.layers.0.attention.to_q.lora_A.weight": (16, 3840)},
        "qwen": {"transformer_blocks.0.img_mod.1.lora_A.weight": (16, 3072)},
        "wan": {"diffusion_model.blocks.0.self_attn.o.lora_A.weight": (16, 5120)},
        "chroma": {"diffusion_model.distilled_guidance_layer.in_proj.lora_A.weight": (16, 64)},
        "odd": {"something.lora_A.weight": (4, 4)},
    }[family]  # fmt: skip


@pytest.mark.parametrize(
    ("made_for", "title"),
    [
        ("sd1", "Stable Diffusion 1.x"),
        ("sd2", "Stable Diffusion 2.x"),
        ("sdxl", "SDXL"),
        ("sgm", "SDXL"),
        ("dotted", "Stable Diffusion 1.x"),
        ("flux", family_named("flux").title),
        ("sd3", family_named("sd3").title),
        ("z", family_named("z-image").title),
        ("qwen", "Qwen-Image"),
        ("wan", "Wan"),
        ("chroma", "Chroma"),
        ("odd", "an unknown model"),
    ],
)
def test_what_a_file_looks_made_for(made_for, title):
    assert looks_like(shapes_of(made_for)) == title


def test_some_strangers_are_listed_and_more_are_refused(untouched, tensors, tmp_path, caplog):
    few = {f"lora_unet_strange_{n}.lora_down.weight": torch.zeros(1, 1) for n in range(5)}
    save_file(tensors | few, tmp_path / "few.safetensors")
    read_lora(tmp_path / "few.safetensors", untouched)
    assert "5 weights match nothing" in caplog.text
    assert "lora_unet_strange_0" in caplog.text
    many = {f"lora_unet_strange_{n}.lora_down.weight": torch.zeros(1, 1) for n in range(60)}
    save_file(tensors | many, tmp_path / "many.safetensors")
    with pytest.raises(ValueError, match=r"60 of its \d+ weights match nothing"):
        read_lora(tmp_path / "many.safetensors", untouched)


def test_a_bias_for_a_layer_without_one(untouched, tensors, tmp_path):
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert untouched.component("unet").get_submodule(
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    ).bias is None  # fmt: skip
    rows = tensors[f"{name}.lora_up.weight"].shape[0]
    save_file(tensors | {f"{name}.diff_b": torch.ones(rows)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="which has none here"):
        read_lora(tmp_path / "x.safetensors", untouched)


def test_a_peft_configuration_that_cannot_be_read(untouched, tensors, tmp_path):
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": "{no json"})
    with pytest.raises(ValueError, match="PEFT configuration"):
        read_lora(tmp_path / "x.safetensors", untouched)
