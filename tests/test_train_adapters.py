"""The methods of the LoRA family layer by layer: what is trained is what is fused, in every
precision and on every kind of layer, and it leaves no trace.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.pipelines.lora.operation import Operation
from likeness.trainers.machine.precision import training_mode
from likeness.trainers.methods import ADAPTERS
from likeness.trainers.methods.adapters import Attached

from .methods_table import ground, learning, made, same, snapshot, stir

NAMES = [method.name for method in ADAPTERS]
LAYERS = {
    "linear": (lambda: torch.nn.Linear(32, 48), (2, 5, 32)),
    "linear without bias": (lambda: torch.nn.Linear(32, 48, bias=False), (3, 32)),
    "convolution": (lambda: torch.nn.Conv2d(32, 48, 3, padding=1), (2, 32, 8, 8)),
    "strided convolution": (lambda: torch.nn.Conv2d(32, 48, 3, 2, 1), (2, 32, 9, 8)),
    "1x1 convolution": (lambda: torch.nn.Conv2d(32, 48, 1), (2, 32, 4, 4)),
}
VARIANTS = {
    **{name: (name, {}) for name in NAMES},
    "pissa": ("lora", {"start": "pissa"}),
    "olora": ("lora", {"start": "olora"}),
    "eva": ("lora", {"start": "eva"}),
    "rslora": ("lora", {"rank_stabilised": True, "alpha": 2.0}),
    "lokr of a rank": ("lokr", {"rank": 2, "factor": 4}),
    "boft in many stages": ("boft", {"block_size": 6, "stages": 16}),
}


def attached(variant, layer):
    """A layer with a method's change on it, as it starts, and the learner."""
    name, values = VARIANTS[variant]
    learner = made(name, **values).learner(layer, 4, torch.Generator().manual_seed(5))
    return Attached(layer, learner), learner


def disturb(learner, scale=0.1):
    draw = torch.Generator().manual_seed(6)
    for parameter in learner.parameters.values():
        noise = torch.randn(parameter.shape, generator=draw) * scale
        parameter.data += noise


@pytest.fixture(params=LAYERS)
def layer_and_input(request):
    torch.manual_seed(1)
    make, shape = LAYERS[request.param]
    return make().requires_grad_(False), torch.randn(shape)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_trained_is_what_is_fused(layer_and_input, variant):
    """Forward and every gradient equal those of the operation with W0 + ΔW, ΔW being what is
    saved.
    """
    layer, x = layer_and_input
    plain = layer(x)
    wrapped, learner = attached(variant, layer)
    assert torch.equal(layer(x), plain), "it starts as no change"
    disturb(learner)
    given = x.clone().requires_grad_()
    y = layer(given)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    y.backward(gradient)
    with torch.no_grad():
        delta = learner.change().delta(layer.weight.data)
    wrapped.take_off()
    same_input = x.clone().requires_grad_()
    fused = torch.func.functional_call(layer, {"weight": layer.weight + delta}, same_input)
    fused.backward(gradient)
    assert (fused - plain).abs().max() > 0.05
    torch.testing.assert_close(y, fused, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given.grad, same_input.grad, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is not None for parameter in learner.parameters.values())
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "dora"])
def test_gradients_are_those_of_small_steps(variant):
    """Of every parameter, by finite differences. A DoRA's norms count as constants in its
    gradients (section 4.3 of its paper), so that these are others.
    """
    torch.manual_seed(1)
    layer, x = torch.nn.Conv2d(8, 8, 3, 2, 1).requires_grad_(False), torch.randn(2, 8, 5, 5)
    _, learner = attached(variant, layer)
    disturb(learner)
    aim = torch.randn(layer(x).shape)

    def value():
        return (layer(x) * aim).sum()

    value().backward()
    for name, parameter in learner.parameters.items():
        direction = torch.randn(parameter.shape)
        step = 1e-2 / float(direction.norm())
        with torch.no_grad():
            parameter += direction * step
            above = value()
            parameter -= 2 * direction * step
            below = value()
            parameter += direction * step
        expected = pytest.approx(float(above - below) / (2 * step), rel=0.03, abs=0.2)
        assert float((parameter.grad * direction).sum()) == expected, name


