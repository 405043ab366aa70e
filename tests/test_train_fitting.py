"""Attention by measurement, gradient checkpointing, resting parts, and what is told before."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from likeness.pipelines.base_models import base_model
from likeness.pipelines.spec import PipelineSpec
from likeness.pipelines.tensor_file import is_mapped
from likeness.trainers import fitting
from likeness.trainers.data.samples import samples_from_folder
from likeness.trainers.job import TrainingJob
from likeness.trainers.machine import resting
from likeness.trainers.machine.attention import attention
from likeness.trainers.machine.estimate import duration, estimate, gigabytes
from likeness.trainers.machine.precision import fast_bfloat16, training_mode
from likeness.trainers.machine.resting import (
    IDLE_AFTER_PICTURES,
    Resting,
    idle_after_captions,
)
from likeness.trainers.machine.ways import (
    Way,
    fastest,
    measured,
    open_ways,
    remember,
    remembered,
    usual_way,
)
from likeness.trainers.methods.lora import LoraMethod, LoraSettings
from likeness.trainers.report import QuietReport
from likeness.trainers.run import train
from likeness.trainers.run_folder import create_or_find
from likeness.trainers.settings import TrainingSettings, WatchSettings

from .conftest import SUBJECT


class Listen(QuietReport):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def job(tiny_base) -> TrainingJob:
    samples = samples_from_folder(SUBJECT, "a photo of sks monster")[:2]
    settings = TrainingSettings(steps=3, learning_rate=1e-3, resolution=32)
    watch = WatchSettings(checkpoint_every=0)
    return TrainingJob(
        PipelineSpec(tiny_base), samples, "lora", LoraSettings(rank=2), settings, watch=watch
    )


def backends():
    """Which fused kernels are allowed right now."""
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


MATH, FUSED, HALF = Way("math", "float32"), Way("fused", "float32"), Way("math", "bfloat16")


def test_each_kind_is_what_runs_and_what_was_allowed_comes_back():
    before = backends()
    with attention("math"):
        assert backends() == (False, False, True)
    with attention("fused"):
        assert backends() == before
    assert backends() == before


def test_the_fastest_is_taken_when_it_is_worth_it():
    assert fastest({MATH: 1.0, FUSED: 0.9}) == FUSED
    assert fastest({MATH: 1.0, FUSED: 0.97}) == MATH, "no gain to speak of"
    assert fastest({MATH: 1.0, FUSED: 0.9, HALF: 0.5}) == HALF
    assert fastest({FUSED: 1.0, MATH: math.inf}) == FUSED


def test_settings_leave_open_what_they_leave_open():
    auto = TrainingSettings()
    ways = open_ways(auto, "cpu")
    assert ways[0] == usual_way(auto, "cpu") == MATH and FUSED in ways
    assert (HALF in ways) == fast_bfloat16("cpu")
    assert open_ways(replace(auto, precision="float32"), "cpu") == [MATH, FUSED]
    assert open_ways(replace(auto, precision="bfloat16", attention="math"), "cpu") == [HALF]


def test_measuring_runs_the_probe_each_way():
    seen = []
    seconds = measured([MATH, FUSED], "cpu", lambda way: seen.append((way, backends())), 1)
    assert seconds.keys() == {MATH, FUSED}
    assert [way for way, _ in seen] == [MATH, MATH, FUSED, FUSED]
    assert {allowed for way, allowed in seen if way == MATH} == {(False, False, True)}

    def too_big(way):
        raise torch.OutOfMemoryError("no")

    assert measured([MATH], "cpu", too_big) == {MATH: math.inf}


def test_a_choice_is_kept_and_a_broken_file_is_none(tmp_path):
    file, ways = tmp_path / "cache" / "fastest.json", [MATH, FUSED]
    assert remembered(file, "a", ways) is None
    remember(file, "a", FUSED)
    remember(file, "b", MATH)
    assert (remembered(file, "a", ways), remembered(file, "b", ways)) == (FUSED, MATH)
    assert remembered(file, "a", [MATH]) is None, "settings may leave less open today"
    for broken in ("{", '{"a": "rm -rf"}', '{"a": {"attention": "other", "precision": "float32"}}'):
        file.write_text(broken)
        assert remembered(file, "a", ways) is None


def test_auto_measures_once_says_so_and_remembers(job, pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "FEWEST_PLACES", 1)
    monkeypatch.setattr(fitting, "FEWEST_STEPS", 1)
    listen = Listen()
    run = create_or_find(tmp_path / "runs", "monster", job)
    first = train(run, pipelines, listen).path.read_bytes()
    told = [text for text in listen.messages if text.startswith("fastest: ")]
    assert len(told) == 1 and "fused" in told[0] and "math" in told[0]
    shared = tmp_path / "runs" / "cache" / "fastest.json"
    assert json.loads((run.path / "fastest.json").read_text()) == json.loads(shared.read_text())
    listen = Listen()
    shutil.rmtree(run.path)
    again = create_or_find(tmp_path / "runs", "monster", job)
    assert train(again, pipelines, listen).path.read_bytes() == first
    assert not [text for text in listen.messages if text.startswith("fastest: ")]


@pytest.mark.parametrize("kind", ["fused", "math"])
def test_what_is_asked_for_is_what_trains(job, pipelines, tmp_path, monkeypatch, kind):
    seen = set()
    original = LoraMethod.loss

    def watching(self, denoising, batch):
        seen.add(backends())
        return original(self, denoising, batch)

    monkeypatch.setattr(LoraMethod, "loss", watching)
    asked = replace(job, training=replace(job.training, attention=kind))
    train(create_or_find(tmp_path, "monster", asked), pipelines)
    assert seen == {(False, False, True)} if kind == "math" else (False, False, True) not in seen


@pytest.mark.parametrize("name", ["stable-diffusion", "sdxl", "sd3", "flux", "z-image"])
def test_gradient_checkpointing_changes_no_bit_and_goes_off_again(
    job, pipelines, tmp_path, tiny_models, name
):
    spec = PipelineSpec(base_model(tiny_models(name)))
    learned = {}
    for wish in ("off", "on"):
        asked = replace(job, spec=spec)
        settings = replace(job.training, gradient_checkpointing=wish, precision="float32", steps=2)
        asked = replace(asked, training=settings)
        result = train(create_or_find(tmp_path / wish, "monster", asked), pipelines)
        from safetensors.torch import load_file

        learned[wish] = load_file(result.path)
        with pipelines.open(spec.base) as live:
            denoiser = live.component(live.family.denoiser.attribute)
            assert not denoiser.is_gradient_checkpointing
    assert learned["on"].keys() == learned["off"].keys()
    for key, tensor in learned["on"].items():
        assert torch.equal(tensor, learned["off"][key]), key


def test_checkpointing_really_recomputes(pipelines, tiny_base):
    """Every block runs its forward pass a second time."""
    calls = []
    with pipelines.open(tiny_base) as live, training_mode():
        block = live.component("unet").down_blocks[0].resnets[0]
        handle = block.register_forward_pre_hook(lambda *_: calls.append(1))
        method = LoraMethod(LoraSettings(rank=2))
        try:
            method.attach(live, 0)
            for on, times in ((False, 1), (True, 2)):
                calls.clear()
                with fitting.Fit(MATH, on).applied(live):
                    conditioning = live.family.encode_text(live.pipeline, ["a cup"])
                    noisy, steps = torch.zeros(1, 4, 8, 8), torch.tensor([3])
                    live.family.predict(live.pipeline, noisy, steps, conditioning).sum().backward()
                assert len(calls) == times
        finally:
            method.detach()
            handle.remove()


def test_what_no_step_needs_rests_and_draws_as_before(pipelines, tiny_base, tmp_path, monkeypatch):
    """Weights that lie in their file, and (in another precision) such as were converted."""
    from likeness.pipelines.generate import Sampling, generate

    monkeypatch.setattr(resting, "WORTH_PUTTING_ASIDE", 1)
    sampling = Sampling("a cup", steps=1)
    for base in (tiny_base, replace(tiny_base, dtype="bfloat16")):
        before = generate(pipelines, PipelineSpec(base), sampling)[0].tobytes()
        with pipelines.open(base) as live:
            idle = idle_after_captions(live, trains_text=False)
            assert idle == ("text_encoder",)
            assert idle_after_captions(live, trains_text=True) == ()
            converted = not is_mapped(live.component("vae").decoder.conv_norm_out.weight.data)
            with Resting(live, tmp_path) as rest:
                rest.send(idle)
                assert live.component("vae").decoder.conv_norm_out.weight.numel()
                rest.send(IDLE_AFTER_PICTURES)
                assert live.at_rest == {"text_encoder", "vae"}
                assert (
                    live.component("vae").decoder.conv_norm_out.weight.numel() == 0
                ) == converted
                with rest.awake():
                    assert generate(pipelines, PipelineSpec(base), sampling)[0].tobytes() == before
                assert not list(tmp_path.iterdir()), "the file has no name"
            assert not live.at_rest
        assert generate(pipelines, PipelineSpec(base), sampling)[0].tobytes() == before
    assert converted, "the second was"


def test_a_full_disk_lets_them_stay(pipelines, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(resting, "WORTH_PUTTING_ASIDE", 1)
    (tmp_path / "cache").write_text("a file where a folder should be")
    with (
        pipelines.open(replace(tiny_base, dtype="bfloat16")) as live,
        Resting(live, tmp_path / "cache") as rest,
    ):
        rest.send(("vae",))
        assert live.component("vae").decoder.conv_norm_out.weight.numel()


def test_the_estimate_counts_what_is_there(pipelines, tiny_base, tmp_path):
    settings = TrainingSettings(steps=1, ema_decay=0.9)
    with pipelines.open(tiny_base) as live, training_mode():
        method = LoraMethod(LoraSettings(rank=2, train_text_encoder="off"))
        try:
            groups = method.attach(live, 0)
            found = estimate(live, groups, settings)
        finally:
            method.detach()
        learned = sum(weight.numel() * 4 for group in groups for weight in group.parameters)
        assert (found.learned, found.gradients) == (learned, learned)
        assert (found.optimizer, found.average) == (2 * learned, learned)
        assert found.weights == live.size_bytes
        with Resting(live, tmp_path) as rest:
            rest.send(["vae"])
            vae = sum(weight.nbytes for weight in live.component("vae").parameters())
            assert estimate(live, groups, settings).weights == live.size_bytes - vae
    assert found.total == live.size_bytes + 5 * learned
    assert "model" in str(found)


def test_a_run_tells_its_estimate_before_and_its_measure_after_two_steps(job, pipelines, tmp_path):
    listen = Listen()
    train(create_or_find(tmp_path, "monster", job), pipelines, listen)
    kinds = [text.partition(":")[0] for text in listen.messages]
    assert kinds.index("estimate") < kinds.index("measured")


def test_too_little_memory_is_warned_of_and_not_refused(job, pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 1000)
    listen = Listen()
    result = train(create_or_find(tmp_path, "monster", job), pipelines, listen)
    assert result.steps_done == 3
    assert any(text.startswith("warning: ") and "LoRA" in text for text in listen.messages)


def test_sizes_and_times_are_readable():
    assert (gigabytes(2.5e9), gigabytes(3e6)) == ("2.5 GB", "3 MB")
    assert (duration(200), duration(3800)) == ("3:20", "1:03:20")
