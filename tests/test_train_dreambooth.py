"""DreamBooth: the base is as it was, whatever ends the training, and what learned is a pipeline."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from likeness.families import PictureSize
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import resolve_dtype
from likeness.pipelines.lora import applied
from likeness.pipelines.spec import LoraUse, PipelineSpec
from likeness.trainers.data.samples import samples_from_folder
from likeness.trainers.denoising import Captions, Denoising
from likeness.trainers.job import TrainingJob
from likeness.trainers.machine.precision import autocast
from likeness.trainers.methods.dreambooth import (
    DreamBoothMethod,
    DreamBoothSettings,
    trained_pipeline,
)
from likeness.trainers.objectives import Batch, objective_for
from likeness.trainers.report import QuietReport, read_log
from likeness.trainers.run import train
from likeness.trainers.run_folder import create_or_find
from likeness.trainers.seeds import generator_for
from likeness.trainers.settings import TrainingSettings, WatchSettings

from .conftest import SUBJECT
from .tiny_models import TINY

QUICK = TrainingSettings(steps=3, learning_rate=1e-4, resolution=32)
SMALL = Sampling("a photo of sks monster", steps=2, width=32, height=32)
CAPTIONS = ("a photo of sks monster", "a photo of a monster")


@pytest.fixture
def job(tiny_base):
    samples = samples_from_folder(SUBJECT, CAPTIONS[0])[:2]
    watch = WatchSettings(checkpoint_every=0)
    settings = DreamBoothSettings()
    return TrainingJob(PipelineSpec(tiny_base), samples, "dreambooth", settings, QUICK, watch=watch)


@pytest.fixture
def live(pipelines, tiny_base):
    with pipelines.open(tiny_base) as live:
        yield live


def snapshot(live):
    """Everything about the live modules that a method could disturb, their very memory included."""
    facts = {}
    for name, root in live.pipeline.components.items():
        if not hasattr(root, "parameters"):
            continue
        facts[name] = (
            {path: (id(weight), weight.data_ptr()) for path, weight in root.named_parameters()},
            {path: (weight.requires_grad, weight.grad) for path, weight in root.named_parameters()},
            {path: module.training for path, module in root.named_modules()},
            {path: (t.dtype, bits(t)) for path, t in root.state_dict().items()},
        )
    return facts


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@contextmanager
def attached(live, **settings):
    method = DreamBoothMethod(DreamBoothSettings(**settings))
    try:
        yield method, method.attach(live, 0)
    finally:
        method.detach()


def stir(method, size=0.02):
    """Make every weight another one."""
    draw = generator_for(3, "stir")
    state = method.state_dict()
    method.load_state_dict(
        {
            name: tensor + torch.randn(tensor.shape, generator=draw) * size
            for name, tensor in sorted(state.items())
        }
    )


def denoising_of(live) -> Denoising:
    return Denoising(live, objective_for(live, QUICK), Captions(live))


def small_batch(live, predicted=False) -> Batch:
    draw = generator_for(7, "test")
    channels = live.pipeline.vae.config.latent_channels
    noisy, target = torch.randn(2, 2, channels, 4, 4, generator=draw).unbind()
    sizes = (PictureSize((32, 32), (0, 0), (32, 32)),) * 2
    one = torch.ones(2)
    times = torch.tensor([100, 700])
    return Batch(noisy, target, times, one, CAPTIONS, sizes, 1, one, predicted=predicted)


# -- the base is as it was -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["on", "off"])
@pytest.mark.parametrize("layers", ["everything", "attention"])
def test_what_is_put_on_comes_off(live, layers, text):
    before = snapshot(live)
    with attached(live, layers=layers, train_text_encoder=text) as (method, groups):
        loss, _ = method.loss(denoising_of(live), small_batch(live))
        loss.backward()
        trained = {group.side: group.parameters for group in groups}
        assert all(weight.grad is not None for weight in trained["denoiser"])
        assert bool(trained["text"]) == (text == "on")
        everything = sum(1 for _ in live.component("unet").parameters())
        assert (len(trained["denoiser"]) == everything) == (layers == "everything")
        torch.optim.SGD([w for group in groups for w in group.parameters], lr=1.0).step()
        assert snapshot(live) != before
    assert snapshot(live) == before


@pytest.mark.parametrize("part", ["denoiser", "text_encoders"])
def test_it_comes_off_when_a_part_has_nothing_to_hold_on_to(live, part):
    before = snapshot(live)

    class Other(type(live.family)):
        pass

    found = getattr(live.family, part)
    none = (("attention", "no such layer"),)
    changed = tuple(replace(each, targets=none) for each in found) if part != "denoiser" else None
    setattr(Other, part, changed or replace(found, targets=none))
    method = DreamBoothMethod(DreamBoothSettings(layers="attention", train_text_encoder="on"))
    with pytest.raises(ValueError, match=r"has no attention layers.*'everything'"):
        method.attach(replace(live, family=Other()), 0)
    assert snapshot(live) == before


class Ending(QuietReport):
    def __init__(self, at, error=None):
        self.at, self.error, self.steps = at, error, []

    def step(self, step, *facts):
        self.steps.append(step)
        if self.error is not None and step == self.at:
            raise self.error

    def should_stop(self):
        return self.error is None and len(self.steps) == self.at


@pytest.mark.parametrize("end", ["success", "stop", "error", "interrupt"])
def test_the_base_is_as_it_was_whatever_ends_the_training(end, job, pipelines, tmp_path, tiny_base):
    errors = {"error": RuntimeError("from the report"), "interrupt": KeyboardInterrupt()}
    with pipelines.open(tiny_base) as live:
        before = snapshot(live)
    run = create_or_find(tmp_path, "mine", job)
    report = Ending(9 if end == "success" else 2, errors.get(end))
    try:
        result = train(run, pipelines, report)
        assert (result.steps_done, result.stopped) == (
            (3, False) if end == "success" else (2, True)
        )
    except (RuntimeError, KeyboardInterrupt):
        assert end in errors
    with pipelines.open(tiny_base) as live:
        assert snapshot(live) == before
    assert (run.outcome["steps"], run.is_finished) == (
        (3, True) if end == "success" else (2, False)
    )
    spec = trained_pipeline(job.spec, [run.path / file for file in run.outcome["files"]])
    assert drawn(pipelines, spec) != drawn(pipelines, job.spec)


# -- switched off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_switched_off_it_is_the_base_and_no_gradient_is_lost(live, dtype):
    """Under autocast as well, which remembers the casts of parameters."""
    denoising, batch = denoising_of(live), small_batch(live)
    kind = resolve_dtype(dtype, "cpu")
    with torch.no_grad(), autocast(kind, "cpu"):
        base = denoising.answer(batch)
    with attached(live, train_text_encoder="on") as (method, groups):
        stir(method)
        weights = [weight for group in groups for weight in group.parameters]

        def gradients(look):
            with autocast(kind, "cpu"):
                if look:
                    with method.switched_off(), method.switched_off():
                        assert torch.equal(denoising.answer(batch), base)
                answer = denoising.answer(batch)
                assert not torch.equal(answer, base)
                if look:
                    with method.switched_off():
                        assert torch.equal(denoising.answer(batch), base)
                    assert torch.equal(denoising.answer(batch), answer)
            return torch.autograd.grad(answer.float().square().mean(), weights, allow_unused=True)

        for plain, looked in zip(gradients(False), gradients(True), strict=True):
            assert (plain is None and looked is None) or torch.equal(plain, looked)


def test_prior_prediction_asks_the_untouched_model(live):
    denoising, batch = denoising_of(live), small_batch(live, predicted=True)
    with torch.no_grad():
        base = denoising.answer(batch)
    known = replace(batch, target=torch.cat([batch.target[:1], base[1:]]), predicted=False)
    with attached(live) as (method, groups):
        stir(method)
        found = []
        for each in (batch, known):
            loss, parts = method.loss(denoising, each)
            assert parts["prior"] > 0
            weight = groups[0].parameters[0]
            found.append((loss.item(), torch.autograd.grad(loss, weight)[0]))
    # The class alone or beside the subject: the last bits of a row depend on its batch.
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


# -- what learned ----------------------------------------------------------------------------------


def drawn(pipelines, spec):
    return generate(pipelines, spec, SMALL)[0].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_new_pipeline_draws_what_the_method_drew(dtype, tiny_base, pipelines, tmp_path):
    """In the precision of the base, for which what learned is rounded."""
    spec = PipelineSpec(replace(tiny_base, dtype=dtype))
    with (
        pipelines.open(spec.base) as live,
        attached(live, train_text_encoder="on") as (method, _),
    ):
        stir(method)
        with method.drawing():
            attached_picture = drawn(pipelines, spec)
        files = method.save(tmp_path, "mine", {"likeness.method": "dreambooth"})
        again = [path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
        method.save(tmp_path, "mine", {"likeness.method": "dreambooth"})
    assert again == [p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    assert [path.name for path in files] == ["unet", "text_encoder"]
    assert sorted(path.name for path in files[0].iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    trained = trained_pipeline(spec, files)
    assert trained.base.dtype == dtype and drawn(pipelines, trained) == attached_picture
    assert drawn(pipelines, spec) != attached_picture


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", TINY)
def test_every_family_learns_with_every_encoder_and_is_read_again(
    name, dtype, tiny_models, pipelines, tmp_path
):
    """`attention` leaves weights in the base's precision beside those that learn."""
    base = base_model(tiny_models(name), dtype=dtype)
    layers = "everything" if dtype == "float32" else "attention"
    with (
        pipelines.open(base) as live,
        attached(live, layers=layers, train_text_encoder="on") as (method, groups),
    ):
        stir(method)
        loss, _ = method.loss(denoising_of(live), small_batch(live, predicted=True))
        loss.backward()
        assert all(weight.grad is not None for weight in groups[0].parameters)
        assert all(weight.grad.dtype == torch.float32 for weight in groups[0].parameters)
        files = method.save(tmp_path, "mine", {})
        learned = {path.name: live.component(path.name).state_dict() for path in files}
        wanted = {(n, k): t.clone() for n, state in learned.items() for k, t in state.items()}
    assert len(files) == 1 + len(live.family.text_encoders)
    trained = trained_pipeline(PipelineSpec(base), files)
    with pipelines.open(trained.base) as again:
        for (part, key), tensor in wanted.items():
            found = again.component(part).state_dict()[key]
            assert torch.equal(found, tensor.to(found.dtype)), (part, key)


