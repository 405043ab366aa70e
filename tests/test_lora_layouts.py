"""What we write is read by those it is written for, as the same change: diffusers, PEFT, ourselves.

ComfyUI is asked in `test_lora_comfyui.py`.
"""

from __future__ import annotations

import json

import pytest
import torch
from likeness.pipelines.lora import write as lora_write
from likeness.pipelines.lora.changes import Difference, LoraPair
from likeness.pipelines.lora.dora import INPUT, OUTPUT, Dora
from likeness.pipelines.lora.files import describe_lora, read_lora, save_copy, write_lora
from likeness.pipelines.lora.lycoris import LoHa, LoKr
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import lora_models
from .lora_models import (
    ALL,
    assert_same,
    deltas,
    diffusers_deltas,
    layers,
    off,
    random_lora,
)

live_models = lora_models.live_models

DIFFUSERS_PARTS = {
    "stable-diffusion": ("unet", "text_encoder"),
    "sdxl": ("unet", "text_encoder", "text_encoder_2"),
    "sd3": ("transformer", "text_encoder", "text_encoder_2"),
    "flux": ("transformer", "text_encoder"),
    "z-image": ("transformer",),
}
"""Where diffusers applies a LoRA at all."""


def read_back(path, live):
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    weights = {}
    for file in files:
        weights |= read_lora(file, live)
    return weights


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("name", ALL)
def test_every_layout_of_every_family_reads_back_the_same(live_models, name, layout, tmp_path):
    live = live_models(name)
    weights = random_lora(live, alpha=3.0)
    path = write_lora(tmp_path / "x.safetensors", weights, live.family, {"a": "b"}, layout)
    assert_same(deltas(read_back(path, live), live), deltas(weights, live))
    file = path if path.is_file() else next(path.rglob("*.safetensors"))
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["a"] == "b"


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("name", ALL)
def test_diffusers_fuses_what_we_wrote_to_the_same_weights(live_models, name, layout, tmp_path):
    """At an alpha that is not the rank. The kohya layout is for diffusers only with a UNet."""
    live = live_models(name)
    if layout == "kohya" and live.family.denoiser.attribute != "unet":
        pytest.skip("diffusers does not read the names that ComfyUI reads of this family")
    parts = DIFFUSERS_PARTS[name]
    weights = random_lora(live, alpha=3.0, parts=parts)
    path = write_lora(tmp_path / "x.safetensors", weights, live.family, {}, layout)
    # W + ΔW - W in float32 costs the last digits of W.
    assert_same(deltas(weights, live), diffusers_deltas(live, path, parts), 1e-5)


def test_half_precision_stays_exact_where_the_factor_does_not_fit(live_models, tmp_path):
    live = live_models("stable-diffusion")
    for alpha, dtype in ((2.0, torch.bfloat16), (3.0, torch.float32)):
        weights = random_lora(live, alpha=alpha, dtype=torch.bfloat16, parts=("unet",))
        path = write_lora(tmp_path / f"{alpha}.safetensors", weights, live.family, {}, "diffusers")
        kinds = {t.dtype for key, t in load_file(path).items() if "lora_B" in key}
        assert kinds == {dtype}
        assert_same(deltas(read_lora(path, live), live), deltas(weights, live))


PEFT_METHODS = ("lora", "dora", "loha", "loha tucker", "lokr", "lokr whole")


