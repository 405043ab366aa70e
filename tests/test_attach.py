"""Attached equals fused but for rounding, on any kind of base, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.lora import applied
from likeness.pipelines.lora.attach import attached
from likeness.pipelines.lora.changes import Difference
from likeness.pipelines.lora.fused_weights import FusedWeights
from likeness.pipelines.lora.weight_targets import targets_of
from likeness.pipelines.spec import LoraUse, PipelineSpec
from torch.nn import functional

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

BESIDE = {
    "linear": (MATRIX, lambda: torch.nn.Linear(12, 8)),
    "linear without bias": (MATRIX, lambda: torch.nn.Linear(12, 8, bias=False)),
    "convolution": (KERNEL, lambda: torch.nn.Conv2d(4, 8, 3)),
    "strided": (KERNEL, lambda: torch.nn.Conv2d(4, 8, 3, stride=2, padding=1, dilation=2)),
    "circular": (KERNEL, lambda: torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")),
    "grouped": (KERNEL, lambda: torch.nn.Conv2d(16, 8, 3, groups=4)),
    "one by one": ((8, 4, 1, 1), lambda: torch.nn.Conv2d(4, 8, 1)),
}
KINDS = tuple(changes(KERNEL))


def made(make, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make().to(dtype).requires_grad_(False).eval()


def data(module, dtype=torch.float32):
    if isinstance(module, torch.nn.Conv2d):
        return numbers(2, module.in_channels, 9, 9, seed=9, size=1.0).to(dtype)
    return numbers(2, 5, 12, seed=9, size=1.0).to(dtype)


def predict(unet, dtype=torch.float32):
    states = numbers(1, 77, unet.config.cross_attention_dim, seed=3, size=1.0)
    return unet(numbers(1, 4, 8, 8, size=1.0).to(dtype), 5, states.to(dtype)).sample


def both(module, *layers, x):
    """What the module answers with the changes fused, and with them attached."""
    before = dict(vars(module))
    with FusedWeights().put_on(targets_of(layers), [module]):
        fused = module(x)
    with attached(layers):
        beside = module(x)
    assert vars(module) == before and "forward" not in vars(module)
    return fused, beside


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("kind", KINDS)
def test_attached_is_fused_for_every_kind_of_change_and_layer(name, kind):
    shape, make = BESIDE[name]
    if kind not in changes(shape):
        pytest.skip("a Tucker decomposition is one of a convolution")
    module = made(make)
    x = data(module)
    plain = module(x)
    fused, beside = both(module, layer(module, changes(shape)[kind], factors=[-0.7]), x=x)
    torch.testing.assert_close(beside, fused, rtol=1e-5, atol=1e-5)
    assert (fused - plain).abs().max() > 0.01
    assert torch.equal(module(x), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_several_at_once_add_up_in_every_dtype(name, dtype):
    shape, make = BESIDE[name]
    module = made(make, dtype)
    several = list(changes(shape).values())
    factors = [0.3 * (-1) ** i for i in range(len(several))]
    fused, beside = both(module, layer(module, *several, factors=factors), x=data(module, dtype))
    assert beside.dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(beside, fused, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("make", "shape", "x"),
    [
        (lambda: torch.nn.LayerNorm(12), (12,), numbers(2, 12)),
        (lambda: torch.nn.GroupNorm(2, 12), (12,), numbers(2, 12, 4, 4)),
        (lambda: torch.nn.Embedding(7, 12), (7, 12), torch.tensor([[1, 3, 6]])),
    ],
    ids=["layer norm", "group norm", "embedding"],
)
def test_layers_of_other_kinds_change_too(make, shape, x):
    module = made(make)
    bias = numbers(shape[0], seed=2) if len(shape) == 1 else None
    plain, pointer = module(x), module.weight.data_ptr()
    change = Difference(numbers(*shape, seed=1), bias, shape)
    fused, beside = both(module, layer(module, change, factors=[0.5]), x=x)
    assert torch.equal(fused, beside) and not torch.equal(fused, plain)
    assert torch.equal(module(x), plain) and module.weight.data_ptr() == pointer


def test_a_forward_that_fails_leaves_the_weights_of_such_a_layer_as_they_were():
    module = made(lambda: torch.nn.LayerNorm(12))
    change = Difference(numbers(12), None, (12,))
    with attached([layer(module, change)]), pytest.raises(RuntimeError):
        module(numbers(2, 5))
    assert torch.equal(module.weight, torch.ones(12))


def test_no_weight_is_copied_or_moved(pipelines, tiny_base, make_lora):
    with pipelines.open(tiny_base) as live:
        before = snapshot(live)
        with applied(live, [LoraUse(make_lora(1), mode="attach")]):
            assert_same(before, snapshot(live))


def test_pictures_are_the_same_in_both_modes(pipelines, tiny_base, make_lora):
    import numpy as np

    sampling = Sampling("a photo of a red star", steps=3, seed=7)
    one, two = make_lora(1, strength=0.03), make_lora(2, strength=0.03)

    def draw(*modes):
        spec = PipelineSpec(tiny_base)
        for lora, mode in zip((one, two), modes, strict=False):
            spec = spec.with_lora(LoraUse(lora, 0.8, 0.6, mode))
        return np.asarray(generate(pipelines, spec, sampling)[0], int)

    plain, fused = draw(), draw("fuse", "fuse")
    for modes in (("attach", "attach"), ("fuse", "attach"), ("attach", "fuse")):
        assert np.abs(draw(*modes) - fused).max() <= 1
    assert np.abs(fused - plain).mean() > 3
    assert (draw() == plain).all()


def test_the_order_of_attaching_does_not_matter_to_the_last_bit(pipelines, tiny_base, make_lora):
    uses = [
        LoraUse(make_lora(seed), 0.3 + seed, 0.5, mode)
        for seed, mode in enumerate(("attach", "fuse", "attach", "fuse"))
    ]
    answers = []
    with pipelines.open(tiny_base) as live, torch.no_grad():
        for order in (uses, uses[::-1]):
            with applied(live, order):
                tokens = torch.tensor([[1, 2, 3]])
                states = live.component("text_encoder")(tokens).last_hidden_state
                noise = numbers(1, 4, 8, 8, size=1.0)
                answers.append(live.component("unet")(noise, 5, states).sample)
    assert torch.equal(*answers)


def test_gradients_flow_through_an_attached_layer():
    module = made(lambda: torch.nn.Linear(12, 8))
    x = data(module).requires_grad_()
    with attached([layer(module, pair(MATRIX))]):
        module(x).sum().backward()
    wanted = (module.weight + pair(MATRIX).delta(module.weight)).sum(0)
    torch.testing.assert_close(x.grad, wanted.expand_as(x))


# -- bases that cannot be fused into ---------------------------------------------------------------


class Packed(torch.nn.Linear):
    """A linear layer with its weight in 8-bit integers and a scale, as quantisers make them."""

    def __init__(self):
        super().__init__(12, 8)
        whole = self.weight.detach()
        self.step = whole.abs().max() / 127
        packed = (whole / self.step).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, x):
        return functional.linear(x, self.weight.to(x.dtype) * self.step.to(x.dtype), self.bias)


@pytest.mark.parametrize("kind", ["lora with bias", "loha", "full"])
def test_a_quantised_layer_takes_attached_changes(kind):
    module = made(Packed)
    x = data(module)
    change = changes(MATRIX)[kind]
    wanted = module(x) + functional.linear(x, 0.5 * change.delta(torch.empty(MATRIX)))
    if change.bias is not None:
        wanted = wanted + 0.5 * change.bias
    with attached([layer(module, change, factors=[0.5])]):
        torch.testing.assert_close(module(x), wanted)


@pytest.mark.parametrize("kind", ["dora by output", "oft", "replacement", "glora"])
def test_what_depends_on_a_quantised_weight_is_refused(kind):
    module = made(Packed)
    with (
        pytest.raises(ValueError, match=r"unet\.layer holds its weight as int8.*unquantised"),
        attached([layer(module, changes(MATRIX)[kind])]),
    ):
        raise AssertionError("must not get here")
    assert "forward" not in vars(module)


def test_a_base_in_float8_takes_attached_changes_and_no_fused_ones(tiny_base, make_lora):
    from likeness.pipelines.loading import Pipelines

    lora = make_lora(1)
    with Pipelines("cpu").open(tiny_base) as live, torch.no_grad():
        unet = live.component("unet")
        unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
        before, found = snapshot(live), traces(live)
        with (
            pytest.raises(ValueError, match=r"rests in float8_e4m3fn.*attach mode"),
            applied(live, [LoraUse(lora)]),
        ):
            raise AssertionError("must not get here")
        plain = predict(unet, torch.bfloat16)
        with applied(live, [LoraUse(lora, mode="attach")]):
            changed = predict(unet, torch.bfloat16)
        assert torch.equal(predict(unet, torch.bfloat16), plain)
        assert traces(live) == found
        dtypes = {key: value.dtype for key, value in state(live).items()}
        assert dtypes == {key: value.dtype for key, (_, value) in before.items()}
    whole = Pipelines("cpu")
    with whole.open(tiny_base) as live, applied(live, [LoraUse(lora)]), torch.no_grad():
        wanted = predict(live.component("unet"))
    # As far apart as float8 makes it, not as far as the LoRA.
    assert (changed - wanted).abs().mean() < 0.5 * (changed - plain).abs().mean()


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_a_base_offloaded_in_groups_takes_attached_changes_and_no_fused_ones(
    tiny_base, make_lora, kind
):
    from diffusers.hooks import apply_group_offloading
    from likeness.pipelines.loading import Pipelines

    lora, cpu = make_lora(1), torch.device("cpu")
    with Pipelines("cpu").open(tiny_base) as live, torch.no_grad():
        unet = live.component("unet")
        with applied(live, [LoraUse(lora)]):
            wanted = predict(unet)
        more = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        apply_group_offloading(unet, cpu, cpu, kind, **more)
        found = traces(live)
        with (
            pytest.raises(ValueError, match=r"in groups of layers.*attach mode"),
            applied(live, [LoraUse(lora)]),
        ):
            raise AssertionError("must not get here")
        with applied(live, [LoraUse(lora, mode="attach")]):
            torch.testing.assert_close(predict(unet), wanted, rtol=1e-4, atol=1e-4)
        assert traces(live) == found


def test_weights_that_are_not_in_memory_take_attached_changes_and_no_fused_ones(
    tiny_base, make_lora
):
    from accelerate import cpu_offload
    from likeness.pipelines.loading import Pipelines

    lora = make_lora(1)
    tokens = torch.tensor([[1, 2, 3]])
    with Pipelines("cpu").open(tiny_base) as live, torch.no_grad():
        encoder = live.component("text_encoder")
        with applied(live, [LoraUse(lora)]):
            wanted = encoder(tokens).last_hidden_state
        cpu_offload(encoder, torch.device("cpu"))
        hooked = [module for module in encoder.modules() if "forward" in vars(module)]
        found = [vars(module)["forward"] for module in hooked]
        with (
            pytest.raises(ValueError, match=r"text_encoder\..*not in memory.*attach mode"),
            applied(live, [LoraUse(lora)]),
        ):
            raise AssertionError("must not get here")
        with applied(live, [LoraUse(lora, mode="attach")]):
            got = encoder(tokens).last_hidden_state
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        assert [vars(module)["forward"] for module in hooked] == found


def test_hooks_that_bring_whole_components_work_with_both_modes(tiny_base, make_lora):
    from accelerate import cpu_offload_with_hook
    from likeness.pipelines.loading import Pipelines

    with Pipelines("cpu").open(tiny_base) as live, torch.no_grad():
        unet = live.component("unet")
        before = snapshot(live)
        _, hook = cpu_offload_with_hook(unet, torch.device("cpu"))
        answers = []
        for mode in ("fuse", "attach"):
            with applied(live, [LoraUse(make_lora(1), mode=mode)]):
                answers.append(predict(unet))
                hook.offload()
                unet.double().float()  # every parameter points at another tensor now
            if mode == "fuse":
                touched = [key for key in live.fused._kept if key.startswith("unet.")]
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)
        assert len(touched) > 50
        after = snapshot(live)
        assert all(torch.equal(after[key][1], value) for key, (_, value) in before.items())