def test_it_learns_and_the_run_is_found_again(job, pipelines, tmp_path):
    training = replace(QUICK, steps=16, learning_rate=3e-4, validate_every=8, batch_size=2)
    job = replace(job, training=training)
    run = create_or_find(tmp_path, "mine", job)
    result = train(run, pipelines)
    losses = [line["validation"] for line in read_log(run.log) if line["validation"] is not None]
    assert losses[-1] < losses[0]
    assert [path.name for path in result.files] == ["unet", "text_encoder"], "usual for 1.x"
    assert train(run, pipelines).found
    shutil.rmtree(result.path)
    assert not run.is_finished, "without its files there is no result"


def test_a_stopped_training_goes_on_bit_for_bit(job, pipelines, tmp_path):
    whole = train(create_or_find(tmp_path / "whole", "mine", job), pipelines)
    run = create_or_find(tmp_path / "stopped", "mine", job)
    halfway = train(run, pipelines, Ending(2))
    before = weights_of(halfway)
    finished = train(run, pipelines)
    assert halfway.steps_done == 2 and finished.steps_done == 3
    assert weights_of(finished) == weights_of(whole) != before


def weights_of(result):
    return {p.name: p.read_bytes() for f in result.files for p in f.glob("*.safetensors")}


def test_a_checkpoint_of_other_weights_is_refused(live):
    with attached(live, layers="attention") as (method, _):
        state = method.state_dict()
    with attached(live) as (method, _), pytest.raises(ValueError, match="other weights"):
        method.load_state_dict(state)


