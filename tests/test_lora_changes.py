"""Every format's mathematics, against formulas of its own in float64 and against PEFT's layers."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.lora.changes import Difference, LoraPair
from likeness.pipelines.lora.dora import Dora
from likeness.pipelines.lora.parts import Broken, change_from
from likeness.pipelines.lora.rows import assemble
from likeness.pipelines.lora.source import split_key

from .lora_cases import CASES, CONV, LINEAR, expected, tensors_of
from .lora_models import off


def change_of(parts, shape):
    roles = {}
    for suffix, tensor in parts.items():
        layer, role = split_key(f"lora_unet_layer.{suffix}")
        assert layer == "lora_unet_layer"
        roles[role] = tensor
    return change_from(roles).shaped(tuple(shape))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_delta_is_what_the_formula_says(case):
    weight, parts = tensors_of(case)
    change = change_of(parts, case.shape)
    before = weight.clone()
    delta = change.delta(weight)
    assert delta.dtype == torch.float32
    assert delta.shape == case.shape == change.shape
    assert off(delta.double(), expected(case, weight, parts)) < 1e-6
    assert torch.equal(weight, before), "the pristine weight is never written"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_multiplied_in_float32(dtype):
    case = CASES[0]
    weight, parts = tensors_of(case)
    parts = {name: tensor.to(dtype) for name, tensor in parts.items()}
    change = change_of(parts, case.shape)
    assert off(change.delta(weight.to(dtype)).double(), expected(case, weight, parts)) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_low_rank_is_the_same_change_or_nothing(case):
    weight, parts = tensors_of(case)
    change = change_of(parts, case.shape)
    low = change.low_rank()
    assert (low is not None) == case.name.startswith("lora")
    if low:
        down, up, factor = low
        product = factor * (up.flatten(1) @ down.flatten(1)).reshape(case.shape)
        assert off(product, change.delta(weight)) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_of_a_change_are_the_rows_of_its_delta_or_are_refused(case):
    weight, parts = tensors_of(case)
    change = change_of(parts, case.shape)
    whole = change.delta(weight)
    if case.name.startswith("glora") or "dora input" in case.name:
        with pytest.raises(ValueError, match="parts"):
            change.rows(4, 8)
        return
    if case.name.startswith("oft"):
        with pytest.raises(ValueError, match="rotation"):
            change.rows(3, 7)
    part = change.rows(4, 8)
    assert part.shape == (4, *case.shape[1:])
    torch.testing.assert_close(part.delta(weight[4:8]), whole[4:8], rtol=1e-6, atol=1e-7)


def test_rows_put_together_again_are_the_whole():
    generator = torch.Generator().manual_seed(0)
    pair = LoraPair(
        torch.randn(4, 8, generator=generator), torch.randn(12, 4, generator=generator), 2.0
    )
    weight = torch.zeros(12, 8)
    swapped = assemble([(pair.rows(0, 6), 6, 12), (pair.rows(6, 12), 0, 6)], (12, 8))
    delta = pair.delta(weight)
    assert torch.equal(swapped.delta(weight), torch.cat([delta[6:], delta[:6]]))
    assert isinstance(swapped, LoraPair)
    assert swapped.rank == 4
    other = LoraPair(torch.randn(2, 8, generator=generator), torch.randn(4, 2), 5.0)
    both = assemble([(pair.rows(0, 4), 0, 4), (other, 8, 12)], (12, 8))
    assert isinstance(both, LoraPair)
    assert both.rank == 6
    want = torch.cat([delta[:4], torch.zeros(4, 8), other.delta(torch.zeros(4, 8))])
    torch.testing.assert_close(both.delta(weight), want, rtol=1e-6, atol=1e-7)
    mixed = assemble([(pair.rows(0, 6), 0, 6), (Difference(torch.ones(6, 8)), 6, 12)], (12, 8))
    assert torch.equal(mixed.delta(weight), torch.cat([delta[:6], torch.ones(6, 8)]))


def test_biases_come_along():
    bias = torch.arange(12.0)
    parts = {"down": torch.ones(4, 8), "up": torch.ones(12, 4), "diff_b": bias}
    assert torch.equal(change_from(parts).bias, bias)
    assert torch.equal(change_from(parts).rows(4, 8).bias, bias[4:8])
    alone = change_from({"diff_b": bias}).shaped((12, 8))
    assert torch.equal(alone.bias, bias)
    assert not alone.delta(torch.ones(12, 8)).any()
    norm = change_from({"w_norm": torch.ones(12), "b_norm": bias})
    assert torch.equal(norm.bias, bias)
    # PEFT's lora_bias belongs to the product and is scaled with it.
    peft = change_from({"down": torch.ones(4, 8), "up": torch.ones(12, 4), "up_bias": bias,
                        "alpha": torch.tensor(2.0)})  # fmt: skip
    assert torch.equal(peft.bias, bias * 0.5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"down": (4, 8)}, "lacks its up or down"),
        ({"up": (12, 4)}, "lacks its up or down"),
        ({"down": (4, 8), "up": (12, 5)}, "down weight of rank 4"),
        ({"hada_w1_a": (12, 3), "hada_w1_b": (3, 8), "hada_w2_a": (12, 3)}, "hada_w2_b"),
        ({"lokr_w1": (3, 2)}, "lokr_w2_a"),
        ({"lokr_w1": (3, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (3, 4)}, "do not go together"),
        ({"down": (4, 8), "up": (12, 4), "diff": (12, 8)}, "do not go together"),
        ({"diff": (12, 8), "dora_scale": (12, 1)}, "no DoRA is made of"),
        ({"oft_R": (3, 6)}, "input"),
    ],
)
def test_incomplete_and_mixed_layers_say_what_is_wrong(parts, message):
    with pytest.raises(Broken, match=message):
        change_from({role: torch.zeros(shape) for role, shape in parts.items()})


def test_a_layer_of_another_size_does_not_fit():
    for case in CASES:
        change = change_of(tensors_of(case)[1], case.shape)
        assert change.shaped((13, *case.shape[1:])) is None, case.name


def peft_layer(config, base):
    """A layer of PEFT's own around `base`, with random weights."""
    from peft import inject_adapter_in_model

    torch.manual_seed(0)
    model = torch.nn.Sequential(base)
    inject_adapter_in_model(config, model)
    for name, weight in model.named_parameters():
        if "base_layer" not in name:
            weight.data = torch.randn(weight.shape) * 0.3 + ("magnitude" in name)
    return model


