"""The LoRA method: it comes off bit for bit, and its file is what was trained."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from likeness.pipelines.lora import applied
from likeness.pipelines.lora.files import describe_lora
from likeness.pipelines.spec import LoraUse
from likeness.trainers.lora import LoraMethod
from likeness.trainers.objective import Batch, Objective, generator_for
from likeness.trainers.precision import training_mode
from likeness.trainers.settings import LoraSettings


@pytest.fixture
def live(pipelines, tiny_base):
    with pipelines.open(tiny_base) as live:
        yield live


def snapshot(live):
    """Everything about the live modules that a method could disturb."""
    facts = {}
    for attribute in ("unet", "text_encoder", "vae"):
        root = live.component(attribute)
        facts[attribute] = (
            {path: id(module) for path, module in root.named_modules()},
            {path: module.training for path, module in root.named_modules()},
            {path: weight.requires_grad for path, weight in root.named_parameters()},
            {path: id(weight) for path, weight in root.named_parameters()},
            {path: tensor.numpy().tobytes() for path, tensor in root.state_dict().items()},
            sorted(vars(root)),
        )
    return facts


@contextmanager
def attached(live, settings=None, seed=0):
    method = LoraMethod(settings or LoraSettings(rank=4))
    groups = method.attach(live, objective_of(live), seed)
    try:
        yield method, groups
    finally:
        method.detach()


def objective_of(live) -> Objective:
    return Objective(live.family.training_scheduler(live.pipeline))


def small_batch(live, captions=("a photo of sks monster", "a photo of a monster")) -> Batch:
    draw = generator_for(7, "test")
    noisy, target = torch.randn(2, len(captions), 4, 8, 8, generator=draw).unbind()
    steps = torch.randint(0, 1000, (len(captions),), generator=draw)
    return Batch(noisy, target, steps, torch.ones(len(captions)), tuple(captions), len(captions))


def stir(method, scale=0.05):
    """Give every matrix of the LoRA something to do."""
    state = method.state_dict()
    draw = generator_for(3, "stir")
    method.load_state_dict(
        {
            name: torch.randn(tensor.shape, generator=draw) * scale
            for name, tensor in sorted(state.items())
        }
    )


@pytest.mark.parametrize("targets", ["attention", "attention + feed-forward", "everything"])
@pytest.mark.parametrize("text", [True, False])
def test_what_is_put_on_comes_off(live, targets, text):
    before = snapshot(live)
    settings = LoraSettings(rank=2, dropout=0.5, targets=targets, train_text_encoder=text)
    with attached(live, settings) as (method, groups), training_mode("cpu"):
        assert snapshot(live) != before
        loss, _ = method.loss(small_batch(live))
        loss.backward()
        trained = {group.side: group.parameters for group in groups}
        assert all(weight.grad is not None for weight in trained["denoiser"])
        assert bool(trained["text"]) == text
        assert all(weight.grad is not None for weight in trained["text"])
        torch.optim.SGD([w for g in groups for w in g.parameters], lr=1.0).step()
    assert snapshot(live) == before


def test_it_comes_off_after_an_exception_on_the_way_on(live, monkeypatch):
    import likeness.trainers.lora as module

    before = snapshot(live)
    calls = []

    def fail_late(*arguments):
        calls.append(arguments)
        if len(calls) == 20:
            raise RuntimeError("on the way")

    monkeypatch.setattr(module, "_start", fail_late)
    method = LoraMethod(LoraSettings())
    with pytest.raises(RuntimeError, match="on the way"):
        method.attach(live, objective_of(live), 0)
    assert snapshot(live) == before
    method.detach()
    assert snapshot(live) == before


def test_it_comes_off_when_peft_fails_in_the_middle(live, monkeypatch):
    import peft.tuners.lora.model as peft_model

    before = snapshot(live)
    original = peft_model.LoraModel._create_new_module
    calls = []

    def fail_late(*arguments, **options):
        calls.append(1)
        if len(calls) == 9:
            raise RuntimeError("in the middle")
        return original(*arguments, **options)

    monkeypatch.setattr(peft_model.LoraModel, "_create_new_module", staticmethod(fail_late))
    with pytest.raises(RuntimeError, match="in the middle"):
        LoraMethod(LoraSettings()).attach(live, objective_of(live), 0)
    assert snapshot(live) == before


def test_it_starts_as_no_change_from_the_seed_alone(live):
    batch = small_batch(live)
    with torch.no_grad():
        plain = live.family.predict(
            live.pipeline,
            batch.noisy,
            batch.timesteps,
            live.family.encode_text(live.pipeline, list(batch.captions)),
        )
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with attached(live, seed=5) as (method, _):
        first = method.state_dict()
        with torch.no_grad():
            conditioning = live.family.encode_text(live.pipeline, list(batch.captions))
            same = live.family.predict(live.pipeline, batch.noisy, batch.timesteps, conditioning)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert torch.equal(same, plain)
    torch.manual_seed(2)
    with attached(live, seed=5) as (method, _):
        assert all(torch.equal(first[name], new) for name, new in method.state_dict().items())
    with attached(live, seed=6) as (method, _):
        assert not all(torch.equal(first[name], new) for name, new in method.state_dict().items())
    with attached(live, LoraSettings(rank=4, start="gaussian"), seed=5) as (method, _):
        gaussian = torch.cat(
            [w.flatten() for n, w in method.state_dict().items() if n.endswith(".down")]
        )
    assert 0.24 < float(gaussian.std()) < 0.26


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_the_saved_file_is_what_was_trained(live, tmp_path, alpha):
    """The file, read back and fused, predicts what the attached LoRA predicted."""
    batch = small_batch(live)

    def predict():
        with torch.no_grad():
            conditioning = live.family.encode_text(live.pipeline, list(batch.captions))
            return live.family.predict(live.pipeline, batch.noisy, batch.timesteps, conditioning)

    plain = predict()
    with attached(live, LoraSettings(rank=4, alpha=alpha)) as (method, _):
        stir(method)
        trained = predict()
        (path,) = method.save(tmp_path, "mine", {"modelspec.title": "mine"})
    with applied(live, (LoraUse(describe_lora(path)),)):
        again = predict()
    assert (trained - plain).abs().max() > 0.01
    torch.testing.assert_close(again, trained, rtol=1e-4, atol=2e-5)


def test_state_goes_back_in_and_a_foreign_one_is_refused(live):
    with attached(live) as (method, _):
        stir(method)
        state = method.state_dict()
    with attached(live) as (method, _):
        method.load_state_dict(state)
        assert all(torch.equal(state[name], new) for name, new in method.state_dict().items())
    with (
        attached(live, LoraSettings(rank=8)) as (method, _),
        pytest.raises(ValueError, match="another rank"),
    ):
        method.load_state_dict(state)


def test_a_target_that_matches_nothing_is_named(live):
    before = snapshot(live)
    broken = tuple(
        (group, "no such layer" if group == "convolution" else pattern)
        for group, pattern in live.family.denoiser.targets
    )
    family = SimpleNamespace(
        denoiser=replace(live.family.denoiser, targets=broken),
        text_encoders=live.family.text_encoders,
    )
    other = replace(live, family=family)
    with pytest.raises(ValueError, match=r"convolution matches no layer.*attention \(\d+ layers\)"):
        LoraMethod(LoraSettings()).attach(other, objective_of(live), 0)
    assert snapshot(live) == before