def adapters(live, method, attribute, count=6):
    """The first linear layers of a component (and convolutions) with an adapter of one method."""
    from peft.tuners.lokr.layer import factorization

    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    changes = {}
    for component, path, module in layers(live):
        shape = tuple(module.weight.shape)
        if component.attribute != attribute or len(changes) == count:
            continue
        out, inner = shape[0], shape[1]
        is_conv = len(shape) == 4 and shape[2:] != (1, 1)
        pair = LoraPair(draw(4, *shape[1:]), draw(out, 4, *[1] * (len(shape) - 2)), 3.0)
        if method == "lora":
            changes[path] = pair
        elif method == "dora":
            changes[path] = Dora(pair, torch.rand(out, generator=generator) + 0.5, OUTPUT)
        elif method.startswith("loha"):
            tucker = method.endswith("tucker") and is_conv
            flat = module.weight[0].numel()
            sizes = {"a": (4, out), "b": (4, inner)} if tucker else {"a": (out, 4), "b": (4, flat)}
            tensors = {f"hada_w{n}_{s}": draw(*size) for n in (1, 2) for s, size in sizes.items()}
            if tucker:
                tensors |= {f"hada_t{n}": draw(4, 4, *shape[2:]) for n in (1, 2)}
            changes[path] = LoHa(tensors, 0.7).shaped(shape)
        else:
            (ol, ok), (il, ik) = factorization(out, -1), factorization(inner, -1)
            tensors = {"lokr_w1": draw(ol, il)}
            if method == "lokr whole":
                tensors["lokr_w2"] = draw(ok, ik, *shape[2:])
            else:
                flat = ik * (module.weight[0, 0].numel() if len(shape) == 4 else 1)
                tensors |= {"lokr_w2_a": draw(ok, 2), "lokr_w2_b": draw(2, flat)}
            changes[path] = LoKr(tensors, 0.7).shaped(shape)
    return changes


@pytest.mark.parametrize("method", PEFT_METHODS)
@pytest.mark.parametrize(
    ("name", "attribute"),
    [("stable-diffusion", "unet"), ("stable-diffusion", "text_encoder"), ("flux", "transformer")],
)
def test_peft_loads_our_folders_and_merges_them_to_the_same_weights(
    live_models, name, attribute, method, tmp_path
):
    from peft import PeftModel

    live = live_models(name)
    changes = adapters(live, method, attribute, count=12)
    folder = write_lora(tmp_path / "x", {attribute: changes}, live.family, {}, "peft")
    read = read_lora(folder / attribute / "adapter_model.safetensors", live)
    assert_same(deltas(read, live), deltas({attribute: changes}, live))

    root = getattr(lora_models.load(live.base.path), attribute)
    merged = PeftModel.from_pretrained(root, str(folder / attribute)).merge_and_unload()
    for path, change in changes.items():
        before = live.component(attribute).get_submodule(path).weight
        theirs = merged.get_submodule(path).weight - before
        assert off(theirs.detach(), change.delta(before)) < 1e-5, path
    untouched = {n for n, _ in merged.named_parameters()} - {f"{p}.weight" for p in changes}
    reference = dict(live.component(attribute).named_parameters())
    assert all(merged.get_parameter(n).equal(reference[n]) for n in untouched)


def test_diffusers_loads_its_doras_from_our_file(live_models, tmp_path):
    live = live_models("stable-diffusion")
    weights = {"unet": adapters(live, "dora", "unet", 8)}
    path = write_lora(tmp_path / "x.safetensors", weights, live.family, {}, "diffusers")
    assert_same(deltas(read_lora(path, live), live), deltas(weights, live))
    theirs = diffusers_deltas(live, path, ("unet",))
    ours = deltas(weights, live)
    assert_same(ours, {name: theirs[name] for name in ours}, 1e-5)


@pytest.mark.parametrize("method", ["lora", "loha", "lokr", "lokr whole", "loha tucker"])
def test_kohya_layout_keeps_lycoris_names_and_the_same_change(live_models, method, tmp_path):
    live = live_models("sdxl")
    weights = {"unet": adapters(live, method, "unet", 12)}
    path = write_lora(tmp_path / "x.safetensors", weights, live.family, {})
    signs = {"lora": "lora_up", "loha": "hada_w1_a", "lokr": "lokr_w1"}
    assert signs[method.split()[0]] in " ".join(load_file(path))
    assert_same(deltas(read_lora(path, live), live), deltas(weights, live))