def peft_configs():
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    shared = {"target_modules": ["0"], "r": 4}
    return {
        "lora": LoraConfig(**shared, lora_alpha=6),
        "rslora": LoraConfig(**shared, lora_alpha=6, use_rslora=True),
        "dora": LoraConfig(**shared, lora_alpha=6, use_dora=True),
        "loha": LoHaConfig(**shared, alpha=6),
        "loha tucker": LoHaConfig(**shared, alpha=6, use_effective_conv2d=True),
        "lokr": LoKrConfig(**shared, alpha=6),
        "lokr tucker": LoKrConfig(**shared, alpha=6, use_effective_conv2d=True),
        "lokr whole": LoKrConfig(target_modules=["0"], r=64, alpha=6),
    }


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("method", list(peft_configs()))
def test_what_peft_trains_is_what_we_read(method, kind, tmp_path):
    """PEFT's state dict and configuration, read as its folder, give the weight that PEFT merges."""
    from likeness.pipelines.lora.source import open_lora
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors.torch import save_file

    base = torch.nn.Linear(32, 48) if kind == "linear" else torch.nn.Conv2d(32, 48, 3)
    weight = base.weight.detach().clone()
    config = peft_configs()[method]
    model = peft_layer(config, base)
    state = get_peft_model_state_dict(model)
    save_file(state, tmp_path / "adapter_model.safetensors")
    config.save_pretrained(tmp_path)
    layer = next(part for part in model.modules() if isinstance(part, BaseTunerLayer))
    layer.merge()
    want = layer.get_base_layer().weight.detach() - weight

    file = open_lora(tmp_path / "adapter_model.safetensors")
    (name,) = file.layers
    change = change_from(file.parts(name), file.scaling("").of(name)).shaped(tuple(weight.shape))
    assert off(change.delta(weight), want) < 5e-6, "PEFT subtracts large numbers in float32"
    if method == "dora":
        assert isinstance(change, Dora)


def test_shapes_of_the_cases_are_those_of_layers():
    assert {len(case.shape) for case in CASES} == {1, 2, 4}
    assert LINEAR[0] == CONV[0]