@pytest.mark.parametrize("cast", [True, False], ids=["autocast", "as it rests"])
@pytest.mark.parametrize("resting", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("layer_and_input", ["linear", "strided convolution"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_bases_of_less_precision(layer_and_input, variant, resting, cast):
    """Parameters and their gradients stay in float32, the layer's output as the layer has it."""
    layer, x = layer_and_input
    layer, x = layer.to(resting), x.to(resting)
    short = torch.bfloat16 if resting == torch.float32 else resting

    def answer():
        with torch.autocast("cpu", dtype=short, enabled=cast):
            return layer(x)

    plain = answer()
    _, learner = attached(variant, layer)
    assert torch.equal(answer(), plain), "it starts as no change"
    disturb(learner, 0.05)
    y = answer()
    assert y.dtype == plain.dtype
    y.float().square().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in learner.parameters.values())
    assert all(p.grad.any() and p.grad.isfinite().all() for p in learner.parameters.values())
    weight = layer.weight.float() + learner.change().delta(layer.weight.data)
    exact = Operation(layer)(x.float(), weight, layer.bias.float())
    rounding = 1e-5 if resting == torch.float32 and not cast else 0.01
    assert float((y.float() - exact).detach().norm() / exact.detach().norm()) < rounding


@pytest.fixture(scope="module")
def on(pipelines, tiny_base):
    with pipelines.open(tiny_base) as live:
        yield ground(live)


@pytest.mark.parametrize("name", NAMES)
def test_it_comes_off_after_an_exception_anywhere(name, on, tmp_path, monkeypatch):
    before = snapshot(on.live)
    method = made(name)
    made_so_far, original = [], type(method).learner

    def fail_late(self, *arguments):
        made_so_far.append(1)
        if len(made_so_far) == 9:
            raise RuntimeError("on the way")
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "learner", fail_late)
        with pytest.raises(RuntimeError, match="on the way"):
            method.attach(on.live, 0)
    assert snapshot(on.live) == before

    with pytest.raises(ValueError, match="nothing to learn from"), learning(method, on) as run:
        broken = replace(on.denoising, captions=_raising)
        run.method.loss(broken, on.batch)
    assert snapshot(on.live) == before

    (tmp_path / "full").write_text("a file where a folder should be")
    with pytest.raises(OSError), learning(method, on) as run:
        run.step()
        run.method.save(tmp_path / "full", "mine", {})
    assert snapshot(on.live) == before
    method.detach()
    assert snapshot(on.live) == before


def _raising(captions):
    raise ValueError("nothing to learn from")


@pytest.mark.parametrize("name", NAMES)
def test_prior_prediction_asks_the_untouched_model(name, on):
    """What the class should look like is what the base says, also where the text side learns: at
    the start there is nothing to correct.
    """
    batch = replace(on.batch, predicted=True, instances=1)
    with learning(made(name, train_text_encoder="on"), on, rate=1e-2) as run:
        _, parts = run.method.loss(on.denoising, batch)
        assert float(parts["prior"]) < 1e-10  # a row alone and in a batch differ in rounding
        run.step()
        run.step()
        _, parts = run.method.loss(on.denoising, batch)
        assert float(parts["prior"]) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_gives_the_same_bits(name, on):
    states = []
    unet = on.live.component("unet")
    for wanted in (False, True):
        values = {"dropout": 0.3} if name in ("lora", "dora", "adalora", "dylora") else {}
        if wanted:
            unet.enable_gradient_checkpointing()
        try:
            with learning(made(name, train_text_encoder="off", **values), on) as run:
                run.step()
                run.step()
                states.append(run.method.state_dict())
        finally:
            unet.disable_gradient_checkpointing()
    assert same(*states)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides(name, on):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    states = []
    for seed in (5, 5, 6):
        with learning(made(name), on, seed=seed) as run:
            states.append(run.method.state_dict())
        torch.manual_seed(len(states))
    assert torch.equal(torch.manual_seed(1).get_state(), before)
    assert same(states[0], states[1])
    rotations = name in ("oft", "boft")  # start at rest, with nothing drawn
    assert same(states[0], states[2]) == rotations


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_checkpoint_is_refused(name, on):
    with learning(made(name), on) as run:
        state = run.method.state_dict()
        stir(run.method)
        assert not same(state, run.method.state_dict())
        run.method.load_state_dict(state)
        assert same(state, run.method.state_dict())
        foreign = {key: value for key, value in state.items() if "attn1" not in key}
        with pytest.raises(ValueError, match="other layers or another rank"):
            run.method.load_state_dict(foreign)


def test_dropout_is_for_learning_alone(on):
    with learning(made("lora", rank=4, dropout=0.5, train_text_encoder="off"), on) as run:
        stir(run.method)
        assert torch.equal(on.answer(), on.answer())
        with training_mode():
            losses = {float(run.method.loss(on.denoising, on.batch)[0].detach()) for _ in range(3)}
        assert len(losses) == 3


def test_a_doras_gradients_are_those_with_a_constant_norm(layer_and_input):
    """Section 4.3 of arXiv 2402.09353."""
    layer, x = layer_and_input
    wrapped, learner = attached("dora", layer)
    disturb(learner)
    layer(x).square().sum().backward()
    found = {name: parameter.grad for name, parameter in learner.parameters.items()}
    wrapped.take_off()
    parts = {name: p.detach().requires_grad_() for name, p in learner.parameters.items()}
    product = parts["up"].flatten(1) @ parts["down"].flatten(1)
    turned = layer.weight + product.view_as(layer.weight)
    dims = [dim for dim in range(turned.dim()) if dim != 1]
    norm = torch.linalg.vector_norm(turned, dim=dims, keepdim=True).detach()
    weight = parts["magnitude"] * turned / norm
    torch.func.functional_call(layer, {"weight": weight}, x).square().sum().backward()
    for name, part in parts.items():
        torch.testing.assert_close(found[name], part.grad, rtol=2e-4, atol=1e-3)