def test_what_a_layout_cannot_say_is_refused_with_the_way_out(live_models, tmp_path):
    live = live_models("stable-diffusion")

    def write(method, layout, **options):
        weights = {"unet": adapters(live, method, "unet", 3)}
        return write_lora(tmp_path / "x.safetensors", weights, live.family, {}, layout, **options)

    for method, layout in (("loha", "diffusers"), ("lokr", "diffusers")):
        with pytest.raises(ValueError, match="choose the layout 'kohya'"):
            write(method, layout)
    with pytest.raises(ValueError, match="connect the pipeline"):
        write("dora", "kohya")
    shape = tuple(live.component("unet").conv_in.weight.shape)
    difference = {"unet": {"conv_in": Difference(torch.ones(shape))}}
    for layout in ("diffusers", "peft"):
        with pytest.raises(ValueError, match=r"full difference; choose the layout 'kohya'"):
            write_lora(tmp_path / "x.safetensors", difference, live.family, {}, layout)
    mixed = adapters(live, "lora", "unet", 2) | dict(
        list(adapters(live, "loha", "unet", 4).items())[2:]
    )
    with pytest.raises(ValueError, match="of one method"):
        write_lora(tmp_path / "x.safetensors", {"unet": mixed}, live.family, {}, "peft")
    columns = Dora(LoraPair(torch.ones(2, *shape[1:]), torch.ones(shape[0], 2, 1, 1), 2.0),
                   torch.ones(1, shape[1], 1, 1), INPUT)  # fmt: skip
    with pytest.raises(ValueError, match="norms of another kind"):
        write_lora(
            tmp_path / "x.safetensors", {"unet": {"conv_in": columns}}, live.family, {}, "peft"
        )
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_a_dora_of_peft_becomes_the_difference_from_its_base(live_models, tmp_path):
    live = live_models("stable-diffusion")
    weights = {"unet": adapters(live, "dora", "unet", 4)}
    path = write_lora(tmp_path / "x.safetensors", weights, live.family, {}, "kohya", live)
    assert all(key.endswith(".diff") for key in load_file(path))
    assert_same(deltas(read_lora(path, live), live), deltas(weights, live))


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("target", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("name", ["stable-diffusion", "flux", "z-image"])
def test_copies_between_all_layouts_without_a_model(live_models, name, source, target, tmp_path):
    """By the words in the names; PEFT's own files name no text encoder, so the denoiser alone."""
    live = live_models(name)
    parts = (live.family.denoiser.attribute,)
    weights = random_lora(live, parts=parts)
    path = write_lora(tmp_path / "a" / "source.safetensors", weights, live.family, {}, source)
    if source == "peft":
        path = path / parts[0] / "adapter_model.safetensors"
    copy = save_copy(describe_lora(path), tmp_path / "copy.safetensors", target, {"by": "me"})
    assert_same(deltas(read_back(copy, live), live), deltas(weights, live))
    again = save_copy(describe_lora(path), tmp_path / "copy.safetensors", target, {"by": "me"})
    assert again == copy, "the same one is not written twice"


def test_text_encoders_come_along_by_their_words_too(live_models, tmp_path):
    for name in ("stable-diffusion", "sdxl", "flux"):
        live = live_models(name)
        weights = random_lora(live)
        path = write_lora(tmp_path / name / "a.safetensors", weights, live.family, {})
        copy = save_copy(describe_lora(path), tmp_path / name / "b.safetensors", "diffusers")
        assert_same(deltas(read_lora(copy, live), live), deltas(weights, live))
        with pytest.raises(ValueError, match="connect the pipeline"):
            save_copy(describe_lora(path), tmp_path / name / "c.safetensors", "peft")
        folder = save_copy(describe_lora(path), tmp_path / name / "c.safetensors", "peft", {}, live)
        assert_same(deltas(read_back(folder, live), live), deltas(weights, live))


def test_bits_stay_where_only_names_change(live_models, tmp_path):
    live = live_models("sdxl")
    weights = random_lora(live, rank=4, alpha=4.0, dtype=torch.bfloat16)
    path = write_lora(tmp_path / "a.safetensors", weights, live.family, {}, "diffusers")
    copy = save_copy(describe_lora(path), tmp_path / "b.safetensors", "kohya")
    before, after = read_lora(path, live), read_lora(copy, live)
    for attribute, changes in before.items():
        for module, pair in changes.items():
            other = after[attribute][module]
            assert other.alpha == pair.alpha
            assert other.up.equal(pair.up)
            assert other.down.equal(pair.down)


def test_names_of_the_original_code_need_the_pipeline(live_models, tmp_path):
    from .test_lora_names import in_original_names

    live = live_models("flux")
    others = ("transformer_blocks.", "single_transformer_blocks.")
    tensors = in_original_names(
        live, wanted=lambda name: not name.startswith(others) and "linear1_qkv" not in name
    )
    save_file(tensors, tmp_path / "a.safetensors")
    lora = describe_lora(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="connect the pipeline"):
        save_copy(lora, tmp_path / "b.safetensors", "diffusers")
    copy = save_copy(lora, tmp_path / "b.safetensors", "diffusers", {}, live)
    want = deltas(read_lora(tmp_path / "a.safetensors", live), live)
    assert_same(deltas(read_lora(copy, live), live), want)
    parts = ("transformer",)
    theirs = diffusers_deltas(live, copy, parts)
    assert_same(
        {name: want.get(name, torch.zeros_like(delta)) for name, delta in theirs.items()},
        theirs,
        1e-5,
    )


def test_a_configuration_beside_baked_weights_would_count_twice_so_it_goes(live_models, tmp_path):
    live = live_models("stable-diffusion")
    weights = random_lora(live, alpha=4.0, parts=("unet",))
    plain = write_lora(tmp_path / "a.safetensors", weights, live.family, {}, "diffusers")
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 12})}
    save_file(load_file(plain), tmp_path / "b.safetensors", metadata | {"sshs_model_hash": "old"})
    lora = describe_lora(tmp_path / "b.safetensors")
    want = deltas(read_lora(lora.path, live), live)
    assert_same(want, {name: delta * 3 for name, delta in deltas(weights, live).items()})
    copy = save_copy(lora, tmp_path / "c.safetensors", "kohya")
    assert_same(deltas(read_lora(copy, live), live), want)
    assert (
        not {"lora_adapter_metadata", "sshs_model_hash"} & describe_lora(copy).metadata_dict.keys()
    )
    same = save_copy(lora, tmp_path / "d.safetensors", "diffusers")
    assert_same(deltas(read_lora(same, live), live), want)
    assert "lora_adapter_metadata" in describe_lora(same).metadata_dict


