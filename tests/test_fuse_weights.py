"""Fused weights are the formula's, are kept and dropped, and leave nothing of themselves behind."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.lora import applied, fused_weights
from likeness.pipelines.lora.changes import Difference
from likeness.pipelines.lora.files import describe_lora, read_lora
from likeness.pipelines.lora.fused_weights import FusedWeights
from likeness.pipelines.lora.weight_targets import targets_of
from likeness.pipelines.spec import LoraUse

from .fuse_cases import (
    KERNEL,
    MATRIX,
    assert_same,
    changes,
    layer,
    numbers,
    pair,
    snapshot,
    state,
    traces,
)

DTYPES = ("float32", "bfloat16", "float16")
MODES = ("fuse", "attach")
STEP = {"float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}
"""Relative distance between neighbouring numbers, at most."""


@pytest.fixture
def own(tiny_base):
    """A cache of its own, since tests here look at what it keeps."""
    return Pipelines("cpu")


def kept(live):
    return {key: tensor for key, (_, tensor) in live.fused._kept.items()} if live.fused else {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_everything_is_as_before_in_every_dtype_and_mode(own, tiny_base, make_lora, dtype, mode):
    uses = [LoraUse(make_lora(seed), 0.7, 0.3, mode) for seed in (1, 2)]
    with own.open(replace(tiny_base, dtype=dtype)) as live:
        before, found = snapshot(live), traces(live)
        for _ in range(2):
            with applied(live, uses):
                assert traces(live) != found or any(
                    pointer != before[key][0] for key, (pointer, _) in snapshot(live).items()
                )
            assert_same(before, snapshot(live))
            assert traces(live) == found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [KeyError("stop"), KeyboardInterrupt()])
def test_whatever_ends_the_block_everything_is_as_before(own, tiny_base, make_lora, mode, error):
    with own.open(tiny_base) as live:
        before, found = snapshot(live), traces(live)
        with pytest.raises(type(error)), applied(live, [LoraUse(make_lora(1), mode=mode)]):
            raise error
        assert_same(before, snapshot(live))
        assert traces(live) == found


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_weight_is_the_sum_in_float32_rounded_once(own, tiny_base, make_lora, dtype):
    lora, other = make_lora(1), make_lora(2)
    uses = [LoraUse(lora, 0.7, 0.3), LoraUse(other, -0.4, 0.9)]
    with own.open(replace(tiny_base, dtype=dtype)) as live:
        weights = [read_lora(use.lora.path, live) for use in uses]
        wanted = {}
        for attribute, scales in (("unet", (0.7, -0.4)), ("text_encoder", (0.3, 0.9))):
            root = live.component(attribute)
            for path in list(weights[0][attribute])[::5]:
                weight = root.get_submodule(path).weight
                wanted[weight] = weight.double()
                for scale, changed in zip(scales, weights, strict=True):
                    wanted[weight] += scale * changed[attribute][path].delta(weight).double()
        with applied(live, uses):
            for weight, expected in wanted.items():
                # Half a step of the dtype, and the rounding of the sum in float32.
                allowed = 0.5 * STEP[dtype] * expected.abs() + 2e-6 * expected.abs().max()
                assert ((weight.double() - expected).abs() <= allowed).all()
    assert len(wanted) > 20


@pytest.mark.parametrize("shape", [MATRIX, KERNEL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_change_is_added_alone_and_together(shape, dtype):
    linear = len(shape) == 2
    module = torch.nn.Linear(12, 8) if linear else torch.nn.Conv2d(4, 8, 3)
    module = module.to(dtype).requires_grad_(False)
    weight, bias = module.weight.clone(), module.bias.clone()
    kinds = changes(shape)
    cases = [([change], [0.7]) for change in kinds.values()]
    cases.append((list(kinds.values()), [0.1 * (i + 1) for i in range(len(kinds))]))
    for parts, factors in cases:
        wanted, shifted = weight.double(), bias.double()
        for change, factor in zip(parts, factors, strict=True):
            wanted = wanted + factor * change.delta(weight).double()
            if change.bias is not None:
                shifted = shifted + factor * change.bias.double()
        holder = FusedWeights()
        with holder.put_on(targets_of([layer(module, *parts, factors=factors)]), [module]):
            step = STEP[str(dtype).removeprefix("torch.")]
            torch.testing.assert_close(module.weight.double(), wanted, rtol=step, atol=2e-6)
            torch.testing.assert_close(module.bias.double(), shifted, rtol=step, atol=2e-6)
        assert module.weight.equal(weight) and module.bias.equal(bias)


def test_a_layer_without_bias_has_one_for_that_long():
    module = torch.nn.Linear(12, 8, bias=False).requires_grad_(False)
    before, names = dict(vars(module)), list(module._parameters)
    change = pair(MATRIX, bias=numbers(8))
    with FusedWeights().put_on(targets_of([layer(module, change, factors=[0.5])]), [module]):
        assert torch.equal(module.bias, 0.5 * change.bias)
        assert not module.bias.requires_grad
    assert module.bias is None and vars(module) == before and list(module._parameters) == names


def test_a_weight_that_two_layers_share_gets_both_changes_once():
    first, second = (torch.nn.Linear(12, 8).requires_grad_(False) for _ in range(2))
    second.weight = first.weight
    root = torch.nn.Sequential(first, second)
    pristine, pointer = first.weight.clone(), first.weight.data_ptr()
    one, two = pair(MATRIX, 1), pair(MATRIX, 2)
    layers = [layer(first, one, name="unet.0"), layer(second, two, name="unet.1")]
    with FusedWeights().put_on(targets_of(layers), [root]):
        wanted = pristine + one.delta(pristine) + two.delta(pristine)
        torch.testing.assert_close(first.weight, wanted)
        assert first.weight is second.weight
    assert first.weight.equal(pristine) and first.weight.data_ptr() == pointer


def test_rows_at_a_time_give_what_all_at_once_gives(monkeypatch):
    from likeness.pipelines.lora import weight_targets

    module = torch.nn.Conv2d(4, 8, 3).to(torch.bfloat16).requires_grad_(False)
    targets = targets_of([layer(module, *changes(KERNEL).values())])
    with FusedWeights().put_on(targets, [module]):
        whole = module.weight.clone()
    monkeypatch.setattr(weight_targets, "_ROWS_AT_A_TIME", 3 * 4 * 36)  # three rows, then two
    with FusedWeights().put_on(targets, [module]):
        assert torch.equal(module.weight, whole)


def test_weights_in_another_memory_format_are_fused_all_the_same():
    module = torch.nn.Conv2d(4, 8, 3).requires_grad_(False)
    wanted = module.weight + pair(KERNEL).delta(module.weight)
    module.to(memory_format=torch.channels_last)
    with FusedWeights().put_on(targets_of([layer(module, pair(KERNEL))]), [module]):
        torch.testing.assert_close(module.weight, wanted)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_another_scale_is_computed_into_the_same_memory_from_the_pristine_weights(
    own, tiny_base, make_lora
):
    lora = make_lora(1)
    with own.open(tiny_base) as live:
        places = []
        results = []
        for scale in (0.5, -1.25, 0.5):
            with applied(live, [LoraUse(lora, scale, scale)]):
                results.append(state(live))
            places.append({key: tensor.data_ptr() for key, tensor in kept(live).items()})
    assert places[0] == places[1] == places[2] and len(places[0]) > 50
    with Pipelines("cpu").open(tiny_base) as fresh:
        for scale, result in zip((0.5, -1.25, 0.5), results, strict=True):
            with applied(fresh, [LoraUse(lora, scale, scale)]):
                expected = state(fresh)
            assert all(torch.equal(result[key], value) for key, value in expected.items())
            fresh.fused.drop()


def test_only_what_changed_is_computed_again(own, tiny_base, make_lora):
    use = LoraUse(make_lora(1), 0.8, 0.8)

    def versions(live):
        return {key: tensor._version for key, tensor in kept(live).items()}

    def touched(uses):
        before = versions(live)
        with applied(live, uses):
            pass
        after = versions(live)
        return {key for key in after if after[key] != before.get(key)}

    with own.open(tiny_base) as live:
        everything = touched([use])
        assert touched([use]) == set()
        assert touched([]) == set() and touched([use]) == set()
        text = touched([replace(use, text_scale=0.4)])
        assert text == {key for key in everything if key.startswith("text_encoder.")} != set()
        block = touched([replace(use, text_scale=0.4, blocks=(("mid", 0.5),))])
        assert block == {key for key in everything if "unet.mid_block" in key} != set()


def test_other_loras_leave_nothing_of_the_ones_before(own, tiny_base, make_lora):
    one, two = make_lora(1), make_lora(2)
    with own.open(tiny_base) as live, Pipelines("cpu").open(tiny_base) as fresh:
        for uses in ([LoraUse(one)], [LoraUse(one), LoraUse(two, 0.5)], [LoraUse(two, 1.5, 0.0)]):
            with applied(live, uses), applied(fresh, uses):
                expected = state(fresh)
                assert all(torch.equal(value, expected[key]) for key, value in state(live).items())
            fresh.fused.drop()
        assert not any(key.startswith("text_encoder") for key in kept(live))  # its scale is 0


def test_free_drops_what_is_kept(tiny_base, make_lora):
    cache = Pipelines("cpu")
    with cache.open(tiny_base) as live, applied(live, [LoraUse(make_lora(1))]):
        pass
    some = [weakref.ref(tensor) for tensor in list(kept(live).values())[:3]]
    assert live.fused.size_bytes > 100_000
    del live
    cache.free()
    gc.collect()
    assert all(reference() is None for reference in some)


def test_a_tight_budget_drops_what_is_kept_before_any_model(own, tiny_base, make_lora):
    other = replace(tiny_base, dtype="bfloat16")
    with own.open(tiny_base) as live, applied(live, [LoraUse(make_lora(1))]):
        pass
    assert own.bytes_held > live.size_bytes + 100_000
    tight = Pipelines("cpu", budget_bytes=int(live.size_bytes * 2.2))
    with tight.open(tiny_base) as live, applied(live, [LoraUse(make_lora(1))]):
        pass
    assert live.fused.size_bytes > 0, "there is room for it"
    with tight.open(other), tight.open(tiny_base):
        assert live.fused.size_bytes == 0 and tight.loads == 2, "the copy went, the model stayed"


def test_dropping_waits_for_the_end_of_the_block(own, tiny_base, make_lora):
    with own.open(tiny_base) as live:
        before = snapshot(live)
        with applied(live, [LoraUse(make_lora(1))]):
            live.fused.drop()
            assert live.fused.size_bytes > 0
            changed = state(live)
        assert live.fused.size_bytes == 0 and not live.fused.loras
        assert_same(before, snapshot(live))
        assert any(not torch.equal(changed[key], value) for key, (_, value) in before.items())


def test_attaching_alone_keeps_no_fused_weights(own, tiny_base, make_lora):
    with own.open(tiny_base) as live:
        with applied(live, [LoraUse(make_lora(1))]):
            pass
        with applied(live, [LoraUse(make_lora(1), mode="attach")]):
            assert live.fused.size_bytes == 0


def test_a_lora_file_is_read_once_and_its_replacement_is_noticed(
    own, tiny_base, make_lora, tmp_path, monkeypatch
):
    from likeness.pipelines.lora import apply as module

    path = tmp_path / "mine.safetensors"
    shutil.copy(make_lora(1).path, path)
    mine = describe_lora(path)
    read = []
    monkeypatch.setattr(module, "read_lora", lambda *a: read.append(a) or read_lora(*a))
    with own.open(tiny_base) as live:
        before = snapshot(live)
        for scale in (1.0, 0.5, 0.25):
            with applied(live, [LoraUse(mine, scale)]):
                pass
        assert len(read) == 1
        replacement = tmp_path / "other.safetensors"
        shutil.copy(make_lora(2).path, replacement)
        replacement.replace(path)
        with pytest.raises(ValueError, match=r"mine\.safetensors changed"):
            applied(live, [LoraUse(mine, 0.5)]).__enter__()
        path.unlink()
        with pytest.raises(ValueError, match=r"mine\.safetensors is gone"):
            applied(live, [LoraUse(mine, 0.5)]).__enter__()
        assert_same(before, snapshot(live))


def test_a_block_inside_another_comes_on_top_and_off_again(own, tiny_base, make_lora):
    outer, inner = LoraUse(make_lora(1), 0.5), LoraUse(make_lora(2), 0.5)
    with own.open(tiny_base) as live:
        before = snapshot(live)
        with applied(live, [outer]):
            one = snapshot(live)
            with applied(live, [inner]):
                two = state(live)
            assert_same(one, snapshot(live))
            with applied(live, []):
                assert_same(one, snapshot(live))
        assert_same(before, snapshot(live))
        with applied(live, [outer, inner]):
            together = state(live)
        for key, value in two.items():
            torch.testing.assert_close(value, together[key], rtol=1e-5, atol=1e-5)


def test_without_room_the_pristine_weights_wait_and_nothing_is_kept(
    own, tiny_base, make_lora, monkeypatch
):
    uses = [LoraUse(make_lora(1), 0.7)]
    with own.open(tiny_base) as live:
        before = snapshot(live)
        with applied(live, uses):
            roomy = state(live)
        live.fused.drop()
        monkeypatch.setattr(fused_weights, "has_room", lambda device, needed: False)
        with applied(live, uses):
            assert all(torch.equal(roomy[key], value) for key, value in state(live).items())
        assert live.fused.size_bytes == 0
        assert_same(before, snapshot(live))


def test_a_change_that_cannot_be_computed_leaves_all_weights_alone(own, tiny_base):
    class Failing(Difference):
        def delta(self, weight):
            raise MemoryError("no room")

    first, second = (torch.nn.Linear(12, 8).requires_grad_(False) for _ in range(2))
    root = torch.nn.Sequential(first, second)
    before = {key: (value.data_ptr(), value.clone()) for key, value in root.state_dict().items()}
    holder = FusedWeights()
    layers = [
        layer(first, pair(MATRIX), name="unet.0"),
        layer(second, Failing(numbers(*MATRIX)), name="unet.1"),
    ]
    for _ in range(2):
        with pytest.raises(MemoryError), holder.put_on(targets_of(layers), [root]):
            raise AssertionError("must not get here")
        after = {key: (value.data_ptr(), value) for key, value in root.state_dict().items()}
        assert_same(before, after)
    assert not holder.on