def test_the_text_side_may_stay_as_it_is(job, pipelines, tmp_path):
    settings = DreamBoothSettings(train_text_encoder="off")
    result = train(
        create_or_find(tmp_path, "mine", replace(job, method_settings=settings)), pipelines
    )
    assert [path.name for path in result.files] == ["unet"]


@pytest.mark.parametrize("mode", ["fuse", "attach"])
def test_loras_on_the_pipeline_become_part_of_the_weights(
    mode, job, make_lora, pipelines, tmp_path
):
    """A training too gentle to change a number leaves what was fused."""
    spec = job.spec.with_lora(LoraUse(make_lora(), 0.8, 0.8, mode))
    gentle = replace(QUICK, learning_rate=1e-30)
    run = create_or_find(tmp_path, "mine", replace(job, spec=spec, training=gentle))
    result = train(run, pipelines)
    trained = trained_pipeline(spec, result.files)
    assert trained.loras == ()
    fused = PipelineSpec(job.spec.base).with_lora(replace(spec.loras[0], mode="fuse"))
    assert drawn(pipelines, trained) == drawn(pipelines, fused) != drawn(pipelines, job.spec)
    with pipelines.open(job.spec.base) as live, applied(live, ()):
        pass  # what was kept of the fused weights comes off as ever
    assert drawn(pipelines, fused) == drawn(pipelines, trained)