def test_what_was_written_is_compared_before_it_gets_its_name(live_models, tmp_path, monkeypatch):
    """A disk, or a bug of ours, that changes one number of the ΔW."""
    live = live_models("stable-diffusion")
    weights = random_lora(live, parts=("unet",))
    write = lora_write.save_tensors

    def with_a_slip(tensors, path, metadata):
        key = next(key for key in tensors if key.endswith(("lora_up.weight", "lora_B.weight")))
        wrong = tensors[key].clone()
        wrong.flatten()[0] *= 1.001
        write(tensors | {key: wrong}, path, metadata)

    def without_alpha(tensors, path, metadata):
        write({key: t for key, t in tensors.items() if not key.endswith(".alpha")}, path, metadata)

    for damage, layouts in ((with_a_slip, lora_write.LAYOUTS), (without_alpha, ["kohya"])):
        monkeypatch.setattr(lora_write, "save_tensors", damage)
        for layout in layouts:
            with pytest.raises(ValueError, match="was not written as meant"):
                write_lora(tmp_path / "x.safetensors", weights, live.family, {}, layout)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    lora = describe_lora(write_lora(tmp_path / "x.safetensors", weights, live.family, {}))
    monkeypatch.setattr(lora_write, "save_tensors", with_a_slip)
    for layout in lora_write.LAYOUTS:
        with pytest.raises(ValueError, match="written"):
            save_copy(lora, tmp_path / "copy.safetensors", layout)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
